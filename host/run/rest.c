/* rest.c: what the host does while nothing moves: it sleeps. On a machine whose device is its CPU, a host that polls in a
 * loop takes the core that computes, and one that sleeps for long makes everybody wait. The kernels that somebody waits for
 * wake it. A message does not: while one is on its way, the host sleeps, unless they do, for a sixteenth of the time that none of its
 * bytes has moved, so a wait of length T costs a few dozen polls, and ends at most T/16 late. */
#include "host/base/nap.h"
#include "host/run/internal.h"

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
    wf_nap own;
    wf_nap_begin(&own, wf_opencl_device(r->opencl)->type == WF_DEVICE_CPU);
    wf_opencl_sleep(r->opencl, &r->heard, waits_for_messages(r) ? nap_ns : MOST_UNTIL_WOKEN_NS);
    wf_nap_end(&own);
    r->idle_s += wf_clock_s() - begin;
}
