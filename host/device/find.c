/* Finding, describing and choosing devices. What a device can do is asked of it, never concluded from
 * a vendor's name. */
#define _GNU_SOURCE /* dladdr */
#include "host/device/find.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "host/base/log.h"
#include "host/base/node.h"
#include "host/device/device.h"

/* A string property, cut to fit, without blanks at the ends. */
static wf_status text_of(wf_calls *calls, cl_device_id id, cl_device_info what, char *out, size_t out_bytes) {
    char text[4096];
    size_t bytes = 0;
    TRY(WF_CL(calls, clGetDeviceInfo, (id, what, 0, NULL, &bytes)));
    if (bytes > sizeof text) bytes = sizeof text;
    if (bytes > 0) TRY(WF_CL(calls, clGetDeviceInfo, (id, what, bytes, text, NULL)));
    text[bytes > 0 ? bytes - 1 : 0] = 0;
    const char *start = text + strspn(text, " ");
    snprintf(out, out_bytes, "%.*s", (int)(out_bytes - 1), start);
    for (size_t n = strlen(out); n > 0 && out[n - 1] == ' '; n--) out[n - 1] = 0;
    return WF_OK;
}

/* Extensions can be longer than any fixed text. */
static wf_status extensions_of(wf_calls *calls, cl_device_id id, char **out) {
    size_t bytes = 0;
    TRY(WF_CL(calls, clGetDeviceInfo, (id, CL_DEVICE_EXTENSIONS, 0, NULL, &bytes)));
    char *text = calloc(1, bytes + 1);
    if (!text) return wf_fail(WF_ERR_MEMORY, "out of host memory for a device's extensions");
    const wf_status status = WF_CL(calls, clGetDeviceInfo, (id, CL_DEVICE_EXTENSIONS, bytes, text, NULL));
    if (status == WF_OK) *out = text;
    else free(text);
    return status;
}

static bool has_word(const char *text, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = strstr(text, word); at; at = strstr(at + length, word)) {
        const bool starts = at == text || at[-1] == ' ';
        if (starts && (at[length] == ' ' || at[length] == 0)) return true;
    }
    return false;
}

static wf_device_type type_of(cl_device_type type) {
    if (type & CL_DEVICE_TYPE_GPU) return WF_DEVICE_GPU;
    return type & CL_DEVICE_TYPE_CPU ? WF_DEVICE_CPU : WF_DEVICE_OTHER;
}

static wf_status probe_names(wf_calls *calls, cl_platform_id platform, cl_device_id id, wf_device *out) {
    char driver[60], language[60];
    TRY(text_of(calls, id, CL_DEVICE_NAME, out->name, sizeof out->name));
    TRY(text_of(calls, id, CL_DEVICE_VENDOR, out->vendor, sizeof out->vendor));
    TRY(text_of(calls, id, CL_DRIVER_VERSION, driver, sizeof driver));
    TRY(text_of(calls, id, CL_DEVICE_OPENCL_C_VERSION, language, sizeof language));
    snprintf(out->driver, sizeof out->driver, "%s, %s", driver, language);
    char name[sizeof out->platform] = "";
    size_t bytes = 0;
    TRY(WF_CL(calls, clGetPlatformInfo, (platform, CL_PLATFORM_NAME, 0, NULL, &bytes)));
    if (bytes <= sizeof name) TRY(WF_CL(calls, clGetPlatformInfo, (platform, CL_PLATFORM_NAME, sizeof name, name, NULL)));
    snprintf(out->platform, sizeof out->platform, "%s", name);
    return WF_OK;
}

#define PROBE(id, what, value) WF_CL(calls, clGetDeviceInfo, (id, what, sizeof(value), &(value), NULL))

static wf_status probe_sizes(wf_calls *calls, cl_device_id id, wf_device *out) {
    cl_device_type type;
    cl_uint units, align_bits, clock, floats;
    size_t group;
    cl_ulong local, global, largest;
    cl_bool unified;
    TRY(PROBE(id, CL_DEVICE_TYPE, type));
    TRY(PROBE(id, CL_DEVICE_MAX_COMPUTE_UNITS, units));
    TRY(PROBE(id, CL_DEVICE_MAX_CLOCK_FREQUENCY, clock));
    TRY(PROBE(id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, floats));
    TRY(PROBE(id, CL_DEVICE_MAX_WORK_GROUP_SIZE, group));
    TRY(PROBE(id, CL_DEVICE_LOCAL_MEM_SIZE, local));
    TRY(PROBE(id, CL_DEVICE_GLOBAL_MEM_SIZE, global));
    TRY(PROBE(id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, largest));
    TRY(PROBE(id, CL_DEVICE_MEM_BASE_ADDR_ALIGN, align_bits));
    TRY(PROBE(id, CL_DEVICE_HOST_UNIFIED_MEMORY, unified));
    out->type = type_of(type);
    out->compute_units = units > 0 ? (int32_t)units : 1;
    out->clock_mhz = (int32_t)clock;
    out->vector_floats = (int32_t)floats;
    out->max_group = (int32_t)group;
    out->local_bytes = (int64_t)local;
    out->global_bytes = (int64_t)global;
    out->available_bytes = (int64_t)global;
    out->max_alloc_bytes = (int64_t)largest;
    out->align_bytes = align_bits / 8 > 64 ? (int32_t)(align_bits / 8) : 64;
    out->host_unified = unified;
    return WF_OK;
}

wf_status wf_find_probe(wf_calls *calls, cl_platform_id platform, cl_device_id id, wf_device *out) {
    wf_device device = {0};
    char *extensions = NULL;
    TRY(probe_names(calls, platform, id, &device));
    TRY(probe_sizes(calls, id, &device));
    TRY(extensions_of(calls, id, &extensions));
    device.fp16 = has_word(extensions, "cl_khr_fp16");
    device.subgroups = has_word(extensions, "cl_khr_subgroups") || has_word(extensions, "cl_intel_subgroups");
    wf_status status = WF_OK;
    if (has_word(extensions, "cl_amd_device_attribute_query")) {
        /* CL_DEVICE_MAX_WORK_GROUP_SIZE is there only what the driver prefers. */
        const cl_device_info max_group_amd = 0x4031;
        size_t group = 0;
        status = PROBE(id, max_group_amd, group);
        if (status == WF_OK && (int32_t)group > device.max_group) device.max_group = (int32_t)group;
        status = WF_OK;
    }
    free(extensions);
    *out = device;
    return status;
}

/* The file that a function of this driver's is in, by size and time; nothing where that cannot be found out. */
static void add_file(wf_calls *calls, cl_platform_id platform, char *out, size_t out_bytes) {
    cl_int code = CL_SUCCESS;
    Dl_info where;
    struct stat what;
    const void *const function =
        WF_CL_NEW(calls, code, clGetExtensionFunctionAddressForPlatform, (platform, "clIcdGetPlatformIDsKHR"));
    if (code || !function || !dladdr(function, &where) || !where.dli_fname || stat(where.dli_fname, &what) != 0) return;
    snprintf(out, out_bytes, "; %s, %lld bytes of %lld.%09ld", where.dli_fname, (long long)what.st_size,
             (long long)what.st_mtim.tv_sec, what.st_mtim.tv_nsec);
}

wf_status wf_find_identity(wf_calls *calls, cl_platform_id platform, cl_device_id id, char *out, size_t out_bytes) {
    char of_platform[512] = "", of_device[256];
    size_t bytes = 0;
    TRY(WF_CL(calls, clGetPlatformInfo, (platform, CL_PLATFORM_VERSION, 0, NULL, &bytes)));
    if (bytes <= sizeof of_platform)
        TRY(WF_CL(calls, clGetPlatformInfo, (platform, CL_PLATFORM_VERSION, sizeof of_platform, of_platform, NULL)));
    TRY(text_of(calls, id, CL_DEVICE_VERSION, of_device, sizeof of_device));
    snprintf(out, out_bytes, "%s; %s", of_platform, of_device);
    const size_t used = strlen(out);
    add_file(calls, platform, out + used, out_bytes - used);
    return WF_OK;
}

static wf_status usable(wf_calls *calls, cl_device_id id, bool *out) {
    cl_bool available, compiler;
    TRY(PROBE(id, CL_DEVICE_AVAILABLE, available));
    TRY(PROBE(id, CL_DEVICE_COMPILER_AVAILABLE, compiler));
    *out = available && compiler;
    return WF_OK;
}

/* Appends the devices of one platform. */
static wf_status find_on(wf_calls *calls, cl_platform_id platform, int32_t platform_index, wf_found **found,
                         int32_t *count) {
    cl_uint devices = 0;
    cl_device_id ids[64];
    const cl_int code = wf_calls_fails(calls) ? calls->fail_code
                                              : clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 64, ids, &devices);
    if (code == CL_DEVICE_NOT_FOUND) return WF_OK;
    TRY(wf_calls_status("clGetDeviceIDs", code));
    if (devices > 64) devices = 64;
    wf_found *grown = realloc(*found, ((size_t)*count + devices) * sizeof **found);
    if (!grown && devices > 0) return wf_fail(WF_ERR_MEMORY, "out of host memory for the list of devices");
    *found = grown ? grown : *found;
    for (cl_uint i = 0; i < devices; i++) {
        wf_found one = {.platform_index = platform_index, .device_index = (int32_t)i, .platform = platform, .id = ids[i]};
        bool works = false;
        TRY(usable(calls, ids[i], &works));
        if (!works) continue;
        TRY(wf_find_probe(calls, platform, ids[i], &one.device));
        (*found)[(*count)++] = one;
    }
    return WF_OK;
}

wf_status wf_find_devices(wf_calls *calls, wf_found **out, int32_t *count_out) {
    cl_platform_id platforms[32];
    cl_uint nplatforms = 0;
    const cl_int code = wf_calls_fails(calls) ? calls->fail_code : clGetPlatformIDs(32, platforms, &nplatforms);
    *out = NULL;
    *count_out = 0;
    if (code == -1001) return WF_OK; /* CL_PLATFORM_NOT_FOUND_KHR */
    TRY(wf_calls_status("clGetPlatformIDs", code));
    wf_found *found = NULL;
    int32_t count = 0;
    wf_status failed = WF_OK;
    for (cl_uint i = 0; i < nplatforms && i < 32 && failed != WF_ERR_MEMORY; i++) {
        const int32_t before = count;
        const wf_status status = find_on(calls, platforms[i], (int32_t)i, &found, &count);
        if (status == WF_OK) continue;
        wf_say(calls->log, WF_LOG_DEVICE, "platform %u is left out: %s", (unsigned)i, wf_last_error());
        count = before;
        failed = status;
    }
    /* One broken driver must not stop the others; but where it is the only one, it is the reason. */
    if (failed == WF_ERR_MEMORY || (failed != WF_OK && count == 0)) {
        free(found);
        return wf_fail(failed, "no OpenCL device works: %s", wf_last_error());
    }
    *out = found;
    *count_out = count;
    return WF_OK;
}

static bool contains_ignoring_case(const char *text, const char *part) {
    const size_t length = strlen(part);
    for (; *text; text++)
        if (strncasecmp(text, part, length) == 0) return true;
    return false;
}

/* Does a wish name this device? "2", "1.0", or a part of its name or its platform's: two drivers may drive one processor. */
static bool wished(const wf_found *found, int32_t index, const char *wish) {
    char flat[16], dotted[32];
    snprintf(flat, sizeof flat, "%d", (int)index);
    snprintf(dotted, sizeof dotted, "%d.%d", (int)found->platform_index, (int)found->device_index);
    if (strcmp(wish, flat) == 0 || strcmp(wish, dotted) == 0) return true;
    const bool is_index = strspn(wish, "0123456789.") == strlen(wish) && strlen(wish) < 4; /* "3090" is a name's part */
    return !is_index && (contains_ignoring_case(found->device.name, wish) || contains_ignoring_case(found->device.platform, wish));
}

static int32_t any_of_type(const wf_found *found, int32_t count, wf_device_type type) {
    for (int32_t i = 0; i < count; i++)
        if (found[i].device.type == type) return 1;
    return 0;
}

wf_status wf_find_choose(const wf_found *found, int32_t count, const char *wish, int32_t node_rank,
                         int32_t node_ranks, int32_t *index_out, int32_t *sharer_out, int32_t *sharers_out) {
    if (count == 0)
        return wf_fail(WF_ERR_DEVICE, "no OpenCL device: no driver is installed, or none works for this user "
                                      "(on Debian or Ubuntu: apt-get install pocl-opencl-icd for the CPU)");
    wf_device_type type = WF_DEVICE_GPU;
    if (!any_of_type(found, count, type)) type = WF_DEVICE_CPU;
    if (!any_of_type(found, count, type)) type = WF_DEVICE_OTHER;
    int32_t matches = 0, nth = -1;
    for (int32_t i = 0; i < count; i++) matches += wish ? wished(&found[i], i, wish) : found[i].device.type == type;
    if (matches == 0)
        return wf_fail(WF_ERR_DEVICE, "no OpenCL device is named \"%s\"; the first of %d is 0, \"%s\"", wish, (int)count,
                       found[0].device.name);
    if (node_ranks < 1) node_ranks = 1;
    for (int32_t i = 0; i < count; i++) {
        if (!(wish ? wished(&found[i], i, wish) : found[i].device.type == type)) continue;
        if (++nth != node_rank % matches) continue;
        *index_out = i;
        *sharer_out = node_rank / matches;
        *sharers_out = (node_ranks - nth + matches - 1) / matches;
    }
    return WF_OK;
}
