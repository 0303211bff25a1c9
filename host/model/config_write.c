/* config_write.c: a model's config.json, of the family that its weights are written for. Rotary positions
 * are written as rope_theta and rope_scaling, which older and newer versions of transformers read. */
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/model/config.h"
#include "host/model/json.h"

static const char *activation_name(int32_t activation) {
    switch (activation) {
    case WF_ACT_GELU: return "gelu";
    case WF_ACT_RELU: return "relu";
    case WF_ACT_SILU: return "silu";
    default: return "gelu_new";
    }
}

static json_t *gpt2(const wf_model *m) {
    return json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:f,s:f,s:f,s:f,s:f,s:b}", "architectures", "GPT2LMHeadModel",
                     "model_type", "gpt2", "n_layer", (json_int_t)m->layers, "n_embd", (json_int_t)m->hidden, "n_head",
                     (json_int_t)m->heads, "n_inner", (json_int_t)m->features, "n_positions", (json_int_t)m->positions,
                     "vocab_size", (json_int_t)m->vocabulary, "activation_function", activation_name(m->activation),
                     "layer_norm_epsilon", m->norm_epsilon, "initializer_range", m->init_std, "embd_pdrop",
                     m->dropout_embedding, "attn_pdrop", m->dropout_attention, "resid_pdrop", m->dropout_residual,
                     "tie_word_embeddings", m->tied_head);
}

/* What the others call alike. */
static json_t *common(const wf_model *m, const char *type, const char *architecture) {
    return json_pack("{s:[s],s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:s,s:f,s:b}", "architectures", architecture, "model_type", type,
                     "num_hidden_layers", (json_int_t)m->layers, "hidden_size", (json_int_t)m->hidden, "num_attention_heads",
                     (json_int_t)m->heads, "intermediate_size", (json_int_t)m->features, "max_position_embeddings",
                     (json_int_t)m->positions, "vocab_size", (json_int_t)m->vocabulary, "hidden_act",
                     activation_name(m->activation), "initializer_range", m->init_std, "tie_word_embeddings", m->tied_head);
}

/* null where nothing is scaled. */
static json_t *scaling(const wf_model *m) {
    if (m->rope_factor <= 1) return json_null();
    if (m->rope_low_frequency <= 0) return json_pack("{s:s,s:f}", "rope_type", "linear", "factor", m->rope_factor);
    return json_pack("{s:s,s:f,s:f,s:f,s:I}", "rope_type", "llama3", "factor", m->rope_factor, "low_freq_factor",
                     m->rope_low_frequency, "high_freq_factor", m->rope_high_frequency, "original_max_position_embeddings",
                     (json_int_t)m->rope_original_positions);
}

/* Biases of q, k and v alone are qwen2's; a mistral without a window is a llama. */
static json_t *llama(const wf_model *m) {
    static const char *const kin[][3] = {{"llama", "LlamaModel", "LlamaForCausalLM"},
                                         {"mistral", "MistralModel", "MistralForCausalLM"},
                                         {"qwen2", "Qwen2Model", "Qwen2ForCausalLM"}};
    const json_int_t window = (json_int_t)wf_model_window(m, m->positions);
    const bool qwen = m->biases == WF_BIAS_QKV;
    const char *const *const names = kin[qwen ? 2 : window ? 1 : 0];
    json_t *const root = common(m, names[0], names[m->head_form == WF_HEAD_NONE ? 1 : 2]);
    json_t *const own = json_pack("{s:I,s:I,s:f,s:f,s:f,s:o}", "num_key_value_heads", (json_int_t)m->kv_heads, "head_dim",
                                  (json_int_t)m->head_size, "rms_norm_eps", m->norm_epsilon, "attention_dropout",
                                  m->dropout_attention, "rope_theta", m->rope_theta, "rope_scaling", scaling(m));
    json_t *const forms =
        qwen && window ? json_pack("{s:b,s:I,s:i}", "use_sliding_window", 1, "sliding_window", window, "max_window_layers", 0)
        : qwen         ? json_pack("{s:b}", "use_sliding_window", 0)
        : window       ? json_pack("{s:I}", "sliding_window", window)
                       : json_pack("{s:b,s:b}", "attention_bias", (m->biases & WF_BIAS_QKV) != 0, "mlp_bias",
                                   (m->biases & WF_BIAS_MLP) != 0);
    return wf_json_join_take(wf_json_join_take(root, own), forms);
}

static json_t *bert(const wf_model *m) {
    json_t *const root = common(m, "bert", m->head_form == WF_HEAD_NONE ? "BertModel" : "BertForMaskedLM");
    json_t *const own = json_pack("{s:I,s:f,s:f,s:f,s:s}", "type_vocab_size", (json_int_t)m->types, "layer_norm_eps",
                                  m->norm_epsilon, "hidden_dropout_prob", m->dropout_residual, "attention_probs_dropout_prob",
                                  m->dropout_attention, "position_embedding_type", "absolute");
    return wf_json_join_take(root, own);
}

/* Dropouts that the family's own fields do not say have weft's, which others pass over. */
static json_t *own_dropouts(const wf_model *m, json_t *root) {
    const bool gpt2 = m->family == WF_FAMILY_GPT2, llama = m->family == WF_FAMILY_LLAMA;
    const double said = llama ? 0 : gpt2 ? m->dropout_embedding : m->dropout_residual;
    if (llama && m->dropout_residual > 0)
        root = wf_json_join_take(root, json_pack("{s:f}", "weft_dropout_residual", m->dropout_residual));
    if (m->dropout_embedding != said)
        root = wf_json_join_take(root, json_pack("{s:f}", "weft_dropout_embedding", m->dropout_embedding));
    return root;
}

/* A model of a mixture of forms has no family that says so. */
static wf_status check_form(const wf_model *m) {
    const uint32_t attention = WF_BIAS_QKV | WF_BIAS_PROJ;
    const bool window = wf_model_window(m, m->positions) > 0;
    const bool llama = m->norm == WF_RMSNORM && m->position_form == WF_POSITIONS_ROPE && m->gated && !m->post_norm &&
                       !m->bidirectional && !m->types && !m->embedding_norm && m->head_form != WF_HEAD_TRANSFORM &&
                       (m->biases == 0 || m->biases == WF_BIAS_QKV ||
                        (!window && ((m->biases & attention) == 0 || (m->biases & attention) == attention)));
    const bool plain = !window && m->norm == WF_LAYERNORM && m->position_form == WF_POSITIONS_LEARNED && !m->gated &&
                       m->biases == WF_BIASES_ALL && m->kv_heads == m->heads && m->heads * m->head_size == m->hidden;
    const bool bert = plain && m->post_norm && m->bidirectional && m->types && m->embedding_norm && m->head_form != WF_HEAD_LINEAR;
    const bool gpt2 = plain && !m->post_norm && !m->bidirectional && !m->types && !m->embedding_norm &&
                      m->head_form == WF_HEAD_LINEAR;
    if (m->family == WF_FAMILY_LLAMA ? llama : m->family == WF_FAMILY_BERT ? bert : gpt2) return WF_OK;
    return wf_fail(WF_ERR_UNSUPPORTED, "no configuration of the model's family describes its mixture of forms");
}

wf_status wf_config_write(const wf_model *m, const char *path) {
    uint8_t digest[WF_SHA256_BYTES];
    wf_output out;
    TRY(check_form(m));
    json_t *const root = own_dropouts(m, m->family == WF_FAMILY_LLAMA ? llama(m) : m->family == WF_FAMILY_BERT ? bert(m) : gpt2(m));
    char *const text = root ? wf_json_print(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) return wf_fail(WF_ERR_MEMORY, "no host memory for %s", path);
    wf_status status = wf_output_open(path, &out);
    if (status == WF_OK) status = wf_output_put(&out, text, (int64_t)strlen(text));
    if (status == WF_OK) status = wf_output_close(&out, digest);
    wf_output_abandon(&out);
    free(text);
    return status;
}
