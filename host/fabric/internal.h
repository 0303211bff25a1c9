/* internal.h: what the files of host/fabric share.
 *
 * A transfer has two halves: one sends, one receives; either may be empty. A half belongs to an
 * end: one direction of a channel (peer, lane) over one transport, which numbers its messages from
 * 0. Halves of an end issue their bytes strictly in that order, and several may be in flight.
 * Nobody blocks: wf_fabric_test calls each transport's poll and every half's advance, and that is
 * all the progress there is.
 *
 * No transport holds a shared resource (a slot of a ring, a staging buffer) for a message before it
 * knows that the other side has started it too. So a lane whose peer is late never stops another.
 */
#ifndef WF_FABRIC_INTERNAL_H
#define WF_FABRIC_INTERNAL_H

#include "host/fabric/fabric.h"
#include "host/fabric/share.h"

enum {
    WF_TAG_BOOTSTRAP = 1,
    WF_TAG_ALL,
    WF_TAG_NODE,
    WF_TAG_TURN,
    WF_TAG_SELFTEST,
    WF_TAG_PASS,
    WF_TAG_GOODBYE,
    WF_TAG_DATA = 16
};
enum { WF_TIMEOUT_S = 60 };    /* the default deadline */
#define WF_LATE_S 0.5         /* between a rank's deadline and its word of it */
enum { WF_TEXT_BYTES = 1024 }; /* a sentence, as long as status.c keeps it */

/* ---- collectives over a bootstrap (collectives.c) ---- */

/* Of members: so that a gather of one word each, as in wf_agree_among, needs no memory, and does not fail on one rank
 * while the others wait in it. */
typedef struct wf_gather_room {
    void **requests; /* [2 * count] */
    char *data;      /* count + 1 words; NULL: left to MPI, which may still write there */
    int32_t *words;  /* [count]: results */
} wf_gather_room;

typedef struct wf_members {
    const int32_t *ranks; /* NULL: all */
    int32_t count, index; /* index: mine */
    bool parted;          /* a gather failed: the members no longer make the same calls */
    wf_gather_room *room; /* NULL: none */
    wf_board *board;      /* mine; NULL */
    const wf_board *const *boards; /* [by world rank] NULL: of another node; all NULL: none is seen */
    const double *deadline_s; /* of the fabric: a rank whose board has stood still longer is lost */
} wf_members;

/* Collective over the members. Blocks at most timeout_s, then names those who are missing. */
wf_status wf_gather(const wf_bootstrap *, wf_members *, int32_t tag, double timeout_s,
                    const void *mine, int64_t bytes, void *all_out);
/* WF_ERR_MEMORY leaves the members without. */
wf_status wf_members_reserve(wf_members *);
void wf_members_release(wf_members *);
/* Every member gets the worst status and the sentence that explains it. */
wf_status wf_agree_among(const wf_bootstrap *, wf_members *, int32_t tag, double timeout_s,
                         wf_status mine);
/* Waits for one request of the bootstrap, for `peer`, which may itself wait for those from rank
 * `first` on; WF_ERR_TIMEOUT names `peer` and `what`. */
wf_status wf_request_wait(const wf_bootstrap *, const wf_members *, void **request,
                          double timeout_s, int32_t first, int32_t peer, const char *what);
void wf_pause(int64_t idle_iterations);
/* Has this rank shown a sign of life of late? A rank that is seen at work is not lost. */
bool wf_members_alive(const wf_members *, int32_t rank);
/* Has it given up, or gone? Then only what it has sent before may still come. */
bool wf_members_left(const wf_members *, int32_t rank);
/* The patience of one that has lost it already: its failure must not cost another deadline. */
double wf_fabric_patience(const wf_fabric *, wf_status mine);
/* "; it is in step X of Y for 3.1 s", where its board is seen; else "". */
void wf_members_tell(const wf_members *, int32_t rank, char *out, size_t out_bytes);

/* ---- halves and transports ---- */

typedef struct wf_transport wf_transport;
typedef struct wf_half wf_half;

/* Among a pair's verdicts, in the place of no transport: does each read the other's window right where it lies? */
#define WF_VERDICT_IN_PLACE WF_TRANSPORT_NONE

/* One direction of a channel over one transport; sequence numbers of messages. */
typedef struct wf_end {
    int64_t started; /* given out at wf_fabric_start */
    int64_t issuing; /* the one message that may hand its bytes on */
    int64_t closing; /* the one message that may end (see mail.h; not of mpi) */
} wf_end;

typedef struct wf_note {
    int64_t sequence, bytes;
    int64_t chunk_bytes; /* the most that this side can send or take at once */
} wf_note; /* what the mpi transport tells the other side */

struct wf_half {
    wf_half *next, **link; /* in fabric->active, oldest first */
    const wf_transport *transport;
    wf_end *end;
    bool sends, done;
    bool over;  /* for the transport; done is it when an emulated link lets it */
    double due; /* host's clock; 0: no link is emulated */
    int32_t peer;
    wf_lane lane;
    int64_t sequence;
    wf_memory *memory;
    int64_t offset, bytes;
    int64_t issued, moved; /* bytes handed on; bytes that are through */
    bool announced;        /* the other side can see that this half has started */
    bool matched;          /* the other side has started its half, of the same length */
    wf_found *found;       /* window: received in place; NULL: copied */
    bool word;             /* window: no bytes */
    bool attached;         /* staged: straight between the processes, as far as this side goes; once matched, both */
    bool held;             /* staged: its memory, while the other side may touch it */
    int64_t seen;          /* staged, attached: bytes that have somebody, when last looked at */
    double since;          /* fabric clock when something last moved */
    double left_since;     /* ... when the peer was first seen to have left after that */
    wf_event *event;       /* window */
    wf_note note, reply;   /* mpi: what is sent and what is received about this message */
    void *note_request, *reply_request;
    int64_t chunk_bytes; /* mpi: both sides' */
    bool credit; /* mpi: the other side has room for the next chunk */
};

struct wf_transfer {
    wf_half send, receive;
    bool lost;              /* MPI may still use its notes: never freed */
    wf_transfer *next;      /* in the free list */
    wf_transfer *next_made; /* of all that were ever allocated */
};

/* Why a pair of ranks cannot use a transport. */
typedef enum wf_verdict_code {
    WF_PAIR_PASSED,
    WF_PAIR_OTHER_NODE,
    WF_PAIR_NOT_UNIFIED,
    WF_PAIR_NO_SHARE,
    WF_PAIR_FAILED,
    WF_PAIR_VERDICTS
} wf_verdict_code;

struct wf_transport {
    wf_transport_kind kind;
    const char *name;
    /* Could this pair use it? Both ranks of the pair come to the same answer. */
    wf_verdict_code (*ok)(const wf_fabric *, int32_t rank, int32_t peer);
    wf_status (*create)(wf_fabric *);
    void (*destroy)(wf_fabric *);
    wf_status (*start)(wf_fabric *, wf_half *);   /* may be NULL */
    wf_status (*poll)(wf_fabric *);               /* what halves share; may be NULL */
    wf_status (*advance)(wf_fabric *, wf_half *); /* sets half->done */
    /* After a failure, device queues finished: lets go of what the half holds. false: its notes may
     * still be in use. */
    bool (*abandon)(wf_fabric *, wf_half *);
};

extern const wf_transport wf_transport_mpi, wf_transport_staged, wf_transport_window;
/* By kind; NULL for WF_TRANSPORT_NONE. */
extern const wf_transport *const wf_transports[WF_TRANSPORTS];

/* ---- the fabric ---- */

typedef struct wf_window { /* memory of WF_SPACE_WINDOW */
    struct wf_window *next;
    int32_t id; /* the same on all ranks of the node */
    wf_share *share;
    wf_memory *memory; /* mine, NULL where I asked for 0 bytes */
    wf_memory **theirs; /* [place] the others', for this rank's device to read in place; NULL: that is not done */
} wf_window;

typedef struct wf_peer {
    int32_t node;
    int32_t place; /* position among this node's ranks; -1: another node */
    int64_t process; /* its id on its own node */
    bool unified;  /* its device shares memory with its host */
    bool direct;   /* ... and has no other (wf_memory_direct): its window may be read in place */
    wf_transport_kind chosen;
    char *why[WF_TRANSPORTS], *why_not_in_place; /* sentence of a failed self-test, malloc'ed */
} wf_peer;

struct wf_fabric {
    const wf_bootstrap *boot;
    wf_opencl *device;
    int32_t rank, ranks;
    wf_transport_kind force;
    double timeout_s;
    int64_t chunk_bytes;
    wf_peer *peers;    /* [ranks], me included */
    uint8_t *verdicts; /* [rank][peer][transport, or WF_VERDICT_IN_PLACE] wf_verdict_code, of all ranks */
    wf_members everyone, node;
    int32_t *node_ranks; /* world ranks on my node, ascending */
    wf_share *outboxes;  /* NULL: no shared memory on this node */
    char *why_no_share, *why_parted; /* why_parted: the end of a window that failed, until all hear of it */
    const wf_log *log;   /* NULL: nothing is said */
    wf_board *board, own_board; /* board: what is published on */
    const wf_board **boards;    /* [rank]: as wf_members.boards; NULL without outboxes */
    struct wf_watchdog *watchdog;
    wf_window *windows;
    int32_t windows_made;
    wf_end *ends; /* [rank][lane][transport][sends] */
    void *state[WF_TRANSPORTS];
    wf_half *active, **last;
    wf_transfer *free_list, *made;
    int64_t sent_bytes[WF_TRANSPORTS], sent_messages[WF_TRANSPORTS];
    double clock_s, seen_s; /* see tick in transfer.c */
    bool may_move;          /* opened so far that transfers may be under way, each with its own deadline */
    int64_t quiet;          /* tests since something last moved */
    int64_t moves;          /* how often something has moved */
    wf_link link;           /* emulated */
    double link_free_s[2];  /* when it has carried all so far: what is received, what is sent */
    bool computes;          /* as wf_fabric_computes was told */
    bool refresh_windows;   /* always (tests); see window.c */
    wf_status failed;       /* further work is refused */
    char *why_failed;
};

wf_end *wf_fabric_end(wf_fabric *, int32_t peer, wf_lane lane, wf_transport_kind, bool sends);
wf_verdict_code wf_fabric_verdict(const wf_fabric *, int32_t rank, int32_t peer, wf_transport_kind);
void wf_fabric_set_verdict(wf_fabric *, int32_t peer, wf_transport_kind, wf_verdict_code);
/* The lane under which both sides know a channel: what a pipeline stage sends on PP_SEND_F, the
 * next receives on PP_RECV_F. */
wf_lane wf_channel_lane(wf_lane);
/* Sets half->matched when the lengths agree; else the sentence that names both. */
wf_status wf_half_match(wf_fabric *, wf_half *, int64_t their_bytes);
void wf_half_moved(wf_fabric *, wf_half *, int64_t bytes);
/* The window that a memory belongs to; by its id. NULL: none. */
const wf_window *wf_window_of(const wf_fabric *, const wf_memory *);
const wf_window *wf_window_by_id(const wf_fabric *, int32_t id);
/* This rank's part of it. */
void wf_window_free(const wf_fabric *, wf_window *);
/* Have both devices no memory but the host's? */
bool wf_window_direct(const wf_fabric *, int32_t peer);
/* After the outboxes are shared: shows this rank's board to the node, and the watchdog the others'.
 * Before they go: takes it back, and says that this rank has left. (boards.c) */
wf_status wf_fabric_show_board(wf_fabric *);
void wf_fabric_hide_board(wf_fabric *);
/* Forgets every transfer in flight (after a failure). */
void wf_fabric_abandon(wf_fabric *);
/* As wf_fabric_start, on any transport, whether it passed or not; arguments are not checked. */
wf_status wf_transfer_start(wf_fabric *, wf_lane, const wf_transport *send_with,
                            const wf_message *send, const wf_transport *receive_with,
                            const wf_message *receive, wf_transfer **out);
/* Collective. Fills in the verdicts and `why` of this rank's pairs. (selftest.c) */
wf_status wf_fabric_selftest(wf_fabric *);

#endif
