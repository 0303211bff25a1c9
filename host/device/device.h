/* device.h: one OpenCL device of one rank: memory, queues, events, programs, kernels. The only room
 * that includes cl.h; everybody else sees these opaque types. Nothing is state of the process: two
 * wf_opencl do not know of each other. Every CL call goes through one call table (host/device/calls.h),
 * which names errors, counts buffer bytes and can inject faults. */
#ifndef WF_DEVICE_DEVICE_H
#define WF_DEVICE_DEVICE_H

#include <stdio.h>

#include "host/base/board.h"
#include "host/base/log.h"
#include "host/base/machine.h"
#include "host/base/status.h"
#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_opencl wf_opencl;
typedef struct wf_memory wf_memory;
typedef struct wf_event wf_event;
typedef struct wf_kernel wf_kernel;

/* In-order queues; they overlap each other. */
typedef enum wf_queue { WF_QUEUE_COMPUTE, WF_QUEUE_SEND, WF_QUEUE_RECEIVE, WF_QUEUES } wf_queue;

typedef struct wf_opencl_options {
    const char *device;         /* "0", "1.0" (platform.device), or a part of a name; NULL: GPUs first, shared out over node ranks */
    int32_t node_rank, node_ranks; /* to share a node's devices and a CPU device's cores fairly; 0: 0 of 1 */
    const char *cache;          /* program cache: "on", "off", "auto"; NULL: WEFT_CACHE */
    const char *cache_dir;      /* its folder; NULL: WEFT_CACHE_DIR, else $XDG_CACHE_HOME/weft or ~/.cache/weft */
    const char *kernel_dir;     /* .cl files are read from here; NULL: WEFT_KERNEL_DIR, else the embedded ones */
    const wf_log *log;          /* NULL: nothing is said; borrowed */
    bool profile;               /* device timestamps for the tracer */
    wf_board *board;            /* where what may block is published; NULL: nowhere; borrowed */
    double timeout_s;           /* that the board gives a wait for the device; 0: no limit */
    void *context, *device_id;  /* the caller's cl_context and one of its cl_device_id, instead of `device`: both or none */
    void *queue;                /* the caller's cl_command_queue, see below; NULL: none */
} wf_opencl_options;

/* Local. WF_ERR_DEVICE with a sentence when there is no device, or the driver keeps its programs where
 * others could put some. A CPU device is cut into sub-devices
 * (or thread counts), one share of the cores per node rank. */
wf_status wf_opencl_create(const wf_opencl_options *, wf_opencl **out);
void wf_opencl_destroy(wf_opencl *);
const wf_device *wf_opencl_device(const wf_opencl *);
/* Every device of every platform, and where its programs are kept, as text lines or JSON (malloc'ed),
 * without opening one. */
wf_status wf_opencl_list(const wf_log *, bool json, char **text_out);

/* Where built programs stay between processes. */
typedef struct wf_kept {
    bool used;
    char folder[512];   /* "": none */
    char why[512];      /* it is used, or not */
    int64_t files, bytes;
} wf_kept;
typedef struct wf_cache_info {
    wf_kept own;        /* weft's */
    wf_kept driver;     /* the driver's own; not used: it is not sound, and no device of this driver is opened */
    char keeper[64];    /* the driver's name; "": it is not known to keep programs */
    bool intermediate;  /* weft's holds intermediate code, of which the driver keeps the machine code */
} wf_cache_info;
/* As it is now, files counted. */
void wf_opencl_cache(const wf_opencl *, wf_cache_info *out);
void wf_cache_print(const wf_cache_info *, const char *before, FILE *);
struct json_t *wf_cache_json(const wf_cache_info *);

/* ---- memory ------------------------------------------------------------------------------------------ */

wf_status wf_memory_create(wf_opencl *, int64_t bytes, wf_memory **out);
/* Wraps page-aligned host memory (CL_MEM_USE_HOST_PTR); borrowed until destroyed. */
wf_status wf_memory_wrap(wf_opencl *, void *host, int64_t bytes, wf_memory **out);
/* The same of memory that the process may only read, for kernels that only read. */
wf_status wf_memory_wrap_to_read(wf_opencl *, void *host, int64_t bytes, wf_memory **out);
void wf_memory_destroy(wf_memory *);
int64_t wf_memory_bytes(const wf_memory *);
/* The wrapped host pointer; NULL for device memory. */
void *wf_memory_host(const wf_memory *);
/* Where the host reads and writes the device's own bytes without a command, once what wrote or reads them is complete. NULL:
 * only commands reach them. So it is on CPU devices that were seen to have no other memory; never assumed of what is the caller's. */
void *wf_memory_direct(const wf_memory *);
/* ... of this device that wraps host memory: always? */
bool wf_opencl_direct(const wf_opencl *);
/* For who uses its bytes at that address beyond a call: the memory stays until it has been destroyed once more. */
void wf_memory_hold(wf_memory *);
/* Instead of that: whoever uses the bytes may never let go, so they stay; the handle goes when its owner destroys it. */
void wf_memory_abandon(wf_memory *);
/* Its cl_mem, borrowed; NULL when it has no bytes. */
void *wf_memory_cl(const wf_memory *);
/* Host memory that copies of the device are fastest from and to: what the driver has locked, or else pages as
 * any. It is no device memory, and is not counted as such. */
typedef struct wf_pinned wf_pinned;
wf_status wf_pinned_create(wf_opencl *, int64_t bytes, wf_pinned **out);
void wf_pinned_destroy(wf_pinned *);
void *wf_pinned_host(const wf_pinned *);
/* Bytes of all buffers alive / ever at once, counted at every buffer creation, CLBlast's included. */
int64_t wf_opencl_allocated_bytes(const wf_opencl *);
int64_t wf_opencl_peak_bytes(const wf_opencl *);

/* ---- what is the caller's (borrow.c) --------------------------------------------------------------------- */

/* A handle for a cl_mem of the caller's, made once and pointed at one buffer after the other, which
 * it retains; NULL: at none. WF_ERR_ARGUMENT where it is of another cl_context, no buffer, or not
 * made for what will be done with it. Its bytes are not counted as allocated. */
wf_status wf_memory_borrow(wf_opencl *, wf_memory **out);
wf_status wf_memory_point(wf_memory *borrowed, void *cl_mem, bool read, bool written);
/* What is submitted to our queue from now on starts after these cl_events of the caller's. */
wf_status wf_queue_wait_for(wf_opencl *, wf_queue, int32_t count, void *const *cl_events);
/* A cl_event that the caller releases; its queue is flushed. */
wf_status wf_event_export(wf_event *, void **cl_event_out);
/* Where the caller gave his queue: ours waits for all that is on it now; all that he puts there
 * later waits for our event. His queue gets a marker, a wait and a flush, and is never finished. */
wf_status wf_queue_after_caller(wf_opencl *, wf_queue);
wf_status wf_queue_before_caller(wf_opencl *, wf_event *);

/* ---- queues and events --------------------------------------------------------------------------------- */

/* Asynchronous copies; host memory must stay until the event is complete. event_out may be NULL. */
wf_status wf_queue_read(wf_opencl *, wf_queue, wf_memory *, int64_t offset_bytes, int64_t bytes, void *host, wf_event **event_out);
wf_status wf_queue_write(wf_opencl *, wf_queue, wf_memory *, int64_t offset_bytes, int64_t bytes, const void *host, wf_event **event_out);
wf_status wf_queue_copy(wf_opencl *, wf_queue, wf_memory *from, int64_t from_bytes, wf_memory *to, int64_t to_bytes, int64_t bytes, wf_event **event_out);
/* An event that completes when all that was submitted to the queue before has. */
wf_status wf_queue_mark(wf_opencl *, wf_queue, wf_event **event_out);
/* What is submitted to this queue from now on starts after the event (of another queue of the same
 * wf_opencl) on the device; the event's queue is flushed. The event may be released at once. */
wf_status wf_queue_wait(wf_opencl *, wf_queue, wf_event *);
wf_status wf_queue_flush(wf_opencl *, wf_queue);
wf_status wf_queue_finish(wf_opencl *, wf_queue);
/* After a failure, before the host's memory goes that the queue may still read or write: waits, if the
 * driver can. Keeps the last error. */
void wf_queue_settle(wf_opencl *, wf_queue);
/* Copies by the compute queue that are over on return, whatever is returned: the host's memory may go. */
wf_status wf_memory_put(wf_opencl *, wf_memory *, int64_t offset_bytes, const void *data, int64_t bytes);
wf_status wf_memory_get(wf_opencl *, wf_memory *, int64_t offset_bytes, void *data, int64_t bytes);

/* *done becomes true when complete; a failed command is WF_ERR_DEVICE. Never blocks. */
wf_status wf_event_done(wf_event *, bool *done);
wf_status wf_event_wait(wf_event *);
/* Seconds on the host's monotonic clock (device clock mapped), from the start of a kernel's first launch to the end of its
 * last; needs options.profile and completion. */
wf_status wf_event_times(wf_event *, double *start_s, double *end_s);
/* Measures again how the device's clock stands to the host's: two clocks part by some 1e-5 of the time that passes. Waits
 * for the device, which may be busy. Without options.profile there is nothing to measure. */
wf_status wf_clock_measure(wf_opencl *);
void wf_event_release(wf_event *);
/* When the event is complete, or has failed, wf_opencl_sleep returns. The event may be released before. */
wf_status wf_event_ring(wf_event *);
/* Returns when an event has rung since *heard (0 at first), which becomes their number, or after so long. */
void wf_opencl_sleep(wf_opencl *, int64_t *heard, int64_t nanoseconds);

/* ---- kernels -------------------------------------------------------------------------------------------- */

/* Builds (or finds) the programs of a candidate and keeps its launches. Kernels are cached per
 * (source, options); released with the wf_opencl. */
wf_status wf_kernel_prepare(wf_opencl *, const wf_problem *, const wf_candidate *, wf_kernel **out);
/* The same for an operation that is not in wf_operations (tests, kernels being written), with its
 * source text (NULL: the embedded one) and build options; ok() is not asked. WF_ERR_UNSUPPORTED when
 * the device's limits do not allow it, WF_ERR_DEVICE when it does not build. */
wf_status wf_kernel_prepare_as(wf_opencl *, const wf_operation *, const wf_problem *, const wf_candidate *,
                               const char *text, const char *options, wf_kernel **out);
void wf_kernel_destroy(wf_kernel *);
/* Workspace that each enqueue needs. */
int64_t wf_kernel_workspace_bytes(const wf_kernel *);
/* Forces the driver and libraries to finish compilation of every prepared kernel (PoCL compiles
 * work-group functions when they first run, CLBlast its programs when first called): lets one rank
 * build before the others. Runs each distinct kernel on a small problem in scratch memory, which is
 * released again and left out of the peak; where there is no memory for that, a kernel is left as it is. */
wf_status wf_opencl_warm(wf_opencl *);
/* Bytes of workspace of a candidate on this device, library variants asked. */
wf_status wf_kernel_workspace(wf_opencl *, const wf_problem *, const wf_candidate *, int64_t *bytes_out);
/* ok() of the variant and of this device's build (local memory, group size). */
bool wf_kernel_ok(wf_opencl *, const wf_problem *, const wf_candidate *, const char **why);
/* The same, where a device that does not work must not be taken for one that refuses: a failure other
 * than a refusal by a limit or by the compiler is returned. */
wf_status wf_kernel_try(wf_opencl *, const wf_problem *, const wf_candidate *, bool *ok_out, const char **why);

typedef struct wf_bound_view { wf_memory *memory; int64_t offset; /* elements */ int64_t stride[WF_DIMS]; } wf_bound_view;

/* Submits all launches of the step in order; views in operand order; workspace memory may be NULL. */
wf_status wf_kernel_enqueue(wf_kernel *, wf_queue, const wf_bound_view *views, int nviews,
                            const wf_bound_view *workspace, const wf_run_number *run, wf_event **event_out);

/* Monotonic host clock, seconds. */
double wf_clock_s(void);

#ifdef __cplusplus
}
#endif
#endif
