/* programs.c: see programs.h. Sizes are small and odd; what matters is who touches what, when. */
#include "programs.h"
#include "near.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 6, COLUMNS = 5, WIDTH = ROWS * COLUMNS };

static wf_view whole(int32_t buffer, wf_at at) {
    return wf_vector(buffer, at, 0, WIDTH);
}

static void compute(wf_schedule *s, const char *site, int reads, int updates, int writes, const wf_view *views) {
    wf_build_opaque(s, site, WF_LANE_COMPUTE, views, reads, updates, writes);
}
#define VIEWS(...) ((const wf_view[]){__VA_ARGS__})

static void must(wf_status status) {
    if (status == WF_OK) return;
    fprintf(stderr, "%s\n", wf_last_error());
    abort();
}

static wf_schedule *finish(wf_schedule *s) {
    must(wf_build_finish(s));
    must(wf_place(s, NULL));
    return s;
}

/* ---- pipelines --------------------------------------------------------------------------------------- */

typedef struct pipe {
    wf_schedule *s;
    int32_t x, dx, saved, weight, gradient, token, loss, token_gradient;
    int32_t next, previous;
} pipe;

static int32_t scratch(const pipe *p, const char *name) {
    return wf_build_scratch(p->s, name, WF_F32, WIDTH);
}

static int32_t layer_forward(const pipe *p) {
    const int32_t segment = wf_build_segment(p->s, "layer.forward");
    const int32_t a = scratch(p, "a"), b = scratch(p, "b");
    compute(p->s, "norm", 1, 0, 1, VIEWS(whole(p->x, WF_AT_X_IN), whole(a, WF_AT_NONE)));
    compute(p->s, "mix", 2, 0, 2,
            VIEWS(whole(a, WF_AT_NONE), whole(p->weight, WF_AT_WEIGHTS), whole(b, WF_AT_NONE), whole(p->saved, WF_AT_SAVED)));
    compute(p->s, "out", 2, 0, 1, VIEWS(whole(b, WF_AT_NONE), whole(p->x, WF_AT_X_IN), whole(p->x, WF_AT_X_OUT)));
    wf_build_segment_end(p->s);
    return segment;
}

static int32_t layer_backward(const pipe *p, bool first) {
    const int32_t segment = wf_build_segment(p->s, first ? "layer.backward.first" : "layer.backward");
    const int32_t a = scratch(p, "da");
    compute(p->s, "dgrad", 3, 0, 2,
            VIEWS(whole(p->dx, WF_AT_DX_IN), whole(p->weight, WF_AT_WEIGHTS), whole(p->saved, WF_AT_SAVED),
                  whole(a, WF_AT_NONE), whole(p->dx, WF_AT_DX_OUT)));
    compute(p->s, "wgrad", 2, !first, first,
            VIEWS(whole(a, WF_AT_NONE), whole(p->saved, WF_AT_SAVED), whole(p->gradient, WF_AT_LAYER)));
    wf_build_segment_end(p->s);
    return segment;
}

static int32_t one_step(const pipe *p, const char *name, int reads, int updates, int writes, const wf_view *views) {
    const int32_t segment = wf_build_segment(p->s, "%s", name);
    compute(p->s, name, reads, updates, writes, views);
    wf_build_segment_end(p->s);
    return segment;
}

static int32_t one_hop(const pipe *p, const char *name, wf_lane lane, int32_t to, int32_t from, wf_view view) {
    const int32_t segment = wf_build_segment(p->s, "%s", name);
    wf_build_hop(p->s, name, lane, WF_POINT_TO_POINT, 0, 0, to, to >= 0 ? &view : NULL, from, from >= 0 ? &view : NULL);
    wf_build_segment_end(p->s);
    return segment;
}

static wf_pipeline_segments build_segments(const pipe *p, bool pipedream) {
    const bool alone = p->s->ranks == 1;
    wf_pipeline_segments g = {.receive_forward = -1, .send_forward = -1, .receive_backward = -1, .send_backward = -1,
                              .update = -1, .sums_send = -1, .sums = -1};
    g.embed = one_step(p, "embed", 1, 0, 1, VIEWS(whole(p->token, WF_AT_MICROBATCH), whole(p->x, WF_AT_X_OUT)));
    g.forward = layer_forward(p);
    g.head = one_step(p, "head", 1, 0, 2,
                      VIEWS(whole(p->x, WF_AT_X_IN), whole(p->loss, WF_AT_MICROBATCH), whole(p->dx, WF_AT_DX_OUT)));
    g.head_first = g.head;
    g.backward_first = layer_backward(p, true);
    g.backward = layer_backward(p, false);
    g.embed_backward = one_step(p, "embed.backward", 1, 1, 0,
                                VIEWS(whole(p->dx, WF_AT_DX_IN), whole(p->token_gradient, WF_AT_NONE)));
    g.embed_backward_first = g.embed_backward;
    if (pipedream)
        g.update = one_step(p, "update", 2, 0, 1,
                            VIEWS(whole(p->gradient, WF_AT_LAYER), whole(p->weight, WF_AT_X_IN),
                                  whole(p->weight, WF_AT_WEIGHTS)));
    if (alone) return g;
    g.receive_forward = one_hop(p, "recv.forward", WF_LANE_PP_RECV_F, -1, p->previous, whole(p->x, WF_AT_X_OUT));
    g.send_forward = one_hop(p, "send.forward", WF_LANE_PP_SEND_F, p->next, -1, whole(p->x, WF_AT_X_IN));
    g.receive_backward = one_hop(p, "recv.backward", WF_LANE_PP_RECV_B, -1, p->next, whole(p->dx, WF_AT_DX_OUT));
    g.send_backward = one_hop(p, "send.backward", WF_LANE_PP_SEND_B, p->previous, -1, whole(p->dx, WF_AT_DX_IN));
    return g;
}

/* The calls of the first versions of PipeDream's weights: from the caller's slots. */
static void load_versions(const pipe *p, const program *q, int32_t load, int32_t rank) {
    int32_t version = 0;
    for (int32_t c = 0; c < q->shape.chunks; c++) {
        const wf_range r = wf_shard(q->layers, q->shape.chunks * q->shape.stages, c * q->shape.stages + rank);
        for (int32_t i = 0; i < r.count; i++) {
            wf_call call = {.segment = load, .layer = (int32_t)r.first + i};
            call.at[WF_AT_WEIGHTS] = version++;
            wf_build_call(p->s, &call);
        }
    }
}

/* The first two forward receives name each other's microbatch and buffer. */
static void swap_receives(wf_schedule *s, int32_t segment) {
    wf_call *seen = NULL;
    for (int32_t c = 0; c < s->ncalls; c++) {
        if (s->calls[c].segment != segment) continue;
        if (seen) {
            const wf_call other = *seen;
            *seen = s->calls[c];
            s->calls[c] = other;
            return;
        }
        seen = &s->calls[c];
    }
}

static wf_schedule *pipeline_rank(const program *q, int32_t rank) {
    const bool pipedream = q->shape.form == WF_PIPEDREAM;
    pipe p = {.next = (rank + 1) % q->ranks, .previous = (rank + q->ranks - 1) % q->ranks};
    must(wf_schedule_create(rank, q->ranks, &p.s));
    const int32_t m = q->shape.microbatches;
    const int32_t first = wf_build_slot(p.s, "w", WF_CLASS_PARAMETER, WF_F32, WIDTH, q->layers);
    p.gradient = wf_build_slot(p.s, "w.grad", WF_CLASS_GRADIENT, WF_F32, WIDTH, q->layers);
    p.token_gradient = wf_build_slot(p.s, "embed.grad", WF_CLASS_GRADIENT, WF_F32, WIDTH, 1);
    p.token = wf_build_slot(p.s, "tokens", WF_CLASS_IO, WF_I32, WIDTH, m);
    p.loss = wf_build_slot(p.s, "loss", WF_CLASS_IO, WF_F32, WIDTH, m);
    p.x = wf_build_pool(p.s, "x", WF_CLASS_ACTIVATION, WF_F32, WIDTH);
    p.dx = wf_build_pool(p.s, "dx", WF_CLASS_ACTIVATION, WF_F32, WIDTH);
    p.saved = wf_build_pool(p.s, "saved", WF_CLASS_ACTIVATION, WF_F32, WIDTH);
    p.weight = pipedream ? wf_build_pool(p.s, "w.version", WF_CLASS_PARAMETER, WF_F32, WIDTH) : first;
    const wf_pipeline_segments g = build_segments(&p, pipedream);
    if (pipedream)
        load_versions(&p, q, one_step(&p, "load", 1, 0, 1, VIEWS(whole(first, WF_AT_LAYER), whole(p.weight, WF_AT_WEIGHTS))),
                      rank);
    wf_pipeline_shape shape = q->shape;
    wf_pipeline_counts counts;
    shape.stage = rank;
    if (q->short_rank == rank + 1) shape.microbatches--;
    must(wf_pipeline_program(p.s, &shape, q->layers, &g, &counts));
    if (q->swap_rank == rank + 1) swap_receives(p.s, g.receive_forward);
    if (q->one_buffer) {
        counts.x = 1;
        for (int32_t c = 0; c < p.s->ncalls; c++) p.s->calls[c].at[WF_AT_X_IN] = p.s->calls[c].at[WF_AT_X_OUT] = 0;
    }
    wf_build_pool_count(p.s, p.x, counts.x);
    wf_build_pool_count(p.s, p.dx, counts.dx);
    wf_build_pool_count(p.s, p.saved, counts.saved);
    if (pipedream) wf_build_pool_count(p.s, p.weight, counts.weights);
    return finish(p.s);
}

/* ---- ZeRO-3 --------------------------------------------------------------------------------------------- */

typedef struct zero {
    wf_schedule *s;
    bool in_place;
    int32_t group, shard, gathered, gradient, x;
    wf_rows rows[8];
} zero;

static int32_t gather_weights(const zero *z) {
    const int32_t segment = wf_build_segment(z->s, "weights.gather");
    const wf_rows mine = z->rows[z->s->groups[z->group].index];
    const wf_view all = wf_matrix(z->gathered, WF_AT_WEIGHTS, 0, ROWS, COLUMNS, COLUMNS);
    const wf_view own = wf_matrix(z->gathered, WF_AT_WEIGHTS, mine.first * COLUMNS, mine.count, COLUMNS, COLUMNS);
    wf_build_opaque(z->s, "weights.place", WF_LANE_COPY,
                    VIEWS(wf_vector(z->shard, WF_AT_LAYER, 0, mine.count * COLUMNS), own), 1, 0, 1);
    wf_build_all_gather(z->s, "weights.gather", WF_LANE_DP, z->group, &all, z->rows);
    wf_build_segment_end(z->s);
    return segment;
}

static int32_t use_forward(const zero *z) {
    const int32_t segment = wf_build_segment(z->s, "layer.forward");
    compute(z->s, "mix", 1, 1, 0, VIEWS(whole(z->gathered, WF_AT_WEIGHTS), whole(z->x, WF_AT_NONE)));
    wf_build_segment_end(z->s);
    return segment;
}

/* The weights' gradient goes to its owners as partial sums. */
static int32_t use_backward(const zero *z) {
    const int32_t segment = wf_build_segment(z->s, "layer.backward"), n = z->s->ranks;
    const int32_t scratch = wf_build_scratch(z->s, "dw", WF_F32, WIDTH);
    const wf_rows mine = z->rows[z->s->groups[z->group].index];
    const wf_view partial = wf_matrix(scratch, WF_AT_NONE, 0, ROWS, COLUMNS, COLUMNS);
    wf_view parts[9];
    compute(z->s, "wgrad", 1, 1, 1, VIEWS(whole(z->gathered, WF_AT_WEIGHTS), whole(z->x, WF_AT_NONE), partial));
    wf_build_reduce_scatter(z->s, "dw.scatter", z->in_place ? WF_LANE_TP : WF_LANE_DP, z->group, &partial, z->rows, parts);
    parts[n] = wf_vector(z->gradient, WF_AT_LAYER, 0, mine.count * COLUMNS);
    compute(z->s, "dw.reduce", n, 0, 1, parts);
    wf_build_segment_end(z->s);
    return segment;
}

/* As choose does it where all go over windows. */
static void read_near(wf_schedule *s) {
    const wf_choices choices = near_choices(&s->rank);
    for (int32_t e = 0; e < s->nexchanges; e++) s->exchanges[e].transport = s->exchanges[e].receive_transport = WF_TRANSPORT_WINDOW;
    wf_read_in_place(s, &choices);
}

static wf_schedule *zero_rank(const program *q, int32_t rank) {
    zero z;
    int32_t members[8];
    must(wf_schedule_create(rank, q->ranks, &z.s));
    z.in_place = strcmp(q->name, "in-place") == 0;
    for (int32_t i = 0; i < q->ranks; i++) {
        const wf_range r = wf_shard(ROWS, q->ranks, i);
        members[i] = i;
        z.rows[i] = (wf_rows){r.first, r.count};
    }
    z.group = wf_build_group(z.s, WF_AXIS_DP, members, q->ranks);
    z.shard = wf_build_slot(z.s, "w", WF_CLASS_PARAMETER, WF_F32, z.rows[rank].count * COLUMNS, q->layers);
    z.gradient = wf_build_slot(z.s, "w.grad", WF_CLASS_GRADIENT, WF_F32, z.rows[rank].count * COLUMNS, q->layers);
    z.x = wf_build_slot(z.s, "x", WF_CLASS_IO, WF_F32, WIDTH, 1);
    z.gathered = wf_build_pool(z.s, "w.gathered", WF_CLASS_PARAMETER, WF_F32, WIDTH);
    const int32_t gather = gather_weights(&z), forward = use_forward(&z), backward = use_backward(&z);
    const int32_t n = 2 * q->layers;
    wf_call *gathers = calloc((size_t)n, sizeof *gathers), *uses = calloc((size_t)n, sizeof *uses);
    for (int32_t k = 0; k < n; k++) {
        const int32_t layer = k < q->layers ? k : n - 1 - k;
        gathers[k] = (wf_call){.segment = gather, .layer = layer};
        uses[k] = (wf_call){.segment = k < q->layers ? forward : backward, .layer = layer};
    }
    wf_build_pool_count(z.s, z.gathered, wf_gathered_program(z.s, gathers, uses, n, 2));
    free(gathers);
    free(uses);
    must(wf_build_finish(z.s));
    if (z.in_place) read_near(z.s);
    return finish(z.s);
}

/* ---- experts ---------------------------------------------------------------------------------------------- */

/* Rows of one peer: at most EXPERT_BOUND, as many as run-time source `source` says. */
static wf_view tokens_of(int32_t buffer, int32_t peer, int source) {
    wf_view view = wf_matrix(buffer, WF_AT_NONE, (int64_t)peer * EXPERT_BOUND * COLUMNS, EXPERT_BOUND, COLUMNS, COLUMNS);
    view.source[0] = (int8_t)source;
    return view;
}

/* Hop k of an all-to-all of views by peer: what goes to `to`, what comes from `from`. */
static void all_to_all(wf_schedule *s, const char *site, int32_t out, int32_t out_source, int32_t in, int32_t in_source) {
    for (int32_t k = 1; k < s->ranks; k++) {
        const int32_t to = (s->rank + k) % s->ranks, from = (s->rank + s->ranks - k) % s->ranks;
        wf_view send = tokens_of(out, to, out_source + to), receive = tokens_of(in, from, in_source + from);
        if (out_source < 0) {
            send = wf_vector(out, WF_AT_NONE, to, 1);
            receive = wf_vector(in, WF_AT_NONE, from, 1);
        }
        wf_build_hop(s, site, WF_LANE_EP, WF_ALL_TO_ALL, 0, k, to, &send, from, &receive);
    }
}

/* Sources: to rank r is value r, from rank r is value 8 + r. Own tokens do not travel. */
static wf_schedule *expert_rank(const program *q, int32_t rank) {
    wf_schedule *s;
    int32_t members[8];
    must(wf_schedule_create(rank, q->ranks, &s));
    for (int32_t i = 0; i < q->ranks; i++) members[i] = i;
    wf_build_group(s, WF_AXIS_EP, members, q->ranks);
    const int32_t x = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, WIDTH, 1);
    const int32_t w = wf_build_slot(s, "w", WF_CLASS_PARAMETER, WF_F32, WIDTH, q->layers);
    const int32_t segment = wf_build_segment(s, "experts.forward");
    const int64_t room = (int64_t)q->ranks * EXPERT_BOUND * COLUMNS;
    const int32_t counts = wf_build_scratch(s, "counts", WF_I32, q->ranks), asked = wf_build_scratch(s, "asked", WF_I32, q->ranks);
    const int32_t out = wf_build_scratch(s, "sent", WF_F32, room), in = wf_build_scratch(s, "received", WF_F32, room);
    const int32_t answer = wf_build_scratch(s, "answer", WF_F32, room), back = wf_build_scratch(s, "back", WF_F32, room);
    wf_view views[20];
    int n = 0;
    views[n++] = whole(x, WF_AT_NONE);
    views[n++] = wf_vector(counts, WF_AT_NONE, 0, q->ranks);
    for (int32_t r = 0; r < q->ranks; r++) views[n++] = tokens_of(out, r, r);
    compute(s, "route", 1, 0, n - 1, views);
    all_to_all(s, "counts", counts, -1, asked, -1);
    all_to_all(s, "dispatch", out, 0, in, 8);
    for (int32_t r = 0; r < q->ranks; r++)
        compute(s, "expert", 2, 0, 1,
                VIEWS(tokens_of(r == rank ? out : in, r, r == rank ? r : 8 + r), whole(w, WF_AT_LAYER),
                      tokens_of(r == rank ? back : answer, r, r == rank ? r : 8 + r)));
    all_to_all(s, "combine", answer, 8, back, 0);
    n = 0;
    for (int32_t r = 0; r < q->ranks; r++) views[n++] = tokens_of(back, r, r);
    views[n++] = whole(x, WF_AT_NONE);
    compute(s, "merge", n - 1, 1, 0, views);
    wf_build_segment_end(s);
    for (int32_t layer = 0; layer < q->layers; layer++)
        wf_build_call(s, &(wf_call){.segment = segment, .layer = layer});
    return finish(s);
}

/* ---- decoding with a cache ---------------------------------------------------------------------------------- */

/* Value 0 is the number of positions that the cache holds after this step. */
static wf_schedule *decode_rank(const program *q, int32_t rank) {
    wf_schedule *s;
    int32_t members[8];
    wf_rows rows[8];
    must(wf_schedule_create(rank, q->ranks, &s));
    for (int32_t i = 0; i < q->ranks; i++) {
        const wf_range r = wf_shard(ROWS, q->ranks, i);
        members[i] = i;
        rows[i] = (wf_rows){r.first, r.count};
    }
    const int32_t group = wf_build_group(s, WF_AXIS_TP, members, q->ranks);
    const int32_t x = wf_build_slot(s, "x", WF_CLASS_IO, WF_F32, WIDTH, 1);
    const int32_t w = wf_build_slot(s, "w", WF_CLASS_PARAMETER, WF_F32, WIDTH, q->layers);
    const int32_t cache = wf_build_slot(s, "cache", WF_CLASS_CACHE, WF_F32, CACHE_BOUND * COLUMNS, q->layers);
    wf_view past = wf_matrix(cache, WF_AT_LAYER, 0, CACHE_BOUND, COLUMNS, COLUMNS);
    past.source[0] = 0;
    const int32_t segment = wf_build_segment(s, "layer.decode");
    const int32_t y = wf_build_scratch(s, "y", WF_F32, WIDTH);
    const wf_view all = wf_matrix(y, WF_AT_NONE, 0, ROWS, COLUMNS, COLUMNS);
    const wf_view own = wf_matrix(y, WF_AT_NONE, rows[rank].first * COLUMNS, rows[rank].count, COLUMNS, COLUMNS);
    compute(s, "cache.append", 2, 1, 0, VIEWS(whole(x, WF_AT_NONE), whole(w, WF_AT_LAYER), past));
    compute(s, "attn", 2, 0, 1, VIEWS(whole(x, WF_AT_NONE), past, own));
    wf_build_all_gather(s, "attn.gather", WF_LANE_TP, group, &all, rows);
    compute(s, "out", 1, 1, 0, VIEWS(all, whole(x, WF_AT_NONE)));
    wf_build_segment_end(s);
    for (int32_t layer = 0; layer < q->layers; layer++)
        wf_build_call(s, &(wf_call){.segment = segment, .layer = layer});
    return finish(s);
}

wf_schedule *program_rank(const program *q, int32_t rank) {
    static const struct {
        const char *name;
        wf_schedule *(*rank)(const program *, int32_t);
    } kinds[] = {{"pipeline", pipeline_rank}, {"pipedream", pipeline_rank}, {"zero3", zero_rank}, {"in-place", zero_rank},
                 {"experts", expert_rank},    {"decode", decode_rank}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(q->name, kinds[i].name) == 0) return kinds[i].rank(q, rank);
    fprintf(stderr, "no program is named %s\n", q->name);
    abort();
}
