/* waits.c: who waits for whom, derived from placed bytes alone; lowering never writes a dependency.
 *
 * Inside a segment a step waits, on each other lane, for the last earlier step that touches its
 * bytes (one of the two writing), as far as that does not follow from other waits: vector clocks
 * reduce them. Over calls, touches say which steps use first and last what outlives the segment,
 * per lane and kind; the cursor joins them. Only things for which two lanes conflict anywhere in
 * the schedule are touched at all: one lane's order needs no waits.
 *
 * Bytes are compared as bounding intervals of views inside a segment, as whole instances (and as
 * whole allocations of scratch) over calls: conservative, never wrong. */
#include <stdlib.h>
#include <string.h>

#include "layouts/schedule.h"

typedef struct span {           /* bytes of one view; of scratch within its allocation, else within its buffer */
    int32_t thing;              /* a buffer, or -1 - a for scratch in allocation a */
    uint8_t at, write;
    int64_t first, end;
} span;

typedef struct lanes_of {       /* that read and write a thing anywhere */
    uint32_t reads, writes;
} lanes_of;

typedef struct waiting {
    wf_schedule *schedule;
    span *spans;                /* one per view */
    lanes_of *buffers, *allocations;
    bool (*same)[WF_ATS][WF_ATS]; /* per segment: two indices of one pool name one instance in some call */
    int32_t (*clock)[WF_LANES]; /* per step of the segment: last step of each lane known to be complete */
    int32_t touches;            /* capacity */
} waiting;

static int step_views(const wf_step *step) {
    return step->reads + step->updates + step->writes;
}

static lanes_of *lanes_of_thing(const waiting *w, int32_t thing) {
    return thing >= 0 ? &w->buffers[thing] : &w->allocations[-1 - thing];
}

static void find_spans(waiting *w) {
    const wf_schedule *s = w->schedule;
    for (int32_t i = 0; i < s->nsteps; i++) {
        const wf_step *step = &s->steps[i];
        for (int v = 0; v < step_views(step); v++) {
            const wf_view *view = &s->views[step->view + v];
            const wf_buffer *b = &s->buffers[view->buffer];
            span *out = &w->spans[step->view + v];
            *out = (span){.thing = view->buffer, .at = view->at, .write = wf_step_writes(s, step, v)};
            wf_view_span(s, view, &out->first, &out->end);
            if (out->first == out->end) continue; /* touches nothing */
            if (b->life == WF_SCRATCH) {
                out->thing = -1 - b->allocation;
                out->first += b->offset;
                out->end += b->offset;
            }
            lanes_of *lanes = lanes_of_thing(w, out->thing);
            *(out->write ? &lanes->writes : &lanes->reads) |= 1u << step->lane;
        }
    }
}

/* ---- which instances of a pool are one ---------------------------------------------------------- */

typedef struct indices {        /* that a segment uses */
    int n;
    wf_at at[WF_ATS];
    int32_t count[WF_ATS];      /* instances of the smallest buffer under each */
    int npairs;
    wf_at pair[WF_ATS * WF_ATS][2]; /* two indices of one buffer */
} indices;

static wf_status check_call(waiting *w, const indices *use, int32_t c, const wf_call *call) {
    for (int i = 0; i < use->n; i++) {
        const int32_t instance = wf_call_instance(call, use->at[i]);
        if (instance < 0 || instance >= use->count[i])
            return wf_fail(WF_ERR_INTERNAL, "call %d of segment %s uses instance %d of %d", c,
                           w->schedule->segments[call->segment].name, instance, use->count[i]);
    }
    for (int i = 0; i < use->npairs; i++) {
        const wf_at a = use->pair[i][0], b = use->pair[i][1];
        if (wf_call_instance(call, a) == wf_call_instance(call, b))
            w->same[call->segment][a][b] = w->same[call->segment][b][a] = true;
    }
    return WF_OK;
}

/* Checks that every instance exists, and marks the indices that name the same one in some call. */
static wf_status check_calls(waiting *w, const indices *of_segment) {
    const wf_schedule *s = w->schedule;
    for (int32_t c = 0; c < s->ncalls; c++) {
        const int32_t segment = s->calls[c].segment;
        if (segment < 0 || segment >= s->nsegments)
            return wf_fail(WF_ERR_INTERNAL, "call %d is of segment %d, there are %d", c, segment, s->nsegments);
        TRY(check_call(w, &of_segment[segment], c, &s->calls[c]));
    }
    return WF_OK;
}

/* ats: per buffer, the indices by which the segment reaches it, as bits. */
static void find_indices(const wf_schedule *s, const wf_segment *segment, uint32_t *ats, indices *out) {
    int32_t least[WF_ATS];
    bool pair[WF_ATS][WF_ATS] = {{false}};
    for (int at = 0; at < WF_ATS; at++) least[at] = INT32_MAX;
    memset(ats, 0, (size_t)s->nbuffers * sizeof *ats);
    for (int32_t i = segment->step; i < segment->step + segment->steps; i++)
        for (int v = 0; v < step_views(&s->steps[i]); v++) {
            const wf_view *view = &s->views[s->steps[i].view + v];
            const wf_buffer *b = &s->buffers[view->buffer];
            if (b->count < least[view->at]) least[view->at] = b->count;
            for (int at = 0; at < WF_ATS; at++)
                if (at != view->at && (ats[view->buffer] & 1u << at))
                    pair[at < view->at ? at : view->at][at < view->at ? view->at : at] = true;
            ats[view->buffer] |= 1u << view->at;
        }
    for (int a = 0; a < WF_ATS; a++) {
        if (least[a] < INT32_MAX) {
            out->count[out->n] = least[a];
            out->at[out->n++] = (wf_at)a;
        }
        for (int b = 0; b < WF_ATS; b++)
            if (pair[a][b]) memcpy(out->pair[out->npairs++], (wf_at[2]){(wf_at)a, (wf_at)b}, sizeof(wf_at[2]));
    }
}

static wf_status find_same(waiting *w) {
    const wf_schedule *s = w->schedule;
    indices *of_segment = calloc((size_t)s->nsegments + 1, sizeof *of_segment);
    uint32_t *ats = calloc((size_t)s->nbuffers + 1, sizeof *ats);
    wf_status status = WF_OK;
    if (of_segment && ats) {
        for (int32_t g = 0; g < s->nsegments; g++) find_indices(s, &s->segments[g], ats, &of_segment[g]);
        status = check_calls(w, of_segment);
    } else {
        status = wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's waits");
    }
    free(of_segment);
    free(ats);
    return status;
}

/* ---- inside a segment --------------------------------------------------------------------------- */

static bool spans_conflict(const waiting *w, int32_t segment, const span *a, const span *b) {
    if (a->thing != b->thing || !(a->write || b->write)) return false;
    if (a->first >= b->end || b->first >= a->end) return false;
    return a->at == b->at || w->same[segment][a->at][b->at];
}

static bool steps_conflict(const waiting *w, int32_t segment, const wf_step *a, const wf_step *b) {
    for (int i = 0; i < step_views(a); i++)
        for (int j = 0; j < step_views(b); j++)
            if (spans_conflict(w, segment, &w->spans[a->view + i], &w->spans[b->view + j])) return true;
    return false;
}

/* wait[l] = last step before i on another lane l that conflicts with it. */
static void find_conflicts(const waiting *w, int32_t segment, int32_t i, int32_t wait[WF_LANES]) {
    const wf_schedule *s = w->schedule;
    const wf_step *steps = &s->steps[s->segments[segment].step];
    for (int l = 0; l < WF_LANES; l++) wait[l] = -1;
    for (int32_t j = i - 1; j >= 0; j--) {
        const int lane = steps[j].lane;
        if (lane == steps[i].lane || wait[lane] >= 0) continue;
        if (steps_conflict(w, segment, &steps[j], &steps[i])) wait[lane] = j;
    }
}

/* Drops the waits that the lane's own past (known) or another wait implies. */
static void reduce(const waiting *w, const int32_t *known, int32_t wait[WF_LANES]) {
    for (int l = 0; l < WF_LANES; l++)
        if (wait[l] <= known[l]) wait[l] = -1;
    for (int l = 0; l < WF_LANES; l++)
        for (int other = 0; other < WF_LANES && wait[l] >= 0; other++)
            if (other != l && wait[other] >= 0 && w->clock[wait[other]][l] >= wait[l]) wait[l] = -1;
}

static void wait_in_segment(waiting *w, int32_t segment) {
    static const int32_t nothing[WF_LANES] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
    _Static_assert(WF_LANES == 11, "one -1 per lane");
    wf_step *steps = &w->schedule->steps[w->schedule->segments[segment].step];
    int32_t previous[WF_LANES];
    memcpy(previous, nothing, sizeof previous);
    for (int32_t i = 0; i < w->schedule->segments[segment].steps; i++) {
        wf_step *step = &steps[i];
        const int32_t *known = previous[step->lane] < 0 ? nothing : w->clock[previous[step->lane]];
        find_conflicts(w, segment, i, step->wait);
        reduce(w, known, step->wait);
        memcpy(w->clock[i], known, sizeof nothing);
        for (int l = 0; l < WF_LANES; l++)
            for (int m = 0; step->wait[l] >= 0 && m < WF_LANES; m++)
                if (w->clock[step->wait[l]][m] > w->clock[i][m]) w->clock[i][m] = w->clock[step->wait[l]][m];
        w->clock[i][step->lane] = previous[step->lane] = i;
    }
}

/* ---- over calls --------------------------------------------------------------------------------- */

static wf_status add_touch(waiting *w, wf_touch touch) {
    wf_schedule *s = w->schedule;
    if (s->ntouches == w->touches) {
        const int32_t larger = w->touches ? 2 * w->touches : 64;
        wf_touch *moved = realloc(s->touches, (size_t)larger * sizeof *moved);
        if (!moved) return wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's waits");
        s->touches = moved;
        w->touches = larger;
    }
    s->touches[s->ntouches++] = touch;
    return WF_OK;
}

/* Does another lane conflict with such a use? */
static bool is_shared(const waiting *w, const span *use, int lane) {
    const lanes_of *lanes = lanes_of_thing(w, use->thing);
    return ((use->write ? lanes->reads | lanes->writes : lanes->writes) & ~(1u << lane)) != 0;
}

/* Is the use covered by one among touches[from...]: of the same thing on the same lane, by the same
 * kind or by a write? A write waits, and is waited for, for everything that a read is. */
static bool is_covered(const wf_schedule *s, int32_t from, const span *use, int lane) {
    for (int32_t t = from; t < s->ntouches; t++) {
        const wf_touch *touch = &s->touches[t];
        if (touch->buffer == use->thing && touch->at == use->at && touch->lane == lane && touch->write >= use->write)
            return true;
    }
    return false;
}

/* The step's uses that are the first (or, walked backwards, the last) of their kind. */
static wf_status touch_step(waiting *w, int32_t segment, int32_t i, bool last, int32_t from) {
    const wf_step *step = &w->schedule->steps[w->schedule->segments[segment].step + i];
    for (int v = step_views(step) - 1; v >= 0; v--) { /* writes first: they cover reads */
        const span *use = &w->spans[step->view + v];
        if (use->first == use->end || !is_shared(w, use, step->lane)) continue;
        if (is_covered(w->schedule, from, use, step->lane)) continue;
        TRY(add_touch(w, (wf_touch){.step = i, .buffer = use->thing, .at = use->at, .lane = step->lane,
                                    .write = use->write, .last = last}));
    }
    return WF_OK;
}

static wf_status touch_segment(waiting *w, int32_t segment) {
    wf_segment *g = &w->schedule->segments[segment];
    g->touch = w->schedule->ntouches;
    for (int32_t i = 0; i < g->steps; i++) TRY(touch_step(w, segment, i, false, g->touch));
    const int32_t last = w->schedule->ntouches;
    for (int32_t i = g->steps - 1; i >= 0; i--) TRY(touch_step(w, segment, i, true, last));
    g->touches = w->schedule->ntouches - g->touch;
    return WF_OK;
}

/* ---- the pass ------------------------------------------------------------------------------------ */

static int32_t longest_segment(const wf_schedule *s) {
    int32_t longest = 0;
    for (int32_t g = 0; g < s->nsegments; g++)
        if (s->segments[g].steps > longest) longest = s->segments[g].steps;
    return longest;
}

static wf_status derive(waiting *w) {
    find_spans(w);
    TRY(find_same(w));
    for (int32_t g = 0; g < w->schedule->nsegments; g++) {
        wait_in_segment(w, g);
        TRY(touch_segment(w, g));
    }
    return WF_OK;
}

wf_status wf_derive_waits(wf_schedule *s) {
    waiting w = {.schedule = s};
    free(s->touches);
    s->touches = NULL;
    s->ntouches = 0;
    w.spans = calloc((size_t)s->nviews + 1, sizeof *w.spans);
    w.buffers = calloc((size_t)s->nbuffers + 1, sizeof *w.buffers);
    w.allocations = calloc((size_t)s->nallocations + 1, sizeof *w.allocations);
    w.same = calloc((size_t)s->nsegments + 1, sizeof *w.same);
    w.clock = calloc((size_t)longest_segment(s) + 1, sizeof *w.clock);
    const wf_status status = w.spans && w.buffers && w.allocations && w.same && w.clock
                                 ? derive(&w)
                                 : wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's waits");
    free(w.spans);
    free(w.buffers);
    free(w.allocations);
    free(w.same);
    free(w.clock);
    return status;
}
