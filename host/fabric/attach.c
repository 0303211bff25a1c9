/* attach.c: see the header. Of a message of 16 MiB, in pieces:
 *
 *     sender's memory    |  0  |  1  |  2  |  3  |      mail->taken: pieces below it have somebody
 *                           |     :     |     :         | read by the receiver,   : written by the sender,
 *     receiver's memory  |  0  |  1  |  2  |  3  |      who counts what has arrived in mail->pushed
 *
 * The message is over for the receiver when what it has read and what has been written make the whole; for the sender when it
 * is told so. The sender sets both counters to 0 before it announces the message; from the receiver's last word on, what is left to
 * take is nothing, so a sender who comes late takes nothing.
 *
 * Nobody touches memory that its owner has let go: a sender writes only when the receiver has seen the message (mail->opened);
 * who gives up takes all that is left on itself; and each side holds its memory from its announcement until the message is over, or
 * for ever if a piece of it may be under way. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* process_vm_readv */
#endif
#include "host/fabric/attach.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "host/fabric/mail.h"

/* Of a piece: half of the message, within these (benchmarks/NOTES.md). */
enum { MOST_BYTES = 4 << 20, LEAST_BYTES = 256 << 10, PARTS = 2, PAGE = 4096 };

typedef enum reach { UNKNOWN, WITHIN, BEYOND } reach;

struct wf_attach {
    uint64_t word; /* for the others to find */
    reach reach[]; /* [node ranks] */
};

/* ---- who reaches whom ---- */

wf_attach *wf_attach_create(const wf_fabric *fabric) {
    wf_attach *const a = calloc(1, sizeof *a + (size_t)fabric->node.count * sizeof *a->reach);
    if (!a) return NULL;
    a->word = (uint64_t)(wf_clock_s() * 1e9) * 2654435761u + (uint64_t)getpid();
    for (int32_t m = 0; fabric->outboxes && m < fabric->node.count; m++)
        wf_outbox_wire(fabric, fabric->rank, fabric->node_ranks[m])->reach =
            (wf_reach){.process = getpid(), .address = (int64_t)(intptr_t)&a->word, .word = a->word};
    return a;
}

void wf_attach_destroy(wf_attach *a) {
    free(a);
}

/* Bytes copied between `here` and an address of that process; what ends within a page that is not there is cut short. */
static int64_t copy_across(int64_t process, bool writes, void *here, int64_t there, int64_t bytes) {
    const struct iovec mine = {here, (size_t)bytes}, theirs = {(void *)(intptr_t)there, (size_t)bytes};
    return writes ? process_vm_writev((pid_t)process, &mine, 1, &theirs, 1, 0)
                  : process_vm_readv((pid_t)process, &mine, 1, &theirs, 1, 0);
}

/* In another PID namespace, or without the right to, the word is not found. It is written back, to know that this may be, too. */
static bool reaches(wf_attach *a, const wf_fabric *fabric, int32_t peer) {
    const wf_reach *const theirs = &wf_outbox_wire(fabric, peer, fabric->rank)->reach;
    reach *const known = &a->reach[fabric->peers[peer].place];
    uint64_t word = ~theirs->word;
    if (*known == UNKNOWN) {
        const int64_t bytes = sizeof word;
        const bool read = copy_across(theirs->process, false, &word, theirs->address, bytes) == bytes && word == theirs->word;
        *known = read && copy_across(theirs->process, true, &word, theirs->address, bytes) == bytes ? WITHIN : BEYOND;
    }
    return *known == WITHIN;
}

/* ---- a message in pieces ---- */

/* The same on both sides. */
static int64_t piece_bytes(const wf_half *half) {
    const int64_t fair = (half->bytes / PARTS + PAGE - 1) / PAGE * PAGE;
    return fair < LEAST_BYTES ? LEAST_BYTES : fair < MOST_BYTES ? fair : MOST_BYTES;
}

static _Atomic int64_t *taken(const wf_fabric *fabric, const wf_half *half) {
    return &wf_half_mail(fabric, half)->taken[half->sequence % WF_POSTS];
}

static _Atomic int64_t *pushed(const wf_fabric *fabric, const wf_half *half) {
    return &wf_half_mail(fabric, half)->pushed[half->sequence % WF_POSTS];
}

static bool all_taken(const wf_fabric *fabric, const wf_half *half) {
    return atomic_load_explicit(taken(fabric, half), memory_order_acquire) >= half->bytes;
}

static wf_status copy_piece(const wf_fabric *fabric, const wf_half *half, int64_t at, int64_t bytes) {
    const wf_mail *const mail = wf_half_mail(fabric, half);
    const int64_t there = (half->sends ? mail->expected : mail->sent)[half->sequence % WF_POSTS].address;
    const int64_t process = wf_outbox_wire(fabric, half->peer, fabric->rank)->reach.process;
    char *const here = (char *)wf_memory_direct(half->memory) + half->offset;
    for (int64_t done = 0, got; done < bytes; done += got) {
        got = copy_across(process, half->sends, here + at + done, there + at + done, bytes - done);
        if (got <= 0)
            return wf_fail(WF_ERR_FABRIC, "rank %d could not %s %lld bytes of rank %d's process: %s", fabric->rank,
                           half->sends ? "write" : "read", (long long)(bytes - done), half->peer, got < 0 ? strerror(errno) : "none came");
    }
    return WF_OK;
}

/* Takes on the next piece, if one is left, and copies it. half->issued counts what this side has taken on. */
static wf_status take_piece(wf_fabric *fabric, wf_half *half, int64_t *copied_out) {
    const int64_t piece = piece_bytes(half), at = atomic_fetch_add_explicit(taken(fabric, half), piece, memory_order_acq_rel);
    const int64_t left = half->bytes - at, bytes = left < piece ? left : piece;
    *copied_out = 0;
    if (bytes <= 0) return WF_OK;
    half->issued += bytes;
    TRY(copy_piece(fabric, half, at, bytes));
    *copied_out = bytes;
    return WF_OK;
}

/* After all else of a visit: a half that is over has passed its turn on, whoever took the last piece. */
static void pass_turn(const wf_fabric *fabric, const wf_half *half) {
    if (half->end->issuing == half->sequence && (half->moved == half->bytes || all_taken(fabric, half))) half->end->issuing++;
}

static wf_status receive(wf_fabric *fabric, wf_half *half) {
    int64_t copied;
    atomic_store_explicit(&wf_half_mail(fabric, half)->opened, half->sequence + 1, memory_order_release);
    if (half->end->issuing == half->sequence) TRY(take_piece(fabric, half, &copied));
    const int64_t arrived = half->issued + atomic_load_explicit(pushed(fabric, half), memory_order_acquire);
    if (arrived > half->moved) wf_half_moved(fabric, half, arrived - half->moved);
    pass_turn(fabric, half);
    return WF_OK;
}

/* A sender helps while nothing of its own has moved before in this round, and no kernel of its device wants the core. */
static bool may_help(const wf_fabric *fabric, const wf_half *half) {
    return half->end->issuing == half->sequence && half->bytes > LEAST_BYTES && fabric->quiet > 0 && !fabric->computes &&
           atomic_load_explicit(&wf_half_mail(fabric, half)->opened, memory_order_acquire) > half->sequence && !all_taken(fabric, half);
}

/* The other side at work is a sign of life. */
static void see_taken(const wf_fabric *fabric, wf_half *half) {
    const int64_t now = atomic_load_explicit(taken(fabric, half), memory_order_relaxed);
    if (now > half->seen) half->since = fabric->clock_s;
    half->seen = now;
}

static wf_status send(wf_fabric *fabric, wf_half *half) {
    if (half->moved < half->bytes && atomic_load_explicit(&wf_half_mail(fabric, half)->completed, memory_order_acquire) > half->sequence)
        wf_half_moved(fabric, half, half->bytes);
    if (half->moved < half->bytes) see_taken(fabric, half);
    if (half->moved < half->bytes && may_help(fabric, half)) {
        int64_t copied;
        TRY(take_piece(fabric, half, &copied));
        atomic_fetch_add_explicit(pushed(fabric, half), copied, memory_order_acq_rel);
        if (copied) wf_half_moved(fabric, half, 0);
    }
    pass_turn(fabric, half);
    return WF_OK;
}

wf_status wf_attach_advance(wf_fabric *fabric, wf_half *half) {
    return half->sends ? send(fabric, half) : receive(fabric, half);
}

/* ---- holding and letting go ---- */

bool wf_attach_may(wf_attach *a, const wf_fabric *fabric, const wf_half *half) {
    return wf_memory_direct(half->memory) && !wf_memory_host(half->memory) && reaches(a, fabric, half->peer);
}

void wf_attach_hold(wf_half *half) {
    if (!half->held) wf_memory_hold(half->memory);
    half->held = true;
}

void wf_attach_let_go(wf_half *half) {
    if (half->held) wf_memory_destroy(half->memory);
    half->held = false;
}

/* Has the other side finished what it has taken on, if this side has `before` in mail->taken when it takes the rest? */
static bool is_finished(const wf_fabric *fabric, const wf_half *half, int64_t before) {
    const wf_mail *const mail = wf_half_mail(fabric, half);
    if (half->sends) return before < half->bytes || atomic_load_explicit(&mail->completed, memory_order_acquire) > half->sequence;
    const int64_t theirs = (before < half->bytes ? before : half->bytes) - half->issued;
    return atomic_load_explicit(pushed(fabric, half), memory_order_acquire) >= theirs;
}

/* A receiver that has not seen the message is not written to. The other side, in the midst of a piece, has finished it soon, or is
 * stopped; then it may still copy when it goes on. A receiver to whom the sender leaves nothing more cannot take what it has read for a message. */
void wf_attach_abandon(wf_fabric *fabric, wf_half *half) {
    if (half->held && half->announced && (half->sends || half->matched)) {
        const int64_t before = atomic_fetch_add_explicit(taken(fabric, half), half->bytes, memory_order_acq_rel);
        const double until_s = wf_clock_s() + WF_LATE_S;
        while (!is_finished(fabric, half, before)) {
            if (wf_clock_s() > until_s) {
                wf_memory_abandon(half->memory);
                half->held = false;
                return;
            }
            usleep(100);
        }
    }
    wf_attach_let_go(half);
}
