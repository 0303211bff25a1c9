/* sent.h: which transports may have carried the bytes of a plan that is forced to one. */
#ifndef WF_TESTS_SENT_H
#define WF_TESTS_SENT_H

#include <stdbool.h>
#include <string.h>

/* What a layer's gradients are sent from, under cp, lies in no window: they go by the fastest of the others. */
static inline bool may_send(const char *transport, const char *forced, bool cp) {
    return strcmp(transport, forced) == 0 || (cp && strcmp(forced, "window") == 0 && strcmp(transport, "staged") == 0);
}

#endif
