/* run_ranks.c: the executor on several ranks; run under mpirun by check_run.sh.
 *   - a ring of hops, many times, over the default transports: every rank ends up with every value;
 *   - ranks whose plans differ by one hop: WF_ERR_MISMATCH that names both ranks, before any run;
 *   - a rank that does not run: WF_ERR_TIMEOUT that names rank, step and lane, within the deadline;
 *   - one merged trace: slices of all ranks, an arrow's end for every beginning, clocks aligned.
 * Prints one line in Check's format. */
#include <jansson.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/host/run_support.h"

static int rank, ranks, checks, failures;

static void expect(bool fine, const char *what) {
    int mine = !fine, worst;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    checks++;
    failures += worst;
    if (mine) fprintf(stderr, "rank %d of %d: %s; last error: %s\n", rank, ranks, what, wf_last_error());
}

static void must(wf_status status, const char *what) {
    if (status == WF_OK) return;
    fprintf(stderr, "rank %d of %d: %s: %s\n", rank, ranks, what, wf_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* total = own; then `hops` times: pass on what came last, add what comes. */
static wf_schedule *ring(wf_fabric *fabric, int32_t hops) {
    wf_schedule *s = NULL;
    int32_t *const members = calloc((size_t)ranks, sizeof *members);
    for (int32_t i = 0; i < ranks; i++) members[i] = i;
    must(wf_schedule_create(rank, ranks, &s), "schedule");
    const int32_t group = wf_build_group(s, 0, members, ranks);
    const int32_t in = wf_build_slot(s, "in", WF_CLASS_IO, WF_F32, N, 1);
    const int32_t total = wf_build_slot(s, "total", WF_CLASS_IO, WF_F32, N, 1);
    const int32_t held = wf_build_pool(s, "held", WF_CLASS_ACTIVATION, WF_F32, N);
    wf_build_pool_count(s, held, 1);
    const int32_t begin = wf_build_segment(s, "begin");
    copy_step(s, "begin.copy", row(in, WF_AT_NONE), row(total, WF_AT_NONE));
    copy_step(s, "begin.hold", row(in, WF_AT_NONE), row(held, WF_AT_NONE));
    wf_build_segment_end(s);
    const int32_t turn = wf_build_segment(s, "turn");
    const int32_t out = wf_build_scratch(s, "out", WF_F32, N), got = wf_build_scratch(s, "got", WF_F32, N);
    const wf_view sent = row(out, WF_AT_NONE), received = row(got, WF_AT_NONE);
    copy_step(s, "turn.out", row(held, WF_AT_NONE), sent);
    wf_build_hop(s, "turn.hop", WF_LANE_TP, WF_SHIFT, group, 1, (rank + 1) % ranks, &sent, (rank + ranks - 1) % ranks, &received);
    add_step(s, "turn.add", received, row(total, WF_AT_NONE));
    copy_step(s, "turn.hold", received, row(held, WF_AT_NONE));
    wf_build_segment_end(s);
    call_of(s, begin, 0);
    for (int32_t i = 0; i < hops; i++) call_of(s, turn, 0);
    must(finish(s, fabric), "finish");
    free(members);
    return s;
}

typedef struct world {
    wf_bootstrap bootstrap;
    wf_opencl *opencl;
    wf_fabric *fabric;
    wf_store *store;
} world;

static void open_world(world *w, double timeout_s) {
    const MPI_Comm communicator = MPI_COMM_WORLD;
    must(wf_bootstrap_mpi(&communicator, &w->bootstrap), "bootstrap");
    const wf_opencl_options options = {.node_rank = w->bootstrap.node_rank, .node_ranks = w->bootstrap.node_ranks};
    must(wf_opencl_create(&options, &w->opencl), "device");
    must(wf_fabric_create(&w->bootstrap, w->opencl, &(wf_fabric_options){.timeout_s = timeout_s}, &w->fabric), "fabric");
    must(wf_store_create(w->opencl, &w->store), "store");
}

static void close_world(world *w) {
    wf_store_destroy(w->store);
    wf_fabric_destroy(w->fabric);
    wf_opencl_destroy(w->opencl);
    w->bootstrap.destroy(w->bootstrap.self);
}

static void write_own(wf_runner *r) {
    float data[N];
    for (int i = 0; i < N; i++) data[i] = (float)(1 << rank) + (float)i;
    must(wf_runner_write(r, "in", 0, data, sizeof data), "write");
}

/* After ranks - 1 hops the total has everybody's value once; further rounds of `ranks` hops add all again. */
static void expect_total(wf_runner *r, int rounds) {
    float data[N];
    bool fine = true;
    must(wf_runner_read(r, "total", 0, 0, data, sizeof data), "read");
    for (int i = 0; i < N; i++) {
        const double all = (1 << ranks) - 1 + (double)i * ranks;
        fine = fine && (double)data[i] == all * rounds;
    }
    expect(fine, "the ring's sum is wrong");
}

static int count_phase(const json_t *events, const char *phase) {
    int n = 0;
    size_t i;
    json_t *event;
    json_array_foreach(events, i, event) n += strcmp(json_string_value(json_object_get(event, "ph")), phase) == 0;
    return n;
}

/* Ends of arrows may not lie before their beginnings by more than the clocks' uncertainty. */
static bool arrows_point_forward(const json_t *events) {
    size_t i, j;
    json_t *from, *to;
    double slack = 1;
    json_array_foreach(events, i, from)
        slack += 2 * json_number_value(json_object_get(json_object_get(from, "args"), "uncertainty_us"));
    json_array_foreach(events, i, from) {
        if (strcmp(json_string_value(json_object_get(from, "ph")), "s") != 0) continue;
        json_array_foreach(events, j, to)
            if (strcmp(json_string_value(json_object_get(to, "ph")), "f") == 0 &&
                json_equal(json_object_get(from, "id"), json_object_get(to, "id")) &&
                json_number_value(json_object_get(to, "ts")) + slack < json_number_value(json_object_get(from, "ts")))
                return false;
    }
    return true;
}

static void check_trace(wf_runner *r, int hops) {
    const char *const path = "weft-trace-ranks.json";
    must(wf_runner_trace(r, true), "trace");
    must(wf_runner_run(r, &(wf_run_args){0}), "traced run");
    must(wf_runner_trace_write(r, path), "trace_write");
    bool fine = true;
    if (!rank) {
        json_t *const root = json_load_file(path, 0, NULL);
        const json_t *const events = json_object_get(root, "traceEvents");
        fine = root && count_phase(events, "X") == ranks * (2 + 4 * hops) && count_phase(events, "s") == ranks * hops &&
               count_phase(events, "f") == ranks * hops && arrows_point_forward(events);
        json_decref(root);
        remove(path);
    }
    must(wf_runner_trace(r, false), "trace off");
    expect(fine, "the merged trace is not whole");
}

static void try_ring(world *w) {
    enum { ROUNDS = 12 };
    const int hops = ranks * ROUNDS - 1;
    wf_schedule *const s = ring(w->fabric, hops);
    wf_runner *r = NULL;
    must(wf_runner_create(s, w->opencl, w->fabric, w->store, &r), "runner");
    write_own(r);
    must(wf_runner_run(r, &(wf_run_args){0}), "run");
    expect_total(r, ROUNDS);
    check_trace(r, hops);
    expect_total(r, ROUNDS);
    wf_runner_destroy(r);
    wf_schedule_destroy(s);
}

static void try_mismatch(world *w) {
    wf_schedule *const s = ring(w->fabric, rank == ranks - 1 ? 3 : 4);
    wf_runner *r = NULL;
    const wf_status status = wf_runner_create(s, w->opencl, w->fabric, w->store, &r);
    char last[16];
    snprintf(last, sizeof last, "%d", ranks - 1);
    expect(status == WF_ERR_MISMATCH && !r && strstr(wf_last_error(), "do not fit") && strstr(wf_last_error(), last),
           "plans that differ were not found");
    wf_schedule_destroy(s);
}

static void try_timeout(world *w) {
    static wf_schedule *s; /* kept: a rank may still be in the runner's exchanges when this returns */
    static wf_runner *r;
    s = ring(w->fabric, 3);
    must(wf_runner_create(s, w->opencl, w->fabric, w->store, &r), "runner");
    write_own(r);
    const double begin = wf_clock_s();
    wf_status status = WF_ERR_TIMEOUT;
    if (rank != ranks - 1) status = wf_runner_run(r, &(wf_run_args){.timeout_s = 20});
    const double seconds = wf_clock_s() - begin;
    char me[32];
    snprintf(me, sizeof me, "rank %d, step turn.hop", rank);
    expect(status == WF_ERR_TIMEOUT && seconds < 10 && (rank == ranks - 1 || strstr(wf_last_error(), me)),
           "a rank that stays away is not reported in time");
    if (rank != ranks - 1)
        expect(wf_runner_run(r, &(wf_run_args){0}) != WF_OK, "a broken plan ran again");
    else
        expect(true, "");
    MPI_Barrier(MPI_COMM_WORLD);
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    static world w;
    open_world(&w, 30);
    try_ring(&w);
    try_mismatch(&w);
    close_world(&w);
    open_world(&w, 2);
    try_timeout(&w); /* leaves the ranks apart: nothing is closed after it */
    if (!rank)
        printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", 100 * (checks - failures) / checks, checks, failures);
    MPI_Finalize();
    return failures ? 1 : 0;
}
