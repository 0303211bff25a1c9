/* names.c: the tables. Names are those of the `transformers` library's state dictionaries; llama's
 * are also Mistral's and Qwen2's. weft's tensors are fused (q, k, v rows; gate, up rows), so that
 * one GEMM computes each; where a file has them apart, each of its tensors is a piece. */
#include "host/model/names.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define LINE(id, pattern, form)                                                                    \
    { WF_T_##id, pattern, form, 0, 1 }
#define PIECE(id, pattern, piece, of)                                                              \
    { WF_T_##id, pattern, 0, piece, of }
#define END                                                                                        \
    { -1, NULL, 0, 0, 0 }

static const wf_name gpt2[] = {
    LINE(TOKEN_EMBEDDING, "wte.weight", 0),
    LINE(TOKEN_EMBEDDING, "lm_head.weight", WF_NAME_OUTSIDE | WF_NAME_TIED),
    LINE(POSITION_EMBEDDING, "wpe.weight", 0),
    LINE(NORM1_WEIGHT, "h.%d.ln_1.weight", 0),
    LINE(NORM1_BIAS, "h.%d.ln_1.bias", 0),
    LINE(QKV_WEIGHT, "h.%d.attn.c_attn.weight", WF_NAME_TRANSPOSED),
    LINE(QKV_BIAS, "h.%d.attn.c_attn.bias", 0),
    LINE(PROJ_WEIGHT, "h.%d.attn.c_proj.weight", WF_NAME_TRANSPOSED),
    LINE(PROJ_BIAS, "h.%d.attn.c_proj.bias", 0),
    LINE(NORM2_WEIGHT, "h.%d.ln_2.weight", 0),
    LINE(NORM2_BIAS, "h.%d.ln_2.bias", 0),
    LINE(FC1_WEIGHT, "h.%d.mlp.c_fc.weight", WF_NAME_TRANSPOSED),
    LINE(FC1_BIAS, "h.%d.mlp.c_fc.bias", 0),
    LINE(FC2_WEIGHT, "h.%d.mlp.c_proj.weight", WF_NAME_TRANSPOSED),
    LINE(FC2_BIAS, "h.%d.mlp.c_proj.bias", 0),
    LINE(NORMF_WEIGHT, "ln_f.weight", 0),
    LINE(NORMF_BIAS, "ln_f.bias", 0),
    LINE(HEAD_WEIGHT, "lm_head.weight", WF_NAME_OUTSIDE),
    END,
};
/* The causal mask, which old files hold as a buffer. */
static const char *const gpt2_ignored[] = {"h.%d.attn.bias", "h.%d.attn.masked_bias", NULL};

static const wf_name llama[] = {
    LINE(TOKEN_EMBEDDING, "embed_tokens.weight", 0),
    LINE(TOKEN_EMBEDDING, "lm_head.weight", WF_NAME_OUTSIDE | WF_NAME_TIED),
    LINE(NORM1_WEIGHT, "layers.%d.input_layernorm.weight", 0),
    PIECE(QKV_WEIGHT, "layers.%d.self_attn.q_proj.weight", 0, 3),
    PIECE(QKV_WEIGHT, "layers.%d.self_attn.k_proj.weight", 1, 3),
    PIECE(QKV_WEIGHT, "layers.%d.self_attn.v_proj.weight", 2, 3),
    PIECE(QKV_BIAS, "layers.%d.self_attn.q_proj.bias", 0, 3),
    PIECE(QKV_BIAS, "layers.%d.self_attn.k_proj.bias", 1, 3),
    PIECE(QKV_BIAS, "layers.%d.self_attn.v_proj.bias", 2, 3),
    LINE(PROJ_WEIGHT, "layers.%d.self_attn.o_proj.weight", 0),
    LINE(PROJ_BIAS, "layers.%d.self_attn.o_proj.bias", 0),
    LINE(NORM2_WEIGHT, "layers.%d.post_attention_layernorm.weight", 0),
    PIECE(FC1_WEIGHT, "layers.%d.mlp.gate_proj.weight", 0, 2),
    PIECE(FC1_WEIGHT, "layers.%d.mlp.up_proj.weight", 1, 2),
    PIECE(FC1_BIAS, "layers.%d.mlp.gate_proj.bias", 0, 2),
    PIECE(FC1_BIAS, "layers.%d.mlp.up_proj.bias", 1, 2),
    LINE(FC2_WEIGHT, "layers.%d.mlp.down_proj.weight", 0),
    LINE(FC2_BIAS, "layers.%d.mlp.down_proj.bias", 0),
    LINE(NORMF_WEIGHT, "norm.weight", 0),
    LINE(HEAD_WEIGHT, "lm_head.weight", WF_NAME_OUTSIDE),
    END,
};
static const char *const llama_ignored[] = {"layers.%d.self_attn.rotary_emb.inv_freq",
                                            "rotary_emb.inv_freq", NULL};

static const wf_name bert[] = {
    LINE(TOKEN_EMBEDDING, "embeddings.word_embeddings.weight", 0),
    LINE(TOKEN_EMBEDDING, "cls.predictions.decoder.weight", WF_NAME_OUTSIDE | WF_NAME_TIED),
    LINE(POSITION_EMBEDDING, "embeddings.position_embeddings.weight", 0),
    LINE(TYPE_EMBEDDING, "embeddings.token_type_embeddings.weight", 0),
    LINE(EMBEDDING_NORM_WEIGHT, "embeddings.LayerNorm.weight", 0),
    LINE(EMBEDDING_NORM_BIAS, "embeddings.LayerNorm.bias", 0),
    PIECE(QKV_WEIGHT, "encoder.layer.%d.attention.self.query.weight", 0, 3),
    PIECE(QKV_WEIGHT, "encoder.layer.%d.attention.self.key.weight", 1, 3),
    PIECE(QKV_WEIGHT, "encoder.layer.%d.attention.self.value.weight", 2, 3),
    PIECE(QKV_BIAS, "encoder.layer.%d.attention.self.query.bias", 0, 3),
    PIECE(QKV_BIAS, "encoder.layer.%d.attention.self.key.bias", 1, 3),
    PIECE(QKV_BIAS, "encoder.layer.%d.attention.self.value.bias", 2, 3),
    LINE(PROJ_WEIGHT, "encoder.layer.%d.attention.output.dense.weight", 0),
    LINE(PROJ_BIAS, "encoder.layer.%d.attention.output.dense.bias", 0),
    LINE(NORM1_WEIGHT, "encoder.layer.%d.attention.output.LayerNorm.weight", 0),
    LINE(NORM1_BIAS, "encoder.layer.%d.attention.output.LayerNorm.bias", 0),
    LINE(FC1_WEIGHT, "encoder.layer.%d.intermediate.dense.weight", 0),
    LINE(FC1_BIAS, "encoder.layer.%d.intermediate.dense.bias", 0),
    LINE(FC2_WEIGHT, "encoder.layer.%d.output.dense.weight", 0),
    LINE(FC2_BIAS, "encoder.layer.%d.output.dense.bias", 0),
    LINE(NORM2_WEIGHT, "encoder.layer.%d.output.LayerNorm.weight", 0),
    LINE(NORM2_BIAS, "encoder.layer.%d.output.LayerNorm.bias", 0),
    LINE(TRANSFORM_WEIGHT, "cls.predictions.transform.dense.weight", WF_NAME_OUTSIDE),
    LINE(TRANSFORM_BIAS, "cls.predictions.transform.dense.bias", WF_NAME_OUTSIDE),
    LINE(TRANSFORM_NORM_WEIGHT, "cls.predictions.transform.LayerNorm.weight", WF_NAME_OUTSIDE),
    LINE(TRANSFORM_NORM_BIAS, "cls.predictions.transform.LayerNorm.bias", WF_NAME_OUTSIDE),
    LINE(HEAD_WEIGHT, "cls.predictions.decoder.weight", WF_NAME_OUTSIDE),
    LINE(HEAD_BIAS, "cls.predictions.bias", WF_NAME_OUTSIDE),
    LINE(HEAD_BIAS, "cls.predictions.decoder.bias", WF_NAME_OUTSIDE | WF_NAME_AGAIN),
    END,
};
/* Position numbers, and the pooler and next-sentence head, which no loss of weft's reads. */
static const char *const bert_ignored[] = {
    "embeddings.position_ids",     "pooler.dense.weight",       "pooler.dense.bias",
    "cls.seq_relationship.weight", "cls.seq_relationship.bias", NULL};

static const wf_family_names families[WF_FAMILIES] = {
    [WF_FAMILY_GPT2] = {"transformer.", gpt2, gpt2_ignored},
    [WF_FAMILY_LLAMA] = {"model.", llama, llama_ignored},
    [WF_FAMILY_BERT] = {"bert.", bert, bert_ignored},
};

/* ---- questions about a name
 * ------------------------------------------------------------------------ */

const wf_family_names *wf_names_of(const wf_model *m) {
    return &families[m->family];
}

bool wf_name_again(const wf_name *name) {
    return (name->form & (WF_NAME_AGAIN | WF_NAME_TIED)) != 0;
}

bool wf_name_applies(const wf_model *m, const wf_name *name) {
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(m, table);
    if (name->form & WF_NAME_TIED && !(m->tied_head && m->head_form != WF_HEAD_NONE)) return false;
    return table[name->tensor].rows > 0;
}

wf_range wf_name_rows(const wf_model *m, const wf_parameter_info *info, const wf_name *name) {
    if (name->pieces <= 1) return (wf_range){0, info->rows};
    if (name->pieces == 2) { /* gate, up */
        const int64_t half = info->rows / 2;
        return (wf_range){name->piece * half, half};
    }
    const int64_t q = m->heads * m->head_size, kv = m->kv_heads * m->head_size;
    return name->piece == 0 ? (wf_range){0, q} : (wf_range){q + (name->piece - 1) * kv, kv};
}

void wf_name_print(const wf_name *name, const char *set, const char *prefix, int64_t layer,
                   char *out, size_t out_bytes) {
    const char *const number = strstr(name->pattern, "%d");
    if (name->form & WF_NAME_OUTSIDE) prefix = "";
    if (number)
        snprintf(out, out_bytes, "%s%s%.*s%lld%s", set, prefix, (int)(number - name->pattern),
                 name->pattern, (long long)layer, number + 2);
    else
        snprintf(out, out_bytes, "%s%s%s", set, prefix, name->pattern);
}

/* ---- what is passed by
 * ------------------------------------------------------------------------------- */

static bool matches(const char *pattern, const char *name) {
    for (; *pattern; pattern++) {
        if (strncmp(pattern, "%d", 2) != 0) {
            if (*pattern != *name++) return false;
            continue;
        }
        if (!isdigit((unsigned char)*name)) return false;
        while (isdigit((unsigned char)*name)) name++;
        pattern++;
    }
    return !*name;
}

/* A model without a head leaves the file's head alone. */
static bool is_head(const wf_model *m, const char *name) {
    if (m->head_form != WF_HEAD_NONE) return false;
    return strcmp(name, "lm_head.weight") == 0 || strncmp(name, "cls.", 4) == 0;
}

bool wf_name_ignored(const wf_model *m, const char *name) {
    const wf_family_names *const family = wf_names_of(m);
    const size_t prefix = strlen(family->prefix);
    if (is_head(m, name)) return true;
    for (int i = 0; family->ignored[i]; i++)
        if (matches(family->ignored[i], name) || (strncmp(name, family->prefix, prefix) == 0 &&
                                                  matches(family->ignored[i], name + prefix)))
            return true;
    return false;
}

void wf_name_modern(const char *name, char *out, size_t out_bytes) {
    static const char *const renamed[][2] = {{"LayerNorm.gamma", "LayerNorm.weight"},
                                             {"LayerNorm.beta", "LayerNorm.bias"}};
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof renamed / sizeof *renamed; i++) {
        const size_t end = strlen(renamed[i][0]);
        if (n < end || strcmp(name + n - end, renamed[i][0]) != 0) continue;
        snprintf(out, out_bytes, "%.*s%s", (int)(n - end), name, renamed[i][1]);
        return;
    }
    snprintf(out, out_bytes, "%s", name);
}
