/* Attention: the f64 gradients against finite differences, what each query sees against the plain
 * definition, operations counted, case texts; then every variant on the machine's device against the
 * reference. CK_NOFORK: an OpenCL context does not survive a fork. */
#include <math.h>
#include <time.h>

#include "host/run/run.h"
#include "host/run/verify.h"
#include "kernels/attention.h"
#include "tests/host/device_support.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static wf_problem parse(const char *text) {
    wf_problem problem;
    ck_assert_msg(wf_problem_parse(text, &problem) == WF_OK, "%s", wf_last_error());
    return problem;
}

/* ---- the reference --------------------------------------------------------------------------- */

/* Causal, grouped heads, window, dropout, shifted positions, rows without keys; all small. */
static const char *const small_cases[] = {
    "attention_backward:f32:b1s1h1d1",
    "attention_backward:f32:b2s5h2d3",
    "attention_backward:f32:b1s6h4kv2d3:causal",
    "attention_backward:f32:b1s7t5h2kv1d2w3:causal",
    "attention_backward:f32:b1s5t7h1d3w2",
    "attention_backward:f32:b2s5h4kv2d3site2w4:causal.dropout:p=0.3",
    "attention_backward:f32:b1s6t4h2d2po5ko3site9hn5ho2:causal.dropout:p=0.5",
    "attention_backward:f32:b1s5t4h2d3ko2:causal",
    /* shards of the heads that begin and end inside a group; kv heads that nobody here reads */
    "attention_backward:f32:b1s4h5kv3d2ho2group3:causal",
    "attention_backward:f32:b2s3t5h2kv2d3ho7group4",
    "attention_backward:f32:b1s3h1kv3d2ho9hn12group4",
};

/* sum O W for W = dO, through the forward reference. */
static double loss(const wf_case *test, const wf_problem *forward, const wf_tensor *lse_like) {
    wf_tensor t[5] = {test->before[0], test->before[1], test->before[2]};
    const int64_t outputs = test->count[0];
    double *o = calloc((size_t)outputs, sizeof *o), *lse = calloc((size_t)test->count[4], sizeof *lse);
    t[3] = test->before[0];
    t[3].data = o;
    t[4] = *lse_like;
    t[4].data = lse;
    wf_attention_reference(forward, t, test->run);
    double sum = 0;
    for (int64_t i = 0; i < outputs; i++) sum += o[i] * ((const double *)test->before[3].data)[i];
    free(o);
    free(lse);
    return sum;
}

/* Makes lse and delta those of the case's own Q, K, V, dO, and the gradients with them. */
static void make_consistent(wf_case *test, const wf_problem *forward) {
    double *o = calloc((size_t)test->count[0], sizeof *o);
    wf_tensor f[5] = {test->before[0], test->before[1], test->before[2], test->before[0], test->before[4]};
    f[3].data = o;
    wf_attention_reference(forward, f, test->run);
    const wf_tensor d[3] = {f[3], test->before[3], test->before[5]};
    wf_attention_delta_reference(forward, d, test->run);
    free(o);
}

/* Central differences, error h^2: at h = 1e-4 some 1e-8 of the largest element; asked is 1e-6. */
static void check_gradient(wf_case *test, const wf_problem *forward, int input, int gradient) {
    const double h = 1e-4;
    double *x = test->before[input].data, largest = 0, worst = 0;
    const double *g = test->after[gradient].data;
    for (int64_t i = 0; i < test->count[input]; i++) {
        const double keep = x[i];
        x[i] = keep + h;
        const double above = loss(test, forward, &test->before[4]);
        x[i] = keep - h;
        const double below = loss(test, forward, &test->before[4]);
        x[i] = keep;
        largest = fmax(largest, fabs(g[i]));
        worst = fmax(worst, fabs((above - below) / (2 * h) - g[i]));
    }
    ck_assert_msg(worst <= 1e-6 * fmax(largest, 1e-3), "%s: %g of %g",
                  test->operand[gradient].name, worst, largest);
}

START_TEST(gradients_equal_finite_differences) {
    const wf_problem problem = parse(small_cases[_i]);
    wf_problem forward = problem;
    forward.op = WF_OP_ATTENTION;
    wf_case *test = NULL;
    ck_ok(wf_case_create(wf_operations[problem.op], &problem, 11 + (uint64_t)_i, &test));
    make_consistent(test, &forward);
    wf_tensor t[9];
    for (int i = 0; i < 9; i++) t[i] = i < 6 ? test->before[i] : test->after[i];
    wf_attention_backward_reference(&problem, t, test->run);
    for (int i = 0; i < 3; i++) check_gradient(test, &forward, i, 6 + i);
    wf_case_destroy(test);
}
END_TEST

/* ---- what is seen, and counted --------------------------------------------------------------- */

static bool sees(const wf_attention *a, bool causal, int64_t i, int64_t j) {
    const int64_t behind = (a->pos0 + i) - (a->kpos0 + j);
    if (causal && behind < 0) return false;
    if (a->window && behind >= a->window) return false;
    return !(a->window && !causal && -behind >= a->window);
}

START_TEST(keys_and_operations_as_defined) {
    static const int64_t shapes[][5] = {{1, 1, 0, 0, 0}, {7, 5, 0, 0, 3}, {5, 9, 4, 0, 0},
                                        {6, 6, 0, 9, 0}, {9, 4, 2, 3, 2}, {3, 8, 20, 1, 4}};
    for (int i = 0; i < COUNT(shapes); i++)
        for (int causal = 0; causal < 2; causal++) {
            const int64_t *n = shapes[i];
            const wf_problem p = {.op = WF_OP_ATTENTION, .flags = causal ? WF_CAUSAL : 0,
                                  .size = {2, n[0], n[1], 2, 1, 3, 0, 2, n[2], n[3], 0, n[4]}};
            const wf_attention a = wf_attention_sizes(&p);
            int64_t pairs = 0;
            for (int64_t q = 0; q < n[0]; q++) {
                const wf_keys keys = wf_attention_keys(&a, q);
                for (int64_t k = 0; k < n[1]; k++) {
                    ck_assert_int_eq(k >= keys.first && k < keys.end, sees(&a, causal, q, k));
                    pairs += sees(&a, causal, q, k);
                }
            }
            ck_assert_double_eq(wf_operations[p.op]->flops(&p), (double)(pairs * 2 * 2 * 4 * 3));
        }
}
END_TEST

/* Heads of a shard read what the same heads read in the whole model. */
START_TEST(shards_read_the_models_kv_heads) {
    enum { HEADS = 12 };
    for (int64_t group = 1; group <= HEADS; group++)
        for (int64_t head0 = 0; head0 < HEADS; head0++)
            for (int64_t hq = 1; head0 + hq <= HEADS; hq++) {
                const int64_t first = head0 / group, hkv = (head0 + hq - 1) / group - first + 1;
                wf_problem p = {.op = WF_OP_ATTENTION,
                                .size = {1, 2, 2, hq, hkv, 4, head0, HEADS, 0, 0, 0, 0, group}};
                ck_ok(wf_problem_check(&p));
                const wf_attention a = wf_attention_sizes(&p);
                for (int64_t g = 0; g < hq; g++)
                    ck_assert_int_eq(first + wf_attention_kv_head(&a, g), (head0 + g) / group);
                p.size[4] = hkv - 1; /* one too few */
                ck_assert_int_ne(wf_problem_check(&p), WF_OK);
            }
}
END_TEST

START_TEST(case_texts_complete_and_return) {
    char text[160];
    const wf_problem p = parse("attention:f32:b2s9h4d8ho4:causal");
    ck_assert_int_eq(p.size[2], 9);
    ck_assert_int_eq(p.size[4], 4);
    ck_assert_int_eq(p.size[7], 8);
    static const char grouped[] = "attention:f32:b2s9t9h5kv3d8ho2hn7group3:causal";
    const wf_problem shard = parse(grouped);
    ck_assert_int_eq(shard.size[12], 3);
    wf_problem_print(&shard, text, sizeof text);
    ck_assert_str_eq(text, grouped);
    const wf_problem none = parse("attention:f32:b2s9t0h4d8");
    ck_assert_int_eq(none.size[2], 0);
    wf_problem_print(&none, text, sizeof text);
    const wf_problem again = parse(text);
    ck_assert_msg(wf_problem_equal(&none, &again), "%s", text);
}
END_TEST

START_TEST(bad_sizes_are_refused) {
    static const char *const bad[] = {
        "attention:f32:b1s4h4kv3d8", "attention:f32:b1s4h4d0", "attention:f32:b1s4h4d257",
        "attention:f32:b1s4h4d8:dropout:p=1", "attention:f32:b1s4h4d8hn3ho1:dropout:p=0.5",
        "attention:f32:b1s4h4d8site256:dropout:p=0.5", "attention:f32:b1s4h4kv1d8ho2group3",
        "attention:f32:b1s4h4kv0d8group4", "attention:f32:b1s4h4kv4d8group100000"};
    wf_problem problem;
    for (int i = 0; i < COUNT(bad); i++)
        ck_assert_msg(wf_problem_parse(bad[i], &problem) != WF_OK, "%s", bad[i]);
}
END_TEST

/* ---- the device ------------------------------------------------------------------------------ */

static wf_opencl *opencl;
static uint64_t seed;

static void open_it(void) {
    const char *text = getenv("WEFT_TEST_SEED");
    seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    opencl = open_device(false);
}

static void close_it(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

static void verify(const wf_problem *problem, const wf_candidate *candidate) {
    wf_verdict verdict;
    char text[200], name[160];
    ck_ok(wf_verify_problem(opencl, problem, candidate, seed, &verdict));
    wf_problem_print(problem, text, sizeof text);
    wf_candidate_print(problem, candidate, name, sizeof name);
    ck_assert_msg(verdict.ok || verdict.skipped, "%s by %s: %s (WEFT_TEST_SEED=%llu repeats it)", text,
                  name, verdict.sentence, (unsigned long long)seed);
}

/* The text names the forward problem; its delta and backward are verified with it. */
static void verify_all(const char *text) {
    wf_problem problem = parse(text);
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op++) {
        problem.op = op;
        for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            verify(&problem, &candidate);
        }
    }
}

/* A head size is a program, which takes a CPU driver seconds: few sizes, many shapes of each. */
static const char *const cases[] = {
    /* nothing, one, tiles less and more one */
    "attention:f32:b1s0t3h1d8", "attention:f32:b1s3t0h1d8", "attention:f32:b1s1h1d8",
    "attention:f32:b1s5t2h1d8", "attention:f32:b1s31h1d8:causal", "attention:f32:b1s33h1d8:causal",
    "attention:f32:b2s17t31h2d8", "attention:f32:b1s15t33h1d8", "attention:f32:b1s65h2d8:causal",
    /* head sizes around the chunks */
    "attention:f32:b1s1h1d1", "attention:f32:b1s19h1d33:causal", "attention:f32:b1s9t5h1d256",
    "attention:f32:b1s37h2d64site2:causal.dropout:p=0.1",
    /* grouped heads, windows, shifted positions, rows without keys */
    "attention:f32:b2s21h6kv2d8:causal", "attention:f32:b1s40h2kv1d8w5:causal",
    "attention:f32:b1s40t37h1d8w9", "attention:f32:b1s20t50h2d8po30:causal",
    "attention:f32:b1s50t20h1d8ko13:causal", "attention:f32:b1s40t20h1d8po25w6:causal",
    "attention:f32:b1s20h1d8ko100:causal",
    /* shards of the heads inside groups, causal or not, with kv heads that nobody reads */
    "attention:f32:b2s21h5kv3d8ho2group3:causal", "attention:f32:b1s33t40h3kv2d8ho5group4",
    "attention:f32:b1s17h2kv1d8ho6group8:causal", "attention:f32:b1s17h2kv4d8group3",
    "attention:f32:b2s37h3kv2d8ho3hn8site2group4:causal.dropout:p=0.1",
    "attention:f32:b1s19h5kv3d65ho1group2",
    /* no samples; no query heads, so that kv heads get gradients of 0 */
    "attention:f32:b0s3h2d8", "attention:f32:b1s3h0kv2d8group3", "attention:f32:b1s3h0kv0d8group3",
    /* dropout: odd key positions, a shard of the heads, positions past 2^31 */
    "attention:f32:b2s37h2d8site2:causal.dropout:p=0.1",
    "attention:f32:b1s35t41h4kv2d8ho3hn9po7ko5site2:causal.dropout:p=0.3",
    "attention:f32:b1s35t41h1d8ko3site2w11:dropout:p=0.5",
    "attention:f32:b1s18t18h1d8po3000000001ko3000000001site2:causal.dropout:p=0.2",
    "attention:f32:b2s61h3d8site2:causal.dropout:p=0.1",
};

START_TEST(every_variant_equals_the_reference) {
    verify_all(cases[_i]);
}
END_TEST

/* Every parameter at its second value, at its third, and so on: each value once. */
START_TEST(every_parameter_value) {
    wf_problem problem = parse("attention:f32:b1s67t70h2kv1d8ko2site1:causal.dropout:p=0.2");
    problem.op = _i ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    const wf_operation *operation = wf_operations[problem.op];
    for (int variant = 0; variant < operation->nvariants; variant++) {
        const wf_variant *v = &operation->variants[variant];
        int32_t most = 0;
        for (int i = 0; i < v->nparameters; i++)
            if (v->parameters[i].nvalues > most) most = v->parameters[i].nvalues;
        for (int32_t value = 1; value < most; value++) {
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            for (int i = 0; i < v->nparameters; i++) {
                const int32_t last = v->parameters[i].nvalues - 1;
                candidate.value[i] = v->parameters[i].values[value < last ? value : last];
            }
            verify(&problem, &candidate);
        }
    }
}
END_TEST

int main(void) {
    TCase *reference = tcase_create("reference"), *device = tcase_create("device");
    tcase_add_loop_test(reference, gradients_equal_finite_differences, 0, COUNT(small_cases));
    tcase_add_test(reference, keys_and_operations_as_defined);
    tcase_add_test(reference, shards_read_the_models_kv_heads);
    tcase_add_test(reference, case_texts_complete_and_return);
    tcase_add_test(reference, bad_sizes_are_refused);
    tcase_add_unchecked_fixture(device, open_it, close_it);
    tcase_add_loop_test(device, every_variant_equals_the_reference, 0, COUNT(cases));
    tcase_add_loop_test(device, every_parameter_value, 0, 2);
    tcase_set_timeout(device, 0);
    Suite *suite = suite_create("attention");
    suite_add_tcase(suite, reference);
    suite_add_tcase(suite, device);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
