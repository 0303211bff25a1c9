/* runner.c: makes a placed schedule ready on this rank: memory, kernels, and the proof that the
 * ranks are about to run plans that fit each other. What happens in a run is executor.c's.
 *
 * Memory is allocated exactly as the schedule's allocations say, one object each, so that what was
 * planned is what is used. Kernels are built in two parts. First by a node's ranks together, each a share of
 * the programs, so that no two build the same one; then by one rank after the other, which finds in the caches
 * what the others have built: drivers that share a kernel cache fail when several build one program at once.
 * Ranks that are threads of one process have the second part only, as PoCL fails there, too. */
#include "host/run/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/node.h"

/* ---- memory ------------------------------------------------------------------------------------------- */

static wf_status allocate_device(wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    for (int32_t a = 0; a < s->nallocations; a++) {
        if (r->memory[a] || s->allocations[a].space == WF_SPACE_WINDOW || s->allocations[a].space == WF_SPACE_PEER) continue;
        if (s->allocations[a].owner != WF_OWNER_PLAN) continue;
        if (wf_store_keeps(&s->allocations[a])) continue; /* all of it is lent */
        if (s->allocations[a].space != WF_SPACE_DEVICE)
            return wf_fail(WF_ERR_UNSUPPORTED, "allocation %d of %lld bytes lies in space %s, which runs cannot use yet", a,
                           (long long)s->allocations[a].bytes, wf_space_name((wf_space)s->allocations[a].space));
        TRY(wf_memory_create(r->opencl, s->allocations[a].bytes, &r->memory[a]));
        r->owned[a] = true;
    }
    return WF_OK;
}

static int32_t next_window(const wf_schedule *s, int32_t from) {
    while (from < s->nallocations && s->allocations[from].space != WF_SPACE_WINDOW) from++;
    return from;
}

static int32_t windows(const wf_schedule *s) {
    int32_t n = 0;
    for (int32_t a = next_window(s, 0); a < s->nallocations; a = next_window(s, a + 1)) n++;
    return n;
}

/* Windows are made together: ranks with fewer of them take part with 0 bytes. */
static wf_status most_windows(wf_runner *r, int32_t *out) {
    const int32_t mine = windows(r->schedule), ranks = wf_fabric_ranks(r->fabric);
    int32_t *const all = calloc((size_t)ranks, sizeof *all);
    if (!all) return wf_fail(WF_ERR_MEMORY, "no host memory to compare windows of %d ranks", ranks);
    const wf_status status = wf_fabric_all_gather(r->fabric, &mine, sizeof mine, all);
    *out = 0;
    for (int32_t i = 0; i < ranks && status == WF_OK; i++)
        if (all[i] > *out) *out = all[i];
    free(all);
    return status;
}

static wf_status allocate_windows(wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    int32_t count = 0, a = next_window(s, 0);
    TRY(most_windows(r, &count));
    for (int32_t i = 0; i < count; i++) {
        const bool mine = a < s->nallocations;
        wf_memory *memory = NULL;
        TRY(wf_fabric_window_create(r->fabric, mine ? s->allocations[a].bytes : 0, &memory));
        if (!mine) continue;
        r->memory[a] = memory;
        r->owned[a] = true;
        a = next_window(s, a + 1);
    }
    return WF_OK;
}

static void free_memory(wf_runner *r) {
    for (int32_t a = 0; r->memory && r->owned && a < r->schedule->nallocations; a++) {
        if (!r->owned[a] || !r->memory[a]) continue;
        if (r->schedule->allocations[a].space == WF_SPACE_WINDOW)
            wf_fabric_window_destroy(r->fabric, r->memory[a]);
        else
            wf_memory_destroy(r->memory[a]);
    }
    free(r->memory);
    free(r->owned);
    free(r->base);
    free(r->lent);
    free(r->found);
}

/* ---- kernels ------------------------------------------------------------------------------------------- */

static uint32_t fnv1a(uint32_t hash, const char *text) {
    for (; *text; text++) hash = (hash ^ (uint8_t)*text) * 16777619u;
    return hash;
}

/* Who of `count` builds a problem's program: told by what tells programs apart. A library builds its own,
 * whatever the options: one rank builds all of them. */
static int32_t builder_of(const wf_chosen *c, int32_t count) {
    const wf_variant *const variant = &wf_operations[c->problem.op]->variants[c->candidate.variant];
    const bool library = variant->kind == WF_VARIANT_LIBRARY;
    char options[1024] = "";
    if (!library) wf_candidate_options(&c->problem, &c->candidate, options, sizeof options);
    const uint32_t hash = fnv1a(fnv1a(2166136261u, options), library ? variant->name : variant->source);
    return (int32_t)((hash ^ hash >> 16) % (uint32_t)count);
}

/* The kernels that rank `index` of `count` builds, and warms. Those that are ready stay. */
static wf_status prepare_share(wf_runner *r, int32_t index, int32_t count) {
    const wf_schedule *const s = r->schedule;
    for (int32_t p = 0; p < s->nproblems; p++) {
        const wf_chosen *const c = &s->problems[p];
        if (r->kernels[p] || (count > 1 && builder_of(c, count) != index)) continue;
        TRY(wf_kernel_prepare(r->opencl, &c->problem, &c->candidate, &r->kernels[p]));
        wf_operand operands[WF_OPERANDS];
        r->operands[p] = wf_operations[c->problem.op]->operands(&c->problem, operands);
    }
    return wf_opencl_warm(r->opencl);
}

static wf_status prepare_rest(void *context) {
    return prepare_share(context, 0, 1);
}

/* In two parts, see above; in the first no more ranks build than there are cores, for their deadlines. Who fails there lets
 * the others finish before they hear of it. */
static wf_status prepare_kernels(wf_runner *r) {
    int32_t index = 0;
    const int32_t processes = wf_fabric_processes(r->fabric, &index), cores = wf_cores_granted();
    const int32_t builders = processes < cores ? processes : cores;
    const wf_status status = index < builders ? prepare_share(r, index, builders) : WF_OK;
    TRY(wf_fabric_agree(r->fabric, status));
    return wf_fabric_in_turn(r->fabric, prepare_rest, r);
}

/* Views of every kernel step: the problem's operands, then its workspace if it has one. */
static wf_status check_steps(const wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    for (int32_t i = 0; i < s->nsteps; i++) {
        const wf_step *const step = &s->steps[i];
        const int32_t views = step->reads + step->updates + step->writes;
        if (step->kind == WF_STEP_EXCHANGE) continue;
        if (step->problem < 0)
            return wf_fail(WF_ERR_ARGUMENT, "step %s has no kernel: this schedule is for planning only", step->site);
        const int32_t want = r->operands[step->problem] + (s->problems[step->problem].workspace_bytes > 0);
        if (views != want)
            return wf_fail(WF_ERR_INTERNAL, "step %s has %d views, its problem needs %d", step->site, views, want);
    }
    return WF_OK;
}

/* ---- life ------------------------------------------------------------------------------------------------ */

static wf_status local_tables(wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    if (!s->placed) return wf_fail(WF_ERR_INTERNAL, "a schedule must be placed before it runs");
    if (s->ranks != wf_fabric_ranks(r->fabric) || s->rank != wf_fabric_rank(r->fabric))
        return wf_fail(WF_ERR_ARGUMENT, "the plan is for rank %d of %d, this is rank %d of %d", s->rank, s->ranks,
                       wf_fabric_rank(r->fabric), wf_fabric_ranks(r->fabric));
    r->memory = calloc((size_t)s->nallocations + 1, sizeof *r->memory);
    r->owned = calloc((size_t)s->nallocations + 1, sizeof *r->owned);
    r->base = calloc((size_t)s->nallocations + 1, sizeof *r->base);
    r->lent = calloc((size_t)s->nbuffers + 1, sizeof *r->lent);
    r->found = calloc((size_t)s->nbuffers + 1, sizeof *r->found);
    r->kernels = calloc((size_t)s->nproblems + 1, sizeof *r->kernels);
    r->operands = calloc((size_t)s->nproblems + 1, sizeof *r->operands);
    if (!r->memory || !r->owned || !r->base || !r->lent || !r->found || !r->kernels || !r->operands)
        return wf_fail(WF_ERR_MEMORY, "no host memory for a runner's tables");
    for (int32_t b = 0; b < s->nbuffers; b++)
        if (s->buffers[b].space == WF_SPACE_PEER) r->lent[b] = &r->found[b];
    return WF_OK;
}

/* Everything that can fail on one rank alone is agreed on before the next collective call. */
static wf_status build(wf_runner *r, wf_store *store) {
    TRY(wf_fabric_agree(r->fabric, local_tables(r)));
    TRY(wf_runner_match(r));
    wf_status status = wf_runner_set_store(r, store);
    if (status == WF_OK) status = allocate_device(r);
    TRY(wf_fabric_agree(r->fabric, status));
    TRY(wf_fabric_agree(r->fabric, allocate_windows(r)));
    TRY(prepare_kernels(r));
    status = check_steps(r);
    if (status == WF_OK) status = wf_executor_create(r);
    return wf_fabric_agree(r->fabric, status);
}

wf_status wf_runner_create(const wf_schedule *schedule, wf_opencl *opencl, wf_fabric *fabric, wf_store *store,
                           wf_runner **out) {
    wf_runner *const r = calloc(1, sizeof *r);
    if (!r) return wf_fail(WF_ERR_MEMORY, "no host memory for a runner");
    r->schedule = schedule;
    r->opencl = opencl;
    r->fabric = fabric;
    const wf_status status = build(r, store);
    if (status != WF_OK) {
        wf_runner_destroy(r);
        return status;
    }
    *out = r;
    return WF_OK;
}

void wf_runner_destroy(wf_runner *r) {
    if (!r) return;
    wf_executor_destroy(r);
    for (int32_t p = 0; r->kernels && p < r->schedule->nproblems; p++) wf_kernel_destroy(r->kernels[p]);
    free(r->kernels);
    free(r->operands);
    free_memory(r);
    free(r->trace.records);
    free(r);
}

/* ---- slots ------------------------------------------------------------------------------------------------ */

/* The slot's instance, of which bytes [from, from + bytes) are wanted. */
static wf_status find_slot(const wf_runner *r, const char *slot, int32_t instance, int64_t from, int64_t bytes,
                           wf_memory **memory_out, int64_t *offset_out) {
    const wf_schedule *const s = r->schedule;
    for (int32_t b = 0; b < s->nbuffers; b++) {
        const wf_buffer *const x = &s->buffers[b];
        if (x->life != WF_SLOT || strcmp(x->name, slot) != 0) continue;
        if (instance < 0 || instance >= x->count || from < 0 || bytes < 0 || from > x->bytes - bytes)
            return wf_fail(WF_ERR_ARGUMENT, "slot %s has %d instances of %lld bytes; asked for instance %d, %lld bytes", slot,
                           x->count, (long long)x->bytes, instance, (long long)bytes);
        const wf_location at = wf_buffer_locate(x, instance);
        const bool lent = r->lent[b] && r->lent[b][instance].memory;
        *memory_out = lent ? r->lent[b][instance].memory : at.allocation < 0 ? NULL : r->memory[at.allocation];
        *offset_out = (lent ? r->lent[b][instance].offset_bytes
                            : at.offset_bytes + (at.allocation < 0 ? 0 : r->base[at.allocation])) + from;
        if (!*memory_out && bytes)
            return wf_fail(WF_ERR_ARGUMENT, "slot %s of this plan is not bound to any memory", slot);
        return WF_OK;
    }
    return wf_fail(WF_ERR_ARGUMENT, "this plan has no slot %s", slot);
}

wf_status wf_runner_write(wf_runner *r, const char *slot, int32_t instance, const void *data, int64_t bytes) {
    wf_memory *memory;
    int64_t offset;
    TRY(find_slot(r, slot, instance, 0, bytes, &memory, &offset));
    return bytes ? wf_memory_put(r->opencl, memory, offset, data, bytes) : WF_OK;
}

wf_status wf_runner_send(wf_runner *r, const char *slot, int32_t instance, const void *data, int64_t bytes) {
    wf_memory *memory;
    int64_t offset;
    TRY(find_slot(r, slot, instance, 0, bytes, &memory, &offset));
    return bytes ? wf_queue_write(r->opencl, WF_QUEUE_COMPUTE, memory, offset, bytes, data, NULL) : WF_OK;
}

wf_status wf_runner_read(wf_runner *r, const char *slot, int32_t instance, int64_t from, void *data, int64_t bytes) {
    wf_memory *memory;
    int64_t offset;
    TRY(find_slot(r, slot, instance, from, bytes, &memory, &offset));
    return bytes ? wf_memory_get(r->opencl, memory, offset, data, bytes) : WF_OK;
}

void wf_runner_allocated(const wf_runner *r, int64_t bytes_out[WF_SPACES]) {
    memset(bytes_out, 0, WF_SPACES * sizeof *bytes_out);
    for (int32_t a = 0; a < r->schedule->nallocations; a++)
        if (r->memory[a] && r->schedule->allocations[a].owner == WF_OWNER_PLAN) bytes_out[r->schedule->allocations[a].space] += wf_memory_bytes(r->memory[a]);
}

/* ---- what changes between runs ----------------------------------------------------------------------------- */

static wf_status check_rests(const wf_runner *r) {
    return r->running ? wf_fail(WF_ERR_ARGUMENT, "a run of this plan is not over yet: nothing can be bound") : WF_OK;
}

wf_status wf_runner_set_store(wf_runner *r, wf_store *store) {
    TRY(check_rests(r));
    if (r->store && r->store == store && r->lendings == wf_store_lendings(store)) return WF_OK;
    r->store = NULL; /* until all of it is bound */
    TRY(wf_store_bind(store, r->schedule, r->memory, r->lent));
    r->store = store;
    r->lendings = wf_store_lendings(store);
    return WF_OK;
}

static int32_t caller_slot(const wf_runner *r, const char *slot) {
    for (int32_t b = 0; b < r->schedule->nbuffers; b++)
        if (r->schedule->buffers[b].owner == WF_OWNER_CALLER && strcmp(r->schedule->buffers[b].name, slot) == 0) return b;
    return -1;
}

wf_status wf_runner_slot_bytes(const wf_runner *r, const char *slot, int64_t *out) {
    const int32_t b = caller_slot(r, slot);
    if (b < 0) return wf_fail(WF_ERR_ARGUMENT, "this plan has no slot %s that a run binds", slot);
    *out = r->schedule->buffers[b].bytes;
    return WF_OK;
}

wf_status wf_runner_set_slot(wf_runner *r, const char *slot, wf_memory *memory, int64_t offset_bytes, int64_t bytes) {
    int64_t need;
    TRY(check_rests(r));
    TRY(wf_runner_slot_bytes(r, slot, &need));
    if (bytes != need || offset_bytes < 0 || offset_bytes % 4)
        return wf_fail(WF_ERR_ARGUMENT, "slot %s takes %lld bytes at a multiple of 4; %lld bytes at %lld were bound to it", slot,
                       (long long)need, (long long)bytes, (long long)offset_bytes);
    const int32_t a = r->schedule->buffers[caller_slot(r, slot)].allocation;
    if (a < 0) return WF_OK; /* an empty shard */
    r->memory[a] = memory;
    r->base[a] = offset_bytes;
    return WF_OK;
}

double wf_runner_idle_s(const wf_runner *r) {
    return r->idle_s;
}
