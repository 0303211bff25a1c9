/* nap.h: sleep that ends when it should. A thread that sleeps for some microseconds beside threads that compute wakes late
 * for two reasons, and Linux lets it ask for better on both (benchmarks/NOTES.md):
 *
 *   - timers of ordinary threads go off up to 50 us late, so that several may go off at once;
 *   - who wakes beside a thread that computes without end waits for the rest of that one's time slice, some milliseconds, if
 *     both have slices of the same length; from Linux 6.12 on who has shorter ones is let in at once.
 *
 * The calling thread, which is the caller's, has its own settings back after the sleep, as they were before it. Elsewhere than
 * on Linux, or where a setting is refused, sleep is as it is. */
#ifndef WF_BASE_NAP_H
#define WF_BASE_NAP_H

#include <stdbool.h>
#include <stdint.h>

typedef struct wf_nap { /* what the thread had */
    bool slices, timers;
    uint64_t flags, slice_ns;
    int32_t nice;
    int64_t slack_ns;
} wf_nap;

/* short_slices: threads that compute share this one's core. */
void wf_nap_begin(wf_nap *own, bool short_slices);
void wf_nap_end(const wf_nap *own);

#endif
