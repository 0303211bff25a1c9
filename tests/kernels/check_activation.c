/* The activations' table: values known in closed form, derivatives against finite differences, the
 * bounds that tolerances use, and tails. The device's twin is tested through check_gemm.c. */
#include <check.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/activation.h"

/* Central differences in f64: error h^2 |f'''| / 6 + 2^-53 |f| / h, both below 1e-9 for h = 1e-5 and
 * |x| <= 8. */
START_TEST(derivatives_are_finite_differences) {
    const wf_activation_entry *a = &wf_activations[_i];
    const double h = 1e-5;
    for (double x = -8.003; x <= 8; x += 0.01) {
        const double difference = (a->f(x + h) - a->f(x - h)) / (2 * h);
        ck_assert_msg(fabs(difference - a->df(x)) < 2e-9, "%s'(%g) is %.12g, difference %.12g", a->name,
                      x, a->df(x), difference);
    }
}
END_TEST

START_TEST(bounds_hold_and_are_close) {
    const wf_activation_entry *a = &wf_activations[_i];
    double slope = 0, bend = 0;
    const double h = 1e-4;
    for (double x = -30; x <= 30; x += 1e-3) {
        slope = fmax(slope, fabs(a->df(x)));
        if (fabs(x) > 2 * h || _i != WF_ACT_RELU)
            bend = fmax(bend, fabs(a->df(x + h) - a->df(x - h)) / (2 * h));
    }
    ck_assert_double_le(slope, a->lipschitz);
    ck_assert_double_ge(slope, 0.99 * a->lipschitz);
    ck_assert_double_le(bend, a->lipschitz_gradient);
    ck_assert_double_ge(bend, 0.99 * a->lipschitz_gradient);
}
END_TEST

/* Each is 0 at 0, x for large x, 0 for very negative x; its slope 1 and 0 there; nothing overflows. */
START_TEST(ends_are_right) {
    const wf_activation_entry *a = &wf_activations[_i];
    if (_i == WF_ACT_NONE) return;
    ck_assert_double_eq(a->f(0), 0);
    for (double x = 50; x < 1e38; x *= 10) {
        ck_assert_double_eq_tol(a->f(x) / x, 1, 1e-15);
        ck_assert_double_eq_tol(a->df(x), 1, 1e-15);
        ck_assert_double_eq_tol(a->f(-x), 0, 1e-15);
        ck_assert_double_eq_tol(a->df(-x), 0, 1e-15);
    }
}
END_TEST

/* Values made with 30-digit arithmetic (x/2 (1 + erf), tanh form, x/(1+exp(-x))). */
static const struct {
    wf_activation which;
    double x, f;
} known[] = {
    {WF_ACT_GELU, 1, 0.84134474606854294859},
    {WF_ACT_GELU_TANH, 1, 0.84119199060827670478},
    {WF_ACT_SILU, 1, 0.73105857863000487925},
    {WF_ACT_GELU, -1, -0.15865525393145705141},
    {WF_ACT_GELU_TANH, -1, -0.15880800939172329522},
    {WF_ACT_SILU, -1, -0.26894142136999512075},
    {WF_ACT_GELU, 0.5, 0.34573123063700655182},
    {WF_ACT_GELU_TANH, 0.5, 0.34571400982514392204},
    {WF_ACT_SILU, 0.5, 0.31122966560092728232},
    {WF_ACT_GELU, -3, -0.00404969409489028358},
    {WF_ACT_GELU_TANH, -3, -0.0036373920817730188378},
    {WF_ACT_SILU, -3, -0.14227761953270034264},
    {WF_ACT_RELU, -3, 0},
    {WF_ACT_RELU, 2.5, 2.5},
};

START_TEST(known_values) {
    const double got = wf_activations[known[_i].which].f(known[_i].x);
    ck_assert_double_eq_tol(got, known[_i].f, 1e-15 * fmax(1, fabs(known[_i].f)));
}
END_TEST

START_TEST(nan_stays_visible) {
    ck_assert_double_nan(wf_activations[_i].f(NAN));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("activation");
    TCase *tests = tcase_create("activation");
    suite_add_tcase(suite, tests);
    tcase_add_loop_test(tests, derivatives_are_finite_differences, 0, WF_ACTS);
    tcase_add_loop_test(tests, bounds_hold_and_are_close, 0, WF_ACTS);
    tcase_add_loop_test(tests, ends_are_right, 0, WF_ACTS);
    tcase_add_loop_test(tests, known_values, 0, (int)(sizeof known / sizeof *known));
    tcase_add_loop_test(tests, nan_stays_visible, 0, WF_ACTS);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
