/* objects.h: what the opaque types of weft.h are. */
#ifndef WEFT_API_OBJECTS_H
#define WEFT_API_OBJECTS_H

#include "host/api/weft.h"

#include "autotune/defaults.h"
#include "host/base/log.h"
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
    wf_log log;                     /* what is said beside results, and to whom */
    wf_board board;                 /* what this rank is doing */
    struct wf_watchdog *watchdog;   /* NULL where the options want none */
    wf_opencl *opencl;
    wf_fabric *fabric;
    double timeout_s;
    weft_run *running;              /* in progress: not all of it is submitted; NULL: none */
    weft_status broken;             /* a wait passed its deadline, or the device or fabric failed */
};

/* Where a step's gradients stand. */
typedef enum weft_gradients { WEFT_UNTOUCHED, WEFT_PARTIAL /* not summed over ranks */, WEFT_SUMMED } weft_gradients;

struct weft_params {
    weft_context *context;
    wf_model model;
    wf_layout layout;
    wf_store *store;
    weft_gradients gradients;
    wf_parameter_info info[WF_TENSORS];
    wf_shard_map map[WF_TENSORS];   /* of this rank */
    wf_order order[WF_TENSORS];     /* in memory */
    int32_t tensors, tensor[WF_TENSORS]; /* those that the model has: the public numbers */
    uint64_t choices_hash;          /* of the schedule that last trained them */
};

/* The caller's buffers of a block stack. */
typedef enum weft_slot { WEFT_X, WEFT_Y, WEFT_DY, WEFT_DX, WEFT_BUFFERS } weft_slot;

struct weft_plan {
    weft_context *context;          /* NULL: pure */
    wf_model model;
    wf_layout layout;
    wf_shape shape;
    wf_mode mode;
    int32_t rank;
    char gemm[64];                  /* "" : the device's default */
    int64_t memory_bytes;           /* of a rank, without a context; 0: no limit */
    wf_schedule *schedule;
    wf_runner *runner;              /* once loaded */
    int32_t *packed;                /* tokens, targets, then places and documents, of every microbatch, position-major */
    int32_t *numbers;               /* of a sequence's documents, with room for as many as tokens */
    bool blocks;
    uint32_t phases;                /* weft_phase, of a block stack */
    weft_params *params;            /* of load */
    weft_params *checked;           /* last ones found to fit */
    weft_run *run;                  /* its one run, in progress or over; once loaded */
    wf_memory *borrowed[WEFT_BUFFERS];
    wf_memory *staging;             /* device side of host memory; NULL until a run has some */
};

struct weft_stash {
    const weft_plan *plan;
    wf_stash *stash;
    bool full;                      /* holds a forward whose backward has not begun */
    wf_run_args args;               /* of that forward */
};

/* weft's statuses and the rooms' are the same numbers (status.c asserts it). */
static inline weft_status weft_from(wf_status status) {
    return (weft_status)(int)status;
}

/* The model that options describe (model_fill.c). */
wf_status weft_model_from_options(const weft_model_options *, wf_model *out);

/* WF_OK, or the refusal of a context that failed before. */
wf_status weft_context_usable(const weft_context *);
/* A failure after which the ranks no longer know where they stand makes the context refuse work. */
wf_status weft_context_note(weft_context *, wf_status status);
void weft_context_break(weft_context *, wf_status status);

/* Is the layout for as many ranks as the context has? And are its shares known, if it has some? (layout.c) */
wf_status weft_layout_fits(const weft_context *, const wf_layout *);
wf_status weft_layout_settled(const weft_context *, const wf_layout *);

/* What wf_layout calls the order that is asked for, on the context's device (NULL: none). (params.c) */
wf_status weft_order_for(const weft_context *, weft_order, int32_t *out);
/* Shards of a row `t` of the table of tensors (params.c): what is "", "grad", "m" or "v". */
int64_t weft_params_instances(const weft_params *, int32_t t);
int64_t weft_shard_bytes(const wf_shard_map *); /* row-major, as they are read and written */
wf_status weft_shard_read(weft_params *, int32_t t, const char *what, int64_t instance, float *out);
wf_status weft_shard_write(weft_params *, int32_t t, const char *what, int64_t instance, const float *data);
/* Zeros, where there is memory for it. */
wf_status weft_shard_clear(weft_params *, int32_t t, const char *what, int64_t instance);
/* A rank's shard to its place in the whole tensor. */
void weft_shard_scatter(const weft_params *, int32_t t, int32_t rank, const float *shard, float *whole);
/* Makes room for m and v in the store where no plan has yet. */
wf_status weft_params_prepare(weft_params *, wf_mode);

/* What planning needs to know of the context's device. */
void weft_context_limits(const weft_context *, wf_limits *out);

/* Where microbatch and samples of a plan lie: samples per microbatch, first sample of this dp rank. */
typedef struct weft_share {
    int64_t microbatches, samples, first;
} weft_share;
wf_status weft_plan_share(const wf_layout *, const wf_shape *, int32_t rank, weft_share *out);

/* Are these params of the plan's model and layout? (plan.c) */
wf_status weft_plan_takes(const weft_plan *, const weft_params *);
/* Makes and frees what a run needs. (run.c) */
wf_status weft_run_prepare(weft_plan *);
void weft_run_destroy(weft_plan *);
/* Table row and slot name of a public tensor number and `what`. (params.c) */
wf_status weft_params_slot(const weft_params *, int32_t index, const char *what, int64_t instance, char name_out[128]);

/* Will it fit? Else WF_ERR_MEMORY: bytes by class, and layouts that would fit. Before anything is
 * allocated; at loading, beside what is there already. (fits.c) */
wf_status weft_plan_check_memory(const weft_plan *);
wf_status weft_plan_check_room(const weft_plan *, const weft_params *);

/* A placed schedule of any rank, as the plan's own was made. */
wf_status weft_plan_schedule(const weft_plan *, int32_t rank, wf_schedule **out);

#endif
