/* Queues, copies and events. A command is flushed no later than somebody asks for its event or another
 * queue waits for it; nothing is flushed for its own sake. */
#include "host/device/opencl.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

double wf_clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ---- events ------------------------------------------------------------------------------------------ */

wf_status wf_event_reserve(wf_opencl *opencl) {
    if (opencl->free_events) return WF_OK;
    wf_event *event = calloc(1, sizeof *event);
    if (!event) return wf_fail(WF_ERR_MEMORY, "out of host memory for an event");
    opencl->free_events = event;
    return WF_OK;
}

void wf_event_free_all(wf_opencl *opencl) {
    while (opencl->free_events) {
        wf_event *next = opencl->free_events->next;
        free(opencl->free_events);
        opencl->free_events = next;
    }
}

wf_status wf_event_submitted(wf_opencl *opencl, wf_queue queue, cl_event event, wf_event **event_out) {
    opencl->submitted[queue]++;
    if (!event_out) return WF_OK;
    wf_event *one = opencl->free_events;
    opencl->free_events = one->next;
    *one = (wf_event){.opencl = opencl, .event = event, .queue = queue, .number = opencl->submitted[queue]};
    *event_out = one;
    return WF_OK;
}

static wf_status flush_up_to(wf_event *event) {
    if (event->opencl->flushed[event->queue] >= event->number) return WF_OK;
    return wf_queue_flush(event->opencl, event->queue);
}

static wf_status failed(cl_int execution_status) {
    return wf_fail(WF_ERR_DEVICE, "a command failed on the device: %s (%d)", wf_calls_code_name(execution_status),
                   (int)execution_status);
}

wf_status wf_event_done(wf_event *event, bool *done) {
    TRY(flush_up_to(event));
    cl_int execution = CL_QUEUED;
    TRY(WF_CL(&event->opencl->calls, clGetEventInfo,
              (event->event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof execution, &execution, NULL)));
    if (execution < 0) return failed(execution);
    *done = execution == CL_COMPLETE;
    return WF_OK;
}

wf_status wf_event_wait(wf_event *event) {
    TRY(flush_up_to(event));
    wf_calls *const calls = &event->opencl->calls;
    return WF_CL_WAIT(calls, calls->limit_s, clWaitForEvents, (1, &event->event));
}

wf_status wf_queue_wait(wf_opencl *opencl, wf_queue queue, wf_event *event) {
    if (event->queue == queue && event->opencl == opencl) return WF_OK;
    TRY(flush_up_to(event));
    TRY(WF_CL(&opencl->calls, clEnqueueBarrierWithWaitList, (opencl->queue[queue], 1, &event->event, NULL)));
    return wf_event_submitted(opencl, queue, NULL, NULL);
}

void wf_event_release(wf_event *event) {
    if (!event) return;
    if (event->first) clReleaseEvent(event->first);
    clReleaseEvent(event->event);
    event->first = event->event = NULL;
    event->next = event->opencl->free_events;
    event->opencl->free_events = event;
}

/* ---- the device's clock ---------------------------------------------------------------------------------- */

static wf_status moment(wf_opencl *opencl, cl_event event, cl_profiling_info what, double *out) {
    cl_ulong nanoseconds = 0;
    TRY(WF_CL(&opencl->calls, clGetEventProfilingInfo, (event, what, sizeof nanoseconds, &nanoseconds, NULL)));
    *out = 1e-9 * (double)nanoseconds;
    return WF_OK;
}

/* A marker's end on the device lies between the host's times around it; the tightest of eight is
 * right to half its width. */
wf_status wf_clock_measure(wf_opencl *opencl) {
    double best = 1e9;
    for (int i = 0; i < 8 && opencl->profile; i++) {
        cl_event event = NULL;
        const double before = wf_clock_s();
        TRY(WF_CL(&opencl->calls, clEnqueueMarkerWithWaitList, (opencl->clock_queue, 0, NULL, &event)));
        wf_status status = WF_CL(&opencl->calls, clFinish, (opencl->clock_queue));
        const double after = wf_clock_s();
        double end = 0;
        if (status == WF_OK) status = moment(opencl, event, CL_PROFILING_COMMAND_END, &end);
        clReleaseEvent(event);
        TRY(status);
        if (after - before >= best) continue;
        best = after - before;
        opencl->clock_offset_s = 0.5 * (before + after) - end;
    }
    return WF_OK;
}

wf_status wf_event_times(wf_event *event, double *start_s, double *end_s) {
    wf_opencl *opencl = event->opencl;
    double start, end;
    if (!opencl->profile) return wf_fail(WF_ERR_ARGUMENT, "times of events need a device opened with profiling");
    TRY(moment(opencl, event->first ? event->first : event->event, CL_PROFILING_COMMAND_START, &start));
    TRY(moment(opencl, event->event, CL_PROFILING_COMMAND_END, &end));
    *start_s = start + opencl->clock_offset_s;
    *end_s = end + opencl->clock_offset_s;
    return WF_OK;
}

/* ---- copies ------------------------------------------------------------------------------------------------ */

static wf_status inside(const wf_memory *memory, int64_t offset_bytes, int64_t bytes, const char *what) {
    if (offset_bytes >= 0 && bytes >= 0 && offset_bytes <= memory->bytes && bytes <= memory->bytes - offset_bytes)
        return WF_OK;
    return wf_fail(WF_ERR_INTERNAL, "%s of %lld bytes at %lld is outside a buffer of %lld bytes", what, (long long)bytes,
                   (long long)offset_bytes, (long long)memory->bytes);
}

wf_status wf_queue_mark(wf_opencl *opencl, wf_queue queue, wf_event **event_out) {
    if (!event_out) return WF_OK;
    cl_event event = NULL;
    TRY(wf_event_reserve(opencl));
    TRY(WF_CL(&opencl->calls, clEnqueueMarkerWithWaitList, (opencl->queue[queue], 0, NULL, &event)));
    return wf_event_submitted(opencl, queue, event, event_out);
}

wf_status wf_queue_read(wf_opencl *opencl, wf_queue queue, wf_memory *memory, int64_t offset_bytes, int64_t bytes,
                        void *host, wf_event **event_out) {
    cl_event event = NULL;
    TRY(inside(memory, offset_bytes, bytes, "a read"));
    if (bytes == 0) return wf_queue_mark(opencl, queue, event_out);
    TRY(wf_event_reserve(opencl));
    TRY(WF_CL(&opencl->calls, clEnqueueReadBuffer,
              (opencl->queue[queue], memory->mem, CL_FALSE, (size_t)offset_bytes, (size_t)bytes, host, 0, NULL,
               event_out ? &event : NULL)));
    return wf_event_submitted(opencl, queue, event, event_out);
}

wf_status wf_queue_write(wf_opencl *opencl, wf_queue queue, wf_memory *memory, int64_t offset_bytes, int64_t bytes,
                         const void *host, wf_event **event_out) {
    cl_event event = NULL;
    TRY(inside(memory, offset_bytes, bytes, "a write"));
    if (bytes == 0) return wf_queue_mark(opencl, queue, event_out);
    TRY(wf_event_reserve(opencl));
    TRY(WF_CL(&opencl->calls, clEnqueueWriteBuffer,
              (opencl->queue[queue], memory->mem, CL_FALSE, (size_t)offset_bytes, (size_t)bytes, host, 0, NULL,
               event_out ? &event : NULL)));
    return wf_event_submitted(opencl, queue, event, event_out);
}

wf_status wf_queue_copy(wf_opencl *opencl, wf_queue queue, wf_memory *from, int64_t from_bytes, wf_memory *to,
                        int64_t to_bytes, int64_t bytes, wf_event **event_out) {
    cl_event event = NULL;
    TRY(inside(from, from_bytes, bytes, "a copy from"));
    TRY(inside(to, to_bytes, bytes, "a copy to"));
    if (bytes == 0) return wf_queue_mark(opencl, queue, event_out);
    TRY(wf_event_reserve(opencl));
    TRY(WF_CL(&opencl->calls, clEnqueueCopyBuffer,
              (opencl->queue[queue], from->mem, to->mem, (size_t)from_bytes, (size_t)to_bytes, (size_t)bytes, 0, NULL,
               event_out ? &event : NULL)));
    return wf_event_submitted(opencl, queue, event, event_out);
}

wf_status wf_queue_flush(wf_opencl *opencl, wf_queue queue) {
    if (opencl->flushed[queue] >= opencl->submitted[queue]) return WF_OK;
    TRY(WF_CL(&opencl->calls, clFlush, (opencl->queue[queue])));
    opencl->flushed[queue] = opencl->submitted[queue];
    return WF_OK;
}

wf_status wf_queue_finish(wf_opencl *opencl, wf_queue queue) {
    TRY(WF_CL_WAIT(&opencl->calls, opencl->calls.limit_s, clFinish, (opencl->queue[queue])));
    opencl->flushed[queue] = opencl->submitted[queue];
    return WF_OK;
}

void wf_queue_settle(wf_opencl *opencl, wf_queue queue) {
    char said[1024];
    snprintf(said, sizeof said, "%s", wf_last_error());
    const wf_status status = wf_queue_finish(opencl, queue);
    if (status != WF_OK) wf_fail(status, "%s", said);
}

/* A copy that failed to be waited for must not go on. */
static wf_status wait_for_copy(wf_opencl *opencl, wf_event *event) {
    const wf_status status = wf_event_wait(event);
    wf_event_release(event);
    if (status != WF_OK) wf_queue_settle(opencl, WF_QUEUE_COMPUTE);
    return status;
}

wf_status wf_memory_put(wf_opencl *opencl, wf_memory *memory, int64_t offset_bytes, const void *data, int64_t bytes) {
    wf_event *event = NULL;
    TRY(wf_queue_write(opencl, WF_QUEUE_COMPUTE, memory, offset_bytes, bytes, data, &event));
    return wait_for_copy(opencl, event);
}

wf_status wf_memory_get(wf_opencl *opencl, wf_memory *memory, int64_t offset_bytes, void *data, int64_t bytes) {
    wf_event *event = NULL;
    TRY(wf_queue_read(opencl, WF_QUEUE_COMPUTE, memory, offset_bytes, bytes, data, &event));
    return wait_for_copy(opencl, event);
}
