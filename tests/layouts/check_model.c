/* check_model.c: presets, the parameter table, shards that cover each tensor once, shapes. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/model.h"
#include "tests/layouts/models.h"

START_TEST(presets_are_legal) {
    wf_model model;
    ck_assert_int_eq(wf_model_preset("gpt2", &model), WF_OK);
    ck_assert_int_eq(wf_model_check(&model), WF_OK);
    ck_assert_int_eq(wf_model_parameter_count(&model), 124439808); /* published: 124M */
    ck_assert_int_eq(wf_model_preset("tiny", &model), WF_OK);
    ck_assert_int_eq(wf_model_check(&model), WF_OK);
    ck_assert_int_eq(model.vocabulary, 257);
    ck_assert_int_eq(wf_model_preset("gpt9", &model), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "tiny"));
}
END_TEST

START_TEST(absurd_models_are_refused) {
    wf_model model, base;
    wf_model_preset("tiny", &base);
    model = base, model.hidden = 0;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "hidden"));
    model = base, model.features = (int64_t)1 << 40;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.heads = model.kv_heads = model.head_size = (int64_t)1 << 20;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.dropout_residual = 1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.norm_epsilon = -1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.kv_heads = 3;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "kv heads"));
    model = base, model.norm = 2;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.head_form = -1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.types = -1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.window = -1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "window is -1"));
    model = base, model.window = (int64_t)1 << 25;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.biases = 8;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    base.position_form = WF_POSITIONS_ROPE, base.rope_theta = 10000;
    ck_assert_int_eq(wf_model_check(&base), WF_OK);
    model = base, model.head_size = 33;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "odd"));
    model = base, model.rope_theta = 0;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
    model = base, model.rope_factor = 8, model.rope_low_frequency = 4, model.rope_high_frequency = 1;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_ARGUMENT);
}
END_TEST

/* Marks every element of the whole that the rank's shard holds; returns how many it holds. */
static int64_t mark(const wf_shard_map *map, const wf_parameter_info *info, int *seen) {
    int64_t local = 0;
    for (int p = 0; p < map->pieces; p++) {
        ck_assert_int_eq(map->piece[p].local, local);
        for (int64_t r = 0; r < map->piece[p].count; r++)
            for (int64_t c = 0; c < map->columns; c++)
                seen[(map->piece[p].global + r) * info->columns + map->first_column + c]++;
        local += map->piece[p].count;
    }
    ck_assert_int_eq(local, map->rows);
    return map->rows * map->columns;
}

/* How often a row of a tensor is held: once; on every rank where replicated; and rows of k and v by
 * each rank that has a query head of their group. */
static int holders(const wf_model *m, const wf_parameter_info *info, const wf_layout *layout, int64_t row) {
    const int32_t tp = layout->size[WF_AXIS_TP];
    if (info->split == WF_REPLICATED) return tp;
    if (info->split != WF_SPLIT_HEADS || row < m->heads * m->head_size) return 1;
    const int64_t head = (row / m->head_size - m->heads) % m->kv_heads, group = m->heads / m->kv_heads;
    int n = 0;
    for (int32_t r = 0; r < tp; r++) {
        const wf_range heads = wf_shard(m->heads, tp, r);
        n += heads.first < (head + 1) * group && heads.first + heads.count > head * group;
    }
    return n;
}

START_TEST(shards_cover_each_tensor) {
    const wf_model model = small_model((test_form)(_i / 8));
    wf_parameter_info table[WF_TENSORS];
    wf_layout layout;
    const int tp = _i % 8 + 1;
    char text[16];
    snprintf(text, sizeof text, "tp%d", tp);
    ck_assert_int_eq(wf_layout_parse(text, &layout), WF_OK);
    wf_model_parameters(&model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const int64_t elements = table[t].rows * table[t].columns;
        int *seen = calloc((size_t)elements + 1, sizeof *seen);
        for (int rank = 0; rank < tp; rank++) {
            wf_shard_map map;
            wf_model_shard(&model, &table[t], &layout, rank, &map);
            mark(&map, &table[t], seen);
        }
        for (int64_t e = 0; e < elements; e++)
            ck_assert_int_eq(seen[e], holders(&model, &table[t], &layout, e / table[t].columns));
        free(seen);
    }
}
END_TEST

/* What Llama 3.1 8B and BERT base are said to have. */
START_TEST(published_counts) {
    wf_model llama = small_model(TEST_LLAMA), bert = small_model(TEST_BERT);
    llama.layers = 32, llama.hidden = 4096, llama.heads = 32, llama.kv_heads = 8, llama.head_size = 128;
    llama.features = 14336, llama.vocabulary = 128256, llama.positions = 131072;
    ck_assert_int_eq(wf_model_check(&llama), WF_OK);
    ck_assert_int_eq(wf_model_parameter_count(&llama), 8030261248);
    bert.layers = 12, bert.hidden = 768, bert.heads = bert.kv_heads = 12, bert.head_size = 64;
    bert.features = 3072, bert.vocabulary = 30522, bert.positions = 512;
    ck_assert_int_eq(wf_model_check(&bert), WF_OK);
    ck_assert_int_eq(wf_model_parameter_count(&bert), 109514298); /* BertForMaskedLM: without a pooler */
}
END_TEST

/* Angles of the first pair are the position; the last one's frequency is theta^(-(d - 2) / d). */
START_TEST(rotary_tables) {
    wf_model model = small_model(TEST_LLAMA);
    double row[8];
    model.head_size = 8, model.rope_theta = 10000;
    wf_model_rope(&model, 3, row);
    ck_assert_double_eq_tol(row[0], cos(3), 1e-15);
    ck_assert_double_eq_tol(row[4], sin(3), 1e-15);
    ck_assert_double_eq_tol(row[3], cos(3e-3), 1e-9);
    ck_assert_double_eq_tol(row[7], sin(3e-3), 1e-9);
    model.rope_factor = 2;
    wf_model_rope(&model, 3, row);
    ck_assert_double_eq_tol(row[4], sin(1.5), 1e-15);
    /* Llama 3: waves of 6, 63, 628 and 6283 positions: short below 2048 / 4, long above 2048 */
    model.rope_factor = 8, model.rope_low_frequency = 1, model.rope_high_frequency = 4;
    model.rope_original_positions = 2048;
    wf_model_rope(&model, 3, row);
    ck_assert_double_eq_tol(row[4], sin(3), 1e-15);
    ck_assert_double_eq_tol(row[5], sin(0.3), 1e-7);
    ck_assert_double_eq_tol(row[7], sin(3e-3 / 8), 1e-9);
    const double share = (2048 / (200 * M_PI) - 1) / 3;
    ck_assert_double_eq_tol(row[6], sin(0.03 * ((1 - share) / 8 + share)), 1e-8);
}
END_TEST

/* A key is at most positions - 1 away: only a window of as many hides one. */
START_TEST(windows_that_hide_nothing_are_none) {
    wf_model model = small_model(TEST_MISTRAL);
    ck_assert_int_eq(model.window, 2);
    ck_assert_int_eq(wf_model_window(&model, 3), 2);
    ck_assert_int_eq(wf_model_window(&model, 2), 0);
    ck_assert_int_eq(wf_model_window(&model, 1), 0);
    model.window = 0;
    ck_assert_int_eq(wf_model_window(&model, 6), 0);
}
END_TEST

START_TEST(shapes_round_trip) {
    wf_shape shape;
    char text[64];
    ck_assert_int_eq(wf_shape_parse("s128b8", &shape), WF_OK);
    wf_shape_print(&shape, text, sizeof text);
    ck_assert_str_eq(text, "b8s128");
    const char *bad[] = {
        "", "b8", "b8s", "b8s0", "b8s128x", "b8b8s1", "8s1", "b-1s4", "b8s99999999999999999999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(wf_shape_parse(bad[i], &shape) == WF_ERR_ARGUMENT, "\"%s\" was taken",
                      bad[i]);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("model");
    TCase *tests = tcase_create("model");
    tcase_add_test(tests, presets_are_legal);
    tcase_add_test(tests, absurd_models_are_refused);
    tcase_add_loop_test(tests, shards_cover_each_tensor, 0, 8 * TEST_FORMS);
    tcase_add_test(tests, published_counts);
    tcase_add_test(tests, rotary_tables);
    tcase_add_test(tests, windows_that_hide_nothing_are_none);
    tcase_add_test(tests, shapes_round_trip);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
