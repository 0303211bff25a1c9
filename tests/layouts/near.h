/* near.h: choices as of ranks that share a node: all over windows, which some pairs read in place. Their context is the rank's
 * number. */
#ifndef WF_TESTS_LAYOUTS_NEAR_H
#define WF_TESTS_LAYOUTS_NEAR_H

#include "layouts/lower.h"

static inline wf_transport_kind near_transport(void *rank, int32_t peer, bool slots) {
    return slots ? WF_TRANSPORT_STAGED : WF_TRANSPORT_WINDOW;
}

/* The same on both: of ranks 0 to 3 all but 0 and 3, 1 and 2. */
static inline bool near_in_place(void *rank, int32_t peer) {
    return (*(const int32_t *)rank + peer) % 3 != 0;
}

static inline wf_choices near_choices(int32_t *rank) {
    return (wf_choices){.transport = near_transport, .in_place = near_in_place, .context = rank};
}

#endif
