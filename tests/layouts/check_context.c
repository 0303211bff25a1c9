/* check_context.c: every way of splitting a sequence equals one rank, in f64: form x tensor parallelism x mask x heads x sequence
 * x ranks, generated, not listed. One rank is the plain model of tests/model_reference.h. Nothing divides; dropout is on; the
 * shortest sequence has fewer tokens than ranks. What is no legal split is refused, with a sentence that says which it is. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/philox.h"
#include "tests/layouts/outcome.h"

enum { BATCH = 2, LONGEST = 130, WORDS = 13 };

static const int64_t sequences[] = {5, 61, 64, LONGEST};
static const struct {
    int64_t heads, kv_heads;
} groups[] = {{5, 5}, {6, 2}, {8, 1}};
static const struct {
    const char *name;
    bool bidirectional;
    int64_t window;
    bool packed;
} masks[] = {{"causal", false, 0, false}, {"full", true, 0, false}, {"window 37", false, 37, false},
             {"window 9, both ways", true, 9, false}, {"packed", false, 0, true}, {"packed, window 9, both ways", true, 9, true}};
enum {
    SEQUENCES = sizeof sequences / sizeof *sequences,
    GROUPS = sizeof groups / sizeof *groups,
    MASKS = sizeof masks / sizeof *masks,
    MODELS = SEQUENCES * GROUPS * MASKS
};

/* ---- the model of a case -------------------------------------------------------------------------------------------- */

static int32_t tokens[BATCH * LONGEST], targets[BATCH * LONGEST], documents[BATCH * LONGEST];
static reference_tensors expected;
static double loss, *last;
static char name[64];

/* Of 1 to 24 tokens, which end anywhere; one in eight is of a single token. */
static void make_documents(int64_t count) {
    const uint32_t key[2] = {17, 19};
    for (int32_t t = 0, end = 0, n = 0; t < count; t++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)t}, key, words);
        if (t == end) end += words[0] % 8 ? 1 + (int32_t)(words[1] % 24) : 1, n++;
        documents[t] = n;
    }
}

static void open_model(int i) {
    const int s = i % SEQUENCES, g = i / SEQUENCES % GROUPS, m = i / SEQUENCES / GROUPS;
    const uint32_t key[2] = {11, 13};
    trial.model = (wf_model){.layers = 1, .hidden = 20, .heads = groups[g].heads, .kv_heads = groups[g].kv_heads, .head_size = 4,
                             .features = 10, .vocabulary = WORDS, .positions = LONGEST, .activation = WF_ACT_GELU_TANH,
                             .biases = WF_BIASES_ALL, .norm_epsilon = 1e-5, .init_std = 0.2, .tied_head = true,
                             .dropout_embedding = 0.1, .dropout_attention = 0.1, .dropout_residual = 0.1,
                             .position_form = g ? WF_POSITIONS_ROPE : WF_POSITIONS_LEARNED, .rope_theta = g ? 100 : 0,
                             .bidirectional = masks[m].bidirectional, .window = masks[m].window};
    trial.batch = BATCH, trial.sequence = sequences[s], trial.tokens = tokens, trial.targets = targets;
    for (int t = 0; t < BATCH * LONGEST; t++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)t}, key, words);
        tokens[t] = (int32_t)(words[0] % WORDS);
        targets[t] = t < 8 ? (int32_t)(words[1] % WORDS) : t % 3 ? -1 : (int32_t)(words[2] % WORDS);
    }
    make_documents(BATCH * sequences[s]);
    trial.documents = masks[m].packed ? documents : NULL;
    trial.valid = 0;
    for (int t = 0; t < BATCH * sequences[s]; t++) trial.valid += targets[t] >= 0;
    while (trial.valid & (trial.valid - 1)) /* so that 1 / n is exact in f32 */
        for (int t = (int)(BATCH * sequences[s]); t-- > 0;)
            if (targets[t] >= 0) {
                targets[t] = -1;
                trial.valid--;
                break;
            }
    trial.weights = reference_tensors_create(&trial.model);
    reference_initialise(&trial.model, trial.seed, &trial.weights);
    for (int t = 0; t < WF_TENSORS; t++) /* biases and norms off their 0 and 1 */
        for (int64_t e = 0; e < reference_count(&trial.model, t); e++)
            trial.weights.data[t][e] += 0.05 * wf_philox_normal(key, 200 + (uint32_t)t % 50, 0, e, 0);
    expected = reference_tensors_create(&trial.model);
    last = malloc(sizeof(double) * (size_t)(BATCH * sequences[s] * trial.model.hidden));
    const reference_batch batch = batch_of(true);
    loss = model_reference(&trial.model, &trial.weights, &batch, &(reference_outputs){.last = last}, &expected);
    snprintf(name, sizeof name, "%s, %lld heads of %lld, %lld tokens", masks[m].name, (long long)groups[g].heads,
             (long long)groups[g].kv_heads, (long long)sequences[s]);
}

static void close_model(void) {
    reference_tensors_destroy(&trial.weights);
    reference_tensors_destroy(&expected);
    free(last);
}

/* ---- layouts ------------------------------------------------------------------------------------------------------------- */

static int compared;

static void compare(const char *layout) {
    char what[160];
    outcome got;
    const double apart = outcome_of(layout, WF_MODE_GRADIENTS, compared % 2, &got);
    snprintf(what, sizeof what, "%s, %s", name, layout);
    ck_assert_msg(apart == 0, "%s: replicas differ by %g", what, apart);
    ck_assert_msg(fabs(got.loss - loss) <= OUTCOME_TOLERANCE * loss, "%s: loss %.17g, one rank's %.17g", what, got.loss, loss);
    const double d = difference(last, got.last, BATCH * trial.sequence * trial.model.hidden);
    ck_assert_msg(d <= OUTCOME_TOLERANCE, "%s: the last layer's output differs by %g", what, d);
    assert_tensors_close(&expected, &got.gradients, what);
    destroy_outcome(&got);
    compared++;
}

/* All forms of cp over n ranks. */
static void compare_forms(const char *tp, int n) {
    static const char *const forms[] = {"ring", "gather", "ulysses"};
    char layout[64];
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        snprintf(layout, sizeof layout, "%scp%d%s", tp, n, forms[i]);
        compare(layout);
    }
    for (int m = 2; m < n; m++) {
        if (n % m) continue;
        snprintf(layout, sizeof layout, "%scp%dusp%d", tp, n, m);
        compare(layout);
    }
}

START_TEST(every_form_equals_one_rank) {
    static const int ranks[] = {2, 3, 4, 6};
    compared = 0;
    open_model(_i);
    for (size_t i = 0; i < sizeof ranks / sizeof *ranks; i++) {
        compare_forms("", ranks[i]);
        if (ranks[i] % 2 || ranks[i] == 2) continue;
        compare_forms("tp2.", ranks[i] / 2);
        compare_forms("tp2.sp.", ranks[i] / 2);
    }
    ck_assert_int_eq(compared, 3 + 3 + 4 + 5 + 2 * (3 + 3));
    close_model();
}
END_TEST

/* A key that its owner forgets to send on would be seen. */
static void forget_keys(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_ATTENTION && s->problems[i].problem.flags & WF_ACCUMULATE)
            s->problems[i].problem.size[9]++; /* ... or takes for another's */
}

START_TEST(seeded_faults_are_seen) {
    world w;
    reference_tensors got;
    bool seen = false;
    open_model(1);
    open_world(&w, "cp3ring", WF_MODE_GRADIENTS, true);
    forget_keys(w.schedules[1]);
    ck_assert(!play(&w, true));
    collect_tensors(&w, ".grad", &got);
    for (int t = 0; t < WF_TENSORS; t++)
        seen = seen || !(difference(expected.data[t], got.data[t], reference_count(&trial.model, t)) <= OUTCOME_TOLERANCE);
    ck_assert(seen);
    reference_tensors_destroy(&got);
    close_world(&w);
    close_model();
}
END_TEST

/* check_context [SEED]: with the printed seed the same interleavings again. */
int main(int argc, char **argv) {
    trial.interleaving = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL) << 20;
    printf("interleavings: check_context %llu\n", (unsigned long long)trial.interleaving);
    Suite *suite = suite_create("context");
    TCase *tests = tcase_create("context");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, every_form_equals_one_rank, 0, MODELS);
    tcase_add_test(tests, seeded_faults_are_seen);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
