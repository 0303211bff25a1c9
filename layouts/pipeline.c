/* pipeline.c: orders of (forward or backward, chunk, microbatch), and the calls that carry them out.
 *
 * A send gives its buffer back at once; its bytes are reused by a later receive, which then waits
 * for that send. One freed instance is therefore kept in quarantine: without it the interleaved
 * pipeline waits in a circle. */
#include "layouts/pipeline.h"

#include <stdlib.h>
#include <string.h>

/* ---- order ---------------------------------------------------------------------------------------- */

static wf_status check_pipeline(const wf_pipeline_shape *p) {
    if (p->stages < 1 || p->stage < 0 || p->stage >= p->stages || p->chunks < 1 || p->microbatches < 1)
        return wf_fail(WF_ERR_ARGUMENT, "a pipeline of %d stages, %d chunks, %d microbatches has no stage %d",
                       p->stages, p->chunks, p->microbatches, p->stage);
    if (p->chunks == 1) return WF_OK;
    if (p->form != WF_1F1B)
        return wf_fail(WF_ERR_ARGUMENT, "only 1f1b interleaves virtual stages (vp%d)", p->chunks);
    if (p->microbatches % p->stages != 0)
        return wf_fail(WF_ERR_ARGUMENT, "interleaving needs microbatches (mb%d) to be a multiple of stages (pp%d)",
                       p->microbatches, p->stages);
    return WF_OK;
}

/* Forwards before the first backward. */
static int32_t warm_up(const wf_pipeline_shape *p) {
    const int32_t total = p->chunks * p->microbatches;
    int32_t n = p->stages - p->stage - 1;
    if (p->form == WF_GPIPE) n = total;
    if (p->chunks > 1) n = 2 * n + (p->chunks - 1) * p->stages;
    return n < total ? n : total;
}

/* The k-th forward (or backward): microbatches in rounds of `stages`, each round through all chunks. */
static wf_pipeline_item item_of(const wf_pipeline_shape *p, bool backward, int32_t k) {
    const int32_t round = p->chunks > 1 ? p->stages : 1, per_round = round * p->chunks;
    const int32_t chunk = k % per_round / round;
    return (wf_pipeline_item){.backward = backward, .chunk = backward ? p->chunks - 1 - chunk : chunk,
                              .microbatch = k / per_round * round + k % round};
}

wf_status wf_pipeline_order(const wf_pipeline_shape *p, wf_pipeline_item *items_out) {
    TRY(check_pipeline(p));
    const int32_t total = p->chunks * p->microbatches, ahead = warm_up(p);
    int32_t n = 0;
    for (int32_t k = 0; k < ahead; k++) items_out[n++] = item_of(p, false, k);
    for (int32_t k = 0; k < total; k++) {
        if (ahead + k < total) items_out[n++] = item_of(p, false, ahead + k);
        items_out[n++] = item_of(p, true, k);
    }
    return WF_OK;
}

/* ---- calls ---------------------------------------------------------------------------------------- */

typedef struct pipeline {
    wf_schedule *schedule;
    const wf_pipeline_shape *shape;
    const wf_pipeline_segments *segments;
    int32_t layers, most;       /* of the model; most of one chunk */
    int32_t summing;            /* the layer whose gradients are being summed; -1 */
    wf_free_list *x, *dx, *saved, *weights;
    int32_t *head_x;            /* per microbatch: what the head will read */
    int32_t *saved_of;          /* per microbatch and layer of this stage */
    int32_t *x_of;              /* likewise: its input, where it is kept */
    int32_t *version_of;        /* likewise: the weights that the forward used */
    int32_t *current;           /* per layer of this stage: newest version */
    int32_t *users;             /* per version instance: microbatches in flight, and 1 while current */
    bool *begun;                /* per layer of this stage: its gradient holds something */
    bool head_begun, embed_begun;
} pipeline;

static wf_range layers_of(const pipeline *p, int32_t chunk) {
    return wf_shard(p->layers, p->shape->chunks * p->shape->stages, chunk * p->shape->stages + p->shape->stage);
}

static void call(pipeline *p, int32_t segment, wf_call call) {
    call.segment = segment;
    if (segment >= 0) wf_build_call(p->schedule, &call);
}

static wf_call call_of(int32_t layer, int32_t microbatch, wf_at a, int32_t instance_a, wf_at b, int32_t instance_b) {
    wf_call c = {.layer = layer, .microbatch = microbatch};
    c.at[a] = instance_a;
    c.at[b] = instance_b;
    return c;
}

static void leave_version(pipeline *p, int32_t version) {
    if (--p->users[version] == 0) wf_free_list_give(p->weights, version);
}

static bool is_first(const pipeline *p, int32_t chunk) {
    return p->shape->stage == 0 && chunk == 0;
}

static bool is_last(const pipeline *p, int32_t chunk) {
    return p->shape->stage == p->shape->stages - 1 && chunk == p->shape->chunks - 1;
}

static void forward(pipeline *p, int32_t chunk, int32_t m) {
    const wf_range layers = layers_of(p, chunk);
    const wf_pipeline_segments *g = p->segments;
    int32_t x = wf_free_list_take(p->x);
    call(p, is_first(p, chunk) ? g->embed : g->receive_forward,
         call_of((int32_t)layers.first, m, WF_AT_X_OUT, x, WF_AT_NONE, 0));
    for (int32_t i = 0; i < layers.count; i++) {
        const int32_t local = chunk * p->most + i, slot = m * p->shape->chunks * p->most + local;
        const int32_t y = wf_free_list_take(p->x);
        wf_call c = call_of((int32_t)layers.first + i, m, WF_AT_X_IN, x, WF_AT_X_OUT, y);
        c.at[WF_AT_SAVED] = p->saved_of[slot] = wf_free_list_take(p->saved);
        c.at[WF_AT_WEIGHTS] = p->version_of[slot] = p->current[local];
        p->users[p->current[local]]++;
        call(p, g->forward, c);
        if (g->keep_x)
            p->x_of[slot] = x;
        else
            wf_free_list_give(p->x, x);
        x = y;
    }
    if (is_last(p, chunk)) {
        p->head_x[m] = x;
        return;
    }
    call(p, g->send_forward, call_of((int32_t)(layers.first + layers.count), m, WF_AT_X_IN, x, WF_AT_NONE, 0));
    wf_free_list_give(p->x, x);
}

/* PipeDream: the gradient of one microbatch makes a new version of the newest weights. */
static void update(pipeline *p, int32_t layer, int32_t local, int32_t m) {
    if (p->segments->update < 0) return;
    const int32_t version = wf_free_list_take(p->weights);
    call(p, p->segments->update, call_of(layer, m, WF_AT_X_IN, p->current[local], WF_AT_WEIGHTS, version));
    leave_version(p, p->current[local]);
    p->users[version] = 1;
    p->current[local] = version;
    p->begun[local] = false;
}

/* The sums that are on their way end. */
static void end_sums(pipeline *p) {
    if (p->summing >= 0) call(p, p->segments->sums, (wf_call){.layer = p->summing});
    p->summing = -1;
}

static void begin_sums(pipeline *p, int32_t layer, int32_t m) {
    if (p->segments->sums < 0 || m + 1 < p->shape->microbatches) return;
    end_sums(p);
    call(p, p->segments->sums_send, (wf_call){.layer = layer});
    p->summing = layer;
}

static void backward(pipeline *p, int32_t chunk, int32_t m) {
    const wf_range layers = layers_of(p, chunk);
    const wf_pipeline_segments *g = p->segments;
    int32_t dx = wf_free_list_take(p->dx);
    if (is_last(p, chunk)) {
        call(p, p->head_begun ? g->head : g->head_first, call_of(p->layers, m, WF_AT_X_IN, p->head_x[m], WF_AT_DX_OUT, dx));
        p->head_begun = true;
        wf_free_list_give(p->x, p->head_x[m]);
    } else {
        call(p, g->receive_backward,
             call_of((int32_t)(layers.first + layers.count), m, WF_AT_DX_OUT, dx, WF_AT_NONE, 0));
    }
    for (int32_t i = (int32_t)layers.count - 1; i >= 0; i--) {
        const int32_t local = chunk * p->most + i, slot = m * p->shape->chunks * p->most + local;
        const int32_t layer = (int32_t)layers.first + i, dy = wf_free_list_take(p->dx);
        wf_call c = call_of(layer, m, WF_AT_DX_IN, dx, WF_AT_DX_OUT, dy);
        c.at[WF_AT_SAVED] = p->saved_of[slot];
        c.at[WF_AT_WEIGHTS] = p->version_of[slot];
        c.at[WF_AT_X_IN] = p->x_of[slot];
        call(p, p->begun[local] ? g->backward : g->backward_first, c);
        p->begun[local] = true;
        wf_free_list_give(p->saved, p->saved_of[slot]);
        if (g->keep_x) wf_free_list_give(p->x, p->x_of[slot]);
        wf_free_list_give(p->dx, dx);
        leave_version(p, p->version_of[slot]);
        update(p, layer, local, m);
        begin_sums(p, layer, m);
        dx = dy;
    }
    const int32_t embed_backward = p->embed_begun ? g->embed_backward : g->embed_backward_first;
    call(p, is_first(p, chunk) ? embed_backward : g->send_backward,
         call_of((int32_t)layers.first, m, WF_AT_DX_IN, dx, WF_AT_NONE, 0));
    p->embed_begun = true;
    wf_free_list_give(p->dx, dx);
    end_sums(p);
}

/* Everything per microbatch and layer; versions never outnumber those in flight by more than two per layer. */
static wf_status prepare(pipeline *p) {
    const size_t local = (size_t)p->shape->chunks * (size_t)p->most + 1, m = (size_t)p->shape->microbatches;
    p->x = wf_free_list_create(p->schedule);
    p->dx = wf_free_list_create(p->schedule);
    p->saved = wf_free_list_create(p->schedule);
    p->weights = wf_free_list_create(p->schedule);
    p->head_x = calloc(m, sizeof *p->head_x);
    p->saved_of = calloc(m * local, sizeof *p->saved_of);
    p->x_of = calloc(m * local, sizeof *p->x_of);
    p->version_of = calloc(m * local, sizeof *p->version_of);
    p->current = calloc(local, sizeof *p->current);
    p->users = calloc((m + 2) * local, sizeof *p->users);
    p->begun = calloc(local, sizeof *p->begun);
    if (!p->x || !p->dx || !p->saved || !p->weights || !p->head_x || !p->saved_of || !p->x_of || !p->version_of ||
        !p->current || !p->users || !p->begun)
        return wf_fail(WF_ERR_MEMORY, "no host memory for a pipeline's program");
    if (p->shape->stages > 1) {
        wf_free_list_quarantine(p->x, 1);
        wf_free_list_quarantine(p->dx, 1);
    }
    for (int32_t c = 0; c < p->shape->chunks; c++)
        for (int32_t i = 0; i < layers_of(p, c).count; i++) {
            const int32_t version = wf_free_list_take(p->weights);
            p->current[c * p->most + i] = version;
            p->users[version] = 1;
        }
    return WF_OK;
}

static wf_status generate(pipeline *p, wf_pipeline_counts *counts_out) {
    const int32_t n = 2 * p->shape->chunks * p->shape->microbatches;
    wf_pipeline_item *items = calloc((size_t)n, sizeof *items);
    if (!items) return wf_fail(WF_ERR_MEMORY, "no host memory for a pipeline's program");
    wf_status status = wf_pipeline_order(p->shape, items);
    if (status == WF_OK) status = prepare(p);
    for (int32_t i = 0; status == WF_OK && i < n; i++)
        (items[i].backward ? backward : forward)(p, items[i].chunk, items[i].microbatch);
    free(items);
    if (status == WF_OK)
        *counts_out = (wf_pipeline_counts){wf_free_list_count(p->x), wf_free_list_count(p->dx),
                                           wf_free_list_count(p->saved), wf_free_list_count(p->weights)};
    return status;
}

wf_status wf_pipeline_program(wf_schedule *s, const wf_pipeline_shape *shape, int32_t layers,
                              const wf_pipeline_segments *segments, wf_pipeline_counts *counts_out) {
    TRY(check_pipeline(shape));
    pipeline p = {.schedule = s, .shape = shape, .segments = segments, .layers = layers, .summing = -1};
    p.most = (int32_t)wf_shard(layers, shape->chunks * shape->stages, 0).count;
    const wf_status status = generate(&p, counts_out);
    free(p.head_x);
    free(p.saved_of);
    free(p.x_of);
    free(p.version_of);
    free(p.current);
    free(p.users);
    free(p.begun);
    return status;
}

int32_t wf_gathered_program(wf_schedule *s, const wf_call *gather, const wf_call *use, int32_t n, int32_t ahead) {
    wf_free_list *weights = wf_free_list_create(s);
    int32_t *instance = calloc((size_t)n + 1, sizeof *instance);
    if (!instance) wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for a program of %d uses", n));
    for (int32_t k = 0, gathered = 0; instance && k < n; k++) {
        for (; gathered < n && gathered <= k + ahead; gathered++) {
            wf_call c = gather[gathered];
            c.at[WF_AT_WEIGHTS] = instance[gathered] = wf_free_list_take(weights);
            wf_build_call(s, &c);
        }
        wf_call c = use[k];
        c.at[WF_AT_WEIGHTS] = instance[k];
        wf_build_call(s, &c);
        wf_free_list_give(weights, instance[k]);
    }
    free(instance);
    return wf_free_list_count(weights);
}
