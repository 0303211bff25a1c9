/* lower_head.c: final norm, BERT's transform, logits against the token embedding or a table of their
 * own, loss, and their backward.
 *
 * Cross-entropy over a vocabulary that is split over tp: each rank reduces its logits to (max, sum,
 * target's logit) per token; these are gathered and merged; the logits themselves are never
 * gathered (Shoeybi et al., 2019, section 3), except where a caller asks for them (mode LOGITS).
 * Final norm and transform are of own rows, replicated weights.
 *
 * Logits are the largest activation of small models with large vocabularies. So the tokens go through
 * logits, loss and their backward in chunks, one after another in the same memory (as in Liger Kernel's fused
 * linear cross-entropy, Hsu et al., 2024); each adds to the weight's gradient. */
#include "layouts/lowering.h"

/* What forward leaves for backward; `all`: what meets the vocabulary, all rows. */
typedef struct top {
    wf_view x, stats, hidden;            /* own rows: the last layer's output, the same normed */
    wf_view pre, turned, turned_stats;   /* of the transform, its activation, the norm of that */
    wf_view all;
} top;

static bool has_transform(const wf_lowering *L) {
    return L->model->head_form == WF_HEAD_TRANSFORM && L->mode != WF_MODE_HIDDEN;
}

/* The last step of own rows writes into its place within all rows, or where a caller reads them. */
static wf_view place_all(wf_lowering *L, const char *name) {
    const int64_t h = L->model->hidden;
    if (L->mode == WF_MODE_HIDDEN && !L->sp && L->cp.ranks == 1)
        return wf_matrix(L->hidden_all, WF_AT_MICROBATCH, 0, L->rows, h, h);
    return wf_lower_scratch(L, name, L->rows, h);
}

static void final_norm(wf_lowering *L, top *t) {
    const int64_t h = L->model->hidden;
    if (L->model->post_norm) {
        t->hidden = t->x;
        return;
    }
    t->stats = wf_lower_scratch(L, "normf.stats", L->own.count, 2);
    if (has_transform(L)) {
        t->hidden = wf_lower_scratch(L, "normf.y", L->own.count, h);
    } else {
        t->all = place_all(L, "normf.all");
        t->hidden = wf_lower_rows(t->all, L->own);
    }
    wf_lower_norm(L, "normf", t->x, WF_T_NORMF_WEIGHT, t->hidden, t->stats);
}

static void transform(wf_lowering *L, top *t) {
    const int64_t h = L->model->hidden, own = L->own.count;
    t->turned = wf_lower_scratch(L, "head.transform", own, h);
    t->pre = wf_lower_scratch(L, "head.transform.pre", own, h);
    t->turned_stats = wf_lower_scratch(L, "head.transform.stats", own, 2);
    t->all = place_all(L, "head.transform.all");
    wf_lower_activate(L, "head.transform", t->hidden, WF_T_TRANSFORM_WEIGHT, WF_T_TRANSFORM_BIAS,
                      t->turned, t->pre);
    wf_lower_norm(L, "head.transform.norm", t->turned, WF_T_TRANSFORM_NORM_WEIGHT,
                  wf_lower_rows(t->all, L->own), t->turned_stats);
}

static top forward(wf_lowering *L) {
    const int64_t h = L->model->hidden;
    top t = {.x = wf_matrix(L->x, WF_AT_X_IN, 0, L->own.count, h, h)};
    final_norm(L, &t);
    if (has_transform(L)) {
        transform(L, &t);
    } else if (L->model->post_norm) {
        t.all = t.x;
        if (L->sp || L->mode == WF_MODE_HIDDEN) {
            t.all = place_all(L, "head.all");
            wf_lower_copy(L, "head.gather", t.x, wf_lower_rows(t.all, L->own));
        }
    }
    wf_lower_gather(L, has_transform(L) || L->model->post_norm ? "head.gather" : "normf.gather", t.all);
    return t;
}

/* Alike on all tp ranks, which exchange statistics chunk by chunk. A chunk reads the whole weight, so it has tokens enough
 * for the products to take longer than that. */
static int32_t loss_chunks(const wf_lowering *L) {
    enum { LOGITS = 32 << 20, TOKENS = 512 }; /* at most, at least */
    int64_t ids = 0; /* the most that a rank has */
    for (int32_t i = 0; i < L->tp; i++) {
        const int64_t of = wf_layout_shard(&L->layout, WF_AXIS_TP, L->model->vocabulary, i).count;
        if (of > ids) ids = of;
    }
    const int64_t tokens = ids * TOKENS > LOGITS ? TOKENS : LOGITS / ids, asked = L->layout.loss_chunks;
    const int64_t chunks = asked ? asked : (L->rows + tokens - 1) / tokens, rows = L->rows ? L->rows : 1;
    return (int32_t)(chunks < 1 ? 1 : chunks < rows ? chunks : rows);
}

static wf_view targets(const wf_lowering *L, wf_rows chunk) {
    return wf_vector(L->targets, WF_AT_MICROBATCH, chunk.first, chunk.count);
}

/* The tp ranks' (max, sum, target) per token of a chunk: [tp, tokens, 3]. */
static wf_view gathered_stats(wf_lowering *L, wf_rows chunk, wf_view logits) {
    const int64_t each = chunk.count * 3;
    const wf_view all = wf_lower_scratch(L, "head.stats", L->tp, each);
    const wf_problem p = {.op = WF_OP_LOSS_STATS, .size = {chunk.count, L->ids.count, L->ids.first}};
    WF_KERNEL(L, "head.stats", &p, logits, targets(L, chunk),
              wf_matrix(all.buffer, WF_AT_NONE, L->me * each, chunk.count, 3, 3));
    if (L->tp > 1) {
        wf_rows one[L->tp];
        for (int32_t i = 0; i < L->tp; i++) one[i] = (wf_rows){i, 1};
        wf_build_all_gather(L->s, "head.stats.gather", WF_LANE_TP, L->group, &all, one);
    }
    const int64_t extent[] = {L->tp, chunk.count, 3}, stride[] = {each, 3, 1};
    return wf_array(all.buffer, WF_AT_NONE, 0, 3, extent, stride);
}

/* The chunk's part of the tokens' losses, a buffer that its first makes; returns each row's lse. */
static wf_view chunk_loss(wf_lowering *L, wf_rows chunk, wf_view logits, int32_t *losses) {
    const wf_view stats = gathered_stats(L, chunk, logits);
    const wf_view lse =
        wf_vector(wf_build_scratch(L->s, "head.lse", WF_F32, chunk.count), WF_AT_NONE, 0, chunk.count);
    if (!chunk.first) *losses = wf_build_scratch(L->s, "head.losses", WF_F32, L->rows);
    const wf_problem merge = {.op = WF_OP_LOSS_MERGE, .size = {chunk.count, L->tp}};
    WF_KERNEL(L, "head.merge", &merge, stats, targets(L, chunk), lse,
              wf_vector(*losses, WF_AT_NONE, chunk.first, chunk.count));
    return lse;
}

/* Adds the tokens' losses to the slot, which sums over microbatches. */
static void add_losses(wf_lowering *L, int32_t losses) {
    const wf_problem sum = {
        .op = WF_OP_SUM_ROWS, .flags = L->first ? 0 : WF_ACCUMULATE, .size = {1, L->rows, 1}};
    WF_DEFER(L, "head.loss", &sum, wf_matrix(losses, WF_AT_NONE, 0, L->rows, 1, 1),
             wf_matrix(L->loss, WF_AT_NONE, 0, 1, 1, 1));
}

static int head_weight(const wf_lowering *L) {
    return L->model->tied_head ? WF_T_TOKEN_EMBEDDING : WF_T_HEAD_WEIGHT;
}

/* An activation's gradient has no step of its own: it is the epilogue of an empty sum. */
static void activation_backward(wf_lowering *L, const char *site, wf_view pre, wf_view d) {
    const wf_view none = wf_matrix(d.buffer, WF_AT_NONE, 0, d.extent[0], 0, 0);
    const wf_view nothing = wf_matrix(d.buffer, WF_AT_NONE, 0, 0, d.extent[1], d.extent[1]);
    const wf_problem p = {.op = WF_OP_GEMM,
                          .flags = WF_ACCUMULATE | WF_ACT_GRAD,
                          .activation = L->model->activation,
                          .size = {d.extent[0], d.extent[1], 0}};
    WF_KERNEL(L, site, &p, none, nothing, pre, d);
}

/* Gradient of the transform's input: into out. */
static void transform_backward(wf_lowering *L, const top *t, wf_view dy, wf_view out) {
    const wf_view d = wf_lower_scratch(L, "head.transform.backward", L->own.count, L->model->hidden);
    wf_lower_norm_backward(L,
                           (const char *const[]){"head.transform.norm.backward", NULL,
                                                 "head.transform.norm.wgrad"},
                           dy, t->turned, t->turned_stats, WF_T_TRANSFORM_NORM_WEIGHT, NULL, d);
    activation_backward(L, "head.transform.backward", t->pre, d);
    wf_lower_product(L, "head.transform.dgrad", 0, d, WF_T_TRANSFORM_WEIGHT, out);
    wf_lower_wgrad(L, "head.transform.wgrad", d, t->hidden, WF_T_TRANSFORM_WEIGHT);
    wf_lower_bias_grad(L, "head.transform.bias.grad", d, WF_T_TRANSFORM_BIAS);
}

/* From what met the vocabulary (own rows of its gradient) down to the last layer's output. */
static void top_backward(wf_lowering *L, const top *t, wf_view dy) {
    const int64_t h = L->model->hidden;
    const wf_view dx = wf_matrix(L->dx, WF_AT_DX_OUT, 0, L->own.count, h, h);
    const bool norm = !L->model->post_norm;
    if (has_transform(L)) {
        const wf_view out = norm ? wf_lower_scratch(L, "head.transform.dgrad", L->own.count, h) : dx;
        transform_backward(L, t, dy, out);
        dy = out;
    } else if (!norm) {
        wf_lower_copy(L, "head.backward", dy, dx);
    }
    if (norm)
        wf_lower_norm_backward(L, (const char *const[]){"normf.backward", NULL, "normf.wgrad"}, dy,
                               t->x, t->stats, WF_T_NORMF_WEIGHT, NULL, dx);
}

/* The chunk's rows of the gradient of what met the vocabulary, this rank's part of them; and of the weight, to which all
 * but the first chunk of the first microbatch add. */
static void chunk_backward(wf_lowering *L, wf_rows chunk, wf_view all, wf_view logits, wf_view lse, wf_view partial) {
    const wf_problem p = {.op = WF_OP_LOSS_BACKWARD, .size = {chunk.count, L->ids.count, L->ids.first}};
    const bool first = L->first;
    if (L->ids.count) WF_KERNEL(L, "head.loss.backward", &p, lse, targets(L, chunk), logits);
    wf_lower_product(L, "head.dgrad", 0, logits, head_weight(L), wf_lower_rows(partial, chunk));
    L->first = first && !chunk.first;
    wf_lower_wgrad(L, "head.wgrad", logits, all, head_weight(L));
    wf_lower_bias_grad(L, "head.bias.grad", logits, WF_T_HEAD_BIAS);
    L->first = first;
}

static void loss_and_backward(wf_lowering *L, const top *t) {
    const int32_t chunks = loss_chunks(L);
    int32_t losses = -1;
    wf_view partial = {0};
    for (int32_t c = 0; c < chunks; c++) {
        const wf_range range = wf_shard(L->rows, chunks, c);
        const wf_rows chunk = {range.first, range.count};
        const wf_view all = wf_lower_rows(t->all, chunk);
        const wf_view logits = wf_lower_scratch(L, "head.logits", chunk.count, L->ids.count);
        wf_lower_linear(L, "head.logits", all, head_weight(L), WF_T_HEAD_BIAS, logits);
        const wf_view lse = chunk_loss(L, chunk, logits, &losses);
        if (c + 1 == chunks) add_losses(L, losses);
        if (!L->training) continue;
        if (!c) partial = wf_lower_scratch(L, "head.dgrad", L->rows, L->model->hidden);
        chunk_backward(L, chunk, all, logits, lse, partial);
        if (c + 1 < chunks) wf_lower_flush(L); /* the next chunk's logits take this one's place */
    }
    if (!L->training) return;
    const wf_sum_sites sites = {"head.dgrad.scatter", "head.dgrad.sum", "head.dgrad.gather"};
    top_backward(L, t, wf_lower_sum(L, &sites, partial));
}

/* ---- results that a caller reads ----------------------------------------------------------------- */

/* Of the whole sequence's rows, those of a run of a cp rank's positions. */
static wf_rows rows_of_run(const wf_lowering *L, int32_t cp, int run) {
    const int32_t rank = L->s->members[L->s->groups[L->cp.group].first_member + cp];
    const wf_range r = wf_model_positions(L->model, &L->layout, L->sequence, rank).run[run];
    return (wf_rows){r.first * L->b, r.count * L->b};
}

/* The slot gets all rows, of which the rank has those of its positions. Exchanges never write slots. */
static void all_positions(wf_lowering *L, const char *site, wf_view local, wf_view slot) {
    const int32_t n = L->cp.ranks;
    if (n == 1) {
        wf_lower_copy(L, site, local, slot);
        return;
    }
    const wf_view whole = wf_lower_scratch(L, site, slot.extent[0], slot.extent[1]);
    for (int run = 0; run < 2; run++) {
        wf_rows of[n];
        for (int32_t i = 0; i < n; i++) of[i] = rows_of_run(L, i, run);
        const wf_rows mine = {run ? local.extent[0] - of[L->cp.me].count : 0, of[L->cp.me].count};
        wf_lower_copy(L, site, wf_lower_rows(local, mine), wf_lower_rows(whole, of[L->cp.me]));
        wf_build_all_gather(L->s, site, WF_LANE_CP, L->cp.group, &whole, of);
    }
    wf_lower_copy(L, site, whole, slot);
}

/* Every rank gets every column: the ranks' logits, each contiguous, behind one another, then copied
 * into columns. */
static void gather_logits(wf_lowering *L, wf_view all, wf_view out) {
    const int64_t vocabulary = L->model->vocabulary;
    wf_rows block[L->tp];
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range ids = wf_layout_shard(&L->layout, WF_AXIS_TP, vocabulary, i);
        block[i] = (wf_rows){L->rows * ids.first, L->rows * ids.count};
    }
    wf_build_all_gather(L->s, "head.logits.gather", WF_LANE_TP, L->group, &all, block);
    for (int32_t i = 0; i < L->tp; i++) {
        const wf_range ids = wf_layout_shard(&L->layout, WF_AXIS_TP, vocabulary, i);
        wf_lower_copy(L, "head.logits",
                      wf_matrix(all.buffer, WF_AT_NONE, block[i].first, L->rows, ids.count, ids.count),
                      wf_lower_columns(out, ids.first, ids.count));
    }
}

static void all_logits(wf_lowering *L, const top *t) {
    const int64_t vocabulary = L->model->vocabulary, rows = L->sequence * L->b;
    const wf_view slot = wf_matrix(L->logits, WF_AT_MICROBATCH, 0, rows, vocabulary, vocabulary);
    const wf_view out = L->cp.ranks > 1 ? wf_lower_scratch(L, "head.logits", L->rows, vocabulary) : slot;
    if (L->tp > 1) {
        const wf_view all = wf_lower_scratch(L, "head.logits.all", L->rows * vocabulary, 1);
        wf_lower_linear(L, "head.logits", t->all, head_weight(L), WF_T_HEAD_BIAS,
                        wf_matrix(all.buffer, WF_AT_NONE, L->rows * L->ids.first, L->rows, L->ids.count, L->ids.count));
        gather_logits(L, all, out);
    } else {
        wf_lower_linear(L, "head.logits", t->all, head_weight(L), WF_T_HEAD_BIAS, out);
    }
    if (L->cp.ranks > 1) all_positions(L, "head.logits.positions", out, slot);
}

/* The result of mode HIDDEN, unless it is there already. */
static void keep_hidden(wf_lowering *L, const top *t) {
    const int64_t h = L->model->hidden;
    if (L->sp || L->cp.ranks > 1)
        all_positions(L, "head.hidden.all", t->all, wf_matrix(L->hidden_all, WF_AT_MICROBATCH, 0, L->sequence * L->b, h, h));
}

int32_t wf_lower_head(wf_lowering *L, bool first) {
    const char *const names[][2] = {[WF_MODE_TRAIN] = {"head", "head.first"},
                                    [WF_MODE_GRADIENTS] = {"head", "head.first"},
                                    [WF_MODE_EVALUATE] = {"head.evaluate", "head.evaluate.first"},
                                    [WF_MODE_LOGITS] = {"head.logits", "head.logits"},
                                    [WF_MODE_HIDDEN] = {"head.hidden", "head.hidden"}};
    wf_lower_begin(L, names[L->mode][first], first);
    const top t = forward(L);
    if (L->hidden >= 0)
        wf_lower_copy(
            L, "head.hidden", t.x,
            wf_matrix(L->hidden, WF_AT_MICROBATCH, 0, t.x.extent[0], t.x.extent[1], t.x.extent[1]));
    if (L->mode == WF_MODE_HIDDEN)
        keep_hidden(L, &t);
    else if (L->mode == WF_MODE_LOGITS)
        all_logits(L, &t);
    else
        loss_and_backward(L, &t);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
