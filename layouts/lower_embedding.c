/* lower_embedding.c: token, position and type embedding, and their norm where there is one. The token
 * table is split by ids: a rank gives 0 for ids that it does not hold, and the sum over tp is the row
 * (Shoeybi et al., 2019). A position's row is a bias shared by its b samples; in packed documents positions begin anew with each,
 * and every token has a row of its own. */
#include "kernels/philox.h"
#include "layouts/lowering.h"

static wf_view ids_view(const wf_lowering *L, int32_t slot) {
    return wf_vector(slot, WF_AT_MICROBATCH, 0, L->rows);
}

static wf_problem embedding_problem(const wf_lowering *L, wf_op op) {
    return (wf_problem){.op = op, .size = {L->rows, L->ids.count, L->model->hidden, L->ids.first}};
}

/* The type's row is added to every token: all are of type 0. */
static wf_view type_row(const wf_lowering *L, wf_kind kind) {
    const wf_view table = wf_lower_parameter(L, kind, WF_T_TYPE_EMBEDDING);
    return wf_vector(table.buffer, WF_AT_NONE, 0, L->model->hidden);
}

/* Saved from a microbatch's forward to its backward: one alone, unless a pipeline has several in
 * flight. */
static bool is_piped(const wf_lowering *L) {
    return L->layout.size[WF_AXIS_PP] > 1;
}

static wf_view embedded_view(const wf_lowering *L, int32_t pool, int64_t columns) {
    return wf_matrix(pool, is_piped(L) ? WF_AT_MICROBATCH : WF_AT_NONE, 0, L->own.count, columns,
                     columns);
}

void wf_lower_embedding_pools(wf_lowering *L) {
    L->embedded = L->embedded_stats = -1;
    if (!L->training || !L->model->embedding_norm) return;
    const int32_t count = is_piped(L) ? L->microbatches : 1;
    L->embedded = wf_build_pool(L->s, "saved.embedding", WF_CLASS_ACTIVATION, WF_F32,
                                L->own.count * L->model->hidden);
    L->embedded_stats = wf_build_pool(L->s, "saved.embedding.stats", WF_CLASS_ACTIVATION, WF_F32,
                                      L->own.count * 2);
    wf_build_pool_count(L->s, L->embedded, count);
    wf_build_pool_count(L->s, L->embedded_stats, count);
}

/* Norm of the sum, which is saved where a backward follows, then dropout. */
static void norm_embedded(wf_lowering *L, wf_view sum, wf_view stats, const wf_tail *dropout,
                          wf_view x) {
    const int64_t h = L->model->hidden;
    const bool drops = dropout->dropout > 0;
    const wf_view y = drops ? wf_lower_scratch(L, "embedding.norm", L->own.count, h) : x;
    wf_lower_norm(L, "embedding.norm", sum, WF_T_EMBEDDING_NORM_WEIGHT, y, stats);
    if (drops) wf_lower_tail(L, &(wf_tail_sites){.dropout = "embedding.dropout"}, y, dropout, x);
}

/* The own tokens' places in their documents, and their rows of the position table. */
static wf_view places_view(const wf_lowering *L) {
    return wf_vector(L->places, WF_AT_MICROBATCH, L->own.first, L->own.count);
}

static wf_problem places_problem(const wf_lowering *L, wf_op op) {
    return (wf_problem){.op = op, .size = {L->own.count, L->model->positions, L->model->hidden, 0}};
}

/* Of a tensor's rows, those of a run of the own positions. */
static wf_view rows_of_run(const wf_lowering *L, wf_view table, int run) {
    return wf_lower_rows(table, (wf_rows){L->positions.run[run].first, L->positions.run[run].count});
}

/* The own positions' rows, side by side; of documents, the own tokens'. */
static wf_view position_rows(wf_lowering *L) {
    const wf_view table = wf_lower_parameter(L, WF_KIND_VALUE, WF_T_POSITION_EMBEDDING);
    const wf_range *const run = L->positions.run;
    if (L->places >= 0) {
        const wf_view rows = wf_lower_scratch(L, "embedding.positions", L->own.count, L->model->hidden);
        const wf_problem p = places_problem(L, WF_OP_EMBEDDING);
        WF_KERNEL(L, "embedding.positions", &p, places_view(L), table, rows);
        return rows;
    }
    if (!run[1].count) return rows_of_run(L, table, 0);
    const wf_view rows = wf_lower_scratch(L, "embedding.positions", L->positions.count, L->model->hidden);
    for (int i = 0; i < 2; i++)
        wf_lower_copy(L, "embedding.positions", rows_of_run(L, table, i),
                      wf_lower_rows(rows, (wf_rows){i ? run[0].count : 0, run[i].count}));
    return rows;
}

/* Positions, type, norm, dropout: x from the summed rows of the token table. */
static void finish_embedding(wf_lowering *L, wf_view sum, wf_view x) {
    const bool types = L->model->types > 0, norm = L->model->embedding_norm;
    const bool learned = L->model->position_form == WF_POSITIONS_LEARNED;
    const int64_t h = L->model->hidden;
    const wf_tail dropout = {.dropout = L->training ? L->model->dropout_embedding : 0,
                             .dropout_site = WF_SITE_EMBEDDING};
    wf_tail tail = norm ? (wf_tail){0} : dropout;
    const wf_view to = !norm               ? x
                       : L->embedded >= 0 ? embedded_view(L, L->embedded, h)
                                          : wf_lower_scratch(L, "embedding", L->own.count, h);
    wf_view positions, type;
    if (types) { /* first, so that the positions' bias ends the chain as it does without types */
        type = type_row(L, WF_KIND_VALUE);
        const wf_view typed =
            learned || tail.dropout > 0 ? wf_lower_scratch(L, "embedding.type", L->own.count, h) : to;
        wf_lower_tail(L, &(wf_tail_sites){.bias = "embedding.type"}, sum, &(wf_tail){.bias = &type},
                      typed);
        sum = typed;
    }
    if (learned) {
        positions = position_rows(L);
        tail.bias = &positions, tail.bias_group = L->places >= 0 ? 1 : L->b;
    }
    if (learned || tail.dropout > 0 || !types)
        wf_lower_tail(L,
                      &(wf_tail_sites){.bias = "embedding.position",
                                       .dropout = "embedding.dropout",
                                       .residual = "embedding"},
                      sum, &tail, to);
    if (norm)
        norm_embedded(L, to,
                      L->embedded >= 0 ? embedded_view(L, L->embedded_stats, 2)
                                       : wf_lower_scratch(L, "embedding.stats", L->own.count, 2),
                      &dropout, x);
}

int32_t wf_lower_embedding_forward(wf_lowering *L) {
    const int64_t h = L->model->hidden;
    wf_lower_begin(L, "embed.forward", false);
    const wf_problem p = embedding_problem(L, WF_OP_EMBEDDING);
    const wf_view partial = wf_lower_scratch(L, "embedding.partial", L->rows, h);
    if (L->ids.count)
        WF_KERNEL(L, "embedding", &p, ids_view(L, L->tokens),
                  wf_lower_parameter(L, WF_KIND_VALUE, WF_T_TOKEN_EMBEDDING), partial);
    else
        wf_lower_fill(L, "embedding", partial, 0);
    const wf_view sum = wf_lower_sum(
        L, &(wf_sum_sites){"embedding.scatter", "embedding.sum", "embedding.gather"}, partial);
    finish_embedding(L, sum, wf_matrix(L->x, WF_AT_X_OUT, 0, L->own.count, h, h));
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* Rows of the position table's gradient that no rank's tokens touch are zero; under sp those of the
 * other ranks arrive in `finish`, where under cp, and of documents, all ranks' tables are summed. */
static void position_grad(wf_lowering *L, wf_view own) {
    const bool whole = L->cp.ranks > 1 || L->places >= 0, adds = !L->first || whole;
    const int64_t h = L->model->hidden, rest = whole ? 0 : L->sequence;
    const wf_view table = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_POSITION_EMBEDDING);
    if (L->first)
        wf_lower_fill(L, "embedding.position.grad",
                      wf_lower_rows(table, (wf_rows){rest, L->model->positions - rest}), 0);
    if (L->places >= 0) {
        const wf_problem p = places_problem(L, WF_OP_EMBEDDING_BACKWARD);
        if (L->own.count) WF_DEFER(L, "embedding.position.grad", &p, places_view(L), own, table);
        return;
    }
    for (int run = 0; run < 2; run++) {
        const int64_t before = run ? L->positions.run[0].count : 0, count = L->positions.run[run].count;
        const wf_problem p = {.op = WF_OP_SUM_ROWS, .flags = adds ? WF_ACCUMULATE : 0, .size = {count, L->b, h}};
        if (count)
            WF_DEFER(L, "embedding.position.grad", &p, wf_lower_rows(own, (wf_rows){before * L->b, count * L->b}),
                     rows_of_run(L, table, run));
    }
}

/* Other types' rows have no tokens. */
static void type_grad(wf_lowering *L, wf_view own) {
    const int64_t h = L->model->hidden;
    const wf_view table = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_TYPE_EMBEDDING);
    const wf_problem p = {.op = WF_OP_SUM_ROWS,
                          .flags = L->first ? 0 : WF_ACCUMULATE,
                          .size = {1, own.extent[0], h}};
    if (L->first)
        wf_lower_fill(L, "embedding.type.grad",
                      wf_lower_rows(table, (wf_rows){1, L->model->types - 1}), 0);
    WF_DEFER(L, "embedding.type.grad", &p, own, wf_lower_rows(table, (wf_rows){0, 1}));
}

/* Gradient of the embeddings' sum, given that of x: dropout's and the norm's backward. */
static wf_view norm_backward(wf_lowering *L, wf_view dx) {
    const int64_t h = L->model->hidden;
    wf_view dy = dx;
    if (L->model->dropout_embedding > 0) {
        dy = wf_lower_scratch(L, "embedding.dropout.backward", L->own.count, h);
        wf_lower_tail(L, &(wf_tail_sites){.dropout = "embedding.dropout.backward"}, dx,
                      &(wf_tail){.dropout = L->model->dropout_embedding,
                                 .dropout_site = WF_SITE_EMBEDDING},
                      dy);
    }
    const wf_view out = wf_lower_scratch(L, "embedding.norm.backward", L->own.count, h);
    wf_lower_norm_backward(
        L, (const char *const[]){"embedding.norm.backward", NULL, "embedding.norm.wgrad"}, dy,
        embedded_view(L, L->embedded, h), embedded_view(L, L->embedded_stats, 2),
        WF_T_EMBEDDING_NORM_WEIGHT, NULL, out);
    return out;
}

int32_t wf_lower_embedding_backward(wf_lowering *L, bool first) {
    const int64_t h = L->model->hidden;
    const wf_view dtable = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_TOKEN_EMBEDDING);
    wf_lower_begin(L, first ? "embed.backward.first" : "embed.backward", first);
    wf_view dx = wf_matrix(L->dx, WF_AT_DX_IN, 0, L->own.count, h, h), own;
    const bool norm = L->model->embedding_norm;
    if (norm) dx = norm_backward(L, dx);
    const wf_view whole = wf_lower_branch(
        L, &(wf_branch_sites){"embedding.dropout.backward", NULL, "embedding.dgrad.gather"}, dx,
        norm ? 0 : L->model->dropout_embedding, WF_SITE_EMBEDDING, -1, &own);
    if (wf_lower_has(L, WF_T_POSITION_EMBEDDING)) position_grad(L, own);
    if (wf_lower_has(L, WF_T_TYPE_EMBEDDING)) type_grad(L, own);
    if (first && !L->model->tied_head) wf_lower_fill(L, "embedding.wgrad", dtable, 0);
    const wf_problem p = embedding_problem(L, WF_OP_EMBEDDING_BACKWARD);
    WF_KERNEL(L, "embedding.wgrad", &p, ids_view(L, L->tokens), whole, dtable);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
