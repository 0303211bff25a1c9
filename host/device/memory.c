/* Buffers. Limits are checked here first: PoCL promises memory that is not there, and crashes on it. */
#include "host/device/opencl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- pages of our own -------------------------------------------------------------------------------------- */

/* A CPU device's buffers are pages of this process. A matrix whose rows are 4096 bytes apart touches a page per
 * row, and walks of small pages cost up to a twentieth of a GEMM's time (benchmarks/NOTES.md), so large
 * buffers ask for huge ones, which drivers do not. And where the fabric knows the pages, it copies them itself. The
 * driver frees them when it is done with the buffer. */
enum { PAGE = 4096, HUGE_PAGE = 2 << 20, FEWEST_HUGE_PAGES = 2 };

static bool wants_huge_pages(int64_t bytes) {
#if defined(MADV_HUGEPAGE)
    return bytes >= (int64_t)FEWEST_HUGE_PAGES * HUGE_PAGE;
#else
    return (void)bytes, false;
#endif
}

static bool has_own_pages(const wf_opencl *opencl, int64_t bytes) {
    const wf_device *const device = &opencl->device;
    if (device->type != WF_DEVICE_CPU || !device->host_unified || bytes == 0) return false;
    return opencl->direct || wants_huge_pages(bytes);
}

static void *own_pages(int64_t bytes) {
    const size_t unit = wants_huge_pages(bytes) ? HUGE_PAGE : PAGE, whole = ((size_t)bytes + unit - 1) / unit * unit;
    void *const pages = aligned_alloc(unit, whole);
#if defined(MADV_HUGEPAGE)
    if (pages && unit == HUGE_PAGE) (void)madvise(pages, whole, MADV_HUGEPAGE); /* a wish */
#endif
    return pages;
}

static void CL_CALLBACK free_pages(cl_mem mem, void *pages) {
    (void)mem;
    free(pages);
}

/* ---- buffers ----------------------------------------------------------------------------------------------- */

static wf_status create(wf_opencl *opencl, cl_mem_flags access, void *host, int64_t bytes, wf_memory **out) {
    wf_memory *memory = calloc(1, sizeof *memory);
    if (!memory) return wf_fail(WF_ERR_MEMORY, "out of host memory for a buffer's handle");
    *memory = (wf_memory){.opencl = opencl, .bytes = bytes, .host = host, .direct = opencl->direct ? host : NULL};
    if (bytes > 0) {
        cl_int code = CL_SUCCESS;
        const cl_mem_flags flags = access | (host ? CL_MEM_USE_HOST_PTR : 0);
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
    if (!has_own_pages(opencl, bytes)) return create(opencl, CL_MEM_READ_WRITE, NULL, bytes, out);
    wf_memory *memory = NULL;
    void *const pages = own_pages(bytes);
    if (!pages) return wf_fail(WF_ERR_MEMORY, "no host memory for a buffer of %lld bytes", (long long)bytes);
    wf_status status = create(opencl, CL_MEM_READ_WRITE, pages, bytes, &memory);
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

static wf_status wrap(wf_opencl *opencl, cl_mem_flags access, void *host, int64_t bytes, wf_memory **out) {
    if (bytes < 0 || (bytes > 0 && !host))
        return wf_fail(WF_ERR_ARGUMENT, "host memory of %lld bytes at %p cannot be wrapped", (long long)bytes, host);
    if ((uintptr_t)host % 4096 != 0)
        return wf_fail(WF_ERR_ARGUMENT, "host memory at %p is not aligned to a page and cannot be wrapped", host);
    return create(opencl, access, host, bytes, out);
}

wf_status wf_memory_wrap(wf_opencl *opencl, void *host, int64_t bytes, wf_memory **out) {
    return wrap(opencl, CL_MEM_READ_WRITE, host, bytes, out);
}

wf_status wf_memory_wrap_to_read(wf_opencl *opencl, void *host, int64_t bytes, wf_memory **out) {
    return wrap(opencl, CL_MEM_READ_ONLY, host, bytes, out);
}

void wf_memory_destroy(wf_memory *memory) {
    if (!memory || memory->holds-- > 0) return;
    if (memory->mem && !memory->abandoned) clReleaseMemObject(memory->mem);
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

void *wf_memory_direct(const wf_memory *memory) {
    return memory->direct;
}

bool wf_opencl_direct(const wf_opencl *opencl) {
    return opencl->direct;
}

void wf_memory_abandon(wf_memory *memory) {
    memory->abandoned = true;
    wf_memory_destroy(memory);
}

void wf_memory_hold(wf_memory *memory) {
    memory->holds++;
}

/* ---- is the device's memory the host's? ------------------------------------------------------------------------ */

/* What a command has written is seen by the host, and what the host has written by a command, with nothing but the
 * commands' events between. */
static wf_status compare_views(wf_opencl *opencl, wf_memory *wrapped, wf_memory *other, unsigned char *pages, bool *same_out) {
    const unsigned char from_device = 0x5a, from_host = 0xc3;
    unsigned char back[2] = {0};
    cl_event cl = NULL;
    wf_event *event = NULL;
    TRY(wf_event_reserve(opencl));
    TRY(WF_CL(&opencl->calls, clEnqueueFillBuffer,
              (opencl->queue[WF_QUEUE_SEND], wrapped->mem, &from_device, 1, 0, PAGE, 0, NULL, &cl)));
    TRY(wf_event_submitted(opencl, WF_QUEUE_SEND, cl, &event));
    wf_status status;
    TRY_GOTO(wf_event_wait(event), settle);
    wf_event_release(event);
    event = NULL;
    *same_out = pages[0] == from_device && pages[PAGE - 1] == from_device;
    memset(pages, from_host, PAGE);
    TRY_GOTO(wf_queue_copy(opencl, WF_QUEUE_SEND, wrapped, 0, other, 0, PAGE, NULL), settle);
    TRY_GOTO(wf_queue_read(opencl, WF_QUEUE_SEND, other, 0, 1, &back[0], NULL), settle);
    TRY_GOTO(wf_queue_read(opencl, WF_QUEUE_SEND, other, PAGE - 1, 1, &back[1], NULL), settle);
    TRY_GOTO(wf_queue_finish(opencl, WF_QUEUE_SEND), settle);
    *same_out = *same_out && back[0] == from_host && back[1] == from_host;
    return WF_OK;
settle:
    wf_event_release(event);
    wf_queue_settle(opencl, WF_QUEUE_SEND);
    return status;
}

wf_status wf_memory_probe(wf_opencl *opencl) {
    wf_memory *wrapped = NULL, *other = NULL;
    bool same = false;
    if (opencl->device.type != WF_DEVICE_CPU || !opencl->device.host_unified) return WF_OK;
    unsigned char *const pages = aligned_alloc(PAGE, PAGE);
    if (!pages) return wf_fail(WF_ERR_MEMORY, "no host memory for a page");
    wf_status status;
    TRY_GOTO(wf_memory_wrap(opencl, pages, PAGE, &wrapped), destroy);
    TRY_GOTO(create(opencl, CL_MEM_READ_WRITE, NULL, PAGE, &other), destroy);
    status = compare_views(opencl, wrapped, other, pages, &same);
destroy:
    wf_memory_destroy(wrapped);
    wf_memory_destroy(other);
    free(pages);
    opencl->calls.peak_bytes = 0; /* of what the caller makes */
    opencl->direct = status == WF_OK && same;
    return status;
}

/* ---- host memory for copies --------------------------------------------------------------------------------------- */

struct wf_pinned {
    wf_opencl *opencl;
    cl_mem mem; /* NULL: pages as any */
    void *host;
};

/* A buffer that the driver keeps in host memory, mapped as long as it lives: its address is what drivers know to be locked. */
static wf_status lock_pages(wf_pinned *pinned, int64_t bytes) {
    wf_calls *const calls = &pinned->opencl->calls;
    cl_command_queue const queue = pinned->opencl->queue[WF_QUEUE_SEND];
    cl_int code = CL_SUCCESS;
    cl_mem const mem = WF_CL_NEW(calls, code, clCreateBuffer,
                                 (pinned->opencl->context, CL_MEM_READ_WRITE | CL_MEM_ALLOC_HOST_PTR, (size_t)bytes, NULL, &code));
    TRY(wf_calls_status("clCreateBuffer", code));
    void *const host = WF_CL_NEW(calls, code, clEnqueueMapBuffer,
                                 (queue, mem, CL_TRUE, CL_MAP_READ | CL_MAP_WRITE, 0, (size_t)bytes, 0, NULL, NULL, &code));
    const wf_status status = wf_calls_status("clEnqueueMapBuffer", code);
    if (status != WF_OK) {
        clReleaseMemObject(mem);
        return status;
    }
    pinned->mem = mem;
    pinned->host = host;
    return WF_OK;
}

wf_status wf_pinned_create(wf_opencl *opencl, int64_t bytes, wf_pinned **out) {
    wf_pinned *const pinned = calloc(1, sizeof *pinned);
    if (!pinned) return wf_fail(WF_ERR_MEMORY, "no host memory for copies of %lld bytes", (long long)bytes);
    pinned->opencl = opencl;
    if (opencl->direct || lock_pages(pinned, bytes) != WF_OK)
        pinned->host = aligned_alloc(PAGE, (size_t)(bytes + PAGE - 1) / PAGE * PAGE);
    if (!pinned->host) {
        free(pinned);
        return wf_fail(WF_ERR_MEMORY, "no host memory for copies of %lld bytes", (long long)bytes);
    }
    *out = pinned;
    return WF_OK;
}

/* Who copies from or to it is done. */
void wf_pinned_destroy(wf_pinned *pinned) {
    if (!pinned) return;
    if (pinned->mem) {
        (void)clEnqueueUnmapMemObject(pinned->opencl->queue[WF_QUEUE_SEND], pinned->mem, pinned->host, 0, NULL, NULL);
        clReleaseMemObject(pinned->mem);
    } else {
        free(pinned->host);
    }
    free(pinned);
}

void *wf_pinned_host(const wf_pinned *pinned) {
    return pinned->host;
}
