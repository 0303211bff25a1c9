/* model_reference_tensors.c: shapes of a model's tensors, and their first values. */
#include <stdio.h>
#include <math.h>

#include "kernels/philox.h"
#include "tests/model_reference_parts.h"

typedef struct extent {
    int64_t rows, columns;
    bool per_layer;
} extent;

static bool has_bias(const wf_model *m, uint32_t which) {
    return (m->biases & which) != 0;
}

int64_t reference_qkv_rows(const wf_model *m) {
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
    case WF_T_QKV_WEIGHT: return (extent){reference_qkv_rows(m), h, true};
    case WF_T_QKV_BIAS: return (extent){has_bias(m, WF_BIAS_QKV) ? reference_qkv_rows(m) : 0, 1, true};
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
    default:
        fprintf(stderr, "the reference knows no tensor %d\n", tensor);
        abort();
    }
}

int64_t reference_count(const wf_model *m, int tensor) {
    const extent e = extent_of(m, tensor);
    return e.rows * e.columns * (e.per_layer ? m->layers : 1);
}

double *reference_zeros(int64_t n) {
    double *data = calloc((size_t)n + 1, sizeof *data);
    if (!data) {
        fprintf(stderr, "no memory for a reference of %lld numbers\n", (long long)n);
        abort();
    }
    return data;
}

reference_tensors reference_tensors_create(const wf_model *m) {
    reference_tensors t;
    for (int i = 0; i < WF_TENSORS; i++) t.data[i] = reference_zeros(reference_count(m, i));
    return t;
}

void reference_tensors_destroy(reference_tensors *t) {
    for (int i = 0; i < WF_TENSORS; i++) free(t->data[i]);
    *t = (reference_tensors){{0}};
}

/* NULL where the model has none. */
double *reference_of_layer(const wf_model *m, const reference_tensors *t, int tensor, int64_t layer) {
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
                reference_of_layer(m, t, tensor, layer)[i] =
                    initial(m, key, tensor, layer, i / e.columns, i % e.columns);
    }
}
