/* lower_embedding.c: token and position embedding. The token table is split by ids: a rank gives 0
 * for ids that it does not hold, and the sum over tp is the row (Shoeybi et al., 2019). A
 * position's row is a bias shared by its b samples. */
#include "kernels/philox.h"
#include "layouts/lowering.h"

static wf_view ids_view(const wf_lowering *L, int32_t slot) {
    return wf_vector(slot, WF_AT_MICROBATCH, 0, L->rows);
}

static wf_problem embedding_problem(const wf_lowering *L, wf_op op) {
    return (wf_problem){.op = op, .size = {L->rows, L->ids.count, L->model->hidden, L->ids.first}};
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
    const wf_view positions =
        wf_lower_rows(wf_lower_parameter(L, WF_KIND_VALUE, WF_T_POSITION_EMBEDDING),
                      (wf_rows){L->positions.first, L->positions.count});
    const wf_tail tail = {.bias = &positions,
                          .bias_group = L->b,
                          .dropout = L->training ? L->model->dropout_embedding : 0,
                          .dropout_site = WF_SITE_EMBEDDING};
    wf_lower_tail(L, &(wf_tail_sites){.bias = "embedding.position", .dropout = "embedding.dropout"},
                  sum, &tail, wf_matrix(L->x, WF_AT_X_OUT, 0, L->own.count, h, h));
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* Rows of the position table's gradient that no rank's tokens touch are zero; under sp those of the
 * other ranks arrive in `finish`. */
static void position_grad(wf_lowering *L, wf_view own) {
    const int64_t h = L->model->hidden;
    const wf_view table = wf_lower_parameter(L, WF_KIND_GRAD, WF_T_POSITION_EMBEDDING);
    if (L->first)
        wf_lower_fill(
            L, "embedding.position.grad",
            wf_lower_rows(table, (wf_rows){L->sequence, L->model->positions - L->sequence}), 0);
    const wf_problem p = {.op = WF_OP_SUM_ROWS,
                          .flags = L->first ? 0 : WF_ACCUMULATE,
                          .size = {L->positions.count, L->b, h}};
    WF_DEFER(L, "embedding.position.grad", &p, own,
             wf_lower_rows(table, (wf_rows){L->positions.first, L->positions.count}));
}

int32_t wf_lower_embedding_backward(wf_lowering *L, bool first) {
    const int64_t h = L->model->hidden;
    wf_lower_begin(L, first ? "embed.backward.first" : "embed.backward", first);
    const wf_view dx = wf_matrix(L->dx, WF_AT_DX_IN, 0, L->own.count, h, h);
    wf_view own;
    const wf_view whole = wf_lower_branch(
        L, &(wf_branch_sites){"embedding.dropout.backward", NULL, "embedding.dgrad.gather"}, dx,
        L->model->dropout_embedding, WF_SITE_EMBEDDING, -1, &own);
    position_grad(L, own);
    const wf_problem p = embedding_problem(L, WF_OP_EMBEDDING_BACKWARD);
    WF_KERNEL(L, "embedding.wgrad", &p, ids_view(L, L->tokens), whole,
              wf_lower_parameter(L, WF_KIND_GRAD, WF_T_TOKEN_EMBEDDING));
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
