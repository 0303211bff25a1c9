/* check_pipeline.c: orders of microbatches: every item once, forward before backward, as few in
 * flight as the papers say; and the programs of many shapes neither deadlock nor mismatch. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "programs.h"

enum { MOST = 2 * 3 * 12 };

/* Most forwards not yet gone back, after checking each item. */
static int32_t most_in_flight(const wf_pipeline_shape *p) {
    wf_pipeline_item items[MOST];
    bool done[2][3][12] = {{{false}}};
    int32_t flight = 0, most = 0;
    ck_assert_int_eq(wf_pipeline_order(p, items), WF_OK);
    for (int32_t i = 0; i < 2 * p->chunks * p->microbatches; i++) {
        const wf_pipeline_item *t = &items[i];
        ck_assert(t->chunk >= 0 && t->chunk < p->chunks && t->microbatch >= 0 && t->microbatch < p->microbatches);
        ck_assert(!done[t->backward][t->chunk][t->microbatch]);
        if (t->backward) ck_assert(done[0][t->chunk][t->microbatch]);
        done[t->backward][t->chunk][t->microbatch] = true;
        flight += t->backward ? -1 : 1;
        if (flight > most) most = flight;
    }
    ck_assert_int_eq(flight, 0);
    return most;
}

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

START_TEST(orders_keep_as_few_in_flight_as_they_claim) {
    for (int32_t stages = 1; stages <= 5; stages++)
        for (int32_t stage = 0; stage < stages; stage++)
            for (int32_t m = 1; m <= 12; m++) {
                ck_assert_int_eq(most_in_flight(&(wf_pipeline_shape){WF_GPIPE, stages, stage, 1, m}), m);
                ck_assert_int_eq(most_in_flight(&(wf_pipeline_shape){WF_1F1B, stages, stage, 1, m}), smaller(stages - stage, m));
                for (int32_t v = 2; v <= 3 && m % stages == 0; v++)
                    ck_assert_int_eq(most_in_flight(&(wf_pipeline_shape){WF_1F1B, stages, stage, v, m}),
                                     smaller(2 * (stages - stage - 1) + (v - 1) * stages + 1, v * m));
            }
}
END_TEST

START_TEST(shapes_that_a_form_does_not_take_are_refused) {
    wf_pipeline_item items[MOST];
    ck_assert_int_eq(wf_pipeline_order(&(wf_pipeline_shape){WF_GPIPE, 4, 0, 2, 8}, items), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_pipeline_order(&(wf_pipeline_shape){WF_1F1B, 4, 0, 2, 6}, items), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "mb6"));
    ck_assert_int_eq(wf_pipeline_order(&(wf_pipeline_shape){WF_1F1B, 4, 4, 1, 6}, items), WF_ERR_ARGUMENT);
}
END_TEST

static void passes(wf_pipeline form, int32_t stages, int32_t chunks, int32_t m, int32_t layers) {
    const program q = {.name = "pipeline", .ranks = stages, .shape = {form, stages, 0, chunks, m}, .layers = layers};
    wf_schedule *s[5] = {NULL};
    for (int32_t r = 0; r < stages; r++) s[r] = program_rank(&q, r);
    ck_assert_msg(wf_check((const wf_schedule *const *)s, stages) == WF_OK, "form %d, pp%d.vp%d.mb%d, %d layers: %s",
                  form, stages, chunks, m, layers, wf_last_error());
    for (int32_t r = 0; r < stages; r++) wf_schedule_destroy(s[r]);
}

/* Fewer layers than chunks: some stages only pass on. */
START_TEST(programs_of_many_shapes_pass_the_check) {
    for (int32_t stages = 1; stages <= 5; stages++)
        for (int32_t m = 1; m <= 10; m++)
            for (int32_t layers = 1; layers <= 11; layers += 5) {
                passes(WF_GPIPE, stages, 1, m, layers);
                passes(WF_1F1B, stages, 1, m, layers);
                passes(WF_PIPEDREAM, stages, 1, m, layers);
                for (int32_t v = 2; v <= 3 && m % stages == 0; v++) passes(WF_1F1B, stages, v, m, layers);
            }
}
END_TEST

START_TEST(weights_are_gathered_ahead) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(0, 1, &s), WF_OK);
    wf_call gather[6], use[6];
    for (int32_t k = 0; k < 6; k++) {
        gather[k] = (wf_call){.segment = 0, .layer = k};
        use[k] = (wf_call){.segment = 1, .layer = k};
    }
    ck_assert_int_eq(wf_gathered_program(s, gather, use, 6, 2), 3);
    int32_t gathered = 0, used = 0;
    for (int32_t c = 0; c < s->ncalls; c++) {
        const wf_call *call = &s->calls[c];
        ck_assert_int_eq(call->layer, call->segment ? used++ : gathered++);
        ck_assert_int_eq(call->at[WF_AT_WEIGHTS], call->layer % 3);
        if (call->segment) ck_assert_int_eq(gathered, smaller(6, used + 2));
    }
    ck_assert_int_eq(used, 6);
    wf_schedule_destroy(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("pipeline");
    TCase *tcase = tcase_create("pipeline");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, orders_keep_as_few_in_flight_as_they_claim);
    tcase_add_test(tcase, shapes_that_a_form_does_not_take_are_refused);
    tcase_add_test(tcase, programs_of_many_shapes_pass_the_check);
    tcase_add_test(tcase, weights_are_gathered_ahead);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
