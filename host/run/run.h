/* run.h: the reader that runs a placed schedule on this rank's device and fabric. Given its choices;
 * knows no wisdom. Runs ahead of the device: submits everything that waits for no exchange, never
 * finishes a queue between steps. */
#ifndef WF_RUN_RUN_H
#define WF_RUN_RUN_H

#include "host/device/device.h"
#include "host/fabric/fabric.h"
#include "layouts/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Memory of the slots of classes PARAMETER, GRADIENT and OPTIMIZER, shared by the plans of one
 * model. Allocations are created by the first plan that needs the class; later plans must agree
 * in their sizes (the order of parameter slots is the same in every schedule). */
typedef struct wf_store wf_store;
wf_status wf_store_create(wf_opencl *, wf_store **out);
void wf_store_destroy(wf_store *);
/* Creates (zeroed) what this placed schedule needs and the store lacks; a schedule whose slots lie
 * elsewhere is WF_ERR_ARGUMENT. Local. wf_runner_create does it too. */
wf_status wf_store_prepare(wf_store *, const wf_schedule *);
bool wf_store_has(const wf_store *, wf_class class_);
/* Has its memory been created? It is when it is first needed, so that memory which is lent for all
 * slots of a class is not taken twice. */
bool wf_store_holds(const wf_store *, wf_class class_);
int64_t wf_store_bytes(const wf_store *, wf_class class_);
/* From now on this instance of the slot lies in the caller's cl_mem, `offset_bytes` into it (a
 * multiple of 4), which is retained until the store is destroyed; NULL: in the store's own memory
 * again. Nothing is copied. Between runs; before the class's first use its own memory is not taken. */
typedef struct wf_lent {
    wf_memory *memory;
    int64_t offset_bytes;
} wf_lent;
/* Counts lendings: a runner whose store has another number than when it was set is set again. */
int64_t wf_store_lendings(const wf_store *);
wf_status wf_store_lend(wf_store *, const char *slot, int32_t instance, void *cl_mem, int64_t offset_bytes);
/* Zeroes an instance, if it has memory already; what is created later is zero. */
wf_status wf_store_clear(wf_store *, const char *slot, int32_t instance);
/* Host <-> slot, by slot name and instance; whole instances. Local, blocking. */
wf_status wf_store_write(wf_store *, const char *slot, int32_t instance, const void *data, int64_t bytes);
wf_status wf_store_read(wf_store *, const char *slot, int32_t instance, void *data, int64_t bytes);

typedef struct wf_runner wf_runner;

/* Collective. Allocates the schedule's pools, scratch, windows and IO slots; builds its kernels
 * (one rank of a node after the other); compares plan hashes over the channels. All borrowed until
 * destroyed. Nothing is allocated afterwards. */
wf_status wf_runner_create(const wf_schedule *, wf_opencl *, wf_fabric *, wf_store *, wf_runner **out);
/* Collective. */
void wf_runner_destroy(wf_runner *);

/* Collective. Plays the whole program with these run-time values (by wf_run_value; LAYER and SAMPLE0
 * are filled in per call: SAMPLE0 = sample0 + microbatch * samples). Returns when the device is done. */
typedef struct wf_run_args {
    wf_run_number value[WF_RUN_VALUES];
    int64_t sample0, samples;   /* global index of this dp rank's first sample; samples per microbatch */
    double timeout_s;           /* without any progress for so long: WF_ERR_TIMEOUT; 0: 60 */
} wf_run_args;
wf_status wf_runner_run(wf_runner *, const wf_run_args *);

/* The same in steps that never block, for hosts with a loop of their own. Collective. phase:
 * WF_PHASES: the whole program. A run may be started when the one before has been submitted: its
 * kernels then still run, and what this one exchanges waits for them. */
wf_status wf_runner_start(wf_runner *, const wf_run_args *, wf_phase phase);
/* *submitted: every kernel is on the device's queue, every exchange is over. *done: the device is
 * done, too. */
wf_status wf_runner_advance(wf_runner *, bool *submitted, bool *done);
/* While `on`, the caller does nothing but advance this run: the rank's board gives each step the
 * deadline, so that a watchdog sees it where a driver's call hangs. */
void wf_runner_hold(wf_runner *, bool on);
/* Sleeps a little, the longer the longer nothing has moved; between two advances that block. */
void wf_runner_rest(wf_runner *);

/* What a stash owns: memory of its own for every allocation of WF_OWNER_STASH. Local. */
typedef struct wf_stash wf_stash;
wf_status wf_stash_create(wf_opencl *, const wf_schedule *, wf_stash **out);
void wf_stash_destroy(wf_stash *);
int64_t wf_stash_bytes(const wf_stash *);
/* Which stash, params and memory of the caller's the next runs use; between runs. */
wf_status wf_runner_set_stash(wf_runner *, const wf_stash *);
wf_status wf_runner_set_store(wf_runner *, wf_store *);
/* A slot of WF_OWNER_CALLER: its `bytes` lie in `memory` from offset_bytes on (a multiple of 4). */
wf_status wf_runner_set_slot(wf_runner *, const char *slot, wf_memory *memory, int64_t offset_bytes, int64_t bytes);
/* Bytes that such a slot takes. */
wf_status wf_runner_slot_bytes(const wf_runner *, const char *slot, int64_t *out);

/* Host <-> slot, by slot name and instance: its first `bytes`, or those from byte `from` on. Local,
 * blocking. */
/* The same without waiting: `data` stays untouched until the device has read it. */
wf_status wf_runner_send(wf_runner *, const char *slot, int32_t instance, const void *data, int64_t bytes);
wf_status wf_runner_write(wf_runner *, const char *slot, int32_t instance, const void *data, int64_t bytes);
wf_status wf_runner_read(wf_runner *, const char *slot, int32_t instance, int64_t from, void *data, int64_t bytes);

/* Allocated bytes per space, counted at creation of each memory object. */
void wf_runner_allocated(const wf_runner *, int64_t bytes_out[WF_SPACES]);
/* Seconds of the last run in which the host thread had nothing to do but wait. */
double wf_runner_idle_s(const wf_runner *);

/* Tracing of the next runs, until off: one event per step. (Turning it on forgets earlier runs.) The merged, clock-aligned file of all ranks (Chrome
 * trace JSON, opens in Perfetto) is written by rank 0. Collective. host/run/trace.c */
wf_status wf_runner_trace(wf_runner *, bool on);
bool wf_runner_traced(const wf_runner *);
wf_status wf_runner_trace_write(wf_runner *, const char *path);

/* ---- verify: one candidate of one problem against the reference, on this device (host/run/verify.c) ---- */

typedef struct wf_verdict {
    bool ok;
    bool skipped;               /* candidate refuses the problem; `sentence` says why */
    double worst;               /* largest |got - reference| / bound over all outputs: <= 1 passes */
    char sentence[320];         /* worst element: operand, coordinates, both values, bound; or guard word damaged */
    double seconds;
} wf_verdict;
/* Random inputs from `seed` (finite, problem-suited: ids within range), outputs poisoned with NaN, guard
 * words around every buffer, odd row strides; repeats once and compares bits. */
wf_status wf_verify_problem(wf_opencl *, const wf_problem *, const wf_candidate *, uint64_t seed, wf_verdict *out);

#ifdef __cplusplus
}
#endif
#endif
