/* Buffers. Limits are checked here first: PoCL promises memory that is not there, and crashes on it. */
#include "host/device/opencl.h"

#include <stdlib.h>
#include <sys/mman.h>

/* ---- huge pages ------------------------------------------------------------------------------------------ */

/* A CPU device's buffers are pages of this process. A matrix whose rows are 4096 bytes apart touches a page per
 * row, and walks of small pages cost up to a twentieth of a GEMM's time (benchmarks/NOTES.md), so large
 * buffers ask for huge ones, which drivers do not. The driver frees them when it is done with the buffer. */
#if defined(MADV_HUGEPAGE)
enum { HUGE_PAGE = 2 << 20, FEWEST_HUGE_PAGES = 2 };

static bool wants_huge_pages(const wf_device *device, int64_t bytes) {
    return device->type == WF_DEVICE_CPU && device->host_unified && bytes >= (int64_t)FEWEST_HUGE_PAGES * HUGE_PAGE;
}

static void *huge_pages(int64_t bytes) {
    const size_t whole = ((size_t)bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void *const pages = aligned_alloc(HUGE_PAGE, whole);
    if (pages) (void)madvise(pages, whole, MADV_HUGEPAGE); /* a wish */
    return pages;
}
#else
static bool wants_huge_pages(const wf_device *device, int64_t bytes) {
    return (void)device, (void)bytes, false;
}

static void *huge_pages(int64_t bytes) {
    return (void)bytes, NULL;
}
#endif

static void CL_CALLBACK free_pages(cl_mem mem, void *pages) {
    (void)mem;
    free(pages);
}

/* ---- buffers ----------------------------------------------------------------------------------------------- */

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
    if (!wants_huge_pages(device, bytes)) return create(opencl, NULL, bytes, out);
    wf_memory *memory = NULL;
    void *const pages = huge_pages(bytes);
    if (!pages) return wf_fail(WF_ERR_MEMORY, "no host memory for a buffer of %lld bytes", (long long)bytes);
    wf_status status = create(opencl, pages, bytes, &memory);
    if (status == WF_OK) {
        memory->host = NULL; /* the driver's from now on */
        opencl->owned_bytes += bytes;
        status = WF_CL(&opencl->calls, clSetMemObjectDestructorCallback, (memory->mem, free_pages, pages));
    }
    if (status != WF_OK) {
        wf_memory_destroy(memory);
        free(pages);
        return status;
    }
    *out = memory;
    return WF_OK;
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
