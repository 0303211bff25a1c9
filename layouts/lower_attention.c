/* lower_attention.c: the half of a layer that looks at other tokens: q, k and v in one product,
 * rotary positions in place, flash attention, the output projection; and backward.
 *
 * A rank has a balanced share of the query heads and the kv heads that those read (Ainslie et al.,
 * "GQA", 2023): where a group is split over ranks its kv head is on each of them, and the finishing
 * segments add its gradients up (lower_optimizer.c). */
#include "kernels/philox.h"
#include "layouts/lowering.h"

/* Matrix [s * b, columns] as [s, b, heads, d], from head `first` of the columns. */
static wf_view heads_view(const wf_lowering *L, wf_view m, int64_t first, int64_t heads) {
    const int64_t d = L->model->head_size;
    const int64_t extent[] = {L->sequence, L->b, heads, d};
    const int64_t stride[] = {L->b * m.stride[0], m.stride[0], d, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset + first * d, 4, extent, stride);
}

static wf_view q_view(const wf_lowering *L, wf_view m) {
    return heads_view(L, m, 0, L->heads.count);
}

static wf_view k_view(const wf_lowering *L, wf_view m) {
    return heads_view(L, m, L->heads.count, L->kv.count);
}

static wf_view v_view(const wf_lowering *L, wf_view m) {
    return heads_view(L, m, L->heads.count + L->kv.count, L->kv.count);
}

static wf_view lse_view(const wf_lowering *L, wf_view m) {
    const int64_t extent[] = {L->b, L->heads.count, L->sequence};
    const int64_t stride[] = {L->heads.count * L->sequence, L->sequence, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset, 3, extent, stride);
}

/* q heads and k heads stand next to each other: one launch turns both. */
static void rope(wf_lowering *L, const char *site, uint32_t flags, wf_view qkv) {
    const int64_t d = L->model->head_size, heads = L->heads.count + L->kv.count;
    if (L->rope < 0 || !heads) return;
    const wf_problem p = {
        .op = WF_OP_ROPE, .flags = flags, .size = {L->sequence, L->b, heads, d, d}};
    WF_KERNEL(L, site, &p, wf_matrix(L->rope, WF_AT_NONE, 0, L->sequence, d, d),
              heads_view(L, qkv, 0, heads));
}

void wf_lower_qkv(wf_lowering *L) {
    const wf_view x = wf_lower_need(L, WF_V_ALL1);
    const wf_view out = wf_lower_destination(L, WF_V_QKV);
    wf_lower_linear(L, "attn.qkv", x, WF_T_QKV_WEIGHT, WF_T_QKV_BIAS, out);
    rope(L, "attn.rope", 0, out);
}

static wf_problem attention_problem(const wf_lowering *L, wf_op op) {
    const wf_model *m = L->model;
    const double p = L->training ? m->dropout_attention : 0;
    return (wf_problem){.op = op,
                        .flags = (m->bidirectional ? 0 : WF_CAUSAL) | (p > 0 ? WF_DROPOUT : 0),
                        .size = {L->b, L->sequence, L->sequence, L->heads.count, L->kv.count,
                                 m->head_size, L->heads.first, m->heads, 0, 0,
                                 p > 0 ? WF_SITE_ATTENTION : 0, wf_model_window(m, L->sequence),
                                 m->kv_heads == m->heads ? 0 : m->heads / m->kv_heads},
                        .real = {p}};
}

void wf_lower_attention(wf_lowering *L) {
    const wf_view in = wf_lower_need(L, WF_V_QKV);
    const wf_view out = wf_lower_destination(L, WF_V_ATTN);
    const wf_view lse = wf_lower_destination(L, WF_V_LSE);
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION);
    if (L->heads.count)
        WF_KERNEL(L, "attn", &p, q_view(L, in), k_view(L, in), v_view(L, in), q_view(L, out),
                  lse_view(L, lse));
}

void wf_lower_attention_out(wf_lowering *L) {
    const wf_view x = wf_lower_need(L, WF_V_ATTN);
    const wf_view residual = wf_lower_need(L, L->form.residual[WF_ATTENTION_HALF]);
    wf_lower_row_parallel(
        L,
        &(wf_row_sites){"attn.proj",
                        {"attn.proj.scatter", "attn.proj.sum", "attn.proj.gather"},
                        {"attn.proj.bias", "attn.proj.dropout", "attn.proj.residual"}},
        x, WF_T_PROJ_WEIGHT, WF_SITE_ATTENTION_OUT, residual, WF_V_SUM1);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Gradients of q, k and v before rotation, in one tensor as they are. */
static wf_view qkv_backward(wf_lowering *L, wf_view d_out) {
    const wf_view in = wf_lower_need(L, WF_V_QKV), out = wf_lower_need(L, WF_V_ATTN);
    const wf_view lse = wf_lower_need(L, WF_V_LSE);
    const wf_view dqkv = wf_lower_scratch(L, "attn.dqkv", L->rows, in.extent[1]);
    const wf_view delta =
        wf_lower_scratch(L, "attn.delta", L->b * L->heads.count, L->sequence);
    const wf_problem dots = attention_problem(L, WF_OP_ATTENTION_DELTA);
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION_BACKWARD);
    if (!L->heads.count) return dqkv;
    WF_KERNEL(L, "attn.delta", &dots, q_view(L, out), q_view(L, d_out), lse_view(L, delta));
    WF_KERNEL(L, "attn.backward", &p, q_view(L, in), k_view(L, in), v_view(L, in),
              q_view(L, d_out), lse_view(L, lse), lse_view(L, delta), q_view(L, dqkv),
              k_view(L, dqkv), v_view(L, dqkv));
    rope(L, "attn.rope.backward", WF_INVERSE, dqkv);
    return dqkv;
}

wf_view wf_lower_attention_backward(wf_lowering *L, wf_view d) {
    wf_view own;
    const wf_view all = wf_lower_branch(
        L,
        &(wf_branch_sites){"attn.proj.dropout.backward", "attn.proj.bias.grad",
                           "attn.proj.dgrad.gather"},
        d, L->model->dropout_residual, WF_SITE_ATTENTION_OUT, WF_T_PROJ_BIAS, &own);
    const wf_view d_out =
        wf_lower_scratch(L, "attn.do", L->rows, L->heads.count * L->model->head_size);
    wf_lower_product(L, "attn.proj.dgrad", 0, all, WF_T_PROJ_WEIGHT, d_out);
    wf_lower_wgrad(L, "attn.proj.wgrad", all, wf_lower_need(L, WF_V_ATTN), WF_T_PROJ_WEIGHT);
    const wf_view dqkv = qkv_backward(L, d_out);
    return wf_lower_column_backward(
        L,
        &(wf_column_sites){
            "attn.qkv.dgrad",
            "attn.qkv.wgrad",
            "attn.qkv.bias.grad",
            {"attn.qkv.dgrad.scatter", "attn.qkv.dgrad.sum", "attn.qkv.dgrad.gather"}},
        dqkv, wf_lower_need(L, WF_V_ALL1), WF_T_QKV_WEIGHT, WF_T_QKV_BIAS);
}
