/* check_player.c: lowering is right before any device is involved. All ranks of each layout are
 * played in f64 (player.h); outputs and every gradient equal one rank's, and one rank's equal the
 * plain model of tests/model_reference.h, which knows no schedule.
 *
 * Heads, features, sequence and vocabulary do not divide; dropout is on; two microbatches. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/philox.h"
#include "tests/layouts/models.h"
#include "tests/layouts/outcome.h"

enum { BATCH = 4, SEQUENCE = 61, VALID = 128 /* targets: so that 1/n is exact in f32 */ };
static int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE]; /* [batch][sequence] */
static outcome one_rank;

/* ---- one rank against the plain model ---------------------------------------------------------- */

START_TEST(one_rank_equals_the_plain_model) {
    const reference_batch batch = batch_of(true);
    reference_tensors gradients = reference_tensors_create(&trial.model);
    double *last = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)trial.model.hidden);
    const double loss = model_reference(
        &trial.model, &trial.weights, &batch, &(reference_outputs){.last = last}, &gradients);
    ck_assert_msg(fabs(loss - one_rank.loss) <= OUTCOME_TOLERANCE * loss, "loss %.17g, expected %.17g",
                  one_rank.loss, loss);
    const double d = difference(last, one_rank.last, BATCH * SEQUENCE * trial.model.hidden);
    ck_assert_msg(d <= OUTCOME_TOLERANCE, "hidden states differ by %g", d);
    assert_tensors_close(&gradients, &one_rank.gradients, "gradients");
    reference_tensors_destroy(&gradients);
    free(last);
}
END_TEST

/* Norm, clipping and AdamW, from the plain gradients. */
START_TEST(one_rank_trains_as_adamw_says) {
    wf_parameter_info table[WF_TENSORS];
    outcome got;
    double sum = 0;
    ck_assert(outcome_of("tp1.mb2", WF_MODE_TRAIN, true, &got) == 0);
    wf_model_parameters(&trial.model, table);
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < reference_count(&trial.model, t); i++)
            sum += one_rank.gradients.data[t][i] * one_rank.gradients.data[t][i];
    ck_assert_msg(fabs(got.norm - sqrt(sum)) <= OUTCOME_TOLERANCE * got.norm, "norm %.17g, expected %.17g",
                  got.norm, sqrt(sum));
    const double scale = fmin(1, (double)0.25f / (sqrt(sum) + 1e-6)), lr = 1e-3f, decay = 0.01f;
    const double first = 1 - (double)0.9f, second = 1 - (double)0.999f;
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < reference_count(&trial.model, t); i++) {
            const double g = one_rank.gradients.data[t][i] * scale, p = trial.weights.data[t][i];
            const double m = first * g * 10, v = second * g * g * 1000;
            const double expected =
                p - (table[t].matrix ? lr * decay * p : 0) - lr * m / (sqrt(v) + (double)1e-8f);
            /* g near 0 against eps 1e-8 amplifies its 1e-16 rounding by 1e8 */
            ck_assert_msg(fabs(got.updated.data[t][i] - expected) <= 1e-9,
                          "%s[%lld] is %.17g, expected %.17g", table[t].name, (long long)i,
                          got.updated.data[t][i], expected);
        }
    destroy_outcome(&got);
}
END_TEST

/* ---- layouts against one rank ---------------------------------------------------------------- */

static const char *const layouts[] = {"tp1.mb2",    "tp2.mb2",    "tp2.sp.mb2", "tp3.sp.mb2",
                                      "tp4.mb2",    "tp4.sp.mb2", "tp3",        "tp8.sp.mb4",
                                      "tp11.sp.mb2" /* sums of more than 8 parts */,
                                      "cp3ring.mb2", "cp2gather.mb2", "cp8ulysses", "cp4usp2.mb2", "tp2.sp.cp3ring.mb2", "tp3.sp.cp2gather",
                                      "tp2.sp.cp2ulysses.mb2.recompute-full", "tp2.cp4usp2.recompute-attention",
                                      "tp2.sp.chunks2.mb2", "tp8.sp.chunks3.mb2", "tp4.chunks2", "tp3.sp.cp2gather.chunks2",
                                      "tp2.tp-shares3-1.sp.mb2", "tp3.tp-shares1-9-3.mb2", "cp3ring.cp-shares1-4-2", "cp2ulysses.cp-shares1-3",
                                      "tp2.tp-shares1-9.sp.cp2gather.cp-shares2-1.mb2",
                                      "tp1.mb2.loss-chunks3", "tp3.sp.mb2.loss-chunks4", "tp2.loss-chunks99",
                                      "tp1.recompute-pointwise", "tp3.sp.mb2.recompute-pointwise", "tp2.sp.recompute-attention",
                                      "tp4.mb2.recompute-attention.recompute-pointwise", "tp2.recompute-full", "tp3.sp.mb2.recompute-full"};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void compare(const char *layout, wf_mode mode, bool fusion) {
    outcome got;
    const double apart = outcome_of(layout, mode, fusion, &got);
    ck_assert_msg(apart == 0, "%s: replicas differ by %g", layout, apart);
    ck_assert_msg(fabs(got.loss - one_rank.loss) <= OUTCOME_TOLERANCE * one_rank.loss,
                  "%s: loss %.17g, one rank's %.17g", layout, got.loss, one_rank.loss);
    if (got.last) {
        const double d = difference(one_rank.last, got.last, BATCH * SEQUENCE * trial.model.hidden);
        ck_assert_msg(d <= OUTCOME_TOLERANCE, "%s: the last layer's output differs by %g", layout, d);
    }
    assert_tensors_close(&one_rank.gradients, &got.gradients, layout);
    if (mode == WF_MODE_TRAIN) {
        ck_assert_msg(fabs(got.norm - one_rank.norm) <= OUTCOME_TOLERANCE * one_rank.norm,
                      "%s: norm %.17g, one rank's %.17g", layout, got.norm, one_rank.norm);
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t i = 0; i < reference_count(&trial.model, t); i++)
                ck_assert_msg(fabs(got.updated.data[t][i] - one_rank.updated.data[t][i]) <= 1e-9,
                              "%s: an updated weight of tensor %d is %.17g", layout, t,
                              got.updated.data[t][i]);
    }
    destroy_outcome(&got);
}

START_TEST(layouts_equal_one_rank) {
    compare(layouts[_i], WF_MODE_TRAIN, true);
}
END_TEST

START_TEST(unfused_layouts_equal_one_rank) {
    compare(layouts[_i], WF_MODE_GRADIENTS, false);
}
END_TEST

/* Weights in panels: the same as rows, in every layout, and padding is 0 after a step. */
START_TEST(weights_in_panels_equal_rows) {
    trial.order = WF_ORDER_PANELS;
    compare(layouts[_i], WF_MODE_TRAIN, true);
    trial.order = WF_ORDER_ROWS;
}
END_TEST

START_TEST(results_of_panels_equal_those_of_rows) {
    outcome rows, panels;
    outcome_of("tp2.sp.mb2", WF_MODE_LOGITS, true, &rows);
    trial.order = WF_ORDER_PANELS;
    outcome_of("tp3.mb2", WF_MODE_LOGITS, true, &panels);
    trial.order = WF_ORDER_ROWS;
    const double d = difference(rows.logits, panels.logits, BATCH * SEQUENCE * trial.model.vocabulary);
    ck_assert_msg(d <= OUTCOME_TOLERANCE, "logits differ by %g", d);
    destroy_outcome(&rows);
    destroy_outcome(&panels);
}
END_TEST

START_TEST(results_equal_the_plain_model) {
    const reference_batch batch = batch_of(false);
    double *logits = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)trial.model.vocabulary);
    double *hidden = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)trial.model.hidden);
    const double loss = model_reference(&trial.model, &trial.weights, &batch,
                                        &(reference_outputs){.logits = logits, .hidden = hidden}, NULL);
    const char *const some[] = {"tp1.mb2", "tp2.mb2", "tp3.sp.mb2", "tp2.sp.mb2.loss-chunks3", "cp3ring", "tp2.sp.cp2gather.mb2",
                                "tp2.cp2ulysses"};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        outcome got;
        ck_assert(outcome_of(some[i], WF_MODE_EVALUATE, true, &got) == 0);
        ck_assert_msg(fabs(got.loss - loss) <= OUTCOME_TOLERANCE * loss, "%s: loss %.17g, expected %.17g",
                      some[i], got.loss, loss);
        destroy_outcome(&got);
        outcome_of(some[i], WF_MODE_LOGITS, true, &got);
        const double d = difference(logits, got.logits, BATCH * SEQUENCE * trial.model.vocabulary);
        ck_assert_msg(d <= OUTCOME_TOLERANCE, "%s: logits differ by %g", some[i], d);
        destroy_outcome(&got);
        outcome_of(some[i], WF_MODE_HIDDEN, true, &got);
        const double e = difference(hidden, got.hidden, BATCH * SEQUENCE * trial.model.hidden);
        ck_assert_msg(e <= OUTCOME_TOLERANCE, "%s: hidden states differ by %g", some[i], e);
        destroy_outcome(&got);
    }
    free(logits);
    free(hidden);
}
END_TEST

/* ---- the player sees faults ------------------------------------------------------------------ */

/* Plays tp2.sp after `spoil` changed rank 1's schedule; true if anything differs from one rank. */
static bool is_seen(void (*spoil)(wf_schedule *), bool obey) {
    world w;
    reference_tensors got;
    bool seen = false;
    open_world(&w, "tp2.sp.mb2", WF_MODE_GRADIENTS, true);
    if (spoil) spoil(w.schedules[1]);
    if (play(&w, obey)) seen = true;
    collect_tensors(&w, ".grad", &got);
    for (int t = 0; t < WF_TENSORS && !seen; t++)
        seen = !(difference(one_rank.gradients.data[t], got.data[t], reference_count(&trial.model, t)) <=
                 OUTCOME_TOLERANCE);
    reference_tensors_destroy(&got);
    close_world(&w);
    return seen;
}

static void shift_positions(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_REDUCE &&
            (s->problems[i].problem.flags & WF_DROPOUT))
            s->problems[i].problem.size[5]++;
}

static void forget_accumulation(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_NORM_WGRAD)
            s->problems[i].problem.flags &= ~(uint32_t)WF_ACCUMULATE;
}

/* A window that ends one key early: of a sequence that it does not fill. */
static void shorten_window(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_ATTENTION) s->problems[i].problem.size[11] -= 1;
}

START_TEST(seeded_faults_are_seen) {
    ck_assert(!is_seen(NULL, true));
    if (trial.model.window) ck_assert(is_seen(shorten_window, true));
    ck_assert(is_seen(NULL, false)); /* waits matter */
    ck_assert(is_seen(shift_positions, true));
    ck_assert(is_seen(forget_accumulation, true));
}
END_TEST

/* ---- main ------------------------------------------------------------------------------------ */

static void make_data(test_form form) {
    const uint32_t key[2] = {11, 13};
    trial.model = uneven_model(form);
    trial.batch = BATCH, trial.sequence = SEQUENCE, trial.valid = VALID;
    trial.tokens = tokens, trial.targets = targets;
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)i}, key, words);
        tokens[i] = (int32_t)(words[0] % (uint32_t)trial.model.vocabulary);
        targets[i] =
            i % 2 || i >= 2 * VALID ? -1 : (int32_t)(words[1] % (uint32_t)trial.model.vocabulary);
    }
    for (int i = 0, left = VALID - (BATCH * SEQUENCE + 1) / 2; left > 0; i++)
        if (i % 2) targets[i] = (i * 31) % (int)trial.model.vocabulary, left--;
    trial.weights = reference_tensors_create(&trial.model);
    reference_initialise(&trial.model, trial.seed, &trial.weights);
    for (int t = 0; t < WF_TENSORS; t++) /* biases and norms off their 0 and 1 */
        for (int64_t i = 0; i < reference_count(&trial.model, t); i++)
            trial.weights.data[t][i] += 0.05 * wf_philox_normal(key, 200 + (uint32_t)t % 50, 0, i, 0);
}

static void make_one_rank(test_form form) {
    outcome train;
    make_data(form);
    outcome_of("tp1.mb2", WF_MODE_GRADIENTS, false, &one_rank);
    outcome_of("tp1.mb2", WF_MODE_TRAIN, false, &train);
    one_rank.norm = train.norm;
    one_rank.updated = train.updated;
    reference_tensors_destroy(&train.gradients);
}

static void with_gpt2(void) { make_one_rank(TEST_GPT2); }
static void with_llama(void) { make_one_rank(TEST_LLAMA); }
static void with_bert(void) { make_one_rank(TEST_BERT); }
static void with_mixed(void) { make_one_rank(TEST_MIXED); }
static void with_mistral(void) { make_one_rank(TEST_MISTRAL); }

static void without(void) {
    destroy_outcome(&one_rank);
    reference_tensors_destroy(&trial.weights);
}

/* check_player [SEED]: with the printed seed the same interleavings again. */
int main(int argc, char **argv) {
    void (*const with[TEST_FORMS])(void) = {with_gpt2, with_llama, with_bert, with_mixed, with_mistral};
    trial.interleaving = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL) << 20;
    printf("interleavings: check_player %llu\n", (unsigned long long)trial.interleaving);
    Suite *suite = suite_create("player");
    for (int form = 0; form < TEST_FORMS; form++) {
        TCase *tests = tcase_create(test_form_names[form]);
        tcase_set_timeout(tests, 300);
        tcase_add_unchecked_fixture(tests, with[form], without);
        tcase_add_test(tests, one_rank_equals_the_plain_model);
        tcase_add_test(tests, one_rank_trains_as_adamw_says);
        tcase_add_loop_test(tests, layouts_equal_one_rank, 0, LAYOUTS);
        tcase_add_loop_test(tests, unfused_layouts_equal_one_rank, 1, LAYOUTS);
        tcase_add_test(tests, results_equal_the_plain_model);
        tcase_add_loop_test(tests, weights_in_panels_equal_rows, 0, LAYOUTS);
        tcase_add_test(tests, results_of_panels_equal_those_of_rows);
        tcase_add_test(tests, seeded_faults_are_seen);
        suite_add_tcase(suite, tests);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
