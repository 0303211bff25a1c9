/* Buffers. Limits are checked here first: PoCL promises memory that is not there, and crashes on it. */
#include "host/device/opencl.h"

#include <stdlib.h>

static wf_status create(wf_opencl *opencl, void *host, int64_t bytes, wf_memory **out) {
    wf_memory *memory = calloc(1, sizeof *memory);
    if (!memory) return wf_fail(WF_ERR_MEMORY, "out of host memory for a buffer's handle");
    *memory = (wf_memory){.opencl = opencl, .bytes = bytes, .host = host};
    if (bytes > 0) {
        cl_int code = CL_SUCCESS;
        const cl_mem_flags flags = CL_MEM_READ_WRITE | (host ? CL_MEM_USE_HOST_PTR : 0);
        memory->mem = WF_CL_NEW(&opencl->calls, code, clCreateBuffer, (opencl->context, flags, (size_t)bytes, host, &code));
        if (code == CL_INVALID_BUFFER_SIZE) code = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        const wf_status status = wf_calls_status("clCreateBuffer", code);
        if (status != WF_OK) {
            free(memory);
            return wf_fail(status, "%lld bytes of device memory: %s", (long long)bytes, wf_last_error());
        }
    }
    wf_calls_buffer(&opencl->calls, bytes);
    if (!host) opencl->owned_bytes += bytes;
    *out = memory;
    return WF_OK;
}

wf_status wf_memory_create(wf_opencl *opencl, int64_t bytes, wf_memory **out) {
    const wf_device *device = &opencl->device;
    if (bytes < 0) return wf_fail(WF_ERR_ARGUMENT, "a buffer of %lld bytes", (long long)bytes);
    if (bytes > device->max_alloc_bytes)
        return wf_fail(WF_ERR_MEMORY, "a buffer of %lld bytes is above what %s allows for one, %lld bytes",
                       (long long)bytes, device->name, (long long)device->max_alloc_bytes);
    if (bytes > device->available_bytes - opencl->owned_bytes)
        return wf_fail(WF_ERR_MEMORY, "%lld bytes more do not fit: %lld of %lld bytes of %s are taken", (long long)bytes,
                       (long long)opencl->owned_bytes, (long long)device->available_bytes, device->name);
    return create(opencl, NULL, bytes, out);
}

wf_status wf_memory_wrap(wf_opencl *opencl, void *host, int64_t bytes, wf_memory **out) {
    if (bytes < 0 || (bytes > 0 && !host))
        return wf_fail(WF_ERR_ARGUMENT, "host memory of %lld bytes at %p cannot be wrapped", (long long)bytes, host);
    if ((uintptr_t)host % 4096 != 0)
        return wf_fail(WF_ERR_ARGUMENT, "host memory at %p is not aligned to a page and cannot be wrapped", host);
    return create(opencl, host, bytes, out);
}

void wf_memory_destroy(wf_memory *memory) {
    if (!memory) return;
    if (memory->mem) clReleaseMemObject(memory->mem);
    if (memory->borrowed) {
        free(memory);
        return;
    }
    wf_calls_buffer(&memory->opencl->calls, -memory->bytes);
    if (!memory->host) memory->opencl->owned_bytes -= memory->bytes;
    free(memory);
}

int64_t wf_memory_bytes(const wf_memory *memory) {
    return memory->bytes;
}

void *wf_memory_host(const wf_memory *memory) {
    return memory->host;
}

void *wf_memory_cl(const wf_memory *memory) {
    return memory->mem;
}
