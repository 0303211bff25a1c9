/* model_fill.c: models that the caller describes field by field, as a config.json would. What a value may
 * be is said here, by the public field's name; whether the whole is a model says wf_model_check. */
#include <math.h>
#include <string.h>

#include "host/api/objects.h"
#include "kernels/activation.h"

_Static_assert((int)WEFT_BIAS_QKV == WF_BIAS_QKV && (int)WEFT_BIAS_PROJ == WF_BIAS_PROJ && (int)WEFT_BIAS_MLP == WF_BIAS_MLP &&
                   (int)WEFT_BIASES_ALL == WF_BIASES_ALL,
               "public biases are the model's");

enum { LARGEST = 1 << 24 }; /* as wf_model_check has it */

void weft_model_options_init(weft_model_options *options) {
    *options = (weft_model_options){.layers = 12,
                                    .hidden = 768,
                                    .heads = 12,
                                    .vocabulary = 50257,
                                    .positions = 1024,
                                    .biases = WEFT_BIASES_ALL,
                                    .tied_head = true};
}

/* ---- one field ---------------------------------------------------------------------------------------------- */

static wf_status set_size(const char *field, int64_t value, int64_t least, int64_t otherwise, int64_t *out) {
    *out = value || least == 0 ? value : otherwise;
    if (*out >= least && *out <= LARGEST) return WF_OK;
    return wf_fail(WF_ERR_ARGUMENT, "model options: field %s is %lld, not between %lld and 2^24", field, (long long)value,
                   (long long)least);
}

/* Of a list that ends with NULL; NULL is its first. */
static wf_status set_name(const char *field, const char *value, const char *const *names, int32_t *out) {
    char known[128] = "";
    for (int32_t i = 0; names[i]; i++) {
        if (!value || strcmp(value, names[i]) == 0) {
            *out = i;
            return WF_OK;
        }
        strcat(strcat(known, i == 0 ? "" : names[i + 1] ? ", " : " or "), names[i]);
    }
    return wf_fail(WF_ERR_ARGUMENT, "model options: field %s is \"%.64s\", not %s", field, value, known);
}

static wf_status set_activation(const char *value, int32_t *out) {
    static const char *const names[] = {"gelu_tanh", "gelu", "relu", "silu", NULL};
    int32_t which;
    TRY(set_name("activation", value, names, &which));
    for (int32_t a = WF_ACT_NONE + 1; a < WF_ACTS; a++)
        if (strcmp(wf_activations[a].name, names[which]) == 0) *out = a;
    return WF_OK;
}

/* least <= value < end; no NaN is. */
static wf_status set_real(const char *field, double value, double least, double end, double *out) {
    if (!(value >= least && value < end))
        return wf_fail(WF_ERR_ARGUMENT, "model options: field %s is %g, not in [%g, %g)", field, value, least, end);
    *out = value;
    return WF_OK;
}

/* ---- fields that belong together -------------------------------------------------------------------------------- */

static wf_status set_sizes(const weft_model_options *o, wf_model *m) {
    TRY(set_size("layers", o->layers, 1, 0, &m->layers));
    TRY(set_size("hidden", o->hidden, 1, 0, &m->hidden));
    TRY(set_size("heads", o->heads, 1, 0, &m->heads));
    TRY(set_size("vocabulary", o->vocabulary, 1, 0, &m->vocabulary));
    TRY(set_size("positions", o->positions, 1, 0, &m->positions));
    TRY(set_size("types", o->types, 0, 0, &m->types));
    TRY(set_size("window", o->window, 0, 0, &m->window));
    m->window = wf_model_window(m, m->positions);
    TRY(set_size("kv_heads", o->kv_heads, 1, m->heads, &m->kv_heads));
    if (m->heads % m->kv_heads)
        return wf_fail(WF_ERR_ARGUMENT, "model options: field heads is %lld, not a multiple of kv_heads, %lld", (long long)m->heads,
                       (long long)m->kv_heads);
    if (!o->head_size && m->hidden % m->heads)
        return wf_fail(WF_ERR_ARGUMENT, "model options: field hidden is %lld, not a multiple of heads, %lld; or say head_size",
                       (long long)m->hidden, (long long)m->heads);
    TRY(set_size("head_size", o->head_size, 1, m->hidden / m->heads, &m->head_size));
    return set_size("features", o->features, 1, 4 * m->hidden, &m->features);
}

static wf_status set_forms(const weft_model_options *o, wf_model *m) {
    static const char *const families[] = {[WF_FAMILY_GPT2] = "gpt2", [WF_FAMILY_LLAMA] = "llama", [WF_FAMILY_BERT] = "bert", NULL};
    static const char *const norms[] = {[WF_LAYERNORM] = "layernorm", [WF_RMSNORM] = "rmsnorm", NULL};
    static const char *const positions[] = {
        [WF_POSITIONS_LEARNED] = "learned", [WF_POSITIONS_ROPE] = "rope", [WF_POSITIONS_NONE] = "none", NULL};
    static const char *const heads[] = {
        [WF_HEAD_LINEAR] = "linear", [WF_HEAD_TRANSFORM] = "transform", [WF_HEAD_NONE] = "none", NULL};
    TRY(set_name("family", o->family, families, &m->family));
    TRY(set_name("norm", o->norm, norms, &m->norm));
    TRY(set_name("position_form", o->position_form, positions, &m->position_form));
    TRY(set_name("head_form", o->head_form, heads, &m->head_form));
    TRY(set_activation(o->activation, &m->activation));
    if (o->biases & ~(uint32_t)WEFT_BIASES_ALL)
        return wf_fail(WF_ERR_ARGUMENT, "model options: field biases is %#x, with unknown bits", (unsigned)o->biases);
    m->biases = o->biases;
    m->gated = o->gated;
    m->post_norm = o->post_norm;
    m->bidirectional = o->bidirectional;
    m->embedding_norm = o->embedding_norm;
    m->tied_head = o->tied_head;
    return WF_OK;
}

static wf_status set_reals(const weft_model_options *o, wf_model *m) {
    TRY(set_real("norm_epsilon", o->norm_epsilon != 0 ? o->norm_epsilon : 1e-5, 1e-30, 1, &m->norm_epsilon));
    TRY(set_real("init_std", o->init_std != 0 ? o->init_std : 0.02, 0, 100, &m->init_std));
    TRY(set_real("dropout_embedding", o->dropout_embedding, 0, 1, &m->dropout_embedding));
    TRY(set_real("dropout_attention", o->dropout_attention, 0, 1, &m->dropout_attention));
    return set_real("dropout_residual", o->dropout_residual, 0, 1, &m->dropout_residual);
}

/* Scaling by wavelength has all four numbers, linear scaling the factor alone. */
static wf_status set_scaling(const weft_model_options *o, wf_model *m) {
    const bool by_wave = o->rope_low_frequency != 0 || o->rope_high_frequency != 0 || o->rope_original_positions != 0;
    if (o->rope_factor != 0) TRY(set_real("rope_factor", o->rope_factor, 1, 1e6, &m->rope_factor));
    if (!by_wave) return WF_OK;
    if (o->rope_factor == 0)
        return wf_fail(WF_ERR_ARGUMENT, "model options: field rope_factor is 0, though rotary positions are scaled by wavelength");
    TRY(set_real("rope_low_frequency", o->rope_low_frequency, 1e-6, 1e6, &m->rope_low_frequency));
    TRY(set_real("rope_high_frequency", o->rope_high_frequency, 1e-6, 1e6, &m->rope_high_frequency));
    if (!(o->rope_high_frequency > o->rope_low_frequency))
        return wf_fail(WF_ERR_ARGUMENT, "model options: field rope_high_frequency is %g, not above rope_low_frequency, %g",
                       o->rope_high_frequency, o->rope_low_frequency);
    return set_size("rope_original_positions", o->rope_original_positions, 1, 0, &m->rope_original_positions);
}

static wf_status set_rope(const weft_model_options *o, wf_model *m) {
    if (m->position_form == WF_POSITIONS_ROPE) {
        if (m->head_size % 2)
            return wf_fail(WF_ERR_ARGUMENT, "model options: field head_size is %lld, which rotary positions cannot pair",
                           (long long)m->head_size);
        TRY(set_real("rope_theta", o->rope_theta != 0 ? o->rope_theta : 10000, 1, 1e18, &m->rope_theta));
        return set_scaling(o, m);
    }
    const struct {
        const char *field;
        double value;
    } idle[] = {{"rope_theta", o->rope_theta},
                {"rope_factor", o->rope_factor},
                {"rope_low_frequency", o->rope_low_frequency},
                {"rope_high_frequency", o->rope_high_frequency},
                {"rope_original_positions", (double)o->rope_original_positions}};
    for (size_t i = 0; i < sizeof idle / sizeof *idle; i++)
        if (idle[i].value != 0)
            return wf_fail(WF_ERR_ARGUMENT, "model options: field %s is %g, but position_form is not \"rope\"", idle[i].field,
                           idle[i].value);
    return WF_OK;
}

wf_status weft_model_from_options(const weft_model_options *o, wf_model *out) {
    wf_model m;
    memset(&m, 0, sizeof m);
    if (!o) return wf_fail(WF_ERR_ARGUMENT, "no model options were given");
    TRY(set_sizes(o, &m));
    TRY(set_forms(o, &m));
    TRY(set_reals(o, &m));
    TRY(set_rope(o, &m));
    TRY(wf_model_check(&m));
    *out = m;
    return WF_OK;
}
