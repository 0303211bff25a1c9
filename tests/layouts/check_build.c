/* check_build.c: what one step alone can break is refused with a sentence that names it. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/build.h"

static wf_schedule *create(int32_t rank, int32_t ranks) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(rank, ranks, &s), WF_OK);
    return s;
}

/* The schedule fails with a sentence that holds all these words. */
static void refuses(wf_schedule *s, const char *a, const char *b, const char *c) {
    ck_assert_int_ne(wf_build_finish(s), WF_OK);
    ck_assert_msg(strstr(wf_last_error(), a) && strstr(wf_last_error(), b) && strstr(wf_last_error(), c), "%s",
                  wf_last_error());
    wf_schedule_destroy(s);
}

static const wf_problem copy = {.op = WF_OP_COPY, .dtype = WF_F32, .size = {3, 5}};

START_TEST(equal_problems_share_an_index) {
    wf_schedule *s = create(0, 1);
    int32_t first[300];
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < 300; i++) {
            const wf_problem p = {.op = WF_OP_COPY, .dtype = WF_F32, .size = {i, 7}};
            const int32_t index = wf_build_problem(s, &p);
            if (pass == 0) first[i] = index;
            ck_assert_int_eq(index, first[i]);
            ck_assert(wf_problem_equal(&s->problems[index].problem, &p));
        }
    ck_assert_int_eq(s->nproblems, 300);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(a_kernel_gets_its_operands_access) {
    wf_schedule *s = create(0, 1);
    wf_build_segment(s, "s");
    const int32_t a = wf_build_scratch(s, "a", WF_F32, 15), b = wf_build_scratch(s, "b", WF_F32, 15);
    const wf_view views[] = {wf_matrix(a, WF_AT_NONE, 0, 3, 5, 5), wf_matrix(b, WF_AT_NONE, 0, 3, 5, 5)};
    wf_build_kernel(s, "copy", &copy, views, 2);
    wf_build_segment_end(s);
    ck_assert_int_eq(wf_build_finish(s), WF_OK);
    ck_assert_int_eq(s->nsteps, 1);
    ck_assert_int_eq(s->steps[0].reads, 1);
    ck_assert_int_eq(s->steps[0].updates, 0);
    ck_assert_int_eq(s->steps[0].writes, 1);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(operands_that_do_not_fit_are_refused) {
    for (int fault = 0; fault < 4; fault++) {
        wf_schedule *s = create(0, 1);
        wf_build_segment(s, "s");
        const int32_t a = wf_build_scratch(s, "a", fault == 2 ? WF_I32 : WF_F32, 20), b = wf_build_scratch(s, "b", WF_F32, 20);
        wf_view views[] = {wf_matrix(a, WF_AT_NONE, 0, fault == 0 ? 4 : 3, 5, 5), wf_matrix(b, WF_AT_NONE, 0, 3, 5, 5)};
        if (fault == 1) views[0] = wf_vector(a, WF_AT_NONE, 0, 15);
        wf_build_kernel(s, "mlp.copy", &copy, views, fault == 3 ? 1 : 2);
        wf_build_segment_end(s);
        static const char *const words[] = {"dimension 0 of operand", "dimensions", "dtype", "takes 2 operands, 1"};
        refuses(s, "mlp.copy", words[fault], fault == 3 ? "copy" : "a");
    }
}
END_TEST

START_TEST(views_stay_inside_their_buffers) {
    wf_schedule *s = create(0, 1);
    wf_build_segment(s, "s");
    const int32_t a = wf_build_scratch(s, "narrow", WF_F32, 10);
    const wf_view view = wf_matrix(a, WF_AT_NONE, 0, 3, 2, 5);
    wf_build_opaque(s, "site", WF_LANE_COMPUTE, &view, 0, 0, 1);
    wf_build_segment_end(s);
    refuses(s, "site", "narrow", "spans bytes 0 to 48 of 40");
}
END_TEST

START_TEST(scratch_of_another_segment_is_refused) {
    wf_schedule *s = create(0, 1);
    wf_build_segment(s, "one");
    const int32_t a = wf_build_scratch(s, "mine", WF_F32, 10);
    wf_build_segment_end(s);
    wf_build_segment(s, "two");
    const wf_view view = wf_vector(a, WF_AT_NONE, 0, 10);
    wf_build_opaque(s, "site", WF_LANE_COMPUTE, &view, 0, 0, 1);
    wf_build_segment_end(s);
    refuses(s, "site", "mine", "another segment");
}
END_TEST

START_TEST(the_first_error_sticks) {
    wf_schedule *s = create(0, 2);
    wf_build_group(s, 0, (const int32_t[]){1}, 1);
    wf_build_segment(s, "s");
    wf_build_scratch(s, "x", WF_F32, -1);
    refuses(s, "rank 0", "not in its own group", "");
    wf_schedule *open = create(0, 1);
    wf_build_segment(open, "left");
    refuses(open, "left", "not ended", "");
}
END_TEST

/* As when the host's memory ends before the first buffer: its index is not to be used. */
START_TEST(after_an_error_nothing_is_touched) {
    wf_schedule *s = create(0, 2);
    const int32_t members[] = {0, 1}, group = wf_build_group(s, 0, members, 2);
    const wf_rows shard[] = {{0, 2}, {2, 2}};
    wf_view parts[2] = {{0}};
    wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for the first buffer"));
    const int32_t slot = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, 16, 1);
    const wf_view whole = wf_matrix(slot, WF_AT_NONE, 0, 4, 4, 4);
    wf_build_owner(s, slot, WF_OWNER_CALLER);
    wf_build_pool_count(s, slot, 2);
    wf_build_segment(s, "s");
    wf_build_reduce_scatter(s, "sum", WF_LANE_TP, group, &whole, shard, parts);
    wf_build_all_gather(s, "gather", WF_LANE_TP, group, &whole, shard);
    wf_build_segment_end(s);
    ck_assert_int_eq(s->nbuffers, 0);
    refuses(s, "no host memory", "first", "buffer");
}
END_TEST

START_TEST(sizes_that_cannot_be_counted_are_refused) {
    wf_schedule *s = create(0, 1);
    wf_build_slot(s, "vast", WF_CLASS_PARAMETER, WF_F32, INT64_MAX / 3, 1);
    refuses(s, "vast", "cannot be counted", "");
}
END_TEST

START_TEST(what_has_no_bytes_leaves_no_step) {
    wf_schedule *s = create(0, 2);
    const int32_t group = wf_build_group(s, 0, (const int32_t[]){0, 1}, 2);
    wf_build_segment(s, "s");
    const int32_t a = wf_build_scratch(s, "a", WF_F32, 0);
    const wf_problem none = {.op = WF_OP_COPY, .dtype = WF_F32, .size = {0, 5}};
    const wf_view views[] = {wf_matrix(a, WF_AT_NONE, 0, 0, 5, 5), wf_matrix(a, WF_AT_NONE, 0, 0, 5, 5)};
    wf_build_kernel(s, "copy", &none, views, 2);
    wf_build_hop(s, "hop", WF_LANE_TP, WF_SHIFT, group, 1, 1, &views[0], 1, &views[1]);
    wf_build_segment_end(s);
    ck_assert_int_eq(wf_build_finish(s), WF_OK);
    ck_assert_int_eq(s->nsteps, 0);
    ck_assert_int_eq(wf_place(s, NULL), WF_OK);
    ck_assert_int_eq(s->buffers[a].allocation, -1);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(messages_with_gaps_are_refused) {
    wf_schedule *s = create(0, 2);
    const int32_t group = wf_build_group(s, 0, (const int32_t[]){0, 1}, 2);
    wf_build_segment(s, "s");
    const int32_t a = wf_build_scratch(s, "gappy", WF_F32, 20);
    const wf_view view = wf_matrix(a, WF_AT_NONE, 0, 2, 4, 10);
    wf_build_hop(s, "hop", WF_LANE_TP, WF_SHIFT, group, 1, 1, &view, -1, NULL);
    wf_build_segment_end(s);
    refuses(s, "hop", "gappy", "gaps");
}
END_TEST

/* Rows 5 over 3 members as 2, 2, 1, and an empty shard: who sends what to whom. */
START_TEST(collectives_are_permutations_of_hops) {
    const wf_rows rows[] = {{0, 2}, {2, 2}, {4, 1}, {5, 0}};
    int64_t sent[4][4] = {{0}}, received[4][4] = {{0}};
    for (int32_t r = 0; r < 4; r++) {
        wf_schedule *s = create(r, 4);
        const int32_t group = wf_build_group(s, 0, (const int32_t[]){0, 1, 2, 3}, 4);
        wf_build_segment(s, "s");
        const int32_t a = wf_build_scratch(s, "a", WF_F32, 15);
        const wf_view whole = wf_matrix(a, WF_AT_NONE, 0, 5, 3, 3);
        wf_view parts[4];
        wf_build_all_gather(s, "gather", WF_LANE_TP, group, &whole, rows);
        wf_build_reduce_scatter(s, "scatter", WF_LANE_TP, group, &whole, rows, parts);
        wf_build_segment_end(s);
        ck_assert_int_eq(wf_build_finish(s), WF_OK);
        for (int32_t i = 0; i < s->nsteps; i++) {
            const wf_exchange *e = &s->exchanges[s->steps[i].exchange];
            const int64_t weight = e->collective == WF_ALL_GATHER ? 1 : 100;
            if (e->to >= 0) sent[r][e->to] += weight * wf_view_elements(&s->views[s->steps[i].view]);
            if (e->from >= 0) received[e->from][r] += weight * wf_view_elements(&s->views[s->steps[i].view + s->steps[i].reads]);
        }
        for (int32_t i = 0; i < 4; i++) {
            ck_assert_int_eq(parts[i].extent[0], rows[r].count);
            ck_assert_int_eq(parts[i].extent[1], 3);
            ck_assert_int_eq(parts[i].buffer == a, i == r);
        }
        ck_assert_int_eq(parts[r].offset, rows[r].first * 3);
        wf_schedule_destroy(s);
    }
    ck_assert_mem_eq(sent, received, sizeof sent);
    for (int32_t a = 0; a < 4; a++)
        for (int32_t b = 0; b < 4; b++)
            ck_assert_int_eq(sent[a][b], a == b ? 0 : 3 * rows[a].count + 300 * rows[b].count);
}
END_TEST

START_TEST(free_lists_hand_out_the_longest_free) {
    wf_schedule *s = create(0, 1);
    wf_free_list *list = wf_free_list_create(s);
    for (int32_t i = 0; i < 40; i++) ck_assert_int_eq(wf_free_list_take(list), i);
    for (int32_t i = 39; i >= 0; i--) wf_free_list_give(list, i);
    for (int32_t i = 39; i >= 20; i--) ck_assert_int_eq(wf_free_list_take(list), i);
    wf_free_list_quarantine(list, 20);
    ck_assert_int_eq(wf_free_list_take(list), 40);
    wf_free_list_give(list, 7);
    ck_assert_int_eq(wf_free_list_take(list), 19);
    ck_assert_int_eq(wf_free_list_count(list), 41);
    wf_schedule_destroy(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("build");
    TCase *tcase = tcase_create("build");
    tcase_add_test(tcase, equal_problems_share_an_index);
    tcase_add_test(tcase, a_kernel_gets_its_operands_access);
    tcase_add_test(tcase, operands_that_do_not_fit_are_refused);
    tcase_add_test(tcase, views_stay_inside_their_buffers);
    tcase_add_test(tcase, scratch_of_another_segment_is_refused);
    tcase_add_test(tcase, the_first_error_sticks);
    tcase_add_test(tcase, after_an_error_nothing_is_touched);
    tcase_add_test(tcase, sizes_that_cannot_be_counted_are_refused);
    tcase_add_test(tcase, what_has_no_bytes_leaves_no_step);
    tcase_add_test(tcase, messages_with_gaps_are_refused);
    tcase_add_test(tcase, collectives_are_permutations_of_hops);
    tcase_add_test(tcase, free_lists_hand_out_the_longest_free);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
