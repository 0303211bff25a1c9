/* lower_layer.c: a Transformer layer, forward and backward (Shoeybi et al., "Megatron-LM", 2019;
 * sequence parallelism: Korthikanti et al., "Reducing Activation Recomputation in Large Transformer
 * Models", 2022). Its halves are lower_attention.c and lower_mlp.c.
 *
 * A layer is a table of values, each with its producer. need(v) takes v from this segment, else
 * from what was saved, else lowers its producer here. Forward is need(output); backward is
 * hand-written and needs forward's values: the all-gather of the saved normed rows under sp is
 * nothing but such a value that was not saved. What is saved stands in the table (Megatron's
 * choice), and with it which kind of recomputation does without. Norms before the halves (GPT-2,
 * Llama) or after their sums (BERT) are two wirings of the same values: wf_form. */
#include "layouts/lowering.h"

typedef enum extent {
    OWN_HIDDEN,
    OWN_STATS,
    ALL_HIDDEN,
    QKV,
    ATTN,
    CONTEXT_QKV,
    CONTEXT_O,
    CONTEXT_OTHERS,
    LSE,
    PRE,
    FEATURES
} extent;

static void norm1(wf_lowering *), norm2(wf_lowering *), all1(wf_lowering *), all2(wf_lowering *);

enum {
    ALWAYS = 0, /* two numbers a row */
    UNLESS_FULL = WF_RECOMPUTE_FULL,
    UNLESS_POINTWISE = WF_RECOMPUTE_FULL | WF_RECOMPUTE_POINTWISE,
    UNLESS_ATTENTION = WF_RECOMPUTE_FULL | WF_RECOMPUTE_ATTENTION,
    NEVER = ~0
};

static const struct value {
    const char *name;
    void (*produce)(wf_lowering *);
    extent extent;
    int saved; /* unless it is the layer's output, or the layout recomputes one of these kinds; NEVER */
} values[WF_LAYER_VALUES] = {
    [WF_V_X] = {"x", NULL, OWN_HIDDEN, NEVER}, /* has its own pool: a layer's output is the next one's x */
    [WF_V_STATS1] = {"norm1.stats", norm1, OWN_STATS, ALWAYS},
    [WF_V_NORM1] = {"norm1.y", norm1, OWN_HIDDEN, UNLESS_POINTWISE},
    [WF_V_ALL1] = {"norm1.all", all1, ALL_HIDDEN, NEVER},
    [WF_V_QKV] = {"attn.qkv", wf_lower_qkv, QKV, UNLESS_FULL},
    [WF_V_CONTEXT_QKV] = {"attn.context.qkv", wf_lower_context, CONTEXT_QKV, UNLESS_FULL},
    [WF_V_CONTEXT_O] = {"attn.context.o", wf_lower_attend, CONTEXT_O, NEVER},
    [WF_V_CONTEXT_OTHERS] = {"attn.context.others", wf_lower_attention, CONTEXT_OTHERS, UNLESS_ATTENTION},
    [WF_V_ATTN] = {"attn.o", wf_lower_attention, ATTN, UNLESS_ATTENTION},
    [WF_V_LSE] = {"attn.lse", wf_lower_attend, LSE, UNLESS_ATTENTION},
    [WF_V_SUM1] = {"x1", wf_lower_attention_out, OWN_HIDDEN, UNLESS_FULL},
    [WF_V_STATS2] = {"norm2.stats", norm2, OWN_STATS, ALWAYS},
    [WF_V_NORM2] = {"norm2.y", norm2, OWN_HIDDEN, UNLESS_POINTWISE},
    [WF_V_ALL2] = {"norm2.all", all2, ALL_HIDDEN, NEVER},
    [WF_V_PRE] = {"mlp.pre", wf_lower_features, PRE, UNLESS_FULL},
    [WF_V_ACT] = {"mlp.act", wf_lower_features, FEATURES, UNLESS_POINTWISE},
    [WF_V_SUM2] = {"x2", wf_lower_mlp_out, OWN_HIDDEN, UNLESS_FULL},
};

static const wf_form norm_first = {.norm_of = {WF_V_X, WF_V_SUM1},
                                   .in = {WF_V_NORM1, WF_V_NORM2},
                                   .residual = {WF_V_X, WF_V_SUM1},
                                   .out = WF_V_SUM2};
static const wf_form norm_last = {.norm_of = {WF_V_SUM1, WF_V_SUM2},
                                  .in = {WF_V_X, WF_V_NORM1},
                                  .residual = {WF_V_X, WF_V_NORM1},
                                  .out = WF_V_NORM2};

/* ---- values ---------------------------------------------------------------------------------- */

/* Rows and columns of a value; lse, [b, heads, positions], counts as b * heads rows. */
static wf_view value_view(const wf_lowering *L, wf_value v, int32_t buffer, wf_at at) {
    const int64_t d = L->model->head_size, f = L->features.count;
    const wf_domain *const in = &L->domain;
    const int64_t context = in->positions.count * L->b;
    const int64_t size[][2] = {[OWN_HIDDEN] = {L->own.count, L->model->hidden},
                               [OWN_STATS] = {L->own.count, 2},
                               [ALL_HIDDEN] = {L->rows, L->model->hidden},
                               [QKV] = {L->rows, (L->heads.count + 2 * L->kv.count) * d},
                               [ATTN] = {L->rows, L->heads.count * d},
                               [CONTEXT_QKV] = {context, (in->heads.count + 2 * in->kv.count) * d},
                               [CONTEXT_O] = {context, in->heads.count * d},
                               [CONTEXT_OTHERS] = {context - L->rows, in->heads.count * d},
                               [LSE] = {L->b * in->heads.count, in->positions.count},
                               [PRE] = {L->rows, L->model->gated ? 2 * f : f},
                               [FEATURES] = {L->rows, f}};
    const int64_t *of = size[values[v].extent];
    return wf_matrix(buffer, at, 0, of[0], of[1], of[1]);
}

static int64_t value_elements(const wf_lowering *L, wf_value v) {
    const wf_view view = value_view(L, v, 0, WF_AT_NONE);
    return view.extent[0] * view.extent[1];
}

/* Attention's q, k and v are kept as it reads them; its result as the projection reads it, and what others' projections read
 * of it, for backward begins with what was computed here. Where no heads are exchanged these are one. */
static bool is_alias(const wf_lowering *L, int v) {
    return L->ulysses.ranks > 1 ? v == WF_V_QKV : v == WF_V_CONTEXT_QKV || v == WF_V_CONTEXT_OTHERS;
}

static bool is_saved(const wf_lowering *L, int v) {
    const wf_layout *const layout = &L->layout;
    const int recomputed = (layout->recompute_full ? WF_RECOMPUTE_FULL : 0) | (layout->recompute_attention ? WF_RECOMPUTE_ATTENTION : 0) |
                           (layout->recompute_pointwise ? WF_RECOMPUTE_POINTWISE : 0);
    return L->training && values[v].saved != NEVER && !(values[v].saved & recomputed) && v != (int)L->form.out && !is_alias(L, v);
}

void wf_lower_layer_pools(wf_lowering *L) {
    L->form = L->model->post_norm ? norm_last : norm_first;
    for (int v = 0; v < WF_LAYER_VALUES; v++)
        L->saved[v] =
            is_saved(L, v)
                ? wf_build_pool(L->s, wf_build_text(L->s, "saved.%s", values[v].name),
                                WF_CLASS_ACTIVATION, WF_F32, value_elements(L, (wf_value)v))
                : -1;
}

wf_view wf_lower_need(wf_lowering *L, wf_value v) {
    if (L->has[v]) return L->value[v];
    if (L->backward && L->saved[v] >= 0) return value_view(L, v, L->saved[v], WF_AT_SAVED);
    values[v].produce(L);
    return L->value[v];
}

static wf_view produced(wf_lowering *L, wf_value v, wf_view view) {
    L->has[v] = true;
    L->value[v] = view;
    return view;
}

void wf_lower_produced(wf_lowering *L, wf_value v, wf_view view) {
    produced(L, v, view);
}

/* Kept in its pool, or scratch. A shard that is gathered and not kept goes right to its place in the
 * buffer that is gathered. */
wf_view wf_lower_destination(wf_lowering *L, wf_value v) {
    static const wf_value gathered[WF_HALVES] = {WF_V_ALL1, WF_V_ALL2};
    if (v == L->form.out && !L->backward) return produced(L, v, value_view(L, v, L->x, WF_AT_X_OUT));
    if (!L->backward && L->saved[v] >= 0)
        return produced(L, v, value_view(L, v, L->saved[v], WF_AT_SAVED));
    for (int half = 0; half < WF_HALVES && L->sp; half++) {
        if (v != L->form.in[half]) continue;
        const wf_view whole =
            wf_lower_scratch(L, values[gathered[half]].name, L->rows, L->model->hidden);
        L->whole[half] = whole.buffer;
        return produced(L, v, wf_lower_rows(whole, L->own));
    }
    return produced(L, v,
                    value_view(L, v,
                               wf_build_scratch(L->s, values[v].name, WF_F32, value_elements(L, v)),
                               WF_AT_NONE));
}

/* ---- producers that both halves share -------------------------------------------------------- */

static void norm1(wf_lowering *L) {
    const wf_view from = wf_lower_need(L, L->form.norm_of[0]);
    const wf_view to = wf_lower_destination(L, WF_V_NORM1);
    wf_lower_norm(L, "norm1", from, WF_T_NORM1_WEIGHT, to, wf_lower_destination(L, WF_V_STATS1));
}

static void norm2(wf_lowering *L) {
    const wf_view from = wf_lower_need(L, L->form.norm_of[1]);
    const wf_view to = wf_lower_destination(L, WF_V_NORM2);
    wf_lower_norm(L, "norm2", from, WF_T_NORM2_WEIGHT, to, wf_lower_destination(L, WF_V_STATS2));
}

static void gathered(wf_lowering *L, const char *site, int half, wf_value all) {
    const wf_view mine = wf_lower_need(L, L->form.in[half]);
    if (!L->sp) {
        produced(L, all, mine);
        return;
    }
    const int32_t in_place = L->whole[half];
    const wf_view whole = in_place >= 0
                              ? value_view(L, all, in_place, WF_AT_NONE)
                              : wf_lower_scratch(L, values[all].name, L->rows, L->model->hidden);
    if (in_place < 0) wf_lower_copy(L, site, mine, wf_lower_rows(whole, L->own));
    wf_lower_gather(L, site, whole);
    produced(L, all, whole);
}

static void all1(wf_lowering *L) {
    gathered(L, L->model->post_norm ? "x.gather" : "norm1.gather", WF_ATTENTION_HALF, WF_V_ALL1);
}

static void all2(wf_lowering *L) {
    gathered(L, L->model->post_norm ? "norm1.gather" : "norm2.gather", WF_MLP_HALF, WF_V_ALL2);
}

void wf_lower_row_parallel(wf_lowering *L, const wf_row_sites *site, wf_view x, int weight,
                           int32_t dropout_site, wf_view residual, wf_value out) {
    const wf_view sum = wf_lower_product_sum(L, site->product, WF_TRANS_B, x, weight, &site->sum);
    const wf_view bias = wf_lower_parameter(L, WF_KIND_VALUE, weight + 1);
    const wf_tail tail = {.bias = wf_lower_has(L, weight + 1) ? &bias : NULL,
                          .dropout = L->training ? L->model->dropout_residual : 0,
                          .dropout_site = dropout_site,
                          .residual = &residual};
    wf_lower_tail(L, &site->tail, sum, &tail, wf_lower_destination(L, out));
}

int32_t wf_lower_layer_forward(wf_lowering *L) {
    wf_lower_begin(L, "layer.forward", false);
    produced(L, WF_V_X, value_view(L, WF_V_X, L->x, WF_AT_X_IN));
    wf_lower_need(L, L->form.out);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* ---- backward -------------------------------------------------------------------------------- */

static const struct half {
    wf_view (*backward)(wf_lowering *, wf_view d);
    int weight; /* of its norm */
    wf_value stats;
    const char *norm[3], *residual;
} halves[WF_HALVES] = {
    {wf_lower_attention_backward, WF_T_NORM1_WEIGHT, WF_V_STATS1,
     {"norm1.backward", "norm1.residual", "norm1.wgrad"}, "attn.residual.backward"},
    {wf_lower_mlp_backward, WF_T_NORM2_WEIGHT, WF_V_STATS2,
     {"norm2.backward", "norm2.residual", "norm2.wgrad"}, "mlp.residual.backward"}};

/* d: gradient of the half's output (own rows); that of its input goes to `out`, or to scratch of
 * this name where NULL. */
static wf_view half_backward(wf_lowering *L, int which, wf_view d, const char *name,
                             const wf_view *out) {
    const struct half *half = &halves[which];
    const int64_t h = L->model->hidden;
    if (L->model->post_norm) {
        const wf_view x = wf_lower_need(L, L->form.norm_of[which]);
        const wf_view dsum = wf_lower_scratch(L, half->norm[0], L->own.count, h);
        wf_lower_norm_backward(L, half->norm, d, x, wf_lower_need(L, half->stats), half->weight,
                               NULL, dsum);
        const wf_view dy = half->backward(L, dsum);
        const wf_view to = out ? *out : wf_lower_scratch(L, name, L->own.count, h);
        wf_lower_tail(L, &(wf_tail_sites){.residual = half->residual}, dy,
                      &(wf_tail){.residual = &dsum}, to);
        return to;
    }
    const wf_view dy = half->backward(L, d);
    const wf_view x = wf_lower_need(L, L->form.norm_of[which]);
    const wf_view stats = wf_lower_need(L, half->stats);
    const wf_view to = out ? *out : wf_lower_scratch(L, name, L->own.count, h);
    wf_lower_norm_backward(L, half->norm, dy, x, stats, half->weight, &d, to);
    return to;
}

int32_t wf_lower_layer_backward(wf_lowering *L, bool first) {
    wf_lower_begin(L, first ? "layer.backward.first" : "layer.backward", first);
    L->backward = true;
    produced(L, WF_V_X, value_view(L, WF_V_X, L->x, WF_AT_X_IN));
    const wf_view dx = value_view(L, WF_V_X, L->dx, WF_AT_DX_IN);
    const wf_view out = value_view(L, WF_V_X, L->dx, WF_AT_DX_OUT);
    const wf_view dx1 = half_backward(L, WF_MLP_HALF, dx, "dx1", NULL);
    half_backward(L, WF_ATTENTION_HALF, dx1, NULL, &out);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
