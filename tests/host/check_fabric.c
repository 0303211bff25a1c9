/* Fabric over MPI ranks, how it begins: bootstraps, collectives, which transport opens; a rank alone. Run by check_fabric.sh on
 * 1 to 4 ranks, with a seed. */
#include <unistd.h>

#include "host/fabric/mail.h"
#include "tests/host/fabric_support.h"

/* ---- bootstrap and collectives ---- */

START_TEST(bootstrap_knows_the_ranks) {
    int32_t all[64];
    verdict(boot.rank == world_rank && boot.ranks == world_ranks);
    verdict(boot.node == 0 && boot.node_ranks == world_ranks && boot.node_rank == world_rank);
    good(boot.all_gather(boot.self, &boot.rank, sizeof boot.rank, all));
    bool right = true;
    for (int r = 0; r < world_ranks; r++) right = right && all[r] == r;
    verdict(right);
}
END_TEST

/* The deadline of a bootstrap over MPI, by option and by variable: the option wins. */
START_TEST(bootstrap_has_a_deadline_of_its_own) {
    const MPI_Comm world = MPI_COMM_WORLD;
    wf_bootstrap own;
    verdict(wf_bootstrap_mpi_within(&world, -1, WF_OK, &own) == WF_ERR_ARGUMENT && says("-1 s"));
    setenv("WEFT_TIMEOUT_S", "soon", 1);
    verdict(wf_bootstrap_mpi(&world, &own) == WF_ERR_ARGUMENT && says("soon"));
    const wf_status status = wf_bootstrap_mpi_within(&world, 30, WF_OK, &own);
    unsetenv("WEFT_TIMEOUT_S");
    verdict(status == WF_OK && own.ranks == world_ranks);
    own.destroy(own.self);
}
END_TEST

START_TEST(bootstrap_checks_lengths) {
    char data[8] = {0};
    void *request = NULL;
    wf_status status = WF_OK;
    if (world_ranks < 2) return;
    if (world_rank == 0) status = boot.send(boot.self, 1, 99, data, 5, &request);
    if (world_rank == 1) status = boot.receive(boot.self, 0, 99, data, 8, &request);
    verdict(status == WF_OK);
    if (request) status = wf_request_wait(&boot, NULL, &request, 10, 1 - world_rank, 1 - world_rank, "a test");
    verdict(world_rank != 1 ||
            (status == WF_ERR_MISMATCH && says("5 bytes") && says("8 were expected")));
}
END_TEST

START_TEST(agree_quotes_the_failing_rank) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    char name[64];
    good(wf_fabric_agree(fabric, WF_OK));
    for (int culprit = 0; culprit < world_ranks; culprit++) {
        wf_status mine = WF_OK;
        if (world_rank == culprit) mine = wf_fail(WF_ERR_MEMORY, "no room for %d cats", culprit);
        const wf_status status = wf_fabric_agree(fabric, mine);
        verdict(status == WF_ERR_MEMORY && says("cats"));
        snprintf(name, sizeof name, "rank %d: no room for %d", culprit, culprit);
        verdict(world_rank == culprit || says(name));
    }
    good(wf_fabric_barrier(fabric));
    wf_fabric_destroy(fabric);
}
END_TEST

START_TEST(a_cause_outranks_the_timeouts_it_caused) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    const wf_status mine = world_rank == 0 ? wf_fail(WF_ERR_DEVICE, "smoke")
                                           : wf_fail(WF_ERR_TIMEOUT, "still waiting");
    verdict(wf_fabric_agree(fabric, mine) == WF_ERR_DEVICE && says("smoke"));
    wf_fabric_destroy(fabric);
}
END_TEST

START_TEST(a_rank_that_does_not_come_is_named) {
    if (world_ranks < 2) return;
    const int absent = world_ranks - 1;
    wf_fabric *const fabric = open_impatient(WF_TRANSPORT_NONE);
    char name[64];
    snprintf(name, sizeof name, "rank %d", absent);
    const double start_s = wf_clock_s();
    wf_status status = WF_OK;
    if (world_rank != absent) status = wf_fabric_barrier(fabric);
    const double took_s = wf_clock_s() - start_s;
    const bool named = status == WF_ERR_TIMEOUT && says(name) && took_s < SHORT_S + PATIENCE_S;
    const bool refused =
        world_rank == absent || (wf_fabric_barrier(fabric) == WF_ERR_FABRIC && says("parted"));
    verdict(world_rank == absent || named);
    verdict(refused);
    wf_fabric_destroy(fabric);
}
END_TEST

typedef struct turn {
    int order, failing;
    double start_s, end_s;
} turn;

static wf_status take_turn(void *context) {
    turn *const mine = context;
    static int taken;
    mine->start_s = wf_clock_s(); /* one clock for all ranks of a node */
    usleep(2000);
    mine->end_s = wf_clock_s();
    mine->order = ++taken;
    return mine->failing ? wf_fail(WF_ERR_DEVICE, "my build failed") : WF_OK;
}

START_TEST(in_turn_is_one_after_the_other) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    turn mine = {0};
    turn all[64];
    bool apart = true;
    good(wf_fabric_in_turn(fabric, take_turn, &mine));
    good(wf_fabric_all_gather(fabric, &mine, sizeof mine, all));
    for (int r = 1; r < world_ranks; r++) apart = apart && all[r].start_s >= all[r - 1].end_s;
    verdict(mine.order > 0 && apart);
    const int culprit = world_ranks / 2;
    mine = (turn){.failing = world_rank == culprit};
    const wf_status status = wf_fabric_in_turn(fabric, take_turn, &mine);
    verdict(status == WF_ERR_DEVICE && says("my build failed"));
    verdict((mine.order > 0) == (world_rank <= culprit));
    wf_fabric_destroy(fabric);
}
END_TEST

START_TEST(ranks_are_processes) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    int32_t index = -1;
    const int32_t processes = wf_fabric_processes(fabric, &index);
    verdict(processes == world_ranks && index == world_rank);
    wf_fabric_destroy(fabric);
}
END_TEST

/* ---- opening ---- */

START_TEST(the_fastest_transport_is_chosen) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    const wf_transport_kind best =
        wf_opencl_device(device)->host_unified ? WF_TRANSPORT_WINDOW : WF_TRANSPORT_STAGED;
    char *text = NULL;
    bool right = true;
    for (int r = 0; r < world_ranks; r++)
        right =
            right && wf_fabric_transport(fabric, r) == (r == world_rank ? WF_TRANSPORT_NONE : best) &&
            wf_fabric_between(fabric, r, world_rank, true) == (r == world_rank ? WF_TRANSPORT_NONE : WF_TRANSPORT_STAGED);
    good(wf_fabric_describe(fabric, &text));
    verdict(right);
    verdict(world_ranks == 1 || strstr(text, "ranks 0 and 1:"));
    if (world_rank == 0) fprintf(stderr, "%s", text);
    free(text);
    wf_fabric_destroy(fabric);
}
END_TEST

/* Ranks are told that they sit on two nodes. */
START_TEST(between_nodes_there_is_only_mpi) {
    wf_bootstrap split = boot;
    wf_fabric *fabric = NULL;
    if (world_ranks < 2) return;
    split.node = world_rank % 2;
    good(wf_fabric_create(&split, device,
                          &(wf_fabric_options){.timeout_s = PATIENCE_S, .chunk_bytes = CHUNK},
                          &fabric));
    bool right = true;
    for (int r = 0; r < world_ranks; r++)
        if (r != world_rank)
            right = right && (wf_fabric_transport(fabric, r) == WF_TRANSPORT_MPI) ==
                                 (r % 2 != world_rank % 2);
    for (int a = 0; a < world_ranks; a++) /* all know of all */
        for (int b = 0; b < world_ranks; b++) {
            const wf_transport_kind want = a == b ? WF_TRANSPORT_NONE : a % 2 == b % 2 ? WF_TRANSPORT_WINDOW : WF_TRANSPORT_MPI;
            right = right && wf_fabric_between(fabric, a, b, false) == want && wf_fabric_in_place(fabric, a, b) == (want == WF_TRANSPORT_WINDOW);
        }
    verdict(right);
    char *text = NULL;
    good(wf_fabric_describe(fabric, &text));
    verdict(strstr(text, "different nodes") != NULL);
    free(text);
    wf_fabric_destroy(fabric);
    const wf_status status = wf_fabric_create(
        &split, device, &(wf_fabric_options){.force = WF_TRANSPORT_STAGED}, &fabric);
    verdict(status == WF_ERR_FABRIC && says("staged is forced") && says("different nodes"));
}
END_TEST

START_TEST(different_options_are_refused) {
    wf_fabric *fabric = NULL;
    if (world_ranks < 2) return;
    const wf_fabric_options options = {.chunk_bytes = world_rank == 1 ? 8192 : 4096};
    verdict(wf_fabric_create(&boot, device, &options, &fabric) == WF_ERR_MISMATCH &&
            says("4096 and 8192"));
    const wf_fabric_options absurd = {.chunk_bytes = world_rank == 1 ? -5 : 0};
    verdict(wf_fabric_create(&boot, device, &absurd, &fabric) == WF_ERR_ARGUMENT && says("-5"));
    verdict(wf_fabric_create(&boot, world_rank == 1 ? NULL : device, NULL, &fabric) ==
                WF_ERR_ARGUMENT &&
            says("no device"));
}
END_TEST

START_TEST(bad_messages_are_refused) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    wf_memory *memory = NULL;
    wf_transfer *transfer = NULL;
    good(wf_memory_create(device, 1000, &memory));
    const int peer = (world_rank + 1) % world_ranks;
    const wf_message bad[] = {{.memory = memory, .bytes = 10, .peer = world_rank},
                              {.memory = memory, .bytes = 10, .peer = world_ranks},
                              {.memory = memory, .bytes = 10, .peer = -1},
                              {.memory = memory, .bytes = -10, .peer = peer},
                              {.memory = memory, .offset_bytes = 991, .bytes = 10, .peer = peer},
                              {.memory = memory, .offset_bytes = -1, .bytes = 10, .peer = peer},
                              {.memory = NULL, .bytes = 10, .peer = peer}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        verdict(wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_NONE, &bad[i], WF_TRANSPORT_NONE,
                                NULL, &transfer) == WF_ERR_ARGUMENT);
        verdict(wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_NONE, NULL, WF_TRANSPORT_NONE,
                                &bad[i], &transfer) == WF_ERR_ARGUMENT);
    }
    const wf_message nothing = {.peer = peer};
    bool done = false;
    good(wf_fabric_start(fabric, WF_LANE_TP, WF_TRANSPORT_NONE, &nothing, WF_TRANSPORT_NONE, NULL,
                         &transfer));
    good(wf_fabric_test(fabric, &transfer, &done));
    verdict(done && !transfer);
    wf_memory_destroy(memory);
    wf_fabric_destroy(fabric);
}
END_TEST

/* ---- alone ---- */

START_TEST(a_rank_alone_needs_nobody) {
    wf_bootstrap self;
    wf_fabric *fabric = NULL;
    int32_t mine = 7, all = 0;
    turn once = {0};
    good(wf_bootstrap_self(&self));
    good(wf_fabric_create(&self, NULL, NULL, &fabric));
    good(wf_fabric_all_gather(fabric, &mine, sizeof mine, &all));
    good(wf_fabric_barrier(fabric));
    good(wf_fabric_in_turn(fabric, take_turn, &once));
    verdict(all == 7 && once.order > 0 && wf_fabric_ranks(fabric) == 1 &&
            wf_fabric_rank(fabric) == 0);
    verdict(wf_fabric_agree(fabric, wf_fail(WF_ERR_FILE, "alone")) == WF_ERR_FILE && says("alone"));
    wf_fabric_destroy(fabric);
    self.destroy(self.self);
}
END_TEST

static TCase *tests(void) {
    TCase *const all = fabric_case("begin");
    tcase_add_test(all, bootstrap_knows_the_ranks);
    tcase_add_test(all, bootstrap_has_a_deadline_of_its_own);
    tcase_add_test(all, bootstrap_checks_lengths);
    tcase_add_test(all, agree_quotes_the_failing_rank);
    tcase_add_test(all, a_cause_outranks_the_timeouts_it_caused);
    tcase_add_test(all, a_rank_that_does_not_come_is_named);
    tcase_add_test(all, in_turn_is_one_after_the_other);
    tcase_add_test(all, ranks_are_processes);
    tcase_add_test(all, the_fastest_transport_is_chosen);
    tcase_add_test(all, between_nodes_there_is_only_mpi);
    tcase_add_test(all, different_options_are_refused);
    tcase_add_test(all, bad_messages_are_refused);
    tcase_add_test(all, a_rank_alone_needs_nobody);
    return all;
}

int main(int argc, char **argv) {
    return fabric_main(argc, argv, tests);
}
