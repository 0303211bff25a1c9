/* fabric.h: moves shards between ranks. A rank is a context, not a process. Bootstrap and
 * transports are const tables of functions. After creation only nonblocking point-to-point calls,
 * tests and shared-memory flags, from the caller's thread (MPI_THREAD_FUNNELED is enough). Memory that
 * only commands reach is never handed to MPI. Exchanges move bytes; they never add. */
#ifndef WF_FABRIC_FABRIC_H
#define WF_FABRIC_FABRIC_H

#include "host/base/board.h"
#include "host/device/device.h"
#include "layouts/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- bootstrap: who is there; host bytes only ---- */

typedef struct wf_bootstrap {
    const char *name; /* "self", "mpi" */
    int32_t rank, ranks;
    int32_t node, node_rank, node_ranks; /* node: index of this rank's node */
    void *self;
    /* Collective. Blocking, within the deadline. */
    wf_status (*all_gather)(void *self, const void *mine, int64_t bytes, void *all_out);
    /* Nonblocking point-to-point of host bytes, matched in order per (peer, tag). */
    wf_status (*send)(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes,
                      void **request_out);
    wf_status (*receive)(void *self, int32_t from, int32_t tag, void *data, int64_t bytes,
                         void **request_out);
    wf_status (*test)(void *self, void **request,
                      bool *done); /* frees and NULLs it when done; checks the length received */
    /* Gives up a request that will not be waited for (after a failure) and NULLs it. false: its
     * memory may still be read or written, and must stay until the process ends. */
    bool (*cancel)(void *self, void **request);
    void (*destroy)(void *self);
} wf_bootstrap;

wf_status wf_bootstrap_self(wf_bootstrap *out);
/* Collective over the communicator (an MPI_Comm by address, so that this header needs no mpi.h);
 * it is duplicated. host/fabric/bootstrap_mpi.c */
wf_status wf_bootstrap_mpi(const void *mpi_comm, wf_bootstrap *out);
/* The same with its own deadline; 0: WEFT_TIMEOUT_S, else 60. A caller that has failed already (`mine`, with its
 * sentence) takes part, so that nobody waits for it in MPI: all fail. */
wf_status wf_bootstrap_mpi_within(const void *mpi_comm, double timeout_s, wf_status mine, wf_bootstrap *out);

/* Ranks as threads of this process: one bootstrap for each, out: [ranks]. host/fabric/bootstrap_local.c */
wf_status wf_bootstrap_local(int32_t ranks, wf_bootstrap *out);

/* The caller's own functions, as weft.h's weft_callbacks says. host/fabric/bootstrap_callbacks.c */
typedef struct wf_callbacks {
    void *user;
    int32_t rank, ranks, node, node_rank, node_ranks;
    int (*send)(void *user, int32_t to, int32_t tag, const void *data, size_t bytes, void **request_out);
    int (*receive)(void *user, int32_t from, int32_t tag, void *data, size_t bytes, void **request_out);
    int (*test)(void *user, void *request, int *done_out);
    int (*cancel)(void *user, void *request);
    int (*all_gather)(void *user, const void *mine, size_t bytes, void *all_out);
} wf_callbacks;
wf_status wf_bootstrap_callbacks(const wf_callbacks *, wf_bootstrap *out);

/* Collective, before there is a fabric: every rank gets the worst status, and its sentence. */
wf_status wf_bootstrap_agree(const wf_bootstrap *, double timeout_s, wf_status mine);

/* ---- fabric ---- */

typedef struct wf_fabric wf_fabric;

/* A link that is emulated, so that what hides behind exchanges can be measured where there is no network: a message is over no
 * sooner than `latency_s` after the link has carried it and those that began before it, at `bytes_per_s`, each direction of
 * a rank by itself. Bytes are moved as ever, by the transport; a link that is faster than that changes nothing. Nobody
 * waits in a loop for it: the message is only not over yet. */
typedef struct wf_link {
    double latency_s;
    double bytes_per_s; /* 0: no link is emulated */
    bool cut;           /* a schedule's exchanges move nothing and are over at once: what the rest of it takes. Results are wrong */
} wf_link;

typedef struct wf_fabric_options {
    wf_transport_kind force; /* WF_TRANSPORT_NONE: the fastest whose self-test passes, per pair */
    double timeout_s;        /* deadline of every wait; 0: 60 */
    int64_t chunk_bytes;     /* of staged and mpi; 0: 1 MiB */
    wf_link link;            /* for tests and benchmarks */
    const wf_log *log;       /* NULL: nothing is said; borrowed */
    wf_board *board;         /* this rank's; NULL: the fabric's own; borrowed */
    struct wf_watchdog *watchdog; /* that is shown the boards of the node's ranks; NULL; borrowed */
} wf_fabric_options;

/* Collective. Finds nodes, self-tests each transport between each pair of ranks (data both ways,
 * through device memory, compared). A forced transport that fails its test is WF_ERR_FABRIC with
 * the reason. `bootstrap` is borrowed; device may be NULL when ranks == 1. */
wf_status wf_fabric_create(const wf_bootstrap *, wf_opencl *, const wf_fabric_options *,
                           wf_fabric **out);
/* Collective. */
void wf_fabric_destroy(wf_fabric *);
int32_t wf_fabric_rank(const wf_fabric *);
int32_t wf_fabric_ranks(const wf_fabric *);
wf_transport_kind wf_fabric_transport(const wf_fabric *, int32_t peer);
/* Between any two ranks, as both and all others know; outside: for what lies in no window, the fastest but that one. */
wf_transport_kind wf_fabric_between(const wf_fabric *, int32_t rank, int32_t peer, bool outside);
/* May kernels of either of the two read the other's window where it lies? All ranks say the same: the window is their
 * transport, both devices have no memory but the host's, and the self-test has tried it. */
bool wf_fabric_in_place(const wf_fabric *, int32_t rank, int32_t peer);
/* Where this rank publishes what it does. Ranks of the node that wait for this one see it: who works
 * long on its own between two collective calls (a file is written) says so now and then, with
 * wf_board_enter, and is not taken for lost. */
wf_board *wf_fabric_board(const wf_fabric *);
/* What was asked for: do a schedule's exchanges move nothing? */
bool wf_fabric_is_cut(const wf_fabric *);
/* Which transports passed between the ranks and why others did not: lines of text, malloc'ed. */
wf_status wf_fabric_describe(wf_fabric *, char **text_out);

/* Collective over the node: memory of WF_SPACE_WINDOW, shared with the node's ranks and wrapped for
 * this rank's device. bytes may differ per rank, 0 included (then *out is NULL). */
wf_status wf_fabric_window_create(wf_fabric *, int64_t bytes, wf_memory **out);
/* Collective over the node. NULL where bytes was 0. */
void wf_fabric_window_destroy(wf_fabric *, wf_memory *);

/* Where the bytes of a message lie that is read in place: in the sender's window, as this rank's device sees it. */
typedef struct wf_found {
    wf_memory *memory;
    int64_t offset_bytes;
} wf_found;

typedef struct wf_message {
    wf_memory *memory; /* NULL with bytes 0: nothing in this direction */
    int64_t offset_bytes, bytes;
    int32_t peer;
    /* Received by window, between two of wf_fabric_in_place, and not copied: where it lies is written here when the transfer is
     * done, and stays as it is until the sender hears that it has been read. memory: NULL. */
    wf_found *found;
    bool word; /* By window: no bytes travel; that `bytes` of an earlier message have been read is told, or heard. memory: NULL */
} wf_message;

typedef struct wf_transfer wf_transfer;
/* Starts one hop: sends `send`, receives `receive`, on a channel (from, to, lane); messages of a
 * channel match in order. The caller has made sure that what is sent is complete and that what is
 * received into is free. Never blocks. */
wf_status wf_fabric_start(wf_fabric *, wf_lane, wf_transport_kind send_transport,
                          const wf_message *send, wf_transport_kind receive_transport,
                          const wf_message *receive, wf_transfer **out);
/* Moves it on; frees it when done: then what was sent may be overwritten, unless the peer reads it in place. A peer's message
 * of another length is WF_ERR_MISMATCH naming both. Past the deadline: WF_ERR_TIMEOUT naming the
 * peer. */
wf_status wf_fabric_test(wf_fabric *, wf_transfer **transfer, bool *done);
/* Is this rank's device at work? Then what it sends, which the host of either side could copy, is left to the receiver's. At first: no. */
void wf_fabric_computes(wf_fabric *, bool computes);
/* For a caller whose own deadline has passed: WF_ERR_TIMEOUT with the same sentence; WF_OK: the transfer waits for nobody. */
wf_status wf_fabric_overdue(const wf_fabric *, const wf_transfer *);

/* Changes with each part of a message that has moved: who waits has reason to look again soon. */
int64_t wf_fabric_moves(const wf_fabric *);

/* For loops around wf_fabric_test. idle_iterations: rounds in which nothing was done, 0 after one
 * that did something. Spins briefly, yields the core for some milliseconds, then sleeps 30 us at a time (begins anew when
 * a transfer has moved): ranks share cores with the threads of their CPU devices. */
void wf_fabric_pause(const wf_fabric *, int64_t idle_iterations);

/* Bytes sent and messages sent per transport since creation (the self-test's, and words, not counted). */
void wf_fabric_counters(const wf_fabric *, int64_t bytes_out[WF_TRANSPORTS],
                        int64_t messages_out[WF_TRANSPORTS]);

/* ---- small host collectives, for agreeing ---- */

/* Collective. Every rank gets the worst status; where another rank failed, its sentence is quoted.
 */
wf_status wf_fabric_agree(wf_fabric *, wf_status mine);
wf_status wf_fabric_barrier(wf_fabric *);
wf_status wf_fabric_all_gather(wf_fabric *, const void *mine, int64_t bytes, void *all_out);
/* Host bytes of rank `from` to rank `to`, which both call; the others may, and return at once. *room:
 * WF_PASS_BYTES, malloc'ed; NULL afterwards where a failure leaves it to MPI. */
enum { WF_PASS_BYTES = 4 << 20 };
wf_status wf_fabric_pass(wf_fabric *, int32_t from, int32_t to, void *data, int64_t bytes, char **room);
/* Is this rank the first of its node, the one that does for all what the node shares? */
bool wf_fabric_first_of_node(const wf_fabric *);
/* Ranks of this node; 0 where two of them are threads of one process. *index_out: this rank among them. */
int32_t wf_fabric_processes(const wf_fabric *, int32_t *index_out);
/* One rank at a time per node runs `build`, node rank 0 first, the others after it. Collective. */
wf_status wf_fabric_in_turn(wf_fabric *, wf_status (*build)(void *), void *context);

#ifdef __cplusplus
}
#endif
#endif
