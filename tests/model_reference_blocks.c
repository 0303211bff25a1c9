/* model_reference_blocks.c: dropout, attention, the two halves of a block and the block, of one sample. */
#include <math.h>

#include "kernels/philox.h"
#include "tests/model_reference_parts.h"

/* What dropout multiplies an element by: 0 or 1/(1-p). */
static double factor(const pass *a, double p, uint32_t site, int64_t layer, uint32_t c1, int64_t c2,
                     int64_t column) {
    if (!a->dropout || p <= 0) return 1;
    const uint32_t threshold = (uint32_t)floor(p * 4294967296.0);
    return wf_dropout_keep(a->key, site, (uint32_t)layer, c1, (uint32_t)c2, column, threshold)
               ? 1 / (1 - p) : 0;
}

double reference_dropout(const pass *a, uint32_t site, int64_t layer, int64_t i, int64_t j) {
    const double p = site == WF_SITE_EMBEDDING ? a->m->dropout_embedding : a->m->dropout_residual;
    return factor(a, p, site, layer, a->sample, i, j);
}

static double attention_factor(const pass *a, int64_t layer, int64_t head, int64_t i, int64_t j) {
    const uint32_t c1 = a->sample * (uint32_t)a->m->heads + (uint32_t)head;
    return factor(a, a->m->dropout_attention, WF_SITE_ATTENTION, layer, c1, i, j);
}

/* q of a query head, k (which 0) and v (which 1) of the kv head that it reads, at position i. */
static int64_t q_at(const wf_model *m, int64_t head, int64_t i) {
    return i * reference_qkv_rows(m) + head * m->head_size;
}

static int64_t kv_at(const wf_model *m, int which, int64_t head, int64_t i) {
    const int64_t shared = head / (m->heads / m->kv_heads);
    return i * reference_qkv_rows(m) + (m->heads + which * m->kv_heads + shared) * m->head_size;
}

/* Does query i see key j? */
static bool sees(const pass *a, int64_t i, int64_t j) {
    const int64_t w = a->m->window;
    if (a->documents && a->documents[i] != a->documents[j]) return false;
    if (!a->m->bidirectional && j > i) return false;
    return !w || (i - j < w && j - i < w);
}

static void attention_head(const pass *a, const block *b, int64_t layer, int64_t head) {
    const wf_model *m = a->m;
    const int64_t s = a->s, d = m->head_size;
    double *p = b->p + head * s * s;
    for (int64_t i = 0; i < s; i++) {
        const double *q = b->qkv + q_at(m, head, i);
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < s; j++) {
            if (!sees(a, i, j)) continue;
            const double *k = b->qkv + kv_at(m, 0, head, j);
            double score = 0;
            for (int64_t c = 0; c < d; c++) score += q[c] * k[c] / sqrt((double)d);
            p[i * s + j] = score;
            largest = fmax(largest, score);
        }
        for (int64_t j = 0; j < s; j++)
            if (sees(a, i, j)) sum += p[i * s + j] = exp(p[i * s + j] - largest);
        double *o = b->o + i * m->heads * d + head * d;
        for (int64_t j = 0; j < s; j++) {
            if (!sees(a, i, j)) continue;
            p[i * s + j] /= sum;
            const double share = p[i * s + j] * attention_factor(a, layer, head, i, j);
            for (int64_t c = 0; c < d; c++) o[c] += share * b->qkv[kv_at(m, 1, head, j) + c];
        }
    }
}

/* dq, dk, dv of one head, added, from do. Softmax: dscore = p (dp - sum p dp). */
static void attention_head_backward(const pass *a, const block *b, const double *d_o, double *dqkv,
                                    int64_t layer, int64_t head) {
    const wf_model *m = a->m;
    const int64_t s = a->s, d = m->head_size;
    const double *p = b->p + head * s * s;
    double *dp = reference_zeros(s);
    for (int64_t i = 0; i < s; i++) {
        const double *out = d_o + i * m->heads * d + head * d;
        double projection = 0;
        for (int64_t j = 0; j < s; j++) {
            if (!sees(a, i, j)) continue;
            const double keep = attention_factor(a, layer, head, i, j);
            const double *v = b->qkv + kv_at(m, 1, head, j);
            double *dv = dqkv + kv_at(m, 1, head, j);
            dp[j] = 0;
            for (int64_t c = 0; c < d; c++) dp[j] += keep * out[c] * v[c];
            for (int64_t c = 0; c < d; c++) dv[c] += keep * p[i * s + j] * out[c];
            projection += p[i * s + j] * dp[j];
        }
        for (int64_t j = 0; j < s; j++) {
            if (!sees(a, i, j)) continue;
            const double score = p[i * s + j] * (dp[j] - projection) / sqrt((double)d);
            for (int64_t c = 0; c < d; c++) {
                dqkv[q_at(m, head, i) + c] += score * b->qkv[kv_at(m, 0, head, j) + c];
                dqkv[kv_at(m, 0, head, j) + c] += score * b->qkv[q_at(m, head, i) + c];
            }
        }
    }
    free(dp);
}

/* Weights and gradients; NULL where the model has none. */
#define W(tensor) reference_of_layer(m, a->w, WF_T_##tensor, layer)
#define G(tensor) reference_of_layer(m, a->g, WF_T_##tensor, layer)

/* ---- halves of a block: what stands between norm and residual ---------------------------------- */

static void attention_branch(const pass *a, int64_t layer, double *branch) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, n = reference_qkv_rows(m);
    reference_linear(b->in1, W(QKV_WEIGHT), W(QKV_BIAS), b->qkv, s, h, n);
    if (m->position_form == WF_POSITIONS_ROPE) reference_rotate(m, b->qkv, s, m->heads + m->kv_heads, n, 1);
    for (int64_t head = 0; head < m->heads; head++) attention_head(a, b, layer, head);
    reference_linear(b->o, W(PROJ_WEIGHT), W(PROJ_BIAS), branch, s, m->heads * m->head_size, h);
}

static void attention_branch_backward(const pass *a, int64_t layer, const double *branch, double *din) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, o = m->heads * m->head_size, n = reference_qkv_rows(m);
    double *d_o = reference_zeros(s * o), *dqkv = reference_zeros(s * n);
    reference_linear_backward(branch, b->o, W(PROJ_WEIGHT), d_o, G(PROJ_WEIGHT), G(PROJ_BIAS), s, o, h);
    for (int64_t head = 0; head < m->heads; head++)
        attention_head_backward(a, b, d_o, dqkv, layer, head);
    if (m->position_form == WF_POSITIONS_ROPE) reference_rotate(m, dqkv, s, m->heads + m->kv_heads, n, -1);
    reference_linear_backward(dqkv, b->in1, W(QKV_WEIGHT), din, G(QKV_WEIGHT), G(QKV_BIAS), s, h, n);
    free(d_o), free(dqkv);
}

static void mlp_branch(const pass *a, int64_t layer, double *branch) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, f = m->features, n = m->gated ? 2 * f : f;
    reference_linear(b->in2, W(FC1_WEIGHT), W(FC1_BIAS), b->pre, s, h, n);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < f; j++)
            b->act[i * f + j] =
                reference_activate(m->activation, b->pre[i * n + j]) * (m->gated ? b->pre[i * n + f + j] : 1);
    reference_linear(b->act, W(FC2_WEIGHT), W(FC2_BIAS), branch, s, f, h);
}

static void mlp_branch_backward(const pass *a, int64_t layer, const double *branch, double *din) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, f = m->features, n = m->gated ? 2 * f : f;
    double *dact = reference_zeros(s * f), *dpre = reference_zeros(s * n);
    reference_linear_backward(branch, b->act, W(FC2_WEIGHT), dact, G(FC2_WEIGHT), G(FC2_BIAS), s, f, h);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < f; j++) {
            const double gate = b->pre[i * n + j], d = dact[i * f + j];
            dpre[i * n + j] = d * reference_activate_slope(m->activation, gate) * (m->gated ? b->pre[i * n + f + j] : 1);
            if (m->gated) dpre[i * n + f + j] = d * reference_activate(m->activation, gate);
        }
    reference_linear_backward(dpre, b->in2, W(FC1_WEIGHT), din, G(FC1_WEIGHT), G(FC1_BIAS), s, h, n);
    free(dact), free(dpre);
}

/* ---- a block --------------------------------------------------------------------------------------- */

/* out = x + dropout(branch) */
static void add_branch(const pass *a, uint32_t site, int64_t layer, const double *x,
                       const double *branch, double *out) {
    const int64_t h = a->m->hidden;
    for (int64_t i = 0; i < a->s; i++)
        for (int64_t j = 0; j < h; j++)
            out[i * h + j] = x[i * h + j] + reference_dropout(a, site, layer, i, j) * branch[i * h + j];
}

/* Norms before the halves (GPT-2, Llama) or after their sums (BERT). */
void reference_block_forward(const pass *a, int64_t layer, double *out) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t n = a->s * m->hidden;
    double *branch = reference_zeros(n);
    m->post_norm ? copy(b->in1, b->x, n) : reference_norm(m, b->x, W(NORM1_WEIGHT), W(NORM1_BIAS), b->in1, a->s);
    attention_branch(a, layer, branch);
    add_branch(a, WF_SITE_ATTENTION_OUT, layer, b->x, branch, b->sum1);
    m->post_norm ? reference_norm(m, b->sum1, W(NORM1_WEIGHT), W(NORM1_BIAS), b->mid, a->s) : copy(b->mid, b->sum1, n);
    m->post_norm ? copy(b->in2, b->mid, n) : reference_norm(m, b->mid, W(NORM2_WEIGHT), W(NORM2_BIAS), b->in2, a->s);
    mlp_branch(a, layer, branch);
    add_branch(a, WF_SITE_MLP_OUT, layer, b->mid, branch, b->sum2);
    m->post_norm ? reference_norm(m, b->sum2, W(NORM2_WEIGHT), W(NORM2_BIAS), out, a->s) : copy(out, b->sum2, n);
    free(branch);
}

typedef void (*branch_backward)(const pass *, int64_t layer, const double *branch, double *din);

/* d: gradient of a half's output on entry, of its input on return. x: the half's input, sum: its
 * residual sum, which the norm follows or not. */
static void half_backward(const pass *a, int64_t layer, branch_backward backward, uint32_t site, int weight,
                          const double *x, const double *sum, double *d) {
    const wf_model *m = a->m;
    const int64_t h = m->hidden, n = a->s * h;
    const double *w = reference_of_layer(m, a->w, weight, layer);
    double *dw = reference_of_layer(m, a->g, weight, layer), *db = reference_of_layer(m, a->g, weight + 1, layer);
    double *branch = reference_zeros(n), *dn = reference_zeros(n);
    if (m->post_norm) {
        reference_norm_backward(m, d, sum, w, dn, dw, db, a->s);
        copy(d, dn, n);
    }
    for (int64_t i = 0; i < n; i++) branch[i] = reference_dropout(a, site, layer, i / h, i % h) * d[i];
    memset(dn, 0, (size_t)n * sizeof *dn);
    backward(a, layer, branch, m->post_norm ? d : dn);
    if (!m->post_norm) reference_norm_backward(m, dn, x, w, d, dw, db, a->s);
    free(branch), free(dn);
}

void reference_block_backward(const pass *a, int64_t layer, double *d) {
    const block *b = &a->blocks[layer];
    half_backward(a, layer, mlp_branch_backward, WF_SITE_MLP_OUT, WF_T_NORM2_WEIGHT, b->mid, b->sum2, d);
    half_backward(a, layer, attention_branch_backward, WF_SITE_ATTENTION_OUT, WF_T_NORM1_WEIGHT, b->x, b->sum1, d);
}
