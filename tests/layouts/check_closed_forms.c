/* check_closed_forms.c: the work really is split. Parameter bytes, flops and exchanged bytes of
 * every rank equal Megatron's closed forms for tensor and sequence parallelism (Shoeybi et al.
 * 2019; Korthikanti et al. 2022), written here in their exact form for shards that do not divide,
 * from the sizes alone: nothing of lowering is used but its result. */
#include <check.h>
#include <stdio.h>

#include "layouts/lower.h"
#include "tests/layouts/models.h"

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
               {"tp3.sp.mb2", 3, true}, {"tp4.mb2", 4, false}, {"tp4.sp.mb2", 4, true},
               {"tp8.sp.mb2", 8, true} /* ranks without heads */};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

/* Balanced share of n for rank r of t. */
static int64_t share(int64_t n, int t, int r) {
    return n / t + (r < n % t);
}

static wf_schedule *schedule_of(const char *text, int r, wf_mode mode) {
    const wf_shape shape = {B * MICROBATCHES, S};
    const wf_limits limits = {.max_alloc_bytes = {0}};
    wf_layout layout;
    wf_schedule *s;
    ck_assert_msg(wf_layout_parse(text, &layout) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_lower(&model, &shape, &layout, r, mode, &s) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_choose(s, NULL) == WF_OK, "%s", wf_last_error());
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
    const wf_shape shape = {B * MICROBATCHES, S};
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

int main(void) {
    Suite *suite = suite_create("closed_forms");
    TCase *tests = tcase_create("closed_forms");
    tcase_add_loop_test(tests, parameter_bytes, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, flops, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, exchanged_bytes, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, one_more_layer_sends_megatrons_volume, 0, LAYOUTS * TEST_FORMS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
