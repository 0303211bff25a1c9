/* mail.h: the flags through which two ranks of a node talk, in shared memory. One mail per channel
 * and transport: the sender announces its messages, the receiver its receives; each side compares
 * the other's length; each counts the messages that are over for it, in order. An entry is written
 * anew only when the side that reads it says that it is over with the message that used it: the
 * receiver may well be done with a message whose length the sender has not looked at yet. C11
 * atomics: whoever reads a counter (acquire) sees the entries that were written before it was
 * raised (release).
 *
 * An outbox is a rank's piece of the share: for each other rank of the node a wire (mails and the
 * ring's counters), then for each the slots of its ring, and at the end its board. */
#ifndef WF_FABRIC_MAIL_H
#define WF_FABRIC_MAIL_H

#include <stdatomic.h>

#include "host/fabric/internal.h"

enum { WF_POSTS = 8, WF_STAGED_SLOTS = 4, WF_CACHE_LINE = 64 };

typedef struct wf_post {
    int64_t bytes, offset;
    int32_t window;  /* offset, window: of WINDOW */
    int32_t attached; /* STAGED: this side reaches the other's process; its own memory ... */
    int64_t address;  /* ... is here */
} wf_post;

typedef struct wf_mail {
    _Alignas(WF_CACHE_LINE) _Atomic int64_t announced; /* written by the sender */
    _Atomic int64_t closed;                         /* the receiver has all, the sender knows it */
    wf_post sent[WF_POSTS];                         /* message n at n % WF_POSTS */
    _Alignas(WF_CACHE_LINE) _Atomic int64_t posted; /* written by the receiver */
    _Atomic int64_t completed;                      /* received wholly */
    _Atomic int64_t opened;                         /* STAGED: messages that the receiver has seen: see attach.c */
    wf_post expected[WF_POSTS];
    _Alignas(WF_CACHE_LINE) _Atomic int64_t taken[WF_POSTS]; /* written by both: see attach.c */
    _Atomic int64_t pushed[WF_POSTS];
} wf_mail;

typedef struct wf_ring { /* counters only rise; slot n at n % WF_STAGED_SLOTS */
    _Alignas(WF_CACHE_LINE) _Atomic int64_t filled; /* written by the sender */
    struct {
        int64_t sequence, bytes;
        int32_t lane;
    } slot[WF_STAGED_SLOTS];
    _Alignas(WF_CACHE_LINE) _Atomic int64_t emptied; /* written by the receiver */
} wf_ring;

/* Who would copy from or to this rank's memory finds the word there that is written here, or better does without. */
typedef struct wf_reach {
    int64_t process, address;
    uint64_t word;
} wf_reach;

typedef struct wf_wire {
    wf_mail staged[WF_LANES], window[WF_LANES];
    wf_ring ring;
    wf_reach reach; /* written before the ranks agree that transports are there */
} wf_wire;

/* Bytes of one slot of a ring: a chunk, or less where a node's ranks are so many that their rings
 * would take too much memory. The same on all ranks of the node. */
int64_t wf_outbox_slot_bytes(const wf_fabric *);
int64_t wf_outbox_bytes(const wf_fabric *);
/* World ranks of this node. */
wf_wire *wf_outbox_wire(const wf_fabric *, int32_t from, int32_t to);
void *wf_outbox_slot(const wf_fabric *, int32_t from, int32_t to, int64_t number);

/* A rank's board as this node sees it. */
wf_board *wf_outbox_board(const wf_fabric *, int32_t rank);

/* The mail of a half's channel and transport. */
wf_mail *wf_half_mail(const wf_fabric *, const wf_half *);
/* Shows the other side that this half has started. false: its entry is still in use, try again. */
bool wf_mail_announce(const wf_fabric *, wf_half *, const wf_post *);
/* Sets half->matched once the other side has started too. */
wf_status wf_mail_match(wf_fabric *, wf_half *);
/* Of a half whose bytes are through: ends it and tells the other side, when all earlier messages of
 * its end are over; else the next call may. */
void wf_mail_close(const wf_fabric *, wf_half *);

#endif
