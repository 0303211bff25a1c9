/* staged.c: between ranks of a node whose devices have memory of their own. The sender's device
 * copies a chunk into a slot of the pair's ring, the receiver's device copies it out; both copies
 * go on at once, in both directions at once, and further slots keep the devices' queues filled while
 * the hosts are about to notice what is done.
 *
 *     device --read--> | slot 0 | slot 1 | ... --write--> device
 *                        filled ->   <- emptied
 *
 * Memory that the host reaches itself (wf_memory_direct) it also copies itself, in small pieces, as it passes: no
 * command waits behind a kernel then, and the second copy finds the slot in a cache. Where both ranks' memory is such, and
 * the processes reach each other's, bytes are copied once, and the ring is passed by (attach.c).
 *
 * All lanes of a pair share its ring. A message enters it only when its receive has started, so the
 * chunk at the ring's end always finds its receiver. */
#include <stdlib.h>
#include <string.h>

#include "host/fabric/attach.h"
#include "host/fabric/copy.h"
#include "host/fabric/mail.h"

enum { DIRECT_BYTES = 512 << 10 }; /* of a piece: benchmarks/NOTES.md */

typedef struct copy {
    wf_half *half;
    int64_t bytes;
    wf_event *event; /* NULL: the host has copied */
} copy;

/* One side's view of a ring: copies [through, begun) are on a device queue. */
typedef struct flow {
    int64_t begun, through;
    copy copies[WF_STAGED_SLOTS];
} flow;

typedef struct staged {
    int64_t slot_bytes;
    flow *out, *in; /* [node ranks] */
    wf_attach *attach;
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
    wf_attach_destroy(s->attach);
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
        s->attach = wf_attach_create(fabric);
    }
    if (s && s->out && s->in && s->attach) return WF_OK;
    destroy(fabric);
    return wf_fail(WF_ERR_MEMORY, "no memory for the rings of %zu ranks", count);
}

/* Takes the copies that are done off the front of a flow: in order, as the device queue runs them.
 */
static wf_status settle(wf_fabric *fabric, flow *f, _Atomic int64_t *counter) {
    while (f->through < f->begun) {
        copy *const c = &f->copies[f->through % WF_STAGED_SLOTS];
        bool done = !c->event;
        if (!done) TRY(wf_event_done(c->event, &done));
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

static wf_status read_chunk(wf_fabric *fabric, const wf_half *half, int64_t bytes, void *slot, wf_event **event) {
    const char *const direct = wf_memory_direct(half->memory);
    const int64_t at = half->offset + half->issued;
    if (!direct) return wf_queue_read(fabric->device, WF_QUEUE_SEND, half->memory, at, bytes, slot, event);
    memcpy(slot, direct + at, (size_t)bytes);
    return WF_OK;
}

static wf_status write_chunk(wf_fabric *fabric, const wf_half *half, int64_t bytes, const void *slot, wf_event **event) {
    char *const direct = wf_memory_direct(half->memory);
    const int64_t at = half->offset + half->issued;
    if (!direct) return wf_queue_write(fabric->device, WF_QUEUE_RECEIVE, half->memory, at, bytes, slot, event);
    wf_copy_part(direct + at, slot, bytes, half->bytes);
    return WF_OK;
}

/* device -> slot, while there are free slots */
static wf_status fill(wf_fabric *fabric, wf_half *half) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    flow *const f = &s->out[fabric->peers[half->peer].place];
    wf_ring *const ring = &wf_outbox_wire(fabric, fabric->rank, half->peer)->ring;
    const int64_t most = f->begun + WF_STAGED_SLOTS; /* in one visit */
    bool any = false;
    while (half->issued < half->bytes && f->begun < most &&
           f->begun - atomic_load_explicit(&ring->emptied, memory_order_acquire) <
               WF_STAGED_SLOTS) {
        const int64_t left = half->bytes - half->issued, n = f->begun % WF_STAGED_SLOTS;
        const int64_t piece = wf_memory_direct(half->memory) && s->slot_bytes > DIRECT_BYTES ? DIRECT_BYTES : s->slot_bytes;
        const int64_t bytes = left < piece ? left : piece;
        wf_event *event = NULL;
        TRY(read_chunk(fabric, half, bytes, wf_outbox_slot(fabric, fabric->rank, half->peer, f->begun), &event));
        ring->slot[n].sequence = half->sequence;
        ring->slot[n].bytes = bytes;
        ring->slot[n].lane = half->lane;
        begun(f, half, bytes, event);
        if (!event) TRY(settle(fabric, f, &ring->filled));
        any = any || event;
    }
    return any ? wf_queue_flush(fabric->device, WF_QUEUE_SEND) : WF_OK;
}

/* slot -> device, while the next slot of the ring is of this message */
static wf_status empty(wf_fabric *fabric, wf_half *half) {
    staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    flow *const f = &s->in[fabric->peers[half->peer].place];
    wf_ring *const ring = &wf_outbox_wire(fabric, half->peer, fabric->rank)->ring;
    const int64_t most = f->begun + WF_STAGED_SLOTS;
    bool any = false;
    while (half->issued < half->bytes && f->begun < most &&
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
        TRY(write_chunk(fabric, half, bytes, wf_outbox_slot(fabric, half->peer, fabric->rank, f->begun), &event));
        begun(f, half, bytes, event);
        if (!event) TRY(settle(fabric, f, &ring->emptied));
        any = any || event;
    }
    return any ? wf_queue_flush(fabric->device, WF_QUEUE_RECEIVE) : WF_OK;
}

/* ---- halves ---- */

static bool announce(wf_fabric *fabric, wf_half *half) {
    if (half->announced) return true;
    const staged *const s = fabric->state[WF_TRANSPORT_STAGED];
    const char *const direct = wf_memory_direct(half->memory);
    half->attached = wf_attach_may(s->attach, fabric, half);
    if (half->attached) wf_attach_hold(half);
    return wf_mail_announce(fabric, half,
                            &(wf_post){.bytes = half->bytes,
                                       .attached = half->attached,
                                       .address = half->attached ? (int64_t)(intptr_t)(direct + half->offset) : 0});
}

static wf_status advance(wf_fabric *fabric, wf_half *half) {
    if (!announce(fabric, half)) return WF_OK;
    TRY(wf_mail_match(fabric, half));
    if (!half->matched) return WF_OK;
    if (!half->attached) wf_attach_let_go(half);
    if (half->attached) TRY(wf_attach_advance(fabric, half));
    else if (half->end->issuing == half->sequence) TRY(half->sends ? fill(fabric, half) : empty(fabric, half));
    if (half->moved == half->bytes) wf_mail_close(fabric, half);
    if (half->done) wf_attach_let_go(half);
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
    if (half->held) wf_attach_abandon(fabric, half);
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
