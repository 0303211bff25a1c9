/* shards.h: the files that hold a model's tensors, as one set of names. */
#ifndef WF_MODEL_SHARDS_H
#define WF_MODEL_SHARDS_H

#include "host/model/safetensors.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_shard_tensor {
    const char *name; /* modern form (names.h) */
    char *renamed;    /* owns name where it is not the entry's */
    const wf_safetensors *file;
    const wf_tensor_entry *entry;
    bool used;
} wf_shard_tensor;

typedef struct wf_shards {
    wf_safetensors **files;
    int64_t nfiles;
    wf_shard_tensor *tensors; /* by name */
    int64_t ntensors;
} wf_shards;

/* path: a .safetensors file, or a folder with model.safetensors or model.safetensors.index.json. */
wf_status wf_shards_open(const char *path, wf_shards *out);
void wf_shards_close(wf_shards *);
/* NULL: none. */
wf_shard_tensor *wf_shards_find(const wf_shards *, const char *name);

/* The index: which file of the folder holds which tensor. Names stay in the folder. */
typedef struct wf_shard_index {
    struct wf_shard_place {
        char *tensor, *file;
    } * places;
    int64_t nplaces;
    char **files; /* each once */
    int64_t nfiles;
} wf_shard_index;
wf_status wf_shard_index_read(const char *path, wf_shard_index *out);
void wf_shard_index_free(wf_shard_index *);

#ifdef __cplusplus
}
#endif
#endif
