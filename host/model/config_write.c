/* config_write.c: a model's config.json. Only GPT-2's so far. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/file.h"
#include "host/model/config.h"

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

wf_status wf_config_write(const wf_model *m, const char *path) {
    uint8_t digest[WF_SHA256_BYTES];
    wf_output out;
    if (m->family != WF_FAMILY_GPT2) return wf_fail(WF_ERR_UNSUPPORTED, "only configurations of gpt2 are written so far");
    json_t *const root = gpt2(m);
    char *const text = root ? json_dumps(root, JSON_INDENT(2)) : NULL;
    json_decref(root);
    if (!text) return wf_fail(WF_ERR_MEMORY, "no host memory for %s", path);
    wf_status status = wf_output_open(path, &out);
    if (status == WF_OK) status = wf_output_put(&out, text, (int64_t)strlen(text));
    if (status == WF_OK) status = wf_output_close(&out, digest);
    wf_output_abandon(&out);
    free(text);
    return status;
}
