/* lower_layer.c: a Transformer layer, pre-norm, forward and backward (Shoeybi et al.,
 * "Megatron-LM", 2019; sequence parallelism: Korthikanti et al., "Reducing Activation Recomputation
 * in Large Transformer Models", 2022).
 *
 * A layer is a table of values, each with its producer. need(v) takes v from this segment, else
 * from what was saved, else lowers its producer here. Forward is need(output); backward is
 * hand-written and needs forward's values: the all-gather of the saved normed rows under sp is
 * nothing but such a value that was not saved. What is saved stands in the table (Megatron's
 * choice). */
#include <stdio.h>

#include "layouts/lowering.h"
#include "kernels/philox.h"

typedef enum extent { OWN_HIDDEN, OWN_STATS, ALL_HIDDEN, QKV, ATTN, LSE, FEATURES } extent;

static void norm1(wf_lowering *), norm1_all(wf_lowering *), qkv(wf_lowering *),
    attention(wf_lowering *), attention_out(wf_lowering *), norm2(wf_lowering *),
    norm2_all(wf_lowering *), features(wf_lowering *), output(wf_lowering *);

static const struct value {
    const char *name;
    void (*produce)(wf_lowering *);
    extent extent;
    bool saved;
} values[WF_LAYER_VALUES] = {
    [WF_V_X] = {"x", NULL, OWN_HIDDEN,
                false}, /* has its own pool: a layer's output is the next one's x */
    [WF_V_STATS1] = {"norm1.stats", norm1, OWN_STATS, true},
    [WF_V_NORM1] = {"norm1.y", norm1, OWN_HIDDEN, true},
    [WF_V_NORM1_ALL] = {"norm1.all", norm1_all, ALL_HIDDEN, false},
    [WF_V_QKV] = {"attn.qkv", qkv, QKV, true},
    [WF_V_ATTN] = {"attn.o", attention, ATTN, true},
    [WF_V_LSE] = {"attn.lse", attention, LSE, true},
    [WF_V_X1] = {"x1", attention_out, OWN_HIDDEN, true},
    [WF_V_STATS2] = {"norm2.stats", norm2, OWN_STATS, true},
    [WF_V_NORM2] = {"norm2.y", norm2, OWN_HIDDEN, true},
    [WF_V_NORM2_ALL] = {"norm2.all", norm2_all, ALL_HIDDEN, false},
    [WF_V_PRE] = {"mlp.pre", features, FEATURES, true},
    [WF_V_ACT] = {"mlp.act", features, FEATURES, true},
    [WF_V_OUT] = {"x.out", output, OWN_HIDDEN, false},
};

/* ---- values ---------------------------------------------------------------------------------- */

/* Rows and columns of a value; lse, [b, heads, s], counts as b * heads rows. */
static wf_view value_view(const wf_lowering *L, wf_value v, int32_t buffer, wf_at at) {
    const int64_t a = L->heads.count * L->model->head_size;
    const int64_t size[][2] = {[OWN_HIDDEN] = {L->own.count, L->model->hidden},
                               [OWN_STATS] = {L->own.count, 2},
                               [ALL_HIDDEN] = {L->rows, L->model->hidden},
                               [QKV] = {L->rows, 3 * a},
                               [ATTN] = {L->rows, a},
                               [LSE] = {L->b * L->heads.count, L->sequence},
                               [FEATURES] = {L->rows, L->features.count}};
    const int64_t *of = size[values[v].extent];
    return wf_matrix(buffer, at, 0, of[0], of[1], of[1]);
}

static int64_t value_elements(const wf_lowering *L, wf_value v) {
    const wf_view view = value_view(L, v, 0, WF_AT_NONE);
    return view.extent[0] * view.extent[1];
}

void wf_lower_layer_pools(wf_lowering *L) {
    for (int v = 0; v < WF_LAYER_VALUES; v++)
        L->saved[v] =
            L->training && values[v].saved
                ? wf_build_pool(L->s, wf_build_text(L->s, "saved.%s", values[v].name),
                                WF_CLASS_ACTIVATION, WF_F32, value_elements(L, (wf_value)v))
                : -1;
}

static wf_view need(wf_lowering *L, wf_value v) {
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

/* Where a value that is computed here goes: kept in its pool, or scratch. A normed shard that is
 * not kept goes right to its place in the buffer that is gathered. */
static wf_view destination(wf_lowering *L, wf_value v) {
    if (v == WF_V_OUT) return produced(L, v, value_view(L, v, L->x, WF_AT_X_OUT));
    if (!L->backward && L->saved[v] >= 0)
        return produced(L, v, value_view(L, v, L->saved[v], WF_AT_SAVED));
    if (L->sp && (v == WF_V_NORM1 || v == WF_V_NORM2)) {
        const wf_value all = v == WF_V_NORM1 ? WF_V_NORM1_ALL : WF_V_NORM2_ALL;
        const wf_view whole = wf_lower_scratch(L, values[all].name, L->rows, L->model->hidden);
        L->whole[v == WF_V_NORM2] = whole.buffer;
        return produced(L, v, wf_lower_rows(whole, L->own));
    }
    return produced(L, v,
                    value_view(L, v,
                               wf_build_scratch(L->s, values[v].name, WF_F32, value_elements(L, v)),
                               WF_AT_NONE));
}

/* ---- producers: forward ---------------------------------------------------------------------- */

static void norm(wf_lowering *L, const char *site, wf_value x, int weight, wf_value y,
                 wf_value stats) {
    const wf_view from = need(L, x);
    const wf_problem p = {.op = WF_OP_NORM,
                          .size = {from.extent[0], from.extent[1]},
                          .real = {L->model->norm_epsilon}};
    const wf_view to = destination(L, y), stats_to = destination(L, stats);
    WF_KERNEL(L, site, &p, from, wf_lower_parameter(L, WF_KIND_VALUE, weight),
              wf_lower_parameter(L, WF_KIND_VALUE, weight + 1), to, stats_to);
}

static void norm1(wf_lowering *L) {
    norm(L, "norm1", WF_V_X, WF_T_NORM1_WEIGHT, WF_V_NORM1, WF_V_STATS1);
}

static void norm2(wf_lowering *L) {
    norm(L, "norm2", WF_V_X1, WF_T_NORM2_WEIGHT, WF_V_NORM2, WF_V_STATS2);
}

static void gathered(wf_lowering *L, const char *site, wf_value own, wf_value all) {
    const wf_view mine = need(L, own);
    if (!L->sp) {
        produced(L, all, mine);
        return;
    }
    const int32_t in_place = L->whole[own == WF_V_NORM2];
    const wf_view whole = in_place >= 0
                              ? value_view(L, all, in_place, WF_AT_NONE)
                              : wf_lower_scratch(L, values[all].name, L->rows, L->model->hidden);
    if (in_place < 0) wf_lower_copy(L, site, mine, wf_lower_rows(whole, L->own));
    wf_lower_gather(L, site, whole);
    produced(L, all, whole);
}

static void norm1_all(wf_lowering *L) {
    gathered(L, "norm1.gather", WF_V_NORM1, WF_V_NORM1_ALL);
}

static void norm2_all(wf_lowering *L) {
    gathered(L, "norm2.gather", WF_V_NORM2, WF_V_NORM2_ALL);
}

static void qkv(wf_lowering *L) {
    const wf_view x = need(L, WF_V_NORM1_ALL);
    const wf_view out = destination(L, WF_V_QKV);
    const wf_view sum = wf_lower_scratch(L, "attn.qkv.sum", out.extent[0], out.extent[1]);
    const wf_view bias = wf_lower_parameter(L, WF_KIND_VALUE, WF_T_QKV_BIAS);
    wf_lower_gemm(L, "attn.qkv", WF_TRANS_B, x,
                  wf_lower_parameter(L, WF_KIND_VALUE, WF_T_QKV_WEIGHT), sum);
    wf_lower_tail(L, &(wf_tail_sites){.bias = "attn.qkv.bias"}, sum, &(wf_tail){.bias = &bias},
                  out);
}

static wf_problem attention_problem(const wf_lowering *L, wf_op op) {
    const double p = L->training ? L->model->dropout_attention : 0;
    return (wf_problem){.op = op,
                        .flags = WF_CAUSAL | (p > 0 ? WF_DROPOUT : 0),
                        .size = {L->b, L->sequence, L->sequence, L->heads.count, L->heads.count,
                                 L->model->head_size, L->heads.first, L->model->heads, 0, 0,
                                 p > 0 ? WF_SITE_ATTENTION : 0, 0},
                        .real = {p}};
}

/* Matrix [s * b, columns] as [s, b, heads, d]; part: columns of q, k or v within the fused tensor.
 */
static wf_view heads_view(const wf_lowering *L, wf_view m, int part) {
    const int64_t d = L->model->head_size;
    const int64_t extent[] = {L->sequence, L->b, L->heads.count, d};
    const int64_t stride[] = {L->b * m.stride[0], m.stride[0], d, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset + part * L->heads.count * d, 4, extent, stride);
}

static wf_view lse_view(const wf_lowering *L, wf_view m) {
    const int64_t extent[] = {L->b, L->heads.count, L->sequence};
    const int64_t stride[] = {L->heads.count * L->sequence, L->sequence, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset, 3, extent, stride);
}

static void attention(wf_lowering *L) {
    const wf_view in = need(L, WF_V_QKV);
    const wf_view out = destination(L, WF_V_ATTN), lse = destination(L, WF_V_LSE);
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION);
    if (L->heads.count)
        WF_KERNEL(L, "attn", &p, heads_view(L, in, 0), heads_view(L, in, 1), heads_view(L, in, 2),
                  heads_view(L, out, 0), lse_view(L, lse));
}

/* y = residual + dropout(bias + sum over tp of x W^T). */
static void row_parallel(wf_lowering *L, const char *site, const wf_sum_sites *sums,
                         const wf_tail_sites *tails, wf_view x, int weight, int32_t dropout_site,
                         wf_view residual, wf_value out) {
    const wf_view partial = wf_lower_scratch(L, site, L->rows, L->model->hidden);
    wf_lower_gemm(L, site, WF_TRANS_B, x, wf_lower_parameter(L, WF_KIND_VALUE, weight), partial);
    const wf_view sum = wf_lower_sum(L, sums, partial);
    const wf_view bias = wf_lower_parameter(L, WF_KIND_VALUE, weight + 1);
    const wf_tail tail = {.bias = &bias,
                          .dropout = L->training ? L->model->dropout_residual : 0,
                          .dropout_site = dropout_site,
                          .residual = &residual};
    wf_lower_tail(L, tails, sum, &tail, destination(L, out));
}

static void attention_out(wf_lowering *L) {
    const wf_view x = need(L, WF_V_ATTN), residual = need(L, WF_V_X);
    row_parallel(L, "attn.proj",
                 &(wf_sum_sites){"attn.proj.scatter", "attn.proj.sum", "attn.proj.gather"},
                 &(wf_tail_sites){"attn.proj.bias", "attn.proj.dropout", "attn.proj.residual"}, x,
                 WF_T_PROJ_WEIGHT, WF_SITE_ATTENTION_OUT, residual, WF_V_X1);
}

static void features(wf_lowering *L) {
    const wf_view x = need(L, WF_V_NORM2_ALL);
    const wf_problem p = {.op = WF_OP_GEMM,
                          .flags = WF_TRANS_B | WF_BIAS | WF_ACTIVATE,
                          .activation = L->model->activation,
                          .size = {L->rows, L->features.count, L->model->hidden}};
    const wf_view act = destination(L, WF_V_ACT), pre = destination(L, WF_V_PRE);
    WF_KERNEL(L, "mlp.fc1", &p, x, wf_lower_parameter(L, WF_KIND_VALUE, WF_T_FC1_WEIGHT),
              wf_lower_parameter(L, WF_KIND_VALUE, WF_T_FC1_BIAS), act, pre);
}

static void output(wf_lowering *L) {
    /* x1 before norm2 in any case: norm2 needs it too, and stands right behind its residual */
    const wf_view residual = need(L, WF_V_X1), x = need(L, WF_V_ACT);
    row_parallel(L, "mlp.fc2", &(wf_sum_sites){"mlp.fc2.scatter", "mlp.fc2.sum", "mlp.fc2.gather"},
                 &(wf_tail_sites){"mlp.fc2.bias", "mlp.fc2.dropout", "mlp.fc2.residual"}, x,
                 WF_T_FC2_WEIGHT, WF_SITE_MLP_OUT, residual, WF_V_OUT);
}

int32_t wf_lower_layer_forward(wf_lowering *L) {
    wf_lower_begin(L, "layer.forward", false);
    produced(L, WF_V_X, value_view(L, WF_V_X, L->x, WF_AT_X_IN));
    need(L, WF_V_OUT);
    wf_lower_end(L);
    return L->s->nsegments - 1;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* dx = dy W, on all rows. */
static void dgrad(wf_lowering *L, const char *site, wf_view dy, int weight, wf_view dx) {
    wf_lower_gemm(L, site, 0, dy, wf_lower_parameter(L, WF_KIND_VALUE, weight), dx);
}

/* Gradient of x1 (own rows), given that of the layer's output. */
static wf_view mlp_backward(wf_lowering *L, wf_view dx) {
    const int64_t h = L->model->hidden, f = L->features.count;
    wf_view own;
    const wf_view d = wf_lower_branch(
        L,
        &(wf_branch_sites){"mlp.fc2.dropout.backward", "mlp.fc2.bias.grad", "mlp.fc2.dgrad.gather"},
        dx, L->model->dropout_residual, WF_SITE_MLP_OUT, WF_T_FC2_BIAS, &own);

    const wf_view pre = need(L, WF_V_PRE), act = need(L, WF_V_ACT);
    const wf_view dpre = wf_lower_scratch(L, "mlp.dpre", L->rows, f);
    const wf_problem p = {.op = WF_OP_GEMM,
                          .flags = WF_ACT_GRAD,
                          .activation = L->model->activation,
                          .size = {L->rows, f, h}};
    WF_KERNEL(L, "mlp.fc2.dgrad", &p, d, wf_lower_parameter(L, WF_KIND_VALUE, WF_T_FC2_WEIGHT), pre,
              dpre);
    wf_lower_wgrad(L, "mlp.fc2.wgrad", d, act, WF_T_FC2_WEIGHT);

    const wf_view normed = need(L, WF_V_NORM2_ALL);
    const wf_view partial = wf_lower_scratch(L, "mlp.fc1.dgrad", L->rows, h);
    dgrad(L, "mlp.fc1.dgrad", dpre, WF_T_FC1_WEIGHT, partial);
    wf_lower_wgrad(L, "mlp.fc1.wgrad", dpre, normed, WF_T_FC1_WEIGHT);
    wf_lower_bias_grad(L, "mlp.fc1.bias.grad", dpre, WF_T_FC1_BIAS);
    const wf_view dy = wf_lower_sum(
        L, &(wf_sum_sites){"mlp.fc1.dgrad.scatter", "mlp.fc1.dgrad.sum", "mlp.fc1.dgrad.gather"},
        partial);

    const wf_view x = need(L, WF_V_X1), stats = need(L, WF_V_STATS2);
    const wf_view out = wf_lower_scratch(L, "dx1", L->own.count, h);
    wf_lower_norm_backward(L,
                           (const char *const[]){"norm2.backward", "norm2.residual", "norm2.wgrad"},
                           dy, x, stats, WF_T_NORM2_WEIGHT, &dx, out);
    return out;
}

/* Gradients of q, k and v, in one tensor as they are. */
static wf_view attention_backward(wf_lowering *L, wf_view d_out) {
    const int64_t a = L->heads.count * L->model->head_size;
    const wf_view in = need(L, WF_V_QKV), out = need(L, WF_V_ATTN), lse = need(L, WF_V_LSE);
    const wf_view dqkv = wf_lower_scratch(L, "attn.dqkv", L->rows, 3 * a);
    const wf_view delta = wf_lower_scratch(L, "attn.delta", L->b * L->heads.count, L->sequence);
    const wf_problem dots = attention_problem(L, WF_OP_ATTENTION_DELTA);
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION_BACKWARD);
    if (!L->heads.count) return dqkv;
    WF_KERNEL(L, "attn.delta", &dots, heads_view(L, out, 0), heads_view(L, d_out, 0),
              lse_view(L, delta));
    WF_KERNEL(L, "attn.backward", &p, heads_view(L, in, 0), heads_view(L, in, 1),
              heads_view(L, in, 2), heads_view(L, d_out, 0), lse_view(L, lse), lse_view(L, delta),
              heads_view(L, dqkv, 0), heads_view(L, dqkv, 1), heads_view(L, dqkv, 2));
    return dqkv;
}

static void attention_block_backward(wf_lowering *L, wf_view dx1, wf_view out) {
    const int64_t h = L->model->hidden, a = L->heads.count * L->model->head_size;
    wf_view own;
    const wf_view d = wf_lower_branch(
        L,
        &(wf_branch_sites){"attn.proj.dropout.backward", "attn.proj.bias.grad",
                           "attn.proj.dgrad.gather"},
        dx1, L->model->dropout_residual, WF_SITE_ATTENTION_OUT, WF_T_PROJ_BIAS, &own);
    const wf_view d_out = wf_lower_scratch(L, "attn.do", L->rows, a);
    dgrad(L, "attn.proj.dgrad", d, WF_T_PROJ_WEIGHT, d_out);
    wf_lower_wgrad(L, "attn.proj.wgrad", d, need(L, WF_V_ATTN), WF_T_PROJ_WEIGHT);
    const wf_view dqkv = attention_backward(L, d_out);

    const wf_view normed = need(L, WF_V_NORM1_ALL);
    const wf_view partial = wf_lower_scratch(L, "attn.qkv.dgrad", L->rows, h);
    dgrad(L, "attn.qkv.dgrad", dqkv, WF_T_QKV_WEIGHT, partial);
    wf_lower_wgrad(L, "attn.qkv.wgrad", dqkv, normed, WF_T_QKV_WEIGHT);
    wf_lower_bias_grad(L, "attn.qkv.bias.grad", dqkv, WF_T_QKV_BIAS);
    const wf_view dy = wf_lower_sum(
        L, &(wf_sum_sites){"attn.qkv.dgrad.scatter", "attn.qkv.dgrad.sum", "attn.qkv.dgrad.gather"},
        partial);
    const wf_view x = need(L, WF_V_X), stats = need(L, WF_V_STATS1);
    wf_lower_norm_backward(L,
                           (const char *const[]){"norm1.backward", "norm1.residual", "norm1.wgrad"},
                           dy, x, stats, WF_T_NORM1_WEIGHT, &dx1, out);
}

int32_t wf_lower_layer_backward(wf_lowering *L, bool first) {
    wf_lower_begin(L, first ? "layer.backward.first" : "layer.backward", first);
    L->backward = true;
    produced(L, WF_V_X, value_view(L, WF_V_X, L->x, WF_AT_X_IN));
    const wf_view dx = value_view(L, WF_V_X, L->dx, WF_AT_DX_IN);
    const wf_view dx1 = mlp_backward(L, dx);
    attention_block_backward(L, dx1, value_view(L, WF_V_X, L->dx, WF_AT_DX_OUT));
    wf_lower_end(L);
    return L->s->nsegments - 1;
}
