/* checkpoint.h: a folder of checkpoints on disk. Each is a folder step-000000012 that is made under
 * another name, .step-000000012.partial-HOST-PID, and renamed when it is whole and synced. */
#ifndef WF_MODEL_CHECKPOINT_H
#define WF_MODEL_CHECKPOINT_H

#include "host/base/log.h"
#include "host/model/progress.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WF_PATH_BYTES = 4096 };

/* Steps of the checkpoints in the folder, ascending; malloc'ed. Whole or not: they are not opened.
 */
wf_status wf_checkpoint_list(const char *folder, int64_t **steps_out, int64_t *count_out);
wf_status wf_checkpoint_path(const char *folder, int64_t step, char out[WF_PATH_BYTES]);

/* Puts back what a save that died had put aside (wf_folder_recover): at the path itself, and the checkpoints in it. */
wf_status wf_checkpoint_recover(const char *path);

/* Makes the folder and an empty partial folder in it; removes those that dead runs left behind. */
wf_status wf_checkpoint_begin(const wf_log *, const char *folder, int64_t step, char partial_out[WF_PATH_BYTES]);
/* The partial folder becomes the checkpoint, in one step. */
wf_status wf_checkpoint_commit(const char *folder, int64_t step, const char *partial);
/* Removes the oldest of those up to `step` until `keep` of them are left (0: removes none). What
 * cannot be removed is warned of: the checkpoint itself is whole. */
void wf_checkpoint_prune(const wf_log *, const char *folder, int64_t step, int32_t keep);

/* The same for a folder of a model, whose other files (a tokenizer's) come along. */
wf_status wf_model_folder_begin(const wf_log *, const char *path, char partial_out[WF_PATH_BYTES]);
wf_status wf_model_folder_commit(const char *path, const char *partial);

/* Compares sizes at once, then hashes in rounds of some bytes, so that ranks can keep in touch. */
typedef struct wf_verifier {
    char folder[WF_PATH_BYTES], path[WF_PATH_BYTES];
    wf_progress progress;
    int which, file; /* file: open, or -1 */
    int64_t at;
    wf_sha256 hash;
} wf_verifier;
wf_status wf_verifier_start(const char *folder, const wf_progress *, wf_verifier *out);
wf_status wf_verifier_advance(wf_verifier *, int64_t bytes);
void wf_verifier_end(wf_verifier *);
/* Bytes of all files together. */
int64_t wf_progress_bytes(const wf_progress *);

#ifdef __cplusplus
}
#endif
#endif
