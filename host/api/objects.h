/* objects.h: what the opaque types of weft.h are. */
#ifndef WEFT_API_OBJECTS_H
#define WEFT_API_OBJECTS_H

#include "host/api/weft.h"

#include "autotune/defaults.h"
#include "host/device/device.h"
#include "host/fabric/fabric.h"
#include "host/run/run.h"
#include "layouts/lower.h"

struct weft_bootstrap {
    wf_bootstrap bootstrap;
};

struct weft_model {
    wf_model model;
};

struct weft_layout {
    wf_layout layout;
};

struct weft_context {
    wf_bootstrap alone;             /* used when the caller gave none */
    bool is_alone;
    wf_board board;                 /* what this rank is doing */
    struct wf_watchdog *watchdog;   /* NULL where the options want none */
    wf_opencl *opencl;
    wf_fabric *fabric;
    double timeout_s;
    weft_status broken;             /* a wait passed its deadline, or the device or fabric failed */
};

struct weft_params {
    weft_context *context;
    wf_model model;
    wf_layout layout;
    wf_store *store;
    wf_parameter_info info[WF_TENSORS];
    wf_shard_map map[WF_TENSORS];   /* of this rank */
    int32_t tensors, tensor[WF_TENSORS]; /* those that the model has: the public numbers */
};

struct weft_plan {
    weft_context *context;          /* NULL: pure */
    wf_model model;
    wf_layout layout;
    wf_shape shape;
    wf_mode mode;
    int32_t rank;
    char gemm[64];                  /* "" : the device's default */
    wf_schedule *schedule;
    wf_runner *runner;              /* once loaded */
    int32_t *packed;                /* one microbatch of tokens, position-major */
};

/* weft's statuses and the rooms' are the same numbers (status.c asserts it). */
static inline weft_status weft_from(wf_status status) {
    return (weft_status)(int)status;
}

/* WF_OK, or the refusal of a context that failed before. */
wf_status weft_context_usable(const weft_context *);
/* A failure after which the ranks no longer know where they stand makes the context refuse work. */
wf_status weft_context_note(weft_context *, wf_status status);

/* What planning needs to know of the context's device. */
void weft_context_limits(const weft_context *, wf_limits *out);

/* Where microbatch and samples of a plan lie: samples per microbatch, first sample of this dp rank. */
typedef struct weft_share {
    int64_t microbatches, samples, first;
} weft_share;
wf_status weft_plan_share(const wf_layout *, const wf_shape *, int32_t rank, weft_share *out);

/* A placed schedule of any rank, as the plan's own was made. */
wf_status weft_plan_schedule(const weft_plan *, int32_t rank, wf_schedule **out);

#endif
