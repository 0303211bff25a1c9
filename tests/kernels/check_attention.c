/* Attention's reference: the f64 gradients against finite differences, what each query sees against the plain
 * definition, operations counted, case texts, and one softmax in pieces against the whole. On the device:
 * check_attention_device.c. */
#include "tests/kernels/attention_support.h"

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
    /* documents */
    "attention_backward:f32:b2s9h2d3:documents",
    "attention_backward:f32:b2s8t6h4kv2d2po3ko5site2w4:causal.dropout.documents:p=0.3",
};

/* sum O W for W = dO, through the forward reference. */
static double loss(const wf_case *test, const wf_problem *forward) {
    const int64_t outputs = test->count[0];
    double *o = calloc((size_t)outputs, sizeof *o), *lse = calloc((size_t)test->count[4], sizeof *lse);
    run_forward(test, forward, o, lse);
    double sum = 0;
    for (int64_t i = 0; i < outputs; i++) sum += o[i] * ((const double *)test->before[3].data)[i];
    free(o);
    free(lse);
    return sum;
}

/* Central differences, error h^2: at h = 1e-4 some 1e-8 of the largest element; asked is 1e-6. */
static void check_gradient(wf_case *test, const wf_problem *forward, int input, int gradient) {
    const double h = 1e-4;
    double *x = test->before[input].data, largest = 0, worst = 0;
    const double *g = test->after[gradient].data;
    for (int64_t i = 0; i < test->count[input]; i++) {
        const double keep = x[i];
        x[i] = keep + h;
        const double above = loss(test, forward);
        x[i] = keep - h;
        const double below = loss(test, forward);
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
    wf_attention_backward_reference(&problem, test->after, test->run); /* what is only read is the same in both */
    for (int i = 0; i < 3; i++) check_gradient(test, &forward, i, wf_attention_sizes(&problem).output + i);
    wf_case_destroy(test);
}
END_TEST

/* ---- in pieces ------------------------------------------------------------------------------- */

/* The reference by itself, where only f64 rounds: a thousand roundings of numbers of at most some 100. */
START_TEST(references_add_up) {
    const int op = _i % 2 ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    wf_problem whole;
    wf_case *test = whole_case(_i / 6, op, &whole, 5 + (uint64_t)_i);
    wf_stream stream = {17 + (uint64_t)_i};
    const wf_attention a = wf_attention_sizes(&whole);
    piece parts[PIECES];
    divide(&a, &stream, _i / 2 % 3, parts);
    for (int i = 0; i < test->n; i++)
        for (int64_t j = 0; test->operand[i].access == WF_WRITE && j < test->count[i]; j++)
            ((double *)test->before[i].data)[j] = start_of(&whole, &test->operand[i]);
    for (int n = 0; n < PIECES; n++) {
        const wf_problem p = problem_of(&whole, &parts[n]);
        wf_tensor t[WF_OPERANDS];
        for (int i = 0; i < test->n; i++) {
            t[i] = test->before[i];
            const int64_t offset = offset_of(&whole, &parts[n], &test->operand[i], t[i].stride);
            t[i].data = test->operand[i].dtype == WF_I32 ? (void *)((int32_t *)t[i].data + offset) : (double *)t[i].data + offset;
        }
        wf_operations[op]->reference(&p, t, test->run);
    }
    for (int i = 0; i < test->n; i++)
        for (int64_t j = 0; j < test->count[i] && test->operand[i].dtype != WF_I32; j++) {
            const double got = ((const double *)test->before[i].data)[j];
            const double want = ((const double *)test->after[i].data)[j];
            ck_assert_msg(got == want || fabs(got - want) < 1e-11, "%s: %s %lld: %g, not %g", divided[_i / 6],
                          test->operand[i].name, (long long)j, got, want);
        }
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
                const wf_keys keys = wf_attention_keys(&a, NULL, 0, q);
                for (int64_t k = 0; k < n[1]; k++) {
                    ck_assert_int_eq(k >= keys.first && k < keys.end, sees(&a, causal, q, k));
                    pairs += sees(&a, causal, q, k);
                }
            }
            ck_assert_double_eq(wf_operations[p.op]->flops(&p), (double)(pairs * 2 * 2 * 4 * 3));
        }
}
END_TEST

/* Of what mask and window leave, a query sees its own document. */
START_TEST(documents_hide_the_others) {
    static const int32_t ends[] = {1, 4, 5, 11, 20};
    const char *const texts[] = {"attention:f32:b2s7t9h1d1po5ko4:documents", "attention:f32:b2s7t9h1d1po5ko4:causal.documents",
                                 "attention:f32:b2s9t7h1d1po2ko6w3:documents"};
    for (int i = 0; i < COUNT(texts); i++) {
        const wf_problem p = parse(texts[i]);
        const wf_attention a = wf_attention_sizes(&p);
        int32_t spans[9][2][2], document[2][20];
        for (int sample = 0; sample < 2; sample++)
            for (int position = 0, n = 0; position < 20; position++) {
                n += position == ends[n] - (n < 4 ? sample : 0);
                document[sample][position] = n;
            }
        for (int64_t q = 0; q < a.s; q++)
            for (int sample = 0; sample < 2; sample++) {
                int32_t *const span = spans[q][sample];
                const int mine = document[sample][a.pos0 + q];
                span[0] = span[1] = (int32_t)(a.pos0 + q);
                while (span[0] > 0 && document[sample][span[0] - 1] == mine) span[0]--;
                while (span[1] < 20 && document[sample][span[1]] == mine) span[1]++;
            }
        const wf_tensor operands[] = {{0}, {0}, {0}, {.data = spans, .stride = {4, 2, 1}}};
        for (int sample = 0; sample < 2; sample++)
            for (int64_t q = 0; q < a.s; q++) {
                const wf_keys keys = wf_attention_keys(&a, operands, sample, q);
                for (int64_t k = 0; k < a.kv; k++)
                    ck_assert_int_eq(k >= keys.first && k < keys.end,
                                     sees(&a, p.flags & WF_CAUSAL, q, k) &&
                                         document[sample][a.pos0 + q] == document[sample][a.kpos0 + k]);
            }
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
    char text[WF_CASE_BYTES];
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

/* What is added up is left alone where there is nothing to add; what is written becomes 0, or is empty. */
START_TEST(empty_gradients_are_not_added) {
    static const char *const empty[] = {"attention_backward:f32:b1s0t3h1d8", "attention_backward:f32:b1s3t0h1d8",
                                        "attention_backward:f32:b1s3h0kv2d8group3"};
    wf_launch launches[WF_LAUNCHES];
    for (int i = 0; i < COUNT(empty); i++) {
        const wf_operation *operation = wf_operations[WF_OP_ATTENTION_BACKWARD];
        for (int variant = 0; variant < operation->nvariants; variant++) {
            wf_problem problem = parse(empty[i]);
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            ck_assert_int_gt(operation->variants[variant].launches(&problem, &candidate, launches), 0);
            problem.flags |= WF_ACCUMULATE;
            ck_assert_int_eq(operation->variants[variant].launches(&problem, &candidate, launches), 0);
        }
    }
}
END_TEST

START_TEST(bad_sizes_are_refused) {
    static const char *const bad[] = {
        "attention:f32:b1s4h4kv3d8", "attention:f32:b1s4h4d0", "attention:f32:b1s4h4d257",
        "attention:f32:b1s4h4d8:dropout:p=1", "attention:f32:b1s4h4d8hn3ho1:dropout:p=0.5",
        "attention:f32:b1s4h4d8site256:dropout:p=0.5", "attention:f32:b1s4h4kv1d8ho2group3",
        "attention:f32:b1s4h4d8po2147483644:documents", "attention:f32:b1s4h4d8ko2147483644:documents",
        "attention:f32:b1s4h4kv0d8group4", "attention:f32:b1s4h4kv4d8group100000"};
    wf_problem problem;
    for (int i = 0; i < COUNT(bad); i++)
        ck_assert_msg(wf_problem_parse(bad[i], &problem) != WF_OK, "%s", bad[i]);
}
END_TEST

int main(void) {
    TCase *reference = tcase_create("reference");
    tcase_add_loop_test(reference, gradients_equal_finite_differences, 0, COUNT(small_cases));
    tcase_add_test(reference, keys_and_operations_as_defined);
    tcase_add_test(reference, documents_hide_the_others);
    tcase_add_test(reference, shards_read_the_models_kv_heads);
    tcase_add_test(reference, case_texts_complete_and_return);
    tcase_add_loop_test(reference, references_add_up, 0, 6 * COUNT(divided));
    tcase_add_test(reference, empty_gradients_are_not_added);
    tcase_add_test(reference, bad_sizes_are_refused);
    Suite *suite = suite_create("attention");
    tcase_set_timeout(reference, 240);
    suite_add_tcase(suite, reference);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
