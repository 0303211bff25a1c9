/* progress.h: progress.json of a checkpoint: where the training stood, which layout and choices
 * saved it, and the size and SHA-256 of every other file, so that a checkpoint is known to be
 * whole. */
#ifndef WF_MODEL_PROGRESS_H
#define WF_MODEL_PROGRESS_H

#include <stdint.h>

#include "host/base/file.h"
#include "layouts/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WF_CHECKPOINT_FILES = 3, WF_PROGRESS_VERSION = 1 };

/* The files, in the order in which they are written; the optimizer's may be absent. */
typedef enum wf_checkpoint_file {
    WF_FILE_CONFIG,
    WF_FILE_MODEL,
    WF_FILE_OPTIMIZER
} wf_checkpoint_file;
extern const char *const wf_checkpoint_file_names[WF_CHECKPOINT_FILES];

typedef struct wf_progress {
    int64_t step, data_position;
    uint64_t seed, data_hash, choices_hash;
    char layout[WF_LAYOUT_BYTES];
    struct {
        bool there;
        int64_t bytes;
        uint8_t digest[WF_SHA256_BYTES];
    } file[WF_CHECKPOINT_FILES];
} wf_progress;

wf_status wf_progress_write(const char *path, const wf_progress *);
/* Every field must be there and sound, and the text as it was written: it holds a hash of itself.
 */
wf_status wf_progress_read(const char *path, wf_progress *out);

#ifdef __cplusplus
}
#endif
#endif
