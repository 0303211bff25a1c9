/* launch.c: how one command becomes N ranks. Under a launcher (mpirun, Slurm) it joins; otherwise
 * it starts itself under mpirun; alone it needs no MPI start-up at all. */
#include "host/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Ranks share cores with their CPU devices' threads, so nothing is bound (mpirun -np 1 would bind
 * everything to one core); more ranks than cores and root in a container are both fine. */
static int start_mpirun(int count, char **argv) {
    char self[4096], number[16];
    const ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0) return complain(EXIT_ENVIRONMENT, "cannot find the own program file: %s", strerror(errno));
    self[length] = 0;
    snprintf(number, sizeof number, "%d", count);
    const char *head[] = {"mpirun", "--quiet", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", number, self};
    const int heads = (int)(sizeof head / sizeof *head);
    int words = 0;
    while (argv[words + 1]) words++;
    char **line = calloc((size_t)(heads + words + 1), sizeof *line);
    if (!line) return complain(EXIT_ENVIRONMENT, "out of memory");
    for (int i = 0; i < heads; i++) line[i] = (char *)head[i];
    for (int i = 0; i < words; i++) line[heads + i] = argv[i + 1];
    fflush(NULL);
    execvp("mpirun", line);
    free(line);
    return complain(EXIT_ENVIRONMENT, "cannot start mpirun for %d ranks: %s (on Debian or Ubuntu: apt-get install openmpi-bin)",
                    count, strerror(errno));
}

static int join(int needed, double timeout_s, ranks *out) {
    int level;
    guard_begin(weft_timeout(timeout_s));
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level) != MPI_SUCCESS)
        return complain(EXIT_ENVIRONMENT, "MPI does not start");
    out->mpi = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &out->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &out->count);
    if (needed && out->count != needed) {
        guard_joined();
        return out->rank ? EXIT_USAGE
                         : complain(EXIT_USAGE, "%d ranks were started, but %d are needed", out->count, needed);
    }
    const weft_status status = weft_bootstrap_mpi(MPI_COMM_WORLD, &out->bootstrap);
    guard_joined();
    return status ? complain_status(status) : EXIT_FINE;
}

int ranks_join(int needed, double timeout_s, char **argv, ranks *out) {
    *out = (ranks){.count = 1};
    if (weft_mpi_launched()) return join(needed, timeout_s, out);
    if (needed <= 1) return EXIT_FINE;
    return start_mpirun(needed, argv);
}

int ranks_leave(ranks *ranks, int status) {
    if (ranks->mpi && (status == EXIT_ENVIRONMENT || ranks->parted)) MPI_Abort(MPI_COMM_WORLD, status); /* others may still wait */
    weft_bootstrap_destroy(ranks->bootstrap);
    if (!ranks->mpi) return status;
    MPI_Finalize();
    return status;
}

weft_status context_open(const context_arguments *a, const ranks *ranks, bool profile, weft_context **out) {
    weft_context_options options;
    weft_context_options_init(&options);
    options.device = a->device;
    options.transport = a->transport;
    options.timeout_s = a->timeout_s;
    options.profile = profile;
    options.stuck = guard_stuck;
    return weft_context_create(&options, ranks->bootstrap, out);
}
