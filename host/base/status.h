/* status.h: how every room reports failure.
 *
 * The first detector calls wf_fail() with a whole sentence (codes, names, sizes) and returns its
 * result; callers only propagate with TRY / TRY_GOTO. The sentence is kept per thread, like errno.
 * host/api maps these codes one to one to the public weft_status. */
#ifndef WF_BASE_STATUS_H
#define WF_BASE_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_status {
    WF_OK = 0,
    WF_ERR_ARGUMENT,    /* the caller asked for something malformed or illegal (exit status 2) */
    WF_ERR_UNSUPPORTED, /* well-formed, but not (yet) something weft does (exit status 2) */
    WF_ERR_FILE,        /* a file is missing, damaged or foreign (exit status 2) */
    WF_ERR_DEVICE,      /* no device, or an OpenCL call failed (exit status 3) */
    WF_ERR_MEMORY,      /* host or device memory does not suffice (exit status 3) */
    WF_ERR_FABRIC,      /* a message or shared window failed (exit status 3) */
    WF_ERR_TIMEOUT,     /* a wait passed its deadline (exit status 3) */
    WF_ERR_MISMATCH,    /* ranks disagree, or a check found a wrong result (exit status 1) */
    WF_ERR_INTERNAL     /* weft's own invariant is broken: a bug (exit status 1) */
} wf_status;

/* Stores the printf-style sentence as this thread's last error and returns `status`. */
wf_status wf_fail(wf_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* This thread's last sentence; "" when none. Valid until the thread's next wf_fail. */
const char *wf_last_error(void);

/* Short name of a status for logs: "device", "memory". */
const char *wf_status_name(wf_status status);

#define TRY(expression)                                                                            \
    do {                                                                                           \
        const wf_status try_status_ = (expression);                                                \
        if (try_status_ != WF_OK) return try_status_;                                              \
    } while (0)

/* Needs a local `wf_status status`. */
#define TRY_GOTO(expression, label)                                                                \
    do {                                                                                           \
        status = (expression);                                                                     \
        if (status != WF_OK) goto label;                                                           \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
