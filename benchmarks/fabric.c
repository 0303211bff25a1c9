/* fabric.c: how fast two ranks exchange device memory, per transport and size, beside this host's
 * memcpy. Run: mpirun -np 2 benchmarks/fabric. Least of several rounds: the machine may be shared.
 *   one way  half a round trip of one message (seconds: latency at small sizes)
 *   both     each rank sends and receives at once; GB/s counts the bytes sent by one rank */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/fabric/fabric.h"

enum { ROUNDS = 7, SMALLEST = 4096, LARGEST = 16 << 20 };

typedef struct bench {
    wf_fabric *fabric;
    wf_opencl *device;
    wf_memory *out, *in;
    wf_transport_kind kind;
    int peer;
    bool first;
} bench;

static wf_status hop(bench *b, int64_t send_bytes, int64_t receive_bytes) {
    const wf_message send = {.memory = b->out, .bytes = send_bytes, .peer = b->peer};
    const wf_message receive = {.memory = b->in, .bytes = receive_bytes, .peer = b->peer};
    wf_transfer *transfer = NULL;
    bool done = false;
    TRY(wf_fabric_start(b->fabric, WF_LANE_TP, b->kind, &send, b->kind, &receive, &transfer));
    for (int64_t idle = 0; !done; idle++) {
        TRY(wf_fabric_test(b->fabric, &transfer, &done));
        if (!done) wf_fabric_pause(b->fabric, idle);
    }
    return WF_OK;
}

static wf_status round_trip(bench *b, int64_t bytes) {
    TRY(hop(b, b->first ? bytes : 0, b->first ? 0 : bytes));
    return hop(b, b->first ? 0 : bytes, b->first ? bytes : 0);
}

static wf_status both_ways(bench *b, int64_t bytes) {
    return hop(b, bytes, bytes);
}

/* Seconds of one call, the least of all rounds. */
static wf_status measure(bench *b, wf_status (*work)(bench *, int64_t), int64_t bytes,
                         double *best_out) {
    const int repeats = bytes <= 65536 ? 50 : bytes <= 1 << 20 ? 10 : 3;
    *best_out = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        TRY(wf_fabric_barrier(b->fabric));
        const double start_s = wf_clock_s();
        for (int i = 0; i < repeats; i++) TRY(work(b, bytes));
        const double each_s = (wf_clock_s() - start_s) / repeats;
        if (each_s < *best_out) *best_out = each_s;
    }
    return WF_OK;
}

static double copy_rate(int64_t bytes) {
    char *const from = malloc((size_t)bytes), *const to = malloc((size_t)bytes);
    double best_s = 1e9;
    memset(from, 1, (size_t)bytes);
    memset(to, 2, (size_t)bytes);
    for (int round = 0; round < 5 * ROUNDS; round++) {
        const double start_s = wf_clock_s();
        memcpy(to, from, (size_t)bytes);
        const double took_s = wf_clock_s() - start_s;
        if (took_s < best_s) best_s = took_s;
        from[round] ^= to[bytes - 1 - round]; /* keeps the copy */
    }
    free(from);
    free(to);
    return (double)bytes / best_s * 1e-9;
}

static wf_status report(bench *b, const char *name) {
    for (int64_t bytes = SMALLEST; bytes <= LARGEST; bytes *= 4) {
        double trip_s, both_s;
        TRY(measure(b, round_trip, bytes, &trip_s));
        TRY(measure(b, both_ways, bytes, &both_s));
        const double memcpy_rate = copy_rate(bytes);
        if (b->first)
            printf("%-7s %9lld bytes  one way %9.1f us %7.2f GB/s  both %7.2f GB/s  memcpy %7.2f "
                   "GB/s\n",
                   name, (long long)bytes, 0.5e6 * trip_s, 2e-9 * (double)bytes / trip_s,
                   1e-9 * (double)bytes / both_s, memcpy_rate);
    }
    return WF_OK;
}

static wf_status bench_transport(bench *b, const wf_bootstrap *boot, wf_transport_kind kind,
                                 const char *name) {
    const wf_fabric_options options = {.force = kind};
    wf_status status = wf_fabric_create(boot, b->device, &options, &b->fabric);
    if (status == WF_ERR_FABRIC) { /* all ranks come here together */
        if (b->first) printf("%-7s %s\n", name, wf_last_error());
        return WF_OK;
    }
    TRY(status);
    b->kind = kind;
    const bool window = kind == WF_TRANSPORT_WINDOW;
    TRY_GOTO(window ? wf_fabric_window_create(b->fabric, LARGEST, &b->out)
                    : wf_memory_create(b->device, LARGEST, &b->out),
             destroy_fabric);
    TRY_GOTO(wf_memory_create(b->device, LARGEST, &b->in), destroy_out);
    status = report(b, name);
    wf_memory_destroy(b->in);

destroy_out:
    if (window)
        wf_fabric_window_destroy(b->fabric, b->out);
    else
        wf_memory_destroy(b->out);
destroy_fabric:
    wf_fabric_destroy(b->fabric);
    return status;
}

static wf_status run(void) {
    const MPI_Comm world = MPI_COMM_WORLD;
    wf_bootstrap boot;
    bench b = {0};
    TRY(wf_bootstrap_mpi(&world, &boot));
    wf_status status = WF_OK;
    if (boot.ranks != 2)
        TRY_GOTO(wf_fail(WF_ERR_ARGUMENT, "needs 2 ranks: mpirun -np 2"), destroy_boot);
    b.first = boot.rank == 0;
    b.peer = 1 - boot.rank;
    TRY_GOTO(wf_opencl_create(
                 &(wf_opencl_options){.node_rank = boot.node_rank, .node_ranks = boot.node_ranks},
                 &b.device),
             destroy_boot);
    status = bench_transport(&b, &boot, WF_TRANSPORT_MPI, "mpi");
    if (status == WF_OK) status = bench_transport(&b, &boot, WF_TRANSPORT_STAGED, "staged");
    if (status == WF_OK) status = bench_transport(&b, &boot, WF_TRANSPORT_WINDOW, "window");
    wf_opencl_destroy(b.device);

destroy_boot:
    boot.destroy(boot.self);
    return status;
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    const wf_status status = run();
    if (status != WF_OK) {
        fprintf(stderr, "%s\n", wf_last_error());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    MPI_Finalize();
    return 0;
}
