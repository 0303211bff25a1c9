/* lower_attention.c: the half of a layer that looks at other tokens: q, k and v in one product,
 * rotary positions in place, flash attention, the output projection; and backward.
 *
 * A rank has a balanced share of the query heads and the kv heads that those read (Ainslie et al.,
 * "GQA", 2023): where a group is split over ranks its kv head is on each of them, and the finishing
 * segments add its gradients up (lower_optimizer.c). */
#include "kernels/philox.h"
#include "layouts/lowering.h"

/* q heads and k heads stand next to each other: one launch turns both. */
static void rope(wf_lowering *L, const char *site, uint32_t flags, wf_view qkv) {
    const int64_t d = L->model->head_size, heads = L->heads.count + L->kv.count, count = L->local.count;
    if (L->rope < 0 || !heads) return;
    const wf_problem p = {.op = WF_OP_ROPE, .flags = flags, .size = {count, L->b, heads, d, d}};
    const int64_t extent[] = {count, L->b, heads, d}, stride[] = {L->b * qkv.stride[0], qkv.stride[0], d, 1};
    WF_KERNEL(L, site, &p, wf_matrix(L->rope, WF_AT_NONE, 0, count, d, d),
              wf_array(qkv.buffer, (wf_at)qkv.at, qkv.offset, 4, extent, stride));
}

void wf_lower_qkv(wf_lowering *L) {
    const wf_view x = wf_lower_need(L, WF_V_ALL1);
    const wf_view out = wf_lower_destination(L, WF_V_QKV);
    wf_lower_linear(L, "attn.qkv", x, WF_T_QKV_WEIGHT, WF_T_QKV_BIAS, out);
    rope(L, "attn.rope", 0, out);
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
    const wf_view dqkv = wf_lower_context_backward(L, d_out);
    rope(L, "attn.rope.backward", WF_INVERSE, dqkv);
    return wf_lower_column_backward(
        L,
        &(wf_column_sites){
            "attn.qkv.dgrad",
            "attn.qkv.wgrad",
            "attn.qkv.bias.grad",
            {"attn.qkv.dgrad.scatter", "attn.qkv.dgrad.sum", "attn.qkv.dgrad.gather"},
            .more = false},
        dqkv, wf_lower_need(L, WF_V_ALL1), WF_T_QKV_WEIGHT, WF_T_QKV_BIAS);
}
