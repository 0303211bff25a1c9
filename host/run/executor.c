/* executor.c: plays the program on this rank.
 *
 * The cursor hands out step instances in program order, each with the instances of other lanes that
 * it waits for. Each lane is a queue of its own:
 *   - kernels go to the device's in-order compute queue as soon as the exchanges that they wait for
 *     are complete; kernels wait for kernels by the queue's order alone. So the host runs ahead of
 *     the device, up to WF_IN_FLIGHT steps, and never finishes a queue between steps;
 *   - an exchange starts when the kernels that it waits for are complete, which their events tell.
 *     A dry run of the program (once, at creation) finds which kernels that are: only those keep an
 *     event, and every WF_MARK_EVERY-th, which bounds the run ahead.
 * When nothing moves, the host sleeps (rest.c).
 *
 * Nothing is allocated in a run (traced runs excepted, before they start). */
#include "host/run/internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- creation ------------------------------------------------------------------------------------------ */

static bool is_waited(const wf_runner *r, int64_t seq) {
    return (r->now->waited[seq >> 3] >> (seq & 7)) & 1;
}

static void mark_waited(wf_played *p, int64_t seq) {
    p->waited[seq >> 3] |= (uint8_t)(1u << (seq & 7));
}

static void count_instances(wf_runner *r, wf_played *p) {
    wf_instance i;
    wf_cursor_rewind_to(r->cursor, p->piece);
    while (wf_cursor_next(r->cursor, &i)) p->instances[i.step->lane]++;
}

/* Which compute instances does an exchange wait for? A lane that has waited for a later one before
 * needs no event of its own. */
static void find_waited(wf_runner *r, wf_played *p) {
    int64_t known[WF_LANES];
    for (int l = 0; l < WF_LANES; l++) known[l] = -1;
    wf_instance i;
    wf_cursor_rewind_to(r->cursor, p->piece);
    while (wf_cursor_next(r->cursor, &i)) {
        const int lane = i.step->lane;
        const int64_t seq = i.wait[WF_LANE_COMPUTE];
        if (lane == WF_LANE_COMPUTE || seq <= known[lane]) continue;
        mark_waited(p, seq);
        known[lane] = seq;
    }
    const int64_t n = p->instances[WF_LANE_COMPUTE];
    for (int64_t seq = WF_MARK_EVERY - 1; seq < n; seq += WF_MARK_EVERY) mark_waited(p, seq);
    if (n) mark_waited(p, n - 1);
}

static wf_status dry_run(wf_runner *r, wf_played *p) {
    count_instances(r, p);
    p->waited = calloc((size_t)p->instances[WF_LANE_COMPUTE] / 8 + 1, 1);
    if (!p->waited)
        return wf_fail(WF_ERR_MEMORY, "no host memory for a program of %lld kernels", (long long)p->instances[WF_LANE_COMPUTE]);
    for (int l = 0; l < WF_LANES; l++) {
        if (!p->instances[l] || r->lane[l].ring) continue;
        r->lane[l].ring = calloc(WF_READ_AHEAD, sizeof *r->lane[l].ring);
        if (!r->lane[l].ring) return wf_fail(WF_ERR_MEMORY, "no host memory for lane %s", wf_lane_name((wf_lane)l));
    }
    find_waited(r, p);
    return WF_OK;
}

static bool has_phases(const wf_schedule *s) {
    for (int p = 0; p < WF_PHASES; p++)
        if (s->phases[p].count) return true;
    return false;
}

wf_status wf_executor_create(wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    const wf_piece whole = {0, s->ncalls};
    TRY(wf_cursor_create(s, &r->cursor));
    r->npieces = has_phases(s) ? WF_PHASES : 1;
    r->pieces = calloc((size_t)r->npieces, sizeof *r->pieces);
    if (!r->pieces) return wf_fail(WF_ERR_MEMORY, "no host memory for a program");
    for (int i = 0; i < r->npieces; i++) {
        r->pieces[i].piece = r->npieces == 1 ? whole : s->phases[i];
        TRY(dry_run(r, &r->pieces[i]));
    }
    r->now = r->pieces;
    return WF_OK;
}

static void drop_marks(wf_runner *r) {
    for (int32_t i = 0; i < r->marks; i++) wf_event_release(r->mark[(r->mark_head + i) % WF_IN_FLIGHT].event);
    r->marks = 0;
}

void wf_executor_destroy(wf_runner *r) {
    drop_marks(r);
    wf_event_release(r->gate);
    for (int l = 0; l < WF_LANES; l++) free(r->lane[l].ring);
    for (int i = 0; r->pieces && i < r->npieces; i++) free(r->pieces[i].waited);
    free(r->pieces);
    wf_cursor_destroy(r->cursor);
}

/* ---- reading ahead ---------------------------------------------------------------------------------------- */

static bool push(wf_lane_state *lane, const wf_instance *i) {
    if (lane->count == WF_READ_AHEAD) return false;
    lane->ring[(lane->head + lane->count++) % WF_READ_AHEAD] = *i;
    return true;
}

static void pop(wf_lane_state *lane) {
    lane->head = (lane->head + 1) % WF_READ_AHEAD;
    lane->count--;
}

static void fill(wf_runner *r) {
    for (;;) {
        if (!r->holding) {
            if (r->exhausted) return;
            r->exhausted = !wf_cursor_next(r->cursor, &r->held);
            if (r->exhausted) return;
        }
        r->holding = !push(&r->lane[r->held.step->lane], &r->held);
        if (r->holding) return;
    }
}

/* Are the other lanes far enough? Kernels need no completion of kernels: their queue is in order. */
static bool ready(const wf_runner *r, const wf_instance *i) {
    for (int l = 0; l < WF_LANES; l++)
        if (l != i->step->lane && i->wait[l] > r->lane[l].completed) return false;
    return true;
}

/* ---- kernels ------------------------------------------------------------------------------------------------ */

void wf_runner_bind(const wf_runner *r, const wf_view *view, const wf_call *call, wf_bound_view *out) {
    const int64_t each = wf_dtype_bytes((wf_dtype)r->schedule->buffers[view->buffer].dtype);
    const wf_lent *const lent = r->lent[view->buffer] ? &r->lent[view->buffer][wf_view_instance(view, call)] : NULL;
    memcpy(out->stride, view->stride, sizeof out->stride);
    if (lent && lent->memory) {
        out->memory = lent->memory;
        out->offset = lent->offset_bytes / each + view->offset;
        return;
    }
    const wf_location at = wf_schedule_locate(r->schedule, view, call);
    out->memory = at.allocation < 0 ? NULL : r->memory[at.allocation];
    out->offset = (at.offset_bytes + (at.allocation < 0 ? 0 : r->base[at.allocation])) / each;
}

static wf_status enqueue(wf_runner *r, const wf_instance *i, wf_event **event_out) {
    const wf_run_args *const args = &r->args;
    const wf_schedule *const s = r->schedule;
    const wf_step *const step = i->step;
    const int32_t operands = r->operands[step->problem], views = step->reads + step->updates + step->writes;
    wf_bound_view bound[WF_OPERANDS + 1];
    for (int32_t v = 0; v < views; v++) wf_runner_bind(r, &s->views[step->view + v], i->call, &bound[v]);
    wf_run_number value[WF_RUN_VALUES];
    memcpy(value, args->value, sizeof value);
    value[WF_RUN_LAYER].u = i->call->layer > 0 ? (uint32_t)i->call->layer : 0;
    value[WF_RUN_SAMPLE0].u = (uint32_t)(args->sample0 + (i->call->microbatch > 0 ? i->call->microbatch : 0) * args->samples);
    return wf_kernel_enqueue(r->kernels[step->problem], WF_QUEUE_COMPUTE, bound, operands,
                             views > operands ? &bound[operands] : NULL, value, event_out);
}

static wf_status submit(wf_runner *r, const wf_instance *i) {
    wf_lane_state *const lane = &r->lane[WF_LANE_COMPUTE];
    wf_event *event = NULL;
    const bool waited = is_waited(r, i->seq), keep = r->trace.on || waited;
    const int64_t record = wf_trace_start(r, i);
    wf_runner_at(r, i);
    TRY(wf_runner_explain(r, i, enqueue(r, i, keep ? &event : NULL)));
    const wf_status status = waited ? wf_runner_explain(r, i, wf_event_ring(event)) : WF_OK;
    if (keep) r->mark[(r->mark_head + r->marks++) % WF_IN_FLIGHT] = (wf_mark){i->seq, event, record, *i};
    lane->started = i->seq;
    r->unflushed = true;
    return status;
}

static wf_status flush(wf_runner *r) {
    if (!r->unflushed) return WF_OK;
    r->unflushed = false;
    return wf_queue_flush(r->opencl, WF_QUEUE_COMPUTE);
}

/* Which kernels are done? */
static wf_status collect(wf_runner *r, bool *moved) {
    while (r->marks) {
        wf_mark *const mark = &r->mark[r->mark_head];
        bool done = false;
        TRY(wf_runner_explain(r, &mark->instance, wf_event_done(mark->event, &done)));
        if (!done) return WF_OK;
        r->lane[WF_LANE_COMPUTE].completed = mark->seq;
        wf_trace_end(r, mark->record, mark->event);
        wf_event_release(mark->event);
        r->mark_head = (r->mark_head + 1) % WF_IN_FLIGHT;
        r->marks--;
        *moved = true;
    }
    return WF_OK;
}

static wf_status advance_compute(wf_runner *r, bool *moved) {
    wf_lane_state *const lane = &r->lane[WF_LANE_COMPUTE];
    TRY(collect(r, moved));
    while (lane->count && lane->started - lane->completed < WF_IN_FLIGHT) {
        const wf_instance *const i = &lane->ring[lane->head];
        if (!ready(r, i)) break;
        /* An idle device starts at once, and what somebody waits for is not left lying. */
        const bool urgent = lane->started == lane->completed || is_waited(r, i->seq);
        TRY(submit(r, i));
        pop(lane);
        *moved = true;
        if (urgent) TRY(flush(r));
    }
    return WF_OK;
}

/* ---- exchanges ----------------------------------------------------------------------------------------------- */

static wf_status advance_lane(wf_runner *r, wf_lane_state *lane, bool *moved) {
    for (;;) {
        if (lane->transfer) {
            bool done = false;
            TRY(wf_runner_explain(r, &lane->active, wf_fabric_test(r->fabric, &lane->transfer, &done)));
            if (!done) return WF_OK;
            lane->transfer = NULL;
            TRY(wf_runner_explain(r, &lane->active, wf_exchange_finish(r, lane)));
            lane->completed = lane->active.seq;
            wf_trace_end(r, lane->record, NULL);
            *moved = true;
        }
        if (!lane->count || !ready(r, &lane->ring[lane->head])) return WF_OK;
        TRY(wf_runner_explain(r, &lane->ring[lane->head], wf_exchange_start(r, lane, &lane->ring[lane->head])));
        pop(lane);
        *moved = true;
    }
}

/* ---- a run ---------------------------------------------------------------------------------------------------- */

static void rewind_all(wf_runner *r) {
    wf_cursor_rewind_to(r->cursor, r->now->piece);
    r->holding = r->exhausted = r->unflushed = false;
    r->idle_s = r->quiet_s = r->still_s = 0;
    r->seen_s = wf_clock_s();
    for (int l = 0; l < WF_LANES; l++) {
        wf_lane_state *const lane = &r->lane[l];
        lane->head = lane->count = 0;
        lane->started = lane->completed = -1;
        lane->transfer = NULL;
    }
}

/* Everything is on the device's queue, and every exchange is over. */
static bool is_submitted(const wf_runner *r) {
    if (!r->exhausted || r->holding) return false;
    for (int l = 0; l < WF_LANES; l++) {
        const wf_lane_state *const lane = &r->lane[l];
        if ((l == WF_LANE_COMPUTE ? lane->started : lane->completed) + 1 < r->now->instances[l]) return false;
    }
    return true;
}

static bool is_done(const wf_runner *r) {
    return !r->running && r->lane[WF_LANE_COMPUTE].completed + 1 >= r->now->instances[WF_LANE_COMPUTE];
}

/* May exchanges start? What the run before computes may use the bytes that they write. */
static wf_status pass_gate(wf_runner *r, bool *open) {
    *open = !r->gate;
    if (*open) return WF_OK;
    TRY(wf_event_done(r->gate, open));
    if (!*open) return WF_OK;
    wf_event_release(r->gate);
    r->gate = NULL;
    return WF_OK;
}

static wf_status move_on(wf_runner *r, bool *moved) {
    bool open = false;
    fill(r);
    TRY(advance_compute(r, moved));
    TRY(pass_gate(r, &open));
    wf_fabric_computes(r->fabric, r->lane[WF_LANE_COMPUTE].started > r->lane[WF_LANE_COMPUTE].completed);
    for (int l = 0; open && l < WF_LANES; l++)
        if (l != WF_LANE_COMPUTE && r->now->instances[l]) TRY(advance_lane(r, &r->lane[l], moved));
    return WF_OK;
}

/* What the rank is stuck at: a message on its way, whose peer the fabric names; else the step that the first blocked
 * lane would do next. This clock may run out before the fabric's: what moves a part of a message moves no step. */
static wf_status stuck(const wf_runner *r, double limit_s) {
    for (int l = WF_LANES - 1; l >= 0; l--) {
        const wf_status late = r->lane[l].transfer ? wf_fabric_overdue(r->fabric, r->lane[l].transfer) : WF_OK;
        if (late != WF_OK) return wf_runner_explain(r, &r->lane[l].active, late);
    }
    const wf_instance *const i = wf_runner_blocked(r);
    if (i) {
        wf_fail(WF_ERR_TIMEOUT, "no progress for %.1f s", limit_s);
        return wf_runner_explain(r, i, WF_ERR_TIMEOUT);
    }
    return wf_fail(WF_ERR_TIMEOUT, "rank %d, lane compute: the device did not finish kernel %lld of the run for %.1f s",
                   r->schedule->rank, (long long)r->lane[WF_LANE_COMPUTE].completed + 1, limit_s);
}

/* Time counts only while somebody looks: a host that was away for a minute has not waited for one. */
static wf_status count_quiet(wf_runner *r, bool moved) {
    enum { MOST_AWAY_S = 1 };
    const double limit_s = wf_runner_limit_s(r), now_s = wf_clock_s();
    const double away_s = now_s - r->seen_s;
    const int64_t moves = wf_fabric_moves(r->fabric);
    r->seen_s = now_s;
    r->quiet_s = moved ? 0 : r->quiet_s + (away_s < MOST_AWAY_S ? away_s : MOST_AWAY_S);
    r->still_s = moved || moves != r->moves ? 0 : r->still_s + away_s;
    r->moves = moves;
    return r->quiet_s > limit_s ? stuck(r, limit_s) : WF_OK;
}

static wf_status refuse_broken(const wf_runner *r) {
    return wf_fail(r->broken, "this plan cannot run any more: an earlier run of it failed with status %s",
                   wf_status_name(r->broken));
}

/* The run before is submitted: of its marks the last stands for all, the queue being in order. */
static void keep_gate(wf_runner *r) {
    if (!r->marks) return;
    wf_mark *const last = &r->mark[(r->mark_head + --r->marks) % WF_IN_FLIGHT];
    wf_event_release(r->gate);
    r->gate = last->event;
    drop_marks(r);
}

wf_status wf_runner_start(wf_runner *r, const wf_run_args *args, wf_phase phase) {
    if (r->broken) return refuse_broken(r);
    if (r->running) return wf_fail(WF_ERR_ARGUMENT, "a run of this plan is not over yet: one at a time");
    if (r->trace.on && r->marks)
        return wf_fail(WF_ERR_ARGUMENT, "a traced run must be done before the next one starts");
    if ((phase == WF_PHASES) != (r->npieces == 1) || (unsigned)phase > WF_PHASES)
        return wf_fail(WF_ERR_ARGUMENT, "this plan has no phase %d", (int)phase);
    r->now = &r->pieces[phase == WF_PHASES ? 0 : phase];
    TRY(wf_trace_begin(r));
    keep_gate(r);
    r->args = *args;
    rewind_all(r);
    r->running = true;
    return WF_OK;
}

wf_status wf_runner_advance(wf_runner *r, bool *submitted, bool *done) {
    bool moved = false;
    if (r->broken) return refuse_broken(r);
    wf_status status = r->running ? move_on(r, &moved) : collect(r, &moved);
    if (status == WF_OK && r->running && is_submitted(r)) {
        r->running = false;
        moved = true;
    }
    if (status == WF_OK && !moved) status = flush(r);
    if (!moved && r->quiet_s == 0) wf_runner_waits(r);
    if (status == WF_OK) status = count_quiet(r, moved); /* a piece without kernels is done while earlier ones run */
    *submitted = status == WF_OK && !r->running;
    *done = status == WF_OK && is_done(r);
    return r->broken = status;
}

wf_status wf_runner_run(wf_runner *r, const wf_run_args *args) {
    bool submitted = false, done = false;
    wf_status status = wf_runner_start(r, args, WF_PHASES);
    wf_runner_hold(r, true);
    while (status == WF_OK && !done) {
        status = wf_runner_advance(r, &submitted, &done);
        if (status == WF_OK && !done) wf_runner_rest(r);
    }
    wf_runner_hold(r, false);
    return status;
}
