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
 * When nothing moves, the host sleeps for a sixteenth of the time that it has waited so far: on a
 * machine whose device is its CPU, a host that polls in a loop takes the core that computes, and one
 * that sleeps for long makes everybody wait. So a wait of length T costs a few dozen polls, and ends
 * at most T/16 late.
 *
 * Nothing is allocated in a run (traced runs excepted, before they start). */
#include "host/run/internal.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TIMEOUT_S 60.0

/* ---- creation ------------------------------------------------------------------------------------------ */

static bool is_waited(const wf_runner *r, int64_t seq) {
    return (r->waited[seq >> 3] >> (seq & 7)) & 1;
}

static void mark_waited(wf_runner *r, int64_t seq) {
    r->waited[seq >> 3] |= (uint8_t)(1u << (seq & 7));
}

static void count_instances(wf_runner *r) {
    wf_instance i;
    wf_cursor_rewind(r->cursor);
    while (wf_cursor_next(r->cursor, &i)) r->instances[i.step->lane]++;
}

/* Which compute instances does an exchange wait for? A lane that has waited for a later one before
 * needs no event of its own. */
static void find_waited(wf_runner *r) {
    int64_t known[WF_LANES];
    for (int l = 0; l < WF_LANES; l++) known[l] = -1;
    wf_instance i;
    wf_cursor_rewind(r->cursor);
    while (wf_cursor_next(r->cursor, &i)) {
        const int lane = i.step->lane;
        const int64_t seq = i.wait[WF_LANE_COMPUTE];
        if (lane == WF_LANE_COMPUTE || seq <= known[lane]) continue;
        mark_waited(r, seq);
        known[lane] = seq;
    }
    const int64_t n = r->instances[WF_LANE_COMPUTE];
    for (int64_t seq = WF_MARK_EVERY - 1; seq < n; seq += WF_MARK_EVERY) mark_waited(r, seq);
    if (n) mark_waited(r, n - 1);
}

wf_status wf_executor_create(wf_runner *r) {
    TRY(wf_cursor_create(r->schedule, &r->cursor));
    count_instances(r);
    r->waited = calloc((size_t)r->instances[WF_LANE_COMPUTE] / 8 + 1, 1);
    if (!r->waited) return wf_fail(WF_ERR_MEMORY, "no host memory for a program of %lld kernels", (long long)r->instances[0]);
    for (int l = 0; l < WF_LANES; l++) {
        if (!r->instances[l]) continue;
        r->lane[l].ring = calloc(WF_READ_AHEAD, sizeof *r->lane[l].ring);
        if (!r->lane[l].ring) return wf_fail(WF_ERR_MEMORY, "no host memory for lane %s", wf_lane_name((wf_lane)l));
    }
    find_waited(r);
    return WF_OK;
}

void wf_executor_destroy(wf_runner *r) {
    for (int32_t i = 0; i < r->marks; i++) wf_event_release(r->mark[(r->mark_head + i) % WF_IN_FLIGHT].event);
    for (int l = 0; l < WF_LANES; l++) free(r->lane[l].ring);
    free(r->waited);
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

static void bind(const wf_runner *r, const wf_view *view, const wf_call *call, wf_bound_view *out) {
    const wf_location at = wf_schedule_locate(r->schedule, view, call);
    out->memory = at.allocation < 0 ? NULL : r->memory[at.allocation];
    out->offset = at.offset_bytes / wf_dtype_bytes((wf_dtype)r->schedule->buffers[view->buffer].dtype);
    memcpy(out->stride, view->stride, sizeof out->stride);
}

static wf_status enqueue(wf_runner *r, const wf_run_args *args, const wf_instance *i, wf_event **event_out) {
    const wf_schedule *const s = r->schedule;
    const wf_step *const step = i->step;
    const int32_t operands = r->operands[step->problem], views = step->reads + step->updates + step->writes;
    wf_bound_view bound[WF_OPERANDS + 1];
    for (int32_t v = 0; v < views; v++) bind(r, &s->views[step->view + v], i->call, &bound[v]);
    wf_run_number value[WF_RUN_VALUES];
    memcpy(value, args->value, sizeof value);
    value[WF_RUN_LAYER].u = i->call->layer > 0 ? (uint32_t)i->call->layer : 0;
    value[WF_RUN_SAMPLE0].u = (uint32_t)(args->sample0 + (i->call->microbatch > 0 ? i->call->microbatch : 0) * args->samples);
    return wf_kernel_enqueue(r->kernels[step->problem], WF_QUEUE_COMPUTE, bound, operands,
                             views > operands ? &bound[operands] : NULL, value, event_out);
}

static wf_status submit(wf_runner *r, const wf_run_args *args, const wf_instance *i) {
    wf_lane_state *const lane = &r->lane[WF_LANE_COMPUTE];
    wf_event *event = NULL;
    const bool keep = r->trace.on || is_waited(r, i->seq);
    const int64_t record = wf_trace_start(r, i);
    TRY(enqueue(r, args, i, keep ? &event : NULL));
    if (keep) r->mark[(r->mark_head + r->marks++) % WF_IN_FLIGHT] = (wf_mark){i->seq, event, record};
    lane->started = i->seq;
    r->unflushed = true;
    return WF_OK;
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
        TRY(wf_event_done(mark->event, &done));
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

static wf_status advance_compute(wf_runner *r, const wf_run_args *args, bool *moved) {
    wf_lane_state *const lane = &r->lane[WF_LANE_COMPUTE];
    TRY(collect(r, moved));
    while (lane->count && lane->started - lane->completed < WF_IN_FLIGHT) {
        const wf_instance *const i = &lane->ring[lane->head];
        if (!ready(r, i)) break;
        /* An idle device starts at once, and what somebody waits for is not left lying. */
        const bool urgent = lane->started == lane->completed || is_waited(r, i->seq);
        TRY(submit(r, args, i));
        pop(lane);
        *moved = true;
        if (urgent) TRY(flush(r));
    }
    return WF_OK;
}

/* ---- exchanges ----------------------------------------------------------------------------------------------- */

static wf_status message(const wf_runner *r, const wf_instance *i, const wf_view *view, int32_t peer, wf_message *out) {
    if (!wf_view_contiguous(view))
        return wf_fail(WF_ERR_INTERNAL, "step %s exchanges a view with gaps", i->step->site);
    const wf_location at = wf_schedule_locate(r->schedule, view, i->call);
    out->memory = at.allocation < 0 ? NULL : r->memory[at.allocation];
    out->offset_bytes = at.offset_bytes;
    out->bytes = wf_view_elements(view) * wf_dtype_bytes((wf_dtype)r->schedule->buffers[view->buffer].dtype);
    out->peer = peer;
    return WF_OK;
}

static wf_status start(wf_runner *r, wf_lane_state *lane, const wf_instance *i) {
    const wf_exchange *const x = &r->schedule->exchanges[i->step->exchange];
    const wf_view *view = &r->schedule->views[i->step->view];
    wf_message send = {.peer = -1}, receive = {.peer = -1};
    wf_transport_kind send_by = WF_TRANSPORT_NONE, receive_by = WF_TRANSPORT_NONE;
    if (x->to >= 0) {
        TRY(message(r, i, view++, x->to, &send));
        send_by = x->transport ? (wf_transport_kind)x->transport : wf_fabric_transport(r->fabric, x->to);
    }
    if (x->from >= 0) {
        TRY(message(r, i, view, x->from, &receive));
        receive_by = x->receive_transport ? (wf_transport_kind)x->receive_transport : wf_fabric_transport(r->fabric, x->from);
    }
    lane->record = wf_trace_start(r, i);
    TRY(wf_fabric_start(r->fabric, (wf_lane)i->step->lane, send_by, &send, receive_by, &receive, &lane->transfer));
    lane->active = *i;
    lane->started = i->seq;
    return WF_OK;
}

static wf_status explain_timeout(const wf_runner *r, const wf_instance *i, wf_status status) {
    if (status == WF_OK) return WF_OK;
    return wf_fail(status, "rank %d, step %s of %s (layer %d, microbatch %d), lane %s: %s", r->schedule->rank, i->step->site,
                   r->schedule->segments[i->call->segment].name, i->call->layer, i->call->microbatch,
                   wf_lane_name((wf_lane)i->step->lane), wf_last_error());
}

static wf_status advance_lane(wf_runner *r, wf_lane_state *lane, bool *moved) {
    for (;;) {
        if (lane->transfer) {
            bool done = false;
            TRY(explain_timeout(r, &lane->active, wf_fabric_test(r->fabric, &lane->transfer, &done)));
            if (!done) return WF_OK;
            lane->transfer = NULL;
            lane->completed = lane->active.seq;
            wf_trace_end(r, lane->record, NULL);
            *moved = true;
        }
        if (!lane->count || !ready(r, &lane->ring[lane->head])) return WF_OK;
        TRY(explain_timeout(r, &lane->ring[lane->head], start(r, lane, &lane->ring[lane->head])));
        pop(lane);
        *moved = true;
    }
}

/* ---- a run ---------------------------------------------------------------------------------------------------- */

static void rewind_all(wf_runner *r) {
    wf_cursor_rewind(r->cursor);
    r->holding = r->exhausted = r->unflushed = false;
    r->idle_s = 0;
    for (int l = 0; l < WF_LANES; l++) {
        wf_lane_state *const lane = &r->lane[l];
        lane->head = lane->count = 0;
        lane->started = lane->completed = -1;
        lane->transfer = NULL;
    }
}

static bool finished(const wf_runner *r) {
    if (!r->exhausted || r->holding) return false;
    for (int l = 0; l < WF_LANES; l++)
        if (r->lane[l].completed + 1 < r->instances[l]) return false;
    return true;
}

static wf_status advance(wf_runner *r, const wf_run_args *args, bool *moved) {
    fill(r);
    TRY(advance_compute(r, args, moved));
    for (int l = 0; l < WF_LANES; l++)
        if (l != WF_LANE_COMPUTE && r->instances[l]) TRY(advance_lane(r, &r->lane[l], moved));
    return WF_OK;
}

/* waited_s: how long nothing has moved. */
static void idle(wf_runner *r, double waited_s) {
    enum { LEAST_NS = 10000, MOST_NS = 1000000 };
    const double begin = wf_clock_s(), want_ns = waited_s * 1e9 / 16;
    const struct timespec nap = {0, want_ns < LEAST_NS ? LEAST_NS : want_ns > MOST_NS ? MOST_NS : (long)want_ns};
    nanosleep(&nap, NULL);
    r->idle_s += wf_clock_s() - begin;
}

/* What the rank is stuck at: the step that the first blocked lane would do next. */
static wf_status stuck(const wf_runner *r, double limit_s) {
    for (int l = WF_LANES - 1; l >= 0; l--) {
        const wf_lane_state *const lane = &r->lane[l];
        const wf_instance *const i = lane->transfer ? &lane->active : lane->count ? &lane->ring[lane->head] : NULL;
        if (!i) continue;
        wf_fail(WF_ERR_TIMEOUT, "no progress for %.1f s", limit_s);
        return explain_timeout(r, i, WF_ERR_TIMEOUT);
    }
    return wf_fail(WF_ERR_TIMEOUT, "rank %d, lane compute: the device did not finish kernel %lld of the run for %.1f s",
                   r->schedule->rank, (long long)r->lane[WF_LANE_COMPUTE].completed + 1, limit_s);
}

static wf_status play(wf_runner *r, const wf_run_args *args) {
    const double limit_s = args->timeout_s > 0 ? args->timeout_s : TIMEOUT_S;
    double moved_s = wf_clock_s();
    while (!finished(r)) {
        bool moved = false;
        TRY(advance(r, args, &moved));
        if (!moved) TRY(flush(r));
        const double now_s = wf_clock_s();
        if (moved) {
            moved_s = now_s;
            continue;
        }
        if (now_s - moved_s > limit_s) return stuck(r, limit_s);
        idle(r, now_s - moved_s);
    }
    return WF_OK;
}

wf_status wf_runner_run(wf_runner *r, const wf_run_args *args) {
    if (r->broken)
        return wf_fail(r->broken, "this plan cannot run any more: an earlier run of it failed with status %s",
                       wf_status_name(r->broken));
    TRY(wf_trace_begin(r));
    rewind_all(r);
    r->broken = play(r, args);
    return r->broken;
}
