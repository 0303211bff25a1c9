/* over_mpi.c: the collectives as Open MPI does them, on host memory, and a plain copy to measure all by. */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "benchmarks/fabric/collectives.h"

struct over_mpi {
    task task;
    float *array[ARRAYS], *from, *to;
    int *count, *place; /* [ranks]: what all-to-all sends to each, and where that lies */
};

static int all_gather(over_mpi *m) {
    const int count = (int)m->task.block;
    return MPI_Allgather(MPI_IN_PLACE, 0, MPI_FLOAT, m->array[WHOLE], count, MPI_FLOAT, MPI_COMM_WORLD);
}

static int reduce_scatter(over_mpi *m) {
    const task *const t = &m->task;
    int counts[MOST_SUMMED];
    for (int r = 0; r < t->ranks; r++) counts[r] = (int)t->block;
    return MPI_Reduce_scatter(m->array[OUT], m->array[WHOLE] + t->rank * t->block, counts, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static int all_reduce(over_mpi *m) {
    return MPI_Allreduce(m->array[OUT], m->array[WHOLE], (int)(m->task.block * m->task.ranks), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

/* All but the own block: its count is 0. */
static int all_to_all(over_mpi *m) {
    return MPI_Alltoallv(m->array[OUT], m->count, m->place, MPI_FLOAT, m->array[IN], m->count, m->place, MPI_FLOAT, MPI_COMM_WORLD);
}

static int ring_shift(over_mpi *m) {
    const task *const t = &m->task;
    const int count = (int)t->block, to = (t->rank + 1) % t->ranks, from = (t->rank + t->ranks - 1) % t->ranks;
    return MPI_Sendrecv(m->array[OUT], count, MPI_FLOAT, to, 0, m->array[IN], count, MPI_FLOAT, from, 0, MPI_COMM_WORLD,
                        MPI_STATUS_IGNORE);
}

static int send_receive(over_mpi *m) {
    const task *const t = &m->task;
    const int count = (int)t->block, peer = t->rank ^ 1;
    if (peer >= t->ranks) return MPI_SUCCESS;
    for (int way = 0; way < 2; way++) {
        const int code = t->rank % 2 == way
                             ? MPI_Send(m->array[OUT], count, MPI_FLOAT, peer, 0, MPI_COMM_WORLD)
                             : MPI_Recv(m->array[IN], count, MPI_FLOAT, peer, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) return code;
    }
    return MPI_SUCCESS;
}

static int (*const ways[COLLECTIVES])(over_mpi *) = {all_gather, reduce_scatter, all_reduce, all_to_all, ring_shift, send_receive};

static wf_status run(void *self, int64_t times) {
    over_mpi *const m = self;
    for (int64_t i = 0; i < times; i++) {
        const int code = ways[m->task.what](m);
        if (code != MPI_SUCCESS)
            return wf_fail(WF_ERR_FABRIC, "Open MPI's %s failed with code %d", collective_names[m->task.what], code);
    }
    return WF_OK;
}

/* The last number of each copy becomes the first of the next: no compiler leaves one out. */
static wf_status copy(void *self, int64_t times) {
    over_mpi *const m = self;
    const size_t bytes = (size_t)task_written_bytes(&m->task);
    for (int64_t i = 0; i < times; i++) {
        memcpy(m->to, m->from, bytes);
        m->from[0] = m->to[bytes / sizeof(float) - 1];
    }
    return WF_OK;
}

wf_status over_mpi_create(int32_t ranks, int64_t most, over_mpi **out) {
    over_mpi *const m = calloc(1, sizeof *m);
    if (m) {
        m->array[OUT] = host_pages(most);
        m->array[WHOLE] = host_pages(ranks * most);
        m->array[IN] = host_pages(most);
        m->from = host_pages(ranks * most);
        m->to = host_pages(ranks * most);
        m->count = calloc((size_t)ranks, sizeof *m->count);
        m->place = calloc((size_t)ranks, sizeof *m->place);
    }
    *out = m;
    if (m && m->array[OUT] && m->array[WHOLE] && m->array[IN] && m->from && m->to && m->count && m->place) return WF_OK;
    return wf_fail(WF_ERR_MEMORY, "no host memory for collectives of %lld bytes by %d ranks", (long long)most, ranks);
}

void over_mpi_destroy(over_mpi *m) {
    if (!m) return;
    for (int i = 0; i < ARRAYS; i++) free(m->array[i]);
    free(m->from);
    free(m->to);
    free(m->count);
    free(m->place);
    free(m);
}

wf_status over_mpi_prepare(over_mpi *m, const task *t, wf_bench_item *out) {
    array which;
    int64_t first, count;
    m->task = *t;
    for (int r = 0; r < t->ranks; r++) m->count[r] = r == t->rank ? 0 : (int)t->block, m->place[r] = (int)(r * t->block);
    for (int a = 0; a < ARRAYS; a++) memset(m->array[a], 0xff, (size_t)task_array_bytes(t, (array)a));
    task_source(t, &which, &first, &count);
    for (int64_t i = 0; i < count; i++) m->array[which][first + i] = task_value(t->rank, i);
    TRY(run(m, 1));
    task_result(t, &which, &first, &count);
    TRY(task_check(t, m->array[which], "Open MPI"));
    *out = (wf_bench_item){.run = run, .self = m};
    return WF_OK;
}

wf_bench_item over_mpi_copy(over_mpi *m, const task *t) {
    m->task = *t;
    return (wf_bench_item){.run = copy, .self = m};
}
