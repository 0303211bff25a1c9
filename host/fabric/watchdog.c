/* watchdog.c: see the header. The thread wakes every WAKE_MS, reads some hundred bytes per rank of the
 * node, and sleeps again; whether a process lives is asked every fourth time, of /proc. All signals
 * are blocked in it: they are the application's. */
#include "host/fabric/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WAKE_MS = 50, EVERY = 4, SENTENCE_BYTES = 1024 };

struct wf_watchdog {
    pthread_t thread;
    pthread_mutex_t mutex;      /* guards what follows */
    pthread_cond_t wake;
    bool ending;
    wf_board *mine;
    const wf_board **boards;
    int32_t count;
    void (*stuck)(void *, const char *);
    void *user;
};

/* ---- what is said --------------------------------------------------------------------------------- */

static void describe_peers(const wf_watchdog *w, const wf_activity *mine, char *text, size_t bytes) {
    size_t used = strlen(text);
    for (int32_t i = 0; i < w->count && used < bytes; i++) {
        wf_activity theirs;
        char doing[256];
        wf_board_read(w->boards[i], &theirs);
        if (theirs.rank == mine->rank) continue;
        wf_activity_print(&theirs, doing, sizeof doing);
        snprintf(text + used, bytes - used, "; rank %d: %s for %.1f s", theirs.rank, doing,
                 wf_board_clock_s() - theirs.since_s);
        used = strlen(text);
    }
}

static void say_overdue(const wf_watchdog *w, const wf_activity *mine, char *text, size_t bytes) {
    char doing[256], peer[32] = "";
    wf_activity_print(mine, doing, sizeof doing);
    if (mine->peer >= 0) snprintf(peer, sizeof peer, ", waiting for rank %d", mine->peer);
    snprintf(text, bytes, "rank %d has been stuck for %.1f s (deadline %.1f s) in %s%s", mine->rank,
             wf_board_clock_s() - mine->since_s, mine->limit_s, doing, peer);
    describe_peers(w, mine, text, bytes);
}

/* Ended, or ended but not yet waited for by its parent. */
static bool is_gone(int32_t process) {
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", process);
    FILE *const file = fopen(path, "r");
    if (!file) return errno == ENOENT || errno == ESRCH;
    const size_t n = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[n] = 0;
    const char *const state = strrchr(line, ')'); /* "pid (name) S ..." */
    return n == 0 || (state && (state[2] == 'Z' || state[2] == 'X'));
}

static bool say_gone(const wf_watchdog *w, const wf_activity *mine, char *text, size_t bytes) {
    for (int32_t i = 0; i < w->count; i++) {
        wf_activity theirs;
        char doing[256], own[256];
        wf_board_read(w->boards[i], &theirs);
        if (theirs.left || theirs.process == 0 || theirs.process == mine->process || !is_gone(theirs.process)) continue;
        wf_board_read(w->boards[i], &theirs); /* it may have left between the two looks */
        if (theirs.left || wf_board_reported(w->boards[i])) continue;
        wf_activity_print(&theirs, doing, sizeof doing);
        wf_activity_print(mine, own, sizeof own);
        snprintf(text, bytes, "rank %d (process %d) has died (%s); rank %d: %s", theirs.rank, theirs.process, doing,
                 mine->rank, own);
        return true;
    }
    return false;
}

/* ---- the thread ------------------------------------------------------------------------------------- */

static bool look(const wf_watchdog *w, int64_t round, char *text, size_t bytes) {
    wf_activity mine;
    wf_board_read(w->mine, &mine);
    if (round % EVERY == 0 && say_gone(w, &mine, text, bytes)) return true;
    if (mine.limit_s <= 0 || wf_board_clock_s() - mine.since_s < mine.limit_s + WF_GRACE_S) return false;
    say_overdue(w, &mine, text, bytes);
    return true;
}

static void doze(wf_watchdog *w) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WAKE_MS * 1000000L;
    if (until.tv_nsec >= 1000000000L) until.tv_sec++, until.tv_nsec -= 1000000000L;
    pthread_cond_timedwait(&w->wake, &w->mutex, &until);
}

static void *watch(void *self) {
    wf_watchdog *const w = self;
    char text[SENTENCE_BYTES] = "";
    bool found = false;
    pthread_mutex_lock(&w->mutex);
    for (int64_t round = 0; !w->ending && !found; round++) {
        doze(w);
        if (!w->ending) found = look(w, round, text, sizeof text);
    }
    if (found) wf_board_report(w->mine);
    pthread_mutex_unlock(&w->mutex);
    if (found) w->stuck(w->user, text);
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

static int start_thread(wf_watchdog *w) {
    pthread_condattr_t attributes;
    sigset_t all, before;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int code = pthread_create(&w->thread, NULL, watch, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

static void destroy(wf_watchdog *w) {
    pthread_cond_destroy(&w->wake);
    pthread_mutex_destroy(&w->mutex);
    free(w->boards);
    free(w);
}

wf_status wf_watchdog_start(wf_board *mine, void (*stuck)(void *, const char *), void *user, wf_watchdog **out) {
    wf_watchdog *const w = calloc(1, sizeof *w);
    if (!w) return wf_fail(WF_ERR_MEMORY, "no host memory for a watchdog");
    w->mine = mine;
    w->stuck = stuck;
    w->user = user;
    const int code = start_thread(w);
    if (code) {
        destroy(w);
        return wf_fail(WF_ERR_MEMORY, "the watchdog's thread does not start: %s", strerror(code));
    }
    *out = w;
    return WF_OK;
}

wf_status wf_watchdog_peers(wf_watchdog *w, const wf_board *const *boards, int32_t count) {
    if (!w) return WF_OK;
    const wf_board **copy = count ? malloc((size_t)count * sizeof *copy) : NULL;
    if (count && !copy) return wf_fail(WF_ERR_MEMORY, "no host memory to watch %d ranks", count);
    for (int32_t i = 0; i < count; i++) copy[i] = boards[i];
    pthread_mutex_lock(&w->mutex);
    free(w->boards);
    w->boards = copy;
    w->count = count;
    pthread_mutex_unlock(&w->mutex);
    return WF_OK;
}

void wf_watchdog_mirror(wf_watchdog *w, wf_board *mine, wf_board *mirror) {
    if (w) pthread_mutex_lock(&w->mutex);
    mine->mirror = mirror;
    if (w) pthread_mutex_unlock(&w->mutex);
}

void wf_watchdog_stop(wf_watchdog *w) {
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->ending = true;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    destroy(w);
}
