/* norm.c: the operations NORM, NORM_BACKWARD and NORM_WGRAD (LayerNorm, and RMSNorm by flag). Their
 * contracts stand in operation.h, the kernels in norm_simple.cl. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, N };

static wf_status check_norm(const wf_problem *p) {
    if (!(p->real[0] > 0))
        return wf_fail(WF_ERR_ARGUMENT, "norm: eps is %g, but must be above 0", p->real[0]);
    return WF_OK;
}

/* The kernels of RMSNorm are programs of their own: fewer arguments, no mean. */
static void options(const wf_problem *p, const wf_candidate *c, char *out, size_t out_bytes) {
    wf_append(out, out_bytes, " -DRMS=%d", (p->flags & WF_RMS) != 0);
}

/* ---- NORM ---------------------------------------------------------------------------------------- */

static int norm_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const int64_t rows = p->size[ROWS], n = p->size[N];
    int i = 0;
    out[i++] = wf_rows_operand("x", WF_READ, rows, n);
    out[i++] = wf_vector_operand("gamma", WF_READ, n);
    if (!(p->flags & WF_RMS)) out[i++] = wf_vector_operand("beta", WF_READ, n);
    out[i++] = wf_rows_operand("y", WF_WRITE, rows, n);
    out[i++] = wf_rows_operand("stats", WF_WRITE, rows, 2);
    return i;
}

static double norm_flops(const wf_problem *p) {
    return (p->flags & WF_RMS ? 4.0 : 8.0) * (double)p->size[ROWS] * (double)p->size[N];
}

static int norm_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    if (p->size[ROWS] == 0) return 0;
    wf_row_launch(&out[0], "norm", p->size[ROWS], c);
    int view = 0;
    wf_launch_view(&out[0], view), wf_launch_stride(&out[0], view, 0), view++;
    wf_launch_view(&out[0], view++);
    if (!(p->flags & WF_RMS)) wf_launch_view(&out[0], view++);
    for (int i = 0; i < 2; i++, view++)
        wf_launch_view(&out[0], view), wf_launch_stride(&out[0], view, 0);
    wf_launch_i64(&out[0], p->size[N]);
    wf_launch_f32(&out[0], p->real[0]);
    return 1;
}

static const wf_variant norm_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "norm_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = norm_launches, .options = options,
}};

const wf_operation wf_norm_operation = {
    .name = "norm", .size_names = {"rows", "n"}, .real_names = {"eps"}, .flags = WF_RMS,
    .operands = norm_operands, .flops = norm_flops, .check = check_norm,
    .reference = wf_norm_reference, .tolerance = wf_norm_tolerance,
    .nvariants = 1, .variants = norm_variants, .prefer = wf_row_prefer,
};

/* ---- NORM_BACKWARD ------------------------------------------------------------------------------- */

static int backward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const int64_t rows = p->size[ROWS], n = p->size[N];
    int i = 0;
    out[i++] = wf_rows_operand("dy", WF_READ, rows, n);
    out[i++] = wf_rows_operand("x", WF_READ, rows, n);
    out[i++] = wf_rows_operand("stats", WF_READ, rows, 2);
    out[i++] = wf_vector_operand("gamma", WF_READ, n);
    if (p->flags & WF_RESIDUAL) out[i++] = wf_rows_operand("residual", WF_READ, rows, n);
    out[i++] = wf_rows_operand("dx", WF_WRITE, rows, n);
    return i;
}

static double backward_flops(const wf_problem *p) {
    return (p->flags & WF_RMS ? 11.0 : 14.0) * (double)p->size[ROWS] * (double)p->size[N];
}

/* Without a residual its argument is dx itself, which the kernel then does not read. */
static int backward_launches(const wf_problem *p, const wf_candidate *c,
                             wf_launch out[WF_LAUNCHES]) {
    const bool residual = p->flags & WF_RESIDUAL;
    if (p->size[ROWS] == 0 || p->size[N] == 0) return 0;
    wf_row_launch(&out[0], "norm_backward", p->size[ROWS], c);
    for (int i = 0; i < 3; i++) wf_launch_view(&out[0], i), wf_launch_stride(&out[0], i, 0);
    wf_launch_view(&out[0], 3);
    wf_launch_view(&out[0], 4), wf_launch_stride(&out[0], 4, 0);
    wf_launch_view(&out[0], 4 + residual), wf_launch_stride(&out[0], 4 + residual, 0);
    wf_launch_i64(&out[0], p->size[N]);
    wf_launch_i32(&out[0], residual);
    return 1;
}

static const wf_variant backward_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "norm_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = backward_launches, .options = options,
}};

const wf_operation wf_norm_backward_operation = {
    .name = "norm_backward", .size_names = {"rows", "n"}, .flags = WF_RESIDUAL | WF_RMS,
    .operands = backward_operands, .flops = backward_flops,
    .reference = wf_norm_backward_reference, .tolerance = wf_norm_backward_tolerance,
    .nvariants = 1, .variants = backward_variants, .prefer = wf_row_prefer,
};

/* ---- NORM_WGRAD ---------------------------------------------------------------------------------- */

static int wgrad_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const int64_t rows = p->size[ROWS], n = p->size[N];
    const wf_access access = p->flags & WF_ACCUMULATE ? WF_UPDATE : WF_WRITE;
    out[0] = wf_rows_operand("dy", WF_READ, rows, n);
    out[1] = wf_rows_operand("x", WF_READ, rows, n);
    out[2] = wf_rows_operand("stats", WF_READ, rows, 2);
    out[3] = wf_vector_operand("dgamma", access, n);
    if (p->flags & WF_RMS) return 4;
    out[4] = wf_vector_operand("dbeta", access, n);
    return 5;
}

static double wgrad_flops(const wf_problem *p) {
    return (p->flags & WF_RMS ? 3.0 : 5.0) * (double)p->size[ROWS] * (double)p->size[N];
}

static int64_t wgrad_chunks(const wf_problem *p, const wf_candidate *c) {
    return wf_sum_chunks(p->size[ROWS], c->value[WF_ROW_CHUNK]);
}

/* [chunks, 2, n]: sums of each chunk of rows, for dgamma and dbeta; [chunks, n] where there is no dbeta. */
static int64_t wgrad_workspace(const wf_problem *p, const wf_candidate *c) {
    const int64_t vectors = p->flags & WF_RMS ? 1 : 2;
    return wgrad_chunks(p, c) * vectors * p->size[N] * (int64_t)sizeof(float);
}

static int wgrad_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t rows = p->size[ROWS], n = p->size[N], chunks = wgrad_chunks(p, c);
    if (n == 0) return 0;
    const int64_t tiles = wf_ceil_div(n, wf_row_span(c));
    wf_row_launch(&out[0], "norm_wgrad_chunks", chunks * tiles, c);
    for (int i = 0; i < 3; i++) wf_launch_view(&out[0], i), wf_launch_stride(&out[0], i, 0);
    wf_launch_view(&out[0], WF_WORKSPACE);
    wf_launch_i64(&out[0], rows);
    wf_launch_i64(&out[0], n);
    wf_launch_i64(&out[0], wf_ceil_div(rows, chunks));
    wf_launch_i64(&out[0], tiles);
    wf_row_launch(&out[1], "norm_wgrad_sum", tiles, c);
    wf_launch_view(&out[1], WF_WORKSPACE);
    wf_launch_view(&out[1], 3);
    if (!(p->flags & WF_RMS)) wf_launch_view(&out[1], 4);
    wf_launch_i64(&out[1], chunks);
    wf_launch_i64(&out[1], n);
    wf_launch_i32(&out[1], (p->flags & WF_ACCUMULATE) != 0);
    return 2;
}

static const wf_variant wgrad_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "norm_simple.cl",
    .nparameters = WF_CHUNK_PARAMETERS, .parameters = wf_chunk_parameters,
    .ok = wf_row_ok, .launches = wgrad_launches, .options = options,
    .workspace_bytes = wgrad_workspace,
}};

const wf_operation wf_norm_wgrad_operation = {
    .name = "norm_wgrad", .size_names = {"rows", "n"}, .flags = WF_ACCUMULATE | WF_RMS,
    .operands = wgrad_operands, .flops = wgrad_flops,
    .reference = wf_norm_wgrad_reference, .tolerance = wf_norm_wgrad_tolerance,
    .nvariants = 1, .variants = wgrad_variants, .prefer = wf_row_prefer,
};
