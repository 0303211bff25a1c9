/* check_model.c: presets, the parameter table, shards that cover each tensor once, shapes. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/model.h"

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
    model = base, model.kv_heads = 2;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_UNSUPPORTED);
    model = base, model.tied_head = false;
    ck_assert_int_eq(wf_model_check(&model), WF_ERR_UNSUPPORTED);
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

START_TEST(shards_cover_each_tensor_once) {
    const wf_model model = {.layers = 1,
                            .hidden = 24,
                            .heads = 3,
                            .kv_heads = 3,
                            .head_size = 8,
                            .features = 10,
                            .vocabulary = 7,
                            .positions = 5};
    wf_parameter_info table[WF_TENSORS];
    wf_layout layout;
    const int tp = _i + 1;
    char text[16];
    snprintf(text, sizeof text, "tp%d", tp);
    ck_assert_int_eq(wf_layout_parse(text, &layout), WF_OK);
    wf_model_parameters(&model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const int64_t elements = table[t].rows * table[t].columns;
        int *seen = calloc((size_t)elements, sizeof *seen);
        for (int rank = 0; rank < tp; rank++) {
            wf_shard_map map;
            wf_model_shard(&model, &table[t], &layout, rank, &map);
            mark(&map, &table[t], seen);
        }
        for (int64_t e = 0; e < elements; e++)
            ck_assert_int_eq(seen[e], table[t].split == WF_REPLICATED ? tp : 1);
        free(seen);
    }
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
    tcase_add_loop_test(tests, shards_cover_each_tensor_once, 0, 5);
    tcase_add_test(tests, shapes_round_trip);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
