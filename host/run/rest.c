/* rest.c: what the host does while nothing moves: it sleeps. On a machine whose device is its CPU, a host that polls in a
 * loop takes the core that computes, and one that sleeps for long makes everybody wait. The kernels that somebody waits for
 * wake it. A message does not: while one is on its way, the host sleeps, unless they do, for a sixteenth of the time that none of its
 * bytes has moved, so a wait of length T costs a few dozen polls, and ends at most T/16 late.
 *
 * Who wakes beside a thread that computes without end waits for the rest of that one's time slice, some milliseconds, if
 * both have slices of the same length. Linux (from 6.12 on) lets a thread ask for shorter ones, and who has those is let in
 * at once. So the host sleeps with short slices, and has its own back when it wakes (benchmarks/NOTES.md). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "host/run/internal.h"

#if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
/* As sched_setattr(2) has it; C libraries name it or not. */
typedef struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns; /* runtime: of SCHED_OTHER, the slice */
} attributes;

static bool set(attributes *a, uint64_t slice_ns) {
    a->runtime_ns = slice_ns;
    return syscall(SYS_sched_setattr, 0, a, 0) == 0;
}

/* Whether there is something to give back. Threads of another policy have their reasons. */
static bool take_short_slices(attributes *own) {
    enum { SLICE_NS = 100000 };
    *own = (attributes){.size = sizeof *own};
    if (syscall(SYS_sched_getattr, 0, own, sizeof *own, 0) != 0 || own->policy != SCHED_OTHER) return false;
    attributes asked = *own;
    return set(&asked, SLICE_NS);
}

static void give_back(attributes *own) {
    (void)set(own, own->runtime_ns);
}
#else
typedef struct attributes {
    char none;
} attributes;

static bool take_short_slices(attributes *own) {
    (void)own;
    return false;
}

static void give_back(attributes *own) {
    (void)own;
}
#endif

static bool waits_for_messages(const wf_runner *r) {
    for (int l = 0; l < WF_LANES; l++)
        if (r->lane[l].transfer) return true;
    return false;
}

void wf_runner_rest(wf_runner *r) {
    enum { LEAST_NS = 10000, MOST_NS = 1000000, MOST_UNTIL_WOKEN_NS = 5000000 };
    if (r->still_s == 0) return;
    const double begin = wf_clock_s(), want_ns = r->still_s * 1e9 / 16;
    const int64_t nap_ns = want_ns < LEAST_NS ? LEAST_NS : want_ns > MOST_NS ? MOST_NS : (int64_t)want_ns;
    attributes own;
    const bool shorter = wf_opencl_device(r->opencl)->type == WF_DEVICE_CPU && take_short_slices(&own);
    wf_opencl_sleep(r->opencl, &r->heard, waits_for_messages(r) ? nap_ns : MOST_UNTIL_WOKEN_NS);
    if (shorter) give_back(&own);
    r->idle_s += wf_clock_s() - begin;
}
