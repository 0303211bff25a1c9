/* config.c: the config.json of a Hugging Face gpt2, llama, mistral, qwen2 or bert becomes a wf_model.
 *
 * Fields and their defaults are those of transformers' configurations; the sizes have no default here,
 * because a file without them is rather damaged than meant. Unknown fields are left alone (files carry
 * dozens that do not concern the architecture); those that change what is computed are refused. */
#include "host/model/config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/model/config_fields.h"
#include "host/model/json.h"

#define MOST_BYTES (16 << 20) /* a configuration is a few KiB; more is another kind of file */

enum { LAYERS = 10000, HIDDEN = 1 << 20, HEADS = 1 << 16, HEAD_SIZE = 1 << 16, FEATURES = 1 << 22, IDS = 1 << 28 };
#define COUNT(array) (sizeof(array) / sizeof *(array))

/* ---- what the families share ---------------------------------------------------------------------------- */

static wf_status split_hidden(const wf_fields *r, const char *hidden, const char *heads, wf_model *m) {
    if (m->hidden % m->heads != 0)
        return wf_fail(WF_ERR_FILE, "%s: field %s is %lld, not a multiple of %s, %lld", r->path, hidden, (long long)m->hidden,
                       heads, (long long)m->heads);
    m->head_size = m->hidden / m->heads;
    return WF_OK;
}

/* Sizes that all but GPT-2 call alike. */
static wf_status read_sizes(const wf_fields *r, wf_model *m) {
    TRY(wf_field_size(r, "num_hidden_layers", LAYERS, &m->layers));
    TRY(wf_field_size(r, "hidden_size", HIDDEN, &m->hidden));
    TRY(wf_field_size(r, "num_attention_heads", HEADS, &m->heads));
    TRY(wf_field_size(r, "intermediate_size", FEATURES, &m->features));
    TRY(wf_field_size(r, "vocab_size", IDS, &m->vocabulary));
    TRY(wf_field_size(r, "max_position_embeddings", IDS, &m->positions));
    m->kv_heads = m->heads;
    return WF_OK;
}

/* The head is the architecture's: a base model has none. Without the field it is the language model's. */
static wf_status read_head(const wf_fields *r, const char *base, const char *const *with_head, int32_t head, int32_t *out) {
    const json_t *const all = wf_field_get(r, "architectures");
    const json_t *const first = json_array_get(all, 0);
    const char *const name = json_string_value(first);
    char want[160];
    *out = head;
    if (!all) return WF_OK;
    snprintf(want, sizeof want, "[\"%s\"]", base);
    for (size_t i = 0; with_head[i]; i++) {
        const size_t used = strlen(want);
        if (name && strcmp(name, with_head[i]) == 0) return WF_OK;
        snprintf(want + used, sizeof want - used, " or [\"%s\"]", with_head[i]);
    }
    if (!name || strcmp(name, base) != 0) return wf_field_bad(r, "architectures", all, want);
    *out = WF_HEAD_NONE;
    return WF_OK;
}

/* ---- gpt2 ------------------------------------------------------------------------------------------------ */

static wf_status read_gpt2(const wf_fields *r, wf_model *m) {
    static const wf_flag flags[] = {{"scale_attn_weights", true, true},
                                    {"scale_attn_by_inverse_layer_idx", false, false},
                                    {"reorder_and_upcast_attn", false, false},
                                    {"add_cross_attention", false, false}};
    TRY(wf_field_flags(r, flags, COUNT(flags)));
    TRY(wf_field_size(r, "n_layer", LAYERS, &m->layers));
    TRY(wf_field_size(r, "n_embd", HIDDEN, &m->hidden));
    TRY(wf_field_size(r, "n_head", HEADS, &m->heads));
    TRY(wf_field_size(r, "vocab_size", IDS, &m->vocabulary));
    /* Old files say n_ctx, which transformers reads as n_positions. */
    const bool old = !wf_field_get(r, "n_positions") && wf_field_get(r, "n_ctx");
    TRY(wf_field_size(r, old ? "n_ctx" : "n_positions", IDS, &m->positions));
    TRY(wf_field_size_or(r, "n_inner", FEATURES, 4 * m->hidden, &m->features));
    TRY(split_hidden(r, "n_embd", "n_head", m));
    m->kv_heads = m->heads;
    TRY(wf_field_real(r, "layer_norm_epsilon", 0, 1, 1e-5, &m->norm_epsilon));
    TRY(wf_field_real(r, "embd_pdrop", 0, 1, 0.1, &m->dropout_embedding));
    TRY(wf_field_real(r, "attn_pdrop", 0, 1, 0.1, &m->dropout_attention));
    TRY(wf_field_real(r, "resid_pdrop", 0, 1, 0.1, &m->dropout_residual));
    TRY(wf_field_flag(r, "tie_word_embeddings", true, &m->tied_head));
    m->biases = WF_BIASES_ALL;
    return wf_field_activation(r, "activation_function", "gelu_new", &m->activation);
}

/* ---- llama, mistral, qwen2 ------------------------------------------------------------------------------- */

static wf_status read_llama3(const wf_fields *r, const wf_fields *rope, wf_model *m) {
    const json_t *const outside = wf_field_get(r, "original_max_position_embeddings");
    TRY(wf_field_real(rope, "low_freq_factor", 1e-6, 1e6, -1, &m->rope_low_frequency));
    TRY(wf_field_real(rope, "high_freq_factor", 1e-6, 1e6, -1, &m->rope_high_frequency));
    if (m->rope_low_frequency < 0) return wf_field_bad(rope, "low_freq_factor", NULL, "a number");
    if (!(m->rope_high_frequency > m->rope_low_frequency))
        return wf_field_bad(rope, "high_freq_factor", wf_field_get(rope, "high_freq_factor"), "above low_freq_factor");
    TRY(wf_field_size(rope, "original_max_position_embeddings", IDS, &m->rope_original_positions));
    if (outside && json_integer_value(outside) != m->rope_original_positions) /* the library would take this one */
        return wf_field_bad(r, "original_max_position_embeddings", outside, "that of the rotary positions");
    return WF_OK;
}

/* Heads that are turned whole, and every layer's alike. */
static wf_status check_rotation(const wf_fields *rope) {
    const char *field;
    json_t *value;
    double share;
    TRY(wf_field_real(rope, "partial_rotary_factor", 0, 1e30, 1, &share));
    if (share != 1) return wf_field_bad(rope, "partial_rotary_factor", wf_field_get(rope, "partial_rotary_factor"), "1");
    json_object_foreach((json_t *)rope->root, field, value) {
        if (!json_is_object(value)) continue;
        return wf_fail(WF_ERR_UNSUPPORTED, "%s: rotary positions have an object %.64s: those that differ by layer are not computed",
                       rope->path, field);
    }
    return WF_OK;
}

static wf_status read_scaling(const wf_fields *r, const wf_fields *rope, wf_model *m) {
    const json_t *type = wf_field_get(rope, "rope_type");
    if (!type) type = wf_field_get(rope, "type");
    const char *const name = type ? json_string_value(type) : "default";
    TRY(check_rotation(rope));
    if (name && strcmp(name, "default") == 0) return WF_OK;
    const bool llama3 = name && strcmp(name, "llama3") == 0;
    if (!llama3 && !(name && strcmp(name, "linear") == 0))
        return wf_field_bad(rope, "rope_type", type, "\"default\", \"linear\" or \"llama3\"");
    if (!wf_field_get(rope, "factor")) return wf_field_bad(rope, "factor", NULL, "a number");
    TRY(wf_field_real(rope, "factor", 1, 1e6, 1, &m->rope_factor));
    return llama3 ? read_llama3(r, rope, m) : WF_OK;
}

/* Newer files say rope_parameters, older ones rope_theta and rope_scaling; of both the library takes the latter. */
static wf_status read_rope(const wf_fields *r, wf_model *m) {
    static const char *const objects[] = {"rope_scaling", "rope_parameters"};
    const json_t *const share = wf_field_get(r, "partial_rotary_factor");
    m->position_form = WF_POSITIONS_ROPE;
    if (share && json_number_value(share) != 1) return wf_field_bad(r, "partial_rotary_factor", share, "1");
    TRY(wf_field_real(r, "rope_theta", 1, 1e18, 10000, &m->rope_theta));
    for (size_t i = 0; i < COUNT(objects); i++) {
        const wf_fields rope = {r->path, wf_field_get(r, objects[i])};
        if (!rope.root) continue;
        if (!json_is_object(rope.root)) return wf_field_bad(r, objects[i], rope.root, "an object");
        if (json_object_size(rope.root) == 0) continue;
        TRY(wf_field_real(&rope, "rope_theta", 1, 1e18, m->rope_theta, &m->rope_theta));
        return read_scaling(r, &rope, m);
    }
    return WF_OK;
}

/* Of qwen2: that many first layers see everything. */
static wf_status read_full_layers(const wf_fields *r, int64_t layers, int64_t *full_out) {
    const json_t *const value = wf_field_get(r, "max_window_layers");
    const int64_t full = value ? json_integer_value(value) : 28;
    if (value && (!json_is_integer(value) || full < 0)) return wf_field_bad(r, "max_window_layers", value, "a whole number from 0 on");
    *full_out = full < layers ? full : layers;
    return WF_OK;
}

/* Layers that see everything, by a list of all. */
static wf_status count_full_layers(const wf_fields *r, const json_t *types, int64_t layers, int64_t *full_out) {
    size_t i;
    json_t *type;
    if (!json_is_array(types) || json_array_size(types) != (size_t)layers)
        return wf_field_bad(r, "layer_types", types, "a list of num_hidden_layers names");
    *full_out = 0;
    json_array_foreach((json_t *)types, i, type) {
        const char *const name = json_string_value(type);
        const bool full = name && strcmp(name, "full_attention") == 0;
        if (!full && !(name && strcmp(name, "sliding_attention") == 0))
            return wf_field_bad(r, "layer_types", type, "\"full_attention\" or \"sliding_attention\"");
        *full_out += full;
    }
    return WF_OK;
}

/* All layers have the window or none has. One that hides nothing is none, wherever it would be. The library has 4096 where the
 * field is left out, and null is none; it counts as weft does: a query sees the `sliding_window` keys that end with its own. */
static wf_status read_window(const wf_fields *r, bool qwen, wf_model *m) {
    const json_t *const types = wf_field_get(r, "layer_types");
    bool used = true;
    int64_t full = 0;
    if (qwen) TRY(wf_field_flag(r, "use_sliding_window", false, &used));
    used = used && !json_is_null(json_object_get(r->root, "sliding_window"));
    if (used) TRY(wf_field_size_or(r, "sliding_window", IDS, 4096, &m->window));
    m->window = wf_model_window(m, m->positions);
    if (types) TRY(count_full_layers(r, types, m->layers, &full));
    if (types && !used && full < m->layers)
        return wf_field_bad(r, "layer_types", types, "\"full_attention\" throughout where no sliding_window is used");
    if (!types && qwen && used) TRY(read_full_layers(r, m->layers, &full));
    if (qwen && full == m->layers) m->window = 0;
    if (!m->window || !full) return WF_OK;
    return wf_fail(WF_ERR_UNSUPPORTED,
                   "%s: field sliding_window is %lld, but by %s %lld of %lld layers see all positions; a window of some layers only is "
                   "not computed",
                   r->path, (long long)m->window, types ? "layer_types" : "max_window_layers", (long long)full, (long long)m->layers);
}

/* Which biases, kv heads and windows the three have. */
static wf_status read_dialect(const wf_fields *r, const char *type, wf_model *m) {
    const bool qwen = strcmp(type, "qwen2") == 0;
    bool attention = false, mlp = false;
    if (strcmp(type, "llama") == 0) {
        TRY(wf_field_flag(r, "attention_bias", false, &attention));
        TRY(wf_field_flag(r, "mlp_bias", false, &mlp));
        m->biases = (attention ? WF_BIAS_QKV | WF_BIAS_PROJ : 0) | (mlp ? WF_BIAS_MLP : 0);
        return wf_field_size_or(r, "num_key_value_heads", HEADS, m->heads, &m->kv_heads);
    }
    TRY(wf_field_size(r, "num_key_value_heads", HEADS, &m->kv_heads));
    m->biases = qwen ? WF_BIAS_QKV : 0;
    return read_window(r, qwen, m);
}

static wf_status read_llama(const wf_fields *r, wf_model *m) {
    static const char *const with_head[][2] = {{"LlamaForCausalLM"}, {"MistralForCausalLM"}, {"Qwen2ForCausalLM"}};
    static const char *const base[] = {"LlamaModel", "MistralModel", "Qwen2Model"};
    static const wf_flag flags[] = {{"is_causal", true, true}}; /* false: the library looks both ways */
    const char *const type = json_string_value(wf_field_get(r, "model_type"));
    const int which = strcmp(type, "llama") == 0 ? 0 : strcmp(type, "mistral") == 0 ? 1 : 2;
    m->family = WF_FAMILY_LLAMA;
    m->norm = WF_RMSNORM;
    m->gated = true;
    TRY(wf_field_flags(r, flags, COUNT(flags)));
    TRY(read_sizes(r, m));
    if (wf_field_get(r, "head_dim"))
        TRY(wf_field_size(r, "head_dim", HEAD_SIZE, &m->head_size));
    else
        TRY(split_hidden(r, "hidden_size", "num_attention_heads", m));
    TRY(read_dialect(r, type, m));
    if (m->heads % m->kv_heads != 0)
        return wf_fail(WF_ERR_FILE, "%s: field num_attention_heads is %lld, not a multiple of num_key_value_heads, %lld", r->path,
                       (long long)m->heads, (long long)m->kv_heads);
    TRY(read_rope(r, m));
    TRY(read_head(r, base[which], with_head[which], WF_HEAD_LINEAR, &m->head_form));
    TRY(wf_field_real(r, "rms_norm_eps", 0, 1, 1e-6, &m->norm_epsilon));
    TRY(wf_field_real(r, "attention_dropout", 0, 1, 0, &m->dropout_attention));
    TRY(wf_field_flag(r, "tie_word_embeddings", false, &m->tied_head));
    return wf_field_activation(r, "hidden_act", "silu", &m->activation);
}

/* ---- bert ------------------------------------------------------------------------------------------------ */

static wf_status read_bert(const wf_fields *r, wf_model *m) {
    static const wf_flag flags[] = {{"is_decoder", false, false}, {"add_cross_attention", false, false}};
    static const char *const with_head[] = {"BertForMaskedLM", "BertForPreTraining", NULL};
    const json_t *const positions = wf_field_get(r, "position_embedding_type");
    m->family = WF_FAMILY_BERT;
    m->post_norm = m->bidirectional = m->embedding_norm = true;
    m->biases = WF_BIASES_ALL;
    TRY(wf_field_flags(r, flags, COUNT(flags)));
    if (positions && (!json_is_string(positions) || strcmp(json_string_value(positions), "absolute") != 0))
        return wf_field_bad(r, "position_embedding_type", positions, "\"absolute\"");
    TRY(read_sizes(r, m));
    TRY(split_hidden(r, "hidden_size", "num_attention_heads", m));
    TRY(wf_field_size_or(r, "type_vocab_size", HEADS, 2, &m->types));
    TRY(read_head(r, "BertModel", with_head, WF_HEAD_TRANSFORM, &m->head_form));
    TRY(wf_field_real(r, "layer_norm_eps", 0, 1, 1e-12, &m->norm_epsilon));
    TRY(wf_field_real(r, "hidden_dropout_prob", 0, 1, 0.1, &m->dropout_residual));
    m->dropout_embedding = m->dropout_residual;
    TRY(wf_field_real(r, "attention_probs_dropout_prob", 0, 1, 0.1, &m->dropout_attention));
    TRY(wf_field_flag(r, "tie_word_embeddings", true, &m->tied_head));
    return wf_field_activation(r, "hidden_act", "gelu", &m->activation);
}

/* ---- a file ---------------------------------------------------------------------------------------------- */

static wf_status read_family(const wf_fields *r, wf_model *m) {
    static const struct {
        const char *type;
        wf_status (*read)(const wf_fields *, wf_model *);
    } families[] = {{"gpt2", read_gpt2}, {"llama", read_llama}, {"mistral", read_llama}, {"qwen2", read_llama}, {"bert", read_bert}};
    const json_t *const type = wf_field_get(r, "model_type");
    for (size_t i = 0; json_is_string(type) && i < COUNT(families); i++)
        if (strcmp(json_string_value(type), families[i].type) == 0) return families[i].read(r, m);
    return wf_field_bad(r, "model_type", type, "\"gpt2\", \"llama\", \"mistral\", \"qwen2\" or \"bert\"");
}

static wf_status read_model(const wf_fields *r, wf_model *out) {
    wf_model m;
    memset(&m, 0, sizeof m);
    if (!json_is_object(r->root)) return wf_fail(WF_ERR_FILE, "%s: not a JSON object", r->path);
    TRY(read_family(r, &m));
    TRY(wf_field_real(r, "initializer_range", 0, 100, 0.02, &m.init_std));
    TRY(wf_field_real(r, "weft_dropout_embedding", 0, 1, m.dropout_embedding, &m.dropout_embedding)); /* own_dropouts writes them */
    TRY(wf_field_real(r, "weft_dropout_residual", 0, 1, m.dropout_residual, &m.dropout_residual));
    const wf_status status = wf_model_check(&m);
    if (status != WF_OK) {
        char why[512];
        snprintf(why, sizeof why, "%s", wf_last_error());
        return wf_fail(status, "%s: %s", r->path, why);
    }
    *out = m;
    return WF_OK;
}

static wf_status load(const char *path, json_t **out) {
    char *text;
    int64_t bytes;
    TRY(wf_file_load(path, MOST_BYTES, &text, &bytes));
    const wf_status status = wf_json_parse(path, text, bytes, out);
    free(text);
    return status;
}

wf_status wf_config_read(const char *path, wf_model *out) {
    json_t *root;
    TRY(load(path, &root));
    const wf_fields r = {path, root};
    const wf_status status = read_model(&r, out);
    json_decref(root);
    return status;
}
