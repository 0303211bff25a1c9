/* share.h: memory that all ranks of a node have mapped, one piece per rank. Anonymous files
 * (memfd_create), which peers open through /proc and which nobody can find by name: a killed job
 * leaves nothing behind, and the size of /dev/shm does not matter. Linux only. */
#ifndef WF_FABRIC_SHARE_H
#define WF_FABRIC_SHARE_H

#include <stdint.h>

#include "host/base/status.h"

struct wf_bootstrap;
struct wf_members;

typedef struct wf_share {
    int32_t count, mine; /* pieces; which is this rank's */
    void **piece;        /* [count] page-aligned; NULL where a rank asked for 0 bytes */
    int64_t *bytes;      /* [count] */
} wf_share;

/* Collective over the members. `bytes`: of this rank's piece. Peers' pieces can be written only if
 * `writable`. Fails on all ranks or on none; holds no file descriptor when it returns. */
wf_status wf_share_create(const struct wf_bootstrap *, struct wf_members *, double timeout_s,
                          int64_t bytes, int writable, wf_share **out);
/* Local: pieces live as long as somebody has them mapped. */
void wf_share_destroy(wf_share *);

#endif
