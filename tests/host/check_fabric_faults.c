/* Fabric over MPI ranks, faults: what does not fit, does not come or fails is named in time; windows, and that nothing of
 * them stays. Run by check_fabric.sh on 1 to 4 ranks, with a seed. */
#include <dirent.h>
#include <unistd.h>

#include "host/fabric/mail.h"
#include "host/fabric/mpi_calls.h"
#include "tests/host/fabric_support.h"

/* ---- faults ---- */

/* The third message of 0 -> 1 is longer than what is expected. */
START_TEST(another_length_is_a_mismatch) {
    const wf_transport_kind kind = (wf_transport_kind)_i;
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(kind);
    wf_memory *const out = outgoing(fabric, kind, 200000), *const in = outgoing(
                                                               fabric, WF_TRANSPORT_MPI, 200000);
    const wf_message message = {
        .memory = world_rank == 0 ? out : in, .bytes = 150000, .peer = 1 - world_rank};
    wf_transfer *transfer = NULL;
    wf_status status = WF_OK;
    for (int i = 0; i < 3 && world_rank < 2 && status == WF_OK; i++) {
        wf_message m = message;
        if (i == 2 && world_rank == 0) m.bytes = 150001;
        status = wf_fabric_start(fabric, WF_LANE_CP, kind, world_rank == 0 ? &m : NULL, kind,
                                 world_rank == 1 ? &m : NULL, &transfer);
        if (status == WF_OK) status = finish(fabric, &transfer);
        if (i < 2 && status != WF_OK) status = WF_ERR_INTERNAL;
    }
    const bool told = says("150001") && says("150000") && says("rank 0") && says("rank 1") &&
                      says("lane cp") && says("message 2");
    verdict(world_rank > 1 || (status == WF_ERR_MISMATCH && told));
    const wf_status again =
        wf_fabric_start(fabric, WF_LANE_TP, kind, world_rank == 0 ? &message : NULL, kind,
                        world_rank == 1 ? &message : NULL, &transfer);
    verdict(world_rank > 1 || (again == WF_ERR_MISMATCH && says("takes no more work")));
    give_back(fabric, kind, out);
    wf_fabric_destroy(fabric);
    wf_memory_destroy(in);
}
END_TEST

/* Rank 0 receives from 1 (way 0) or sends to 1 (way 1), which does nothing. */
START_TEST(a_missing_peer_is_a_timeout) {
    const wf_transport_kind kind = (wf_transport_kind)(_i / 2);
    const bool sends = _i % 2;
    if (world_ranks < 2 || kind == WF_TRANSPORT_NONE) return;
    wf_fabric *const fabric = open_fabric(kind);
    wf_memory *const memory = outgoing(fabric, kind, 5000);
    fabric->timeout_s = SHORT_S;
    const wf_message message = {.memory = memory, .bytes = 5000, .peer = 1};
    wf_transfer *transfer = NULL;
    wf_status status = WF_OK;
    MPI_Barrier(MPI_COMM_WORLD);
    const double start_s = wf_clock_s();
    if (world_rank == 0) {
        status = wf_fabric_start(fabric, WF_LANE_TP, kind, sends ? &message : NULL, kind,
                                 sends ? NULL : &message, &transfer);
        if (status == WF_OK) status = finish(fabric, &transfer);
    }
    const double took_s = wf_clock_s() - start_s;
    fabric->timeout_s = PATIENCE_S;
    verdict(world_rank != 0 || status == WF_ERR_TIMEOUT);
    verdict(world_rank != 0 || (took_s >= SHORT_S && took_s < SHORT_S + PATIENCE_S));
    verdict(world_rank != 0 ||
            (says(sends ? "to send to rank 1" : "to receive from rank 1") && says("5000 bytes") &&
             says("has not started") && says("lane tp") && says("message 0")));
    give_back(fabric, kind, memory);
    wf_fabric_destroy(fabric);
}
END_TEST

START_TEST(device_memory_does_not_go_by_window) {
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_WINDOW);
    wf_memory *memory = NULL;
    wf_transfer *transfer = NULL;
    good(wf_memory_create(device, 100, &memory));
    const wf_message message = {
        .memory = memory, .bytes = 100, .peer = (world_rank + 1) % world_ranks};
    verdict(wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_WINDOW, &message, WF_TRANSPORT_NONE,
                            NULL, &transfer) == WF_ERR_FABRIC &&
            says("window memory"));
    wf_fabric_destroy(fabric);
    wf_memory_destroy(memory);
}
END_TEST

/* The n-th send of the last rank fails: it says so, nobody hangs, the fabric closes. */
START_TEST(a_failing_mpi_call_is_reported) {
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_impatient(WF_TRANSPORT_MPI);
    wf_memory *memory = NULL;
    wf_transfer *transfer = NULL;
    good(wf_memory_create(device, 400000, &memory));
    wf_mpi_calls *const calls = wf_bootstrap_mpi_calls(&boot);
    const bool culprit = world_rank == world_ranks - 1;
    static const wf_mpi_call failing[] = {WF_MPI_ISEND, WF_MPI_IRECV, WF_MPI_TEST};
    if (culprit) {
        calls->fail = failing[_i % 3];
        calls->fail_at = calls->used[calls->fail] + 1 + _i / 3;
    }
    const wf_message send = {
        .memory = memory, .bytes = 200000, .peer = (world_rank + 1) % world_ranks};
    const wf_message receive = {.memory = memory,
                                .offset_bytes = 200000,
                                .bytes = 200000,
                                .peer = (world_rank + world_ranks - 1) % world_ranks};
    wf_status status = wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_MPI, &send,
                                       WF_TRANSPORT_MPI, &receive, &transfer);
    if (status == WF_OK) status = finish(fabric, &transfer);
    fabric->timeout_s = PATIENCE_S;
    verdict(!culprit || (status == WF_ERR_FABRIC && says("MPI_")));
    verdict(wf_fabric_agree(fabric, status) == WF_ERR_FABRIC && says("MPI_"));
    wf_fabric_destroy(fabric);
    wf_memory_destroy(memory);
}
END_TEST

/* ---- windows and leaks ---- */

/* The end of a window has nobody to tell that it failed: the next agreement tells all. */
START_TEST(a_window_that_could_not_be_ended_is_reported) {
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_impatient(WF_TRANSPORT_WINDOW);
    wf_memory *window = NULL;
    good(wf_fabric_window_create(fabric, 1000, &window));
    wf_mpi_calls *const calls = wf_bootstrap_mpi_calls(&boot);
    const bool culprit = world_rank == world_ranks - 1;
    if (culprit) calls->fail = WF_MPI_TEST, calls->fail_at = calls->used[WF_MPI_TEST] + 1;
    wf_fabric_window_destroy(fabric, window);
    fabric->timeout_s = PATIENCE_S;
    verdict(wf_fabric_agree(fabric, WF_OK) != WF_OK && says("could not end a window"));
    wf_fabric_destroy(fabric);
}
END_TEST

START_TEST(windows_may_differ_in_size) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    wf_memory *first = NULL, *second = NULL, *none = NULL;
    const int64_t bytes = world_rank == 0 ? 0 : 5000 * world_rank + 1;
    good(wf_fabric_window_create(fabric, bytes, &first));
    good(wf_fabric_window_create(fabric, 4096, &second));
    good(wf_fabric_window_create(fabric, 0, &none));
    verdict((first == NULL) == (bytes == 0) && second && !none);
    verdict(!first || (wf_memory_bytes(first) == bytes && wf_memory_host(first)));
    wf_fabric_window_destroy(fabric, first);
    wf_fabric_window_destroy(fabric, none);
    wf_fabric_window_destroy(fabric, second);
    verdict(wf_fabric_window_create(fabric, world_rank == 0 ? -1 : 10, &first) == WF_ERR_ARGUMENT &&
            says("-1"));
    wf_fabric_destroy(fabric);
}
END_TEST

/* Names in a folder; with `prefix` only those that begin so. */
static int entries(const char *path, const char *prefix) {
    DIR *const folder = opendir(path);
    int count = 0;
    for (struct dirent *entry; folder && (entry = readdir(folder));)
        count += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    if (folder) closedir(folder);
    return count;
}

static int weft_mappings(void) {
    FILE *const file = fopen("/proc/self/maps", "r");
    char line[1024];
    int count = 0;
    while (file && fgets(line, sizeof line, file)) count += strstr(line, "memfd:weft") != NULL;
    if (file) fclose(file);
    return count;
}

/* A rank ends its bootstrap while a message to it is still to be sent, which nobody will receive: by one that has given up
 * on another (way 1), or not. The next bootstrap of these ranks may get the same MPI context, and must not meet it. */
START_TEST(a_late_message_meets_no_later_job) {
    enum { LATE_MS = 300, ROUNDS = 20, TAG = 99 };
    const MPI_Comm world = MPI_COMM_WORLD;
    const int last = world_ranks - 1;
    static int32_t words[64];
    int32_t *const all = calloc((size_t)world_ranks, sizeof *all);
    verdict(all);
    for (int job = 0; job < 3; job++) {
        wf_bootstrap own;
        good(wf_bootstrap_mpi_within(&world, PATIENCE_S, WF_OK, &own));
        /* more messages than the last: what came late has the number of one of them */
        for (int32_t round = 0; round < ROUNDS * (job + 1); round++) {
            const wf_status status = own.all_gather(own.self, &round, sizeof round, all);
            verdict(status == WF_OK && all[0] == round && all[last] == round);
        }
        void *request = NULL;
        bool alone = true; /* no verdict before the bootstrap is gone: it would wait for the late rank */
        if (world_rank == last && last > 0) {
            usleep(LATE_MS * 1000);
            if (_i) alone = own.receive(own.self, 0, TAG, words, sizeof words, &request) == WF_OK && own.cancel(own.self, &request);
            alone = alone && own.send(own.self, 0, TAG, words, sizeof words, &request) == WF_OK;
            (void)own.cancel(own.self, &request); /* words outlive it: nobody receives it */
        }
        const double start_s = wf_clock_s();
        own.destroy(own.self);
        verdict(alone && wf_clock_s() - start_s < PATIENCE_S);
    }
    free(all);
}
END_TEST

START_TEST(nothing_is_left_behind) {
    enum { CYCLES = 12 };
    int descriptors = 0;
    const int others = entries("/dev/shm", "weft"); /* of other programs on this machine */
    const int64_t bytes = wf_opencl_allocated_bytes(device);
    for (int cycle = 0; cycle < CYCLES; cycle++) {
        wf_bootstrap own;
        wf_fabric *fabric = NULL;
        wf_memory *window = NULL;
        const MPI_Comm world = MPI_COMM_WORLD;
        good(wf_bootstrap_mpi(&world, &own));
        good(wf_fabric_create(&own, device,
                              &(wf_fabric_options){.timeout_s = PATIENCE_S, .chunk_bytes = CHUNK},
                              &fabric));
        good(wf_fabric_window_create(fabric, 12345, &window));
        verdict(weft_mappings() >= world_ranks);
        if (cycle % 2) wf_fabric_window_destroy(fabric, window);
        wf_fabric_destroy(fabric);
        own.destroy(own.self);
        if (cycle == 2)
            descriptors = entries("/proc/self/fd", ""); /* MPI has opened what it keeps */
    }
    verdict(weft_mappings() == 0);
    verdict(entries("/proc/self/fd", "") == descriptors);
    verdict(entries("/dev/shm", "weft") <= others);
    verdict(wf_opencl_allocated_bytes(device) == bytes);
}
END_TEST
static TCase *tests(void) {
    TCase *const all = fabric_case("faults");
    tcase_add_loop_test(all, another_length_is_a_mismatch, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, a_missing_peer_is_a_timeout, 2 * WF_TRANSPORT_MPI, 2 * WF_TRANSPORTS);
    tcase_add_test(all, device_memory_does_not_go_by_window);
    tcase_add_loop_test(all, a_failing_mpi_call_is_reported, 0, 9);
    tcase_add_test(all, a_window_that_could_not_be_ended_is_reported);
    tcase_add_test(all, windows_may_differ_in_size);
    tcase_add_loop_test(all, a_late_message_meets_no_later_job, 0, 2);
    tcase_add_test(all, nothing_is_left_behind);
    return all;
}

int main(int argc, char **argv) {
    return fabric_main(argc, argv, tests);
}
