/* node.h: what this node gives a rank: processors and free memory. Through hwloc and /proc. */
#ifndef WF_BASE_NODE_H
#define WF_BASE_NODE_H

#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Processors (hardware threads) of the node that its ranks may use, and of them those that this
 * process is bound to. Control groups count: their sets of processors and their time quota. */
typedef struct wf_cores {
    int32_t node;   /* all ranks of the node together */
    int32_t bound;  /* this process; == node when nobody bound it */
} wf_cores;
wf_status wf_cores_find(wf_cores *out);
/* As many as there are, or as the control group's quota allows: the same in every process of a job, bound or not. */
int32_t wf_cores_granted(void);

/* A fair, contiguous share of `units` for one of `ranks`: at least one each; ranks share units when
 * there are more ranks than units. */
typedef struct wf_share {
    int32_t first, count;
} wf_share;
wf_share wf_share_of(int32_t units, int32_t rank, int32_t ranks);

/* Bytes of host memory that may still be used without swapping, control group limits included;
 * INT64_MAX when the system does not say. */
int64_t wf_host_free_bytes(void);

#ifdef __cplusplus
}
#endif
#endif
