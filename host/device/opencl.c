/* Opening a device: choosing it, cutting a CPU into the ranks' shares, context and queues. */
#include "host/device/opencl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/base/env.h"
#include "host/base/log.h"
#include "host/base/node.h"
#include "host/device/cache.h"
#include "host/device/find.h"

/* Can the driver cut this device by counts of compute units? */
static wf_status can_cut(wf_calls *calls, cl_device_id id, bool *out) {
    cl_device_partition_property kinds[16] = {0};
    cl_uint most = 0;
    size_t bytes = 0;
    *out = false;
    TRY(WF_CL(calls, clGetDeviceInfo, (id, CL_DEVICE_PARTITION_MAX_SUB_DEVICES, sizeof most, &most, NULL)));
    TRY(WF_CL(calls, clGetDeviceInfo, (id, CL_DEVICE_PARTITION_PROPERTIES, sizeof kinds, kinds, &bytes)));
    for (size_t i = 0; i < bytes / sizeof *kinds; i++)
        if (kinds[i] == CL_DEVICE_PARTITION_BY_COUNTS) *out = most > 1;
    return WF_OK;
}

/* Makes compute units [share.first, + share.count) a sub-device. */
static wf_status cut(wf_calls *calls, cl_device_id whole, wf_share share, cl_device_id *out) {
    cl_device_partition_property wanted[5] = {CL_DEVICE_PARTITION_BY_COUNTS};
    int n = 1;
    if (share.first > 0) wanted[n++] = share.first;
    wanted[n++] = share.count;
    wanted[n] = CL_DEVICE_PARTITION_BY_COUNTS_LIST_END;
    cl_device_id parts[2];
    cl_uint made = 0;
    TRY(WF_CL(calls, clCreateSubDevices, (whole, wanted, 2, parts, &made)));
    if ((int)made != n - 1)
        return wf_fail(WF_ERR_DEVICE, "clCreateSubDevices made %u parts of %d", (unsigned)made, n - 1);
    if (made == 2) WF_CL(calls, clReleaseDevice, (parts[0]));
    *out = parts[made - 1];
    return WF_OK;
}

/* This rank's compute units of a CPU: a fair share of the node's processors, never more than a
 * launcher bound the process to (PoCL reports all of them even then). */
static wf_share fair_share(const wf_cores *cores, int32_t units, int32_t sharer, int32_t sharers) {
    const int32_t usable = cores->node < units ? cores->node : units;
    wf_share share = wf_share_of(usable, sharer, sharers);
    if (share.count > cores->bound) share.count = cores->bound;
    return share;
}

static wf_status take_share(wf_opencl *opencl, int32_t sharer, int32_t sharers) {
    wf_cores cores;
    TRY(wf_cores_find(&cores));
    const int32_t units = opencl->device.compute_units;
    const wf_share share = fair_share(&cores, units, sharer, sharers);
    if (share.count >= units) return WF_OK;
    bool possible = false;
    cl_device_id part = NULL;
    wf_status status = can_cut(&opencl->calls, opencl->id, &possible);
    if (status == WF_OK && !possible) status = wf_fail(WF_ERR_DEVICE, "the driver cannot cut it");
    if (status == WF_OK) status = cut(&opencl->calls, opencl->id, share, &part);
    if (status != WF_OK) {
        wf_warn(opencl->calls.log, WF_LOG_DEVICE, "%s is used uncut, where this rank's share is %d of %d compute units: %s", opencl->device.name, (int)share.count,
                (int)units, wf_last_error());
        return WF_OK;
    }
    opencl->id = part;
    opencl->is_share = true;
    return wf_find_probe(&opencl->calls, opencl->platform, part, &opencl->device);
}

/* Bytes that this rank may plan with. */
static int64_t available(const wf_device *device, int32_t sharers, int32_t node_ranks) {
    int64_t bytes = device->global_bytes / sharers;
    if (!device->host_unified) return bytes;
    const int64_t host = wf_host_free_bytes() / node_ranks;
    return host < bytes ? host : bytes;
}

static wf_status choose(wf_opencl *opencl, const wf_opencl_options *options) {
    const char *const wish = options->device ? options->device : wf_env(WF_ENV_DEVICE);
    const int32_t node_ranks = options->node_ranks > 0 ? options->node_ranks : 1;
    wf_found *found;
    int32_t count, index, sharer, sharers;
    TRY(wf_find_devices(&opencl->calls, &found, &count));
    wf_status status = wf_find_choose(found, count, wish, options->node_rank, node_ranks, &index, &sharer, &sharers);
    if (status == WF_OK) {
        opencl->platform = found[index].platform;
        opencl->id = found[index].id;
        opencl->device = found[index].device;
        if (opencl->device.type == WF_DEVICE_CPU) status = take_share(opencl, sharer, sharers);
        opencl->device.available_bytes = available(&opencl->device, sharers, node_ranks);
    }
    free(found);
    return status;
}

static wf_status make_queue(wf_opencl *opencl, cl_command_queue *out) {
    cl_int code = CL_SUCCESS;
    const cl_command_queue_properties wanted = opencl->profile ? CL_QUEUE_PROFILING_ENABLE : 0;
    *out = WF_CL_NEW(&opencl->calls, code, clCreateCommandQueue, (opencl->context, opencl->id, wanted, &code));
    return wf_calls_status("clCreateCommandQueue", code);
}

/* The caller's context and device, as they are: who shares it and how is his affair. */
static wf_status borrow(wf_opencl *opencl, const wf_opencl_options *options) {
    const int32_t node_ranks = options->node_ranks > 0 ? options->node_ranks : 1;
    cl_device_id devices[64];
    size_t bytes = 0;
    bool among = false;
    if (!options->context || !options->device_id)
        return wf_fail(WF_ERR_ARGUMENT, "a context of the caller's needs both its cl_context and a cl_device_id");
    TRY(WF_CL(&opencl->calls, clGetContextInfo, (options->context, CL_CONTEXT_DEVICES, sizeof devices, devices, &bytes)));
    for (size_t i = 0; i < bytes / sizeof *devices; i++) among = among || devices[i] == options->device_id;
    if (!among) return wf_fail(WF_ERR_ARGUMENT, "the caller's cl_device_id is not one of his cl_context");
    opencl->id = options->device_id;
    TRY(WF_CL(&opencl->calls, clGetDeviceInfo,
              (opencl->id, CL_DEVICE_PLATFORM, sizeof opencl->platform, &opencl->platform, NULL)));
    TRY(wf_find_probe(&opencl->calls, opencl->platform, opencl->id, &opencl->device));
    opencl->device.available_bytes = available(&opencl->device, 1, node_ranks);
    TRY(WF_CL(&opencl->calls, clRetainContext, (options->context)));
    opencl->context = options->context;
    if (!options->queue) return WF_OK;
    TRY(WF_CL(&opencl->calls, clRetainCommandQueue, (options->queue)));
    opencl->caller = options->queue;
    cl_context of = NULL;
    TRY(WF_CL(&opencl->calls, clGetCommandQueueInfo, (opencl->caller, CL_QUEUE_CONTEXT, sizeof of, &of, NULL)));
    return of == opencl->context ? WF_OK
                                 : wf_fail(WF_ERR_ARGUMENT, "the caller's cl_command_queue is not of his cl_context");
}

static wf_status own_context(wf_opencl *opencl) {
    const cl_context_properties on[] = {CL_CONTEXT_PLATFORM, (cl_context_properties)opencl->platform, 0};
    cl_int code = CL_SUCCESS;
    opencl->context = WF_CL_NEW(&opencl->calls, code, clCreateContext, (on, 1, &opencl->id, NULL, NULL, &code));
    return wf_calls_status("clCreateContext", code);
}

static wf_status make_queues(wf_opencl *opencl) {
    for (int i = 0; i < WF_QUEUES; i++) TRY(make_queue(opencl, &opencl->queue[i]));
    if (opencl->profile) {
        TRY(make_queue(opencl, &opencl->clock_queue));
        TRY(wf_clock_measure(opencl));
    }
    TRY(wf_memory_probe(opencl));
    return WF_CL(&opencl->calls, clGetDeviceInfo,
                 (opencl->id, CL_DEVICE_MAX_WORK_ITEM_SIZES, sizeof opencl->max_items, opencl->max_items, NULL));
}

static wf_status open_device(wf_opencl *opencl, const wf_opencl_options *options) {
    if (options->context || options->device_id || options->queue) {
        TRY(borrow(opencl, options));
    } else {
        TRY(choose(opencl, options));
        TRY(own_context(opencl));
    }
    TRY(wf_find_identity(&opencl->calls, opencl->platform, opencl->id, opencl->identity, sizeof opencl->identity));
    return make_queues(opencl);
}

/* Sources that are read from files: a wrong folder is said here, on all ranks, not by the first build. */
static wf_status find_kernels(wf_opencl *opencl, const wf_opencl_options *options) {
    const char *const folder = options->kernel_dir ? options->kernel_dir : wf_env(WF_ENV_KERNEL_DIR);
    struct stat what;
    if (!folder) return WF_OK;
    if (strlen(folder) > 512 || strchr(folder, ' '))
        return wf_fail(WF_ERR_ARGUMENT, "the folder of kernels %.64s is too long or holds a blank", folder);
    if (stat(folder, &what) != 0 || !S_ISDIR(what.st_mode))
        return wf_fail(WF_ERR_FILE, "there is no folder of kernels %s", folder);
    opencl->kernel_dir = strdup(folder);
    return opencl->kernel_dir ? WF_OK : wf_fail(WF_ERR_MEMORY, "out of host memory for a device");
}

wf_status wf_opencl_create(const wf_opencl_options *options, wf_opencl **out) {
    if (options->node_ranks < 0 || options->node_rank < 0 ||
        options->node_rank >= (options->node_ranks > 0 ? options->node_ranks : 1))
        return wf_fail(WF_ERR_ARGUMENT, "node rank %d of %d does not exist", (int)options->node_rank,
                       (int)options->node_ranks);
    wf_opencl *opencl = calloc(1, sizeof *opencl);
    if (!opencl) return wf_fail(WF_ERR_MEMORY, "out of host memory for a device");
    opencl->profile = options->profile;
    opencl->calls.board = options->board;
    opencl->calls.limit_s = options->timeout_s;
    opencl->calls.log = options->log;
    wf_status status;
    TRY_GOTO(wf_bell_create(&opencl->bell), destroy);
    TRY_GOTO(find_kernels(opencl, options), destroy);
    wf_driver_lock();
    status = open_device(opencl, options);
    wf_driver_unlock();
    if (status != WF_OK) goto destroy;
    const wf_cache_wish wish = {options->cache, options->cache_dir, opencl->kernel_dir != NULL};
    TRY_GOTO(wf_cache_open(opencl, &wish, &opencl->cache), destroy);
    wf_say(options->log, WF_LOG_DEVICE, "%s: %d compute units%s, %.2f GiB to plan with", opencl->device.name,
           (int)opencl->device.compute_units, opencl->is_share ? " (a share)" : "",
           (double)opencl->device.available_bytes / 0x1p30);
    *out = opencl;
    return WF_OK;
destroy:
    wf_opencl_destroy(opencl);
    return status;
}

/* A share of a device stays until the process ends, some hundred bytes: PoCL's worker thread may still
 * look at the device of the last event when clFinish has returned (seen: a crash in POclReleaseEvent). */
void wf_opencl_destroy(wf_opencl *opencl) {
    if (!opencl) return;
    for (int i = 0; i < WF_QUEUES; i++)
        if (opencl->queue[i]) {
            wf_calls_begin(&opencl->calls, "clFinish", opencl->calls.limit_s);
            clFinish(opencl->queue[i]);
            wf_calls_end(&opencl->calls, WF_OK);
            clReleaseCommandQueue(opencl->queue[i]);
        }
    if (opencl->clock_queue) clReleaseCommandQueue(opencl->clock_queue);
    wf_program_free_all(opencl);
    wf_event_free_all(opencl);
    wf_cache_close(opencl->cache);
    if (opencl->caller) clReleaseCommandQueue(opencl->caller);
    if (opencl->context) clReleaseContext(opencl->context);
    wf_bell_destroy(opencl->bell);
    free(opencl->kernel_dir);
    free(opencl);
}

void wf_opencl_cache(const wf_opencl *opencl, wf_cache_info *out) {
    *out = opencl->kept;
    wf_cache_measure(out);
}

const wf_device *wf_opencl_device(const wf_opencl *opencl) {
    return &opencl->device;
}

int64_t wf_opencl_allocated_bytes(const wf_opencl *opencl) {
    return opencl->calls.buffer_bytes;
}

int64_t wf_opencl_peak_bytes(const wf_opencl *opencl) {
    return opencl->calls.peak_bytes;
}
