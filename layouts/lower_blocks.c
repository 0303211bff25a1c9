/* lower_blocks.c: a stack of layers alone, for a caller who brings hidden states and takes them, and
 * who puts a loss of his own between forward and backward.
 *
 * The layers' segments are those of a whole model. The caller's rows are copied into the pools and
 * out of them, so that his memory is free again when a phase is over, wherever it lies; a copy costs
 * a thousandth of a layer. What a forward keeps (the layers' inputs and saved values, and the documents that it was
 * given) is a stash, of which several may be alive; the gradient's way down needs two buffers for all of them. */
#include "layouts/lowering.h"

typedef struct segments {
    int32_t enter, forward, leave;                  /* x in, layers, y out */
    int32_t enter_backward, backward_first, backward, leave_backward;
    int32_t sums_send, sums, tp_sums;
    int32_t no_squares, squares, gradnorm, optimizer;
} segments;

/* ---- buffers ------------------------------------------------------------------------------------- */

static int32_t caller_slot(wf_lowering *L, const char *name) {
    const int32_t slot =
        wf_build_slot(L->s, name, WF_CLASS_IO, WF_F32, L->own.count * L->model->hidden, 1);
    wf_build_owner(L->s, slot, WF_OWNER_CALLER);
    return slot;
}

static void stash(wf_lowering *L, int32_t pool, int64_t count) {
    if (pool < 0) return;
    wf_build_owner(L->s, pool, WF_OWNER_STASH);
    wf_build_pool_count(L->s, pool, (int32_t)count);
}

static void pools(wf_lowering *L) {
    const int64_t own = L->own.count * L->model->hidden, layers = L->model->layers;
    L->x = wf_build_pool(L->s, "x", WF_CLASS_ACTIVATION, WF_F32, own);
    wf_lower_layer_pools(L);
    if (!L->training) {
        wf_build_pool_count(L->s, L->x, 2);
        L->dx = L->squares = -1;
        return;
    }
    stash(L, L->x, layers + 1);
    for (int v = 0; v < WF_LAYER_VALUES; v++) stash(L, L->saved[v], layers);
    L->dx = wf_build_pool(L->s, "dx", WF_CLASS_ACTIVATION, WF_F32, own);
    wf_build_pool_count(L->s, L->dx, 2);
    L->squares = -1;
    if (L->mode != WF_MODE_TRAIN) return;
    L->clip = wf_build_slot(L->s, "clip", WF_CLASS_IO, WF_F32, 2, 1);
    L->squares = wf_build_pool(L->s, "grad.squares", WF_CLASS_ACTIVATION, WF_F32, L->nsquares);
}

/* ---- segments ------------------------------------------------------------------------------------ */

/* Documents to the stash, where there is one. */
static void keep_documents(wf_lowering *L) {
    const int64_t rows = L->sequence * L->b;
    const int32_t slot = L->documents = wf_build_slot(L->s, "documents", WF_CLASS_IO, WF_I32, 2 * rows, 1);
    if (!L->training) return;
    L->documents = wf_build_pool(L->s, "saved.documents", WF_CLASS_ACTIVATION, WF_I32, 2 * rows);
    stash(L, L->documents, 1);
    wf_lower_copy(L, "in.documents", wf_matrix(slot, WF_AT_NONE, 0, rows, 2, 2),
                  wf_matrix(L->documents, WF_AT_NONE, 0, rows, 2, 2));
}

static int32_t move(wf_lowering *L, const char *site, wf_view from, wf_view to) {
    wf_lower_begin(L, site, false);
    if (L->packed && L->documents < 0) keep_documents(L);
    wf_lower_copy(L, site, from, to);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

static wf_view rows_of(const wf_lowering *L, int32_t buffer, wf_at at) {
    return wf_matrix(buffer, at, 0, L->own.count, L->model->hidden, L->model->hidden);
}

static segments lower_segments(wf_lowering *L) {
    segments g = {.sums_send = -1, .sums = -1, .tp_sums = -1};
    g.enter = move(L, "in.x", rows_of(L, caller_slot(L, "in.x"), WF_AT_NONE), rows_of(L, L->x, WF_AT_X_OUT));
    g.forward = wf_lower_layer_forward(L);
    g.leave = move(L, "out.y", rows_of(L, L->x, WF_AT_X_IN), rows_of(L, caller_slot(L, "out.y"), WF_AT_NONE));
    if (!L->training) return g;
    g.enter_backward =
        move(L, "in.dy", rows_of(L, caller_slot(L, "in.dy"), WF_AT_NONE), rows_of(L, L->dx, WF_AT_DX_OUT));
    g.backward_first = wf_lower_layer_backward(L, true);
    g.backward = wf_lower_layer_backward(L, false);
    g.leave_backward =
        move(L, "out.dx", rows_of(L, L->dx, WF_AT_DX_IN), rows_of(L, caller_slot(L, "out.dx"), WF_AT_NONE));
    g.sums_send = wf_lower_layer_sums_send(L);
    g.sums = wf_lower_layer_sums(L);
    g.tp_sums = wf_lower_layer_tp_sums(L);
    if (L->mode != WF_MODE_TRAIN) return g;
    g.no_squares = wf_lower_no_squares(L);
    g.squares = wf_lower_layer_squares(L);
    g.gradnorm = wf_lower_gradnorm(L);
    g.optimizer = wf_lower_optimizer(L, true);
    return g;
}

/* ---- the program --------------------------------------------------------------------------------- */

static void call(wf_lowering *L, int32_t segment, int64_t layer, wf_at a, int64_t at_a, wf_at b, int64_t at_b) {
    wf_call c = {.segment = segment, .layer = (int32_t)layer};
    c.at[WF_AT_SAVED] = (int32_t)layer;
    c.at[a] = (int32_t)at_a;
    c.at[b] = (int32_t)at_b;
    wf_build_call(L->s, &c);
}

/* Layer l reads x[l] and writes x[l + 1]; without a backward two buffers do, in turn. */
static void forward(wf_lowering *L, const segments *g) {
    const int64_t layers = L->model->layers, mod = L->training ? layers + 1 : 2;
    call(L, g->enter, 0, WF_AT_X_OUT, 0, WF_AT_NONE, 0);
    for (int64_t l = 0; l < layers; l++)
        call(L, g->forward, l, WF_AT_X_IN, l % mod, WF_AT_X_OUT, (l + 1) % mod);
    call(L, g->leave, 0, WF_AT_X_IN, layers % mod, WF_AT_NONE, 0);
}

/* The gradient of x[l] lies in dx[l % 2]. */
static void backward(wf_lowering *L, const segments *g, int32_t segment) {
    const int64_t layers = L->model->layers;
    call(L, g->enter_backward, 0, WF_AT_DX_OUT, layers % 2, WF_AT_NONE, 0);
    for (int64_t l = layers - 1; l >= 0; l--) {
        wf_call c = {.segment = segment, .layer = (int32_t)l};
        c.at[WF_AT_X_IN] = c.at[WF_AT_SAVED] = (int32_t)l;
        c.at[WF_AT_DX_IN] = (int32_t)((l + 1) % 2);
        c.at[WF_AT_DX_OUT] = (int32_t)(l % 2);
        wf_build_call(L->s, &c);
    }
    call(L, g->leave_backward, 0, WF_AT_DX_IN, 0, WF_AT_NONE, 0);
}

static void per_layer(wf_lowering *L, int32_t segment) {
    for (int64_t l = 0; segment >= 0 && l < L->model->layers; l++)
        call(L, segment, l, WF_AT_NONE, 0, WF_AT_NONE, 0);
}

/* After the caller's last backward, of which only he knows: nothing is left that could hide them. */
static void sums(wf_lowering *L, const segments *g) {
    for (int64_t l = 0; g->sums >= 0 && l < L->model->layers; l++) {
        call(L, g->sums_send, l, WF_AT_NONE, 0, WF_AT_NONE, 0);
        call(L, g->sums, l, WF_AT_NONE, 0, WF_AT_NONE, 0);
    }
    per_layer(L, g->tp_sums);
}

static void optimize(wf_lowering *L, const segments *g) {
    call(L, g->no_squares, 0, WF_AT_NONE, 0, WF_AT_NONE, 0);
    per_layer(L, g->squares);
    call(L, g->gradnorm, 0, WF_AT_NONE, 0, WF_AT_NONE, 0);
    per_layer(L, g->optimizer);
}

static void program(wf_lowering *L, const segments *g) {
    for (int phase = 0; phase < WF_PHASES; phase++) {
        const int32_t first = L->s->ncalls;
        if (phase == WF_PHASE_FORWARD) forward(L, g);
        if (phase == WF_PHASE_BACKWARD_FIRST && L->training) backward(L, g, g->backward_first);
        if (phase == WF_PHASE_BACKWARD && L->training) backward(L, g, g->backward);
        if (phase == WF_PHASE_FINISH && L->training) sums(L, g);
        if (phase == WF_PHASE_OPTIMIZE && L->mode == WF_MODE_TRAIN) optimize(L, g);
        L->s->phases[phase] = (wf_piece){first, L->s->ncalls - first};
    }
}

wf_status wf_lower_blocks(const wf_model *model, const wf_shape *shape, const wf_layout *layout,
                          int32_t rank, wf_mode mode, wf_schedule **out) {
    wf_lowering *L = NULL;
    if (mode != WF_MODE_EVALUATE && mode != WF_MODE_GRADIENTS && mode != WF_MODE_TRAIN)
        return wf_fail(WF_ERR_ARGUMENT, "a stack of blocks has no mode %d", (int)mode);
    TRY(wf_lower_open(model, shape, layout, rank, mode, &L));
    pools(L);
    const segments g = lower_segments(L);
    program(L, &g);
    return wf_lower_close(L, WF_OK, out);
}
