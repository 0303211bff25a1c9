/* The executor, the store and allocation on one rank, with schedules of two or three small kernels. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include <check.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/base/nap.h"
#include "tests/host/run_support.h"

static wf_bootstrap alone;
static wf_opencl *opencl;
static wf_fabric *fabric;
static wf_store *store;

static void must(wf_status status) {
    ck_assert_msg(status == WF_OK, "%s", wf_last_error());
}

static void open_device(void) {
    must(wf_bootstrap_self(&alone));
    must(wf_opencl_create(&(wf_opencl_options){.node_ranks = 1}, &opencl));
    must(wf_fabric_create(&alone, opencl, &(wf_fabric_options){0}, &fabric));
}

static void close_device(void) {
    wf_fabric_destroy(fabric);
    wf_opencl_destroy(opencl);
}

static void open_store(void) {
    must(wf_store_create(opencl, &store));
}

static void close_store(void) {
    wf_store_destroy(store);
}

static wf_runner *runner_of(const wf_schedule *s) {
    wf_runner *r = NULL;
    must(wf_runner_create(s, opencl, fabric, store, &r));
    return r;
}

static void write_inputs(wf_runner *r) {
    for (int32_t i = 0; i < INSTANCES; i++) {
        float data[N];
        for (int j = 0; j < N; j++) data[j] = (float)(i + 1);
        must(wf_runner_write(r, "in", i, data, sizeof data));
    }
}

static void expect_weight(double want) {
    float data[N];
    must(wf_store_read(store, "weight", 0, data, sizeof data));
    for (int j = 0; j < N; j++) ck_assert_msg((double)data[j] == want, "element %d is %g, not %g", j, (double)data[j], want);
}

/* Far more steps than may be read ahead or be in flight; each call picks its instance. */
START_TEST(long_programs_run_in_order) {
    enum { CALLS = 3000 };
    wf_schedule *s = NULL;
    must(adding_schedule(CALLS, 1, &s));
    wf_runner *const r = runner_of(s);
    write_inputs(r);
    must(wf_runner_run(r, &(wf_run_args){0}));
    expect_weight(CALLS / INSTANCES * (1 + 2 + 3 + 4));
    must(wf_runner_run(r, &(wf_run_args){0}));
    expect_weight(2 * CALLS / INSTANCES * (1 + 2 + 3 + 4));
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
}
END_TEST

/* The host sleeps with time slices and timers of its own choice; the caller's thread has its own afterwards. */
START_TEST(the_threads_timers_are_left) {
#ifdef PR_SET_TIMERSLACK
    enum { OWN_NS = 70000 };
    const int before = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    if (prctl(PR_SET_TIMERSLACK, OWN_NS, 0, 0, 0) != 0 || prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0) != OWN_NS) return; /* refused: sleep is as it is */
    wf_schedule *s = NULL;
    wf_nap own;
    must(adding_schedule(3000, 1, &s));
    wf_runner *const r = runner_of(s);
    write_inputs(r);
    wf_nap_begin(&own, true);
    ck_assert_int_lt(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), OWN_NS);
    wf_nap_end(&own);
    must(wf_runner_run(r, &(wf_run_args){0}));
    ck_assert_int_eq(prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0), OWN_NS);
    prctl(PR_SET_TIMERSLACK, before, 0, 0, 0);
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
#endif
}
END_TEST

START_TEST(the_threads_time_slices_are_left) {
#if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t slice_ns, deadline_ns, period_ns;
    } before = {.size = sizeof before}, after = {.size = sizeof after};
    wf_schedule *s = NULL;
    must(adding_schedule(3000, 1, &s));
    wf_runner *const r = runner_of(s);
    write_inputs(r);
    ck_assert_int_eq(syscall(SYS_sched_getattr, 0, &before, sizeof before, 0), 0);
    before.slice_ns = 5000000; /* kernels before Linux 6.12 have none of a thread's own, and tell 0 */
    ck_assert_int_eq(syscall(SYS_sched_setattr, 0, &before, 0), 0);
    ck_assert_int_eq(syscall(SYS_sched_getattr, 0, &before, sizeof before, 0), 0);
    must(wf_runner_run(r, &(wf_run_args){0}));
    ck_assert_int_eq(syscall(SYS_sched_getattr, 0, &after, sizeof after, 0), 0);
    ck_assert(before.slice_ns == after.slice_ns && before.policy == after.policy && before.nice == after.nice);
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
#endif
}
END_TEST

START_TEST(planned_bytes_are_allocated_bytes) {
    wf_schedule *s = NULL;
    wf_bytes planned;
    int64_t allocated[WF_SPACES];
    const int64_t before = wf_opencl_allocated_bytes(opencl);
    must(adding_schedule(1, 3, &s));
    wf_runner *const r = runner_of(s);
    wf_schedule_measure(s, &planned);
    wf_runner_allocated(r, allocated);
    for (int i = 0; i < WF_SPACES; i++) ck_assert_int_eq(allocated[i], planned.by_space[i]);
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl) - before, planned.by_space[WF_SPACE_DEVICE]);
    ck_assert_int_ge(planned.by_space[WF_SPACE_DEVICE], (INSTANCES + 3 + 1) * N * 4);
    wf_runner_destroy(r);
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl) - before, wf_store_bytes(store, WF_CLASS_PARAMETER));
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(plans_share_their_parameters) {
    wf_schedule *s = NULL, *t = NULL;
    must(adding_schedule(4, 1, &s));
    must(adding_schedule(8, 1, &t));
    wf_runner *const r = runner_of(s);
    const int64_t bytes = wf_store_bytes(store, WF_CLASS_PARAMETER);
    wf_runner *const q = runner_of(t);
    ck_assert_int_eq(wf_store_bytes(store, WF_CLASS_PARAMETER), bytes);
    write_inputs(r);
    write_inputs(q);
    must(wf_runner_run(r, &(wf_run_args){0}));
    must(wf_runner_run(q, &(wf_run_args){0}));
    expect_weight(30);
    wf_runner_destroy(q);
    wf_runner_destroy(r);
    wf_schedule_destroy(t);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(a_plan_of_another_model_is_refused) {
    wf_schedule *s = NULL, *t = NULL;
    wf_runner *q = NULL;
    must(adding_schedule(1, 1, &s));
    must(adding_schedule(1, 2, &t));
    wf_runner *const r = runner_of(s);
    ck_assert_int_eq(wf_runner_create(t, opencl, fabric, store, &q), WF_ERR_ARGUMENT);
    ck_assert_msg(strstr(wf_last_error(), "weight") != NULL, "%s", wf_last_error());
    ck_assert_ptr_null(q);
    wf_runner_destroy(r);
    wf_schedule_destroy(t);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(slots_are_checked) {
    wf_schedule *s = NULL;
    float data[N + 1] = {0};
    must(adding_schedule(1, 1, &s));
    wf_runner *const r = runner_of(s);
    ck_assert_int_eq(wf_runner_write(r, "inn", 0, data, 4), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_runner_write(r, "in", INSTANCES, data, 4), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_runner_write(r, "in", -1, data, 4), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_runner_write(r, "in", 0, data, sizeof data), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_runner_read(r, "in", 0, 4, data, N * 4), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_runner_read(r, "in", 0, -4, data, 4), WF_ERR_ARGUMENT);
    write_inputs(r);
    must(wf_runner_read(r, "in", 2, 4, data, 8));
    ck_assert(data[0] == 3 && data[1] == 3 && data[2] == 0);
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(a_trace_has_every_step) {
    enum { CALLS = 50 };
    wf_schedule *s = NULL;
    char path[64];
    snprintf(path, sizeof path, "weft-trace-%ld.json", (long)getpid());
    must(adding_schedule(CALLS, 1, &s));
    wf_runner *const r = runner_of(s);
    write_inputs(r);
    must(wf_runner_trace(r, true));
    must(wf_runner_run(r, &(wf_run_args){0}));
    must(wf_runner_trace_write(r, path));
    json_error_t error;
    json_t *const root = json_load_file(path, 0, &error);
    ck_assert_msg(root != NULL, "%s", error.text);
    json_t *const events = json_object_get(root, "traceEvents"), *event;
    size_t i;
    int slices = 0;
    double end = 0;
    json_array_foreach(events, i, event) {
        if (strcmp(json_string_value(json_object_get(event, "ph")), "X") != 0) continue;
        slices++;
        const double start = json_number_value(json_object_get(event, "ts"));
        ck_assert_msg(start >= end - 0.01, "slice %d starts at %g us, before the end of the last, %g", slices, start, end);
        end = start + json_number_value(json_object_get(event, "dur"));
    }
    ck_assert_int_eq(slices, 2 * CALLS);
    json_decref(root);
    remove(path);
    ck_assert_int_eq(wf_runner_trace_write(r, "no/such/folder/trace.json"), WF_ERR_FILE);
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("run");
    TCase *const c = tcase_create("one rank");
    tcase_set_timeout(c, 120);
    tcase_add_unchecked_fixture(c, open_device, close_device);
    tcase_add_checked_fixture(c, open_store, close_store);
    tcase_add_test(c, long_programs_run_in_order);
    tcase_add_test(c, the_threads_timers_are_left);
    tcase_add_test(c, the_threads_time_slices_are_left);
    tcase_add_test(c, planned_bytes_are_allocated_bytes);
    tcase_add_test(c, plans_share_their_parameters);
    tcase_add_test(c, a_plan_of_another_model_is_refused);
    tcase_add_test(c, slots_are_checked);
    tcase_add_test(c, a_trace_has_every_step);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
