/* CLBlast's GEMM as a library variant (Nugteren: "CLBlast: A tuned OpenCL BLAS library", IWOCL'18).
 * It always gets its temporary buffer from the plan, so it creates none of its own and the plan's
 * bytes are all there are.
 *
 * The launch "clblast_gemm" carries: views A, B, C (memory and offset each); I64 m, n, k; I32 whether
 * A, whether B is stored transposed; the strides of dimension 0 of A, B, C; F32 beta:
 *   C[m,n] = A B + beta C, all row-major. */
#include "host/device/kernel.h"

#include <clblast_c.h>
#include <string.h>

typedef struct gemm {
    size_t m, n, k;
    bool trans_a, trans_b;
    float beta;
} gemm;

enum { VIEW_A, VIEW_B, VIEW_C, SIZES = 6, TRANSPOSED = 9, STRIDES = 11, BETA = 14, ARGUMENTS = 15 };

static const uint8_t kinds[ARGUMENTS] = {
    WF_ARG_MEMORY, WF_ARG_OFFSET, WF_ARG_MEMORY, WF_ARG_OFFSET, WF_ARG_MEMORY, WF_ARG_OFFSET, WF_ARG_I64, WF_ARG_I64,
    WF_ARG_I64,    WF_ARG_I32,    WF_ARG_I32,    WF_ARG_STRIDE, WF_ARG_STRIDE, WF_ARG_STRIDE, WF_ARG_F32};

static wf_status check(const wf_launch *launch) {
    bool right = launch->narguments == ARGUMENTS;
    for (int i = 0; right && i < ARGUMENTS; i++) right = launch->arguments[i].kind == kinds[i];
    if (right) return WF_OK;
    return wf_fail(WF_ERR_INTERNAL, "the arguments of %s are not those that it takes", launch->entry);
}

static gemm read_launch(const wf_launch *launch) {
    const wf_argument *arguments = launch->arguments;
    return (gemm){.m = (size_t)arguments[SIZES].value.i,
                  .n = (size_t)arguments[SIZES + 1].value.i,
                  .k = (size_t)arguments[SIZES + 2].value.i,
                  .trans_a = arguments[TRANSPOSED].value.i != 0,
                  .trans_b = arguments[TRANSPOSED + 1].value.i != 0,
                  .beta = (float)arguments[BETA].value.f};
}

static CLBlastTranspose transpose(bool transposed) {
    return transposed ? CLBlastTransposeYes : CLBlastTransposeNo;
}

/* CLBlast passes OpenCL's codes through, and has some of its own. */
static wf_status status_of(const char *call, CLBlastStatusCode code) {
    if (code == CLBlastSuccess) return WF_OK;
    if (code > -1000) return wf_calls_status(call, (cl_int)code);
    return wf_fail(WF_ERR_DEVICE, "%s failed with CLBlast's code %d", call, (int)code);
}

/* Room for copies of A, B and C, whatever their strides and offsets: offset 1 rules out CLBlast's
 * short cuts, which need less. */
static wf_status workspace_bytes(wf_opencl *opencl, const wf_launch *launch, int64_t *bytes_out) {
    const gemm g = read_launch(launch);
    size_t bytes = 0;
    *bytes_out = 0;
    if (g.m == 0 || g.n == 0 || g.k == 0) return WF_OK;
    TRY(status_of("CLBlastSGemmTempBufferSize",
                  CLBlastSGemmTempBufferSize(CLBlastLayoutRowMajor, transpose(g.trans_a), transpose(g.trans_b), g.m, g.n,
                                             g.k, 1, g.trans_a ? g.m : g.k, 1, g.trans_b ? g.k : g.n, 1, g.n,
                                             &opencl->queue[WF_QUEUE_COMPUTE], &bytes)));
    *bytes_out = (int64_t)bytes;
    return WF_OK;
}

/* An empty sum: C = beta C. */
static wf_status scale_only(const wf_bound_launch *bound, const gemm *g, cl_event *event) {
    wf_opencl *opencl = bound->kernel->opencl;
    const wf_bound_view *c = &bound->views[bound->launch->arguments[2 * VIEW_C].index];
    const cl_command_queue queue = opencl->queue[bound->queue];
    const cl_float zero = 0;
    if (g->beta != 0 && g->beta != 1)
        return wf_fail(WF_ERR_INTERNAL, "%s of an empty sum with beta %g", bound->launch->entry, (double)g->beta);
    for (size_t row = 0; g->beta == 0 && row < g->m; row++)
        TRY(WF_CL(&opencl->calls, clEnqueueFillBuffer,
                  (queue, c->memory->mem, &zero, sizeof zero, sizeof zero * (size_t)(c->offset + (int64_t)row * c->stride[0]),
                   sizeof zero * g->n, 0, NULL, NULL)));
    return event ? WF_CL(&opencl->calls, clEnqueueMarkerWithWaitList, (queue, 0, NULL, event)) : WF_OK;
}

/* Leading dimension: a matrix of one row may have any stride, CLBlast wants a legal one. */
static size_t leading(const wf_bound_view *view, size_t rows, size_t columns) {
    const size_t stride = (size_t)view->stride[0];
    return rows <= 1 && stride < columns ? columns : stride;
}

static wf_status enqueue(const wf_bound_launch *bound, cl_event *event) {
    const gemm g = read_launch(bound->launch);
    wf_opencl *opencl = bound->kernel->opencl;
    const wf_bound_view *a = &bound->views[bound->launch->arguments[2 * VIEW_A].index];
    const wf_bound_view *b = &bound->views[bound->launch->arguments[2 * VIEW_B].index];
    const wf_bound_view *c = &bound->views[bound->launch->arguments[2 * VIEW_C].index];
    cl_mem temporary = NULL;
    if (g.m == 0 || g.n == 0 || g.k == 0) return scale_only(bound, &g, event);
    if (bound->kernel->workspace_bytes > 0) TRY(wf_kernel_temporary(bound->kernel, bound->workspace, &temporary));
    if (wf_calls_fails(&opencl->calls)) return wf_calls_status("CLBlastSgemmWithTempBuffer", opencl->calls.fail_code);
    return status_of(
        "CLBlastSgemmWithTempBuffer",
        CLBlastSgemmWithTempBuffer(
            CLBlastLayoutRowMajor, transpose(g.trans_a), transpose(g.trans_b), g.m, g.n, g.k, 1.0f, a->memory->mem,
            (size_t)a->offset, g.trans_a ? leading(a, g.k, g.m) : leading(a, g.m, g.k), b->memory->mem, (size_t)b->offset,
            g.trans_b ? leading(b, g.n, g.k) : leading(b, g.k, g.n), g.beta, c->memory->mem, (size_t)c->offset,
            leading(c, g.m, g.n), &opencl->queue[bound->queue], event, temporary));
}

const wf_library wf_clblast_gemm = {"clblast_gemm", check, workspace_bytes, enqueue};
