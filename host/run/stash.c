/* stash.c: activations of one microbatch in flight: memory for those pools of a block stack's schedule
 * that live from a forward to its backward. Scratch, which lives inside a call, belongs to the
 * runner: all stashes share it. */
#include "host/run/internal.h"

#include <stdlib.h>

void wf_stash_destroy(wf_stash *stash) {
    if (!stash) return;
    for (int32_t a = 0; stash->memory && a < stash->count; a++) wf_memory_destroy(stash->memory[a]);
    free(stash->memory);
    free(stash);
}

static wf_status fill(wf_stash *stash, wf_opencl *opencl) {
    const wf_schedule *const s = stash->schedule;
    for (int32_t a = 0; a < s->nallocations; a++) {
        if (s->allocations[a].owner != WF_OWNER_STASH) continue;
        if (s->allocations[a].space != WF_SPACE_DEVICE)
            return wf_fail(WF_ERR_INTERNAL, "activations in space %s cannot be stashed", wf_space_name((wf_space)s->allocations[a].space));
        TRY(wf_memory_create(opencl, s->allocations[a].bytes, &stash->memory[a]));
    }
    return WF_OK;
}

wf_status wf_stash_create(wf_opencl *opencl, const wf_schedule *schedule, wf_stash **out) {
    wf_stash *const stash = calloc(1, sizeof *stash);
    wf_status status = WF_OK;
    if (stash) {
        stash->schedule = schedule;
        stash->count = schedule->nallocations;
        stash->memory = calloc((size_t)schedule->nallocations + 1, sizeof *stash->memory);
    }
    if (!stash || !stash->memory) status = wf_fail(WF_ERR_MEMORY, "no host memory for a stash");
    if (status == WF_OK) status = fill(stash, opencl);
    if (status != WF_OK) {
        wf_stash_destroy(stash);
        return status;
    }
    *out = stash;
    return WF_OK;
}

int64_t wf_stash_bytes(const wf_stash *stash) {
    int64_t bytes = 0;
    for (int32_t a = 0; a < stash->count; a++)
        if (stash->memory[a]) bytes += wf_memory_bytes(stash->memory[a]);
    return bytes;
}

wf_status wf_runner_set_stash(wf_runner *r, const wf_stash *stash) {
    if (r->running) return wf_fail(WF_ERR_ARGUMENT, "a run of this plan is not over yet: its stash cannot be changed");
    if (stash->schedule != r->schedule) return wf_fail(WF_ERR_ARGUMENT, "this stash was made for another plan");
    for (int32_t a = 0; a < r->schedule->nallocations; a++)
        if (r->schedule->allocations[a].owner == WF_OWNER_STASH) r->memory[a] = stash->memory[a];
    return WF_OK;
}
