/* json.h: JSON from files, so that a damaged text and a host without memory are two sentences. */
#ifndef WF_MODEL_JSON_H
#define WF_MODEL_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parses a whole text, in which no object has a field twice. `name` is what the sentences call it: a path, "the
 * header of PATH". WF_ERR_FILE where it is no JSON, with line and column; WF_ERR_MEMORY where there is no
 * memory to tell. */
wf_status wf_json_parse(const char *name, const char *text, int64_t bytes, json_t **out);

/* The text of a value, proved by reading it: what Jansson cannot print for want of memory it may leave out. NULL: no
 * memory. Freed by the caller. */
char *wf_json_print(const json_t *root, size_t flags);

/* Adds the fields of `more`, which it takes, to `root`, which is destroyed where that fails, and NULL returned: what
 * Jansson cannot add it leaves out in silence. Either may be NULL, for the same reason. */
json_t *wf_json_join_take(json_t *root, json_t *more);

#ifdef __cplusplus
}
#endif
#endif
