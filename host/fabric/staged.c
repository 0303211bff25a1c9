/* staged.c: between ranks of a node whose devices have memory of their own. The sender's device
 * copies a chunk into a slot of the pair's ring, the receiver's device copies it out; with two
 * slots both copies go on at once, in both directions at once.
 *
 *     device --read--> | slot 0 | slot 1 | --write--> device
 *                        filled ->   <- emptied
 *
 * All lanes of a pair share its ring. A message enters it only when its receive has started, so the
 * chunk at the ring's end always finds its receiver. */
#include <stdlib.h>

#include "host/fabric/mail.h"

typedef struct copy {
    wf_half *half;
    int64_t bytes;
    wf_event *event;
} copy;

/* One side's view of a ring: copies [through, begun) are on a device queue. */
typedef struct flow {
    int64_t begun, through;
    copy copies[WF_STAGED_SLOTS];
} flow;

typedef struct staged {
    int64_t slot_bytes;
    flow *out, *in; /* [node ranks] */
} staged;

static wf_verdict_code ok(const wf_fabric *fabric, int32_t rank, int32_t peer) {
    if (fabric->peers[rank].node != fabric->peers[peer].node) return WF_PAIR_OTHER_NODE;
    return fabric->outboxes ? WF_PAIR_PASSED : WF_PAIR_NO_SHARE;
}

static void destroy(wf_fabric *fabric) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    if (!s) return;
    free(s->out);
    free(s->in);
    free(s);
    fabric->state[WF_TRANSPORT_STAGED] = NULL;
}

static wf_status create(wf_fabric *fabric) {
    const size_t count = (size_t)fabric->node.count;
    staged *const s = calloc(1, sizeof *s);
    fabric->state[WF_TRANSPORT_STAGED] = s;
    if (s) {
        s->slot_bytes = wf_outbox_slot_bytes(fabric);
        s->out = calloc(count, sizeof *s->out);
        s->in = calloc(count, sizeof *s->in);
    }
    if (s && s->out && s->in) return WF_OK;
    destroy(fabric);
    return wf_fail(WF_ERR_MEMORY, "no memory for the rings of %zu ranks", count);
}

/* Takes the copies that are done off the front of a flow: in order, as the device queue runs them.
 */
static wf_status settle(wf_fabric *fabric, flow *f, _Atomic int64_t *counter) {
    while (f->through < f->begun) {
        copy *const c = &f->copies[f->through % WF_STAGED_SLOTS];
        bool done = false;
        TRY(wf_event_done(c->event, &done));
        if (!done) break;
        wf_event_release(c->event);
        c->event = NULL;
        wf_half_moved(fabric, c->half, c->bytes);
        atomic_store_explicit(counter, ++f->through, memory_order_release);
    }
    return WF_OK;
}

static wf_status poll(wf_fabric *fabric) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    for (int32_t m = 0; m < fabric->node.count; m++) {
        const int32_t peer = fabric->node_ranks[m];
        if (s->out[m].through < s->out[m].begun)
            TRY(settle(fabric, &s->out[m],
                       &wf_outbox_wire(fabric, fabric->rank, peer)->ring.filled));
        if (s->in[m].through < s->in[m].begun)
            TRY(settle(fabric, &s->in[m],
                       &wf_outbox_wire(fabric, peer, fabric->rank)->ring.emptied));
    }
    return WF_OK;
}

static void begun(flow *f, wf_half *half, int64_t bytes, wf_event *event) {
    f->copies[f->begun % WF_STAGED_SLOTS] = (copy){.half = half, .bytes = bytes, .event = event};
    f->begun++;
    half->issued += bytes;
    if (half->issued == half->bytes) half->end->issuing++;
}

/* device -> slot, while there are free slots */
static wf_status fill(wf_fabric *fabric, wf_half *half) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    flow *const f = &s->out[fabric->peers[half->peer].place];
    wf_ring *const ring = &wf_outbox_wire(fabric, fabric->rank, half->peer)->ring;
    bool any = false;
    while (half->issued < half->bytes &&
           f->begun - atomic_load_explicit(&ring->emptied, memory_order_acquire) <
               WF_STAGED_SLOTS) {
        const int64_t left = half->bytes - half->issued, n = f->begun % WF_STAGED_SLOTS;
        const int64_t bytes = left < s->slot_bytes ? left : s->slot_bytes;
        wf_event *event = NULL;
        TRY(wf_queue_read(fabric->device, WF_QUEUE_SEND, half->memory, half->offset + half->issued,
                          bytes, wf_outbox_slot(fabric, fabric->rank, half->peer, f->begun),
                          &event));
        ring->slot[n].sequence = half->sequence;
        ring->slot[n].bytes = bytes;
        ring->slot[n].lane = half->lane;
        begun(f, half, bytes, event);
        any = true;
    }
    return any ? wf_queue_flush(fabric->device, WF_QUEUE_SEND) : WF_OK;
}

/* slot -> device, while the next slot of the ring is of this message */
static wf_status empty(wf_fabric *fabric, wf_half *half) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    flow *const f = &s->in[fabric->peers[half->peer].place];
    wf_ring *const ring = &wf_outbox_wire(fabric, half->peer, fabric->rank)->ring;
    bool any = false;
    while (half->issued < half->bytes &&
           atomic_load_explicit(&ring->filled, memory_order_acquire) > f->begun) {
        const int64_t n = f->begun % WF_STAGED_SLOTS, bytes = ring->slot[n].bytes;
        if (ring->slot[n].lane != (int32_t)half->lane) break;
        if (ring->slot[n].sequence != half->sequence || bytes <= 0 ||
            bytes > half->bytes - half->issued)
            return wf_fail(WF_ERR_INTERNAL,
                           "the ring from rank %d to rank %d holds %lld bytes of message %lld "
                           "where message %lld has %lld left",
                           half->peer, fabric->rank, (long long)bytes,
                           (long long)ring->slot[n].sequence, (long long)half->sequence,
                           (long long)(half->bytes - half->issued));
        wf_event *event = NULL;
        TRY(wf_queue_write(fabric->device, WF_QUEUE_RECEIVE, half->memory,
                           half->offset + half->issued, bytes,
                           wf_outbox_slot(fabric, half->peer, fabric->rank, f->begun), &event));
        begun(f, half, bytes, event);
        any = true;
    }
    return any ? wf_queue_flush(fabric->device, WF_QUEUE_RECEIVE) : WF_OK;
}

static wf_status advance(wf_fabric *fabric, wf_half *half) {
    if (!wf_mail_announce(fabric, half, &(wf_post){.bytes = half->bytes})) return WF_OK;
    TRY(wf_mail_match(fabric, half));
    if (!half->matched) return WF_OK;
    if (half->end->issuing == half->sequence)
        TRY(half->sends ? fill(fabric, half) : empty(fabric, half));
    if (half->moved == half->bytes) wf_mail_close(fabric, half);
    return WF_OK;
}

static void forget(flow *f) {
    for (; f->through < f->begun; f->through++) {
        copy *const c = &f->copies[f->through % WF_STAGED_SLOTS];
        wf_event_release(c->event);
        c->event = NULL;
    }
}

/* The pair's ring is not used again. */
static bool abandon(wf_fabric *fabric, wf_half *half) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    const int32_t place = fabric->peers[half->peer].place;
    forget(half->sends ? &s->out[place] : &s->in[place]);
    return true;
}

const wf_transport wf_transport_staged = {.kind = WF_TRANSPORT_STAGED,
                                          .name = "staged",
                                          .ok = ok,
                                          .create = create,
                                          .destroy = destroy,
                                          .poll = poll,
                                          .advance = advance,
                                          .abandon = abandon};
