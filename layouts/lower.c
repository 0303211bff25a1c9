/* lower.c: a training step (or an evaluation) as segments and a program.
 *
 * What is refused, the sizes of this rank's shards, the buffers, and the list of calls: forward
 * over the layers, head, backward over the layers, per microbatch; then sums, norm and AdamW per
 * layer. The segments themselves are lower_embedding.c, lower_layer.c, lower_head.c,
 * lower_optimizer.c.
 *
 * Deliberately not here: cp, dp, pp, ep, ZeRO, recomputation, chunks, offload. They are parsed
 * (layout.c) and refused. */
#include <stdlib.h>
#include <string.h>

#include "layouts/lowering.h"

/* ---- refusals -------------------------------------------------------------------------------- */

static wf_status check_layout(const wf_layout *layout) {
    const struct {
        bool asked;
        const char *what;
    } missing[] = {{layout->size[WF_AXIS_CP] > 1, "context parallelism (cp)"},
                   {layout->size[WF_AXIS_EP] > 1, "expert parallelism (ep)"},
                   {layout->size[WF_AXIS_DP] > 1, "data parallelism (dp)"},
                   {layout->size[WF_AXIS_PP] > 1, "pipelines (pp, vp)"},
                   {layout->zero > 0, "sharded optimizer state (zero)"},
                   {layout->recompute != WF_RECOMPUTE_NONE, "recomputation (recompute)"},
                   {layout->chunks > 1, "chunked exchanges (chunks)"},
                   {layout->offload_activations, "offloaded activations (offload-activations)"}};
    char text[256];
    wf_layout_print(layout, text, sizeof text);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (missing[i].asked)
            return wf_fail(WF_ERR_UNSUPPORTED,
                           "layout %s: %s is not lowered yet; tpN, sp and mbN are", text,
                           missing[i].what);
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
    const int64_t widest = m->vocabulary + m->features + 3 * m->heads * m->head_size + m->hidden;
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
    if (rank < 0 || rank >= wf_layout_ranks(layout))
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d in a layout of %d ranks", rank,
                       wf_layout_ranks(layout));
    return check_shape(m, shape, layout);
}

/* ---- sizes and buffers ----------------------------------------------------------------------- */

static void set_sizes(wf_lowering *L, const wf_shape *shape, int32_t rank) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(&L->layout, rank, at);
    L->tp = L->layout.size[WF_AXIS_TP];
    L->me = at[WF_AXIS_TP];
    L->sp = L->layout.sp && L->tp > 1;
    L->microbatches = L->layout.microbatches;
    L->b = shape->batch / L->microbatches;
    L->sequence = shape->sequence;
    L->rows = L->b * L->sequence;
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range range =
            L->sp ? wf_shard(L->sequence, L->tp, i) : wf_shard(L->rows, L->tp, i);
        const int64_t each = L->sp ? L->b : 1;
        L->block[i] = (wf_rows){range.first * each, range.count * each};
    }
    L->positions = L->sp ? wf_shard(L->sequence, L->tp, L->me) : (wf_range){0, L->sequence};
    L->own = L->sp ? L->block[L->me] : (wf_rows){0, L->rows};
    L->heads = wf_shard(L->model->heads, L->tp, L->me);
    L->features = wf_shard(L->model->features, L->tp, L->me);
    L->ids = wf_shard(L->model->vocabulary, L->tp, L->me);
    wf_model_parameters(L->model, L->table);
    for (int t = 0; t < WF_TENSORS; t++)
        wf_model_shard(L->model, &L->table[t], &L->layout, rank, &L->shard[t]);
}

static wf_status set_group(wf_lowering *L, int32_t rank) {
    L->group = -1;
    if (L->tp == 1) return WF_OK;
    int32_t *members = malloc((size_t)L->tp * sizeof *members);
    if (!members) return wf_fail(WF_ERR_MEMORY, "no host memory for a group of %d ranks", L->tp);
    wf_mesh_group(&L->layout, rank, WF_AXIS_TP, members);
    L->group = wf_build_group(L->s, WF_AXIS_TP, members, L->tp);
    free(members);
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
                kinds[kind].class_, WF_F32, L->shard[t].rows * L->shard[t].columns,
                L->table[t].per_layer ? (int32_t)L->model->layers : 1);
}

static void io_slots(wf_lowering *L) {
    const int32_t count = L->microbatches;
    L->tokens = wf_build_slot(L->s, "tokens", WF_CLASS_IO, WF_I32, L->rows, count);
    L->targets = L->loss = L->clip = L->logits = L->hidden = -1;
    if (L->mode == WF_MODE_LOGITS) {
        L->logits = wf_build_slot(L->s, "logits", WF_CLASS_IO, WF_F32,
                                  L->rows * L->model->vocabulary, count);
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
    wf_lower_layer_pools(L);
    L->dx = L->training ? wf_build_pool(L->s, "dx", WF_CLASS_ACTIVATION, WF_F32, own) : -1;
    L->squares = L->mode == WF_MODE_TRAIN
                     ? wf_build_pool(L->s, "grad.squares", WF_CLASS_ACTIVATION, WF_F32, WF_TENSORS)
                     : -1;
}

/* ---- the program ----------------------------------------------------------------------------- */

/* Segments by what they do; [1]: the first microbatch's. */
typedef struct program {
    int32_t embedding, layer, head[2], layer_backward[2], embedding_backward[2];
    int32_t finish, layer_finish, gradnorm, layer_optimizer, optimizer;
    wf_free_list *x, *dx, *saved;
    int32_t *x_of, *saved_of; /* instances held, by layer: x_of has one more, the last output */
} program;

static void lower_segments(wf_lowering *L, program *p) {
    p->embedding = wf_lower_embedding_forward(L);
    p->layer = wf_lower_layer_forward(L);
    for (int first = 1; first >= 0; first--) {
        if (!first && L->microbatches == 1) break;
        p->head[first] = wf_lower_head(L, first);
        if (!L->training) continue;
        p->layer_backward[first] = wf_lower_layer_backward(L, first);
        p->embedding_backward[first] = wf_lower_embedding_backward(L, first);
    }
    if (!L->training) return;
    p->finish = wf_lower_finish(L);
    p->layer_finish = wf_lower_layer_finish(L);
    if (L->mode != WF_MODE_TRAIN) return;
    p->gradnorm = wf_lower_gradnorm(L);
    p->layer_optimizer = wf_lower_optimizer(L, true);
    p->optimizer = wf_lower_optimizer(L, false);
}

static void call(wf_lowering *L, int32_t segment, int64_t layer, int32_t microbatch,
                 const int32_t *at) {
    wf_call c = {.segment = segment, .layer = (int32_t)layer, .microbatch = microbatch};
    if (at) memcpy(c.at, at, sizeof c.at);
    wf_build_call(L->s, &c);
}

static void forward_calls(wf_lowering *L, program *p, int32_t microbatch) {
    const int64_t layers = L->model->layers;
    int32_t at[WF_ATS] = {0};
    at[WF_AT_X_OUT] = p->x_of[0] = wf_free_list_take(p->x);
    call(L, p->embedding, 0, microbatch, at);
    for (int64_t layer = 0; layer < layers; layer++) {
        at[WF_AT_X_IN] = p->x_of[layer];
        at[WF_AT_X_OUT] = p->x_of[layer + 1] = wf_free_list_take(p->x);
        if (L->training) at[WF_AT_SAVED] = p->saved_of[layer] = wf_free_list_take(p->saved);
        call(L, p->layer, layer, microbatch, at);
        if (!L->training) wf_free_list_give(p->x, p->x_of[layer]);
    }
}

static void backward_calls(wf_lowering *L, program *p, int32_t microbatch, int32_t dx) {
    const bool first = microbatch == 0;
    int32_t at[WF_ATS] = {0};
    for (int64_t layer = L->model->layers - 1; layer >= 0; layer--) {
        at[WF_AT_X_IN] = p->x_of[layer];
        at[WF_AT_SAVED] = p->saved_of[layer];
        at[WF_AT_DX_IN] = dx;
        at[WF_AT_DX_OUT] = wf_free_list_take(p->dx);
        call(L, p->layer_backward[first], layer, microbatch, at);
        wf_free_list_give(p->dx, dx);
        wf_free_list_give(p->x, p->x_of[layer]);
        wf_free_list_give(p->saved, p->saved_of[layer]);
        dx = at[WF_AT_DX_OUT];
    }
    at[WF_AT_DX_IN] = dx;
    call(L, p->embedding_backward[first], 0, microbatch, at);
    wf_free_list_give(p->dx, dx);
}

static void microbatch_calls(wf_lowering *L, program *p, int32_t microbatch) {
    const int32_t last = (int32_t)L->model->layers;
    int32_t at[WF_ATS] = {0};
    forward_calls(L, p, microbatch);
    at[WF_AT_X_IN] = p->x_of[last];
    if (L->training) at[WF_AT_DX_OUT] = wf_free_list_take(p->dx);
    call(L, p->head[microbatch == 0], 0, microbatch, at);
    wf_free_list_give(p->x, p->x_of[last]);
    if (L->training) backward_calls(L, p, microbatch, at[WF_AT_DX_OUT]);
}

static void last_calls(wf_lowering *L, const program *p) {
    const int64_t layers = L->model->layers;
    if (p->finish >= 0) call(L, p->finish, 0, 0, NULL);
    for (int64_t layer = 0; layer < layers && p->layer_finish >= 0; layer++)
        call(L, p->layer_finish, layer, 0, NULL);
    if (L->mode != WF_MODE_TRAIN) return;
    call(L, p->gradnorm, 0, 0, NULL);
    for (int64_t layer = 0; layer < layers; layer++) call(L, p->layer_optimizer, layer, 0, NULL);
    call(L, p->optimizer, 0, 0, NULL);
}

static wf_status lower_program(wf_lowering *L) {
    const size_t n = (size_t)L->model->layers + 1;
    program p = {.x = wf_free_list_create(L->s),
                 .dx = wf_free_list_create(L->s),
                 .saved = wf_free_list_create(L->s),
                 .x_of = calloc(n, sizeof(int32_t)),
                 .saved_of = calloc(n, sizeof(int32_t))};
    if (p.x_of && p.saved_of) {
        lower_segments(L, &p);
        for (int32_t m = 0; m < L->microbatches; m++) microbatch_calls(L, &p, m);
        if (L->training) last_calls(L, &p);
        wf_build_pool_count(L->s, L->x, wf_free_list_count(p.x));
        if (L->training) wf_build_pool_count(L->s, L->dx, wf_free_list_count(p.dx));
        for (int v = 0; v < WF_LAYER_VALUES; v++)
            if (L->saved[v] >= 0)
                wf_build_pool_count(L->s, L->saved[v], wf_free_list_count(p.saved));
    }
    const bool memory = p.x_of && p.saved_of;
    free(p.x_of);
    free(p.saved_of);
    return memory ? wf_build_finish(L->s)
                  : wf_fail(WF_ERR_MEMORY, "no host memory for a program's instances");
}

static wf_status lower_all(wf_lowering *L, const wf_shape *shape, int32_t rank) {
    L->block = calloc((size_t)L->layout.size[WF_AXIS_TP], sizeof *L->block);
    if (!L->block)
        return wf_fail(WF_ERR_MEMORY, "no host memory for the shards of %d ranks",
                       L->layout.size[WF_AXIS_TP]);
    set_sizes(L, shape, rank);
    TRY(set_group(L, rank));
    parameter_slots(L);
    io_slots(L);
    pools(L);
    return lower_program(L);
}

wf_status wf_lower(const wf_model *model, const wf_shape *shape, const wf_layout *layout,
                   int32_t rank, wf_mode mode, wf_schedule **out) {
    TRY(check(model, shape, layout, rank, mode));
    wf_lowering *L = calloc(1, sizeof *L);
    if (!L) return wf_fail(WF_ERR_MEMORY, "no host memory for lowering");
    L->model = model;
    L->layout = *layout;
    L->mode = mode;
    L->training = mode == WF_MODE_TRAIN || mode == WF_MODE_GRADIENTS;
    wf_status status = wf_schedule_create(rank, wf_layout_ranks(layout), &L->s);
    if (status == WF_OK) status = lower_all(L, shape, rank);
    if (status == WF_OK)
        *out = L->s;
    else
        wf_schedule_destroy(L->s);
    free(L->block);
    free(L);
    return status;
}
