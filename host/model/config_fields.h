/* config_fields.h: fields of a configuration file, each read and checked the same way: what is missing,
 * of another type or out of range is one sentence naming file, field and value. Private to host/model. */
#ifndef WF_MODEL_CONFIG_FIELDS_H
#define WF_MODEL_CONFIG_FIELDS_H

#include <jansson.h>

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_fields {
    const char *path;           /* of the file */
    const json_t *root;         /* an object */
} wf_fields;

/* The sentence that a value is not what it must be; NULL: missing. */
wf_status wf_field_bad(const wf_fields *, const char *field, const json_t *value, const char *want);
/* null counts as absent, as in transformers. */
const json_t *wf_field_get(const wf_fields *, const char *field);
wf_status wf_field_size(const wf_fields *, const char *field, int64_t most, int64_t *out);
/* The same with a value for an absent field. */
wf_status wf_field_size_or(const wf_fields *, const char *field, int64_t most, int64_t otherwise, int64_t *out);
wf_status wf_field_real(const wf_fields *, const char *field, double low, double high, double otherwise, double *out);
wf_status wf_field_flag(const wf_fields *, const char *field, bool otherwise, bool *out);
/* Names of transformers' ACT2FN that weft computes. */
wf_status wf_field_activation(const wf_fields *, const char *field, const char *otherwise, int32_t *out);
/* Flags whose other value is a variant that weft does not compute. */
typedef struct wf_flag {
    const char *field;
    bool legal, otherwise;
} wf_flag;
wf_status wf_field_flags(const wf_fields *, const wf_flag *, size_t count);

#ifdef __cplusplus
}
#endif
#endif
