/* check_closed_forms.c: the work really is split. Parameter bytes, flops and exchanged bytes of
 * every rank equal Megatron's closed forms for tensor and sequence parallelism (Shoeybi et al.
 * 2019; Korthikanti et al. 2022), written here in their exact form for shards that do not divide,
 * from the sizes alone: nothing of lowering is used but its result. */
#include <check.h>
#include <stdio.h>

#include "layouts/lower.h"

enum {
    LAYERS = 2,
    B = 2 /* per microbatch */,
    MICROBATCHES = 2,
    S = 61,
    H = 96,
    HEADS = 6,
    D = 16,
    F = 250,
    V = 257,
    P = 64
};
enum { R = B * S, BYTES = 4 };

static const wf_model model = {.layers = LAYERS,
                               .hidden = H,
                               .heads = HEADS,
                               .kv_heads = HEADS,
                               .head_size = D,
                               .features = F,
                               .vocabulary = V,
                               .positions = P,
                               .activation = WF_ACT_GELU_TANH,
                               .norm_epsilon = 1e-5,
                               .init_std = 0.02,
                               .dropout_embedding = 0.1,
                               .dropout_attention = 0.1,
                               .dropout_residual = 0.1,
                               .tied_head = true, .biases = WF_BIASES_ALL};

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

START_TEST(parameter_bytes) {
    const int t = layouts[_i].t;
    for (int r = 0; r < t; r++) {
        wf_schedule *s = schedule_of(layouts[_i].text, r, WF_MODE_TRAIN);
        wf_bytes bytes;
        wf_schedule_measure(s, &bytes);
        const int64_t a = share(HEADS, t, r) * D, f = share(F, t, r);
        const int64_t layer = 4 * H                           /* two norms */
                              + 3 * a * H + 3 * a + H * a + H /* attention */
                              + f * H + f + H * f + H;        /* MLP */
        const int64_t parameters = share(V, t, r) * H + P * H + LAYERS * layer + 2 * H;
        ck_assert_int_eq(bytes.by_class[WF_CLASS_PARAMETER], BYTES * parameters);
        ck_assert_int_eq(bytes.by_class[WF_CLASS_GRADIENT], BYTES * parameters);
        ck_assert_int_eq(bytes.by_class[WF_CLASS_OPTIMIZER], 2 * BYTES * parameters);
        wf_schedule_destroy(s);
    }
}
END_TEST

/* Forward, dgrad and wgrad of each linear layer and of the head; attention on the causal half:
 * two products forward, five backward. */
START_TEST(flops) {
    const int t = layouts[_i].t;
    for (int r = 0; r < t; r++) {
        wf_schedule *s = schedule_of(layouts[_i].text, r, WF_MODE_TRAIN);
        wf_work work;
        wf_schedule_count(s, &work);
        const int64_t heads = share(HEADS, t, r), a = heads * D, f = share(F, t, r);
        const int64_t gemm = 3 * 2 * R * H * (LAYERS * (4 * a + 2 * f) + share(V, t, r));
        const int64_t product = 2 * B * heads * D * (S * (S + 1) / 2) * LAYERS;
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
    e.gather += (t - 1) * 16; /* squares of the norm */
    if (!sp) return e;
    const int64_t vectors[] = {6 * H, 2 * H}, times[] = {LAYERS, 1};
    for (int i = 0; i < 2;
         i++) { /* gradients of norms and row-parallel biases are summed over tp */
        e.gather += times[i] * (t - 1) * share(vectors[i], t, r);
        e.scatter += times[i] * (vectors[i] - share(vectors[i], t, r));
    }
    e.gather += (t - 1) * share(S, t, r) * H; /* each rank's own positions */
    return e;
}

START_TEST(exchanged_bytes) {
    const int t = layouts[_i].t;
    int64_t all = 0;
    for (int training = 0; training < 2; training++)
        for (int r = 0; r < t; r++) {
            wf_schedule *s =
                schedule_of(layouts[_i].text, r, training ? WF_MODE_TRAIN : WF_MODE_EVALUATE);
            wf_work work;
            wf_schedule_count(s, &work);
            const sent e = t > 1 ? expected(t, r, layouts[_i].sp, training) : (sent){0};
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
        (int64_t)LAYERS * MICROBATCHES * (layouts[_i].sp ? 10 : 8) * (t - 1) * R * H * BYTES;
    ck_assert_int_ge(all, layers);
}
END_TEST

/* The published form itself, as the difference between three layers and two. */
START_TEST(one_more_layer_sends_megatrons_volume) {
    const int t = layouts[_i].t;
    const wf_shape shape = {B * MICROBATCHES, S};
    int64_t more = 0;
    for (int layers = 2; layers < 4; layers++)
        for (int r = 0; r < t; r++) {
            wf_model m = model;
            wf_layout layout;
            wf_schedule *s;
            wf_work work;
            m.layers = layers;
            wf_layout_parse(layouts[_i].text, &layout);
            ck_assert_msg(wf_lower(&m, &shape, &layout, r, WF_MODE_TRAIN, &s) == WF_OK, "%s",
                          wf_last_error());
            wf_schedule_count(s, &work);
            more += (layers == 3 ? 1 : -1) *
                    (work.sent_bytes[WF_ALL_GATHER] + work.sent_bytes[WF_REDUCE_SCATTER]);
            wf_schedule_destroy(s);
        }
    const int64_t volume =
        (layouts[_i].sp ? 10 : 8) * (int64_t)(t - 1) * R * H;                  /* t c(t) = t - 1 */
    const int64_t vectors = layouts[_i].sp ? 2 * (int64_t)(t - 1) * 6 * H : 0; /* once per step */
    ck_assert_int_eq(more, BYTES * (MICROBATCHES * volume + vectors));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("closed_forms");
    TCase *tests = tcase_create("closed_forms");
    tcase_add_loop_test(tests, parameter_bytes, 0, LAYOUTS);
    tcase_add_loop_test(tests, flops, 0, LAYOUTS);
    tcase_add_loop_test(tests, exchanged_bytes, 0, LAYOUTS);
    tcase_add_loop_test(tests, one_more_layer_sends_megatrons_volume, 0, LAYOUTS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
