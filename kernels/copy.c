/* copy.c: the operations FILL and COPY on matrices of 32-bit elements. They move bits, so one kernel
 * serves f32 and i32. Contracts in operation.h. */
#include <math.h>
#include <string.h>

#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, N };

static int fill_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_matrix_operand("out", WF_WRITE, (wf_dtype)p->dtype, p->size[ROWS], p->size[N]);
    return 1;
}

static int copy_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_matrix_operand("in", WF_READ, (wf_dtype)p->dtype, p->size[ROWS], p->size[N]);
    out[1] = wf_matrix_operand("out", WF_WRITE, (wf_dtype)p->dtype, p->size[ROWS], p->size[N]);
    return 2;
}

static double no_flops(const wf_problem *p) {
    return 0;
}

static wf_status fill_check(const wf_problem *p) {
    const double value = p->real[0];
    if (p->dtype == WF_I32 && (value != floor(value) || fabs(value) > INT32_MAX))
        return wf_fail(WF_ERR_ARGUMENT, "fill: %g is not a 32-bit integer", value);
    return WF_OK;
}

/* A group per row and chunk of its columns: groups along a row, then the next row. */
static void start(const wf_problem *p, const wf_candidate *c, const char *entry, int64_t *chunks,
                  wf_launch *out) {
    *chunks = wf_ceil_div(p->size[N], wf_flat_chunk(c));
    wf_row_launch(out, entry, p->size[ROWS] * *chunks, c);
}

static void add_sizes(const wf_problem *p, const wf_candidate *c, int64_t chunks, wf_launch *out) {
    wf_launch_i64(out, p->size[N]);
    wf_launch_i64(out, wf_flat_chunk(c));
    wf_launch_i64(out, chunks);
}

static int64_t bits_of(const wf_problem *p) {
    const float number = (float)p->real[0];
    int32_t bits = (int32_t)p->real[0];
    if (p->dtype == WF_F32) memcpy(&bits, &number, sizeof bits);
    return bits;
}

static int fill_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    int64_t chunks;
    if (p->size[ROWS] == 0 || p->size[N] == 0) return 0;
    start(p, c, "fill", &chunks, &out[0]);
    wf_launch_view(&out[0], 0), wf_launch_stride(&out[0], 0, 0);
    wf_launch_i32(&out[0], bits_of(p));
    add_sizes(p, c, chunks, &out[0]);
    return 1;
}

static int copy_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    int64_t chunks;
    if (p->size[ROWS] == 0 || p->size[N] == 0) return 0;
    start(p, c, "copy", &chunks, &out[0]);
    wf_launch_view(&out[0], 0), wf_launch_stride(&out[0], 0, 0);
    wf_launch_view(&out[0], 1), wf_launch_stride(&out[0], 1, 0);
    add_sizes(p, c, chunks, &out[0]);
    return 1;
}

static const wf_variant fill_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "copy_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = fill_launches,
}};

static const wf_variant copy_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "copy_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = copy_launches,
}};

const wf_operation wf_fill_operation = {
    .name = "fill", .size_names = {"rows", "n"}, .real_names = {"value"}, .integers = true,
    .operands = fill_operands, .flops = no_flops, .check = fill_check,
    .reference = wf_fill_reference, .tolerance = wf_fill_tolerance,
    .nvariants = 1, .variants = fill_variants, .prefer = wf_row_prefer,
};

const wf_operation wf_copy_operation = {
    .name = "copy", .size_names = {"rows", "n"}, .integers = true,
    .operands = copy_operands, .flops = no_flops,
    .reference = wf_copy_reference, .tolerance = wf_copy_tolerance,
    .nvariants = 1, .variants = copy_variants, .prefer = wf_row_prefer,
};
