/* model.c: presets, which models are legal, and the table of parameters: one row per tensor with its
 * shape, how tp splits it, how it starts and whether weight decay applies. One table for every form
 * of the block: GPT-2 (Radford et al. 2019), Llama (Touvron et al. 2023), BERT (Devlin et al. 2018);
 * what a form lacks has no rows. */
#include "layouts/model.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    wf_model model;
} presets[] = {
    {"tiny",
     {.layers = 4,
      .hidden = 128,
      .heads = 4,
      .kv_heads = 4,
      .head_size = 32,
      .features = 512,
      .vocabulary = 257,
      .positions = 256,
      .activation = WF_ACT_GELU_TANH,
      .norm_epsilon = 1e-5,
      .init_std = 0.08, /* near 1/sqrt(hidden); with GPT-2's 0.02, 150 steps end 0.2 nats higher */
      .tied_head = true,
      .biases = WF_BIASES_ALL}},
    {"gpt2",
     {.layers = 12,
      .hidden = 768,
      .heads = 12,
      .kv_heads = 12,
      .head_size = 64,
      .features = 3072,
      .vocabulary = 50257,
      .positions = 1024,
      .activation = WF_ACT_GELU_TANH,
      .norm_epsilon = 1e-5,
      .init_std = 0.02,
      .dropout_embedding = 0.1,
      .dropout_attention = 0.1,
      .dropout_residual = 0.1,
      .tied_head = true,
      .biases = WF_BIASES_ALL}},
};

wf_status wf_model_preset(const char *name, wf_model *out) {
    for (size_t i = 0; i < sizeof presets / sizeof *presets; i++)
        if (strcmp(presets[i].name, name) == 0) {
            *out = presets[i].model;
            return WF_OK;
        }
    return wf_fail(WF_ERR_ARGUMENT, "there is no model \"%s\"; the presets are tiny and gpt2",
                   name);
}

/* Extents beyond this are mistakes; within it, products of two are exact in 64 bits. */
static const int64_t LARGEST = (int64_t)1 << 24;
static const double MOST_PARAMETERS = 0x1p50;

static wf_status check_extents(const wf_model *m) {
    const struct {
        const char *name;
        int64_t value;
    } extents[] = {{"layers", m->layers},         {"hidden", m->hidden},
                   {"heads", m->heads},           {"kv_heads", m->kv_heads},
                   {"head_size", m->head_size},   {"features", m->features},
                   {"vocabulary", m->vocabulary}, {"positions", m->positions}};
    for (size_t i = 0; i < sizeof extents / sizeof *extents; i++)
        if (extents[i].value < 1 || extents[i].value > LARGEST)
            return wf_fail(WF_ERR_ARGUMENT,
                           "the model's %s is %lld, which is not between 1 and 2^24",
                           extents[i].name, (long long)extents[i].value);
    const double attention = (double)m->heads * (double)m->head_size;
    const double parameters =
        (double)m->hidden * (double)(2 * m->vocabulary + m->positions) +
        (double)m->layers * (double)m->hidden * (4 * attention + 3 * (double)m->features);
    if (attention > (double)LARGEST || parameters > MOST_PARAMETERS)
        return wf_fail(WF_ERR_ARGUMENT,
                       "the model has about %.3g parameters, more than 2^50, or heads that are "
                       "wider than 2^24 together",
                       parameters);
    return WF_OK;
}

static wf_status check_rope(const wf_model *m) {
    const double reals[] = {m->rope_theta, m->rope_factor, m->rope_low_frequency,
                            m->rope_high_frequency};
    for (int i = 0; i < 4; i++)
        if (!(reals[i] >= 0 && reals[i] <= 1e30))
            return wf_fail(WF_ERR_ARGUMENT, "the model's rotary positions have the number %g",
                           reals[i]);
    if (m->head_size % 2)
        return wf_fail(WF_ERR_ARGUMENT,
                       "rotary positions turn pairs, and the model's head_size %lld is odd",
                       (long long)m->head_size);
    if (m->rope_theta < 1)
        return wf_fail(WF_ERR_ARGUMENT, "the model's rope_theta %g is less than 1", m->rope_theta);
    const bool by_wave = m->rope_low_frequency > 0 || m->rope_high_frequency > 0;
    if (m->rope_factor > 1 && by_wave &&
        (!(m->rope_low_frequency > 0 && m->rope_high_frequency > m->rope_low_frequency) ||
         m->rope_original_positions < 1 || m->rope_original_positions > LARGEST))
        return wf_fail(WF_ERR_ARGUMENT,
                       "the model's rotary positions are scaled between frequencies %g and %g of "
                       "%lld positions, which is no range",
                       m->rope_low_frequency, m->rope_high_frequency,
                       (long long)m->rope_original_positions);
    return WF_OK;
}

static wf_status check_forms(const wf_model *m) {
    const struct {
        const char *name;
        int32_t value, end;
    } forms[] = {{"family", m->family, WF_FAMILIES},
                 {"norm", m->norm, WF_RMSNORM + 1},
                 {"position form", m->position_form, WF_POSITIONS_NONE + 1},
                 {"head form", m->head_form, WF_HEAD_NONE + 1}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (forms[i].value < 0 || forms[i].value >= forms[i].end)
            return wf_fail(WF_ERR_ARGUMENT, "the model's %s is %d, which is none", forms[i].name,
                           forms[i].value);
    if (m->heads % m->kv_heads)
        return wf_fail(WF_ERR_ARGUMENT,
                       "the model's %lld heads do not divide among %lld kv heads",
                       (long long)m->heads, (long long)m->kv_heads);
    if (m->types < 0 || m->types > LARGEST)
        return wf_fail(WF_ERR_ARGUMENT, "the model has %lld token types", (long long)m->types);
    if (m->window < 0 || m->window > LARGEST)
        return wf_fail(WF_ERR_ARGUMENT, "the model's window is %lld, which is not between 0 and 2^24",
                       (long long)m->window);
    if (m->biases & ~(uint32_t)WF_BIASES_ALL)
        return wf_fail(WF_ERR_ARGUMENT, "the model has unknown biases, %#x", m->biases);
    return m->position_form == WF_POSITIONS_ROPE ? check_rope(m) : WF_OK;
}

wf_status wf_model_check(const wf_model *m) {
    TRY(check_extents(m));
    const double dropout[] = {m->dropout_embedding, m->dropout_attention, m->dropout_residual};
    for (int i = 0; i < 3; i++)
        if (!(dropout[i] >= 0 && dropout[i] < 1))
            return wf_fail(WF_ERR_ARGUMENT, "the model's dropout %g is not in [0, 1)", dropout[i]);
    if (!(m->norm_epsilon > 0 && isfinite(m->norm_epsilon)))
        return wf_fail(WF_ERR_ARGUMENT, "the model's norm epsilon %g is not a positive number",
                       m->norm_epsilon);
    if (!(m->init_std >= 0 && isfinite(m->init_std)))
        return wf_fail(WF_ERR_ARGUMENT, "the model's initial deviation %g is not a number >= 0",
                       m->init_std);
    if (m->activation <= WF_ACT_NONE || m->activation >= WF_ACTS)
        return wf_fail(WF_ERR_ARGUMENT, "the model has no known activation (%d)", m->activation);
    return check_forms(m);
}

int64_t wf_model_window(const wf_model *m, int64_t positions) {
    return m->window < positions ? m->window : 0;
}

#define LAYER   true
#define OUTSIDE false
#define MATRIX  true
#define VECTOR  false
void wf_model_parameters(const wf_model *m, wf_parameter_info out[WF_TENSORS]) {
    const int64_t h = m->hidden, a = m->heads * m->head_size, f = m->features;
    const int64_t qkv = a + 2 * m->kv_heads * m->head_size, fc1 = m->gated ? 2 * f : f;
    const bool head = m->head_form != WF_HEAD_NONE, transform = m->head_form == WF_HEAD_TRANSFORM;
    const bool centred = m->norm == WF_LAYERNORM; /* RMSNorm has no bias */
    const bool learned = m->position_form == WF_POSITIONS_LEARNED, last = !m->post_norm;
#define BIAS(which, rows) (m->biases & WF_BIAS_##which ? (rows) : 0)
    const wf_parameter_info table[WF_TENSORS] = {
        [WF_T_TOKEN_EMBEDDING] = {"embedding.token", OUTSIDE, MATRIX, WF_SPLIT_VOCABULARY,
                                  WF_INIT_NORMAL, m->vocabulary, h},
        [WF_T_POSITION_EMBEDDING] = {"embedding.position", OUTSIDE, MATRIX, WF_REPLICATED,
                                     WF_INIT_NORMAL, learned ? m->positions : 0, h},
        [WF_T_NORM1_WEIGHT] = {"layer.norm1.weight", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ONE, h,
                               1},
        [WF_T_NORM1_BIAS] = {"layer.norm1.bias", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ZERO,
                             centred ? h : 0, 1},
        [WF_T_QKV_WEIGHT] = {"layer.attn.qkv.weight", LAYER, MATRIX, WF_SPLIT_HEADS, WF_INIT_NORMAL,
                             qkv, h},
        [WF_T_QKV_BIAS] = {"layer.attn.qkv.bias", LAYER, VECTOR, WF_SPLIT_HEADS, WF_INIT_ZERO,
                           BIAS(QKV, qkv), 1},
        [WF_T_PROJ_WEIGHT] = {"layer.attn.proj.weight", LAYER, MATRIX, WF_SPLIT_HEAD_COLUMNS,
                              WF_INIT_NORMAL_RESIDUAL, h, a},
        [WF_T_PROJ_BIAS] = {"layer.attn.proj.bias", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ZERO,
                            BIAS(PROJ, h), 1},
        [WF_T_NORM2_WEIGHT] = {"layer.norm2.weight", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ONE, h,
                               1},
        [WF_T_NORM2_BIAS] = {"layer.norm2.bias", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ZERO,
                             centred ? h : 0, 1},
        [WF_T_FC1_WEIGHT] = {"layer.mlp.fc1.weight", LAYER, MATRIX, WF_SPLIT_FEATURES,
                             WF_INIT_NORMAL, fc1, h},
        [WF_T_FC1_BIAS] = {"layer.mlp.fc1.bias", LAYER, VECTOR, WF_SPLIT_FEATURES, WF_INIT_ZERO,
                           BIAS(MLP, fc1), 1},
        [WF_T_FC2_WEIGHT] = {"layer.mlp.fc2.weight", LAYER, MATRIX, WF_SPLIT_FEATURE_COLUMNS,
                             WF_INIT_NORMAL_RESIDUAL, h, f},
        [WF_T_FC2_BIAS] = {"layer.mlp.fc2.bias", LAYER, VECTOR, WF_REPLICATED, WF_INIT_ZERO,
                           BIAS(MLP, h), 1},
        [WF_T_NORMF_WEIGHT] = {"normf.weight", OUTSIDE, VECTOR, WF_REPLICATED, WF_INIT_ONE,
                               last ? h : 0, 1},
        [WF_T_NORMF_BIAS] = {"normf.bias", OUTSIDE, VECTOR, WF_REPLICATED, WF_INIT_ZERO,
                             last && centred ? h : 0, 1},
        [WF_T_TYPE_EMBEDDING] = {"embedding.type", OUTSIDE, MATRIX, WF_REPLICATED, WF_INIT_NORMAL,
                                 m->types, h},
        [WF_T_EMBEDDING_NORM_WEIGHT] = {"embedding.norm.weight", OUTSIDE, VECTOR, WF_REPLICATED,
                                        WF_INIT_ONE, m->embedding_norm ? h : 0, 1},
        [WF_T_EMBEDDING_NORM_BIAS] = {"embedding.norm.bias", OUTSIDE, VECTOR, WF_REPLICATED,
                                      WF_INIT_ZERO, m->embedding_norm && centred ? h : 0, 1},
        [WF_T_HEAD_WEIGHT] = {"head.weight", OUTSIDE, MATRIX, WF_SPLIT_VOCABULARY, WF_INIT_NORMAL,
                              head && !m->tied_head ? m->vocabulary : 0, h},
        [WF_T_HEAD_BIAS] = {"head.bias", OUTSIDE, VECTOR, WF_SPLIT_VOCABULARY, WF_INIT_ZERO,
                            transform ? m->vocabulary : 0, 1},
        [WF_T_TRANSFORM_WEIGHT] = {"head.transform.weight", OUTSIDE, MATRIX, WF_REPLICATED,
                                   WF_INIT_NORMAL, transform ? h : 0, h},
        [WF_T_TRANSFORM_BIAS] = {"head.transform.bias", OUTSIDE, VECTOR, WF_REPLICATED,
                                 WF_INIT_ZERO, transform ? h : 0, 1},
        [WF_T_TRANSFORM_NORM_WEIGHT] = {"head.transform.norm.weight", OUTSIDE, VECTOR,
                                        WF_REPLICATED, WF_INIT_ONE, transform ? h : 0, 1},
        [WF_T_TRANSFORM_NORM_BIAS] = {"head.transform.norm.bias", OUTSIDE, VECTOR, WF_REPLICATED,
                                      WF_INIT_ZERO, transform && centred ? h : 0, 1},
    };
#undef BIAS
    memcpy(out, table, sizeof table);
    for (int t = 0; t < WF_TENSORS; t++)
        if (!out[t].rows) out[t].columns = 0;
}

int64_t wf_model_parameter_count(const wf_model *m) {
    wf_parameter_info table[WF_TENSORS];
    int64_t count = 0;
    wf_model_parameters(m, table);
    for (int t = 0; t < WF_TENSORS; t++)
        count += table[t].rows * table[t].columns * (table[t].per_layer ? m->layers : 1);
    return count;
}
