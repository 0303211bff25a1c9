/* check_waits.c: waits of small segments known by hand, and the cursor that joins calls. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/build.h"
#include "world.h"

static wf_schedule *create(void) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(0, 2, &s), WF_OK);
    wf_build_group(s, 0, (const int32_t[]){0, 1}, 2);
    return s;
}

static wf_view part(int32_t buffer, wf_at at, int64_t offset, int64_t n) {
    return wf_vector(buffer, at, offset, n);
}

static void compute(wf_schedule *s, wf_view read, wf_view write) {
    const wf_view views[] = {read, write};
    wf_build_opaque(s, "compute", WF_LANE_COMPUTE, views, 1, 0, 1);
}

static void receive(wf_schedule *s, wf_lane lane, wf_view view) {
    wf_build_hop(s, "receive", lane, WF_SHIFT, 0, 1, -1, NULL, 1, &view);
}

static void done(wf_schedule *s) {
    ck_assert_msg(wf_build_finish(s) == WF_OK && wf_place(s, NULL) == WF_OK, "%s", wf_last_error());
}

START_TEST(only_overlapping_bytes_wait) {
    wf_schedule *s = create();
    const int32_t x = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, 40, 1);
    const int32_t y = wf_build_slot(s, "y", WF_CLASS_IO, WF_F32, 40, 1);
    wf_build_segment(s, "s");
    receive(s, WF_LANE_TP, part(x, WF_AT_NONE, 0, 10));
    receive(s, WF_LANE_TP, part(x, WF_AT_NONE, 10, 10));
    compute(s, part(x, WF_AT_NONE, 0, 10), part(y, WF_AT_NONE, 0, 10));  /* waits for step 0 */
    compute(s, part(x, WF_AT_NONE, 5, 15), part(y, WF_AT_NONE, 0, 10));  /* for step 1 */
    compute(s, part(x, WF_AT_NONE, 0, 20), part(y, WF_AT_NONE, 0, 10));  /* known already */
    receive(s, WF_LANE_TP, part(x, WF_AT_NONE, 0, 5));                   /* for the last reader */
    receive(s, WF_LANE_TP, part(x, WF_AT_NONE, 20, 5));                  /* for nobody */
    wf_build_segment_end(s);
    done(s);
    ck_assert_int_eq(s->steps[2].wait[WF_LANE_TP], 0);
    ck_assert_int_eq(s->steps[3].wait[WF_LANE_TP], 1);
    ck_assert_int_eq(s->steps[4].wait[WF_LANE_TP], -1);
    ck_assert_int_eq(s->steps[5].wait[WF_LANE_COMPUTE], 4);
    ck_assert_int_eq(s->steps[6].wait[WF_LANE_COMPUTE], -1);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(a_wait_that_another_implies_is_left_out) {
    wf_schedule *s = create();
    const int32_t x = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, 40, 1);
    wf_build_segment(s, "s");
    receive(s, WF_LANE_TP, part(x, WF_AT_NONE, 0, 10));
    compute(s, part(x, WF_AT_NONE, 0, 10), part(x, WF_AT_NONE, 10, 10));
    receive(s, WF_LANE_CP, part(x, WF_AT_NONE, 0, 20)); /* after compute, hence after tp */
    wf_build_segment_end(s);
    done(s);
    ck_assert_int_eq(s->steps[2].wait[WF_LANE_COMPUTE], 1);
    ck_assert_int_eq(s->steps[2].wait[WF_LANE_TP], -1);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(two_readers_do_not_wait_for_each_other) {
    wf_schedule *s = create();
    const int32_t x = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, 10, 1), y = wf_build_slot(s, "y", WF_CLASS_IO, WF_F32, 10, 1);
    const wf_view view = part(x, WF_AT_NONE, 0, 10);
    wf_build_segment(s, "s");
    compute(s, view, part(y, WF_AT_NONE, 0, 10));
    wf_build_hop(s, "send", WF_LANE_TP, WF_SHIFT, 0, 1, 1, &view, -1, NULL);
    compute(s, view, part(y, WF_AT_NONE, 0, 10));
    wf_build_segment_end(s);
    done(s);
    ck_assert_int_eq(s->steps[1].wait[WF_LANE_COMPUTE], -1);
    ck_assert_int_eq(s->steps[2].wait[WF_LANE_TP], -1);
    ck_assert_int_eq(s->ntouches, 0);
    wf_schedule_destroy(s);
}
END_TEST

/* Instances 0 and 1 of a pool in turn: a receive waits for the reader of the same instance only. */
static wf_schedule *alternating(bool same) {
    wf_schedule *s = create();
    const int32_t x = wf_build_pool(s, "x", WF_CLASS_ACTIVATION, WF_F32, 10);
    const int32_t y = wf_build_slot(s, "y", WF_CLASS_IO, WF_F32, 10, 1);
    wf_build_segment(s, "receive");
    receive(s, WF_LANE_PP_RECV_F, part(x, WF_AT_X_OUT, 0, 10));
    wf_build_segment_end(s);
    wf_build_segment(s, "use");
    compute(s, part(x, WF_AT_X_IN, 0, 10), part(y, WF_AT_NONE, 0, 10));
    wf_build_segment_end(s);
    wf_build_pool_count(s, x, 2);
    for (int32_t i = 0; i < 6; i++) {
        wf_call call = {.segment = i % 2};
        call.at[WF_AT_X_OUT] = call.at[WF_AT_X_IN] = same ? 0 : i / 2 % 2;
        wf_build_call(s, &call);
    }
    return s;
}

START_TEST(calls_wait_by_instance) {
    static const int64_t expected[2][6] = {{-1, 0, -1, 1, 0, 2}, {-1, 0, 0, 1, 1, 2}};
    for (int same = 0; same < 2; same++) {
        wf_schedule *s = alternating(same);
        wf_cursor *cursor;
        done(s);
        ck_assert_int_eq(wf_cursor_create(s, &cursor), WF_OK);
        for (int pass = 0; pass < 2; pass++) { /* rewound, it says the same */
            wf_instance i;
            for (int k = 0; k < 6; k++) {
                ck_assert(wf_cursor_next(cursor, &i));
                ck_assert_int_eq(i.call_index, k);
                ck_assert_int_eq(i.seq, k / 2);
                const wf_lane other = k % 2 ? WF_LANE_PP_RECV_F : WF_LANE_COMPUTE;
                for (int l = 0; l < WF_LANES; l++)
                    ck_assert_int_eq(i.wait[l], l == (int)other ? expected[same][k] : -1);
            }
            ck_assert(!wf_cursor_next(cursor, &i));
            wf_cursor_rewind(cursor);
        }
        wf_cursor_destroy(cursor);
        wf_schedule_destroy(s);
    }
}
END_TEST

/* X_IN and X_OUT of one pool: in some call the same instance, so the segment must allow for it. */
START_TEST(two_indices_conflict_where_they_name_one_instance) {
    for (int same = 0; same < 2; same++) {
        wf_schedule *s = create();
        const int32_t x = wf_build_pool(s, "x", WF_CLASS_ACTIVATION, WF_F32, 10);
        const int32_t y = wf_build_slot(s, "y", WF_CLASS_IO, WF_F32, 10, 1);
        wf_build_segment(s, "s");
        compute(s, part(x, WF_AT_X_IN, 0, 10), part(y, WF_AT_NONE, 0, 10));
        receive(s, WF_LANE_TP, part(x, WF_AT_X_OUT, 0, 10));
        wf_build_segment_end(s);
        wf_build_pool_count(s, x, 2);
        wf_call call = {.segment = 0};
        call.at[WF_AT_X_OUT] = 1;
        wf_build_call(s, &call);
        call.at[WF_AT_X_IN] = same;
        wf_build_call(s, &call);
        done(s);
        ck_assert_int_eq(s->steps[1].wait[WF_LANE_COMPUTE], same ? 0 : -1);
        wf_schedule_destroy(s);
    }
}
END_TEST

START_TEST(an_instance_that_does_not_exist_is_refused) {
    wf_schedule *s = alternating(false);
    s->calls[3].at[WF_AT_X_IN] = 2;
    ck_assert_int_eq(wf_place(s, NULL), WF_ERR_INTERNAL);
    ck_assert_msg(strstr(wf_last_error(), "call 3 of segment use uses instance 2 of 2"), "%s", wf_last_error());
    wf_cursor *cursor;
    ck_assert_int_eq(wf_cursor_create(s, &cursor), WF_ERR_INTERNAL);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(an_empty_program_ends_at_once) {
    wf_schedule *s = create();
    wf_cursor *cursor;
    wf_instance i;
    wf_build_segment(s, "empty");
    wf_build_segment_end(s);
    done(s);
    ck_assert_int_eq(wf_cursor_create(s, &cursor), WF_OK);
    ck_assert(!wf_cursor_next(cursor, &i));
    wf_cursor_destroy(cursor);
    wf_build_call(s, &(wf_call){.segment = 0});
    done(s);
    ck_assert_int_eq(wf_cursor_create(s, &cursor), WF_OK);
    ck_assert(!wf_cursor_next(cursor, &i));
    wf_cursor_destroy(cursor);
    wf_schedule_destroy(s);
}
END_TEST

/* ---- random programs ------------------------------------------------------------------------------ */

static wf_view random_view(const int32_t *scratch, int32_t pool, int32_t slot) {
    static const wf_at ats[] = {WF_AT_X_IN, WF_AT_X_OUT, WF_AT_DX_IN}; /* consecutive */
    const int64_t first = rand() % 30, n = 1 + rand() % 10;
    switch (rand() % 4) {
    case 0: return part(pool, ats[rand() % 3], first, n);
    case 1: return part(slot, WF_AT_LAYER, first, n);
    default: return part(scratch[rand() % 3], WF_AT_NONE, first, n);
    }
}

static wf_schedule *random_program(unsigned seed) {
    wf_schedule *s;
    srand(seed);
    ck_assert_int_eq(wf_schedule_create(0, 1, &s), WF_OK);
    const int32_t pool = wf_build_pool(s, "pool", WF_CLASS_ACTIVATION, WF_F32, 40);
    const int32_t slot = wf_build_slot(s, "slot", WF_CLASS_IO, WF_F32, 40, 2);
    for (int g = 0; g < 3; g++) {
        wf_build_segment(s, "s%d", g);
        int32_t scratch[3];
        for (int i = 0; i < 3; i++) scratch[i] = wf_build_scratch(s, "t", WF_F32, 40);
        for (int i = 0; i < 10; i++) {
            wf_view views[3];
            for (int v = 0; v < 3; v++) views[v] = random_view(scratch, pool, slot);
            const int reads = rand() % 3, updates = rand() % (3 - reads);
            wf_build_opaque(s, "step", (wf_lane)(rand() % 4), views, reads, updates, rand() % (4 - reads - updates));
        }
        wf_build_segment_end(s);
    }
    wf_build_pool_count(s, pool, 3);
    for (int c = 0; c < 12; c++) {
        wf_call call = {.segment = rand() % 3, .layer = rand() % 2};
        const int32_t instance = rand() % 3; /* a segment's waits hold for all its calls, so all need them */
        for (int at = WF_AT_X_IN; at < WF_ATS; at++) call.at[at] = seed % 2 ? instance : (instance + at) % 3;
        wf_build_call(s, &call);
    }
    done(s);
    return s;
}

START_TEST(random_programs_are_ordered_and_dropped_waits_are_caught) {
    wf_schedule *s = random_program(1000 + (unsigned)_i);
    world *w = world_create(&s, 1);
    world_pair *bytes, *pairs;
    const int32_t nbytes = world_conflicts(w, WORLD_BYTES, &bytes), n = world_conflicts(w, WORLD_INSTANCES, &pairs);
    ck_assert_int_gt(nbytes, 0);
    ck_assert_int_eq(world_unordered(w, bytes, nbytes, false, NULL), 0);
    ck_assert_int_eq(world_unordered(w, pairs, n, false, NULL), 0);
    const world_drops drops = world_drop_waits(w, pairs, n, false);
    ck_assert_int_eq(drops.missed, 0);
    ck_assert_int_gt(drops.caught, 0);
    free(bytes);
    free(pairs);
    world_destroy(w);
    wf_schedule_destroy(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("waits");
    TCase *tcase = tcase_create("waits");
    tcase_add_test(tcase, only_overlapping_bytes_wait);
    tcase_add_test(tcase, a_wait_that_another_implies_is_left_out);
    tcase_add_test(tcase, two_readers_do_not_wait_for_each_other);
    tcase_add_test(tcase, calls_wait_by_instance);
    tcase_add_test(tcase, two_indices_conflict_where_they_name_one_instance);
    tcase_add_test(tcase, an_instance_that_does_not_exist_is_refused);
    tcase_add_test(tcase, an_empty_program_ends_at_once);
    tcase_add_loop_test(tcase, random_programs_are_ordered_and_dropped_waits_are_caught, 0, 60);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
