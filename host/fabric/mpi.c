/* mpi.c: between any two ranks. Memory of a device never meets MPI: chunks go device -> staging -> message -> staging ->
 * device, several of them at once, in both directions at once. What the host reaches itself (wf_memory_direct) is host
 * memory as any: MPI sends from it and receives into it, and it is held meanwhile, for after a failure its owner may be
 * gone before MPI lets go. Windows cannot be held, and are staged. Where neither side stages, chunks are larger: each costs
 * both hosts a word with the other, who may be busy.
 *
 *     sender                      receiver
 *     announce(n, bytes) ------->           compares the lengths
 *                        <------- credit(n) one per chunk, when a buffer is set aside for it
 *     chunk              ------->
 *
 * A receiver gives a buffer only to a message that its sender has announced, a sender only to a
 * chunk that has credit: what holds a buffer always ends, so lanes cannot block each other. Between ranks of one machine
 * MPI copies a chunk inside the call that finds it and the posted receive, and a host that copies answers nobody: so credits
 * are given first, then chunks sent that have some, then receives posted, and both ways are copied at once. Three
 * tags per lane; MPI keeps the order of each. Named for its usual bootstrap; any bootstrap's
 * messages will do. */
#include <stdlib.h>

#include "host/fabric/internal.h"

enum {
    SLOTS = 4,          /* each way: two on the device's queue, two on the wire */
    DIRECT_CHUNKS = 16, /* benchmarks/NOTES.md */
    MOST_CHUNK_BYTES = 1 << 30
};
enum { ANNOUNCE, CREDIT, CHUNK, TAGS };

typedef enum slot_state {
    FREE,
    PROMISED, /* a receive is to be posted */
    ON_DEVICE,
    ON_WIRE,
    SETTLING /* received; the credit is still under way */
} slot_state;

typedef struct slot {
    slot_state state;
    wf_pinned *staging;
    wf_memory *held; /* whose own bytes are sent or received into; NULL: staging's */
    char *data;
    wf_half *half;
    int64_t at, bytes; /* of the message */
    int64_t order;     /* of claiming: chunks are sent in this order */
    wf_event *event;
    void *request;
    wf_note credit;
    void *credit_request;
} slot;

typedef struct mpi {
    slot out[SLOTS], in[SLOTS];
    int64_t claimed, sent; /* of out */
} mpi;

static wf_verdict_code ok(const wf_fabric *fabric, int32_t rank, int32_t peer) {
    return WF_PAIR_PASSED;
}

static void destroy(wf_fabric *fabric) {
    mpi *const m = fabric->state[WF_TRANSPORT_MPI];
    bool lost = false;
    for (int i = 0; m && i < SLOTS; i++) {
        void **const credit = &m->in[i].credit_request;
        if (*credit && !fabric->boot->cancel(fabric->boot->self, credit)) lost = true;
        wf_pinned_destroy(m->out[i].staging);
        wf_pinned_destroy(m->in[i].staging);
    }
    if (!lost) free(m); /* else MPI may still read a credit */
    fabric->state[WF_TRANSPORT_MPI] = NULL;
}

static wf_status create(wf_fabric *fabric) {
    mpi *const m = calloc(1, sizeof *m);
    fabric->state[WF_TRANSPORT_MPI] = m;
    wf_status status = m ? WF_OK : wf_fail(WF_ERR_MEMORY, "no memory for the slots of MPI's messages");
    for (int i = 0; fabric->ranks > 1 && status == WF_OK && i < SLOTS; i++) {
        status = wf_pinned_create(fabric->device, fabric->chunk_bytes, &m->out[i].staging);
        if (status == WF_OK) status = wf_pinned_create(fabric->device, fabric->chunk_bytes, &m->in[i].staging);
    }
    if (status != WF_OK) destroy(fabric);
    return status;
}

static int32_t tag_of(const wf_half *half, int32_t what) {
    return WF_TAG_DATA + (int32_t)half->lane * TAGS + what;
}

static wf_status send(const wf_fabric *fabric, const wf_half *half, int32_t what, const void *data,
                      int64_t bytes, void **request) {
    return fabric->boot->send(fabric->boot->self, half->peer, tag_of(half, what), data, bytes,
                              request);
}

static wf_status receive(const wf_fabric *fabric, const wf_half *half, int32_t what, void *data,
                         int64_t bytes, void **request) {
    return fabric->boot->receive(fabric->boot->self, half->peer, tag_of(half, what), data, bytes,
                                 request);
}

/* done_out: there is no request, or none any more */
static wf_status test(const wf_fabric *fabric, void **request, bool *done_out) {
    *done_out = true;
    return *request ? fabric->boot->test(fabric->boot->self, request, done_out) : WF_OK;
}

/* NULL: it is staged. */
static char *direct_bytes(const wf_half *half) {
    char *const direct = wf_memory_host(half->memory) ? NULL : wf_memory_direct(half->memory);
    return direct ? direct + half->offset : NULL;
}

static wf_status start(wf_fabric *fabric, wf_half *half) {
    const int64_t wanted = direct_bytes(half) ? DIRECT_CHUNKS * fabric->chunk_bytes : fabric->chunk_bytes;
    half->chunk_bytes = wanted < MOST_CHUNK_BYTES ? wanted : MOST_CHUNK_BYTES;
    half->note = (wf_note){.sequence = half->sequence, .bytes = half->bytes, .chunk_bytes = half->chunk_bytes};
    if (half->sends)
        return send(fabric, half, ANNOUNCE, &half->note, sizeof half->note, &half->note_request);
    return receive(fabric, half, ANNOUNCE, &half->reply, sizeof half->reply, &half->reply_request);
}

/* ---- slots ---- */

static slot *claim(slot *slots, wf_half *half) {
    slot *s = slots;
    while (s < slots + SLOTS && (s->state != FREE || !s->staging)) s++;
    if (s == slots + SLOTS) return NULL;
    const int64_t left = half->bytes - half->issued;
    char *const direct = direct_bytes(half);
    s->half = half;
    s->at = half->issued;
    s->bytes = left < half->chunk_bytes ? left : half->chunk_bytes;
    s->held = direct ? half->memory : NULL;
    s->data = direct ? direct + s->at : wf_pinned_host(s->staging);
    if (direct) wf_memory_hold(s->held);
    return s;
}

/* The chunk is through: neither the device nor MPI uses its bytes. */
static void let_go(slot *s) {
    wf_memory_destroy(s->held);
    s->held = NULL;
    s->half = NULL;
}

static void issued(wf_half *half, int64_t bytes) {
    half->issued += bytes;
    if (half->issued == half->bytes) half->end->issuing++;
}

static wf_status device_done(slot *s, bool *done_out) {
    *done_out = !s->event;
    if (*done_out) return WF_OK;
    TRY(wf_event_done(s->event, done_out));
    if (!*done_out) return WF_OK;
    wf_event_release(s->event);
    s->event = NULL;
    return WF_OK;
}

static wf_status poll_out(wf_fabric *fabric, mpi *m, slot *s) {
    bool done = false;
    if (s->state == ON_DEVICE && s->order == m->sent) {
        TRY(device_done(s, &done));
        if (!done) return WF_OK;
        TRY(send(fabric, s->half, CHUNK, s->data, s->bytes, &s->request));
        s->state = ON_WIRE;
        m->sent++;
    }
    if (s->state != ON_WIRE) return WF_OK;
    TRY(test(fabric, &s->request, &done));
    if (!done) return WF_OK;
    wf_half_moved(fabric, s->half, s->bytes);
    let_go(s);
    s->state = FREE;
    return WF_OK;
}

/* ---- what is sent ---- */

static wf_status match(wf_fabric *fabric, wf_half *half) {
    if (half->reply.chunk_bytes < half->chunk_bytes) half->chunk_bytes = half->reply.chunk_bytes;
    return wf_half_match(fabric, half, half->reply.bytes);
}

/* A credit says what its rank expects, so the sender finds a mismatch too. */
static wf_status await_credit(wf_fabric *fabric, wf_half *half) {
    bool done = false;
    if (!half->reply_request)
        TRY(receive(fabric, half, CREDIT, &half->reply, sizeof half->reply, &half->reply_request));
    TRY(test(fabric, &half->reply_request, &done));
    if (!done) return WF_OK;
    half->credit = true;
    return half->matched ? WF_OK : match(fabric, half);
}

static wf_status issue_sends(wf_fabric *fabric, wf_half *half) {
    mpi *const m = fabric->state[WF_TRANSPORT_MPI];
    while (half->issued < half->bytes) {
        if (!half->credit) TRY(await_credit(fabric, half));
        slot *const s = half->credit ? claim(m->out, half) : NULL;
        if (!s) return WF_OK;
        if (!s->held)
            TRY(wf_queue_read(fabric->device, WF_QUEUE_SEND, half->memory, half->offset + s->at, s->bytes, s->data, &s->event));
        s->state = ON_DEVICE;
        s->order = m->claimed++;
        half->credit = false;
        issued(half, s->bytes);
        if (s->held) TRY(poll_out(fabric, m, s));
        else TRY(wf_queue_flush(fabric->device, WF_QUEUE_SEND));
    }
    return WF_OK;
}

/* ---- what arrives ---- */

/* On a mismatch the sender is told too, then this rank fails. */
static wf_status await_announcement(wf_fabric *fabric, wf_half *half) {
    bool done = false;
    TRY(test(fabric, &half->reply_request, &done));
    if (!done) return WF_OK;
    const wf_status status = match(fabric, half);
    if (status != WF_OK && !half->note_request)
        (void)send(fabric, half, CREDIT, &half->note, sizeof half->note, &half->note_request);
    return status;
}

static wf_status promise_receives(wf_fabric *fabric, wf_half *half) {
    mpi *const m = fabric->state[WF_TRANSPORT_MPI];
    if (!half->matched) TRY(await_announcement(fabric, half));
    while (half->matched && half->issued < half->bytes) {
        slot *const s = claim(m->in, half);
        if (!s) break;
        s->state = PROMISED;
        s->credit = half->note;
        issued(half, s->bytes);
        TRY(send(fabric, half, CREDIT, &s->credit, sizeof s->credit, &s->credit_request));
    }
    return WF_OK;
}

static wf_status poll_in(wf_fabric *fabric, slot *s) {
    bool done = false;
    if (s->state == PROMISED) {
        TRY(receive(fabric, s->half, CHUNK, s->data, s->bytes, &s->request));
        s->state = ON_WIRE;
    }
    if (s->state == ON_WIRE) {
        TRY(test(fabric, &s->request, &done));
        if (!done) return WF_OK;
        if (!s->held)
            TRY(wf_queue_write(fabric->device, WF_QUEUE_RECEIVE, s->half->memory, s->half->offset + s->at, s->bytes, s->data,
                               &s->event));
        s->state = ON_DEVICE;
        TRY(wf_queue_flush(fabric->device, WF_QUEUE_RECEIVE));
    }
    if (s->state == ON_DEVICE) {
        TRY(device_done(s, &done));
        if (!done) return WF_OK;
        wf_half_moved(fabric, s->half, s->bytes);
        let_go(s);
        s->state = SETTLING;
    }
    if (s->state == SETTLING) {
        TRY(test(fabric, &s->credit_request, &done));
        if (done) s->state = FREE;
    }
    return WF_OK;
}

/* Of the messages whose turn it is. */
static wf_status issue(wf_fabric *fabric, bool sends, wf_status (*how)(wf_fabric *, wf_half *)) {
    for (wf_half *half = fabric->active; half; half = half->next)
        if (half->transport == &wf_transport_mpi && half->sends == sends && !half->over && half->end->issuing == half->sequence)
            TRY(how(fabric, half));
    return WF_OK;
}

static wf_status poll(wf_fabric *fabric) {
    mpi *const m = fabric->state[WF_TRANSPORT_MPI];
    int64_t sent;
    TRY(issue(fabric, false, promise_receives));
    TRY(issue(fabric, true, issue_sends));
    do { /* a slot may have to wait for one behind it in the array */
        sent = m->sent;
        for (int i = 0; i < SLOTS; i++) TRY(poll_out(fabric, m, &m->out[i]));
    } while (sent != m->sent);
    for (int i = 0; i < SLOTS; i++) TRY(poll_in(fabric, &m->in[i]));
    return WF_OK;
}

static wf_status advance(wf_fabric *fabric, wf_half *half) {
    bool noted = true;
    if (half->sends) TRY(test(fabric, &half->note_request, &noted));
    half->done = noted && half->moved == half->bytes;
    return WF_OK;
}

/* What MPI may still use is left behind; staging is replaced, and where that fails the slot has none. */
static void abandon_slot(wf_fabric *fabric, slot *s, bool sends) {
    const wf_bootstrap *const boot = fabric->boot;
    if (s->event) wf_event_release(s->event);
    s->event = NULL;
    const bool free = !s->request || boot->cancel(boot->self, &s->request);
    if (!free && s->held) wf_memory_abandon(s->held), s->held = NULL;
    else if (!free && wf_pinned_create(fabric->device, fabric->chunk_bytes, &s->staging) != WF_OK) s->staging = NULL;
    let_go(s);
    s->state = sends ? FREE : SETTLING;
}

static bool abandon(wf_fabric *fabric, wf_half *half) {
    const wf_bootstrap *const boot = fabric->boot;
    mpi *const m = fabric->state[WF_TRANSPORT_MPI];
    for (int i = 0; i < SLOTS; i++) {
        slot *const s = half->sends ? &m->out[i] : &m->in[i];
        if (s->half == half) abandon_slot(fabric, s, half->sends);
    }
    m->sent = m->claimed;
    const bool noted = !half->note_request || boot->cancel(boot->self, &half->note_request);
    const bool replied = !half->reply_request || boot->cancel(boot->self, &half->reply_request);
    return noted && replied;
}

const wf_transport wf_transport_mpi = {.kind = WF_TRANSPORT_MPI,
                                       .name = "mpi",
                                       .ok = ok,
                                       .create = create,
                                       .destroy = destroy,
                                       .start = start,
                                       .poll = poll,
                                       .advance = advance,
                                       .abandon = abandon};
