/* run.c: runs of plans: what goes in, the schedule played, its result. Whether a request is sound says request.c.
 *
 * A run is started, advanced until all of it is submitted and every exchange is over, and finished;
 * the calls that block are loops around these. A plan has one run, made with it, so that a step
 * allocates nothing. Copies from and to the caller's host memory are commands on the same in-order
 * queue as the kernels: nothing waits for them.
 *
 * A block stack is run by phases, each a piece of the program; the next one starts when the one
 * before is submitted. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/request.h"
#include "kernels/philox.h"

void weft_args_init(weft_args *args) {
    *args = (weft_args){
        .learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .weight_decay = 0.01f, .max_norm = 1.0f};
}

/* ---- in and out -------------------------------------------------------------------------------------------------- */

/* [batch][sequence] of the caller -> each microbatch's [position][sample] of the rank's positions, in
 * `packed`, whose bytes stay until the device has read them. */
static wf_status put_ids(weft_plan *p, const char *slot, const weft_share *share, const int32_t *ids, int32_t *packed) {
    const wf_positions positions = wf_model_positions(&p->model, &p->layout, p->shape.sequence, p->rank);
    const int64_t s = p->shape.sequence, b = share->samples, n = positions.count * b;
    for (int64_t m = 0; m < share->microbatches && n; m++, packed += n) {
        const int32_t *const from = ids + (share->first + m * b) * s;
        for (int64_t i = 0; i < n; i++) packed[i] = from[i % b * s + wf_positions_at(&positions, i / b)];
        TRY(wf_runner_send(p->runner, slot, (int32_t)m, packed, n * (int64_t)sizeof *packed));
    }
    return WF_OK;
}

/* Documents of the samples from `first` on, over the whole sequence: where each token's begins and ends, [position][sample][2]. */
static void pack_documents(const weft_plan *p, const int32_t *ids, int64_t first, int64_t b, int32_t *spans) {
    const int64_t s = p->shape.sequence;
    for (int64_t sample = 0; sample < b; sample++) {
        const int32_t *const of = ids + (first + sample) * s;
        for (int64_t begin = 0, end; begin < s; begin = end) {
            for (end = begin + 1; end < s && of[end] == of[begin];) end++;
            for (int64_t position = begin; position < end; position++) {
                int32_t *const span = spans + 2 * (position * b + sample);
                span[0] = (int32_t)begin, span[1] = (int32_t)end;
            }
        }
    }
}

/* Of each microbatch; and places in them, of the rank's positions, where learned ones begin anew. */
static wf_status put_documents(weft_plan *p, const weft_share *share, const int32_t *ids, int32_t *packed) {
    const wf_positions positions = wf_model_positions(&p->model, &p->layout, p->shape.sequence, p->rank);
    const int64_t b = share->samples, n = positions.count * b, all = p->shape.sequence * b;
    for (int64_t m = 0; m < share->microbatches; m++, packed += n + 2 * all) {
        int32_t *const spans = packed + n;
        pack_documents(p, ids, share->first + m * b, b, spans);
        TRY(wf_runner_send(p->runner, "documents", (int32_t)m, spans, 2 * all * (int64_t)sizeof *spans));
        if (p->model.position_form != WF_POSITIONS_LEARNED || !n) continue;
        for (int64_t i = 0; i < n; i++) {
            const int64_t position = wf_positions_at(&positions, i / b);
            packed[i] = (int32_t)position - spans[2 * (position * b + i % b)];
        }
        TRY(wf_runner_send(p->runner, "places", (int32_t)m, packed, n * (int64_t)sizeof *packed));
    }
    return WF_OK;
}

/* Of a block stack's microbatch. The device may still be about to read the last one's. */
static wf_status put_block_documents(weft_run *r, const weft_share *share, const weft_args *a) {
    weft_plan *const p = r->plan;
    const int64_t all = p->shape.sequence * share->samples;
    if (r->packed) TRY(wf_event_wait(r->packed));
    wf_event_release(r->packed);
    r->packed = NULL;
    pack_documents(p, a->documents, share->first + a->microbatch * share->samples, share->samples, p->packed);
    TRY(wf_runner_send(p->runner, "documents", 0, p->packed, 2 * all * (int64_t)sizeof *p->packed));
    return wf_queue_mark(p->context->opencl, WF_QUEUE_COMPUTE, &r->packed);
}

static void fill_values(const weft_args *a, int64_t valid, wf_run_number value[WF_RUN_VALUES]) {
    uint32_t key[2];
    const double t = (double)a->step + 1;
    memset(value, 0, WF_RUN_VALUES * sizeof *value);
    wf_philox_key(a->seed, a->step, key);
    value[WF_RUN_KEY0].u = key[0];
    value[WF_RUN_KEY1].u = key[1];
    value[WF_RUN_LR].f = a->learning_rate;
    value[WF_RUN_BETA1].f = a->beta1;
    value[WF_RUN_BETA2].f = a->beta2;
    value[WF_RUN_EPS].f = a->epsilon;
    value[WF_RUN_DECAY].f = a->weight_decay;
    value[WF_RUN_CORRECTION1].f = (float)(1 / (1 - pow((double)a->beta1, t)));
    value[WF_RUN_CORRECTION2].f = (float)(1 / (1 - pow((double)a->beta2, t)));
    value[WF_RUN_LOSS_SCALE].f = valid ? (float)(1 / (double)valid) : 0;
    value[WF_RUN_MAX_NORM].f = a->max_norm;
}

static const weft_buffer *buffer_of(const weft_run *r, int slot) {
    return &r->buffer[slot];
}

/* One buffer on the device stands for all host memory: the queue is in order, and a slot is copied
 * out of it, or into it, by the first or the last kernel of its phase. */
static wf_status stage(weft_run *r, int64_t bytes) {
    weft_plan *const p = r->plan;
    return p->staging ? WF_OK : wf_memory_create(p->context->opencl, bytes, &p->staging);
}

static wf_status bind_memory(weft_run *r, int slot, int64_t bytes) {
    weft_plan *const p = r->plan;
    const weft_buffer *const b = buffer_of(r, slot);
    TRY(wf_memory_point(p->borrowed[slot], b->cl_mem, !weft_places[slot].written, weft_places[slot].written));
    if (b->offset_bytes < 0 || b->offset_bytes > wf_memory_bytes(p->borrowed[slot]) - bytes)
        return wf_fail(WF_ERR_ARGUMENT, "%s takes %lld bytes, but its buffer has %lld, and it begins at byte %lld", weft_places[slot].name,
                       (long long)bytes, (long long)wf_memory_bytes(p->borrowed[slot]), (long long)b->offset_bytes);
    return wf_runner_set_slot(p->runner, weft_places[slot].slot, p->borrowed[slot], b->offset_bytes, bytes);
}

static wf_status bind_host(weft_run *r, int slot, int64_t bytes) {
    weft_plan *const p = r->plan;
    const weft_buffer *const b = buffer_of(r, slot);
    TRY(stage(r, bytes));
    TRY(wf_runner_set_slot(p->runner, weft_places[slot].slot, p->staging, 0, bytes));
    if (weft_places[slot].written) return WF_OK;
    return wf_queue_write(p->context->opencl, WF_QUEUE_COMPUTE, p->staging, 0, bytes, b->host, NULL);
}

static wf_status bind_slot(weft_run *r, int slot) {
    const weft_buffer *const b = buffer_of(r, slot);
    int64_t bytes;
    TRY(wf_runner_slot_bytes(r->plan->runner, weft_places[slot].slot, &bytes));
    if (!bytes) return WF_OK; /* a rank without rows */
    return b->cl_mem ? bind_memory(r, slot, bytes) : bind_host(r, slot, bytes);
}

static wf_status collect_slot(weft_run *r, int slot) {
    weft_plan *const p = r->plan;
    const weft_buffer *const b = buffer_of(r, slot);
    int64_t bytes;
    TRY(wf_runner_slot_bytes(p->runner, weft_places[slot].slot, &bytes));
    if (b->cl_mem) return wf_memory_point(p->borrowed[slot], NULL, false, false);
    if (!bytes || !weft_places[slot].written || !b->host) return WF_OK;
    return wf_queue_read(p->context->opencl, WF_QUEUE_COMPUTE, p->staging, 0, bytes, b->host, NULL);
}

static wf_phase kind_of(int phase) {
    return phase == WF_PHASE_BACKWARD_FIRST ? WF_PHASE_BACKWARD : (wf_phase)phase;
}

/* ---- phases ------------------------------------------------------------------------------------------------------- */

/* What the phase will have done to stash and gradients, once submitted. */
static void note_phase(weft_run *r, int phase) {
    if (phase == WF_PHASE_FORWARD && r->stash) {
        r->stash->full = true;
        r->stash->args = r->args;
    }
    if (kind_of(phase) == WF_PHASE_BACKWARD) {
        r->stash->full = false;
        r->params->gradients = WEFT_PARTIAL;
    }
    if (phase == WF_PHASE_FINISH) r->params->gradients = WEFT_SUMMED;
}

static wf_status begin_phase(weft_run *r) {
    const int phase = r->phase[r->at];
    wf_run_args args = r->args;
    if (phase != WF_PHASES) {
        for (int slot = 0; slot < WEFT_BUFFERS; slot++)
            if (weft_places[slot].phase == kind_of(phase)) TRY(bind_slot(r, slot));
        if (kind_of(phase) == WF_PHASE_BACKWARD) args = r->stash->args;
    }
    return wf_runner_start(r->plan->runner, &args, (wf_phase)phase);
}

static wf_status end_phase(weft_run *r) {
    weft_plan *const p = r->plan;
    wf_opencl *const opencl = p->context->opencl;
    const int phase = r->phase[r->at];
    if (phase != WF_PHASES) {
        for (int slot = 0; slot < WEFT_BUFFERS; slot++)
            if (weft_places[slot].phase == kind_of(phase)) TRY(collect_slot(r, slot));
        note_phase(r, phase);
    } else if (p->mode == WF_MODE_TRAIN || p->mode == WF_MODE_GRADIENTS) {
        r->params->gradients = WEFT_SUMMED;
    }
    if (++r->at < r->phases) return begin_phase(r);
    wf_event_release(r->end);
    r->end = NULL;
    TRY(wf_queue_mark(opencl, WF_QUEUE_COMPUTE, &r->end));
    TRY(wf_queue_flush(opencl, WF_QUEUE_COMPUTE));
    TRY(wf_queue_before_caller(opencl, r->end));
    r->submitted = true;
    p->context->running = NULL;
    return WF_OK;
}

/* ---- a run ---------------------------------------------------------------------------------------------------------- */

static void list_phases(weft_run *r, uint32_t phases, const weft_args *a) {
    const weft_gradients gradients = phases & WEFT_BACKWARD ? WEFT_PARTIAL : r->params->gradients;
    r->phases = r->at = 0;
    if (!r->plan->blocks) r->phase[r->phases++] = WF_PHASES;
    if (phases & WEFT_FORWARD) r->phase[r->phases++] = WF_PHASE_FORWARD;
    if (phases & WEFT_BACKWARD) r->phase[r->phases++] = a->accumulate ? WF_PHASE_BACKWARD : WF_PHASE_BACKWARD_FIRST;
    if (phases & (WEFT_FINISH | WEFT_OPTIMIZE) && gradients == WEFT_PARTIAL) r->phase[r->phases++] = WF_PHASE_FINISH;
    if (phases & WEFT_OPTIMIZE) r->phase[r->phases++] = WF_PHASE_OPTIMIZE;
}

static wf_status send_ids(weft_run *r, uint32_t phases, const weft_share *share, const weft_args *a) {
    weft_plan *const p = r->plan;
    const int64_t each = share->microbatches * share->samples * p->shape.sequence;
    if (p->blocks) return p->shape.documents && phases & WEFT_FORWARD ? put_block_documents(r, share, a) : WF_OK;
    TRY(put_ids(p, "tokens", share, a->tokens, p->packed));
    if (p->shape.documents) TRY(put_documents(p, share, a->documents, p->packed + 2 * each));
    return weft_plan_has_loss(p) ? put_ids(p, "targets", share, a->targets, p->packed + each) : WF_OK;
}

/* What is refused here leaves the run before as it is. */
static wf_status check_begin(const weft_run *r, const weft_args *a, int64_t *valid_out) {
    bool done = true;
    TRY(weft_args_check(r->plan, a, valid_out));
    if (!r->plan->blocks && r->end) TRY(wf_event_done(r->end, &done));
    return done ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "this plan's last run is not done yet: advance it until it is");
}

static wf_status start(weft_run *r, uint32_t phases, const weft_args *a, const weft_events *wait) {
    weft_plan *const p = r->plan;
    wf_opencl *const opencl = p->context->opencl;
    weft_share share;
    r->used = false;
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    r->args = (wf_run_args){.sample0 = share.first + (p->blocks ? a->microbatch * share.samples : 0),
                            .samples = share.samples,
                            .timeout_s = p->context->timeout_s};
    fill_values(a, r->valid, r->args.value);
    memcpy(r->buffer, (weft_buffer[]){a->x, a->y, a->dy, a->dx}, sizeof r->buffer);
    list_phases(r, phases, a);
    if (p->checked != r->params) TRY(weft_plan_takes(p, r->params));
    p->checked = r->params;
    TRY(wf_runner_set_store(p->runner, r->params->store));
    if (r->stash) TRY(wf_runner_set_stash(p->runner, r->stash->stash));
    if (wait) TRY(wf_queue_wait_for(opencl, WF_QUEUE_COMPUTE, wait->count, wait->events));
    TRY(wf_queue_after_caller(opencl, WF_QUEUE_COMPUTE));
    r->used = true;
    r->submitted = r->done = false;
    p->context->running = r;
    TRY(send_ids(r, phases, &share, a));
    if (r->phases) return begin_phase(r);
    r->phase[r->phases++] = WF_PHASE_FINISH; /* asked for, but nothing is left to do: an empty piece marks the end */
    return begin_phase(r);
}

static bool has_host_memory(const weft_run *r) {
    for (int slot = 0; slot < WEFT_BUFFERS; slot++)
        if (r->buffer[slot].host) return true;
    return false;
}

/* A failed run is over, and the caller's memory his again: no copy may still read it. */
static wf_status note(weft_run *r, wf_status status) {
    weft_context *const c = r->plan->context;
    if (status == WF_OK) return WF_OK;
    if (c->running == r) c->running = NULL;
    if (r->used && has_host_memory(r)) wf_queue_settle(c->opencl, WF_QUEUE_COMPUTE);
    r->used = false;
    if (status != WF_ERR_ARGUMENT) weft_context_break(c, status); /* the others may be in the middle of it */
    return status;
}

weft_status weft_run_start(weft_plan *p, uint32_t phases, weft_params *params, weft_stash *stash, const weft_args *args,
                           const weft_events *wait, weft_run **out) {
    if (!params) params = p->params;
    wf_status status = weft_run_check(p, phases, params, stash, args);
    if (status != WF_OK) return weft_from(status);
    weft_run *const r = p->run;
    const double begin_s = wf_clock_s();
    int64_t valid = 0;
    status = check_begin(r, args, &valid);
    if (status == WF_ERR_ARGUMENT) return weft_from(status);
    r->begin_s = begin_s;
    r->valid = valid;
    r->params = params;
    r->stash = p->mode == WF_MODE_EVALUATE ? NULL : stash;
    status = note(r, status == WF_OK ? start(r, phases, args, wait) : status);
    if (status != WF_OK) return weft_from(status);
    *out = r;
    return WEFT_OK;
}

static wf_status advance(weft_run *r, bool *done) {
    bool submitted = false, over = false;
    *done = r->done;
    if (r->done) return WF_OK;
    do {
        TRY(wf_runner_advance(r->plan->runner, &submitted, &over));
        if (submitted && !r->submitted) TRY(end_phase(r));
    } while (submitted && !r->submitted);
    if (!over || !r->submitted) return WF_OK;
    TRY(wf_event_done(r->end, done));
    if (*done && !r->done) r->seconds = wf_clock_s() - r->begin_s;
    r->done = r->done || *done;
    return WF_OK;
}

static wf_status refuse_over(void) {
    return wf_fail(WF_ERR_ARGUMENT, "this run is over: it was finished, or it failed");
}

weft_status weft_run_advance(weft_run *r, bool *done_out) {
    bool done = false;
    if (!r->used) return weft_from(refuse_over());
    const wf_status status = note(r, advance(r, &done));
    if (status == WF_OK) *done_out = done;
    return weft_from(status);
}

bool weft_run_submitted(const weft_run *r) {
    return r->submitted;
}

static wf_status advance_until(weft_run *r, bool device_too) {
    bool done = false;
    wf_status status = WF_OK;
    wf_runner_hold(r->plan->runner, true);
    while (status == WF_OK && (device_too ? !done : !r->submitted)) {
        status = advance(r, &done);
        if (device_too ? !done : !r->submitted) wf_runner_rest(r->plan->runner);
    }
    wf_runner_hold(r->plan->runner, false);
    return status;
}

weft_status weft_run_finish(weft_run *r, void **event_out) {
    void *event = NULL;
    if (!r->used) return weft_from(refuse_over());
    wf_status status = advance_until(r, !event_out || wf_runner_traced(r->plan->runner));
    if (status == WF_OK && event_out) status = wf_event_export(r->end, &event);
    if (note(r, status) != WF_OK) return weft_from(status);
    if (event_out) *event_out = event;
    r->used = false;
    return WEFT_OK;
}

weft_status weft_plan_enqueue(weft_plan *p, uint32_t phases, weft_params *params, weft_stash *stash, const weft_args *args,
                              const weft_events *wait, void **event_out) {
    weft_run *run = NULL;
    const weft_status status = weft_run_start(p, phases, params, stash, args, wait, &run);
    return status == WEFT_OK ? weft_run_finish(run, event_out) : status;
}

/* ---- results --------------------------------------------------------------------------------------------------------- */

static wf_status get_result(weft_plan *p, weft_result *out) {
    weft_run *const r = p->run;
    float loss[2] = {0, 0}, clip[2] = {0, 0};
    TRY(weft_plan_loaded(p));
    if (!r->end || !r->submitted) return wf_fail(WF_ERR_ARGUMENT, "this plan has no run whose result could be told");
    TRY(wf_event_wait(r->end));
    if (weft_plan_has_loss(p)) TRY(wf_runner_read(p->runner, "loss", 0, 0, loss, sizeof loss));
    if (p->mode == WF_MODE_TRAIN) TRY(wf_runner_read(p->runner, "clip", 0, 0, clip, sizeof clip));
    if (!r->done) r->seconds = wf_clock_s() - r->begin_s;
    r->done = true;
    *out = (weft_result){.loss = r->valid ? (double)loss[0] / (double)r->valid : 0,
                         .tokens = r->valid,
                         .grad_norm = (double)clip[0],
                         .seconds = r->seconds};
    return WF_OK;
}

weft_status weft_plan_result(weft_plan *p, weft_result *out) {
    const wf_status status = get_result(p, out);
    if (status != WF_OK && status != WF_ERR_ARGUMENT && p->run) return weft_from(note(p->run, status));
    return weft_from(status);
}

weft_status weft_plan_run(weft_plan *p, const weft_args *args, weft_result *out) {
    weft_run *run = NULL;
    if (p->blocks) return weft_from(wf_fail(WF_ERR_ARGUMENT, "a plan of blocks is run by weft_plan_enqueue, in phases"));
    weft_status status = weft_run_start(p, 0, NULL, NULL, args, NULL, &run);
    if (status == WEFT_OK) status = weft_run_finish(run, NULL);
    return status == WEFT_OK ? weft_plan_result(p, out) : status;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

wf_status weft_run_prepare(weft_plan *p) {
    weft_share share;
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    weft_run_destroy(p); /* of a load that failed */
    p->run = calloc(1, sizeof *p->run);
    if (!p->run) return wf_fail(WF_ERR_MEMORY, "no host memory for a run");
    p->run->plan = p;
    for (int slot = 0; p->blocks && slot < WEFT_BUFFERS; slot++)
        TRY(wf_memory_borrow(p->context->opencl, &p->borrowed[slot]));
    const int64_t one = share.samples * p->shape.sequence, each = p->blocks ? 0 : 2, documents = p->shape.documents ? 3 : 0;
    p->packed = calloc((size_t)((each + documents) * (p->blocks ? one : one * share.microbatches)) + 1, sizeof *p->packed);
    p->numbers = calloc(documents ? (size_t)p->shape.sequence : 1, sizeof *p->numbers);
    return p->packed && p->numbers ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a batch of tokens");
}

/* Host memory that the device still reads or writes must stay until it is done. */
void weft_run_destroy(weft_plan *p) {
    if (!p->run) return;
    if (p->context->running == p->run) p->context->running = NULL;
    wf_queue_finish(p->context->opencl, WF_QUEUE_COMPUTE);
    wf_event_release(p->run->end);
    wf_event_release(p->run->packed);
    for (int slot = 0; slot < WEFT_BUFFERS; slot++) {
        wf_memory_destroy(p->borrowed[slot]);
        p->borrowed[slot] = NULL;
    }
    wf_memory_destroy(p->staging);
    p->staging = NULL;
    free(p->packed);
    free(p->numbers);
    p->packed = p->numbers = NULL;
    free(p->run);
    p->run = NULL;
}
