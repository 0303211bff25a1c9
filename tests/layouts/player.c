/* player.c: see player.h. An f32 at byte 4 i of an allocation is the double at index i. A kernel
 * runs at once; a hop starts, and sends and receives at later, separate moments, so that what it
 * reads or overwrites too early or too late is seen. */
#include "tests/layouts/player.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct message {
    struct message *next;
    int64_t elements;
    double *f;
    int32_t *i;
    double *where; /* with the sender */
} message;

typedef struct lane {
    wf_instance *instances;
    int64_t count, done;
    bool started, sent, received; /* of the hop at `done` */
} lane;

typedef struct rank {
    const wf_schedule *schedule;
    double **f; /* per allocation */
    int32_t **i;
    double **found; /* per buffer: where what is read in place begins */
    lane lanes[WF_LANES];
} rank;

struct player {
    int32_t ranks;
    rank *rank;
    message **channel; /* [from][to][lane] */
    uint64_t random;
    wf_run_number run[WF_RUN_VALUES];
    int64_t samples;
    bool obey;
    char sentence[256];
};

static uint64_t draw(player *p) { /* splitmix64 */
    uint64_t z = p->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static void create_memory(rank *r) {
    const int32_t n = r->schedule->nallocations;
    r->f = calloc((size_t)n + 1, sizeof *r->f);
    r->i = calloc((size_t)n + 1, sizeof *r->i);
    r->found = calloc((size_t)r->schedule->nbuffers + 1, sizeof *r->found);
    for (int32_t a = 0; a < n; a++) {
        const int64_t elements = r->schedule->allocations[a].bytes / 4;
        r->f[a] = malloc((size_t)(elements + 1) * sizeof *r->f[a]);
        r->i[a] = malloc((size_t)(elements + 1) * sizeof *r->i[a]);
        for (int64_t e = 0; e < elements; e++) r->f[a][e] = NAN, r->i[a][e] = -7;
    }
}

player *player_create(const wf_schedule *const *schedules, int32_t ranks) {
    player *p = calloc(1, sizeof *p);
    p->ranks = ranks;
    p->rank = calloc((size_t)ranks, sizeof *p->rank);
    p->channel = calloc((size_t)ranks * (size_t)ranks * WF_LANES, sizeof(message *));
    for (int32_t r = 0; r < ranks; r++) {
        p->rank[r].schedule = schedules[r];
        create_memory(&p->rank[r]);
    }
    return p;
}

static void clear_channels(player *p) {
    for (int32_t c = 0; c < p->ranks * p->ranks * WF_LANES; c++)
        while (p->channel[c]) {
            message *m = p->channel[c];
            p->channel[c] = m->next;
            free(m->f);
            free(m->i);
            free(m);
        }
}

void player_destroy(player *p) {
    if (!p) return;
    clear_channels(p);
    for (int32_t r = 0; r < p->ranks; r++) {
        for (int32_t a = 0; a < p->rank[r].schedule->nallocations; a++) {
            free(p->rank[r].f[a]);
            free(p->rank[r].i[a]);
        }
        for (int l = 0; l < WF_LANES; l++) free(p->rank[r].lanes[l].instances);
        free(p->rank[r].f);
        free(p->rank[r].i);
        free(p->rank[r].found);
    }
    free(p->rank);
    free(p->channel);
    free(p);
}

/* The slot's first element; which memory is told by *allocation. */
static int64_t find(const player *p, int32_t r, const char *slot, int32_t instance,
                    int32_t *allocation, int64_t *elements_out) {
    static const int64_t unknown = -1;
    const wf_schedule *s = p->rank[r].schedule;
    for (int32_t b = 0; b < s->nbuffers; b++) {
        if (s->buffers[b].life != WF_SLOT || strcmp(s->buffers[b].name, slot) != 0) continue;
        const wf_location at = wf_buffer_locate(&s->buffers[b], instance);
        *allocation = at.allocation;
        *elements_out = s->buffers[b].bytes / 4;
        return at.allocation < 0 ? 0 : at.offset_bytes / 4;
    }
    return unknown;
}

static double nothing_f[1];
static int32_t nothing_i[1];

double *player_f64(player *p, int32_t r, const char *slot, int32_t instance,
                   int64_t *elements_out) {
    int32_t a = -1;
    const int64_t at = find(p, r, slot, instance, &a, elements_out);
    return at < 0 ? NULL : a < 0 ? nothing_f : p->rank[r].f[a] + at;
}

int32_t *player_i32(player *p, int32_t r, const char *slot, int32_t instance,
                    int64_t *elements_out) {
    int32_t a = -1;
    const int64_t at = find(p, r, slot, instance, &a, elements_out);
    return at < 0 ? NULL : a < 0 ? nothing_i : p->rank[r].i[a] + at;
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void run_kernel(player *p, const rank *r, const wf_instance *instance) {
    const wf_schedule *s = r->schedule;
    const wf_step *step = instance->step;
    const wf_problem *problem = &s->problems[step->problem].problem;
    wf_tensor tensors[WF_OPERANDS] = {{0}};
    wf_operand operands[WF_OPERANDS];
    const int n = wf_operations[problem->op]->operands(problem, operands);
    for (int v = 0; v < n; v++) {
        const wf_view *view = &s->views[step->view + v];
        const wf_location at = wf_schedule_locate(s, view, instance->call);
        const int64_t element = at.offset_bytes / 4;
        if (s->buffers[view->buffer].space == WF_SPACE_PEER && r->found[view->buffer])
            tensors[v].data = r->found[view->buffer] + view->offset;
        else if (operands[v].dtype == WF_I32)
            tensors[v].data = at.allocation < 0 ? nothing_i : r->i[at.allocation] + element;
        else
            tensors[v].data = at.allocation < 0 ? nothing_f : r->f[at.allocation] + element;
        memcpy(tensors[v].stride, view->stride, sizeof view->stride);
    }
    p->run[WF_RUN_LAYER].u = (uint32_t)instance->call->layer;
    const uint32_t sample0 = p->run[WF_RUN_SAMPLE0].u;
    p->run[WF_RUN_SAMPLE0].u += (uint32_t)(instance->call->microbatch * p->samples);
    wf_operations[problem->op]->reference(problem, tensors, p->run);
    p->run[WF_RUN_SAMPLE0].u = sample0;
}

static message **channel(player *p, int32_t from, int32_t to, wf_lane l) {
    return &p->channel[((int64_t)from * p->ranks + to) * WF_LANES + wf_lane_channel(l)];
}

static void send_message(player *p, const rank *r, const wf_instance *instance, const wf_view *view,
                         int32_t to) {
    const wf_location at = wf_schedule_locate(r->schedule, view, instance->call);
    message *m = calloc(1, sizeof *m),
            **end = channel(p, r->schedule->rank, to, (wf_lane)instance->step->lane);
    m->elements = wf_view_elements(view);
    m->where = r->f[at.allocation] + at.offset_bytes / 4;
    m->f = malloc((size_t)m->elements * sizeof *m->f);
    m->i = malloc((size_t)m->elements * sizeof *m->i);
    memcpy(m->f, r->f[at.allocation] + at.offset_bytes / 4, (size_t)m->elements * sizeof *m->f);
    memcpy(m->i, r->i[at.allocation] + at.offset_bytes / 4, (size_t)m->elements * sizeof *m->i);
    while (*end) end = &(*end)->next;
    *end = m;
}

/* false: nothing has arrived yet. */
static bool receive_message(player *p, const rank *r, const wf_instance *instance,
                            const wf_view *view, int32_t from) {
    message **first = channel(p, from, r->schedule->rank, (wf_lane)instance->step->lane),
            *m = *first;
    if (!m) return false;
    if (m->elements != wf_view_elements(view))
        snprintf(p->sentence, sizeof p->sentence,
                 "rank %d, %s: %lld elements arrived, %lld were expected", r->schedule->rank,
                 instance->step->site, (long long)m->elements, (long long)wf_view_elements(view));
    const wf_location at = wf_schedule_locate(r->schedule, view, instance->call);
    const wf_exchange *const e = &r->schedule->exchanges[instance->step->exchange];
    if (e->in_place) r->found[view->buffer] = m->where - view->offset;
    if (!p->sentence[0] && !e->in_place && e->kind == WF_HOP) {
        memcpy(r->f[at.allocation] + at.offset_bytes / 4, m->f, (size_t)m->elements * sizeof *m->f);
        memcpy(r->i[at.allocation] + at.offset_bytes / 4, m->i, (size_t)m->elements * sizeof *m->i);
    }
    *first = m->next;
    free(m->f);
    free(m->i);
    free(m);
    return true;
}

/* One of the hop's two movements, if it can be made. */
static bool move_hop(player *p, rank *r, lane *l) {
    const wf_instance *now = &l->instances[l->done];
    const wf_exchange *e = &r->schedule->exchanges[now->step->exchange];
    const wf_view *views = &r->schedule->views[now->step->view];
    bool moved = false;
    if (!l->sent && (l->received || draw(p) % 2)) {
        send_message(p, r, now, &views[0], e->to);
        l->sent = moved = true;
    } else if (!l->received) {
        moved = l->received = receive_message(p, r, now, &views[now->step->reads], e->from);
        if (!moved && !l->sent) {
            send_message(p, r, now, &views[0], e->to);
            l->sent = moved = true;
        }
    }
    if (l->sent && l->received) {
        l->started = false;
        l->done++;
        moved = true;
    }
    return moved;
}

static bool ready(const player *p, const rank *r, const wf_instance *instance) {
    for (int l = 0; l < WF_LANES && p->obey; l++)
        if (instance->wait[l] >= r->lanes[l].done) return false;
    return true;
}

static bool advance(player *p, rank *r, lane *l) {
    if (l->done == l->count) return false;
    if (l->started) return move_hop(p, r, l);
    const wf_instance *next = &l->instances[l->done];
    if (!ready(p, r, next)) return false;
    if (next->step->kind == WF_STEP_KERNEL) {
        run_kernel(p, r, next);
        l->done++;
    } else {
        l->started = true;
        l->sent = next->step->reads == 0;
        l->received = next->step->writes == 0;
    }
    return true;
}

/* ---- play ------------------------------------------------------------------------------------ */

static wf_status read_program(rank *r) {
    wf_cursor *cursor;
    wf_instance instance;
    TRY(wf_cursor_create(r->schedule, &cursor));
    for (int l = 0; l < WF_LANES; l++) r->lanes[l].count = r->lanes[l].done = 0;
    while (wf_cursor_next(cursor, &instance)) {
        lane *l = &r->lanes[instance.step->lane];
        if (l->count % 1024 == 0)
            l->instances = realloc(l->instances, (size_t)(l->count + 1024) * sizeof *l->instances);
        l->instances[l->count++] = instance;
    }
    wf_cursor_destroy(cursor);
    return WF_OK;
}

/* A random rank and lane that can go on; else, in turn, any; false: none can. */
static bool advance_any(player *p) {
    for (int tries = 0; tries < 4; tries++) {
        rank *r = &p->rank[draw(p) % (uint64_t)p->ranks];
        if (advance(p, r, &r->lanes[draw(p) % WF_LANES])) return true;
    }
    const uint64_t from = draw(p) % (uint64_t)(p->ranks * WF_LANES);
    for (int32_t n = 0; n < p->ranks * WF_LANES; n++) {
        const int32_t at = (int32_t)((from + (uint64_t)n) % (uint64_t)(p->ranks * WF_LANES));
        rank *r = &p->rank[at / WF_LANES];
        if (advance(p, r, &r->lanes[at % WF_LANES])) return true;
    }
    return false;
}

static void say_stuck(player *p) {
    for (int32_t r = 0; r < p->ranks; r++)
        for (int l = 0; l < WF_LANES; l++) {
            const lane *at = &p->rank[r].lanes[l];
            if (at->done < at->count)
                snprintf(p->sentence, sizeof p->sentence, "rank %d is stuck on lane %d at %s", r, l,
                         at->instances[at->done].step->site);
        }
}

const char *player_run(player *p, const wf_run_number run[WF_RUN_VALUES], int64_t samples,
                       uint64_t seed, bool obey) {
    memcpy(p->run, run, sizeof p->run);
    p->samples = samples;
    p->random = seed;
    p->obey = obey;
    p->sentence[0] = 0;
    for (int32_t r = 0; r < p->ranks; r++)
        if (read_program(&p->rank[r]) != WF_OK) return wf_last_error();
    while (!p->sentence[0] && advance_any(p)) continue;
    if (!p->sentence[0]) say_stuck(p);
    for (int32_t c = 0; c < p->ranks * p->ranks * WF_LANES && !p->sentence[0]; c++)
        if (p->channel[c])
            snprintf(p->sentence, sizeof p->sentence, "a message was never received");
    clear_channels(p);
    return p->sentence[0] ? p->sentence : NULL;
}
