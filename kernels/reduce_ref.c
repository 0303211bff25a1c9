/* reduce_ref.c: REDUCE in f64, and how far f32 may be off. */
#include <math.h>

#include "kernels/philox.h"
#include "kernels/rows.h"

enum { ROWS, N, PART_COUNT, BIAS_GROUP, B, POS, SITE, GAP_AT, GAP };
enum { P, EPS };

/* Which operand is which; -1: none. */
typedef struct places {
    int bias, residual, gamma, out, y, stats;
} places;

static places find_places(const wf_problem *p) {
    places at = {-1, -1, -1, -1, -1, -1};
    int i = (int)p->size[PART_COUNT];
    if (p->flags & WF_BIAS) at.bias = i++;
    if (p->flags & WF_RESIDUAL) at.residual = i++;
    if (p->flags & WF_NORM) at.gamma = i, i += p->flags & WF_RMS ? 1 : 2;
    at.out = i++;
    if (p->flags & WF_NORM) at.y = i++, at.stats = i;
    return at;
}

static double bias_at(const wf_problem *p, const wf_tensor *bias, int64_t row, int64_t j) {
    const int64_t group = p->size[BIAS_GROUP];
    return group ? *wf_at2(bias, row / group, j) : *wf_at1(bias, j);
}

static bool kept(const wf_problem *p, const wf_run_number *run, int64_t row, int64_t j) {
    const uint32_t key[2] = {run[WF_RUN_KEY0].u, run[WF_RUN_KEY1].u};
    const uint32_t sample = run[WF_RUN_SAMPLE0].u + (uint32_t)(row % p->size[B]);
    const int64_t i = row / p->size[B];
    const int64_t position = p->size[POS] + i + (i >= p->size[GAP_AT] ? p->size[GAP] : 0);
    return wf_dropout_keep(key, (uint32_t)p->size[SITE], run[WF_RUN_LAYER].u, sample,
                           (uint32_t)position, j, wf_philox_threshold(p->real[P]));
}

static double element(const wf_problem *p, const wf_tensor *t, const wf_run_number *run, places at,
                      int64_t row, int64_t j) {
    double v = 0;
    for (int i = 0; i < p->size[PART_COUNT]; i++) v += *wf_at2(&t[i], row, j);
    if (p->flags & WF_BIAS) v += bias_at(p, &t[at.bias], row, j);
    if (p->flags & WF_DROPOUT) v = kept(p, run, row, j) ? v / (1 - p->real[P]) : 0;
    if (p->flags & WF_RESIDUAL) v += *wf_at2(&t[at.residual], row, j);
    return v;
}

static wf_norm_input norm_input(const wf_problem *p, const wf_tensor *t, places at, int64_t row) {
    const wf_tensor *out = &t[at.out];
    return (wf_norm_input){.x = wf_at2(out, row, 0), .stride = out->stride[1], .n = p->size[N],
                           .eps = p->real[EPS], .rms = p->flags & WF_RMS, .gamma = &t[at.gamma],
                           .beta = &t[at.gamma + 1]};
}

void wf_reduce_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const places at = find_places(p);
    for (int64_t row = 0; row < p->size[ROWS]; row++) {
        const wf_tensor *out = &t[at.out];
        for (int64_t j = 0; j < p->size[N]; j++)
            *wf_at2(out, row, j) = element(p, t, run, at, row, j);
        if (!(p->flags & WF_NORM)) continue;
        const wf_norm_input in = norm_input(p, t, at, row);
        double stats[2];
        wf_norm_row(&in, wf_at2(&t[at.y], row, 0), t[at.y].stride[1], stats);
        *wf_at2(&t[at.stats], row, 0) = stats[0];
        *wf_at2(&t[at.stats], row, 1) = stats[1];
    }
}

/* A rounding for each part, the bias, the scale and its product, the residual, and the store, all
 * of the magnitudes that are added. A wrong mask is off by v / (1-p): far more. */
static double element_bound(const wf_problem *p, const wf_tensor *t, places at, int64_t row,
                            int64_t j) {
    double v = 0;
    for (int i = 0; i < p->size[PART_COUNT]; i++) v += fabs(*wf_at2(&t[i], row, j));
    if (p->flags & WF_BIAS) v += fabs(bias_at(p, &t[at.bias], row, j));
    if (p->flags & WF_DROPOUT) v /= 1 - p->real[P];
    if (p->flags & WF_RESIDUAL) v += fabs(*wf_at2(&t[at.residual], row, j));
    return (double)(p->size[PART_COUNT] + 4) * WF_U * v + WF_EXACT;
}

static void row_bounds(const wf_problem *p, const wf_tensor *t, int operand, int64_t row,
                       double *bound) {
    const places at = find_places(p);
    const int64_t n = p->size[N];
    double worst = 0, stats[2];
    for (int64_t j = 0; j < n; j++) {
        const double each = element_bound(p, t, at, row, j);
        if (operand == at.out) bound[row * n + j] = each;
        worst = fmax(worst, each);
    }
    if (operand == at.out) return;
    const wf_norm_input in = norm_input(p, t, at, row);
    wf_norm_bounds(&in, worst, operand == at.y ? bound + row * n : NULL, stats);
    if (operand == at.stats) bound[2 * row] = stats[0], bound[2 * row + 1] = stats[1];
}

void wf_reduce_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t row = 0; row < p->size[ROWS]; row++) row_bounds(p, t, operand, row, bound);
}
