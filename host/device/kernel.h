/* kernel.h: a prepared candidate: its launches with their fixed arguments set. Insides, for
 * host/device and its tests. */
#ifndef WF_DEVICE_KERNEL_H
#define WF_DEVICE_KERNEL_H

#include "host/device/opencl.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_library wf_library;

typedef struct wf_prepared {
    wf_launch launch;
    cl_kernel kernel;           /* of a kernel launch */
    const wf_library *library;  /* of a library launch */
} wf_prepared;

struct wf_kernel {
    wf_opencl *opencl;
    wf_kernel *next;            /* in opencl->kernels */
    const wf_operation *operation;
    wf_problem problem;
    wf_candidate candidate;
    const char *text;           /* as given to prepare; borrowed */
    char *options;
    bool warmed;                /* compiled to the end, by running `small` */
    wf_problem small;
    int noperands, nlaunches;
    wf_operand operands[WF_OPERANDS];
    wf_prepared prepared[WF_LAUNCHES];
    int64_t workspace_bytes;
    /* The part of a pool that a library was last given as its workspace. */
    cl_mem temporary, temporary_of;
    int64_t temporary_at;
};

/* A launch with its views bound, as a library gets it. */
typedef struct wf_bound_launch {
    wf_kernel *kernel;
    const wf_launch *launch;
    wf_queue queue;
    const wf_bound_view *views;
    const wf_bound_view *workspace;
} wf_bound_launch;

/* A library whose calls stand beside kernels: found by the launch's entry. */
struct wf_library {
    const char *entry;
    /* Is the launch's list of arguments what the call takes? */
    wf_status (*check)(const wf_launch *);
    wf_status (*workspace_bytes)(wf_opencl *, const wf_launch *, int64_t *bytes_out);
    wf_status (*enqueue)(const wf_bound_launch *, cl_event *event);
};
extern const wf_library wf_clblast_gemm;

/* The launches of a candidate; the unused parts are 0. */
int wf_kernel_launches(const wf_variant *, const wf_problem *, const wf_candidate *, wf_launch out[WF_LAUNCHES]);
/* wf_kernel_workspace of these launches. */
wf_status wf_kernel_launches_workspace(wf_opencl *, const wf_variant *, const wf_problem *, const wf_candidate *,
                                       const wf_launch *launches, int nlaunches, int64_t *bytes_out);
/* The workspace argument of a library as a buffer of its own, which starts at the view's offset. */
wf_status wf_kernel_temporary(wf_kernel *, const wf_bound_view *workspace, cl_mem *out);

#ifdef __cplusplus
}
#endif
#endif
