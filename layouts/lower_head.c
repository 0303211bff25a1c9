/* lower_head.c: final norm, logits against the tied token embedding, loss, and their backward.
 *
 * Cross-entropy over a vocabulary that is split over tp: each rank reduces its logits to (max, sum,
 * target's logit) per token; these are gathered and merged; the logits themselves are never
 * gathered (Shoeybi et al., 2019, section 3), except where a caller asks for them (mode LOGITS). */
#include "layouts/lowering.h"

/* The normed own rows, in their place within all rows. */
typedef struct normed {
    wf_view x, stats, all;
} normed;

static normed final_norm(wf_lowering *L) {
    const int64_t h = L->model->hidden;
    const normed n = {.x = wf_matrix(L->x, WF_AT_X_IN, 0, L->own.count, h, h),
                      .stats = wf_lower_scratch(L, "normf.stats", L->own.count, 2),
                      .all = wf_lower_scratch(L, "normf.all", L->rows, h)};
    const wf_problem p = {
        .op = WF_OP_NORM, .size = {L->own.count, h}, .real = {L->model->norm_epsilon}};
    WF_KERNEL(L, "normf", &p, n.x, wf_lower_parameter(L, WF_KIND_VALUE, WF_T_NORMF_WEIGHT),
              wf_lower_parameter(L, WF_KIND_VALUE, WF_T_NORMF_BIAS), wf_lower_rows(n.all, L->own),
              n.stats);
    wf_lower_gather(L, "normf.gather", n.all);
    return n;
}

static wf_view targets(const wf_lowering *L) {
    return wf_vector(L->targets, WF_AT_MICROBATCH, 0, L->rows);
}

/* The tp ranks' (max, sum, target) per token: [tp, rows, 3]. */
static wf_view gathered_stats(wf_lowering *L, wf_view logits) {
    const int64_t each = L->rows * 3;
    const wf_view all = wf_lower_scratch(L, "head.stats", L->tp, each);
    const wf_problem p = {.op = WF_OP_LOSS_STATS, .size = {L->rows, L->ids.count, L->ids.first}};
    WF_KERNEL(L, "head.stats", &p, logits, targets(L),
              wf_matrix(all.buffer, WF_AT_NONE, L->me * each, L->rows, 3, 3));
    if (L->tp > 1) {
        wf_rows one[L->tp];
        for (int32_t i = 0; i < L->tp; i++) one[i] = (wf_rows){i, 1};
        wf_build_all_gather(L->s, "head.stats.gather", WF_LANE_TP, L->group, &all, one);
    }
    const int64_t extent[] = {L->tp, L->rows, 3}, stride[] = {each, 3, 1};
    return wf_array(all.buffer, WF_AT_NONE, 0, 3, extent, stride);
}

/* Adds the tokens' losses to the slot, which sums over microbatches; returns each row's lse. */
static wf_view loss(wf_lowering *L, wf_view logits) {
    const wf_view stats = gathered_stats(L, logits);
    const wf_view lse =
        wf_vector(wf_build_scratch(L->s, "head.lse", WF_F32, L->rows), WF_AT_NONE, 0, L->rows);
    const int32_t losses = wf_build_scratch(L->s, "head.losses", WF_F32, L->rows);
    const wf_problem merge = {.op = WF_OP_LOSS_MERGE, .size = {L->rows, L->tp}};
    WF_KERNEL(L, "head.merge", &merge, stats, targets(L), lse,
              wf_vector(losses, WF_AT_NONE, 0, L->rows));
    const wf_problem sum = {
        .op = WF_OP_SUM_ROWS, .flags = L->first ? 0 : WF_ACCUMULATE, .size = {1, L->rows, 1}};
    WF_DEFER(L, "head.loss", &sum, wf_matrix(losses, WF_AT_NONE, 0, L->rows, 1, 1),
             wf_matrix(L->loss, WF_AT_NONE, 0, 1, 1, 1));
    return lse;
}

static void head_backward(wf_lowering *L, const normed *n, wf_view logits, wf_view lse) {
    const int64_t h = L->model->hidden;
    const wf_problem p = {.op = WF_OP_LOSS_BACKWARD, .size = {L->rows, L->ids.count, L->ids.first}};
    if (L->ids.count) WF_KERNEL(L, "head.loss.backward", &p, lse, targets(L), logits);
    const wf_view partial = wf_lower_scratch(L, "head.dgrad", L->rows, h);
    wf_lower_gemm(L, "head.dgrad", 0, logits,
                  wf_lower_parameter(L, WF_KIND_VALUE, WF_T_TOKEN_EMBEDDING), partial);
    wf_lower_wgrad(L, "head.wgrad", logits, n->all, WF_T_TOKEN_EMBEDDING);
    const wf_view dy = wf_lower_sum(
        L, &(wf_sum_sites){"head.dgrad.scatter", "head.dgrad.sum", "head.dgrad.gather"}, partial);
    wf_lower_norm_backward(L, (const char *const[]){"normf.backward", NULL, "normf.wgrad"}, dy,
                           n->x, n->stats, WF_T_NORMF_WEIGHT, NULL,
                           wf_matrix(L->dx, WF_AT_DX_OUT, 0, L->own.count, h, h));
}

/* Every rank gets every column: the ranks' logits, each contiguous, behind one another, then copied
 * into columns. */
static void gather_logits(wf_lowering *L, wf_view all) {
    const int64_t vocabulary = L->model->vocabulary;
    wf_rows block[L->tp];
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range ids = wf_shard(vocabulary, L->tp, i);
        block[i] = (wf_rows){L->rows * ids.first, L->rows * ids.count};
    }
    if (L->tp > 1)
        wf_build_all_gather(L->s, "head.logits.gather", WF_LANE_TP, L->group, &all, block);
    for (int32_t i = 0; i < L->tp && L->tp > 1; i++) {
        const wf_range ids = wf_shard(vocabulary, L->tp, i);
        wf_lower_copy(
            L, "head.logits",
            wf_matrix(all.buffer, WF_AT_NONE, block[i].first, L->rows, ids.count, ids.count),
            wf_matrix(L->logits, WF_AT_MICROBATCH, ids.first, L->rows, ids.count, vocabulary));
    }
}

static wf_view logits_view(wf_lowering *L, wf_view *all_out) {
    const int64_t vocabulary = L->model->vocabulary, mine = L->ids.count;
    if (L->mode != WF_MODE_LOGITS) return wf_lower_scratch(L, "head.logits", L->rows, mine);
    if (L->tp == 1)
        return wf_matrix(L->logits, WF_AT_MICROBATCH, 0, L->rows, vocabulary, vocabulary);
    *all_out = wf_lower_scratch(L, "head.logits.all", L->rows * vocabulary, 1);
    return wf_matrix(all_out->buffer, WF_AT_NONE, L->rows * L->ids.first, L->rows, mine, mine);
}

int32_t wf_lower_head(wf_lowering *L, bool first) {
    const char *const names[][2] = {[WF_MODE_TRAIN] = {"head", "head.first"},
                                    [WF_MODE_GRADIENTS] = {"head", "head.first"},
                                    [WF_MODE_EVALUATE] = {"head.evaluate", "head.evaluate.first"},
                                    [WF_MODE_LOGITS] = {"head.logits", "head.logits"}};
    wf_lower_begin(L, names[L->mode][first], first);
    const normed n = final_norm(L);
    if (L->hidden >= 0)
        wf_lower_copy(
            L, "head.hidden", n.x,
            wf_matrix(L->hidden, WF_AT_MICROBATCH, 0, n.x.extent[0], n.x.extent[1], n.x.extent[1]));
    wf_view all = {0};
    const wf_view logits = logits_view(L, &all);
    wf_lower_gemm(L, "head.logits", WF_TRANS_B, n.all,
                  wf_lower_parameter(L, WF_KIND_VALUE, WF_T_TOKEN_EMBEDDING), logits);
    if (L->mode == WF_MODE_LOGITS) {
        gather_logits(L, all);
    } else {
        const wf_view lse = loss(L, logits);
        if (L->training) head_backward(L, &n, logits, lse);
    }
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
