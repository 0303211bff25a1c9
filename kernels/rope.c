/* rope.c: the operation ROPE, rotary position embedding in place (Su, Lu, Pan, Murtadha, Wen, Liu:
 * "RoFormer", 2021), with pairs half a rotation apart as Hugging Face's Llama has them. The angles come
 * as a table, so that scaled forms differ by what fills it. Contract in operation.h. */
#include "kernels/rows.h"
#include "kernels/table.h"

enum { S, B, HEADS, D, ROTATED };

static wf_status check(const wf_problem *p) {
    if (p->size[ROTATED] % 2 || p->size[ROTATED] > p->size[D])
        return wf_fail(WF_ERR_ARGUMENT,
                       "rope: %lld elements of a head of %lld are rotated, legal are even numbers up to that",
                       (long long)p->size[ROTATED], (long long)p->size[D]);
    return WF_OK;
}

/* Case texts: one sample, one head, all of it rotated, unless said otherwise. */
static void complete(wf_problem *p, uint32_t given) {
    if (!(given & 1u << B)) p->size[B] = 1;
    if (!(given & 1u << HEADS)) p->size[HEADS] = 1;
    if (!(given & 1u << ROTATED)) p->size[ROTATED] = p->size[D];
}

static int operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const int64_t *n = p->size;
    out[0] = wf_rows_operand("table", WF_READ, n[S], n[ROTATED]);
    out[1] = (wf_operand){"x", WF_UPDATE, WF_F32, 4, {n[S], n[B], n[HEADS], n[D]}};
    return 2;
}

static double flops(const wf_problem *p) {
    return 3.0 * (double)(p->size[S] * p->size[B]) * (double)(p->size[HEADS] * p->size[ROTATED]);
}

/* A group per token. */
static int launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t tokens = p->size[S] * p->size[B];
    if (tokens == 0 || p->size[HEADS] == 0 || p->size[ROTATED] == 0) return 0;
    wf_row_launch(&out[0], "rope", tokens, c);
    wf_launch_view(&out[0], 0), wf_launch_stride(&out[0], 0, 0);
    wf_launch_view(&out[0], 1);
    for (int dim = 0; dim < 3; dim++) wf_launch_stride(&out[0], 1, dim);
    wf_launch_i64(&out[0], p->size[B]);
    wf_launch_i64(&out[0], p->size[HEADS]);
    wf_launch_i64(&out[0], p->size[ROTATED] / 2);
    wf_launch_f32(&out[0], p->flags & WF_INVERSE ? -1 : 1);
    return 1;
}

static const wf_variant variants[] = {{
    .name = "simple", .kind = WF_VARIANT_KERNEL, .source = "rope_simple.cl",
    .nparameters = WF_ROW_PARAMETERS, .parameters = wf_row_parameters,
    .ok = wf_row_ok, .launches = launches,
}};

const wf_operation wf_rope_operation = {
    .name = "rope", .size_names = {"s", "b", "h", "d", "rotated"}, .flags = WF_INVERSE,
    .operands = operands, .flops = flops, .check = check, .complete = complete,
    .reference = wf_rope_reference, .tolerance = wf_rope_tolerance,
    .nvariants = 1, .variants = variants, .prefer = wf_row_prefer,
};
