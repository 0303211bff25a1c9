/* cross_entropy_ref.c: the three steps of vocabulary-parallel cross-entropy in f64, and how far f32
 * may be off. With m = max, lse = m + log sum exp(x - m): loss = lse - x[target]; its gradient is
 * softmax(x) - onehot(target). */
#include <math.h>

#include "kernels/rows.h"

enum { ROWS, VOCABULARY, FIRST };
enum { PARTS = 1 };

/* Column of this shard that is row i's target; -1: none. */
static int64_t target_column(const wf_problem *p, const wf_tensor *targets, int64_t i) {
    const int64_t target = wf_id_at(targets, i), column = target - p->size[FIRST];
    return target >= 0 && column >= 0 && column < p->size[VOCABULARY] ? column : -1;
}

void wf_loss_stats_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_tensor *x = &t[0];
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < p->size[VOCABULARY]; j++) largest = fmax(largest, *wf_at2(x, i, j));
        for (int64_t j = 0; j < p->size[VOCABULARY] && largest > -INFINITY; j++)
            sum += exp(*wf_at2(x, i, j) - largest);
        const int64_t column = target_column(p, &t[1], i);
        *wf_at2(&t[2], i, 0) = largest;
        *wf_at2(&t[2], i, 1) = sum;
        *wf_at2(&t[2], i, 2) = column < 0 ? 0 : *wf_at2(x, i, column);
    }
}

/* (max, sum) of all parts of row i. A part without elements has max -inf and is left out. */
static void merge_row(const wf_problem *p, const wf_tensor *stats, int64_t i, double *max_out,
                      double *sum_out) {
    double largest = -INFINITY, sum = 0;
    for (int64_t k = 0; k < p->size[PARTS]; k++) largest = fmax(largest, *wf_at3(stats, k, i, 0));
    for (int64_t k = 0; k < p->size[PARTS]; k++)
        if (*wf_at3(stats, k, i, 0) > -INFINITY)
            sum += *wf_at3(stats, k, i, 1) * exp(*wf_at3(stats, k, i, 0) - largest);
    *max_out = largest;
    *sum_out = sum;
}

void wf_loss_merge_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        double largest, sum, logit = 0;
        merge_row(p, &t[0], i, &largest, &sum);
        for (int64_t k = 0; k < p->size[PARTS]; k++) logit += *wf_at3(&t[0], k, i, 2);
        const double lse = largest > -INFINITY ? largest + log(sum) : -INFINITY;
        *wf_at1(&t[2], i) = lse;
        *wf_at1(&t[3], i) = wf_id_at(&t[1], i) < 0 ? 0 : lse - logit;
    }
}

void wf_loss_backward_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const double scale = run[WF_RUN_LOSS_SCALE].f;
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        const bool counted = wf_id_at(&t[1], i) >= 0;
        const int64_t column = target_column(p, &t[1], i);
        for (int64_t j = 0; j < p->size[VOCABULARY]; j++) {
            double *x = wf_at2(&t[2], i, j);
            *x = counted ? (exp(*x - *wf_at1(&t[0], i)) - (j == column)) * scale : 0;
        }
    }
}

/* ---- tolerances ---------------------------------------------------------------------------------- */

/* max and target are copies. A term exp(d) of the sum is off by the rounding of d, |d| u, and by
 * exp itself (3 units in the last place in OpenCL: 6 u); then the sum's own error. */
void wf_loss_stats_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const int64_t n = p->size[VOCABULARY];
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        double error = 0;
        for (int64_t j = 0; j < n; j++) {
            const double d = *wf_at2(&t[0], i, j) - *wf_at2(&t[2], i, 0), term = exp(d);
            if (term > 0) error += term * (WF_U * (fabs(d) + 6) + wf_sum_error(n));
        }
        bound[3 * i] = bound[3 * i + 2] = WF_EXACT;
        bound[3 * i + 1] = error + WF_EXACT;
    }
}

/* lse = m + log S. S's relative error, each part's exp(m_k - m) as above and the additions, moves
 * log S by as much; log is off by 3 units, 6 u |log S|; adding m, and subtracting the target's
 * logit, which is a sum of the parts', rounds once each. */
void wf_loss_merge_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const int64_t parts = p->size[PARTS];
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        double largest, sum, error = 0, logits = 0;
        merge_row(p, &t[0], i, &largest, &sum);
        for (int64_t k = 0; k < parts; k++) {
            const double d = *wf_at3(&t[0], k, i, 0) - largest, term = exp(d) * *wf_at3(&t[0], k, i, 1);
            if (term > 0) error += term * (WF_U * (fabs(d) + 8) + wf_sum_error(parts));
            logits += fabs(*wf_at3(&t[0], k, i, 2));
        }
        bound[i] = WF_EXACT;
        if (!(largest > -INFINITY)) continue;
        bound[i] += error / sum + WF_U * (6 * fabs(log(sum)) + 2 * fabs(largest) + 1);
        if (operand == 3) bound[i] += (double)(parts + 1) * WF_U * logits;
        if (operand == 3 && wf_id_at(&t[1], i) < 0) bound[i] = WF_EXACT;
    }
}

/* The logits are gone, but the result tells p = exp(d) = result / scale + [target], so |d| = |log p|
 * (of p that f32 still holds): p (|d| + 6) u, and a rounding each for - 1, the scale, the store.
 * What underflows in f32 is off by the smallest normal number. */
void wf_loss_backward_tolerance(const wf_problem *p, const wf_tensor *t, const wf_run_number *run,
                                int operand, double *bound) {
    const double scale = fabs((double)run[WF_RUN_LOSS_SCALE].f);
    const int64_t n = p->size[VOCABULARY];
    for (int64_t i = 0; i < p->size[ROWS]; i++) {
        const int64_t column = target_column(p, &t[1], i);
        for (int64_t j = 0; j < n; j++) {
            const double value = fabs(*wf_at2(&t[2], i, j));
            const double share = scale > 0 ? fabs(*wf_at2(&t[2], i, j) / run[WF_RUN_LOSS_SCALE].f +
                                                  (j == column)) : 0;
            const double d = fabs(log(fmax(share, 1e-38)));
            bound[i * n + j] = wf_id_at(&t[1], i) < 0 ? WF_EXACT
                : WF_U * (scale * share * (d + 6) + 4 * value) + 2e-38 * scale + 2e-38;
        }
    }
}
