/* watchdog.h: a thread that looks at the boards of its node's ranks while the rank's own thread may
 * hang, in a driver's call too. It calls neither OpenCL nor MPI. It speaks up once:
 *   - when its own rank has been in one activity for longer than that activity's limit and
 *     WF_GRACE_S more: the library's own deadlines come first, so this means that they could not;
 *   - when the process of another rank of the node has ended, and that rank had not left.
 * What is to be done then (mostly: say it and end the process) the callback decides. */
#ifndef WF_FABRIC_WATCHDOG_H
#define WF_FABRIC_WATCHDOG_H

#include "host/base/board.h"
#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WF_GRACE_S 1.0

typedef struct wf_watchdog wf_watchdog;

/* Watches `mine`. stuck is called from the watchdog's thread, at most once. */
wf_status wf_watchdog_start(wf_board *mine, void (*stuck)(void *user, const char *sentence), void *user,
                            wf_watchdog **out);
/* The boards of the node's ranks, as long as they are mapped: until wf_watchdog_peers(w, NULL, 0).
 * Copied: boards[] itself need not stay. WF_ERR_MEMORY. NULL watchdog: nothing. */
wf_status wf_watchdog_peers(wf_watchdog *, const wf_board *const *boards, int32_t count);
/* From now on what is published on `mine` is written to `mirror` too; NULL: no more, and its memory may go. The watchdog
 * writes there as well, when it speaks up: never between the two. NULL watchdog: only the rank itself writes. */
void wf_watchdog_mirror(wf_watchdog *, wf_board *mine, wf_board *mirror);
void wf_watchdog_stop(wf_watchdog *);

#ifdef __cplusplus
}
#endif
#endif
