/* lower_mlp.c: the half of a layer that looks at one token: two products with an activation between
 * them, or a gated one (Shazeer, "GLU Variants Improve Transformer", 2020), whose first product has
 * the rank's features of the gate and then those of up; and backward. */
#include "kernels/philox.h"
#include "layouts/lowering.h"

static void activate(wf_lowering *L, wf_view pre, wf_view act) {
    const wf_problem p = {.op = L->model->gated ? WF_OP_GATE : WF_OP_ACTIVATION,
                          .activation = L->model->activation,
                          .size = {act.extent[0], act.extent[1]}};
    WF_KERNEL(L, L->model->gated ? "mlp.gate" : "mlp.act", &p, pre, act);
}

void wf_lower_features(wf_lowering *L) {
    if (L->backward && L->saved[WF_V_PRE] >= 0) { /* what stands before the activation is there */
        const wf_view pre = wf_lower_need(L, WF_V_PRE);
        activate(L, pre, wf_lower_destination(L, WF_V_ACT));
        return;
    }
    const wf_view x = wf_lower_need(L, WF_V_ALL2);
    const wf_view act = wf_lower_destination(L, WF_V_ACT);
    const wf_view pre = wf_lower_destination(L, WF_V_PRE);
    if (!L->model->gated) {
        wf_lower_activate(L, "mlp.fc1", x, WF_T_FC1_WEIGHT, WF_T_FC1_BIAS, act, pre);
        return;
    }
    wf_lower_linear(L, "mlp.fc1", x, WF_T_FC1_WEIGHT, WF_T_FC1_BIAS, pre);
    activate(L, pre, act);
}

void wf_lower_mlp_out(wf_lowering *L) {
    /* the residual first: a norm that follows its sum needs it too, and fuses when it stands behind */
    const wf_view residual = wf_lower_need(L, L->form.residual[WF_MLP_HALF]);
    const wf_view x = wf_lower_need(L, WF_V_ACT);
    wf_lower_row_parallel(L,
                          &(wf_row_sites){"mlp.fc2",
                                          {"mlp.fc2.scatter", "mlp.fc2.sum", "mlp.fc2.gather"},
                                          {"mlp.fc2.bias", "mlp.fc2.dropout", "mlp.fc2.residual"}},
                          x, WF_T_FC2_WEIGHT, WF_SITE_MLP_OUT, residual, WF_V_SUM2);
}

/* ---- backward -------------------------------------------------------------------------------- */

/* Gradient of what stands before the activation, or the gate. */
static wf_view features_backward(wf_lowering *L, wf_view d, wf_view pre) {
    const int64_t f = L->features.count;
    const wf_view dpre = wf_lower_scratch(L, "mlp.dpre", L->rows, pre.extent[1]);
    if (!L->model->gated) {
        wf_lower_activation_backward(L, "mlp.fc2.dgrad", d, WF_T_FC2_WEIGHT, pre, dpre);
        return dpre;
    }
    const wf_problem p = {.op = WF_OP_GATE_BACKWARD,
                          .activation = L->model->activation,
                          .size = {L->rows, f}};
    const wf_view dact = wf_lower_scratch(L, "mlp.dact", L->rows, f);
    wf_lower_product(L, "mlp.fc2.dgrad", 0, d, WF_T_FC2_WEIGHT, dact);
    WF_KERNEL(L, "mlp.gate.backward", &p, pre, dact, dpre);
    return dpre;
}

wf_view wf_lower_mlp_backward(wf_lowering *L, wf_view d) {
    wf_view own;
    const wf_view all = wf_lower_branch(
        L,
        &(wf_branch_sites){"mlp.fc2.dropout.backward", "mlp.fc2.bias.grad", "mlp.fc2.dgrad.gather"},
        d, L->model->dropout_residual, WF_SITE_MLP_OUT, WF_T_FC2_BIAS, &own);
    const wf_view pre = wf_lower_need(L, WF_V_PRE), act = wf_lower_need(L, WF_V_ACT);
    const wf_view dpre = features_backward(L, all, pre);
    wf_lower_wgrad(L, "mlp.fc2.wgrad", all, act, WF_T_FC2_WEIGHT);
    return wf_lower_column_backward(
        L,
        &(wf_column_sites){
            "mlp.fc1.dgrad",
            "mlp.fc1.wgrad",
            "mlp.fc1.bias.grad",
            {"mlp.fc1.dgrad.scatter", "mlp.fc1.dgrad.sum", "mlp.fc1.dgrad.gather"},
            .more = true},
        dpre, wf_lower_need(L, WF_V_ALL2), WF_T_FC1_WEIGHT, WF_T_FC1_BIAS);
}
