/* stash.c: stashes of block stacks: what a forward keeps for its backward. */
#include <stdlib.h>

#include "host/api/request.h"

static wf_status create_stash(weft_plan *p, weft_stash *stash) {
    TRY(weft_plan_loaded(p));
    if (!p->blocks || p->mode == WF_MODE_EVALUATE)
        return wf_fail(WF_ERR_ARGUMENT, "only plans of mode WEFT_BLOCKS that have the phase WEFT_BACKWARD take stashes");
    stash->plan = p;
    return wf_stash_create(p->context->opencl, p->schedule, &stash->stash);
}

weft_status weft_stash_create(weft_plan *p, weft_stash **out) {
    weft_stash *const stash = calloc(1, sizeof *stash);
    const wf_status status = stash ? create_stash(p, stash) : wf_fail(WF_ERR_MEMORY, "no host memory for a stash");
    if (status != WF_OK) {
        free(stash);
        return weft_from(status);
    }
    *out = stash;
    return WEFT_OK;
}

void weft_stash_destroy(weft_stash *stash) {
    if (!stash) return;
    wf_stash_destroy(stash->stash);
    free(stash);
}

int64_t weft_stash_bytes(const weft_stash *stash) {
    return wf_stash_bytes(stash->stash);
}
