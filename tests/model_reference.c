/* model_reference.c: see model_reference.h: a model from its blocks, embedding and head, sample by sample. */
#include <stdio.h>
#include <math.h>

#include "kernels/philox.h"
#include "tests/model_reference_parts.h"

static void create_blocks(pass *a) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden, f = m->features;
    a->blocks = calloc((size_t)m->layers + 1, sizeof *a->blocks);
    if (!a->blocks) {
        fprintf(stderr, "no memory for a reference of %d layers\n", (int)m->layers);
        abort();
    }
    for (int64_t i = 0; i < m->layers; i++)
        a->blocks[i] = (block){reference_zeros(s * h), reference_zeros(s * h), reference_zeros(s * reference_qkv_rows(m)), reference_zeros(m->heads * s * s),
                               reference_zeros(s * m->heads * m->head_size), reference_zeros(s * h), reference_zeros(s * h), reference_zeros(s * h),
                               reference_zeros(s * 2 * f), reference_zeros(s * f), reference_zeros(s * h)};
    double **const all[] = {&a->embedded, &a->last, &a->hidden, &a->pre, &a->turned, &a->top};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) *all[k] = reference_zeros(s * h);
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
#define W0(tensor) reference_of_layer(m, a->w, WF_T_##tensor, 0)
#define G0(tensor) reference_of_layer(m, a->g, WF_T_##tensor, 0)

/* Element e of the row of the position table that is token i's. */
static int64_t place_of(const pass *a, int64_t i, int64_t e) {
    int64_t first = a->documents ? i : 0;
    while (first > 0 && a->documents[first - 1] == a->documents[i]) first--;
    return (i - first) * a->m->hidden + e;
}

static void embed(const pass *a, const int32_t *tokens, double *x) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    const double *place = W0(POSITION_EMBEDDING), *type = W0(TYPE_EMBEDDING);
    for (int64_t i = 0; i < s * h; i++)
        a->embedded[i] = W0(TOKEN_EMBEDDING)[tokens[i / h] * h + i % h] + (place ? place[place_of(a, i / h, i % h)] : 0) +
                         (type ? type[i % h] : 0);
    copy(x, a->embedded, s * h);
    if (m->embedding_norm) reference_norm(m, a->embedded, W0(EMBEDDING_NORM_WEIGHT), W0(EMBEDDING_NORM_BIAS), x, s);
    for (int64_t i = 0; i < s * h; i++) x[i] *= reference_dropout(a, WF_SITE_EMBEDDING, 0, i / h, i % h);
}

/* d: gradient of the first block's input. */
static void embed_backward(const pass *a, const int32_t *tokens, double *d) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    double *dplace = G0(POSITION_EMBEDDING), *dtype = G0(TYPE_EMBEDDING), *dn = reference_zeros(s * h);
    for (int64_t i = 0; i < s * h; i++) d[i] *= reference_dropout(a, WF_SITE_EMBEDDING, 0, i / h, i % h);
    if (m->embedding_norm) {
        reference_norm_backward(m, d, a->embedded, W0(EMBEDDING_NORM_WEIGHT), dn, G0(EMBEDDING_NORM_WEIGHT),
                      G0(EMBEDDING_NORM_BIAS), s);
        copy(d, dn, s * h);
    }
    for (int64_t i = 0; i < s * h; i++) {
        G0(TOKEN_EMBEDDING)[tokens[i / h] * h + i % h] += d[i];
        if (dplace) dplace[place_of(a, i / h, i % h)] += d[i];
        if (dtype) dtype[i % h] += d[i];
    }
    free(dn);
}

static double *head_of(const wf_model *m, const reference_tensors *t) {
    return reference_of_layer(m, t, m->tied_head ? WF_T_TOKEN_EMBEDDING : WF_T_HEAD_WEIGHT, 0);
}

static void head(const pass *a, double *logits) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    m->post_norm ? copy(a->hidden, a->last, s * h)
                 : reference_norm(m, a->last, W0(NORMF_WEIGHT), W0(NORMF_BIAS), a->hidden, s);
    if (m->head_form == WF_HEAD_NONE) return;
    copy(a->top, a->hidden, s * h);
    if (m->head_form == WF_HEAD_TRANSFORM) {
        reference_linear(a->hidden, W0(TRANSFORM_WEIGHT), W0(TRANSFORM_BIAS), a->pre, s, h, h);
        for (int64_t i = 0; i < s * h; i++) a->turned[i] = reference_activate(m->activation, a->pre[i]);
        reference_norm(m, a->turned, W0(TRANSFORM_NORM_WEIGHT), W0(TRANSFORM_NORM_BIAS), a->top, s);
    }
    reference_linear(a->top, head_of(m, a->w), W0(HEAD_BIAS), logits, s, h, m->vocabulary);
}

/* Adds the last block's output's gradient to d. */
static void head_backward(const pass *a, const double *dlogits, double *d) {
    const wf_model *m = a->m;
    const int64_t s = a->s, h = m->hidden;
    double *dtop = reference_zeros(s * h), *dturned = reference_zeros(s * h), *dhidden = reference_zeros(s * h);
    reference_linear_backward(dlogits, a->top, head_of(m, a->w), dtop, head_of(m, a->g), G0(HEAD_BIAS), s, h, m->vocabulary);
    if (m->head_form == WF_HEAD_TRANSFORM) {
        reference_norm_backward(m, dtop, a->turned, W0(TRANSFORM_NORM_WEIGHT), dturned, G0(TRANSFORM_NORM_WEIGHT),
                      G0(TRANSFORM_NORM_BIAS), s);
        for (int64_t i = 0; i < s * h; i++) dturned[i] *= reference_activate_slope(m->activation, a->pre[i]);
        reference_linear_backward(dturned, a->hidden, W0(TRANSFORM_WEIGHT), dhidden, G0(TRANSFORM_WEIGHT),
                        G0(TRANSFORM_BIAS), s, h, h);
    } else {
        copy(dhidden, dtop, s * h);
    }
    m->post_norm ? copy(d, dhidden, s * h)
                 : reference_norm_backward(m, dhidden, a->last, W0(NORMF_WEIGHT), d, G0(NORMF_WEIGHT), G0(NORMF_BIAS), s);
    free(dtop), free(dturned), free(dhidden);
}

static double *first_input(const pass *a) {
    return a->m->layers ? a->blocks[0].x : a->last;
}

static void layers_forward(const pass *a) {
    const int64_t n = a->m->layers;
    for (int64_t i = 0; i < n; i++) reference_block_forward(a, i, i + 1 < n ? a->blocks[i + 1].x : a->last);
}

static void layers_backward(const pass *a, double *d) {
    for (int64_t i = a->m->layers - 1; i >= 0; i--) reference_block_backward(a, i, d);
}

static void sample_forward(const pass *a, const int32_t *tokens, double *logits) {
    embed(a, tokens, first_input(a));
    layers_forward(a);
    head(a, logits);
}

static void sample_backward(const pass *a, const int32_t *tokens, const double *dlogits) {
    double *d = reference_zeros(a->s * a->m->hidden);
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
    double *scores = reference_zeros(s * m->vocabulary);
    for (int64_t b = 0; b < batch->batch; b++) {
        const int32_t *tokens = batch->tokens + b * s;
        a.sample = (uint32_t)(batch->sample0 + b);
        a.documents = batch->documents ? batch->documents + b * s : NULL;
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
        a.documents = batch->documents ? batch->documents + b * batch->sequence : NULL;
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
