/* A host without memory is not a damaged file: from each request on, Jansson gets no memory, and every reader says so,
 * every writer leaves no file; a text that is no JSON is one with memory, too. What Jansson leaves out in silence where
 * one request alone fails is tried for writers and hashes, not for its lexer, which then drops a byte and goes on. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/model/config.h"
#include "host/model/json.h"
#include "host/model/progress.h"
#include "host/model/safetensors.h"
#include "host/model/shards.h"

enum { MOST = 10000 };

static char path[64];
static int64_t left; /* requests that are served */
static bool once;    /* and all but one of those that follow */

static void *some(size_t bytes) {
    if (left-- > 0 || (once && left < -1)) return malloc(bytes);
    errno = ENOMEM;
    return NULL;
}

static void open_all(void) {
    snprintf(path, sizeof path, "weft-json-%ld", (long)getpid());
    left = INT64_MAX;
    once = false;
    json_set_alloc_funcs(some, free);
}

static void close_all(void) {
    remove(path);
}

static void write_text(const void *text, size_t bytes) {
    FILE *const f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(text, 1, bytes, f), bytes);
    ck_assert_int_eq(fclose(f), 0);
}

/* ---- files of each kind, with strings and numbers of many lengths ------------------------------------------------ */

static wf_model model_of(int family) {
    wf_model m = {.layers = 2, .hidden = 48, .heads = 6, .kv_heads = 6, .head_size = 8, .features = 64, .vocabulary = 67,
                  .positions = 32, .activation = WF_ACT_GELU, .norm_epsilon = 1e-5, .init_std = 0.02,
                  .biases = WF_BIASES_ALL, .tied_head = true, .family = family};
    if (family == WF_FAMILY_LLAMA)
        m.norm = WF_RMSNORM, m.position_form = WF_POSITIONS_ROPE, m.gated = true, m.activation = WF_ACT_SILU, m.biases = 0,
        m.kv_heads = 2, m.rope_theta = 10000, m.rope_factor = 8, m.rope_low_frequency = 1, m.rope_high_frequency = 4,
        m.rope_original_positions = 16;
    if (family == WF_FAMILY_BERT)
        m.post_norm = m.bidirectional = m.embedding_norm = true, m.types = 2, m.head_form = WF_HEAD_TRANSFORM;
    return m;
}

static wf_status write_gpt2(void) {
    const wf_model m = model_of(WF_FAMILY_GPT2);
    return wf_config_write(&m, path);
}

static wf_status write_llama(void) {
    const wf_model m = model_of(WF_FAMILY_LLAMA);
    return wf_config_write(&m, path);
}

static wf_status write_mistral(void) {
    wf_model m = model_of(WF_FAMILY_LLAMA);
    m.window = 7;
    return wf_config_write(&m, path);
}

static wf_status write_qwen2(void) {
    wf_model m = model_of(WF_FAMILY_LLAMA);
    m.window = 7, m.biases = WF_BIAS_QKV;
    return wf_config_write(&m, path);
}

static wf_status write_bert(void) {
    const wf_model m = model_of(WF_FAMILY_BERT);
    return wf_config_write(&m, path);
}

static wf_status read_config(void) {
    wf_model m;
    return wf_config_read(path, &m);
}

static wf_status write_progress(void) {
    wf_progress p = {.step = 12, .data_position = 5, .seed = 3, .data_hash = 4, .choices_hash = 5, .layout = "tp2.sp"};
    for (int i = 0; i < WF_CHECKPOINT_FILES; i++) p.file[i].there = true, p.file[i].bytes = 1000 + i;
    return wf_progress_write(path, &p);
}

static wf_status read_progress(void) {
    wf_progress p;
    return wf_progress_read(path, &p);
}

static wf_status write_index(void) {
    static const char text[] = "{\"metadata\":{\"total_size\":12345},\"weight_map\":{\"model.layers.0.self_attn.q_proj.weight\":"
                               "\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002.safetensors\"}}";
    write_text(text, sizeof text - 1);
    return WF_OK;
}

static wf_status read_index(void) {
    wf_shard_index index;
    const wf_status status = wf_shard_index_read(path, &index);
    if (status == WF_OK) wf_shard_index_free(&index);
    return status;
}

static wf_status write_tensors(void) {
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},\"model.layers.0.mlp.down_proj.weight\":{\"dtype\":"
                                 "\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}";
    char file[8 + sizeof header - 1 + 8] = {(char)(sizeof header - 1)};
    memcpy(file + 8, header, sizeof header - 1);
    write_text(file, sizeof file);
    return WF_OK;
}

static wf_status read_tensors(void) {
    wf_safetensors *s;
    const wf_status status = wf_safetensors_open(path, &s);
    if (status == WF_OK) wf_safetensors_close(s);
    return status;
}

static const struct {
    const char *name;
    wf_status (*write)(void), (*read)(void);
    bool by_jansson; /* what is written */
} kinds[] = {{"a gpt2's config", write_gpt2, read_config, true},    {"a llama's config", write_llama, read_config, true},
             {"a bert's config", write_bert, read_config, true},    {"progress", write_progress, read_progress, true},
             {"an index of shards", write_index, read_index, false}, {"safetensors", write_tensors, read_tensors, false},
             {"a mistral's config", write_mistral, read_config, true}, {"a qwen2's config", write_qwen2, read_config, true}};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* ---- without memory -------------------------------------------------------------------------------------------------- */

static void expect_memory(wf_status status, int kind, int64_t served) {
    ck_assert_msg(status == WF_ERR_MEMORY, "%s, %lld requests served: %s: %s", kinds[kind].name, (long long)served,
                  wf_status_name(status), wf_last_error());
    ck_assert_msg(strstr(wf_last_error(), "no host memory") && strstr(wf_last_error(), path), "%s", wf_last_error());
}

START_TEST(readers_say_that_memory_is_out) {
    int64_t n = 0;
    ck_assert_int_eq(kinds[_i].write(), WF_OK);
    for (wf_status status = WF_ERR_MEMORY; status != WF_OK; n++) {
        left = n;
        status = kinds[_i].read();
        if (status != WF_OK) expect_memory(status, _i, n);
        ck_assert_int_lt(n, MOST);
    }
    ck_assert_int_gt(n, 10);
}
END_TEST

START_TEST(writers_leave_no_file_behind) {
    int64_t n = 0;
    if (!kinds[_i].by_jansson) return;
    for (wf_status status = WF_ERR_MEMORY; status != WF_OK; n++) {
        left = n;
        status = kinds[_i].write();
        if (status != WF_OK) expect_memory(status, _i, n);
        if (status != WF_OK) ck_assert_int_ne(access(path, F_OK), 0);
        ck_assert_int_lt(n, MOST);
    }
    ck_assert_int_gt(n, 10);
    left = INT64_MAX;
    ck_assert_int_eq(kinds[_i].read(), WF_OK);
}
END_TEST

/* Whole, or not there, whichever one request fails. */
START_TEST(writers_leave_nothing_out) {
    int64_t n = 0, bytes, want_bytes;
    char *text, *want;
    if (!kinds[_i].by_jansson) return;
    ck_assert_int_eq(kinds[_i].write(), WF_OK);
    ck_assert_int_eq(wf_file_load(path, MOST, &want, &want_bytes), WF_OK);
    for (left = -1, once = true; left < 0; n++) {
        remove(path);
        left = n;
        const wf_status status = kinds[_i].write();
        if (status != WF_OK) {
            expect_memory(status, _i, n);
            continue;
        }
        ck_assert_int_eq(wf_file_load(path, MOST, &text, &bytes), WF_OK);
        ck_assert_msg(bytes == want_bytes && memcmp(text, want, (size_t)bytes) == 0, "%s without request %lld:\n%s", kinds[_i].name,
                      (long long)n, text);
        free(text);
        ck_assert_int_lt(n, MOST);
    }
    ck_assert_int_gt(n, 10);
    free(want);
}
END_TEST

/* A hash is of all fields, or of none. */
START_TEST(a_copy_that_lacks_a_field_is_no_damage) {
    int64_t bytes, n;
    char *text;
    json_t *root;
    ck_assert_int_eq(write_progress(), WF_OK);
    ck_assert_int_eq(wf_file_load(path, MOST, &text, &bytes), WF_OK);
    left = INT64_MAX;
    ck_assert_int_eq(wf_json_parse(path, text, bytes, &root), WF_OK);
    n = INT64_MAX - left; /* requests of a parse */
    json_decref(root);
    free(text);
    for (left = -1, once = true; left < 0; n++) {
        left = n;
        const wf_status status = read_progress();
        if (left < 0 && status != WF_OK) expect_memory(status, 3, n);
    }
}
END_TEST

/* ---- with memory ----------------------------------------------------------------------------------------------------- */

START_TEST(what_is_no_json_is_said) {
    static const char *const texts[] = {"", "{", "{\"a\":1,\"a\":1}", "{\"a\":123456789012345678901}", "{\"a\":1e999}", "{} {}", "{\"a\":\"\\u0000",
                                        "{\"a\":\"\xff\"}", "{\"a\":nul}", "\"a\"", "{\"a\":\"\n\"}"};
    json_t *root = NULL;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        errno = ENOMEM; /* somebody else's */
        ck_assert_int_eq(wf_json_parse("the text", texts[i], (int64_t)strlen(texts[i]), &root), WF_ERR_FILE);
        ck_assert_msg(strncmp(wf_last_error(), "the text is no JSON: ", 21) == 0 && strstr(wf_last_error(), "in line"), "%s", wf_last_error());
    }
    ck_assert_ptr_null(root);
    ck_assert_int_eq(wf_json_parse("the text", "{\"a\":1}", 7, &root), WF_OK);
    ck_assert_int_eq(json_integer_value(json_object_get(root, "a")), 1);
    json_decref(root);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("json");
    TCase *const c = tcase_create("json");
    tcase_add_checked_fixture(c, open_all, close_all);
    tcase_add_loop_test(c, readers_say_that_memory_is_out, 0, KINDS);
    tcase_add_loop_test(c, writers_leave_no_file_behind, 0, KINDS);
    tcase_add_loop_test(c, writers_leave_nothing_out, 0, KINDS);
    tcase_add_test(c, a_copy_that_lacks_a_field_is_no_damage);
    tcase_add_test(c, what_is_no_json_is_said);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
