/* names_support.h: a small model of each family and dialect, its weights written to a folder of the test's, each value saying where
 * it belongs, so that a rank's shard can be proved whatever file it was read from. */
#ifndef WF_TESTS_NAMES_SUPPORT_H
#define WF_TESTS_NAMES_SUPPORT_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/model/shards.h"
#include "host/model/weights.h"

static char folder[64], path[128];

static inline void make_folder(void) {
    snprintf(folder, sizeof folder, "weft-names-%ld", (long)getpid());
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    wf_folder_remove(folder);
    ck_assert_int_eq(mkdir(folder, 0777), 0);
}

static inline void remove_folder(void) {
    wf_folder_remove(folder);
}

static inline void must(wf_status status) {
    ck_assert_msg(status == WF_OK, "%s", wf_last_error());
}

/* ---- models
 * ------------------------------------------------------------------------------------------------
 */

static const wf_model models[] = {
    {.family = WF_FAMILY_GPT2,
     .layers = 2,
     .hidden = 12,
     .heads = 3,
     .kv_heads = 3,
     .head_size = 4,
     .features = 10,
     .vocabulary = 11,
     .positions = 7,
     .tied_head = true,
     .biases = WF_BIASES_ALL},
    {.family = WF_FAMILY_LLAMA,
     .layers = 2,
     .hidden = 12,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 6,
     .features = 9,
     .vocabulary = 13,
     .positions = 7,
     .norm = WF_RMSNORM,
     .position_form = WF_POSITIONS_ROPE,
     .gated = true},
    {.family = WF_FAMILY_LLAMA,
     .layers = 1,
     .hidden = 8,
     .heads = 4,
     .kv_heads = 1,
     .head_size = 2,
     .features = 5,
     .vocabulary = 6,
     .positions = 7,
     .norm = WF_RMSNORM,
     .position_form = WF_POSITIONS_ROPE,
     .gated = true,
     .tied_head = true,
     .biases = WF_BIAS_QKV},
    {.family = WF_FAMILY_BERT,
     .layers = 2,
     .hidden = 12,
     .heads = 3,
     .kv_heads = 3,
     .head_size = 4,
     .features = 10,
     .vocabulary = 11,
     .positions = 7,
     .types = 2,
     .head_form = WF_HEAD_TRANSFORM,
     .post_norm = true,
     .bidirectional = true,
     .embedding_norm = true,
     .tied_head = true,
     .biases = WF_BIASES_ALL},
};
enum { MODELS = sizeof models / sizeof *models };
static const char *const weights_only[] = {""};

/* A value that says where it belongs; exact in f32. */
static inline float value_of(int set, int tensor, int64_t instance, int64_t row, int64_t column) {
    return (float)(((set * 32 + tensor) * 2 + instance) * 4096 + row * 64 + column);
}

static inline void write_model(const wf_model *m, const char *const *sets, int nsets) {
    wf_parameter_info info[WF_TENSORS];
    wf_weights_writer *w;
    int64_t bytes;
    uint8_t digest[WF_SHA256_BYTES];
    float whole[64 * 64];
    wf_model_parameters(m, info);
    must(wf_weights_create(path, m, sets, nsets, &w));
    for (int s = 0; s < nsets; s++)
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t i = 0; info[t].rows && i < (info[t].per_layer ? m->layers : 1); i++) {
                for (int64_t row = 0; row < info[t].rows; row++)
                    for (int64_t column = 0; column < info[t].columns; column++)
                        whole[row * info[t].columns + column] = value_of(s, t, i, row, column);
                must(wf_weights_put(w, t, whole));
            }
    must(wf_weights_finish(w, &bytes, digest));
}

/* ---- every shard comes back
 * ----------------------------------------------------------------------------------- */

static inline int64_t global_row(const wf_shard_map *map, int64_t row) {
    for (int32_t i = 0; i < map->pieces; i++)
        if (row >= map->piece[i].local && row < map->piece[i].local + map->piece[i].count)
            return map->piece[i].global + row - map->piece[i].local;
    return -1;
}

static inline void check_shard(const wf_weights *w, int set, int t, int64_t instance,
                        const wf_shard_map *map) {
    float *const got = malloc((size_t)(map->rows * map->columns + 1) * sizeof *got);
    got[map->rows * map->columns] = -7;
    must(wf_weights_read(w, set, t, instance, map, got));
    for (int64_t row = 0; row < map->rows; row++)
        for (int64_t column = 0; column < map->columns; column++) {
            const float want =
                value_of(set, t, instance, global_row(map, row), map->first_column + column);
            ck_assert_msg(got[row * map->columns + column] == want,
                          "set %d, tensor %d, instance %lld, [%lld, %lld]: %g, not %g", set, t,
                          (long long)instance, (long long)row, (long long)column,
                          (double)got[row * map->columns + column], (double)want);
        }
    ck_assert(got[map->rows * map->columns] == -7);
    free(got);
}

static inline void check_rank(const wf_model *m, const wf_weights *w, int nsets, const wf_layout *layout,
                       int32_t rank) {
    wf_parameter_info info[WF_TENSORS];
    wf_model_parameters(m, info);
    for (int s = 0; s < nsets; s++)
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t i = 0; info[t].rows && i < (info[t].per_layer ? m->layers : 1); i++) {
                wf_shard_map map;
                wf_model_shard(m, &info[t], layout, rank, &map);
                check_shard(w, s, t, i, &map);
            }
}

/* Runs the tests of one file. */
static inline int run_names(TCase *tests) {
    Suite *const suite = suite_create("names");
    suite_add_tcase(suite, tests);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}

#endif
