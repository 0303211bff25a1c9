/* collectives.c: small collectives of host bytes, made of the bootstrap's sends and receives. Every
 * rank tells every other directly, not along a tree: then a deadline can name exactly who is
 * missing. For agreeing, not for data. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/base/nap.h"
#include "host/fabric/internal.h"

static void rest(int64_t idle_iterations, int64_t yields) {
    enum { SPIN = 32, SLEEP_NS = 30000 };
    if (idle_iterations < SPIN) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    } else if (idle_iterations < yields) {
        sched_yield();
    } else {
        wf_nap own;
        wf_nap_begin(&own, false);
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
        wf_nap_end(&own);
    }
}

/* Some microseconds of spinning, then a few hundred of yielding: guesses. */
void wf_pause(int64_t idle_iterations) {
    enum { YIELDS = 512 };
    rest(idle_iterations, YIELDS);
}

/* Who waits for a transfer and nothing else computes nothing meanwhile: some milliseconds, as long as the largest message copies. */
void wf_fabric_pause(const wf_fabric *fabric, int64_t idle_iterations) {
    enum { YIELDS = 8192 };
    rest(idle_iterations < fabric->quiet ? idle_iterations : fabric->quiet, YIELDS);
}

/* ---- gather ---- */

typedef struct gather {
    const wf_bootstrap *boot;
    const wf_members *members;
    int64_t bytes;
    void **requests; /* [2 count]: receive from m, send to m */
    char *
        data; /* [count + 1][bytes]: of all, then mine; own memory, so that it can be left behind */
} gather;

enum { LOOK_EVERY = 64 }; /* idle rounds between two looks at a board */

static int32_t rank_of(const wf_members *members, int32_t m) {
    return members->ranks ? members->ranks[m] : m;
}

static wf_status gather_start(gather *g, int32_t tag) {
    char *const mine = g->data + g->members->count * g->bytes;
    for (int32_t m = 0; m < g->members->count; m++) {
        if (m == g->members->index) continue;
        const int32_t rank = rank_of(g->members, m);
        TRY(g->boot->receive(g->boot->self, rank, tag, g->data + m * g->bytes, g->bytes,
                             &g->requests[2 * m]));
        TRY(g->boot->send(g->boot->self, rank, tag, mine, g->bytes, &g->requests[2 * m + 1]));
    }
    return WF_OK;
}

/* missing_out: members still awaited; first_out: the lowest rank of them. */
static wf_status gather_poll(gather *g, int32_t *missing_out, int32_t *first_out) {
    *missing_out = 0;
    for (int32_t i = 2 * g->members->count - 1; i >= 0; i--) {
        bool done = !g->requests[i];
        if (!done) TRY(g->boot->test(g->boot->self, &g->requests[i], &done));
        if (done) continue;
        *missing_out += 1;
        *first_out = rank_of(g->members, i / 2);
    }
    return WF_OK;
}

static bool missing_alive(const gather *g) {
    bool alive = false;
    for (int32_t i = 0; i < 2 * g->members->count; i++)
        alive = alive || (g->requests[i] && wf_members_alive(g->members, rank_of(g->members, i / 2)));
    return alive;
}

/* Of one who has left only what is on its way may still come: that is awaited from when it is seen, for each anew. */
typedef struct farewell {
    int32_t rank;
    double seen_s; /* 0: not seen */
} farewell;

static bool is_over(farewell *f, const wf_members *members, int32_t rank) {
    if (!wf_members_left(members, rank)) return false;
    if (f->seen_s == 0 || f->rank != rank) *f = (farewell){.rank = rank, .seen_s = wf_clock_s()};
    return wf_clock_s() - f->seen_s > WF_LATE_S;
}

static wf_status gather_wait(gather *g, double timeout_s) {
    const double start_s = wf_clock_s();
    farewell last = {0};
    char doing[320];
    for (int64_t idle = 0;; idle++) {
        int32_t missing, first = -1;
        TRY(gather_poll(g, &missing, &first));
        if (missing == 0) return WF_OK;
        const bool lost = idle % LOOK_EVERY == LOOK_EVERY - 1 && is_over(&last, g->members, first);
        if (lost || (wf_clock_s() - start_s > timeout_s && !missing_alive(g))) {
            wf_members_tell(g->members, first, doing, sizeof doing);
            return wf_fail(WF_ERR_TIMEOUT,
                           "rank %d waited %.1f s for rank %d%s to join the other ranks%s",
                           g->boot->rank, wf_clock_s() - start_s, first,
                           missing > 2 ? " and others" : "", doing);
        }
        wf_pause(idle);
    }
}

/* true: all memory is free again. */
static bool gather_cancel(gather *g) {
    bool clean = true;
    for (int32_t i = 0; i < 2 * g->members->count; i++)
        if (g->requests[i] && !g->boot->cancel(g->boot->self, &g->requests[i])) clean = false;
    return clean;
}

static wf_status exchange_all(gather *g, int32_t tag, double timeout_s) {
    TRY(gather_start(g, tag));
    return gather_wait(g, timeout_s);
}

wf_status wf_gather(const wf_bootstrap *boot, wf_members *members, int32_t tag, double timeout_s,
                    const void *mine, int64_t bytes, void *all_out) {
    const size_t count = (size_t)members->count;
    if (members->parted)
        return wf_fail(WF_ERR_FABRIC,
                       "the ranks have parted: an earlier call that all of them make did not end");
    wf_gather_room *const room = members->room && members->room->data && bytes <= (int64_t)sizeof(int32_t) ? members->room : NULL;
    gather g = {.boot = boot, .members = members, .bytes = bytes};
    g.requests = room ? room->requests : calloc(2 * count, sizeof *g.requests);
    g.data = room ? room->data : malloc((count + 1) * (size_t)bytes + 1);
    if (!g.requests || !g.data) {
        free(g.requests);
        free(g.data);
        members->parted = true; /* the others make this call */
        return wf_fail(WF_ERR_MEMORY, "no memory to gather %lld bytes from %d ranks",
                       (long long)bytes, members->count);
    }
    memcpy(g.data + count * (size_t)bytes, mine, (size_t)bytes);
    memcpy(g.data + members->index * bytes, mine, (size_t)bytes);
    wf_activity before;
    wf_board_enter(members->board, "joining the other ranks", WF_NOBODY, 0, &before);
    const wf_status status = exchange_all(&g, tag, timeout_s);
    wf_board_set(members->board, &before);
    members->parted = status != WF_OK;
    if (status == WF_OK) memcpy(all_out, g.data, count * (size_t)bytes);
    const bool clean = gather_cancel(&g); /* else the data are left behind: MPI may still write there */
    if (room && !clean) room->data = NULL;
    if (!room && clean) free(g.data);
    if (!room) free(g.requests);
    return status;
}

wf_status wf_members_reserve(wf_members *members) {
    const size_t count = (size_t)members->count;
    wf_gather_room *const room = calloc(1, sizeof *room);
    if (room) {
        members->room = room;
        room->requests = calloc(2 * count, sizeof *room->requests);
        room->data = malloc((count + 1) * sizeof(int32_t));
        room->words = malloc(count * sizeof *room->words);
        if (room->requests && room->data && room->words) return WF_OK;
    }
    wf_members_release(members);
    return wf_fail(WF_ERR_MEMORY, "no memory to gather a word each from %d ranks", members->count);
}

void wf_members_release(wf_members *members) {
    wf_gather_room *const room = members->room;
    if (!room) return;
    free(room->requests);
    free(room->data);
    free(room->words);
    free(room);
    members->room = NULL;
}

/* A word of each member; NULL: no memory. */
static int32_t *results(const wf_members *members) {
    return members->room ? members->room->words : malloc((size_t)members->count * sizeof(int32_t));
}

static void free_results(const wf_members *members, int32_t *words) {
    if (!members->room) free(words);
}

static bool any_alive(const wf_members *members, int32_t first, int32_t last) {
    bool alive = false;
    for (int32_t r = first; r <= last; r++) alive = alive || wf_members_alive(members, r);
    return alive;
}

static wf_status poll_request(const wf_bootstrap *boot, const wf_members *members, void **request,
                              double timeout_s, int32_t first, int32_t peer, const char *what) {
    const double start_s = wf_clock_s();
    farewell last = {0};
    char doing[320];
    bool done = false;
    for (int64_t idle = 0;; idle++) {
        TRY(boot->test(boot->self, request, &done));
        if (done) return WF_OK;
        const bool lost = idle % LOOK_EVERY == LOOK_EVERY - 1 && is_over(&last, members, peer);
        if (lost || (wf_clock_s() - start_s > timeout_s && !any_alive(members, first, peer))) {
            wf_members_tell(members, peer, doing, sizeof doing);
            return wf_fail(WF_ERR_TIMEOUT, "rank %d waited %.1f s for %s of rank %d%s", boot->rank,
                           wf_clock_s() - start_s, what, peer, doing);
        }
        wf_pause(idle);
    }
}

wf_status wf_request_wait(const wf_bootstrap *boot, const wf_members *members, void **request,
                          double timeout_s, int32_t first, int32_t peer, const char *what) {
    wf_board *const board = members ? members->board : NULL;
    wf_activity before;
    wf_board_enter(board, what, peer, 0, &before);
    const wf_status status = poll_request(boot, members, request, timeout_s, first, peer, what);
    wf_board_set(board, &before);
    return status;
}

/* ---- agree ---- */

/* A timeout mostly follows from another rank's failure, so it explains less than any other. */
static int severity(int32_t status) {
    return status == WF_OK ? 0 : status == WF_ERR_TIMEOUT ? 1 : 1 + status;
}

static wf_status quote_worst(const wf_bootstrap *boot, wf_members *members, int32_t tag,
                             double timeout_s, int32_t worst, wf_status verdict, const char *own) {
    char *const all = malloc((size_t)members->count * WF_TEXT_BYTES);
    if (!all) {
        members->parted = true;
        return wf_fail(verdict, "rank %d failed (no memory for its sentence)",
                       rank_of(members, worst));
    }
    const wf_status status = wf_gather(boot, members, tag, timeout_s, own, WF_TEXT_BYTES, all);
    const char *const said = all + (size_t)worst * WF_TEXT_BYTES;
    if (status != WF_OK)
        wf_fail(verdict, "rank %d failed (its sentence did not arrive)", rank_of(members, worst));
    else if (worst == members->index)
        wf_fail(verdict, "%s", said);
    else
        wf_fail(verdict, "rank %d: %s", rank_of(members, worst), said);
    free(all);
    return verdict;
}

wf_status wf_agree_among(const wf_bootstrap *boot, wf_members *members, int32_t tag,
                         double timeout_s, wf_status mine) {
    if (members->count == 1) return mine;
    char own[WF_TEXT_BYTES] = ""; /* sent whole, so all of it is defined */
    snprintf(own, sizeof own, "%s", mine == WF_OK ? "" : wf_last_error());
    int32_t *const all = results(members);
    if (!all) {
        members->parted = true;
        return wf_fail(WF_ERR_MEMORY, "no memory to agree with %d ranks", members->count);
    }
    const int32_t said = mine;
    const wf_status status = wf_gather(boot, members, tag, timeout_s, &said, sizeof said, all);
    int32_t worst = 0;
    for (int32_t m = 1; status == WF_OK && m < members->count; m++)
        if (severity(all[m]) > severity(all[worst])) worst = m;
    const wf_status verdict = status == WF_OK ? (wf_status)all[worst] : status;
    free_results(members, all);
    if (status != WF_OK) return mine == WF_OK ? status : wf_fail(mine, "%s", own);
    return verdict == WF_OK ? WF_OK
                            : quote_worst(boot, members, tag, timeout_s, worst, verdict, own);
}

wf_status wf_bootstrap_agree(const wf_bootstrap *boot, double timeout_s, wf_status mine) {
    wf_members everyone = {.count = boot->ranks, .index = boot->rank};
    return wf_agree_among(boot, &everyone, WF_TAG_BOOTSTRAP, timeout_s, mine);
}

/* ---- of a fabric ---- */

/* A rank that fails comes here at once, the others when their transfers with it are overdue: it
 * waits for them longer. */
wf_status wf_fabric_agree(wf_fabric *fabric, wf_status mine) {
    if (mine == WF_OK && fabric->node.parted)
        mine = wf_fail(WF_ERR_FABRIC, "rank %d could not end a window together with the ranks of its node: %s", fabric->rank,
                       fabric->why_parted ? fabric->why_parted : "they have parted");
    return wf_agree_among(fabric->boot, &fabric->everyone, WF_TAG_ALL,
                          wf_fabric_patience(fabric, mine), mine);
}

wf_status wf_fabric_all_gather(wf_fabric *fabric, const void *mine, int64_t bytes, void *all_out) {
    if (bytes < 0) return wf_fail(WF_ERR_ARGUMENT, "cannot gather %lld bytes", (long long)bytes);
    return wf_gather(fabric->boot, &fabric->everyone, WF_TAG_ALL, fabric->timeout_s, mine, bytes,
                     all_out);
}

wf_status wf_fabric_barrier(wf_fabric *fabric) {
    const char mine = 0;
    char *const all = malloc((size_t)fabric->ranks);
    if (!all) {
        fabric->everyone.parted = true;
        return wf_fail(WF_ERR_MEMORY, "no memory for a barrier of %d ranks", fabric->ranks);
    }
    const wf_status status = wf_fabric_all_gather(fabric, &mine, 1, all);
    free(all);
    return status;
}

/* The status that arrives with the turn. Those before may each take a deadline. */
static wf_status await_turn(wf_fabric *fabric, int32_t *before_out) {
    const int32_t index = fabric->node.index;
    if (index == 0) return WF_OK;
    const int32_t from = fabric->node_ranks[index - 1];
    const wf_bootstrap *const boot = fabric->boot;
    int32_t *const token = malloc(sizeof *token); /* on the heap: it may have to be left behind */
    if (!token) return wf_fail(WF_ERR_MEMORY, "no memory to wait for a turn");
    void *request = NULL;
    wf_status status = boot->receive(boot->self, from, WF_TAG_TURN, token, sizeof *token, &request);
    if (status == WF_OK)
        status = wf_request_wait(boot, &fabric->everyone, &request,
                                 fabric->timeout_s * (fabric->boards ? 1 : index),
                                 fabric->node_ranks[0], from, "the turn");
    if (status == WF_OK) *before_out = *token;
    if (!request || boot->cancel(boot->self, &request)) free(token);
    return status;
}

static wf_status pass_turn(wf_fabric *fabric, int32_t said) {
    const int32_t index = fabric->node.index;
    if (index + 1 == fabric->node.count) return WF_OK;
    const int32_t to = fabric->node_ranks[index + 1];
    const wf_bootstrap *const boot = fabric->boot;
    int32_t *const token = malloc(sizeof *token);
    if (!token) return wf_fail(WF_ERR_MEMORY, "no memory to pass a turn on");
    *token = said;
    void *request = NULL;
    wf_status status = boot->send(boot->self, to, WF_TAG_TURN, token, sizeof *token, &request);
    if (status == WF_OK)
        status = wf_request_wait(boot, &fabric->everyone, &request, fabric->timeout_s, to, to,
                                 "the turn's arrival at a process");
    if (!request || boot->cancel(boot->self, &request)) free(token);
    return status;
}

static int32_t largest_node(const wf_fabric *fabric) {
    int32_t most = 0;
    for (int32_t r = 0; r < fabric->ranks; r++) {
        int32_t count = 0;
        for (int32_t s = 0; s < fabric->ranks; s++)
            count += fabric->peers[s].node == fabric->peers[r].node;
        if (count > most) most = count;
    }
    return most;
}

wf_status wf_fabric_in_turn(wf_fabric *fabric, wf_status (*build)(void *), void *context) {
    int32_t before = WF_OK;
    wf_status status = await_turn(fabric, &before);
    if (status == WF_OK && before == WF_OK) status = build(context);
    const wf_status passed = pass_turn(fabric, status != WF_OK ? (int32_t)status : before);
    if (status == WF_OK) status = passed;
    return wf_agree_among(fabric->boot, &fabric->everyone, WF_TAG_ALL,
                          fabric->boards ? wf_fabric_patience(fabric, status)
                                         : fabric->timeout_s * largest_node(fabric),
                          status);
}
