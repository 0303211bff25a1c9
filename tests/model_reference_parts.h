/* model_reference_parts.h: what the files of model_reference.h share. Shapes: s positions, h hidden, hq query heads, hkv key
 * and value heads, d head size, f features, v vocabulary; all matrices dense and row-major. */
#ifndef WF_TESTS_MODEL_REFERENCE_PARTS_H
#define WF_TESTS_MODEL_REFERENCE_PARTS_H

#include <stdlib.h>
#include <string.h>

#include "tests/model_reference.h"

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
    const int32_t *documents; /* [s] of the sample; NULL: one */
    uint32_t sample;        /* global index */
    uint32_t key[2];
    bool dropout;
    block *blocks;
    double *embedded;       /* [s][h] sum of embeddings, before their norm */
    double *last, *hidden;  /* [s][h] last block's output, after the final norm */
    double *pre, *turned, *top; /* [s][h] of the transform, its activation; what meets the vocabulary */
} pass;

static inline void copy(double *to, const double *from, int64_t n) {
    memcpy(to, from, (size_t)n * sizeof *to);
}

/* ---- model_reference_tensors.c ---- */

double *reference_zeros(int64_t n);
int64_t reference_qkv_rows(const wf_model *m);
/* NULL where the model has none. */
double *reference_of_layer(const wf_model *m, const reference_tensors *t, int tensor, int64_t layer);

/* ---- model_reference_layers.c: forward, and backward adding to gradients ---- */

/* y[s][out] = x[s][in] w[out][in]^T + b[out] */
void reference_linear(const double *x, const double *w, const double *b, double *y, int64_t s,
                      int64_t in, int64_t out);
void reference_linear_backward(const double *dy, const double *x, const double *w, double *dx,
                               double *dw, double *db, int64_t s, int64_t in, int64_t out);
void reference_norm(const wf_model *m, const double *x, const double *g, const double *b, double *y, int64_t s);
void reference_norm_backward(const wf_model *m, const double *dy, const double *x, const double *g, double *dx,
                             double *dg, double *db, int64_t s);
double reference_activate(int activation, double x);
double reference_activate_slope(int activation, double x);
/* Each head of [s][heads][d] by its position; sign -1: back. */
void reference_rotate(const wf_model *m, double *x, int64_t s, int64_t heads, int64_t row, double sign);

/* ---- model_reference_blocks.c: one block of one sample; d is its output's gradient on entry, its input's on return ---- */

/* What dropout multiplies element (i, j) by: 0 or 1/(1-p). */
double reference_dropout(const pass *a, uint32_t site, int64_t layer, int64_t i, int64_t j);
void reference_block_forward(const pass *a, int64_t layer, double *out);
void reference_block_backward(const pass *a, int64_t layer, double *d);

#endif
