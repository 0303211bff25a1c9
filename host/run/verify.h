/* verify.h: insides of wf_verify_problem, for its files and their tests. */
#ifndef WF_RUN_VERIFY_H
#define WF_RUN_VERIFY_H

#include "host/run/run.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A small stream of random numbers for test data (splitmix64). */
typedef struct wf_stream {
    uint64_t state;
} wf_stream;
uint64_t wf_stream_next(wf_stream *);
double wf_stream_uniform(wf_stream *);                              /* [0, 1) */
int64_t wf_stream_range(wf_stream *, int64_t first, int64_t last);  /* first <= x <= last */

/* A problem's operands on the host, dense: what the kernel is given (`before`) and the reference's
 * results (`after`; the same data where the operand is only read). f64, or int32 for WF_I32. */
typedef struct wf_case {
    const wf_operation *operation;
    const wf_problem *problem;
    int n;
    wf_operand operand[WF_OPERANDS];
    int64_t count[WF_OPERANDS];     /* elements */
    wf_tensor before[WF_OPERANDS], after[WF_OPERANDS];
    wf_run_number run[WF_RUN_VALUES];
} wf_case;

/* Random inputs that suit the problem (host/run/verify_inputs.c), and the reference's results. */
wf_status wf_case_create(const wf_operation *, const wf_problem *, uint64_t seed, wf_case **out);
void wf_case_destroy(wf_case *);

/* wf_verify_problem for any operation; source text and options as in wf_kernel_prepare_as, both NULL
 * for an operation of the table. */
wf_status wf_verify_operation(wf_opencl *, const wf_operation *, const wf_problem *, const wf_candidate *,
                              const char *text, const char *options, uint64_t seed, wf_verdict *out);

#ifdef __cplusplus
}
#endif
#endif
