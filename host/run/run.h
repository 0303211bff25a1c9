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
int64_t wf_store_bytes(const wf_store *, wf_class class_);
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

/* Host <-> slot, by slot name and instance: its first `bytes`, or those from byte `from` on. Local,
 * blocking. */
wf_status wf_runner_write(wf_runner *, const char *slot, int32_t instance, const void *data, int64_t bytes);
wf_status wf_runner_read(wf_runner *, const char *slot, int32_t instance, int64_t from, void *data, int64_t bytes);

/* Allocated bytes per space, counted at creation of each memory object. */
void wf_runner_allocated(const wf_runner *, int64_t bytes_out[WF_SPACES]);
/* Seconds of the last run in which the host thread had nothing to do but wait. */
double wf_runner_idle_s(const wf_runner *);

/* Tracing of the next runs, until off: one event per step. (Turning it on forgets earlier runs.) The merged, clock-aligned file of all ranks (Chrome
 * trace JSON, opens in Perfetto) is written by rank 0. Collective. host/run/trace.c */
wf_status wf_runner_trace(wf_runner *, bool on);
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
