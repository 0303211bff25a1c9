/* model_fill.c: models of weft.h that the caller fills in field by field, for hosts whose models are not
 * files. What a config.json can say, and mixtures of forms that no family has, can be said. */
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "kernels/activation.h"

static const char *const families[WF_FAMILIES + 1] = {
    [WF_FAMILY_GPT2] = "gpt2", [WF_FAMILY_LLAMA] = "llama", [WF_FAMILY_BERT] = "bert"};
static const char *const norms[] = {[WF_LAYERNORM] = "layernorm", [WF_RMSNORM] = "rmsnorm", NULL};
static const char *const position_forms[] = {
    [WF_POSITIONS_LEARNED] = "learned", [WF_POSITIONS_ROPE] = "rope", [WF_POSITIONS_NONE] = "none", NULL};
static const char *const heads[] = {
    [WF_HEAD_LINEAR] = "linear", [WF_HEAD_TRANSFORM] = "transform", [WF_HEAD_NONE] = "none", NULL};

/* The number of a name; the sentence lists those that there are. */
static wf_status number_of(const char *field, const char *name, const char *const *names, int32_t *out) {
    char known[160] = "";
    for (int32_t i = 0; names[i]; i++) {
        if (name && strcmp(name, names[i]) == 0) {
            *out = i;
            return WF_OK;
        }
        strcat(strcat(known, *known ? ", " : ""), names[i]);
    }
    return wf_fail(WF_ERR_ARGUMENT, "the model's %s is \"%.64s\", not one of %s", field, name ? name : "", known);
}

static wf_status activation_of(const char *name, int32_t *out) {
    const char *names[WF_ACTS] = {0};
    int32_t which = 0;
    for (int32_t a = WF_ACT_NONE + 1; a < WF_ACTS; a++) names[a - 1] = wf_activations[a].name;
    TRY(number_of("activation", name, names, &which));
    *out = which + 1;
    return WF_OK;
}

static const weft_model_options of_family[WF_FAMILIES] = {
    [WF_FAMILY_GPT2] = {.activation = "gelu_tanh", .norm = "layernorm", .position_form = "learned", .head = "linear",
                        .tied_head = true, .bias_qkv = true, .bias_proj = true, .bias_mlp = true, .norm_epsilon = 1e-5},
    [WF_FAMILY_LLAMA] = {.activation = "silu", .norm = "rmsnorm", .position_form = "rope", .head = "linear",
                         .gated = true, .norm_epsilon = 1e-6, .rope_theta = 10000},
    [WF_FAMILY_BERT] = {.activation = "gelu", .norm = "layernorm", .position_form = "learned", .head = "transform",
                        .post_norm = true, .bidirectional = true, .embedding_norm = true, .tied_head = true,
                        .bias_qkv = true, .bias_proj = true, .bias_mlp = true, .types = 2, .norm_epsilon = 1e-12},
};

weft_status weft_model_options_init(weft_model_options *out, const char *family) {
    int32_t which = 0;
    const wf_status status = number_of("family", family, families, &which);
    if (status != WF_OK) return weft_from(status);
    *out = of_family[which];
    out->family = families[which];
    out->init_std = 0.02;
    return WEFT_OK;
}

/* 0 stands for what follows from the others. */
static int64_t or_else(int64_t value, int64_t otherwise) {
    return value ? value : otherwise;
}

static wf_status fill_head_size(const weft_model_options *o, wf_model *m) {
    if (!o->head_size && (o->heads < 1 || o->hidden % o->heads))
        return wf_fail(WF_ERR_ARGUMENT, "the model's hidden, %lld, is no multiple of its heads, %lld: give head_size",
                       (long long)o->hidden, (long long)o->heads);
    m->head_size = o->head_size ? o->head_size : o->hidden / o->heads;
    return WF_OK;
}

static wf_status fill(const weft_model_options *o, wf_model *m) {
    memset(m, 0, sizeof *m);
    TRY(number_of("family", o->family, families, &m->family));
    TRY(number_of("norm", o->norm, norms, &m->norm));
    TRY(number_of("position_form", o->position_form, position_forms, &m->position_form));
    TRY(number_of("head", o->head, heads, &m->head_form));
    TRY(activation_of(o->activation, &m->activation));
    m->layers = o->layers;
    m->hidden = o->hidden;
    m->heads = o->heads;
    m->vocabulary = o->vocabulary;
    m->positions = o->positions;
    m->types = o->types;
    TRY(fill_head_size(o, m));
    m->kv_heads = or_else(o->kv_heads, o->heads);
    m->features = or_else(o->features, o->hidden > 0 && o->hidden < INT64_MAX / 4 ? 4 * o->hidden : o->hidden);
    m->biases = (o->bias_qkv ? WF_BIAS_QKV : 0) | (o->bias_proj ? WF_BIAS_PROJ : 0) | (o->bias_mlp ? WF_BIAS_MLP : 0);
    m->gated = o->gated;
    m->post_norm = o->post_norm;
    m->bidirectional = o->bidirectional;
    m->embedding_norm = o->embedding_norm;
    m->tied_head = o->tied_head;
    m->norm_epsilon = o->norm_epsilon;
    m->init_std = o->init_std;
    m->dropout_embedding = o->dropout_embedding;
    m->dropout_attention = o->dropout_attention;
    m->dropout_residual = o->dropout_residual;
    m->rope_theta = o->rope_theta;
    m->rope_factor = o->rope_factor;
    m->rope_low_frequency = o->rope_low_frequency;
    m->rope_high_frequency = o->rope_high_frequency;
    m->rope_original_positions = o->rope_original_positions;
    return wf_model_check(m);
}

weft_status weft_model_fill(const weft_model_options *options, weft_model **out) {
    weft_model *const m = calloc(1, sizeof *m);
    if (!m) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory for a model"));
    const wf_status status = fill(options, &m->model);
    if (status != WF_OK) {
        free(m);
        return weft_from(status);
    }
    *out = m;
    return WEFT_OK;
}
