/* checkpoint.c: names, life and proof of checkpoints on disk.
 *
 * The rename is the one moment at which a checkpoint comes into being: before it the partial folder
 * and every file in it are synced, after it the folder that holds it. What is pruned is renamed
 * away first, so that nothing half-removed ever has a checkpoint's name. What a save replaces goes only
 * when the new one is in its place; each save and load first puts back what a dead save had put aside. */
#include "host/model/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/log.h"

#define PARTIAL ".partial-"

/* ---- names
 * ------------------------------------------------------------------------------------------ */

static void print_name(int64_t step, char out[40]) {
    snprintf(out, 40, "step-%09" PRId64, step);
}

/* The step, or -1: the name is not exactly as print_name makes it. */
static int64_t step_of(const char *name) {
    char again[40];
    if (strncmp(name, "step-", 5) != 0 || strlen(name) > 24 || name[5] < '0' || name[5] > '9')
        return -1;
    const int64_t step = strtoll(name + 5, NULL, 10);
    print_name(step, again);
    return strcmp(again, name) == 0 ? step : -1;
}

wf_status wf_checkpoint_path(const char *folder, int64_t step, char out[WF_PATH_BYTES]) {
    char name[40];
    print_name(step, name);
    return wf_path_join(folder, name, out, WF_PATH_BYTES);
}

static void host_name(char out[64]) {
    if (gethostname(out, 64) != 0) strcpy(out, "host");
    out[63] = 0;
}

static wf_status partial_path(const char *folder, const char *name, char out[WF_PATH_BYTES]) {
    char host[64], whole[512];
    host_name(host);
    snprintf(whole, sizeof whole, ".%s" PARTIAL "%s-%ld", name, host, (long)getpid());
    return wf_path_join(folder, whole, out, WF_PATH_BYTES);
}

/* ---- what dead runs left
 * ------------------------------------------------------------------------------ */

/* ".NAME.partial-HOST-PID[.old]" of this host, whose process is this one or gone. Other hosts' are
 * theirs. */
static bool is_stale(const char *entry) {
    char host[64];
    const char *const at = *entry == '.' ? strstr(entry, PARTIAL) : NULL;
    if (!at) return false;
    host_name(host);
    const char *const from = at + strlen(PARTIAL), *const dash = strrchr(from, '-');
    if (!dash || (size_t)(dash - from) != strlen(host) || strncmp(from, host, strlen(host)) != 0)
        return false;
    const long pid = strtol(dash + 1, NULL, 10);
    return pid == getpid() ||
           (pid > 0 && pid <= INT_MAX && kill((pid_t)pid, 0) != 0 && errno == ESRCH);
}

/* Only partial folders whose names begin with `prefix` are looked at. */
static void remove_stale(const wf_log *log, const char *folder, const char *prefix) {
    char path[WF_PATH_BYTES];
    wf_status listed = WF_OK; /* what is not seen stays until the next save */
    DIR *const entries = opendir(folder);
    for (const struct dirent *e; entries && (e = wf_folder_next(entries, folder, &listed));) {
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0 || !is_stale(e->d_name)) continue;
        if (wf_path_join(folder, e->d_name, path, sizeof path) == WF_OK &&
            wf_folder_remove(path) != WF_OK)
            wf_warn(log, WF_LOG_CHECKPOINT, "what a dead run left cannot be removed: %s", wf_last_error());
    }
    if (entries) closedir(entries);
}

/* path = parent/name, slashes at its end left out. */
static wf_status split(const char *path, char parent[WF_PATH_BYTES], char name[256]) {
    char text[WF_PATH_BYTES];
    if ((size_t)snprintf(text, sizeof text, "%s", path) >= sizeof text)
        return wf_fail(WF_ERR_FILE, "the path %.64s... is too long", path);
    for (size_t n = strlen(text); n > 1 && text[n - 1] == '/'; n--) text[n - 1] = 0;
    char *const slash = strrchr(text, '/');
    const char *const last = slash ? slash + 1 : text;
    const size_t length = strlen(last);
    if (!length || strcmp(last, ".") == 0 || strcmp(last, "..") == 0 || length > 100)
        return wf_fail(WF_ERR_FILE, "%s is no name of a folder that could be replaced", path);
    memcpy(name, last, length + 1);
    if (!slash) return strcpy(parent, "."), WF_OK;
    snprintf(parent, WF_PATH_BYTES, "%.*s", slash == text ? 1 : (int)(slash - text), text);
    return WF_OK;
}

/* The checkpoints of a folder, by the names of what is aside: .step-000000012.partial-HOST-PID.old */
static wf_status recover_steps(const char *folder) {
    char name[256];
    wf_status status = WF_OK;
    DIR *const entries = opendir(folder);
    if (!entries && (errno == ENOENT || errno == ENOTDIR || errno == EACCES)) return WF_OK; /* whoever reads it says so */
    if (!entries) return wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", folder, strerror(errno));
    for (const struct dirent *e; status == WF_OK && (e = wf_folder_next(entries, folder, &status));) {
        const char *const end = strstr(e->d_name, PARTIAL);
        if (!end || !wf_folder_is_old(e->d_name)) continue;
        snprintf(name, sizeof name, "%.*s", (int)(end - e->d_name - 1), e->d_name + 1);
        if (step_of(name) >= 0) status = wf_folder_recover(folder, name);
    }
    closedir(entries);
    return status;
}

wf_status wf_checkpoint_recover(const char *path) {
    char parent[WF_PATH_BYTES], name[256];
    if (split(path, parent, name) == WF_OK) TRY(wf_folder_recover(parent, name));
    return recover_steps(path);
}

static wf_status make_partial(const char *path) {
    return mkdir(path, 0777) == 0
               ? WF_OK
               : wf_fail(WF_ERR_FILE, "cannot make folder %s: %s", path, strerror(errno));
}

/* ---- list
 * ------------------------------------------------------------------------------------------------
 */

static int by_value(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static bool push(int64_t **steps, int64_t *count, int64_t step) {
    if ((*count & (*count - 1)) == 0) { /* room doubles at powers of two */
        int64_t *const grown = realloc(*steps, (size_t)(2 * *count + 1) * sizeof *grown);
        if (!grown) return false;
        *steps = grown;
    }
    (*steps)[(*count)++] = step;
    return true;
}

wf_status wf_checkpoint_list(const char *folder, int64_t **steps_out, int64_t *count_out) {
    int64_t *steps = NULL, count = 0;
    wf_status status = WF_OK;
    DIR *const entries = opendir(folder);
    if (!entries) return wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", folder, strerror(errno));
    for (const struct dirent *e; status == WF_OK && (e = wf_folder_next(entries, folder, &status));)
        if (step_of(e->d_name) >= 0 && !push(&steps, &count, step_of(e->d_name)))
            status = wf_fail(WF_ERR_MEMORY, "no host memory to list folder %s", folder);
    closedir(entries);
    if (status != WF_OK) {
        free(steps);
        return status;
    }
    if (count) qsort(steps, (size_t)count, sizeof *steps, by_value);
    *steps_out = steps;
    *count_out = count;
    return WF_OK;
}

/* ---- begin, commit, prune
 * ---------------------------------------------------------------------------------- */

wf_status wf_checkpoint_begin(const wf_log *log, const char *folder, int64_t step, char partial_out[WF_PATH_BYTES]) {
    char name[40];
    print_name(step, name);
    TRY(wf_folder_make(folder));
    TRY(recover_steps(folder)); /* or it would be removed as stale */
    remove_stale(log, folder, ".step-");
    TRY(partial_path(folder, name, partial_out));
    return make_partial(partial_out);
}

wf_status wf_checkpoint_commit(const char *folder, int64_t step, const char *partial) {
    char path[WF_PATH_BYTES];
    TRY(wf_checkpoint_path(folder, step, path));
    TRY(wf_folder_sync(partial));
    return wf_folder_replace(partial, path);
}

static wf_status remove_checkpoint(const char *folder, int64_t step) {
    char name[40], path[WF_PATH_BYTES], away[WF_PATH_BYTES];
    print_name(step, name);
    TRY(wf_path_join(folder, name, path, sizeof path));
    TRY(partial_path(folder, name, away));
    if (rename(path, away) != 0)
        return wf_fail(WF_ERR_FILE, "cannot rename %s: %s", path, strerror(errno));
    return wf_folder_remove(away);
}

void wf_checkpoint_prune(const wf_log *log, const char *folder, int64_t step, int32_t keep) {
    int64_t *steps, count, upto = 0;
    if (keep <= 0) return;
    if (wf_checkpoint_list(folder, &steps, &count) != WF_OK) {
        wf_warn(log, WF_LOG_CHECKPOINT, "old checkpoints are not removed: %s", wf_last_error());
        return;
    }
    while (upto < count && steps[upto] <= step) upto++;
    for (int64_t i = 0; i < upto - keep; i++)
        if (remove_checkpoint(folder, steps[i]) != WF_OK)
            wf_warn(log, WF_LOG_CHECKPOINT, "an old checkpoint is not removed: %s", wf_last_error());
    free(steps);
}

/* ---- a model's folder
 * ----------------------------------------------------------------------------------------- */

static bool is_own(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
           strcmp(name, wf_checkpoint_file_names[WF_FILE_CONFIG]) == 0 ||
           strcmp(name, wf_checkpoint_file_names[WF_FILE_MODEL]) == 0;
}

/* Files of the folder that is replaced which are not weft's stay: by a second link. */
static wf_status bring_along(const char *path, const char *partial) {
    char from[WF_PATH_BYTES], to[WF_PATH_BYTES];
    wf_status status = WF_OK;
    DIR *const entries = opendir(path);
    if (!entries)
        return errno == ENOENT
                   ? WF_OK
                   : wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", path, strerror(errno));
    for (const struct dirent *e; status == WF_OK && (e = wf_folder_next(entries, path, &status));) {
        if (is_own(e->d_name)) continue;
        TRY_GOTO(wf_path_join(path, e->d_name, from, sizeof from), done);
        TRY_GOTO(wf_path_join(partial, e->d_name, to, sizeof to), done);
        if (linkat(AT_FDCWD, from, AT_FDCWD, to, 0) != 0)
            status = wf_fail(WF_ERR_FILE, "cannot keep %s while its folder is replaced: %s", from,
                             strerror(errno));
    }
done:
    closedir(entries);
    return status;
}

wf_status wf_model_folder_begin(const wf_log *log, const char *path, char partial_out[WF_PATH_BYTES]) {
    char parent[WF_PATH_BYTES], name[256], prefix[300];
    TRY(split(path, parent, name));
    TRY(wf_folder_make(parent));
    snprintf(prefix, sizeof prefix, ".%s" PARTIAL, name);
    TRY(wf_folder_recover(parent, name)); /* or it would be removed as stale */
    remove_stale(log, parent, prefix);
    TRY(partial_path(parent, name, partial_out));
    TRY(make_partial(partial_out));
    const wf_status status = bring_along(path, partial_out);
    if (status != WF_OK) {
        char why[512];
        snprintf(why, sizeof why, "%s", wf_last_error());
        wf_folder_remove(partial_out);
        return wf_fail(status, "%s", why);
    }
    return WF_OK;
}

wf_status wf_model_folder_commit(const char *path, const char *partial) {
    char parent[WF_PATH_BYTES], name[256], whole[WF_PATH_BYTES];
    TRY(split(path, parent, name));
    TRY(wf_path_join(parent, name, whole, sizeof whole));
    TRY(wf_folder_sync(partial));
    return wf_folder_replace(partial, whole);
}

/* ---- is it whole?
 * ------------------------------------------------------------------------------------------------
 */

int64_t wf_progress_bytes(const wf_progress *p) {
    int64_t bytes = 0;
    for (int i = 0; i < WF_CHECKPOINT_FILES; i++)
        if (p->file[i].there) bytes += p->file[i].bytes;
    return bytes;
}

static wf_status check_size(const char *folder, const wf_progress *p, int which) {
    char path[WF_PATH_BYTES];
    int file;
    int64_t bytes;
    TRY(wf_path_join(folder, wf_checkpoint_file_names[which], path, sizeof path));
    TRY(wf_file_open(path, &file, &bytes));
    close(file);
    if (bytes == p->file[which].bytes) return WF_OK;
    return wf_fail(WF_ERR_FILE, "%s is damaged: it has %lld bytes, progress.json says %lld", path,
                   (long long)bytes, (long long)p->file[which].bytes);
}

wf_status wf_verifier_start(const char *folder, const wf_progress *p, wf_verifier *out) {
    memset(out, 0, sizeof *out);
    out->file = -1;
    out->progress = *p;
    if ((size_t)snprintf(out->folder, sizeof out->folder, "%s", folder) >= sizeof out->folder)
        return wf_fail(WF_ERR_FILE, "the path %.64s... is too long", folder);
    for (int i = 0; i < WF_CHECKPOINT_FILES; i++)
        if (p->file[i].there) TRY(check_size(folder, p, i));
    return WF_OK;
}

static wf_status open_next(wf_verifier *v) {
    int64_t bytes;
    TRY(wf_path_join(v->folder, wf_checkpoint_file_names[v->which], v->path, sizeof v->path));
    TRY(wf_file_open(v->path, &v->file, &bytes));
    v->at = 0;
    wf_sha256_start(&v->hash);
    return WF_OK;
}

static wf_status close_file(wf_verifier *v) {
    uint8_t digest[WF_SHA256_BYTES];
    close(v->file);
    v->file = -1;
    wf_sha256_finish(&v->hash, digest);
    if (memcmp(digest, v->progress.file[v->which].digest, sizeof digest) != 0)
        return wf_fail(WF_ERR_FILE, "%s is damaged: its SHA-256 is not the one in progress.json",
                       v->path);
    v->which++;
    return WF_OK;
}

wf_status wf_verifier_advance(wf_verifier *v, int64_t bytes) {
    static const int64_t room = 1 << 16;
    char block[1 << 16];
    while (v->which < WF_CHECKPOINT_FILES) {
        if (!v->progress.file[v->which].there) {
            v->which++;
            continue;
        }
        if (v->file < 0) TRY(open_next(v));
        const int64_t rest = v->progress.file[v->which].bytes - v->at;
        if (!rest) {
            TRY(close_file(v));
            continue;
        }
        if (bytes <= 0) return WF_OK;
        const int64_t part = rest < room ? rest : room;
        TRY(wf_file_read_at(v->file, v->path, v->at, block, part));
        wf_sha256_add(&v->hash, block, (size_t)part);
        v->at += part;
        bytes -= part;
    }
    return WF_OK;
}

void wf_verifier_end(wf_verifier *v) {
    if (v->file >= 0) close(v->file);
    v->file = -1;
}
