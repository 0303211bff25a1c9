/* grad_norm.c: the operations SUM_SQUARES (of one flat tensor) and GRAD_NORM (their total's root and
 * the factor that clips it). Contracts in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

/* ---- SUM_SQUARES --------------------------------------------------------------------------------- */

static int squares_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("g", WF_READ, p->size[0]);
    out[1] = wf_vector_operand("out", WF_WRITE, 1);
    return 2;
}

static double squares_flops(const wf_problem *p) {
    return 2.0 * (double)p->size[0];
}

static int64_t squares_chunks(const wf_problem *p, const wf_candidate *c) {
    return wf_sum_chunks(p->size[0], wf_flat_chunk(c));
}

static int64_t squares_workspace(const wf_problem *p, const wf_candidate *c) {
    return squares_chunks(p, c) * (int64_t)sizeof(float);
}

static int squares_launches(const wf_problem *p, const wf_candidate *c,
                            wf_launch out[WF_LAUNCHES]) {
    const int64_t n = p->size[0], chunks = squares_chunks(p, c);
    wf_row_launch(&out[0], "sum_squares", chunks, c);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], WF_WORKSPACE);
    wf_launch_i64(&out[0], n);
    wf_launch_i64(&out[0], wf_ceil_div(n, chunks));
    wf_row_launch(&out[1], "sum_chunks", 1, c);
    wf_launch_view(&out[1], WF_WORKSPACE);
    wf_launch_view(&out[1], 1);
    wf_launch_i64(&out[1], chunks);
    return 2;
}

static const wf_variant squares_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "grad_norm_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = squares_launches, .workspace_bytes = squares_workspace,
}};

const wf_operation wf_sum_squares_operation = {
    .name = "sum_squares", .size_names = {"n"},
    .operands = squares_operands, .flops = squares_flops,
    .reference = wf_sum_squares_reference, .tolerance = wf_sum_squares_tolerance,
    .nvariants = 1, .variants = squares_variants, .prefer = wf_row_prefer,
};

/* ---- GRAD_NORM ----------------------------------------------------------------------------------- */

static int norm_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("squares", WF_READ, p->size[0]);
    out[1] = wf_vector_operand("clip", WF_WRITE, 2);
    return 2;
}

static double norm_flops(const wf_problem *p) {
    return (double)p->size[0];
}

static int norm_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    wf_row_launch(&out[0], "grad_norm", 1, c);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], 1);
    wf_launch_i64(&out[0], p->size[0]);
    wf_launch_run(&out[0], WF_RUN_MAX_NORM);
    return 1;
}

static const wf_variant norm_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "grad_norm_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = norm_launches,
}};

const wf_operation wf_grad_norm_operation = {
    .name = "grad_norm", .size_names = {"n"},
    .operands = norm_operands, .flops = norm_flops,
    .reference = wf_grad_norm_reference, .tolerance = wf_grad_norm_tolerance,
    .nvariants = 1, .variants = norm_variants, .prefer = wf_row_prefer,
};
