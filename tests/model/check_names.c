/* Models' files: names, pieces and transposes of each family, from weft's tensors to the file and
 * back for every shard. */
#include "tests/model/names_support.h"

START_TEST(every_shard_of_every_family_comes_back) {
    const wf_model *const m = &models[_i];
    static const char *const texts[] = {"tp1", "tp2.sp", "tp3", "tp4"};
    wf_weights *w;
    write_model(m, weights_only, 1);
    must(wf_weights_open(folder, m, weights_only, 1, &w));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        wf_layout layout;
        must(wf_layout_parse(texts[i], &layout));
        for (int32_t rank = 0; rank < wf_layout_ranks(&layout); rank++)
            check_rank(m, w, 1, &layout, rank);
    }
    wf_weights_close(w);
}
END_TEST

START_TEST(a_file_may_hold_two_sets) {
    static const char *const sets[] = {"m.", "v."};
    wf_layout layout;
    wf_weights *w = NULL;
    write_model(&models[_i], sets, 2);
    must(wf_layout_parse("tp2", &layout));
    must(wf_weights_open(path, &models[_i], sets, 2, &w));
    check_rank(&models[_i], w, 2, &layout, 1);
    wf_weights_close(w);
    ck_assert_int_eq(wf_weights_open(path, &models[_i], weights_only, 1, &w), WF_ERR_FILE);
}
END_TEST

/* What a rank reads is its shard, not the file. */
START_TEST(a_rank_reads_its_shard_only) {
    const wf_model *const m = &models[_i];
    wf_parameter_info info[WF_TENSORS];
    wf_layout layout;
    wf_weights *w;
    int64_t bytes = 0;
    write_model(m, weights_only, 1);
    must(wf_layout_parse("tp3", &layout));
    must(wf_weights_open(path, m, weights_only, 1, &w));
    check_rank(m, w, 1, &layout, 1);
    wf_model_parameters(m, info);
    for (int t = 0; t < WF_TENSORS; t++) {
        wf_shard_map map;
        wf_model_shard(m, &info[t], &layout, 1, &map);
        bytes +=
            info[t].rows ? map.rows * map.columns * 4 * (info[t].per_layer ? m->layers : 1) : 0;
    }
    ck_assert_int_eq(wf_weights_bytes_read(w), bytes);
    wf_weights_close(w);
}
END_TEST

/* ---- the file itself: what `transformers` would see
 * --------------------------------------------------------------- */

typedef struct seen {
    int model;
    const char *name;
    int64_t rows, columns;     /* 0: a vector */
    int64_t at_row, at_column; /* this element of the file ... */
    int tensor;                /* ... is this one of weft's */
    int64_t instance, row, column;
} seen;
static const seen elements[] = {
    {0, "transformer.wte.weight", 11, 12, 3, 5, WF_T_TOKEN_EMBEDDING, 0, 3, 5},
    {0, "transformer.h.1.attn.c_attn.weight", 12, 36, 5, 33, WF_T_QKV_WEIGHT, 1, 33, 5},
    {0, "transformer.h.0.attn.c_proj.weight", 12, 12, 5, 2, WF_T_PROJ_WEIGHT, 0, 2, 5},
    {0, "transformer.h.0.mlp.c_fc.weight", 12, 10, 11, 4, WF_T_FC1_WEIGHT, 0, 4, 11},
    {0, "transformer.h.1.mlp.c_proj.weight", 10, 12, 9, 1, WF_T_FC2_WEIGHT, 1, 1, 9},
    {0, "transformer.h.1.attn.c_attn.bias", 36, 0, 35, 0, WF_T_QKV_BIAS, 1, 35, 0},
    {0, "transformer.ln_f.bias", 12, 0, 3, 0, WF_T_NORMF_BIAS, 0, 3, 0},
    {1, "model.embed_tokens.weight", 13, 12, 12, 1, WF_T_TOKEN_EMBEDDING, 0, 12, 1},
    {1, "model.layers.1.self_attn.q_proj.weight", 24, 12, 3, 4, WF_T_QKV_WEIGHT, 1, 3, 4},
    {1, "model.layers.1.self_attn.k_proj.weight", 12, 12, 3, 4, WF_T_QKV_WEIGHT, 1, 24 + 3, 4},
    {1, "model.layers.0.self_attn.v_proj.weight", 12, 12, 11, 4, WF_T_QKV_WEIGHT, 0, 36 + 11, 4},
    {1, "model.layers.0.self_attn.o_proj.weight", 12, 24, 3, 20, WF_T_PROJ_WEIGHT, 0, 3, 20},
    {1, "model.layers.0.mlp.gate_proj.weight", 9, 12, 8, 2, WF_T_FC1_WEIGHT, 0, 8, 2},
    {1, "model.layers.0.mlp.up_proj.weight", 9, 12, 8, 2, WF_T_FC1_WEIGHT, 0, 17, 2},
    {1, "model.layers.1.mlp.down_proj.weight", 12, 9, 11, 8, WF_T_FC2_WEIGHT, 1, 11, 8},
    {1, "model.layers.1.post_attention_layernorm.weight", 12, 0, 7, 0, WF_T_NORM2_WEIGHT, 1, 7, 0},
    {1, "model.norm.weight", 12, 0, 7, 0, WF_T_NORMF_WEIGHT, 0, 7, 0},
    {1, "lm_head.weight", 13, 12, 12, 11, WF_T_HEAD_WEIGHT, 0, 12, 11},
    {2, "model.layers.0.self_attn.k_proj.bias", 2, 0, 1, 0, WF_T_QKV_BIAS, 0, 9, 0},
    {3, "bert.embeddings.token_type_embeddings.weight", 2, 12, 1, 3, WF_T_TYPE_EMBEDDING, 0, 1, 3},
    {3, "bert.embeddings.LayerNorm.weight", 12, 0, 1, 0, WF_T_EMBEDDING_NORM_WEIGHT, 0, 1, 0},
    {3, "bert.encoder.layer.1.attention.self.key.weight", 12, 12, 2, 3, WF_T_QKV_WEIGHT, 1, 14, 3},
    {3, "bert.encoder.layer.1.attention.self.value.bias", 12, 0, 2, 0, WF_T_QKV_BIAS, 1, 26, 0},
    {3, "bert.encoder.layer.0.attention.output.dense.weight", 12, 12, 2, 3, WF_T_PROJ_WEIGHT, 0, 2,
     3},
    {3, "bert.encoder.layer.0.attention.output.LayerNorm.weight", 12, 0, 2, 0, WF_T_NORM1_WEIGHT, 0,
     2, 0},
    {3, "bert.encoder.layer.0.output.LayerNorm.bias", 12, 0, 2, 0, WF_T_NORM2_BIAS, 0, 2, 0},
    {3, "bert.encoder.layer.1.intermediate.dense.weight", 10, 12, 9, 11, WF_T_FC1_WEIGHT, 1, 9, 11},
    {3, "cls.predictions.transform.dense.weight", 12, 12, 9, 11, WF_T_TRANSFORM_WEIGHT, 0, 9, 11},
    {3, "cls.predictions.bias", 11, 0, 9, 0, WF_T_HEAD_BIAS, 0, 9, 0},
};

START_TEST(files_have_the_familys_names_and_shapes) {
    const seen *const x = &elements[_i];
    wf_safetensors *s;
    float got;
    write_model(&models[x->model], weights_only, 1);
    must(wf_safetensors_open(path, &s));
    const wf_tensor_entry *const e = wf_safetensors_find(s, x->name);
    ck_assert_msg(e != NULL, "no tensor %s", x->name);
    ck_assert_int_eq(e->axes, x->columns ? 2 : 1);
    ck_assert_int_eq(e->extent[0], x->rows);
    if (x->columns) ck_assert_int_eq(e->extent[1], x->columns);
    must(wf_safetensors_read(s, e, x->at_row * (x->columns ? x->columns : 1) + x->at_column, 1,
                             &got));
    ck_assert(got == value_of(0, x->tensor, x->instance, x->row, x->column));
    wf_safetensors_close(s);
}
END_TEST

START_TEST(second_names_are_not_written) {
    static const struct {
        int model;
        int64_t tensors;
        const char *absent;
    } files[] = {{0, 2 + 2 * 12 + 2, "lm_head.weight"},
                 {1, 1 + 2 * 9 + 2, "model.norm.bias"},
                 {2, 1 + 12 + 1, "lm_head.weight"},
                 {3, 5 + 2 * 16 + 5, "cls.predictions.decoder.weight"}};
    wf_safetensors *s;
    write_model(&models[files[_i].model], weights_only, 1);
    must(wf_safetensors_open(path, &s));
    ck_assert_int_eq(wf_safetensors_count(s), files[_i].tensors);
    ck_assert_ptr_null(wf_safetensors_find(s, files[_i].absent));
    wf_safetensors_close(s);
}
END_TEST

int main(void) {
    TCase *const c = tcase_create("files");
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, every_shard_of_every_family_comes_back, 0, MODELS);
    tcase_add_loop_test(c, a_file_may_hold_two_sets, 0, MODELS);
    tcase_add_loop_test(c, a_rank_reads_its_shard_only, 0, MODELS);
    tcase_add_loop_test(c, files_have_the_familys_names_and_shapes, 0,
                        (int)(sizeof elements / sizeof *elements));
    tcase_add_loop_test(c, second_names_are_not_written, 0, 4);
    return run_names(c);
}
