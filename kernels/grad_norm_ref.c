/* grad_norm_ref.c: SUM_SQUARES and GRAD_NORM in f64 (Pascanu, Mikolov, Bengio: "On the difficulty of
 * training recurrent neural networks", 2013), and how far f32 may be off. */
#include <math.h>

#include "kernels/rows.h"

void wf_sum_squares_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    double sum = 0;
    for (int64_t i = 0; i < p->size[0]; i++) sum += *wf_at1(&t[0], i) * *wf_at1(&t[0], i);
    *wf_at1(&t[1], 0) = sum;
}

void wf_grad_norm_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const double most = run[WF_RUN_MAX_NORM].f;
    double sum = 0;
    for (int64_t i = 0; i < p->size[0]; i++) sum += *wf_at1(&t[0], i);
    const double norm = sqrt(sum), scale = most / (norm + 1e-6);
    *wf_at1(&t[1], 0) = norm;
    *wf_at1(&t[1], 1) = most <= 0 ? 1 : !isfinite(norm) ? NAN : scale < 1 ? scale : 1;
}

/* The error of a sum of positive terms. */
void wf_sum_squares_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    bound[0] = wf_sum_error(p->size[0]) * *wf_at1(&t[1], 0) + 2e-38;
}

/* Half of the sum's relative error, sqrt (3 units in the last place: 6 u); for the scale also the
 * sum with 1e-6 and the quotient (2.5 units). */
void wf_grad_norm_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const double root = wf_sum_error(p->size[0]) / 2 + 6 * WF_U;
    bound[0] = root * *wf_at1(&t[1], 0) + WF_EXACT;
    bound[1] = (root + 7 * WF_U) * fabs(*wf_at1(&t[1], 1)) + WF_EXACT;
}
