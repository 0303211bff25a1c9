/* lower.c: a training step (or an evaluation) as segments and a program.
 *
 * What is refused, the sizes of this rank's shards, the buffers, and the list of calls: forward
 * over the layers, head, backward over the layers, per microbatch; then sums, norm and AdamW per
 * layer. The segments themselves are lower_embedding.c, lower_layer.c, lower_head.c,
 * lower_optimizer.c.
 *
 * Deliberately not here: dp, pp, ep, ZeRO, offload. They are parsed
 * (layout.c) and refused. */
#include <stdlib.h>
#include <string.h>

#include "layouts/lowering.h"
#include "layouts/pipeline.h"

/* ---- refusals -------------------------------------------------------------------------------- */

static wf_status check_layout(const wf_layout *layout) {
    const struct {
        bool asked;
        const char *what;
    } missing[] = {{layout->size[WF_AXIS_EP] > 1, "expert parallelism (ep)"},
                   {layout->size[WF_AXIS_DP] > 1, "data parallelism (dp)"},
                   {layout->size[WF_AXIS_PP] > 1, "pipelines (pp, vp)"},
                   {layout->zero > 0, "sharded optimizer state (zero)"},
                   {layout->offload_activations, "offloaded activations (offload-activations)"}};
    char text[WF_LAYOUT_BYTES];
    wf_layout_print(layout, text, sizeof text);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (missing[i].asked)
            return wf_fail(WF_ERR_UNSUPPORTED,
                           "layout %s: not lowered yet: %s; tpN, sp, cpN, chunksN, mbN, loss-chunksN and recompute are", text,
                           missing[i].what);
    if (layout->chunks > 1 && layout->size[WF_AXIS_TP] == 1)
        return wf_fail(WF_ERR_ARGUMENT, "layout %s: chunks cuts what tp exchanges, and there is no tp of 2 or more", text);
    return WF_OK;
}

static wf_status check_shape(const wf_model *m, const wf_shape *shape, const wf_layout *layout) {
    int64_t tokens, elements;
    if (shape->batch < 1 || shape->sequence < 1)
        return wf_fail(WF_ERR_ARGUMENT, "a batch of %lld sequences of %lld tokens holds nothing",
                       (long long)shape->batch, (long long)shape->sequence);
    if (shape->sequence > m->positions)
        return wf_fail(WF_ERR_ARGUMENT,
                       "a sequence of %lld tokens is longer than the model's %lld positions",
                       (long long)shape->sequence, (long long)m->positions);
    if (shape->batch % layout->microbatches)
        return wf_fail(WF_ERR_ARGUMENT,
                       "a batch of %lld sequences does not divide into mb%d microbatches",
                       (long long)shape->batch, layout->microbatches);
    const int64_t widest =
        m->vocabulary + 2 * m->features + 3 * m->heads * m->head_size + m->hidden;
    if (__builtin_mul_overflow(shape->batch, shape->sequence, &tokens) ||
        __builtin_mul_overflow(tokens, widest, &elements) || elements > INT64_MAX / 4096)
        return wf_fail(WF_ERR_ARGUMENT,
                       "a batch of %lld sequences of %lld tokens is too large to count",
                       (long long)shape->batch, (long long)shape->sequence);
    return WF_OK;
}

static wf_status check(const wf_model *m, const wf_shape *shape, const wf_layout *layout,
                       int32_t rank, wf_mode mode) {
    if (mode < 0 || mode >= WF_MODES)
        return wf_fail(WF_ERR_ARGUMENT, "there is no mode %d", (int)mode);
    TRY(wf_model_check(m));
    TRY(check_layout(layout));
    if (layout->order < 0 || layout->order >= WF_ORDERS)
        return wf_fail(WF_ERR_ARGUMENT, "there is no order %d of weights", layout->order);
    if (rank < 0 || rank >= wf_layout_ranks(layout))
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d in a layout of %d ranks", rank,
                       wf_layout_ranks(layout));
    return check_shape(m, shape, layout);
}

/* ---- sizes and buffers ----------------------------------------------------------------------- */

/* The rank's places along cp, and what attention itself works on. */
static void set_context(wf_lowering *L, int32_t cp) {
    const int32_t ulysses = wf_layout_ulysses(&L->layout);
    L->cp = (wf_team){L->layout.size[WF_AXIS_CP], cp, -1};
    L->ring = (wf_team){wf_layout_ring(&L->layout), cp / ulysses, -1};
    L->ulysses = (wf_team){ulysses, cp % ulysses, -1};
    const wf_range part = wf_ulysses_shard(&L->layout, L->heads.count, L->ulysses.me);
    L->domain.heads = (wf_range){L->heads.first + part.first, part.count};
    L->domain.kv = wf_model_kv_of(L->model, L->domain.heads);
    L->domain.positions = wf_model_ring_positions(L->model, &L->layout, L->sequence, L->ring.me);
}

static void set_sizes(wf_lowering *L, const wf_shape *shape, int32_t rank) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(&L->layout, rank, at);
    L->tp = L->layout.size[WF_AXIS_TP];
    L->me = at[WF_AXIS_TP];
    L->sp = L->layout.sp && L->tp > 1;
    L->microbatches = L->layout.microbatches;
    L->b = shape->batch / L->microbatches;
    L->sequence = shape->sequence;
    L->packed = shape->documents;
    L->local = wf_model_positions(L->model, &L->layout, L->sequence, rank);
    L->positions = wf_model_own_positions(L->model, &L->layout, L->sequence, rank);
    L->rows = L->b * L->local.count;
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range range =
            wf_layout_shard(&L->layout, WF_AXIS_TP, L->sp ? L->local.count : L->rows, i);
        const int64_t each = L->sp ? L->b : 1;
        L->block[i] = (wf_rows){range.first * each, range.count * each};
    }
    L->own = L->sp ? L->block[L->me] : (wf_rows){0, L->rows};
    L->heads = wf_layout_shard(&L->layout, WF_AXIS_TP, L->model->heads, L->me);
    L->kv = wf_model_kv_heads(L->model, &L->layout, L->me);
    set_context(L, at[WF_AXIS_CP]);
    L->features = wf_layout_shard(&L->layout, WF_AXIS_TP, L->model->features, L->me);
    L->ids = wf_layout_shard(&L->layout, WF_AXIS_TP, L->model->vocabulary, L->me);
    wf_model_parameters(L->model, L->table);
    for (int t = 0; t < WF_TENSORS; t++)
        wf_model_shard(L->model, &L->table[t], &L->layout, rank, &L->shard[t]);
    for (int t = 0; t < WF_TENSORS; t++) {
        L->order[t] = wf_model_order(L->model, t, &L->layout);
        L->elements[t] = wf_order_elements(L->order[t], L->shard[t].rows, L->shard[t].columns);
    }
    for (int t = 0; t < WF_TENSORS; t++)
        L->square[t] = L->table[t].rows ? L->nsquares++ : -1;
}

/* A group of every `stride`-th of these ranks from `first` on; -1: alone. */
static int32_t group_of(wf_lowering *L, wf_axis axis, const int32_t *ranks, int32_t first, int32_t count, int32_t stride) {
    if (count == 1) return -1;
    int32_t *const members = malloc((size_t)count * sizeof *members);
    for (int32_t i = 0; members && i < count; i++) members[i] = ranks[first + i * stride];
    if (!members) wf_build_fail(L->s, wf_fail(WF_ERR_MEMORY, "no host memory for a group of %d ranks", count));
    const int32_t group = members ? wf_build_group(L->s, axis, members, count) : -1;
    free(members);
    return group;
}

static wf_status set_groups(wf_lowering *L, int32_t rank) {
    const int32_t most = L->tp > L->cp.ranks ? L->tp : L->cp.ranks;
    int32_t *ranks = malloc((size_t)most * sizeof *ranks);
    if (!ranks) return wf_fail(WF_ERR_MEMORY, "no host memory for a group of %d ranks", most);
    wf_mesh_group(&L->layout, rank, WF_AXIS_TP, ranks);
    L->group = group_of(L, WF_AXIS_TP, ranks, 0, L->tp, 1);
    wf_mesh_group(&L->layout, rank, WF_AXIS_CP, ranks);
    L->cp.group = group_of(L, WF_AXIS_CP, ranks, 0, L->cp.ranks, 1);
    L->ring.group = group_of(L, WF_AXIS_CP, ranks, L->ulysses.me, L->ring.ranks, L->ulysses.ranks);
    L->ulysses.group = group_of(L, WF_AXIS_CP, ranks, L->ring.me * L->ulysses.ranks, L->ulysses.ranks, 1);
    free(ranks);
    return WF_OK;
}

/* Parameters first, in the table's order, in every schedule of the model: plans share their memory.
 */
static void parameter_slots(wf_lowering *L) {
    static const struct {
        const char *suffix;
        wf_class class_;
    } kinds[WF_KINDS] = {{"", WF_CLASS_PARAMETER},
                         {".grad", WF_CLASS_GRADIENT},
                         {".m", WF_CLASS_OPTIMIZER},
                         {".v", WF_CLASS_OPTIMIZER}};
    const int n = L->mode == WF_MODE_TRAIN ? WF_KINDS
                  : L->training            ? WF_KIND_GRAD + 1
                                           : WF_KIND_VALUE + 1;
    for (int kind = 0; kind < n; kind++)
        for (int t = 0; t < WF_TENSORS; t++)
            L->slot[kind][t] = wf_build_slot(
                L->s, wf_build_text(L->s, "%s%s", L->table[t].name, kinds[kind].suffix),
                kinds[kind].class_, WF_F32, L->elements[t],
                L->table[t].per_layer ? (int32_t)L->model->layers : 1);
}

/* The ranks of `members` that read kv head `head`: neighbours. */
static wf_range holders_of(const wf_lowering *L, int64_t head) {
    wf_range held = {0, 0};
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range kv = wf_model_kv_heads(L->model, &L->layout, i);
        if (head < kv.first || head >= kv.first + kv.count) continue;
        if (held.count++ == 0) held.first = i;
    }
    return held;
}

/* A group per kv head that this rank shares with others, in ascending order of heads: all ranks that
 * are in two groups exchange in the same order. */
static wf_status set_shared_heads(wf_lowering *L, int32_t rank) {
    int32_t *members = malloc((size_t)L->tp * sizeof *members);
    L->shared = calloc((size_t)L->kv.count + 1, sizeof *L->shared);
    if (!members || !L->shared) {
        free(members);
        return wf_fail(WF_ERR_MEMORY, "no host memory for groups of %d ranks", L->tp);
    }
    wf_mesh_group(&L->layout, rank, WF_AXIS_TP, members);
    for (int64_t i = 0; i < L->kv.count; i++) {
        const wf_range held = holders_of(L, L->kv.first + i);
        if (held.count < 2) continue;
        const int32_t n = (int32_t)held.count, first = (int32_t)held.first;
        L->shared[L->nshared++] = (wf_shared_head){
            i, wf_build_group(L->s, WF_AXIS_TP, members + first, n), n, L->me - first};
    }
    free(members);
    return WF_OK;
}

static void io_slots(wf_lowering *L) {
    const int32_t count = L->microbatches;
    const int64_t all = L->sequence * L->b;
    L->tokens = wf_build_slot(L->s, "tokens", WF_CLASS_IO, WF_I32, L->rows, count);
    if (L->packed) {
        L->documents = wf_build_slot(L->s, "documents", WF_CLASS_IO, WF_I32, 2 * all, count);
        L->documents_at = WF_AT_MICROBATCH;
    }
    if (L->packed && wf_lower_has(L, WF_T_POSITION_EMBEDDING))
        L->places = wf_build_slot(L->s, "places", WF_CLASS_IO, WF_I32, L->rows, count);
    if (L->mode == WF_MODE_LOGITS) {
        L->logits = wf_build_slot(L->s, "logits", WF_CLASS_IO, WF_F32,
                                  all * L->model->vocabulary, count);
        return;
    }
    if (L->mode == WF_MODE_HIDDEN) {
        L->hidden_all = wf_build_slot(L->s, "hidden.all", WF_CLASS_IO, WF_F32,
                                      all * L->model->hidden, count);
        return;
    }
    L->targets = wf_build_slot(L->s, "targets", WF_CLASS_IO, WF_I32, L->rows, count);
    L->loss = wf_build_slot(L->s, "loss", WF_CLASS_IO, WF_F32, 2, 1);
    if (L->mode == WF_MODE_TRAIN) L->clip = wf_build_slot(L->s, "clip", WF_CLASS_IO, WF_F32, 2, 1);
    if (L->mode == WF_MODE_GRADIENTS)
        L->hidden = wf_build_slot(L->s, "hidden", WF_CLASS_IO, WF_F32,
                                  L->own.count * L->model->hidden, count);
}

static void pools(wf_lowering *L) {
    const int64_t own = L->own.count * L->model->hidden;
    L->x = wf_build_pool(L->s, "x", WF_CLASS_ACTIVATION, WF_F32, own);
    wf_lower_embedding_pools(L);
    wf_lower_layer_pools(L);
    L->dx = L->training ? wf_build_pool(L->s, "dx", WF_CLASS_ACTIVATION, WF_F32, own) : -1;
    L->squares = L->mode == WF_MODE_TRAIN
                     ? wf_build_pool(L->s, "grad.squares", WF_CLASS_ACTIVATION, WF_F32, L->nsquares)
                     : -1;
}

/* ---- the program ----------------------------------------------------------------------------- */

/* Segments that follow the microbatches; -1: not in this mode. */
typedef struct last_segments {
    int32_t finish, layer_finish, gradnorm, layer_optimizer, optimizer;
} last_segments;

/* One stage of a pipeline: no sends and receives. A backward reads its layer's input, x. */
static wf_pipeline_segments microbatch_segments(wf_lowering *L) {
    wf_pipeline_segments g = {.backward = -1, .backward_first = -1, .embed_backward = -1,
                              .embed_backward_first = -1, .update = -1, .sums_send = -1, .sums = -1,
                              .receive_forward = -1, .send_forward = -1,
                              .receive_backward = -1, .send_backward = -1,
                              .keep_x = L->training};
    g.embed = wf_lower_embedding_forward(L);
    g.forward = wf_lower_layer_forward(L);
    for (int first = 1; first >= 0; first--) {
        if (!first && L->microbatches == 1) break;
        *(first ? &g.head_first : &g.head) = wf_lower_head(L, first);
        if (!L->training) continue;
        *(first ? &g.backward_first : &g.backward) = wf_lower_layer_backward(L, first);
        *(first ? &g.embed_backward_first : &g.embed_backward) = wf_lower_embedding_backward(L, first);
    }
    if (!L->training) return g;
    g.sums_send = wf_lower_layer_sums_send(L);
    g.sums = wf_lower_layer_sums(L);
    return g;
}

static last_segments lower_last(wf_lowering *L) {
    last_segments g = {-1, -1, -1, -1, -1};
    g.finish = wf_lower_finish(L);
    if (!L->training) return g;
    g.layer_finish = wf_lower_layer_finish(L);
    if (L->mode != WF_MODE_TRAIN) return g;
    g.gradnorm = wf_lower_gradnorm(L);
    g.layer_optimizer = wf_lower_optimizer(L, true);
    g.optimizer = wf_lower_optimizer(L, false);
    return g;
}

static void call(wf_lowering *L, int32_t segment, int64_t layer) {
    const wf_call c = {.segment = segment, .layer = (int32_t)layer};
    if (segment >= 0) wf_build_call(L->s, &c);
}

static void last_calls(wf_lowering *L, const last_segments *g) {
    const int64_t layers = L->model->layers;
    call(L, g->finish, 0);
    for (int64_t layer = 0; layer < layers; layer++) call(L, g->layer_finish, layer);
    call(L, g->gradnorm, 0);
    for (int64_t layer = 0; layer < layers; layer++) call(L, g->layer_optimizer, layer);
    call(L, g->optimizer, 0);
}

static wf_status lower_program(wf_lowering *L) {
    const wf_pipeline_shape shape = {.form = L->layout.pipeline, .stages = 1, .chunks = 1,
                                     .microbatches = L->microbatches};
    wf_pipeline_counts counts;
    const wf_pipeline_segments segments = microbatch_segments(L);
    const last_segments last = lower_last(L);
    TRY(wf_pipeline_program(L->s, &shape, (int32_t)L->model->layers, &segments, &counts));
    last_calls(L, &last);
    wf_build_pool_count(L->s, L->x, counts.x);
    if (L->training) wf_build_pool_count(L->s, L->dx, counts.dx);
    for (int v = 0; v < WF_LAYER_VALUES; v++)
        if (L->saved[v] >= 0) wf_build_pool_count(L->s, L->saved[v], counts.saved);
    return WF_OK;
}

static wf_status open_at(wf_lowering *L, const wf_shape *shape, int32_t rank) {
    L->block = calloc((size_t)L->layout.size[WF_AXIS_TP], sizeof *L->block);
    if (!L->block)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the shards of %d ranks",
                       L->layout.size[WF_AXIS_TP]);
    set_sizes(L, shape, rank);
    TRY(set_groups(L, rank));
    TRY(set_shared_heads(L, rank));
    parameter_slots(L);
    if (L->model->position_form == WF_POSITIONS_ROPE)
        L->rope = wf_build_slot(L->s, "rope", WF_CLASS_IO, WF_F32,
                                L->local.count * L->model->head_size, 1);
    return WF_OK;
}

wf_status wf_lower_open(const wf_model *model, const wf_shape *shape, const wf_layout *layout,
                        int32_t rank, wf_mode mode, wf_lowering **out) {
    TRY(check(model, shape, layout, rank, mode));
    wf_lowering *L = calloc(1, sizeof *L);
    if (!L) return wf_fail(WF_ERR_MEMORY, "no host memory for lowering");
    L->model = model;
    L->layout = *layout;
    L->mode = mode;
    L->training = mode == WF_MODE_TRAIN || mode == WF_MODE_GRADIENTS;
    L->tokens = L->targets = L->loss = L->clip = L->logits = L->hidden = -1;
    L->hidden_all = L->rope = L->documents = L->places = -1;
    wf_status status = wf_schedule_create(rank, wf_layout_ranks(layout), &L->s);
    if (status == WF_OK) status = open_at(L, shape, rank);
    if (status != WF_OK) return wf_lower_close(L, status, NULL);
    *out = L;
    return WF_OK;
}

wf_status wf_lower_close(wf_lowering *L, wf_status status, wf_schedule **out) {
    if (status == WF_OK) status = wf_build_finish(L->s);
    if (status == WF_OK)
        *out = L->s;
    else
        wf_schedule_destroy(L->s);
    free(L->shared);
    free(L->block);
    free(L);
    return status;
}

wf_status wf_lower(const wf_model *model, const wf_shape *shape, const wf_layout *layout,
                   int32_t rank, wf_mode mode, wf_schedule **out) {
    wf_lowering *L = NULL;
    if (model->head_form == WF_HEAD_NONE && mode != WF_MODE_HIDDEN)
        return wf_fail(WF_ERR_UNSUPPORTED,
                       "the model has no head, and so neither logits nor a loss: its last hidden "
                       "states are all that it gives");
    TRY(wf_lower_open(model, shape, layout, rank, mode, &L));
    io_slots(L);
    pools(L);
    return wf_lower_close(L, lower_program(L), out);
}
