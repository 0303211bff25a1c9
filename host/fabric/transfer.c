/* transfer.c: hops in flight: started, moved on, timed out, given up. Knows no transport by name.
 */
#include <stdlib.h>
#include <string.h>

#include "host/fabric/internal.h"

const wf_transport *const wf_transports[WF_TRANSPORTS] = {
    [WF_TRANSPORT_MPI] = &wf_transport_mpi,
    [WF_TRANSPORT_STAGED] = &wf_transport_staged,
    [WF_TRANSPORT_WINDOW] = &wf_transport_window};

/* ---- what halves tell ---- */

wf_lane wf_channel_lane(wf_lane lane) {
    return lane == WF_LANE_PP_RECV_F   ? WF_LANE_PP_SEND_F
           : lane == WF_LANE_PP_RECV_B ? WF_LANE_PP_SEND_B
                                       : lane;
}

/* Both sides have started: the emulated link takes the message up when it has carried those before. (Words are told between ranks
 * that share memory alone: a link has none to carry.) */
static double time_on_link(wf_fabric *fabric, const wf_half *half) {
    double *const free_s = &fabric->link_free_s[half->sends];
    const double now_s = wf_clock_s();
    *free_s = (*free_s > now_s ? *free_s : now_s) + (double)half->bytes / fabric->link.bytes_per_s;
    return *free_s + fabric->link.latency_s;
}

wf_status wf_half_match(wf_fabric *fabric, wf_half *half, int64_t their_bytes) {
    const int64_t sent = half->sends ? half->bytes : their_bytes,
                  expected = half->sends ? their_bytes : half->bytes;
    const int32_t from = half->sends ? fabric->rank : half->peer,
                  to = half->sends ? half->peer : fabric->rank;
    if (sent != expected)
        return wf_fail(WF_ERR_MISMATCH,
                       "rank %d sends %lld bytes to rank %d, which expects %lld (lane %s, message "
                       "%lld, by %s)",
                       from, (long long)sent, to, (long long)expected, wf_lane_name(half->lane),
                       (long long)half->sequence, half->transport->name);
    half->matched = true;
    if (fabric->link.bytes_per_s > 0 && !half->word) half->due = time_on_link(fabric, half);
    wf_half_moved(fabric, half, 0);
    return WF_OK;
}

void wf_half_moved(wf_fabric *fabric, wf_half *half, int64_t bytes) {
    half->moved += bytes;
    half->since = fabric->clock_s;
    fabric->quiet = 0;
    fabric->moves++;
}

int64_t wf_fabric_moves(const wf_fabric *fabric) {
    return fabric->moves;
}

/* ---- failure and deadlines ---- */

static wf_status refuse(const wf_fabric *fabric) {
    return wf_fail(fabric->failed, "the fabric takes no more work since it failed: %s",
                   fabric->why_failed ? fabric->why_failed : "(no memory for the sentence)");
}

static wf_status fail(wf_fabric *fabric, wf_status status) {
    fabric->failed = status;
    free(fabric->why_failed);
    fabric->why_failed = strdup(wf_last_error());
    return status;
}

/* The clock of deadlines stands still while nobody polls (a rank that compiles kernels, or is
 * stopped, must not blame its peers): each gap counts for one second at most. */
static void tick(wf_fabric *fabric) {
    const double now_s = wf_clock_s(), gap_s = now_s - fabric->seen_s;
    fabric->clock_s += gap_s < 1.0 ? gap_s : 1.0;
    fabric->seen_s = now_s;
}

/* Nobody waits a whole deadline for a rank that is seen to have given up; but what it sent before it left may be
 * on its way, and a host that was away has seen it late. */
static bool is_overdue(const wf_fabric *fabric, wf_half *half) {
    enum { LOOK_EVERY = 64 };
    const double waited_s = fabric->clock_s - half->since;
    if (waited_s > fabric->timeout_s) return true;
    if (waited_s <= WF_LATE_S || fabric->quiet % LOOK_EVERY != 0 || !wf_members_left(&fabric->everyone, half->peer)) return false;
    if (half->left_since < half->since) half->left_since = fabric->clock_s;
    return fabric->clock_s - half->left_since > WF_LATE_S;
}

static wf_status overdue(const wf_fabric *fabric, const wf_half *half) {
    const char *const waits = !half->matched ? (half->sends ? "which has not started to receive it"
                                                            : "which has not started to send it")
                              : half->issued > half->moved && !half->attached
                                  ? "with bytes on a device queue or on the wire"
                                  : "which has stopped in the middle";
    char doing[320];
    wf_members_tell(&fabric->everyone, half->peer, doing, sizeof doing);
    return wf_fail(WF_ERR_TIMEOUT,
                   "rank %d waited %.1f s to %s rank %d, %s (lane %s, message %lld of %lld bytes, "
                   "%lld moved, by %s)%s",
                   fabric->rank, fabric->clock_s - half->since, half->sends ? "send to" : "receive from",
                   half->peer, waits, wf_lane_name(half->lane), (long long)half->sequence,
                   (long long)half->bytes, (long long)half->moved, half->transport->name, doing);
}

/* ---- life ---- */

static wf_status take(wf_fabric *fabric, wf_transfer **out) {
    wf_transfer *transfer = fabric->free_list;
    if (transfer) {
        fabric->free_list = transfer->next;
        wf_transfer *const next_made = transfer->next_made;
        *transfer = (wf_transfer){.next_made = next_made};
    } else {
        transfer = calloc(1, sizeof *transfer);
        if (!transfer) return wf_fail(WF_ERR_MEMORY, "no memory for a transfer");
        transfer->next_made = fabric->made;
        fabric->made = transfer;
    }
    *out = transfer;
    return WF_OK;
}

static void give(wf_fabric *fabric, wf_transfer *transfer) {
    transfer->next = fabric->free_list;
    fabric->free_list = transfer;
}

static void link_half(wf_fabric *fabric, wf_half *half) {
    half->link = fabric->last;
    *fabric->last = half;
    fabric->last = &half->next;
}

static void unlink_half(wf_fabric *fabric, wf_half *half) {
    *half->link = half->next;
    if (half->next)
        half->next->link = half->link;
    else
        fabric->last = half->link;
    half->next = NULL;
    half->link = NULL;
}

static wf_status start_half(wf_fabric *fabric, wf_half *half, bool sends, wf_lane lane,
                            const wf_transport *transport, const wf_message *message) {
    *half = (wf_half){.sends = sends, .done = !message || message->bytes == 0};
    if (half->done) return WF_OK;
    half->transport = transport;
    half->lane = wf_channel_lane(lane);
    half->peer = message->peer;
    half->memory = message->memory;
    half->offset = message->offset_bytes;
    half->bytes = message->bytes;
    half->found = message->found;
    half->word = message->word;
    half->since = fabric->clock_s;
    half->end = wf_fabric_end(fabric, half->peer, half->lane, transport->kind, sends);
    half->sequence = half->end->started++;
    link_half(fabric, half);
    return transport->start ? transport->start(fabric, half) : WF_OK;
}

wf_status wf_transfer_start(wf_fabric *fabric, wf_lane lane, const wf_transport *send_with,
                            const wf_message *send, const wf_transport *receive_with,
                            const wf_message *receive, wf_transfer **out) {
    wf_transfer *transfer = NULL;
    TRY(take(fabric, &transfer));
    tick(fabric);
    transfer->send.done = transfer->receive.done = true;
    wf_status status = start_half(fabric, &transfer->receive, false, lane, receive_with, receive);
    if (status == WF_OK) status = start_half(fabric, &transfer->send, true, lane, send_with, send);
    if (status != WF_OK) return fail(fabric, status);
    *out = transfer;
    return WF_OK;
}

/* Without memory of this rank's. */
static wf_status check_lies(const wf_fabric *fabric, wf_transport_kind kind, const wf_message *message, const char *way) {
    if (kind == WF_TRANSPORT_WINDOW && !message->memory && message->bytes > 0 && wf_fabric_in_place(fabric, fabric->rank, message->peer)) return WF_OK;
    return wf_fail(WF_ERR_ARGUMENT, "%s rank %d: %lld bytes that stay where they are, by %s", way, message->peer,
                   (long long)message->bytes, wf_transport_name(kind));
}

static wf_status check_lengths(const wf_message *message, const char *way) {
    if (message->memory && message->bytes >= 0 && message->offset_bytes >= 0 &&
        message->offset_bytes <= wf_memory_bytes(message->memory) - message->bytes)
        return WF_OK;
    return wf_fail(WF_ERR_ARGUMENT, "%s rank %d: %lld bytes at %lld of a memory of %lld bytes", way, message->peer,
                   (long long)message->bytes, (long long)message->offset_bytes,
                   (long long)(message->memory ? wf_memory_bytes(message->memory) : 0));
}

static wf_status check_message(const wf_fabric *fabric, wf_transport_kind *kind,
                               const wf_message *message, const char *way) {
    if (!message || message->bytes == 0) return WF_OK;
    const int32_t peer = message->peer;
    if (peer < 0 || peer >= fabric->ranks || peer == fabric->rank)
        return wf_fail(WF_ERR_ARGUMENT, "rank %d cannot %s rank %d (ranks: %d)", fabric->rank, way,
                       peer, fabric->ranks);
    if (!message->found && !message->word) TRY(check_lengths(message, way));
    if (*kind == WF_TRANSPORT_NONE) *kind = fabric->peers[peer].chosen;
    if (*kind <= WF_TRANSPORT_NONE || *kind >= WF_TRANSPORTS)
        return wf_fail(WF_ERR_ARGUMENT, "there is no transport %d", (int)*kind);
    if (wf_fabric_verdict(fabric, fabric->rank, peer, *kind) != WF_PAIR_PASSED)
        return wf_fail(WF_ERR_FABRIC, "transport %s is not available between rank %d and rank %d",
                       wf_transports[*kind]->name, fabric->rank, peer);
    return message->found || message->word ? check_lies(fabric, *kind, message, way) : WF_OK;
}

wf_status wf_fabric_start(wf_fabric *fabric, wf_lane lane, wf_transport_kind send_transport,
                          const wf_message *send, wf_transport_kind receive_transport,
                          const wf_message *receive, wf_transfer **out) {
    if (fabric->failed != WF_OK) return refuse(fabric);
    if ((int)lane < 0 || lane >= WF_LANES)
        return wf_fail(WF_ERR_ARGUMENT, "there is no lane %d", (int)lane);
    if (send && send->found) return wf_fail(WF_ERR_ARGUMENT, "what is sent to rank %d lies with this rank", send->peer);
    TRY(check_message(fabric, &send_transport, send, "send to"));
    TRY(check_message(fabric, &receive_transport, receive, "receive from"));
    return wf_transfer_start(fabric, lane, wf_transports[send_transport], send,
                             wf_transports[receive_transport], receive, out);
}

/* ---- progress ---- */

static void count(wf_fabric *fabric, const wf_half *half) {
    if (!half->sends || half->word) return;
    fabric->sent_bytes[half->transport->kind] += half->bytes;
    fabric->sent_messages[half->transport->kind]++;
}

static wf_status advance(wf_fabric *fabric) {
    for (int kind = 0; kind < WF_TRANSPORTS; kind++)
        if (wf_transports[kind] && wf_transports[kind]->poll)
            TRY(wf_transports[kind]->poll(fabric));
    for (wf_half *half = fabric->active, *next; half; half = next) {
        next = half->next;
        if (!half->over) TRY(half->transport->advance(fabric, half));
        half->over = half->over || half->done;
        half->done = half->over && (half->due == 0 || wf_clock_s() >= half->due);
        if (half->done) {
            count(fabric, half);
            unlink_half(fabric, half);
        } else if (!half->over && is_overdue(fabric, half)) {
            return overdue(fabric, half);
        }
    }
    return WF_OK;
}

wf_status wf_fabric_test(wf_fabric *fabric, wf_transfer **transfer_inout, bool *done) {
    wf_transfer *const transfer = *transfer_inout;
    if (fabric->failed != WF_OK) return refuse(fabric);
    tick(fabric);
    fabric->quiet++;
    const wf_status status = advance(fabric);
    if (status != WF_OK) return fail(fabric, status);
    *done = transfer->send.done && transfer->receive.done;
    if (!*done) return WF_OK;
    give(fabric, transfer);
    *transfer_inout = NULL;
    return WF_OK;
}

void wf_fabric_computes(wf_fabric *fabric, bool computes) {
    fabric->computes = computes;
}

wf_status wf_fabric_overdue(const wf_fabric *fabric, const wf_transfer *transfer) {
    if (!transfer->receive.done) return overdue(fabric, &transfer->receive);
    return transfer->send.done ? WF_OK : overdue(fabric, &transfer->send);
}

/* Queues are finished first: a device must not copy into memory that is let go. */
void wf_fabric_abandon(wf_fabric *fabric) {
    if (fabric->active) {
        (void)wf_queue_finish(fabric->device, WF_QUEUE_SEND);
        (void)wf_queue_finish(fabric->device, WF_QUEUE_RECEIVE);
    }
    while (fabric->active) {
        wf_half *const half = fabric->active;
        unlink_half(fabric, half);
        half->done = true;
        if (half->transport->abandon(fabric, half)) continue;
        for (wf_transfer *t = fabric->made; t; t = t->next_made)
            if (half == &t->send || half == &t->receive) t->lost = true;
    }
}
