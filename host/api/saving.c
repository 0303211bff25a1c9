/* saving.c: tensors to files and back.
 *
 * Saving gathers one instance of one tensor at a time to rank 0, which writes it and forgets it:
 * memory is bounded by the largest tensor, whatever the model. Before each, the ranks agree that
 * all is well: one that failed (or rank 0, whose disk is full) ends the save on all of them at the
 * same place. Loading is each rank's own business but for the verdicts: it reads its shards from
 * the files. */
#include "host/api/saving.h"

#include <stdlib.h>
#include <string.h>

#include "host/model/checkpoint.h"
#include "host/model/config.h"

/* ---- gathering
 * ------------------------------------------------------------------------------------------ */

typedef struct saver {
    weft_params *params;
    wf_fabric *fabric;
    int32_t rank, ranks;
    wf_weights_writer *writer; /* rank 0's */
    float *shard, *whole;      /* room for the largest; whole: rank 0's */
    char *room;                /* of what is passed */
} saver;

static void find_map(const saver *s, int32_t t, int32_t rank, wf_shard_map *out) {
    wf_model_shard(&s->params->model, &s->params->info[t], &s->params->layout, rank, out);
}

static bool same_map(const wf_shard_map *a, const wf_shard_map *b) {
    bool same = a->rows == b->rows && a->columns == b->columns && a->pieces == b->pieces &&
                a->first_column == b->first_column;
    for (int32_t i = 0; same && i < a->pieces; i++)
        same = a->piece[i].local == b->piece[i].local && a->piece[i].global == b->piece[i].global &&
               a->piece[i].count == b->piece[i].count;
    return same;
}

/* A rank whose shard an earlier rank has too need not send it. */
static bool is_copy(const saver *s, int32_t t, int32_t rank) {
    wf_shard_map mine, other;
    find_map(s, t, rank, &mine);
    if (weft_shard_bytes(&mine) == 0) return true;
    for (int32_t r = 0; r < rank; r++) {
        find_map(s, t, r, &other);
        if (same_map(&mine, &other)) return true;
    }
    return false;
}

static wf_status allocate(saver *s) {
    int64_t shard = 1, whole = 1;
    for (int t = 0; t < WF_TENSORS; t++) {
        const int64_t bytes =
            s->params->info[t].rows * s->params->info[t].columns * (int64_t)sizeof(float);
        if (bytes > whole) whole = bytes;
        for (int32_t r = 0; r < s->ranks; r++) {
            wf_shard_map map;
            find_map(s, t, r, &map);
            if (weft_shard_bytes(&map) > shard) shard = weft_shard_bytes(&map);
        }
    }
    s->shard = malloc((size_t)shard);
    s->room = malloc(WF_PASS_BYTES);
    if (s->rank == 0) s->whole = malloc((size_t)whole);
    if (!s->shard || !s->room || (s->rank == 0 && !s->whole))
        return wf_fail(WF_ERR_MEMORY, "no host memory for the largest tensor of %lld bytes",
                       (long long)whole);
    return WF_OK;
}

/* One instance, whole, in rank 0's room. */
static wf_status gather(saver *s, int32_t t, const char *what, int64_t instance, wf_status before) {
    wf_shard_map map;
    wf_status status = before;
    if (status == WF_OK) status = weft_shard_read(s->params, t, what, instance, s->shard);
    TRY(wf_fabric_agree(s->fabric, status));
    if (s->rank == 0) weft_shard_scatter(s->params, t, 0, s->shard, s->whole);
    for (int32_t r = 1; r < s->ranks; r++) {
        if (is_copy(s, t, r)) continue;
        find_map(s, t, r, &map);
        TRY(wf_fabric_pass(s->fabric, r, 0, s->shard, weft_shard_bytes(&map), &s->room));
        if (s->rank == 0) weft_shard_scatter(s->params, t, r, s->shard, s->whole);
    }
    return WF_OK;
}

/* ---- saving
 * --------------------------------------------------------------------------------------------------
 */

static wf_status save_tensors(saver *s, const char *const *what, int nsets) {
    const weft_params *const p = s->params;
    wf_status status = WF_OK;
    for (int set = 0; set < nsets; set++)
        for (int32_t i = 0; i < p->tensors; i++)
            for (int64_t k = 0; k < weft_params_instances(p, p->tensor[i]); k++) {
                TRY(gather(s, p->tensor[i], what[set], k, status));
                if (s->rank == 0) status = wf_weights_put(s->writer, p->tensor[i], s->whole);
            }
    return status;
}

/* Agreement about the last tensor's write is the caller's. */
static wf_status save_file(saver *s, const char *folder, int which, wf_progress *out) {
    static const char *const weights[] = {""}, *const states[] = {"m", "v"},
                             *const prefixes[] = {"m.", "v."};
    const bool state = which == WF_FILE_OPTIMIZER;
    const int nsets = state ? 2 : 1;
    char path[WF_PATH_BYTES];
    wf_status status = WF_OK;
    if (s->rank == 0) {
        status = wf_path_join(folder, wf_checkpoint_file_names[which], path, sizeof path);
        if (status == WF_OK)
            status = wf_weights_create(path, &s->params->model, state ? prefixes : weights, nsets,
                                       &s->writer);
    }
    TRY(wf_fabric_agree(s->fabric, status));
    status = save_tensors(s, state ? states : weights, nsets);
    if (s->rank == 0 && status == WF_OK) {
        status = wf_weights_finish(s->writer, &out->file[which].bytes, out->file[which].digest);
        s->writer = NULL;
    }
    if (s->rank == 0) out->file[which].there = true;
    return status;
}

static wf_status save_config(saver *s, const char *folder, wf_progress *out) {
    char path[WF_PATH_BYTES];
    if (s->rank != 0) return WF_OK;
    TRY(wf_path_join(folder, wf_checkpoint_file_names[WF_FILE_CONFIG], path, sizeof path));
    TRY(wf_config_write(&s->params->model, path));
    out->file[WF_FILE_CONFIG].there = true;
    return wf_file_settle(path, &out->file[WF_FILE_CONFIG].bytes, out->file[WF_FILE_CONFIG].digest);
}

static wf_status save_all(saver *s, const char *folder, bool optimizer, wf_progress *out) {
    wf_status status = allocate(s);
    if (status == WF_OK) status = save_config(s, folder, out);
    TRY(wf_fabric_agree(s->fabric, status));
    TRY(wf_fabric_agree(s->fabric, save_file(s, folder, WF_FILE_MODEL, out)));
    return optimizer ? wf_fabric_agree(s->fabric, save_file(s, folder, WF_FILE_OPTIMIZER, out))
                     : WF_OK;
}

wf_status weft_save_files(weft_params *p, const char *folder, bool optimizer, wf_progress *out) {
    wf_fabric *const fabric = p->context->fabric;
    saver s = {.params = p,
               .fabric = fabric,
               .rank = wf_fabric_rank(fabric),
               .ranks = wf_fabric_ranks(fabric)};
    const wf_status status = save_all(&s, folder, optimizer, out);
    wf_weights_abandon(s.writer);
    free(s.shard);
    free(s.whole);
    free(s.room);
    return status;
}

/* ---- loading
 * ---------------------------------------------------------------------------------------------------
 */

static wf_status load_sets(weft_params *p, const wf_weights *w, const char *const *what, int nsets,
                           float *room) {
    for (int set = 0; set < nsets; set++)
        for (int32_t i = 0; i < p->tensors; i++)
            for (int64_t k = 0; k < weft_params_instances(p, p->tensor[i]); k++) {
                const int32_t t = p->tensor[i];
                TRY(wf_weights_read(w, set, t, k, &p->map[t], room));
                TRY(weft_shard_write(p, t, what[set], k, room));
            }
    return WF_OK;
}

wf_status weft_load_shards(weft_params *p, const wf_weights *w, const char *const *what,
                           int nsets) {
    int64_t most = 1;
    for (int t = 0; t < WF_TENSORS; t++)
        if (weft_shard_bytes(&p->map[t]) > most) most = weft_shard_bytes(&p->map[t]);
    float *const room = malloc((size_t)most);
    const wf_status status =
        room ? load_sets(p, w, what, nsets, room)
             : wf_fail(WF_ERR_MEMORY, "no host memory for a tensor of %lld bytes", (long long)most);
    free(room);
    return wf_fabric_agree(p->context->fabric, status);
}

wf_status weft_clear_optimizer(weft_params *p) {
    for (int32_t i = 0; i < p->tensors; i++)
        for (int64_t k = 0; k < weft_params_instances(p, p->tensor[i]); k++) {
            TRY(weft_shard_clear(p, p->tensor[i], "m", k));
            TRY(weft_shard_clear(p, p->tensor[i], "v", k));
        }
    return WF_OK;
}
