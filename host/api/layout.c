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

wf_status weft_layout_fits(const weft_context *c, const wf_layout *layout) {
    const int32_t needed = wf_layout_ranks(layout), ranks = wf_fabric_ranks(c->fabric);
    char text[WF_LAYOUT_BYTES];
    if (needed == ranks) return WF_OK;
    wf_layout_print(layout, text, sizeof text);
    return wf_fail(WF_ERR_ARGUMENT, "layout %s is for %d rank%s, but there %s %d", text, needed, needed == 1 ? "" : "s",
                   ranks == 1 ? "is" : "are", ranks);
}

wf_status weft_layout_settled(const weft_context *c, const wf_layout *layout) {
    char text[WF_LAYOUT_BYTES];
    TRY(weft_layout_fits(c, layout));
    if (!wf_layout_measures(layout)) return WF_OK;
    wf_layout_print(layout, text, sizeof text);
    return wf_fail(WF_ERR_ARGUMENT, "layout %s: its shares are still to be measured: weft_layout_measure does", text);
}
