/* faulty.c: linked into the command instead of a hook in the library (--wrap, see rules.am): one fault on one rank,
 * at the n-th step of a kind, told by the variables
 *   WEFT_TEST_FAULT="KIND RANK SEGMENT kernel|exchange N"   and   WEFT_TEST_STAMP=FILE, which gets a line: the time of
 * the fault and the step's site.
 * KIND: stop, kill, slow (a second), hang (the call of this step does not return), cl (its next OpenCL call fails),
 * short (its message lacks four bytes), plan (this rank's plan sends a row less in this step, from the start). */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/device/calls.h"
#include "host/run/internal.h"

static struct {
    char kind[16], segment[32], what[16];
    int rank, nth, seen;
    bool given, fail_next, shorten_next;
} fault;

__attribute__((constructor)) static void read_fault(void) {
    const char *const text = getenv("WEFT_TEST_FAULT");
    if (!text) return;
    fault.given = sscanf(text, "%15s %d %31s %15s %d", fault.kind, &fault.rank, fault.segment, fault.what, &fault.nth) == 5;
    if (!fault.given) fprintf(stderr, "WEFT_TEST_FAULT=%s is no fault\n", text), exit(99);
}

static void stamp(const char *site) {
    struct timespec now;
    FILE *const file = fopen(getenv("WEFT_TEST_STAMP") ? getenv("WEFT_TEST_STAMP") : "/dev/null", "w");
    clock_gettime(CLOCK_BOOTTIME, &now);
    if (file) fprintf(file, "%lld.%02ld %s\n", (long long)now.tv_sec, now.tv_nsec / 10000000, site);
    if (file) fclose(file);
}

static bool is(const char *kind) {
    return strcmp(fault.kind, kind) == 0;
}

static bool hits(const wf_schedule *s, const wf_step *step, const char *segment) {
    const bool exchange = step->kind == WF_STEP_EXCHANGE;
    if (!fault.given || s->rank != fault.rank || strcmp(segment, fault.segment)) return false;
    return exchange == (strcmp(fault.what, "exchange") == 0) && ++fault.seen == fault.nth;
}

void __real_wf_runner_at(wf_runner *, const wf_instance *);
void __wrap_wf_runner_at(wf_runner *r, const wf_instance *i) {
    __real_wf_runner_at(r, i);
    if (is("plan") || !hits(r->schedule, i->step, r->schedule->segments[i->call->segment].name)) return;
    stamp(i->step->site);
    if (is("stop")) raise(SIGSTOP);
    if (is("kill")) raise(SIGKILL);
    if (is("slow")) usleep(1000000);
    while (is("hang")) pause();
    fault.fail_next = is("cl");
    fault.shorten_next = is("short");
}

bool __real_wf_calls_fails(wf_calls *);
bool __wrap_wf_calls_fails(wf_calls *calls) {
    if (!fault.fail_next) return __real_wf_calls_fails(calls);
    fault.fail_next = false;
    calls->fail_code = CL_OUT_OF_RESOURCES;
    return true;
}

wf_status __real_wf_fabric_start(wf_fabric *, wf_lane, wf_transport_kind, const wf_message *, wf_transport_kind, const wf_message *, wf_transfer **);
wf_status __wrap_wf_fabric_start(wf_fabric *f, wf_lane lane, wf_transport_kind send_by, const wf_message *send, wf_transport_kind receive_by,
                                 const wf_message *receive, wf_transfer **out) {
    wf_message less = *send;
    if (fault.shorten_next && less.bytes) less.bytes -= 4;
    fault.shorten_next = false;
    return __real_wf_fabric_start(f, lane, send_by, &less, receive_by, receive, out);
}

wf_status __real_wf_place(wf_schedule *, const wf_limits *);
wf_status __wrap_wf_place(wf_schedule *s, const wf_limits *limits) {
    fault.seen = is("plan") ? 0 : fault.seen;
    for (int32_t g = 0; is("plan") && g < s->nsegments; g++)
        for (int32_t k = 0; k < s->segments[g].steps; k++) {
            const wf_step *const step = &s->steps[s->segments[g].step + k];
            if (!hits(s, step, s->segments[g].name)) continue;
            wf_view *const sent = &s->views[step->view];
            for (int d = 0; d < WF_DIMS; d++)
                if (sent->extent[d] > 1) {
                    sent->extent[d]--;
                    stamp(step->site);
                    break;
                }
        }
    return __real_wf_place(s, limits);
}
