/* The shared list of cases has everything that an operation takes, and round-trips. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cases.h"
#include "tests/kernels/coverage.h"

static void read_text(const char *text, wf_problem *out) {
    ck_assert_msg(wf_problem_parse(text, out) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_problem_check(out) == WF_OK, "%s: %s", text, wf_last_error());
}

START_TEST(texts_round_trip) {
    for (int i = 0; wf_cases[i]; i++) {
        wf_problem p, again;
        char text[WF_CASE_BYTES], text_again[WF_CASE_BYTES];
        read_text(wf_cases[i], &p);
        wf_problem_print(&p, text, sizeof text);
        read_text(text, &again);
        ck_assert_msg(wf_problem_equal(&p, &again), "%s printed as %s", wf_cases[i], text);
        wf_problem_print(&again, text_again, sizeof text_again);
        ck_assert_str_eq(text, text_again);
    }
}
END_TEST

START_TEST(no_problem_is_there_twice) {
    for (int i = 0; wf_cases[i]; i++)
        for (int j = 0; j < i; j++) {
            wf_problem a, b;
            read_text(wf_cases[i], &a);
            read_text(wf_cases[j], &b);
            ck_assert_msg(!wf_problem_equal(&a, &b), "%s and %s", wf_cases[j], wf_cases[i]);
        }
}
END_TEST

START_TEST(every_operation_has_every_flag) {
    coverage all = {0};
    char sentence[160];
    for (int i = 0; wf_cases[i]; i++) {
        wf_problem p;
        read_text(wf_cases[i], &p);
        coverage_add(&all, &p);
    }
    ck_assert_msg(!coverage_misses(&all, sentence, sizeof sentence), "%s", sentence);
}
END_TEST

/* Each text in turn is left out; some of them must be missed, or the check above sees nothing. */
START_TEST(what_is_left_out_is_missed) {
    int missed = 0;
    for (int out = 0; wf_cases[out]; out++) {
        coverage rest = {0};
        char sentence[160];
        for (int i = 0; wf_cases[i]; i++) {
            wf_problem p;
            read_text(wf_cases[i], &p);
            if (i != out) coverage_add(&rest, &p);
        }
        missed += coverage_misses(&rest, sentence, sizeof sentence);
    }
    ck_assert_int_ge(missed, 10);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cases");
    TCase *tests = tcase_create("cases");
    suite_add_tcase(suite, tests);
    tcase_add_test(tests, texts_round_trip);
    tcase_add_test(tests, no_problem_is_there_twice);
    tcase_add_test(tests, every_operation_has_every_flag);
    tcase_add_test(tests, what_is_left_out_is_missed);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
