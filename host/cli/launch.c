/* launch.c: how one command becomes N ranks. Under a launcher (mpirun, Slurm) it joins; otherwise
 * it starts itself under mpirun; alone it needs no MPI start-up at all. */
#include "host/cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ranks share cores with their CPU devices' threads, so nothing is bound (mpirun -np 1 would bind
 * everything to one core); more ranks than cores and root in a container are both fine. */
static char **mpirun_line(int count, char **argv, char *self, size_t self_bytes) {
    static char number[16];
    const ssize_t length = readlink("/proc/self/exe", self, self_bytes - 1);
    if (length < 0) return complain(EXIT_ENVIRONMENT, "cannot find the own program file: %s", strerror(errno)), NULL;
    self[length] = 0;
    snprintf(number, sizeof number, "%d", count);
    const char *head[] = {"mpirun", "--quiet", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", number, self};
    const int heads = (int)(sizeof head / sizeof *head);
    int words = 0;
    while (argv[words + 1]) words++;
    char **line = calloc((size_t)(heads + words + 1), sizeof *line);
    if (!line) return complain(EXIT_ENVIRONMENT, "out of memory"), NULL;
    for (int i = 0; i < heads; i++) line[i] = (char *)head[i];
    for (int i = 0; i < words; i++) line[heads + i] = argv[i + 1];
    return line;
}

static int no_mpirun(int count) {
    return complain(EXIT_ENVIRONMENT, "cannot start mpirun for %d ranks: %s (on Debian or Ubuntu: apt-get install openmpi-bin)",
                    count, strerror(errno));
}

static volatile sig_atomic_t child, signals;

/* mpirun hands SIGUSR2 on to its ranks, but after SIGTERM or SIGINT kills them within a second: time for a
 * step's end and a file is what the first signal is worth. */
static void relay(int number) {
    kill((pid_t)child, signals++ ? number : SIGUSR2);
}

static void relay_signals(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = relay;
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
}

/* A group of its own, so that a terminal's Ctrl-C comes to the parent alone; no terminal's input, which
 * would stop a background group; it ends when the parent does. */
static void become_mpirun(int count, char **line) {
    const int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    execvp("mpirun", line);
    _exit(no_mpirun(count));
}

static int wait_for_mpirun(int count, char **line) {
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    const pid_t pid = fork();
    if (pid < 0) return complain(EXIT_ENVIRONMENT, "cannot start mpirun for %d ranks: %s", count, strerror(errno));
    if (pid == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        become_mpirun(count, line);
    }
    child = (sig_atomic_t)pid;
    relay_signals();
    sigprocmask(SIG_SETMASK, &before, NULL);
    int status;
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return complain(EXIT_ENVIRONMENT, "lost mpirun: %s", strerror(errno));
    if (WIFEXITED(status)) return WEXITSTATUS(status);
    return complain(EXIT_ENVIRONMENT, "mpirun was ended by signal %d", WTERMSIG(status));
}

static int start_mpirun(int count, ranks_end end, char **argv) {
    char self[4096];
    char **line = mpirun_line(count, argv, self, sizeof self);
    if (!line) return EXIT_ENVIRONMENT;
    fflush(NULL);
    if (end == RANKS_END_SAVED) {
        const int status = wait_for_mpirun(count, line);
        free(line);
        exit(status);
    }
    execvp("mpirun", line);
    free(line);
    return no_mpirun(count);
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
    const weft_status status = weft_bootstrap_mpi_within(MPI_COMM_WORLD, timeout_s, &out->bootstrap);
    guard_joined();
    return status ? complain_status(status) : EXIT_FINE;
}

int ranks_join(int needed, double timeout_s, ranks_end end, char **argv, ranks *out) {
    *out = (ranks){.count = 1};
    if (weft_mpi_launched()) return join(needed, timeout_s, out);
    if (needed <= 1) return EXIT_FINE;
    return start_mpirun(needed, end, argv);
}

int ranks_of_layout(const char *command, const context_arguments *a, const char **layout, int *needed_out) {
    static char room[24];
    weft_layout *parsed = NULL;
    if (!*layout) {
        snprintf(room, sizeof room, a->ranks > 1 ? "tp%lld.sp" : "tp1", (long long)a->ranks);
        *layout = room;
    }
    const weft_status status = weft_layout_parse(*layout, &parsed);
    if (status) return complain_status(status);
    const int needed = weft_layout_ranks(parsed);
    weft_layout_destroy(parsed);
    if (a->ranks && a->ranks != needed)
        return complain(EXIT_USAGE, "%s: layout %s is for %d rank%s, but --ranks says %lld", command, *layout, needed,
                        needed == 1 ? "" : "s", (long long)a->ranks);
    *needed_out = needed;
    return EXIT_FINE;
}

weft_status layout_of_one(const weft_layout *layout, weft_layout **out) {
    char text[256], kept[256] = "";
    weft_layout_print(layout, text, sizeof text);
    for (char *rest, *term = strtok_r(text, ".", &rest); term; term = strtok_r(NULL, ".", &rest)) {
        const size_t used = strlen(kept);
        if (strncmp(term, "mb", 2) != 0) snprintf(kept + used, sizeof kept - used, "%s%s", used ? "." : "", term);
    }
    return weft_layout_parse(kept, out);
}

weft_status layout_measure(weft_context *context, weft_layout **layout) {
    char before[384], after[384];
    weft_layout *measured = NULL;
    const weft_status status = weft_layout_measure(context, *layout, &measured);
    if (status) return status;
    weft_layout_print(*layout, before, sizeof before);
    weft_layout_print(measured, after, sizeof after);
    if (strcmp(before, after) != 0 && !context) fprintf(stderr, "layout %s: no device is measured here; shown are equal shares\n", before);
    if (strcmp(before, after) != 0 && context && weft_context_rank(context) == 0)
        fprintf(stderr, "layout %s, as measured: %s\n", before, after);
    weft_layout_destroy(*layout);
    *layout = measured;
    return WEFT_OK;
}

int ranks_leave(ranks *ranks, int status) {
    if (ranks->mpi && (status == EXIT_ENVIRONMENT || ranks->parted)) MPI_Abort(MPI_COMM_WORLD, status); /* others may still wait */
    weft_bootstrap_destroy(ranks->bootstrap);
    if (!ranks->mpi) return status;
    MPI_Finalize();
    return status;
}

/* What the library has to say: on stderr, a write per line, so that lines of several ranks do not mix. */
static void tell(void *user, int level, const char *category, const char *sentence) {
    char line[1280];
    snprintf(line, sizeof line, "weft: %s%s%s\n", level == WEFT_LOG_WARNING ? "" : category, level == WEFT_LOG_WARNING ? "" : ": ",
             sentence);
    fputs(line, stderr);
}

weft_status context_open(const context_arguments *a, const ranks *ranks, bool profile, weft_context **out) {
    weft_context_options options;
    weft_context_options_init(&options);
    options.device = a->device;
    options.transport = a->transport;
    options.timeout_s = a->timeout_s;
    options.profile = profile;
    options.stuck = guard_stuck;
    options.log = tell;
    return weft_context_create(&options, ranks->bootstrap, out);
}
