/* find.h: the devices of this node. Included only within host/device. */
#ifndef WF_DEVICE_FIND_H
#define WF_DEVICE_FIND_H

#include "host/base/machine.h"
#include "host/device/calls.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_found {
    int32_t platform_index, device_index; /* "1.0" */
    cl_platform_id platform;
    cl_device_id id;
    wf_device device;       /* of the whole device, not of a rank's share */
} wf_found;

/* Every device of every platform that has a compiler, in the platforms' order; malloc'ed. A platform
 * that fails is logged and left out. No device at all is no error here: *count is 0. */
wf_status wf_find_devices(wf_calls *calls, wf_found **out, int32_t *count_out);

/* The device for a node's rank, index in `found`, by the rule of wf_opencl_options.device: and how
 * many of the node's ranks share it, this one being the `sharer`-th. Pure. WF_ERR_DEVICE. */
wf_status wf_find_choose(const wf_found *found, int32_t count, const char *wish, int32_t node_rank,
                         int32_t node_ranks, int32_t *index_out, int32_t *sharer_out, int32_t *sharers_out);

/* Fills in what a driver says about a device or sub-device. */
wf_status wf_find_probe(wf_calls *calls, cl_platform_id platform, cl_device_id id, wf_device *out);

/* What programs depend on beside the names and the version there: the versions of platform (PoCL's names its
 * LLVM) and device (PoCL's names the processor that it compiles for), and the file that the driver is in, as
 * a driver may be built anew under the same version. A text to be compared. */
wf_status wf_find_identity(wf_calls *calls, cl_platform_id platform, cl_device_id id, char *out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
#endif
