/* Devices, memory, queues, events, programs and kernels, on the machine's own OpenCL device. CK_NOFORK:
 * an OpenCL context does not survive a fork. */
#include <dirent.h>
#include <math.h>

#include "host/device/find.h"
#include "tests/host/device_support.h"
#include "tests/host/gate.h"

static wf_opencl *opencl;

static void open_plain(void) {
    opencl = open_device(false);
}

static void open_profiling(void) {
    opencl = open_device(true);
}

static void close_device(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

START_TEST(device_is_described) {
    const wf_device *device = wf_opencl_device(opencl);
    ck_assert_int_gt((int)strlen(device->name), 0);
    ck_assert_int_gt((int)strlen(device->driver), 0);
    ck_assert_int_ge(device->compute_units, 1);
    ck_assert_int_ge(device->max_group, 64);
    ck_assert_int_ge(device->align_bytes, 64);
    ck_assert(device->local_bytes >= 16384);
    ck_assert(device->available_bytes > 0 && device->available_bytes <= device->global_bytes);
    ck_assert(device->max_alloc_bytes > 0);
}
END_TEST

START_TEST(list_is_text_and_json) {
    char *text = NULL, *json = NULL;
    ck_ok(wf_opencl_list(NULL, false, &text));
    ck_ok(wf_opencl_list(NULL, true, &json));
    ck_assert_ptr_nonnull(strstr(text, "compute units"));
    ck_assert_ptr_nonnull(strstr(json, "\"compute_units\""));
    free(text);
    free(json);
}
END_TEST

START_TEST(memory_is_counted) {
    wf_memory *a = NULL, *b = NULL, *none = NULL;
    ck_ok(wf_memory_create(opencl, 1000, &a));
    ck_ok(wf_memory_create(opencl, 24, &b));
    ck_ok(wf_memory_create(opencl, 0, &none));
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), 1024);
    ck_assert_int_eq(wf_memory_bytes(a), 1000);
    ck_assert_ptr_null(wf_memory_host(a));
    wf_memory_destroy(a);
    wf_memory_destroy(none);
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), 24);
    ck_assert_int_eq(wf_opencl_peak_bytes(opencl), 1024);
    wf_memory_destroy(b);
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), 0);
}
END_TEST

START_TEST(memory_above_the_limits_is_refused) {
    const wf_device *device = wf_opencl_device(opencl);
    wf_memory *memory = NULL;
    ck_fails(WF_ERR_MEMORY, wf_memory_create(opencl, device->max_alloc_bytes + 1, &memory));
    ck_fails(WF_ERR_MEMORY, wf_memory_create(opencl, device->available_bytes + 1, &memory));
    ck_fails(WF_ERR_ARGUMENT, wf_memory_create(opencl, -1, &memory));
    ck_assert_ptr_null(memory);
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), 0);
}
END_TEST

START_TEST(wrapped_memory_is_the_hosts) {
    void *host = NULL;
    float got[4];
    wf_memory *memory = NULL;
    ck_assert_int_eq(posix_memalign(&host, 4096, 8192), 0);
    for (int i = 0; i < 2048; i++) ((float *)host)[i] = (float)i;
    ck_fails(WF_ERR_ARGUMENT, wf_memory_wrap(opencl, (char *)host + 64, 64, &memory));
    ck_ok(wf_memory_wrap(opencl, host, 8192, &memory));
    ck_assert_ptr_eq(wf_memory_host(memory), host);
    ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, memory, 400, 16, got, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    ck_assert(got[0] == 100 && got[3] == 103);
    wf_memory_destroy(memory);
    free(host);
}
END_TEST

/* Kernels and the host use the same bytes, of small and of large buffers; a hold keeps them. */
START_TEST(direct_memory_is_what_kernels_see) {
    const int64_t counts[] = {1, 1000, 3 << 20};
    const wf_device *const device = wf_opencl_device(opencl);
    for (int c = 0; c < 3; c++) {
        const int64_t n = counts[c], bytes = 4 * n;
        const wf_problem problem = scale_problem(n);
        const wf_candidate candidate = {.value = {16}};
        wf_run_number run[WF_RUN_VALUES] = {0};
        wf_memory *a = NULL, *b = NULL;
        wf_kernel *kernel = NULL;
        wf_event *event = NULL;
        run[WF_RUN_LR].f = 0.25f;
        ck_ok(wf_memory_create(opencl, bytes, &a));
        ck_ok(wf_memory_create(opencl, bytes, &b));
        float *const in = wf_memory_direct(a), *const out = wf_memory_direct(b);
        ck_assert((in != NULL) == (out != NULL) && (!in || (device->type == WF_DEVICE_CPU && device->host_unified)));
        for (int64_t i = 0; in && i < n; i++) in[i] = (float)(i % 1000);
        ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &candidate, scale_source, "-DFACTOR=3 -DGROUP=16", &kernel));
        const wf_bound_view views[] = {{a, 0, {1}}, {b, 0, {1}}};
        for (int time = 0; in && time < 2; time++) {
            ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, &event));
            ck_ok(wf_event_wait(event));
            wf_event_release(event);
            int64_t wrong = 0;
            for (int64_t i = 0; i < n; i++) wrong += out[i] != 3 * (float)(i % 1000 + time) + 0.75f;
            for (int64_t i = 0; i < n; i++) in[i] += 1;
            ck_assert_int_eq(wrong, 0);
        }
        wf_kernel_destroy(kernel);
        wf_memory_hold(a);
        wf_memory_destroy(a);
        ck_assert(!in || in[n - 1] == (float)((n - 1) % 1000 + 2));
        wf_memory_destroy(a);
        wf_memory_destroy(b);
        ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), 0);
    }
}
END_TEST

START_TEST(pinned_memory_takes_copies) {
    enum { N = 5000 };
    for (int direct = 0; direct < 2; direct++) { /* pages as any, and what the driver has */
        const bool was = opencl->direct;
        wf_pinned *pinned = NULL;
        wf_memory *memory = NULL;
        opencl->direct = direct && was;
        ck_ok(wf_memory_create(opencl, N, &memory));
        ck_ok(wf_pinned_create(opencl, 2 * N, &pinned));
        ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), N);
        unsigned char *const host = wf_pinned_host(pinned);
        for (int i = 0; i < 2 * N; i++) host[i] = (unsigned char)(i < N ? i * 7 : 0);
        ck_ok(wf_queue_write(opencl, WF_QUEUE_SEND, memory, 0, N, host, NULL));
        ck_ok(wf_queue_read(opencl, WF_QUEUE_SEND, memory, 0, N, host + N, NULL));
        ck_ok(wf_queue_finish(opencl, WF_QUEUE_SEND));
        ck_assert(memcmp(host, host + N, N) == 0);
        wf_pinned_destroy(pinned);
        wf_memory_destroy(memory);
        opencl->direct = was;
    }
}
END_TEST

START_TEST(copies_move_bytes_between_queues_in_order) {
    enum { N = 1000 };
    float in[N], out[N];
    wf_memory *a = NULL, *b = NULL;
    wf_event *written = NULL, *copied = NULL, *read = NULL;
    for (int i = 0; i < N; i++) in[i] = (float)(i * i);
    ck_ok(wf_memory_create(opencl, sizeof in, &a));
    ck_ok(wf_memory_create(opencl, sizeof in, &b));
    ck_ok(wf_queue_write(opencl, WF_QUEUE_RECEIVE, a, 0, sizeof in, in, &written));
    ck_ok(wf_queue_wait(opencl, WF_QUEUE_COMPUTE, written));
    wf_event_release(written);
    ck_ok(wf_queue_copy(opencl, WF_QUEUE_COMPUTE, a, 40, b, 0, sizeof in - 40, &copied));
    ck_ok(wf_queue_wait(opencl, WF_QUEUE_SEND, copied));
    ck_ok(wf_queue_read(opencl, WF_QUEUE_SEND, b, 0, sizeof in - 40, out, &read));
    ck_ok(wf_event_wait(read));
    bool done = false;
    ck_ok(wf_event_done(copied, &done));
    ck_assert(done);
    for (int i = 0; i < N - 10; i++) ck_assert(out[i] == in[i + 10]);
    wf_event_release(copied);
    wf_event_release(read);
    ck_fails(WF_ERR_INTERNAL, wf_queue_read(opencl, WF_QUEUE_SEND, b, 8, sizeof in - 4, out, NULL));
    wf_memory_destroy(a);
    wf_memory_destroy(b);
}
END_TEST

/* Runs `scale` on n elements from element `at` with a stride; every result compared. */
static void run_scale(int64_t n, int64_t at, int64_t stride, int32_t group, const char *options, float factor) {
    const wf_problem problem = scale_problem(n);
    const wf_candidate candidate = {.value = {group}};
    const int64_t in_bytes = 4 * (at + n * stride + 1), out_bytes = 4 * (n + 3);
    float *in = malloc((size_t)in_bytes), *out = malloc((size_t)out_bytes);
    wf_run_number run[WF_RUN_VALUES] = {0};
    wf_memory *a = NULL, *b = NULL;
    wf_kernel *kernel = NULL;
    wf_event *event = NULL;
    run[WF_RUN_LR].f = 0.25f;
    for (int64_t i = 0; i < in_bytes / 4; i++) in[i] = (float)i;
    for (int64_t i = 0; i < out_bytes / 4; i++) out[i] = -1;
    ck_ok(wf_memory_create(opencl, in_bytes, &a));
    ck_ok(wf_memory_create(opencl, out_bytes, &b));
    ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &candidate, scale_source, options, &kernel));
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, a, 0, in_bytes, in, NULL));
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, b, 0, out_bytes, out, NULL));
    const wf_bound_view views[] = {{a, at, {stride}}, {b, 2, {1}}};
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, &event));
    ck_ok(wf_event_wait(event));
    wf_event_release(event);
    ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, b, 0, out_bytes, out, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    ck_assert(out[0] == -1 && out[1] == -1 && out[n + 2] == -1);
    for (int64_t i = 0; i < n; i++) ck_assert(out[2 + i] == factor * (float)(at + i * stride) + 0.25f + 0.5f);
    wf_kernel_destroy(kernel);
    wf_memory_destroy(a);
    wf_memory_destroy(b);
    free(in);
    free(out);
}

START_TEST(kernel_runs_with_offsets_strides_and_run_values) {
    run_scale(1, 0, 1, 32, "-DFACTOR=3 -DGROUP=32", 3);
    run_scale(101, 7, 3, 32, "-DFACTOR=3 -DGROUP=32", 3);
    run_scale(64, 1, 2, 16, "-DFACTOR=5 -DGROUP=16", 5);
}
END_TEST

START_TEST(programs_are_built_once_per_options) {
    wf_program *a = NULL, *b = NULL, *c = NULL;
    ck_ok(wf_program_get(opencl, "scale.cl", scale_source, "-DFACTOR=3 -DGROUP=32", &a));
    ck_ok(wf_program_get(opencl, "scale.cl", scale_source, "-DFACTOR=3 -DGROUP=32", &b));
    ck_ok(wf_program_get(opencl, "scale.cl", scale_source, "-DFACTOR=4 -DGROUP=32", &c));
    ck_assert_ptr_eq(a, b);
    ck_assert_ptr_ne(a, c);
    ck_fails(WF_ERR_DEVICE, wf_program_get(opencl, "scale.cl", scale_source, "-DGROUP=32", &a));
    ck_assert_msg(strstr(wf_last_error(), "scale.cl") != NULL, "%s", wf_last_error());
}
END_TEST

START_TEST(kernels_that_ask_too_much_are_refused) {
    const wf_device *device = wf_opencl_device(opencl);
    wf_problem problem = scale_problem(8);
    wf_kernel *kernel = NULL;
    char options[64];
    problem.real[0] = (double)(device->local_bytes + 4);
    ck_fails(WF_ERR_UNSUPPORTED, wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}},
                                                 scale_source, "-DFACTOR=3 -DGROUP=32", &kernel));
    ck_assert_msg(strstr(wf_last_error(), "local memory") != NULL, "%s", wf_last_error());
    problem.real[0] = 64;
    const int32_t group = 2 * device->max_group;
    snprintf(options, sizeof options, "-DFACTOR=3 -DGROUP=%d", (int)group);
    ck_fails(WF_ERR_UNSUPPORTED, wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {group}},
                                                 scale_source, options, &kernel));
    ck_assert_ptr_null(kernel);
    ck_assert_ptr_null(opencl->kernels);
}
END_TEST

START_TEST(views_that_leave_their_memory_are_refused) {
    const wf_problem problem = scale_problem(10);
    const wf_run_number run[WF_RUN_VALUES] = {0};
    wf_memory *a = NULL;
    wf_kernel *kernel = NULL;
    ck_ok(wf_memory_create(opencl, 80, &a));
    ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                               "-DFACTOR=3 -DGROUP=32", &kernel));
    const wf_bound_view good[] = {{a, 0, {1}}, {a, 10, {1}}}, far[] = {{a, 0, {1}}, {a, 11, {1}}};
    const wf_bound_view wide[] = {{a, 2, {2}}, {a, 10, {1}}}, none[] = {{NULL, 0, {1}}, {a, 10, {1}}};
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, good, 2, NULL, run, NULL));
    ck_fails(WF_ERR_INTERNAL, wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, far, 2, NULL, run, NULL));
    ck_fails(WF_ERR_INTERNAL, wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, wide, 2, NULL, run, NULL));
    ck_fails(WF_ERR_INTERNAL, wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, none, 2, NULL, run, NULL));
    ck_fails(WF_ERR_INTERNAL, wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, good, 1, NULL, run, NULL));
    wf_kernel_destroy(kernel);
    wf_memory_destroy(a);
}
END_TEST

START_TEST(empty_problems_still_give_an_event) {
    const wf_problem problem = scale_problem(0);
    const wf_run_number run[WF_RUN_VALUES] = {0};
    const wf_bound_view views[2] = {{0}};
    wf_kernel *kernel = NULL;
    wf_event *event = NULL;
    ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                               "-DFACTOR=3 -DGROUP=32", &kernel));
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, &event));
    ck_ok(wf_event_wait(event));
    wf_event_release(event);
    wf_kernel_destroy(kernel);
}
END_TEST

START_TEST(event_times_lie_between_the_hosts) {
    enum { N = 1 << 20 };
    char *host = calloc(1, N);
    wf_memory *a = NULL;
    wf_event *event = NULL;
    double start = 0, end = 0;
    ck_ok(wf_memory_create(opencl, N, &a));
    const double before = wf_clock_s();
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, a, 0, N, host, &event));
    ck_ok(wf_event_wait(event));
    const double after = wf_clock_s();
    ck_ok(wf_event_times(event, &start, &end));
    ck_assert_double_le(start, end);
    ck_assert_double_ge(start, before - 1e-3);
    ck_assert_double_le(end, after + 1e-3);
    wf_event_release(event);
    wf_memory_destroy(a);
    free(host);
}
END_TEST

/* Whichever of its calls fails: when it returns no copy may still read or write the host's memory. */
static bool copy_fails(bool put, int64_t n) {
    char host[64] = {0};
    wf_memory *a = NULL;
    gate g;
    ck_ok(wf_memory_create(opencl, sizeof host, &a));
    gate_shut(&g, opencl->context);
    ck_ok(wf_queue_wait_for(opencl, WF_QUEUE_COMPUTE, 1, (void *[]){g.event}));
    const int64_t before = opencl->submitted[WF_QUEUE_COMPUTE];
    opencl->calls.fail_at = opencl->calls.made + n;
    opencl->calls.fail_code = CL_OUT_OF_RESOURCES;
    const wf_status status = put ? wf_memory_put(opencl, a, 0, host, sizeof host) : wf_memory_get(opencl, a, 0, host, sizeof host);
    const bool open = gate_is_open(&g), copies = opencl->submitted[WF_QUEUE_COMPUTE] > before;
    opencl->calls.fail_at = 0;
    ck_assert_msg(open || !copies, "call %d failed, and the copy goes on", (int)n);
    gate_end(&g);
    wf_memory_destroy(a);
    return status != WF_OK;
}

START_TEST(copies_are_over_on_return) {
    for (int put = 0; put < 2; put++) {
        int64_t n = 1;
        while (copy_fails(put, n)) n++;
        ck_assert_int_ge(n, 4); /* the copy, a flush and the wait have failed */
    }
}
END_TEST

/* Warming needs memory for a moment; where none is left it is done without. */
START_TEST(a_full_device_is_not_warmed) {
    const wf_problem problem = scale_problem(1000);
    wf_kernel *kernel = NULL;
    const int64_t available = opencl->device.available_bytes;
    ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                               "-DFACTOR=3 -DGROUP=32", &kernel));
    opencl->device.available_bytes = opencl->owned_bytes;
    ck_ok(wf_opencl_warm(opencl));
    ck_assert(!kernel->warmed);
    opencl->device.available_bytes = available;
    ck_ok(wf_opencl_warm(opencl));
    ck_assert(kernel->warmed);
    wf_kernel_destroy(kernel);
}
END_TEST

/* A kernel of two launches lasts from the first's start. */
START_TEST(event_times_are_of_all_launches) {
    const wf_run_number run[WF_RUN_VALUES] = {0};
    wf_problem problem = scale_problem(1 << 20);
    wf_memory *a = NULL;
    wf_kernel *kernel = NULL;
    wf_event *event = NULL;
    double start = 0, end = 0;
    cl_ulong last_ns = 0, last_end_ns = 0;
    problem.real[1] = 1;
    ck_ok(wf_memory_create(opencl, 8 * problem.size[0], &a));
    ck_ok(wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                               "-DFACTOR=3 -DGROUP=32", &kernel));
    const wf_bound_view views[] = {{a, 0, {1}}, {a, problem.size[0], {1}}};
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, &event));
    ck_ok(wf_event_wait(event));
    ck_ok(wf_event_times(event, &start, &end));
    ck_assert_int_eq(clGetEventProfilingInfo(event->event, CL_PROFILING_COMMAND_START, sizeof last_ns, &last_ns, NULL), CL_SUCCESS);
    ck_assert_int_eq(clGetEventProfilingInfo(event->event, CL_PROFILING_COMMAND_END, sizeof last_end_ns, &last_end_ns, NULL), CL_SUCCESS);
    ck_assert_msg(end - start > 1e-9 * (double)(last_end_ns - last_ns), "%g s, of which the last launch takes %g", end - start,
                  1e-9 * (double)(last_end_ns - last_ns));
    wf_event_release(event);
    wf_kernel_destroy(kernel);
    wf_memory_destroy(a);
}
END_TEST

/* Every call on the way, made to fail in turn, ends in a sentence and leaves nothing behind; what only kept a program
 * for later is done without. */
START_TEST(each_call_may_fail) {
    const wf_problem problem = scale_problem(10);
    const wf_run_number run[WF_RUN_VALUES] = {0};
    const int64_t before = opencl->calls.buffer_bytes;
    int64_t failures = 0;
    bool met = true;
    for (int64_t n = 1; met; n++) {
        wf_memory *a = NULL;
        wf_kernel *kernel = NULL;
        wf_event *event = NULL;
        const int64_t start = opencl->calls.made;
        opencl->calls.fail_at = start + n;
        opencl->calls.fail_code = CL_OUT_OF_RESOURCES;
        char options[64];
        snprintf(options, sizeof options, "-DFACTOR=%d -DGROUP=32", 2 + (int)(n > 1));
        wf_status status = wf_memory_create(opencl, 80, &a);
        if (status == WF_OK)
            status = wf_kernel_prepare_as(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                                          options, &kernel);
        const wf_bound_view views[] = {{a, 0, {1}}, {a, 10, {1}}};
        if (status == WF_OK) status = wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, &event);
        if (status == WF_OK) status = wf_event_wait(event);
        if (status != WF_OK) {
            failures++;
            ck_assert_msg(strstr(wf_last_error(), "CL_OUT_OF_RESOURCES") != NULL, "call %d: %s", (int)n, wf_last_error());
        }
        met = opencl->calls.made >= start + n;
        ck_assert(met || status == WF_OK);
        opencl->calls.fail_at = 0;
        wf_event_release(event);
        wf_kernel_destroy(kernel);
        wf_memory_destroy(a);
        ck_assert_int_eq(opencl->calls.buffer_bytes, before);
    }
    ck_assert_int_ge(failures, 15);
}
END_TEST

/* ---- choosing and sharing, on described devices ------------------------------------------------------ */

static wf_found found_named(int32_t platform, int32_t index, const char *name, wf_device_type type) {
    wf_found found = {.platform_index = platform, .device_index = index};
    snprintf(found.device.name, sizeof found.device.name, "%s", name);
    snprintf(found.device.platform, sizeof found.device.platform, "Platform %d of many", platform);
    found.device.type = type;
    return found;
}

START_TEST(devices_are_chosen_by_wish_and_shared_out) {
    const wf_found found[] = {found_named(0, 0, "Some CPU", WF_DEVICE_CPU), found_named(1, 0, "Big GPU", WF_DEVICE_GPU),
                              found_named(1, 1, "big gpu 3090", WF_DEVICE_GPU)};
    static const struct {
        const char *wish;
        int rank, ranks, index, sharer, sharers;
    } cases[] = {
        {NULL, 0, 1, 1, 0, 1}, {NULL, 1, 2, 2, 0, 1}, {NULL, 2, 3, 1, 1, 2}, {NULL, 1, 3, 2, 0, 1}, {"0", 1, 2, 0, 1, 2},
        {"1.1", 0, 1, 2, 0, 1}, {"cpu", 3, 4, 0, 3, 4},   {"BIG", 3, 5, 2, 1, 2},   {"BIG", 4, 5, 1, 2, 3},   {"3090", 1, 2, 2, 1, 2},
        {"platform 1", 1, 2, 2, 0, 1}, {"platform 0", 1, 2, 0, 1, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t index = -1, sharer = -1, sharers = -1;
        ck_ok(wf_find_choose(found, 3, cases[i].wish, cases[i].rank, cases[i].ranks, &index, &sharer, &sharers));
        ck_assert_msg(index == cases[i].index && sharer == cases[i].sharer && sharers == cases[i].sharers,
                      "case %d: device %d, %d of %d", (int)i, (int)index, (int)sharer, (int)sharers);
    }
    int32_t a, b, c;
    ck_fails(WF_ERR_DEVICE, wf_find_choose(found, 3, "3", 0, 1, &a, &b, &c));
    ck_fails(WF_ERR_DEVICE, wf_find_choose(found, 3, "none such", 0, 1, &a, &b, &c));
    ck_fails(WF_ERR_DEVICE, wf_find_choose(NULL, 0, NULL, 0, 1, &a, &b, &c));
}
END_TEST

START_TEST(ranks_of_a_cpu_take_fair_shares) {
    wf_opencl *whole = open_device(false);
    const int32_t units = whole->device.compute_units;
    const bool cpu = whole->device.type == WF_DEVICE_CPU;
    wf_opencl_destroy(whole);
    if (!cpu) return; /* only CPUs are cut */
    for (int32_t ranks = 1; ranks <= 2 * units && ranks <= 6; ranks++) {
        int32_t sum = 0;
        for (int32_t rank = 0; rank < ranks; rank++) {
            wf_opencl *share = NULL;
            ck_ok(wf_opencl_create(&(wf_opencl_options){.node_rank = rank, .node_ranks = ranks}, &share));
            sum += share->device.compute_units;
            ck_assert_int_ge(share->device.compute_units, 1);
            ck_assert_int_le(share->device.compute_units, units / ranks + 1);
            wf_opencl_destroy(share);
        }
        ck_assert_int_eq(sum, ranks <= units ? units : ranks);
    }
    ck_fails(WF_ERR_ARGUMENT, wf_opencl_create(&(wf_opencl_options){.node_rank = 2, .node_ranks = 2}, &whole));
}
END_TEST

/* Processor time of each thread of this process so far, by thread id; returns their number. */
static int thread_times(long ids[], double seconds[], int most) {
    DIR *tasks = opendir("/proc/self/task");
    int n = 0;
    for (struct dirent *task; tasks && n < most && (task = readdir(tasks));) {
        char path[300];
        unsigned long long nanoseconds = 0;
        snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", task->d_name);
        FILE *file = fopen(path, "r");
        if (!file) continue;
        if (fscanf(file, "%llu", &nanoseconds) == 1) {
            ids[n] = strtol(task->d_name, NULL, 10);
            seconds[n++] = 1e-9 * (double)nanoseconds;
        }
        fclose(file);
    }
    if (tasks) closedir(tasks);
    return n;
}

/* Threads that got a tenth or more of the time that passed on all threads since `before`, or half of a fair share of it for
 * `units`, where that is less. */
static int busy_threads(const long ids[], const double before[], int n, int32_t units) {
    const double least = fmin(0.1, 0.5 / units);
    long now_ids[256];
    double now[256], sum = 0;
    const int now_n = thread_times(now_ids, now, 256);
    int busy = 0;
    for (int i = 0; i < now_n; i++) {
        for (int j = 0; j < n; j++)
            if (ids[j] == now_ids[i]) now[i] -= before[j];
        sum += now[i];
    }
    for (int i = 0; i < now_n; i++) busy += now[i] >= least * sum;
    return busy;
}

/* The threads that compute are as many as the rank's share of the cores, whatever the load. */
START_TEST(a_share_computes_with_its_own_cores_only) {
    wf_opencl *whole = open_device(false), *share = NULL;
    const int32_t units = whole->device.compute_units;
    const bool cpu = whole->device.type == WF_DEVICE_CPU;
    wf_opencl_destroy(whole);
    if (!cpu || units < 2 || units > 8) return;
    const wf_problem problem = scale_problem(1 << 20);
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    for (int32_t ranks = 1; ranks <= units; ranks += units - 1) {
        wf_kernel *kernel = NULL;
        wf_memory *memory = NULL;
        long ids[256];
        double before[256];
        ck_ok(wf_opencl_create(&(wf_opencl_options){.node_rank = ranks - 1, .node_ranks = ranks}, &share));
        ck_ok(wf_memory_create(share, 8 << 20, &memory));
        ck_ok(wf_kernel_prepare_as(share, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                                   "-DFACTOR=3 -DGROUP=32", &kernel));
        const wf_bound_view views[] = {{memory, 0, {1}}, {memory, 1 << 20, {1}}};
        ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, NULL));
        ck_ok(wf_queue_finish(share, WF_QUEUE_COMPUTE));
        const int n = thread_times(ids, before, 256);
        for (int i = 0; i < 100; i++) ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, NULL));
        ck_ok(wf_queue_finish(share, WF_QUEUE_COMPUTE));
        ck_assert_int_eq(busy_threads(ids, before, n, share->device.compute_units), share->device.compute_units);
        wf_kernel_destroy(kernel);
        wf_memory_destroy(memory);
        wf_opencl_destroy(share);
    }
}
END_TEST

static TCase *device_case(Suite *suite, const char *name, void (*open)(void)) {
    TCase *tests = tcase_create(name);
    tcase_set_timeout(tests, 120);
    if (open) tcase_add_checked_fixture(tests, open, close_device);
    suite_add_tcase(suite, tests);
    return tests;
}

int main(void) {
    Suite *suite = suite_create("device");
    TCase *plain = device_case(suite, "plain", open_plain);
    tcase_add_test(plain, device_is_described);
    tcase_add_test(plain, list_is_text_and_json);
    tcase_add_test(plain, memory_is_counted);
    tcase_add_test(plain, memory_above_the_limits_is_refused);
    tcase_add_test(plain, wrapped_memory_is_the_hosts);
    tcase_add_test(plain, direct_memory_is_what_kernels_see);
    tcase_add_test(plain, pinned_memory_takes_copies);
    tcase_add_test(plain, copies_move_bytes_between_queues_in_order);
    tcase_add_test(plain, kernel_runs_with_offsets_strides_and_run_values);
    tcase_add_test(plain, programs_are_built_once_per_options);
    tcase_add_test(plain, kernels_that_ask_too_much_are_refused);
    tcase_add_test(plain, views_that_leave_their_memory_are_refused);
    tcase_add_test(plain, empty_problems_still_give_an_event);
    tcase_add_test(plain, copies_are_over_on_return);
    tcase_add_test(plain, a_full_device_is_not_warmed);
    tcase_add_test(plain, each_call_may_fail);
    TCase *const profiling = device_case(suite, "profiling", open_profiling);
    tcase_add_test(profiling, event_times_lie_between_the_hosts);
    tcase_add_test(profiling, event_times_are_of_all_launches);
    TCase *choice = device_case(suite, "choice", NULL);
    tcase_add_test(choice, devices_are_chosen_by_wish_and_shared_out);
    tcase_add_test(choice, ranks_of_a_cpu_take_fair_shares);
    tcase_add_test(choice, a_share_computes_with_its_own_cores_only);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
