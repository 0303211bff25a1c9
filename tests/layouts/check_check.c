/* check_check.c: the check of all ranks together finds what is seeded, and says where. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/build.h"

typedef struct faults {
    bool unwritten, partly, shorter, other_kind, missing_rank, crossed, wrong_lane, integers;
} faults;

/* Two ranks: compute a, exchange halves of x, read what came; then a pool handed from call to call. */
static wf_schedule *rank_of(int32_t rank, const faults *f) {
    const bool seeded = rank == 1;
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(rank, 2, &s), WF_OK);
    const int32_t group = wf_build_group(s, 0, (const int32_t[]){0, 1}, 2);
    const int32_t x = wf_build_pool(s, "x", WF_CLASS_ACTIVATION, f->integers && seeded ? WF_I32 : WF_F32, 20);
    const int32_t y = wf_build_slot(s, "y", WF_CLASS_IO, WF_F32, 20, 1);
    const int64_t n = f->shorter && seeded ? 9 : 10;
    const wf_view all = wf_vector(x, WF_AT_X_OUT, 0, 20), out = wf_vector(y, WF_AT_NONE, 0, 20);
    const wf_view mine = wf_vector(x, WF_AT_X_OUT, 0, n), theirs = wf_vector(x, WF_AT_X_OUT, 10, n);
    const wf_view halves[] = {out, f->partly && seeded ? wf_vector(x, WF_AT_X_OUT, 1, 9) : wf_vector(x, WF_AT_X_OUT, 0, 10)};
    const wf_view reads[] = {all, out};
    wf_build_segment(s, "exchange");
    if (!(f->unwritten && seeded)) wf_build_opaque(s, "make", WF_LANE_COMPUTE, halves, 1, 0, 1);
    const wf_collective kind = f->other_kind && seeded ? WF_ALL_GATHER : WF_SHIFT;
    const wf_lane lane = f->wrong_lane ? WF_LANE_PP_SEND_F : WF_LANE_TP;
    if (f->crossed) { /* each sends first, and receives when that is over */
        wf_build_hop(s, "send", lane, kind, group, 1, 1 - rank, &mine, -1, NULL);
        wf_build_hop(s, "receive", lane, kind, group, 1, -1, NULL, 1 - rank, &theirs);
    } else {
        wf_build_hop(s, "swap", lane, kind, group, 1, 1 - rank, &mine, 1 - rank, &theirs);
    }
    if (!f->shorter) wf_build_opaque(s, "use", WF_LANE_COMPUTE, reads, 1, 0, 1);
    wf_build_segment_end(s);
    for (int i = 0; i < 3; i++) wf_build_call(s, &(wf_call){.segment = 0, .microbatch = i});
    ck_assert_msg(wf_build_finish(s) == WF_OK && wf_place(s, NULL) == WF_OK, "%s", wf_last_error());
    return s;
}

static void expect(faults f, wf_status status, const char *a, const char *b) {
    wf_schedule *s[2] = {rank_of(0, &f), rank_of(1, &f)};
    if (f.missing_rank) {
        wf_schedule_destroy(s[1]);
        s[1] = rank_of(0, &f);
    }
    const wf_status got = wf_check((const wf_schedule *const *)s, 2);
    ck_assert_msg(got == status, "%d: %s", got, wf_last_error());
    if (status != WF_OK)
        ck_assert_msg(strstr(wf_last_error(), a) && strstr(wf_last_error(), b), "%s", wf_last_error());
    wf_schedule_destroy(s[0]);
    wf_schedule_destroy(s[1]);
}

START_TEST(what_is_right_passes) {
    expect((faults){0}, WF_OK, "", "");
}
END_TEST

START_TEST(a_read_of_what_nobody_wrote_is_found) {
    expect((faults){.unwritten = true}, WF_ERR_INTERNAL, "rank 1: swap in segment exchange", "bytes 0 to 40 of x");
}
END_TEST

START_TEST(a_read_of_what_was_partly_written_is_found) {
    expect((faults){.partly = true}, WF_ERR_INTERNAL, "rank 1: swap in segment exchange", "which nobody wrote");
}
END_TEST

START_TEST(a_message_of_another_length_is_found) {
    expect((faults){.shorter = true}, WF_ERR_MISMATCH, "ranks 1 and 0 disagree on the elements", "sends 9");
}
END_TEST

START_TEST(a_message_of_another_dtype_is_found) {
    expect((faults){.integers = true}, WF_ERR_MISMATCH, "disagree on the dtype", "ranks 1 and 0");
}
END_TEST

START_TEST(another_collective_is_found) {
    expect((faults){.other_kind = true}, WF_ERR_MISMATCH, "disagree on the collective", "microbatch 0");
}
END_TEST

START_TEST(sends_that_rely_on_buffering_are_found) {
    expect((faults){.crossed = true}, WF_ERR_MISMATCH, "rank 0, send in exchange", "a circle");
}
END_TEST

START_TEST(a_send_lane_that_receives_is_found) {
    expect((faults){.wrong_lane = true}, WF_ERR_INTERNAL, "pp.send.f", "only sends");
}
END_TEST

START_TEST(a_missing_rank_is_found) {
    expect((faults){.missing_rank = true}, WF_ERR_ARGUMENT, "each of 2 ranks", "rank 0");
}
END_TEST

START_TEST(hashes_tell_schedules_apart) {
    const faults none = {0}, kind = {.other_kind = true};
    wf_schedule *a = rank_of(1, &none), *b = rank_of(1, &none), *c = rank_of(1, &kind);
    ck_assert_uint_eq(wf_schedule_hash(a), wf_schedule_hash(b));
    ck_assert_uint_ne(wf_schedule_hash(a), wf_schedule_hash(c));
    b->calls[2].microbatch = 7;
    ck_assert_uint_ne(wf_schedule_hash(a), wf_schedule_hash(b));
    ck_assert_uint_ne(wf_schedule_hash_channel(a, 1, 0, WF_LANE_TP), wf_schedule_hash_channel(b, 1, 0, WF_LANE_TP));
    ck_assert_uint_eq(wf_schedule_hash_channel(a, 1, 0, WF_LANE_DP), 0);
    wf_work work;
    wf_schedule_count(a, &work);
    ck_assert_int_eq(work.sent_bytes[WF_SHIFT], 3 * 40);
    ck_assert_int_eq(work.received_bytes[WF_SHIFT], 3 * 40);
    ck_assert_int_eq(work.messages, 3);
    wf_schedule_destroy(a);
    wf_schedule_destroy(b);
    wf_schedule_destroy(c);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("check");
    TCase *tcase = tcase_create("check");
    tcase_add_test(tcase, what_is_right_passes);
    tcase_add_test(tcase, a_read_of_what_nobody_wrote_is_found);
    tcase_add_test(tcase, a_read_of_what_was_partly_written_is_found);
    tcase_add_test(tcase, a_message_of_another_length_is_found);
    tcase_add_test(tcase, a_message_of_another_dtype_is_found);
    tcase_add_test(tcase, another_collective_is_found);
    tcase_add_test(tcase, sends_that_rely_on_buffering_are_found);
    tcase_add_test(tcase, a_send_lane_that_receives_is_found);
    tcase_add_test(tcase, a_missing_rank_is_found);
    tcase_add_test(tcase, hashes_tell_schedules_apart);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
