/* bench_operation.c: an operation's operands and kernels, to be timed; see bench.h.
 *
 * What the operands hold does not matter for time, as long as it is no NaN, no denormal number, no
 * infinity, no id that is out of range, and stays so when an update is repeated a thousand times. So
 * all numbers are uniform in [0.5, 1.5), with the exceptions of one table. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/sizes.h"
#include "host/run/bench.h"
#include "host/run/verify.h"

struct wf_bench_data {
    wf_opencl *opencl;
    const wf_operation *operation;
    wf_problem problem;
    int n;
    wf_operand operand[WF_OPERANDS];
    wf_bound_view view[WF_OPERANDS];
    wf_run_number run[WF_RUN_VALUES];
};

struct wf_bench_kernel {
    wf_bench_data *data;
    wf_kernel *kernel;
    wf_bound_view workspace;
};

/* ---- operands ------------------------------------------------------------------------------------------------ */

/* Ids lie within the shard, which begins at the size `first` and has `vocabulary` of them. */
static void id_range(const wf_operation *operation, const wf_problem *p, int64_t *first, int64_t *count) {
    *first = 0, *count = 1000;
    for (int i = 0; i < WF_SIZES && operation->size_names[i]; i++) {
        if (strcmp(operation->size_names[i], "first") == 0) *first = p->size[i];
        if (strcmp(operation->size_names[i], "vocabulary") == 0 && p->size[i] > 0) *count = p->size[i];
    }
}

/* Rotations keep lengths: their table's numbers are cos and sin of 45 degrees. */
static bool is_rotation(const wf_operand *operand) {
    return strcmp(operand->name, "table") == 0 && operand->dtype == WF_F32 && operand->access == WF_READ;
}

/* One document, whose pairs are those that are counted. */
static bool is_span(const wf_operand *operand) {
    return operand->ndim == 3 && operand->dtype == WF_I32;
}

/* A long operand repeats its first PERIOD numbers: a host makes random ones slower than it copies them. */
static void fill(const wf_bench_data *d, const wf_operand *operand, wf_stream *stream, int64_t count, void *out) {
    enum { PERIOD = 1 << 18, WORD = sizeof(float) };
    int64_t first, ids;
    id_range(d->operation, &d->problem, &first, &ids);
    for (int64_t i = 0; i < count && i < PERIOD; i++) {
        if (is_span(operand)) ((int32_t *)out)[i] = i % 2 ? INT32_MAX : 0;
        else if (operand->dtype == WF_I32) ((int32_t *)out)[i] = (int32_t)wf_stream_range(stream, first, first + ids - 1);
        else ((float *)out)[i] = is_rotation(operand) ? 0.70710678f : (float)(0.5 + wf_stream_uniform(stream));
    }
    for (int64_t done = PERIOD; done < count; done += PERIOD)
        memcpy((char *)out + done * WORD, out, (size_t)(count - done < PERIOD ? count - done : PERIOD) * WORD);
}

static wf_status make_operand(wf_bench_data *d, int i, wf_stream *stream) {
    const wf_operand *const operand = &d->operand[i];
    int64_t count = 1, bytes;
    bool fits = true;
    for (int k = operand->ndim - 1; k >= 0; k--) {
        d->view[i].stride[k] = count;
        fits = fits && wf_size_multiply(count, operand->extent[k], &count);
    }
    if (!fits || !wf_size_multiply(count, wf_dtype_bytes((wf_dtype)operand->dtype), &bytes))
        return wf_fail(WF_ERR_UNSUPPORTED, "operand %s is larger than 64 bits can say", operand->name);
    const int64_t available = wf_opencl_device(d->opencl)->available_bytes - wf_opencl_allocated_bytes(d->opencl);
    if (bytes > available)
        return wf_fail(WF_ERR_MEMORY, "operand %s needs %lld bytes, but device %s has only %lld left", operand->name,
                       (long long)bytes, wf_opencl_device(d->opencl)->name, (long long)available);
    TRY(wf_memory_create(d->opencl, bytes, &d->view[i].memory));
    if (bytes == 0) return WF_OK;
    void *const data = malloc((size_t)bytes);
    if (!data) return wf_fail(WF_ERR_MEMORY, "no host memory for operand %s of %lld bytes", operand->name, (long long)bytes);
    fill(d, operand, stream, count, data);
    const wf_status status = wf_memory_put(d->opencl, d->view[i].memory, 0, data, bytes);
    free(data);
    return status;
}

static void fill_run(wf_bench_data *d) {
    for (int i = 0; i < WF_RUN_VALUES; i++)
        if (!wf_run_value_is_integer((wf_run_value)i)) d->run[i].f = 0.5f;
    d->run[WF_RUN_LR].f = 1e-4f;
    d->run[WF_RUN_CORRECTION1].f = d->run[WF_RUN_CORRECTION2].f = 2.0f;
}

wf_status wf_bench_data_create(wf_opencl *opencl, const wf_operation *operation, const wf_problem *problem, wf_bench_data **out) {
    wf_stream stream = {0xbe7c4};
    wf_bench_data *const d = calloc(1, sizeof *d);
    if (!d) return wf_fail(WF_ERR_MEMORY, "no host memory for the operands of a case");
    d->opencl = opencl;
    d->operation = operation ? operation : wf_operations[problem->op];
    d->problem = *problem;
    d->n = d->operation->operands(problem, d->operand);
    fill_run(d);
    wf_status status = WF_OK;
    for (int i = 0; i < d->n; i++) TRY_GOTO(make_operand(d, i, &stream), destroy);
    *out = d;
    return WF_OK;
destroy:
    wf_bench_data_destroy(d);
    return status;
}

void wf_bench_data_destroy(wf_bench_data *d) {
    if (!d) return;
    for (int i = 0; i < d->n; i++) wf_memory_destroy(d->view[i].memory);
    free(d);
}

/* ---- kernels --------------------------------------------------------------------------------------------------- */

static wf_status prepare(wf_opencl *opencl, const wf_bench_data *d, const wf_candidate *candidate, const char *options,
                         wf_bench_kernel *k) {
    if (options)
        TRY(wf_kernel_prepare_as(opencl, d->operation, &d->problem, candidate, NULL, options, &k->kernel));
    else
        TRY(wf_kernel_prepare(opencl, &d->problem, candidate, &k->kernel));
    const int64_t bytes = wf_kernel_workspace_bytes(k->kernel);
    return bytes ? wf_memory_create(opencl, bytes, &k->workspace.memory) : WF_OK;
}

wf_status wf_bench_kernel_create(wf_opencl *opencl, wf_bench_data *data, const wf_candidate *candidate, const char *options,
                                 wf_bench_kernel **out) {
    wf_bench_kernel *const k = calloc(1, sizeof *k);
    if (!k) return wf_fail(WF_ERR_MEMORY, "no host memory for a kernel to time");
    k->data = data;
    const wf_status status = prepare(opencl, data, candidate, options, k);
    if (status != WF_OK) {
        wf_bench_kernel_destroy(k);
        return status;
    }
    *out = k;
    return WF_OK;
}

void wf_bench_kernel_destroy(wf_bench_kernel *k) {
    if (!k) return;
    wf_kernel_destroy(k->kernel);
    wf_memory_destroy(k->workspace.memory);
    free(k);
}

static wf_status run(void *self, int64_t times) {
    wf_bench_kernel *const k = self;
    wf_bench_data *const d = k->data;
    for (int64_t i = 0; i < times; i++)
        TRY(wf_kernel_enqueue(k->kernel, WF_QUEUE_COMPUTE, d->view, d->n, k->workspace.memory ? &k->workspace : NULL, d->run, NULL));
    return wf_queue_finish(d->opencl, WF_QUEUE_COMPUTE);
}

wf_bench_item wf_bench_kernel_item(wf_bench_kernel *k) {
    return (wf_bench_item){.run = run, .self = k};
}
