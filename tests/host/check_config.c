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
    {"model_type", "\"model_type\": \"llama\"", WF_ERR_FILE, "field model_type is \"llama\""},
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
    {NULL, "\"tie_word_embeddings\": false", WF_ERR_UNSUPPORTED, "field tie_word_embeddings is false"},
    {NULL, "\"n_layer\": 4", WF_ERR_FILE, "not JSON"}, /* twice */
};

START_TEST(wrong_fields_are_named) {
    wf_model m = {.layers = -7};
    ck_assert_int_eq(read_with(wrong[_i].field, wrong[_i].new, &m), wrong[_i].status);
    ck_assert_msg(strstr(wf_last_error(), wrong[_i].said) != NULL, "\"%s\" does not say \"%s\"", wf_last_error(), wrong[_i].said);
    ck_assert_msg(strstr(wf_last_error(), path) != NULL, "\"%s\" does not name the file", wf_last_error());
    ck_assert_int_eq(m.layers, -7); /* outputs only on success */
}
END_TEST

START_TEST(files_that_are_no_configuration_are_refused) {
    static const struct {
        const char *text, *said;
    } files[] = {{"", "not JSON"}, {"{\"n_layer\": ", "line 1"}, {"[1]", "not a JSON object"}, {"\xff\xfe", "not JSON"}};
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
    TCase *const c = tcase_create("gpt2");
    tcase_add_test(c, sizes_and_defaults_are_those_of_gpt2);
    tcase_add_test(c, fields_are_read);
    tcase_add_test(c, old_files_say_n_ctx);
    tcase_add_loop_test(c, wrong_fields_are_named, 0, (int)(sizeof wrong / sizeof *wrong));
    tcase_add_test(c, files_that_are_no_configuration_are_refused);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
