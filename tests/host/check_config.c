/* Models from Hugging Face config.json files: what is read, and one sentence for each thing that is wrong. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/model/config.h"

static char path[64];

static void write_file(const char *text) {
    snprintf(path, sizeof path, "weft-config-%ld.json", (long)getpid());
    FILE *const f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
}

static wf_status read_text(const char *text, wf_model *out) {
    write_file(text);
    const wf_status status = wf_config_read(path, out);
    remove(path);
    return status;
}

/* A sound file in which `field` (with its colon and value) is replaced or, new = "", left out. */
static wf_status read_with(const char *field, const char *new, wf_model *out) {
    static const char *const fields[] = {"\"model_type\": \"gpt2\"", "\"n_layer\": 3",     "\"n_embd\": 96",
                                         "\"n_head\": 6",            "\"n_positions\": 64", "\"vocab_size\": 257"};
    char text[1024] = "{\"extra\": [1, 2]";
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        const char *const put = field && strstr(fields[i], field) ? new : fields[i];
        if (*put) strcat(strcat(text, ", "), put);
    }
    if (!field) strcat(strcat(text, ", "), new);
    strcat(text, "}");
    return read_text(text, out);
}

START_TEST(sizes_and_defaults_are_those_of_gpt2) {
    wf_model m;
    ck_assert_msg(read_with(NULL, "\"n_inner\": null", &m) == WF_OK, "%s", wf_last_error());
    ck_assert_int_eq(m.layers, 3);
    ck_assert_int_eq(m.hidden, 96);
    ck_assert_int_eq(m.heads, 6);
    ck_assert_int_eq(m.head_size, 16);
    ck_assert_int_eq(m.features, 384);
    ck_assert_int_eq(m.positions, 64);
    ck_assert_int_eq(m.vocabulary, 257);
    ck_assert_int_eq(m.activation, WF_ACT_GELU_TANH);
    ck_assert(m.dropout_attention == 0.1 && m.dropout_embedding == 0.1 && m.dropout_residual == 0.1);
    ck_assert(m.norm_epsilon == 1e-5 && m.init_std == 0.02 && m.tied_head);
}
END_TEST

START_TEST(fields_are_read) {
    wf_model m;
    ck_assert_msg(read_with(NULL, "\"n_inner\": 250, \"activation_function\": \"relu\", \"embd_pdrop\": 0, "
                                  "\"attn_pdrop\": 0.25, \"resid_pdrop\": 0.5, \"layer_norm_epsilon\": 1e-6, "
                                  "\"initializer_range\": 0.01, \"tie_word_embeddings\": true",
                            &m) == WF_OK,
                  "%s", wf_last_error());
    ck_assert_int_eq(m.features, 250);
    ck_assert_int_eq(m.activation, WF_ACT_RELU);
    ck_assert(m.dropout_embedding == 0 && m.dropout_attention == 0.25 && m.dropout_residual == 0.5);
    ck_assert(m.norm_epsilon == 1e-6 && m.init_std == 0.01);
}
END_TEST

START_TEST(old_files_say_n_ctx) {
    wf_model m;
    ck_assert_msg(read_with("n_positions", "\"n_ctx\": 32", &m) == WF_OK, "%s", wf_last_error());
    ck_assert_int_eq(m.positions, 32);
}
END_TEST

static const struct {
    const char *field, *new;
    wf_status status;
    const char *said;       /* must stand in the sentence */
} wrong[] = {
    {"n_layer", "", WF_ERR_FILE, "field n_layer is missing"},
    {"n_layer", "\"n_layer\": 0", WF_ERR_FILE, "field n_layer is 0"},
    {"n_layer", "\"n_layer\": -2", WF_ERR_FILE, "field n_layer is -2"},
    {"n_embd", "\"n_embd\": \"96\"", WF_ERR_FILE, "field n_embd is \"96\""},
    {"n_embd", "\"n_embd\": 95", WF_ERR_FILE, "field n_embd is 95, not a multiple of n_head, 6"},
    {"n_embd", "\"n_embd\": 96.5", WF_ERR_FILE, "field n_embd is 96.5"},
    {"n_head", "\"n_head\": []", WF_ERR_FILE, "field n_head is []"},
    {"n_positions", "", WF_ERR_FILE, "field n_positions is missing"},
    {"vocab_size", "\"vocab_size\": 1000000000000", WF_ERR_FILE, "field vocab_size is 1000000000000"},
    {"vocab_size", "\"vocab_size\": true", WF_ERR_FILE, "field vocab_size is true"},
    {"model_type", "\"model_type\": \"mamba\"", WF_ERR_FILE, "field model_type is \"mamba\""},
    {"model_type", "", WF_ERR_FILE, "field model_type is missing"},
    {NULL, "\"n_inner\": -1", WF_ERR_FILE, "field n_inner is -1"},
    {NULL, "\"attn_pdrop\": 1", WF_ERR_FILE, "field attn_pdrop is 1"},
    {NULL, "\"embd_pdrop\": -0.5", WF_ERR_FILE, "field embd_pdrop is -0.5"},
    {NULL, "\"layer_norm_epsilon\": \"x\"", WF_ERR_FILE, "field layer_norm_epsilon is \"x\""},
    {NULL, "\"activation_function\": \"mish\"", WF_ERR_FILE, "field activation_function is \"mish\""},
    {NULL, "\"activation_function\": 3", WF_ERR_FILE, "field activation_function is 3"},
    {NULL, "\"scale_attn_by_inverse_layer_idx\": true", WF_ERR_UNSUPPORTED, "field scale_attn_by_inverse_layer_idx is true"},
    {NULL, "\"reorder_and_upcast_attn\": true", WF_ERR_UNSUPPORTED, "field reorder_and_upcast_attn is true"},
    {NULL, "\"add_cross_attention\": true", WF_ERR_UNSUPPORTED, "field add_cross_attention is true"},
    {NULL, "\"add_cross_attention\": 1", WF_ERR_FILE, "field add_cross_attention is 1"},
    {NULL, "\"scale_attn_weights\": false", WF_ERR_UNSUPPORTED, "field scale_attn_weights is false"},
    {NULL, "\"tie_word_embeddings\": 1", WF_ERR_FILE, "field tie_word_embeddings is 1"},
    {NULL, "\"n_layer\": 4", WF_ERR_FILE, "no JSON"}, /* twice */
};

START_TEST(wrong_fields_are_named) {
    wf_model m = {.layers = -7};
    ck_assert_int_eq(read_with(wrong[_i].field, wrong[_i].new, &m), wrong[_i].status);
    ck_assert_msg(strstr(wf_last_error(), wrong[_i].said) != NULL, "\"%s\" does not say \"%s\"", wf_last_error(), wrong[_i].said);
    ck_assert_msg(strstr(wf_last_error(), path) != NULL, "\"%s\" does not name the file", wf_last_error());
    ck_assert_int_eq(m.layers, -7); /* outputs only on success */
}
END_TEST

/* ---- llama, mistral, qwen2, bert ------------------------------------------------------------------------------------ */

#define SIZES \
    "\"num_hidden_layers\": 2, \"hidden_size\": 96, \"num_attention_heads\": 6, \"intermediate_size\": 250, " \
    "\"max_position_embeddings\": 64, \"vocab_size\": 257"

static wf_status read_type(const char *type, const char *more, wf_model *out) {
    char text[2048];
    snprintf(text, sizeof text, "{\"model_type\": \"%s\", " SIZES "%s%s}", type, *more ? ", " : "", more);
    return read_text(text, out);
}

static wf_model model_of(const char *type, const char *more) {
    wf_model m;
    ck_assert_msg(read_type(type, more, &m) == WF_OK, "%s", wf_last_error());
    return m;
}

START_TEST(llama_has_its_forms) {
    wf_model m = model_of("llama", "");
    ck_assert(m.family == WF_FAMILY_LLAMA && m.norm == WF_RMSNORM && m.position_form == WF_POSITIONS_ROPE && m.gated);
    ck_assert(!m.post_norm && !m.bidirectional && !m.tied_head && m.biases == 0 && m.activation == WF_ACT_SILU);
    ck_assert(m.layers == 2 && m.hidden == 96 && m.heads == 6 && m.kv_heads == 6 && m.head_size == 16 && m.features == 250);
    ck_assert(m.positions == 64 && m.vocabulary == 257 && m.norm_epsilon == 1e-6 && m.rope_theta == 10000 && m.rope_factor == 0);
    m = model_of("llama", "\"num_key_value_heads\": 2, \"head_dim\": 8, \"attention_bias\": true, \"mlp_bias\": true, "
                          "\"rope_theta\": 5e5, \"rope_scaling\": null, \"rms_norm_eps\": 1e-5, \"tie_word_embeddings\": true, "
                          "\"attention_dropout\": 0.25, \"hidden_act\": \"gelu\", \"architectures\": [\"LlamaModel\"]");
    ck_assert(m.kv_heads == 2 && m.head_size == 8 && m.biases == WF_BIASES_ALL && m.rope_theta == 5e5 && m.tied_head);
    ck_assert(m.norm_epsilon == 1e-5 && m.dropout_attention == 0.25 && m.activation == WF_ACT_GELU && m.head_form == WF_HEAD_NONE);
}
END_TEST

START_TEST(rotary_positions_old_and_new) {
    wf_model m = model_of("llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}");
    ck_assert(m.rope_factor == 2.5 && m.rope_low_frequency == 0 && m.rope_theta == 10000);
    m = model_of("llama", "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5, \"factor\": 8, \"low_freq_factor\": "
                          "1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}");
    ck_assert(m.rope_factor == 8 && m.rope_low_frequency == 1 && m.rope_high_frequency == 4 && m.rope_original_positions == 8192);
    ck_assert(m.rope_theta == 5e5);
    m = model_of("llama", "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 2e4}");
    ck_assert(m.rope_theta == 2e4 && m.rope_factor == 0);
    /* both: the older field's, as the library has it; empty, it is none */
    m = model_of("llama", "\"rope_theta\": 3e4, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 2e4}, "
                          "\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2}");
    ck_assert(m.rope_theta == 3e4 && m.rope_factor == 2);
    m = model_of("llama", "\"rope_scaling\": {}, \"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4, \"rope_theta\": 2e4}, "
                          "\"partial_rotary_factor\": 1.0");
    ck_assert(m.rope_theta == 2e4 && m.rope_factor == 4);
}
END_TEST

START_TEST(llamas_kin) {
    wf_model m = model_of("mistral", "\"num_key_value_heads\": 3, \"sliding_window\": null");
    ck_assert(m.family == WF_FAMILY_LLAMA && m.kv_heads == 3 && m.biases == 0);
    m = model_of("mistral", "\"num_key_value_heads\": 3"); /* 4096, longer than its positions */
    m = model_of("qwen2", "\"num_key_value_heads\": 1, \"use_sliding_window\": false, \"sliding_window\": 8, "
                          "\"layer_types\": [\"full_attention\", \"full_attention\"], \"architectures\": [\"Qwen2ForCausalLM\"]");
    ck_assert(m.family == WF_FAMILY_LLAMA && m.kv_heads == 1 && m.biases == WF_BIAS_QKV && m.head_form == WF_HEAD_LINEAR);
}
END_TEST

/* 64 positions, two layers. A window that hides none of them is none. */
#define QWEN "\"num_key_value_heads\": 2, \"use_sliding_window\": true, "
#define MISTRAL "\"num_key_value_heads\": 2, "
static const struct {
    const char *type, *more;
    int64_t window;
} windows[] = {
    {"mistral", MISTRAL "\"sliding_window\": 1", 1},
    {"mistral", MISTRAL "\"sliding_window\": 63", 63},
    {"mistral", MISTRAL "\"sliding_window\": 64", 0},
    {"mistral", MISTRAL "\"sliding_window\": 268435456", 0},
    {"mistral", MISTRAL "\"sliding_window\": null", 0},
    {"mistral", "\"num_key_value_heads\": 2", 0}, /* 4096 */
    {"mistral", MISTRAL "\"sliding_window\": 8, \"layer_types\": [\"sliding_attention\", \"sliding_attention\"]", 8},
    {"mistral", MISTRAL "\"sliding_window\": 64, \"layer_types\": [\"sliding_attention\", \"full_attention\"]", 0},
    {"qwen2", QWEN "\"sliding_window\": 8, \"max_window_layers\": 0", 8},
    {"qwen2", QWEN "\"sliding_window\": 8, \"max_window_layers\": 2", 0},
    {"qwen2", QWEN "\"sliding_window\": 8", 0}, /* from layer 28 on */
    {"qwen2", QWEN "\"sliding_window\": 64, \"max_window_layers\": 1", 0},
    {"qwen2", QWEN "\"sliding_window\": null, \"max_window_layers\": 0", 0},
    {"qwen2", QWEN "\"max_window_layers\": 0", 0}, /* 4096 */
    {"qwen2", QWEN "\"sliding_window\": 8, \"max_window_layers\": 2, \"layer_types\": [\"sliding_attention\", \"sliding_attention\"]", 8},
    {"qwen2", QWEN "\"sliding_window\": 8, \"max_window_layers\": 0, \"layer_types\": [\"full_attention\", \"full_attention\"]", 0},
    {"qwen2", "\"num_key_value_heads\": 2, \"sliding_window\": 8, \"max_window_layers\": 0", 0}, /* not used */
    {"llama", "\"sliding_window\": 8", 0}, /* no field of its */
};

START_TEST(windows_are_read) {
    const wf_model m = model_of(windows[_i].type, windows[_i].more);
    ck_assert_int_eq(m.window, windows[_i].window);
}
END_TEST

START_TEST(bert_has_its_forms) {
    wf_model m = model_of("bert", "");
    ck_assert(m.family == WF_FAMILY_BERT && m.norm == WF_LAYERNORM && m.position_form == WF_POSITIONS_LEARNED && !m.gated);
    ck_assert(m.post_norm && m.bidirectional && m.embedding_norm && m.tied_head && m.biases == WF_BIASES_ALL && m.types == 2);
    ck_assert(m.activation == WF_ACT_GELU && m.norm_epsilon == 1e-12 && m.head_form == WF_HEAD_TRANSFORM);
    ck_assert(m.dropout_embedding == 0.1 && m.dropout_attention == 0.1 && m.dropout_residual == 0.1);
    m = model_of("bert", "\"architectures\": [\"BertModel\"], \"type_vocab_size\": 1, \"hidden_dropout_prob\": 0, "
                         "\"attention_probs_dropout_prob\": 0.5, \"position_embedding_type\": \"absolute\"");
    ck_assert(m.head_form == WF_HEAD_NONE && m.types == 1 && m.dropout_embedding == 0 && m.dropout_attention == 0.5);
}
END_TEST

static const struct {
    const char *type, *more;
    wf_status status;
    const char *said;
} foreign[] = {
    {"llama", "\"num_key_value_heads\": 4", WF_ERR_FILE, "not a multiple of num_key_value_heads, 4"},
    {"llama", "\"num_key_value_heads\": 0", WF_ERR_FILE, "field num_key_value_heads is 0"},
    {"llama", "\"head_dim\": 7", WF_ERR_ARGUMENT, "odd"},
    {"llama", "\"head_dim\": -1", WF_ERR_FILE, "field head_dim is -1"},
    {"llama", "\"rope_theta\": 0", WF_ERR_FILE, "field rope_theta is 0"},
    {"llama", "\"rope_theta\": \"big\"", WF_ERR_FILE, "field rope_theta is \"big\""},
    {"llama", "\"rope_scaling\": 3", WF_ERR_FILE, "field rope_scaling is 3"},
    {"llama", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}", WF_ERR_FILE, "field rope_type is \"yarn\""},
    {"llama", "\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 2}", WF_ERR_FILE, "field rope_type is \"dynamic\""},
    {"llama", "\"rope_scaling\": {\"rope_type\": \"longrope\", \"factor\": 2}", WF_ERR_FILE, "field rope_type is \"longrope\""},
    {"llama", "\"rope_scaling\": {\"rope_type\": \"proportional\"}", WF_ERR_FILE, "field rope_type is \"proportional\""},
    {"llama", "\"rope_scaling\": {\"type\": \"mrope\", \"mrope_section\": [2, 3, 3]}", WF_ERR_FILE, "field rope_type is \"mrope\""},
    {"llama", "\"rope_scaling\": {\"rope_type\": 3}", WF_ERR_FILE, "field rope_type is 3"},
    {"llama", "\"rope_parameters\": {\"rope_type\": \"default\"}, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 2}", WF_ERR_FILE,
     "field rope_type is \"yarn\""},
    {"llama", "\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"linear\", \"factor\": 2}}", WF_ERR_UNSUPPORTED,
     "an object full_attention"},
    {"llama", "\"partial_rotary_factor\": 0.5", WF_ERR_FILE, "field partial_rotary_factor is 0.5"},
    {"llama", "\"original_max_position_embeddings\": 32, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
              "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}", WF_ERR_FILE,
     "field original_max_position_embeddings is 32"},
    {"llama", "\"rope_scaling\": {\"type\": \"linear\"}", WF_ERR_FILE, "field factor is missing"},
    {"llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 0.5}", WF_ERR_FILE, "field factor is 0.5"},
    {"llama", "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 1}", WF_ERR_FILE,
     "field high_freq_factor is 1"},
    {"llama", "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1, \"high_freq_factor\": 4}", WF_ERR_FILE,
     "field original_max_position_embeddings is missing"},
    {"llama", "\"rope_parameters\": {\"partial_rotary_factor\": 0.5}", WF_ERR_FILE, "field partial_rotary_factor is 0.5"},
    {"llama", "\"architectures\": [\"LlamaForSequenceClassification\"]", WF_ERR_FILE, "field architectures"},
    {"llama", "\"architectures\": \"LlamaModel\"", WF_ERR_FILE, "field architectures"},
    {"llama", "\"is_causal\": false", WF_ERR_UNSUPPORTED, "field is_causal is false"},
    {"llama", "\"attention_bias\": 1", WF_ERR_FILE, "field attention_bias is 1"},
    {"mistral", "", WF_ERR_FILE, "field num_key_value_heads is missing"},
    {"mistral", MISTRAL "\"sliding_window\": 0", WF_ERR_FILE, "field sliding_window is 0"},
    {"mistral", MISTRAL "\"sliding_window\": -1", WF_ERR_FILE, "field sliding_window is -1"},
    {"mistral", MISTRAL "\"sliding_window\": 8.5", WF_ERR_FILE, "field sliding_window is 8.5"},
    {"mistral", MISTRAL "\"sliding_window\": 8, \"layer_types\": [\"sliding_attention\", \"full_attention\"]", WF_ERR_UNSUPPORTED,
     "field sliding_window is 8, but by layer_types 1 of 2 layers"},
    {"mistral", MISTRAL "\"sliding_window\": 8, \"layer_types\": [\"full_attention\", \"full_attention\"]", WF_ERR_UNSUPPORTED,
     "field sliding_window is 8, but by layer_types 2 of 2 layers"},
    {"mistral", MISTRAL "\"sliding_window\": null, \"layer_types\": [\"sliding_attention\", \"sliding_attention\"]", WF_ERR_FILE,
     "field layer_types is [\"sliding_attention\""},
    {"qwen2", QWEN "\"sliding_window\": 32, \"max_window_layers\": 1", WF_ERR_UNSUPPORTED,
     "field sliding_window is 32, but by max_window_layers 1 of 2 layers"},
    {"qwen2", QWEN "\"sliding_window\": 32, \"max_window_layers\": -1", WF_ERR_FILE, "field max_window_layers is -1"},
    {"qwen2", QWEN "\"sliding_window\": 32, \"max_window_layers\": \"1\"", WF_ERR_FILE, "field max_window_layers is \"1\""},
    {"qwen2", QWEN "\"sliding_window\": \"32\", \"max_window_layers\": 0", WF_ERR_FILE, "field sliding_window is \"32\""},
    {"qwen2", QWEN "\"sliding_window\": 8, \"layer_types\": [\"full_attention\", \"sliding_attention\"]", WF_ERR_UNSUPPORTED,
     "field sliding_window is 8, but by layer_types 1 of 2 layers"},
    {"qwen2", QWEN "\"layer_types\": [\"sliding_attention\"]", WF_ERR_FILE, "a list of num_hidden_layers names"},
    {"qwen2", QWEN "\"layer_types\": \"sliding_attention\"", WF_ERR_FILE, "field layer_types is \"sliding_attention\""},
    {"qwen2", QWEN "\"layer_types\": [\"full_attention\", \"chunked_attention\"]", WF_ERR_FILE,
     "field layer_types is \"chunked_attention\""},
    {"qwen2", "\"num_key_value_heads\": 2, \"use_sliding_window\": 1", WF_ERR_FILE, "field use_sliding_window is 1"},
    {"qwen2", "\"num_key_value_heads\": 2, \"layer_types\": [\"full_attention\", \"sliding_attention\"]", WF_ERR_FILE,
     "must be \"full_attention\" throughout"},
    {"bert", "\"position_embedding_type\": \"relative_key\"", WF_ERR_FILE, "field position_embedding_type is \"relative_key\""},
    {"bert", "\"is_decoder\": true", WF_ERR_UNSUPPORTED, "field is_decoder is true"},
    {"bert", "\"type_vocab_size\": 0", WF_ERR_FILE, "field type_vocab_size is 0"},
    {"bert", "\"architectures\": [\"BertForTokenClassification\"]", WF_ERR_FILE, "field architectures"},
    {"bert", "\"hidden_act\": \"tanh\"", WF_ERR_FILE, "field hidden_act is \"tanh\""},
};

START_TEST(foreign_variants_are_named) {
    wf_model m = {.layers = -7};
    ck_assert_int_eq(read_type(foreign[_i].type, foreign[_i].more, &m), foreign[_i].status);
    ck_assert_msg(strstr(wf_last_error(), foreign[_i].said) != NULL, "\"%s\" does not say \"%s\"", wf_last_error(), foreign[_i].said);
    ck_assert_msg(strstr(wf_last_error(), path) != NULL, "\"%s\" does not name the file", wf_last_error());
    ck_assert_int_eq(m.layers, -7);
}
END_TEST

/* ---- writing ---------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *type, *more;
} written[] = {
    {"llama", "\"num_key_value_heads\": 2, \"head_dim\": 8, \"rms_norm_eps\": 1e-5"},
    {"llama", "\"attention_bias\": true, \"tie_word_embeddings\": true, \"rope_scaling\": {\"type\": \"linear\", \"factor\": 2.5}"},
    {"llama", "\"mlp_bias\": true, \"architectures\": [\"LlamaModel\"], \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, "
              "\"low_freq_factor\": 1, \"high_freq_factor\": 4, \"original_max_position_embeddings\": 8192}"},
    {"mistral", "\"num_key_value_heads\": 3, \"sliding_window\": null"},
    {"mistral", MISTRAL "\"sliding_window\": 8, \"head_dim\": 8"},
    {"mistral", MISTRAL "\"sliding_window\": 63, \"architectures\": [\"MistralModel\"]"},
    {"mistral", MISTRAL "\"sliding_window\": 64"},
    {"qwen2", "\"num_key_value_heads\": 1, \"rope_theta\": 1e6, \"initializer_range\": 0.05"},
    {"qwen2", QWEN "\"sliding_window\": 8, \"max_window_layers\": 0, \"architectures\": [\"Qwen2Model\"]"},
    {"bert", "\"hidden_act\": \"relu\", \"hidden_dropout_prob\": 0.3"},
    {"bert", "\"architectures\": [\"BertModel\"], \"tie_word_embeddings\": false"},
    {"bert", "\"hidden_dropout_prob\": 0.3, \"weft_dropout_embedding\": 0.1"},
    {"bert", "\"hidden_dropout_prob\": 0.3, \"weft_dropout_embedding\": 0"},
    {"llama", "\"attention_dropout\": 0.3, \"weft_dropout_embedding\": 0.1, \"weft_dropout_residual\": 0.2"},
};

START_TEST(what_is_written_is_read_back) {
    wf_model back, m = model_of(written[_i].type, written[_i].more);
    if (strstr(written[_i].more, "weft_")) ck_assert(m.dropout_embedding != m.dropout_residual);
    snprintf(path, sizeof path, "weft-config-%ld.json", (long)getpid());
    ck_assert_msg(wf_config_write(&m, path) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_config_read(path, &back) == WF_OK, "%s", wf_last_error());
    remove(path);
    ck_assert(m.layers == back.layers && m.hidden == back.hidden && m.heads == back.heads && m.kv_heads == back.kv_heads);
    ck_assert(m.head_size == back.head_size && m.features == back.features && m.vocabulary == back.vocabulary);
    ck_assert(m.positions == back.positions && m.types == back.types && m.family == back.family && m.norm == back.norm);
    ck_assert(m.position_form == back.position_form && m.head_form == back.head_form && m.activation == back.activation);
    ck_assert(m.biases == back.biases && m.gated == back.gated && m.post_norm == back.post_norm && m.tied_head == back.tied_head);
    ck_assert(m.bidirectional == back.bidirectional && m.embedding_norm == back.embedding_norm && m.init_std == back.init_std);
    ck_assert(m.norm_epsilon == back.norm_epsilon && m.dropout_embedding == back.dropout_embedding);
    ck_assert(m.dropout_attention == back.dropout_attention && m.dropout_residual == back.dropout_residual);
    ck_assert(m.rope_theta == back.rope_theta && m.rope_factor == back.rope_factor);
    ck_assert(m.rope_low_frequency == back.rope_low_frequency && m.rope_high_frequency == back.rope_high_frequency);
    ck_assert(m.rope_original_positions == back.rope_original_positions && m.window == back.window);
}
END_TEST

START_TEST(mixtures_are_not_written) {
    wf_model m = model_of("llama", "");
    m.post_norm = true;
    ck_assert_int_eq(wf_config_write(&m, "weft-config-none.json"), WF_ERR_UNSUPPORTED);
    m = model_of("bert", "");
    m.bidirectional = false;
    ck_assert_int_eq(wf_config_write(&m, "weft-config-none.json"), WF_ERR_UNSUPPORTED);
    static const char *const windowless[][2] = {{"bert", ""}, {"llama", "\"mlp_bias\": true"}, {"llama", "\"attention_bias\": true"}};
    for (int i = 0; i < 3; i++) { /* no window in a config.json of their families */
        m = model_of(windowless[i][0], windowless[i][1]);
        m.window = 63;
        ck_assert_int_eq(wf_config_write(&m, "weft-config-none.json"), WF_ERR_UNSUPPORTED);
    }
    ck_assert_msg(read_with(NULL, "\"n_inner\": null", &m) == WF_OK, "%s", wf_last_error());
    m.window = 63;
    ck_assert_int_eq(wf_config_write(&m, "weft-config-none.json"), WF_ERR_UNSUPPORTED);
    ck_assert_int_ne(access("weft-config-none.json", F_OK), 0);
}
END_TEST

START_TEST(files_that_are_no_configuration_are_refused) {
    static const struct {
        const char *text, *said;
    } files[] = {{"", "no JSON"}, {"{\"n_layer\": ", "line 1"}, {"[1]", "not a JSON object"}, {"\xff\xfe", "no JSON"}};
    wf_model m;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        ck_assert_int_eq(read_text(files[i].text, &m), WF_ERR_FILE);
        ck_assert_msg(strstr(wf_last_error(), files[i].said) != NULL, "%s", wf_last_error());
    }
    ck_assert_int_eq(wf_config_read("no-such-file.json", &m), WF_ERR_FILE);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "no-such-file.json"));
    ck_assert_int_eq(wf_config_read("/", &m), WF_ERR_FILE);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("config");
    TCase *const c = tcase_create("config");
    tcase_add_test(c, sizes_and_defaults_are_those_of_gpt2);
    tcase_add_test(c, fields_are_read);
    tcase_add_test(c, old_files_say_n_ctx);
    tcase_add_loop_test(c, wrong_fields_are_named, 0, (int)(sizeof wrong / sizeof *wrong));
    tcase_add_test(c, files_that_are_no_configuration_are_refused);
    tcase_add_test(c, llama_has_its_forms);
    tcase_add_test(c, rotary_positions_old_and_new);
    tcase_add_test(c, llamas_kin);
    tcase_add_loop_test(c, windows_are_read, 0, (int)(sizeof windows / sizeof *windows));
    tcase_add_test(c, bert_has_its_forms);
    tcase_add_loop_test(c, foreign_variants_are_named, 0, (int)(sizeof foreign / sizeof *foreign));
    tcase_add_loop_test(c, what_is_written_is_read_back, 0, (int)(sizeof written / sizeof *written));
    tcase_add_test(c, mixtures_are_not_written);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
