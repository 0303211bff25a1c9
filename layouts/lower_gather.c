/* lower_gather.c: attention whose keys and values are gathered over the ring (as Llama 3 was trained: Dubey et al., 2024,
 * section 3.3.2): one exchange instead of one a step, for memory of the whole sequence's keys. Backward gathers them again, and
 * each member's gradients of them go to their owners, who add them up in the members' order.
 *
 * A run is sent to the members that see it (mask, window) and to no other; it lands at its place in the sequence, so that a run of
 * queries attends once, to all keys that it sees. */
#include "layouts/lowering.h"

/* Rows of a matrix of the whole sequence. */
static wf_view at_positions(const wf_lowering *L, wf_view whole, wf_range positions) {
    return wf_lower_rows(whole, (wf_rows){positions.first * L->b, positions.count * L->b});
}

/* The k-th member after, or before, and its rank. */
static int32_t place_at(const wf_lowering *L, int32_t k, int32_t *rank_out) {
    const int32_t place = (L->ring.me + k + L->ring.ranks) % L->ring.ranks;
    *rank_out = L->s->members[L->s->groups[L->ring.group].first_member + place];
    return place;
}

static wf_view whole_keys(wf_lowering *L, const char *name) {
    return wf_lower_scratch(L, name, L->sequence * L->b, 2 * L->domain.kv.count * L->model->head_size);
}

static wf_view gather(wf_lowering *L, const wf_attended *a) {
    const wf_view whole = whole_keys(L, "attn.keys");
    for (int run = 0; run < 2; run++) {
        const wf_kv own = wf_lower_own_keys(L, a->qkv, run);
        wf_lower_copy(L, "attn.keys", own.kv, at_positions(L, whole, own.positions));
    }
    for (int32_t k = 1; k < L->ring.ranks; k++)
        for (int run = 0; run < 2; run++) {
            int32_t to, from;
            const int32_t after = place_at(L, k, &to), before = place_at(L, -k, &from);
            const wf_view sent = at_positions(L, whole, L->domain.positions.run[run]);
            const wf_view received = at_positions(L, whole, wf_lower_held(L, before).run[run]);
            const bool out = wf_lower_needs(L, after, L->ring.me, run), in = wf_lower_needs(L, L->ring.me, before, run);
            if (out || in)
                wf_build_hop(L->s, "attn.keys.gather", WF_LANE_CP, WF_ALL_GATHER, L->ring.group, k, out ? to : -1,
                             out ? &sent : NULL, in ? from : -1, in ? &received : NULL);
        }
    wf_lower_flush(L);
    return whole;
}

/* All keys that any query of a run sees. */
static wf_kv keys_of(const wf_lowering *L, wf_view whole, wf_range q) {
    const wf_range seen = wf_lower_seen(L, q);
    return (wf_kv){at_positions(L, whole, seen), seen};
}

void wf_lower_gathered(wf_lowering *L, const wf_attended *a) {
    const wf_view whole = gather(L, a);
    for (int run = 0; run < 2; run++) {
        const wf_kv keys = keys_of(L, whole, L->domain.positions.run[run]);
        wf_lower_attend_run(L, "attn", a, run, &keys, false);
    }
}

/* The gradients of the rank's keys: its own part and those of the members that saw them, in the members' order. */
static void scatter(wf_lowering *L, const wf_attended *a, wf_view grads) {
    const int32_t ranks = L->ring.ranks, me = L->ring.me;
    wf_view parts[2][ranks];
    bool has[2][ranks];
    for (int run = 0; run < 2; run++) {
        has[run][me] = true;
        parts[run][me] = at_positions(L, grads, L->domain.positions.run[run]);
    }
    for (int32_t k = 1; k < ranks; k++)
        for (int run = 0; run < 2; run++) {
            int32_t to, from;
            const int32_t after = place_at(L, k, &to), before = place_at(L, -k, &from);
            const wf_view sent = at_positions(L, grads, wf_lower_held(L, after).run[run]);
            const bool out = wf_lower_needs(L, me, after, run), in = has[run][before] = wf_lower_needs(L, before, me, run);
            if (in)
                parts[run][before] = wf_lower_scratch(L, "attn.keys.landing", L->domain.positions.run[run].count * L->b, grads.extent[1]);
            if (out || in)
                wf_build_hop(L->s, "attn.keys.scatter", WF_LANE_CP, WF_REDUCE_SCATTER, L->ring.group, k, out ? to : -1,
                             out ? &sent : NULL, in ? from : -1, in ? &parts[run][before] : NULL);
        }
    wf_lower_flush(L);
    for (int run = 0; run < 2; run++) {
        wf_view all[ranks];
        int32_t count = 0;
        for (int32_t i = 0; i < ranks; i++)
            if (has[run][i]) all[count++] = parts[run][i];
        wf_lower_add(L, "attn.keys.sum", all, count, wf_lower_own_keys(L, a->dqkv, run).kv);
    }
}

void wf_lower_gathered_backward(wf_lowering *L, const wf_attended *a) {
    const wf_view whole = gather(L, a), grads = whole_keys(L, "attn.keys.grad");
    wf_lower_fill(L, "attn.keys.grad", grads, 0);
    wf_lower_fill(L, "attn.dq", wf_lower_columns(a->dqkv, 0, a->dqkv.extent[1] - grads.extent[1]), 0);
    for (int run = 0; run < 2; run++) {
        const wf_kv keys = keys_of(L, whole, L->domain.positions.run[run]);
        wf_lower_attend_run_backward(L, "attn.backward", a, run, &keys, at_positions(L, grads, keys.positions), true);
    }
    scatter(L, a, grads);
}
