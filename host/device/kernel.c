/* Kernels: a candidate's launches, written down as data by its variant, become cl_kernels with
 * arguments. What does not change is set once in prepare; enqueue sets views and run-time values.
 * Sizes are checked here: drivers crash on too much local memory, and read past a buffer's end in
 * silence. */
#include "host/device/kernel.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/sizes.h"

static const wf_library *const libraries[] = {&wf_clblast_gemm};

/* ---- preparing ------------------------------------------------------------------------------------------ */

static wf_status set(wf_prepared *prepared, wf_calls *calls, cl_uint index, size_t bytes, const void *value) {
    if (WF_CL(calls, clSetKernelArg, (prepared->kernel, index, bytes, value)) == WF_OK) return WF_OK;
    return wf_fail(WF_ERR_DEVICE, "argument %u of %s: %s", (unsigned)index, prepared->launch.entry, wf_last_error());
}

/* Sets an argument that never changes; leaves the others. */
static wf_status set_fixed(wf_prepared *prepared, wf_calls *calls, cl_uint index) {
    const wf_argument *argument = &prepared->launch.arguments[index];
    const cl_long wide = argument->value.i;
    const cl_int narrow = (cl_int)argument->value.i;
    const cl_float real = (cl_float)argument->value.f;
    switch (argument->kind) {
    case WF_ARG_I32:
        if (wide < INT_MIN || wide > INT_MAX)
            return wf_fail(WF_ERR_UNSUPPORTED, "argument %u of %s is %lld, too large for an int", (unsigned)index,
                           prepared->launch.entry, (long long)wide);
        return set(prepared, calls, index, sizeof narrow, &narrow);
    case WF_ARG_I64: return set(prepared, calls, index, sizeof wide, &wide);
    case WF_ARG_F32: return set(prepared, calls, index, sizeof real, &real);
    case WF_ARG_LOCAL: return set(prepared, calls, index, (size_t)wide, NULL);
    default: return WF_OK;
    }
}

/* Local memory that the launch passes in. */
static int64_t passed_local_bytes(const wf_launch *launch) {
    int64_t bytes = 0;
    for (int i = 0; i < launch->narguments; i++)
        if (launch->arguments[i].kind == WF_ARG_LOCAL) bytes += launch->arguments[i].value.i;
    return bytes;
}

/* Group size and geometry against the device. */
static wf_status check_geometry(const wf_opencl *opencl, const wf_launch *launch) {
    int64_t items = 1;
    if (launch->dims < 1 || launch->dims > 3)
        return wf_fail(WF_ERR_INTERNAL, "%s has %d dimensions", launch->entry, (int)launch->dims);
    for (int d = 0; d < launch->dims; d++) {
        if (launch->local[d] < 1 || launch->global[d] < 0 || launch->global[d] % launch->local[d] != 0)
            return wf_fail(WF_ERR_INTERNAL, "%s: %lld work-items along dimension %d in groups of %d", launch->entry,
                           (long long)launch->global[d], d, (int)launch->local[d]);
        if ((size_t)launch->local[d] > opencl->max_items[d])
            return wf_fail(WF_ERR_UNSUPPORTED, "%s wants groups of %d along dimension %d; %s allows %zu", launch->entry,
                           (int)launch->local[d], d, opencl->device.name, opencl->max_items[d]);
        items *= launch->local[d];
    }
    if (items > opencl->device.max_group)
        return wf_fail(WF_ERR_UNSUPPORTED, "%s wants groups of %lld work-items; %s allows %d", launch->entry, (long long)items,
                       opencl->device.name, (int)opencl->device.max_group);
    return WF_OK;
}

/* What the built kernel allows: registers may limit its groups below the device's limit. */
static wf_status check_built(wf_opencl *opencl, const wf_prepared *prepared) {
    const wf_launch *launch = &prepared->launch;
    size_t group = 0;
    cl_ulong local = 0;
    cl_uint narguments = 0;
    TRY(WF_CL(&opencl->calls, clGetKernelInfo,
              (prepared->kernel, CL_KERNEL_NUM_ARGS, sizeof narguments, &narguments, NULL)));
    if ((int)narguments != launch->narguments)
        return wf_fail(WF_ERR_INTERNAL, "%s takes %u arguments; its launch gives %d", launch->entry, (unsigned)narguments,
                       (int)launch->narguments);
    TRY(WF_CL(&opencl->calls, clGetKernelWorkGroupInfo,
              (prepared->kernel, opencl->id, CL_KERNEL_WORK_GROUP_SIZE, sizeof group, &group, NULL)));
    TRY(WF_CL(&opencl->calls, clGetKernelWorkGroupInfo,
              (prepared->kernel, opencl->id, CL_KERNEL_LOCAL_MEM_SIZE, sizeof local, &local, NULL)));
    int64_t items = 1;
    for (int d = 0; d < launch->dims; d++) items *= launch->local[d];
    if (items > (int64_t)group)
        return wf_fail(WF_ERR_UNSUPPORTED, "%s wants groups of %lld work-items; as built it can have %zu", launch->entry,
                       (long long)items, group);
    const int64_t passed = passed_local_bytes(launch);
    /* Some drivers count arguments that are set already, some do not: the larger reading is safe. */
    const int64_t wanted = (int64_t)local > passed ? (int64_t)local : passed;
    if (wanted > opencl->device.local_bytes)
        return wf_fail(WF_ERR_UNSUPPORTED, "%s wants %lld bytes of local memory; %s has %lld", launch->entry,
                       (long long)wanted, opencl->device.name, (long long)opencl->device.local_bytes);
    return WF_OK;
}

static wf_status prepare_kernel(wf_opencl *opencl, const wf_program *program, wf_prepared *prepared) {
    cl_int code = CL_SUCCESS;
    const wf_launch *launch = &prepared->launch;
    TRY(check_geometry(opencl, launch));
    if (passed_local_bytes(launch) > opencl->device.local_bytes)
        return wf_fail(WF_ERR_UNSUPPORTED, "%s wants %lld bytes of local memory; %s has %lld", launch->entry,
                       (long long)passed_local_bytes(launch), opencl->device.name, (long long)opencl->device.local_bytes);
    prepared->kernel = WF_CL_NEW(&opencl->calls, code, clCreateKernel, (program->program, launch->entry, &code));
    if (wf_calls_status("clCreateKernel", code) != WF_OK)
        return wf_fail(WF_ERR_DEVICE, "%s of %s: %s", launch->entry, program->source_name, wf_last_error());
    TRY(check_built(opencl, prepared));
    for (int i = 0; i < launch->narguments; i++) TRY(set_fixed(prepared, &opencl->calls, (cl_uint)i));
    return WF_OK;
}

static wf_status find_library(const wf_launch *launch, const wf_library **out) {
    for (size_t i = 0; i < sizeof libraries / sizeof *libraries; i++)
        if (strcmp(libraries[i]->entry, launch->entry) == 0) {
            TRY(libraries[i]->check(launch));
            *out = libraries[i];
            return WF_OK;
        }
    return wf_fail(WF_ERR_INTERNAL, "no library call is named %s", launch->entry);
}

static wf_status prepare_launches(wf_kernel *kernel, const wf_variant *variant, const char *text, const char *options) {
    wf_program *program = NULL;
    for (int i = 0; i < kernel->nlaunches; i++) {
        wf_prepared *prepared = &kernel->prepared[i];
        if (prepared->launch.library) {
            TRY(find_library(&prepared->launch, &prepared->library));
            continue;
        }
        if (!program) TRY(wf_program_get(kernel->opencl, variant->source, text, options, &program));
        TRY(prepare_kernel(kernel->opencl, program, prepared));
    }
    return WF_OK;
}

int wf_kernel_launches(const wf_variant *variant, const wf_problem *problem, const wf_candidate *candidate,
                       wf_launch out[WF_LAUNCHES]) {
    memset(out, 0, WF_LAUNCHES * sizeof *out);
    return variant->launches(problem, candidate, out);
}

wf_status wf_kernel_launches_workspace(wf_opencl *opencl, const wf_variant *variant, const wf_problem *problem,
                                       const wf_candidate *candidate, const wf_launch *launches, int nlaunches,
                                       int64_t *bytes_out) {
    int64_t most = variant->workspace_bytes ? variant->workspace_bytes(problem, candidate) : 0;
    for (int i = 0; i < nlaunches; i++) {
        const wf_library *library = NULL;
        int64_t bytes = 0;
        if (!launches[i].library) continue;
        TRY(find_library(&launches[i], &library));
        TRY(library->workspace_bytes(opencl, &launches[i], &bytes));
        if (bytes > most) most = bytes;
    }
    *bytes_out = most;
    return WF_OK;
}

/* Fills in a new kernel. */
static wf_status prepare_all(wf_kernel *kernel, const char *options) {
    wf_launch launches[WF_LAUNCHES];
    const wf_variant *variant = &kernel->operation->variants[kernel->candidate.variant];
    kernel->options = strdup(options);
    if (!kernel->options) return wf_fail(WF_ERR_MEMORY, "out of host memory for a kernel");
    kernel->noperands = kernel->operation->operands(&kernel->problem, kernel->operands);
    kernel->nlaunches = wf_kernel_launches(variant, &kernel->problem, &kernel->candidate, launches);
    for (int i = 0; i < kernel->nlaunches; i++) kernel->prepared[i].launch = launches[i];
    TRY(wf_kernel_launches_workspace(kernel->opencl, variant, &kernel->problem, &kernel->candidate, launches,
                                     kernel->nlaunches, &kernel->workspace_bytes));
    return prepare_launches(kernel, variant, kernel->text, options);
}

wf_status wf_kernel_prepare_as(wf_opencl *opencl, const wf_operation *operation, const wf_problem *problem,
                               const wf_candidate *candidate, const char *text, const char *options, wf_kernel **out) {
    wf_kernel *kernel = calloc(1, sizeof *kernel);
    if (!kernel) return wf_fail(WF_ERR_MEMORY, "out of host memory for a kernel");
    kernel->opencl = opencl;
    kernel->operation = operation;
    kernel->problem = *problem;
    kernel->candidate = *candidate;
    kernel->text = text;
    kernel->next = opencl->kernels;
    opencl->kernels = kernel;
    const wf_status status = prepare_all(kernel, options);
    if (status != WF_OK) {
        wf_kernel_destroy(kernel);
        return status;
    }
    *out = kernel;
    return WF_OK;
}

/* The operation of a problem, if the candidate is one of its variants. */
static wf_status find_operation(const wf_problem *problem, const wf_candidate *candidate, const wf_operation **out) {
    if (problem->op < 0 || problem->op >= WF_OPS || !wf_operations[problem->op])
        return wf_fail(WF_ERR_INTERNAL, "operation %d does not exist", (int)problem->op);
    const wf_operation *operation = wf_operations[problem->op];
    if (candidate->variant < 0 || candidate->variant >= operation->nvariants)
        return wf_fail(WF_ERR_INTERNAL, "%s has no variant %d", operation->name, (int)candidate->variant);
    *out = operation;
    return WF_OK;
}

wf_status wf_kernel_prepare(wf_opencl *opencl, const wf_problem *problem, const wf_candidate *candidate,
                            wf_kernel **out) {
    const wf_operation *operation = NULL;
    const char *why = "it does not say why";
    char options[1024] = "", name[WF_CASE_BYTES];
    TRY(find_operation(problem, candidate, &operation));
    const wf_variant *variant = &operation->variants[candidate->variant];
    wf_problem_print(problem, name, sizeof name);
    if (!variant->ok(problem, candidate, &opencl->device, &why))
        return wf_fail(WF_ERR_UNSUPPORTED, "%s cannot be computed by %s on %s: %s", name, variant->name,
                       opencl->device.name, why);
    if (variant->source) wf_candidate_options(problem, candidate, options, sizeof options);
    const wf_status status = wf_kernel_prepare_as(opencl, operation, problem, candidate, NULL, options, out);
    return status == WF_OK ? WF_OK : wf_fail(status, "%s: %s", name, wf_last_error());
}

void wf_kernel_destroy(wf_kernel *kernel) {
    if (!kernel) return;
    for (wf_kernel **at = &kernel->opencl->kernels; *at; at = &(*at)->next)
        if (*at == kernel) {
            *at = kernel->next;
            break;
        }
    for (int i = 0; i < kernel->nlaunches; i++)
        if (kernel->prepared[i].kernel) clReleaseKernel(kernel->prepared[i].kernel);
    if (kernel->temporary) clReleaseMemObject(kernel->temporary);
    free(kernel->options);
    free(kernel);
}

int64_t wf_kernel_workspace_bytes(const wf_kernel *kernel) {
    return kernel->workspace_bytes;
}

wf_status wf_kernel_workspace(wf_opencl *opencl, const wf_problem *problem, const wf_candidate *candidate,
                              int64_t *bytes_out) {
    const wf_operation *operation = NULL;
    wf_launch launches[WF_LAUNCHES];
    TRY(find_operation(problem, candidate, &operation));
    const wf_variant *variant = &operation->variants[candidate->variant];
    const int n = wf_kernel_launches(variant, problem, candidate, launches);
    return wf_kernel_launches_workspace(opencl, variant, problem, candidate, launches, n, bytes_out);
}

bool wf_kernel_ok(wf_opencl *opencl, const wf_problem *problem, const wf_candidate *candidate, const char **why) {
    const wf_operation *operation = NULL;
    wf_kernel *kernel = NULL;
    *why = wf_last_error();
    if (find_operation(problem, candidate, &operation) != WF_OK) return false;
    if (!operation->variants[candidate->variant].ok(problem, candidate, &opencl->device, why)) return false;
    const bool built = wf_kernel_prepare(opencl, problem, candidate, &kernel) == WF_OK;
    *why = built ? NULL : wf_last_error();
    wf_kernel_destroy(kernel);
    return built;
}

wf_status wf_kernel_try(wf_opencl *opencl, const wf_problem *problem, const wf_candidate *candidate, bool *ok_out, const char **why) {
    const wf_operation *operation = NULL;
    wf_kernel *kernel = NULL;
    *ok_out = false;
    TRY(find_operation(problem, candidate, &operation));
    if (!operation->variants[candidate->variant].ok(problem, candidate, &opencl->device, why)) return WF_OK;
    opencl->build_refused = false;
    const wf_status status = wf_kernel_prepare(opencl, problem, candidate, &kernel);
    wf_kernel_destroy(kernel);
    *ok_out = status == WF_OK;
    *why = *ok_out ? NULL : wf_last_error();
    return status == WF_ERR_UNSUPPORTED || (status == WF_ERR_DEVICE && opencl->build_refused) ? WF_OK : status;
}

/* ---- running ---------------------------------------------------------------------------------------------- */

/* Every element of the operand inside the view's memory? */
static wf_status check_view(const wf_kernel *kernel, int index, const wf_bound_view *view) {
    const wf_operand *operand = &kernel->operands[index];
    int64_t last = view->offset, end;
    for (int d = 0; d < operand->ndim; d++) {
        int64_t reach;
        if (operand->extent[d] == 0) return WF_OK;
        if (view->stride[d] < 0 || !wf_size_multiply(operand->extent[d] - 1, view->stride[d], &reach) ||
            !wf_size_add(last, reach, &last))
            last = -1;
        if (last < 0) break;
    }
    const int64_t size = operand->dtype == WF_F64 ? 8 : 4;
    const int64_t bytes = view->memory ? view->memory->bytes : 0;
    if (last >= 0 && wf_size_multiply(last + 1, size, &end) && view->offset >= 0 && end <= bytes) return WF_OK;
    return wf_fail(WF_ERR_INTERNAL, "operand %s of %s: a view from element %lld leaves its memory of %lld bytes",
                   operand->name, kernel->prepared[0].launch.entry, (long long)view->offset, (long long)bytes);
}

static wf_status set_memory(wf_prepared *prepared, wf_calls *calls, cl_uint index, const wf_bound_view *view) {
    const cl_mem mem = view && view->memory ? view->memory->mem : NULL;
    return set(prepared, calls, index, sizeof mem, mem ? &mem : NULL);
}

/* Sets an argument that changes from run to run. */
static wf_status set_bound(wf_prepared *prepared, wf_calls *calls, cl_uint index, const wf_bound_view *views,
                           const wf_bound_view *workspace, const wf_run_number *run) {
    const wf_argument *argument = &prepared->launch.arguments[index];
    const wf_bound_view *view = argument->index == WF_WORKSPACE ? workspace : &views[argument->index];
    cl_long wide;
    switch (argument->kind) {
    case WF_ARG_MEMORY: return set_memory(prepared, calls, index, view);
    case WF_ARG_OFFSET:
        wide = (view ? view->offset : 0) + argument->value.i;
        return set(prepared, calls, index, sizeof wide, &wide);
    case WF_ARG_STRIDE:
        wide = view ? view->stride[argument->dim] : 0;
        return set(prepared, calls, index, sizeof wide, &wide);
    case WF_ARG_RUN: return set(prepared, calls, index, sizeof run[argument->index].u, &run[argument->index].u);
    default: return WF_OK;
    }
}

static bool is_empty(const wf_launch *launch) {
    if (launch->library) return false;
    for (int d = 0; d < launch->dims; d++)
        if (launch->global[d] == 0) return true;
    return false;
}

static wf_status enqueue_kernel(wf_kernel *kernel, wf_prepared *prepared, wf_queue queue, const wf_bound_view *views,
                                const wf_bound_view *workspace, const wf_run_number *run, cl_event *event) {
    wf_opencl *opencl = kernel->opencl;
    const wf_launch *launch = &prepared->launch;
    size_t global[3] = {1, 1, 1}, local[3] = {1, 1, 1};
    for (int d = 0; d < launch->dims; d++) {
        global[d] = (size_t)launch->global[d];
        local[d] = (size_t)launch->local[d];
    }
    for (int i = 0; i < launch->narguments; i++)
        TRY(set_bound(prepared, &opencl->calls, (cl_uint)i, views, workspace, run));
    if (WF_CL(&opencl->calls, clEnqueueNDRangeKernel,
              (opencl->queue[queue], prepared->kernel, (cl_uint)launch->dims, NULL, global, local, 0, NULL, event)) ==
        WF_OK)
        return WF_OK;
    return wf_fail(WF_ERR_DEVICE, "%s: %s", launch->entry, wf_last_error());
}

static wf_status check_bound(const wf_kernel *kernel, const wf_bound_view *views, int nviews,
                             const wf_bound_view *workspace) {
    if (nviews != kernel->noperands)
        return wf_fail(WF_ERR_INTERNAL, "a kernel of %d operands got %d views", kernel->noperands, nviews);
    for (int i = 0; i < nviews; i++) TRY(check_view(kernel, i, &views[i]));
    if (kernel->workspace_bytes == 0) return WF_OK;
    const int64_t start = workspace ? 4 * workspace->offset : 0;
    const int64_t bytes = workspace && workspace->memory ? workspace->memory->bytes : 0;
    if (start >= 0 && start <= bytes && kernel->workspace_bytes <= bytes - start) return WF_OK;
    return wf_fail(WF_ERR_INTERNAL, "%s needs %lld bytes of workspace; it got %lld", kernel->prepared[0].launch.entry,
                   (long long)kernel->workspace_bytes, (long long)(bytes - start));
}

/* The launches from `first` to `last`; the events of both are made if their places are given. */
static wf_status enqueue_launches(const wf_bound_launch *bound, int first, int last, const wf_run_number *run, cl_event *first_out,
                                  cl_event *last_out) {
    wf_kernel *const kernel = bound->kernel;
    for (int i = first; i <= last; i++) {
        wf_prepared *prepared = &kernel->prepared[i];
        cl_event *const wanted = i == last ? last_out : i == first ? first_out : NULL;
        if (is_empty(&prepared->launch)) continue;
        if (prepared->library)
            TRY(prepared->library->enqueue(&(wf_bound_launch){kernel, &prepared->launch, bound->queue, bound->views, bound->workspace}, wanted));
        else
            TRY(enqueue_kernel(kernel, prepared, bound->queue, bound->views, bound->workspace, run, wanted));
        if (i < last) TRY(wf_event_submitted(kernel->opencl, bound->queue, NULL, NULL));
    }
    return WF_OK;
}

wf_status wf_kernel_enqueue(wf_kernel *kernel, wf_queue queue, const wf_bound_view *views, int nviews,
                            const wf_bound_view *workspace, const wf_run_number *run, wf_event **event_out) {
    wf_opencl *opencl = kernel->opencl;
    const wf_bound_launch bound = {kernel, NULL, queue, views, workspace};
    int first = -1, last = -1;
    cl_event start = NULL, end = NULL;
    TRY(check_bound(kernel, views, nviews, workspace));
    TRY(wf_event_reserve(opencl));
    for (int i = 0; i < kernel->nlaunches; i++)
        if (!is_empty(&kernel->prepared[i].launch)) last = i, first = first < 0 ? i : first;
    if (last < 0) return wf_queue_mark(opencl, queue, event_out);
    const wf_status status = enqueue_launches(&bound, first, last, run, event_out && opencl->profile ? &start : NULL, event_out ? &end : NULL);
    if (status != WF_OK) {
        if (start) clReleaseEvent(start);
        return status;
    }
    TRY(wf_event_submitted(opencl, queue, end, event_out));
    if (start) (*event_out)->first = start;
    return WF_OK;
}

wf_status wf_kernel_temporary(wf_kernel *kernel, const wf_bound_view *workspace, cl_mem *out) {
    const int64_t at = 4 * workspace->offset;
    const cl_mem whole = workspace->memory->mem;
    *out = kernel->temporary;
    if (kernel->temporary && kernel->temporary_of == whole && kernel->temporary_at == at) return WF_OK;
    if (kernel->temporary) clReleaseMemObject(kernel->temporary);
    kernel->temporary = NULL;
    if (at % kernel->opencl->device.align_bytes != 0)
        return wf_fail(WF_ERR_INTERNAL, "a library's workspace at byte %lld is not aligned to %d", (long long)at,
                       (int)kernel->opencl->device.align_bytes);
    const cl_buffer_region region = {(size_t)at, (size_t)kernel->workspace_bytes};
    cl_int code = CL_SUCCESS;
    cl_mem part = WF_CL_NEW(&kernel->opencl->calls, code, clCreateSubBuffer,
                            (whole, CL_MEM_READ_WRITE, CL_BUFFER_CREATE_TYPE_REGION, &region, &code));
    TRY(wf_calls_status("clCreateSubBuffer", code));
    kernel->temporary = part;
    kernel->temporary_of = whole;
    kernel->temporary_at = at;
    *out = part;
    return WF_OK;
}
