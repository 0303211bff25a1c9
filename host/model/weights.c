/* weights.c: which entry of which file is which tensor of the model, and a rank's shard of it.
 *
 * Everything is found and its shape compared when the files are opened; what a file holds beyond
 * the model's tensors is an error unless the family's table says that it is passed by. */
#include "host/model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/model/shards.h"

enum { MOST_NAMES = 4, NAME_BYTES = 512, ROOM_BYTES = 1 << 20 };

typedef struct row { /* one tensor of the model's table */
    const wf_name *name[MOST_NAMES];
    int32_t names;
    int64_t instances, first; /* first: of its places; [set][instance][name] */
} row;

struct wf_weights {
    wf_model model;
    wf_parameter_info info[WF_TENSORS];
    row rows[WF_TENSORS];
    wf_shards shards;
    const wf_shard_tensor **places; /* NULL where a second name is absent */
    int64_t nplaces;                /* of one set */
    char *path;
    int64_t *read; /* bytes; apart, so that reading may be const */
};

/* ---- the table for this model
 * --------------------------------------------------------------------------- */

static void lay_out(const wf_model *m, const wf_parameter_info *info, row rows[WF_TENSORS],
                    int64_t *places_out) {
    *places_out = 0;
    memset(rows, 0, WF_TENSORS * sizeof *rows);
    for (const wf_name *n = wf_names_of(m)->names; n->pattern; n++)
        if (wf_name_applies(m, n)) rows[n->tensor].name[rows[n->tensor].names++] = n;
    for (int t = 0; t < WF_TENSORS; t++) {
        rows[t].instances = info[t].rows ? (info[t].per_layer ? m->layers : 1) : 0;
        rows[t].first = *places_out;
        *places_out += rows[t].instances * rows[t].names;
    }
}

static wf_status check_names(const wf_model *m, const wf_parameter_info *info,
                             const row rows[WF_TENSORS]) {
    for (int t = 0; t < WF_TENSORS; t++)
        if (rows[t].instances && !rows[t].names)
            return wf_fail(WF_ERR_UNSUPPORTED, "files of a %s model have no name for tensor %s",
                           m->family == WF_FAMILY_GPT2    ? "gpt2"
                           : m->family == WF_FAMILY_LLAMA ? "llama"
                                                          : "bert",
                           info[t].name);
    return WF_OK;
}

static const wf_shard_tensor *place(const wf_weights *w, int set, int tensor, int64_t instance,
                                    int32_t name) {
    return w->places[set * w->nplaces + w->rows[tensor].first + instance * w->rows[tensor].names +
                     name];
}

/* ---- finding
 * ---------------------------------------------------------------------------------------------- */

static void print_shape(const int64_t *extent, int32_t axes, char *out, size_t out_bytes) {
    size_t used = (size_t)snprintf(out, out_bytes, "[");
    for (int32_t i = 0; i < axes && used < out_bytes; i++)
        used += (size_t)snprintf(out + used, out_bytes - used, "%s%lld", i ? ", " : "",
                                 (long long)extent[i]);
    if (used < out_bytes) snprintf(out + used, out_bytes - used, "]");
}

static wf_status check_shape(const wf_weights *w, int tensor, const wf_name *name,
                             const wf_shard_tensor *found) {
    const wf_tensor_entry *const e = found->entry;
    const wf_parameter_info *const info = &w->info[tensor];
    const int64_t rows = wf_name_rows(&w->model, info, name).count, columns = info->columns;
    const bool turned = name->form & WF_NAME_TRANSPOSED;
    const int64_t want[2] = {turned ? columns : rows, turned ? rows : columns};
    const int32_t axes = info->matrix ? 2 : 1;
    char is[192], should[64];
    if (e->axes == axes && e->extent[0] == want[0] && (axes == 1 || e->extent[1] == want[1]))
        return WF_OK;
    print_shape(e->extent, e->axes, is, sizeof is);
    print_shape(want, axes, should, sizeof should);
    return wf_fail(WF_ERR_FILE, "%s: tensor %.200s is %s; this model's is %s",
                   wf_safetensors_path(found->file), e->name, is, should);
}

static wf_status check_storage(const wf_shard_tensor *found) {
    if (found->entry->storage != WF_STORAGE_OTHER) return WF_OK;
    return wf_fail(WF_ERR_FILE,
                   "%s: tensor %.200s is of dtype %s; weights are F32, F16, BF16 or F64",
                   wf_safetensors_path(found->file), found->entry->name, found->entry->dtype);
}

/* With the family's prefix, as language models have it, or without, as the base model's files. */
static wf_shard_tensor *look_up(const wf_weights *w, const char *set, const wf_name *name,
                                int64_t instance) {
    char text[NAME_BYTES];
    wf_name_print(name, set, wf_names_of(&w->model)->prefix, instance, text, sizeof text);
    wf_shard_tensor *const found = wf_shards_find(&w->shards, text);
    if (found) return found;
    wf_name_print(name, set, "", instance, text, sizeof text);
    return wf_shards_find(&w->shards, text);
}

static wf_status missing(const wf_weights *w, const char *set, const wf_name *name,
                         int64_t instance) {
    char text[NAME_BYTES];
    wf_name_print(name, set, wf_names_of(&w->model)->prefix, instance, text, sizeof text);
    return wf_fail(WF_ERR_FILE, "%s holds no tensor %s, which this model has", w->path, text);
}

/* One instance: all pieces, or at least one of a whole tensor's names. */
static wf_status find_instance(wf_weights *w, const char *set, int tensor, int64_t instance,
                               const wf_shard_tensor **out) {
    const row *const r = &w->rows[tensor];
    int found = 0;
    for (int32_t i = 0; i < r->names; i++) {
        wf_shard_tensor *const t = look_up(w, set, r->name[i], instance);
        if (!t && r->name[i]->pieces > 1) return missing(w, set, r->name[i], instance);
        if (!t) continue;
        TRY(check_shape(w, tensor, r->name[i], t));
        TRY(check_storage(t));
        t->used = true;
        out[i] = t;
        found++;
    }
    return found ? WF_OK : missing(w, set, r->name[0], instance);
}

static wf_status find_set(wf_weights *w, const char *set, const wf_shard_tensor **out) {
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < w->rows[t].instances; i++)
            TRY(find_instance(w, set, t, i, out + w->rows[t].first + i * w->rows[t].names));
    return WF_OK;
}

static wf_status check_rest(const wf_weights *w) {
    for (int64_t i = 0; i < w->shards.ntensors; i++) {
        const wf_shard_tensor *const t = &w->shards.tensors[i];
        if (!t->used && !wf_name_ignored(&w->model, t->name))
            return wf_fail(WF_ERR_FILE, "%s holds tensor %.200s, which this model does not have",
                           wf_safetensors_path(t->file), t->entry->name);
    }
    return WF_OK;
}

static wf_status find_all(wf_weights *w, const char *const *sets, int nsets) {
    TRY(check_names(&w->model, w->info, w->rows));
    w->places = calloc((size_t)(nsets * w->nplaces) + 1, sizeof *w->places);
    w->read = calloc(1, sizeof *w->read);
    if (!w->places || !w->read)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the tensors of %s", w->path);
    for (int s = 0; s < nsets; s++) TRY(find_set(w, sets[s], w->places + s * w->nplaces));
    return check_rest(w);
}

wf_status wf_weights_open(const char *path, const wf_model *m, const char *const *sets, int nsets,
                          wf_weights **out) {
    wf_status status;
    wf_weights *const w = calloc(1, sizeof *w);
    if (!w) return wf_fail(WF_ERR_MEMORY, "no host memory to open %s", path);
    w->model = *m;
    w->path = strdup(path);
    wf_model_parameters(m, w->info);
    lay_out(m, w->info, w->rows, &w->nplaces);
    TRY_GOTO(w->path ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to open %s", path), fail);
    TRY_GOTO(wf_shards_open(path, &w->shards), fail);
    TRY_GOTO(find_all(w, sets, nsets), fail);
    *out = w;
    return WF_OK;
fail:
    wf_weights_close(w);
    return status;
}

void wf_weights_close(wf_weights *w) {
    if (!w) return;
    wf_shards_close(&w->shards);
    free(w->places);
    free(w->read);
    free(w->path);
    free(w);
}

int64_t wf_weights_bytes_read(const wf_weights *w) {
    return *w->read;
}

/* ---- a shard
 * ------------------------------------------------------------------------------------------------
 */

/* What of a file's matrix a rank takes, [rows, columns] of it at (row, column), and where element
 * (i, j) of that goes: out + i * row_step + j * column_step. */
typedef struct block {
    int64_t row, column, rows, columns, row_step, column_step;
    float *out;
} block;

static void scatter(const block *b, int64_t from, int64_t rows, const float *data) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < b->columns; j++)
            b->out[(from + i) * b->row_step + j * b->column_step] = data[i * b->columns + j];
}

/* Whole rows lie together and are read many at a time; parts of rows one by one. */
static wf_status read_block(const wf_weights *w, const wf_shard_tensor *t, int64_t width,
                            const block *b) {
    if (!b->rows || !b->columns) return WF_OK;
    const int64_t bytes = b->columns * (int64_t)sizeof(float);
    const bool straight = b->columns == width && b->column_step == 1 && b->row_step == width;
    const int64_t at_once = straight                                    ? b->rows
                            : b->columns == width && bytes < ROOM_BYTES ? ROOM_BYTES / bytes
                                                                        : 1;
    float *const room = straight ? NULL : malloc((size_t)(at_once * bytes));
    wf_status status =
        straight || room ? WF_OK
                         : wf_fail(WF_ERR_MEMORY, "no host memory for a row of tensor %s", t->name);
    for (int64_t i = 0; i < b->rows && status == WF_OK; i += at_once) {
        const int64_t rows = b->rows - i < at_once ? b->rows - i : at_once;
        status = wf_safetensors_read(t->file, t->entry, (b->row + i) * width + b->column,
                                     rows * b->columns, straight ? b->out : room);
        if (status == WF_OK && !straight) scatter(b, i, rows, room);
        *w->read += rows * b->columns * (t->entry->bytes / t->entry->elements);
    }
    free(room);
    return status;
}

/* Rows [first, first + count) of weft's tensor, which the file has as its rows (or columns) from
 * `base` on. */
static wf_status read_rows(const wf_weights *w, const wf_shard_tensor *t, const wf_name *name,
                           int tensor, wf_range part, int64_t base, int64_t columns,
                           int64_t first_column, float *out) {
    const int64_t height = wf_name_rows(&w->model, &w->info[tensor], name).count,
                  width = w->info[tensor].columns;
    const int64_t row = part.first - base;
    if (name->form & WF_NAME_TRANSPOSED)
        return read_block(w, t, height,
                          &(block){first_column, row, columns, part.count, 1, columns, out});
    return read_block(w, t, width,
                      &(block){row, first_column, part.count, columns, columns, 1, out});
}

static wf_status read_name(const wf_weights *w, const wf_shard_tensor *t, const wf_name *name,
                           int tensor, const wf_shard_map *map, float *out) {
    const wf_range held = wf_name_rows(&w->model, &w->info[tensor], name);
    for (int32_t i = 0; i < map->pieces; i++) {
        const int64_t begin = map->piece[i].global, end = begin + map->piece[i].count;
        const int64_t from = begin > held.first ? begin : held.first;
        const int64_t to = end < held.first + held.count ? end : held.first + held.count;
        if (from >= to) continue;
        TRY(read_rows(w, t, name, tensor, (wf_range){from, to - from}, held.first, map->columns,
                      map->first_column,
                      out + (map->piece[i].local + from - begin) * map->columns));
    }
    return WF_OK;
}

/* A second name must hold the same. */
static wf_status compare_name(const wf_weights *w, const wf_shard_tensor *first,
                              const wf_shard_tensor *again, const wf_name *name, int tensor,
                              const wf_shard_map *map, const float *data) {
    const size_t bytes = (size_t)(map->rows * map->columns) * sizeof *data;
    float *const other = calloc(1, bytes + 1);
    if (!other) return wf_fail(WF_ERR_MEMORY, "no host memory to compare tensor %s", again->name);
    wf_status status = read_name(w, again, name, tensor, map, other);
    if (status == WF_OK && memcmp(data, other, bytes) != 0)
        status =
            wf_fail(WF_ERR_FILE, "%s: tensors %.200s and %.200s differ; in this model they are one",
                    wf_safetensors_path(again->file), first->entry->name, again->entry->name);
    free(other);
    return status;
}

wf_status wf_weights_read(const wf_weights *w, int set, int tensor, int64_t instance,
                          const wf_shard_map *map, float *out) {
    const row *const r = &w->rows[tensor];
    const wf_shard_tensor *first = NULL;
    for (int32_t i = 0; r->instances && i < r->names; i++) {
        const wf_shard_tensor *const t = place(w, set, tensor, instance, i);
        if (!t) continue;
        if (r->name[i]->pieces > 1 || !first)
            TRY(read_name(w, t, r->name[i], tensor, map, out));
        else
            TRY(compare_name(w, first, t, r->name[i], tensor, map, out));
        first = t;
    }
    return WF_OK;
}
