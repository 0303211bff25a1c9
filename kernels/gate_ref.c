/* gate_ref.c: GATE and its gradient, and ACTIVATION, in f64, and how far f32 may be off.
 *
 *     out = act(g) u      dg = d u act'(g)      du = d act(g)       for g, u = pre[j], pre[n + j] */
#include <math.h>

#include "kernels/activation.h"
#include "kernels/rows.h"

enum { ROWS, N };

void wf_gate_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    const int64_t n = p->size[N];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < n; j++)
            *wf_at2(&t[1], i, j) = act->f(*wf_at2(&t[0], i, j)) * *wf_at2(&t[0], i, n + j);
}

void wf_gate_backward_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    const int64_t n = p->size[N];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < n; j++) {
            const double g = *wf_at2(&t[0], i, j), u = *wf_at2(&t[0], i, n + j);
            const double d = *wf_at2(&t[1], i, j);
            *wf_at2(&t[2], i, j) = d * u * act->df(g);
            *wf_at2(&t[2], i, n + j) = d * act->f(g);
        }
}

void wf_activation_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < p->size[N]; j++) *wf_at2(&t[1], i, j) = act->f(*wf_at2(&t[0], i, j));
}

/* act(g) is off by 40 u |act(g)| + 4 u min(1, |g|) and act'(g) by 80 u, for the reasons that
 * gemm_ref.c gives; products add a rounding each. */
static double activation_error(const wf_activation_entry *act, double g) {
    return WF_U * (40 * fabs(act->f(g)) + 4 * fmin(1, fabs(g)));
}

void wf_gate_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    const int64_t n = p->size[N];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < n; j++) {
            const double g = *wf_at2(&t[0], i, j), u = fabs(*wf_at2(&t[0], i, n + j));
            bound[i * n + j] =
                u * (activation_error(act, g) + 2 * WF_U * fabs(act->f(g))) + WF_EXACT;
        }
}

void wf_gate_backward_tolerance(const wf_problem *p, const wf_tensor *t, int operand,
                                double *bound) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    const int64_t n = p->size[N];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < n; j++) {
            const double g = *wf_at2(&t[0], i, j), u = fabs(*wf_at2(&t[0], i, n + j));
            const double d = fabs(*wf_at2(&t[1], i, j));
            double *row = bound + i * 2 * n;
            row[j] = d * u * WF_U * (80 + 3 * fabs(act->df(g))) + WF_EXACT;
            row[n + j] = d * (activation_error(act, g) + 2 * WF_U * fabs(act->f(g))) + WF_EXACT;
        }
}

void wf_activation_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const wf_activation_entry *act = &wf_activations[p->activation];
    const int64_t n = p->size[N];
    for (int64_t i = 0; i < p->size[ROWS]; i++)
        for (int64_t j = 0; j < n; j++) bound[i * n + j] = activation_error(act, *wf_at2(&t[0], i, j)) + WF_EXACT;
}
