/* machine.h: devices as plain values, so that planners, kernels' predicates and tests work on
 * described machines as well as on probed ones. host/device fills a wf_device in from OpenCL and
 * hwloc; tests write one down. Configure, then immutable. */
#ifndef WF_BASE_MACHINE_H
#define WF_BASE_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_device_type { WF_DEVICE_CPU, WF_DEVICE_GPU, WF_DEVICE_OTHER } wf_device_type;

typedef struct wf_device {
    char name[128];     /* as the driver says */
    char vendor[128];
    char platform[128];
    char driver[128];   /* driver version and OpenCL C version */
    wf_device_type type;
    int32_t clock_mhz;          /* as the driver says; 0: it does not */
    int32_t compute_units;      /* those this rank may use (its share of a CPU's cores) */
    int32_t max_group;          /* work-items per group that a kernel may be built with */
    int32_t vector_floats;      /* f32 of a native vector; 0: the driver does not say */
    int64_t local_bytes;        /* local memory per group */
    int64_t global_bytes;       /* global memory of the device */
    int64_t available_bytes;    /* what this rank may plan with: its share, capped by free RAM on CPUs */
    int64_t max_alloc_bytes;    /* largest single allocation */
    int32_t align_bytes;        /* base address alignment, at least 64 */
    bool host_unified;          /* device memory is host memory: zero-copy of host pointers is possible */
    bool fp16, subgroups;       /* cl_khr_fp16; any sub-group extension */
} wf_device;

/* A machine: the ranks' devices and which node each is on. Borrowed by planners. */
typedef struct wf_machine {
    int32_t ranks;
    const wf_device *devices;   /* one per rank */
    const int32_t *node;        /* node index per rank */
} wf_machine;

#ifdef __cplusplus
}
#endif
#endif
