/* match.c: do the ranks' plans fit each other? Asked once, before the first run.
 *
 * What a rank sends to another and what that one expects are two lists of messages; their hashes are
 * compared, over all ranks. Where two differ, the first message that does is looked for: the two
 * ranks halve the list, comparing hashes of its beginnings, while the others take part in the
 * collectives. So the sentence names a step, and nothing of it costs anything where all fits. */
#include "host/run/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* hashes[peer][lane][0]: what I send to the peer; [1]: what I receive from it. */
typedef uint64_t channel_hashes[WF_LANES][2];

typedef struct channel {
    int32_t from, to;
    wf_lane lane;
} channel;

static bool shares_group(const wf_schedule *s, int32_t peer) {
    for (int32_t i = 0; i < s->nmembers; i++)
        if (s->members[i] == peer) return true;
    return false;
}

static void hash_channels(const wf_schedule *s, channel_hashes *mine) {
    for (int32_t peer = 0; peer < s->ranks; peer++) {
        if (peer == s->rank || !shares_group(s, peer)) continue;
        for (int lane = 0; lane < WF_LANES; lane++) {
            mine[peer][lane][0] = wf_schedule_hash_channel(s, s->rank, peer, (wf_lane)lane);
            mine[peer][lane][1] = wf_schedule_hash_channel(s, peer, s->rank, (wf_lane)lane);
        }
    }
}

/* The first channel whose ends differ. */
static bool find_channel(int32_t ranks, const channel_hashes *all, channel *out) {
    for (int32_t from = 0; from < ranks; from++)
        for (int32_t to = 0; to < ranks; to++)
            for (int lane = 0; lane < WF_LANES; lane++) {
                if (all[(int64_t)from * ranks + to][lane][0] == all[(int64_t)to * ranks + from][lane][1]) continue;
                *out = (channel){from, to, (wf_lane)lane};
                return true;
            }
    return false;
}

/* What both ends tell of the channel's first `most` messages, to every rank: all_out [ranks]. */
static wf_status gather_ends(wf_runner *r, const channel *c, int64_t most, wf_channel *all_out) {
    wf_channel mine = {0};
    if (r->schedule->rank == c->from || r->schedule->rank == c->to)
        mine = wf_schedule_channel(r->schedule, c->from, c->to, c->lane, most);
    return wf_fabric_all_gather(r->fabric, &mine, sizeof mine, all_out);
}

/* The number, from 1, of the first message in which the ends differ: beyond the shorter list one of them
 * has none. */
static wf_status find_message(wf_runner *r, const channel *c, wf_channel *all, int64_t *out) {
    int64_t same = 0, differs;
    TRY(gather_ends(r, c, INT64_MAX, all));
    differs = all[c->from].messages > all[c->to].messages ? all[c->from].messages : all[c->to].messages;
    while (differs - same > 1) {
        const int64_t middle = same + (differs - same) / 2;
        TRY(gather_ends(r, c, middle, all));
        if (all[c->from].hash == all[c->to].hash && all[c->from].messages == all[c->to].messages)
            same = middle;
        else
            differs = middle;
    }
    *out = differs;
    return WF_OK;
}

/* The message as this rank has it. */
static void describe(const wf_schedule *s, const channel *c, int64_t message, char text[160]) {
    const wf_channel end = wf_schedule_channel(s, c->from, c->to, c->lane, message);
    if (end.messages < message) {
        snprintf(text, 160, "nothing");
        return;
    }
    const wf_view *const view = &s->views[end.view];
    const wf_call *const call = &s->calls[end.call];
    snprintf(text, 160, "%lld bytes at step %s of %s (layer %d, microbatch %d)",
             (long long)(wf_view_elements(view) * wf_dtype_bytes((wf_dtype)s->buffers[view->buffer].dtype)), s->steps[end.step].site,
             s->segments[call->segment].name, call->layer, call->microbatch);
}

static wf_status name_difference(wf_runner *r, const channel *c, wf_channel *ends, char (*texts)[160]) {
    char mine[160] = "";
    int64_t message;
    TRY(find_message(r, c, ends, &message));
    describe(r->schedule, c, message, mine);
    TRY(wf_fabric_all_gather(r->fabric, mine, sizeof mine, texts));
    return wf_fail(WF_ERR_MISMATCH,
                   "the plans of ranks %d and %d do not fit: as message %lld on lane %s, rank %d sends %s, and rank %d expects %s "
                   "(are model, shape, layout and options the same?)",
                   c->from, c->to, (long long)message, wf_lane_name(c->lane), c->from, texts[c->from], c->to, texts[c->to]);
}

wf_status wf_runner_match(wf_runner *r) {
    const wf_schedule *const s = r->schedule;
    const size_t n = (size_t)s->ranks;
    channel_hashes *const mine = calloc(n, sizeof *mine);
    channel_hashes *const all = calloc(n * n, sizeof *all);
    wf_channel *const ends = calloc(n, sizeof *ends);
    char(*const texts)[160] = calloc(n, sizeof *texts);
    const bool room = mine && all && ends && texts;
    channel differing;
    wf_status status = room ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to compare the plans of %d ranks", s->ranks);
    TRY_GOTO(wf_fabric_agree(r->fabric, status), done);
    hash_channels(s, mine);
    TRY_GOTO(wf_fabric_all_gather(r->fabric, mine, (int64_t)(n * sizeof *mine), all), done);
    if (find_channel(s->ranks, all, &differing)) status = name_difference(r, &differing, ends, texts);
done:
    free(mine);
    free(all);
    free(ends);
    free(texts);
    return status;
}
