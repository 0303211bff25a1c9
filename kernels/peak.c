/* peak.c: geometry and arguments of the kernels in peak.cl; see peak.h. */
#include "kernels/peak.h"

#include <stdio.h>

#include "kernels/rows.h"
#include "kernels/table.h"

enum { N, ROUNDS, GROUP, WIDTH, CHAINS }; /* of the problem's sizes */
enum { STEPS_PER_ROUND = 4 };             /* of a chain, as in peak.cl */

/* A CPU walks a group's items one after the other, so its items are few and wide, with as many chains as
 * its vector registers hold; a GPU needs many items, and its compiler makes scalars of vectors. Which
 * form is best is measured, never concluded. */
static const wf_peak_form cpu_forms[] = {
    {WF_PEAK_FMA, 1, 8, 8},    {WF_PEAK_FMA, 1, 16, 8},  {WF_PEAK_FMA, 1, 8, 12}, {WF_PEAK_FMA, 1, 16, 12},
    {WF_PEAK_COPY, 64, 16, 1}, {WF_PEAK_COPY, 256, 4, 1}, {WF_PEAK_UPDATE, 64, 16, 1}, {WF_PEAK_UPDATE, 256, 4, 1},
    {WF_PEAK_LAUNCH, 1, 1, 1},
};
static const wf_peak_form gpu_forms[] = {
    {WF_PEAK_FMA, 256, 1, 4},  {WF_PEAK_FMA, 256, 1, 8},  {WF_PEAK_FMA, 256, 4, 2},  {WF_PEAK_FMA, 128, 4, 4},
    {WF_PEAK_COPY, 256, 4, 1}, {WF_PEAK_COPY, 256, 1, 1}, {WF_PEAK_UPDATE, 256, 4, 1}, {WF_PEAK_UPDATE, 256, 1, 1},
    {WF_PEAK_LAUNCH, 1, 1, 1},
};

int wf_peak_forms(const wf_device *device, const wf_peak_form **out) {
    const bool cpu = device->type == WF_DEVICE_CPU;
    *out = cpu ? cpu_forms : gpu_forms;
    return cpu ? (int)(sizeof cpu_forms / sizeof *cpu_forms) : (int)(sizeof gpu_forms / sizeof *gpu_forms);
}

void wf_peak_problem(const wf_peak_form *form, int64_t n, int64_t rounds, wf_problem *out, char *options, size_t options_bytes) {
    const int64_t step = form->peak == WF_PEAK_FMA ? form->group : (int64_t)form->group * form->width;
    *out = (wf_problem){.op = WF_OPS, .dtype = WF_F32};
    out->size[N] = form->peak == WF_PEAK_LAUNCH ? 1 : wf_ceil_div(n, step) * step;
    out->size[ROUNDS] = rounds;
    out->size[GROUP] = form->group;
    out->size[WIDTH] = form->width;
    out->size[CHAINS] = form->chains;
    snprintf(options, options_bytes, "-DGROUP=%d -DWIDTH=%d -DCHAINS=%d", form->group, form->width, form->chains);
}

double wf_peak_flops(const wf_peak_form *form, const wf_problem *p) {
    if (form->peak != WF_PEAK_FMA) return 0;
    return 2.0 * (double)p->size[N] * STEPS_PER_ROUND * (double)p->size[ROUNDS] * form->width * form->chains;
}

double wf_peak_bytes(const wf_peak_form *form, const wf_problem *p) {
    static const int arrays[WF_PEAKS] = {[WF_PEAK_COPY] = 2, [WF_PEAK_UPDATE] = 3};
    return (double)arrays[form->peak] * (double)p->size[N] * sizeof(float);
}

/* ---- operands and launches ------------------------------------------------------------------------ */

static int one_operand(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("out", WF_WRITE, p->size[N]);
    return 1;
}

static int copy_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("b", WF_READ, p->size[N]);
    out[1] = wf_vector_operand("a", WF_WRITE, p->size[N]);
    return 2;
}

static int update_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    out[0] = wf_vector_operand("b", WF_READ, p->size[N]);
    out[1] = wf_vector_operand("a", WF_UPDATE, p->size[N]);
    return 2;
}

static void start(const wf_problem *p, const char *entry, int64_t items, wf_launch *out) {
    const int32_t group = (int32_t)p->size[GROUP];
    const int64_t groups = items / group;
    *out = (wf_launch){.entry = entry};
    wf_launch_geometry(out, 1, &groups, &group);
}

static int fma_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    start(p, "fma_chains", p->size[N], &out[0]);
    wf_launch_view(&out[0], 0);
    wf_launch_i32(&out[0], p->size[ROUNDS]);
    /* x converges to b / (1 - a) = 1: no overflow, no denormal numbers, however long. */
    wf_launch_f32(&out[0], 0.5);
    wf_launch_f32(&out[0], 0.5);
    return 1;
}

static int copy_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    start(p, "copy", p->size[N] / p->size[WIDTH], &out[0]);
    wf_launch_view(&out[0], 1), wf_launch_view(&out[0], 0);
    return 1;
}

static int update_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    start(p, "update", p->size[N] / p->size[WIDTH], &out[0]);
    wf_launch_view(&out[0], 1), wf_launch_view(&out[0], 0);
    wf_launch_f32(&out[0], 0.5);
    return 1;
}

static int nothing_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    start(p, "nothing", 1, &out[0]);
    wf_launch_view(&out[0], 0);
    return 1;
}

static bool always(const wf_problem *p, const wf_candidate *c, const wf_device *device, const char **why) {
    return true;
}

#define VARIANT(entry) \
    {.name = "peak", .kind = WF_VARIANT_KERNEL, .source = "peak.cl", .ok = always, .launches = entry##_launches}
static const wf_variant variants[WF_PEAKS] = {VARIANT(fma), VARIANT(copy), VARIANT(update), VARIANT(nothing)};

static const wf_operation operations[WF_PEAKS] = {
    {.name = "peak_fma", .operands = one_operand, .nvariants = 1, .variants = &variants[WF_PEAK_FMA]},
    {.name = "peak_copy", .operands = copy_operands, .nvariants = 1, .variants = &variants[WF_PEAK_COPY]},
    {.name = "peak_update", .operands = update_operands, .nvariants = 1, .variants = &variants[WF_PEAK_UPDATE]},
    {.name = "peak_launch", .operands = one_operand, .nvariants = 1, .variants = &variants[WF_PEAK_LAUNCH]},
};

const wf_operation *wf_peak_operation(wf_peak peak) {
    return &operations[peak];
}
