/* shape.c: "b8s128": global batch in sequences, tokens per sequence; either order. */
#include <ctype.h>
#include <stdio.h>

#include "layouts/model.h"

static const int64_t LARGEST = (int64_t)1 << 40;

wf_status wf_shape_parse(const char *text, wf_shape *out) {
    wf_shape shape = {0};
    const char *at = text;
    while (*at) {
        int64_t *field = *at == 'b' ? &shape.batch : *at == 's' ? &shape.sequence : NULL;
        const char *begin = at++;
        if (!field || *field || !isdigit((unsigned char)*at))
            return wf_fail(WF_ERR_ARGUMENT,
                           "shape \"%s\": position %d is not b or s with a number, as in b8s128",
                           text, (int)(begin - text) + 1);
        for (; isdigit((unsigned char)*at) && *field < LARGEST; at++)
            *field = *field * 10 + (*at - '0');
        if (*field < 1 || *field >= LARGEST)
            return wf_fail(WF_ERR_ARGUMENT,
                           "shape \"%s\": the number at position %d is not between 1 and 2^40",
                           text, (int)(begin - text) + 2);
    }
    if (!shape.batch || !shape.sequence)
        return wf_fail(WF_ERR_ARGUMENT, "shape \"%s\" needs a batch and a sequence, as in b8s128",
                       text);
    *out = shape;
    return WF_OK;
}

void wf_shape_print(const wf_shape *shape, char *out, size_t out_bytes) {
    snprintf(out, out_bytes, "b%llds%lld", (long long)shape->batch, (long long)shape->sequence);
}
