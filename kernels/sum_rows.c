/* sum_rows.c: the operation SUM_ROWS, sums of consecutive rows (bias gradients are one group of
 * all rows). Contract in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { GROUPS, PER, N };

static int operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const wf_access access = p->flags & WF_ACCUMULATE ? WF_UPDATE : WF_WRITE;
    out[0] = wf_rows_operand("in", WF_READ, p->size[GROUPS] * p->size[PER], p->size[N]);
    out[1] = wf_rows_operand("out", access, p->size[GROUPS], p->size[N]);
    return 2;
}

static double flops(const wf_problem *p) {
    return (double)p->size[GROUPS] * (double)p->size[PER] * (double)p->size[N];
}

static void complete(wf_problem *p, uint32_t given) {
    if (!(given & 1u << GROUPS)) p->size[GROUPS] = 1;
}

static int64_t chunks_of(const wf_problem *p, const wf_candidate *c) {
    return wf_sum_chunks(p->size[PER], c->value[WF_ROW_CHUNK]);
}

/* [groups, chunks, n], when a group's rows are cut into chunks. */
static int64_t workspace(const wf_problem *p, const wf_candidate *c) {
    const int64_t chunks = chunks_of(p, c);
    return chunks == 1 ? 0 : p->size[GROUPS] * chunks * p->size[N] * (int64_t)sizeof(float);
}

/* What both stages end with. A group of `per` rows becomes `chunks` rows of the result. */
static void add_sizes(wf_launch *launch, int64_t per, int64_t chunks, int64_t n, int64_t tiles,
                      bool accumulate) {
    wf_launch_i64(launch, per);
    wf_launch_i64(launch, chunks);
    wf_launch_i64(launch, wf_ceil_div(per, chunks));
    wf_launch_i64(launch, n);
    wf_launch_i64(launch, tiles);
    wf_launch_i32(launch, accumulate);
}

static int launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t groups = p->size[GROUPS], per = p->size[PER], n = p->size[N];
    if (groups == 0 || n == 0) return 0;
    const int64_t chunks = chunks_of(p, c), tiles = wf_ceil_div(n, wf_row_span(c));
    const bool accumulate = p->flags & WF_ACCUMULATE;
    wf_row_launch(&out[0], "sum_rows", groups * chunks * tiles, c);
    wf_launch_view(&out[0], 0), wf_launch_stride(&out[0], 0, 0);
    if (chunks == 1) wf_launch_view(&out[0], 1), wf_launch_stride(&out[0], 1, 0);
    else wf_launch_view(&out[0], WF_WORKSPACE), wf_launch_i64(&out[0], n);
    add_sizes(&out[0], per, chunks, n, tiles, chunks == 1 && accumulate);
    if (chunks == 1) return 1;
    wf_row_launch(&out[1], "sum_rows", groups * tiles, c);
    wf_launch_view(&out[1], WF_WORKSPACE), wf_launch_i64(&out[1], n);
    wf_launch_view(&out[1], 1), wf_launch_stride(&out[1], 1, 0);
    add_sizes(&out[1], chunks, 1, n, tiles, accumulate);
    return 2;
}

static const wf_variant variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "sum_rows_simple.cl",
    .nparameters = WF_CHUNK_PARAMETERS, .parameters = wf_chunk_parameters,
    .ok = wf_row_ok, .launches = launches, .workspace_bytes = workspace,
}};

const wf_operation wf_sum_rows_operation = {
    .name = "sum_rows", .size_names = {"groups", "per", "n"}, .flags = WF_ACCUMULATE,
    .operands = operands, .flops = flops, .complete = complete,
    .reference = wf_sum_rows_reference, .tolerance = wf_sum_rows_tolerance,
    .nvariants = 1, .variants = variants, .prefer = wf_row_prefer,
};
