/* sum_rows_ref.c: SUM_ROWS in f64, and how far f32 may be off. */
#include <math.h>

#include "kernels/rows.h"

enum { GROUPS, PER, N };

void wf_sum_rows_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t group = 0; group < p->size[GROUPS]; group++)
        for (int64_t j = 0; j < p->size[N]; j++) {
            double sum = p->flags & WF_ACCUMULATE ? *wf_at2(&t[1], group, j) : 0;
            for (int64_t i = 0; i < p->size[PER]; i++)
                sum += *wf_at2(&t[0], group * p->size[PER] + i, j);
            *wf_at2(&t[1], group, j) = sum;
        }
}

/* The error of a sum, of the magnitudes summed, and of adding it to what was there. */
void wf_sum_rows_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t group = 0; group < p->size[GROUPS]; group++)
        for (int64_t j = 0; j < p->size[N]; j++) {
            double sum = 0;
            for (int64_t i = 0; i < p->size[PER]; i++)
                sum += fabs(*wf_at2(&t[0], group * p->size[PER] + i, j));
            bound[group * p->size[N] + j] =
                wf_sum_error(p->size[PER]) * sum + WF_U * fabs(*wf_at2(&t[1], group, j)) + WF_EXACT;
        }
}
