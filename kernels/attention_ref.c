/* attention_ref.c: attention and its gradients in f64, row by row as the formulas stand, and what
 * reference and bounds share: visibility, dropout, element access. Gradients are checked against
 * finite differences in tests/kernels/check_attention.c.
 *
 *     P[i,j] = exp(q_i k_j / sqrt(d) - lse_i) over the keys that i sees
 *     o_i    = sum_j keep[i,j] P[i,j] v_j       ACCUMULATE: + exp(lse before - lse_i) o_i before
 *     dP     = keep[i,j] do_i v_j           delta_i = do_i o_i = sum_j P dP
 *     dS     = P (dP - delta_i)
 *     dq_i = sum_j dS k_j / sqrt(d)   dk_j = sum_i dS q_i / sqrt(d)   dv_j = sum_i keep P do_i */
#include "kernels/attention.h"

#include <math.h>

#include "kernels/philox.h"

static int64_t clamp(int64_t x, int64_t n) {
    return x < 0 ? 0 : x > n ? n : x;
}

wf_keys wf_attention_keys(const wf_attention *a, const wf_tensor *operands, int64_t sample, int64_t query) {
    wf_keys keys = {clamp(query + a->low, a->kv), clamp(query + a->high, a->kv)};
    if (!a->documents) return keys;
    const wf_tensor *spans = &operands[a->qspan];
    const int32_t *span = (const int32_t *)spans->data + query * spans->stride[0] + sample * spans->stride[1];
    const int64_t first = span[0] - a->kpos0, end = span[spans->stride[2]] - a->kpos0;
    return (wf_keys){first > keys.first ? first : keys.first, end < keys.end ? end : keys.end};
}

double wf_attention_keep(const wf_attention *a, const wf_run_number *run, int64_t sample,
                         int64_t head, int64_t query, int64_t key) {
    if (!a->dropout) return 1;
    const uint32_t seed[2] = {run[WF_RUN_KEY0].u, run[WF_RUN_KEY1].u};
    const uint32_t global_sample = run[WF_RUN_SAMPLE0].u + (uint32_t)sample;
    const uint32_t c1 = global_sample * (uint32_t)a->heads + (uint32_t)(a->head0 + head);
    const int kept = wf_dropout_keep(seed, (uint32_t)a->site, run[WF_RUN_LAYER].u, c1,
                                     (uint32_t)(a->pos0 + query), a->kpos0 + key,
                                     wf_philox_threshold(a->p));
    return kept ? 1 / (1 - a->p) : 0;
}

double *wf_attention_at(const wf_tensor *x, int64_t position, int64_t sample, int64_t head,
                        int64_t e) {
    return (double *)x->data + position * x->stride[0] + sample * x->stride[1] +
           head * x->stride[2] + e * x->stride[3];
}

double *wf_attention_row(const wf_tensor *x, int64_t sample, int64_t head, int64_t position) {
    return (double *)x->data + sample * x->stride[0] + head * x->stride[1] +
           position * x->stride[2];
}

#define AT(x, position, sample, head, e) (*wf_attention_at(x, position, sample, head, e))
#define ROW(x, sample, head, position) (*wf_attention_row(x, sample, head, position))

static double dot(const wf_attention *a, const wf_tensor *x, const wf_tensor *y, int64_t sample,
                  int64_t head, int64_t query, int64_t key) {
    double sum = 0;
    for (int64_t e = 0; e < a->d; e++)
        sum += AT(x, query, sample, head, e) * AT(y, key, sample, wf_attention_kv_head(a, head), e);
    return sum;
}

static void forward_row(const wf_attention *a, const wf_tensor *t, const wf_run_number *run,
                        int64_t sample, int64_t head, int64_t i) {
    const wf_tensor *q = &t[0], *k = &t[1], *v = &t[2], *o = &t[a->output], *lse = &t[a->output + 1];
    const wf_keys keys = wf_attention_keys(a, t, sample, i);
    const double scale = 1 / sqrt((double)a->d);
    const double before = a->accumulate ? ROW(lse, sample, head, i) : -INFINITY;
    double largest = before;
    for (int64_t j = keys.first; j < keys.end; j++)
        largest = fmax(largest, dot(a, q, k, sample, head, i, j) * scale);
    const double kept = before == -INFINITY ? 0 : exp(before - largest);
    double sum = kept;
    for (int64_t e = 0; e < a->d; e++) AT(o, i, sample, head, e) = kept == 0 ? 0 : kept * AT(o, i, sample, head, e);
    for (int64_t j = keys.first; j < keys.end; j++) {
        const double p = exp(dot(a, q, k, sample, head, i, j) * scale - largest);
        const double keep = wf_attention_keep(a, run, sample, head, i, j);
        sum += p;
        for (int64_t e = 0; e < a->d; e++)
            AT(o, i, sample, head, e) += keep * p * AT(v, j, sample, wf_attention_kv_head(a, head), e);
    }
    if (sum != 0)
        for (int64_t e = 0; e < a->d; e++) AT(o, i, sample, head, e) /= sum;
    ROW(lse, sample, head, i) = sum != 0 ? largest + log(sum) : -INFINITY;
}

void wf_attention_reference(const wf_problem *problem, const wf_tensor *t,
                            const wf_run_number *run) {
    const wf_attention a = wf_attention_sizes(problem);
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++) forward_row(&a, t, run, sample, head, i);
}

void wf_attention_delta_reference(const wf_problem *problem, const wf_tensor *t,
                                  const wf_run_number *run) {
    const wf_attention a = wf_attention_sizes(problem);
    const wf_tensor *o = &t[0], *d_o = &t[1], *delta = &t[2];
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++) {
                double sum = 0;
                for (int64_t e = 0; e < a.d; e++)
                    sum += AT(o, i, sample, head, e) * AT(d_o, i, sample, head, e);
                ROW(delta, sample, head, i) = sum;
            }
}

static void zero(const wf_attention *a, const wf_tensor *x, int64_t positions, int64_t heads) {
    for (int64_t i = 0; i < positions; i++)
        for (int64_t sample = 0; sample < a->b; sample++)
            for (int64_t head = 0; head < heads; head++)
                for (int64_t e = 0; e < a->d; e++) AT(x, i, sample, head, e) = 0;
}

static void backward_pair(const wf_attention *a, const wf_tensor *t, const wf_run_number *run,
                          int64_t sample, int64_t head, int64_t i, int64_t j) {
    const wf_tensor *q = &t[0], *k = &t[1], *v = &t[2], *d_o = &t[3], *lse = &t[4], *delta = &t[5];
    const wf_tensor *dq = &t[a->output], *dk = &t[a->output + 1], *dv = &t[a->output + 2];
    const double scale = 1 / sqrt((double)a->d);
    const int64_t kv_head = wf_attention_kv_head(a, head);
    const double p =
        exp(dot(a, q, k, sample, head, i, j) * scale - ROW(lse, sample, head, i));
    const double keep = wf_attention_keep(a, run, sample, head, i, j);
    const double dp = keep * dot(a, d_o, v, sample, head, i, j);
    const double ds = p * (dp - ROW(delta, sample, head, i));
    for (int64_t e = 0; e < a->d; e++) {
        AT(dq, i, sample, head, e) += ds * scale * AT(k, j, sample, kv_head, e);
        AT(dk, j, sample, kv_head, e) += ds * scale * AT(q, i, sample, head, e);
        AT(dv, j, sample, kv_head, e) += p * keep * AT(d_o, i, sample, head, e);
    }
}

void wf_attention_backward_reference(const wf_problem *problem, const wf_tensor *t,
                                     const wf_run_number *run) {
    const wf_attention a = wf_attention_sizes(problem);
    if (!a.accumulate) {
        zero(&a, &t[a.output], a.s, a.hq);
        zero(&a, &t[a.output + 1], a.kv, a.hkv);
        zero(&a, &t[a.output + 2], a.kv, a.hkv);
    }
    for (int64_t sample = 0; sample < a.b; sample++)
        for (int64_t head = 0; head < a.hq; head++)
            for (int64_t i = 0; i < a.s; i++) {
                const wf_keys keys = wf_attention_keys(&a, t, sample, i);
                for (int64_t j = keys.first; j < keys.end; j++)
                    backward_pair(&a, t, run, sample, head, i, j);
            }
}
