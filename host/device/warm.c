/* Compiling to the end. PoCL 3.1 compiles a kernel for its group size when it first runs, not when it is
 * built: asking for the program's binaries compiles another form, and enqueueing without running
 * compiles nothing (both tried). So each distinct kernel is run, on a problem as small as gives the
 * same code: same options, entries and group sizes, same class of grid, same form of library call. */
#include "host/device/kernel.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/log.h"
#include "host/base/sizes.h"

/* Sizes are cut to less than this plus a multiple of it, so that what divides evenly still does. */
enum { BLOCK = 128 };
/* Above so many work-items along a dimension PoCL compiles another form (its
 * grid_width_specialization_limit). */
enum { SMALL_GRID = 65535 };

static bool is_small(const wf_launch *launch) {
    for (int d = 0; d < launch->dims; d++)
        if (launch->global[d] >= SMALL_GRID) return false;
    return true;
}

static bool same_launch(const wf_launch *a, const wf_launch *b) {
    if (a->library != b->library || strcmp(a->entry, b->entry) != 0 || a->dims != b->dims) return false;
    for (int d = 0; d < a->dims; d++)
        if (a->local[d] != b->local[d] || (a->global[d] == 0) != (b->global[d] == 0)) return false;
    return is_small(a) == is_small(b);
}

/* Does `small` compile and run the same code as the kernel's own problem? */
static bool same_code(wf_kernel *kernel, const wf_problem *small) {
    wf_launch launches[WF_LAUNCHES];
    char options[1024] = "";
    const char *why;
    int64_t workspace = 0;
    const wf_variant *variant = &kernel->operation->variants[kernel->candidate.variant];
    if (wf_problem_check(small) != WF_OK) return false;
    if (!variant->ok(small, &kernel->candidate, &kernel->opencl->device, &why)) return false;
    if (variant->source) wf_candidate_options(small, &kernel->candidate, options, sizeof options);
    if (strcmp(options, kernel->options) != 0) return false;
    const int n = wf_kernel_launches(variant, small, &kernel->candidate, launches);
    if (n != kernel->nlaunches) return false;
    for (int i = 0; i < n; i++)
        if (!same_launch(&launches[i], &kernel->prepared[i].launch)) return false;
    /* CLBlast wants a workspace for one of its two ways, none for the other. */
    if (wf_kernel_launches_workspace(kernel->opencl, variant, small, &kernel->candidate, launches, n, &workspace) != WF_OK)
        return false;
    return (workspace > 0) == (kernel->workspace_bytes > 0);
}

/* Cuts one size after the other as far as the code stays the same. */
static wf_problem shrink(wf_kernel *kernel) {
    wf_problem small = kernel->problem;
    const bool known = small.op >= 0 && small.op < WF_OPS && wf_operations[small.op] == kernel->operation;
    for (int i = 0; known && i < WF_SIZES; i++) {
        const int64_t whole = small.size[i];
        for (int64_t size = whole % BLOCK; size < whole; size += BLOCK) {
            small.size[i] = size;
            if (size > 0 && same_code(kernel, &small)) break;
            small.size[i] = whole;
            if (size >= 8 * BLOCK) break;
        }
    }
    return small;
}

static bool is_warm_already(const wf_kernel *kernel) {
    for (const wf_kernel *at = kernel->opencl->kernels; at; at = at->next)
        if (at->warmed && at->operation == kernel->operation && at->text == kernel->text &&
            memcmp(&at->candidate, &kernel->candidate, sizeof at->candidate) == 0 &&
            memcmp(&at->small, &kernel->small, sizeof at->small) == 0 && strcmp(at->options, kernel->options) == 0)
            return true;
    return false;
}

/* Where the operands and the workspace lie in one scratch buffer, each aligned, dense. */
static wf_status arrange(const wf_kernel *kernel, wf_bound_view *views, wf_bound_view *workspace, int64_t *bytes_out) {
    const int64_t align = kernel->opencl->device.align_bytes;
    int64_t bytes = 0;
    for (int i = 0; i < kernel->noperands; i++) {
        const wf_operand *operand = &kernel->operands[i];
        int64_t count = 1, end;
        views[i].offset = bytes / 4;
        for (int d = operand->ndim - 1; d >= 0; d--) {
            views[i].stride[d] = count;
            if (!wf_size_multiply(count, operand->extent[d], &count)) return wf_fail(WF_ERR_MEMORY, "too large to warm");
        }
        if (!wf_size_multiply(count, 4, &end) || !wf_size_add(bytes, end, &end) || !wf_size_round_up(end, align, &bytes))
            return wf_fail(WF_ERR_MEMORY, "too large to warm");
    }
    workspace->offset = bytes / 4;
    if (!wf_size_add(bytes, kernel->workspace_bytes, bytes_out)) return wf_fail(WF_ERR_MEMORY, "too large to warm");
    return WF_OK;
}

/* All zeros: legal data for every operation (ids and targets 0). */
static wf_status clear(wf_opencl *opencl, wf_memory *memory) {
    void *zeros = calloc(1, (size_t)memory->bytes + 1);
    if (!zeros) return wf_fail(WF_ERR_MEMORY, "out of host memory to warm a kernel");
    const wf_status status = wf_memory_put(opencl, memory, 0, zeros, memory->bytes);
    free(zeros);
    return status;
}

static wf_status run_on_scratch(wf_kernel *small) {
    wf_opencl *opencl = small->opencl;
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    wf_bound_view views[WF_OPERANDS] = {{0}}, workspace = {0};
    wf_memory *scratch = NULL;
    int64_t bytes = 0;
    TRY(arrange(small, views, &workspace, &bytes));
    TRY(wf_memory_create(opencl, bytes, &scratch));
    for (int i = 0; i < small->noperands; i++) views[i].memory = scratch;
    workspace.memory = scratch;
    wf_status status = clear(opencl, scratch);
    if (status == WF_OK)
        status = wf_kernel_enqueue(small, WF_QUEUE_COMPUTE, views, small->noperands, &workspace, run, NULL);
    if (status == WF_OK) status = wf_queue_finish(opencl, WF_QUEUE_COMPUTE);
    wf_memory_destroy(scratch);
    return status;
}

static wf_status warm(wf_kernel *kernel) {
    wf_kernel *small = NULL;
    kernel->small = shrink(kernel);
    if (is_warm_already(kernel)) {
        kernel->warmed = true;
        return WF_OK;
    }
    const double start = wf_clock_s();
    TRY(wf_kernel_prepare_as(kernel->opencl, kernel->operation, &kernel->small, &kernel->candidate, kernel->text,
                             kernel->options, &small));
    const wf_status status = run_on_scratch(small);
    wf_kernel_destroy(small);
    kernel->warmed = status == WF_OK;
    if (status == WF_ERR_MEMORY) { /* what fills the device to the last byte still runs */
        wf_say(kernel->opencl->calls.log, WF_LOG_BUILD, "%s is compiled when it first runs: %s", kernel->operation->name, wf_last_error());
        return WF_OK;
    }
    wf_say(kernel->opencl->calls.log, WF_LOG_BUILD, "warmed %s %s in %.2f s", kernel->operation->name, kernel->options, wf_clock_s() - start);
    return status;
}

wf_status wf_opencl_warm(wf_opencl *opencl) {
    const int64_t peak = opencl->calls.peak_bytes;
    wf_status status = WF_OK;
    for (wf_kernel *kernel = opencl->kernels; kernel && status == WF_OK; kernel = kernel->next)
        if (!kernel->warmed && kernel->nlaunches > 0) status = warm(kernel);
    opencl->calls.peak_bytes = peak;
    return status;
}
