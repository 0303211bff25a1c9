/* adamw.c: the operation ADAMW, one step of Adam with decoupled weight decay on a flat tensor.
 * Contract in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

static int operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("g", WF_READ, p->size[0]);
    out[1] = wf_vector_operand("clip", WF_READ, 2);
    out[2] = wf_vector_operand("p", WF_UPDATE, p->size[0]);
    out[3] = wf_vector_operand("m", WF_UPDATE, p->size[0]);
    out[4] = wf_vector_operand("v", WF_UPDATE, p->size[0]);
    return 5;
}

static double flops(const wf_problem *p) {
    return 16.0 * (double)p->size[0];
}

static int launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    static const wf_run_value values[] = {WF_RUN_LR, WF_RUN_BETA1, WF_RUN_BETA2, WF_RUN_EPS,
                                          WF_RUN_CORRECTION1, WF_RUN_CORRECTION2, WF_RUN_DECAY};
    const int64_t n = p->size[0], chunk = wf_flat_chunk(c);
    if (n == 0) return 0;
    wf_row_launch(&out[0], "adamw", wf_ceil_div(n, chunk), c);
    for (int i = 0; i < 5; i++) wf_launch_view(&out[0], i);
    wf_launch_i64(&out[0], n);
    wf_launch_i64(&out[0], chunk);
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) wf_launch_run(&out[0], values[i]);
    wf_launch_i32(&out[0], (p->flags & WF_DECAY) != 0);
    return 1;
}

static const wf_variant variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "adamw_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = launches,
}};

const wf_operation wf_adamw_operation = {
    .name = "adamw", .size_names = {"n"}, .flags = WF_DECAY,
    .operands = operands, .flops = flops,
    .reference = wf_adamw_reference, .tolerance_run = wf_adamw_tolerance,
    .nvariants = 1, .variants = variants, .prefer = wf_row_prefer,
};
