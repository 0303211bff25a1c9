/* weights.h: a model's tensors in its family's files: one .safetensors file, or a folder with one
 * or with shards and their index. Opening finds every tensor of the model and names those that are
 * missing, strange or of another shape, before anything is read; reading touches a rank's shard
 * only.
 *
 * A file holds one or more sets: "" are weights; an optimizer's file holds "m." and "v.", each with
 * all of the model's names. */
#ifndef WF_MODEL_WEIGHTS_H
#define WF_MODEL_WEIGHTS_H

#include "host/model/names.h"
#include "host/model/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { WF_MOST_SETS = 2 };

typedef struct wf_weights wf_weights;
wf_status wf_weights_open(const char *path, const wf_model *, const char *const *sets, int nsets,
                          wf_weights **out);
void wf_weights_close(wf_weights *);
/* The shard of one instance (layer, or 0), row-major rows x columns. */
wf_status wf_weights_read(const wf_weights *, int set, int tensor, int64_t instance,
                          const wf_shard_map *, float *out);
/* Bytes of tensors read so far. */
int64_t wf_weights_bytes_read(const wf_weights *);

/* Writing: whole tensors, in the order of sets, then the model's table, then instances; tensors
 * that the model does not have are left out. Never more than the one being put is held. */
typedef struct wf_weights_writer wf_weights_writer;
wf_status wf_weights_create(const char *path, const wf_model *, const char *const *sets, int nsets,
                            wf_weights_writer **out);
wf_status wf_weights_put(wf_weights_writer *, int tensor, const float *whole);
/* Frees the writer in any case. */
wf_status wf_weights_finish(wf_weights_writer *, int64_t *bytes_out,
                            uint8_t digest_out[WF_SHA256_BYTES]);
void wf_weights_abandon(wf_weights_writer *);

#ifdef __cplusplus
}
#endif
#endif
