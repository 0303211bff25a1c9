/* cursor.c: plays the program once, step by step, with absolute waits; what every reader iterates
 * over. It keeps, per thing that two lanes share (an instance of a pool or slot, an allocation of
 * scratch) and per lane, the sequence numbers of the last read and the last write; a segment's first
 * touches look there, its last touches write there when the call ends.
 *
 * Only lanes that the schedule uses take part, so a step costs some ten nanoseconds. */
#include <stdlib.h>
#include <string.h>

#include "layouts/schedule.h"

struct wf_cursor {
    const wf_schedule *schedule;
    int nlanes, lane[WF_LANES], dense[WF_LANES]; /* lanes in use, and where a lane stands among them */
    int32_t *ordinal;           /* per step: its place in its lane, within the segment */
    int32_t *wait;              /* per step and lane in use: ordinal that is waited for, -1 */
    int32_t *count;             /* per segment and lane in use: steps */
    int64_t *cell;              /* per buffer, then per allocation: first cell of its things, -1 */
    int64_t *state, states;     /* per cell, lane in use: last write, last read; -1 none */

    int32_t call, step, touch;  /* next: call, step within the segment, first touch not yet looked at */
    int32_t end;                /* call behind the last one played */
    int64_t base[WF_LANES];     /* sequence number of the call's first step, per lane in use */
    int64_t known[WF_LANES][WF_LANES]; /* what a lane has waited for already */
};

static const wf_segment *segment_of(const wf_cursor *c) {
    return &c->schedule->segments[c->schedule->calls[c->call].segment];
}

/* ---- create --------------------------------------------------------------------------------------- */

static void find_lanes(wf_cursor *c) {
    bool used[WF_LANES] = {false};
    for (int32_t i = 0; i < c->schedule->nsteps; i++) used[c->schedule->steps[i].lane] = true;
    for (int l = 0; l < WF_LANES; l++) {
        c->dense[l] = used[l] ? c->nlanes : -1;
        if (used[l]) c->lane[c->nlanes++] = l;
    }
}

static void find_ordinals(wf_cursor *c) {
    const wf_schedule *s = c->schedule;
    for (int32_t g = 0; g < s->nsegments; g++) {
        int32_t *count = &c->count[g * c->nlanes];
        const int32_t first = s->segments[g].step;
        for (int32_t i = first; i < first + s->segments[g].steps; i++) {
            c->ordinal[i] = count[c->dense[s->steps[i].lane]]++;
            for (int d = 0; d < c->nlanes; d++) {
                const int32_t waited = s->steps[i].wait[c->lane[d]];
                c->wait[i * c->nlanes + d] = waited < 0 ? -1 : c->ordinal[first + waited];
            }
        }
    }
}

static int64_t *cell_of(const wf_cursor *c, int32_t thing) {
    return thing >= 0 ? &c->cell[thing] : &c->cell[c->schedule->nbuffers - 1 - thing];
}

static void find_cells(wf_cursor *c) {
    const wf_schedule *s = c->schedule;
    int64_t cells = 0;
    for (int32_t i = 0; i < s->nbuffers + s->nallocations; i++) c->cell[i] = -1;
    for (int32_t t = 0; t < s->ntouches; t++) {
        const int32_t thing = s->touches[t].buffer;
        int64_t *cell = cell_of(c, thing);
        if (*cell >= 0) continue;
        *cell = cells;
        cells += thing >= 0 ? s->buffers[thing].count : 1;
    }
    c->states = cells * 2 * c->nlanes;
}

void wf_cursor_rewind(wf_cursor *c) {
    wf_cursor_rewind_to(c, (wf_piece){0, c->schedule->ncalls});
}

void wf_cursor_rewind_to(wf_cursor *c, wf_piece piece) {
    c->call = piece.first;
    c->end = piece.first + piece.count;
    c->step = 0;
    c->touch = piece.count > 0 ? segment_of(c)->touch : 0;
    memset(c->base, 0, sizeof c->base);
    memset(c->known, 0xff, sizeof c->known);
    memset(c->state, 0xff, (size_t)c->states * sizeof *c->state);
}

wf_status wf_cursor_create(const wf_schedule *s, wf_cursor **out) {
    if (!s->placed) return wf_fail(WF_ERR_INTERNAL, "a schedule is read before it is placed");
    wf_cursor *c = calloc(1, sizeof *c);
    if (!c) return wf_fail(WF_ERR_MEMORY, "no host memory to read a schedule");
    c->schedule = s;
    find_lanes(c);
    c->ordinal = calloc((size_t)s->nsteps + 1, sizeof *c->ordinal);
    c->wait = calloc((size_t)s->nsteps * (size_t)c->nlanes + 1, sizeof *c->wait);
    c->count = calloc((size_t)s->nsegments * (size_t)c->nlanes + 1, sizeof *c->count);
    c->cell = calloc((size_t)s->nbuffers + (size_t)s->nallocations + 1, sizeof *c->cell);
    if (c->cell) find_cells(c);
    c->state = malloc(((size_t)c->states + 1) * sizeof *c->state);
    if (!c->ordinal || !c->wait || !c->count || !c->cell || !c->state) {
        wf_cursor_destroy(c);
        return wf_fail(WF_ERR_MEMORY, "no host memory to read a schedule");
    }
    find_ordinals(c);
    wf_cursor_rewind(c);
    *out = c;
    return WF_OK;
}

void wf_cursor_destroy(wf_cursor *c) {
    if (!c) return;
    free(c->ordinal);
    free(c->wait);
    free(c->count);
    free(c->cell);
    free(c->state);
    free(c);
}

/* ---- next ----------------------------------------------------------------------------------------- */

static int64_t *state_of(const wf_cursor *c, const wf_touch *touch, const wf_call *call) {
    const int32_t instance = touch->buffer < 0 ? 0 : wf_call_instance(call, (wf_at)touch->at);
    return c->state + (*cell_of(c, touch->buffer) + instance) * 2 * c->nlanes;
}

/* A first use waits for the other lanes' last writes; a write for their last reads, too. */
static void look(wf_cursor *c, const wf_touch *touch, const wf_call *call, int64_t wait[WF_LANES]) {
    const int64_t *state = state_of(c, touch, call);
    for (int d = 0; d < c->nlanes; d++) {
        const int lane = c->lane[d];
        if (lane == touch->lane) continue;
        int64_t seq = state[2 * d];
        if (touch->write && state[2 * d + 1] > seq) seq = state[2 * d + 1];
        if (seq > wait[lane] && seq > c->known[touch->lane][lane]) wait[lane] = seq;
    }
}

/* The call is over: its last uses become the state. */
static void end_call(wf_cursor *c, const wf_call *call, const wf_segment *segment) {
    for (int32_t t = segment->touch; t < segment->touch + segment->touches; t++) {
        const wf_touch *touch = &c->schedule->touches[t];
        if (!touch->last) continue;
        const int d = c->dense[touch->lane];
        const int64_t seq = c->base[d] + c->ordinal[segment->step + touch->step];
        int64_t *last = &state_of(c, touch, call)[2 * d + !touch->write];
        if (seq > *last) *last = seq;
    }
    for (int d = 0; d < c->nlanes; d++) c->base[d] += c->count[call->segment * c->nlanes + d];
    c->step = 0;
    if (++c->call < c->end) c->touch = segment_of(c)->touch;
}

bool wf_cursor_next(wf_cursor *c, wf_instance *out) {
    const wf_schedule *s = c->schedule;
    while (c->call < c->end && c->step == segment_of(c)->steps)
        end_call(c, &s->calls[c->call], segment_of(c));
    if (c->call == c->end) return false;
    const wf_call *call = &s->calls[c->call];
    const wf_segment *segment = &s->segments[call->segment];
    const int32_t index = segment->step + c->step;
    const wf_step *step = &s->steps[index];
    *out = (wf_instance){.step = step, .call = call, .call_index = c->call, .step_index = index,
                         .seq = c->base[c->dense[step->lane]] + c->ordinal[index]};
    memset(out->wait, 0xff, sizeof out->wait);
    for (int d = 0; d < c->nlanes; d++) {
        const int32_t waited = c->wait[index * c->nlanes + d];
        if (waited >= 0) out->wait[c->lane[d]] = c->base[d] + waited;
    }
    const int32_t end = segment->touch + segment->touches;
    for (; c->touch < end && !s->touches[c->touch].last && s->touches[c->touch].step == c->step; c->touch++)
        look(c, &s->touches[c->touch], call, out->wait);
    for (int d = 0; d < c->nlanes; d++)
        if (out->wait[c->lane[d]] > c->known[step->lane][c->lane[d]])
            c->known[step->lane][c->lane[d]] = out->wait[c->lane[d]];
    c->step++;
    return true;
}
