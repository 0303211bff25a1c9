/* config_fields.c: see config_fields.h. */
#include "host/model/config_fields.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The value as JSON text, cut for a sentence. */
static const char *shown(const json_t *value, char out[64]) {
    char *const text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, 64, "%s", text ? text : "?");
    free(text);
    return out;
}

wf_status wf_field_bad(const wf_fields *r, const char *field, const json_t *value, const char *want) {
    char text[64];
    if (!value) return wf_fail(WF_ERR_FILE, "%s: field %s is missing; it must be %s", r->path, field, want);
    return wf_fail(WF_ERR_FILE, "%s: field %s is %s; it must be %s", r->path, field, shown(value, text), want);
}

const json_t *wf_field_get(const wf_fields *r, const char *field) {
    const json_t *const value = json_object_get(r->root, field);
    return json_is_null(value) ? NULL : value;
}

wf_status wf_field_size(const wf_fields *r, const char *field, int64_t most, int64_t *out) {
    const json_t *const value = wf_field_get(r, field);
    char want[64];
    snprintf(want, sizeof want, "a whole number from 1 to %lld", (long long)most);
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > most)
        return wf_field_bad(r, field, value, want);
    *out = json_integer_value(value);
    return WF_OK;
}

wf_status wf_field_real(const wf_fields *r, const char *field, double low, double high, double otherwise, double *out) {
    const json_t *const value = wf_field_get(r, field);
    char want[64];
    *out = otherwise;
    if (!value) return WF_OK;
    snprintf(want, sizeof want, "a number from %g up to and below %g", low, high);
    if (!json_is_number(value) || !(json_number_value(value) >= low && json_number_value(value) < high))
        return wf_field_bad(r, field, value, want);
    *out = json_number_value(value);
    return WF_OK;
}

wf_status wf_field_flag(const wf_fields *r, const char *field, bool otherwise, bool *out) {
    const json_t *const value = wf_field_get(r, field);
    *out = otherwise;
    if (!value) return WF_OK;
    if (!json_is_boolean(value)) return wf_field_bad(r, field, value, "true or false");
    *out = json_is_true(value);
    return WF_OK;
}

wf_status wf_field_size_or(const wf_fields *r, const char *field, int64_t most, int64_t otherwise, int64_t *out) {
    *out = otherwise;
    return wf_field_get(r, field) ? wf_field_size(r, field, most, out) : WF_OK;
}

wf_status wf_field_activation(const wf_fields *r, const char *field, const char *otherwise, int32_t *out) {
    static const struct {
        const char *name;
        int32_t activation;
    } known[] = {{"gelu_new", WF_ACT_GELU_TANH}, {"gelu_pytorch_tanh", WF_ACT_GELU_TANH}, {"gelu_fast", WF_ACT_GELU_TANH},
                 {"gelu", WF_ACT_GELU},          {"relu", WF_ACT_RELU},                   {"silu", WF_ACT_SILU},
                 {"swish", WF_ACT_SILU}};
    const json_t *const value = wf_field_get(r, field);
    const char *const name = value ? json_string_value(value) : otherwise;
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].activation;
            return WF_OK;
        }
    char names[256] = "one of";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s %s", i ? "," : "", known[i].name);
    }
    return wf_field_bad(r, field, value, names);
}

wf_status wf_field_flags(const wf_fields *r, const wf_flag *flags, size_t count) {
    for (size_t i = 0; i < count; i++) {
        bool value;
        TRY(wf_field_flag(r, flags[i].field, flags[i].otherwise, &value));
        if (value != flags[i].legal)
            return wf_fail(WF_ERR_UNSUPPORTED, "%s: field %s is %s, a variant that weft does not compute", r->path,
                           flags[i].field, value ? "true" : "false");
    }
    return WF_OK;
}
