/* mail.c: see the header. */
#include "host/fabric/mail.h"

#include <unistd.h>

static int64_t round_up(int64_t bytes, int64_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

int64_t wf_outbox_slot_bytes(const wf_fabric *fabric) {
    const int64_t page = sysconf(_SC_PAGESIZE),
                  most = 64 << 20; /* most: of all rings of one rank */
    const int64_t fair = most /
                         (WF_STAGED_SLOTS * (fabric->node.count > 1 ? fabric->node.count - 1 : 1)) /
                         page * page;
    const int64_t chunk = round_up(fabric->chunk_bytes, page);
    return chunk < fair ? chunk : fair > page ? fair : page;
}

static int64_t wires_bytes(const wf_fabric *fabric) {
    return round_up(fabric->node.count * (int64_t)sizeof(wf_wire), sysconf(_SC_PAGESIZE));
}

/* Page-aligned: slots are whole pages. */
static int64_t board_at(const wf_fabric *fabric) {
    return wires_bytes(fabric) +
           (fabric->node.count - 1) * WF_STAGED_SLOTS * wf_outbox_slot_bytes(fabric);
}

int64_t wf_outbox_bytes(const wf_fabric *fabric) {
    const int64_t others = fabric->node.count - 1;
    return others == 0 ? 0 : board_at(fabric) + (int64_t)sizeof(wf_board);
}

static char *outbox(const wf_fabric *fabric, int32_t rank) {
    return fabric->outboxes->piece[fabric->peers[rank].place];
}

wf_wire *wf_outbox_wire(const wf_fabric *fabric, int32_t from, int32_t to) {
    return (wf_wire *)outbox(fabric, from) + fabric->peers[to].place;
}

void *wf_outbox_slot(const wf_fabric *fabric, int32_t from, int32_t to, int64_t number) {
    const int32_t mine = fabric->peers[from].place, place = fabric->peers[to].place;
    const int64_t ring = place - (place > mine); /* no ring to oneself */
    return outbox(fabric, from) + wires_bytes(fabric) +
           (ring * WF_STAGED_SLOTS + number % WF_STAGED_SLOTS) * wf_outbox_slot_bytes(fabric);
}

wf_board *wf_outbox_board(const wf_fabric *fabric, int32_t rank) {
    return (wf_board *)(outbox(fabric, rank) + board_at(fabric));
}

wf_mail *wf_half_mail(const wf_fabric *fabric, const wf_half *half) {
    wf_wire *const wire = half->sends ? wf_outbox_wire(fabric, fabric->rank, half->peer)
                                      : wf_outbox_wire(fabric, half->peer, fabric->rank);
    return half->transport->kind == WF_TRANSPORT_WINDOW ? &wire->window[half->lane]
                                                        : &wire->staged[half->lane];
}

bool wf_mail_announce(const wf_fabric *fabric, wf_half *half, const wf_post *post) {
    wf_mail *const mail = wf_half_mail(fabric, half);
    _Atomic int64_t *const mine = half->sends ? &mail->announced : &mail->posted;
    _Atomic int64_t *const read =
        half->sends ? &mail->completed : &mail->closed; /* by the other side */
    if (half->announced) return true;
    if (atomic_load_explicit(mine, memory_order_relaxed) != half->sequence) return false;
    if (half->sequence - atomic_load_explicit(read, memory_order_acquire) >= WF_POSTS) return false;
    const int64_t n = half->sequence % WF_POSTS;
    (half->sends ? mail->sent : mail->expected)[n] = *post;
    if (half->sends) {
        atomic_store_explicit(&mail->taken[n], 0, memory_order_relaxed);
        atomic_store_explicit(&mail->pushed[n], 0, memory_order_relaxed);
    }
    atomic_store_explicit(mine, half->sequence + 1, memory_order_release);
    return half->announced = true;
}

wf_status wf_mail_match(wf_fabric *fabric, wf_half *half) {
    wf_mail *const mail = wf_half_mail(fabric, half);
    _Atomic int64_t *const theirs = half->sends ? &mail->posted : &mail->announced;
    if (half->matched || atomic_load_explicit(theirs, memory_order_acquire) <= half->sequence)
        return WF_OK;
    const wf_post *const post = &(half->sends ? mail->expected : mail->sent)[half->sequence % WF_POSTS];
    half->attached = half->attached && post->attached;
    return wf_half_match(fabric, half, post->bytes);
}

/* Strictly in order, for a counter must not fall: of two copies that end between two looks at them,
 * the later one may be found finished first. */
void wf_mail_close(const wf_fabric *fabric, wf_half *half) {
    wf_mail *const mail = wf_half_mail(fabric, half);
    if (half->end->closing != half->sequence) return;
    half->end->closing++;
    atomic_store_explicit(half->sends ? &mail->closed : &mail->completed, half->sequence + 1,
                          memory_order_release);
    half->done = true;
}
