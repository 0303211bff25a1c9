/* nap.c: see the header. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall */
#endif
#include "host/base/nap.h"

#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
/* As sched_setattr(2) has it; C libraries name it or not. */
typedef struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns; /* runtime: of SCHED_OTHER, the slice */
} attributes;

static bool set_slice(const wf_nap *own, uint64_t slice_ns) {
    attributes a = {.size = sizeof a, .policy = SCHED_OTHER, .flags = own->flags, .nice = own->nice, .runtime_ns = slice_ns};
    return syscall(SYS_sched_setattr, 0, &a, 0) == 0;
}

/* Threads of another policy have their reasons. */
static bool take_short_slices(wf_nap *own) {
    enum { SLICE_NS = 100000 };
    attributes a = {.size = sizeof a};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0 || a.policy != SCHED_OTHER) return false;
    own->flags = a.flags;
    own->nice = a.nice;
    own->slice_ns = a.runtime_ns;
    return set_slice(own, SLICE_NS);
}
#else
static bool set_slice(const wf_nap *own, uint64_t slice_ns) {
    return (void)own, (void)slice_ns, false;
}

static bool take_short_slices(wf_nap *own) {
    return (void)own, false;
}
#endif

#if defined(PR_SET_TIMERSLACK) && defined(PR_GET_TIMERSLACK)
enum { SLACK_NS = 1000 };

static bool set_slack(int64_t slack_ns) {
    return prctl(PR_SET_TIMERSLACK, (unsigned long)slack_ns, 0, 0, 0) == 0;
}

static bool take_small_slack(wf_nap *own) {
    own->slack_ns = syscall(SYS_prctl, PR_GET_TIMERSLACK, 0, 0, 0, 0); /* prctl(2) returns an int */
    return own->slack_ns > SLACK_NS && set_slack(SLACK_NS);
}
#else
static bool set_slack(int64_t slack_ns) {
    return (void)slack_ns, false;
}

static bool take_small_slack(wf_nap *own) {
    return (void)own, false;
}
#endif

void wf_nap_begin(wf_nap *own, bool short_slices) {
    *own = (wf_nap){.slices = false};
    own->timers = take_small_slack(own);
    own->slices = short_slices && take_short_slices(own);
}

void wf_nap_end(const wf_nap *own) {
    if (own->slices) (void)set_slice(own, own->slice_ns);
    if (own->timers) (void)set_slack(own->slack_ns);
}
