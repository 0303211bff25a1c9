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

#endif
