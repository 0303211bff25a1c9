/* fabric.c: a fabric's life: who is there, what they share, which transport each pair uses. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/fabric/mail.h"

/* ---- small queries ---- */

int32_t wf_fabric_rank(const wf_fabric *fabric) {
    return fabric->rank;
}

int32_t wf_fabric_ranks(const wf_fabric *fabric) {
    return fabric->ranks;
}

wf_transport_kind wf_fabric_transport(const wf_fabric *fabric, int32_t peer) {
    return peer < 0 || peer >= fabric->ranks ? WF_TRANSPORT_NONE : fabric->peers[peer].chosen;
}

bool wf_fabric_is_cut(const wf_fabric *fabric) {
    return fabric->link.cut;
}

wf_board *wf_fabric_board(const wf_fabric *fabric) {
    return fabric->board;
}

void wf_fabric_counters(const wf_fabric *fabric, int64_t bytes_out[WF_TRANSPORTS],
                        int64_t messages_out[WF_TRANSPORTS]) {
    memcpy(bytes_out, fabric->sent_bytes, sizeof fabric->sent_bytes);
    memcpy(messages_out, fabric->sent_messages, sizeof fabric->sent_messages);
}

wf_end *wf_fabric_end(wf_fabric *fabric, int32_t peer, wf_lane lane, wf_transport_kind kind,
                      bool sends) {
    return &fabric->ends[(((int64_t)peer * WF_LANES + lane) * WF_TRANSPORTS + kind) * 2 + sends];
}

static uint8_t *verdict(const wf_fabric *fabric, int32_t rank, int32_t peer,
                        wf_transport_kind kind) {
    return &fabric->verdicts[((int64_t)rank * fabric->ranks + peer) * WF_TRANSPORTS + kind];
}

wf_verdict_code wf_fabric_verdict(const wf_fabric *fabric, int32_t rank, int32_t peer,
                                  wf_transport_kind kind) {
    return *verdict(fabric, rank, peer, kind);
}

void wf_fabric_set_verdict(wf_fabric *fabric, int32_t peer, wf_transport_kind kind,
                           wf_verdict_code code) {
    *verdict(fabric, fabric->rank, peer, kind) = (uint8_t)code;
}

/* ---- create ---- */

/* What every rank tells the others first. */
typedef struct card {
    int32_t node, unified, direct, force;
    int64_t chunk_bytes, process;
} card;

static wf_status allocate(const wf_bootstrap *boot, wf_fabric **out) {
    const size_t ranks = (size_t)boot->ranks;
    wf_fabric *const f = calloc(1, sizeof *f);
    if (f) {
        f->boot = boot;
        f->rank = boot->rank;
        f->ranks = boot->ranks;
        f->last = &f->active;
        f->everyone = (wf_members){.count = boot->ranks, .index = boot->rank};
        f->node = (wf_members){.count = boot->ranks}; /* at most, until it is known */
        f->board = &f->own_board;
        f->peers = calloc(ranks, sizeof *f->peers);
        f->node_ranks = calloc(ranks, sizeof *f->node_ranks);
        f->verdicts = calloc(ranks * ranks, WF_TRANSPORTS);
        f->ends = calloc(ranks * WF_LANES * WF_TRANSPORTS * 2, sizeof *f->ends);
    }
    if (f && f->peers && f->node_ranks && f->verdicts && f->ends && wf_members_reserve(&f->everyone) == WF_OK &&
        wf_members_reserve(&f->node) == WF_OK) {
        *out = f;
        return WF_OK;
    }
    if (f) wf_fabric_destroy(f);
    return wf_fail(WF_ERR_MEMORY, "no memory for a fabric of %d ranks", boot->ranks);
}

static wf_status configure(wf_fabric *fabric, wf_opencl *device, const wf_fabric_options *options) {
    const wf_fabric_options none = {0}, *const given = options ? options : &none;
    fabric->device = device;
    fabric->force = given->force;
    if (given->board) fabric->board = given->board;
    else wf_board_start(fabric->board, fabric->rank);
    fabric->everyone.board = fabric->board;
    fabric->log = given->log;
    fabric->watchdog = given->watchdog;
    fabric->timeout_s = given->timeout_s > 0 ? given->timeout_s : WF_TIMEOUT_S;
    fabric->chunk_bytes = given->chunk_bytes ? given->chunk_bytes : 1 << 20;
    fabric->seen_s = wf_clock_s();
    if (!device && fabric->ranks > 1)
        return wf_fail(WF_ERR_ARGUMENT, "rank %d of %d has no device", fabric->rank, fabric->ranks);
    if (fabric->chunk_bytes < 1 || fabric->chunk_bytes > 1 << 30)
        return wf_fail(WF_ERR_ARGUMENT, "chunks of %lld bytes: 1 to 2^30 are possible",
                       (long long)fabric->chunk_bytes);
    if ((int)fabric->force < 0 || fabric->force >= WF_TRANSPORTS)
        return wf_fail(WF_ERR_ARGUMENT, "there is no transport %d to force", (int)fabric->force);
    if (!(given->link.latency_s >= 0 && given->link.bytes_per_s >= 0))
        return wf_fail(WF_ERR_ARGUMENT, "there is no link of %g s and %g bytes per second to emulate", given->link.latency_s,
                       given->link.bytes_per_s);
    return WF_OK;
}

static wf_status check_cards(const wf_fabric *fabric, const card *cards) {
    for (int32_t r = 0; r < fabric->ranks; r++)
        if (cards[r].force != cards[0].force || cards[r].chunk_bytes != cards[0].chunk_bytes)
            return wf_fail(WF_ERR_MISMATCH,
                           "rank 0 and rank %d open the fabric with different options: forced "
                           "transport %d and %d, chunks of %lld and %lld bytes",
                           r, cards[0].force, cards[r].force, (long long)cards[0].chunk_bytes,
                           (long long)cards[r].chunk_bytes);
    return WF_OK;
}

static void seat(wf_fabric *fabric, const card *cards) {
    int32_t count = 0;
    for (int32_t r = 0; r < fabric->ranks; r++) {
        const bool here = cards[r].node == cards[fabric->rank].node;
        fabric->peers[r].node = cards[r].node;
        fabric->peers[r].process = cards[r].process;
        fabric->peers[r].unified = cards[r].unified;
        fabric->peers[r].direct = cards[r].direct;
        fabric->peers[r].place = here ? count : -1;
        if (here) fabric->node_ranks[count++] = r;
    }
    fabric->node = (wf_members){
        .ranks = fabric->node_ranks, .count = count, .index = fabric->peers[fabric->rank].place, .board = fabric->board, .room = fabric->node.room};
}

static wf_status introduce(wf_fabric *fabric) {
    const card mine = {.node = fabric->boot->node,
                       .force = fabric->force,
                       .process = getpid(),
                       .chunk_bytes = fabric->chunk_bytes,
                       .unified = fabric->device && wf_opencl_device(fabric->device)->host_unified,
                       .direct = fabric->device && wf_opencl_direct(fabric->device)};
    card *const cards = malloc((size_t)fabric->ranks * sizeof *cards);
    wf_status status =
        cards ? WF_OK : wf_fail(WF_ERR_MEMORY, "no memory for a fabric of %d ranks", fabric->ranks);
    TRY_GOTO(wf_fabric_agree(fabric, status), free_cards);
    TRY_GOTO(wf_fabric_all_gather(fabric, &mine, sizeof mine, cards), free_cards);
    TRY_GOTO(check_cards(fabric, cards), free_cards);
    seat(fabric, cards);

free_cards:
    free(cards);
    return status;
}

/* Without shared memory there is still mpi: the reason is kept for describe. */
static wf_status share_outboxes(wf_fabric *fabric) {
    if (fabric->node.count == 1) return WF_OK;
    const wf_status status = wf_share_create(fabric->boot, &fabric->node, fabric->timeout_s,
                                             wf_outbox_bytes(fabric), 1, &fabric->outboxes);
    if (status != WF_OK) fabric->why_no_share = strdup(wf_last_error());
    if (status == WF_OK) return wf_fabric_show_board(fabric);
    return fabric->node.parted ? status : WF_OK;
}

static wf_status create_transports(wf_fabric *fabric) {
    for (int kind = 0; kind < WF_TRANSPORTS; kind++)
        if (wf_transports[kind]) TRY(wf_transports[kind]->create(fabric));
    return WF_OK;
}

static const char *const reasons[WF_PAIR_VERDICTS] = {
    [WF_PAIR_PASSED] = "passed",
    [WF_PAIR_OTHER_NODE] = "different nodes",
    [WF_PAIR_NOT_UNIFIED] = "a device does not share memory with its host",
    [WF_PAIR_NO_SHARE] = "no shared memory on the node",
    [WF_PAIR_FAILED] = "the self-test failed"};

/* The sentence, where this rank knows more than the code. */
static const char *detail(const wf_fabric *fabric, int32_t rank, int32_t peer,
                          wf_transport_kind kind) {
    const wf_verdict_code code = wf_fabric_verdict(fabric, rank, peer, kind);
    const char *why = NULL;
    if (code == WF_PAIR_NO_SHARE && fabric->peers[rank].place >= 0) why = fabric->why_no_share;
    if (code == WF_PAIR_FAILED && rank == fabric->rank) why = fabric->peers[peer].why[kind];
    if (code == WF_PAIR_FAILED && peer == fabric->rank) why = fabric->peers[rank].why[kind];
    return why;
}

/* The enum goes from slow to fast. */
static wf_transport_kind fastest(const wf_fabric *fabric, int32_t rank, int32_t peer, wf_transport_kind kind) {
    while (kind > WF_TRANSPORT_NONE && wf_fabric_verdict(fabric, rank, peer, kind) != WF_PAIR_PASSED) kind--;
    return kind;
}

wf_transport_kind wf_fabric_between(const wf_fabric *fabric, int32_t rank, int32_t peer, bool outside) {
    if (rank < 0 || peer < 0 || rank >= fabric->ranks || peer >= fabric->ranks || rank == peer) return WF_TRANSPORT_NONE;
    const wf_transport_kind chosen = fabric->force ? fabric->force : fastest(fabric, rank, peer, WF_TRANSPORTS - 1);
    return outside && chosen == WF_TRANSPORT_WINDOW ? fastest(fabric, rank, peer, WF_TRANSPORT_WINDOW - 1) : chosen;
}

bool wf_fabric_in_place(const wf_fabric *fabric, int32_t rank, int32_t peer) {
    return wf_fabric_between(fabric, rank, peer, false) == WF_TRANSPORT_WINDOW &&
           wf_fabric_verdict(fabric, rank, peer, WF_VERDICT_IN_PLACE) == WF_PAIR_PASSED;
}

static wf_status refuse_pair(const wf_fabric *fabric, int32_t peer, wf_transport_kind kind) {
    const char *const why = detail(fabric, fabric->rank, peer, kind);
    return wf_fail(WF_ERR_FABRIC, "transport %s %s between rank %d and rank %d: %s%s%s",
                   wf_transports[kind]->name,
                   fabric->force ? "is forced, but does not work"
                                 : "does not work, and no other does,",
                   fabric->rank, peer, reasons[wf_fabric_verdict(fabric, fabric->rank, peer, kind)],
                   why ? ": " : "", why ? why : "");
}

static wf_status choose(wf_fabric *fabric) {
    for (int32_t peer = 0; peer < fabric->ranks; peer++) {
        if (peer == fabric->rank) continue;
        const wf_transport_kind kind = fabric->force ? fabric->force : fastest(fabric, fabric->rank, peer, WF_TRANSPORTS - 1);
        if (kind == WF_TRANSPORT_NONE) return refuse_pair(fabric, peer, WF_TRANSPORT_MPI);
        if (wf_fabric_verdict(fabric, fabric->rank, peer, kind) != WF_PAIR_PASSED)
            return refuse_pair(fabric, peer, kind);
        fabric->peers[peer].chosen = kind;
    }
    return WF_OK;
}

static void print_pair(const wf_fabric *fabric, int32_t rank, int32_t peer, FILE *file) {
    for (int kind = WF_TRANSPORTS - 1; kind > WF_TRANSPORT_NONE; kind--) {
        const char *const why = detail(fabric, rank, peer, kind);
        fprintf(file, "%s %s %s%s%s%s", kind == WF_TRANSPORTS - 1 ? "" : ";", wf_transports[kind]->name,
                reasons[wf_fabric_verdict(fabric, rank, peer, kind)], why ? " (" : "", why ? why : "", why ? ")" : "");
        if (kind != WF_TRANSPORT_WINDOW || rank != fabric->rank) continue;
        if (fabric->peers[peer].why_not_in_place) fprintf(file, ", but not in place (%s)", fabric->peers[peer].why_not_in_place);
        else if (wf_fabric_in_place(fabric, rank, peer)) fprintf(file, ", in place");
    }
}

/* Each pair once, by the lower of the two. */
static void tell_pairs(const wf_fabric *fabric) {
    for (int32_t peer = fabric->rank + 1; peer < fabric->ranks; peer++) {
        char text[700];
        FILE *const file = wf_log_on(fabric->log, WF_LOG_FABRIC) ? fmemopen(text, sizeof text, "w") : NULL;
        if (!file) return;
        print_pair(fabric, fabric->rank, peer, file);
        fclose(file);
        text[sizeof text - 1] = 0;
        wf_say(fabric->log, WF_LOG_FABRIC, "ranks %d and %d use %s%s:%s", fabric->rank, peer,
                wf_transports[fabric->peers[peer].chosen]->name, fabric->force ? ", which is forced" : "", text);
    }
}

static wf_status gather_verdicts(wf_fabric *fabric) {
    const int64_t row = (int64_t)fabric->ranks * WF_TRANSPORTS;
    uint8_t *const mine = malloc((size_t)row);
    wf_status status =
        mine ? WF_OK : wf_fail(WF_ERR_MEMORY, "no memory for %lld verdicts", (long long)row);
    TRY_GOTO(wf_fabric_agree(fabric, status), free_mine);
    memcpy(mine, fabric->verdicts + fabric->rank * row, (size_t)row);
    status = wf_fabric_all_gather(fabric, mine, row, fabric->verdicts);

free_mine:
    free(mine);
    return status;
}

wf_status wf_fabric_create(const wf_bootstrap *boot, wf_opencl *device,
                           const wf_fabric_options *options, wf_fabric **out) {
    wf_fabric *fabric = NULL;
    TRY(allocate(boot, &fabric));
    wf_status status = configure(fabric, device, options);
    TRY_GOTO(wf_fabric_agree(fabric, status), destroy_fabric);
    TRY_GOTO(introduce(fabric), destroy_fabric);
    status = share_outboxes(fabric);
    if (status == WF_OK) status = create_transports(fabric);
    TRY_GOTO(wf_fabric_agree(fabric, status), destroy_fabric);
    fabric->may_move = true;
    TRY_GOTO(wf_fabric_selftest(fabric), destroy_fabric);
    TRY_GOTO(gather_verdicts(fabric), destroy_fabric);
    TRY_GOTO(wf_fabric_agree(fabric, choose(fabric)), destroy_fabric);
    tell_pairs(fabric);
    if (options) fabric->link = options->link;
    *out = fabric;
    return WF_OK;

destroy_fabric:
    wf_fabric_destroy(fabric);
    return status;
}

/* ---- destroy ---- */

static void free_transfers(wf_fabric *fabric) {
    for (wf_transfer *t = fabric->made, *next; t; t = next) {
        next = t->next_made;
        if (!t->lost) free(t);
    }
}

static void free_windows(wf_fabric *fabric) {
    for (wf_window *w = fabric->windows, *next; w; w = next) {
        next = w->next;
        wf_window_free(fabric, w);
    }
}

/* Needs no word with the others: what they still read stays mapped in their processes. The last
 * sentence survives, so that create's error paths may come here. */
void wf_fabric_destroy(wf_fabric *fabric) {
    if (!fabric) return;
    wf_fabric_abandon(fabric);
    for (int kind = 0; kind < WF_TRANSPORTS; kind++)
        if (wf_transports[kind]) wf_transports[kind]->destroy(fabric);
    free_transfers(fabric);
    free_windows(fabric);
    wf_fabric_hide_board(fabric);
    wf_share_destroy(fabric->outboxes);
    for (int32_t r = 0; fabric->peers && r < fabric->ranks; r++) free(fabric->peers[r].why_not_in_place);
    for (int32_t r = 0; fabric->peers && r < fabric->ranks; r++)
        for (int kind = 0; kind < WF_TRANSPORTS; kind++) free(fabric->peers[r].why[kind]);
    wf_members_release(&fabric->everyone);
    wf_members_release(&fabric->node);
    free(fabric->peers);
    free(fabric->node_ranks);
    free(fabric->verdicts);
    free(fabric->ends);
    free(fabric->why_no_share);
    free(fabric->why_parted);
    free(fabric->why_failed);
    free(fabric);
}

/* ---- describe ---- */

static void describe_pair(const wf_fabric *fabric, int32_t rank, int32_t peer, FILE *file) {
    fprintf(file, "ranks %d and %d:", rank, peer);
    print_pair(fabric, rank, peer, file);
    fprintf(file, "\n");
}

wf_status wf_fabric_describe(wf_fabric *fabric, char **text_out) {
    char *text = NULL;
    size_t size = 0;
    FILE *const file = open_memstream(&text, &size);
    if (!file)
        return wf_fail(WF_ERR_MEMORY, "no memory to describe a fabric of %d ranks", fabric->ranks);
    fprintf(file, "%d rank%s by %s, chunks of %lld bytes; rank %d uses:", fabric->ranks,
            fabric->ranks == 1 ? "" : "s", fabric->boot->name, (long long)fabric->chunk_bytes,
            fabric->rank);
    for (int32_t peer = 0; peer < fabric->ranks; peer++)
        if (peer != fabric->rank)
            fprintf(file, " %s with %d", wf_transports[fabric->peers[peer].chosen]->name, peer);
    fprintf(file, "\n");
    for (int32_t rank = 0; rank < fabric->ranks; rank++)
        for (int32_t peer = rank + 1; peer < fabric->ranks; peer++)
            describe_pair(fabric, rank, peer, file);
    if (fclose(file)) {
        free(text);
        return wf_fail(WF_ERR_MEMORY, "no memory to describe a fabric of %d ranks", fabric->ranks);
    }
    *text_out = text;
    return WF_OK;
}
