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
 * for O, and the like, that sum is the magnitude; elsewhere it is the reference's own. A weight is exp of a score:
 * what the score was rounded by is the weight's relative error, so a term counts 1 + scale |q||k| times there
 * (seen: two pairs' dV at 1.04, both weights 1).
 *
 * ACCUMULATE: the tensors hold the results. What was there before is what the result of these keys alone, in f64, leaves of
 * them: to the unfused computation it is one more key of a row, or one more term of a gradient's sum. */
#include "kernels/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

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

static double *doubles(int64_t count) {
    double *x = calloc((size_t)(count > 0 ? count : 1), sizeof *x);
    if (!x) abort();
    return x;
}

static float at(const wf_tensor *x, int64_t position, int64_t sample, int64_t head, int64_t e) {
    return (float)*wf_attention_at(x, position, sample, head, e);
}

/* absolute_out: the sum of absolute values. */
static float dot(const wf_attention *a, const wf_tensor *x, const wf_tensor *y, int64_t sample,
                 int64_t head, int64_t query, int64_t key, float *absolute_out) {
    float sum = 0, absolute = 0;
    for (int64_t e = 0; e < a->d; e++) {
        const float product = at(x, query, sample, head, e) * at(y, key, sample, wf_attention_kv_head(a, head), e);
        sum += product;
        absolute += fabsf(product);
    }
    *absolute_out = absolute;
    return sum;
}

/* high: the sum of its products' absolute values. */
static float score(const wf_attention *a, const wf_tensor *t, int64_t sample, int64_t head,
                   int64_t i, int64_t j, float *high) {
    const float scale = (float)(1 / sqrt((double)a->d));
    const float sum = dot(a, &t[0], &t[1], sample, head, i, j, high);
    *high *= scale;
    return sum * scale;
}

/* Dense, of the extents that an operand has. */
static wf_tensor dense_rows(int64_t positions, int64_t heads, const wf_attention *a) {
    return (wf_tensor){.data = doubles(positions * a->b * heads * a->d),
                       .stride = {a->b * heads * a->d, heads * a->d, a->d, 1}};
}

static wf_tensor dense_numbers(const wf_attention *a) {
    return (wf_tensor){.data = doubles(a->b * a->hq * a->s), .stride = {a->hq * a->s, a->s, 1}};
}

/* ---- forward --------------------------------------------------------------------------------- */

/* O and lse of the problem's keys alone; only made with ACCUMULATE. */
typedef struct alone {
    wf_tensor o, lse;
} alone;

static alone forward_alone(const wf_problem *problem, const wf_tensor *t, const wf_run_number *run) {
    const wf_attention a = wf_attention_sizes(problem);
    alone made = {{0}, {0}};
    if (!a.accumulate) return made;
    wf_problem plain = *problem;
    plain.flags &= ~(uint32_t)WF_ACCUMULATE;
    made = (alone){dense_rows(a.s, a.hq, &a), dense_numbers(&a)};
    wf_tensor operands[WF_OPERANDS];
    memcpy(operands, t, (size_t)a.output * sizeof *t);
    operands[a.output] = made.o;
    operands[a.output + 1] = made.lse;
    wf_attention_reference(&plain, operands, run);
    return made;
}

/* The part of a row's softmax that is not of these keys: 1 - exp(lse alone - lse). */
static double weight_before(const alone *own, const wf_tensor *lse, int64_t sample, int64_t head, int64_t i) {
    if (!own->lse.data) return 0;
    return fmax(0, -expm1(*wf_attention_row(&own->lse, sample, head, i) - *wf_attention_row(lse, sample, head, i)));
}

static void forward_row(const wf_attention *a, const wf_tensor *t, const alone *own, const wf_run_number *run,
                        int64_t sample, int64_t head, int64_t i, float *p, float *score_high,
                        spread *o, spread *lse) {
    const wf_keys keys = wf_attention_keys(a, t, sample, i);
    const wf_tensor *result_lse = &t[a->output + 1];
    if (keys.first >= keys.end) return;
    const double reference = *wf_attention_row(result_lse, sample, head, i);
    const double before = weight_before(own, result_lse, sample, head, i);
    const float score_before = before > 0 ? (float)(reference + log(before)) : -INFINITY;
    float largest = score_before, high = 0;
    for (int64_t j = keys.first; j < keys.end; j++) {
        p[j] = score(a, t, sample, head, i, j, &score_high[j]);
        largest = fmaxf(largest, p[j]);
        high = fmaxf(high, fabsf(p[j]));
    }
    float total = before > 0 ? expf(score_before - largest) : 0, p_before = total;
    for (int64_t j = keys.first; j < keys.end; j++) total += p[j] = expf(p[j] - largest);
    p_before /= total;
    for (int64_t j = keys.first; j < keys.end; j++)
        p[j] = p[j] / total * (float)wf_attention_keep(a, run, sample, head, i, j);
    for (int64_t e = 0; e < a->d; e++) {
        const double result = *wf_attention_at(&t[a->output], i, sample, head, e);
        float sum = 0;
        if (before > 0)
            sum = p_before * (float)((result - (1 - before) * *wf_attention_at(&own->o, i, sample, head, e)) / before);
        double absolute = fabs((double)sum);
        for (int64_t j = keys.first; j < keys.end; j++) {
            const float value = at(&t[2], j, sample, wf_attention_kv_head(a, head), e);
            sum += p[j] * value;
            absolute += fabs((double)p[j] * value) * (1 + (double)score_high[j]);
        }
        widen(o, (double)sum, result, absolute);
    }
    widen(lse, (double)(largest + logf(total)), reference, (double)high + fabs(reference) + 1);
}

void wf_attention_bound(const wf_problem *problem, const wf_tensor *t, const wf_run_number *run,
                        int operand, double *bound) {
    const wf_attention a = wf_attention_sizes(problem);
    const bool of_o = operand == a.output;
    spread o = {.absolute = of_o ? bound : NULL}, lse = {.absolute = of_o ? NULL : bound};
    float *p = floats(a.kv), *score_high = floats(a.kv);
    const alone own = forward_alone(problem, t, run);
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++)
                forward_row(&a, t, &own, run, sample, head, i, p, score_high, &o, &lse);
    free(p);
    free(score_high);
    free(own.o.data);
    free(own.lse.data);
    const int64_t rows = a.b * a.hq * a.s;
    if (of_o) fill(&o, rows * a.d, bound);
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
    float score_high;
    const float s = score(a, t, sample, head, i, j, &score_high);
    const float p = expf(s - (float)*wf_attention_row(&t[4], sample, head, i));
    const float high_p = p * (1 + score_high);
    const float keep = (float)wf_attention_keep(a, run, sample, head, i, j);
    float largest; /* dp is a sum itself, and may be small by cancelling */
    const float dp = keep * dot(a, &t[3], &t[2], sample, head, i, j, &largest);
    const float ds = p * (dp - delta), high = high_p * (keep * largest + fabsf(delta));
    for (int64_t e = 0; e < a->d; e++) {
        const float q = at(&t[0], i, sample, head, e), k = at(&t[1], j, sample, kv_head, e);
        const float d_o = at(&t[3], i, sample, head, e);
        add(g, 0, q_at + e, ds * k, high * fabsf(k) * scale);
        add(g, 1, k_at + e, ds * q, high * fabsf(q) * scale);
        add(g, 2, k_at + e, p * keep * d_o, high_p * keep * fabsf(d_o));
    }
}

/* Gradients of the problem's pairs alone; only made with ACCUMULATE. */
static void backward_alone(const wf_problem *problem, const wf_tensor *t, const wf_run_number *run, wf_tensor out[3]) {
    const wf_attention a = wf_attention_sizes(problem);
    if (!a.accumulate) return;
    wf_problem plain = *problem;
    plain.flags &= ~(uint32_t)WF_ACCUMULATE;
    for (int which = 0; which < 3; which++) out[which] = dense_rows(which ? a.kv : a.s, which ? a.hkv : a.hq, &a);
    wf_tensor operands[WF_OPERANDS];
    memcpy(operands, t, (size_t)a.output * sizeof *t);
    memcpy(operands + a.output, out, 3 * sizeof *out);
    wf_attention_backward_reference(&plain, operands, run);
}

/* own: those of the pairs alone, without data where nothing was there before. */
static spread compare(const wf_attention *a, const wf_tensor *reference, const wf_tensor *own,
                      const gradients *g, int which, double *absolute) {
    const int64_t positions = which ? a->kv : a->s, heads = which ? a->hkv : a->hq;
    const float scale = which == 2 ? 1 : (float)(1 / sqrt((double)a->d));
    spread s = {.absolute = absolute};
    int64_t next = 0;
    for (int64_t i = 0; i < positions; i++)
        for (int64_t sample = 0; sample < a->b; sample++)
            for (int64_t head = 0; head < heads; head++)
                for (int64_t e = 0; e < a->d; e++, next++) {
                    const double result = *wf_attention_at(reference, i, sample, head, e);
                    const float before = own->data ? (float)(result - ((const double *)own->data)[next]) : 0;
                    widen(&s, (double)(before + g->sum[which][next] * scale), result,
                          (double)(fabsf(before) + g->absolute[which][next]));
                }
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
                const wf_keys keys = wf_attention_keys(&a, t, sample, i);
                for (int64_t j = keys.first; j < keys.end; j++)
                    backward_pair(&a, t, run, sample, head, i, j, &g);
            }
    const int which = operand - a.output;
    wf_tensor own[3] = {{0}, {0}, {0}};
    backward_alone(problem, t, run, own);
    const spread s = compare(&a, &t[operand], &own[which], &g, which, bound);
    fill(&s, counts[which], bound);
    for (int i = 0; i < 3; i++) {
        free(own[i].data);
        free(g.sum[i]);
        free(g.absolute[i]);
    }
}
