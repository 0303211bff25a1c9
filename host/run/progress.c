/* progress.c: what the executor tells of where it is: on the rank's board, for those who wait for it
 * and for the watchdog, and in the sentence of a failure. */
#include <stdio.h>

#include "host/run/internal.h"

#define TIMEOUT_S 60.0

double wf_runner_limit_s(const wf_runner *r) {
    return r->args.timeout_s > 0 ? r->args.timeout_s : TIMEOUT_S;
}

void wf_runner_hold(wf_runner *r, bool on) {
    r->limit_s = on ? wf_runner_limit_s(r) : 0;
    if (!on) wf_board_rest(wf_fabric_board(r->fabric));
}

static void operation_of(const wf_runner *r, const wf_step *step, wf_activity *a) {
    if (step->kind == WF_STEP_KERNEL) {
        const char *const name = step->problem < 0 ? "" : wf_operations[r->schedule->problems[step->problem].problem.op]->name;
        snprintf(a->operation, sizeof a->operation, "%s", name);
        return;
    }
    const wf_exchange *const x = &r->schedule->exchanges[step->exchange];
    a->peer = x->from >= 0 ? x->from : x->to;
    if (x->kind == WF_RETURN)
        snprintf(a->operation, sizeof a->operation, "what was sent is read by %d", a->peer);
    else if (x->to >= 0 && x->from >= 0)
        snprintf(a->operation, sizeof a->operation, "send to %d, receive from %d", x->to, x->from);
    else
        snprintf(a->operation, sizeof a->operation, "%s rank %d", x->to >= 0 ? "send to" : "receive from", a->peer);
}

void wf_runner_at(wf_runner *r, const wf_instance *i) {
    wf_activity a = {.limit_s = r->limit_s, .peer = WF_NOBODY, .layer = i->call->layer, .microbatch = i->call->microbatch};
    snprintf(a.site, sizeof a.site, "%s", i->step->site);
    snprintf(a.segment, sizeof a.segment, "%s", r->schedule->segments[i->call->segment].name);
    operation_of(r, i->step, &a);
    wf_board_set(wf_fabric_board(r->fabric), &a);
}

/* What is on its way, rather than what has not begun; a message, rather than the word that follows. */
const wf_instance *wf_runner_blocked(const wf_runner *r) {
    const wf_instance *next = NULL;
    _Static_assert(WF_LANE_RETURN == WF_LANES - 1, "the last that is looked at");
    for (int n = 1; n <= WF_LANES; n++) {
        const wf_lane_state *const lane = &r->lane[n < WF_LANES ? WF_LANES - 1 - n : WF_LANE_RETURN];
        if (lane->transfer) return &lane->active;
        if (lane->count && !next) next = &lane->ring[lane->head];
    }
    return next;
}

void wf_runner_waits(wf_runner *r) {
    const wf_instance *const i = wf_runner_blocked(r);
    if (i) {
        wf_runner_at(r, i);
        return;
    }
    wf_activity a = {.limit_s = r->limit_s, .peer = WF_NOBODY, .layer = -1, .microbatch = -1};
    snprintf(a.operation, sizeof a.operation, "the device's last kernels");
    wf_board_set(wf_fabric_board(r->fabric), &a);
}

wf_status wf_runner_explain(const wf_runner *r, const wf_instance *i, wf_status status) {
    wf_activity a = {.peer = WF_NOBODY};
    if (status == WF_OK) return WF_OK;
    operation_of(r, i->step, &a);
    return wf_fail(status, "rank %d, step %s of %s (layer %d, microbatch %d), lane %s, %s: %s", r->schedule->rank,
                   i->step->site, r->schedule->segments[i->call->segment].name, i->call->layer, i->call->microbatch,
                   wf_lane_name((wf_lane)i->step->lane), a.operation, wf_last_error());
}
