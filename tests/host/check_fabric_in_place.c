/* Fabric over MPI ranks: messages that are read where they lie. Run by check_fabric.sh on 1 to 4 ranks, with a seed. */
#include <unistd.h>

#include "host/device/opencl.h"
#include "host/fabric/mail.h"
#include "tests/host/fabric_support.h"

enum { WORDS = 30001, ROUNDS = 20 };

static wf_status exchange(wf_fabric *fabric, wf_lane lane, const wf_message *send, const wf_message *receive) {
    wf_transfer *transfer = NULL;
    TRY(wf_fabric_start(fabric, lane, WF_TRANSPORT_WINDOW, send, WF_TRANSPORT_WINDOW, receive, &transfer));
    return finish(fabric, &transfer);
}

static uint32_t number(int rank, int round, int64_t i) {
    return (uint32_t)i * 2654435761u + (uint32_t)(rank * 977 + round * 31);
}

static wf_status write_all(wf_memory *memory, uint32_t *host, int round) {
    for (int64_t i = 0; i < WORDS; i++) host[i] = number(world_rank, round, i);
    return wf_memory_put(device, memory, 0, host, WORDS * 4);
}

/* By a command of the compute queue, as a kernel would. */
static wf_status read_found(const wf_found *found, int64_t bytes, wf_memory *into, uint32_t *host) {
    TRY(wf_queue_copy(device, WF_QUEUE_COMPUTE, found->memory, found->offset_bytes, into, 0, bytes, NULL));
    return wf_memory_get(device, into, 0, host, bytes);
}

/* One round of a ring: part of a window is sent, read where it lies after a while, and overwritten as soon as the word has come. */
static wf_status turn(wf_fabric *fabric, wf_memory *window, wf_memory *into, uint32_t *host, int round) {
    const int to = (world_rank + 1) % world_ranks, from = (world_rank + world_ranks - 1) % world_ranks;
    const int64_t first = 4 * (round * 7), bytes = WORDS * 4 - first - 4 * round;
    wf_found found = {0};
    const wf_message send = {.memory = window, .offset_bytes = first, .bytes = bytes, .peer = to},
                     receive = {.bytes = bytes, .peer = from, .found = &found};
    const wf_message read = {.bytes = bytes, .peer = from, .word = true}, heard = {.bytes = bytes, .peer = to, .word = true};
    TRY(write_all(window, host, round));
    TRY(exchange(fabric, WF_LANE_TP, &send, &receive));
    usleep((useconds_t)(next_random(&seed) % 3000));
    memset(host, 0, (size_t)bytes);
    TRY(read_found(&found, bytes, into, host));
    for (int64_t i = 0; i < bytes / 4; i++)
        if (host[i] != number(from, round, i + first / 4)) return wf_fail(WF_ERR_INTERNAL, "round %d, word %lld", round, (long long)i);
    return exchange(fabric, WF_LANE_RETURN, &read, &heard);
}

START_TEST(what_is_read_in_place_stays_until_the_word) {
    if (world_ranks == 1) return;
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_WINDOW);
    wf_memory *const window = outgoing(fabric, WF_TRANSPORT_WINDOW, WORDS * 4), *const into = outgoing(fabric, WF_TRANSPORT_MPI, WORDS * 4);
    uint32_t *const host = malloc(WORDS * 4);
    int64_t bytes[WF_TRANSPORTS], messages[WF_TRANSPORTS];
    for (int r = 0; r < world_ranks; r++) verdict(wf_fabric_in_place(fabric, r, world_rank) == (r != world_rank));
    wf_status status = WF_OK;
    for (int round = 0; round < ROUNDS && status == WF_OK; round++) status = turn(fabric, window, into, host, round);
    good(status);
    wf_fabric_counters(fabric, bytes, messages);
    verdict(messages[WF_TRANSPORT_WINDOW] == ROUNDS); /* words are none */
    verdict(bytes[WF_TRANSPORT_WINDOW] == ROUNDS * WORDS * 4LL - 4 * 8 * ROUNDS * (ROUNDS - 1) / 2);
    free(host);
    wf_memory_destroy(into);
    wf_fabric_window_destroy(fabric, window);
    wf_fabric_destroy(fabric);
}
END_TEST

/* Neither over another transport, nor where one of the two may keep buffers elsewhere. */
START_TEST(only_the_windows_of_direct_devices_are_read) {
    const bool direct = device->direct;
    if (world_ranks == 1) return;
    for (int kind = WF_TRANSPORT_MPI; kind < WF_TRANSPORTS; kind++) {
        device->direct = direct && !(kind == WF_TRANSPORT_WINDOW && world_rank == 1);
        wf_fabric *const fabric = open_fabric((wf_transport_kind)kind);
        const int peer = world_rank < 2 ? 1 - world_rank : 1;
        wf_found found = {0};
        wf_transfer *transfer = NULL;
        const wf_message in_place = {.bytes = 64, .peer = peer, .found = &found}, word = {.bytes = 64, .peer = peer, .word = true};
        verdict(!wf_fabric_in_place(fabric, world_rank, peer));
        verdict(wf_fabric_start(fabric, WF_LANE_TP, kind, NULL, kind, &in_place, &transfer) == WF_ERR_ARGUMENT && says("stay where they are"));
        verdict(wf_fabric_start(fabric, WF_LANE_TP, kind, &word, kind, NULL, &transfer) == WF_ERR_ARGUMENT && says("stay where they are"));
        wf_fabric_destroy(fabric);
    }
    device->direct = direct;
}
END_TEST

/* A word for other bytes than were sent is a mistake of the schedule; what is sent lies in this rank's memory. */
START_TEST(a_word_of_another_length_is_a_mismatch) {
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_WINDOW);
    wf_found found = {0};
    wf_transfer *transfer = NULL;
    const wf_message sent = {.bytes = 64, .peer = (world_rank + 1) % world_ranks, .found = &found};
    verdict(wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_WINDOW, &sent, WF_TRANSPORT_WINDOW, NULL, &transfer) == WF_ERR_ARGUMENT);
    const wf_message send = {.bytes = 640, .peer = 1 - world_rank, .word = true}, receive = {.bytes = 644, .peer = 1 - world_rank, .word = true};
    const wf_status status = world_rank < 2 ? exchange(fabric, WF_LANE_RETURN, &send, &receive) : WF_ERR_MISMATCH;
    verdict(status == WF_ERR_MISMATCH && (world_rank > 1 || (says("640") && says("644") && says("lane return"))));
    wf_fabric_destroy(fabric);
}
END_TEST

static TCase *tests(void) {
    TCase *const all = fabric_case("in place");
    tcase_add_test(all, what_is_read_in_place_stays_until_the_word);
    tcase_add_test(all, only_the_windows_of_direct_devices_are_read);
    tcase_add_test(all, a_word_of_another_length_is_a_mismatch);
    return all;
}

int main(int argc, char **argv) {
    return fabric_main(argc, argv, tests);
}
