/* selftest.c: does a transport work between two ranks? Believed only when bytes have gone both ways
 * through the memory of both devices: a few, and more than one chunk. All ranks go through the
 * rounds of a tournament, in each of which everyone meets one other; both of a pair tell each other
 * how it went, and one failure is enough. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/fabric/internal.h"

enum { SMALL = 61, BEYOND_CHUNK = 1001 };

typedef struct bench {
    int64_t bytes;
    wf_memory *out, *in, *window; /* window: NULL where no window is possible */
    uint8_t *host;
} bench;

static void fill_pattern(uint8_t *data, int64_t bytes, int32_t from, int32_t to) {
    uint64_t x = (uint64_t)from * 2654435761u + (uint64_t)to * 40503u + (uint64_t)bytes + 1u;
    for (int64_t i = 0; i < bytes; i += 8) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const uint64_t word = x ^ x >> 32; /* the low bits of x alone repeat soon */
        for (int64_t j = 0; j < 8 && i + j < bytes; j++) data[i + j] = (uint8_t)(word >> 8 * j);
    }
}

static wf_status compare(const bench *b, int64_t bytes, int32_t from, int32_t to,
                         const char *name) {
    uint8_t *const expected = malloc((size_t)bytes);
    if (!expected)
        return wf_fail(WF_ERR_MEMORY, "no %lld bytes for the self-test", (long long)bytes);
    fill_pattern(expected, bytes, from, to);
    int64_t wrong = memcmp(b->host, expected, (size_t)bytes) == 0 ? bytes : 0;
    while (wrong < bytes && b->host[wrong] == expected[wrong]) wrong++;
    const int want = wrong < bytes ? expected[wrong] : 0;
    free(expected);
    if (wrong == bytes) return WF_OK;
    return wf_fail(
        WF_ERR_MISMATCH,
        "of %lld bytes from rank %d to rank %d by %s, byte %lld arrived as %d instead of %d",
        (long long)bytes, from, to, name, (long long)wrong, b->host[wrong], want);
}

static wf_status put(wf_fabric *fabric, wf_memory *memory, const uint8_t *host, int64_t bytes) {
    TRY(wf_queue_write(fabric->device, WF_QUEUE_SEND, memory, 0, bytes, host, NULL));
    return wf_queue_finish(fabric->device, WF_QUEUE_SEND);
}

static wf_status carry(wf_fabric *fabric, const wf_transport *transport, const wf_message *send, const wf_message *receive) {
    wf_transfer *transfer = NULL;
    bool done = false;
    TRY(wf_transfer_start(fabric, WF_LANE_COPY, transport, send, transport, receive, &transfer));
    for (int64_t idle = 0; !done; idle++) {
        TRY(wf_fabric_test(fabric, &transfer, &done));
        wf_fabric_pause(fabric, idle);
    }
    return WF_OK;
}

static wf_status try_size(wf_fabric *fabric, bench *b, const wf_transport *transport, int32_t peer,
                          int64_t bytes) {
    wf_memory *const from = transport->kind == WF_TRANSPORT_WINDOW ? b->window : b->out;
    if (!from) return wf_fail(WF_ERR_FABRIC, "rank %d could not make a window", fabric->rank);
    memset(b->host, 0xA5, (size_t)bytes);
    TRY(put(fabric, b->in, b->host, bytes));
    fill_pattern(b->host, bytes, fabric->rank, peer);
    TRY(put(fabric, from, b->host, bytes));
    const wf_message send = {.memory = from, .bytes = bytes, .peer = peer};
    const wf_message receive = {.memory = b->in, .bytes = bytes, .peer = peer};
    TRY(carry(fabric, transport, &send, &receive));
    TRY(wf_queue_read(fabric->device, WF_QUEUE_RECEIVE, b->in, 0, bytes, b->host, NULL));
    TRY(wf_queue_finish(fabric->device, WF_QUEUE_RECEIVE));
    return compare(b, bytes, peer, fabric->rank, transport->name);
}

/* The device reads the message where it lies, in the peer's window, then tells it so. */
static wf_status read_found(wf_fabric *fabric, bench *b, const wf_found *found, int64_t bytes) {
    if (!found->memory) return wf_fail(WF_ERR_FABRIC, "rank %d cannot read in the others' windows", fabric->rank);
    TRY(wf_queue_copy(fabric->device, WF_QUEUE_RECEIVE, found->memory, found->offset_bytes, b->in, 0, bytes, NULL));
    TRY(wf_queue_read(fabric->device, WF_QUEUE_RECEIVE, b->in, 0, bytes, b->host, NULL));
    return wf_queue_finish(fabric->device, WF_QUEUE_RECEIVE);
}

static wf_status try_in_place(wf_fabric *fabric, bench *b, int32_t peer) {
    const wf_transport *const window = &wf_transport_window;
    const int64_t bytes = b->bytes;
    wf_found found = {0};
    const wf_message send = {.memory = b->window, .bytes = bytes, .peer = peer},
                     receive = {.bytes = bytes, .peer = peer, .found = &found}, word = {.bytes = bytes, .peer = peer, .word = true};
    fill_pattern(b->host, bytes, fabric->rank, peer);
    TRY(put(fabric, b->window, b->host, bytes));
    memset(b->host, 0xA5, (size_t)bytes);
    TRY(put(fabric, b->in, b->host, bytes));
    TRY(carry(fabric, window, &send, &receive));
    const wf_status read = read_found(fabric, b, &found, bytes);
    TRY(carry(fabric, window, &word, &word)); /* the peer waits for it, read or not */
    TRY(read);
    return compare(b, bytes, peer, fabric->rank, "window, in place");
}

static wf_status try_transport(wf_fabric *fabric, bench *b, const wf_transport *transport, int32_t peer) {
    TRY(try_size(fabric, b, transport, peer, SMALL));
    return try_size(fabric, b, transport, peer, b->bytes);
}

/* A failure is the transport's, not the fabric's: it goes on without it. */
static wf_status forgive(wf_fabric *fabric, wf_status status, char **why_out) {
    if (status == WF_OK) return WF_OK;
    *why_out = strdup(wf_last_error());
    wf_fabric_abandon(fabric);
    fabric->failed = WF_OK;
    return status;
}

/* Both tell how it went; one may have to wait for the other's deadline. */
static wf_status compare_verdicts(wf_fabric *fabric, int32_t peer, int32_t mine,
                                  int32_t *theirs_out) {
    const wf_bootstrap *const boot = fabric->boot;
    int32_t *const notes = malloc(2 * sizeof *notes);
    if (!notes) return wf_fail(WF_ERR_MEMORY, "no memory for the self-test");
    void *to = NULL, *from = NULL;
    wf_status status;
    notes[0] = mine;
    TRY_GOTO(boot->receive(boot->self, peer, WF_TAG_SELFTEST, &notes[1], sizeof *notes, &from),
             cancel_requests);
    TRY_GOTO(boot->send(boot->self, peer, WF_TAG_SELFTEST, &notes[0], sizeof *notes, &to),
             cancel_requests);
    TRY_GOTO(wf_request_wait(boot, &fabric->everyone, &from,
                             fabric->boards ? wf_fabric_patience(fabric, mine) : 3 * fabric->timeout_s, peer,
                             peer, "the self-test"),
             cancel_requests);
    TRY_GOTO(wf_request_wait(boot, &fabric->everyone, &to, fabric->timeout_s, peer, peer,
                             "the self-test"), cancel_requests);
    *theirs_out = notes[1];

cancel_requests:;
    const bool sent = !to || boot->cancel(boot->self, &to),
               received = !from || boot->cancel(boot->self, &from);
    if (sent && received) free(notes);
    return status;
}

/* What both found: a failure of one is enough. */
static wf_status agree_on_pair(wf_fabric *fabric, int32_t peer, wf_status mine, bool *passed_out) {
    int32_t theirs = WF_OK;
    TRY(compare_verdicts(fabric, peer, mine, &theirs));
    *passed_out = mine == WF_OK && theirs == WF_OK;
    return WF_OK;
}

static wf_status meet_over(wf_fabric *fabric, bench *b, const wf_transport *transport, int32_t peer, bool *passed_out) {
    wf_peer *const p = &fabric->peers[peer];
    const wf_status mine = forgive(fabric, try_transport(fabric, b, transport, peer), &p->why[transport->kind]);
    TRY(agree_on_pair(fabric, peer, mine, passed_out));
    if (transport->kind != WF_TRANSPORT_WINDOW) return WF_OK;
    bool in_place = false;
    if (*passed_out && wf_window_direct(fabric, peer))
        TRY(agree_on_pair(fabric, peer, forgive(fabric, try_in_place(fabric, b, peer), &p->why_not_in_place), &in_place));
    wf_fabric_set_verdict(fabric, peer, WF_VERDICT_IN_PLACE, in_place ? WF_PAIR_PASSED : WF_PAIR_FAILED);
    return WF_OK;
}

static wf_status meet(wf_fabric *fabric, bench *b, int32_t peer) {
    for (int kind = 0; kind < WF_TRANSPORTS; kind++) {
        const wf_transport *const transport = wf_transports[kind];
        if (!transport) continue;
        wf_verdict_code verdict = transport->ok(fabric, fabric->rank, peer);
        if (verdict == WF_PAIR_PASSED) {
            wf_activity before;
            bool passed = false;
            wf_board_enter(fabric->board, transport->name, peer, 0, &before);
            const wf_status status = meet_over(fabric, b, transport, peer, &passed);
            wf_board_set(fabric->board, &before);
            TRY(status);
            if (!passed) verdict = WF_PAIR_FAILED;
        }
        wf_fabric_set_verdict(fabric, peer, kind, verdict);
    }
    return WF_OK;
}

/* The circle method: in round r those meet whose numbers add up to 2 r (mod n - 1), n even; who
 * would meet himself meets n - 1. Returns >= ranks for a pause. */
static int32_t opponent(int32_t me, int32_t round, int32_t ranks) {
    const int32_t last = ranks + ranks % 2 - 1;
    if (me == last) return round;
    const int32_t other = ((2 * round - me) % last + last) % last;
    return other == me ? last : other;
}

static wf_status play_rounds(wf_fabric *fabric, bench *b) {
    const int32_t rounds = fabric->ranks + fabric->ranks % 2 - 1;
    for (int32_t round = 0; round < rounds; round++) {
        const int32_t peer = opponent(fabric->rank, round, fabric->ranks);
        if (peer < fabric->ranks) TRY(meet(fabric, b, peer));
    }
    return WF_OK;
}

static bool wants_window(const wf_fabric *fabric) {
    bool any = false;
    for (int32_t m = 0; m < fabric->node.count; m++) {
        const int32_t peer = fabric->node_ranks[m];
        if (peer != fabric->rank)
            any = any || wf_transport_window.ok(fabric, fabric->rank, peer) == WF_PAIR_PASSED;
    }
    return any;
}

static wf_status prepare(wf_fabric *fabric, bench *b) {
    if (!(b->host = malloc((size_t)b->bytes)))
        return wf_fail(WF_ERR_MEMORY, "no %lld bytes for the self-test", (long long)b->bytes);
    TRY(wf_memory_create(fabric->device, b->bytes, &b->out));
    return wf_memory_create(fabric->device, b->bytes, &b->in);
}

/* Collective over the node; a failure only means that there is no window transport. */
static wf_status prepare_window(wf_fabric *fabric, bench *b) {
    if (!fabric->outboxes) return WF_OK;
    const wf_status status =
        wf_fabric_window_create(fabric, wants_window(fabric) ? b->bytes : 0, &b->window);
    return fabric->node.parted ? status : WF_OK;
}

wf_status wf_fabric_selftest(wf_fabric *fabric) {
    bench b = {.bytes = fabric->chunk_bytes + BEYOND_CHUNK};
    if (fabric->ranks == 1) return WF_OK;
    wf_status status = prepare(fabric, &b);
    TRY_GOTO(wf_fabric_agree(fabric, status), destroy_bench);
    status = prepare_window(fabric, &b);
    TRY_GOTO(wf_fabric_agree(fabric, status), destroy_bench);
    status = wf_fabric_agree(fabric, play_rounds(fabric, &b));
    if (fabric->outboxes) wf_fabric_window_destroy(fabric, b.window);
    memset(fabric->sent_bytes, 0, sizeof fabric->sent_bytes);
    memset(fabric->sent_messages, 0, sizeof fabric->sent_messages);

destroy_bench:
    if (status != WF_OK) {
        wf_queue_settle(fabric->device, WF_QUEUE_SEND);
        wf_queue_settle(fabric->device, WF_QUEUE_RECEIVE);
    }
    wf_memory_destroy(b.in);
    wf_memory_destroy(b.out);
    free(b.host);
    return status;
}
