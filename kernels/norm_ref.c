/* norm_ref.c: LayerNorm, its gradient and its weights' gradient, in f64 (Ba, Kiros, Hinton: "Layer
 * normalization", 2016), the same of RMSNorm (Zhang, Sennrich: "Root mean square layer
 * normalization", 2019), and how far f32 may be off.
 *
 * xhat = (x - mean) rstd, y = xhat gamma + beta. With g = dy gamma, averages over the row:
 * dx = rstd (g - avg(g) - xhat avg(g xhat)); dgamma = sum dy xhat, dbeta = sum dy over the rows.
 * RMSNorm has no beta, 0 for the mean, and no avg(g): nothing is subtracted. */
#include <math.h>

#include "kernels/rows.h"

void wf_norm_row(const wf_norm_input *in, double *y, int64_t y_stride, double stats[2]) {
    const double n = (double)in->n;
    double mean = 0, square = 0;
    for (int64_t j = 0; j < in->n && !in->rms; j++) mean += in->x[j * in->stride] / n;
    for (int64_t j = 0; j < in->n; j++) {
        const double d = in->x[j * in->stride] - mean;
        square += d * d / n;
    }
    const double rstd = 1 / sqrt(square + in->eps);
    for (int64_t j = 0; j < in->n && y; j++)
        y[j * y_stride] = (in->x[j * in->stride] - mean) * rstd * *wf_at1(in->gamma, j) +
                          (in->rms ? 0 : *wf_at1(in->beta, j));
    stats[0] = mean;
    stats[1] = rstd;
}

/* Row i of NORM's x; operands behind it are gamma and, unless RMS, beta. */
static wf_norm_input norm_input(const wf_problem *p, const wf_tensor *t, int64_t i) {
    return (wf_norm_input){.x = wf_at2(&t[0], i, 0), .stride = t[0].stride[1], .n = p->size[1],
                           .eps = p->real[0], .rms = p->flags & WF_RMS, .gamma = &t[1],
                           .beta = &t[2]};
}

void wf_norm_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const int first = p->flags & WF_RMS ? 2 : 3;
    const wf_tensor *y = &t[first], *stats = &t[first + 1];
    for (int64_t i = 0; i < p->size[0]; i++) {
        const wf_norm_input in = norm_input(p, t, i);
        double row[2];
        wf_norm_row(&in, wf_at2(y, i, 0), y->stride[1], row);
        *wf_at2(stats, i, 0) = row[0];
        *wf_at2(stats, i, 1) = row[1];
    }
}

static void backward_row(const wf_problem *p, const wf_tensor *t, int64_t i) {
    const wf_tensor *dy = &t[0], *x = &t[1], *stats = &t[2], *gamma = &t[3];
    const bool add = p->flags & WF_RESIDUAL;
    const wf_tensor *residual = add ? &t[4] : NULL, *dx = &t[4 + add];
    const int64_t n = p->size[1];
    const bool rms = p->flags & WF_RMS;
    const double mean = rms ? 0 : *wf_at2(stats, i, 0), rstd = *wf_at2(stats, i, 1);
    double average = 0, projection = 0;
    for (int64_t j = 0; j < n; j++) {
        const double g = *wf_at2(dy, i, j) * *wf_at1(gamma, j);
        average += rms ? 0 : g / (double)n;
        projection += g * (*wf_at2(x, i, j) - mean) * rstd / (double)n;
    }
    for (int64_t j = 0; j < n; j++) {
        const double g = *wf_at2(dy, i, j) * *wf_at1(gamma, j);
        const double xhat = (*wf_at2(x, i, j) - mean) * rstd;
        const double kept = add ? *wf_at2(residual, i, j) : 0;
        *wf_at2(dx, i, j) = rstd * (g - average - xhat * projection) + kept;
    }
}

void wf_norm_backward_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[0]; i++) backward_row(p, t, i);
}

void wf_norm_wgrad_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_tensor *dy = &t[0], *x = &t[1], *stats = &t[2];
    const bool add = p->flags & WF_ACCUMULATE, rms = p->flags & WF_RMS;
    for (int64_t j = 0; j < p->size[1]; j++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t i = 0; i < p->size[0]; i++) {
            const double mean = rms ? 0 : *wf_at2(stats, i, 0);
            dgamma += *wf_at2(dy, i, j) * (*wf_at2(x, i, j) - mean) * *wf_at2(stats, i, 1);
            dbeta += *wf_at2(dy, i, j);
        }
        *wf_at1(&t[3], j) = dgamma + (add ? *wf_at1(&t[3], j) : 0);
        if (!rms) *wf_at1(&t[4], j) = dbeta + (add ? *wf_at1(&t[4], j) : 0);
    }
}

/* ---- tolerances ---------------------------------------------------------------------------------- */

/* y: eight roundings (the difference, rstd's three, two products, a sum, the store) of u are under
 * 5e-7 of the terms |xhat gamma| + |beta|, taken at their largest in the row; and the mean, known
 * to a few u of the row's largest |x|, moves every xhat by that times rstd.
 * An input error e moves xhat by rstd (e + e), first through x and the mean, then through rstd:
 * d rstd / rstd = -avg(xhat d x) rstd, at most 2 e rstd, times |xhat|.
 * RMSNorm: no mean is off, half the relative error of a sum of n squares goes into rstd, and e moves
 * xhat by rstd e through x, |xhat| rstd e through rstd. */
void wf_norm_bounds(const wf_norm_input *in, double input_error, double *y_bound,
                    double stats_bound[2]) {
    wf_norm_input bare = *in;
    double stats[2], largest = 0, term = 0;
    bare.gamma = bare.beta = NULL;
    wf_norm_row(&bare, NULL, 0, stats);
    const double rstd = stats[1], relative = 5e-7 + (in->rms ? wf_sum_error(in->n) / 2 : 0);
    for (int64_t j = 0; j < in->n; j++) largest = fmax(largest, fabs(in->x[j * in->stride]));
    const double mean_error = in->rms ? 0 : 4 * WF_U * largest, ways = in->rms ? 1 : 2;
    for (int64_t j = 0; j < in->n && y_bound; j++) {
        const double xhat = fabs(in->x[j * in->stride] - stats[0]) * rstd;
        const double beta = in->rms ? 0 : fabs(*wf_at1(in->beta, j));
        term = fmax(term, xhat * fabs(*wf_at1(in->gamma, j)) + beta);
    }
    for (int64_t j = 0; j < in->n && y_bound; j++) {
        const double xhat = fabs(in->x[j * in->stride] - stats[0]) * rstd;
        const double moved = rstd * (mean_error + input_error * ways * (1 + xhat));
        y_bound[j] = relative * term + fabs(*wf_at1(in->gamma, j)) * moved;
    }
    stats_bound[0] = in->rms ? WF_EXACT : mean_error + input_error;
    stats_bound[1] = relative * rstd + ways * input_error * rstd * rstd;
}

void wf_norm_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const int64_t n = p->size[1];
    const int y = p->flags & WF_RMS ? 2 : 3;
    for (int64_t i = 0; i < p->size[0]; i++) {
        const wf_norm_input in = norm_input(p, t, i);
        double stats[2];
        wf_norm_bounds(&in, 0, operand == y ? bound + i * n : NULL, stats);
        if (operand == y + 1) bound[2 * i] = stats[0], bound[2 * i + 1] = stats[1];
    }
}

/* Each of the three terms in the parenthesis has its own roundings (six at most, of the term), and
 * the two averages the error of a sum over the row. */
static void backward_bounds(const wf_problem *p, const wf_tensor *t, int64_t i, double *bound) {
    const int64_t n = p->size[1];
    const bool add = p->flags & WF_RESIDUAL;
    const bool rms = p->flags & WF_RMS;
    const double mean = rms ? 0 : *wf_at2(&t[2], i, 0), rstd = fabs(*wf_at2(&t[2], i, 1));
    double average = 0, projection = 0;
    for (int64_t j = 0; j < n; j++) {
        const double g = fabs(*wf_at2(&t[0], i, j) * *wf_at1(&t[3], j));
        average += rms ? 0 : g / (double)n;
        projection += g * fabs(*wf_at2(&t[1], i, j) - mean) * rstd / (double)n;
    }
    for (int64_t j = 0; j < n; j++) {
        const double g = fabs(*wf_at2(&t[0], i, j) * *wf_at1(&t[3], j));
        const double xhat = fabs(*wf_at2(&t[1], i, j) - mean) * rstd;
        const double kept = add ? fabs(*wf_at2(&t[4], i, j)) : 0;
        bound[j] = rstd * (6 * WF_U * g + (wf_sum_error(n) + 6 * WF_U) * (average + xhat * projection)) +
                   2 * WF_U * kept;
    }
}

void wf_norm_backward_tolerance(const wf_problem *p, const wf_tensor *t, int operand,
                                double *bound) {
    for (int64_t i = 0; i < p->size[0]; i++) backward_bounds(p, t, i, bound + i * p->size[1]);
}

/* The error of a sum over the rows, of the magnitudes summed; an accumulated output adds its own. */
void wf_norm_wgrad_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t j = 0; j < p->size[1]; j++) {
        double sum = 0;
        for (int64_t i = 0; i < p->size[0]; i++) {
            const double mean = p->flags & WF_RMS ? 0 : *wf_at2(&t[2], i, 0);
            const double xhat = (*wf_at2(&t[1], i, j) - mean) * *wf_at2(&t[2], i, 1);
            sum += fabs(*wf_at2(&t[0], i, j) * (operand == 3 ? xhat : 1));
        }
        bound[j] = wf_sum_error(p->size[0]) * sum + 2 * WF_U * fabs(*wf_at1(&t[operand], j)) +
                   WF_EXACT;
    }
}
