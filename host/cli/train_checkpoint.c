/* train_checkpoint.c: a training's state on disk: saved every so many steps and when a signal asks to
 * stop, taken up again. The library writes and reads the files (weft_checkpoint_save, _load); here is what the
 * command keeps beside them: seed, position in the data and its hash. */
#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "host/cli/stop.h"
#include "host/cli/train.h"

/* What the ranks have agreed on is said once, and nobody waits; but who has waited in vain says so. */
static int agreed_fail(train_run *r, weft_status status) {
    const bool lost = status == WEFT_ERR_TIMEOUT || status == WEFT_ERR_FABRIC;
    return lost ? train_fail(r, status) : fail_on_rank(r->rank, status);
}

static bool is_put_aside(const char *name) {
    const size_t n = strlen(name);
    return n > 10 && strncmp(name, ".step-", 6) == 0 && strcmp(name + n - 4, ".old") == 0;
}

/* Is there anything in the folder that could be a checkpoint, or one that a save which died had put aside? What it is worth, loading says. */
static bool has_checkpoint(const char *folder) {
    DIR *const d = opendir(folder);
    bool found = false;
    if (!d) return errno != ENOENT;
    errno = 0;
    for (const struct dirent *entry; !found && (entry = readdir(d));)
        found = strncmp(entry->d_name, "step-", 5) == 0 || is_put_aside(entry->d_name);
    found = found || errno; /* a folder that cannot be read is not one without checkpoints */
    closedir(d);
    return found;
}

/* "auto": the newest in --checkpoint, if a rank sees any; otherwise a new start. */
static const char *find_resume(train_run *r) {
    const train_arguments *const a = r->arguments;
    if (!a->resume || strcmp(a->resume, "auto")) return a->resume;
    const weft_status any = weft_context_agree(r->context, has_checkpoint(a->checkpoint) ? WEFT_ERR_FILE : WEFT_OK);
    return any ? a->checkpoint : NULL;
}

static int check_progress(const train_run *r, const char *path, const weft_progress *p) {
    const train_arguments *const a = r->arguments;
    if (a->seed >= 0 && (uint64_t)a->seed != p->seed)
        return r->rank ? EXIT_USAGE
                       : complain(EXIT_USAGE, "checkpoint '%s' was trained with seed %llu, but --seed says %lld (leave it out)", path,
                                  (unsigned long long)p->seed, (long long)a->seed);
    if (p->data_hash != r->data.hash && !a->new_data)
        return r->rank ? EXIT_USAGE
                       : complain(EXIT_USAGE,
                                  "checkpoint '%s' was trained on other data than this (hash %016llx, not %016llx); --new-data goes on "
                                  "with this",
                                  path, (unsigned long long)p->data_hash, (unsigned long long)r->data.hash);
    return EXIT_FINE;
}

static int resume(train_run *r, const char *path) {
    const train_arguments *const a = r->arguments;
    weft_progress p;
    const weft_status status = weft_checkpoint_load(r->params, path, &p);
    if (status) return agreed_fail(r, status);
    const int result = check_progress(r, path, &p);
    if (result) return result;
    r->seed = p.seed;
    r->first_step = r->done = p.step;
    if (r->rank) return EXIT_FINE;
    fprintf(stderr, "resumed '%s': %lld steps done under %s\n", path, (long long)p.step, *p.layout ? p.layout : "tp1");
    if (p.data_hash == r->data.hash && p.data_position != p.step * a->batch * a->sequence)
        fprintf(stderr, "note: those steps took %lld tokens, not %lld x %lld x %lld: --batch or --sequence has changed\n",
                (long long)p.data_position, (long long)p.step, (long long)a->batch, (long long)a->sequence);
    if (p.step >= a->steps) fprintf(stderr, "nothing to train: --steps %lld are done\n", (long long)a->steps);
    return EXIT_FINE;
}

int train_restore(train_run *r) {
    const train_arguments *const a = r->arguments;
    const char *const path = find_resume(r);
    if (path) return resume(r, path);
    const weft_status status = a->from ? weft_params_load(r->params, a->from) : weft_params_init(r->params, r->seed);
    return status ? agreed_fail(r, status) : EXIT_FINE;
}

int train_checkpoint(train_run *r) {
    const train_arguments *const a = r->arguments;
    const weft_progress p = {.step = r->done,
                             .seed = r->seed,
                             .data_position = r->done * a->batch * a->sequence,
                             .data_hash = r->data.hash};
    const weft_status status = weft_checkpoint_save(r->params, a->checkpoint, &p, (int32_t)a->keep);
    return status ? agreed_fail(r, status) : EXIT_FINE;
}

/* A launcher may tell one rank and not the others. */
int train_stop_asked(train_run *r, bool *stop_out) {
    const bool mine = stop_signal() != 0;
    *stop_out = mine;
    if (r->ranks == 1) return EXIT_FINE;
    const weft_status any = weft_context_agree(r->context, mine ? WEFT_ERR_UNSUPPORTED : WEFT_OK);
    *stop_out = any == WEFT_ERR_UNSUPPORTED;
    return any && !*stop_out ? agreed_fail(r, any) : EXIT_FINE;
}

int train_save(train_run *r) {
    const char *const folder = r->arguments->save;
    const weft_status status = weft_params_save(r->params, folder);
    if (status) return agreed_fail(r, status);
    if (!r->rank) fprintf(stderr, "saved the model in '%s'\n", folder);
    return EXIT_FINE;
}
