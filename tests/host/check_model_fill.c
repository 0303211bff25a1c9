/* A model that a host fills in is the one that a config.json of the same form describes; what is not legal
 * is refused with the name of its field. No device. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/api/objects.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static void must(weft_status status) {
    ck_assert_msg(status == WEFT_OK, "%s", weft_last_error());
}

static weft_model *of_file(const char *text) {
    char path[64];
    weft_model *m = NULL;
    snprintf(path, sizeof path, "weft-fill-%ld.json", (long)getpid());
    FILE *const f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
    const weft_status status = weft_model_create(path, &m);
    remove(path);
    must(status);
    return m;
}

static uint64_t plan_hash(const weft_model *m) {
    weft_layout *layout = NULL;
    weft_plan *plan = NULL;
    weft_plan_options o;
    weft_plan_info info;
    must(weft_layout_parse("tp2.sp", &layout));
    weft_plan_options_init(&o);
    o.model = m, o.layout = layout, o.batch = 2, o.sequence = 9, o.rank = 1;
    o.mode = m->model.head_form == WF_HEAD_NONE ? WEFT_HIDDEN : WEFT_TRAIN;
    must(weft_plan_create(NULL, &o, &plan));
    weft_plan_describe(plan, &info);
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    return info.hash;
}

static void expect_same(const weft_model *a, const weft_model *b) {
    const wf_model *const x = &a->model, *const y = &b->model;
    ck_assert_uint_eq(plan_hash(a), plan_hash(b));
    ck_assert_int_eq(wf_model_parameter_count(x), wf_model_parameter_count(y));
    ck_assert_int_eq(x->family, y->family);
    ck_assert_int_eq(x->positions, y->positions);
    ck_assert(x->init_std == y->init_std && x->norm_epsilon == y->norm_epsilon && x->rope_theta == y->rope_theta &&
              x->rope_factor == y->rope_factor && x->rope_low_frequency == y->rope_low_frequency &&
              x->rope_high_frequency == y->rope_high_frequency && x->rope_original_positions == y->rope_original_positions &&
              x->dropout_embedding == y->dropout_embedding && x->dropout_attention == y->dropout_attention &&
              x->dropout_residual == y->dropout_residual && x->tied_head == y->tied_head && x->biases == y->biases);
}

static weft_model_options sizes_of(const char *family) {
    weft_model_options o;
    must(weft_model_options_init(&o, family));
    o.layers = 3, o.hidden = 48, o.heads = 6, o.vocabulary = 101, o.positions = 32;
    return o;
}

static void compare(const weft_model_options *o, const char *text) {
    weft_model *filled = NULL, *const read = of_file(text);
    must(weft_model_fill(o, &filled));
    expect_same(filled, read);
    weft_model_destroy(filled);
    weft_model_destroy(read);
}

START_TEST(a_gpt2) {
    weft_model_options o = sizes_of("gpt2");
    o.dropout_attention = o.dropout_embedding = o.dropout_residual = 0.1;
    compare(&o, "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_embd\": 48, \"n_head\": 6, \"vocab_size\": 101, \"n_positions\": 32}");
}
END_TEST

START_TEST(a_llama) {
    weft_model_options o = sizes_of("llama");
    o.kv_heads = 2, o.features = 80, o.rope_theta = 5e5;
    o.rope_factor = 8, o.rope_low_frequency = 1, o.rope_high_frequency = 4, o.rope_original_positions = 16;
    compare(&o, "{\"model_type\": \"llama\", \"num_hidden_layers\": 3, \"hidden_size\": 48, \"num_attention_heads\": 6,"
                "\"num_key_value_heads\": 2, \"intermediate_size\": 80, \"vocab_size\": 101, \"max_position_embeddings\": 32,"
                "\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0,"
                "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 16}}");
    o = sizes_of("llama"); /* Qwen's */
    o.features = 80, o.bias_qkv = true, o.tied_head = true, o.head_size = 10;
    compare(&o, "{\"model_type\": \"qwen2\", \"num_hidden_layers\": 3, \"hidden_size\": 48, \"num_attention_heads\": 6,"
                "\"num_key_value_heads\": 6, \"head_dim\": 10, \"intermediate_size\": 80, \"vocab_size\": 101,"
                "\"max_position_embeddings\": 32, \"tie_word_embeddings\": true}");
}
END_TEST

START_TEST(a_bert) {
    static const char text[] = "{\"model_type\": \"bert\", \"architectures\": [\"%s\"], \"num_hidden_layers\": 3, \"hidden_size\": 48,"
                               "\"num_attention_heads\": 6, \"intermediate_size\": 192, \"vocab_size\": 101, \"max_position_embeddings\": 32}";
    char file[400];
    weft_model_options o = sizes_of("bert");
    o.dropout_attention = o.dropout_embedding = o.dropout_residual = 0.1;
    snprintf(file, sizeof file, text, "BertForMaskedLM");
    compare(&o, file);
    o.head = "none";
    snprintf(file, sizeof file, text, "BertModel");
    compare(&o, file);
}
END_TEST

/* Forms that no family has: a gated, bidirectional block without positions. */
START_TEST(a_mixture) {
    weft_model_options o = sizes_of("gpt2");
    weft_model *m = NULL;
    weft_model_info info;
    o.gated = o.bidirectional = true, o.norm = "rmsnorm", o.position_form = "none", o.activation = "relu";
    must(weft_model_fill(&o, &m));
    weft_model_describe(m, &info);
    ck_assert(info.gated && info.bidirectional && info.features == 192 && info.head_size == 8 && info.kv_heads == 6);
    ck_assert_str_eq(info.activation, "relu");
    ck_assert_uint_ne(plan_hash(m), 0);
    weft_model_destroy(m);
}
END_TEST

START_TEST(what_is_not_legal_is_named) {
    weft_model_options o[12];
    const char *const said[COUNT(o)] = {"family", "norm", "position_form", "head", "activation", "layers",
                                        "hidden", "vocabulary", "kv heads", "dropout", "epsilon", "rope_theta"};
    for (int i = 0; i < COUNT(o); i++) o[i] = sizes_of(i == 11 ? "llama" : "gpt2");
    o[0].family = "gpt5", o[1].norm = NULL, o[2].position_form = "sine", o[3].head = "two", o[4].activation = "tanh";
    o[5].layers = 0, o[6].hidden = -48, o[7].vocabulary = (int64_t)1 << 40, o[8].kv_heads = 4, o[9].dropout_residual = 1;
    o[10].norm_epsilon = 0, o[11].rope_theta = 0;
    for (int i = 0; i < COUNT(o); i++) {
        weft_model *m = NULL;
        ck_assert_msg(weft_model_fill(&o[i], &m) == WEFT_ERR_ARGUMENT, "%s was taken", said[i]);
        ck_assert_msg(strstr(weft_last_error(), said[i]), "\"%s\" does not name %s", weft_last_error(), said[i]);
        ck_assert_ptr_null(m);
    }
    weft_model_options p;
    ck_assert_int_eq(weft_model_options_init(&p, "gpt5"), WEFT_ERR_ARGUMENT);
    ck_assert_msg(strstr(weft_last_error(), "gpt2, llama, bert"), "%s", weft_last_error());
    o[0] = sizes_of("gpt2");
    o[0].heads = 7; /* 48 is no multiple */
    weft_model *m = NULL;
    ck_assert_int_eq(weft_model_fill(&o[0], &m), WEFT_ERR_ARGUMENT);
    ck_assert_msg(strstr(weft_last_error(), "head_size"), "%s", weft_last_error());
}
END_TEST

int main(void) {
    TCase *const tests = tcase_create("fill");
    tcase_add_test(tests, a_gpt2);
    tcase_add_test(tests, a_llama);
    tcase_add_test(tests, a_bert);
    tcase_add_test(tests, a_mixture);
    tcase_add_test(tests, what_is_not_legal_is_named);
    Suite *const suite = suite_create("model_fill");
    suite_add_tcase(suite, tests);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
