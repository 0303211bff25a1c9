/* Orders of matrices: each is a bijection into its elements, the rest is padding, and packing then
 * unpacking gives the same bits. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/order.h"

static const int64_t sizes[][2] = {{1, 1}, {31, 3}, {32, 5}, {33, 1}, {64, 2}, {97, 13}, {5, 40}, {0, 7}, {7, 0}};
enum { SIZES = sizeof sizes / sizeof *sizes };

START_TEST(every_order_is_a_bijection_and_zeros) {
    const int64_t rows = sizes[_i][0], columns = sizes[_i][1];
    for (int order = 0; order < WF_ORDERS; order++) {
        const int64_t elements = wf_order_elements(order, rows, columns);
        float *const whole = malloc((size_t)(rows * columns + 1) * sizeof(float));
        float *const back = malloc((size_t)(rows * columns + 1) * sizeof(float));
        float *const packed = malloc((size_t)(elements + 1) * sizeof(float));
        int64_t zeros = 0;
        for (int64_t i = 0; i < rows * columns; i++) whole[i] = (float)(i + 1), back[i] = -1;
        for (int64_t i = 0; i <= elements; i++) packed[i] = -2;
        wf_order_pack(order, rows, columns, whole, packed);
        for (int64_t row = 0; row < rows; row++)
            for (int64_t column = 0; column < columns; column++) {
                const int64_t at = wf_order_index(order, columns, row, column);
                ck_assert_int_lt(at, elements);
                ck_assert(packed[at] == whole[row * columns + column]); /* all differ: none is met twice */
            }
        for (int64_t i = 0; i < elements; i++) zeros += packed[i] == 0;
        ck_assert_int_eq(zeros, elements - rows * columns);
        ck_assert(packed[elements] == -2);
        wf_order_unpack(order, rows, columns, packed, back);
        ck_assert(rows * columns == 0 || memcmp(whole, back, (size_t)(rows * columns) * sizeof(float)) == 0);
        free(whole);
        free(back);
        free(packed);
    }
}
END_TEST

START_TEST(panels_are_lines_of_32_rows) {
    ck_assert_int_eq(wf_order_elements(WF_ORDER_PANELS, 33, 10), 640);
    ck_assert_int_eq(wf_order_index(WF_ORDER_PANELS, 10, 0, 1), 32);
    ck_assert_int_eq(wf_order_index(WF_ORDER_PANELS, 10, 31, 0), 31);
    ck_assert_int_eq(wf_order_index(WF_ORDER_PANELS, 10, 33, 2), 320 + 64 + 1);
    ck_assert_int_eq(wf_order_index(WF_ORDER_ROWS, 10, 3, 2), 32);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("order");
    TCase *tests = tcase_create("orders");
    tcase_add_loop_test(tests, every_order_is_a_bijection_and_zeros, 0, SIZES);
    tcase_add_test(tests, panels_are_lines_of_32_rows);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
