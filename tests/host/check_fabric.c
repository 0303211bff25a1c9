/* Fabric over MPI ranks: run by check_fabric.sh on 1 to 4 of them. Argument: a seed. */
#include <dirent.h>
#include <unistd.h>

#include "host/fabric/mail.h"
#include "host/fabric/mpi_calls.h"
#include "tests/host/fabric_support.h"

enum {
    CHUNK = 1 << 16,
    SHORT_MS = 300,
    PATIENCE_S = 8
}; /* PATIENCE_S: a failure must not cost a minute */
static const double SHORT_S = SHORT_MS / 1000.0;

static uint32_t seed;
static wf_bootstrap boot;
static wf_opencl *device;

/* Once for all tests: opening a device takes longer than most of them. */
static void open_device(void) {
    const MPI_Comm world = MPI_COMM_WORLD;
    wf_bootstrap first;
    good(wf_bootstrap_mpi(&world, &first));
    good(wf_opencl_create(
        &(wf_opencl_options){.node_rank = first.node_rank, .node_ranks = first.node_ranks},
        &device));
    first.destroy(first.self);
}

static void close_device(void) {
    wf_opencl_destroy(device);
}

/* For each test: messages that a failed one has left behind stay in its own communicator. */
static void open_boot(void) {
    const MPI_Comm world = MPI_COMM_WORLD;
    good(wf_bootstrap_mpi(&world, &boot));
}

static void close_boot(void) {
    boot.destroy(boot.self);
}

static wf_fabric *open_fabric(wf_transport_kind force) {
    wf_fabric *fabric = NULL;
    good(wf_fabric_create(
        &boot, device,
        &(wf_fabric_options){.force = force, .timeout_s = PATIENCE_S, .chunk_bytes = CHUNK},
        &fabric));
    return fabric;
}

/* Its deadline is short only once it is open: on a busy machine, opening may take a while. */
static wf_fabric *open_impatient(wf_transport_kind force) {
    wf_fabric *const fabric = open_fabric(force);
    fabric->timeout_s = SHORT_S;
    return fabric;
}

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

/* ---- opening ---- */

START_TEST(the_fastest_transport_is_chosen) {
    wf_fabric *const fabric = open_fabric(WF_TRANSPORT_NONE);
    const wf_transport_kind best =
        wf_opencl_device(device)->host_unified ? WF_TRANSPORT_WINDOW : WF_TRANSPORT_STAGED;
    char *text = NULL;
    bool right = true;
    for (int r = 0; r < world_ranks; r++)
        right =
            right && wf_fabric_transport(fabric, r) == (r == world_rank ? WF_TRANSPORT_NONE : best);
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

/* ---- traffic ---- */

enum { MESSAGES = 60, GUARD = 32 };

typedef struct message {
    int from, to;
    wf_lane lane;
    int64_t bytes, at;
} message; /* at: in this rank's memory */

static int64_t random_bytes(uint32_t *state) {
    switch (next_random(state) % 5) {
    case 0:
        return 1 + next_random(state) % 7;
    case 1:
        return 4096;
    case 2:
        return CHUNK - 1 + next_random(state) % 3;
    default:
        return 1 + next_random(state) % (3 * CHUNK + 77);
    }
}

static int make_messages(uint32_t *state, message *all) {
    static const wf_lane lanes[] = {WF_LANE_TP, WF_LANE_DP, WF_LANE_PP_SEND_F, WF_LANE_PP_SEND_B};
    for (int i = 0; i < MESSAGES; i++) {
        all[i].from = (int)(next_random(state) % (uint32_t)world_ranks);
        all[i].to =
            (int)((uint32_t)(all[i].from + 1) + next_random(state) % (uint32_t)(world_ranks - 1)) %
            world_ranks;
        all[i].lane = lanes[next_random(state) % 4];
        all[i].bytes = random_bytes(state);
    }
    return MESSAGES;
}

/* Guard bytes lie around every message. */
static int64_t lay_out(message *all, bool sends) {
    int64_t at = GUARD;
    for (int i = 0; i < MESSAGES; i++)
        if ((sends ? all[i].from : all[i].to) == world_rank) {
            all[i].at = at;
            at += all[i].bytes + GUARD;
        }
    return at;
}

static uint8_t content(int message, int64_t i) {
    return (
        uint8_t)((uint32_t)(i * 2654435761u + (uint32_t)message * 40503u + (uint32_t)(i >> 11)) >>
                 13);
}

static void paint(uint8_t *image, int64_t bytes, const message *all, bool sends) {
    memset(image, 0xEE, (size_t)bytes);
    for (int m = 0; m < MESSAGES; m++)
        for (int64_t i = 0; (sends ? all[m].from : all[m].to) == world_rank && i < all[m].bytes;
             i++)
            image[all[m].at + i] = content(m, i);
}

static wf_lane receiving(wf_lane lane) {
    return lane == WF_LANE_PP_SEND_F   ? WF_LANE_PP_RECV_F
           : lane == WF_LANE_PP_SEND_B ? WF_LANE_PP_RECV_B
                                       : lane;
}

typedef struct traffic {
    wf_fabric *fabric;
    wf_memory *out, *in;
    message sent[MESSAGES], received[MESSAGES];
    bool started_send[MESSAGES], started_receive[MESSAGES];
    wf_transfer *flying[2 * MESSAGES];
    int nflying, remaining;
    uint32_t random; /* differs per rank */
} traffic;

/* The first message not yet started of a random channel of this rank; -1: that channel has none. */
static int pick(traffic *t, bool sends, int lane) {
    const bool *const started = sends ? t->started_send : t->started_receive;
    const int start = (int)(next_random(&t->random) % MESSAGES);
    int channel = -1;
    for (int i = 0; i < MESSAGES && channel < 0; i++) {
        const message *const m = &t->sent[(start + i) % MESSAGES];
        if ((sends ? m->from : m->to) == world_rank && (lane < 0 || (int)m->lane == lane) &&
            !started[(start + i) % MESSAGES])
            channel = (start + i) % MESSAGES;
    }
    for (int i = 0; channel >= 0 && i < channel; i++)
        if (t->sent[i].from == t->sent[channel].from && t->sent[i].to == t->sent[channel].to &&
            t->sent[i].lane == t->sent[channel].lane && !started[i])
            return i;
    return channel;
}

/* A hop of a send, a receive, or both on one lane. */
static wf_status start_some(traffic *t, wf_transport_kind kind) {
    const int way = (int)(next_random(&t->random) % 3);
    const int s = way != 1 ? pick(t, true, -1) : -1;
    const bool pipeline = s >= 0 && receiving(t->sent[s].lane) != t->sent[s].lane;
    const int r = way == 0 || pipeline ? -1 : pick(t, false, s >= 0 ? (int)t->sent[s].lane : -1);
    if (s < 0 && r < 0) return WF_OK;
    const wf_lane lane = s >= 0 ? t->sent[s].lane : receiving(t->sent[r].lane);
    wf_message send = {0}, receive = {0};
    if (s >= 0) send = (wf_message){t->out, t->sent[s].at, t->sent[s].bytes, t->sent[s].to};
    if (r >= 0)
        receive = (wf_message){t->in, t->received[r].at, t->received[r].bytes, t->received[r].from};
    if (s >= 0) t->started_send[s] = true;
    if (r >= 0) t->started_receive[r] = true;
    t->remaining -= (s >= 0) + (r >= 0);
    return wf_fabric_start(t->fabric, lane, kind, s >= 0 ? &send : NULL, kind,
                           r >= 0 ? &receive : NULL, &t->flying[t->nflying++]);
}

static wf_status test_some(traffic *t) {
    if (t->nflying == 0) return WF_OK;
    const int i = (int)(next_random(&t->random) % (uint32_t)t->nflying);
    bool done = false;
    TRY(wf_fabric_test(t->fabric, &t->flying[i], &done));
    if (done) t->flying[i] = t->flying[--t->nflying];
    wf_fabric_pause(t->fabric, done ? 0 : 100);
    return WF_OK;
}

static wf_status play(traffic *t, wf_transport_kind kind) {
    while (t->remaining > 0 || t->nflying > 0) {
        if (t->remaining > 0 && next_random(&t->random) % 2) TRY(start_some(t, kind));
        TRY(test_some(t));
    }
    return WF_OK;
}

static wf_status put(wf_memory *memory, const void *data, int64_t bytes) {
    TRY(wf_queue_write(device, WF_QUEUE_COMPUTE, memory, 0, bytes, data, NULL));
    return wf_queue_finish(device, WF_QUEUE_COMPUTE);
}

static wf_status get(wf_memory *memory, void *data, int64_t bytes) {
    TRY(wf_queue_read(device, WF_QUEUE_COMPUTE, memory, 0, bytes, data, NULL));
    return wf_queue_finish(device, WF_QUEUE_COMPUTE);
}

static void check_counters(const wf_fabric *fabric, wf_transport_kind kind, const message *sent) {
    int64_t bytes[WF_TRANSPORTS], messages[WF_TRANSPORTS], sum = 0, count = 0;
    wf_fabric_counters(fabric, bytes, messages);
    for (int i = 0; i < MESSAGES; i++)
        if (sent[i].from == world_rank) {
            sum += sent[i].bytes;
            count++;
        }
    bool right = true;
    for (int k = 0; k < WF_TRANSPORTS; k++)
        right = right && bytes[k] == (k == (int)kind ? sum : 0) &&
                messages[k] == (k == (int)kind ? count : 0);
    verdict(right);
}

static void random_traffic(wf_transport_kind kind, bool refresh) {
    traffic *const t = calloc(1, sizeof *t);
    uint32_t state = seed + (uint32_t)kind;
    if (world_ranks == 1) {
        free(t);
        return;
    }
    t->fabric = open_fabric(kind);
    t->fabric->refresh_windows = refresh;
    make_messages(&state, t->sent);
    memcpy(t->received, t->sent, sizeof t->sent);
    t->random = seed * 31u + (uint32_t)world_rank;
    for (int i = 0; i < MESSAGES; i++)
        t->remaining += (t->sent[i].from == world_rank) + (t->sent[i].to == world_rank);
    const int64_t out_bytes = lay_out(t->sent, true), in_bytes = lay_out(t->received, false);
    uint8_t *const out = malloc((size_t)out_bytes), *const in = malloc((size_t)in_bytes),
                   *const expected = malloc((size_t)in_bytes);
    if (kind == WF_TRANSPORT_WINDOW)
        good(wf_fabric_window_create(t->fabric, out_bytes, &t->out));
    else
        good(wf_memory_create(device, out_bytes, &t->out));
    good(wf_memory_create(device, in_bytes, &t->in));
    paint(out, out_bytes, t->sent, true);
    paint(expected, in_bytes, t->received, false);
    memset(in, 0xEE, (size_t)in_bytes);
    good(put(t->out, out, out_bytes));
    good(put(t->in, in, in_bytes));
    good(play(t, kind));
    good(get(t->in, in, in_bytes));
    verdict(memcmp(in, expected, (size_t)in_bytes) == 0);
    check_counters(t->fabric, kind, t->sent);
    if (kind == WF_TRANSPORT_WINDOW)
        wf_fabric_window_destroy(t->fabric, t->out);
    else
        wf_memory_destroy(t->out);
    wf_memory_destroy(t->in);
    wf_fabric_destroy(t->fabric);
    free(out);
    free(in);
    free(expected);
    free(t);
}

START_TEST(random_traffic_arrives) {
    random_traffic((wf_transport_kind)_i, false);
}
END_TEST

/* As on a device that may keep buffers elsewhere. */
START_TEST(random_traffic_arrives_from_refreshed_windows) {
    random_traffic(WF_TRANSPORT_WINDOW, true);
}
END_TEST

/* ---- an entry of a mail is read before it is written anew ---- */

static wf_memory *outgoing(wf_fabric *fabric, wf_transport_kind kind, int64_t bytes) {
    wf_memory *memory = NULL;
    if (kind == WF_TRANSPORT_WINDOW)
        good(wf_fabric_window_create(fabric, bytes, &memory));
    else
        good(wf_memory_create(device, bytes, &memory));
    return memory;
}

static void give_back(wf_fabric *fabric, wf_transport_kind kind, wf_memory *memory) {
    if (kind == WF_TRANSPORT_WINDOW)
        wf_fabric_window_destroy(fabric, memory);
    else
        wf_memory_destroy(memory);
}

enum { BURST = WF_POSTS + 5 };

static int64_t burst_bytes(int i) {
    return 1000 + 77 * i;
}

static wf_status start_burst(wf_fabric *fabric, wf_transport_kind kind, wf_memory *memory,
                             wf_transfer **transfers) {
    for (int i = 0, at = 0; i < BURST; at += (int)burst_bytes(i++)) {
        const wf_message m = {memory, at, burst_bytes(i), 1 - world_rank};
        const bool sends = world_rank == 0;
        TRY(wf_fabric_start(fabric, WF_LANE_DP, kind, sends ? &m : NULL, kind, sends ? NULL : &m,
                            &transfers[i]));
    }
    return WF_OK;
}

/* Tests those still in flight until all are done, or until `until_s`. */
static wf_status test_burst(wf_fabric *fabric, wf_transfer **transfers, double until_s) {
    int left = BURST;
    while (left > 0) {
        left = 0;
        for (int i = 0; i < BURST; i++) {
            bool done = !transfers[i];
            if (!done) TRY(wf_fabric_test(fabric, &transfers[i], &done));
            left += !done;
        }
        if (wf_clock_s() > until_s) break;
        wf_fabric_pause(fabric, 100);
    }
    return WF_OK;
}

/* Rank 0 shows its messages and is then away, while rank 1 receives and starts what comes later. */
START_TEST(a_sender_may_look_late) {
    const wf_transport_kind kind = (wf_transport_kind)_i;
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(kind);
    int64_t bytes = 0;
    for (int i = 0; i < BURST; i++) bytes += burst_bytes(i);
    uint8_t *const expected = malloc((size_t)bytes), *const got = calloc(1, (size_t)bytes);
    for (int64_t i = 0; i < bytes; i++) expected[i] = content(1, i);
    wf_memory *memory = outgoing(fabric, kind, bytes);
    wf_transfer *transfers[BURST] = {0};
    wf_status status = WF_OK;
    if (world_rank == 0) {
        status = put(memory, expected, bytes);
        if (status == WF_OK) status = start_burst(fabric, kind, memory, transfers);
        if (status == WF_OK) status = test_burst(fabric, transfers, 0);
    }
    good(status);
    if (world_rank == 1) {
        status = start_burst(fabric, kind, memory, transfers);
        if (status == WF_OK) status = test_burst(fabric, transfers, wf_clock_s() + 0.1);
    }
    good(status);
    if (world_rank < 2) status = test_burst(fabric, transfers, wf_clock_s() + 2 * PATIENCE_S);
    good(status);
    if (world_rank == 1) status = get(memory, got, bytes);
    verdict(status == WF_OK && (world_rank != 1 || memcmp(got, expected, (size_t)bytes) == 0));
    give_back(fabric, kind, memory);
    wf_fabric_destroy(fabric);
    free(expected);
    free(got);
}
END_TEST

/* The later of two messages is through first. */
START_TEST(messages_are_over_in_their_order) {
    const wf_transport *const transport = wf_transports[_i];
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(transport->kind);
    for (int way = 0; way < 2; way++) {
        const int peer = (world_rank + (way ? 1 : world_ranks - 1)) % world_ranks;
        wf_end *const end = wf_fabric_end(fabric, peer, WF_LANE_DP, transport->kind, way);
        wf_half early = {.transport = transport,
                         .end = end,
                         .sends = way,
                         .peer = peer,
                         .lane = WF_LANE_DP,
                         .sequence = end->closing};
        wf_half late = early;
        late.sequence++;
        const wf_mail *const mail = wf_half_mail(fabric, &early);
        const _Atomic int64_t *const over = way ? &mail->closed : &mail->completed;
        const int64_t before = atomic_load(over);
        wf_mail_close(fabric, &late);
        verdict(!late.done && atomic_load(over) == before);
        wf_mail_close(fabric, &early);
        verdict(early.done && atomic_load(over) == before + 1);
        wf_mail_close(fabric, &late);
        verdict(late.done && atomic_load(over) == before + 2);
    }
    wf_fabric_destroy(fabric);
}
END_TEST

/* ---- faults ---- */

static wf_status finish(wf_fabric *fabric, wf_transfer **transfer) {
    bool done = false;
    for (int64_t idle = 0; !done; idle++) {
        TRY(wf_fabric_test(fabric, transfer, &done));
        wf_fabric_pause(fabric, idle);
    }
    return WF_OK;
}

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

START_TEST(nothing_is_left_behind) {
    enum { CYCLES = 12 };
    int descriptors = 0;
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
    verdict(entries("/dev/shm", "weft") == 0); /* other jobs' files come and go */
    verdict(wf_opencl_allocated_bytes(device) == bytes);
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

static Suite *suite(void) {
    Suite *const s = suite_create("fabric");
    TCase *const all = tcase_create("all");
    tcase_add_unchecked_fixture(all, open_device, close_device);
    tcase_add_checked_fixture(all, open_boot, close_boot);
    tcase_set_timeout(all, 0);
    tcase_add_test(all, bootstrap_knows_the_ranks);
    tcase_add_test(all, bootstrap_checks_lengths);
    tcase_add_test(all, agree_quotes_the_failing_rank);
    tcase_add_test(all, a_cause_outranks_the_timeouts_it_caused);
    tcase_add_test(all, a_rank_that_does_not_come_is_named);
    tcase_add_test(all, in_turn_is_one_after_the_other);
    tcase_add_test(all, the_fastest_transport_is_chosen);
    tcase_add_test(all, between_nodes_there_is_only_mpi);
    tcase_add_test(all, different_options_are_refused);
    tcase_add_test(all, bad_messages_are_refused);
    tcase_add_loop_test(all, random_traffic_arrives, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_test(all, random_traffic_arrives_from_refreshed_windows);
    tcase_add_loop_test(all, a_sender_may_look_late, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, messages_are_over_in_their_order, WF_TRANSPORT_STAGED, WF_TRANSPORTS);
    tcase_add_loop_test(all, another_length_is_a_mismatch, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, a_missing_peer_is_a_timeout, 2 * WF_TRANSPORT_MPI, 2 * WF_TRANSPORTS);
    tcase_add_test(all, device_memory_does_not_go_by_window);
    tcase_add_loop_test(all, a_failing_mpi_call_is_reported, 0, 9);
    tcase_add_test(all, windows_may_differ_in_size);
    tcase_add_test(all, nothing_is_left_behind);
    tcase_add_test(all, a_rank_alone_needs_nobody);
    suite_add_tcase(s, all);
    return s;
}

int main(int argc, char **argv) {
    begin_mpi(&argc, &argv);
    seed = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1;
    const int failed = run_suite(suite());
    if (failed && world_rank == 0)
        fprintf(stderr, "seed %u; again with: mpirun -np %d %s %u\n", seed, world_ranks, argv[0],
                seed);
    MPI_Finalize();
    return failed;
}
