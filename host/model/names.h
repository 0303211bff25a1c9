/* names.h: what the files of a model's family call weft's tensors, which of them they transpose,
 * and which of weft's fused tensors they hold in pieces. One table per family. */
#ifndef WF_MODEL_NAMES_H
#define WF_MODEL_NAMES_H

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_name_form {
    WF_NAME_OUTSIDE = 1u << 0,    /* never has the family's prefix */
    WF_NAME_TRANSPOSED = 1u << 1, /* the file's is [in, out] (GPT-2's Conv1D), weft's [out, in] */
    WF_NAME_AGAIN =
        1u << 2, /* a second name of the same tensor: read, must be equal; not written */
    WF_NAME_TIED =
        1u << 3 /* WF_NAME_AGAIN where the model's head is tied, else no name of this tensor */
} wf_name_form;

typedef struct wf_name {
    int32_t tensor;      /* wf_tensor_id */
    const char *pattern; /* "h.%d.ln_1.weight": %d is the layer */
    uint32_t form;
    int32_t piece, pieces; /* of the fused tensor's rows; pieces 1 or 0: it is whole */
} wf_name;

typedef struct wf_family_names {
    const char *prefix; /* that a language model's files put before the base model's names */
    const wf_name *names;
    const char *const *ignored; /* buffers and heads that weft does not compute; %d is any number */
} wf_family_names;

const wf_family_names *wf_names_of(const wf_model *);
/* Does the model have this tensor under this name; and is it a second name? */
bool wf_name_applies(const wf_model *, const wf_name *);
bool wf_name_again(const wf_name *);
/* The rows of weft's tensor that this name stands for. */
wf_range wf_name_rows(const wf_model *, const wf_parameter_info *, const wf_name *);
/* "m." and "transformer." and the pattern with the layer; set or prefix may be "". */
void wf_name_print(const wf_name *, const char *set, const char *prefix, int64_t layer, char *out,
                   size_t out_bytes);
/* May a file of this family hold this, and weft pass it by? */
bool wf_name_ignored(const wf_model *, const char *name);
/* The name as the family's table has it: old files of BERT say gamma and beta. */
void wf_name_modern(const char *name, char *out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
#endif
