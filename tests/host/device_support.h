/* device_support.h: what the suites of host/device share: one open device, and an operation of the
 * tests' own, so that they need no kernel of weft. */
#ifndef WF_TESTS_DEVICE_SUPPORT_H
#define WF_TESTS_DEVICE_SUPPORT_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/device/kernel.h"

#define ck_ok(expression)                                                                          \
    do {                                                                                           \
        const wf_status ck_status_ = (expression);                                                 \
        ck_assert_msg(ck_status_ == WF_OK, "%s: %s", #expression, wf_last_error());                \
    } while (0)

#define ck_fails(expected, expression)                                                             \
    do {                                                                                           \
        const wf_status ck_status_ = (expression);                                                 \
        ck_assert_msg(ck_status_ == (expected), "%s: %s, not %s: %s", #expression,                 \
                      wf_status_name(ck_status_), wf_status_name(expected), wf_last_error());      \
        ck_assert_msg(*wf_last_error() != 0, "%s fails without a sentence", #expression);          \
    } while (0)

/* out[i] = FACTOR * in[i * stride] + run LR, for size {n}; parameter GROUP is the group's size, real
 * {local bytes to ask for, launches that do it again}. */
static const char scale_source[] =
    "#ifndef FACTOR\n#error FACTOR\n#endif\n"
    "__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))\n"
    "void scale(__global const float *in, long in_at, long in_stride, __global float *out, long out_at, long n,\n"
    "           float add, __local float *unused, int one, float two) {\n"
    "    const long i = get_global_id(0);\n"
    "    if (i < n) out[out_at + i] = FACTOR * in[in_at + i * in_stride] + add + (float)one * two;\n"
    "}\n";

static bool scale_ok(const wf_problem *problem, const wf_candidate *candidate, const wf_device *device, const char **why) {
    *why = "";
    return true;
}

static int scale_launches(const wf_problem *problem, const wf_candidate *candidate, wf_launch out[WF_LAUNCHES]) {
    const int32_t group = candidate->value[0];
    wf_launch *launch = &out[0];
    launch->entry = "scale";
    launch->dims = 1;
    launch->global[0] = (problem->size[0] + group - 1) / group * group;
    launch->local[0] = group;
    const wf_argument arguments[] = {
        {WF_ARG_MEMORY, 0, 0, {0}}, {WF_ARG_OFFSET, 0, 0, {0}}, {WF_ARG_STRIDE, 0, 0, {0}}, {WF_ARG_MEMORY, 1, 0, {0}},
        {WF_ARG_OFFSET, 1, 0, {0}}, {WF_ARG_I64, 0, 0, {.i = problem->size[0]}}, {WF_ARG_RUN, WF_RUN_LR, 0, {0}},
        {WF_ARG_LOCAL, 0, 0, {.i = (int64_t)problem->real[0]}}, {WF_ARG_I32, 0, 0, {.i = 1}}, {WF_ARG_F32, 0, 0, {.f = 0.5}}};
    launch->narguments = sizeof arguments / sizeof *arguments;
    memcpy(launch->arguments, arguments, sizeof arguments);
    const int again = (int)problem->real[1];
    for (int i = 1; i <= again; i++) out[i] = out[0];
    return 1 + again;
}

static int scale_operands(const wf_problem *problem, wf_operand out[WF_OPERANDS]) {
    out[0] = (wf_operand){"in", WF_READ, WF_F32, 1, {problem->size[0]}};
    out[1] = (wf_operand){"out", WF_WRITE, WF_F32, 1, {problem->size[0]}};
    return 2;
}

static const wf_variant scale_variants[] = {
    {.name = "simple", .kind = WF_VARIANT_KERNEL, .source = "scale.cl", .ok = scale_ok, .launches = scale_launches}};
static const wf_operation scale_operation = {.name = "scale",
                                             .size_names = {"n", NULL},
                                             .operands = scale_operands,
                                             .nvariants = 1,
                                             .variants = scale_variants};

static inline wf_problem scale_problem(int64_t n) {
    wf_problem problem = {0};
    problem.size[0] = n;
    problem.real[0] = 64;
    return problem;
}

static inline wf_opencl *open_device(bool profile) {
    wf_opencl *opencl = NULL;
    ck_ok(wf_opencl_create(&(wf_opencl_options){.profile = profile}, &opencl));
    return opencl;
}

#endif
