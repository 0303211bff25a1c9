/* collectives.h: one collective at one size, and the ways to do it that are timed: the fabric's over each of its
 * transports, on device memory (over_fabric.c), Open MPI's own and a plain copy, on host memory (over_mpi.c).
 *
 * Numbers are f32. A block is what one rank sends to one other; an array has one block of each rank or for each.
 *
 *     all-gather      whole[r] = block of rank r; the own one lies there already     block = size
 *     reduce-scatter  whole[me] = sum over r of rank r's out[me]                     block = size / ranks
 *     all-reduce      both of them: whole = sum over r of rank r's out
 *     all-to-all      in[r] = rank r's out[me]; the own block is moved by nobody: a schedule's producers write it where it belongs
 *     ring-shift      in = out of the rank before                                    block = size
 *     send-receive    in = out of rank ^ 1: there, then back; timed is half of that
 *
 * What a rank must write is what it receives, and of sums the result. (Over a window it reads what it
 * sums where that lies; the same is counted.) */
#ifndef WF_BENCHMARKS_COLLECTIVES_H
#define WF_BENCHMARKS_COLLECTIVES_H

#include "host/fabric/fabric.h"
#include "host/run/bench.h"

typedef enum collective { ALL_GATHER, REDUCE_SCATTER, ALL_REDUCE, ALL_TO_ALL, RING_SHIFT, SEND_RECEIVE, COLLECTIVES } collective;
typedef enum array { OUT, WHOLE, IN, ARRAYS } array;

enum { COLUMNS = 64, MOST_SUMMED = 8 }; /* a block is a matrix of so many columns; REDUCE adds so many parts */

typedef struct task {
    collective what;
    int32_t rank, ranks;
    int64_t block; /* floats */
} task;

extern const char *const collective_names[COLLECTIVES];
/* size: bytes that a rank contributes, rounded down to whole rows of blocks. false: it is too small, or the ranks too many. */
bool task_make(collective, int32_t rank, int32_t ranks, int64_t size, task *out);
int64_t task_size_bytes(const task *);
/* What a rank must write. */
int64_t task_written_bytes(const task *);
int64_t task_array_bytes(const task *, array);
/* Element i of what `rank` contributes. */
float task_value(int32_t rank, int64_t i);
/* Where a rank's contribution begins in its arrays, and how long it is. */
void task_source(const task *, array *, int64_t *first, int64_t *count);
/* Where the result lies, and what its i-th element (of the array) must be. */
void task_result(const task *, array *, int64_t *first, int64_t *count);
float task_expected(const task *, int64_t i);
/* The first wrong number of a result is WF_ERR_MISMATCH. `name`: of the way. */
wf_status task_check(const task *, const float *result, const char *name);

/* Host memory as a CPU device's: whole huge pages, where the system grants them. */
float *host_pages(int64_t bytes);

/* ---- the fabric's ---- */

typedef struct over_fabric over_fabric;
/* Collective. Arrays for tasks up to `most` bytes. Of several transports each has memory of its own. */
wf_status over_fabric_create(wf_fabric *, wf_opencl *, wf_transport_kind, int64_t most, over_fabric **out);
/* Collective. */
void over_fabric_destroy(over_fabric *);
/* Collective. Prepares the task, runs it once and checks what arrived. The item is good until the next call. */
wf_status over_fabric_prepare(over_fabric *, const task *, wf_bench_item *out);

/* ---- Open MPI's own, and a copy ---- */

typedef struct over_mpi over_mpi;
wf_status over_mpi_create(int32_t ranks, int64_t most, over_mpi **out);
void over_mpi_destroy(over_mpi *);
wf_status over_mpi_prepare(over_mpi *, const task *, wf_bench_item *out);
/* memcpy of as many bytes as the task has a rank write. */
wf_bench_item over_mpi_copy(over_mpi *, const task *);

#endif
