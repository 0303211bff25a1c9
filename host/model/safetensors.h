/* safetensors.h: one .safetensors file: a table of named tensors and their bytes.
 *
 * The format (huggingface/safetensors, "Format"): 8 bytes, the header's length, little endian; the
 * header, a JSON object from names to {dtype, shape, data_offsets [begin, end) behind the header};
 * the data, without holes or overlaps. Nothing in a file is believed before it is checked. */
#ifndef WF_MODEL_SAFETENSORS_H
#define WF_MODEL_SAFETENSORS_H

#include "host/base/file.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_storage { /* what weft converts to f32; others are only passed by */
                          WF_STORAGE_OTHER,
                          WF_STORAGE_F32,
                          WF_STORAGE_F16,
                          WF_STORAGE_BF16,
                          WF_STORAGE_F64
} wf_storage;

enum { WF_TENSOR_AXES = 8 };

typedef struct wf_tensor_entry {
    const char *name, *dtype; /* dtype: the format's name, "F32" */
    int32_t storage, axes;    /* wf_storage */
    int64_t extent[WF_TENSOR_AXES];
    int64_t elements, begin, bytes; /* begin: in the file */
} wf_tensor_entry;

typedef struct wf_safetensors wf_safetensors;

/* Opens and checks all of the header. WF_ERR_FILE with one sentence for whatever is wrong with it.
 */
wf_status wf_safetensors_open(const char *path, wf_safetensors **out);
void wf_safetensors_close(wf_safetensors *);
const char *wf_safetensors_path(const wf_safetensors *);
/* Entries in the order of their names. */
int64_t wf_safetensors_count(const wf_safetensors *);
const wf_tensor_entry *wf_safetensors_entry(const wf_safetensors *, int64_t index);
/* NULL: no such tensor. */
const wf_tensor_entry *wf_safetensors_find(const wf_safetensors *, const char *name);
/* Elements [first, first + count) as f32 (F64 rounded to nearest). Only their bytes are read. */
wf_status wf_safetensors_read(const wf_safetensors *, const wf_tensor_entry *, int64_t first,
                              int64_t count, float *out);

/* ---- writing ---- */

typedef struct wf_safetensors_writer wf_safetensors_writer;

/* A new file of f32 tensors, whose data are put in the order of this list; rows x columns, or,
 * where `vector`, [rows]. The list and its names are needed during the call only. */
typedef struct wf_tensor_plan {
    const char *name;
    int64_t rows, columns;
    bool vector;
} wf_tensor_plan;
wf_status wf_safetensors_create(const char *path, const wf_tensor_plan *, int64_t count,
                                wf_safetensors_writer **out);
wf_status wf_safetensors_put(wf_safetensors_writer *, const float *data, int64_t elements);
/* All data were put? Synced and closed; size and hash of the file. Frees the writer in any case. */
wf_status wf_safetensors_finish(wf_safetensors_writer *, int64_t *bytes_out,
                                uint8_t digest_out[WF_SHA256_BYTES]);
/* Instead of finish, after a failure. The file stays behind, unfinished. */
void wf_safetensors_abandon(wf_safetensors_writer *);

#ifdef __cplusplus
}
#endif
#endif
