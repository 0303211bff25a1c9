/* Philox4x32-10: published vectors, committed golden values (made by an independent program in
 * another language), and the statistics of masks and normal deviates. The device's words are
 * compared with these in check_rows.c. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

/* ---- known answers ---------------------------------------------------------------------------- */

/* kat_vectors of Random123: counter and key all zeros, all ones, and digits of pi. */
static const struct {
    uint32_t counter[4], key[2], out[4];
} published[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

START_TEST(published_vectors)
{
    uint32_t out[4];
    wf_philox4x32(published[_i].counter, published[_i].key, out);
    ck_assert_mem_eq(out, published[_i].out, sizeof out);
}
END_TEST

static const struct {
    uint64_t seed;
    int64_t step;
    uint32_t key[2];
} keys[] = {
    {0, 0, {0x2b1816a0, 0xf6013c1b}},
    {1, 0, {0xcb65e055, 0x40108a54}},
    {0, 1, {0xbbfe0c94, 0xa94b43c1}},
    {1, -1, {0x1c5a00ff, 0x36256caa}},
    {0x123456789abcdef0, (int64_t)1 << 40, {0x7dd44cc4, 0x1a3e5757}},
};

START_TEST(golden_keys)
{
    uint32_t key[2];
    wf_philox_key(keys[_i].seed, keys[_i].step, key);
    ck_assert_uint_eq(key[0], keys[_i].key[0]);
    ck_assert_uint_eq(key[1], keys[_i].key[1]);
}
END_TEST

/* Bit c: column c of 64 is kept; seed 42, step 7. */
static const struct {
    double p;
    uint32_t site, layer, c1, c2;
    uint64_t kept;
} masks[] = {
    {0.1, WF_SITE_EMBEDDING, 0, 0, 0, 0xffffefdfeffefbff},
    {0.1, WF_SITE_ATTENTION_OUT, 5, 2, 60, 0xff7bfbdfdfdffff7},
    {0.5, WF_SITE_ATTENTION, 11, 17, 1023, 0xe67756153f209ff3},
    {0.25, WF_SITE_MLP_OUT, 300, 0xffffffff, 1, 0x775efff9e97fee2f},
    {0, WF_SITE_MLP_OUT, 1, 2, 3, UINT64_MAX},
};

START_TEST(golden_masks)
{
    uint32_t key[2];
    wf_philox_key(42, 7, key);
    const uint32_t threshold = wf_philox_threshold(masks[_i].p);
    uint64_t kept = 0;
    for (int64_t column = 0; column < 64; column++)
        kept |= (uint64_t)wf_dropout_keep(key, masks[_i].site, masks[_i].layer, masks[_i].c1,
                                          masks[_i].c2, column, threshold)
                << column;
    ck_assert_uint_eq(kept, masks[_i].kept);
}
END_TEST

/* Equal to the last bit, on any machine and with any math library. */
static const struct {
    uint32_t site, layer;
    int64_t row, column;
    double value;
} normals[] = {
    {WF_SITE_INIT + 0, 0, 0, 0, -0x1.1cd0bb4157fc6p-1},
    {WF_SITE_INIT + 0, 0, 50256, 767, 0x1.6e5c8347710c5p+0},
    {WF_SITE_INIT + 4, 11, 2303, 5, -0x1.825ef7cbb7323p+0},
    {WF_SITE_INIT + 12, 3, ((int64_t)1 << 33) + 1, 2, -0x1.5929afe45d736p+0},
};

START_TEST(golden_normals)
{
    uint32_t key[2];
    wf_philox_key(1234, -1, key);
    const double got = wf_philox_normal(key, normals[_i].site, normals[_i].layer, normals[_i].row,
                                        normals[_i].column);
    ck_assert_msg(got == normals[_i].value, "element %d: %a instead of %a", _i, got,
                  normals[_i].value);
}
END_TEST

/* ---- statistics ------------------------------------------------------------------------------- */

START_TEST(thresholds)
{
    ck_assert_uint_eq(wf_philox_threshold(0), 0);
    ck_assert_uint_eq(wf_philox_threshold(-1), 0);
    ck_assert_uint_eq(wf_philox_threshold(0.5), 0x80000000u);
    ck_assert_uint_eq(wf_philox_threshold(0.1), 429496729u);
    ck_assert_uint_eq(wf_philox_threshold(1), 0xffffffffu);
}
END_TEST

/* n independent masks of keep probability 0.9: the count is within 5 standard deviations. */
START_TEST(masks_keep_their_share)
{
    const int64_t rows = 200, columns = 500;
    uint32_t key[2];
    wf_philox_key(3, 14, key);
    const uint32_t threshold = wf_philox_threshold(0.1);
    int64_t kept = 0;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            kept += wf_dropout_keep(key, WF_SITE_MLP_OUT, 2, 0, (uint32_t)row, column, threshold);
    const double n = (double)(rows * columns), deviation = sqrt(n * 0.1 * 0.9);
    ck_assert_double_lt(fabs((double)kept - 0.9 * n), 5 * deviation);
}
END_TEST

/* Share of a standard normal below x, by the C library: the deviates' source does not use it. */
static double share_below(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Moments within 5 standard errors (of x^k: sqrt(((2k-1)!! - E[x^k]^2) / n)); the tail beyond 3
 * holds its share; and Kolmogorov-Smirnov's distance, sqrt(n) D < 1.95 but once in 1000 seeds. */
START_TEST(normals_are_normal)
{
    enum { ROWS = 256, COLUMNS = 256, N = ROWS * COLUMNS };
    static double x[N];
    uint32_t key[2];
    wf_philox_key(2718, -1, key);
    double moment[4] = {0}, tail = 0;
    for (int i = 0; i < N; i++) {
        x[i] = wf_philox_normal(key, WF_SITE_INIT + 4, 1, i / COLUMNS, i % COLUMNS);
        double power = 1;
        for (int k = 0; k < 4; k++) moment[k] += (power *= x[i]) / N;
        tail += fabs(x[i]) > 3;
    }
    ck_assert_double_lt(fabs(moment[0]), 5 * sqrt(1.0 / N));
    ck_assert_double_lt(fabs(moment[1] - 1), 5 * sqrt(2.0 / N));
    ck_assert_double_lt(fabs(moment[2]), 5 * sqrt(15.0 / N));
    ck_assert_double_lt(fabs(moment[3] - 3), 5 * sqrt(96.0 / N));
    const double expected = 2 * share_below(-3) * N;
    ck_assert_double_lt(fabs(tail - expected), 5 * sqrt(expected));
    qsort(x, N, sizeof *x, ascending);
    double distance = 0;
    for (int i = 0; i < N; i++) {
        const double share = share_below(x[i]);
        distance = fmax(distance, fmax(share - (double)i / N, (i + 1.0) / N - share));
    }
    ck_assert_double_lt(sqrt((double)N) * distance, 1.95);
}
END_TEST

/* A row drawn at once is the row drawn one by one, wherever it begins and ends. */
START_TEST(neighbours_are_the_same_alone)
{
    enum { MOST = 13 };
    const int64_t row = ((int64_t)3 << 32) + 5;
    uint32_t key[2];
    wf_philox_key(99, -1, key);
    for (int64_t column = 0; column < 9; column++)
        for (int count = 0; count <= MOST; count++) {
            double x[MOST + 1];
            x[count] = -7;
            wf_philox_normals(key, 70, 2, row, column, count, x);
            for (int i = 0; i < count; i++)
                ck_assert(x[i] == wf_philox_normal(key, 70, 2, row, column + i));
            ck_assert(x[count] == -7);
        }
}
END_TEST

/* Every argument of the counter and the key matters. */
START_TEST(arguments_are_independent)
{
    uint32_t key[2], other[2];
    wf_philox_key(1, 1, key);
    wf_philox_key(1, 2, other);
    const double base = wf_philox_normal(key, 64, 1, 2, 3);
    ck_assert_double_ne(base, wf_philox_normal(other, 64, 1, 2, 3));
    ck_assert_double_ne(base, wf_philox_normal(key, 65, 1, 2, 3));
    ck_assert_double_ne(base, wf_philox_normal(key, 64, 2, 2, 3));
    ck_assert_double_ne(base, wf_philox_normal(key, 64, 1, 3, 3));
    ck_assert_double_ne(base, wf_philox_normal(key, 64, 1, 2, 4));
    ck_assert_double_ne(base, wf_philox_normal(key, 64, 1, 2 + ((int64_t)1 << 32), 3));
    ck_assert_double_eq(base, wf_philox_normal(key, 64, 1, 2, 3));
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

int main(void) {
    Suite *suite = suite_create("philox");
    TCase *known = tcase_create("known answers");
    tcase_add_loop_test(known, published_vectors, 0, COUNT(published));
    tcase_add_loop_test(known, golden_keys, 0, COUNT(keys));
    tcase_add_loop_test(known, golden_masks, 0, COUNT(masks));
    tcase_add_loop_test(known, golden_normals, 0, COUNT(normals));
    suite_add_tcase(suite, known);
    TCase *statistics = tcase_create("statistics");
    tcase_add_test(statistics, thresholds);
    tcase_add_test(statistics, masks_keep_their_share);
    tcase_add_test(statistics, normals_are_normal);
    tcase_add_test(statistics, neighbours_are_the_same_alone);
    tcase_add_test(statistics, arguments_are_independent);
    suite_add_tcase(suite, statistics);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
