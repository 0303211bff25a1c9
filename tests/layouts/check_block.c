/* Block cases: texts, what they mean, mistakes; and the numbers that weft bench makes of samples. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "host/run/bench.h"
#include "layouts/block.h"

START_TEST(texts_round_trip) {
    static const char *const texts[] = {
        "block:f32:b1s1024h1024a16:gelu.layernorm.causal:train",
        "block:f32:b2s17h32a3kv1d16f65l2:gelu_tanh.layernorm.causal:forward",
        "block:f32:b8s128h256a8kv2:silu.rmsnorm.causal.gated.rope.no-bias:train",
        "block:f32:b1s7h30a3:relu.layernorm.post-norm:forward",
        "block:f32:b2s128h64a4kv2l2w37:silu.rmsnorm.causal.gated.rope.no-bias:train",
        "block:f32:b1s7h30a3w6:relu.layernorm:forward",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        wf_block block;
        char printed[256];
        ck_assert_msg(wf_block_parse(texts[i], &block) == WF_OK, "%s: %s", texts[i], wf_last_error());
        wf_block_print(&block, printed, sizeof printed);
        ck_assert_str_eq(printed, texts[i]);
    }
}
END_TEST

START_TEST(what_is_left_out_is_filled_in) {
    wf_block a, b;
    char printed[256];
    ck_assert_int_eq(wf_block_parse("block:f32:b1s1024h1024a16kv16f4096:gelu.layernorm.causal:train", &a), WF_OK);
    ck_assert_int_eq(wf_block_parse("block:f32:a16h1024s1024b1:causal.layernorm.gelu:train", &b), WF_OK);
    ck_assert_int_eq(a.model.kv_heads, 16);
    ck_assert_int_eq(a.model.head_size, 64);
    ck_assert_int_eq(b.model.features, 4096);
    ck_assert(a.train && !a.model.bidirectional && a.model.biases == WF_BIASES_ALL);
    wf_block_print(&a, printed, sizeof printed);
    ck_assert_str_eq(printed, "block:f32:b1s1024h1024a16:gelu.layernorm.causal:train");
    wf_block_print(&b, printed, sizeof printed);
    ck_assert_str_eq(printed, "block:f32:b1s1024h1024a16:gelu.layernorm.causal:train");
    ck_assert_int_eq(a.model.window, 0);
    ck_assert_int_eq(wf_block_parse("block:f32:w1023b1s1024h1024a16:gelu.layernorm.causal:train", &a), WF_OK);
    ck_assert_int_eq(a.model.window, 1023);
    ck_assert_int_eq(wf_block_parse("block:f32:w1024b1s1024h1024a16:gelu.layernorm.causal:train", &a), WF_OK);
    ck_assert_int_eq(a.model.window, 0); /* hides nothing */
    wf_block_print(&a, printed, sizeof printed);
    ck_assert_str_eq(printed, "block:f32:b1s1024h1024a16:gelu.layernorm.causal:train");
}
END_TEST

START_TEST(mistakes_are_pointed_at) {
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"block", "no such operation at character 1"},
        {"block:f16:b1s8h8a2:gelu.layernorm:train", "blocks are f32: at character 7"},
        {"block:f32:b1s8h8a2x3:gelu.layernorm:train", "no such size at character 19"},
        {"block:f32:b1b1s8h8a2:gelu.layernorm:train", "given twice"},
        {"block:f32:b1s8h99999999999999999999a2:gelu.layernorm:train", "too large"},
        {"block:f32:b1s8h0a2:gelu.layernorm:train", "size of 0"},
        {"block:f32:b1s8h8a2w0:gelu.layernorm:train", "size of 0"},
        {"block:f32:b1s8h8a2w16777217:gelu.layernorm:train", "window is 16777217"},
        {"block:f32:b1s8h8:gelu.layernorm:train", "one is missing"},
        {"block:f32:b1s8h8a3:gelu.layernorm:train", "does not divide"},
        {"block:f32:b1s8h8a2:gelu:train", "layernorm or rmsnorm"},
        {"block:f32:b1s8h8a2:layernorm:train", "no activation"},
        {"block:f32:b1s8h8a2:gelu.silu.layernorm:train", "no such flag"},
        {"block:f32:b1s8h8a2:gelu.layernorm", "forward or train"},
        {"block:f32:b1s8h8a2:gelu.layernorm:backward", "neither forward nor train"},
        {"block:f32:b1s8h8a4kv3:gelu.layernorm:train", "kv heads"},
        {"block:f32:b1s8h6a2:gelu.layernorm.rope:train", "odd"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        wf_block block;
        ck_assert_int_eq(wf_block_parse(bad[i].text, &block), WF_ERR_ARGUMENT);
        ck_assert_msg(strstr(wf_last_error(), bad[i].says) != NULL, "%s: %s", bad[i].text, wf_last_error());
    }
}
END_TEST

START_TEST(quartiles_of_samples) {
    double odd[] = {5, 1, 4, 2, 3}, even[] = {4, 1, 3, 2}, one[] = {7};
    wf_spread s;
    wf_spread_of(odd, 5, &s);
    ck_assert(s.minimum == 1 && s.quartile1 == 2 && s.median == 3 && s.quartile3 == 4 && s.samples == 5);
    wf_spread_of(even, 4, &s);
    ck_assert(s.minimum == 1 && s.quartile1 == 1.75 && s.median == 2.5 && s.quartile3 == 3.25);
    wf_spread_of(one, 1, &s);
    ck_assert(s.minimum == 7 && s.quartile1 == 7 && s.median == 7 && s.quartile3 == 7);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("block cases");
    TCase *cases = tcase_create("texts");
    tcase_add_test(cases, texts_round_trip);
    tcase_add_test(cases, what_is_left_out_is_filled_in);
    tcase_add_test(cases, mistakes_are_pointed_at);
    tcase_add_test(cases, quartiles_of_samples);
    suite_add_tcase(suite, cases);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
