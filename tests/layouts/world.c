/* world.c: see world.h. Memory is words of 4 bytes, so buffers are f32 or i32. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint32_t poison = 0x7fc0deadu; /* a NaN */

static void *need(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "no host memory for a test\n");
    abort();
}

static uint64_t mix(uint64_t hash, uint64_t value) {
    uint64_t z = (hash ^ value) + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int step_views(const wf_step *step) {
    return step->reads + step->updates + step->writes;
}

/* ---- create ---------------------------------------------------------------------------------------- */

static void collect(world_rank *r, const wf_schedule *s) {
    wf_cursor *cursor;
    int32_t capacity = 0;
    r->schedule = s;
    if (wf_cursor_create(s, &cursor) != WF_OK) {
        fprintf(stderr, "%s\n", wf_last_error());
        abort();
    }
    for (wf_instance i; wf_cursor_next(cursor, &i);) {
        if (r->n == capacity) {
            capacity = capacity ? 2 * capacity : 256;
            r->instances = need(realloc(r->instances, (size_t)capacity * sizeof *r->instances));
        }
        r->instances[r->n++] = (world_instance){i, -1, -1};
    }
    wf_cursor_destroy(cursor);
    for (int l = 0; l < WF_LANES; l++) r->lane[l] = need(calloc((size_t)r->n + 1, sizeof(int32_t)));
    for (int32_t i = 0; i < r->n; i++) r->lane[r->instances[i].i.step->lane][r->lane_n[r->instances[i].i.step->lane]++] = i;
    r->memory = need(calloc((size_t)s->nallocations + 1, sizeof *r->memory));
    r->found = need(calloc((size_t)s->nbuffers + 1, sizeof *r->found));
    for (int32_t a = 0; a < s->nallocations; a++) r->memory[a] = need(malloc((size_t)s->allocations[a].bytes));
}

static const wf_exchange *exchange_of(const world_rank *r, int32_t i) {
    return &r->schedule->exchanges[r->instances[i].i.step->exchange];
}

/* The n-th message from one rank to another over a channel meets the n-th at the other end. */
static int32_t find_message(const world_rank *r, wf_lane channel, int32_t peer, bool sent, int32_t nth) {
    for (int32_t i = 0; i < r->n; i++) {
        const wf_step *step = r->instances[i].i.step;
        if (step->kind != WF_STEP_EXCHANGE || wf_lane_channel((wf_lane)step->lane) != channel) continue;
        if ((sent ? exchange_of(r, i)->to : exchange_of(r, i)->from) == peer && nth-- == 0) return i;
    }
    return -1;
}

static void pair_messages(world *w, int32_t rank) {
    world_rank *r = &w->rank[rank];
    int32_t *nth = need(calloc((size_t)w->ranks * WF_LANES, sizeof *nth));
    for (int32_t i = 0; i < r->n; i++) {
        const wf_step *step = r->instances[i].i.step;
        if (step->kind != WF_STEP_EXCHANGE || exchange_of(r, i)->to < 0) continue;
        const wf_lane channel = wf_lane_channel((wf_lane)step->lane);
        const int32_t to = exchange_of(r, i)->to;
        const int32_t other = find_message(&w->rank[to], channel, rank, false, nth[to * WF_LANES + channel]++);
        if (other < 0) continue; /* never completes: play and order say so */
        r->instances[i].receiver = other;
        w->rank[to].instances[other].sender = i;
    }
    free(nth);
}

world *world_create(wf_schedule *const *schedules, int32_t ranks) {
    world *w = need(calloc(1, sizeof *w));
    w->ranks = ranks;
    w->rank = need(calloc((size_t)ranks, sizeof *w->rank));
    for (int32_t r = 0; r < ranks; r++) collect(&w->rank[r], schedules[r]);
    for (int32_t r = 0; r < ranks; r++) pair_messages(w, r);
    world_poison(w);
    return w;
}

void world_destroy(world *w) {
    if (!w) return;
    for (int32_t r = 0; r < w->ranks; r++) {
        for (int32_t a = 0; a < w->rank[r].schedule->nallocations; a++) free(w->rank[r].memory[a]);
        for (int l = 0; l < WF_LANES; l++) free(w->rank[r].lane[l]);
        free(w->rank[r].memory);
        free(w->rank[r].found);
        free(w->rank[r].instances);
    }
    free(w->rank);
    free(w);
}

/* ---- memory ---------------------------------------------------------------------------------------- */

void world_poison(world *w) {
    w->poisoned = 0;
    for (int32_t r = 0; r < w->ranks; r++)
        for (int32_t a = 0; a < w->rank[r].schedule->nallocations; a++)
            for (int64_t i = 0; i < w->rank[r].schedule->allocations[a].bytes / 4; i++) w->rank[r].memory[a][i] = poison;
}

static const wf_buffer *buffer_named(const world *w, int32_t rank, const char *name) {
    const wf_schedule *s = w->rank[rank].schedule;
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (strcmp(s->buffers[i].name, name) == 0) return &s->buffers[i];
    fprintf(stderr, "rank %d has no buffer %s\n", rank, name);
    abort();
}

static uint32_t *words_of(const world *w, int32_t rank, const wf_buffer *b, int32_t instance) {
    const wf_location at = wf_buffer_locate(b, instance);
    return w->rank[rank].memory[at.allocation] + at.offset_bytes / 4;
}

void world_fill(world *w, int32_t rank, const char *name, int32_t instance, uint32_t value) {
    const wf_buffer *b = buffer_named(w, rank, name);
    for (int64_t i = 0; i < b->bytes / 4; i++)
        words_of(w, rank, b, instance)[i] = (uint32_t)mix(value, (uint64_t)i) & 0x7fffffu;
}

uint64_t world_hash(const world *w, int32_t rank, const char *name, int32_t instance) {
    const wf_buffer *b = buffer_named(w, rank, name);
    uint64_t hash = 0;
    for (int64_t i = 0; i < b->bytes / 4; i++) hash = mix(hash, words_of(w, rank, b, instance)[i]);
    return hash;
}

/* ---- play ------------------------------------------------------------------------------------------ */

typedef struct extents { int64_t n[WF_DIMS]; } extents;

static extents extents_now(const world_rank *r, const wf_view *v) {
    extents e;
    for (int d = 0; d < WF_DIMS; d++) {
        e.n[d] = d < v->ndim ? v->extent[d] : 1;
        if (d < v->ndim && v->source[d] >= 0) e.n[d] = r->value[v->source[d]];
    }
    return e;
}

/* Visits the view's words: reads into *hash, or writes from hash where it is NULL. */
typedef void visit(world *w, uint32_t *word, void *context);

static void each_word(world *w, world_rank *r, const wf_view *v, const wf_call *call, visit *visit, void *context) {
    const extents e = extents_now(r, v);
    const wf_location at = wf_schedule_locate(r->schedule, v, call);
    const bool found = r->schedule->buffers[v->buffer].space == WF_SPACE_PEER;
    uint32_t *const first = found ? r->found[v->buffer] + v->offset : r->memory[at.allocation] + at.offset_bytes / 4;
    for (int64_t a = 0; a < e.n[0]; a++)
        for (int64_t b = 0; b < e.n[1]; b++)
            for (int64_t c = 0; c < e.n[2]; c++)
                for (int64_t d = 0; d < e.n[3]; d++) {
                    const int64_t i[WF_DIMS] = {a, b, c, d};
                    int64_t offset = 0;
                    for (int k = 0; k < v->ndim; k++) offset += i[k] * v->stride[k];
                    visit(w, first + offset, context);
                }
}

static void read_word(world *w, uint32_t *word, void *hash) {
    if (*word == poison) w->poisoned++;
    *(uint64_t *)hash = mix(*(uint64_t *)hash, *word);
}

static void write_word(world *w, uint32_t *word, void *hash) {
    (void)w;
    *(uint64_t *)hash = mix(*(uint64_t *)hash, 1);
    *word = (uint32_t)*(uint64_t *)hash & 0x7fffffu;
}

static void spoil_word(world *w, uint32_t *word, void *context) {
    (void)w;
    (void)context;
    *word = poison;
}

typedef struct walker {         /* one lane of one rank in play */
    int32_t next;               /* sequence number */
    bool started, sent, received;
    uint64_t hash;              /* of the running kernel's inputs */
} walker;

typedef struct playing {
    world *w;
    walker (*at)[WF_LANES];     /* per rank */
    uint64_t random;
} playing;

static uint32_t draw(playing *p) {
    p->random = p->random * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(p->random >> 33);
}

static void start_kernel(world *w, world_rank *r, const wf_instance *i, walker *lane) {
    lane->hash = mix((uint64_t)i->call->layer, (uint64_t)i->call->microbatch);
    for (const char *c = i->step->site; *c; c++) lane->hash = mix(lane->hash, (unsigned char)*c);
    for (int v = 0; v < step_views(i->step); v++) {
        const wf_view *view = &r->schedule->views[i->step->view + v];
        if (v < i->step->reads + i->step->updates)
            each_word(w, r, view, i->call, read_word, &lane->hash);
        else
            each_word(w, r, view, i->call, spoil_word, NULL);
    }
}

static void end_kernel(world *w, world_rank *r, const wf_instance *i, walker *lane) {
    for (int v = i->step->reads; v < step_views(i->step); v++) {
        uint64_t hash = mix(lane->hash, (uint64_t)v);
        each_word(w, r, &r->schedule->views[i->step->view + v], i->call, write_word, &hash);
    }
}

typedef struct words { uint32_t *word; int64_t at; } words;

static void pack_word(world *w, uint32_t *word, void *context) {
    (void)w;
    words *out = context;
    out->word[out->at++] = *word;
}

static void unpack_word(world *w, uint32_t *word, void *context) {
    (void)w;
    words *in = context;
    *word = in->word[in->at++];
}

static void carry(world *w, int32_t from, const wf_instance *send, int32_t to, const wf_instance *receive) {
    world_rank *a = &w->rank[from], *b = &w->rank[to];
    const wf_view *source = &a->schedule->views[send->step->view];
    const wf_view *target = &b->schedule->views[receive->step->view + receive->step->reads];
    const wf_exchange *e = &b->schedule->exchanges[receive->step->exchange];
    const wf_location at = wf_schedule_locate(a->schedule, source, send->call);
    if (e->in_place) b->found[target->buffer] = a->memory[at.allocation] + at.offset_bytes / 4 - target->offset;
    if (e->in_place || e->kind == WF_RETURN) return;
    words message = {need(calloc((size_t)wf_view_elements(source) + 1, 4)), 0};
    each_word(w, a, source, send->call, pack_word, &message);
    message.at = 0;
    each_word(w, b, target, receive->call, unpack_word, &message);
    free(message.word);
}

static bool is_posted(const playing *p, int32_t rank, int32_t instance) {
    const wf_instance *i = &p->w->rank[rank].instances[instance].i;
    const walker *lane = &p->at[rank][i->step->lane];
    return lane->next == i->seq && lane->started;
}

static bool has_met(playing *p, int32_t rank, const world_instance *me, walker *lane) {
    const wf_exchange *e = &p->w->rank[rank].schedule->exchanges[me->i.step->exchange];
    if (e->to >= 0 && !lane->sent && me->receiver >= 0 && is_posted(p, e->to, me->receiver)) {
        const wf_instance *other = &p->w->rank[e->to].instances[me->receiver].i;
        carry(p->w, rank, &me->i, e->to, other);
        lane->sent = p->at[e->to][other->step->lane].received = true;
    }
    return (e->to < 0 || lane->sent) && (e->from < 0 || lane->received);
}

static bool waits_met(const playing *p, int32_t rank, const wf_instance *i) {
    for (int l = 0; l < WF_LANES; l++)
        if (i->wait[l] >= p->at[rank][l].next) return false;
    return true;
}

/* Starts or completes what a lane stands before; false: it cannot move. */
static bool move(playing *p, int32_t rank, int l) {
    world_rank *r = &p->w->rank[rank];
    walker *lane = &p->at[rank][l];
    if (lane->next == r->lane_n[l]) return false;
    const world_instance *me = &r->instances[r->lane[l][lane->next]];
    const bool kernel = me->i.step->kind == WF_STEP_KERNEL;
    if (!lane->started) {
        if (!waits_met(p, rank, &me->i)) return false;
        if (kernel) start_kernel(p->w, r, &me->i, lane);
        lane->started = true;
        return true;
    }
    const bool sent = lane->sent;
    if (!kernel && !has_met(p, rank, me, lane)) return lane->sent != sent;
    if (kernel) end_kernel(p->w, r, &me->i, lane);
    *lane = (walker){.next = lane->next + 1};
    return true;
}

static bool is_over(const playing *p) {
    for (int32_t r = 0; r < p->w->ranks; r++)
        for (int l = 0; l < WF_LANES; l++)
            if (p->at[r][l].next < p->w->rank[r].lane_n[l]) return false;
    return true;
}

bool world_play(world *w, uint64_t seed) {
    playing p = {.w = w, .random = seed};
    p.at = need(calloc((size_t)w->ranks, sizeof *p.at));
    const int32_t n = w->ranks * WF_LANES;
    bool moved = true;
    while (moved) {
        moved = false;
        for (int32_t tries = 0; seed && tries < 3 * n; tries++) { /* random, uneven */
            const int32_t k = (int32_t)(draw(&p) % (uint32_t)n);
            if (move(&p, k / WF_LANES, k % WF_LANES)) moved = true;
        }
        for (int32_t k = 0; k < n && !moved; k++) /* whoever can */
            if (move(&p, k / WF_LANES, k % WF_LANES)) moved = true;
    }
    const bool over = is_over(&p);
    free(p.at);
    return over;
}

/* ---- conflicts --------------------------------------------------------------------------------------- */

typedef struct use {            /* what one view of one instance touches */
    int32_t call, allocation, buffer, instance;
    bool scratch, write;
    int64_t first, end;         /* in the allocation */
} use;

static use use_of(const wf_schedule *s, const wf_instance *i, int v) {
    const wf_view *view = &s->views[i->step->view + v];
    const wf_buffer *b = &s->buffers[view->buffer];
    use u = {.call = i->call_index, .buffer = view->buffer, .instance = wf_view_instance(view, i->call),
             .scratch = b->life == WF_SCRATCH, .write = wf_step_writes(s, i->step, v)};
    const wf_location at = wf_buffer_locate(b, u.instance);
    wf_view_span(s, view, &u.first, &u.end);
    u.allocation = at.allocation;
    u.first += at.offset_bytes;
    u.end += at.offset_bytes;
    return u;
}

static bool uses_conflict(const use *a, const use *b, world_grain grain) {
    if (!(a->write || b->write) || a->first == a->end || b->first == b->end || a->allocation != b->allocation)
        return false;
    if (grain == WORLD_INSTANCES && a->call != b->call) {
        if (a->scratch && b->scratch) return true;
        if (!a->scratch && a->buffer == b->buffer && a->instance == b->instance) return true;
    }
    return a->first < b->end && b->first < a->end;
}

static bool instances_conflict(const world_rank *r, int32_t a, int32_t b, world_grain grain) {
    const wf_instance *i = &r->instances[a].i, *j = &r->instances[b].i;
    for (int v = 0; v < step_views(i->step); v++)
        for (int u = 0; u < step_views(j->step); u++) {
            const use one = use_of(r->schedule, i, v), other = use_of(r->schedule, j, u);
            if (uses_conflict(&one, &other, grain)) return true;
        }
    return false;
}

/* Per instance and other lane the last one in conflict is enough: a lane is in order. */
int32_t world_conflicts(const world *w, world_grain grain, world_pair **pairs_out) {
    int32_t n = 0, capacity = 0;
    *pairs_out = NULL;
    for (int32_t rank = 0; rank < w->ranks; rank++) {
        const world_rank *r = &w->rank[rank];
        for (int32_t b = 0; b < r->n; b++) {
            bool found[WF_LANES] = {false};
            found[r->instances[b].i.step->lane] = true;
            for (int32_t a = b - 1; a >= 0; a--) {
                const int lane = r->instances[a].i.step->lane;
                if (found[lane] || !instances_conflict(r, a, b, grain)) continue;
                found[lane] = true;
                if (n == capacity) {
                    capacity = capacity ? 2 * capacity : 256;
                    *pairs_out = need(realloc(*pairs_out, (size_t)capacity * sizeof **pairs_out));
                }
                (*pairs_out)[n++] = (world_pair){rank, a, b};
            }
        }
    }
    return n;
}

/* ---- order ------------------------------------------------------------------------------------------- */

/* Clocks: per rank and instance, what of every lane of every rank is complete when it starts. Without
 * messages a rank's clock knows its own lanes only. */
typedef struct clocks {
    const world *w;
    bool messages;
    int32_t width;              /* entries of a clock */
    int32_t **start, **end;     /* per rank: n clocks */
} clocks;

static int32_t entry(const clocks *c, int32_t rank, int lane) {
    return (c->messages ? rank * WF_LANES : 0) + lane;
}

static clocks create_clocks(const world *w, bool messages) {
    clocks c = {.w = w, .messages = messages, .width = messages ? w->ranks * WF_LANES : WF_LANES};
    c.start = need(calloc((size_t)w->ranks, sizeof *c.start));
    c.end = need(calloc((size_t)w->ranks, sizeof *c.end));
    for (int32_t r = 0; r < w->ranks; r++) {
        const size_t n = ((size_t)w->rank[r].n + 1) * (size_t)c.width;
        c.start[r] = need(calloc(n, sizeof(int32_t)));
        c.end[r] = need(calloc(n, sizeof(int32_t)));
    }
    return c;
}

static void destroy_clocks(clocks *c) {
    for (int32_t r = 0; r < c->w->ranks; r++) {
        free(c->start[r]);
        free(c->end[r]);
    }
    free(c->start);
    free(c->end);
}

static void join(const clocks *c, int32_t *into, const int32_t *from) {
    for (int32_t k = 0; k < c->width; k++)
        if (from[k] > into[k]) into[k] = from[k];
}

static int32_t *start_of(const clocks *c, int32_t rank, int32_t instance) {
    return c->start[rank] + (int64_t)instance * c->width;
}

static int32_t *end_of(const clocks *c, int32_t rank, int32_t instance) {
    return c->end[rank] + (int64_t)instance * c->width;
}

static void begin(const clocks *c, int32_t rank, int32_t instance) {
    const world_rank *r = &c->w->rank[rank];
    const wf_instance *i = &r->instances[instance].i;
    int32_t *clock = start_of(c, rank, instance);
    for (int32_t k = 0; k < c->width; k++) clock[k] = -1;
    if (i->seq > 0) join(c, clock, end_of(c, rank, r->lane[i->step->lane][i->seq - 1]));
    for (int l = 0; l < WF_LANES; l++)
        if (i->wait[l] >= 0) join(c, clock, end_of(c, rank, r->lane[l][i->wait[l]]));
}

static void finish(const clocks *c, int32_t rank, int32_t instance) {
    const world_instance *me = &c->w->rank[rank].instances[instance];
    int32_t *clock = end_of(c, rank, instance);
    memcpy(clock, start_of(c, rank, instance), (size_t)c->width * sizeof *clock);
    if (c->messages && me->i.step->kind == WF_STEP_EXCHANGE) {
        const wf_exchange *e = exchange_of(&c->w->rank[rank], instance);
        if (e->to >= 0) join(c, clock, start_of(c, e->to, me->receiver));
        if (e->from >= 0) join(c, clock, start_of(c, e->from, me->sender));
    }
    clock[entry(c, rank, me->i.step->lane)] = (int32_t)me->i.seq;
}

/* Posted at the other end? */
static bool peers_began(const world_instance *me, const wf_exchange *e, int32_t (*began)[WF_LANES], const world *w) {
    if (e->to >= 0) {
        if (me->receiver < 0) return false;
        const wf_instance *other = &w->rank[e->to].instances[me->receiver].i;
        if (began[e->to][other->step->lane] <= other->seq) return false;
    }
    if (e->from >= 0) {
        if (me->sender < 0) return false;
        const wf_instance *other = &w->rank[e->from].instances[me->sender].i;
        if (began[e->from][other->step->lane] <= other->seq) return false;
    }
    return true;
}

/* Moves one lane: begins and finishes what it can. */
static bool step_lane(const clocks *c, int32_t rank, int l, int32_t (*began)[WF_LANES], int32_t (*done)[WF_LANES]) {
    const world_rank *r = &c->w->rank[rank];
    bool moved = false;
    while (done[rank][l] < r->lane_n[l]) {
        const int32_t instance = r->lane[l][done[rank][l]];
        const world_instance *me = &r->instances[instance];
        if (began[rank][l] == done[rank][l]) {
            for (int m = 0; m < WF_LANES; m++)
                if (me->i.wait[m] >= done[rank][m]) return moved;
            begin(c, rank, instance);
            began[rank][l]++;
            moved = true;
        }
        if (me->i.step->kind == WF_STEP_EXCHANGE && !peers_began(me, exchange_of(r, instance), began, c->w)) return moved;
        finish(c, rank, instance);
        done[rank][l]++;
        moved = true;
    }
    return moved;
}

/* False: deadlock. */
static bool run_clocks(const clocks *c) {
    const world *w = c->w;
    if (!c->messages) {
        for (int32_t r = 0; r < w->ranks; r++)
            for (int32_t i = 0; i < w->rank[r].n; i++) {
                begin(c, r, i);
                finish(c, r, i);
            }
        return true;
    }
    int32_t(*began)[WF_LANES] = need(calloc((size_t)w->ranks, sizeof *began));
    int32_t(*done)[WF_LANES] = need(calloc((size_t)w->ranks, sizeof *done));
    for (bool moved = true; moved;) {
        moved = false;
        for (int32_t r = 0; r < w->ranks; r++)
            for (int l = 0; l < WF_LANES; l++) moved |= step_lane(c, r, l, began, done);
    }
    bool over = true;
    for (int32_t r = 0; r < w->ranks; r++)
        for (int l = 0; l < WF_LANES; l++) over = over && done[r][l] == w->rank[r].lane_n[l];
    free(began);
    free(done);
    return over;
}

static bool is_ordered(const clocks *c, const world_pair *p) {
    const wf_instance *a = &c->w->rank[p->rank].instances[p->first].i;
    return start_of(c, p->rank, p->second)[entry(c, p->rank, a->step->lane)] >= a->seq;
}

static int32_t count_unordered(const clocks *c, const world_pair *pairs, int32_t npairs, world_pair *first_out) {
    int32_t n = 0;
    for (int32_t i = 0; i < npairs; i++) {
        if (is_ordered(c, &pairs[i])) continue;
        if (n++ == 0 && first_out) *first_out = pairs[i];
    }
    return n;
}

int32_t world_unordered(const world *w, const world_pair *pairs, int32_t npairs, bool messages, world_pair *first_out) {
    clocks c = create_clocks(w, messages);
    const int32_t n = run_clocks(&c) ? count_unordered(&c, pairs, npairs, first_out) : -1;
    destroy_clocks(&c);
    return n;
}

/* ---- dropped waits ------------------------------------------------------------------------------------- */

static void drop_one(world *w, clocks *c, int32_t rank, int32_t instance, int lane, const world_pair *pairs,
                     int32_t npairs, world_drops *out) {
    wf_instance *i = &w->rank[rank].instances[instance].i;
    const int64_t wait = i->wait[lane];
    i->wait[lane] = -1;
    const bool over = run_clocks(c);
    const bool lost = over && start_of(c, rank, instance)[entry(c, rank, lane)] < wait;
    const bool caught = over && count_unordered(c, pairs, npairs, NULL) > 0;
    i->wait[lane] = wait;
    out->waits++;
    out->redundant += !lost && !caught;
    out->caught += lost && caught;
    out->missed += lost != caught;
}

world_drops world_drop_waits(world *w, const world_pair *pairs, int32_t npairs, bool messages) {
    world_drops out = {0};
    clocks c = create_clocks(w, messages);
    for (int32_t r = 0; r < w->ranks; r++)
        for (int32_t i = 0; i < w->rank[r].n; i++)
            for (int l = 0; l < WF_LANES; l++)
                if (w->rank[r].instances[i].i.wait[l] >= 0) drop_one(w, &c, r, i, l, pairs, npairs, &out);
    destroy_clocks(&c);
    return out;
}
