/* attention_bound.c: how far from the f64 reference a kernel may be.
 *
 * FlashAttention's own criterion: the largest error of an output is at most twice that of the unfused
 * computation in f32, plus 4 * 2^-24 of the output's largest magnitude. The unfused computation is
 * therefore done here, on the same inputs with the same mask: scores, softmax, products, in f32, one
 * row at a time, sums in order.
 *
 * A maximum over few elements says little: the unfused error of one single element may be 0 by luck,
 * and over some hundred it still varies by more than its factor of two from one draw to the next (seen: 120
 * elements of dQ at 1.18 of this bound once in some hundred draws, 0.6 in the others). Few may be those
 * that matter of a large tensor too: under a causal mask the first keys' dV are sums of the most products (seen: 1.01
 * of 1184 elements). So where fewer than 1024 elements have at least half the largest sum of absolute values, |P| |V|
 * for O, and the like, that sum is the magnitude; elsewhere it is the reference's own. */
#include "kernels/attention.h"

#include <math.h>
#include <stdlib.h>

static const double unit = 1.0 / (1 << 24);
enum { few = 1024 };

/* What the unfused computation gives for one output: largest error and magnitude; sums of absolute values in any order. */
typedef struct spread {
    double error, magnitude;
    double *absolute; /* NULL: the output is not the one asked for */
    int64_t count;
} spread;

static void widen(spread *s, double got, double reference, double absolute) {
    if (!s->absolute || !isfinite(reference)) return;
    s->error = fmax(s->error, fabs(got - reference));
    s->magnitude = fmax(s->magnitude, fabs(reference));
    s->absolute[s->count++] = absolute;
}

/* bound: what s's absolute values were written to; one bound for all. */
static void fill(const spread *s, int64_t count, double *bound) {
    double largest = 0;
    int64_t large = 0;
    for (int64_t i = 0; i < s->count; i++) largest = fmax(largest, s->absolute[i]);
    for (int64_t i = 0; i < s->count; i++) large += s->absolute[i] >= largest / 2;
    const double magnitude = large < few ? fmax(s->magnitude, largest) : s->magnitude;
    for (int64_t i = 0; i < count; i++) bound[i] = 2 * s->error + 4 * unit * magnitude;
}

static float *floats(int64_t count) {
    float *x = calloc((size_t)(count > 0 ? count : 1), sizeof *x);
    if (!x) abort(); /* a checker without memory has no answer to give */
    return x;
}

static float at(const wf_tensor *x, int64_t position, int64_t sample, int64_t head, int64_t e) {
    return (float)*wf_attention_at(x, position, sample, head, e);
}

/* absolute_out: the sum of absolute values; may be NULL. */
static float dot(const wf_attention *a, const wf_tensor *x, const wf_tensor *y, int64_t sample,
                 int64_t head, int64_t query, int64_t key, float *absolute_out) {
    float sum = 0, absolute = 0;
    for (int64_t e = 0; e < a->d; e++) {
        const float product = at(x, query, sample, head, e) * at(y, key, sample, wf_attention_kv_head(a, head), e);
        sum += product;
        absolute += fabsf(product);
    }
    if (absolute_out) *absolute_out = absolute;
    return sum;
}

static float score(const wf_attention *a, const wf_tensor *t, int64_t sample, int64_t head,
                   int64_t i, int64_t j) {
    return dot(a, &t[0], &t[1], sample, head, i, j, NULL) * (float)(1 / sqrt((double)a->d));
}

/* ---- forward --------------------------------------------------------------------------------- */

static void forward_row(const wf_attention *a, const wf_tensor *t, const wf_run_number *run,
                        int64_t sample, int64_t head, int64_t i, float *p, spread *o,
                        spread *lse) {
    const wf_keys keys = wf_attention_keys(a, i);
    if (keys.first >= keys.end) return;
    float largest = -INFINITY, total = 0, high = 0;
    for (int64_t j = keys.first; j < keys.end; j++) {
        p[j] = score(a, t, sample, head, i, j);
        largest = fmaxf(largest, p[j]);
        high = fmaxf(high, fabsf(p[j]));
    }
    for (int64_t j = keys.first; j < keys.end; j++) total += p[j] = expf(p[j] - largest);
    for (int64_t j = keys.first; j < keys.end; j++)
        p[j] = p[j] / total * (float)wf_attention_keep(a, run, sample, head, i, j);
    for (int64_t e = 0; e < a->d; e++) {
        float sum = 0;
        double absolute = 0;
        for (int64_t j = keys.first; j < keys.end; j++) {
            const float value = at(&t[2], j, sample, wf_attention_kv_head(a, head), e);
            sum += p[j] * value;
            absolute += fabs((double)p[j] * value);
        }
        widen(o, (double)sum, *wf_attention_at(&t[3], i, sample, head, e), absolute);
    }
    const double reference = *wf_attention_row(&t[4], sample, head, i);
    widen(lse, (double)(largest + logf(total)), reference, (double)high + fabs(reference) + 1);
}

void wf_attention_bound(const wf_problem *problem, const wf_tensor *t, const wf_run_number *run,
                        int operand, double *bound) {
    const wf_attention a = wf_attention_sizes(problem);
    spread o = {.absolute = operand == 3 ? bound : NULL}, lse = {.absolute = operand == 3 ? NULL : bound};
    float *p = floats(a.kv);
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++)
                forward_row(&a, t, run, sample, head, i, p, &o, &lse);
    free(p);
    const int64_t rows = a.b * a.hq * a.s;
    if (operand == 3) fill(&o, rows * a.d, bound);
    else fill(&lse, rows, bound);
}

/* ---- delta: one sum of d products, (4 + sqrt(d)) roundings of its absolute value ------------- */

void wf_attention_delta_bound(const wf_problem *problem, const wf_tensor *t, int operand,
                              double *bound) {
    const wf_attention a = wf_attention_sizes(problem);
    int64_t next = 0;
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++) {
                double absolute = 0;
                for (int64_t e = 0; e < a.d; e++)
                    absolute += fabs(*wf_attention_at(&t[0], i, sample, head, e) *
                                     *wf_attention_at(&t[1], i, sample, head, e));
                bound[next++] = (4 + sqrt((double)a.d)) * unit * absolute;
            }
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Unfused gradients and their absolute sums, dense [position, sample, head, d] as the operands. */
typedef struct gradients {
    float *sum[3];
    float *absolute[3];
} gradients;

static int64_t dense(const wf_attention *a, int64_t heads, int64_t position, int64_t sample,
                     int64_t head) {
    return ((position * a->b + sample) * heads + head) * a->d;
}

static void add(const gradients *g, int which, int64_t index, float value, float absolute) {
    g->sum[which][index] += value;
    g->absolute[which][index] += absolute;
}

static void backward_pair(const wf_attention *a, const wf_tensor *t, const wf_run_number *run,
                          int64_t sample, int64_t head, int64_t i, int64_t j, const gradients *g) {
    const int64_t kv_head = wf_attention_kv_head(a, head);
    const int64_t q_at = dense(a, a->hq, i, sample, head), k_at = dense(a, a->hkv, j, sample, kv_head);
    const float scale = (float)(1 / sqrt((double)a->d));
    const float delta = (float)*wf_attention_row(&t[5], sample, head, i);
    const float p = expf(score(a, t, sample, head, i, j) - (float)*wf_attention_row(&t[4], sample, head, i));
    const float keep = (float)wf_attention_keep(a, run, sample, head, i, j);
    float largest; /* dp is a sum itself, and may be small by cancelling */
    const float dp = keep * dot(a, &t[3], &t[2], sample, head, i, j, &largest);
    const float ds = p * (dp - delta), high = p * (keep * largest + fabsf(delta));
    for (int64_t e = 0; e < a->d; e++) {
        const float q = at(&t[0], i, sample, head, e), k = at(&t[1], j, sample, kv_head, e);
        const float d_o = at(&t[3], i, sample, head, e);
        add(g, 0, q_at + e, ds * k, high * fabsf(k) * scale);
        add(g, 1, k_at + e, ds * q, high * fabsf(q) * scale);
        add(g, 2, k_at + e, p * keep * d_o, p * keep * fabsf(d_o));
    }
}

static spread compare(const wf_attention *a, const wf_tensor *reference, const gradients *g,
                      int which, double *absolute) {
    const int64_t positions = which ? a->kv : a->s, heads = which ? a->hkv : a->hq;
    const float scale = which == 2 ? 1 : (float)(1 / sqrt((double)a->d));
    spread s = {.absolute = absolute};
    int64_t next = 0;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t sample = 0; sample < a->b; sample++)
            for (int64_t head = 0; head < heads; head++)
                for (int64_t e = 0; e < a->d; e++, next++)
                    widen(&s, (double)(g->sum[which][next] * scale),
                          *wf_attention_at(reference, i, sample, head, e),
                          (double)g->absolute[which][next]);
    return s;
}

void wf_attention_backward_bound(const wf_problem *problem, const wf_tensor *t,
                                 const wf_run_number *run, int operand, double *bound) {
    const wf_attention a = wf_attention_sizes(problem);
    const int64_t counts[3] = {a.s * a.b * a.hq * a.d, a.kv * a.b * a.hkv * a.d,
                               a.kv * a.b * a.hkv * a.d};
    gradients g;
    for (int which = 0; which < 3; which++) {
        g.sum[which] = floats(counts[which]);
        g.absolute[which] = floats(counts[which]);
    }
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++) {
                const wf_keys keys = wf_attention_keys(&a, i);
                for (int64_t j = keys.first; j < keys.end; j++)
                    backward_pair(&a, t, run, sample, head, i, j, &g);
            }
    const int which = operand - 6;
    const spread s = compare(&a, &t[operand], &g, which, bound);
    fill(&s, counts[which], bound);
    for (int i = 0; i < 3; i++) {
        free(g.sum[i]);
        free(g.absolute[i]);
    }
}
