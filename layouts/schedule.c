/* schedule.c: where views lie, and the names of things. Plain questions to a schedule; the passes
 * are in the files that schedule.h names. */
#include "layouts/schedule.h"

int32_t wf_call_instance(const wf_call *call, wf_at at) {
    switch (at) {
    case WF_AT_NONE: return 0;
    case WF_AT_LAYER: return call->layer;
    case WF_AT_MICROBATCH: return call->microbatch;
    default: return call->at[at];
    }
}

int32_t wf_view_instance(const wf_view *view, const wf_call *call) {
    return wf_call_instance(call, (wf_at)view->at);
}

int64_t wf_view_elements(const wf_view *view) {
    int64_t elements = 1;
    for (int d = 0; d < view->ndim; d++) elements *= view->extent[d];
    return elements;
}

bool wf_view_contiguous(const wf_view *view) {
    int64_t expected = 1;
    for (int d = view->ndim - 1; d >= 0; d--) {
        if (view->extent[d] == 0) return true;
        if (view->extent[d] != 1 && view->stride[d] != expected) return false;
        expected *= view->extent[d];
    }
    return true;
}

int64_t wf_view_bytes(const wf_schedule *s, const wf_view *view) {
    return wf_view_elements(view) * wf_dtype_bytes((wf_dtype)s->buffers[view->buffer].dtype);
}

void wf_view_span(const wf_schedule *s, const wf_view *view, int64_t *first_out, int64_t *end_out) {
    const int64_t bytes = wf_dtype_bytes((wf_dtype)s->buffers[view->buffer].dtype);
    int64_t last = view->offset;
    *first_out = *end_out = 0;
    for (int d = 0; d < view->ndim; d++) {
        if (view->extent[d] == 0) return;
        last += (view->extent[d] - 1) * view->stride[d];
    }
    *first_out = view->offset * bytes;
    *end_out = (last + 1) * bytes;
}

wf_location wf_buffer_locate(const wf_buffer *buffer, int32_t instance) {
    if (buffer->allocation < 0) return (wf_location){-1, 0};
    if (instance < buffer->per_allocation)
        return (wf_location){buffer->allocation, buffer->offset + instance * buffer->stride};
    return (wf_location){buffer->allocation + instance / buffer->per_allocation,
                         instance % buffer->per_allocation * buffer->stride};
}

wf_location wf_schedule_locate(const wf_schedule *s, const wf_view *view, const wf_call *call) {
    const wf_buffer *buffer = &s->buffers[view->buffer];
    wf_location at = wf_buffer_locate(buffer, wf_view_instance(view, call));
    at.offset_bytes += view->offset * wf_dtype_bytes((wf_dtype)buffer->dtype);
    return at;
}

bool wf_step_writes(const wf_schedule *s, const wf_step *step, int v) {
    return v >= step->reads || (step->kind == WF_STEP_EXCHANGE && s->exchanges[step->exchange].kind == WF_RETURN);
}

wf_lane wf_lane_channel(wf_lane lane) {
    if (lane == WF_LANE_PP_RECV_F) return WF_LANE_PP_SEND_F;
    if (lane == WF_LANE_PP_RECV_B) return WF_LANE_PP_SEND_B;
    return lane;
}

/* ---- names ------------------------------------------------------------------------------------ */

const char *wf_lane_name(wf_lane lane) {
    static const char *const names[WF_LANES] = {
        "compute", "copy", "tp", "cp", "ep", "dp", "pp.send.f", "pp.recv.f", "pp.send.b", "pp.recv.b", "return"};
    return (unsigned)lane < WF_LANES ? names[lane] : "unknown";
}

const char *wf_space_name(wf_space space) {
    static const char *const names[WF_SPACES] = {"device", "window", "pinned", "host", "file", "peer"};
    return (unsigned)space < WF_SPACES ? names[space] : "unknown";
}

const char *wf_class_name(wf_class class_) {
    static const char *const names[WF_CLASSES] = {"parameter",  "gradient",  "optimizer", "activation",
                                                  "workspace", "cache", "io"};
    return (unsigned)class_ < WF_CLASSES ? names[class_] : "unknown";
}

const char *wf_collective_name(wf_collective collective) {
    static const char *const names[WF_COLLECTIVES] = {"all-gather", "reduce-scatter", "all-to-all",
                                                      "shift", "point-to-point"};
    return (unsigned)collective < WF_COLLECTIVES ? names[collective] : "unknown";
}

const char *wf_transport_name(wf_transport_kind transport) {
    static const char *const names[WF_TRANSPORTS] = {"none", "mpi", "staged", "window"};
    return (unsigned)transport < WF_TRANSPORTS ? names[transport] : "unknown";
}
