/* embedding_ref.c: EMBEDDING and its gradient in f64, and how far f32 may be off. */
#include <math.h>

#include "kernels/rows.h"

enum { ROWS, VOCABULARY, N, FIRST };

/* Row of the shard's table that holds row i's id; -1: another shard's. */
static int64_t table_row(const wf_problem *p, const wf_tensor *ids, int64_t i) {
    const int64_t row = wf_id_at(ids, i) - p->size[FIRST];
    return row >= 0 && row < p->size[VOCABULARY] ? row : -1;
}

void wf_embedding_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        const int64_t row = table_row(p, &t[0], i);
        for (int64_t j = 0; j < p->size[N]; j++)
            *wf_at2(&t[2], i, j) = row < 0 ? 0 : *wf_at2(&t[1], row, j);
    }
}

void wf_embedding_backward_reference(const wf_problem *p, const wf_tensor *t,
                                     const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        const int64_t row = table_row(p, &t[0], i);
        for (int64_t j = 0; j < p->size[N] && row >= 0; j++)
            *wf_at2(&t[2], row, j) += *wf_at2(&t[1], i, j);
    }
}

/* A copy. */
void wf_embedding_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t i = 0; i < p->size[ROWS] * p->size[N]; i++) bound[i] = WF_EXACT;
}

/* The error of a sum over the k rows with that id and what was there, which is at most the result
 * and those rows. No row, no change. */
static void row_bound(const wf_problem *p, const wf_tensor *t, int64_t row, double *bound) {
    int64_t count = 0;
    for (int64_t j = 0; j < p->size[N]; j++) bound[j] = 0;
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        if (table_row(p, &t[0], i) != row) continue;
        count++;
        for (int64_t j = 0; j < p->size[N]; j++) bound[j] += 2 * fabs(*wf_at2(&t[1], i, j));
    }
    for (int64_t j = 0; j < p->size[N]; j++)
        bound[j] = count ? wf_sum_error(count) * (bound[j] + fabs(*wf_at2(&t[2], row, j))) + WF_EXACT
                         : WF_EXACT;
}

void wf_embedding_backward_tolerance(const wf_problem *p, const wf_tensor *t, int operand,
                                     double *bound) {
    for (int64_t row = 0; row < p->size[VOCABULARY]; row++)
        row_bound(p, t, row, bound + row * p->size[N]);
}
