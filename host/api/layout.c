/* layout.c: layouts of weft.h. */
#include <stdlib.h>

#include "host/api/objects.h"

weft_status weft_layout_parse(const char *text, weft_layout **out) {
    weft_layout *const layout = calloc(1, sizeof *layout);
    if (!layout) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory for a layout"));
    const wf_status status = wf_layout_parse(text ? text : "", &layout->layout);
    if (status != WF_OK) {
        free(layout);
        return weft_from(status);
    }
    *out = layout;
    return WEFT_OK;
}

void weft_layout_destroy(weft_layout *layout) {
    free(layout);
}

int32_t weft_layout_ranks(const weft_layout *layout) {
    return wf_layout_ranks(&layout->layout);
}

void weft_layout_print(const weft_layout *layout, char *out, size_t out_bytes) {
    wf_layout_print(&layout->layout, out, out_bytes);
}
