/* gpt_reference.c: see gpt_reference.h. Shapes: s positions, h hidden, a heads, d head size, f
 * features, v vocabulary; all matrices dense and row-major. */
#include "tests/gpt_reference.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

/* ---- tensors --------------------------------------------------------------------------------------- */

typedef struct extent {
    int64_t rows, columns;
    bool per_layer;
} extent;

static extent extent_of(const wf_model *m, int tensor) {
    const int64_t h = m->hidden, qkv = m->heads * m->head_size, f = m->features;
    switch (tensor) {
    case WF_T_TOKEN_EMBEDDING: return (extent){m->vocabulary, h, false};
    case WF_T_POSITION_EMBEDDING: return (extent){m->positions, h, false};
    case WF_T_QKV_WEIGHT: return (extent){3 * qkv, h, true};
    case WF_T_QKV_BIAS: return (extent){3 * qkv, 1, true};
    case WF_T_PROJ_WEIGHT: return (extent){h, qkv, true};
    case WF_T_FC1_WEIGHT: return (extent){f, h, true};
    case WF_T_FC1_BIAS: return (extent){f, 1, true};
    case WF_T_FC2_WEIGHT: return (extent){h, f, true};
    case WF_T_NORMF_WEIGHT:
    case WF_T_NORMF_BIAS: return (extent){h, 1, false};
    case WF_T_TYPE_EMBEDDING: case WF_T_EMBEDDING_NORM_WEIGHT: case WF_T_EMBEDDING_NORM_BIAS:
    case WF_T_HEAD_WEIGHT: case WF_T_HEAD_BIAS: case WF_T_TRANSFORM_WEIGHT: case WF_T_TRANSFORM_BIAS:
    case WF_T_TRANSFORM_NORM_WEIGHT: case WF_T_TRANSFORM_NORM_BIAS: return (extent){0, 0, false};
    default: return (extent){h, 1, true}; /* norms and the output biases of a block */
    }
}

int64_t gpt_tensor_count(const wf_model *m, int tensor) {
    const extent e = extent_of(m, tensor);
    return e.rows * e.columns * (e.per_layer ? m->layers : 1);
}

static double *zeros(int64_t n) {
    double *data = calloc((size_t)n + 1, sizeof *data);
    if (!data) abort();
    return data;
}

gpt_tensors gpt_tensors_create(const wf_model *m) {
    gpt_tensors t;
    for (int i = 0; i < WF_TENSORS; i++) t.data[i] = zeros(gpt_tensor_count(m, i));
    return t;
}

void gpt_tensors_destroy(gpt_tensors *t) {
    for (int i = 0; i < WF_TENSORS; i++) free(t->data[i]);
    *t = (gpt_tensors){{0}};
}

static double *of_layer(const wf_model *m, const gpt_tensors *t, int tensor, int64_t layer) {
    const extent e = extent_of(m, tensor);
    return t->data[tensor] + (e.per_layer ? layer * e.rows * e.columns : 0);
}

/* Which start: matrices are normal, the two that end a branch narrower (GPT-2), norms 1, biases 0. */
static double initial(const wf_model *m, const uint32_t key[2], int tensor, int64_t layer,
                      int64_t row, int64_t column) {
    switch (tensor) {
    case WF_T_NORM1_WEIGHT: case WF_T_NORM2_WEIGHT: case WF_T_NORMF_WEIGHT: return 1;
    case WF_T_PROJ_WEIGHT: case WF_T_FC2_WEIGHT:
        return m->init_std / sqrt(2.0 * (double)m->layers) *
               wf_philox_normal(key, WF_SITE_INIT + (uint32_t)tensor, (uint32_t)layer, row, column);
    case WF_T_TOKEN_EMBEDDING: case WF_T_POSITION_EMBEDDING: case WF_T_QKV_WEIGHT: case WF_T_FC1_WEIGHT:
        return m->init_std *
               wf_philox_normal(key, WF_SITE_INIT + (uint32_t)tensor, (uint32_t)layer, row, column);
    default: return 0;
    }
}

void gpt_initialise(const wf_model *m, uint64_t seed, gpt_tensors *t) {
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

static void norm(const double *x, const double *g, const double *b, double eps, double *y, int64_t s,
                 int64_t h) {
    for (int64_t i = 0; i < s; i++) {
        double mean = 0, variance = 0;
        for (int64_t j = 0; j < h; j++) mean += x[i * h + j] / (double)h;
        for (int64_t j = 0; j < h; j++) variance += pow(x[i * h + j] - mean, 2) / (double)h;
        for (int64_t j = 0; j < h; j++)
            y[i * h + j] = (x[i * h + j] - mean) / sqrt(variance + eps) * g[j] + b[j];
    }
}

/* With z = (x - mean) / deviation: dx = (g dy - avg(g dy) - z avg(g dy z)) / deviation. */
static void norm_backward(const double *dy, const double *x, const double *g, double eps, double *dx,
                          double *dg, double *db, int64_t s, int64_t h) {
    for (int64_t i = 0; i < s; i++) {
        const double *row = x + i * h, *d = dy + i * h;
        double mean = 0, variance = 0, average = 0, projection = 0;
        for (int64_t j = 0; j < h; j++) mean += row[j] / (double)h;
        for (int64_t j = 0; j < h; j++) variance += pow(row[j] - mean, 2) / (double)h;
        const double deviation = sqrt(variance + eps);
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - mean) / deviation;
            average += g[j] * d[j] / (double)h;
            projection += g[j] * d[j] * z / (double)h;
            dg[j] += d[j] * z;
            db[j] += d[j];
        }
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - mean) / deviation;
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

/* ---- one sample --------------------------------------------------------------------------------------- */

typedef struct block {      /* what one block's forward leaves for its backward */
    double *x;              /* [s][h] input */
    double *n1, *qkv;       /* [s][h], [s][3 a d] */
    double *p;              /* [a][s][s] softmax, before dropout */
    double *o;              /* [s][a d] */
    double *mid;            /* [s][h] after attention and its residual */
    double *n2, *pre, *act; /* [s][h], [s][f], [s][f] */
} block;

typedef struct pass {
    const wf_model *m;
    const gpt_tensors *w;
    gpt_tensors *g;         /* NULL: forward only */
    int64_t s;              /* positions */
    uint32_t sample;        /* global index */
    uint32_t key[2];
    bool dropout;
    block *blocks;
    double *last, *normed;  /* [s][h] last block's output, after the final norm */
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

/* Element of q (0), k (1), v (2) of head a at position i within [s][3 heads d]. */
static int64_t qkv_at(const wf_model *m, int which, int64_t head, int64_t i) {
    return i * 3 * m->heads * m->head_size + (which * m->heads + head) * m->head_size;
}

static void attention_head(const pass *a, const block *b, int64_t layer, int64_t head) {
    const wf_model *m = a->m;
    const int64_t s = a->s, d = m->head_size;
    double *p = b->p + head * s * s;
    for (int64_t i = 0; i < s; i++) {
        const double *q = b->qkv + qkv_at(m, 0, head, i);
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j <= i; j++) {
            const double *k = b->qkv + qkv_at(m, 1, head, j);
            double score = 0;
            for (int64_t c = 0; c < d; c++) score += q[c] * k[c] / sqrt((double)d);
            p[i * s + j] = score;
            largest = fmax(largest, score);
        }
        for (int64_t j = 0; j <= i; j++) sum += p[i * s + j] = exp(p[i * s + j] - largest);
        double *o = b->o + i * m->heads * d + head * d;
        for (int64_t j = 0; j <= i; j++) {
            p[i * s + j] /= sum;
            const double share = p[i * s + j] * attention_factor(a, layer, head, i, j);
            for (int64_t c = 0; c < d; c++) o[c] += share * b->qkv[qkv_at(m, 2, head, j) + c];
        }
    }
}

/* dq, dk, dv of one head, from do. Softmax: dscore = p (dp - sum p dp). */
static void attention_head_backward(const pass *a, const block *b, const double *d_o, double *dqkv,
                                    int64_t layer, int64_t head) {
    const wf_model *m = a->m;
    const int64_t s = a->s, d = m->head_size;
    const double *p = b->p + head * s * s;
    double *dp = zeros(s);
    for (int64_t i = 0; i < s; i++) {
        const double *out = d_o + i * m->heads * d + head * d;
        double projection = 0;
        for (int64_t j = 0; j <= i; j++) {
            const double keep = attention_factor(a, layer, head, i, j);
            const double *v = b->qkv + qkv_at(m, 2, head, j);
            double *dv = dqkv + qkv_at(m, 2, head, j);
            dp[j] = 0;
            for (int64_t c = 0; c < d; c++) dp[j] += keep * out[c] * v[c];
            for (int64_t c = 0; c < d; c++) dv[c] += keep * p[i * s + j] * out[c];
            projection += p[i * s + j] * dp[j];
        }
        for (int64_t j = 0; j <= i; j++) {
            const double score = p[i * s + j] * (dp[j] - projection) / sqrt((double)d);
            for (int64_t c = 0; c < d; c++) {
                dqkv[qkv_at(m, 0, head, i) + c] += score * b->qkv[qkv_at(m, 1, head, j) + c];
                dqkv[qkv_at(m, 1, head, j) + c] += score * b->qkv[qkv_at(m, 0, head, i) + c];
            }
        }
    }
    free(dp);
}

#define W(tensor) of_layer(m, a->w, WF_T_##tensor, layer)
#define G(tensor) of_layer(m, a->g, WF_T_##tensor, layer)

/* out = x + dropout(branch) */
static void add_branch(const pass *a, uint32_t site, int64_t layer, const double *x,
                       const double *branch, double *out) {
    const int64_t h = a->m->hidden;
    for (int64_t i = 0; i < a->s; i++)
        for (int64_t j = 0; j < h; j++)
            out[i * h + j] = x[i * h + j] + hidden_factor(a, site, layer, i, j) * branch[i * h + j];
}

static void block_forward(const pass *a, int64_t layer, double *out) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, ad = m->heads * m->head_size, f = m->features;
    double *branch = zeros(s * h);
    norm(b->x, W(NORM1_WEIGHT), W(NORM1_BIAS), m->norm_epsilon, b->n1, s, h);
    linear(b->n1, W(QKV_WEIGHT), W(QKV_BIAS), b->qkv, s, h, 3 * ad);
    for (int64_t head = 0; head < m->heads; head++) attention_head(a, b, layer, head);
    linear(b->o, W(PROJ_WEIGHT), W(PROJ_BIAS), branch, s, ad, h);
    add_branch(a, WF_SITE_ATTENTION_OUT, layer, b->x, branch, b->mid);
    norm(b->mid, W(NORM2_WEIGHT), W(NORM2_BIAS), m->norm_epsilon, b->n2, s, h);
    linear(b->n2, W(FC1_WEIGHT), W(FC1_BIAS), b->pre, s, h, f);
    for (int64_t i = 0; i < s * f; i++) b->act[i] = activate(m->activation, b->pre[i]);
    linear(b->act, W(FC2_WEIGHT), W(FC2_BIAS), branch, s, f, h);
    add_branch(a, WF_SITE_MLP_OUT, layer, b->mid, branch, out);
    free(branch);
}

/* dropout's backward: the branch's gradient from the sum's. */
static double *branch_gradient(const pass *a, uint32_t site, int64_t layer, const double *d) {
    const int64_t h = a->m->hidden;
    double *branch = zeros(a->s * h);
    for (int64_t i = 0; i < a->s; i++)
        for (int64_t j = 0; j < h; j++)
            branch[i * h + j] = hidden_factor(a, site, layer, i, j) * d[i * h + j];
    return branch;
}

/* d: gradient of the block's output on entry, of its input on return. */
static void mlp_backward(const pass *a, int64_t layer, double *d) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, f = m->features;
    double *branch = branch_gradient(a, WF_SITE_MLP_OUT, layer, d);
    double *dact = zeros(s * f), *dn = zeros(s * h);
    linear_backward(branch, b->act, W(FC2_WEIGHT), dact, G(FC2_WEIGHT), G(FC2_BIAS), s, f, h);
    for (int64_t i = 0; i < s * f; i++) dact[i] *= activate_slope(m->activation, b->pre[i]);
    linear_backward(dact, b->n2, W(FC1_WEIGHT), dn, G(FC1_WEIGHT), G(FC1_BIAS), s, h, f);
    norm_backward(dn, b->mid, W(NORM2_WEIGHT), m->norm_epsilon, d, G(NORM2_WEIGHT), G(NORM2_BIAS), s, h);
    free(branch), free(dact), free(dn);
}

static void attention_backward(const pass *a, int64_t layer, double *d) {
    const wf_model *m = a->m;
    const block *b = &a->blocks[layer];
    const int64_t s = a->s, h = m->hidden, ad = m->heads * m->head_size;
    double *branch = branch_gradient(a, WF_SITE_ATTENTION_OUT, layer, d);
    double *d_o = zeros(s * ad), *dqkv = zeros(s * 3 * ad), *dn = zeros(s * h);
    linear_backward(branch, b->o, W(PROJ_WEIGHT), d_o, G(PROJ_WEIGHT), G(PROJ_BIAS), s, ad, h);
    for (int64_t head = 0; head < m->heads; head++)
        attention_head_backward(a, b, d_o, dqkv, layer, head);
    linear_backward(dqkv, b->n1, W(QKV_WEIGHT), dn, G(QKV_WEIGHT), G(QKV_BIAS), s, h, 3 * ad);
    norm_backward(dn, b->x, W(NORM1_WEIGHT), m->norm_epsilon, d, G(NORM1_WEIGHT), G(NORM1_BIAS), s, h);
    free(branch), free(d_o), free(dqkv), free(dn);
}

static void create_blocks(pass *a) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden, ad = m->heads * m->head_size, f = m->features;
    a->blocks = calloc((size_t)m->layers + 1, sizeof *a->blocks);
    if (!a->blocks) abort();
    for (int64_t i = 0; i < m->layers; i++)
        a->blocks[i] = (block){zeros(s * h), zeros(s * h), zeros(s * 3 * ad), zeros(m->heads * s * s),
                               zeros(s * ad), zeros(s * h), zeros(s * h), zeros(s * f), zeros(s * f)};
    a->last = zeros(s * h);
    a->normed = zeros(s * h);
}

static void destroy_blocks(pass *a) {
    for (int64_t i = 0; i < a->m->layers; i++) {
        block *b = &a->blocks[i];
        double *const all[] = {b->x, b->n1, b->qkv, b->p, b->o, b->mid, b->n2, b->pre, b->act};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++) free(all[k]);
    }
    free(a->blocks), free(a->last), free(a->normed);
}

static void sample_forward(const pass *a, const int32_t *tokens, double *logits) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    const double *table = a->w->data[WF_T_TOKEN_EMBEDDING], *place = a->w->data[WF_T_POSITION_EMBEDDING];
    double *x = m->layers ? a->blocks[0].x : a->last;
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < h; j++)
            x[i * h + j] = hidden_factor(a, WF_SITE_EMBEDDING, 0, i, j) *
                           (table[tokens[i] * h + j] + place[i * h + j]);
    for (int64_t layer = 0; layer < m->layers; layer++)
        block_forward(a, layer, layer + 1 < m->layers ? a->blocks[layer + 1].x : a->last);
    norm(a->last, a->w->data[WF_T_NORMF_WEIGHT], a->w->data[WF_T_NORMF_BIAS], m->norm_epsilon,
         a->normed, s, h);
    linear(a->normed, table, NULL, logits, s, h, m->vocabulary);
}

/* dlogits: [s][v]. The table collects gradients from both its uses. */
static void sample_backward(const pass *a, const int32_t *tokens, const double *dlogits) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    double *dnormed = zeros(s * h), *d = zeros(s * h);
    double *dtable = a->g->data[WF_T_TOKEN_EMBEDDING], *dplace = a->g->data[WF_T_POSITION_EMBEDDING];
    linear_backward(dlogits, a->normed, a->w->data[WF_T_TOKEN_EMBEDDING], dnormed, dtable, NULL, s, h,
                    m->vocabulary);
    norm_backward(dnormed, a->last, a->w->data[WF_T_NORMF_WEIGHT], m->norm_epsilon, d,
                  a->g->data[WF_T_NORMF_WEIGHT], a->g->data[WF_T_NORMF_BIAS], s, h);
    for (int64_t layer = m->layers - 1; layer >= 0; layer--) {
        mlp_backward(a, layer, d);
        attention_backward(a, layer, d);
    }
    for (int64_t i = 0; i < s; i++)
        for (int64_t j = 0; j < h; j++) {
            const double each = d[i * h + j] * hidden_factor(a, WF_SITE_EMBEDDING, 0, i, j);
            dtable[tokens[i] * h + j] += each;
            dplace[i * h + j] += each;
        }
    free(dnormed), free(d);
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

double gpt_reference(const wf_model *m, const gpt_tensors *weights, const gpt_batch *batch,
                     double *logits, double *hidden, gpt_tensors *gradients) {
    const int64_t s = batch->sequence, v = m->vocabulary;
    int64_t valid = 0;
    double total = 0;
    for (int64_t i = 0; i < batch->batch * s; i++) valid += batch->targets[i] >= 0;
    for (int i = 0; i < WF_TENSORS && gradients; i++)
        memset(gradients->data[i], 0, sizeof(double) * (size_t)gpt_tensor_count(m, i));
    pass a = {.m = m, .w = weights, .g = gradients, .s = s, .dropout = batch->dropout};
    wf_philox_key(batch->seed, batch->step, a.key);
    double *scores = zeros(s * v);
    for (int64_t b = 0; b < batch->batch; b++) {
        const int32_t *tokens = batch->tokens + b * s;
        a.sample = (uint32_t)(batch->sample0 + b);
        create_blocks(&a);
        sample_forward(&a, tokens, scores);
        if (logits) memcpy(logits + b * s * v, scores, sizeof(double) * (size_t)(s * v));
        if (hidden) memcpy(hidden + b * s * m->hidden, a.last, sizeof(double) * (size_t)(s * m->hidden));
        total += losses(&a, batch->targets + b * s, scores, valid ? 1.0 / (double)valid : 0, gradients != NULL);
        if (gradients) sample_backward(&a, tokens, scores);
        destroy_blocks(&a);
    }
    free(scores);
    return valid ? total / (double)valid : 0;
}
