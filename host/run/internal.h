/* internal.h: what runner.c, executor.c, store.c and trace.c share. Not for other rooms. */
#ifndef WF_RUN_INTERNAL_H
#define WF_RUN_INTERNAL_H

#include "host/run/run.h"

/* Instances read ahead per lane; compute steps submitted ahead of the device. Both bound memory and
 * nothing else: they are far above what a device needs to stay busy. */
enum { WF_READ_AHEAD = 512, WF_IN_FLIGHT = 256, WF_MARK_EVERY = 32 };

/* One executed step, as the tracer keeps it. Seconds on this host's monotonic clock. */
typedef struct wf_record {
    int32_t step, call;
    int64_t seq;
    double start_s, end_s;
    bool device_clock;          /* times are the device's own */
} wf_record;

typedef struct wf_trace {
    bool on;
    wf_record *records;
    int64_t nrecords, capacity;
} wf_trace;

/* A compute step whose completion somebody waits for; compute completes in order. */
typedef struct wf_mark {
    int64_t seq;
    wf_event *event;
    int64_t record;             /* of the trace, -1 */
    wf_instance instance;
} wf_mark;

typedef struct wf_lane_state {
    wf_instance *ring;          /* read, not started: WF_READ_AHEAD entries from head */
    int32_t head, count;
    int64_t started, completed; /* sequence numbers, -1: none yet */
    wf_transfer *transfer;      /* exchanges: the one in flight */
    wf_found found;             /* ... where its message lies, if it is read in place */
    wf_instance active;
    int64_t record;
} wf_lane_state;

/* A piece of the program that is played by itself, counted by a dry run. */
typedef struct wf_played {
    wf_piece piece;
    int64_t instances[WF_LANES];
    uint8_t *waited;            /* bit per compute instance: its completion is waited for */
} wf_played;

struct wf_runner {
    const wf_schedule *schedule;
    wf_opencl *opencl;
    wf_fabric *fabric;
    wf_memory **memory;         /* by allocation */
    int64_t *base;              /* by allocation: bytes into the memory, of what the caller brings */
    bool *owned;                /* created here: not the store's */
    wf_store *store;            /* whose slots `memory` and `lent` name */
    int64_t lendings;           /* of the store, when it was set */
    const wf_lent **lent;       /* by buffer: instances that lie in the caller's memory, or another rank's; NULL: none */
    wf_lent *found;             /* by buffer: where what is read in place lies, of WF_SPACE_PEER */
    wf_kernel **kernels;        /* by problem */
    int32_t *operands;          /* by problem: views that are operands; one more is the workspace */
    wf_cursor *cursor;
    wf_played *pieces;          /* one per phase of a block stack, else one */
    int npieces;
    const wf_played *now;       /* what is played, or was last */
    wf_run_args args;           /* of this run */
    bool running;               /* started, not all submitted */
    wf_event *gate;             /* end of the run before on the device: exchanges start after it */
    double limit_s;             /* that the board gives each activity; 0: none, the host has a loop of its own */
    double seen_s, quiet_s;     /* when a run was last advanced; how long nothing has moved */
    wf_lane_state lane[WF_LANES];
    wf_mark mark[WF_IN_FLIGHT];
    int32_t mark_head, marks;
    wf_instance held;           /* read from the cursor, its lane's ring was full */
    bool holding, exhausted, unflushed;
    wf_status broken;           /* a run failed: what it failed with; further runs are refused */
    int64_t heard;              /* events that have rung */
    int64_t moves;              /* of the fabric, when last looked at */
    double still_s;             /* how long nothing has moved, no part of a message either */
    double idle_s;              /* of the last run: time in which the host had nothing to do */
    wf_trace trace;
};

struct wf_stash {
    const wf_schedule *schedule; /* whose it is; may be gone when the stash goes */
    int32_t count;              /* allocations */
    wf_memory **memory;         /* by allocation; NULL where it is not the stash's */
};

/* executor.c */
wf_status wf_executor_create(wf_runner *);
void wf_executor_destroy(wf_runner *);

/* The memory of a view in this call. */
void wf_runner_bind(const wf_runner *, const wf_view *, const wf_call *, wf_bound_view *out);

/* exchange.c: hands the step's messages to the fabric; lane->transfer. When they are over: kernels read what is not copied where it
 * lies (several messages into one buffer come from one place, each from its part of it). */
wf_status wf_exchange_start(wf_runner *, wf_lane_state *lane, const wf_instance *);
wf_status wf_exchange_finish(wf_runner *, const wf_lane_state *lane);
/* As choose wrote it, else as the fabric has it. */
wf_transport_kind wf_exchange_sends_by(const wf_runner *, const wf_exchange *);
wf_transport_kind wf_exchange_receives_by(const wf_runner *, const wf_exchange *);

/* store.c: the memory of this schedule's allocations of stored classes, by allocation (others are
 * left alone), and by buffer the instances that were lent. Creates what is missing, zeroed; checks
 * what exists. */
wf_status wf_store_bind(wf_store *, const wf_schedule *, wf_memory **memory, const wf_lent **lent);
bool wf_store_keeps(const wf_allocation *);

/* progress.c: publishes what is done now; what is waited for, when nothing moves. */
void wf_runner_at(wf_runner *, const wf_instance *);
void wf_runner_waits(wf_runner *);
/* The deadline of this run. */
double wf_runner_limit_s(const wf_runner *);
/* What the first blocked lane would do next; NULL: only kernels are awaited. */
const wf_instance *wf_runner_blocked(const wf_runner *);
/* Puts rank, step and operation before a failure's sentence. */
wf_status wf_runner_explain(const wf_runner *, const wf_instance *, wf_status);

/* match.c: do the plans of all ranks fit each other? Collective. */
wf_status wf_runner_match(wf_runner *);

/* trace.c */
wf_status wf_trace_begin(wf_runner *);  /* room for one more run */
int64_t wf_trace_start(wf_runner *, const wf_instance *);
void wf_trace_end(wf_runner *, int64_t record, wf_event *);

#endif
