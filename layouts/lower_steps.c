/* lower_steps.c: the small steps that lowering is written in: kernels on views, exchanges over tp,
 * sums of partial results, and the list of weight gradients that wait for the next exchange.
 *
 * Steps are elementary: bias, dropout, residual and norm are steps of their own, which choose.c
 * fuses. (An activation is part of its GEMM: the table of operations has no step for it alone.) */
#include <assert.h>

#include "layouts/lowering.h"

wf_view wf_lower_parameter(const wf_lowering *L, wf_kind kind, int tensor) {
    const wf_parameter_info *info = &L->table[tensor];
    const wf_shard_map *map = &L->shard[tensor];
    const wf_at at = info->per_layer ? WF_AT_LAYER : WF_AT_NONE;
    if (L->order[tensor] == WF_ORDER_PANELS)
        return wf_matrix(L->slot[kind][tensor], at, 0, wf_order_panels(map->rows) * map->columns,
                         WF_PANEL_ROWS, WF_PANEL_ROWS);
    return info->matrix
               ? wf_matrix(L->slot[kind][tensor], at, 0, map->rows, map->columns, map->columns)
               : wf_vector(L->slot[kind][tensor], at, 0, map->rows);
}

wf_view wf_lower_flat(const wf_lowering *L, wf_kind kind, int tensor) {
    const wf_at at = L->table[tensor].per_layer ? WF_AT_LAYER : WF_AT_NONE;
    return wf_vector(L->slot[kind][tensor], at, 0, L->elements[tensor]);
}

wf_view wf_lower_scratch(wf_lowering *L, const char *name, int64_t rows, int64_t columns) {
    return wf_matrix(wf_build_scratch(L->s, name, WF_F32, rows * columns), WF_AT_NONE, 0, rows,
                     columns, columns);
}

wf_view wf_lower_rows(wf_view whole, wf_rows rows) {
    whole.offset += rows.first * whole.stride[0];
    whole.extent[0] = rows.count;
    return whole;
}

/* ---- segments and deferred steps ------------------------------------------------------------- */

void wf_lower_begin(wf_lowering *L, const char *name, bool first) {
    L->first = first;
    L->backward = false;
    L->ndeferred = 0;
    L->whole[0] = L->whole[1] = L->arriving = -1;
    L->pending = false;
    for (int v = 0; v < WF_LAYER_VALUES; v++) L->has[v] = false;
    wf_build_segment(L->s, "%s", name);
}

void wf_lower_flush(wf_lowering *L) {
    for (int i = 0; i < L->ndeferred; i++) {
        const wf_deferred *d = &L->deferred[i];
        wf_lower_kernel(L, d->site, &d->problem, d->views, d->nviews);
    }
    L->ndeferred = 0;
}

void wf_lower_end(wf_lowering *L) {
    assert(!L->pending);
    wf_lower_flush(L);
    wf_build_segment_end(L->s);
}

void wf_lower_kernel(wf_lowering *L, const char *site, const wf_problem *problem,
                     const wf_view *views, int nviews) {
    wf_build_kernel(L->s, site, problem, views, nviews);
}

void wf_lower_defer(wf_lowering *L, const char *site, const wf_problem *problem,
                    const wf_view *views, int nviews) {
    assert(nviews <= WF_MOST_VIEWS);
    if (L->ndeferred == WF_DEFERRED) wf_lower_flush(L);
    wf_deferred *d = &L->deferred[L->ndeferred++];
    *d = (wf_deferred){.site = site, .problem = *problem, .nviews = nviews};
    for (int i = 0; i < nviews; i++) d->views[i] = views[i];
}

/* ---- kernels --------------------------------------------------------------------------------- */

void wf_lower_copy(wf_lowering *L, const char *site, wf_view from, wf_view to) {
    const wf_problem p = {.op = WF_OP_COPY, .dtype = wf_build_dtype(L->s, from.buffer), .size = {from.extent[0], from.extent[1]}};
    WF_KERNEL(L, site, &p, from, to);
}

void wf_lower_fill(wf_lowering *L, const char *site, wf_view out, double value) {
    const wf_problem p = {
        .op = WF_OP_FILL, .size = {out.extent[0], out.extent[1]}, .real = {value}};
    WF_KERNEL(L, site, &p, out);
}

void wf_lower_gemm(wf_lowering *L, const char *site, uint32_t flags, wf_view a, wf_view b,
                   wf_view c) {
    const int64_t k = a.extent[flags & WF_TRANS_A ? 0 : 1];
    const wf_problem p = {.op = WF_OP_GEMM, .flags = flags, .size = {c.extent[0], c.extent[1], k}};
    if (k)
        WF_KERNEL(L, site, &p, a, b, c);
    else if (!(flags & WF_ACCUMULATE))
        wf_lower_fill(L, site, c, 0);
}

uint32_t wf_lower_weight_flags(const wf_lowering *L, int tensor) {
    return L->order[tensor] == WF_ORDER_PANELS ? WF_PANELS_B : 0;
}

static void product_rows(wf_lowering *L, const char *site, uint32_t flags, wf_view a, int weight, wf_view c, wf_rows rows) {
    if (L->pending && a.buffer == L->value[WF_V_ATTN].buffer) wf_lower_attend_rows(L, rows);
    wf_lower_gemm(L, site, flags | wf_lower_weight_flags(L, weight), wf_lower_rows(a, rows),
                  wf_lower_parameter(L, WF_KIND_VALUE, weight), wf_lower_rows(c, rows));
}

bool wf_lower_has(const wf_lowering *L, int tensor) {
    return L->table[tensor].rows > 0;
}

/* Chunk c of a block of rows: under sp, of its positions. */
static wf_rows chunk_of(const wf_lowering *L, wf_rows block, int32_t c) {
    const int64_t each = L->sp ? L->b : 1;
    const wf_range part = wf_shard(block.count / each, L->layout.chunks, c);
    return (wf_rows){block.first + part.first * each, part.count * each};
}

/* Rows in which a product with x is computed: all at once, or as they arrive: the own block, then the others' chunks. */
typedef struct pieces {
    int32_t count;
    bool arriving;
} pieces;

static pieces pieces_of(wf_lowering *L, wf_view x) {
    if (x.buffer != L->arriving || x.extent[0] != L->rows) return (pieces){1, false};
    L->arriving = -1;
    return (pieces){1 + L->layout.chunks * (L->tp - 1), true};
}

static wf_rows piece_of(const wf_lowering *L, const pieces *p, wf_view x, int32_t i) {
    if (!p->arriving) return (wf_rows){0, x.extent[0]};
    if (i == 0) return L->block[L->me];
    const int32_t k = 1 + (i - 1) % (L->tp - 1);
    return chunk_of(L, L->block[(L->me - k + L->tp) % L->tp], (i - 1) / (L->tp - 1));
}

void wf_lower_product(wf_lowering *L, const char *site, uint32_t flags, wf_view a, int weight, wf_view c) {
    const pieces p = pieces_of(L, a);
    for (int32_t i = 0; i < p.count; i++) product_rows(L, site, flags, a, weight, c, piece_of(L, &p, a, i));
}

static void linear_rows(wf_lowering *L, const char *site, wf_view x, int weight, int bias, wf_view out) {
    if (!wf_lower_has(L, bias)) {
        wf_lower_product(L, site, WF_TRANS_B, x, weight, out);
        return;
    }
    const wf_view b = wf_lower_parameter(L, WF_KIND_VALUE, bias);
    const wf_view sum = wf_lower_scratch(L, wf_build_text(L->s, "%s.sum", site), out.extent[0],
                                         out.extent[1]);
    wf_lower_product(L, site, WF_TRANS_B, x, weight, sum);
    wf_lower_tail(L, &(wf_tail_sites){.bias = wf_build_text(L->s, "%s.bias", site)}, sum,
                  &(wf_tail){.bias = &b}, out);
}

void wf_lower_linear(wf_lowering *L, const char *site, wf_view x, int weight, int bias, wf_view out) {
    const pieces p = pieces_of(L, x);
    for (int32_t i = 0; i < p.count; i++) {
        const wf_rows rows = piece_of(L, &p, x, i);
        linear_rows(L, site, wf_lower_rows(x, rows), weight, bias, wf_lower_rows(out, rows));
    }
}

static void activate_rows(wf_lowering *L, const char *site, wf_view x, int weight, int bias, wf_view act, wf_view pre) {
    const bool biased = wf_lower_has(L, bias);
    const wf_problem p = {.op = WF_OP_GEMM,
                          .flags = WF_TRANS_B | WF_ACTIVATE | (biased ? WF_BIAS : 0) |
                                   wf_lower_weight_flags(L, weight),
                          .activation = L->model->activation,
                          .size = {act.extent[0], act.extent[1], x.extent[1]}};
    const wf_view w = wf_lower_parameter(L, WF_KIND_VALUE, weight);
    if (biased)
        WF_KERNEL(L, site, &p, x, w, wf_lower_parameter(L, WF_KIND_VALUE, bias), act, pre);
    else
        WF_KERNEL(L, site, &p, x, w, act, pre);
}

void wf_lower_activate(wf_lowering *L, const char *site, wf_view x, int weight, int bias, wf_view act, wf_view pre) {
    const pieces p = pieces_of(L, x);
    for (int32_t i = 0; i < p.count; i++) {
        const wf_rows rows = piece_of(L, &p, x, i);
        activate_rows(L, site, wf_lower_rows(x, rows), weight, bias, wf_lower_rows(act, rows), wf_lower_rows(pre, rows));
    }
}

void wf_lower_activation_backward(wf_lowering *L, const char *site, wf_view dy, int weight, wf_view pre, wf_view d) {
    const wf_view w = wf_lower_parameter(L, WF_KIND_VALUE, weight);
    const pieces p = pieces_of(L, dy);
    for (int32_t i = 0; i < p.count; i++) {
        const wf_rows rows = piece_of(L, &p, dy, i);
        const wf_problem problem = {.op = WF_OP_GEMM,
                                    .flags = WF_ACT_GRAD | wf_lower_weight_flags(L, weight),
                                    .activation = L->model->activation,
                                    .size = {rows.count, d.extent[1], dy.extent[1]}};
        WF_KERNEL(L, site, &problem, wf_lower_rows(dy, rows), w, wf_lower_rows(pre, rows), wf_lower_rows(d, rows));
    }
}

void wf_lower_wgrad(wf_lowering *L, const char *site, wf_view dy, wf_view x, int tensor) {
    const wf_view dw = wf_lower_parameter(L, WF_KIND_GRAD, tensor);
    wf_problem p = {.op = WF_OP_GEMM,
                    .flags = WF_TRANS_A | (L->first ? 0 : WF_ACCUMULATE),
                    .size = {dy.extent[1], x.extent[1], dy.extent[0]}};
    if (L->order[tensor] == WF_ORDER_ROWS) {
        WF_DEFER(L, site, &p, dy, x, dw);
        return;
    }
    p.flags |= WF_PANELS_C; /* transposed: x^T dy */
    p.size[0] = x.extent[1], p.size[1] = dy.extent[1];
    WF_DEFER(L, site, &p, x, dy, dw);
}

void wf_lower_bias_grad(wf_lowering *L, const char *site, wf_view dy, int tensor) {
    if (!wf_lower_has(L, tensor)) return;
    const wf_view db = wf_lower_parameter(L, WF_KIND_GRAD, tensor);
    const wf_view row = wf_matrix(db.buffer, db.at, 0, 1, db.extent[0], db.extent[0]);
    const wf_problem p = {.op = WF_OP_SUM_ROWS,
                          .flags = L->first ? 0 : WF_ACCUMULATE,
                          .size = {1, dy.extent[0], dy.extent[1]}};
    WF_DEFER(L, site, &p, dy, row);
}

static uint32_t rms(const wf_lowering *L) {
    return L->model->norm == WF_RMSNORM ? WF_RMS : 0;
}

/* The table has a norm's bias after its weight; RMSNorm has none. */
void wf_lower_norm(wf_lowering *L, const char *site, wf_view x, int weight, wf_view y,
                   wf_view stats) {
    const wf_problem p = {.op = WF_OP_NORM,
                          .flags = rms(L),
                          .size = {x.extent[0], x.extent[1]},
                          .real = {L->model->norm_epsilon}};
    const wf_view gamma = wf_lower_parameter(L, WF_KIND_VALUE, weight);
    if (p.flags)
        WF_KERNEL(L, site, &p, x, gamma, y, stats);
    else
        WF_KERNEL(L, site, &p, x, gamma, wf_lower_parameter(L, WF_KIND_VALUE, weight + 1), y,
                  stats);
}

void wf_lower_norm_backward(wf_lowering *L, const char *const site[3], wf_view dy, wf_view x,
                            wf_view stats, int weight, const wf_view *residual, wf_view out) {
    const int64_t n = dy.extent[1];
    const wf_view gamma = wf_lower_parameter(L, WF_KIND_VALUE, weight);
    const wf_problem backward = {
        .op = WF_OP_NORM_BACKWARD, .flags = rms(L), .size = {dy.extent[0], n}};
    const wf_view dx = residual ? wf_lower_scratch(L, site[0], dy.extent[0], n) : out;
    WF_KERNEL(L, site[0], &backward, dy, x, stats, gamma, dx);
    if (residual)
        wf_lower_tail(L, &(wf_tail_sites){.residual = site[1]}, dx,
                      &(wf_tail){.residual = residual}, out);
    const wf_problem wgrad = {.op = WF_OP_NORM_WGRAD,
                              .flags = rms(L) | (L->first ? 0 : WF_ACCUMULATE),
                              .size = {dy.extent[0], n}};
    const wf_view dgamma = wf_lower_parameter(L, WF_KIND_GRAD, weight);
    if (rms(L))
        WF_DEFER(L, site[2], &wgrad, dy, x, stats, dgamma);
    else
        WF_DEFER(L, site[2], &wgrad, dy, x, stats, dgamma,
                 wf_lower_parameter(L, WF_KIND_GRAD, weight + 1));
}

void wf_lower_tail(wf_lowering *L, const wf_tail_sites *site, wf_view in, const wf_tail *tail,
                   wf_view out) {
    const int stages = (tail->bias != NULL) + (tail->dropout > 0) + (tail->residual != NULL);
    wf_problem p = {.op = WF_OP_REDUCE, .size = {in.extent[0], in.extent[1], 1, 0, 1}};
    int left = stages;
#define WF_NEXT(name) (--left ? wf_lower_scratch(L, name, in.extent[0], in.extent[1]) : out)
    if (tail->bias) {
        wf_problem bias = p;
        bias.flags = WF_BIAS;
        bias.size[3] = tail->bias_group;
        const wf_view to = WF_NEXT(site->bias);
        WF_KERNEL(L, site->bias, &bias, in, *tail->bias, to);
        in = to;
    }
    if (tail->dropout > 0) {
        wf_problem dropout = p;
        dropout.flags = WF_DROPOUT;
        dropout.size[4] = L->b, dropout.size[5] = L->positions.run[0].first;
        dropout.size[6] = tail->dropout_site;
        dropout.size[8] = wf_positions_gap(&L->positions);
        dropout.size[7] = dropout.size[8] ? L->positions.run[0].count : 0;
        dropout.real[0] = tail->dropout;
        const wf_view to = WF_NEXT(site->dropout);
        WF_KERNEL(L, site->dropout, &dropout, in, to);
        in = to;
    }
    if (tail->residual) {
        p.flags = WF_RESIDUAL;
        WF_KERNEL(L, site->residual, &p, in, *tail->residual, WF_NEXT(site->residual));
    }
#undef WF_NEXT
    if (!stages) WF_KERNEL(L, site->residual, &p, in, out); /* rides along with a sum, or is a copy */
}

/* ---- sums and exchanges ---------------------------------------------------------------------- */

void wf_lower_gather(wf_lowering *L, const char *site, wf_view whole) {
    wf_rows part[L->tp];
    for (int32_t c = 0; c < L->layout.chunks && L->sp; c++) {
        for (int32_t i = 0; i < L->tp; i++) part[i] = chunk_of(L, L->block[i], c);
        wf_build_all_gather(L->s, site, WF_LANE_TP, L->group, &whole, part);
    }
    if (L->sp && L->layout.chunks > 1) L->arriving = whole.buffer;
    wf_lower_flush(L);
}

void wf_lower_add(wf_lowering *L, const char *site, const wf_view *parts, int32_t count,
                  wf_view out) {
    enum { MOST = 8 };
    wf_view views[MOST + 1];
    for (int32_t done = 0; done < count;) {
        int n = 0;
        if (done) n = 1; /* views[0]: the sum so far */
        while (n < MOST && done < count) views[n++] = parts[done++];
        views[n] = done == count ? out : wf_lower_scratch(L, site, out.extent[0], out.extent[1]);
        const wf_problem p = {.op = WF_OP_REDUCE, .size = {out.extent[0], out.extent[1], n, 0, 1}};
        wf_lower_kernel(L, site, &p, views, n + 1);
        views[0] = views[n];
    }
}

/* Own rows of the sum, or all of them. */
static wf_view sum_parts(wf_lowering *L, const wf_sum_sites *site, const wf_view *parts) {
    const int64_t n = parts[L->me].extent[1];
    if (L->sp) {
        const wf_view sum = wf_lower_scratch(L, site->sum, L->own.count, n);
        wf_lower_add(L, site->sum, parts, L->tp, sum);
        return sum;
    }
    const wf_view whole = wf_lower_scratch(L, site->gather, L->rows, n);
    wf_lower_add(L, site->sum, parts, L->tp, wf_lower_rows(whole, L->block[L->me]));
    wf_build_all_gather(L->s, site->gather, WF_LANE_TP, L->group, &whole, L->block);
    return whole;
}

wf_view wf_lower_sum(wf_lowering *L, const wf_sum_sites *site, wf_view partial) {
    if (L->tp == 1) return partial;
    wf_view parts[L->tp];
    wf_build_reduce_scatter(L->s, site->scatter, WF_LANE_TP, L->group, &partial, L->block, parts);
    wf_lower_flush(L);
    return sum_parts(L, site, parts);
}

/* A reduce-scatter whose chunks are computed one after another, each sent while the next is computed; the own block last. */
static void product_scatter(wf_lowering *L, const char *product, uint32_t flags, wf_view x, int weight, const char *scatter,
                            wf_view partial, wf_view *parts_out) {
    const wf_rows mine = L->block[L->me];
    const int32_t *const member = &L->s->members[L->s->groups[L->group].first_member];
    parts_out[L->me] = wf_lower_rows(partial, mine);
    for (int32_t k = 1; k < L->tp; k++) {
        const int32_t to = (L->me + k) % L->tp, from = (L->me - k + L->tp) % L->tp;
        parts_out[from] = wf_lower_scratch(L, scatter, mine.count, partial.extent[1]);
        for (int32_t c = 0; c < L->layout.chunks; c++) {
            const wf_rows rows = chunk_of(L, L->block[to], c);
            const wf_view sent = wf_lower_rows(partial, rows);
            const wf_view received = wf_lower_rows(parts_out[from], chunk_of(L, (wf_rows){0, mine.count}, c));
            product_rows(L, product, flags, x, weight, partial, rows);
            wf_build_hop(L->s, scatter, WF_LANE_TP, WF_REDUCE_SCATTER, L->group, k, member[to], &sent, member[from], &received);
        }
    }
    product_rows(L, product, flags, x, weight, partial, mine);
    L->pending = false;
    wf_lower_flush(L);
}

wf_view wf_lower_product_sum(wf_lowering *L, const char *product, uint32_t flags, wf_view x, int weight, const wf_sum_sites *site) {
    const wf_view partial = wf_lower_scratch(L, product, L->rows, L->model->hidden);
    wf_view parts[L->tp];
    if (L->tp == 1 || L->layout.chunks == 1) {
        wf_lower_product(L, product, flags, x, weight, partial);
        return wf_lower_sum(L, site, partial);
    }
    product_scatter(L, product, flags, x, weight, site->scatter, partial, parts);
    return sum_parts(L, site, parts);
}

static void defer_gradients(wf_lowering *L, const wf_column_sites *site, wf_view dy, wf_view x, int weight, int bias) {
    wf_lower_wgrad(L, site->wgrad, dy, x, weight);
    wf_lower_bias_grad(L, site->bias, dy, bias);
}

wf_view wf_lower_column_backward(wf_lowering *L, const wf_column_sites *site, wf_view dy, wf_view x,
                                 int weight, int bias) {
    if (site->more && L->tp > 1 && L->layout.chunks > 1) {
        const wf_view dx = wf_lower_product_sum(L, site->dgrad, 0, dy, weight, &site->sum);
        defer_gradients(L, site, dy, x, weight, bias);
        return dx;
    }
    defer_gradients(L, site, dy, x, weight, bias);
    return wf_lower_product_sum(L, site->dgrad, 0, dy, weight, &site->sum);
}

wf_view wf_lower_branch(wf_lowering *L, const wf_branch_sites *site, wf_view dx, double dropout,
                        int32_t dropout_site, int bias_tensor, wf_view *own_out) {
    const int64_t n = dx.extent[1];
    wf_view whole = dx, own = dx;
    if (L->sp) {
        whole = wf_lower_scratch(L, site->gather, L->rows, n);
        own = wf_lower_rows(whole, L->own);
    } else if (dropout > 0) {
        whole = own = wf_lower_scratch(L, site->dropout, L->rows, n);
    }
    if (dropout > 0)
        wf_lower_tail(L, &(wf_tail_sites){.dropout = site->dropout}, dx,
                      &(wf_tail){.dropout = dropout, .dropout_site = dropout_site}, own);
    else if (L->sp)
        wf_lower_copy(L, site->gather, dx, own);
    if (bias_tensor >= 0) wf_lower_bias_grad(L, site->bias, own, bias_tensor);
    wf_lower_gather(L, site->gather, whole);
    *own_out = own;
    return whole;
}
