/* borrow.c: buffers, events and a queue that are the caller's. They are retained while they are used,
 * asked what they are before they are, and otherwise left alone: his queue is never finished, his
 * buffers are written only where he said so. */
#include "host/device/opencl.h"

#include <stdlib.h>

/* ---- buffers ----------------------------------------------------------------------------------------- */

wf_status wf_memory_borrow(wf_opencl *opencl, wf_memory **out) {
    wf_memory *const memory = calloc(1, sizeof *memory);
    if (!memory) return wf_fail(WF_ERR_MEMORY, "out of host memory for a buffer's handle");
    *memory = (wf_memory){.opencl = opencl, .borrowed = true};
    *out = memory;
    return WF_OK;
}

static wf_status inspect(wf_opencl *opencl, cl_mem mem, bool read, bool written, size_t *bytes_out) {
    cl_context context = NULL;
    cl_mem_object_type type = 0;
    cl_mem_flags flags = 0;
    TRY(WF_CL(&opencl->calls, clGetMemObjectInfo, (mem, CL_MEM_CONTEXT, sizeof context, &context, NULL)));
    TRY(WF_CL(&opencl->calls, clGetMemObjectInfo, (mem, CL_MEM_TYPE, sizeof type, &type, NULL)));
    TRY(WF_CL(&opencl->calls, clGetMemObjectInfo, (mem, CL_MEM_FLAGS, sizeof flags, &flags, NULL)));
    TRY(WF_CL(&opencl->calls, clGetMemObjectInfo, (mem, CL_MEM_SIZE, sizeof *bytes_out, bytes_out, NULL)));
    if (context != opencl->context)
        return wf_fail(WF_ERR_ARGUMENT, "the caller's buffer is of another cl_context than this weft_context's (options.cl_context)");
    if (type != CL_MEM_OBJECT_BUFFER) return wf_fail(WF_ERR_ARGUMENT, "the caller's cl_mem is an image, not a buffer");
    if (written && (flags & CL_MEM_READ_ONLY))
        return wf_fail(WF_ERR_ARGUMENT, "the caller's buffer is to be written, but was created with CL_MEM_READ_ONLY");
    if (read && (flags & CL_MEM_WRITE_ONLY))
        return wf_fail(WF_ERR_ARGUMENT, "the caller's buffer is to be read, but was created with CL_MEM_WRITE_ONLY");
    return WF_OK;
}

wf_status wf_memory_point(wf_memory *memory, void *cl_mem, bool read, bool written) {
    wf_opencl *const opencl = memory->opencl;
    size_t bytes = 0;
    if (cl_mem) {
        TRY(inspect(opencl, cl_mem, read, written, &bytes));
        TRY(WF_CL(&opencl->calls, clRetainMemObject, (cl_mem)));
    }
    if (memory->mem) clReleaseMemObject(memory->mem);
    memory->mem = cl_mem;
    memory->bytes = (int64_t)bytes;
    return WF_OK;
}

/* ---- events and his queue ------------------------------------------------------------------------------ */

wf_status wf_queue_wait_for(wf_opencl *opencl, wf_queue queue, int32_t count, void *const *cl_events) {
    if (count <= 0) return WF_OK;
    TRY(WF_CL(&opencl->calls, clEnqueueBarrierWithWaitList,
              (opencl->queue[queue], (cl_uint)count, (const cl_event *)cl_events, NULL)));
    return wf_event_submitted(opencl, queue, NULL, NULL);
}

wf_status wf_event_export(wf_event *event, void **cl_event_out) {
    TRY(wf_queue_flush(event->opencl, event->queue));
    TRY(WF_CL(&event->opencl->calls, clRetainEvent, (event->event)));
    *cl_event_out = event->event;
    return WF_OK;
}

wf_status wf_queue_after_caller(wf_opencl *opencl, wf_queue queue) {
    cl_event event = NULL;
    if (!opencl->caller) return WF_OK;
    TRY(WF_CL(&opencl->calls, clEnqueueMarkerWithWaitList, (opencl->caller, 0, NULL, &event)));
    wf_status status = WF_CL(&opencl->calls, clFlush, (opencl->caller));
    if (status == WF_OK) status = wf_queue_wait_for(opencl, queue, 1, (void *[]){event});
    clReleaseEvent(event);
    return status;
}

wf_status wf_queue_before_caller(wf_opencl *opencl, wf_event *event) {
    if (!opencl->caller) return WF_OK;
    TRY(wf_queue_flush(opencl, event->queue));
    return WF_CL(&opencl->calls, clEnqueueBarrierWithWaitList, (opencl->caller, 1, &event->event, NULL));
}
