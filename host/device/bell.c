/* bell.c: events that wake the host. A driver calls back from a thread of its own, perhaps after the wf_opencl has
 * gone, so each call that is still to come holds the bell. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "host/device/opencl.h"

struct wf_bell {
    pthread_mutex_t mutex;
    pthread_cond_t rings;
    int64_t rung;       /* how often */
    int32_t holders;
};

wf_status wf_bell_create(wf_bell **out) {
    pthread_condattr_t monotonic;
    wf_bell *const bell = calloc(1, sizeof *bell);
    if (!bell) return wf_fail(WF_ERR_MEMORY, "no host memory to be woken by the device");
    bell->holders = 1;
    pthread_mutex_init(&bell->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&bell->rings, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = bell;
    return WF_OK;
}

static void leave(wf_bell *bell, bool ring) {
    pthread_mutex_lock(&bell->mutex);
    const bool last = --bell->holders == 0;
    if (ring) bell->rung++;
    pthread_cond_broadcast(&bell->rings);
    pthread_mutex_unlock(&bell->mutex);
    if (!last) return;
    pthread_cond_destroy(&bell->rings);
    pthread_mutex_destroy(&bell->mutex);
    free(bell);
}

static struct timespec after(int64_t nanoseconds) {
    struct timespec then;
    clock_gettime(CLOCK_MONOTONIC, &then);
    nanoseconds += then.tv_nsec;
    then.tv_sec += nanoseconds / 1000000000;
    then.tv_nsec = nanoseconds % 1000000000;
    return then;
}

/* The queues are finished, but calls may still be on their way: who unloads this library next must not take the code from
 * under them. A driver that never calls is not waited for. */
void wf_bell_destroy(wf_bell *bell) {
    enum { PATIENCE_NS = 200000000 };
    if (!bell) return;
    const struct timespec until = after(PATIENCE_NS);
    pthread_mutex_lock(&bell->mutex);
    while (bell->holders > 1 && pthread_cond_timedwait(&bell->rings, &bell->mutex, &until) == 0) continue;
    pthread_mutex_unlock(&bell->mutex);
    leave(bell, false);
}

static void CL_CALLBACK ring(cl_event event, cl_int status, void *bell) {
    leave(bell, true);
}

wf_status wf_event_ring(wf_event *event) {
    wf_bell *const bell = event->opencl->bell;
    pthread_mutex_lock(&bell->mutex);
    bell->holders++;
    pthread_mutex_unlock(&bell->mutex);
    const wf_status status = WF_CL(&event->opencl->calls, clSetEventCallback, (event->event, CL_COMPLETE, ring, bell));
    if (status != WF_OK) leave(bell, false);
    return status;
}

void wf_opencl_sleep(wf_opencl *opencl, int64_t *heard, int64_t nanoseconds) {
    wf_bell *const bell = opencl->bell;
    const struct timespec until = after(nanoseconds);
    pthread_mutex_lock(&bell->mutex);
    while (bell->rung == *heard && pthread_cond_timedwait(&bell->rings, &bell->mutex, &until) == 0) continue;
    *heard = bell->rung;
    pthread_mutex_unlock(&bell->mutex);
}
