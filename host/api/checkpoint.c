/* checkpoint.c: params to folders and back, whole or not at all.
 *
 * Rank 0 writes. Every step that can fail is agreed on by all ranks before the next, and the
 * rename, which alone makes a checkpoint, comes after the last of them. Loading first proves the
 * files (one rank of each node hashes them: their file systems may differ), then reads shards. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/api/saving.h"
#include "host/base/log.h"
#include "host/model/checkpoint.h"

/* ---- saving
 * --------------------------------------------------------------------------------------------- */

/* Removes what a failed save left; the sentence of the failure survives. */
static void drop(const char *partial, bool made) {
    char why[1024];
    if (!made) return;
    snprintf(why, sizeof why, "%s", wf_last_error());
    wf_folder_remove(partial);
    wf_fail(WF_ERR_FILE, "%s", why);
}

/* All ranks must mean the same moment. */
static wf_status compare_progress(wf_fabric *fabric, const weft_progress *mine) {
    const int32_t ranks = wf_fabric_ranks(fabric);
    struct same {
        int64_t step, data_position;
        uint64_t seed, data_hash;
    } own = {mine->step, mine->data_position, mine->seed, mine->data_hash}, *const all = calloc(
                                                                                (size_t)ranks,
                                                                                sizeof *all);
    wf_status status =
        all ? WF_OK
            : wf_fail(WF_ERR_MEMORY, "no host memory to compare the progress of %d ranks", ranks);
    if (status == WF_OK && (own.step < 0 || own.data_position < 0))
        status = wf_fail(WF_ERR_ARGUMENT,
                         "a checkpoint of step %lld at data position %lld: neither may be negative",
                         (long long)own.step, (long long)own.data_position);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, &own, sizeof own, all), done);
    for (int32_t r = 1; r < ranks && status == WF_OK; r++)
        if (memcmp(&all[r], &all[0], sizeof own) != 0)
            status = wf_fail(
                WF_ERR_MISMATCH,
                "rank %d saves a checkpoint of step %lld, rank 0 of step %lld, or of other data", r,
                (long long)all[r].step, (long long)all[0].step);
done:
    free(all);
    return status;
}

/* Whether there is optimizer state: on all ranks or on none. */
static wf_status find_optimizer(weft_params *p, bool *out) {
    wf_fabric *const fabric = p->context->fabric;
    const int32_t ranks = wf_fabric_ranks(fabric);
    const char own = wf_store_has(p->store, WF_CLASS_OPTIMIZER);
    char *const all = malloc((size_t)ranks);
    wf_status status =
        all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to ask %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, &own, 1, all), done);
    for (int32_t r = 1; r < ranks && status == WF_OK; r++)
        if (all[r] != all[0])
            status = wf_fail(WF_ERR_MISMATCH, "rank %d %s optimizer state, rank 0 %s", r,
                             all[r] ? "has" : "has no", all[0] ? "has some" : "has none");
    *out = own;
done:
    free(all);
    return status;
}

static void fill_in(const weft_params *p, const weft_progress *from, wf_progress *out) {
    wf_layout_print(&p->layout, out->layout, sizeof out->layout);
    out->choices_hash = p->choices_hash;
    out->step = from->step;
    out->data_position = from->data_position;
    out->seed = from->seed;
    out->data_hash = from->data_hash;
}

/* Rank 0's last word: after it the partial folder holds all that a checkpoint is. */
static wf_status write_progress(const char *partial, const wf_progress *progress) {
    char path[WF_PATH_BYTES];
    TRY(wf_path_join(partial, "progress.json", path, sizeof path));
    return wf_progress_write(path, progress);
}

static wf_status save(weft_params *p, const char *folder, const weft_progress *progress,
                      int32_t keep) {
    wf_fabric *const fabric = p->context->fabric;
    const wf_log *const log = &p->context->log;
    const bool writes = wf_fabric_rank(fabric) == 0;
    char partial[WF_PATH_BYTES] = "";
    wf_progress whole = {0};
    bool optimizer = false, made = false;
    wf_status status = WF_OK;
    TRY(compare_progress(fabric, progress));
    TRY(find_optimizer(p, &optimizer));
    fill_in(p, progress, &whole);
    if (writes) {
        status = wf_checkpoint_begin(log, folder, progress->step, partial);
        made = status == WF_OK;
    }
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(weft_save_files(p, partial, optimizer, &whole), done);
    if (writes) status = write_progress(partial, &whole);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    if (writes) status = wf_checkpoint_commit(folder, progress->step, partial);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    if (writes)
        wf_say(log, WF_LOG_CHECKPOINT, "step %lld is saved in %s: %lld bytes", (long long)progress->step, folder,
                (long long)wf_progress_bytes(&whole));
    if (writes) wf_checkpoint_prune(log, folder, progress->step, keep);
done:
    drop(partial, made && status != WF_OK);
    return status;
}

weft_status weft_checkpoint_save(weft_params *p, const char *folder, const weft_progress *progress,
                                 int32_t keep) {
    wf_status status = weft_context_usable(p->context);
    if (status == WF_OK && (!folder || !*folder || !progress || keep < 0))
        status = wf_fail(WF_ERR_ARGUMENT,
                         "a checkpoint needs a folder and a progress, and keeps 0 (all) or more");
    if (status == WF_OK) status = weft_context_note(p->context, save(p, folder, progress, keep));
    return weft_from(status);
}

static wf_status save_model(weft_params *p, const char *folder) {
    wf_fabric *const fabric = p->context->fabric;
    const bool writes = wf_fabric_rank(fabric) == 0;
    char partial[WF_PATH_BYTES] = "";
    wf_progress unused = {0};
    bool made = false;
    wf_status status = WF_OK;
    if (writes) {
        status = wf_model_folder_begin(&p->context->log, folder, partial);
        made = status == WF_OK;
    }
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(weft_save_files(p, partial, false, &unused), done);
    if (writes) status = wf_model_folder_commit(folder, partial);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
done:
    drop(partial, made && status != WF_OK);
    return status;
}

weft_status weft_params_save(weft_params *p, const char *folder) {
    wf_status status = weft_context_usable(p->context);
    if (status == WF_OK && (!folder || !*folder))
        status = wf_fail(WF_ERR_ARGUMENT, "weights are saved to a folder; none was named");
    if (status == WF_OK) status = weft_context_note(p->context, save_model(p, folder));
    return weft_from(status);
}

/* ---- proving
 * --------------------------------------------------------------------------------------------------
 */

enum {
    ROUND = 64 << 20
}; /* bytes hashed between two words with the other ranks: well within a deadline */

static wf_status read_progress(const char *path, wf_progress *out) {
    char file[WF_PATH_BYTES];
    TRY(wf_path_join(path, "progress.json", file, sizeof file));
    return wf_progress_read(file, out);
}

static bool same_checkpoint(const wf_progress *a, const wf_progress *b) {
    bool same = a->step == b->step && a->data_position == b->data_position && a->seed == b->seed &&
                a->data_hash == b->data_hash && a->choices_hash == b->choices_hash &&
                strcmp(a->layout, b->layout) == 0;
    for (int i = 0; same && i < WF_CHECKPOINT_FILES; i++)
        same = a->file[i].there == b->file[i].there && a->file[i].bytes == b->file[i].bytes &&
               memcmp(a->file[i].digest, b->file[i].digest, WF_SHA256_BYTES) == 0;
    return same;
}

/* Do all ranks see the same checkpoint? */
static wf_status compare_checkpoints(wf_fabric *fabric, const char *path, const wf_progress *mine) {
    const int32_t ranks = wf_fabric_ranks(fabric);
    wf_progress *const all = calloc((size_t)ranks, sizeof *all);
    wf_status status =
        all ? WF_OK
            : wf_fail(WF_ERR_MEMORY, "no host memory to compare the checkpoints of %d ranks",
                      ranks);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, mine, sizeof *mine, all), done);
    for (int32_t r = 1; r < ranks && status == WF_OK; r++)
        if (!same_checkpoint(&all[r], &all[0]))
            status = wf_fail(WF_ERR_FILE,
                             "rank %d finds another checkpoint under %s than rank 0 does", r, path);
done:
    free(all);
    return status;
}

/* The ranks go through it in step: each round is agreed on. */
static wf_status hash_files(wf_fabric *fabric, const char *path, const wf_progress *progress) {
    const bool mine = wf_fabric_first_of_node(fabric);
    wf_verifier v = {.file = -1};
    wf_status status;
    TRY_GOTO(wf_fabric_agree(fabric, wf_verifier_start(path, progress, &v)), done);
    for (int64_t left = wf_progress_bytes(progress); left >= 0 && status == WF_OK; left -= ROUND)
        status = wf_fabric_agree(fabric, mine ? wf_verifier_advance(&v, ROUND) : WF_OK);
done:
    wf_verifier_end(&v);
    return status;
}

static wf_status prove(wf_fabric *fabric, const char *path, wf_progress *out) {
    memset(out, 0, sizeof *out); /* all of it is sent */
    TRY(wf_fabric_agree(fabric, read_progress(path, out)));
    TRY(compare_checkpoints(fabric, path, out));
    return hash_files(fabric, path, out);
}

/* ---- which one
 * --------------------------------------------------------------------------------------------------
 */

static bool exists(const char *folder, const char *name) {
    char path[WF_PATH_BYTES];
    struct stat st;
    return wf_path_join(folder, name, path, sizeof path) == WF_OK && stat(path, &st) == 0;
}

/* What rank 0 has becomes everyone's. */
static wf_status share(wf_fabric *fabric, void *data, int64_t bytes) {
    char *const all = malloc((size_t)(wf_fabric_ranks(fabric) * bytes) + 1);
    wf_status status =
        all ? WF_OK
            : wf_fail(WF_ERR_MEMORY, "no host memory to share %lld bytes", (long long)bytes);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, data, bytes, all), done);
    memcpy(data, all, (size_t)bytes);
done:
    free(all);
    return status;
}

static wf_status look(const char *path, int64_t **steps_out, int64_t *count_out) {
    TRY(wf_checkpoint_recover(path));
    if (exists(path, "progress.json")) return *count_out = -1, WF_OK;
    TRY(wf_checkpoint_list(path, steps_out, count_out));
    if (*count_out) return WF_OK;
    return wf_fail(WF_ERR_FILE,
                   "%s is no checkpoint, and holds none: no progress.json and no folder step-...",
                   path);
}

/* Rank 0's list is everyone's. count -1: the path is itself a checkpoint. */
static wf_status list(wf_fabric *fabric, const char *path, int64_t **steps_out,
                      int64_t *count_out) {
    int64_t *steps = NULL, count = 0;
    const bool asks = wf_fabric_rank(fabric) == 0;
    wf_status status;
    TRY_GOTO(wf_fabric_agree(fabric, asks ? look(path, &steps, &count) : WF_OK), fail);
    TRY_GOTO(share(fabric, &count, sizeof count), fail);
    if (count > 0 && !steps) steps = malloc((size_t)count * sizeof *steps);
    if (count > 0 && !steps)
        status = wf_fail(WF_ERR_MEMORY, "no host memory for %lld checkpoints", (long long)count);
    TRY_GOTO(wf_fabric_agree(fabric, status), fail);
    if (count > 0) TRY_GOTO(share(fabric, steps, count * (int64_t)sizeof *steps), fail);
    *steps_out = steps;
    *count_out = count;
    return WF_OK;
fail:
    free(steps);
    return status;
}

/* The newest that is whole; those that are not are named aloud. */
static wf_status find_newest(const weft_context *context, const char *folder, const int64_t *steps,
                             int64_t count, char path[WF_PATH_BYTES], wf_progress *out) {
    wf_fabric *const fabric = context->fabric;
    for (int64_t i = count - 1; i >= 0; i--) {
        TRY(wf_checkpoint_path(folder, steps[i], path));
        const wf_status status = prove(fabric, path, out);
        if (status != WF_ERR_FILE) return status;
        if (wf_fabric_rank(fabric) == 0)
            wf_warn(&context->log, WF_LOG_CHECKPOINT, "checkpoint %s is passed over: %s", path, wf_last_error());
    }
    return wf_fail(WF_ERR_FILE,
                   "none of the %lld checkpoints in %s is whole; of the oldest: %.400s",
                   (long long)count, folder, wf_last_error());
}

static wf_status find(const weft_context *context, const char *given, char path[WF_PATH_BYTES],
                      wf_progress *out) {
    wf_fabric *const fabric = context->fabric;
    int64_t *steps = NULL, count = 0;
    wf_status status = strlen(given) < WF_PATH_BYTES
                           ? WF_OK
                           : wf_fail(WF_ERR_FILE, "the path %.64s... is too long", given);
    TRY(wf_fabric_agree(fabric, status));
    TRY(list(fabric, given, &steps, &count));
    strcpy(path, given);
    status =
        count < 0 ? prove(fabric, path, out) : find_newest(context, given, steps, count, path, out);
    free(steps);
    return status;
}

/* ---- loading
 * ---------------------------------------------------------------------------------------------------
 */

/* Weights, and m and v where `optimizer` names their file; else these become 0. All is opened and
 * compared with the model before anything is loaded. */
static wf_status load_files(weft_params *p, const char *path, const char *optimizer) {
    static const char *const weights[] = {""}, *const states[] = {"m.", "v."},
                             *const what[] = {"m", "v"};
    wf_fabric *const fabric = p->context->fabric;
    wf_weights *w = NULL, *o = NULL;
    wf_status status = wf_checkpoint_recover(path);
    if (status == WF_OK) status = wf_weights_open(path, &p->model, weights, 1, &w);
    if (status == WF_OK && optimizer) status = wf_weights_open(optimizer, &p->model, states, 2, &o);
    if (status == WF_OK && optimizer) status = weft_params_prepare(p, WF_MODE_TRAIN);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(weft_load_shards(p, w, weights, 1), done);
    status = optimizer ? weft_load_shards(p, o, what, 2)
                       : wf_fabric_agree(fabric, weft_clear_optimizer(p));
done:
    wf_weights_close(w);
    wf_weights_close(o);
    return status;
}

weft_status weft_params_load(weft_params *p, const char *path) {
    wf_status status = weft_context_usable(p->context);
    if (status == WF_OK && (!path || !*path))
        status = wf_fail(WF_ERR_ARGUMENT, "no path of weights was given");
    if (status == WF_OK) status = weft_context_note(p->context, load_files(p, path, NULL));
    return weft_from(status);
}

static wf_status load(weft_params *p, const char *given, weft_progress *out) {
    char path[WF_PATH_BYTES], file[WF_PATH_BYTES];
    wf_progress found;
    TRY(find(p->context, given, path, &found));
    TRY(wf_fabric_agree(
        p->context->fabric,
        wf_path_join(path, wf_checkpoint_file_names[WF_FILE_OPTIMIZER], file, sizeof file)));
    TRY(load_files(p, path, found.file[WF_FILE_OPTIMIZER].there ? file : NULL));
    if (wf_fabric_rank(p->context->fabric) == 0)
        wf_say(&p->context->log, WF_LOG_CHECKPOINT, "%s is loaded: step %lld, saved under %s", path, (long long)found.step,
                *found.layout ? found.layout : "tp1");
    *out = (weft_progress){.step = found.step,
                           .seed = found.seed,
                           .data_position = found.data_position,
                           .data_hash = found.data_hash,
                           .choices_hash = found.choices_hash};
    snprintf(out->layout, sizeof out->layout, "%s", found.layout);
    return WF_OK;
}

weft_status weft_checkpoint_load(weft_params *p, const char *path, weft_progress *out) {
    wf_status status = weft_context_usable(p->context);
    if (status == WF_OK && (!path || !*path || !out))
        status = wf_fail(WF_ERR_ARGUMENT, "no checkpoint was named, or nowhere for its progress");
    if (status == WF_OK) status = weft_context_note(p->context, load(p, path, out));
    return weft_from(status);
}
