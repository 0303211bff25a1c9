/* model_reference.c: see model_reference.h. Shapes: s positions, h hidden, hq query heads, hkv key and
 * value heads, d head size, f features, v vocabulary; all matrices dense and row-major. */
#include "tests/model_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

/* ---- tensors --------------------------------------------------------------------------------------- */

typedef struct extent {
    int64_t rows, columns;
    bool per_layer;
} extent;

static bool has_bias(const wf_model *m, uint32_t which) {
    return (m->biases & which) != 0;
}

static int64_t qkv_rows(const wf_model *m) {
    return (m->heads + 2 * m->kv_heads) * m->head_size;
}

/* What the model lacks has no rows. */
static extent extent_of(const wf_model *m, int tensor) {
    const int64_t h = m->hidden, o = m->heads * m->head_size, f = m->features, v = m->vocabulary;
    const int64_t fc1 = m->gated ? 2 * f : f;
    const bool centred = m->norm == WF_LAYERNORM, transform = m->head_form == WF_HEAD_TRANSFORM;
    switch (tensor) {
    case WF_T_TOKEN_EMBEDDING: return (extent){v, h, false};
    case WF_T_POSITION_EMBEDDING:
        return (extent){m->position_form == WF_POSITIONS_LEARNED ? m->positions : 0, h, false};
    case WF_T_TYPE_EMBEDDING: return (extent){m->types, h, false};
    case WF_T_EMBEDDING_NORM_WEIGHT: return (extent){m->embedding_norm ? h : 0, 1, false};
    case WF_T_EMBEDDING_NORM_BIAS: return (extent){m->embedding_norm && centred ? h : 0, 1, false};
    case WF_T_QKV_WEIGHT: return (extent){qkv_rows(m), h, true};
    case WF_T_QKV_BIAS: return (extent){has_bias(m, WF_BIAS_QKV) ? qkv_rows(m) : 0, 1, true};
    case WF_T_PROJ_WEIGHT: return (extent){h, o, true};
    case WF_T_PROJ_BIAS: return (extent){has_bias(m, WF_BIAS_PROJ) ? h : 0, 1, true};
    case WF_T_FC1_WEIGHT: return (extent){fc1, h, true};
    case WF_T_FC1_BIAS: return (extent){has_bias(m, WF_BIAS_MLP) ? fc1 : 0, 1, true};
    case WF_T_FC2_WEIGHT: return (extent){h, f, true};
    case WF_T_FC2_BIAS: return (extent){has_bias(m, WF_BIAS_MLP) ? h : 0, 1, true};
    case WF_T_NORM1_WEIGHT: case WF_T_NORM2_WEIGHT: return (extent){h, 1, true};
    case WF_T_NORM1_BIAS: case WF_T_NORM2_BIAS: return (extent){centred ? h : 0, 1, true};
    case WF_T_NORMF_WEIGHT: return (extent){m->post_norm ? 0 : h, 1, false};
    case WF_T_NORMF_BIAS: return (extent){m->post_norm || !centred ? 0 : h, 1, false};
    case WF_T_HEAD_WEIGHT:
        return (extent){m->head_form == WF_HEAD_NONE || m->tied_head ? 0 : v, h, false};
    case WF_T_HEAD_BIAS: return (extent){transform ? v : 0, 1, false};
    case WF_T_TRANSFORM_WEIGHT: return (extent){transform ? h : 0, h, false};
    case WF_T_TRANSFORM_BIAS: case WF_T_TRANSFORM_NORM_WEIGHT: return (extent){transform ? h : 0, 1, false};
    case WF_T_TRANSFORM_NORM_BIAS: return (extent){transform && centred ? h : 0, 1, false};
    default: abort();
    }
}

int64_t reference_count(const wf_model *m, int tensor) {
    const extent e = extent_of(m, tensor);
    return e.rows * e.columns * (e.per_layer ? m->layers : 1);
}

static double *zeros(int64_t n) {
    double *data = calloc((size_t)n + 1, sizeof *data);
    if (!data) abort();
    return data;
}

reference_tensors reference_tensors_create(const wf_model *m) {
    reference_tensors t;
    for (int i = 0; i < WF_TENSORS; i++) t.data[i] = zeros(reference_count(m, i));
    return t;
}

void reference_tensors_destroy(reference_tensors *t) {
    for (int i = 0; i < WF_TENSORS; i++) free(t->data[i]);
    *t = (reference_tensors){{0}};
}

/* NULL where the model has none. */
static double *of_layer(const wf_model *m, const reference_tensors *t, int tensor, int64_t layer) {
    const extent e = extent_of(m, tensor);
    return e.rows ? t->data[tensor] + (e.per_layer ? layer * e.rows * e.columns : 0) : NULL;
}

/* Which start: matrices are normal, the two that end a branch narrower (GPT-2), norms 1, biases 0. */
static double initial(const wf_model *m, const uint32_t key[2], int tensor, int64_t layer,
                      int64_t row, int64_t column) {
    const double normal =
        wf_philox_normal(key, WF_SITE_INIT + (uint32_t)tensor, (uint32_t)layer, row, column);
    switch (tensor) {
    case WF_T_NORM1_WEIGHT: case WF_T_NORM2_WEIGHT: case WF_T_NORMF_WEIGHT:
    case WF_T_EMBEDDING_NORM_WEIGHT: case WF_T_TRANSFORM_NORM_WEIGHT: return 1;
    case WF_T_PROJ_WEIGHT: case WF_T_FC2_WEIGHT: return m->init_std / sqrt(2.0 * (double)m->layers) * normal;
    case WF_T_TOKEN_EMBEDDING: case WF_T_POSITION_EMBEDDING: case WF_T_TYPE_EMBEDDING: case WF_T_QKV_WEIGHT:
    case WF_T_FC1_WEIGHT: case WF_T_HEAD_WEIGHT: case WF_T_TRANSFORM_WEIGHT: return m->init_std * normal;
    default: return 0;
    }
}

void reference_initialise(const wf_model *m, uint64_t seed, reference_tensors *t) {
    uint32_t key[2];
    wf_philox_key(seed, -1, key);
    for (int tensor = 0; tensor < WF_TENSORS; tensor++) {
        const extent e = extent_of(m, tensor);
        for (int64_t layer = 0; layer < (e.per_layer ? m->layers : 1); layer++)
            for (int64_t i = 0; i < e.rows * e.columns; i++)
                of_layer(m, t, tensor, layer)[i] =
                    initial(m, key, tensor, layer, i / e.columns, i % e.columns);
    }
}

/* ---- layers: forward, and backward adding to gradients ---------------------------------------------- */

/* y[s][out] = x[s][in] w[out][in]^T + b[out] */
static void linear(const double *x, const double *w, const double *b, double *y, int64_t s,
                   int64_t in, int64_t out) {
    for (int64_t i = 0; i < s; i++)
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? b[o] : 0;
            for (int64_t k = 0; k < in; k++) sum += x[i * in + k] * w[o * in + k];
            y[i * out + o] = sum;
        }
}

static void linear_backward(const double *dy, const double *x, const double *w, double *dx,
                            double *dw, double *db, int64_t s, int64_t in, int64_t out) {
    for (int64_t i = 0; i < s; i++)
        for (int64_t o = 0; o < out; o++) {
            const double d = dy[i * out + o];
            if (db) db[o] += d;
            for (int64_t k = 0; k < in; k++) {
                dx[i * in + k] += d * w[o * in + k];
                dw[o * in + k] += d * x[i * in + k];
            }
        }
}

/* Centre and deviation of a row: RMSNorm's centre is 0. */
static void moments(const wf_model *m, const double *row, double *centre, double *deviation) {
    const int64_t h = m->hidden;
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < h && m->norm == WF_LAYERNORM; j++) mean += row[j] / (double)h;
    for (int64_t j = 0; j < h; j++) variance += pow(row[j] - mean, 2) / (double)h;
    *centre = mean;
    *deviation = sqrt(variance + m->norm_epsilon);
}

static void norm(const wf_model *m, const double *x, const double *g, const double *b, double *y, int64_t s) {
    const int64_t h = m->hidden;
    for (int64_t i = 0; i < s; i++) {
        double centre, deviation;
        moments(m, x + i * h, &centre, &deviation);
        for (int64_t j = 0; j < h; j++)
            y[i * h + j] = (x[i * h + j] - centre) / deviation * g[j] + (b ? b[j] : 0);
    }
}

/* Added: with z = (x - centre) / deviation, dx = (g dy - avg(g dy) - z avg(g dy z)) / deviation; the
 * first average is the centre's, which RMSNorm does not subtract. */
static void norm_backward(const wf_model *m, const double *dy, const double *x, const double *g, double *dx,
                          double *dg, double *db, int64_t s) {
    const int64_t h = m->hidden;
    for (int64_t i = 0; i < s; i++) {
        const double *row = x + i * h, *d = dy + i * h;
        double centre, deviation, average = 0, projection = 0;
        moments(m, row, &centre, &deviation);
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - centre) / deviation;
            if (m->norm == WF_LAYERNORM) average += g[j] * d[j] / (double)h;
            projection += g[j] * d[j] * z / (double)h;
            dg[j] += d[j] * z;
            if (db) db[j] += d[j];
        }
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - centre) / deviation;
            dx[i * h + j] += (g[j] * d[j] - average - z * projection) / deviation;
        }
    }
}

static double activate(int activation, double x) {
    const double c = sqrt(2 / M_PI);
    switch (activation) {
    case WF_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(c * (x + 0.044715 * x * x * x)));
    case WF_ACT_GELU: return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case WF_ACT_RELU: return x > 0 ? x : 0;
    case WF_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

static double activate_slope(int activation, double x) {
    const double c = sqrt(2 / M_PI);
    switch (activation) {
    case WF_ACT_GELU_TANH: {
        const double t = tanh(c * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
    }
    case WF_ACT_GELU: return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case WF_ACT_RELU: return x > 0;
    case WF_ACT_SILU: {
        const double p = 1 / (1 + exp(-x));
        return p + x * p * (1 - p);
    }
    default: return 1;
    }
}

/* ---- rotary positions -------------------------------------------------------------------------- */

/* Angle per position of pair i, as transformers computes it, in f32: its rounding is part of the
 * model. Llama 3 stretches long waves by the factor, short ones not, those between in part. */
static float frequency(const wf_model *m, int64_t i) {
    const float exponent = (float)(2 * i) / (float)m->head_size;
    const float plain = 1 / (float)pow(m->rope_theta, (double)exponent);
    if (m->rope_factor <= 1) return plain;
    if (m->rope_low_frequency <= 0 && m->rope_high_frequency <= 0) return plain / (float)m->rope_factor;
    const double old = (double)m->rope_original_positions;
    const double low = m->rope_low_frequency, high = m->rope_high_frequency;
    const double wave = 2 * M_PI / (double)plain;
    if (wave < old / high) return plain;
    if (wave > old / low) return plain / (float)m->rope_factor;
    const double smooth = (old / wave - low) / (high - low);
    return (float)((1 - smooth) * (double)plain / m->rope_factor + smooth * (double)plain);
}

/* Rotates pair (i, i + d / 2) of each head of [s][heads][d] by the position's angle; sign -1: back. */
static void rotate(const wf_model *m, double *x, int64_t s, int64_t heads, int64_t row, double sign) {
    const int64_t d = m->head_size, half = d / 2;
    for (int64_t position = 0; position < s; position++)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)position * frequency(m, i);
            const double c = cos((double)angle), sine = sign * sin((double)angle);
            for (int64_t head = 0; head < heads; head++) {
                double *const a = x + position * row + head * d + i, *const b = a + half;
                const double first = *a, second = *b;
                *a = first * c - second * sine;
                *b = second * c + first * sine;
            }
        }
}

/* ---- one sample --------------------------------------------------------------------------------------- */

typedef struct block {      /* what one block's forward leaves for its backward */
    double *x;              /* [s][h] input */
    double *in1, *qkv;      /* [s][h] what attention reads, [s][(hq + 2 hkv) d] rotated */
    double *p;              /* [hq][s][s] softmax, before dropout */
    double *o;              /* [s][hq d] */
    double *sum1, *mid;     /* [s][h] after attention and its residual; after its norm, if that follows */
    double *in2, *pre, *act; /* [s][h], [s][f or 2f], [s][f] */
    double *sum2;           /* [s][h] after the MLP and its residual */
} block;

typedef struct pass {
    const wf_model *m;
    const reference_tensors *w;
    reference_tensors *g;   /* NULL: forward only */
    int64_t s;              /* positions */
    uint32_t sample;        /* global index */
    uint32_t key[2];
    bool dropout;
    block *blocks;
    double *embedded;       /* [s][h] sum of embeddings, before their norm */
    double *last, *hidden;  /* [s][h] last block's output, after the final norm */
    double *pre, *turned, *top; /* [s][h] of the transform, its activation; what meets the vocabulary */
} pass;

/* What dropout multiplies an element by: 0 or 1/(1-p). */
static double factor(const pass *a, double p, uint32_t site, int64_t layer, uint32_t c1, int64_t c2,
                     int64_t column) {
    if (!a->dropout || p <= 0) return 1;
    const uint32_t threshold = (uint32_t)floor(p * 4294967296.0);
    return wf_dropout_keep(a->key, site, (uint32_t)layer, c1, (uint32_t)c2, column, threshold)
               ? 1 / (1 - p) : 0;
}

static double hidden_factor(const pass *a, uint32_t site, int64_t layer, int64_t i, int64_t j) {
    const double p = site == WF_SITE_EMBEDDING ? a->m->dropout_embedding : a->m->dropout_residual;
    return factor(a, p, site, layer, a->sample, i, j);
}

static double attention_factor(const pass *a, int64_t layer, int64_t head, int64_t i, int64_t j) {
    const uint32_t c1 = a->sample * (uint32_t)a->m->heads + (uint32_t)head;
    return factor(a, a->m->dropout_attention, WF_SITE_ATTENTION, layer, c1, i, j);
}

/* q of a query head, k (which 0) and v (which 1) of the kv head that it reads, at position i. */
static int64_t q_at(const wf_model *m, int64_t head, int64_t i) {
    return i * qkv_rows(m) + head * m->head_size;
}

static int64_t kv_at(const wf_model *m, int which, int64_t head, int64_t i) {
    const int64_t shared = head / (m->heads / m->kv_heads);
    return i * qkv_rows(m) + (m->heads + which * m->kv_heads + shared) * m->head_size;
}

/* Keys that query i sees: [0, seen). */
static int64_t seen(const pass *a, int64_t i) {
    return a->m->bidirectional ? a->s : i + 1;
}

static void attention_head(const pass *a, const block *b, int64_t layer, int64_t head) {
    const wf_model *m = a->m;
    const int64_t s = a->s, d = m->head_size;
    double *p = b->p + head * s * s;
    for (int64_t i = 0; i < s; i++) {
        const double *q = b->qkv + q_at(m, head, i);
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < seen(a, i); j++) {
            const double *k = b->qkv + kv_at(m, 0, head, j);
            double score = 0;
            for (int64_t c = 0; c < d; c++) score += q[c] * k[c] / sqrt((double)d);
            p[i * s + j] = score;
            largest = fmax(largest, score);
        }
        for (int64_t j = 0; j < seen(a, i); j++) sum += p[i * s + j] = exp(p[i * s + j] - largest);
        double *o = b->o + i * m->heads * d + head * d;
        for (int64_t j = 0; j < seen(a, i); j++) {
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
    double *dp = zeros(s);
    for (int64_t i = 0; i < s; i++) {
        const double *out = d_o + i * m->heads * d + head * d;
        double projection = 0;
        for (int64_t j = 0; j < seen(a, i); j++) {
            const double keep = attention_factor(a, layer, head, i, j);
            const double *v = b->qkv + kv_at(m, 1, head, j);
            double *dv = dqkv + kv_at(m, 1, head, j);
            dp[j] = 0;
            for (int64_t c = 0; c < d; c++) dp[j] += keep * out[c] * v[c];
            for (int64_t c = 0; c < d; c++) dv[c] += keep * p[i * s + j] * out[c];
            projection += p[i * s + j] * dp[j];
        }
        for (int64_t j = 0; j < seen(a, i); j++) {
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
#define W(tensor) of_layer(m, a->w, WF_T_##tensor, layer)
#define G(tensor) of_layer(m, a->g, WF_T_##tensor, layer)

/* ---- halves of a block: what stands between norm and residual ---------------------------------- */

static void attention_branch(const pass *a, int64_t layer, double *branch) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, n = qkv_rows(m);
    linear(b->in1, W(QKV_WEIGHT), W(QKV_BIAS), b->qkv, s, h, n);
    if (m->position_form == WF_POSITIONS_ROPE) rotate(m, b->qkv, s, m->heads + m->kv_heads, n, 1);
    for (int64_t head = 0; head < m->heads; head++) attention_head(a, b, layer, head);
    linear(b->o, W(PROJ_WEIGHT), W(PROJ_BIAS), branch, s, m->heads * m->head_size, h);
}

static void attention_branch_backward(const pass *a, int64_t layer, const double *branch, double *din) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, o = m->heads * m->head_size, n = qkv_rows(m);
    double *d_o = zeros(s * o), *dqkv = zeros(s * n);
    linear_backward(branch, b->o, W(PROJ_WEIGHT), d_o, G(PROJ_WEIGHT), G(PROJ_BIAS), s, o, h);
    for (int64_t head = 0; head < m->heads; head++)
        attention_head_backward(a, b, d_o, dqkv, layer, head);
    if (m->position_form == WF_POSITIONS_ROPE) rotate(m, dqkv, s, m->heads + m->kv_heads, n, -1);
    linear_backward(dqkv, b->in1, W(QKV_WEIGHT), din, G(QKV_WEIGHT), G(QKV_BIAS), s, h, n);
    free(d_o), free(dqkv);
}

static void mlp_branch(const pass *a, int64_t layer, double *branch) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, f = m->features, n = m->gated ? 2 * f : f;
    linear(b->in2, W(FC1_WEIGHT), W(FC1_BIAS), b->pre, s, h, n);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < f; j++)
            b->act[i * f + j] =
                activate(m->activation, b->pre[i * n + j]) * (m->gated ? b->pre[i * n + f + j] : 1);
    linear(b->act, W(FC2_WEIGHT), W(FC2_BIAS), branch, s, f, h);
}

static void mlp_branch_backward(const pass *a, int64_t layer, const double *branch, double *din) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, f = m->features, n = m->gated ? 2 * f : f;
    double *dact = zeros(s * f), *dpre = zeros(s * n);
    linear_backward(branch, b->act, W(FC2_WEIGHT), dact, G(FC2_WEIGHT), G(FC2_BIAS), s, f, h);
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < f; j++) {
            const double gate = b->pre[i * n + j], d = dact[i * f + j];
            dpre[i * n + j] = d * activate_slope(m->activation, gate) * (m->gated ? b->pre[i * n + f + j] : 1);
            if (m->gated) dpre[i * n + f + j] = d * activate(m->activation, gate);
        }
    linear_backward(dpre, b->in2, W(FC1_WEIGHT), din, G(FC1_WEIGHT), G(FC1_BIAS), s, h, n);
    free(dact), free(dpre);
}

/* ---- a block --------------------------------------------------------------------------------------- */

static void copy(double *to, const double *from, int64_t n) {
    memcpy(to, from, (size_t)n * sizeof *to);
}

/* out = x + dropout(branch) */
static void add_branch(const pass *a, uint32_t site, int64_t layer, const double *x,
                       const double *branch, double *out) {
    const int64_t h = a->m->hidden;
    for (int64_t i = 0; i < a->s; i++)
        for (int64_t j = 0; j < h; j++)
            out[i * h + j] = x[i * h + j] + hidden_factor(a, site, layer, i, j) * branch[i * h + j];
}

/* Norms before the halves (GPT-2, Llama) or after their sums (BERT). */
static void block_forward(const pass *a, int64_t layer, double *out) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t n = a->s * m->hidden;
    double *branch = zeros(n);
    m->post_norm ? copy(b->in1, b->x, n) : norm(m, b->x, W(NORM1_WEIGHT), W(NORM1_BIAS), b->in1, a->s);
    attention_branch(a, layer, branch);
    add_branch(a, WF_SITE_ATTENTION_OUT, layer, b->x, branch, b->sum1);
    m->post_norm ? norm(m, b->sum1, W(NORM1_WEIGHT), W(NORM1_BIAS), b->mid, a->s) : copy(b->mid, b->sum1, n);
    m->post_norm ? copy(b->in2, b->mid, n) : norm(m, b->mid, W(NORM2_WEIGHT), W(NORM2_BIAS), b->in2, a->s);
    mlp_branch(a, layer, branch);
    add_branch(a, WF_SITE_MLP_OUT, layer, b->mid, branch, b->sum2);
    m->post_norm ? norm(m, b->sum2, W(NORM2_WEIGHT), W(NORM2_BIAS), out, a->s) : copy(out, b->sum2, n);
    free(branch);
}

typedef void (*branch_backward)(const pass *, int64_t layer, const double *branch, double *din);

/* d: gradient of a half's output on entry, of its input on return. x: the half's input, sum: its
 * residual sum, which the norm follows or not. */
static void half_backward(const pass *a, int64_t layer, branch_backward backward, uint32_t site, int weight,
                          const double *x, const double *sum, double *d) {
    const wf_model *m = a->m;
    const int64_t h = m->hidden, n = a->s * h;
    const double *w = of_layer(m, a->w, weight, layer);
    double *dw = of_layer(m, a->g, weight, layer), *db = of_layer(m, a->g, weight + 1, layer);
    double *branch = zeros(n), *dn = zeros(n);
    if (m->post_norm) {
        norm_backward(m, d, sum, w, dn, dw, db, a->s);
        copy(d, dn, n);
    }
    for (int64_t i = 0; i < n; i++) branch[i] = hidden_factor(a, site, layer, i / h, i % h) * d[i];
    memset(dn, 0, (size_t)n * sizeof *dn);
    backward(a, layer, branch, m->post_norm ? d : dn);
    if (!m->post_norm) norm_backward(m, dn, x, w, d, dw, db, a->s);
    free(branch), free(dn);
}

static void block_backward(const pass *a, int64_t layer, double *d) {
    const block *b = &a->blocks[layer];
    half_backward(a, layer, mlp_branch_backward, WF_SITE_MLP_OUT, WF_T_NORM2_WEIGHT, b->mid, b->sum2, d);
    half_backward(a, layer, attention_branch_backward, WF_SITE_ATTENTION_OUT, WF_T_NORM1_WEIGHT, b->x, b->sum1, d);
}

/* ---- a model --------------------------------------------------------------------------------------- */

static void create_blocks(pass *a) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden, f = m->features;
    a->blocks = calloc((size_t)m->layers + 1, sizeof *a->blocks);
    if (!a->blocks) abort();
    for (int64_t i = 0; i < m->layers; i++)
        a->blocks[i] = (block){zeros(s * h), zeros(s * h), zeros(s * qkv_rows(m)), zeros(m->heads * s * s),
                               zeros(s * m->heads * m->head_size), zeros(s * h), zeros(s * h), zeros(s * h),
                               zeros(s * 2 * f), zeros(s * f), zeros(s * h)};
    double **const all[] = {&a->embedded, &a->last, &a->hidden, &a->pre, &a->turned, &a->top};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) *all[k] = zeros(s * h);
}

static void destroy_blocks(pass *a) {
    for (int64_t i = 0; i < a->m->layers; i++) {
        block *b = &a->blocks[i];
        double *const all[] = {b->x,   b->in1, b->qkv, b->p,   b->o,   b->sum1,
                               b->mid, b->in2, b->pre, b->act, b->sum2};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
    }
    free(a->blocks), free(a->embedded), free(a->last), free(a->hidden);
    free(a->pre), free(a->turned), free(a->top);
}

/* Of tensors outside layers. */
#define W0(tensor) of_layer(m, a->w, WF_T_##tensor, 0)
#define G0(tensor) of_layer(m, a->g, WF_T_##tensor, 0)

static void embed(const pass *a, const int32_t *tokens, double *x) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    const double *place = W0(POSITION_EMBEDDING), *type = W0(TYPE_EMBEDDING);
    for (int64_t i = 0; i < s * h; i++)
        a->embedded[i] = W0(TOKEN_EMBEDDING)[tokens[i / h] * h + i % h] + (place ? place[i] : 0) +
                         (type ? type[i % h] : 0);
    copy(x, a->embedded, s * h);
    if (m->embedding_norm) norm(m, a->embedded, W0(EMBEDDING_NORM_WEIGHT), W0(EMBEDDING_NORM_BIAS), x, s);
    for (int64_t i = 0; i < s * h; i++) x[i] *= hidden_factor(a, WF_SITE_EMBEDDING, 0, i / h, i % h);
}

/* d: gradient of the first block's input. */
static void embed_backward(const pass *a, const int32_t *tokens, double *d) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    double *dplace = G0(POSITION_EMBEDDING), *dtype = G0(TYPE_EMBEDDING), *dn = zeros(s * h);
    for (int64_t i = 0; i < s * h; i++) d[i] *= hidden_factor(a, WF_SITE_EMBEDDING, 0, i / h, i % h);
    if (m->embedding_norm) {
        norm_backward(m, d, a->embedded, W0(EMBEDDING_NORM_WEIGHT), dn, G0(EMBEDDING_NORM_WEIGHT),
                      G0(EMBEDDING_NORM_BIAS), s);
        copy(d, dn, s * h);
    }
    for (int64_t i = 0; i < s * h; i++) {
        G0(TOKEN_EMBEDDING)[tokens[i / h] * h + i % h] += d[i];
        if (dplace) dplace[i] += d[i];
        if (dtype) dtype[i % h] += d[i];
    }
    free(dn);
}

static double *head_of(const wf_model *m, const reference_tensors *t) {
    return of_layer(m, t, m->tied_head ? WF_T_TOKEN_EMBEDDING : WF_T_HEAD_WEIGHT, 0);
}

static void head(const pass *a, double *logits) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    m->post_norm ? copy(a->hidden, a->last, s * h)
                 : norm(m, a->last, W0(NORMF_WEIGHT), W0(NORMF_BIAS), a->hidden, s);
    if (m->head_form == WF_HEAD_NONE) return;
    copy(a->top, a->hidden, s * h);
    if (m->head_form == WF_HEAD_TRANSFORM) {
        linear(a->hidden, W0(TRANSFORM_WEIGHT), W0(TRANSFORM_BIAS), a->pre, s, h, h);
        for (int64_t i = 0; i < s * h; i++) a->turned[i] = activate(m->activation, a->pre[i]);
        norm(m, a->turned, W0(TRANSFORM_NORM_WEIGHT), W0(TRANSFORM_NORM_BIAS), a->top, s);
    }
    linear(a->top, head_of(m, a->w), W0(HEAD_BIAS), logits, s, h, m->vocabulary);
}

/* Adds the last block's output's gradient to d. */
static void head_backward(const pass *a, const double *dlogits, double *d) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    double *dtop = zeros(s * h), *dturned = zeros(s * h), *dhidden = zeros(s * h);
    linear_backward(dlogits, a->top, head_of(m, a->w), dtop, head_of(m, a->g), G0(HEAD_BIAS), s, h, m->vocabulary);
    if (m->head_form == WF_HEAD_TRANSFORM) {
        norm_backward(m, dtop, a->turned, W0(TRANSFORM_NORM_WEIGHT), dturned, G0(TRANSFORM_NORM_WEIGHT),
                      G0(TRANSFORM_NORM_BIAS), s);
        for (int64_t i = 0; i < s * h; i++) dturned[i] *= activate_slope(m->activation, a->pre[i]);
        linear_backward(dturned, a->hidden, W0(TRANSFORM_WEIGHT), dhidden, G0(TRANSFORM_WEIGHT),
                        G0(TRANSFORM_BIAS), s, h, h);
    } else {
        copy(dhidden, dtop, s * h);
    }
    m->post_norm ? copy(d, dhidden, s * h)
                 : norm_backward(m, dhidden, a->last, W0(NORMF_WEIGHT), d, G0(NORMF_WEIGHT), G0(NORMF_BIAS), s);
    free(dtop), free(dturned), free(dhidden);
}

static double *first_input(const pass *a) {
    return a->m->layers ? a->blocks[0].x : a->last;
}

static void layers_forward(const pass *a) {
    const int64_t n = a->m->layers;
    for (int64_t i = 0; i < n; i++) block_forward(a, i, i + 1 < n ? a->blocks[i + 1].x : a->last);
}

static void layers_backward(const pass *a, double *d) {
    for (int64_t i = a->m->layers - 1; i >= 0; i--) block_backward(a, i, d);
}

static void sample_forward(const pass *a, const int32_t *tokens, double *logits) {
    embed(a, tokens, first_input(a));
    layers_forward(a);
    head(a, logits);
}

static void sample_backward(const pass *a, const int32_t *tokens, const double *dlogits) {
    double *d = zeros(a->s * a->m->hidden);
    head_backward(a, dlogits, d);
    layers_backward(a, d);
    embed_backward(a, tokens, d);
    free(d);
}

/* Sum of the losses of one sample; logits become weight * (softmax - onehot) in place when asked. */
static double losses(const pass *a, const int32_t *targets, double *logits, double weight,
                     bool gradient) {
    const int64_t v = a->m->vocabulary;
    double total = 0;
    for (int64_t i = 0; i < a->s; i++) {
        double *row = logits + i * v, largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < v; j++) largest = fmax(largest, row[j]);
        for (int64_t j = 0; j < v; j++) sum += exp(row[j] - largest);
        const double lse = largest + log(sum);
        if (targets[i] >= 0) total += lse - row[targets[i]];
        for (int64_t j = 0; j < v && gradient; j++)
            row[j] = targets[i] < 0 ? 0 : weight * (exp(row[j] - lse) - (j == targets[i]));
    }
    return total;
}

static void copy_out(const pass *a, const reference_outputs *out, int64_t sample, const double *scores) {
    const int64_t n = a->s * a->m->hidden, v = a->s * a->m->vocabulary;
    if (out->logits) copy(out->logits + sample * v, scores, v);
    if (out->last) copy(out->last + sample * n, a->last, n);
    if (out->hidden) copy(out->hidden + sample * n, a->hidden, n);
}

static pass begin(const wf_model *m, const reference_tensors *weights, const reference_batch *batch, reference_tensors *gradients) {
    pass a = {.m = m, .w = weights, .g = gradients, .s = batch->sequence, .dropout = batch->dropout};
    for (int i = 0; i < WF_TENSORS && gradients; i++)
        memset(gradients->data[i], 0, sizeof(double) * (size_t)reference_count(m, i));
    wf_philox_key(batch->seed, batch->step, a.key);
    return a;
}

double model_reference(const wf_model *m, const reference_tensors *weights, const reference_batch *batch,
                       const reference_outputs *outputs, reference_tensors *gradients) {
    const int64_t s = batch->sequence;
    int64_t valid = 0;
    double total = 0;
    for (int64_t i = 0; batch->targets && i < batch->batch * s; i++) valid += batch->targets[i] >= 0;
    pass a = begin(m, weights, batch, gradients);
    double *scores = zeros(s * m->vocabulary);
    for (int64_t b = 0; b < batch->batch; b++) {
        const int32_t *tokens = batch->tokens + b * s;
        a.sample = (uint32_t)(batch->sample0 + b);
        create_blocks(&a);
        sample_forward(&a, tokens, scores);
        if (outputs) copy_out(&a, outputs, b, scores);
        if (valid) total += losses(&a, batch->targets + b * s, scores, 1.0 / (double)valid, gradients != NULL);
        if (gradients && valid) sample_backward(&a, tokens, scores);
        destroy_blocks(&a);
    }
    free(scores);
    return valid ? total / (double)valid : 0;
}

void reference_blocks(const wf_model *m, const reference_tensors *weights, const reference_batch *batch, const double *x, double *y,
                      const double *dy, double *dx, reference_tensors *gradients) {
    const int64_t n = batch->sequence * m->hidden;
    pass a = begin(m, weights, batch, gradients);
    for (int64_t b = 0; b < batch->batch; b++) {
        a.sample = (uint32_t)(batch->sample0 + b);
        create_blocks(&a);
        copy(first_input(&a), x + b * n, n);
        layers_forward(&a);
        copy(y + b * n, a.last, n);
        if (gradients) {
            copy(dx + b * n, dy + b * n, n);
            layers_backward(&a, dx + b * n);
        }
        destroy_blocks(&a);
    }
}
