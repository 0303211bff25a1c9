/* cross_entropy.c: vocabulary-parallel softmax cross-entropy (Megatron's), which never gathers the
 * logits: LOSS_STATS per shard, LOSS_MERGE of the shards' three numbers a row, LOSS_BACKWARD per
 * shard, in place. Contracts in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, VOCABULARY, FIRST };
enum { PARTS = 1 };

static void launch_row_matrix(wf_launch *launch, int view) {
    wf_launch_view(launch, view);
    wf_launch_stride(launch, view, 0);
}

/* ---- LOSS_STATS ---------------------------------------------------------------------------------- */

static int stats_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_rows_operand("logits", WF_READ, p->size[ROWS], p->size[VOCABULARY]);
    out[1] = wf_flat_operand("targets", WF_READ, WF_I32, p->size[ROWS]);
    out[2] = wf_rows_operand("stats", WF_WRITE, p->size[ROWS], 3);
    return 3;
}

static double stats_flops(const wf_problem *p) {
    return 4.0 * (double)p->size[ROWS] * (double)p->size[VOCABULARY];
}

static int stats_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    if (p->size[ROWS] == 0) return 0;
    wf_row_launch(&out[0], "loss_stats", p->size[ROWS], c);
    launch_row_matrix(&out[0], 0);
    wf_launch_view(&out[0], 1);
    launch_row_matrix(&out[0], 2);
    wf_launch_i64(&out[0], p->size[VOCABULARY]);
    wf_launch_i64(&out[0], p->size[FIRST]);
    return 1;
}

static const wf_variant stats_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "cross_entropy_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = stats_launches,
}};

const wf_operation wf_loss_stats_operation = {
    .name = "loss_stats", .size_names = {"rows", "vocabulary", "first"},
    .operands = stats_operands, .flops = stats_flops,
    .reference = wf_loss_stats_reference, .tolerance = wf_loss_stats_tolerance,
    .nvariants = 1, .variants = stats_variants, .prefer = wf_row_prefer,
};

/* ---- LOSS_MERGE ---------------------------------------------------------------------------------- */

static wf_status merge_check(const wf_problem *p) {
    if (p->size[PARTS] < 1)
        return wf_fail(WF_ERR_ARGUMENT, "loss_merge: needs at least one part");
    return WF_OK;
}

static int merge_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = (wf_operand){"stats", WF_READ, WF_F32, 3, {p->size[PARTS], p->size[ROWS], 3}};
    out[1] = wf_flat_operand("targets", WF_READ, WF_I32, p->size[ROWS]);
    out[2] = wf_vector_operand("lse", WF_WRITE, p->size[ROWS]);
    out[3] = wf_vector_operand("loss", WF_WRITE, p->size[ROWS]);
    return 4;
}

static double merge_flops(const wf_problem *p) {
    return 6.0 * (double)p->size[ROWS] * (double)p->size[PARTS];
}

static int merge_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t groups = wf_ceil_div(p->size[ROWS], c->value[WF_ROW_GROUP]);
    if (groups == 0) return 0;
    wf_row_launch(&out[0], "loss_merge", groups, c);
    launch_row_matrix(&out[0], 0);
    wf_launch_stride(&out[0], 0, 1);
    wf_launch_view(&out[0], 1);
    wf_launch_view(&out[0], 2);
    wf_launch_view(&out[0], 3);
    wf_launch_i64(&out[0], p->size[ROWS]);
    wf_launch_i64(&out[0], p->size[PARTS]);
    return 1;
}

static const wf_variant merge_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "cross_entropy_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = merge_launches,
}};

static void merge_complete(wf_problem *p, uint32_t given) {
    if (!(given & 1u << PARTS)) p->size[PARTS] = 1;
}

const wf_operation wf_loss_merge_operation = {
    .name = "loss_merge", .size_names = {"rows", "parts"},
    .operands = merge_operands, .flops = merge_flops, .check = merge_check,
    .complete = merge_complete,
    .reference = wf_loss_merge_reference, .tolerance = wf_loss_merge_tolerance,
    .nvariants = 1, .variants = merge_variants, .prefer = wf_row_prefer,
};

/* ---- LOSS_BACKWARD ------------------------------------------------------------------------------- */

static int backward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("lse", WF_READ, p->size[ROWS]);
    out[1] = wf_flat_operand("targets", WF_READ, WF_I32, p->size[ROWS]);
    out[2] = wf_rows_operand("logits", WF_UPDATE, p->size[ROWS], p->size[VOCABULARY]);
    return 3;
}

static double backward_flops(const wf_problem *p) {
    return 3.0 * (double)p->size[ROWS] * (double)p->size[VOCABULARY];
}

static int backward_launches(const wf_problem *p, const wf_candidate *c,
                             wf_launch out[WF_LAUNCHES]) {
    if (p->size[ROWS] == 0 || p->size[VOCABULARY] == 0) return 0;
    wf_row_launch(&out[0], "loss_backward", p->size[ROWS], c);
    wf_launch_view(&out[0], 0);
    wf_launch_view(&out[0], 1);
    launch_row_matrix(&out[0], 2);
    wf_launch_i64(&out[0], p->size[VOCABULARY]);
    wf_launch_i64(&out[0], p->size[FIRST]);
    wf_launch_run(&out[0], WF_RUN_LOSS_SCALE);
    return 1;
}

static const wf_variant backward_variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "cross_entropy_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = backward_launches,
}};

const wf_operation wf_loss_backward_operation = {
    .name = "loss_backward", .size_names = {"rows", "vocabulary", "first"},
    .operands = backward_operands, .flops = backward_flops,
    .reference = wf_loss_backward_reference, .tolerance_run = wf_loss_backward_tolerance,
    .nvariants = 1, .variants = backward_variants, .prefer = wf_row_prefer,
};
