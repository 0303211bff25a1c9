/* shard_index.c: model.safetensors.index.json of a model whose tensors lie in several files. */
#include <stdlib.h>
#include <string.h>

#include "host/model/json.h"
#include "host/model/shards.h"

enum { MOST_BYTES = 100 * 1000 * 1000, MOST_FILES = 10000 };

/* A plain name: nothing outside the folder, nothing hidden. */
static bool stays_inside(const char *file) {
    const size_t n = strlen(file), end = strlen(".safetensors");
    return n > end && n < 256 && *file != '.' && !strchr(file, '/') && !strchr(file, '\\') &&
           strcmp(file + n - end, ".safetensors") == 0;
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void keep_each_once(wf_shard_index *index) {
    int64_t n = 0;
    qsort(index->files, (size_t)index->nplaces, sizeof *index->files, by_text);
    for (int64_t i = 0; i < index->nplaces; i++)
        if (!n || strcmp(index->files[n - 1], index->files[i]) != 0)
            index->files[n++] = index->files[i];
    index->nfiles = n;
}

static wf_status add_place(const char *path, const char *tensor, const json_t *value,
                           wf_shard_index *out) {
    const char *const file = json_string_value(value);
    if (!file || !stays_inside(file))
        return wf_fail(
            WF_ERR_FILE,
            "%s: tensor %.200s lies in \"%.64s\", which is no plain name of a .safetensors file",
            path, tensor, file ? file : "?");
    struct wf_shard_place *const place = &out->places[out->nplaces++];
    *place = (struct wf_shard_place){strdup(tensor), strdup(file)};
    if (!place->tensor || !place->file)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the index %s", path);
    out->files[out->nplaces - 1] = place->file;
    return WF_OK;
}

static wf_status read_map(const char *path, const json_t *root, wf_shard_index *out) {
    json_t *const map = json_object_get(root, "weight_map");
    const char *tensor;
    json_t *value;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return wf_fail(WF_ERR_FILE, "%s has no weight_map", path);
    out->places = calloc(json_object_size(map), sizeof *out->places);
    out->files = calloc(json_object_size(map), sizeof *out->files);
    if (!out->places || !out->files)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the index %s", path);
    json_object_foreach(map, tensor, value) TRY(add_place(path, tensor, value, out));
    keep_each_once(out);
    if (out->nfiles > MOST_FILES)
        return wf_fail(WF_ERR_FILE, "%s names %lld files; at most %d are opened", path,
                       (long long)out->nfiles, MOST_FILES);
    return WF_OK;
}

wf_status wf_shard_index_read(const char *path, wf_shard_index *out) {
    char *text;
    int64_t bytes;
    json_t *root = NULL;
    wf_shard_index index = {0};
    TRY(wf_file_load(path, MOST_BYTES, &text, &bytes));
    wf_status status = wf_json_parse(path, text, bytes, &root);
    free(text);
    if (status == WF_OK) status = read_map(path, root, &index);
    json_decref(root);
    if (status != WF_OK)
        wf_shard_index_free(&index);
    else
        *out = index;
    return status;
}

void wf_shard_index_free(wf_shard_index *index) {
    for (int64_t i = 0; i < index->nplaces; i++) {
        free(index->places[i].tensor);
        free(index->places[i].file);
    }
    free(index->places);
    free(index->files);
    *index = (wf_shard_index){0};
}
