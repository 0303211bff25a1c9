#define _GNU_SOURCE /* renameat2 */
#include "host/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- reading ------------------------------------------------------------------------------------
 */

static const char *kind_of(mode_t mode) {
    return S_ISDIR(mode) ? "a folder" : S_ISFIFO(mode) ? "a pipe" : "no plain file";
}

wf_status wf_file_open(const char *path, int *file_out, int64_t *bytes_out) {
    struct stat st;
    /* O_NONBLOCK: a pipe must not make the open wait for its writer */
    const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return wf_fail(WF_ERR_FILE, "cannot open %s: %s", path, strerror(errno));
    wf_status status = WF_OK;
    if (fstat(file, &st) != 0)
        status = wf_fail(WF_ERR_FILE, "cannot look at %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        status = wf_fail(WF_ERR_FILE, "%s is %s", path, kind_of(st.st_mode));
    if (status != WF_OK) {
        close(file);
        return status;
    }
    *file_out = file;
    *bytes_out = st.st_size;
    return WF_OK;
}

wf_status wf_file_read_at(int file, const char *path, int64_t at, void *out, int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
        const ssize_t got =
            pread(file, (char *)out + done, (size_t)(bytes - done), (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return wf_fail(WF_ERR_FILE, "cannot read byte %lld of %s: %s", (long long)(at + done),
                           path, strerror(errno));
        if (got == 0)
            return wf_fail(WF_ERR_FILE, "%s ends at byte %lld; it was longer when it was opened",
                           path, (long long)(at + done));
        done += got;
    }
    return WF_OK;
}

wf_status wf_file_load(const char *path, int64_t most, char **text_out, int64_t *bytes_out) {
    int file;
    int64_t bytes;
    wf_status status = WF_OK;
    TRY(wf_file_open(path, &file, &bytes));
    char *text = NULL;
    if (bytes > most)
        status = wf_fail(WF_ERR_FILE, "%s has %lld bytes; at most %lld are read", path,
                         (long long)bytes, (long long)most);
    else if (!(text = malloc((size_t)bytes + 1)))
        status = wf_fail(WF_ERR_MEMORY, "no host memory for the %lld bytes of %s", (long long)bytes,
                         path);
    else
        status = wf_file_read_at(file, path, 0, text, bytes);
    close(file);
    if (status != WF_OK) {
        free(text);
        return status;
    }
    text[bytes] = 0;
    *text_out = text;
    *bytes_out = bytes;
    return WF_OK;
}

/* ---- writing ------------------------------------------------------------------------------------
 */

enum { SYNC_EVERY = 64 << 20 };

wf_status wf_output_open(const char *path, wf_output *out) {
    out->file = -1;
    if ((size_t)snprintf(out->path, sizeof out->path, "%s", path) >= sizeof out->path)
        return wf_fail(WF_ERR_FILE, "the path %.64s... is longer than %zu bytes", path,
                       sizeof out->path);
    out->bytes = out->synced = 0;
    wf_sha256_start(&out->hash);
    out->file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return out->file < 0 ? wf_fail(WF_ERR_FILE, "cannot create %s: %s", path, strerror(errno))
                         : WF_OK;
}

wf_status wf_output_put(wf_output *o, const void *data, int64_t bytes) {
    for (int64_t done = 0; done < bytes;) {
        const ssize_t put = write(o->file, (const char *)data + done, (size_t)(bytes - done));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0)
            return wf_fail(WF_ERR_FILE, "cannot write byte %lld of %s: %s",
                           (long long)(o->bytes + done), o->path,
                           put ? strerror(errno) : "nothing was taken");
        done += put;
    }
    wf_sha256_add(&o->hash, data, (size_t)bytes);
    o->bytes += bytes;
    if (o->bytes - o->synced < SYNC_EVERY) return WF_OK;
    o->synced = o->bytes;
    return fdatasync(o->file) == 0
               ? WF_OK
               : wf_fail(WF_ERR_FILE, "cannot sync %s: %s", o->path, strerror(errno));
}

wf_status wf_output_close(wf_output *o, uint8_t digest_out[WF_SHA256_BYTES]) {
    wf_status status = WF_OK;
    if (fsync(o->file) != 0)
        status = wf_fail(WF_ERR_FILE, "cannot sync %s: %s", o->path, strerror(errno));
    if (close(o->file) != 0 && status == WF_OK)
        status = wf_fail(WF_ERR_FILE, "cannot close %s: %s", o->path, strerror(errno));
    o->file = -1;
    wf_sha256_finish(&o->hash, digest_out);
    return status;
}

void wf_output_abandon(wf_output *o) {
    if (o->file >= 0) close(o->file);
    o->file = -1;
}

static wf_status settle(int file, const char *path, int64_t bytes,
                        uint8_t digest_out[WF_SHA256_BYTES]) {
    char block[4096];
    wf_sha256 hash;
    wf_sha256_start(&hash);
    for (int64_t at = 0; at < bytes;) {
        const int64_t part =
            bytes - at < (int64_t)sizeof block ? bytes - at : (int64_t)sizeof block;
        TRY(wf_file_read_at(file, path, at, block, part));
        wf_sha256_add(&hash, block, (size_t)part);
        at += part;
    }
    wf_sha256_finish(&hash, digest_out);
    return fsync(file) == 0 ? WF_OK
                            : wf_fail(WF_ERR_FILE, "cannot sync %s: %s", path, strerror(errno));
}

wf_status wf_file_settle(const char *path, int64_t *bytes_out,
                         uint8_t digest_out[WF_SHA256_BYTES]) {
    int file;
    int64_t bytes;
    TRY(wf_file_open(path, &file, &bytes));
    const wf_status status = settle(file, path, bytes, digest_out);
    close(file);
    if (status == WF_OK) *bytes_out = bytes;
    return status;
}

/* ---- folders ------------------------------------------------------------------------------------
 */

wf_status wf_path_join(const char *folder, const char *name, char *out, size_t out_bytes) {
    const size_t n = strlen(folder);
    const char *const between = n && folder[n - 1] == '/' ? "" : "/";
    if ((size_t)snprintf(out, out_bytes, "%s%s%s", folder, between, name) < out_bytes) return WF_OK;
    return wf_fail(WF_ERR_FILE, "the path %.64s.../%.64s is longer than %zu bytes", folder, name,
                   out_bytes);
}

static wf_status make_one(const char *path) {
    struct stat st;
    if (mkdir(path, 0777) == 0) return WF_OK;
    const int why = errno;
    if (why == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) return WF_OK;
    return wf_fail(WF_ERR_FILE, "cannot make folder %s: %s", path, strerror(why));
}

wf_status wf_folder_make(const char *path) {
    char part[4096];
    if (!*path || strlen(path) >= sizeof part)
        return wf_fail(WF_ERR_FILE, "%s is no path of a folder",
                       *path ? "what is longer than 4095 bytes" : "an empty text");
    for (size_t n = 1; path[n]; n++) {
        if (path[n] != '/' || path[n - 1] == '/') continue;
        memcpy(part, path, n);
        part[n] = 0;
        TRY(make_one(part));
    }
    return make_one(path);
}

wf_status wf_folder_sync(const char *path) {
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) return wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", path, strerror(errno));
    wf_status status = WF_OK;
    /* some file systems have no sync of folders and say EINVAL: then there is nothing to wait for
     */
    if (fsync(folder) != 0 && errno != EINVAL)
        status = wf_fail(WF_ERR_FILE, "cannot sync folder %s: %s", path, strerror(errno));
    close(folder);
    return status;
}

static bool dots(const char *name) {
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

const struct dirent *wf_folder_next(DIR *entries, const char *path, wf_status *status) {
    errno = 0;
    const struct dirent *const entry = readdir(entries);
    if (!entry && errno) *status = wf_fail(WF_ERR_FILE, "cannot list folder %s: %s", path, strerror(errno));
    return entry;
}

wf_status wf_folder_remove(const char *path) {
    DIR *const folder = opendir(path);
    if (!folder) return wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", path, strerror(errno));
    wf_status status = WF_OK;
    for (const struct dirent *entry; status == WF_OK && (entry = wf_folder_next(folder, path, &status));)
        if (!dots(entry->d_name) && unlinkat(dirfd(folder), entry->d_name, 0) != 0)
            status = wf_fail(WF_ERR_FILE, "cannot remove %s/%s: %s", path, entry->d_name,
                             strerror(errno));
    closedir(folder);
    if (status == WF_OK && rmdir(path) != 0)
        status = wf_fail(WF_ERR_FILE, "cannot remove folder %s: %s", path, strerror(errno));
    return status;
}

static wf_status sync_parent(const char *path) {
    char parent[4096];
    snprintf(parent, sizeof parent, "%s", path);
    char *const slash = strrchr(parent, '/');
    if (!slash) return wf_folder_sync(".");
    slash[slash == parent] = 0;
    return wf_folder_sync(parent);
}

/* ---- a folder in another's place
 * --------------------------------------------------------------------------------
 *
 * One exchange where the file system can. Others (NFS, Lustre) want two renames, and between them nothing is at the
 * path: the old folder then lies beside it as `made`.old, from where an error puts it back at once, and after a kill
 * or a loss of power wf_folder_recover does. Whatever is at the path or recovered is whole at every moment. */

#define OLD ".old"

/* As often as somebody else's recovery may come between the two renames. */
enum { TRIES = 8 };

static wf_status put_back(const char *made, const char *path, const char *old, int why) {
    if (rename(old, path) == 0 || errno == EEXIST || errno == ENOTEMPTY) /* these: somebody has */
        return wf_fail(WF_ERR_FILE, "cannot put %s in the place of %s: %s", made, path, strerror(why));
    return wf_fail(WF_ERR_FILE, "cannot put %s in the place of %s: %s; what was there is in %s and could not be put back: %s",
                   made, path, strerror(why), old, strerror(errno));
}

static wf_status rename_twice(const char *made, const char *path, const char *old) {
    for (int tries = 0; tries < TRIES; tries++) {
        if (rename(path, old) != 0 && errno != ENOENT)
            return wf_fail(WF_ERR_FILE, "cannot rename %s to %s: %s", path, old, strerror(errno));
        if (rename(made, path) == 0) return WF_OK;
        if (errno != ENOTEMPTY && errno != EEXIST) return put_back(made, path, old, errno);
    }
    return wf_fail(WF_ERR_FILE, "cannot put %s in the place of %s: others write there at the same time", made, path);
}

/* The old folder lies at old_out then. */
static wf_status take_place(const char *made, const char *path, char *old_out, size_t old_bytes) {
    snprintf(old_out, old_bytes, "%s", made);
    if (renameat2(AT_FDCWD, made, AT_FDCWD, path, RENAME_EXCHANGE) == 0) return WF_OK;
    if (errno != EINVAL && errno != ENOSYS)
        return wf_fail(WF_ERR_FILE, "cannot exchange %s for %s: %s", path, made, strerror(errno));
    if ((size_t)snprintf(old_out, old_bytes, "%s" OLD, made) >= old_bytes)
        return wf_fail(WF_ERR_FILE, "the path %.64s... is too long", made);
    return rename_twice(made, path, old_out);
}

wf_status wf_folder_replace(const char *made, const char *path) {
    char old[4200];
    /* an empty folder gives way; one that is not empty says so and stays */
    if (rename(made, path) == 0) return sync_parent(path);
    if (errno != ENOTEMPTY && errno != EEXIST)
        return wf_fail(WF_ERR_FILE, "cannot rename %s to %s: %s", made, path, strerror(errno));
    TRY(take_place(made, path, old, sizeof old));
    TRY(sync_parent(path));
    return wf_folder_remove(old);
}

/* Is it .NAME.....old? */
static bool is_old_of(const char *entry, const char *name) {
    const size_t n = strlen(name), length = strlen(entry), end = strlen(OLD);
    return length > n + 2 + end && entry[0] == '.' && strncmp(entry + 1, name, n) == 0 && entry[n + 1] == '.' &&
           strcmp(entry + length - end, OLD) == 0;
}

bool wf_folder_is_old(const char *entry) {
    const size_t n = strlen(entry);
    return n > strlen(OLD) && *entry == '.' && strcmp(entry + n - strlen(OLD), OLD) == 0;
}

wf_status wf_folder_recover(const char *parent, const char *name) {
    char path[4096], old[4096];
    struct stat st;
    wf_status status = WF_OK;
    TRY(wf_path_join(parent, name, path, sizeof path));
    if (lstat(path, &st) == 0 || errno != ENOENT) return WF_OK;
    DIR *const entries = opendir(parent);
    if (!entries && (errno == ENOENT || errno == EACCES)) return WF_OK; /* nothing that could be put back */
    if (!entries) return wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", parent, strerror(errno));
    for (const struct dirent *e; status == WF_OK && (e = wf_folder_next(entries, parent, &status));) {
        if (!is_old_of(e->d_name, name)) continue;
        TRY_GOTO(wf_path_join(parent, e->d_name, old, sizeof old), done);
        if (rename(old, path) != 0 && lstat(path, &st) != 0) /* else another rank was first */
            status = wf_fail(WF_ERR_FILE, "%s was being replaced when its writer died; it is whole in %s, but cannot be put back: %s",
                             path, old, strerror(errno));
        break;
    }
done:
    closedir(entries);
    return status;
}
