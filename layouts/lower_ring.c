/* lower_ring.c: attention whose keys go round the ring (Liu et al., "Ring Attention with Blockwise Transformers", 2023).
 *
 * A member keeps its queries. The blocks of keys and values pass by: at step k it attends to the block of the k-th member after
 * it, while the next one is on its way; attention merges what it finds with what it had (numerator, maximum and sum in
 * f32). Blocks go downwards, from a member to the one before it: under a causal mask the zigzag's late half of a block is
 * needed by lower members only, so it is dropped at the seam, where the usual direction would carry it on.
 *
 * A run that the next member cannot see (mask, window) stops; a later one that sees it gets it from its owner. So every run is
 * sent once to each member that needs it, and to no other. Gradients of keys start at the first member of such a chain, travel a
 * step behind their block, each member adding its own, and go home from the last. Both ends derive all this from positions.
 * Backward, the own block hides two exchanges: a run's queries with the keys of another run the first one, and each run by
 * itself, left for the end, the last way home.
 *
 * Each run is a message: attention to the first hides the second one's way, and gradients of the first go home while those of the
 * second are made. */
#include "layouts/lowering.h"

/* Keys, or gradients of keys, of one owner: the runs that are here, one after another. */
typedef struct block {
    int32_t owner; /* its place in the ring */
    bool has[2];
    wf_view kv;
} block;

/* ---- who needs what --------------------------------------------------------------------------------- */

static int32_t member(const wf_lowering *L, int32_t place) {
    return (place + 2 * L->ring.ranks) % L->ring.ranks;
}

static int32_t rank_of(const wf_lowering *L, int32_t place) {
    return L->s->members[L->s->groups[L->ring.group].first_member + member(L, place)];
}

/* Does the member k before the owner see this run of its block? */
static bool needs(const wf_lowering *L, int32_t owner, int run, int32_t k) {
    return k > 0 && k < L->ring.ranks && wf_lower_needs(L, owner - k, owner, run);
}

/* Ways of a run at step k. */
typedef enum way {
    PASSED,    /* keys: from the member that had them at step k - 1 */
    FROM_HOME, /* keys: from their owner, to a member further on */
    CARRIED,   /* gradients: from the member that had the block at step k - 1 */
    HOME       /* gradients: to the owner */
} way;

static bool takes(const wf_lowering *L, way w, int32_t owner, int run, int32_t k) {
    if (!needs(L, owner, run, k)) return false;
    switch (w) {
    case PASSED: return k == 1 || needs(L, owner, run, k - 1);
    case FROM_HOME: return k > 1 && !needs(L, owner, run, k - 1);
    case CARRIED: return needs(L, owner, run, k - 1);
    default: return !needs(L, owner, run, k + 1);
    }
}

/* ---- blocks ------------------------------------------------------------------------------------------ */

static int64_t rows_of_run(const wf_lowering *L, int32_t owner, int run) {
    return wf_lower_held(L, owner).run[run].count * L->b;
}

static wf_view run_of(const wf_lowering *L, const block *of, int run) {
    return wf_lower_rows(of->kv, (wf_rows){run && of->has[0] ? rows_of_run(L, of->owner, 0) : 0, rows_of_run(L, of->owner, run)});
}

static bool is_empty(const block *of) {
    return !of->has[0] && !of->has[1];
}

static block new_block(wf_lowering *L, const char *name, int32_t owner, const bool has[2]) {
    block out = {.owner = member(L, owner), .has = {has[0], has[1]}};
    int64_t rows = 0;
    for (int run = 0; run < 2; run++) rows += has[run] ? rows_of_run(L, owner, run) : 0;
    out.kv = wf_lower_scratch(L, name, rows, 2 * L->domain.kv.count * L->model->head_size);
    return out;
}

static block block_at(wf_lowering *L, const char *name, int32_t owner, int32_t k) {
    return new_block(L, name, owner, (bool[]){needs(L, owner, 0, k), needs(L, owner, 1, k)});
}

/* The run of `of` that takes this way at step k in the given turn of two; NULL: none. A run that goes home alone takes the second:
 * it is complete last, and what goes the other way at the same time must not wait for it. */
static const wf_view *message(const wf_lowering *L, way w, const block *of, int32_t k, int turn, wf_view *out) {
    const bool takes_way[2] = {takes(L, w, of->owner, 0, k), takes(L, w, of->owner, 1, k)};
    const bool alone = w == HOME && takes_way[0] != takes_way[1];
    const int run = alone ? takes_way[1] : turn;
    if (!takes_way[run] || (alone && turn == 0)) return NULL;
    *out = run_of(L, of, run);
    return out;
}

/* Sends what of `sent` takes the way at step k in this turn, receives what of `received` does. */
static void move(wf_lowering *L, const char *site, way w, int32_t k, int turn, const block *sent, int32_t to, const block *received,
                 int32_t from) {
    wf_view s, r;
    const wf_view *const out = message(L, w, sent, k, turn, &s), *const in = message(L, w, received, k, turn, &r);
    if (out || in)
        wf_build_hop(L->s, site, WF_LANE_CP, WF_SHIFT, L->ring.group, k, out ? rank_of(L, to) : -1, out,
                     in ? rank_of(L, from) : -1, in);
}

/* The own block as others get it; and the next one, while `now` is here. */
static block packed(wf_lowering *L, const wf_attended *a) {
    bool has[2] = {false, false};
    for (int run = 0; run < 2; run++)
        for (int32_t k = 1; k < L->ring.ranks; k++) has[run] = has[run] || needs(L, L->ring.me, run, k);
    const block own = new_block(L, "attn.ring.own", L->ring.me, has);
    for (int run = 0; run < 2; run++)
        if (has[run]) wf_lower_copy(L, "attn.ring.own", wf_lower_own_keys(L, a->qkv, run).kv, run_of(L, &own, run));
    return own;
}

static block pass(wf_lowering *L, const char *site, const block *own, const block *now, int32_t k) {
    const int32_t me = L->ring.me;
    const block next = block_at(L, site, me + k, k);
    for (int turn = 0; turn < 2; turn++) move(L, site, PASSED, k, turn, now, me - 1, &next, me + 1);
    for (int turn = 0; turn < 2; turn++) move(L, site, FROM_HOME, k, turn, own, me - k, &next, me + k);
    wf_lower_flush(L);
    return next;
}

/* ---- forward ------------------------------------------------------------------------------------------ */

static void attend_own(wf_lowering *L, const wf_attended *a) {
    for (int run = 0; run < 2; run++)
        for (int which = 0, seen = 0; which < 2; which++) {
            const wf_kv keys = wf_lower_own_keys(L, a->qkv, which);
            if (wf_lower_sees(L, L->domain.positions.run[run], keys.positions))
                wf_lower_attend_run(L, "attn", a, run, &keys, seen++ > 0);
        }
}

static void attend_block(wf_lowering *L, const wf_attended *a, const block *of) {
    const wf_positions positions = wf_lower_held(L, of->owner);
    for (int which = 0; which < 2; which++)
        for (int run = 0; run < 2 && of->has[which]; run++) {
            const wf_kv keys = {run_of(L, of, which), positions.run[which]};
            if (wf_lower_sees(L, L->domain.positions.run[run], keys.positions))
                wf_lower_attend_run(L, "attn.ring", a, run, &keys, true);
        }
}

void wf_lower_ring(wf_lowering *L, const wf_attended *a) {
    const block own = packed(L, a);
    block now = own;
    for (int32_t k = 0; k < L->ring.ranks; k++) {
        const block next = k + 1 < L->ring.ranks ? pass(L, "attn.ring.keys", &own, &now, k + 1) : own;
        if (k) attend_block(L, a, &now);
        else attend_own(L, a);
        now = next;
    }
}

/* ---- backward ----------------------------------------------------------------------------------------- */

/* Does a run see the other one of its own block? Else there is nothing to begin with but the runs themselves. */
static bool has_square(const wf_lowering *L) {
    const wf_positions *const at = &L->domain.positions;
    return wf_lower_sees(L, at->run[0], at->run[1]) || wf_lower_sees(L, at->run[1], at->run[0]);
}

/* Everything is added to: queries and keys of a run meet several times. */
static void grad_own(wf_lowering *L, const wf_attended *a, wf_view own, bool diagonal) {
    for (int run = 0; run < 2; run++)
        for (int which = 0; which < 2; which++) {
            const wf_kv keys = wf_lower_own_keys(L, a->qkv, which);
            if ((run == which) == diagonal && wf_lower_sees(L, L->domain.positions.run[run], keys.positions))
                wf_lower_attend_run_backward(L, "attn.backward", a, run, &keys, wf_lower_run(L, own, which), true);
        }
}

/* This member's part of the gradients of a run of a block. */
static void grad_run(wf_lowering *L, const wf_attended *a, const block *of, int which, const block *part) {
    const wf_kv keys = {run_of(L, of, which), wf_lower_held(L, of->owner).run[which]};
    const wf_view grad = run_of(L, part, which);
    wf_lower_fill(L, "attn.ring.grad", grad, 0);
    for (int run = 0; run < 2; run++)
        if (wf_lower_sees(L, L->domain.positions.run[run], keys.positions))
            wf_lower_attend_run_backward(L, "attn.ring.backward", a, run, &keys, grad, true);
}

/* What came home, per run. */
typedef struct returned {
    int32_t count[2];
    wf_view (*parts)[2];
} returned;

/* Step k: the gradients of a block, run by run: this member's part, added to that of the members before, and on their way home
 * where no member after it adds to them. Returns what the next member gets. */
static block grad_block(wf_lowering *L, const wf_attended *a, const block *of, int32_t k, const block *before, returned *home) {
    const int32_t me = L->ring.me, owner = of->owner;
    const block carried = new_block(L, "attn.ring.carried", owner, (bool[]){takes(L, CARRIED, owner, 0, k), takes(L, CARRIED, owner, 1, k)});
    const block part = new_block(L, "attn.ring.grad", owner, of->has);
    const block sum = is_empty(&carried) ? part : new_block(L, "attn.ring.sum", owner, of->has);
    const block back = new_block(L, "attn.ring.home", me, (bool[]){takes(L, HOME, me, 0, k), takes(L, HOME, me, 1, k)});
    for (int turn = 0; turn < 2; turn++) move(L, "attn.ring.carried", CARRIED, k, turn, before, me - 1, &carried, me + 1);
    for (int run = 0; run < 2; run++) {
        if (of->has[run]) grad_run(L, a, of, run, &part);
        if (carried.has[run])
            wf_lower_add(L, "attn.ring.sum", (wf_view[]){run_of(L, &carried, run), run_of(L, &part, run)}, 2, run_of(L, &sum, run));
        else if (of->has[run] && !is_empty(&carried))
            wf_lower_copy(L, "attn.ring.sum", run_of(L, &part, run), run_of(L, &sum, run));
        move(L, "attn.ring.home", HOME, k, run, &sum, me + k, &back, me - k);
        if (back.has[run]) home->parts[++home->count[run]][run] = run_of(L, &back, run);
    }
    return sum;
}

void wf_lower_ring_backward(wf_lowering *L, const wf_attended *a) {
    const int32_t ranks = L->ring.ranks, me = L->ring.me;
    const int64_t columns = 2 * L->domain.kv.count * L->model->head_size;
    const block own = packed(L, a);
    const wf_view grad = wf_lower_scratch(L, "attn.ring.grad", L->domain.positions.count * L->b, columns);
    wf_view parts[ranks][2];
    returned home = {.parts = parts};
    const bool square = has_square(L);
    block now = own, sum = {.owner = me};
    wf_lower_fill(L, "attn.ring.grad", grad, 0);
    wf_lower_fill(L, "attn.dq", wf_lower_columns(a->dqkv, 0, a->dqkv.extent[1] - columns), 0);
    for (int32_t k = 0; k < ranks; k++) {
        const block next = k + 1 < ranks ? pass(L, "attn.ring.keys", &own, &now, k + 1) : own;
        if (k) {
            sum = grad_block(L, a, &now, k, &sum, &home);
        } else {
            grad_own(L, a, grad, !square);
        }
        now = next;
    }
    if (square) grad_own(L, a, grad, true);
    for (int run = 0; run < 2; run++) {
        const wf_view to = wf_lower_own_keys(L, a->dqkv, run).kv;
        wf_view all[ranks];
        all[0] = wf_lower_run(L, grad, run);
        for (int32_t i = 1; i <= home.count[run]; i++) all[i] = parts[i][run];
        if (home.count[run]) wf_lower_add(L, "attn.ring.home", all, home.count[run] + 1, to);
        else wf_lower_copy(L, "attn.ring.home", all[0], to);
    }
}
