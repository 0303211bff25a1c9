/* json.c: Jansson says "invalid token", or nothing, where it finds no memory for a token; its code
 * json_error_out_of_memory is of its other functions. malloc says so in errno, which nothing between there and the
 * return of a parse that fails changes. */
#include "host/model/json.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

wf_status wf_json_parse(const char *name, const char *text, int64_t bytes, json_t **out) {
    json_error_t error;
    errno = 0;
    json_t *const root = json_loadb(text, (size_t)bytes, JSON_REJECT_DUPLICATES, &error);
    if (!root && (errno == ENOMEM || json_error_code(&error) == json_error_out_of_memory))
        return wf_fail(WF_ERR_MEMORY, "no host memory for the JSON of %s, %lld bytes", name, (long long)bytes);
    if (!root)
        return wf_fail(WF_ERR_FILE, "%s is no JSON: %s in line %d, column %d", name, error.text, error.line,
                       error.column);
    *out = root;
    return WF_OK;
}

char *wf_json_print(const json_t *root, size_t flags) {
    char *const text = json_dumps(root, flags);
    json_t *const again = text ? json_loads(text, 0, NULL) : NULL;
    const bool same = again && json_equal(again, root);
    json_decref(again);
    if (same) return text;
    free(text);
    return NULL;
}

json_t *wf_json_join_take(json_t *root, json_t *more) {
    const bool failed = !root || !more || json_object_update(root, more) != 0;
    json_decref(more);
    if (!failed) return root;
    json_decref(root);
    return NULL;
}
