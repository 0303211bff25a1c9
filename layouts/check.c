/* check.c: all ranks' placed schedules together, played once at no cost.
 *
 * Per rank alone: what is read was written before, in this program (slots count as written). Then
 * the play: every lane of every rank stands before its next step; a kernel runs when its waits are
 * met, a hop completes when both its ends have been reached (a rendezvous: nothing may rely on
 * buffering) and the two ends must agree on collective, hop, dtype, elements and microbatch. When
 * nothing moves any more, either all programs are over or the schedule deadlocks, and the sentence
 * says who waits for whom. It is done after placing, because sharing bytes adds waits.
 *
 * Coverage works on bounding intervals of views, so a write of some columns counts as one of all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/schedule.h"

/* ---- reads covered by writes ------------------------------------------------------------------------ */

#define PIECES 16

typedef struct covered {        /* written bytes of one instance: disjoint intervals, ascending */
    int32_t n;
    struct { int64_t first, end; } piece[PIECES];
} covered;

/* Beyond PIECES intervals, the two that are nearest become one (with the gap between them). */
static void join_nearest(covered *c) {
    int32_t best = 0;
    for (int32_t i = 1; i + 1 < c->n; i++)
        if (c->piece[i + 1].first - c->piece[i].end < c->piece[best + 1].first - c->piece[best].end) best = i;
    c->piece[best].end = c->piece[best + 1].end;
    c->n--;
    memmove(&c->piece[best + 1], &c->piece[best + 2], (size_t)(c->n - best - 1) * sizeof c->piece[0]);
}

static void cover(covered *c, int64_t first, int64_t end) {
    if (first == end) return;
    int32_t from = 0, to;
    while (from < c->n && c->piece[from].end < first) from++;
    for (to = from; to < c->n && c->piece[to].first <= end; to++) {
        if (c->piece[to].first < first) first = c->piece[to].first;
        if (c->piece[to].end > end) end = c->piece[to].end;
    }
    if (to == from && c->n == PIECES) {
        join_nearest(c);
        cover(c, first, end);
        return;
    }
    memmove(&c->piece[from + 1], &c->piece[to], (size_t)(c->n - to) * sizeof c->piece[0]);
    c->n += 1 - (to - from);
    c->piece[from].first = first;
    c->piece[from].end = end;
}

static bool is_covered(const covered *c, int64_t first, int64_t end) {
    if (first == end) return true;
    for (int32_t i = 0; i < c->n; i++)
        if (c->piece[i].first <= first && end <= c->piece[i].end) return true;
    return false;
}

static wf_status cover_step(const wf_schedule *s, const wf_call *call, const wf_step *step, covered *written,
                            const int64_t *first_of) {
    const int outputs = step->reads + step->updates + step->writes;
    for (int v = 0; v < outputs; v++) {
        const wf_view *view = &s->views[step->view + v];
        const wf_buffer *b = &s->buffers[view->buffer];
        if (b->life == WF_SLOT) continue;
        covered *c = &written[first_of[view->buffer] + wf_view_instance(view, call)];
        int64_t first, end;
        wf_view_span(s, view, &first, &end);
        if (v < step->reads + step->updates && !is_covered(c, first, end))
            return wf_fail(WF_ERR_INTERNAL,
                           "rank %d: %s in segment %s (layer %d, microbatch %d) reads bytes %lld to %lld of %s, "
                           "which nobody wrote",
                           s->rank, step->site, s->segments[call->segment].name, call->layer, call->microbatch,
                           (long long)first, (long long)end, b->name);
        if (v >= step->reads) cover(c, first, end);
    }
    return WF_OK;
}

/* Scratch is forgotten between calls. */
static wf_status cover_calls(const wf_schedule *s, covered *written, int64_t *first_of) {
    for (int32_t i = 0; i < s->ncalls; i++) {
        const wf_call *call = &s->calls[i];
        const wf_segment *segment = &s->segments[call->segment];
        for (int32_t k = segment->step; k < segment->step + segment->steps; k++)
            for (int v = 0; v < s->steps[k].reads + s->steps[k].updates + s->steps[k].writes; v++) {
                const int32_t buffer = s->views[s->steps[k].view + v].buffer;
                if (s->buffers[buffer].life == WF_SCRATCH) written[first_of[buffer]].n = 0;
            }
        for (int32_t k = segment->step; k < segment->step + segment->steps; k++)
            TRY(cover_step(s, call, &s->steps[k], written, first_of));
    }
    return WF_OK;
}

static wf_status check_coverage(const wf_schedule *s) {
    int64_t *first_of = calloc((size_t)s->nbuffers + 1, sizeof *first_of);
    int64_t n = 0;
    for (int32_t i = 0; first_of && i < s->nbuffers; i++) {
        first_of[i] = n;
        if (s->buffers[i].life != WF_SLOT) n += s->buffers[i].count;
    }
    covered *written = calloc((size_t)n + 1, sizeof *written);
    const wf_status status = first_of && written ? cover_calls(s, written, first_of)
                                                 : wf_fail(WF_ERR_MEMORY, "no host memory to check a schedule");
    free(first_of);
    free(written);
    return status;
}

/* ---- the play --------------------------------------------------------------------------------------- */

typedef struct queue {          /* of one lane: instances read from the cursor, not yet complete */
    wf_instance *items;
    int32_t first, length, capacity;
    int64_t done;               /* sequence number of the last complete instance, -1 */
    bool posted, sent, received; /* of the exchange in front */
    bool visited;               /* by the search for a circle */
} queue;

typedef struct player {
    const wf_schedule *schedule;
    wf_cursor *cursor;
    bool ended;                 /* the cursor has no more */
    queue lanes[WF_LANES];
} player;

typedef struct play {
    int32_t n;
    player *players;            /* by rank */
} play;

static const wf_instance *front(const queue *q) {
    return q->length > 0 ? &q->items[q->first] : NULL;
}

static wf_status push(queue *q, const wf_instance *instance) {
    if (q->length == q->capacity) {
        const int32_t capacity = q->capacity ? 2 * q->capacity : 64;
        wf_instance *items = q->capacity > INT32_MAX / 2 ? NULL : malloc((size_t)capacity * sizeof *items);
        if (!items) return wf_fail(WF_ERR_MEMORY, "no host memory to check a schedule");
        for (int32_t i = 0; i < q->length; i++) items[i] = q->items[(q->first + i) % q->capacity];
        free(q->items);
        q->items = items;
        q->first = 0;
        q->capacity = capacity;
    }
    q->items[(q->first + q->length++) % q->capacity] = *instance;
    return WF_OK;
}

static void complete(queue *q) {
    q->done = front(q)->seq;
    q->first = (q->first + 1) % q->capacity;
    q->length--;
    q->posted = q->sent = q->received = false;
}

static bool may_start(const player *p, const wf_instance *i) {
    for (int l = 0; l < WF_LANES; l++)
        if (i->wait[l] > p->lanes[l].done) return false;
    return true;
}

static const wf_exchange *exchange_of(const player *p, const wf_instance *i) {
    return &p->schedule->exchanges[i->step->exchange];
}

/* "rank 2, attn.out.scatter in layer.forward (layer 3, microbatch 1) on lane tp" */
static void describe(const player *p, const wf_instance *i, char *out, size_t out_bytes) {
    snprintf(out, out_bytes, "rank %d, %s in %s (layer %d, microbatch %d) on lane %s", p->schedule->rank,
             i->step->site, p->schedule->segments[i->call->segment].name, i->call->layer, i->call->microbatch,
             wf_lane_name((wf_lane)i->step->lane));
}

static wf_status fail_pair(const player *from, const wf_instance *send, const player *to, const wf_instance *receive,
                           const char *what, int64_t sent, int64_t received) {
    char sender[256], receiver[256];
    describe(from, send, sender, sizeof sender);
    describe(to, receive, receiver, sizeof receiver);
    return wf_fail(WF_ERR_MISMATCH, "ranks %d and %d disagree on %s: %s sends %lld; %s receives %lld",
                   from->schedule->rank, to->schedule->rank, what, sender, (long long)sent, receiver,
                   (long long)received);
}

static wf_status match(const player *from, const wf_instance *send, const player *to, const wf_instance *receive) {
    const wf_exchange *a = exchange_of(from, send), *b = exchange_of(to, receive);
    const wf_view *sent = &from->schedule->views[send->step->view];
    const wf_view *received = &to->schedule->views[receive->step->view + receive->step->reads];
    const struct { const char *what; int64_t sent, received; } same[] = {
        {"the collective", a->collective, b->collective},
        {"the hop", a->hop, b->hop},
        {"the microbatch", send->call->microbatch, receive->call->microbatch},
        {"the dtype", from->schedule->buffers[sent->buffer].dtype, to->schedule->buffers[received->buffer].dtype},
        {"the elements of a message", wf_view_elements(sent), wf_view_elements(received)},
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        if (same[i].sent != same[i].received)
            return fail_pair(from, send, to, receive, same[i].what, same[i].sent, same[i].received);
    return WF_OK;
}

static wf_lane receive_lane(wf_lane channel) {
    if (channel == WF_LANE_PP_SEND_F) return WF_LANE_PP_RECV_F;
    if (channel == WF_LANE_PP_SEND_B) return WF_LANE_PP_RECV_B;
    return channel;
}

/* Lets the exchange in front of a lane meet those of its peers that are posted. */
static wf_status meet(play *all, player *p, queue *q, bool *moved) {
    const wf_instance *i = front(q);
    const wf_exchange *e = exchange_of(p, i);
    const wf_lane channel = wf_lane_channel((wf_lane)i->step->lane);
    if (e->to >= 0 && !q->sent) {
        player *peer = &all->players[e->to];
        queue *theirs = &peer->lanes[receive_lane(channel)];
        if (theirs->posted && !theirs->received && exchange_of(peer, front(theirs))->from == p->schedule->rank) {
            TRY(match(p, i, peer, front(theirs)));
            q->sent = theirs->received = *moved = true;
        }
    }
    if (e->from >= 0 && !q->received) {
        player *peer = &all->players[e->from];
        queue *theirs = &peer->lanes[channel];
        if (theirs->posted && !theirs->sent && exchange_of(peer, front(theirs))->to == p->schedule->rank) {
            TRY(match(peer, front(theirs), p, i));
            q->received = theirs->sent = *moved = true;
        }
    }
    return WF_OK;
}

static wf_status check_exchange(const player *p, const wf_instance *i) {
    const wf_exchange *e = exchange_of(p, i);
    const wf_lane lane = (wf_lane)i->step->lane;
    const bool receives_only = wf_lane_channel(lane) != lane, sends_only = receive_lane(lane) != lane;
    char text[256];
    describe(p, i, text, sizeof text);
    if ((receives_only && e->to >= 0) || (sends_only && e->from >= 0))
        return wf_fail(WF_ERR_INTERNAL, "%s: this lane only %s", text, receives_only ? "receives" : "sends");
    if (e->to >= p->schedule->ranks || e->from >= p->schedule->ranks)
        return wf_fail(WF_ERR_INTERNAL, "%s: exchanges with a rank that does not exist", text);
    return WF_OK;
}

/* Moves one lane as far as it goes; *moved: it did. */
static wf_status advance_lane(play *all, player *p, queue *q, bool *moved) {
    for (const wf_instance *i; (i = front(q)) && may_start(p, i);) {
        if (i->step->kind == WF_STEP_KERNEL) {
            complete(q);
            *moved = true;
            continue;
        }
        const wf_exchange *e = exchange_of(p, i);
        if (!q->posted) {
            TRY(check_exchange(p, i));
            q->posted = *moved = true;
        }
        TRY(meet(all, p, q, moved));
        if ((e->to >= 0 && !q->sent) || (e->from >= 0 && !q->received)) break;
        complete(q);
        *moved = true;
    }
    return WF_OK;
}

/* Reads on until some lane that stood empty has a step, or the program ends. */
static wf_status read_on(player *p, bool *moved) {
    wf_instance i;
    while (!p->ended) {
        if (!wf_cursor_next(p->cursor, &i)) {
            p->ended = true;
            break;
        }
        queue *q = &p->lanes[i.step->lane];
        TRY(push(q, &i));
        *moved = true;
        if (q->length == 1) break;
    }
    return WF_OK;
}

static wf_status advance(play *all, player *p, bool *moved) {
    bool again = true;
    while (again) {
        again = false;
        for (int l = 0; l < WF_LANES; l++)
            if (p->lanes[l].length > 0) TRY(advance_lane(all, p, &p->lanes[l], &again));
        if (!again) TRY(read_on(p, &again));
        if (again) *moved = true;
    }
    return WF_OK;
}

/* ---- what a deadlock looks like ----------------------------------------------------------------------- */

typedef struct stuck {          /* a lane that stands before a step; lane -1: nothing stands there */
    int32_t rank;
    int lane;
} stuck;

/* The lane whose step in front must complete (or come) first. */
static stuck blocker_of(const play *all, stuck at) {
    const player *p = &all->players[at.rank];
    const queue *q = &p->lanes[at.lane];
    const wf_instance *i = front(q);
    if (!q->posted) {
        int lane = 0;
        while (i->wait[lane] <= p->lanes[lane].done) lane++;
        return (stuck){at.rank, lane};
    }
    const wf_exchange *e = exchange_of(p, i);
    const bool sends = e->to >= 0 && !q->sent;
    const wf_lane channel = wf_lane_channel((wf_lane)at.lane);
    const stuck peer = {sends ? e->to : e->from, sends ? receive_lane(channel) : channel};
    return (stuck){peer.rank, front(&all->players[peer.rank].lanes[peer.lane]) ? peer.lane : -1};
}

static bool is_over(const player *p) {
    for (int l = 0; l < WF_LANES; l++)
        if (p->lanes[l].length > 0) return false;
    return p->ended;
}

static void append(char *out, size_t out_bytes, const char *text) {
    const size_t used = strlen(out);
    snprintf(out + used, out_bytes - used, "%s", text);
}

/* "rank 1, send in send.forward (layer 3, microbatch 2) on lane pp.send.f sends to" */
static void append_stuck(const play *all, stuck at, bool first, char *out, size_t out_bytes) {
    const player *p = &all->players[at.rank];
    const queue *q = &p->lanes[at.lane];
    char text[256];
    describe(p, front(q), text, sizeof text);
    append(out, out_bytes, text);
    if (!first) append(out, out_bytes, ", which");
    if (!q->posted)
        append(out, out_bytes, " waits for ");
    else
        append(out, out_bytes, exchange_of(p, front(q))->to >= 0 && !q->sent ? " sends to " : " receives from ");
}

/* Follows blockers from a lane: into a circle, or to the end of a program. Steps of the way that
 * leads into the circle are left out. */
static void describe_chain(play *all, stuck at, char *out, size_t out_bytes) {
    stuck walk = at;
    while (walk.lane >= 0 && !all->players[walk.rank].lanes[walk.lane].visited) {
        all->players[walk.rank].lanes[walk.lane].visited = true;
        walk = blocker_of(all, walk);
    }
    const bool circle = walk.lane >= 0;
    const stuck begin = circle ? walk : at;
    stuck link = begin;
    do {
        append_stuck(all, link, out[0] == '\0', out, out_bytes);
        link = blocker_of(all, link);
    } while (link.lane >= 0 && !(link.rank == begin.rank && link.lane == begin.lane));
    char text[96];
    if (circle)
        snprintf(text, sizeof text, "rank %d on lane %s: a circle", link.rank, wf_lane_name((wf_lane)link.lane));
    else
        snprintf(text, sizeof text, "rank %d, %s", link.rank,
                 is_over(&all->players[link.rank]) ? "whose program is over" : "which never comes to it");
    append(out, out_bytes, text);
}

static wf_status fail_deadlock(play *all) {
    char text[900] = "";
    stuck from = {-1, -1};
    for (int32_t r = 0; r < all->n; r++)
        for (int l = 0; l < WF_LANES; l++) {
            if (all->players[r].lanes[l].length == 0) continue;
            const bool ends = blocker_of(all, (stuck){r, l}).lane < 0; /* says at once who is missing */
            if (from.rank < 0 || (ends && blocker_of(all, from).lane >= 0)) from = (stuck){r, l};
        }
    describe_chain(all, from, text, sizeof text);
    return wf_fail(WF_ERR_MISMATCH, "the schedule deadlocks: %s", text);
}

static wf_status play_out(play *all) {
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t r = 0; r < all->n; r++) TRY(advance(all, &all->players[r], &moved));
    }
    for (int32_t r = 0; r < all->n; r++)
        for (int l = 0; l < WF_LANES; l++)
            if (all->players[r].lanes[l].length > 0) return fail_deadlock(all);
    return WF_OK;
}

/* ---- the pass ----------------------------------------------------------------------------------------- */

static wf_status seat(play *all, const wf_schedule *const *schedules) {
    for (int32_t i = 0; i < all->n; i++) {
        const wf_schedule *s = schedules[i];
        if (s->ranks != all->n || all->players[s->rank].schedule)
            return wf_fail(WF_ERR_ARGUMENT, "a check needs each of %d ranks' schedules once; rank %d of %d came",
                           all->n, s->rank, s->ranks);
        player *p = &all->players[s->rank];
        p->schedule = s;
        for (int l = 0; l < WF_LANES; l++) p->lanes[l].done = -1;
        TRY(wf_cursor_create(s, &p->cursor));
        TRY(check_coverage(s));
    }
    return WF_OK;
}

wf_status wf_check(const wf_schedule *const *schedules, int32_t count) {
    if (count < 1) return wf_fail(WF_ERR_ARGUMENT, "a check needs the schedules of all ranks");
    play all = {.n = count, .players = calloc((size_t)count, sizeof *all.players)};
    if (!all.players) return wf_fail(WF_ERR_MEMORY, "no host memory to check a schedule");
    wf_status status = seat(&all, schedules);
    if (status == WF_OK) status = play_out(&all);
    for (int32_t r = 0; r < count; r++) {
        wf_cursor_destroy(all.players[r].cursor);
        for (int l = 0; l < WF_LANES; l++) free(all.players[r].lanes[l].items);
    }
    free(all.players);
    return status;
}
