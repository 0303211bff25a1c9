/* lower_context.c: attention itself, over a sequence that cp may split.
 *
 * Two ways of splitting, and both at once. Neighbours exchange heads for positions (Jacobs et al., "DeepSpeed Ulysses", 2023):
 * each gets a share of their query heads, with the kv heads that those read, at the positions of all of them. Then
 * attention's keys, which lie on all members of the ring, go round it (lower_ring.c), or are gathered (lower_gather.c). Ulysses
 * inside a ring is USP (Fang and Zhao, 2024). A rank's domain is what it attends with: heads and positions.
 *
 * Positions are in two runs at most, so that each kernel sees neighbouring queries and neighbouring keys, at global positions:
 * masks, windows and dropout are those of the whole sequence. So are documents: each rank has all tokens' (8 bytes each), which
 * spares exchanges. What a run's documents hide from it is sent all the same: lowering does not know them. */
#include "kernels/philox.h"
#include "layouts/lowering.h"

/* ---- views of the domain ------------------------------------------------------------------------- */

wf_view wf_lower_columns(wf_view m, int64_t first, int64_t count) {
    m.offset += first * m.stride[1];
    m.extent[1] = count;
    return m;
}

/* Of a run among the domain's positions. */
static wf_range places_of(const wf_lowering *L, int run) {
    const wf_range *const r = L->domain.positions.run;
    return (wf_range){run ? r[0].count : 0, r[run].count};
}

static wf_view at_places(const wf_lowering *L, wf_view m, wf_range places) {
    return wf_lower_rows(m, (wf_rows){places.first * L->b, places.count * L->b});
}

wf_view wf_lower_run(const wf_lowering *L, wf_view m, int run) {
    return at_places(L, m, places_of(L, run));
}

wf_kv wf_lower_own_keys(const wf_lowering *L, wf_view qkv, int run) {
    const int64_t d = L->model->head_size;
    return (wf_kv){wf_lower_columns(wf_lower_run(L, qkv, run), L->domain.heads.count * d, 2 * L->domain.kv.count * d),
                     L->domain.positions.run[run]};
}

/* Matrix [positions * b, columns] as [positions, b, heads, d], from its first column. */
static wf_view as_heads(const wf_lowering *L, wf_view m, int64_t heads) {
    const int64_t d = L->model->head_size;
    const int64_t extent[] = {m.extent[0] / L->b, L->b, heads, d}, stride[] = {L->b * m.stride[0], m.stride[0], d, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset, 4, extent, stride);
}

/* The heads' q, or o, of positions that stand next to each other: the first one's place among the domain's, and how many. */
static wf_view q_at(const wf_lowering *L, wf_view m, wf_range places) {
    return as_heads(L, at_places(L, m, places), L->domain.heads.count);
}

static wf_view q_of(const wf_lowering *L, wf_view m, int run) {
    return q_at(L, m, places_of(L, run));
}

static wf_view k_of(const wf_lowering *L, wf_view kv) {
    return as_heads(L, kv, L->domain.kv.count);
}

static wf_view v_of(const wf_lowering *L, wf_view kv) {
    return k_of(L, wf_lower_columns(kv, L->domain.kv.count * L->model->head_size, L->domain.kv.count * L->model->head_size));
}

/* Documents of the tokens at these positions: [positions, b, 2]. */
static wf_view spans_of(const wf_lowering *L, wf_range positions) {
    const int64_t extent[] = {positions.count, L->b, 2}, stride[] = {2 * L->b, 2, 1};
    return wf_array(L->documents, L->documents_at, positions.first * 2 * L->b, 3, extent, stride);
}

/* Matrix [b * heads, positions] as [b, heads, these positions]. */
static wf_view per_query_at(const wf_lowering *L, wf_view m, wf_range places) {
    const int64_t heads = L->domain.heads.count, all = L->domain.positions.count;
    const int64_t extent[] = {L->b, heads, places.count}, stride[] = {heads * all, all, 1};
    return wf_array(m.buffer, (wf_at)m.at, m.offset + places.first, 3, extent, stride);
}

static wf_view per_query(const wf_lowering *L, wf_view m, int run) {
    return per_query_at(L, m, places_of(L, run));
}

/* ---- kernels --------------------------------------------------------------------------------------- */

bool wf_lower_sees(const wf_lowering *L, wf_range q, wf_range k) {
    const int64_t last_q = q.first + q.count - 1, last_k = k.first + k.count - 1, window = wf_model_window(L->model, L->sequence);
    if (!q.count || !k.count || (!L->model->bidirectional && k.first > last_q)) return false;
    return !window || (q.first - last_k < window && k.first - last_q < window);
}

wf_range wf_lower_seen(const wf_lowering *L, wf_range q) {
    const int64_t window = wf_model_window(L->model, L->sequence), last = q.first + q.count - 1;
    const int64_t first = window && q.first >= window ? q.first - window + 1 : 0;
    const int64_t end = !L->model->bidirectional ? last + 1 : window && last + window < L->sequence ? last + window : L->sequence;
    return q.count ? (wf_range){first, end - first} : (wf_range){0, 0};
}

wf_positions wf_lower_held(const wf_lowering *L, int32_t place) {
    const int32_t ranks = L->ring.ranks;
    return wf_model_ring_positions(L->model, &L->layout, L->sequence, (place % ranks + ranks) % ranks);
}

bool wf_lower_needs(const wf_lowering *L, int32_t place, int32_t owner, int run) {
    const wf_positions q = wf_lower_held(L, place), kv = wf_lower_held(L, owner);
    return wf_lower_sees(L, q.run[0], kv.run[run]) || wf_lower_sees(L, q.run[1], kv.run[run]);
}

static wf_problem attention_problem(const wf_lowering *L, wf_op op, wf_range q, wf_range k, bool more) {
    const wf_model *m = L->model;
    const double p = L->training ? m->dropout_attention : 0;
    return (wf_problem){.op = op,
                        .flags = (m->bidirectional ? 0 : WF_CAUSAL) | (p > 0 ? WF_DROPOUT : 0) | (more ? WF_ACCUMULATE : 0) |
                                 (L->packed ? WF_DOCUMENTS : 0),
                        .size = {L->b, q.count, k.count, L->domain.heads.count, L->domain.kv.count, m->head_size,
                                 L->domain.heads.first, m->heads, q.first, k.first, p > 0 ? WF_SITE_ATTENTION : 0,
                                 wf_model_window(m, L->sequence), m->kv_heads == m->heads ? 0 : m->heads / m->kv_heads},
                        .real = {p}};
}

/* Queries at these places, whose first has position `first`, over some keys. */
static void attend_at(wf_lowering *L, const char *site, const wf_attended *a, wf_range places, int64_t first, const wf_kv *keys,
                      bool more) {
    const wf_range q = {first, places.count};
    if (!L->domain.heads.count || !q.count) return;
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION, q, keys->positions, more);
    wf_view views[WF_OPERANDS] = {q_at(L, a->qkv, places), k_of(L, keys->kv), v_of(L, keys->kv)};
    int n = 3;
    if (L->packed) views[n++] = spans_of(L, q);
    views[n++] = q_at(L, a->o, places);
    views[n++] = per_query_at(L, a->lse, places);
    wf_lower_kernel(L, site, &p, views, n);
}

void wf_lower_attend_run(wf_lowering *L, const char *site, const wf_attended *a, int run, const wf_kv *keys, bool more) {
    attend_at(L, site, a, places_of(L, run), L->domain.positions.run[run].first, keys, more);
}

void wf_lower_attend_run_backward(wf_lowering *L, const char *site, const wf_attended *a, int run, const wf_kv *keys,
                                  wf_view dkv, bool more) {
    const wf_range q = L->domain.positions.run[run];
    if (!L->domain.heads.count || !q.count) return;
    const wf_problem p = attention_problem(L, WF_OP_ATTENTION_BACKWARD, q, keys->positions, more);
    wf_view views[WF_OPERANDS] = {q_of(L, a->qkv, run), k_of(L, keys->kv), v_of(L, keys->kv), q_of(L, a->o, run),
                                  per_query(L, a->lse, run), per_query(L, a->delta, run)};
    int n = 6;
    if (L->packed) {
        views[n++] = spans_of(L, q);
        views[n++] = spans_of(L, keys->positions);
    }
    views[n++] = q_of(L, a->dqkv, run);
    views[n++] = k_of(L, dkv);
    views[n++] = v_of(L, dkv);
    wf_lower_kernel(L, site, &p, views, n);
}

/* ---- heads for positions --------------------------------------------------------------------------- */

/* What neighbour j has: query heads and the kv heads that they read, and rows among the domain's. */
static wf_range heads_of(const wf_lowering *L, int32_t j) {
    const wf_range part = wf_ulysses_shard(&L->layout, L->heads.count, j);
    return (wf_range){L->heads.first + part.first, part.count};
}

static wf_rows rows_of(const wf_lowering *L, int32_t j) {
    const wf_range part = wf_ulysses_shard(&L->layout, L->domain.positions.count, j);
    return (wf_rows){part.first * L->b, part.count * L->b};
}

/* Columns that neighbour j's heads take: q's, and with_keys k's and v's, of all the rank's heads and alone. */
typedef struct columns {
    int64_t all, one, count;
} columns;

static int columns_of(const wf_lowering *L, int32_t j, bool with_keys, columns out[3]) {
    const int64_t d = L->model->head_size, heads = L->heads.count, kvs = L->kv.count;
    const wf_range q = heads_of(L, j), kv = wf_model_kv_of(L->model, q);
    out[0] = (columns){(q.first - L->heads.first) * d, 0, q.count * d};
    out[1] = (columns){(heads + kv.first - L->kv.first) * d, q.count * d, kv.count * d};
    out[2] = (columns){(heads + kvs + kv.first - L->kv.first) * d, (q.count + kv.count) * d, kv.count * d};
    return with_keys ? 3 : 1;
}

static int64_t width_of(const wf_lowering *L, int32_t j, bool with_keys) {
    columns c[3];
    int64_t width = 0;
    for (int n = columns_of(L, j, with_keys, c); n-- > 0;) width += c[n].count;
    return width;
}

static void exchange(wf_lowering *L, const char *site, const wf_view *sent, const wf_view *received) {
    const wf_team *const team = &L->ulysses;
    const int32_t *const member = &L->s->members[L->s->groups[team->group].first_member];
    for (int32_t k = 1; k < team->ranks; k++) {
        const int32_t to = (team->me + k) % team->ranks, from = (team->me - k + team->ranks) % team->ranks;
        wf_build_hop(L->s, site, WF_LANE_CP, WF_ALL_TO_ALL, team->group, k, member[to], &sent[to], member[from], &received[from]);
    }
    wf_lower_flush(L);
}

/* The rank's rows with all its heads -> all rows of the neighbours with the rank's share of the heads. */
static void to_domain(wf_lowering *L, const char *site, wf_view local, bool with_keys, wf_view whole) {
    const int32_t n = L->ulysses.ranks, me = L->ulysses.me;
    wf_view sent[n], received[n];
    for (int32_t j = 0; j < n; j++) {
        columns c[3];
        received[j] = wf_lower_rows(whole, rows_of(L, j));
        sent[j] = j == me ? received[j] : wf_lower_scratch(L, site, L->rows, width_of(L, j, with_keys));
        for (int i = 0, count = columns_of(L, j, with_keys, c); i < count; i++)
            wf_lower_copy(L, site, wf_lower_columns(local, c[i].all, c[i].count),
                          wf_lower_columns(sent[j], c[i].one, c[i].count));
    }
    exchange(L, site, sent, received);
}

/* The way back; parts_out[j]: the rank's rows, with the columns of neighbour j's heads. */
static void from_domain(wf_lowering *L, const char *site, wf_view whole, bool with_keys, wf_view *parts_out) {
    const int32_t n = L->ulysses.ranks, me = L->ulysses.me;
    wf_view sent[n];
    for (int32_t j = 0; j < n; j++) {
        sent[j] = wf_lower_rows(whole, rows_of(L, j));
        parts_out[j] = j == me ? sent[j] : wf_lower_scratch(L, site, L->rows, width_of(L, j, with_keys));
    }
    exchange(L, site, sent, parts_out);
}

/* Several neighbours may read a kv head: the rank's gradient of it is the sum of theirs, in their order. From head `first` on as
 * many heads as the same neighbours read. */
static int64_t add_keys(wf_lowering *L, const wf_view *parts, int which, int64_t first, wf_view dqkv) {
    const int32_t n = L->ulysses.ranks;
    const int64_t d = L->model->head_size;
    int64_t end = L->kv.first + L->kv.count;
    wf_view from[n], to;
    int32_t readers = 0;
    for (int32_t j = 0; j < n; j++) { /* up to where the readers change */
        const wf_range kv = wf_model_kv_of(L->model, heads_of(L, j));
        if (kv.count && kv.first > first && kv.first < end) end = kv.first;
        if (kv.count && kv.first <= first && kv.first + kv.count > first && kv.first + kv.count < end) end = kv.first + kv.count;
    }
    for (int32_t j = 0; j < n; j++) {
        const wf_range q = heads_of(L, j), kv = wf_model_kv_of(L->model, q);
        if (first < kv.first || first >= kv.first + kv.count) continue;
        from[readers++] = wf_lower_columns(parts[j], (q.count + (which ? kv.count : 0) + first - kv.first) * d, (end - first) * d);
    }
    to = wf_lower_columns(dqkv, (L->heads.count + (which ? L->kv.count : 0) + first - L->kv.first) * d, (end - first) * d);
    if (readers == 1) wf_lower_copy(L, "attn.context.grad", from[0], to);
    else wf_lower_add(L, "attn.context.grad", from, readers, to);
    return end;
}

static void gradients_from_domain(wf_lowering *L, wf_view whole, wf_view dqkv) {
    const int32_t n = L->ulysses.ranks;
    wf_view parts[n];
    columns c[3];
    from_domain(L, "attn.context.grad", whole, true, parts);
    const wf_view own = wf_lower_scratch(L, "attn.context.grad", L->rows, whole.extent[1]); /* so the whole may be gone when dqkv is written */
    wf_lower_copy(L, "attn.context.grad", parts[L->ulysses.me], own);
    parts[L->ulysses.me] = own;
    for (int32_t j = 0; j < n; j++) {
        columns_of(L, j, false, c);
        wf_lower_copy(L, "attn.context.grad", wf_lower_columns(parts[j], c[0].one, c[0].count),
                      wf_lower_columns(dqkv, c[0].all, c[0].count));
    }
    for (int which = 0; which < 2; which++)
        for (int64_t head = L->kv.first; head < L->kv.first + L->kv.count;) head = add_keys(L, parts, which, head, dqkv);
}

/* ---- values and their gradients --------------------------------------------------------------------- */

void wf_lower_context(wf_lowering *L) {
    const wf_view qkv = wf_lower_need(L, WF_V_QKV);
    if (L->ulysses.ranks == 1)
        wf_lower_produced(L, WF_V_CONTEXT_QKV, qkv);
    else
        to_domain(L, "attn.context", qkv, true, wf_lower_destination(L, WF_V_CONTEXT_QKV));
}

/* Under chunks the projection's sums are on their way while attention is still at other rows. */
static bool may_wait(const wf_lowering *L) {
    return L->layout.chunks > 1 && L->sp && L->cp.ranks == 1 && !L->backward;
}

void wf_lower_attend_rows(wf_lowering *L, wf_rows rows) {
    const wf_attended a = {.qkv = L->value[WF_V_CONTEXT_QKV], .o = L->value[WF_V_ATTN], .lse = L->value[WF_V_LSE]};
    const wf_range q = {rows.first / L->b, rows.count / L->b}, seen = wf_lower_seen(L, q);
    const wf_view all = wf_lower_own_keys(L, a.qkv, 0).kv;
    const wf_kv keys = {at_places(L, all, seen), seen};
    attend_at(L, "attn", &a, q, q.first, &keys, false);
}

void wf_lower_attend(wf_lowering *L) {
    wf_attended a = {.qkv = wf_lower_need(L, WF_V_CONTEXT_QKV)};
    a.o = wf_lower_destination(L, L->ulysses.ranks == 1 ? WF_V_ATTN : WF_V_CONTEXT_O);
    a.lse = wf_lower_destination(L, WF_V_LSE);
    L->pending = may_wait(L);
    if (L->pending) return;
    if (L->ring.ranks == 1) {
        const wf_kv keys = wf_lower_own_keys(L, a.qkv, 0);
        wf_lower_attend_run(L, "attn", &a, 0, &keys, false);
    } else if (L->layout.cp_form == WF_CP_GATHER) {
        wf_lower_gathered(L, &a);
    } else {
        wf_lower_ring(L, &a);
    }
}

/* Neighbours' rows of attention's result stay here, too, in the domain's order; the rank's own are among its columns of ATTN. */
static void keep_others(wf_lowering *L, wf_view whole) {
    const wf_view kept = wf_lower_destination(L, WF_V_CONTEXT_OTHERS);
    const wf_rows own = rows_of(L, L->ulysses.me), after = {own.first + own.count, whole.extent[0] - own.first - own.count};
    wf_lower_copy(L, "attn.context.keep", wf_lower_rows(whole, (wf_rows){0, own.first}), wf_lower_rows(kept, (wf_rows){0, own.first}));
    wf_lower_copy(L, "attn.context.keep", wf_lower_rows(whole, after), wf_lower_rows(kept, (wf_rows){own.first, after.count}));
}

void wf_lower_attention(wf_lowering *L) {
    if (L->ulysses.ranks == 1) {
        wf_lower_attend(L);
        return;
    }
    const int32_t n = L->ulysses.ranks;
    const wf_view whole = wf_lower_need(L, WF_V_CONTEXT_O), out = wf_lower_destination(L, WF_V_ATTN);
    wf_view parts[n];
    columns c[3];
    from_domain(L, "attn.context.o", whole, false, parts);
    if (L->saved[WF_V_CONTEXT_OTHERS] >= 0 && !L->backward) keep_others(L, whole);
    for (int32_t j = 0; j < n; j++) {
        columns_of(L, j, false, c);
        wf_lower_copy(L, "attn.context.o", parts[j], wf_lower_columns(out, c[0].all, c[0].count));
    }
}

/* delta: every query's gradient times its result, which is o's rows at these places of the domain. */
static void deltas_at(wf_lowering *L, const wf_attended *a, wf_range places, wf_view o) {
    const wf_positions part = wf_positions_part(&L->domain.positions, places);
    for (int run = 0; run < 2 && L->domain.heads.count; run++) {
        const wf_range q = part.run[run], at = {places.first + (run ? part.run[0].count : 0), q.count};
        if (!q.count) continue;
        const wf_problem p = attention_problem(L, WF_OP_ATTENTION_DELTA, q, q, false);
        const wf_view result = wf_lower_rows(o, (wf_rows){(at.first - places.first) * L->b, at.count * L->b});
        WF_KERNEL(L, "attn.delta", &p, as_heads(L, result, L->domain.heads.count), q_at(L, a->o, at), per_query_at(L, a->delta, at));
    }
}

/* Where heads were exchanged for positions, what was kept of the result is neighbours' rows, and among ATTN's columns the own. */
static void deltas(wf_lowering *L, const wf_attended *a) {
    const wf_range all = {0, L->domain.positions.count};
    if (L->saved[WF_V_CONTEXT_OTHERS] < 0) {
        deltas_at(L, a, all, wf_lower_need(L, L->ulysses.ranks == 1 ? WF_V_ATTN : WF_V_CONTEXT_O));
        return;
    }
    const wf_range own = wf_ulysses_shard(&L->layout, all.count, L->ulysses.me);
    const int64_t end = own.first + own.count;
    const wf_view others = wf_lower_need(L, WF_V_CONTEXT_OTHERS);
    columns c[3];
    columns_of(L, L->ulysses.me, false, c);
    deltas_at(L, a, (wf_range){0, own.first}, others);
    deltas_at(L, a, own, wf_lower_columns(wf_lower_need(L, WF_V_ATTN), c[0].all, c[0].count));
    deltas_at(L, a, (wf_range){end, all.count - end}, wf_lower_rows(others, (wf_rows){own.first * L->b, (all.count - end) * L->b}));
}

/* Gradients of what attention read, for the domain. */
static void attend_backward(wf_lowering *L, const wf_attended *a) {
    if (L->ring.ranks == 1) {
        const wf_kv keys = wf_lower_own_keys(L, a->qkv, 0);
        wf_lower_attend_run_backward(L, "attn.backward", a, 0, &keys, wf_lower_own_keys(L, a->dqkv, 0).kv, false);
    } else if (L->layout.cp_form == WF_CP_GATHER) {
        wf_lower_gathered_backward(L, a);
    } else {
        wf_lower_ring_backward(L, a);
    }
}

wf_view wf_lower_context_backward(wf_lowering *L, wf_view d) {
    const int64_t rows = L->domain.positions.count * L->b, heads = L->domain.heads.count;
    wf_attended a = {.qkv = wf_lower_need(L, WF_V_CONTEXT_QKV), .lse = wf_lower_need(L, WF_V_LSE), .o = d};
    if (L->ulysses.ranks > 1) {
        a.o = wf_lower_scratch(L, "attn.context.do", rows, heads * L->model->head_size);
        to_domain(L, "attn.context.do", d, false, a.o);
    }
    a.dqkv = wf_lower_scratch(L, L->ulysses.ranks > 1 ? "attn.context.dqkv" : "attn.dqkv", rows, a.qkv.extent[1]);
    a.delta = wf_lower_scratch(L, "attn.delta", L->b * heads, L->domain.positions.count);
    deltas(L, &a);
    attend_backward(L, &a);
    if (L->ulysses.ranks == 1) return a.dqkv;
    const wf_view dqkv = wf_lower_scratch(L, "attn.dqkv", L->rows, (L->heads.count + 2 * L->kv.count) * L->model->head_size);
    gradients_from_domain(L, a.dqkv, dqkv);
    return dqkv;
}
