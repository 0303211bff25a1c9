/* calls.h: the one way to call OpenCL. Each call is made through WF_CL (those that return their code)
 * or WF_CL_NEW (those that return an object), which name the call and its error in a sentence, count
 * calls, and can make the n-th one fail. Included only within host/device. */
#ifndef WF_DEVICE_CALLS_H
#define WF_DEVICE_CALLS_H

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <stdbool.h>
#include <stdint.h>

#include "host/base/board.h"
#include "host/base/log.h"
#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* State of one wf_opencl's calls. Zero is a good start. */
typedef struct wf_calls {
    int64_t made;           /* calls so far */
    int64_t fail_at;        /* this call (counted from 1) is not made but fails; 0: none */
    cl_int fail_code;
    int64_t buffer_bytes;   /* of all buffers alive */
    int64_t peak_bytes;     /* the most at once */
    wf_board *board;        /* where calls that may block are published; NULL: nowhere */
    wf_activity before;     /* what was published before such a call */
    const wf_log *log;      /* of the same context; NULL: nothing is said */
    double limit_s;         /* how long those may take that wait for the device; 0: as long as they like */
} wf_calls;

/* Held while a device is opened and while a program is built: drivers start and compile with less care
 * for threads than OpenCL promises (PoCL 3.1 under ocl-icd 2.3.1: of three threads that first ask for
 * platforms at once, some find none and some crash). The one thing that contexts of a process share;
 * it guards the drivers, no data of ours. */
void wf_driver_lock(void);
void wf_driver_unlock(void);
/* Counts a call; true when this one is to fail. */
bool wf_calls_fails(wf_calls *calls);
/* WF_OK, or the sentence of a failed call: WF_ERR_MEMORY when memory ran out, else WF_ERR_DEVICE. */
wf_status wf_calls_status(const char *call, cl_int code);
/* Counts a buffer that was created (bytes > 0) or released (bytes < 0). */
void wf_calls_buffer(wf_calls *calls, int64_t bytes);
/* Around a call that may block; begin is true, end gives its status back. */
bool wf_calls_begin(wf_calls *calls, const char *call, double limit_s);
wf_status wf_calls_end(wf_calls *calls, wf_status status);
/* "CL_OUT_OF_RESOURCES"; "unknown code" when it is none of OpenCL's. */
const char *wf_calls_code_name(cl_int code);

/* TRY(WF_CL(calls, clFinish, (queue))); */
#define WF_CL(calls, name, arguments)                                                              \
    wf_calls_status(#name, wf_calls_fails(calls) ? (calls)->fail_code : name arguments)
/* The same for a call that may block: published on the board meanwhile, for limit_s. */
#define WF_CL_WAIT(calls, limit, name, arguments)                                                  \
    wf_calls_end((calls), wf_calls_begin((calls), #name, (limit)) ? WF_CL(calls, name, arguments) : WF_OK)
/* object = WF_CL_NEW(calls, code, clCreateContext, (..., &code)); TRY(wf_calls_status("clCreateContext", code)); */
#define WF_CL_NEW(calls, code, name, arguments)                                                    \
    (wf_calls_fails(calls) ? ((code) = (calls)->fail_code, NULL) : name arguments)

#ifdef __cplusplus
}
#endif
#endif
