/* lower_optimizer.c: after the last microbatch: sums of replicated tensors' gradients over tp
 * (under sp each rank has seen its own tokens only), the norm of the whole gradient with every
 * element counted once, and AdamW.
 *
 * Squares: one element of a vector per kind of tensor, a layer's added to the layers' before it;
 * the ranks' vectors are gathered and summed in one order on every rank. Tensors that every rank
 * holds count on tp rank 0 only. */
#include "layouts/lowering.h"

/* ---- replicated gradients -------------------------------------------------------------------- */

/* sum over tp of a flat vector, on every rank: reduce-scatter, add, all-gather. */
static wf_view all_reduce_flat(wf_lowering *L, wf_view flat) {
    const int64_t n = flat.extent[0];
    wf_rows block[L->tp];
    wf_view parts[L->tp];
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range range = wf_shard(n, L->tp, i);
        block[i] = (wf_rows){range.first, range.count};
    }
    const wf_view sum = wf_lower_scratch(L, "grad.sum", n, 1);
    wf_build_reduce_scatter(L->s, "grad.scatter", WF_LANE_TP, L->group, &flat, block, parts);
    const int64_t mine = block[L->me].count;
    for (int32_t i = 0; i < L->tp; i++) /* as one row: kernels run along it */
        parts[i] = wf_matrix(parts[i].buffer, (wf_at)parts[i].at, parts[i].offset, 1, mine, mine);
    wf_lower_add(L, "grad.sum", parts, L->tp,
                 wf_matrix(sum.buffer, WF_AT_NONE, block[L->me].first, 1, mine, mine));
    wf_build_all_gather(L->s, "grad.gather", WF_LANE_TP, L->group, &sum, block);
    return sum;
}

static wf_view as_row(wf_view flat, int64_t offset, int64_t n) {
    return wf_matrix(flat.buffer, (wf_at)flat.at, offset, 1, n, n);
}

static bool is_replicated_vector(const wf_lowering *L, int t, bool per_layer) {
    return L->table[t].per_layer == per_layer && L->table[t].split == WF_REPLICATED &&
           !L->table[t].matrix;
}

/* The replicated vectors among the tensors, packed, summed, put back. Exchanges never send slots: a
 * slot stays in device memory whatever the transport. */
static void sum_vectors(wf_lowering *L, bool per_layer) {
    int64_t n = 0, at = 0;
    for (int t = 0; t < WF_TENSORS; t++)
        if (is_replicated_vector(L, t, per_layer)) n += L->table[t].rows;
    if (n == 0) return;
    const wf_view flat = wf_lower_scratch(L, "grad.packed", n, 1);
    for (int pass = 0; pass < 2; pass++) {
        const wf_view packed = pass ? all_reduce_flat(L, flat) : flat;
        at = 0;
        for (int t = 0; t < WF_TENSORS; t++) {
            const int64_t rows = L->table[t].rows;
            if (!is_replicated_vector(L, t, per_layer) || !rows) continue;
            const wf_view grad = as_row(wf_lower_flat(L, WF_KIND_GRAD, t), 0, rows);
            wf_lower_copy(L, pass ? "grad.unpack" : "grad.pack",
                          pass ? as_row(packed, at, rows) : grad,
                          pass ? grad : as_row(packed, at, rows));
            at += rows;
        }
    }
}

/* Each rank has the position gradients of its own positions: no sum is needed, a gather does. */
static void gather_positions(wf_lowering *L) {
    const int64_t h = L->model->hidden;
    const wf_view grad = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_POSITION_EMBEDDING);
    const wf_view whole = wf_lower_scratch(L, "grad.positions", L->sequence, h);
    wf_rows block[L->tp];
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range range = wf_shard(L->sequence, L->tp, i);
        block[i] = (wf_rows){range.first, range.count};
    }
    const wf_rows mine = block[L->me];
    const wf_rows before = {0, mine.first};
    const wf_rows after = {mine.first + mine.count, L->sequence - mine.first - mine.count};
    wf_lower_copy(L, "grad.positions", wf_lower_rows(grad, mine), wf_lower_rows(whole, mine));
    wf_build_all_gather(L->s, "grad.positions.gather", WF_LANE_TP, L->group, &whole, block);
    wf_lower_copy(L, "grad.positions", wf_lower_rows(whole, before), wf_lower_rows(grad, before));
    wf_lower_copy(L, "grad.positions", wf_lower_rows(whole, after), wf_lower_rows(grad, after));
}

/* ---- the norm -------------------------------------------------------------------------------- */

static void squares_of(wf_lowering *L, int tensor, wf_view out) {
    const wf_view grad = wf_lower_flat(L, WF_KIND_GRAD, tensor);
    const bool counted = L->table[tensor].split != WF_REPLICATED || L->me == 0;
    const wf_problem p = {.op = WF_OP_SUM_SQUARES, .size = {grad.extent[0]}};
    if (counted && grad.extent[0])
        WF_KERNEL(L, "grad.squares", &p, grad, out);
    else
        wf_lower_fill(L, "grad.squares", wf_matrix(out.buffer, (wf_at)out.at, out.offset, 1, 1, 1),
                      0);
}

/* The tensors of a layer stand together in the table, and so do their squares: [first, first +
 * count). */
static int64_t layer_squares(const wf_lowering *L, int64_t *first_out) {
    int64_t count = 0;
    for (int t = 0; t < WF_TENSORS; t++) {
        if (!L->table[t].per_layer || L->square[t] < 0) continue;
        if (count++ == 0) *first_out = L->square[t];
    }
    return count;
}

static void squares_of_all(wf_lowering *L, bool per_layer, int32_t buffer, int64_t first) {
    for (int t = 0; t < WF_TENSORS; t++)
        if (L->table[t].per_layer == per_layer && L->square[t] >= 0)
            squares_of(L, t, wf_vector(buffer, WF_AT_NONE, L->square[t] - first, 1));
}

/* Tensors outside layers write their elements; the layers' start from 0. */
static void squares_outside(wf_lowering *L) {
    int64_t first = 0;
    const int64_t count = layer_squares(L, &first);
    wf_lower_fill(L, "grad.squares", wf_matrix(L->squares, WF_AT_NONE, first, 1, count, count), 0);
    squares_of_all(L, false, L->squares, 0);
}

static void squares_of_layer(wf_lowering *L) {
    int64_t first = 0;
    const int64_t count = layer_squares(L, &first);
    const wf_view layer = wf_lower_scratch(L, "grad.squares", 1, count);
    squares_of_all(L, true, layer.buffer, first);
    const wf_problem p = {.op = WF_OP_SUM_ROWS, .flags = WF_ACCUMULATE, .size = {1, 1, count}};
    WF_KERNEL(L, "grad.squares.sum", &p, layer,
              wf_matrix(L->squares, WF_AT_NONE, first, 1, count, count));
}

int32_t wf_lower_gradnorm(wf_lowering *L) {
    wf_lower_begin(L, "gradnorm", false);
    wf_view all = wf_matrix(L->squares, WF_AT_NONE, 0, 1, L->nsquares, L->nsquares);
    if (L->tp > 1) {
        const wf_view mine = all;
        wf_rows one[L->tp];
        for (int32_t i = 0; i < L->tp; i++) one[i] = (wf_rows){i, 1};
        all = wf_lower_scratch(L, "grad.squares.all", L->tp, L->nsquares);
        wf_lower_copy(L, "grad.squares.gather", mine, wf_lower_rows(all, one[L->me]));
        wf_build_all_gather(L->s, "grad.squares.gather", WF_LANE_TP, L->group, &all, one);
    }
    const int64_t n = (int64_t)L->tp * L->nsquares;
    const wf_problem p = {.op = WF_OP_GRAD_NORM, .size = {n}};
    WF_KERNEL(L, "gradnorm", &p, wf_vector(all.buffer, (wf_at)all.at, 0, n),
              wf_vector(L->clip, WF_AT_NONE, 0, 2));
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* ---- segments -------------------------------------------------------------------------------- */

int32_t wf_lower_finish(wf_lowering *L) {
    if (!L->sp && L->mode != WF_MODE_TRAIN) return -1;
    wf_lower_begin(L, "finish", false);
    if (L->sp) {
        gather_positions(L);
        sum_vectors(L, false);
    }
    if (L->mode == WF_MODE_TRAIN) squares_outside(L);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_layer_finish(wf_lowering *L) {
    if (!L->sp && L->mode != WF_MODE_TRAIN) return -1;
    wf_lower_begin(L, "layer.finish", false);
    if (L->sp) sum_vectors(L, true);
    if (L->mode == WF_MODE_TRAIN) squares_of_layer(L);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_layer_sums(wf_lowering *L) {
    if (!L->sp) return -1;
    wf_lower_begin(L, "layer.sums", false);
    sum_vectors(L, true);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_no_squares(wf_lowering *L) {
    wf_lower_begin(L, "squares.first", false);
    wf_lower_fill(L, "grad.squares", wf_matrix(L->squares, WF_AT_NONE, 0, 1, L->nsquares, L->nsquares), 0);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_layer_squares(wf_lowering *L) {
    wf_lower_begin(L, "layer.squares", false);
    squares_of_layer(L);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_optimizer(wf_lowering *L, bool per_layer) {
    wf_lower_begin(L, per_layer ? "layer.optimizer" : "optimizer", false);
    const wf_view clip = wf_vector(L->clip, WF_AT_NONE, 0, 2);
    for (int t = 0; t < WF_TENSORS; t++) {
        if (L->table[t].per_layer != per_layer || !L->table[t].rows) continue;
        const wf_problem p = {.op = WF_OP_ADAMW,
                              .flags = L->table[t].matrix ? WF_DECAY : 0,
                              .size = {L->shard[t].rows * L->shard[t].columns}};
        WF_KERNEL(L, "adamw", &p, wf_lower_flat(L, WF_KIND_GRAD, t), clip,
                  wf_lower_flat(L, WF_KIND_VALUE, t), wf_lower_flat(L, WF_KIND_M, t),
                  wf_lower_flat(L, WF_KIND_V, t));
    }
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
