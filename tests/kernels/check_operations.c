/* The operations' common code: problems as values and as text, checks, bytes, launches, candidates. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/table.h"

/* ---- case texts ---------------------------------------------------------------------------------- */

START_TEST(the_example_is_read) {
    wf_problem p;
    ck_assert_int_eq(wf_problem_parse("gemm:f32:m512n384k1000:nt.bias.gelu_tanh", &p), WF_OK);
    ck_assert_int_eq(p.op, WF_OP_GEMM);
    ck_assert_int_eq(p.dtype, WF_F32);
    ck_assert_uint_eq(p.flags, WF_TRANS_B | WF_BIAS | WF_ACTIVATE);
    ck_assert_int_eq(p.activation, WF_ACT_GELU_TANH);
    ck_assert_int_eq(p.size[0], 512);
    ck_assert_int_eq(p.size[1], 384);
    ck_assert_int_eq(p.size[2], 1000);
}
END_TEST

/* given, canonical */
static const char *const round_trips[][2] = {
    {"gemm:f32:m512n384k1000:nt.bias.gelu_tanh", "gemm:f32:m512n384k1000:nt.bias.gelu_tanh"},
    {"gemm:f32:k3n2m1", "gemm:f32:m1n2k3:nn"},
    {"gemm:f32:m1n2k0:tt", "gemm:f32:m1n2:tt"},
    {"gemm:f32::nn", "gemm:f32::nn"},
    {"gemm:f32:m5n7k3:panels-c.tn.accumulate", "gemm:f32:m5n7k3:tn.accumulate.panels-c"},
    {"gemm:f32:m5n7k3:panels-b.bias.nt", "gemm:f32:m5n7k3:nt.bias.panels-b"},
    {"gemm:f32:m5n7k1073741824:silu.bias.accumulate.tn", "gemm:f32:m5n7k1073741824:tn.accumulate.bias.silu"},
    {"gemm:f32:m5n7k3:relu.act-grad", "gemm:f32:m5n7k3:nn.act-grad.relu"},
};

START_TEST(texts_round_trip) {
    wf_problem p, again;
    char text[WF_CASE_BYTES];
    ck_assert_int_eq(wf_problem_parse(round_trips[_i][0], &p), WF_OK);
    wf_problem_print(&p, text, sizeof text);
    ck_assert_str_eq(text, round_trips[_i][1]);
    ck_assert_int_eq(wf_problem_parse(text, &again), WF_OK);
    ck_assert(wf_problem_equal(&p, &again));
    ck_assert_uint_eq(wf_problem_hash(&p), wf_problem_hash(&again));
}
END_TEST

/* The longest text of each operation has room: printing asserts that. */
START_TEST(long_texts_fit) {
    for (int op = 0; op < WF_OPS; op++) {
        char text[WF_CASE_BYTES];
        wf_problem p = {.op = op, .real = {-0x1.5555555555555p-1000, -0x1.5555555555555p-1000}};
        if (!wf_operations[op]) continue;
        p.flags = wf_operations[op]->flags;
        for (int i = 0; i < WF_SIZES; i++) p.size[i] = INT64_MAX;
        wf_problem_print(&p, text, sizeof text);
        ck_assert(strncmp(text, wf_operations[op]->name, strlen(wf_operations[op]->name)) == 0);
    }
}
END_TEST

/* Every operation that takes real parameters, with awkward ones. */
START_TEST(reals_round_trip) {
    static const double values[] = {0.1, 1e-5, 1.0 / 3, 0x1p-30, 0.9999999999999999};
    int seen = 0;
    for (int op = 0; op < WF_OPS; op++) {
        if (!wf_operations[op] || !wf_operations[op]->real_names[0]) continue;
        for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
            wf_problem p = {.op = op}, again;
            char text[WF_CASE_BYTES];
            p.real[0] = values[i];
            if (wf_operations[op]->real_names[1]) p.real[1] = values[(i + 1) % 5];
            if (wf_problem_check(&p) != WF_OK) continue;
            wf_problem_print(&p, text, sizeof text);
            ck_assert_msg(wf_problem_parse(text, &again) == WF_OK, "%s", wf_last_error());
            ck_assert_msg(wf_problem_equal(&p, &again), "%s", text);
            seen++;
        }
    }
    ck_assert_int_gt(seen, 0);
}
END_TEST

/* text, what the sentence must hold */
static const char *const bad_texts[][2] = {
    {"", "at character 1"},
    {"gem:f32:m1", "no such operation at character 1, near 'gem:f32:m1'"},
    {"gemm", "at character 5, near 'the end'"},
    {"gemm:f31:m1", "no such dtype at character 6"},
    {"gemm:f32", "sizes are missing at character 9"},
    {"gemm:f32:m1n2k10x0", "no such size at character 17, near 'x0'"},
    {"gemm:f32:m1m2", "given twice at character 12"},
    {"gemm:f32:mn2", "no such size at character 10"},
    {"gemm:f32:m", "without digits at character 10"},
    {"gemm:f32:m-1", "without digits at character 10"},
    {"gemm:f32:m99999999999999999999", "too large at character 10"},
    {"gemm:f32:m1n1k1:", "no such flag at character 17"},
    {"gemm:f32:m1n1k1:nt..bias", "no such flag at character 20"},
    {"gemm:f32:m1n1k1:causal", "no such flag at character 17, near 'causal'"},
    {"gemm:f32:m1n1k1:nt:bias", "one field too many at character 20"},
    {"gemm:f32:m1n1k1:p=0.1", "no such number at character 17"},
    {"gemm:f32:m1n1k1:act-grad", "none is named"},
    {"gemm:i32:m1n1k1", "f32"},
};

START_TEST(bad_texts_are_refused_with_the_place) {
    wf_problem p, before;
    memset(&p, 0x5a, sizeof p);
    before = p;
    ck_assert_int_ne(wf_problem_parse(bad_texts[_i][0], &p), WF_OK);
    ck_assert_msg(strstr(wf_last_error(), bad_texts[_i][1]) != NULL, "'%s' does not say '%s'",
                  wf_last_error(), bad_texts[_i][1]);
    ck_assert_mem_eq(&p, &before, sizeof p);
}
END_TEST

/* Any damage to a good text is refused or read as some problem; never a crash (run under ASan too). */
START_TEST(damaged_texts_do_not_crash) {
    static const char good[] = "gemm:f32:m512n384k1000:nt.bias.gelu_tanh";
    uint32_t random = 12345;
    for (int i = 0; i < 20000; i++) {
        char text[sizeof good], printed[WF_CASE_BYTES];
        memcpy(text, good, sizeof good);
        for (int j = 0; j < 2; j++) {
            random = random * 1664525u + 1013904223u;
            text[random / 65536 % (sizeof good - 1)] = (char)("0:.=,mntkb\0-"[random >> 28 & 7]);
        }
        wf_problem p;
        if (wf_problem_parse(text, &p) == WF_OK) wf_problem_print(&p, printed, sizeof printed);
    }
}
END_TEST

/* ---- problems ------------------------------------------------------------------------------------ */

START_TEST(illegal_problems_are_refused) {
    wf_problem p = {.op = WF_OP_GEMM, .size = {4, 5, 6}};
    ck_assert_int_eq(wf_problem_check(&p), WF_OK);
    wf_problem bad = p;
    bad.op = WF_OPS;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.size[1] = -1;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.size[3] = 1;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.flags = WF_CAUSAL;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.activation = WF_ACT_RELU;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.flags = WF_ACTIVATE | WF_ACT_GRAD, bad.activation = WF_ACT_RELU;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.size[0] = bad.size[1] = (int64_t)1 << 30;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_ARGUMENT);
    bad = p, bad.size[2] = ((int64_t)1 << 30) + 1;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_UNSUPPORTED);
    bad = p, bad.dtype = WF_F64;
    ck_assert_int_eq(wf_problem_check(&bad), WF_ERR_UNSUPPORTED);
}
END_TEST

START_TEST(bytes_count_updates_twice) {
    wf_problem p = {.op = WF_OP_GEMM, .size = {4, 5, 6}};
    ck_assert_double_eq(wf_problem_bytes(&p), 4.0 * (24 + 30 + 20));
    p.flags = WF_ACCUMULATE | WF_BIAS;
    ck_assert_double_eq(wf_problem_bytes(&p), 4.0 * (24 + 30 + 40 + 5));
}
END_TEST

START_TEST(different_problems_differ) {
    const wf_problem p = {.op = WF_OP_GEMM, .size = {4, 5, 6}};
    wf_problem other = p;
    other.size[2] = 7;
    ck_assert(!wf_problem_equal(&p, &other));
    ck_assert_uint_ne(wf_problem_hash(&p), wf_problem_hash(&other));
}
END_TEST

/* What every table must keep to, so that its readers may rely on it. */
START_TEST(tables_are_sound) {
    for (int op = 0; op < WF_OPS; op++) {
        const wf_operation *o = wf_operations[op];
        for (int other = 0; other < op; other++)
            if (wf_operations[other]) ck_assert_str_ne(o->name, wf_operations[other]->name);
        for (int i = 0; i < WF_SIZES && o->size_names[i]; i++) {
            ck_assert_uint_eq(strspn(o->size_names[i], "abcdefghijklmnopqrstuvwxyz_"),
                              strlen(o->size_names[i]));
            for (int j = 0; j < i; j++) ck_assert_str_ne(o->size_names[i], o->size_names[j]);
        }
        ck_assert(o->operands && o->flops && o->reference && (o->tolerance || o->tolerance_run));
        ck_assert_int_gt(o->nvariants, 0);
        for (int v = 0; v < o->nvariants; v++) {
            const wf_variant *variant = &o->variants[v];
            ck_assert(variant->name && variant->ok && variant->launches);
            ck_assert_int_le(variant->nparameters, WF_PARAMETERS);
            ck_assert(variant->kind == WF_VARIANT_LIBRARY || variant->source);
            if (variant->source)
                ck_assert_msg(wf_kernel_source(variant->source) != NULL, "%s is not embedded",
                              variant->source);
            for (int i = 0; i < variant->nparameters; i++) {
                ck_assert_int_gt(variant->parameters[i].nvalues, 0);
                ck_assert_int_le(variant->parameters[i].nvalues, WF_VALUES);
            }
        }
    }
}
END_TEST

/* ---- launches, candidates -------------------------------------------------------------------------- */

START_TEST(launch_arguments_are_appended_in_order) {
    wf_launch launch = {.entry = "x"};
    wf_launch_view(&launch, 3);
    wf_launch_stride(&launch, 3, 1);
    wf_launch_i32(&launch, -7);
    wf_launch_i64(&launch, (int64_t)1 << 40);
    wf_launch_f32(&launch, 0.5);
    wf_launch_run(&launch, WF_RUN_LR);
    wf_launch_local(&launch, 256);
    static const uint8_t kinds[] = {WF_ARG_MEMORY, WF_ARG_OFFSET, WF_ARG_STRIDE, WF_ARG_I32,
                                    WF_ARG_I64,    WF_ARG_F32,    WF_ARG_RUN,    WF_ARG_LOCAL};
    ck_assert_int_eq(launch.narguments, 8);
    for (int i = 0; i < 8; i++) ck_assert_uint_eq(launch.arguments[i].kind, kinds[i]);
    ck_assert_uint_eq(launch.arguments[2].dim, 1);
    ck_assert_int_eq(launch.arguments[3].value.i, -7);
    ck_assert_int_eq(launch.arguments[4].value.i, (int64_t)1 << 40);
    ck_assert_double_eq(launch.arguments[5].value.f, 0.5);
    ck_assert_uint_eq(launch.arguments[6].index, WF_RUN_LR);
    wf_launch_geometry(&launch, 2, (const int64_t[]){3, 5}, (const int32_t[]){16, 2});
    ck_assert_int_eq(launch.global[0], 48);
    ck_assert_int_eq(launch.global[1], 10);
    ck_assert_int_eq(launch.global[2], 1);
    ck_assert_int_eq(launch.local[2], 1);
}
END_TEST

START_TEST(candidates_round_trip) {
    wf_problem p = {.op = WF_OP_GEMM, .size = {4, 5, 6}};
    wf_candidate c, again;
    char text[WF_CASE_BYTES];
    wf_candidate_default(&p, 0, &c);
    wf_candidate_print(&p, &c, text, sizeof text);
    ck_assert_str_eq(text, "simple TILE_M=64 TILE_N=64 TILE_K=16 GROUP_M=16 GROUP_N=16");
    ck_assert_int_eq(wf_candidate_parse(&p, "simple TILE_M=32  GROUP_N=8", &c), WF_OK);
    wf_candidate_print(&p, &c, text, sizeof text);
    ck_assert_str_eq(text, "simple TILE_M=32 TILE_N=64 TILE_K=16 GROUP_M=16 GROUP_N=8");
    ck_assert_int_eq(wf_candidate_parse(&p, text, &again), WF_OK);
    ck_assert_mem_eq(&c, &again, sizeof c);
    ck_assert_int_eq(wf_candidate_parse(&p, "simpl", &again), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_candidate_parse(&p, "simple TILE_M=33", &again), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_candidate_parse(&p, "simple TILE_M=320", &again), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_candidate_parse(&p, "simple TILE_MM=32", &again), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_candidate_parse(&p, "simple TILE_M", &again), WF_ERR_ARGUMENT);
}
END_TEST

/* A's panels go by slabs; k may be so long that one tile is more than a slab. */
START_TEST(long_sums_fit_the_launches) {
    wf_launch launches[WF_LAUNCHES];
    wf_candidate c;
    wf_problem p;
    ck_assert_int_eq(wf_problem_parse("gemm:f32:m1031n128k2097152:tn", &p), WF_OK);
    ck_assert_int_eq(wf_candidate_parse(&p, "panel", &c), WF_OK);
    ck_assert_int_eq(wf_operations[WF_OP_GEMM]->variants[c.variant].launches(&p, &c, launches), WF_LAUNCHES);
}
END_TEST

START_TEST(options_name_parameters_and_flags) {
    wf_problem p = {.op = WF_OP_GEMM, .size = {4, 5, 6}, .flags = WF_TRANS_B};
    wf_candidate c;
    char text[600];
    wf_candidate_default(&p, 0, &c);
    wf_candidate_options(&p, &c, text, sizeof text);
    ck_assert_str_eq(text, "-DTILE_M=64 -DTILE_N=64 -DTILE_K=16 -DGROUP_M=16 -DGROUP_N=16"
                           " -DTRANS_A=0 -DTRANS_B=1 -DACCUMULATE=0 -DBIAS=0 -DACTIVATE=0"
                           " -DACT_GRAD=0 -DACTIVATION=0 -DPANELS_B=0 -DPANELS_C=0");
}
END_TEST

START_TEST(untuned_devices_get_a_candidate_that_is_ok) {
    const wf_device cpu = {.type = WF_DEVICE_CPU, .local_bytes = 32768, .max_group = 256};
    const wf_device gpu = {.type = WF_DEVICE_GPU, .local_bytes = 32768, .max_group = 256};
    const wf_device tiny = {.name = "tiny", .type = WF_DEVICE_GPU, .local_bytes = 1024, .max_group = 16};
    wf_problem p;
    wf_candidate c;
    char text[WF_CASE_BYTES];
    static const char *const expected[][3] = {{"gemm:f32:m4n5k6:nn", "direct", "clblast"},
                                              {"gemm:f32:m4n5k6:tn", "direct", "clblast"},
                                              {"gemm:f32:m4n5k6:nt", "dot", "clblast"},
                                              {"gemm:f32:m4n5k6:tt", "panel", "clblast"},
                                              {"gemm:f32:m64n65k66:nt", "panel", "clblast"},
                                              {"gemm:f32:m4n5:nt", "dot", "simple"}};
    for (int i = 0; i < 6; i++) {
        ck_assert_int_eq(wf_problem_parse(expected[i][0], &p), WF_OK);
        for (int g = 0; g < 2; g++) {
            ck_assert_int_eq(wf_candidate_for_device(&p, g ? &gpu : &cpu, &c), WF_OK);
            wf_candidate_print(&p, &c, text, sizeof text);
            ck_assert_uint_eq(strcspn(text, " "), strlen(expected[i][1 + g]));
            ck_assert(strncmp(text, expected[i][1 + g], strlen(expected[i][1 + g])) == 0);
        }
    }
    ck_assert_int_eq(wf_candidate_for_device(&p, &tiny, &c), WF_ERR_UNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "gemm:f32:m4n5:nt on device tiny"));
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

int main(void) {
    Suite *suite = suite_create("operations");
    TCase *tests = tcase_create("operations");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, the_example_is_read);
    tcase_add_loop_test(tests, texts_round_trip, 0, COUNT(round_trips));
    tcase_add_test(tests, reals_round_trip);
    tcase_add_test(tests, long_texts_fit);
    tcase_add_loop_test(tests, bad_texts_are_refused_with_the_place, 0, COUNT(bad_texts));
    tcase_add_test(tests, damaged_texts_do_not_crash);
    tcase_add_test(tests, illegal_problems_are_refused);
    tcase_add_test(tests, bytes_count_updates_twice);
    tcase_add_test(tests, different_problems_differ);
    tcase_add_test(tests, tables_are_sound);
    tcase_add_test(tests, launch_arguments_are_appended_in_order);
    tcase_add_test(tests, candidates_round_trip);
    tcase_add_test(tests, options_name_parameters_and_flags);
    tcase_add_test(tests, long_sums_fit_the_launches);
    tcase_add_test(tests, untuned_devices_get_a_candidate_that_is_ok);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
