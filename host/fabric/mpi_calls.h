/* mpi_calls.h: the only door to MPI. Each wrapper turns a code into a sentence that names the call
 * and what it was about, and can be made to fail at its n-th use, so that tests reach every error
 * path. One table per bootstrap: nothing is state of the process. */
#ifndef WF_FABRIC_MPI_CALLS_H
#define WF_FABRIC_MPI_CALLS_H

#include <mpi.h>

#include "host/fabric/fabric.h"

typedef enum wf_mpi_call {
    WF_MPI_NONE,
    WF_MPI_INITIALIZED,
    WF_MPI_COMM_DUP,
    WF_MPI_SET_ERRHANDLER,
    WF_MPI_COMM_SIZE,
    WF_MPI_COMM_RANK,
    WF_MPI_ISEND,
    WF_MPI_IRECV,
    WF_MPI_TEST,
    WF_MPI_GET_COUNT,
    WF_MPI_CANCEL,
    WF_MPI_REQUEST_FREE,
    WF_MPI_COMM_FREE,
    WF_MPI_CALLS
} wf_mpi_call;

typedef struct wf_mpi_calls {
    int64_t used[WF_MPI_CALLS];
    wf_mpi_call fail; /* this call fails ... */
    int64_t fail_at;  /* ... at its use number fail_at, from 1; 0: never */
} wf_mpi_calls;

/* The table behind a bootstrap made by wf_bootstrap_mpi. */
wf_mpi_calls *wf_bootstrap_mpi_calls(const wf_bootstrap *);

/* MPI is initialized and not yet finalized. */
wf_status wf_mpi_alive(wf_mpi_calls *, bool *alive_out);
/* A duplicate whose errors return, with its size and this rank's number. Blocks until all ranks have
 * come here. What fails after the duplication leaves the communicator in `out`. */
wf_status wf_mpi_duplicate(wf_mpi_calls *, MPI_Comm, MPI_Comm *out, int *rank_out, int *ranks_out);
wf_status wf_mpi_isend(wf_mpi_calls *, MPI_Comm, const void *, int64_t bytes, int to, int tag,
                       MPI_Request *out);
wf_status wf_mpi_irecv(wf_mpi_calls *, MPI_Comm, void *, int64_t bytes, int from, int tag,
                       MPI_Request *out);
/* received_out: bytes that came, when done. peer and tag are for the sentence; a longer message
 * than was posted is WF_ERR_MISMATCH. */
wf_status wf_mpi_test(wf_mpi_calls *, MPI_Request *, int peer, int tag, bool *done_out,
                      int64_t *received_out);
/* Lets go of a request that nobody waits for any more: a receive is cancelled, a send is left to
 * end by itself. false: MPI may still use its memory. Calls that fail on the way leave the last
 * sentence alone, which tells why there is something to give up. */
bool wf_mpi_give_up(wf_mpi_calls *, MPI_Request *, bool receives);
/* MPI_Finalize has been called: nothing of MPI may be any more. */
bool wf_mpi_ended(void);
/* After MPI has ended there is nothing to free. false: it stays. Says nothing, as above. */
bool wf_mpi_comm_free(wf_mpi_calls *, MPI_Comm *);

#endif
