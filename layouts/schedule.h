/* schedule.h: what one rank does, as plain data. The heart of weft.
 *
 * A schedule is segments and a program. A segment is a straight line of steps, lowered once per
 * distinct structure ("layer.forward", "layer.backward.first"). The program is a flat list of
 * calls: a segment, a layer, a microbatch, and which instance of each pooled buffer. A step is a
 * kernel (an operation on views) or an exchange (moves bytes between ranks, never adds).
 *
 * Indices instead of pointers; no device, no MPI. Life: the passes fill it in this order, after
 * which it is immutable and has three readers (run, measure, draw):
 *   lower   (layouts/lower*.c)  elementary steps over named buffers
 *   choose  (layouts/choose.c)  fuse; a candidate per kernel; workspace; a transport per exchange
 *   place   (layouts/place.c)   every buffer's allocation and offset
 *   waits   (layouts/waits.c)   in-segment waits, and the touches that join calls
 *   check   (layouts/check.c)   all ranks together: matching, reads covered, no deadlock
 * Fields marked = are derived by place and waits. */
#ifndef WF_LAYOUTS_SCHEDULE_H
#define WF_LAYOUTS_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Steps of one lane run in order; lanes overlap. The four pp lanes keep each direction, each way
 * apart: 1F1B with both on one lane deadlocks. DP: sums of gradients over ranks that have seen other
 * tokens, sent from slots. RETURN: word that what was read in place is read; no message waits behind it. */
typedef enum wf_lane {
    WF_LANE_COMPUTE, WF_LANE_COPY, WF_LANE_TP, WF_LANE_CP, WF_LANE_EP, WF_LANE_DP,
    WF_LANE_PP_SEND_F, WF_LANE_PP_RECV_F, WF_LANE_PP_SEND_B, WF_LANE_PP_RECV_B, WF_LANE_RETURN, WF_LANES
} wf_lane;

/* Which index of the call picks a buffer's instance. */
typedef enum wf_at {
    WF_AT_NONE,       /* instance 0 */
    WF_AT_LAYER,      /* call.layer */
    WF_AT_MICROBATCH, /* call.microbatch */
    WF_AT_X_IN, WF_AT_X_OUT, WF_AT_DX_IN, WF_AT_DX_OUT, /* call.at[...]: instance numbers that the */
    WF_AT_SAVED,      /* program's generator took from free lists */
    WF_AT_WEIGHTS,    /* gathered (ZeRO-3) or versioned (PipeDream) weights */
    WF_ATS
} wf_at;

typedef enum wf_life {
    WF_SCRATCH,       /* lives inside one segment */
    WF_POOL,          /* instances live across calls */
    WF_SLOT           /* bound by the caller (parameters, gradients, tokens, loss) */
} wf_life;

/* PEER: another rank's window, where it is read in place; of this rank's memory it takes none. */
typedef enum wf_space {
    WF_SPACE_DEVICE, WF_SPACE_WINDOW, WF_SPACE_PINNED, WF_SPACE_HOST, WF_SPACE_FILE, WF_SPACE_PEER, WF_SPACES
} wf_space;

typedef enum wf_class {
    WF_CLASS_PARAMETER, WF_CLASS_GRADIENT, WF_CLASS_OPTIMIZER, WF_CLASS_ACTIVATION,
    WF_CLASS_WORKSPACE, WF_CLASS_CACHE, WF_CLASS_IO /* tokens, targets, loss, logits */, WF_CLASSES
} wf_class;

/* Who brings a kept buffer's memory. */
typedef enum wf_owner {
    WF_OWNER_PLAN,    /* allocated with the plan (parameters: with the params) */
    WF_OWNER_STASH,   /* a pool of which every stash has its own: activations of one microbatch in flight */
    WF_OWNER_CALLER,  /* a slot that each run binds to memory of the caller's: an allocation of its own */
    WF_OWNERS
} wf_owner;

typedef struct wf_buffer {
    const char *name;       /* "x", "layer.attn.qkv.weight"; owned by the schedule */
    uint8_t life, space, class_, dtype;
    uint8_t owner;          /* wf_owner; PLAN unless lowering says otherwise */
    int32_t segment;        /* of SCRATCH; else -1 */
    int64_t bytes;          /* of one instance; memory uses bounds of run-time extents */
    int32_t count;          /* instances: POOL: high-water mark of the free list; SLOT: layers, microbatches or 1 */
    int32_t first, last;    /* = SCRATCH: steps that use it first and last, counted from the segment's first; -1: none */
    int32_t allocation;     /* = index into allocations; -1 when bytes == 0 */
    int64_t offset, stride; /* = bytes: of instance 0, between instances */
    int32_t per_allocation; /* = instances in each allocation: all of them, unless they exceed the
                             * largest allocation; then they go on in the next ones, at offset 0 */
} wf_buffer;

/* address = allocation + offset + instance * stride + view.offset * dtype bytes, for a buffer that
 * fits one allocation; wf_buffer_locate and wf_schedule_locate know the general case. */
typedef struct wf_view {
    int32_t buffer;
    uint8_t at;                  /* wf_at */
    uint8_t ndim;
    int8_t source[WF_DIMS];      /* run-time source of an extent; -1: constant. extent is then its bound */
    int64_t offset;              /* elements */
    int64_t extent[WF_DIMS], stride[WF_DIMS]; /* elements */
} wf_view;

typedef enum wf_exchange_kind {
    WF_HOP,        /* send the first view to `to`, receive the second from `from`; either may be -1 */
    WF_RETURN      /* no bytes: tells `to` that the first view, read where it lies there, is read, and hears the same of the
                    * second, which is this rank's own, from `from` (layouts/in_place.c) */
} wf_exchange_kind;

typedef enum wf_collective {      /* what a hop is part of: for reading, tracing, counting */
    WF_ALL_GATHER, WF_REDUCE_SCATTER, WF_ALL_TO_ALL, WF_SHIFT, WF_POINT_TO_POINT, WF_COLLECTIVES
} wf_collective;

typedef struct wf_exchange {
    uint8_t kind;           /* wf_exchange_kind */
    uint8_t collective;     /* wf_collective */
    uint8_t transport;      /* wf_transport_kind towards `to`, set by choose; 0: not chosen */
    uint8_t receive_transport; /* from `from`; another one only where the peers are on different nodes */
    bool in_place;          /* HOP: what is received stays where it is, in the sender's window, until the RETURN */
    int32_t group;          /* index into groups */
    int32_t hop;            /* hop k of the collective: to = me + k, from = me - k */
    int32_t to, from;       /* world ranks; -1: none */
} wf_exchange;

typedef enum wf_transport_kind { WF_TRANSPORT_NONE, WF_TRANSPORT_MPI, WF_TRANSPORT_STAGED, WF_TRANSPORT_WINDOW, WF_TRANSPORTS } wf_transport_kind;

typedef struct wf_group {   /* ranks that exchange, in the layout's order */
    uint8_t axis;           /* wf_axis of layouts/mesh.h */
    int32_t first_member, members; /* into schedule.members */
    int32_t index;          /* my position */
} wf_group;

typedef enum wf_step_kind { WF_STEP_KERNEL, WF_STEP_EXCHANGE } wf_step_kind;

typedef struct wf_step {
    uint8_t kind, lane;
    uint8_t reads, updates, writes; /* views[view ...], in this order. Exchanges: read = sent, write = received */
    bool fused;                     /* made by choose from several elementary steps */
    int32_t view;
    int32_t problem;                /* KERNEL: into problems */
    int32_t exchange;               /* EXCHANGE: into exchanges */
    const char *site;               /* "attn.qkv.dgrad": trace, messages; owned by the schedule */
    int32_t wait[WF_LANES];         /* = last step (counted from the segment's first) needed on each other lane, -1 none */
} wf_step;

typedef struct wf_touch {   /* = a segment's first/last uses, per lane and kind, of what outlives it and is
                             * conflicted for by two lanes anywhere in the schedule */
    int32_t step, buffer;   /* buffer -1 - a: allocation a of all scratch, as one thing */
    uint8_t at, lane, write, last; /* last: 0 first use, 1 last use */
} wf_touch;

typedef struct wf_segment { /* straight line; the unit of fusing, placing, hashing, recording */
    const char *name;
    int32_t step, steps;
    int32_t touch, touches; /* = */
    int64_t scratch_bytes;  /* = peak */
} wf_segment;

typedef struct wf_call {
    int32_t segment, layer, microbatch;
    int32_t at[WF_ATS];     /* at[WF_AT_X_IN ...]; NONE, LAYER, MICROBATCH are not read */
} wf_call;

/* A problem with what choose decided for it. */
typedef struct wf_chosen {
    wf_problem problem;
    wf_candidate candidate;
    int64_t workspace_bytes;
} wf_chosen;

typedef struct wf_allocation { /* = one device (window, ...) memory object */
    uint8_t life, space, class_; /* class_: of SLOT allocations; else ACTIVATION */
    uint8_t owner;
    int64_t bytes;
} wf_allocation;

/* The program of a block stack is cut into phases that the caller runs when it likes; that of a
 * whole model is one piece, played from its first call to its last. */
typedef enum wf_phase {
    WF_PHASE_FORWARD, WF_PHASE_BACKWARD_FIRST /* gradients are written */, WF_PHASE_BACKWARD /* ... added to */,
    WF_PHASE_FINISH /* sums over ranks, after the last backward */, WF_PHASE_OPTIMIZE, WF_PHASES
} wf_phase;

typedef struct wf_piece { int32_t first, count; } wf_piece; /* calls */

typedef struct wf_schedule {
    int32_t rank, ranks;
    wf_buffer *buffers;         int32_t nbuffers;
    wf_view *views;             int32_t nviews;
    wf_exchange *exchanges;     int32_t nexchanges;
    wf_group *groups;           int32_t ngroups;
    int32_t *members;           int32_t nmembers;
    wf_step *steps;             int32_t nsteps;
    wf_touch *touches;          int32_t ntouches;
    wf_segment *segments;       int32_t nsegments;
    wf_call *calls;             int32_t ncalls;     /* the program */
    wf_piece phases[WF_PHASES];                     /* of a block stack; else all empty */
    wf_chosen *problems;        int32_t nproblems;
    wf_allocation *allocations; int32_t nallocations;
    bool placed;
    struct wf_builder *builder; /* capacities and string arena; layouts/build.c */
} wf_schedule;

void wf_schedule_destroy(wf_schedule *schedule);

/* ---- where a view lies ---------------------------------------------------------------------------- */

typedef struct wf_location {
    int32_t allocation;
    int64_t offset_bytes;       /* of the view's first element */
} wf_location;

/* Placed schedules only; allocation -1 where the buffer has no bytes. */
wf_location wf_buffer_locate(const wf_buffer *, int32_t instance);
wf_location wf_schedule_locate(const wf_schedule *, const wf_view *, const wf_call *);
int32_t wf_call_instance(const wf_call *, wf_at);
int32_t wf_view_instance(const wf_view *, const wf_call *);
int64_t wf_view_elements(const wf_view *);          /* product of extents */
bool wf_view_contiguous(const wf_view *);           /* row-major without gaps */
/* Does the step change what its v-th view names? A RETURN gives both of its views up. */
bool wf_step_writes(const wf_schedule *, const wf_step *, int v);
int64_t wf_view_bytes(const wf_schedule *, const wf_view *); /* elements * dtype */
/* Bytes of the instance between the view's first and last element: [first, end), empty views 0, 0. */
void wf_view_span(const wf_schedule *, const wf_view *, int64_t *first_out, int64_t *end_out);

/* Messages of a channel (from, to, lane) match in order. A pipeline's send lane and its receive
 * lane at the other end are one channel, named by the send lane; other lanes name their own. */
wf_lane wf_lane_channel(wf_lane);

/* ---- the cursor that all readers share -------------------------------------------------------------- */

/* One execution of a step. seq numbers instances per lane from 0; wait[l] is the sequence number on
 * lane l that must be complete before this one starts, -1 none. The own lane's order is implicit. */
typedef struct wf_instance {
    const wf_step *step;
    const wf_call *call;
    int32_t call_index, step_index; /* step_index: into schedule.steps */
    int64_t seq;
    int64_t wait[WF_LANES];
} wf_instance;

typedef struct wf_cursor wf_cursor;
wf_status wf_cursor_create(const wf_schedule *, wf_cursor **out);
void wf_cursor_rewind(wf_cursor *);
/* The same, for these calls alone: all before them counts as complete, lanes are numbered anew. */
void wf_cursor_rewind_to(wf_cursor *, wf_piece);
/* false at the end of the program, or of the piece. */
bool wf_cursor_next(wf_cursor *, wf_instance *out);
void wf_cursor_destroy(wf_cursor *);

/* ---- passes ------------------------------------------------------------------------------------------ */

/* Offsets and allocations, waits, touches. limits: largest allocation and alignment per space. */
typedef struct wf_limits {
    int64_t max_alloc_bytes[WF_SPACES]; /* 0: no limit */
    int32_t align_bytes;                /* 0: 128 */
} wf_limits;
wf_status wf_place(wf_schedule *, const wf_limits *);   /* layouts/place.c, then wf_derive_waits */
wf_status wf_derive_waits(wf_schedule *);               /* layouts/waits.c */

/* Checks all ranks' placed schedules together (one per class of ranks would do where ranks are
 * alike). Sentences name ranks, steps and sites. layouts/check.c */
wf_status wf_check(const wf_schedule *const *schedules, int32_t count);
/* The messages from one rank to another on a lane's channel, in order, `most` at most, as one of the two
 * sees them: how many, their hash, and the last one's call, step and view (-1: there is none). */
typedef struct wf_channel {
    uint64_t hash;
    int64_t messages;
    int32_t call, step, view;
} wf_channel;
wf_channel wf_schedule_channel(const wf_schedule *, int32_t from, int32_t to, wf_lane lane, int64_t most);
/* The hash of all of them: ranks compare. */
uint64_t wf_schedule_hash_channel(const wf_schedule *, int32_t from, int32_t to, wf_lane lane);
/* Of the whole placed schedule: same plan, same value. */
uint64_t wf_schedule_hash(const wf_schedule *);

/* measure: bytes per space and class; exactly what run allocates, with one stash. What the caller
 * brings for a run is not counted. */
typedef struct wf_bytes {
    int64_t by_space[WF_SPACES];
    int64_t by_class[WF_CLASSES];   /* the most of each class that is alive at once */
} wf_bytes;
void wf_schedule_measure(const wf_schedule *, wf_bytes *out);

/* Work and traffic of the whole program on this rank. */
typedef struct wf_work {
    double flops[WF_OPS];                     /* by operation */
    double moved_bytes;                       /* by kernels, at least: each operand once */
    int64_t kernels;                          /* steps that are kernels */
    int64_t sent_bytes[WF_COLLECTIVES];       /* by collective */
    int64_t received_bytes[WF_COLLECTIVES];
    int64_t messages;
} wf_work;
void wf_schedule_count(const wf_schedule *, wf_work *out);
/* The same of a piece of it. */
void wf_schedule_count_piece(const wf_schedule *, wf_piece, wf_work *out);

const char *wf_lane_name(wf_lane);
const char *wf_space_name(wf_space);
const char *wf_class_name(wf_class);
const char *wf_collective_name(wf_collective);
const char *wf_transport_name(wf_transport_kind);

#ifdef __cplusplus
}
#endif
#endif
