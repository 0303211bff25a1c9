/* adamw_ref.c: AdamW in f64 (Kingma, Ba: "Adam", 2015; Loshchilov, Hutter: "Decoupled weight decay
 * regularization", 2019), and how far f32 may be off. */
#include <math.h>

#include "kernels/rows.h"

enum { G, CLIP, P, M, V };

void wf_adamw_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const double lr = run[WF_RUN_LR].f, eps = run[WF_RUN_EPS].f;
    const double beta1 = run[WF_RUN_BETA1].f, beta2 = run[WF_RUN_BETA2].f;
    const double decay = p->flags & WF_DECAY ? run[WF_RUN_DECAY].f : 0;
    for (int64_t i = 0; i < p->size[0]; i++) {
        double *w = wf_at1(&t[P], i), *m = wf_at1(&t[M], i), *v = wf_at1(&t[V], i);
        const double g = *wf_at1(&t[G], i) * *wf_at1(&t[CLIP], 1);
        *m = beta1 * *m + (1 - beta1) * g;
        *v = beta2 * *v + (1 - beta2) * g * g;
        *w -= lr * decay * *w;
        *w -= lr * (*m * run[WF_RUN_CORRECTION1].f) /
              (sqrt(*v * run[WF_RUN_CORRECTION2].f) + eps);
    }
}

/* m: g's scaling, two products, 1 - beta1 and a sum, five roundings at most, of beta1 |m| + (1 -
 * beta1) |g|, which is at most |m'| + 2 (1 - beta1) |g|. v': likewise, and g's error counts twice.
 * The step lr mhat / (sqrt(vhat) + eps): m's error over the denominator; relative, half of v's,
 * then sqrt (3 units in the last place in OpenCL, 6 u), the quotient (2.5: 5 u), and a rounding for
 * each of four products and the sum; last, p's own, of p' and the step.
 * Where f32 loses v to underflow, vhat is off by that: it only matters beside eps. */
void wf_adamw_tolerance(const wf_problem *p, const wf_tensor *t, const wf_run_number *run,
                        int operand, double *bound) {
    const double lr = fabs((double)run[WF_RUN_LR].f), eps = run[WF_RUN_EPS].f;
    const double c1 = run[WF_RUN_CORRECTION1].f, c2 = run[WF_RUN_CORRECTION2].f;
    const double share1 = 1 - (double)run[WF_RUN_BETA1].f;
    const double decay = p->flags & WF_DECAY ? fabs((double)run[WF_RUN_DECAY].f) : 0;
    for (int64_t i = 0; i < p->size[0]; i++) {
        const double g = fabs(*wf_at1(&t[G], i) * *wf_at1(&t[CLIP], 1));
        const double m = fabs(*wf_at1(&t[M], i)), v = *wf_at1(&t[V], i), w = fabs(*wf_at1(&t[P], i));
        const double m_error = 5 * WF_U * (m + 2 * share1 * g) + 2e-38;
        const double v_error = 7 * WF_U * v + 2e-38;
        const double root = sqrt(v * c2), below = root + eps;
        const double root_error = 7 * WF_U * root + sqrt(v_error * c2) * (root > 0 ? sqrt(v_error * c2) / root : 1);
        const double step = lr * m * c1 / below;
        const double step_error = lr * m_error * c1 / below + step * (root_error / below + 12 * WF_U);
        bound[i] = operand == M ? m_error : operand == V ? v_error
                 : step_error + 3 * WF_U * ((w + step) * (1 + lr * decay) + lr * decay * w) + 2e-38;
    }
}
