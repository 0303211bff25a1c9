/* Messages that go straight between two processes' memory, copied by both: who copies what, in any order of visits; a sender that
 * is busy, late or lost. Run by check_fabric.sh on 1 to 4 ranks, with a seed; rank 0 sends to rank 1. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* process_vm_readv */
#endif
#include <sys/uio.h>
#include <unistd.h>

#include "host/device/opencl.h"
#include "host/fabric/mail.h"
#include "tests/host/fabric_support.h"

enum { GUARD_BYTES = 64, LONG_BYTES = 9000007, FIRST_PIECE = 4 << 20, UNWRITTEN = 4096 };

/* ---- support --------------------------------------------------------------------------------- */

typedef struct place {
    int64_t process, address, word;
} place;

/* Collective. May ranks 0 and 1 read each other's memory, as far as Linux and their devices are concerned? */
static bool processes_reach(void) {
    static int64_t word;
    word = getpid() * INT64_C(1000003) + world_rank;
    place mine = {getpid(), (int64_t)(intptr_t)&word, word}, all[8];
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, MPI_COMM_WORLD);
    const place *const theirs = &all[world_rank == 0];
    int64_t seen = 0;
    const struct iovec here = {&seen, sizeof seen}, there = {(void *)(intptr_t)theirs->address, sizeof seen};
    int reaches = world_rank > 1 || (wf_opencl_direct(device) && process_vm_readv((pid_t)theirs->process, &here, 1, &there, 1, 0) == (ssize_t)sizeof seen && seen == theirs->word);
    MPI_Allreduce(MPI_IN_PLACE, &reaches, 1, MPI_INT, MPI_LAND, MPI_COMM_WORLD);
    if (!reaches && world_rank == 0) printf("not tested: these processes do not reach each other's memory\n");
    return reaches;
}

static uint8_t content(int message, int64_t i) {
    return (uint8_t)(i * 31 + i / 253 + message * 17 + 5);
}

/* n messages of `bytes`, each behind a guard, painted on rank 0 and blank on the others. */
static wf_memory *make_memory(int n, int64_t bytes) {
    const int64_t each = bytes + GUARD_BYTES, whole = n * each;
    wf_memory *memory = NULL;
    uint8_t *const image = malloc((size_t)whole);
    memset(image, 0xEE, (size_t)whole);
    for (int m = 0; m < n && world_rank == 0; m++)
        for (int64_t i = 0; i < bytes; i++) image[m * each + GUARD_BYTES + i] = content(m, i);
    good(wf_memory_create(device, whole, &memory));
    good(put(memory, image, whole));
    free(image);
    return memory;
}

/* Collective: rank 1 has what rank 0 has. */
static void check_memory(wf_memory *memory, int n, int64_t bytes) {
    const int64_t each = bytes + GUARD_BYTES, whole = n * each;
    uint8_t *const image = malloc((size_t)whole);
    int64_t wrong = 0;
    good(get(memory, image, whole));
    for (int64_t at = 0; at < whole && world_rank < 2; at++)
        wrong += image[at] != (at % each < GUARD_BYTES ? 0xEE : content((int)(at / each), at % each - GUARD_BYTES));
    free(image);
    verdict(wrong == 0);
}

/* One message from rank 0 to rank 1, not begun. */
typedef struct scene {
    wf_fabric *fabric;
    wf_memory *memory;
    int number; /* of its channel's messages */
    wf_transfer *transfer;
} scene;

static wf_status start(wf_fabric *fabric, wf_memory *memory, int number, int64_t bytes, wf_transfer **out) {
    const wf_message m = {.memory = memory, .offset_bytes = number * (bytes + GUARD_BYTES) + GUARD_BYTES, .bytes = bytes, .peer = 1 - world_rank};
    const bool sends = world_rank == 0;
    return wf_fabric_start(fabric, WF_LANE_CP, WF_TRANSPORT_STAGED, sends ? &m : NULL, WF_TRANSPORT_STAGED, sends ? NULL : &m, out);
}

/* Of those between ranks 0 and 1. */
static wf_mail *the_mail(const wf_fabric *fabric) {
    return &wf_outbox_wire(fabric, 0, 1)->staged[WF_LANE_CP];
}

/* Collective: the number of the next. */
static int next_message(const wf_fabric *fabric) {
    const int n = world_rank < 2 ? (int)atomic_load(&the_mail(fabric)->announced) : 0;
    MPI_Barrier(MPI_COMM_WORLD);
    return n;
}

static int64_t written_by_sender(const wf_fabric *fabric, int n) {
    return atomic_load(&the_mail(fabric)->pushed[n % WF_POSTS]);
}

/* Every message has passed its turn on, and is over. */
static bool is_at_rest(wf_fabric *fabric) {
    if (world_rank > 1) return true;
    const wf_end *const end = wf_fabric_end(fabric, 1 - world_rank, WF_LANE_CP, WF_TRANSPORT_STAGED, world_rank == 0);
    return end->issuing == end->started && end->closing == end->started;
}

static wf_status visit(wf_fabric *fabric, wf_transfer **transfer, int times) {
    bool done = !*transfer;
    for (int i = 0; i < times && !done; i++) TRY(wf_fabric_test(fabric, transfer, &done));
    return WF_OK;
}

/* Collective. busy: both devices compute. */
static scene open_scene(bool busy) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_STAGED);
    wf_fabric_computes(fabric, busy);
    return (scene){.fabric = fabric, .memory = make_memory(1, LONG_BYTES), .number = next_message(fabric)};
}

static void close_scene(scene *s) {
    wf_memory_destroy(s->memory);
    wf_fabric_destroy(s->fabric);
}

/* Collective: one rank begins, and looks so often. */
static void begin_on(scene *s, int rank, int visits) {
    wf_status status = WF_OK;
    if (world_rank == rank) status = start(s->fabric, s->memory, 0, LONG_BYTES, &s->transfer);
    if (world_rank == rank && status == WF_OK) status = visit(s->fabric, &s->transfer, visits);
    good(status);
}

/* ---- who copies -------------------------------------------------------------------------------- */

/* The receiver has seen the message and is away; the sender writes the rest, or nothing if its device computes. */
START_TEST(a_sender_writes_what_nobody_reads) {
    const bool computes = _i % 2;
    if (world_ranks < 2 || !processes_reach()) return;
    scene s = open_scene(computes);
    wf_status status = WF_OK;
    begin_on(&s, 0, 1);
    begin_on(&s, 1, 1);
    if (world_rank == 0) status = visit(s.fabric, &s.transfer, 50);
    good(status);
    verdict(world_rank > 1 || written_by_sender(s.fabric, s.number) == (computes ? 0 : LONG_BYTES - FIRST_PIECE));
    if (world_rank < 2) status = finish(s.fabric, &s.transfer);
    good(status);
    verdict(world_rank > 1 || atomic_load(&the_mail(s.fabric)->taken[s.number % WF_POSTS]) >= LONG_BYTES);
    verdict(is_at_rest(s.fabric));
    check_memory(s.memory, 1, LONG_BYTES);
    close_scene(&s);
}
END_TEST

/* More messages than a mail has entries; both sides come and go as they like, now and then busy. */
START_TEST(any_order_of_visits_is_right) {
    enum { BYTES = 700001 };
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_STAGED);
    wf_memory *const memory = make_memory(BURST, BYTES);
    wf_transfer *transfer[BURST] = {0};
    uint32_t state = seed + 7919 * (uint32_t)(_i * world_ranks + world_rank);
    wf_status status = WF_OK;
    for (int i = 0; i < BURST && world_rank < 2 && status == WF_OK; i++) status = start(fabric, memory, i, BYTES, &transfer[i]);
    for (int left = world_rank < 2 ? BURST : 0; left > 0 && status == WF_OK;) {
        left = 0;
        wf_fabric_computes(fabric, next_random(&state) % 4 == 0);
        for (int i = 0; i < BURST && status == WF_OK; i++) {
            bool done = !transfer[i];
            if (!done) status = wf_fabric_test(fabric, &transfer[i], &done);
            left += !done;
        }
        if (next_random(&state) % 3 == 0) usleep(next_random(&state) % 400);
    }
    good(status);
    verdict(is_at_rest(fabric));
    check_memory(memory, BURST, BYTES);
    wf_memory_destroy(memory);
    wf_fabric_destroy(fabric);
}
END_TEST

/* ---- a side that is lost --------------------------------------------------------------------- */

/* Rank 0 begins, takes a piece on, and does not write it. */
static scene open_unwritten(void) {
    scene s = open_scene(true);
    begin_on(&s, 0, 1);
    if (world_rank == 0) atomic_fetch_add(&the_mail(s.fabric)->taken[s.number % WF_POSTS], UNWRITTEN);
    good(WF_OK);
    return s;
}

/* Rank 1 says so in time, and keeps the memory, whose owner has destroyed it, as the piece may still come. */
START_TEST(memory_that_may_still_be_written_stays) {
    if (world_ranks < 2 || !processes_reach()) return;
    scene s = open_unwritten();
    wf_status status = WF_OK;
    s.fabric->timeout_s = SHORT_S;
    begin_on(&s, 1, 0);
    if (world_rank == 1) status = finish(s.fabric, &s.transfer);
    const bool told = status == WF_ERR_TIMEOUT && says("receive from rank 0") && says("stopped in the middle") && says("by staged");
    s.fabric->timeout_s = PATIENCE_S;
    verdict(world_rank != 1 || told);
    const uint8_t *const bytes = wf_memory_direct(s.memory);
    wf_memory_hold(s.memory); /* to look at it */
    wf_memory_destroy(s.memory);
    wf_fabric_abandon(s.fabric);
    verdict(world_rank != 1 || (s.memory->abandoned && bytes[0] == 0xEE));
    close_scene(&s);
}
END_TEST

/* A piece that comes while rank 1 gives up is waited for: the memory goes as ever. */
START_TEST(a_piece_that_still_comes_is_waited_for) {
    enum { SOON_US = 5000 };
    if (world_ranks < 2 || !processes_reach()) return;
    scene s = open_unwritten();
    begin_on(&s, 1, 20);
    if (world_rank == 0) usleep(SOON_US), atomic_fetch_add(&the_mail(s.fabric)->pushed[s.number % WF_POSTS], UNWRITTEN);
    wf_fabric_abandon(s.fabric);
    verdict(world_rank != 1 || (!s.memory->abandoned && written_by_sender(s.fabric, s.number) == UNWRITTEN));
    close_scene(&s);
}
END_TEST

/* Rank 1 gives up before it has seen the message, and its memory is its own again: rank 0, who comes later, leaves it alone. */
START_TEST(nobody_writes_where_nobody_receives) {
    if (world_ranks < 2 || !processes_reach()) return;
    scene s = open_scene(false);
    begin_on(&s, 1, 1);
    if (world_rank == 1) wf_fabric_abandon(s.fabric);
    begin_on(&s, 0, 50);
    uint8_t *const image = malloc(LONG_BYTES + GUARD_BYTES);
    int64_t wrong = 0;
    good(get(s.memory, image, LONG_BYTES + GUARD_BYTES));
    for (int64_t i = 0; i < LONG_BYTES + GUARD_BYTES && world_rank == 1; i++) wrong += image[i] != 0xEE;
    free(image);
    wf_fabric_abandon(s.fabric);
    verdict(wrong == 0 && s.memory->holds == 0 && !s.memory->abandoned);
    close_scene(&s);
}
END_TEST

/* Rank 0 gives up in the middle: what rank 1 has read is no message, and rank 0's memory is its own. */
START_TEST(a_sender_that_gives_up_completes_nothing) {
    if (world_ranks < 2 || !processes_reach()) return;
    scene s = open_scene(false);
    wf_status status = WF_OK;
    begin_on(&s, 0, 1);
    begin_on(&s, 1, 1);
    if (world_rank == 0) wf_fabric_abandon(s.fabric);
    good(WF_OK);
    s.fabric->timeout_s = SHORT_S;
    if (world_rank == 1) status = finish(s.fabric, &s.transfer);
    s.fabric->timeout_s = PATIENCE_S;
    verdict(world_rank != 1 || (status == WF_ERR_TIMEOUT && says("stopped in the middle")));
    verdict(world_rank != 0 || (s.memory->holds == 0 && !s.memory->abandoned));
    wf_fabric_abandon(s.fabric);
    close_scene(&s);
}
END_TEST

static TCase *tests(void) {
    TCase *const all = fabric_case("attach");
    tcase_add_loop_test(all, a_sender_writes_what_nobody_reads, 0, 2);
    tcase_add_loop_test(all, any_order_of_visits_is_right, 0, 4);
    tcase_add_test(all, memory_that_may_still_be_written_stays);
    tcase_add_test(all, nobody_writes_where_nobody_receives);
    tcase_add_test(all, a_sender_that_gives_up_completes_nothing);
    tcase_add_test(all, a_piece_that_still_comes_is_waited_for);
    return all;
}

int main(int argc, char **argv) {
    return fabric_main(argc, argv, tests);
}
