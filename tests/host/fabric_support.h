/* fabric_support.h: what the MPI suites share. Every rank plays every test; an assertion is a
 * verdict that all ranks have reduced, so that one rank's failure fails all and none is left
 * waiting. */
#ifndef WF_TESTS_FABRIC_SUPPORT_H
#define WF_TESTS_FABRIC_SUPPORT_H

#include <check.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/fabric/fabric.h"

static int world_rank, world_ranks;

/* All ranks agree whether all are content; the first discontent one says why. */
static inline bool all_good(bool good, const char *what, int line) {
    int mine = good ? world_ranks : world_rank, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!good)
        fprintf(stderr, "rank %d, line %d: %s (last sentence: %s)\n", world_rank, line, what,
                wf_last_error());
    return first == world_ranks;
}

/* Collective. */
#define verdict(condition)                                                                         \
    ck_assert_msg(all_good((condition), #condition, __LINE__), "a rank failed: %s", #condition)
#define good(expression) verdict((expression) == WF_OK)

static inline bool says(const char *text) {
    return strstr(wf_last_error(), text) != NULL;
}

static inline uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* Runs the suite on every rank, in this process; rank 0 prints. */
static inline int run_suite(Suite *suite) {
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, world_rank == 0 ? CK_NORMAL : CK_SILENT);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}

static inline void begin_mpi(int *argc, char ***argv) {
    int provided;
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_ranks);
}

/* ---- what each test begins with ---- */

enum {
    CHUNK = 1 << 16,
    SHORT_MS = 300,
    PATIENCE_S = 8
}; /* PATIENCE_S: a failure must not cost a minute */
static const double SHORT_S = SHORT_MS / 1000.0;

static uint32_t seed;
static wf_bootstrap boot;
static wf_opencl *device;

/* Once for all tests: opening a device takes longer than most of them. */
static inline void open_device(void) {
    const MPI_Comm world = MPI_COMM_WORLD;
    wf_bootstrap first;
    good(wf_bootstrap_mpi(&world, &first));
    good(wf_opencl_create(
        &(wf_opencl_options){.node_rank = first.node_rank, .node_ranks = first.node_ranks},
        &device));
    first.destroy(first.self);
}

static inline void close_device(void) {
    wf_opencl_destroy(device);
}

/* For each test: messages that a failed one has left behind stay in its own communicator. */
static inline void open_boot(void) {
    const MPI_Comm world = MPI_COMM_WORLD;
    good(wf_bootstrap_mpi(&world, &boot));
}

static inline void close_boot(void) {
    boot.destroy(boot.self);
}

static inline wf_fabric *open_fabric(wf_transport_kind force) {
    wf_fabric *fabric = NULL;
    good(wf_fabric_create(
        &boot, device,
        &(wf_fabric_options){.force = force, .timeout_s = PATIENCE_S, .chunk_bytes = CHUNK},
        &fabric));
    return fabric;
}

/* Its deadline is short only once it is open: on a busy machine, opening may take a while. */
static inline wf_fabric *open_impatient(wf_transport_kind force) {
    wf_fabric *const fabric = open_fabric(force);
    fabric->timeout_s = SHORT_S;
    return fabric;
}

/* To its end. */
static inline wf_status finish(wf_fabric *fabric, wf_transfer **transfer) {
    bool done = false;
    for (int64_t idle = 0; !done; idle++) {
        TRY(wf_fabric_test(fabric, transfer, &done));
        wf_fabric_pause(fabric, idle);
    }
    return WF_OK;
}

/* Memory that a transport sends from. */
static inline wf_memory *outgoing(wf_fabric *fabric, wf_transport_kind kind, int64_t bytes) {
    wf_memory *memory = NULL;
    if (kind == WF_TRANSPORT_WINDOW)
        good(wf_fabric_window_create(fabric, bytes, &memory));
    else
        good(wf_memory_create(device, bytes, &memory));
    return memory;
}

static inline void give_back(wf_fabric *fabric, wf_transport_kind kind, wf_memory *memory) {
    if (kind == WF_TRANSPORT_WINDOW)
        wf_fabric_window_destroy(fabric, memory);
    else
        wf_memory_destroy(memory);
}

static inline wf_status put(wf_memory *memory, const void *data, int64_t bytes) {
    return wf_memory_put(device, memory, 0, data, bytes);
}

static inline wf_status get(wf_memory *memory, void *data, int64_t bytes) {
    return wf_memory_get(device, memory, 0, data, bytes);
}

enum { BURST = WF_POSTS + 5 };

/* The fabric's tests of one topic, with these fixtures. */
static inline TCase *fabric_case(const char *topic) {
    TCase *const all = tcase_create(topic);
    tcase_add_unchecked_fixture(all, open_device, close_device);
    tcase_add_checked_fixture(all, open_boot, close_boot);
    tcase_set_timeout(all, 0);
    return all;
}

/* A whole program of them. Argument: a seed. */
static inline int fabric_main(int argc, char **argv, TCase *(*tests)(void)) {
    Suite *const suite = suite_create("fabric");
    begin_mpi(&argc, &argv);
    seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1;
    suite_add_tcase(suite, tests());
    const int failed = run_suite(suite);
    if (failed && world_rank == 0)
        fprintf(stderr, "seed %u; again with: mpirun -np %d %s %u\n", seed, world_ranks, argv[0],
                seed);
    MPI_Finalize();
    return failed;
}

#endif
