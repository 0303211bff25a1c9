/* run_support.h: small schedules with kernels, made by the generators that lowering uses. */
#ifndef WF_TESTS_RUN_SUPPORT_H
#define WF_TESTS_RUN_SUPPORT_H

#include <string.h>

#include "host/run/run.h"
#include "layouts/build.h"
#include "layouts/lower.h"

enum { N = 37, INSTANCES = 4 };

/* What a step of these tests needs of every operation's defaults. */
static inline void fill_step(wf_schedule *s, const char *site, double value, wf_view out) {
    const wf_problem p = {.op = WF_OP_FILL, .dtype = WF_F32, .size = {1, N}, .real = {value}};
    wf_build_kernel(s, site, &p, &out, 1);
}

/* total += in, N elements */
static inline void add_step(wf_schedule *s, const char *site, wf_view in, wf_view total) {
    const wf_problem p = {.op = WF_OP_SUM_ROWS, .dtype = WF_F32, .flags = WF_ACCUMULATE, .size = {1, 1, N}};
    const wf_view views[] = {in, total};
    wf_build_kernel(s, site, &p, views, 2);
}

static inline void copy_step(wf_schedule *s, const char *site, wf_view from, wf_view to) {
    const wf_problem p = {.op = WF_OP_COPY, .dtype = WF_F32, .size = {1, N}};
    const wf_view views[] = {from, to};
    wf_build_kernel(s, site, &p, views, 2);
}

static inline wf_view row(int32_t buffer, wf_at at) {
    return wf_matrix(buffer, at, 0, 1, N, N);
}

static inline void call_of(wf_schedule *s, int32_t segment, int32_t microbatch) {
    const wf_call call = {.segment = segment, .microbatch = microbatch};
    wf_build_call(s, &call);
}

static inline wf_transport_kind transport_to(void *fabric, int32_t peer, bool slots) {
    return wf_fabric_between(fabric, wf_fabric_rank(fabric), peer, slots);
}

static inline wf_status finish(wf_schedule *s, wf_fabric *fabric) {
    TRY(wf_build_finish(s));
    TRY(wf_choose(s, &(wf_choices){.context = fabric, .transport = fabric ? transport_to : NULL}));
    return wf_place(s, &(wf_limits){0});
}

/* Two slots, "in" with INSTANCES instances and "weight", a parameter; `calls` times
 * weight += in[call % INSTANCES], by way of scratch. */
static inline wf_status adding_schedule(int32_t calls, int32_t count, wf_schedule **out) {
    wf_schedule *s = NULL;
    TRY(wf_schedule_create(0, 1, &s));
    const int32_t in = wf_build_slot(s, "in", WF_CLASS_IO, WF_F32, N, INSTANCES);
    const int32_t weight = wf_build_slot(s, "weight", WF_CLASS_PARAMETER, WF_F32, N, count);
    const int32_t segment = wf_build_segment(s, "add");
    const int32_t scratch = wf_build_scratch(s, "scratch", WF_F32, N);
    copy_step(s, "copy", row(in, WF_AT_MICROBATCH), row(scratch, WF_AT_NONE));
    add_step(s, "add", row(scratch, WF_AT_NONE), row(weight, WF_AT_NONE));
    wf_build_segment_end(s);
    for (int32_t i = 0; i < calls; i++) call_of(s, segment, i % INSTANCES);
    const wf_status status = finish(s, NULL);
    if (status != WF_OK) {
        wf_schedule_destroy(s);
        return status;
    }
    *out = s;
    return WF_OK;
}

#endif
