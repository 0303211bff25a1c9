/* Status, environment, log, sizes, shares, SHA-256. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/env.h"
#include "host/base/log.h"
#include "host/base/node.h"
#include "host/base/sha256.h"
#include "host/base/sizes.h"

START_TEST(a_failure_keeps_its_sentence) {
    ck_assert_int_eq(wf_fail(WF_ERR_FILE, "file %s has %d lines", "a", 3), WF_ERR_FILE);
    ck_assert_str_eq(wf_last_error(), "file a has 3 lines");
    wf_fail(WF_ERR_FILE, "more: %s", wf_last_error());
    ck_assert_str_eq(wf_last_error(), "more: file a has 3 lines");
    ck_assert_str_eq(wf_status_name(WF_ERR_MISMATCH), "mismatch");
}
END_TEST

START_TEST(variables_have_names_meanings_and_values) {
    for (int i = 0; i < WF_ENVS; i++) {
        ck_assert_int_eq(strncmp(wf_env_name((wf_env_id)i), "WEFT_", 5), 0);
        ck_assert_int_gt((int)strlen(wf_env_meaning((wf_env_id)i)), 10);
    }
    unsetenv("WEFT_DEVICE");
    ck_assert_ptr_null(wf_env(WF_ENV_DEVICE));
    setenv("WEFT_DEVICE", "", 1);
    ck_assert_ptr_null(wf_env(WF_ENV_DEVICE));
    setenv("WEFT_DEVICE", "1.0", 1);
    ck_assert_str_eq(wf_env(WF_ENV_DEVICE), "1.0");
}
END_TEST

START_TEST(seconds_must_be_seconds) {
    double seconds = 0;
    unsetenv("WEFT_TIMEOUT_S");
    ck_assert_int_eq(wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &seconds), WF_OK);
    ck_assert(seconds == 60);
    setenv("WEFT_TIMEOUT_S", "2.5", 1);
    ck_assert_int_eq(wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &seconds), WF_OK);
    ck_assert(seconds == 2.5);
    static const char *const wrong[] = {"0", "-1", "nan", "inf", "5s", "soon"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("WEFT_TIMEOUT_S", wrong[i], 1);
        ck_assert_int_eq(wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &seconds), WF_ERR_ARGUMENT);
        ck_assert_ptr_nonnull(strstr(wf_last_error(), wrong[i]));
        ck_assert(seconds == 2.5);
    }
}
END_TEST

START_TEST(launchers_are_recognised) {
    static const char *const all[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_STEP_ID", "SLURM_PROCID",
                                      "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) unsetenv(all[i]);
    ck_assert_ptr_null(wf_env_launcher());
    setenv("SLURM_PROCID", "0", 1); /* a batch script */
    setenv("SLURM_STEP_ID", "4", 1);
    ck_assert_ptr_null(wf_env_launcher());
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    ck_assert_str_eq(wf_env_launcher(), "Slurm");
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    ck_assert_str_eq(wf_env_launcher(), "Open MPI");
}
END_TEST

START_TEST(the_cache_has_a_home) {
    char path[64];
    setenv("XDG_CACHE_HOME", "/x/cache", 1);
    ck_assert_int_eq(wf_env_cache_home(path, sizeof path), WF_OK);
    ck_assert_str_eq(path, "/x/cache/weft");
    unsetenv("XDG_CACHE_HOME");
    setenv("HOME", "/home/a", 1);
    ck_assert_int_eq(wf_env_cache_home(path, sizeof path), WF_OK);
    ck_assert_str_eq(path, "/home/a/.cache/weft");
    ck_assert_int_eq(wf_env_cache_home(path, 8), WF_ERR_FILE);
    unsetenv("HOME");
    ck_assert_int_eq(wf_env_cache_home(path, sizeof path), WF_ERR_FILE);
}
END_TEST

START_TEST(log_categories_are_words_of_a_list) {
    wf_log log;
    setenv("WEFT_LOG", "plan,cache", 1);
    ck_assert_int_eq(wf_log_open(NULL, NULL, NULL, &log), WF_OK);
    ck_assert(wf_log_on(&log, WF_LOG_PLAN) && wf_log_on(&log, WF_LOG_CACHE) && !wf_log_on(&log, WF_LOG_FABRIC));
    ck_assert_int_eq(wf_log_open("fabric", NULL, NULL, &log), WF_OK);
    ck_assert(wf_log_on(&log, WF_LOG_FABRIC) && !wf_log_on(&log, WF_LOG_PLAN));
    ck_assert_int_eq(wf_log_open("", NULL, NULL, &log), WF_OK);
    ck_assert_int_eq((int)log.on, 0);
    ck_assert_int_eq(wf_log_open("all", NULL, NULL, &log), WF_OK);
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) ck_assert(wf_log_on(&log, (wf_log_category)c));
    static const char *const wrong[] = {"pla", "planned", "plan,cach", "plan;cache", "ALL"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        setenv("WEFT_LOG", wrong[i], 1);
        ck_assert_int_eq(wf_log_open(NULL, NULL, NULL, &log), WF_ERR_ARGUMENT);
        ck_assert_ptr_nonnull(strstr(wf_last_error(), "WEFT_LOG"));
        ck_assert_int_eq(wf_log_open(wrong[i], NULL, NULL, &log), WF_ERR_ARGUMENT);
        ck_assert_ptr_nonnull(strstr(wf_last_error(), wrong[i]));
    }
    unsetenv("WEFT_LOG");
    ck_assert_int_eq(wf_log_open(NULL, NULL, NULL, &log), WF_OK);
    ck_assert(!wf_log_on(&log, WF_LOG_PLAN) && !wf_log_on(NULL, WF_LOG_PLAN));
}
END_TEST

static char heard[1200];
static int times, last_level;
static void hear(void *user, int level, const char *category, const char *sentence) {
    times++;
    last_level = level;
    ck_assert_ptr_eq(user, heard);
    snprintf(heard, sizeof heard, "%s|%s", category, sentence);
}

/* Notes that were asked for, warnings always; lines are cut, never broken. */
START_TEST(the_callers_function_gets_what_is_said) {
    wf_log log;
    char text[2000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    ck_assert_int_eq(wf_log_open("device", hear, heard, &log), WF_OK);
    wf_say(&log, WF_LOG_PLAN, "not %d", 1);
    ck_assert_int_eq(times, 0);
    wf_say(&log, WF_LOG_DEVICE, "unit %d", 7);
    ck_assert(times == 1 && last_level == WF_LOG_NOTE);
    ck_assert_str_eq(heard, "device|unit 7");
    wf_warn(&log, WF_LOG_CHECKPOINT, "%s", text);
    ck_assert(times == 2 && last_level == WF_LOG_WARNING && strncmp(heard, "checkpoint|xxx", 14) == 0);
    ck_assert_int_gt((int)strlen(heard), 1000);
    wf_warn(NULL, WF_LOG_CHECKPOINT, "nobody");
    ck_assert_int_eq(times, 2);
}
END_TEST

START_TEST(sizes_say_when_they_overflow) {
    int64_t out;
    const int64_t big[] = {INT64_C(1) << 31, INT64_C(1) << 31, 4};
    ck_assert(wf_size_add(INT64_MAX - 1, 1, &out) && out == INT64_MAX);
    ck_assert(!wf_size_add(INT64_MAX, 1, &out));
    ck_assert(!wf_size_multiply(INT64_C(1) << 40, INT64_C(1) << 23, &out));
    ck_assert(wf_size_product(big, 2, &out) && out == INT64_C(1) << 62);
    ck_assert(!wf_size_product(big, 3, &out));
    ck_assert(wf_size_round_up(65, 64, &out) && out == 128);
    ck_assert(wf_size_round_up(64, 64, &out) && out == 64);
    ck_assert(!wf_size_round_up(INT64_MAX, 64, &out));
}
END_TEST

/* The shares of all ranks cover the units once; more ranks than units take one each. */
START_TEST(shares_are_fair) {
    for (int units = 1; units <= 9; units++)
        for (int ranks = 1; ranks <= 12; ranks++) {
            int next = 0;
            for (int rank = 0; rank < ranks; rank++) {
                const wf_share share = wf_share_of(units, rank, ranks);
                ck_assert_int_ge(share.count, 1);
                ck_assert_int_le(share.first + share.count, units);
                if (ranks > units) ck_assert(share.count == 1 && share.first == rank % units);
                else ck_assert(share.first == next && share.count <= units / ranks + 1);
                next += share.count;
            }
            if (ranks <= units) ck_assert_int_eq(next, units);
        }
}
END_TEST

START_TEST(this_node_has_processors_and_memory) {
    wf_cores cores;
    ck_assert_int_eq(wf_cores_find(&cores), WF_OK);
    ck_assert_int_ge(cores.node, 1);
    ck_assert(cores.bound >= 1 && cores.bound <= cores.node);
    ck_assert(wf_host_free_bytes() > 1 << 20);
}
END_TEST

/* FIPS 180-2's examples, and lengths around a block's end taken in pieces. */
START_TEST(sha256_agrees_with_the_standard) {
    static const struct {
        const char *text, *hex;
        int times;
    } cases[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 1},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 1},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1", 1},
        {"a", "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", 1000000}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wf_sha256 hash;
        uint8_t digest[WF_SHA256_BYTES];
        char hex[2 * WF_SHA256_BYTES + 1];
        wf_sha256_start(&hash);
        for (int n = 0; n < cases[i].times; n++) wf_sha256_add(&hash, cases[i].text, strlen(cases[i].text));
        wf_sha256_finish(&hash, digest);
        wf_sha256_hex(digest, hex);
        ck_assert_str_eq(hex, cases[i].hex);
    }
    char text[200];
    memset(text, 'x', sizeof text);
    for (size_t length = 50; length <= 200; length++) {
        uint8_t whole[WF_SHA256_BYTES], pieces[WF_SHA256_BYTES];
        wf_sha256 hash;
        wf_sha256_start(&hash);
        wf_sha256_add(&hash, text, length);
        wf_sha256_finish(&hash, whole);
        wf_sha256_start(&hash);
        for (size_t at = 0; at < length; at += 7) wf_sha256_add(&hash, text + at, length - at < 7 ? length - at : 7);
        wf_sha256_finish(&hash, pieces);
        ck_assert_mem_eq(whole, pieces, sizeof whole);
    }
}
END_TEST

/* Plain C and the processor's instructions, where it has them: the same words for any blocks. */
START_TEST(sha256_is_the_same_both_ways) {
    wf_sha256_blocks *const native = wf_sha256_native();
    uint8_t data[64 * 9 + 1];
    uint32_t state = 12345;
    if (!native) return;
    for (int round = 0; round < 200; round++) {
        uint32_t a[8], b[8];
        for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
        for (int i = 0; i < 8; i++) a[i] = b[i] = state * (uint32_t)(i + 1);
        wf_sha256_plain(a, data + round % 2, (size_t)round % 10);
        native(b, data + round % 2, (size_t)round % 10);
        ck_assert_mem_eq(a, b, sizeof a);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("base");
    TCase *tests = tcase_create("base");
    tcase_add_test(tests, a_failure_keeps_its_sentence);
    tcase_add_test(tests, variables_have_names_meanings_and_values);
    tcase_add_test(tests, seconds_must_be_seconds);
    tcase_add_test(tests, launchers_are_recognised);
    tcase_add_test(tests, the_cache_has_a_home);
    tcase_add_test(tests, log_categories_are_words_of_a_list);
    tcase_add_test(tests, the_callers_function_gets_what_is_said);
    tcase_add_test(tests, sizes_say_when_they_overflow);
    tcase_add_test(tests, shares_are_fair);
    tcase_add_test(tests, this_node_has_processors_and_memory);
    tcase_add_test(tests, sha256_agrees_with_the_standard);
    tcase_add_test(tests, sha256_is_the_same_both_ways);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
