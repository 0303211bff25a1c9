/* check_closed_forms.c: the work really is split. Parameter bytes, flops and exchanged bytes of
 * every rank equal Megatron's closed forms for tensor and sequence parallelism (Shoeybi et al.
 * 2019; Korthikanti et al. 2022), written here in their exact form for shards that do not divide,
 * from the sizes alone: nothing of lowering is used but its result. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "layouts/lower.h"
#include "tests/layouts/models.h"
#include "tests/layouts/near.h"

enum {
    LAYERS = UNEVEN_LAYERS,
    B = 2 /* per microbatch */,
    MICROBATCHES = 2,
    S = 61,
    H = UNEVEN_HIDDEN,
    HEADS = UNEVEN_HEADS,
    D = UNEVEN_HEAD_SIZE,
    F = UNEVEN_FEATURES,
    V = UNEVEN_VOCABULARY,
    P = UNEVEN_POSITIONS
};
enum { R = B * S, BYTES = 4 };

static wf_model model; /* of the test */

static const struct {
    const char *text;
    int t;
    bool sp;
} layouts[] = {{"tp1.mb2", 1, false},   {"tp2.mb2", 2, false}, {"tp2.sp.mb2", 2, true},
               {"tp3.sp.mb2", 3, true}, {"tp3.sp.chunks3.mb2", 3, true}, {"tp4.chunks2.mb2", 4, false}, {"tp4.mb2", 4, false}, {"tp4.sp.mb2", 4, true},
               {"tp8.sp.mb2", 8, true} /* ranks without heads */};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

/* Balanced share of n for rank r of t. */
static int64_t share(int64_t n, int t, int r) {
    return n / t + (r < n % t);
}

static wf_schedule *schedule_of(const char *text, int r, wf_mode mode) {
    const wf_shape shape = {.batch = B * MICROBATCHES, .sequence = S};
    const wf_limits limits = {.max_alloc_bytes = {0}};
    wf_layout layout;
    wf_schedule *s;
    ck_assert_msg(wf_layout_parse(text, &layout) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_lower(&model, &shape, &layout, r, mode, &s) == WF_OK, "%s", wf_last_error());
    const wf_choices near = near_choices(&(int32_t){r});
    ck_assert_msg(wf_choose(s, &near) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_place(s, &limits) == WF_OK, "%s", wf_last_error());
    return s;
}

/* The loop runs over forms, and over layouts within a form. */
static int layout_of(int i) {
    model = uneven_model((test_form)(i / LAYOUTS));
    return i % LAYOUTS;
}

static int64_t first(int64_t n, int t, int r) {
    return n / t * r + (r < n % t ? r : n % t);
}

/* Does rank r have a query head of kv head k's group? */
static bool holds(int t, int r, int64_t k) {
    const int64_t group = HEADS / model.kv_heads, from = first(HEADS, t, r);
    return share(HEADS, t, r) && from < (k + 1) * group && from + share(HEADS, t, r) > k * group;
}

static int64_t kv_heads(int t, int r) {
    int64_t n = 0;
    for (int64_t k = 0; k < model.kv_heads; k++) n += holds(t, r, k);
    return n;
}

/* Elements of a norm, and what its model has outside layers on every rank. */
static int64_t norm_elements(void) {
    return model.norm == WF_RMSNORM ? H : 2 * H;
}

static int64_t replicated_outside(void) {
    const bool transform = model.head_form == WF_HEAD_TRANSFORM;
    return (model.post_norm ? 0 : norm_elements()) + model.types * H +
           (model.embedding_norm ? norm_elements() : 0) +
           (transform ? H * H + H + norm_elements() : 0);
}

static int64_t positions(void) {
    return model.position_form == WF_POSITIONS_LEARNED ? P : 0;
}

START_TEST(parameter_bytes) {
    const int l = layout_of(_i), t = layouts[l].t;
    const int bias = model.biases != 0, fc1 = model.gated ? 2 : 1;
    const int64_t head = (model.tied_head ? 0 : H) + (model.head_form == WF_HEAD_TRANSFORM);
    for (int r = 0; r < t; r++) {
        wf_schedule *s = schedule_of(layouts[l].text, r, WF_MODE_TRAIN);
        wf_bytes bytes;
        wf_schedule_measure(s, &bytes);
        const int64_t a = share(HEADS, t, r) * D, f = fc1 * share(F, t, r);
        const int64_t qkv = a + 2 * kv_heads(t, r) * D;
        const int64_t layer = 2 * norm_elements() + qkv * (H + bias) + H * (a + bias) +
                              f * (H + bias) + H * (share(F, t, r) + bias);
        const int64_t parameters = share(V, t, r) * (H + head) + positions() * H +
                                   LAYERS * layer + replicated_outside();
        ck_assert_int_eq(bytes.by_class[WF_CLASS_PARAMETER], BYTES * parameters);
        ck_assert_int_eq(bytes.by_class[WF_CLASS_GRADIENT], BYTES * parameters);
        ck_assert_int_eq(bytes.by_class[WF_CLASS_OPTIMIZER], 2 * BYTES * parameters);
        wf_schedule_destroy(s);
    }
}
END_TEST

/* Pairs (query, key) that see each other. Causal, the first w queries see 1, 2, ..., w keys and the others w; both
 * ways, every pair less than w apart: S with themselves, and 2 (S - k) that are k apart. */
static int64_t visible_pairs(void) {
    const int64_t w = model.window ? model.window : S;
    return model.bidirectional ? S * (2 * w - 1) - w * (w - 1) : w * (w + 1) / 2 + (S - w) * w;
}

/* Forward, dgrad and wgrad of each linear layer and of the head; attention on the pairs that see each
 * other: two products forward, five backward. */
START_TEST(flops) {
    const int l = layout_of(_i), t = layouts[l].t;
    const int64_t pairs = visible_pairs();
    for (int r = 0; r < t; r++) {
        wf_schedule *s = schedule_of(layouts[l].text, r, WF_MODE_TRAIN);
        wf_work work;
        wf_schedule_count(s, &work);
        const int64_t heads = share(HEADS, t, r), a = heads * D, f = share(F, t, r);
        const int64_t columns = 2 * a + 2 * kv_heads(t, r) * D + (model.gated ? 3 : 2) * f;
        const int64_t own = layouts[l].sp ? B * share(S, t, r) : R;
        const int64_t gemm = 3 * 2 * R * H * (LAYERS * columns + share(V, t, r)) +
                             (model.head_form == WF_HEAD_TRANSFORM ? 3 * 2 * own * H * H : 0);
        const int64_t product = 2 * B * heads * D * pairs * LAYERS;
        ck_assert_int_eq((int64_t)work.flops[WF_OP_GEMM], MICROBATCHES * gemm);
        ck_assert_int_eq((int64_t)work.flops[WF_OP_ATTENTION], MICROBATCHES * 2 * product);
        ck_assert_int_eq((int64_t)work.flops[WF_OP_ATTENTION_BACKWARD], MICROBATCHES * 5 * product);
        wf_schedule_destroy(s);
    }
}
END_TEST

/* Elements that rank r sends. One all-gather of the tokens' hidden states: its rows to all others;
 * one reduce-scatter: all rows but its own. */
typedef struct sent {
    int64_t gather, scatter;
} sent;

/* Adding a vector up over m ranks, of which this is number i. */
static void add_up(sent *e, int64_t times, int64_t n, int m, int i) {
    e->gather += times * (m - 1) * share(n, m, i);
    e->scatter += times * (n - share(n, m, i));
}

/* Of k and v, weight and bias, of each kv head that other ranks hold too. */
static void add_up_kv_heads(sent *e, int t, int r) {
    const int64_t each = 2 * D * (H + (model.biases & WF_BIAS_QKV ? 1 : 0));
    for (int64_t k = 0; k < model.kv_heads; k++) {
        int m = 0, i = 0;
        for (int other = 0; other < t; other++) {
            m += holds(t, other, k);
            i += other < r && holds(t, other, k);
        }
        if (holds(t, r, k) && m > 1) add_up(e, LAYERS, each, m, i);
    }
}

static int64_t tensors(void) {
    wf_parameter_info table[WF_TENSORS];
    int64_t n = 0;
    wf_model_parameters(&model, table);
    for (int i = 0; i < WF_TENSORS; i++) n += table[i].rows > 0;
    return n;
}

static int64_t layer_vectors(void) {
    return 2 * norm_elements() + (model.biases ? 2 * H : 0);
}

static sent expected(int t, int r, bool sp, bool training) {
    const int64_t own = sp ? B * share(S, t, r) : share(R, t, r); /* rows */
    const int64_t ag = (t - 1) * own * H, rs = (R - own) * H, stats = (t - 1) * 3 * R;
    const int64_t gathers =
        sp ? (training ? 6 : 2) : (training ? 4 : 2); /* per layer; sp gathers again backward */
    const int64_t scatters = training ? 4 : 2;
    sent e = {MICROBATCHES * (LAYERS * gathers * ag + stats),
              MICROBATCHES * LAYERS * scatters * rs};
    /* embedding: sum forward, gradient rows gathered backward (sp); head: gather and its conjugate
     * (sp), or the one all-reduce of the gradient */
    e.gather += MICROBATCHES * (training ? 2 : 1) * ag;
    e.scatter += MICROBATCHES * (training ? 2 : 1) * rs;
    if (!training) return e;
    e.gather += (t - 1) * tensors(); /* squares of the norm */
    add_up_kv_heads(&e, t, r);
    if (!sp) return e;
    add_up(&e, LAYERS, layer_vectors(), t, r); /* norms and row-parallel biases */
    add_up(&e, 1, replicated_outside(), t, r);
    if (positions()) e.gather += (t - 1) * share(S, t, r) * H; /* each rank's own */
    return e;
}

START_TEST(exchanged_bytes) {
    const int l = layout_of(_i), t = layouts[l].t;
    int64_t all = 0;
    for (int training = 0; training < 2; training++)
        for (int r = 0; r < t; r++) {
            wf_schedule *s =
                schedule_of(layouts[l].text, r, training ? WF_MODE_TRAIN : WF_MODE_EVALUATE);
            wf_work work;
            wf_schedule_count(s, &work);
            const sent e = t > 1 ? expected(t, r, layouts[l].sp, training) : (sent){0};
            ck_assert_int_eq(work.sent_bytes[WF_ALL_GATHER], BYTES * e.gather);
            ck_assert_int_eq(work.sent_bytes[WF_REDUCE_SCATTER], BYTES * e.scatter);
            for (int c = WF_ALL_TO_ALL; c < WF_COLLECTIVES; c++)
                ck_assert_int_eq(work.sent_bytes[c], 0);
            if (training)
                all += work.sent_bytes[WF_ALL_GATHER] + work.sent_bytes[WF_REDUCE_SCATTER];
            wf_schedule_destroy(s);
        }
    /* On average over ranks a layer and microbatch send 8 (with sp: 10) c(t) S B h, c(t) = (t - 1)
     * / t: what one more layer adds beyond that is only the sum of its replicated vectors. */
    const int64_t layers =
        (int64_t)LAYERS * MICROBATCHES * (layouts[l].sp ? 10 : 8) * (t - 1) * R * H * BYTES;
    ck_assert_int_ge(all, layers);
}
END_TEST

/* The published form itself, as the difference between three layers and two. */
START_TEST(one_more_layer_sends_megatrons_volume) {
    const int l = layout_of(_i), t = layouts[l].t;
    const wf_shape shape = {.batch = B * MICROBATCHES, .sequence = S};
    int64_t more = 0;
    for (int layers = 2; layers < 4; layers++)
        for (int r = 0; r < t; r++) {
            wf_model m = model;
            wf_layout layout;
            wf_schedule *s;
            wf_work work;
            m.layers = layers;
            wf_layout_parse(layouts[l].text, &layout);
            ck_assert_msg(wf_lower(&m, &shape, &layout, r, WF_MODE_TRAIN, &s) == WF_OK, "%s",
                          wf_last_error());
            wf_schedule_count(s, &work);
            more += (layers == 3 ? 1 : -1) *
                    (work.sent_bytes[WF_ALL_GATHER] + work.sent_bytes[WF_REDUCE_SCATTER]);
            wf_schedule_destroy(s);
        }
    const int64_t volume =
        (layouts[l].sp ? 10 : 8) * (int64_t)(t - 1) * R * H;                  /* t c(t) = t - 1 */
    const int64_t vectors = layouts[l].sp ? 2 * (int64_t)(t - 1) * layer_vectors() : 0; /* once per step */
    int64_t heads = 0; /* of kv, on several ranks */
    for (int r = 0; r < t; r++) {
        sent e = {0};
        add_up_kv_heads(&e, t, r);
        heads += (e.gather + e.scatter) / LAYERS;
    }
    ck_assert_int_eq(more, BYTES * (MICROBATCHES * volume + vectors + heads));
}
END_TEST

/* ---- context parallelism ---------------------------------------------------------------------------------------- */

static const struct {
    const char *text;
    int t, ring, ulysses; /* ring > 1: keys go round, or are gathered */
    bool gather;
} contexts[] = {{"cp2ring.mb2", 1, 2, 1, false},    {"cp5ring.mb2", 1, 5, 1, false},         {"cp8ring.mb2", 1, 8, 1, false},
                {"tp2.cp3ring.mb2", 2, 3, 1, false}, {"cp2gather.mb2", 1, 2, 1, true},        {"tp2.sp.cp5gather.mb2", 2, 5, 1, true},
                {"cp2ulysses.mb2", 1, 1, 2, false},  {"tp2.sp.cp4ulysses.mb2", 2, 1, 4, false}, {"cp8ulysses.mb2", 1, 1, 8, false},
                {"cp4usp2.mb2", 1, 2, 2, false},     {"cp6usp3.mb2", 1, 2, 3, false},         {"tp2.cp6usp2.mb2", 2, 3, 2, false}};
enum { CONTEXTS = sizeof contexts / sizeof *contexts };

static int context_of(int i) {
    model = uneven_model((test_form)(i / CONTEXTS));
    return i % CONTEXTS;
}

/* What attention sends over cp in the whole program. */
static int64_t sent_by_attention(const wf_schedule *s) {
    wf_cursor *cursor;
    wf_instance at;
    int64_t bytes = 0;
    ck_assert_int_eq(wf_cursor_create(s, &cursor), WF_OK);
    while (wf_cursor_next(cursor, &at))
        if (at.step->kind == WF_STEP_EXCHANGE && at.step->lane == WF_LANE_CP && at.step->reads && strncmp(at.step->site, "attn.", 5) == 0)
            bytes += wf_view_bytes(s, &s->views[at.step->view]);
    wf_cursor_destroy(cursor);
    return bytes;
}

/* Kv heads that some query heads read. */
static int64_t kv_read(int64_t first_head, int64_t heads) {
    const int64_t group = HEADS / model.kv_heads;
    return heads ? (first_head + heads - 1) / group - first_head / group + 1 : 0;
}

/* Positions of ring member q: the causal mask's early and late chunk, or its share. */
static int64_t early(int n, int q) {
    return model.bidirectional ? share(S, n, q) : share(S, 2 * n, q);
}

static int64_t late(int n, int q) {
    return model.bidirectional ? 0 : share(S, 2 * n, 2 * n - 1 - q);
}

/* Positions whose keys, and whose keys' gradients, member q sends. Everybody needs the early chunks, lower members the late ones
 * too. Gathered: each to all that need it. Ring: on to the member before, if that or one behind it needs it: not from the last one,
 * q + 1 of early chunks, 0 of late ones. Gradients leave each member that needed the keys once. */
static void ring_positions(int n, int q, bool gather, int64_t *keys, int64_t *gradients) {
    *keys = gather ? (n - 1) * early(n, q) + q * late(n, q) : 0;
    *gradients = 0;
    for (int o = 0; o < n; o++) {
        if (!gather && (o + 1) % n != q) *keys += early(n, o);
        if (!gather && q > 0 && o >= q) *keys += late(n, o);
        if (o != q) *gradients += early(n, o);
        if (o > q) *gradients += late(n, o);
    }
}

/* Elements per position and sample: heads' q, and k and v, that neighbours swap for positions. */
static int64_t swapped(int l, int tp_rank, int ring, int u, bool training) {
    const int n = contexts[l].ulysses, t = contexts[l].t;
    const int64_t from = first(HEADS, t, tp_rank), heads = share(HEADS, t, tp_rank);
    const int64_t domain = contexts[l].ring > 1 ? early(contexts[l].ring, ring) + late(contexts[l].ring, ring) : S;
    int64_t sum = 0;
    for (int j = 0; j < n; j++) {
        if (j == u) continue;
        const int64_t mine = share(domain, n, u), theirs = share(domain, n, j);
        const int64_t his = share(heads, n, j), own = share(heads, n, u);
        const int64_t his_kv = kv_read(from + first(heads, n, j), his), own_kv = kv_read(from + first(heads, n, u), own);
        sum += mine * (his + 2 * his_kv) + theirs * own;                            /* q, k, v there, the result back */
        if (training) sum += mine * his + theirs * (own + 2 * own_kv);              /* its gradient there, theirs back */
    }
    return sum * D;
}

/* Does a query of one range see a key of the other? Pair by pair. */
static bool see(int64_t q, int64_t nq, int64_t k, int64_t nk) {
    const int64_t w = model.window ? model.window : S;
    for (int64_t i = q; i < q + nq; i++)
        for (int64_t j = k; j < k + nk; j++)
            if ((model.bidirectional || j <= i) && i - j < w && j - i < w) return true;
    return false;
}

/* Positions of all early or late chunks, once for each other member that sees them: what all members together send. */
static int64_t positions_seen(int n) {
    const int parts = model.bidirectional ? n : 2 * n;
    int64_t sum = 0;
    for (int c = 0; c < parts; c++)
        for (int q = 0; q < n; q++) {
            const int owner = c < n ? c : 2 * n - 1 - c, other = 2 * n - 1 - q;
            const bool sees = see(first(S, parts, q), share(S, parts, q), first(S, parts, c), share(S, parts, c)) ||
                              (other < parts && see(first(S, parts, other), share(S, parts, other), first(S, parts, c), share(S, parts, c)));
            if (q != owner && sees) sum += share(S, parts, c);
        }
    return sum;
}

/* With windows, too: keys go forward and backward, gradients backward, to members that see the keys and to no other. */
START_TEST(attention_sends_what_is_seen) {
    const int l = context_of(_i), n = contexts[l].ring;
    int64_t all = 0;
    if (n == 1 || contexts[l].t > 1 || contexts[l].ulysses > 1) return;
    for (int r = 0; r < n; r++) {
        wf_schedule *const s = schedule_of(contexts[l].text, r, WF_MODE_TRAIN);
        all += sent_by_attention(s);
        wf_schedule_destroy(s);
    }
    ck_assert_int_eq(all, BYTES * B * MICROBATCHES * LAYERS * 2 * model.kv_heads * D * 3 * positions_seen(n));
}
END_TEST

START_TEST(attention_sends_its_closed_form) {
    const int l = context_of(_i), t = contexts[l].t, cp = contexts[l].ring * contexts[l].ulysses;
    if (model.window && contexts[l].ring > 1) return; /* see attention_sends_what_is_seen */
    for (int training = 0; training < 2; training++)
        for (int r = 0; r < t * cp; r++) {
            wf_schedule *const s = schedule_of(contexts[l].text, r, training ? WF_MODE_TRAIN : WF_MODE_EVALUATE);
            const int tp_rank = r % t, ring = r / t / contexts[l].ulysses, u = r / t % contexts[l].ulysses;
            const int64_t heads = share(HEADS, t, tp_rank), part = share(heads, contexts[l].ulysses, u);
            const int64_t kv = kv_read(first(HEADS, t, tp_rank) + first(heads, contexts[l].ulysses, u), part);
            int64_t keys = 0, gradients = 0;
            if (contexts[l].ring > 1) ring_positions(contexts[l].ring, ring, contexts[l].gather, &keys, &gradients);
            const int64_t elements = 2 * kv * D * (training ? 2 * keys + gradients : keys) + swapped(l, tp_rank, ring, u, training);
            ck_assert_int_eq(sent_by_attention(s), BYTES * B * MICROBATCHES * LAYERS * elements);
            wf_schedule_destroy(s);
        }
}
END_TEST

/* No more than the best of others send (per rank, on average, elements): ring 2 Hkv d B S c(N) forward, and again with as many
 * gradients backward; gather the same; ulysses (2 H + 2 max(Hkv, N)) d B S / N c(N) each way. */
START_TEST(attention_sends_no_more_than_others) {
    const int l = context_of(_i), t = contexts[l].t, n = contexts[l].ring, m = contexts[l].ulysses;
    if (t > 1 || HEADS % m || (model.kv_heads % m && m % model.kv_heads)) return; /* no split of others */
    int64_t all = 0;
    for (int r = 0; r < n * m; r++) {
        wf_schedule *const s = schedule_of(contexts[l].text, r, WF_MODE_TRAIN);
        all += sent_by_attention(s);
        wf_schedule_destroy(s);
    }
    const int64_t kv = model.kv_heads > m ? model.kv_heads : m;
    const int64_t swaps = 2 * (2 * HEADS + 2 * kv) * D * S * (m - 1);           /* over all ranks; / m, m ranks, r rings' parts */
    const int64_t round = n > 1 ? 6 * kv * D * (int64_t)S * (n - 1) : 0;        /* of kv / m heads each, m times */
    const int64_t most = BYTES * B * MICROBATCHES * LAYERS * (swaps / m + round);
    ck_assert_msg(all <= most, "%s: %lld bytes, others send %lld", contexts[l].text, (long long)all, (long long)most);
}
END_TEST

/* Under a causal mask the zigzag gives every member the same work in attention, to a chunk's remainder. */
START_TEST(zigzag_is_balanced) {
    const struct {
        const char *layout;
        int64_t sequence;
        double most;
    } cases[] = {{"cp4ring", 4096, 1}, {"cp4gather", 4096, 1}, {"cp8usp2", 4096, 1}, {"cp4ring", 4099, 1.03}, {"cp4ring", 1000, 1.03}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const wf_shape shape = {.batch = 1, .sequence = cases[i].sequence};
        wf_model m = uneven_model(TEST_GPT2);
        double sum = 0, worst = 0;
        wf_layout layout;
        m.positions = 8192, m.heads = m.kv_heads = 8;
        wf_layout_parse(cases[i].layout, &layout);
        const int32_t ranks = wf_layout_ranks(&layout);
        for (int32_t r = 0; r < ranks; r++) {
            wf_schedule *s;
            wf_work work;
            ck_assert_msg(wf_lower(&m, &shape, &layout, r, WF_MODE_TRAIN, &s) == WF_OK, "%s", wf_last_error());
            wf_schedule_count(s, &work);
            const double flops = work.flops[WF_OP_ATTENTION] + work.flops[WF_OP_ATTENTION_BACKWARD];
            sum += flops;
            if (flops > worst) worst = flops;
            wf_schedule_destroy(s);
        }
        ck_assert_msg(worst <= cases[i].most * sum / ranks, "%s, %lld: the slowest has %.4f of the mean", cases[i].layout,
                      (long long)cases[i].sequence, worst * ranks / sum);
    }
}
END_TEST

/* Ranks of unlike speed: each has flops in proportion to its share, of every kind. */
START_TEST(shares_share_the_work) {
    const struct {
        const char *layout;
        int32_t ranks, share[3], all;
    } cases[] = {{"cp3ring.cp-shares1-4-3", 3, {1, 4, 3}, 8}, {"cp3gather.cp-shares1-4-3", 3, {1, 4, 3}, 8},
                 {"tp2.tp-shares3-1", 2, {3, 1}, 4}, {"tp2.tp-shares3-1.sp", 2, {3, 1}, 4}, {"cp2ulysses.cp-shares1-3", 2, {1, 3}, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wf_model m = uneven_model(TEST_GPT2);
        const wf_shape shape = {.batch = 1, .sequence = 4096};
        wf_work work[3];
        wf_layout layout;
        double gemm = 0, attention = 0;
        m.positions = 4096, m.heads = m.kv_heads = 8, m.features = 96, m.vocabulary = 96;
        ck_assert_msg(wf_layout_parse(cases[i].layout, &layout) == WF_OK, "%s", wf_last_error());
        for (int32_t r = 0; r < cases[i].ranks; r++) {
            wf_schedule *s;
            ck_assert_msg(wf_lower(&m, &shape, &layout, r, WF_MODE_TRAIN, &s) == WF_OK, "%s", wf_last_error());
            wf_schedule_count(s, &work[r]);
            gemm += work[r].flops[WF_OP_GEMM], attention += work[r].flops[WF_OP_ATTENTION_BACKWARD];
            wf_schedule_destroy(s);
        }
        for (int32_t r = 0; r < cases[i].ranks; r++) {
            const double share = (double)cases[i].share[r] / cases[i].all;
            ck_assert_msg(fabs(work[r].flops[WF_OP_GEMM] / gemm - share) < 0.001 * share, "%s, rank %d: %g of the products", cases[i].layout, r,
                          work[r].flops[WF_OP_GEMM] / gemm);
            ck_assert_msg(fabs(work[r].flops[WF_OP_ATTENTION_BACKWARD] / attention - share) < 0.002 * share, "%s, rank %d: %g of attention",
                          cases[i].layout, r, work[r].flops[WF_OP_ATTENTION_BACKWARD] / attention);
        }
    }
}
END_TEST

/* N ranks have the memory for sequences N times as long, within 5%: of a network whose layers' kept values outweigh what one of
 * them works with, the ranks' activations are hardly more than one rank's. */
static int64_t most_activations(const wf_model *m, const char *text, int64_t tokens) {
    const wf_shape shape = {.batch = 1, .sequence = tokens};
    int64_t most = 0;
    wf_layout layout;
    ck_assert_msg(wf_layout_parse(text, &layout) == WF_OK, "%s", wf_last_error());
    for (int32_t r = 0; r < wf_layout_ranks(&layout); r++) {
        wf_schedule *s;
        wf_bytes bytes;
        ck_assert_msg(wf_lower(m, &shape, &layout, r, WF_MODE_TRAIN, &s) == WF_OK && wf_choose(s, &(wf_choices){0}) == WF_OK &&
                          wf_place(s, &(wf_limits){0}) == WF_OK,
                      "%s", wf_last_error());
        wf_schedule_measure(s, &bytes);
        if (bytes.by_class[WF_CLASS_ACTIVATION] > most) most = bytes.by_class[WF_CLASS_ACTIVATION];
        wf_schedule_destroy(s);
    }
    return most;
}

START_TEST(memory_grows_with_the_ranks) {
    enum { TOKENS = 4096 };
    const char *const layouts[] = {"cp2ring",    "cp4ring",    "cp8ring",    "cp4gather", "cp2ulysses", "cp3ring",
                                   "cp4ulysses", "cp8ulysses", "cp4usp2",    "cp8usp2",   "cp8ulysses.recompute-attention"};
    wf_model m = uneven_model(TEST_LLAMA);
    m.layers = 24, m.hidden = 1024, m.heads = m.kv_heads = 16, m.head_size = 64, m.features = 2816, m.positions = 8 * TOKENS;
    const int64_t one = most_activations(&m, "tp1", TOKENS);
    for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
        wf_layout layout;
        ck_assert_int_eq(wf_layout_parse(layouts[i], &layout), WF_OK);
        const int64_t most = most_activations(&m, layouts[i], wf_layout_ranks(&layout) * TOKENS);
        ck_assert_msg(0.95 * (double)most <= (double)one, "%s: %.4f of one rank's activations", layouts[i], (double)most / (double)one);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("closed_forms");
    TCase *tests = tcase_create("closed_forms");
    tcase_add_loop_test(tests, parameter_bytes, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, flops, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, exchanged_bytes, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, one_more_layer_sends_megatrons_volume, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, attention_sends_its_closed_form, 0, CONTEXTS * TEST_FORMS);
    tcase_add_loop_test(tests, attention_sends_what_is_seen, 0, CONTEXTS * TEST_FORMS);
    tcase_add_loop_test(tests, attention_sends_no_more_than_others, 0, CONTEXTS * TEST_FORMS);
    tcase_add_test(tests, zigzag_is_balanced);
    tcase_add_test(tests, shares_share_the_work);
    tcase_add_test(tests, memory_grows_with_the_ranks);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
