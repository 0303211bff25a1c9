/* Models' files from elsewhere: second names, prefixes, buffers, several files; what is missing or strange is named. */
#include <jansson.h>

#include "tests/model/names_support.h"

/* ---- files from elsewhere: the header is edited
 * ------------------------------------------------------------------- */

/* Header and data of the written file. */
static json_t *read_header(char **data_out, size_t *bytes_out) {
    char *text;
    int64_t bytes;
    must(wf_file_load(path, 1 << 24, &text, &bytes));
    const size_t n = (size_t)(unsigned char)text[0] | (size_t)(unsigned char)text[1] << 8 |
                     (size_t)(unsigned char)text[2] << 16;
    json_t *const header = json_loadb(text + 8, n, 0, NULL);
    ck_assert_ptr_nonnull(header);
    *bytes_out = (size_t)bytes - 8 - n;
    *data_out = malloc(*bytes_out + 4096);
    memcpy(*data_out, text + 8 + n, *bytes_out);
    free(text);
    return header;
}

static void write_header(const char *to, json_t *header, char *data, size_t bytes) {
    char *const text = json_dumps(header, JSON_COMPACT);
    const size_t n = strlen(text);
    unsigned char raw[8] = {0};
    FILE *const f = fopen(to, "wb");
    for (int i = 0; i < 8; i++) raw[i] = (unsigned char)(n >> 8 * i);
    ck_assert(f && fwrite(raw, 1, 8, f) == 8 && fwrite(text, 1, n, f) == n &&
              fwrite(data, 1, bytes, f) == bytes && !fclose(f));
    free(text);
    json_decref(header);
    free(data);
}

/* Adds a copy of tensor `from` (or, NULL, 8 bytes of I64) named `name`, `flip` changing its last
 * byte. */
static void add_tensor(const char *from, const char *name, bool flip) {
    char *data;
    size_t bytes, begin = 0, end = 0;
    json_t *const header = read_header(&data, &bytes), *entry;
    if (from) {
        entry = json_deep_copy(json_object_get(header, from));
        json_t *const offsets = json_object_get(entry, "data_offsets");
        begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        end = (size_t)json_integer_value(json_array_get(offsets, 1));
        memcpy(data + bytes, data + begin, end - begin);
        if (flip) data[bytes + end - begin - 2] ^= 1;
        json_array_set_new(offsets, 0, json_integer((json_int_t)bytes));
        json_array_set_new(offsets, 1, json_integer((json_int_t)(bytes + end - begin)));
    } else {
        end = 8;
        memset(data + bytes, 0, 8);
        entry = json_pack("{s:s,s:[i],s:[I,I]}", "dtype", "I64", "shape", 1, "data_offsets",
                          (json_int_t)bytes, (json_int_t)(bytes + 8));
    }
    json_object_set_new(header, name, entry);
    write_header(path, header, data, bytes + end - begin);
}

/* Renames all tensors: `from` as a prefix becomes `to`. */
static void rename_prefix(const char *from, const char *to) {
    char *data, name[256];
    const char *key;
    size_t bytes;
    json_t *const header = read_header(&data, &bytes), *const renamed = json_object(), *value;
    json_object_foreach(header, key, value) {
        const bool has = strncmp(key, from, strlen(from)) == 0 && strcmp(key, "__metadata__") != 0;
        snprintf(name, sizeof name, "%s%s", has ? to : "", has ? key + strlen(from) : key);
        json_object_set(renamed, name, value);
    }
    json_decref(header);
    write_header(path, renamed, data, bytes);
}

static wf_status try_model(const wf_model *m) {
    wf_weights *w = NULL;
    wf_layout layout;
    wf_parameter_info info[WF_TENSORS];
    float room[64 * 64];
    TRY(wf_weights_open(folder, m, weights_only, 1, &w));
    must(wf_layout_parse("tp1", &layout));
    wf_model_parameters(m, info);
    wf_status status = WF_OK;
    for (int t = 0; t < WF_TENSORS && status == WF_OK; t++) {
        wf_shard_map map;
        wf_model_shard(m, &info[t], &layout, 0, &map);
        if (info[t].rows) status = wf_weights_read(w, 0, t, 0, &map, room);
    }
    if (status == WF_OK) check_rank(m, w, 1, &layout, 0);
    wf_weights_close(w);
    return status;
}

static void expect_sentence(const wf_model *m, const char *said) {
    ck_assert_int_eq(try_model(m), WF_ERR_FILE);
    ck_assert_msg(strstr(wf_last_error(), said) != NULL, "\"%s\" does not say \"%s\"",
                  wf_last_error(), said);
    ck_assert_msg(strstr(wf_last_error(), folder) != NULL, "\"%s\" does not name the file",
                  wf_last_error());
}

START_TEST(prefixes_may_be_absent) {
    static const char *const prefixes[MODELS] = {"transformer.", "model.", "model.", "bert."};
    write_model(&models[_i], weights_only, 1);
    rename_prefix(prefixes[_i], "");
    must(try_model(&models[_i]));
    rename_prefix("", "other.");
    expect_sentence(&models[_i], "holds no tensor");
}
END_TEST

START_TEST(a_tied_head_may_be_there_and_equal) {
    write_model(&models[0], weights_only, 1);
    add_tensor("transformer.wte.weight", "lm_head.weight", false);
    must(try_model(&models[0]));
    remove(path);
    write_model(&models[0], weights_only, 1);
    add_tensor("transformer.wte.weight", "lm_head.weight", true);
    expect_sentence(&models[0], "lm_head.weight differ");
}
END_TEST

START_TEST(a_tied_head_may_stand_for_the_embedding) {
    write_model(&models[2], weights_only, 1);
    rename_prefix("model.embed_tokens.weight", "lm_head.weight");
    must(try_model(&models[2]));
    remove(path);
    write_model(&models[3], weights_only, 1);
    add_tensor("cls.predictions.bias", "cls.predictions.decoder.bias", false);
    add_tensor("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", false);
    must(try_model(&models[3]));
}
END_TEST

START_TEST(buffers_are_passed_by) {
    static const struct {
        int model;
        const char *name;
        bool passed;
    } buffers[] = {{0, "transformer.h.0.attn.bias", true},
                   {0, "h.11.attn.masked_bias", true},
                   {0, "transformer.h.0.attn.biased", false},
                   {0, "transformer.h.x.attn.bias", false},
                   {1, "model.layers.0.self_attn.rotary_emb.inv_freq", true},
                   {3, "bert.embeddings.position_ids", true},
                   {3, "bert.pooler.dense.weight", true},
                   {3, "cls.seq_relationship.bias", true},
                   {1, "bert.pooler.dense.weight", false},
                   {0, "transformer.h.2.ln_1.weight", false},
                   {1, "model.layers.0.self_attn.q_proj.bias", false}};
    write_model(&models[buffers[_i].model], weights_only, 1);
    add_tensor(NULL, buffers[_i].name, false);
    if (buffers[_i].passed)
        must(try_model(&models[buffers[_i].model]));
    else
        expect_sentence(&models[buffers[_i].model], buffers[_i].name);
}
END_TEST

START_TEST(old_norms_of_bert_are_understood) {
    write_model(&models[3], weights_only, 1);
    rename_prefix("bert.embeddings.LayerNorm.weight", "bert.embeddings.LayerNorm.gamma");
    rename_prefix("bert.encoder.layer.1.output.LayerNorm.bias",
                  "bert.encoder.layer.1.output.LayerNorm.beta");
    must(try_model(&models[3]));
}
END_TEST

START_TEST(a_model_without_a_head_leaves_the_files) {
    wf_model m = models[3];
    m.head_form = WF_HEAD_NONE;
    write_model(&models[3], weights_only, 1);
    must(try_model(&m));
}
END_TEST

START_TEST(what_is_missing_or_of_another_shape_is_named) {
    wf_model m = models[0];
    write_model(&models[0], weights_only, 1);
    m.layers = 3;
    expect_sentence(&m, "transformer.h.2.ln_1.weight");
    m.layers = 1;
    expect_sentence(&m, "transformer.h.1.");
    m = models[0];
    m.features = 11;
    expect_sentence(&m, "transformer.h.0.mlp.c_fc.weight is [12, 10]; this model's is [12, 11]");
    m = models[1];
    expect_sentence(&m, "model.embed_tokens.weight");
    remove(path);
    write_model(&models[0], weights_only, 1);
    rename_prefix("transformer.h.1.mlp.c_fc.bias", "transformer.h.1.mlp.c_fc.bios");
    expect_sentence(&models[0], "transformer.h.1.mlp.c_fc.bias");
}
END_TEST

START_TEST(a_piece_that_is_missing_is_named) {
    write_model(&models[1], weights_only, 1);
    rename_prefix("model.layers.1.self_attn.k_proj.weight",
                  "model.layers.1.self_attn.rotary_emb.inv_freq");
    expect_sentence(&models[1], "model.layers.1.self_attn.k_proj.weight");
}
END_TEST

/* ---- several files
 * -------------------------------------------------------------------------------------------------
 */

static void write_index(const char *text) {
    char index[128];
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", folder);
    FILE *const f = fopen(index, "w");
    ck_assert(f && fputs(text, f) >= 0 && !fclose(f));
}

/* The model's file cut in two: tensors in turn; the index as `transformers` writes it. */
static void write_shards(const wf_model *m) {
    char *data, to[128], name[64];
    const char *key;
    size_t bytes, at[2] = {0, 0};
    write_model(m, weights_only, 1);
    json_t *const header = read_header(&data, &bytes), *value, *const map = json_object();
    json_t *const shard[2] = {json_object(), json_object()};
    char *const part[2] = {malloc(bytes), malloc(bytes)};
    int turn = 0;
    json_object_foreach(header, key, value) {
        if (strcmp(key, "__metadata__") == 0) continue;
        json_t *const offsets = json_object_get(value, "data_offsets");
        const size_t begin = (size_t)json_integer_value(json_array_get(offsets, 0));
        const size_t n = (size_t)json_integer_value(json_array_get(offsets, 1)) - begin;
        memcpy(part[turn] + at[turn], data + begin, n);
        json_array_set_new(offsets, 0, json_integer((json_int_t)at[turn]));
        json_array_set_new(offsets, 1, json_integer((json_int_t)(at[turn] += n)));
        json_object_set(shard[turn], key, value);
        snprintf(name, sizeof name, "model-%05d-of-00002.safetensors", turn + 1);
        json_object_set_new(map, key, json_string(name));
        turn = !turn;
    }
    for (int i = 0; i < 2; i++) {
        snprintf(to, sizeof to, "%s/model-%05d-of-00002.safetensors", folder, i + 1);
        write_header(to, shard[i], part[i], at[i]);
    }
    json_t *const root =
        json_pack("{s:{s:i},s:o}", "metadata", "total_size", (int)bytes, "weight_map", map);
    char *const text = json_dumps(root, 0);
    write_index(text);
    free(text);
    json_decref(root);
    json_decref(header);
    free(data);
    remove(path);
}

START_TEST(shards_are_one_model) {
    write_shards(&models[_i]);
    must(try_model(&models[_i]));
}
END_TEST

START_TEST(a_wrong_index_is_named) {
    static const struct {
        const char *text, *said;
    } wrong[] = {
        {"{\"weight_map\": {\"a\": \"../model.safetensors\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": \"/etc/x.safetensors\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": \"sub/x.safetensors\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": \"..safetensors\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": \".safetensors\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": \"x.bin\"}}", "no plain name"},
        {"{\"weight_map\": {\"a\": 1}}", "no plain name"},
        {"{\"weight_map\": {}}", "no weight_map"},
        {"{\"weight_map\": []}", "no weight_map"},
        {"{}", "no weight_map"},
        {"[]", "no weight_map"},
        {"{\"weight_map\": {\"a\": \"x.safetensors\", \"a\": \"y.safetensors\"}}", "duplicate"},
        {"{\"weight_map\"", "no JSON"},
        {"", "no JSON"},
        {"{\"weight_map\": {\"a\": \"absent.safetensors\"}}", "absent.safetensors"},
        {"{\"weight_map\": {\"nothing.like.it\": \"model-00001-of-00002.safetensors\"}}",
         "nothing.like.it"},
        {"{\"weight_map\": {\"transformer.wte.weight\": \"model-00001-of-00002.safetensors\"}}",
         "holds no tensor"},
    };
    write_shards(&models[0]);
    write_index(wrong[_i].text);
    expect_sentence(&models[0], wrong[_i].said);
}
END_TEST

START_TEST(a_tensor_in_two_files_is_named) {
    char to[128];
    write_shards(&models[0]);
    write_model(&models[0], weights_only, 1); /* beside the shards: the whole file wins */
    must(try_model(&models[0]));
    snprintf(to, sizeof to, "%s/model-00001-of-00002.safetensors", folder);
    ck_assert_int_eq(rename(path, to), 0);
    expect_sentence(&models[0], "again in");
}
END_TEST

START_TEST(a_folder_without_weights_is_named) {
    expect_sentence(&models[0], "no model.safetensors");
}
END_TEST

int main(void) {
    TCase *const c = tcase_create("files");
    tcase_add_checked_fixture(c, make_folder, remove_folder);
    tcase_add_loop_test(c, prefixes_may_be_absent, 0, MODELS);
    tcase_add_test(c, a_tied_head_may_be_there_and_equal);
    tcase_add_test(c, a_tied_head_may_stand_for_the_embedding);
    tcase_add_loop_test(c, buffers_are_passed_by, 0, 11);
    tcase_add_test(c, old_norms_of_bert_are_understood);
    tcase_add_test(c, a_model_without_a_head_leaves_the_files);
    tcase_add_test(c, what_is_missing_or_of_another_shape_is_named);
    tcase_add_test(c, a_piece_that_is_missing_is_named);
    tcase_add_loop_test(c, shards_are_one_model, 0, MODELS);
    tcase_add_loop_test(c, a_wrong_index_is_named, 0, 17);
    tcase_add_test(c, a_tensor_in_two_files_is_named);
    tcase_add_test(c, a_folder_without_weights_is_named);
    return run_names(c);
}
