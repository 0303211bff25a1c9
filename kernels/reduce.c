/* reduce.c: the operation REDUCE: partial sums of several ranks added in the layout's order, and
 * the element-wise chain that follows (bias, dropout, residual, norm), in one pass over the
 * row. With one part it is that chain alone, and dropout's own backward. Contract in operation.h. */
#include "kernels/philox.h"
#include "kernels/rows.h"
#include "kernels/table.h"

enum { ROWS, N, PART_COUNT, BIAS_GROUP, B, POS, SITE, GAP_AT, GAP };
enum { P, EPS };
enum { MOST_PARTS = 8 };

static wf_status check(const wf_problem *p) {
    if (p->size[PART_COUNT] < 1 || p->size[PART_COUNT] > MOST_PARTS)
        return wf_fail(WF_ERR_ARGUMENT, "reduce: %lld parts, legal are 1 to %d",
                       (long long)p->size[PART_COUNT], MOST_PARTS);
    if ((p->flags & WF_DROPOUT) && !(p->real[P] >= 0 && p->real[P] < 1))
        return wf_fail(WF_ERR_ARGUMENT, "reduce: dropout p is %g, legal is 0 <= p < 1", p->real[P]);
    if ((p->flags & WF_DROPOUT) && p->size[B] < 1)
        return wf_fail(WF_ERR_ARGUMENT, "reduce: dropout needs b, the samples of a position");
    if ((p->flags & WF_DROPOUT) && p->size[SITE] > 255)
        return wf_fail(WF_ERR_ARGUMENT, "reduce: site %lld, legal are 0 to 255",
                       (long long)p->size[SITE]);
    if ((p->flags & WF_NORM) && !(p->real[EPS] > 0))
        return wf_fail(WF_ERR_ARGUMENT, "reduce: the norm's eps is %g, but must be above 0",
                       p->real[EPS]);
    if ((p->flags & WF_RMS) && !(p->flags & WF_NORM))
        return wf_fail(WF_ERR_ARGUMENT, "reduce: rms says which norm, but no norm is asked for");
    return WF_OK;
}

static void complete(wf_problem *p, uint32_t given) {
    if (!(given & 1u << PART_COUNT)) p->size[PART_COUNT] = 1;
    if (!(given & 1u << B)) p->size[B] = 1;
}

static int operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    static const char *const names[MOST_PARTS] = {"part0", "part1", "part2", "part3",
                                                  "part4", "part5", "part6", "part7"};
    const int64_t rows = p->size[ROWS], n = p->size[N], group = p->size[BIAS_GROUP];
    int i = 0;
    while (i < p->size[PART_COUNT] && i < MOST_PARTS) {
        out[i] = wf_rows_operand(names[i], WF_READ, rows, n);
        i++;
    }
    if ((p->flags & WF_BIAS) && group == 0) out[i++] = wf_vector_operand("bias", WF_READ, n);
    if ((p->flags & WF_BIAS) && group > 0)
        out[i++] = wf_rows_operand("bias", WF_READ, wf_ceil_div(rows, group), n);
    if (p->flags & WF_RESIDUAL) out[i++] = wf_rows_operand("residual", WF_READ, rows, n);
    if (p->flags & WF_NORM) out[i++] = wf_vector_operand("gamma", WF_READ, n);
    if ((p->flags & WF_NORM) && !(p->flags & WF_RMS)) out[i++] = wf_vector_operand("beta", WF_READ, n);
    out[i++] = wf_rows_operand("out", WF_WRITE, rows, n);
    if (p->flags & WF_NORM) out[i++] = wf_rows_operand("y", WF_WRITE, rows, n);
    if (p->flags & WF_NORM) out[i++] = wf_rows_operand("stats", WF_WRITE, rows, 2);
    return i;
}

static double flops(const wf_problem *p) {
    const uint32_t f = p->flags;
    const double each = (double)p->size[PART_COUNT] - 1 + ((f & WF_BIAS) != 0) +
                        ((f & WF_DROPOUT) != 0) + ((f & WF_RESIDUAL) != 0) +
                        (f & WF_RMS ? 4 : f & WF_NORM ? 8 : 0);
    return each * (double)p->size[ROWS] * (double)p->size[N];
}

/* What is compiled in: which parts of the chain there are. */
static void options(const wf_problem *p, const wf_candidate *c, char *out, size_t out_bytes) {
    wf_append(out, out_bytes, " -DCOUNT=%d -DBIAS=%d -DDROPOUT=%d -DRESIDUAL=%d -DNORM=%d -DRMS=%d",
              (int)p->size[PART_COUNT], (p->flags & WF_BIAS) != 0, (p->flags & WF_DROPOUT) != 0,
              (p->flags & WF_RESIDUAL) != 0, (p->flags & WF_NORM) != 0, (p->flags & WF_RMS) != 0);
}

static void dropout_arguments(const wf_problem *p, wf_launch *launch) {
    wf_launch_run(launch, WF_RUN_KEY0);
    wf_launch_run(launch, WF_RUN_KEY1);
    wf_launch_run(launch, WF_RUN_LAYER);
    wf_launch_run(launch, WF_RUN_SAMPLE0);
    wf_launch_i64(launch, p->size[B]);
    wf_launch_i64(launch, p->size[POS]);
    wf_launch_i64(launch, p->size[GAP_AT]);
    wf_launch_i64(launch, p->size[GAP]);
    wf_launch_i32(launch, p->size[SITE]);
    wf_launch_i64(launch, wf_philox_threshold(p->real[P]));
    wf_launch_f32(launch, 1 / (1 - p->real[P]));
}

/* Arguments in operand order, as the kernel's #if's have them. */
static int launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const bool norm = p->flags & WF_NORM;
    if (p->size[ROWS] == 0 || (p->size[N] == 0 && !norm)) return 0;
    wf_launch *launch = &out[0];
    wf_row_launch(launch, "reduce", p->size[ROWS], c);
    int view = 0;
    for (; view < p->size[PART_COUNT]; view++)
        wf_launch_view(launch, view), wf_launch_stride(launch, view, 0);
    if (p->flags & WF_BIAS) {
        wf_launch_view(launch, view);
        if (p->size[BIAS_GROUP]) wf_launch_stride(launch, view, 0);
        else wf_launch_i64(launch, 0);
        wf_launch_i64(launch, p->size[BIAS_GROUP] ? p->size[BIAS_GROUP] : p->size[ROWS]);
        view++;
    }
    if (p->flags & WF_DROPOUT) dropout_arguments(p, launch);
    if (p->flags & WF_RESIDUAL)
        wf_launch_view(launch, view), wf_launch_stride(launch, view, 0), view++;
    if (norm) wf_launch_view(launch, view++);
    if (norm && !(p->flags & WF_RMS)) wf_launch_view(launch, view++);
    for (int i = 0; i < (norm ? 3 : 1); i++, view++)
        wf_launch_view(launch, view), wf_launch_stride(launch, view, 0);
    if (norm) wf_launch_f32(launch, p->real[EPS]);
    wf_launch_i64(launch, p->size[N]);
    return 1;
}

static const wf_variant variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "reduce_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = launches, .options = options,
}};

const wf_operation wf_reduce_operation = {
    .name = "reduce",
    .size_names = {"rows", "n", "parts", "group", "b", "pos", "site", "ga", "gap"},
    .real_names = {"p", "eps"},
    .flags = WF_BIAS | WF_DROPOUT | WF_RESIDUAL | WF_NORM | WF_RMS,
    .operands = operands, .flops = flops, .check = check, .complete = complete,
    .reference = wf_reduce_reference, .tolerance = wf_reduce_tolerance,
    .nvariants = 1, .variants = variants, .prefer = wf_row_prefer,
};
