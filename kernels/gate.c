/* gate.c: the operations GATE and GATE_BACKWARD: act(gate) * up of the two halves of a row, as in
 * SwiGLU and GeGLU (Shazeer: "GLU variants improve Transformer", 2020); ACTIVATION: act alone. Contracts in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, N };

static int gate_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_rows_operand("pre", WF_READ, p->size[ROWS], 2 * p->size[N]);
    out[1] = wf_rows_operand("out", WF_WRITE, p->size[ROWS], p->size[N]);
    return 2;
}

static int backward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_rows_operand("pre", WF_READ, p->size[ROWS], 2 * p->size[N]);
    out[1] = wf_rows_operand("d", WF_READ, p->size[ROWS], p->size[N]);
    out[2] = wf_rows_operand("dpre", WF_WRITE, p->size[ROWS], 2 * p->size[N]);
    return 3;
}

static int activation_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_rows_operand("pre", WF_READ, p->size[ROWS], p->size[N]);
    out[1] = wf_rows_operand("out", WF_WRITE, p->size[ROWS], p->size[N]);
    return 2;
}

/* An activation is counted as one operation, as GEMM's epilogue does not count it at all. */
static double gate_flops(const wf_problem *p) {
    return 2.0 * (double)p->size[ROWS] * (double)p->size[N];
}

static double activation_flops(const wf_problem *p) {
    return (double)p->size[ROWS] * (double)p->size[N];
}

static double backward_flops(const wf_problem *p) {
    return 5.0 * (double)p->size[ROWS] * (double)p->size[N];
}

static void options(const wf_problem *p, const wf_candidate *c, char *out, size_t out_bytes) {
    wf_append(out, out_bytes, " -DACTIVATION=%d", (int)p->activation);
}

/* A group per row and chunk of its columns. */
static int launches(const wf_problem *p, const wf_candidate *c, const char *entry, int operands,
                    wf_launch out[WF_LAUNCHES]) {
    const int64_t n = p->size[N], chunks = wf_ceil_div(n, wf_flat_chunk(c));
    if (p->size[ROWS] == 0 || n == 0) return 0;
    wf_row_launch(&out[0], entry, p->size[ROWS] * chunks, c);
    for (int i = 0; i < operands; i++) wf_launch_view(&out[0], i), wf_launch_stride(&out[0], i, 0);
    wf_launch_i64(&out[0], n);
    wf_launch_i64(&out[0], wf_flat_chunk(c));
    wf_launch_i64(&out[0], chunks);
    return 1;
}

static int gate_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    return launches(p, c, "gate", 2, out);
}

static int activation_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    return launches(p, c, "activation", 2, out);
}

static int backward_launches(const wf_problem *p, const wf_candidate *c,
                             wf_launch out[WF_LAUNCHES]) {
    return launches(p, c, "gate_backward", 3, out);
}

static const wf_variant gate_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "gate_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = gate_launches, .options = options,
}};

static const wf_variant backward_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "gate_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = backward_launches, .options = options,
}};

static const wf_variant activation_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "gate_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = activation_launches, .options = options,
}};

const wf_operation wf_gate_operation = {
    .name = "gate", .size_names = {"rows", "n"}, .activation = true,
    .operands = gate_operands, .flops = gate_flops,
    .reference = wf_gate_reference, .tolerance = wf_gate_tolerance,
    .nvariants = 1, .variants = gate_variants, .prefer = wf_row_prefer,
};

const wf_operation wf_gate_backward_operation = {
    .name = "gate_backward", .size_names = {"rows", "n"}, .activation = true,
    .operands = backward_operands, .flops = backward_flops,
    .reference = wf_gate_backward_reference, .tolerance = wf_gate_backward_tolerance,
    .nvariants = 1, .variants = backward_variants, .prefer = wf_row_prefer,
};

const wf_operation wf_activation_operation = {
    .name = "activation", .size_names = {"rows", "n"}, .activation = true,
    .operands = activation_operands, .flops = activation_flops,
    .reference = wf_activation_reference, .tolerance = wf_activation_tolerance,
    .nvariants = 1, .variants = activation_variants, .prefer = wf_row_prefer,
};
