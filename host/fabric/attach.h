/* attach.h: bytes that go straight from one process's memory into another's, by Linux's cross-memory attach
 * (process_vm_readv, process_vm_writev: one user, and nothing forbids it), as MPI libraries move large messages. Here
 * both sides copy at once: pieces of a message are taken on in turn, the receiver reads its own, a sender that has nothing else
 * to do writes the others, so two cores move one message. */
#ifndef WF_FABRIC_ATTACH_H
#define WF_FABRIC_ATTACH_H

#include "host/fabric/internal.h"

/* Which ranks of the node this one reaches. */
typedef struct wf_attach wf_attach;

/* Writes down where the others find a word of this rank's. NULL: no memory. */
wf_attach *wf_attach_create(const wf_fabric *);
void wf_attach_destroy(wf_attach *);
/* As far as this side goes: the peer's process is reached, which is seen by finding that word, once, after all have been created; and
 * the memory is one that can be held (a window cannot). */
bool wf_attach_may(wf_attach *, const wf_fabric *, const wf_half *);
/* From before it is announced until it is over: the memory outlives its owner. */
void wf_attach_hold(wf_half *);
void wf_attach_let_go(wf_half *);
/* Moves on a half that is matched, and attached on both sides. */
wf_status wf_attach_advance(wf_fabric *, wf_half *);
/* A half that is held, after a failure: from now on nobody touches its memory any more, else that stays for ever. */
void wf_attach_abandon(wf_fabric *, wf_half *);

#endif
