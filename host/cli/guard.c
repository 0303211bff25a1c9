/* guard.c: how a rank of a command ends when it cannot end by itself, and that none is left behind.
 *   - a rank whose launcher dies is killed by the kernel (prctl);
 *   - joining the other ranks (MPI_Init) has the deadline that everything else has;
 *   - the context's watchdog says where a stuck rank is and ends it; the launcher then ends the others;
 *   - a rank that the launcher ends because another one died stays long enough to say so. */
#include "host/cli/cli.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* One write, so that lines of several ranks do not mix; stdio's locks may be held by who is stuck. */
void guard_stuck(void *user, const char *sentence) {
    char line[1280];
    const int length = snprintf(line, sizeof line, "weft: %s\n", sentence);
    if (write(STDERR_FILENO, line, (size_t)(length < (int)sizeof line ? length : (int)sizeof line - 1)) < 0)
        _exit(EXIT_ENVIRONMENT); /* nobody reads it */
    _exit(EXIT_ENVIRONMENT);
}

/* ---- signals ---------------------------------------------------------------------------------------- */

static void leave(int signal) {
    _exit(128 + SIGTERM);
}

/* The launcher ends all ranks when one has died: the watchdog looks for the dead every fifth of a second. */
static void linger(int number) {
    const struct itimerval while_it_looks = {.it_value = {.tv_usec = 500000}};
    signal(SIGTERM, SIG_DFL);
    setitimer(ITIMER_REAL, &while_it_looks, NULL);
}

/* ---- the start --------------------------------------------------------------------------------------- */

static struct {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t joined;
    bool running, done;
    double limit_s;
} start = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void *watch_start(void *unused) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    const double end_s = (double)until.tv_sec + 1e-9 * (double)until.tv_nsec + start.limit_s;
    until.tv_sec = (time_t)end_s;
    until.tv_nsec = (long)((end_s - (double)until.tv_sec) * 1e9);
    pthread_mutex_lock(&start.mutex);
    int code = 0;
    while (!start.done && code != ETIMEDOUT) code = pthread_cond_timedwait(&start.joined, &start.mutex, &until);
    const bool done = start.done;
    pthread_mutex_unlock(&start.mutex);
    char sentence[128];
    snprintf(sentence, sizeof sentence, "process %d has waited %.1f s in MPI_Init for the other ranks", (int)getpid(), start.limit_s);
    if (!done) guard_stuck(NULL, sentence);
    return NULL;
}

void guard_begin(double timeout_s) {
    pthread_condattr_t attributes;
    sigset_t all, before;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGALRM, leave);
    signal(SIGTERM, linger);
    start.limit_s = timeout_s;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&start.joined, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    start.running = pthread_create(&start.thread, NULL, watch_start, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void guard_joined(void) {
    if (!start.running) return;
    pthread_mutex_lock(&start.mutex);
    start.done = true;
    pthread_cond_signal(&start.joined);
    pthread_mutex_unlock(&start.mutex);
    pthread_join(start.thread, NULL);
    start.running = false;
}
