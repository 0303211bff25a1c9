/* embedding.c: the operations EMBEDDING and EMBEDDING_BACKWARD over a shard of the vocabulary.
 * Contracts in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, VOCABULARY, N, FIRST };

static int forward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_flat_operand("ids", WF_READ, WF_I32, p->size[ROWS]);
    out[1] = wf_rows_operand("table", WF_READ, p->size[VOCABULARY], p->size[N]);
    out[2] = wf_rows_operand("out", WF_WRITE, p->size[ROWS], p->size[N]);
    return 3;
}

static int backward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_flat_operand("ids", WF_READ, WF_I32, p->size[ROWS]);
    out[1] = wf_rows_operand("d", WF_READ, p->size[ROWS], p->size[N]);
    out[2] = wf_rows_operand("dtable", WF_UPDATE, p->size[VOCABULARY], p->size[N]);
    return 3;
}

/* Of the table only rows that some id names: at most as many as there are ids. */
static double bytes(const wf_problem *p, int passes_over_table) {
    const int64_t rows = p->size[ROWS], used = rows < p->size[VOCABULARY] ? rows : p->size[VOCABULARY];
    return 4.0 * ((double)rows + (double)(rows + passes_over_table * used) * (double)p->size[N]);
}

static double forward_bytes(const wf_problem *p) {
    return bytes(p, 1);
}

static double backward_bytes(const wf_problem *p) {
    return bytes(p, 2);
}

static double forward_flops(const wf_problem *p) {
    return 0;
}

static double backward_flops(const wf_problem *p) {
    return (double)p->size[ROWS] * (double)p->size[N];
}

static int forward_launches(const wf_problem *p, const wf_candidate *c,
                            wf_launch out[WF_LAUNCHES]) {
    if (p->size[ROWS] == 0 || p->size[N] == 0) return 0;
    wf_row_launch(&out[0], "embedding", p->size[ROWS], c);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], 1), wf_launch_stride(&out[0], 1, 0);
    wf_launch_view(&out[0], 2), wf_launch_stride(&out[0], 2, 0);
    wf_launch_i64(&out[0], p->size[VOCABULARY]);
    wf_launch_i64(&out[0], p->size[FIRST]);
    wf_launch_i64(&out[0], p->size[N]);
    return 1;
}

static int backward_launches(const wf_problem *p, const wf_candidate *c,
                             wf_launch out[WF_LAUNCHES]) {
    if (p->size[ROWS] == 0 || p->size[N] == 0 || p->size[VOCABULARY] == 0) return 0;
    wf_row_launch(&out[0], "embedding_backward", p->size[ROWS], c);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], 1), wf_launch_stride(&out[0], 1, 0);
    wf_launch_view(&out[0], 2), wf_launch_stride(&out[0], 2, 0);
    wf_launch_i64(&out[0], p->size[ROWS]);
    wf_launch_i64(&out[0], p->size[VOCABULARY]);
    wf_launch_i64(&out[0], p->size[FIRST]);
    wf_launch_i64(&out[0], p->size[N]);
    return 1;
}

static const wf_variant forward_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "embedding_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = forward_launches,
}};

static const wf_variant backward_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "embedding_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = backward_launches,
}};

const wf_operation wf_embedding_operation = {
    .name = "embedding", .size_names = {"rows", "vocabulary", "n", "first"},
    .operands = forward_operands, .flops = forward_flops, .bytes = forward_bytes,
    .reference = wf_embedding_reference, .tolerance = wf_embedding_tolerance,
    .nvariants = 1, .variants = forward_variants, .prefer = wf_row_prefer,
};

const wf_operation wf_embedding_backward_operation = {
    .name = "embedding_backward", .size_names = {"rows", "vocabulary", "n", "first"},
    .operands = backward_operands, .flops = backward_flops, .bytes = backward_bytes,
    .reference = wf_embedding_backward_reference, .tolerance = wf_embedding_backward_tolerance,
    .nvariants = 1, .variants = backward_variants, .prefer = wf_row_prefer,
};
