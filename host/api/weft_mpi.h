/* weft_mpi.h: ranks found through an MPI communicator. */
#ifndef WEFT_MPI_H
#define WEFT_MPI_H

#include <mpi.h>

#include "weft.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Collective over the communicator, which is duplicated; MPI must be initialised with at least
 * MPI_THREAD_FUNNELED. weft_bootstrap_destroy, which frees the duplicate, comes before MPI_Finalize and
 * after every context made from it, on every rank: MPI has that collective. */
WEFT_API weft_status weft_bootstrap_mpi(MPI_Comm communicator, weft_bootstrap **out);
/* The same with a deadline in seconds for meeting the other ranks; 0: WEFT_TIMEOUT_S, else 60. */
WEFT_API weft_status weft_bootstrap_mpi_within(MPI_Comm communicator, double timeout_s, weft_bootstrap **out);
/* Did a launcher (mpirun, Slurm's srun) start this process as one of several ranks? From the
 * environment alone; MPI need not be initialised. Local. */
WEFT_API bool weft_mpi_launched(void);

#ifdef __cplusplus
}
#endif
#endif
