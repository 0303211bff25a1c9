/* norm_ref.c: LayerNorm, its gradient and its weights' gradient, in f64 (Ba, Kiros, Hinton: "Layer
 * normalization", 2016), and how far f32 may be off.
 *
 * xhat = (x - mean) rstd, y = xhat gamma + beta. With g = dy gamma, averages over the row:
 * dx = rstd (g - avg(g) - xhat avg(g xhat)); dgamma = sum dy xhat, dbeta = sum dy over the rows. */
#include <math.h>

#include "kernels/rows.h"

void wf_norm_row(const double *x, int64_t x_stride, int64_t n, double eps, const wf_tensor *gamma,
                 const wf_tensor *beta, double *y, int64_t y_stride, double stats[2]) {
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < n; j++) mean += x[j * x_stride] / (double)n;
    for (int64_t j = 0; j < n; j++) {
        const double d = x[j * x_stride] - mean;
        variance += d * d / (double)n;
    }
    const double rstd = 1 / sqrt(variance + eps);
    for (int64_t j = 0; j < n && y; j++)
        y[j * y_stride] = (x[j * x_stride] - mean) * rstd * *wf_at1(gamma, j) + *wf_at1(beta, j);
    stats[0] = mean;
    stats[1] = rstd;
}

void wf_norm_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_tensor *x = &t[0], *y = &t[3], *stats = &t[4];
    for (int64_t i = 0; i < p->size[0]; i++) {
        double row[2];
        wf_norm_row(wf_at2(x, i, 0), x->stride[1], p->size[1], p->real[0], &t[1], &t[2],
                    wf_at2(y, i, 0), y->stride[1], row);
        *wf_at2(stats, i, 0) = row[0];
        *wf_at2(stats, i, 1) = row[1];
    }
}

static void backward_row(const wf_problem *p, const wf_tensor *t, int64_t i) {
    const wf_tensor *dy = &t[0], *x = &t[1], *stats = &t[2], *gamma = &t[3];
    const bool add = p->flags & WF_RESIDUAL;
    const wf_tensor *residual = add ? &t[4] : NULL, *dx = &t[4 + add];
    const int64_t n = p->size[1];
    const double mean = *wf_at2(stats, i, 0), rstd = *wf_at2(stats, i, 1);
    double average = 0, projection = 0;
    for (int64_t j = 0; j < n; j++) {
        const double g = *wf_at2(dy, i, j) * *wf_at1(gamma, j);
        average += g / (double)n;
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
    for (int64_t j = 0; j < p->size[1]; j++) {
        double dgamma = 0, dbeta = 0;
        for (int64_t i = 0; i < p->size[0]; i++) {
            const double xhat = (*wf_at2(x, i, j) - *wf_at2(stats, i, 0)) * *wf_at2(stats, i, 1);
            dgamma += *wf_at2(dy, i, j) * xhat;
            dbeta += *wf_at2(dy, i, j);
        }
        const bool add = p->flags & WF_ACCUMULATE;
        *wf_at1(&t[3], j) = dgamma + (add ? *wf_at1(&t[3], j) : 0);
        *wf_at1(&t[4], j) = dbeta + (add ? *wf_at1(&t[4], j) : 0);
    }
}

/* ---- tolerances ---------------------------------------------------------------------------------- */

/* y: eight roundings (the difference, rstd's three, two products, a sum, the store) of u are under
 * 5e-7 of the terms |xhat gamma| + |beta|, taken at their largest in the row; and the mean, known
 * to a few u of the row's largest |x|, moves every xhat by that times rstd.
 * An input error e moves xhat by rstd (e + e), first through x and the mean, then through rstd:
 * d rstd / rstd = -avg(xhat d x) rstd, at most 2 e rstd, times |xhat|. */
void wf_norm_bounds(const double *x, int64_t x_stride, int64_t n, double eps, const wf_tensor *gamma,
                    const wf_tensor *beta, double input_error, double *y_bound,
                    double stats_bound[2]) {
    double stats[2], largest = 0, term = 0;
    wf_norm_row(x, x_stride, n, eps, NULL, NULL, NULL, 0, stats);
    const double rstd = stats[1];
    for (int64_t j = 0; j < n; j++) largest = fmax(largest, fabs(x[j * x_stride]));
    for (int64_t j = 0; j < n && y_bound; j++) {
        const double xhat = fabs(x[j * x_stride] - stats[0]) * rstd;
        term = fmax(term, xhat * fabs(*wf_at1(gamma, j)) + fabs(*wf_at1(beta, j)));
    }
    for (int64_t j = 0; j < n && y_bound; j++) {
        const double xhat = fabs(x[j * x_stride] - stats[0]) * rstd;
        const double moved = rstd * (4 * WF_U * largest + input_error * 2 * (1 + xhat));
        y_bound[j] = 5e-7 * term + fabs(*wf_at1(gamma, j)) * moved;
    }
    stats_bound[0] = 4 * WF_U * largest + input_error;
    stats_bound[1] = 5e-7 * rstd + 2 * input_error * rstd * rstd;
}

void wf_norm_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const int64_t n = p->size[1];
    for (int64_t i = 0; i < p->size[0]; i++) {
        double stats[2], *row = operand == 3 ? bound + i * n : NULL;
        wf_norm_bounds(wf_at2(&t[0], i, 0), t[0].stride[1], n, p->real[0], &t[1], &t[2], 0, row,
                       stats);
        if (operand == 4) bound[2 * i] = stats[0], bound[2 * i + 1] = stats[1];
    }
}

/* Each of the three terms in the parenthesis has its own roundings (six at most, of the term), and
 * the two averages the error of a sum over the row. */
static void backward_bounds(const wf_problem *p, const wf_tensor *t, int64_t i, double *bound) {
    const int64_t n = p->size[1];
    const bool add = p->flags & WF_RESIDUAL;
    const double mean = *wf_at2(&t[2], i, 0), rstd = fabs(*wf_at2(&t[2], i, 1));
    double average = 0, projection = 0;
    for (int64_t j = 0; j < n; j++) {
        const double g = fabs(*wf_at2(&t[0], i, j) * *wf_at1(&t[3], j));
        average += g / (double)n;
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
            const double xhat = (*wf_at2(&t[1], i, j) - *wf_at2(&t[2], i, 0)) * *wf_at2(&t[2], i, 1);
            sum += fabs(*wf_at2(&t[0], i, j) * (operand == 3 ? xhat : 1));
        }
        bound[j] = wf_sum_error(p->size[0]) * sum + 2 * WF_U * fabs(*wf_at1(&t[operand], j)) +
                   WF_EXACT;
    }
}
