/* bootstrap_mpi.c: ranks of a communicator, which is duplicated, so that no message of weft meets
 * one of the caller. After creation only MPI_Isend, MPI_Irecv, MPI_Test, and MPI_Cancel when a
 * deadline has passed. Requests come from a free list, so that a step allocates nothing. */
#include <stdlib.h>

#include "host/base/env.h"
#include "host/fabric/internal.h"
#include "host/fabric/mpi_calls.h"

typedef struct request {
    MPI_Request mpi;
    int64_t bytes;
    int32_t peer, tag;
    bool receives;
    struct request *next; /* in the free list */
} request;

typedef struct bootstrap_mpi {
    MPI_Comm comm;
    wf_mpi_calls calls;
    double timeout_s; /* of all_gather */
    request *free_list;
    wf_bootstrap copy;
} bootstrap_mpi;

static wf_status take(bootstrap_mpi *mpi, int32_t peer, int32_t tag, int64_t bytes, bool receives,
                      request **out) {
    request *one = mpi->free_list;
    if (one)
        mpi->free_list = one->next;
    else if (!(one = malloc(sizeof *one)))
        return wf_fail(WF_ERR_MEMORY, "no memory for an MPI request of %lld bytes",
                       (long long)bytes);
    *one = (request){
        .mpi = MPI_REQUEST_NULL, .bytes = bytes, .peer = peer, .tag = tag, .receives = receives};
    *out = one;
    return WF_OK;
}

static void give(bootstrap_mpi *mpi, request *one) {
    one->next = mpi->free_list;
    mpi->free_list = one;
}

static wf_status send(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes,
                      void **request_out) {
    bootstrap_mpi *mpi = self;
    request *one = NULL;
    TRY(take(mpi, to, tag, bytes, false, &one));
    const wf_status status = wf_mpi_isend(&mpi->calls, mpi->comm, data, bytes, to, tag, &one->mpi);
    if (status != WF_OK)
        give(mpi, one);
    else
        *request_out = one;
    return status;
}

static wf_status receive(void *self, int32_t from, int32_t tag, void *data, int64_t bytes,
                         void **request_out) {
    bootstrap_mpi *mpi = self;
    request *one = NULL;
    TRY(take(mpi, from, tag, bytes, true, &one));
    const wf_status status =
        wf_mpi_irecv(&mpi->calls, mpi->comm, data, bytes, from, tag, &one->mpi);
    if (status != WF_OK)
        give(mpi, one);
    else
        *request_out = one;
    return status;
}

static wf_status test(void *self, void **request_inout, bool *done) {
    bootstrap_mpi *mpi = self;
    request *one = *request_inout;
    int64_t received = 0;
    TRY(wf_mpi_test(&mpi->calls, &one->mpi, one->peer, one->tag, done, &received));
    if (!*done) return WF_OK;
    const request was = *one;
    give(mpi, one);
    *request_inout = NULL;
    if (was.receives && received != was.bytes)
        return wf_fail(WF_ERR_MISMATCH,
                       "rank %d sent %lld bytes with tag %d where %lld were expected", was.peer,
                       (long long)received, was.tag, (long long)was.bytes);
    return WF_OK;
}

/* A send cannot be cancelled safely: its request is let go and its bytes must stay. */
static bool cancel(void *self, void **request_inout) {
    bootstrap_mpi *mpi = self;
    request *one = *request_inout;
    *request_inout = NULL;
    if (!one) return true;
    const bool ended = wf_mpi_give_up(&mpi->calls, &one->mpi, one->receives);
    give(mpi, one);
    return ended;
}

static wf_status all_gather(void *self, const void *mine, int64_t bytes, void *all_out) {
    bootstrap_mpi *mpi = self;
    wf_members everyone = {.count = mpi->copy.ranks, .index = mpi->copy.rank};
    return wf_gather(&mpi->copy, &everyone, WF_TAG_BOOTSTRAP, mpi->timeout_s, mine, bytes, all_out);
}

static void destroy(void *self) {
    bootstrap_mpi *mpi = self;
    bool alive = false;
    if (!mpi) return;
    if (wf_mpi_alive(&mpi->calls, &alive) == WF_OK && alive)
        wf_mpi_comm_free(&mpi->calls, &mpi->comm);
    while (mpi->free_list) {
        request *const next = mpi->free_list->next;
        free(mpi->free_list);
        mpi->free_list = next;
    }
    free(mpi);
}

/* Numbers the nodes by the order of their first ranks. */
static wf_status number_nodes(wf_bootstrap *boot, int32_t first) {
    int32_t *firsts = malloc((size_t)boot->ranks * sizeof *firsts);
    if (!firsts) return wf_fail(WF_ERR_MEMORY, "no memory for the nodes of %d ranks", boot->ranks);
    const wf_status status = boot->all_gather(boot->self, &first, sizeof first, firsts);
    boot->node = 0;
    for (int32_t r = 0; status == WF_OK && r < first; r++) boot->node += firsts[r] == r;
    free(firsts);
    return status;
}

static wf_status join(bootstrap_mpi *mpi, MPI_Comm comm, int32_t *first_out) {
    bool alive = false;
    int rank, ranks, node_rank, node_ranks, first;
    TRY(wf_mpi_alive(&mpi->calls, &alive));
    if (!alive)
        return wf_fail(WF_ERR_FABRIC,
                       "MPI is not initialized (or already finalized): call MPI_Init_thread first");
    TRY(wf_mpi_duplicate(&mpi->calls, comm, &mpi->comm, &rank, &ranks));
    TRY(wf_mpi_node(&mpi->calls, mpi->comm, rank, &node_rank, &node_ranks, &first));
    mpi->copy = (wf_bootstrap){.name = "mpi",
                               .rank = rank,
                               .ranks = ranks,
                               .node_rank = node_rank,
                               .node_ranks = node_ranks,
                               .self = mpi,
                               .all_gather = all_gather,
                               .send = send,
                               .receive = receive,
                               .test = test,
                               .cancel = cancel,
                               .destroy = destroy};
    *first_out = first;
    return WF_OK;
}

wf_status wf_bootstrap_mpi(const void *mpi_comm, wf_bootstrap *out) {
    return wf_bootstrap_mpi_within(mpi_comm, 0, out);
}

wf_status wf_bootstrap_mpi_within(const void *mpi_comm, double timeout_s, wf_bootstrap *out) {
    if (!(timeout_s >= 0)) return wf_fail(WF_ERR_ARGUMENT, "a deadline of %g s is no deadline", timeout_s);
    bootstrap_mpi *mpi = calloc(1, sizeof *mpi);
    if (!mpi) return wf_fail(WF_ERR_MEMORY, "no memory for the MPI bootstrap");
    mpi->comm = MPI_COMM_NULL;
    wf_status status;
    int32_t first = 0;
    mpi->timeout_s = timeout_s;
    if (timeout_s == 0) TRY_GOTO(wf_env_seconds(WF_ENV_TIMEOUT_S, WF_TIMEOUT_S, &mpi->timeout_s), destroy_mpi);
    TRY_GOTO(join(mpi, *(const MPI_Comm *)mpi_comm, &first), destroy_mpi);
    TRY_GOTO(number_nodes(&mpi->copy, first), destroy_mpi);
    *out = mpi->copy;
    return WF_OK;

destroy_mpi:
    destroy(mpi);
    return status;
}

wf_mpi_calls *wf_bootstrap_mpi_calls(const wf_bootstrap *boot) {
    return &((bootstrap_mpi *)boot->self)->calls;
}
