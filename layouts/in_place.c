/* in_place.c: a reduce-scatter over a window is one pass. What is sent is not copied: the kernel that sums reads it where
 * it lies, in the sender's window.
 *
 * The hop then only tells where that is. Behind the last kernel that reads it stands a RETURN, which tells the sender so, and
 * waits for the same word about what this rank has sent: until then nobody overwrites it. Returns run on a lane of
 * their own, as no message should wait behind such a word. What is received takes no memory (WF_SPACE_PEER); its places
 * there only tell what uses what, so waits follow from the views as ever: those of a return are the hop's, the other way
 * round, and count as written.
 *
 * Both ends decide by the same rule: every reduce-scatter between two ranks that read each other's windows, except of gradients that
 * are sent from slots, which no window holds. On both, the returns of a segment stand in the order of its hops. */
#include <string.h>

#include "layouts/build.h"
#include "layouts/lower.h"

static bool goes_in_place(const wf_choices *choices, uint8_t transport, int32_t peer) {
    return peer >= 0 && transport == WF_TRANSPORT_WINDOW && choices->in_place(choices->context, peer);
}

/* A hop whose messages one of the two ends reads in place. */
typedef struct hop {
    const wf_step *step;
    wf_exchange *exchange;
    bool sent, received; /* ... what is sent: the other; what is received: this rank */
} hop;

static hop hop_of(wf_schedule *s, const wf_step *step, const wf_choices *choices) {
    if (step->kind != WF_STEP_EXCHANGE || step->lane == WF_LANE_DP || step->lane == WF_LANE_RETURN) return (hop){0};
    wf_exchange *const e = &s->exchanges[step->exchange];
    if (e->collective != WF_REDUCE_SCATTER) return (hop){0};
    return (hop){step, e, goes_in_place(choices, e->transport, e->to), goes_in_place(choices, e->receive_transport, e->from)};
}

/* The last step that reads the buffer; what lands is scratch that kernels alone read, and nothing but hops writes. */
static int32_t last_reader(wf_schedule *s, const wf_segment *segment, int32_t buffer, int32_t after) {
    int32_t last = after;
    bool legal = s->buffers[buffer].life == WF_SCRATCH;
    for (int32_t i = 0; i < segment->steps; i++) {
        const wf_step *const step = &s->steps[segment->step + i];
        for (int v = 0; v < step->reads + step->updates + step->writes; v++) {
            if (s->views[step->view + v].buffer != buffer) continue;
            const bool reads = v < step->reads;
            legal = legal && reads == (step->kind == WF_STEP_KERNEL);
            if (reads && i > last) last = i;
        }
    }
    if (!legal)
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "%s in %s: what a reduce-scatter receives is for kernels to read", s->buffers[buffer].name,
                                 segment->name));
    return last;
}

/* The last hop of the same collective: nothing of what they send is written in between. */
static int32_t last_of_collective(const wf_schedule *s, const wf_segment *segment, int32_t at) {
    const char *const site = s->steps[segment->step + at].site;
    int32_t last = at;
    for (int32_t i = at + 1; i < segment->steps; i++) {
        const wf_step *const step = &s->steps[segment->step + i];
        if (step->kind == WF_STEP_EXCHANGE && strcmp(step->site, site) == 0) last = i;
    }
    return last;
}

/* The return of a hop: its views the other way round. */
static void insert_return(wf_schedule *s, int32_t segment, int32_t at, const hop *h) {
    const wf_exchange *const e = h->exchange;
    const wf_exchange word = {.kind = WF_RETURN, .collective = e->collective, .transport = WF_TRANSPORT_WINDOW,
                              .receive_transport = WF_TRANSPORT_WINDOW, .group = e->group, .hop = e->hop,
                              .to = h->received ? e->from : -1, .from = h->sent ? e->to : -1};
    const wf_step step = {.kind = WF_STEP_EXCHANGE, .lane = WF_LANE_RETURN, .reads = h->received, .writes = h->sent, .problem = -1,
                          .site = wf_build_text(s, "%s.return", h->step->site)};
    wf_view views[2];
    int n = 0;
    if (h->received) views[n++] = s->views[h->step->view + h->step->reads];
    if (h->sent) views[n++] = s->views[h->step->view];
    wf_build_insert(s, segment, at, &step, &word, views);
}

/* From the step on: a return stands behind who reads last what the hop received, or, if it received nothing, behind the last hop;
 * and behind the return of the hop before it. Those of later hops are inserted first, so that this place is still what it was. */
static void return_from(wf_schedule *s, const wf_choices *choices, int32_t g, int32_t at, int32_t place) {
    hop h = {0};
    while (at < s->segments[g].steps && !wf_build_failed(s)) {
        h = hop_of(s, &s->steps[s->segments[g].step + at], choices);
        if (h.sent || h.received) break;
        at++;
    }
    if (at >= s->segments[g].steps || wf_build_failed(s)) return;
    const int32_t own = h.received ? last_reader(s, &s->segments[g], s->views[h.step->view + h.step->reads].buffer, at)
                                   : last_of_collective(s, &s->segments[g], at);
    if (own > place) place = own;
    return_from(s, choices, g, at + 1, place);
    if (wf_build_failed(s)) return;
    h = hop_of(s, &s->steps[s->segments[g].step + at], choices); /* the arrays may have moved */
    h.exchange->in_place = h.received;
    if (h.received) s->buffers[s->views[h.step->view + h.step->reads].buffer].space = WF_SPACE_PEER;
    insert_return(s, g, place + 1, &h);
}

void wf_read_in_place(wf_schedule *s, const wf_choices *choices) {
    for (int32_t g = 0; g < s->nsegments; g++) return_from(s, choices, g, 0, -1);
}
