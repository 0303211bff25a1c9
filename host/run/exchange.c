/* exchange.c: a step that exchanges as the fabric's messages: what is sent and received, from where to where; or that nothing is
 * moved, as the kernels read it where it lies (layouts/in_place.c). */
#include "host/run/internal.h"

/* A message of which no byte moves: a word that it has been read, or one that is read where it lies. */
static wf_message still(const wf_runner *r, const wf_view *view, int32_t peer, wf_found *found) {
    return (wf_message){.bytes = wf_view_bytes(r->schedule, view), .peer = peer, .found = found, .word = !found};
}

static wf_status message(const wf_runner *r, const wf_instance *i, const wf_view *view, int32_t peer, wf_message *out) {
    if (!wf_view_contiguous(view))
        return wf_fail(WF_ERR_INTERNAL, "step %s exchanges a view with gaps", i->step->site);
    const int64_t each = wf_dtype_bytes((wf_dtype)r->schedule->buffers[view->buffer].dtype);
    wf_bound_view at;
    wf_runner_bind(r, view, i->call, &at);
    out->memory = at.memory;
    out->offset_bytes = at.offset * each;
    out->bytes = wf_view_elements(view) * each;
    out->peer = peer;
    return WF_OK;
}

wf_transport_kind wf_exchange_sends_by(const wf_runner *r, const wf_exchange *x) {
    return x->transport ? (wf_transport_kind)x->transport : wf_fabric_transport(r->fabric, x->to);
}

wf_transport_kind wf_exchange_receives_by(const wf_runner *r, const wf_exchange *x) {
    return x->receive_transport ? (wf_transport_kind)x->receive_transport : wf_fabric_transport(r->fabric, x->from);
}

/* Where a message could lie that nobody has sent: in this rank's memory, as many bytes, each hop's apart. */
static wf_found anywhere(const wf_runner *r, const wf_view *view, int32_t hop) {
    const wf_schedule *const s = r->schedule;
    const wf_buffer *const buffer = &s->buffers[view->buffer];
    int32_t a = 0;
    while (a < s->nallocations && (!r->memory[a] || wf_memory_bytes(r->memory[a]) < buffer->bytes)) a++;
    if (a == s->nallocations) return (wf_found){0};
    const int64_t places = wf_memory_bytes(r->memory[a]) / buffer->stride; /* of a multiple of any alignment */
    return (wf_found){r->memory[a], (places ? hop % places : 0) * buffer->stride + view->offset * wf_dtype_bytes((wf_dtype)buffer->dtype)};
}

wf_status wf_exchange_start(wf_runner *r, wf_lane_state *lane, const wf_instance *i) {
    const wf_exchange *const x = &r->schedule->exchanges[i->step->exchange];
    const wf_view *view = &r->schedule->views[i->step->view];
    const bool word = x->kind == WF_RETURN;
    wf_message send = {.peer = -1}, receive = {.peer = -1};
    wf_transport_kind send_by = WF_TRANSPORT_NONE, receive_by = WF_TRANSPORT_NONE;
    if (x->to >= 0) {
        if (word) send = still(r, view++, x->to, NULL);
        else TRY(message(r, i, view++, x->to, &send));
        send_by = wf_exchange_sends_by(r, x);
    }
    if (x->from >= 0) {
        if (word || x->in_place) receive = still(r, view, x->from, word ? NULL : &lane->found);
        else TRY(message(r, i, view, x->from, &receive));
        receive_by = wf_exchange_receives_by(r, x);
    }
    if (wf_fabric_is_cut(r->fabric)) {
        send.bytes = receive.bytes = 0;
        if (x->in_place) lane->found = anywhere(r, view, x->hop);
    }
    lane->record = wf_trace_start(r, i);
    wf_runner_at(r, i);
    TRY(wf_fabric_start(r->fabric, (wf_lane)i->step->lane, send_by, &send, receive_by, &receive, &lane->transfer));
    lane->active = *i;
    lane->started = i->seq;
    return WF_OK;
}

wf_status wf_exchange_finish(wf_runner *r, const wf_lane_state *lane) {
    const wf_step *const step = lane->active.step;
    if (!r->schedule->exchanges[step->exchange].in_place) return WF_OK;
    const wf_view *const view = &r->schedule->views[step->view + step->reads];
    const wf_buffer *const buffer = &r->schedule->buffers[view->buffer];
    const int64_t into = view->offset * wf_dtype_bytes((wf_dtype)buffer->dtype);
    const wf_lent at = {lane->found.memory, lane->found.offset_bytes - into};
    wf_lent *const known = &r->found[view->buffer];
    if (into > 0 && (known->memory != at.memory || known->offset_bytes != at.offset_bytes))
        return wf_fail(WF_ERR_INTERNAL, "what %s receives does not lie together", buffer->name);
    *known = at;
    return WF_OK;
}
