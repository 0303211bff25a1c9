/* Fabric over MPI ranks, traffic: random messages on all lanes at once, and mail that is read late or out of turn. Run by
 * check_fabric.sh on 1 to 4 ranks, with a seed. */
#include <unistd.h>

#include "host/device/opencl.h"
#include "host/fabric/copy.h"
#include "host/fabric/mail.h"
#include "tests/host/fabric_support.h"

/* ---- traffic ---- */

enum { MESSAGES = 60, GUARD = 32 };

typedef struct message {
    int from, to;
    wf_lane lane;
    int64_t bytes, at;
} message; /* at: in this rank's memory */

static int64_t random_bytes(uint32_t *state) {
    switch (next_random(state) % 6) {
    case 0:
        return 1 + next_random(state) % 7;
    case 1:
        return 4096;
    case 2:
        return CHUNK - 1 + next_random(state) % 3;
    case 3:
        return 16 * CHUNK - 1 + next_random(state) % 3; /* of what the host copies itself, a chunk is so much */
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
    if (s >= 0) send = (wf_message){.memory = t->out, .offset_bytes = t->sent[s].at, .bytes = t->sent[s].bytes, .peer = t->sent[s].to};
    if (r >= 0)
        receive = (wf_message){.memory = t->in, .offset_bytes = t->received[r].at, .bytes = t->received[r].bytes, .peer = t->received[r].from};
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

static void random_traffic(wf_transport_kind kind, bool refresh, double link_bytes_per_s) {
    traffic *const t = calloc(1, sizeof *t);
    uint32_t state = seed + (uint32_t)kind;
    if (world_ranks == 1) {
        free(t);
        return;
    }
    t->fabric = open_fabric(kind);
    t->fabric->refresh_windows = refresh;
    t->fabric->link = (wf_link){.latency_s = 1e-4, .bytes_per_s = link_bytes_per_s};
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
    random_traffic((wf_transport_kind)_i, false, 0);
}
END_TEST

/* As on a device that may keep buffers elsewhere. */
START_TEST(random_traffic_arrives_from_refreshed_windows) {
    random_traffic(WF_TRANSPORT_WINDOW, true, 0);
}
END_TEST

/* As on a device whose memory only commands reach: all ranks', or every other one's. */
START_TEST(random_traffic_arrives_by_commands) {
    const bool direct = device->direct;
    device->direct = false;
    random_traffic((wf_transport_kind)_i, false, 0);
    device->direct = direct && world_rank % 2 == 0;
    random_traffic((wf_transport_kind)_i, false, 0);
    device->direct = direct;
}
END_TEST

START_TEST(random_traffic_arrives_over_an_emulated_link) {
    random_traffic((wf_transport_kind)_i, false, 1e9);
}
END_TEST

/* Two messages at once share a direction of the link, not the other one; the bytes themselves take no such time. */
START_TEST(an_emulated_link_takes_its_time) {
    enum { BYTES = 100000, MESSAGES_EACH = 2 };
    const double latency_s = 0.02, each_s = 0.05;
    const wf_transport_kind kind = (wf_transport_kind)_i;
    if (world_ranks < 2) return;
    wf_fabric *const fabric = open_fabric(kind);
    wf_memory *const out = outgoing(fabric, kind, BYTES), *const in = outgoing(fabric, WF_TRANSPORT_MPI, MESSAGES_EACH * BYTES);
    wf_transfer *transfer[MESSAGES_EACH] = {0};
    fabric->link = (wf_link){.latency_s = latency_s, .bytes_per_s = BYTES / each_s};
    wf_status status = WF_OK;
    MPI_Barrier(MPI_COMM_WORLD);
    const double start_s = wf_clock_s();
    for (int i = 0; i < MESSAGES_EACH && world_rank < 2 && status == WF_OK; i++) {
        const wf_message send = {.memory = out, .bytes = BYTES, .peer = 1 - world_rank},
                         receive = {.memory = in, .offset_bytes = i * BYTES, .bytes = BYTES, .peer = 1 - world_rank};
        status = wf_fabric_start(fabric, WF_LANE_CP, kind, &send, kind, &receive, &transfer[i]);
    }
    for (int left = world_rank < 2 ? MESSAGES_EACH : 0; left > 0 && status == WF_OK; wf_fabric_pause(fabric, 100)) {
        left = 0;
        for (int i = 0; i < MESSAGES_EACH && status == WF_OK; i++) {
            bool done = !transfer[i];
            if (!done) status = wf_fabric_test(fabric, &transfer[i], &done);
            left += !done;
        }
    }
    const double took_s = wf_clock_s() - start_s, least_s = latency_s + MESSAGES_EACH * each_s;
    verdict(status == WF_OK && (world_rank > 1 || took_s >= least_s));
    give_back(fabric, kind, out);
    wf_memory_destroy(in);
    wf_fabric_destroy(fabric);
}
END_TEST

/* ---- what the host copies ---- */

/* Of small messages and of those that are written past the caches; nothing around a part is touched. */
START_TEST(parts_are_copied_wherever_they_begin_and_end) {
    enum { MOST = 400, ROOM = MOST + 2 * GUARD + 128 };
    const int64_t wholes[] = {MOST, 64 << 20};
    uint8_t *const from = aligned_alloc(64, 1024), *const to = aligned_alloc(64, 1024);
    int64_t wrong = 0;
    for (int64_t i = 0; i < ROOM; i++) from[i] = content(1, i);
    for (int trial = 0; trial < 4000; trial++) {
        uint32_t state = seed + (uint32_t)trial;
        const int64_t bytes = next_random(&state) % (MOST + 1), source = next_random(&state) % 64, place = GUARD + next_random(&state) % 64;
        memset(to, 0xEE, ROOM);
        wf_copy_part(to + place, from + source, bytes, wholes[trial % 2]);
        for (int64_t i = 0; i < ROOM; i++) wrong += to[i] != (i < place || i >= place + bytes ? 0xEE : from[source + i - place]);
    }
    free(from);
    free(to);
    verdict(wrong == 0);
}
END_TEST

/* ---- an entry of a mail is read before it is written anew ---- */

static int64_t burst_bytes(int i) {
    return 1000 + 77 * i;
}

static wf_status start_burst(wf_fabric *fabric, wf_transport_kind kind, wf_memory *memory,
                             wf_transfer **transfers) {
    for (int i = 0, at = 0; i < BURST; at += (int)burst_bytes(i++)) {
        const wf_message m = {.memory = memory, .offset_bytes = at, .bytes = burst_bytes(i), .peer = 1 - world_rank};
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
static TCase *tests(void) {
    TCase *const all = fabric_case("traffic");
    tcase_add_loop_test(all, random_traffic_arrives, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_test(all, random_traffic_arrives_from_refreshed_windows);
    tcase_add_loop_test(all, random_traffic_arrives_by_commands, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, random_traffic_arrives_over_an_emulated_link, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, an_emulated_link_takes_its_time, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_test(all, parts_are_copied_wherever_they_begin_and_end);
    tcase_add_loop_test(all, a_sender_may_look_late, WF_TRANSPORT_MPI, WF_TRANSPORTS);
    tcase_add_loop_test(all, messages_are_over_in_their_order, WF_TRANSPORT_STAGED, WF_TRANSPORTS);
    return all;
}

int main(int argc, char **argv) {
    return fabric_main(argc, argv, tests);
}
