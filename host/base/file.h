/* file.h: files and folders that are whole or absent: written under another name, synced, renamed;
 * read with a limit. Each failure is one sentence with the path and the system's reason. */
#ifndef WF_BASE_FILE_H
#define WF_BASE_FILE_H

#include <dirent.h>
#include <stdbool.h>
#include <stdint.h>

#include "host/base/sha256.h"
#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- reading ---- */

/* Opens a plain file (no pipe, no folder, no device) for reading. */
wf_status wf_file_open(const char *path, int *file_out, int64_t *bytes_out);
/* Exactly these bytes, or the sentence. */
wf_status wf_file_read_at(int file, const char *path, int64_t at, void *out, int64_t bytes);
/* A whole file of at most `most` bytes and a 0 behind it, malloc'ed. */
wf_status wf_file_load(const char *path, int64_t most, char **text_out, int64_t *bytes_out);

/* ---- writing ---- */

/* A file being written: hashed on its way, and handed to the disk every 64 MiB, so that the sync at
 * its end is short whatever its size (other ranks wait for it within their deadline). */
typedef struct wf_output {
    int file;
    int64_t bytes, synced;
    wf_sha256 hash;
    char path[4096];
} wf_output;
/* A new file; one that is there already is an error. */
wf_status wf_output_open(const char *path, wf_output *out);
wf_status wf_output_put(wf_output *, const void *data, int64_t bytes);
/* Syncs and closes; the hash is of all that was written. Closed whatever the status. */
wf_status wf_output_close(wf_output *, uint8_t digest_out[WF_SHA256_BYTES]);
/* After a failure: closes. Harmless after close. */
void wf_output_abandon(wf_output *);
/* Syncs a file that another function has written; its size and hash. */
wf_status wf_file_settle(const char *path, int64_t *bytes_out, uint8_t digest_out[WF_SHA256_BYTES]);

/* ---- folders ---- */

/* Joins folder and name; WF_ERR_FILE where it does not fit. */
wf_status wf_path_join(const char *folder, const char *name, char *out, size_t out_bytes);
/* Makes the folder and those above it; one that is there is fine. */
wf_status wf_folder_make(const char *path);
wf_status wf_folder_sync(const char *path);
/* The next entry of an open folder; NULL at its end, or where it cannot be read on, which then is *status's
 * sentence: readdir alone makes a disk that fails look like the end. */
const struct dirent *wf_folder_next(DIR *entries, const char *path, wf_status *status);
/* Removes a folder and the plain files in it; it may hold no folders. */
wf_status wf_folder_remove(const char *path);
/* `made`, which is PARENT/.NAME.something, becomes `path`, PARENT/NAME, and that is synced; a folder that was there is
 * removed. In one step where the file system can. Where it cannot, a kill or a loss of power may leave nothing at the
 * path and what was there, whole, as `made`.old: then wf_folder_recover puts it back. */
wf_status wf_folder_replace(const char *made, const char *path);
/* Puts back what a dead replacement left beside PARENT/NAME, if nothing is there; WF_OK, too, where there is none. Many
 * may call it at once. */
wf_status wf_folder_recover(const char *parent, const char *name);
/* Is this entry what a replacement put aside? */
bool wf_folder_is_old(const char *entry);

#ifdef __cplusplus
}
#endif
#endif
