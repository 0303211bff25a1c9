/* defaults.h: which candidate computes a problem on a device that nobody has tuned yet. */
#ifndef WF_AUTOTUNE_DEFAULTS_H
#define WF_AUTOTUNE_DEFAULTS_H

#include "host/device/device.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_defaults {
    wf_opencl *opencl;      /* whose device; NULL: none at hand, plain variants */
    const char *gemm;       /* variant of every GEMM by name; NULL: the default of the device */
} wf_defaults;

/* Is there such a GEMM variant? WF_ERR_ARGUMENT names those that are. NULL is fine. */
wf_status wf_defaults_check(const wf_defaults *);

/* wf_choices.candidate; `context` is a wf_defaults. A function of the problem and the device. */
wf_status wf_defaults_candidate(void *context, const wf_problem *, wf_candidate *out, int64_t *workspace_bytes_out);

#ifdef __cplusplus
}
#endif
#endif
