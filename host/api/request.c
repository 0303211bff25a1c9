/* request.c: is what is asked of a plan sound? Asked before anything is sent, so that a refusal leaves a plan as it was. */
#include <stdlib.h>

#include "host/api/request.h"

bool weft_plan_has_loss(const weft_plan *p) {
    return !p->blocks && p->mode != WF_MODE_LOGITS && p->mode != WF_MODE_HIDDEN;
}

const weft_place weft_places[WEFT_BUFFERS] = {[WEFT_X] = {"x", "in.x", WF_PHASE_FORWARD, false},
                                              [WEFT_Y] = {"y", "out.y", WF_PHASE_FORWARD, true},
                                              [WEFT_DY] = {"dy", "in.dy", WF_PHASE_BACKWARD, false},
                                              [WEFT_DX] = {"dx", "out.dx", WF_PHASE_BACKWARD, true}};

/* ---- values and ids ------------------------------------------------------------------------------------------------ */

static wf_status check_ids(const weft_plan *p, const char *what, const int32_t *ids, bool may_be_negative, int64_t *counted_out) {
    const int64_t n = p->shape.batch * p->shape.sequence;
    *counted_out = 0;
    for (int64_t i = 0; i < n; i++) {
        *counted_out += ids[i] >= 0;
        if (ids[i] < p->model.vocabulary && (ids[i] >= 0 || may_be_negative)) continue;
        return wf_fail(WF_ERR_ARGUMENT, "%s %d of sequence %lld, position %lld, is outside the vocabulary of %lld", what, ids[i],
                       (long long)(i / p->shape.sequence), (long long)(i % p->shape.sequence), (long long)p->model.vocabulary);
    }
    return WF_OK;
}

static wf_status check_reals(const weft_args *a) {
    const struct {
        const char *name;
        double value, low, high;
    } reals[] = {{"learning rate", a->learning_rate, 0, 1e30}, {"beta1", a->beta1, 0, 0.99999997},
                 {"beta2", a->beta2, 0, 0.99999997},           {"epsilon", a->epsilon, 0, 1e30},
                 {"weight decay", a->weight_decay, 0, 1e30},   {"max_norm", a->max_norm, 0, 1e30}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (!(reals[i].value >= reals[i].low && reals[i].value <= reals[i].high))
            return wf_fail(WF_ERR_ARGUMENT, "a %s of %g is out of range", reals[i].name, reals[i].value);
    return a->step >= 0 ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "step %lld is negative", (long long)a->step);
}

static int ascending(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The number of a document comes back in its sequence. */
static wf_status refuse_number(const int32_t *documents, int64_t sequence, int32_t number) {
    int64_t at = 0;
    while (documents[at] != number) at++;
    while (documents[at] == number) at++;
    const int64_t end = at;
    while (documents[at] != number) at++;
    return wf_fail(WF_ERR_ARGUMENT,
                   "document %d of sequence %lld ends at position %lld and comes back at position %lld: a document's tokens are neighbours",
                   number, (long long)sequence, (long long)end, (long long)at);
}

static wf_status check_documents(const weft_plan *p, const int32_t *documents) {
    const int64_t s = p->shape.sequence;
    if (!documents && !p->shape.documents) return WF_OK;
    if (!documents) return wf_fail(WF_ERR_ARGUMENT, "a run of a plan with documents needs them (weft_args.documents)");
    if (!p->shape.documents) return wf_fail(WF_ERR_ARGUMENT, "this plan was made without documents (weft_plan_options.documents)");
    for (int64_t i = 0; i < p->shape.batch; i++) {
        const int32_t *const of = documents + i * s;
        size_t n = 0;
        for (int64_t t = 0; t < s; t++)
            if (!t || of[t] != of[t - 1]) p->numbers[n++] = of[t];
        qsort(p->numbers, n, sizeof *p->numbers, ascending);
        for (size_t k = 1; k < n; k++)
            if (p->numbers[k] == p->numbers[k - 1]) return refuse_number(of, i, p->numbers[k]);
    }
    return WF_OK;
}

wf_status weft_args_check(const weft_plan *p, const weft_args *a, int64_t *valid_out) {
    int64_t tokens;
    *valid_out = 0;
    TRY(check_reals(a));
    if (p->blocks) return WF_OK;
    if (!a->tokens) return wf_fail(WF_ERR_ARGUMENT, "a run needs tokens");
    TRY(check_ids(p, "token", a->tokens, false, &tokens));
    TRY(check_documents(p, a->documents));
    if (!weft_plan_has_loss(p)) return WF_OK;
    if (!a->targets) return wf_fail(WF_ERR_ARGUMENT, "a run with a loss needs targets");
    TRY(check_ids(p, "target", a->targets, true, valid_out));
    return *valid_out ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "no target is counted: all are negative");
}

/* ---- plan, phases, stash and buffers ----------------------------------------------------------------------------------- */

static wf_status check_buffers(const weft_plan *p, uint32_t phases, const weft_args *a) {
    const weft_buffer *const given[WEFT_BUFFERS] = {&a->x, &a->y, &a->dy, &a->dx};
    weft_rows rows;
    weft_plan_rows(p, &rows);
    for (int slot = 0; slot < WEFT_BUFFERS; slot++) {
        const weft_buffer *const b = given[slot];
        if (!(phases & (weft_places[slot].phase == WF_PHASE_FORWARD ? WEFT_FORWARD : WEFT_BACKWARD))) continue;
        if (b->cl_mem && b->host) return wf_fail(WF_ERR_ARGUMENT, "%s lies in OpenCL or in host memory, not in both", weft_places[slot].name);
        if (b->cl_mem && b->offset_bytes % 4)
            return wf_fail(WF_ERR_ARGUMENT, "%s begins at byte %lld, which is no multiple of 4", weft_places[slot].name,
                           (long long)b->offset_bytes);
        if (!b->cl_mem && !b->host && slot != WEFT_DX && rows.positions > 0)
            return wf_fail(WF_ERR_ARGUMENT, "this phase needs %s", weft_places[slot].name);
    }
    return WF_OK;
}

static wf_status check_stash(const weft_plan *p, uint32_t phases, const weft_stash *stash) {
    const bool needed = p->mode != WF_MODE_EVALUATE && (phases & (WEFT_FORWARD | WEFT_BACKWARD));
    if (!needed) return WF_OK;
    if (!stash) return wf_fail(WF_ERR_ARGUMENT, "FORWARD and BACKWARD need a stash");
    if (stash->plan != p) return wf_fail(WF_ERR_ARGUMENT, "this stash was made for another plan");
    if (phases & WEFT_FORWARD && stash->full)
        return wf_fail(WF_ERR_ARGUMENT, "this stash holds a forward whose backward has not run");
    if (phases & WEFT_BACKWARD && !(phases & WEFT_FORWARD) && !stash->full)
        return wf_fail(WF_ERR_ARGUMENT, "this stash holds no forward for a backward to use");
    return WF_OK;
}

static wf_status check_phases(const weft_plan *p, uint32_t phases) {
    static const char *const names[] = {"WEFT_FORWARD", "WEFT_BACKWARD", "WEFT_FINISH", "WEFT_OPTIMIZE"};
    if (!phases) return wf_fail(WF_ERR_ARGUMENT, "no phase was asked for");
    for (int i = 0; i < 32; i++)
        if (phases & ~p->phases & 1u << i)
            return wf_fail(WF_ERR_ARGUMENT, "this plan was made without the phase %s (weft_plan_options.phases)",
                           i < 4 ? names[i] : "that was asked for");
    return WF_OK;
}

static wf_status check_blocks(const weft_plan *p, uint32_t phases, const weft_params *params, const weft_stash *stash,
                              const weft_args *a) {
    weft_share share;
    TRY(check_phases(p, phases));
    TRY(check_stash(p, phases, stash));
    TRY(check_buffers(p, phases, a));
    if (phases & WEFT_FORWARD) TRY(check_documents(p, a->documents));
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    if (a->microbatch < 0 || a->microbatch >= share.microbatches)
        return wf_fail(WF_ERR_ARGUMENT, "no microbatch %lld; the layout has %lld, from 0", (long long)a->microbatch,
                       (long long)share.microbatches);
    if (phases & WEFT_BACKWARD && a->accumulate && params->gradients == WEFT_SUMMED)
        return wf_fail(WF_ERR_ARGUMENT, "the gradients were summed over the ranks already: a step's first backward does not accumulate");
    return WF_OK;
}

wf_status weft_plan_loaded(const weft_plan *p) {
    if (!p->runner) return wf_fail(WF_ERR_ARGUMENT, "this plan is not loaded: weft_plan_load comes first");
    return weft_context_usable(p->context);
}

wf_status weft_run_check(const weft_plan *p, uint32_t phases, const weft_params *params, const weft_stash *stash, const weft_args *a) {
    TRY(weft_plan_loaded(p));
    if (p->context->running) return wf_fail(WF_ERR_ARGUMENT, "another run of this context has not been submitted yet: one at a time");
    if (p->run->used && !p->run->submitted) return wf_fail(WF_ERR_ARGUMENT, "this plan's run is not finished yet");
    if (p->blocks) return check_blocks(p, phases, params, stash, a);
    if (phases || stash) return wf_fail(WF_ERR_ARGUMENT, "a plan of a whole model has neither phases nor stashes");
    return WF_OK;
}
