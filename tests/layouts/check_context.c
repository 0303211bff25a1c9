/* check_context.c: every way of splitting a sequence equals one rank, in f64: form x tensor parallelism x mask x heads x sequence
 * x ranks (tests/context_matrix.h). On devices: tests/host/context_ranks.c, which also tries what is no legal split. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/context_matrix.h"
#include "tests/layouts/outcome.h"

/* ---- the model of a case -------------------------------------------------------------------------------------------- */

static context_case now;

static void open_model(int i) {
    context_case_open(&now, i);
    trial.model = now.model;
    trial.batch = now.batch.batch, trial.sequence = now.batch.sequence, trial.valid = now.valid;
    trial.tokens = now.tokens, trial.targets = now.targets, trial.documents = now.packed ? now.documents : NULL;
    trial.weights = now.weights;
    trial.seed = now.batch.seed;
}

/* ---- layouts ------------------------------------------------------------------------------------------------------------- */

static int compared;

static void compare(const char *layout) {
    char what[160];
    outcome got;
    const double apart = outcome_of(layout, WF_MODE_GRADIENTS, compared % 2, &got);
    snprintf(what, sizeof what, "%s, %s", now.name, layout);
    ck_assert_msg(apart == 0, "%s: replicas differ by %g", what, apart);
    ck_assert_msg(fabs(got.loss - now.loss) <= OUTCOME_TOLERANCE * now.loss, "%s: loss %.17g, one rank's %.17g", what, got.loss,
                  now.loss);
    const double d = difference(now.last, got.last, CONTEXT_BATCH * trial.sequence * trial.model.hidden);
    ck_assert_msg(d <= OUTCOME_TOLERANCE, "%s: the last layer's output differs by %g", what, d);
    assert_tensors_close(&now.gradients, &got.gradients, what);
    destroy_outcome(&got);
    compared++;
}

START_TEST(every_form_equals_one_rank) {
    compared = 0;
    open_model(_i);
    for (int i = 0; i < CONTEXT_RANKS; i++) {
        context_layout *layouts;
        const int n = context_layouts(context_ranks[i], &layouts);
        for (int l = 0; l < n; l++) compare(layouts[l].text);
        free(layouts);
    }
    ck_assert_int_eq(compared, 3 + 3 + 4 + 5 + 2 * (1 + 3 + 3));
    context_case_close(&now);
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
        seen = seen || !(difference(now.gradients.data[t], got.data[t], reference_count(&trial.model, t)) <= OUTCOME_TOLERANCE);
    ck_assert(seen);
    reference_tensors_destroy(&got);
    close_world(&w);
    context_case_close(&now);
}
END_TEST

/* check_context [SEED]: with the printed seed the same interleavings again. */
int main(int argc, char **argv) {
    trial.interleaving = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL) << 20;
    printf("interleavings: check_context %llu\n", (unsigned long long)trial.interleaving);
    Suite *suite = suite_create("context");
    TCase *tests = tcase_create("context");
    tcase_set_timeout(tests, 300);
    tcase_add_loop_test(tests, every_form_equals_one_rank, 0, CONTEXT_MODELS);
    tcase_add_test(tests, seeded_faults_are_seen);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
