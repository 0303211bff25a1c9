/* gemm_ref.c: the GEMM operation in f64, by its definition, and how far f32 may be from it. */
#include "kernels/gemm.h"

#include <math.h>

#include "kernels/activation.h"
#include "kernels/order.h"

static double at(const wf_tensor *t, int64_t i, int64_t j) {
    return ((const double *)t->data)[i * t->stride[0] + j * t->stride[1]];
}

static double *place(const wf_tensor *t, int64_t i, int64_t j) {
    return &((double *)t->data)[i * t->stride[0] + j * t->stride[1]];
}

static double a_at(const wf_problem *p, const wf_tensor *a, int64_t i, int64_t k) {
    return p->flags & WF_TRANS_A ? at(a, k, i) : at(a, i, k);
}

static const int64_t PANEL = WF_PANEL_ROWS;

static double b_at(const wf_problem *p, const wf_tensor *b, int64_t k, int64_t j) {
    if (p->flags & WF_PANELS_B)
        return p->flags & WF_TRANS_B ? at(b, j / PANEL * p->size[2] + k, j % PANEL)
                                     : at(b, k / PANEL * p->size[1] + j, k % PANEL);
    return p->flags & WF_TRANS_B ? at(b, j, k) : at(b, k, j);
}

static double *c_at(const wf_problem *p, const wf_tensor *c, int64_t i, int64_t j) {
    return p->flags & WF_PANELS_C ? place(c, j / PANEL * p->size[0] + i, j % PANEL) : place(c, i, j);
}

static void clear_padding(const wf_problem *p, const wf_tensor *c) {
    for (int64_t i = 0; i < p->size[0]; i++)
        for (int64_t j = p->size[1]; j % PANEL; j++) *c_at(p, c, i, j) = 0;
}

void wf_gemm_reference(const wf_problem *p, const wf_tensor *operands, const wf_run_number *run) {
    (void)run;
    const wf_gemm_index at_operand = wf_gemm_operand_index(p);
    const wf_tensor *a = &operands[0], *b = &operands[1], *c = &operands[at_operand.c];
    const wf_activation_entry *act = &wf_activations[p->activation];
    for (int64_t i = 0; i < p->size[0]; i++)
        for (int64_t j = 0; j < p->size[1]; j++) {
            double v = 0;
            for (int64_t k = 0; k < p->size[2]; k++) v += a_at(p, a, i, k) * b_at(p, b, k, j);
            if (p->flags & WF_ACCUMULATE) v += *c_at(p, c, i, j);
            if (p->flags & WF_BIAS) {
                const wf_tensor *bias = &operands[at_operand.bias];
                v += ((const double *)bias->data)[j * bias->stride[0]];
            }
            if (p->flags & WF_ACTIVATE) {
                *place(&operands[at_operand.pre], i, j) = v;
                v = act->f(v);
            }
            if (p->flags & WF_ACT_GRAD) v *= act->df(at(&operands[at_operand.pre], i, j));
            *c_at(p, c, i, j) = v;
        }
    if ((p->flags & WF_PANELS_C) && !(p->flags & WF_ACCUMULATE)) clear_padding(p, c);
}

/* Tolerance. u = 2^-24 is half the spacing of f32 numbers at 1, S = (|A||B|)[i,j].
 *
 * Sum: a sum of K products in f32 in any fixed order is off by a random walk of roundings, each at
 * most u times a partial sum, which is at most S: (4 + sqrt(K)) u S. (The worst case is K u S, but
 * no data met gets near it; integers that fit are exact, which check_gemm.c asks for.)
 * Epilogue: +C and +bias round once each, by u times what they write. With v the value before the
 * activation, |v before bias| <= |v| + |bias|:
 *     e_v = (4 + sqrt(K)) u S + 1.01 u |v|  [+ u (|v| + |bias|) if ACCUMULATE and BIAS].
 * ACTIVATE: |act(v') - act(v)| <= L e_v. Evaluation: exp and erfc are at most 16 ulp = 32 u off
 * (OpenCL 1.2 section 7.4: exp 3, erfc 16), division and products a few u more, and the rounding
 * of exp's argument z shifts x s(z) by at most |x z s(1-s)| 4u < 2u min(1,|x|):
 *     40 u |C| + 4 u min(1, |v|).
 * ACT_GRAD: C = v act'(pre) with pre exact: |act'| e_v + |v| 80 u, as act' is a sum of two terms
 * of at most 1.5 together, each 40 u off; and 1.01 u |C|. ReLU's is exact, but 80 u does not harm. */
static const double u = 0x1p-24;

static double sum_of_magnitudes(const wf_problem *p, const wf_tensor *t, int64_t i, int64_t j) {
    double s = 0;
    for (int64_t k = 0; k < p->size[2]; k++)
        s += fabs(a_at(p, &t[0], i, k) * b_at(p, &t[1], k, j));
    return s;
}

/* v before the activation. With ACT_GRAD it is found from C = v act'(pre); where act' = 0, C is 0
 * whatever v is, and S stands for it. */
static double value_before(const wf_problem *p, const wf_tensor *t, int64_t i, int64_t j, double s) {
    const wf_gemm_index at_operand = wf_gemm_operand_index(p);
    const double c = *c_at(p, &t[at_operand.c], i, j);
    if (p->flags & WF_ACTIVATE) return at(&t[at_operand.pre], i, j);
    if (!(p->flags & WF_ACT_GRAD)) return c;
    const double df = wf_activations[p->activation].df(at(&t[at_operand.pre], i, j));
    return df != 0 ? c / df : s;
}

static double element_bound(const wf_problem *p, const wf_tensor *t, int operand, int64_t i, int64_t j) {
    const wf_gemm_index at_operand = wf_gemm_operand_index(p);
    const wf_activation_entry *act = &wf_activations[p->activation];
    const double s = sum_of_magnitudes(p, t, i, j), v = value_before(p, t, i, j, s);
    double e = (4 + sqrt((double)p->size[2])) * u * s + 1.01 * u * fabs(v);
    if ((p->flags & WF_ACCUMULATE) && (p->flags & WF_BIAS)) {
        const wf_tensor *bias = &t[at_operand.bias];
        e += u * (fabs(v) + fabs(((const double *)bias->data)[j * bias->stride[0]]));
    }
    if (operand != at_operand.c) return e; /* pre */
    const double c = fabs(*c_at(p, &t[at_operand.c], i, j));
    if (p->flags & WF_ACTIVATE) return act->lipschitz * e + 40 * u * c + 4 * u * fmin(1, fabs(v));
    if (p->flags & WF_ACT_GRAD) {
        const double df = fabs(act->df(at(&t[at_operand.pre], i, j)));
        return df * e + 80 * u * fabs(v) + 1.01 * u * c;
    }
    return e;
}

void wf_gemm_tolerance(const wf_problem *p, const wf_tensor *operands, int operand, double *bound) {
    const int64_t m = p->size[0], n = p->size[1];
    const bool panels = p->flags & WF_PANELS_C;
    if (panels) /* padding: exact */
        for (int64_t i = 0; i < wf_order_elements(WF_ORDER_PANELS, n, m); i++) bound[i] = 0;
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            bound[panels ? wf_order_index(WF_ORDER_PANELS, m, j, i) : i * n + j] =
                element_bound(p, operands, operand, i, j);
}
