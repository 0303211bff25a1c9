/* mpi_calls.c: wrappers of the MPI calls that weft uses; see the header. */
#include "host/fabric/mpi_calls.h"

#include <limits.h>
#include <stdio.h>

static const char *const names[WF_MPI_CALLS] = {
    [WF_MPI_NONE] = "nothing",
    [WF_MPI_INITIALIZED] = "MPI_Initialized",
    [WF_MPI_COMM_DUP] = "MPI_Comm_dup",
    [WF_MPI_SET_ERRHANDLER] = "MPI_Comm_set_errhandler",
    [WF_MPI_COMM_SIZE] = "MPI_Comm_size",
    [WF_MPI_COMM_RANK] = "MPI_Comm_rank",
    [WF_MPI_ISEND] = "MPI_Isend",
    [WF_MPI_IRECV] = "MPI_Irecv",
    [WF_MPI_TEST] = "MPI_Test",
    [WF_MPI_GET_COUNT] = "MPI_Get_count",
    [WF_MPI_CANCEL] = "MPI_Cancel",
    [WF_MPI_REQUEST_FREE] = "MPI_Request_free",
    [WF_MPI_COMM_FREE] = "MPI_Comm_free",
};

/* true: this use is to fail, the call is not made. */
static bool injected(wf_mpi_calls *calls, wf_mpi_call call) {
    return ++calls->used[call] == calls->fail_at && call == calls->fail;
}

static wf_status report(wf_mpi_call call, int code, const char *about) {
    char text[MPI_MAX_ERROR_STRING] = "no text";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return wf_fail(WF_ERR_FABRIC, "%s%s failed: %s (MPI code %d)", names[call], about, text, code);
}

/* Makes the call unless it is to fail; its code, checked. */
#define CALL(calls, id, about, expression)                                                         \
    do {                                                                                           \
        const int code_ = injected(calls, id) ? MPI_ERR_OTHER : (expression);                      \
        if (code_ != MPI_SUCCESS) return report(id, code_, about);                                 \
    } while (0)

static void describe(char *text, size_t size, int64_t bytes, const char *way, int peer, int tag) {
    if (bytes < 0)
        snprintf(text, size, " (%s rank %d, tag %d)", way, peer, tag);
    else
        snprintf(text, size, " (%lld bytes %s rank %d, tag %d)", (long long)bytes, way, peer, tag);
}

wf_status wf_mpi_alive(wf_mpi_calls *calls, bool *alive_out) {
    int initialized = 0, finalized = 0;
    CALL(calls, WF_MPI_INITIALIZED, "", MPI_Initialized(&initialized));
    CALL(calls, WF_MPI_INITIALIZED, "", MPI_Finalized(&finalized));
    *alive_out = initialized && !finalized;
    return WF_OK;
}

wf_status wf_mpi_duplicate(wf_mpi_calls *calls, MPI_Comm comm, MPI_Comm *out, int *rank_out,
                           int *ranks_out) {
    CALL(calls, WF_MPI_COMM_DUP, "", MPI_Comm_dup(comm, out));
    CALL(calls, WF_MPI_SET_ERRHANDLER, "", MPI_Comm_set_errhandler(*out, MPI_ERRORS_RETURN));
    CALL(calls, WF_MPI_COMM_SIZE, "", MPI_Comm_size(*out, ranks_out));
    CALL(calls, WF_MPI_COMM_RANK, "", MPI_Comm_rank(*out, rank_out));
    return WF_OK;
}

wf_status wf_mpi_isend(wf_mpi_calls *calls, MPI_Comm comm, const void *data, int64_t bytes, int to,
                       int tag, MPI_Request *out) {
    char about[96];
    describe(about, sizeof about, bytes, "to", to, tag);
    if (bytes < 0 || bytes > INT_MAX)
        return wf_fail(WF_ERR_ARGUMENT, "MPI_Isend%s: one message holds 0 to %d bytes", about,
                       INT_MAX);
    CALL(calls, WF_MPI_ISEND, about, MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, comm, out));
    return WF_OK;
}

wf_status wf_mpi_irecv(wf_mpi_calls *calls, MPI_Comm comm, void *data, int64_t bytes, int from,
                       int tag, MPI_Request *out) {
    char about[96];
    describe(about, sizeof about, bytes, "from", from, tag);
    if (bytes < 0 || bytes > INT_MAX)
        return wf_fail(WF_ERR_ARGUMENT, "MPI_Irecv%s: one message holds 0 to %d bytes", about,
                       INT_MAX);
    CALL(calls, WF_MPI_IRECV, about, MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag, comm, out));
    return WF_OK;
}

wf_status wf_mpi_test(wf_mpi_calls *calls, MPI_Request *request, int peer, int tag, bool *done_out,
                      int64_t *received_out) {
    int done = 0, count = 0, class = MPI_SUCCESS;
    MPI_Status status;
    char about[96];
    describe(about, sizeof about, -1, "with", peer, tag);
    const int code =
        injected(calls, WF_MPI_TEST) ? MPI_ERR_OTHER : MPI_Test(request, &done, &status);
    if (code != MPI_SUCCESS) {
        MPI_Error_class(code, &class);
        if (class == MPI_ERR_TRUNCATE)
            return wf_fail(WF_ERR_MISMATCH, "a message%s is longer than the receiver expects",
                           about);
        return report(WF_MPI_TEST, code, about);
    }
    if (done) {
        CALL(calls, WF_MPI_GET_COUNT, about, MPI_Get_count(&status, MPI_BYTE, &count));
        *received_out = count == MPI_UNDEFINED ? -1 : count;
    }
    *done_out = done;
    return WF_OK;
}

/* The code, without a sentence: what is given up or freed follows a failure that has told its own. */
#define CODE(calls, id, expression) (injected(calls, id) ? MPI_ERR_OTHER : (expression))

/* What MPI made tells that it was initialized; where it cannot say whether it has ended, it has not. */
bool wf_mpi_ended(void) {
    int finalized = 0;
    return MPI_Finalized(&finalized) == MPI_SUCCESS && finalized;
}

/* Has MPI ended it? A receive that is already being filled cannot be cancelled. */
static bool end_early(wf_mpi_calls *calls, MPI_Request *request, bool receives) {
    enum {
        PATIENCE = 1000 /* tests */
    };
    int done = 0;
    if (receives && CODE(calls, WF_MPI_CANCEL, MPI_Cancel(request)) != MPI_SUCCESS) return false;
    for (int i = 0; i < (receives ? PATIENCE : 1) && !done; i++)
        if (CODE(calls, WF_MPI_TEST, MPI_Test(request, &done, MPI_STATUS_IGNORE)) != MPI_SUCCESS)
            return false;
    return done;
}

bool wf_mpi_give_up(wf_mpi_calls *calls, MPI_Request *request, bool receives) {
    if (*request == MPI_REQUEST_NULL) return true; /* MPI is through with it; what failed came after */
    if (wf_mpi_ended()) return false;
    if (end_early(calls, request, receives)) return true;
    (void)CODE(calls, WF_MPI_REQUEST_FREE, MPI_Request_free(request)); /* or else it stays */
    return false;
}

bool wf_mpi_comm_free(wf_mpi_calls *calls, MPI_Comm *comm) {
    return *comm == MPI_COMM_NULL || wf_mpi_ended() ||
           CODE(calls, WF_MPI_COMM_FREE, MPI_Comm_free(comm)) == MPI_SUCCESS;
}
