/* bootstrap_mpi.c: ranks of a communicator, which is duplicated, so that no message of weft meets
 * one of the caller. That call alone blocks until all ranks have come, without a deadline, so no
 * rank keeps away from it for a failure of its own: each duplicates first, then all agree, by messages
 * that have a deadline, that they go on. So no MPI_Comm_split_type tells the nodes: a rank whose part
 * of the agreement fails when the others have theirs would leave them in it for good. After creation only MPI_Isend, MPI_Irecv, MPI_Test, and MPI_Cancel when a
 * deadline has passed. Requests come from a free list, so that a step allocates nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/base/env.h"
#include "host/base/log.h"
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
    bool gave_up;     /* on a message, so on whoever should have sent or taken it */
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
    mpi->gave_up = true;
    const bool ended = wf_mpi_give_up(&mpi->calls, &one->mpi, one->receives);
    give(mpi, one);
    return ended;
}

static wf_status all_gather(void *self, const void *mine, int64_t bytes, void *all_out) {
    bootstrap_mpi *mpi = self;
    wf_members everyone = {.count = mpi->copy.ranks, .index = mpi->copy.rank};
    return wf_gather(&mpi->copy, &everyone, WF_TAG_BOOTSTRAP, mpi->timeout_s, mine, bytes, all_out);
}

/* Open MPI uses a context id again once its communicator is freed, and keeps what arrives for an id that is not in use:
 * a late message would be taken for one of the next communicator's, which then waits for good. So each rank says that it
 * sends no more, and what it sent before has come when that has (messages of a pair arrive in order). Who has given up
 * on another does not wait. */
static bool all_have_said_goodbye(bootstrap_mpi *mpi) {
    if (mpi->comm == MPI_COMM_NULL || wf_mpi_ended()) return true;
    const bool gave_up = mpi->gave_up;
    wf_members everyone = {.count = mpi->copy.ranks, .index = mpi->copy.rank};
    const char mine = 0;
    char first[WF_TEXT_BYTES]; /* what failed before is still to be told */
    snprintf(first, sizeof first, "%s", wf_last_error());
    char *const all = malloc((size_t)mpi->copy.ranks);
    const wf_status status = !all ? WF_ERR_MEMORY
                                  : wf_gather(&mpi->copy, &everyone, WF_TAG_GOODBYE, gave_up ? 0 : mpi->timeout_s, &mine, 1, all);
    free(all);
    if (status != WF_OK) wf_fail(status, "%s", first);
    return status == WF_OK;
}

/* A communicator that cannot be freed stays; there is nobody to tell. */
static void end(bootstrap_mpi *mpi) {
    if (all_have_said_goodbye(mpi)) (void)wf_mpi_comm_free(&mpi->calls, &mpi->comm);
    while (mpi->free_list) {
        request *const next = mpi->free_list->next;
        free(mpi->free_list);
        mpi->free_list = next;
    }
}

static void destroy(void *self) {
    if (self) end(self);
    free(self);
}

/* Ranks that share memory: one machine since one boot, and one view of /proc, by which they open each
 * other's (host/fabric/share.c). */
typedef struct place {
    char host[64], boot[40];
    uint64_t space; /* the inode of its PID namespace */
} place;

static void find_place(place *out) {
    struct stat space;
    *out = (place){0};
    (void)gethostname(out->host, sizeof out->host - 1);
    FILE *const file = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (file && !fgets(out->boot, sizeof out->boot, file)) *out->boot = 0;
    if (file) fclose(file);
    if (stat("/proc/self/ns/pid", &space) == 0) out->space = space.st_ino;
}

/* Numbers the nodes by the order of their first ranks. */
static wf_status find_node(wf_bootstrap *boot) {
    place mine, *const all = malloc((size_t)boot->ranks * sizeof *all);
    if (!all) return wf_fail(WF_ERR_MEMORY, "no memory for the nodes of %d ranks", boot->ranks);
    find_place(&mine);
    const wf_status status = boot->all_gather(boot->self, &mine, sizeof mine, all);
    boot->node = boot->node_rank = boot->node_ranks = 0;
    bool found = false;
    for (int32_t r = 0; status == WF_OK && r < boot->ranks; r++) {
        const bool here = memcmp(&all[r], &mine, sizeof mine) == 0;
        boot->node_rank += here && r < boot->rank;
        boot->node_ranks += here;
        found = found || here;
        bool first = !found;
        for (int32_t before = 0; first && before < r; before++)
            first = memcmp(&all[before], &all[r], sizeof mine) != 0;
        boot->node += first;
    }
    free(all);
    return status;
}

/* Takes part in the duplication with a failure too: only where MPI is known not to run does nobody. */
static wf_status join(bootstrap_mpi *mpi, MPI_Comm comm, wf_status mine) {
    bool alive = true;
    int rank, ranks;
    char first[WF_TEXT_BYTES] = ""; /* the first failure is the one to tell */
    if (mine == WF_OK) mine = wf_mpi_alive(&mpi->calls, &alive);
    if (!alive)
        return wf_fail(WF_ERR_FABRIC,
                       "MPI is not initialized (or already finalized): call MPI_Init_thread first");
    if (mine != WF_OK) snprintf(first, sizeof first, "%s", wf_last_error());
    const wf_status status = wf_mpi_duplicate(&mpi->calls, comm, &mpi->comm, &rank, &ranks);
    if (mine != WF_OK) wf_fail(mine, "%s", first);
    if (status != WF_OK) return mine == WF_OK ? status : mine;
    mpi->copy = (wf_bootstrap){.name = "mpi",
                               .rank = rank,
                               .ranks = ranks,
                               .self = mpi,
                               .all_gather = all_gather,
                               .send = send,
                               .receive = receive,
                               .test = test,
                               .cancel = cancel,
                               .destroy = destroy};
    return wf_bootstrap_agree(&mpi->copy, mpi->timeout_s, mine);
}

wf_status wf_bootstrap_mpi(const void *mpi_comm, wf_bootstrap *out) {
    return wf_bootstrap_mpi_within(mpi_comm, 0, WF_OK, out);
}

wf_status wf_bootstrap_mpi_within(const void *mpi_comm, double timeout_s, wf_status mine, wf_bootstrap *out) {
    bootstrap_mpi without = {0}; /* of a rank that has no memory, until it has told the others */
    bootstrap_mpi *const made = calloc(1, sizeof *made), *const mpi = made ? made : &without;
    mpi->comm = MPI_COMM_NULL;
    mpi->timeout_s = timeout_s > 0 ? timeout_s : WF_TIMEOUT_S;
    wf_status status = mine;
    if (status == WF_OK && !made) status = wf_fail(WF_ERR_MEMORY, "no memory for the MPI bootstrap");
    if (status == WF_OK && !(timeout_s >= 0)) status = wf_fail(WF_ERR_ARGUMENT, "a deadline of %g s is no deadline", timeout_s);
    if (status == WF_OK && timeout_s == 0) status = wf_env_seconds(WF_ENV_TIMEOUT_S, WF_TIMEOUT_S, &mpi->timeout_s);
    status = join(mpi, *(const MPI_Comm *)mpi_comm, status);
    TRY_GOTO(status, end_mpi);
    TRY_GOTO(find_node(&mpi->copy), end_mpi);
    *out = mpi->copy;
    return WF_OK;

end_mpi:
    end(mpi);
    free(made);
    return status;
}

wf_mpi_calls *wf_bootstrap_mpi_calls(const wf_bootstrap *boot) {
    return &((bootstrap_mpi *)boot->self)->calls;
}
