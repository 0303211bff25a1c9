/* opencl.h: the insides of host/device's objects, for its own files and their tests. */
#ifndef WF_DEVICE_OPENCL_H
#define WF_DEVICE_OPENCL_H

#include "host/device/calls.h"
#include "host/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_program wf_program;
typedef struct wf_cache wf_cache;
typedef struct wf_bell wf_bell;

struct wf_opencl {
    wf_device device;
    cl_platform_id platform;
    cl_device_id id;            /* the device, or this rank's share of it */
    bool is_share;              /* id is a sub-device of ours */
    cl_context context;
    cl_command_queue caller;    /* his queue, retained; NULL: none */
    cl_command_queue queue[WF_QUEUES];
    int64_t submitted[WF_QUEUES], flushed[WF_QUEUES]; /* commands so far, and how many of them flushed */
    wf_calls calls;
    int64_t owned_bytes;        /* buffers that take device memory, wrapped host memory not counted */
    size_t max_items[3];        /* CL_DEVICE_MAX_WORK_ITEM_SIZES */
    bool profile;
    bool direct;                /* host and device see the same bytes at the same address: memory.c, which has asked */
    cl_command_queue clock_queue;   /* only when profiling: always idle, to read the device's clock */
    double clock_offset_s;          /* host = device + offset */
    wf_program *programs;       /* list */
    bool build_refused;         /* a compiler has said no, which another variant may mend */
    wf_kernel *kernels;         /* list of those alive, for wf_opencl_warm */
    wf_bell *bell;              /* rung by events */
    wf_event *free_events;      /* released ones, kept so that running allocates nothing */
    wf_cache *cache;            /* NULL: no program cache */
    wf_cache_info kept;         /* where programs are, as it was decided when this was opened */
    char identity[1200];        /* of the driver, for the cache's keys: what its name and version do not say */
    char *kernel_dir;           /* NULL: embedded sources */
    int64_t loaded, compiled;   /* programs that came out of the cache, and that did not */
};

struct wf_memory {
    wf_opencl *opencl;
    cl_mem mem;                 /* NULL when bytes is 0 */
    int64_t bytes;
    void *host;                 /* wrapped */
    void *direct;               /* where the host finds these bytes; NULL: only by commands */
    bool borrowed;              /* mem is the caller's, retained */
    int32_t holds;              /* it is gone after so many more destructions */
    bool abandoned;     /* its bytes stay */
};

struct wf_event {
    wf_opencl *opencl;
    cl_event event;
    cl_event first;             /* of what was submitted together; NULL: one command, or nobody profiles */
    wf_queue queue;
    int64_t number;             /* the queue's count of commands, this one included */
    wf_event *next;             /* in free_events */
};

/* A program of one source text and one text of options. */
struct wf_program {
    char *source_name, *options;
    cl_program program;
    wf_program *next;
};

/* Takes `event` over (NULL: event_out was not asked for) after a command was put on a queue. */
wf_status wf_event_submitted(wf_opencl *, wf_queue, cl_event event, wf_event **event_out);
/* Makes sure that room for one event is there before a command is submitted. */
wf_status wf_event_reserve(wf_opencl *);
void wf_event_free_all(wf_opencl *);

/* What wf_event_ring rings (bell.c). */
wf_status wf_bell_create(wf_bell **out);
void wf_bell_destroy(wf_bell *);

/* Finds out whether this device's memory is the host's, and sets `direct`. */
wf_status wf_memory_probe(wf_opencl *);


/* The built program of source `name` with these options: from this wf_opencl, the cache, or the
 * compiler. `text` NULL: wf_kernel_source(name). A build that fails is WF_ERR_DEVICE with the end of
 * the compiler's log. Borrowed. */
wf_status wf_program_get(wf_opencl *, const char *name, const char *text, const char *options, wf_program **out);
void wf_program_free_all(wf_opencl *);

#ifdef __cplusplus
}
#endif
#endif
