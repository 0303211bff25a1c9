/* lower_optimizer.c: after the last microbatch: sums of replicated tensors' gradients over tp
 * (under sp each rank has seen its own tokens only) and of kv heads that several ranks hold (each
 * has seen its own query heads only), of all gradients over cp, the norm of the whole gradient with every element counted
 * once, and AdamW.
 *
 * Squares: one element of a vector per kind of tensor, a layer's added to the layers' before it;
 * the ranks' vectors are gathered and summed in one order on every rank. What several ranks hold
 * counts on the first of them only. */
#include "layouts/lowering.h"

/* ---- replicated gradients -------------------------------------------------------------------- */

/* Ranks that add a vector up: all of tp, those of tp that hold a kv head, or all of cp. */
typedef struct adders {
    int32_t group, members, index;
    wf_lane lane;
} adders;

/* The sum over the ranks of a flat vector, on each: reduce-scatter, add, all-gather. */
static wf_view all_reduce_flat(wf_lowering *L, const adders *ranks, wf_view flat) {
    const int64_t n = flat.extent[0];
    wf_rows block[ranks->members];
    wf_view parts[ranks->members];
    for (int32_t i = 0; i < ranks->members; i++) {
        const wf_range range = wf_shard(n, ranks->members, i);
        block[i] = (wf_rows){range.first, range.count};
    }
    const wf_view sum = wf_lower_scratch(L, "grad.sum", n, 1);
    wf_build_reduce_scatter(L->s, "grad.scatter", ranks->lane, ranks->group, &flat, block, parts);
    const int64_t mine = block[ranks->index].count;
    for (int32_t i = 0; i < ranks->members; i++) /* as one row: kernels run along it */
        parts[i] = wf_matrix(parts[i].buffer, (wf_at)parts[i].at, parts[i].offset, 1, mine, mine);
    wf_lower_add(L, "grad.sum", parts, ranks->members,
                 wf_matrix(sum.buffer, WF_AT_NONE, block[ranks->index].first, 1, mine, mine));
    wf_build_all_gather(L->s, "grad.gather", ranks->lane, ranks->group, &sum, block);
    return sum;
}

static wf_view as_row(wf_view flat, int64_t offset, int64_t n) {
    return wf_matrix(flat.buffer, (wf_at)flat.at, offset, 1, n, n);
}

/* A piece of a gradient: elements that stand together. */
typedef struct piece {
    int tensor;
    int64_t first, count;
} piece;

/* The pieces, packed, summed over the ranks, put back. Exchanges never send slots: a slot stays in
 * device memory whatever the transport. */
static void sum_pieces(wf_lowering *L, const adders *ranks, const piece *pieces, int32_t count) {
    int64_t n = 0;
    for (int32_t i = 0; i < count; i++) n += pieces[i].count;
    if (n == 0) return;
    const wf_view flat = wf_lower_scratch(L, "grad.packed", n, 1);
    for (int pass = 0; pass < 2; pass++) {
        const wf_view packed = pass ? all_reduce_flat(L, ranks, flat) : flat;
        int64_t at = 0;
        for (int32_t i = 0; i < count; at += pieces[i++].count) {
            const wf_view grad = as_row(wf_lower_flat(L, WF_KIND_GRAD, pieces[i].tensor),
                                        pieces[i].first, pieces[i].count);
            const wf_view room = as_row(packed, at, pieces[i].count);
            wf_lower_copy(L, pass ? "grad.unpack" : "grad.pack", pass ? room : grad,
                          pass ? grad : room);
        }
    }
}

static bool sums_positions(const wf_lowering *L) {
    return L->cp.ranks > 1 || L->places >= 0; /* documents: any token may be at any place */
}

/* Tensors that every rank holds and has seen its own tokens for (sp). Positions differ: a rank's
 * tokens touch its own rows only, which are gathered, unless whole tables are summed. */
static void sum_replicated(wf_lowering *L, bool per_layer) {
    const adders ranks = {L->group, L->tp, L->me, WF_LANE_TP};
    piece pieces[WF_TENSORS];
    int32_t n = 0;
    for (int t = 0; t < WF_TENSORS; t++)
        if (L->table[t].per_layer == per_layer && L->table[t].split == WF_REPLICATED &&
            (t != WF_T_POSITION_EMBEDDING || sums_positions(L)) && wf_lower_has(L, t))
            pieces[n++] = (piece){t, 0, L->table[t].rows * L->table[t].columns};
    sum_pieces(L, &ranks, pieces, n);
}

/* A layer's kv heads that several ranks hold: each has the part of its own query heads. */
static void sum_shared_heads(wf_lowering *L) {
    const int64_t d = L->model->head_size;
    for (int32_t i = 0; i < L->nshared; i++) {
        const wf_shared_head *head = &L->shared[i];
        const adders ranks = {head->group, head->members, head->index, WF_LANE_TP};
        piece pieces[4];
        int32_t n = 0;
        for (int t = WF_T_QKV_WEIGHT; t <= WF_T_QKV_BIAS; t++)
            for (int which = 0; which < 2 && wf_lower_has(L, t); which++) {
                const int64_t row = (L->heads.count + which * L->kv.count + head->local) * d;
                const int64_t columns = L->shard[t].columns;
                pieces[n++] = (piece){t, row * columns, d * columns};
            }
        sum_pieces(L, &ranks, pieces, n);
    }
}

/* ---- sums over cp: each rank has seen its own positions ------------------------------------------------------ */

/* Tensors outside layers, in pieces, one after another, so that what they are packed into stays small beside
 * activations. */
static void sum_outside_over_cp(wf_lowering *L) {
    enum { AT_ONCE = 1 << 20 }; /* elements: of 4 MiB, which costs a message little */
    const adders ranks = {L->cp.group, L->cp.ranks, L->cp.me, WF_LANE_CP};
    for (int t = 0; t < WF_TENSORS && L->cp.ranks > 1; t++) {
        if (L->table[t].per_layer || !wf_lower_has(L, t)) continue;
        for (int64_t first = 0, n = L->elements[t]; first < n; first += AT_ONCE)
            sum_pieces(L, &ranks, &(piece){t, first, n - first < AT_ONCE ? n - first : AT_ONCE}, 1);
    }
}

/* A layer's tensors, from where they lie, while the next layer's backward computes: the exchanges of a reduce-scatter in
 * one segment, what is left of the all-reduce in another (as Megatron's and PyTorch's DDP overlap theirs with backward;
 * Li et al., "PyTorch Distributed", 2020). What arrives has a place of its own, of which one is enough: a layer's is added up
 * before the next one's is sent. */
typedef struct cp_sum {
    wf_view flat, landing;
    wf_rows *block;
} cp_sum;

static wf_rows block_of(const wf_lowering *L, int t, int32_t member) {
    const wf_range range = wf_shard(L->elements[t], L->cp.ranks, member);
    return (wf_rows){range.first, range.count};
}

static int64_t landing_elements(const wf_lowering *L, int t) {
    return L->table[t].per_layer && wf_lower_has(L, t) ? (L->cp.ranks - 1) * block_of(L, t, L->cp.me).count : 0;
}

/* The next tensor from *t on; false: none is left. */
static bool next_cp_sum(const wf_lowering *L, int *t, int64_t *landed, cp_sum *out) {
    while (*t < WF_TENSORS && (!L->table[*t].per_layer || !wf_lower_has(L, *t))) (*t)++;
    if (*t == WF_TENSORS) return false;
    const wf_view flat = wf_lower_flat(L, WF_KIND_GRAD, *t);
    const int64_t n = landing_elements(L, *t);
    out->flat = wf_matrix(flat.buffer, (wf_at)flat.at, 0, flat.extent[0], 1, 1);
    out->landing = wf_matrix(L->landing, WF_AT_NONE, *landed, n, 1, 1);
    for (int32_t i = 0; i < L->cp.ranks; i++) out->block[i] = block_of(L, *t, i);
    *landed += n;
    (*t)++;
    return true;
}

int32_t wf_lower_layer_sums_send(wf_lowering *L) {
    wf_rows block[L->cp.ranks];
    cp_sum sum = {.block = block};
    int64_t landed = 0, most = 0;
    if (L->cp.ranks == 1) return -1;
    for (int t = 0; t < WF_TENSORS; t++) most += landing_elements(L, t);
    L->landing = wf_build_pool(L->s, "grad.landing", WF_CLASS_GRADIENT, WF_F32, most);
    wf_build_pool_count(L->s, L->landing, 1);
    wf_lower_begin(L, "layer.sums.send", false);
    for (int t = 0; next_cp_sum(L, &t, &landed, &sum);)
        wf_build_scatter(L->s, "grad.scatter", WF_LANE_DP, L->cp.group, &sum.flat, block, &sum.landing);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_layer_sums(wf_lowering *L) {
    wf_rows block[L->cp.ranks];
    wf_view parts[L->cp.ranks];
    cp_sum sum = {.block = block};
    int64_t landed = 0;
    if (L->cp.ranks == 1) return -1;
    wf_lower_begin(L, "layer.sums", false);
    for (int t = 0; next_cp_sum(L, &t, &landed, &sum);) {
        const int64_t mine = block[L->cp.me].count;
        wf_build_parts(L->s, L->cp.group, &sum.flat, block, &sum.landing, parts);
        for (int32_t i = 0; i < L->cp.ranks; i++) parts[i] = as_row(parts[i], parts[i].offset, mine);
        const wf_view total = wf_lower_scratch(L, "grad.sum", 1, mine);
        wf_lower_add(L, "grad.sum", parts, L->cp.ranks, total);
        wf_lower_copy(L, "grad.sum", total, as_row(sum.flat, block[L->cp.me].first, mine));
        wf_build_all_gather(L->s, "grad.gather", WF_LANE_DP, L->cp.group, &sum.flat, block);
    }
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* The sum of all tokens' losses, on every rank. */
static void sum_losses(wf_lowering *L) {
    const int32_t n = L->cp.ranks;
    if (n == 1 || L->loss < 0) return;
    wf_rows one[n];
    for (int32_t i = 0; i < n; i++) one[i] = (wf_rows){i, 1};
    const wf_view all = wf_lower_scratch(L, "loss.all", n, 1), loss = wf_matrix(L->loss, WF_AT_NONE, 0, 1, 1, 1);
    const wf_problem p = {.op = WF_OP_SUM_ROWS, .size = {1, n, 1}};
    wf_lower_copy(L, "loss.gather", loss, wf_lower_rows(all, one[L->cp.me]));
    wf_build_all_gather(L->s, "loss.gather", WF_LANE_CP, L->cp.group, &all, one);
    WF_KERNEL(L, "loss.sum", &p, all, loss);
}

/* Each rank has the position gradients of its own positions: no sum is needed, a gather does. */
static void gather_positions(wf_lowering *L) {
    const int64_t h = L->model->hidden;
    const wf_view grad = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_POSITION_EMBEDDING);
    const wf_view whole = wf_lower_scratch(L, "grad.positions", L->sequence, h);
    wf_rows block[L->tp];
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range range = wf_layout_shard(&L->layout, WF_AXIS_TP, L->sequence, i);
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

static void no_squares(wf_lowering *L, wf_view out) {
    wf_lower_fill(L, "grad.squares", wf_matrix(out.buffer, (wf_at)out.at, out.offset, 1, 1, 1), 0);
}

static void squares_of_piece(wf_lowering *L, wf_view grad, int64_t first, int64_t count,
                             wf_view out) {
    const wf_problem p = {.op = WF_OP_SUM_SQUARES, .size = {count}};
    if (count)
        WF_KERNEL(L, "grad.squares", &p,
                  wf_vector(grad.buffer, (wf_at)grad.at, grad.offset + first, count), out);
    else
        no_squares(L, out);
}

/* A kv head counts on the first rank that holds it; of a rank's heads only the first can have been
 * counted before. What is left is three pieces: of q, of k, of v. */
static bool counted_before(const wf_lowering *L) {
    return L->nshared && L->shared[0].local == 0 && L->shared[0].index > 0;
}

static void squares_but_first_kv(wf_lowering *L, int tensor, wf_view out) {
    const int64_t each = L->model->head_size * L->shard[tensor].columns;
    const int64_t begin[] = {0, L->heads.count + 1, L->heads.count + L->kv.count + 1};
    const int64_t count[] = {L->heads.count, L->kv.count - 1, L->kv.count - 1};
    const wf_view grad = wf_lower_flat(L, WF_KIND_GRAD, tensor);
    const wf_view parts = wf_lower_scratch(L, "grad.squares.parts", 3, 1);
    for (int i = 0; i < 3; i++)
        squares_of_piece(L, grad, begin[i] * each, count[i] * each,
                         wf_vector(parts.buffer, WF_AT_NONE, i, 1));
    const wf_problem p = {.op = WF_OP_SUM_ROWS, .size = {1, 3, 1}};
    WF_KERNEL(L, "grad.squares.parts", &p, parts,
              wf_matrix(out.buffer, (wf_at)out.at, out.offset, 1, 1, 1));
}

static void squares_of(wf_lowering *L, int tensor, wf_view out) {
    const wf_view grad = wf_lower_flat(L, WF_KIND_GRAD, tensor);
    if (L->table[tensor].split == WF_REPLICATED && L->me != 0)
        no_squares(L, out);
    else if (L->table[tensor].split == WF_SPLIT_HEADS && counted_before(L))
        squares_but_first_kv(L, tensor, out);
    else
        squares_of_piece(L, grad, 0, grad.extent[0], out);
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
    const bool cp = L->cp.ranks > 1;
    if (!(L->training && L->sp) && !(cp && L->loss >= 0) && L->mode != WF_MODE_TRAIN) return -1;
    wf_lower_begin(L, "finish", false);
    sum_losses(L);
    if (L->training && L->sp) {
        if (wf_lower_has(L, WF_T_POSITION_EMBEDDING) && !sums_positions(L)) gather_positions(L);
        sum_replicated(L, false);
    }
    if (L->training) sum_outside_over_cp(L);
    if (L->mode == WF_MODE_TRAIN) squares_outside(L);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

static bool has_tp_sums(const wf_lowering *L) {
    return L->sp || L->nshared;
}

static void tp_sums(wf_lowering *L) {
    if (L->sp) sum_replicated(L, true);
    sum_shared_heads(L);
}

int32_t wf_lower_layer_finish(wf_lowering *L) {
    if (!has_tp_sums(L) && L->mode != WF_MODE_TRAIN) return -1;
    wf_lower_begin(L, "layer.finish", false);
    tp_sums(L);
    if (L->mode == WF_MODE_TRAIN) squares_of_layer(L);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

int32_t wf_lower_layer_tp_sums(wf_lowering *L) {
    if (!has_tp_sums(L)) return -1;
    wf_lower_begin(L, "layer.sums.tp", false);
    tp_sums(L);
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
                              .size = {L->elements[t]}};
        WF_KERNEL(L, "adamw", &p, wf_lower_flat(L, WF_KIND_GRAD, t), clip,
                  wf_lower_flat(L, WF_KIND_VALUE, t), wf_lower_flat(L, WF_KIND_M, t),
                  wf_lower_flat(L, WF_KIND_V, t));
    }
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
