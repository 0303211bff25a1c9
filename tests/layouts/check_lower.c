/* check_lower.c: what is refused, slots, the program's order, every layout passes check, and a
 * large model is lowered and placed in milliseconds. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "layouts/lower.h"
#include "tests/layouts/models.h"
#include "tests/layouts/near.h"

static wf_status lower(const wf_model *model, wf_shape shape, const char *text, int32_t rank,
                       wf_mode mode, wf_schedule **out) {
    wf_layout layout;
    ck_assert_msg(wf_layout_parse(text, &layout) == WF_OK, "%s", wf_last_error());
    return wf_lower(model, &shape, &layout, rank, mode, out);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static const struct {
    const char *layout, *named;
} refused[] = {{"dp2", "dp"},
               {"pp2", "pp"},
               {"pp2.vp2", "vp"},
               {"ep2", "ep"},
               {"zero1", "zero"},
               {"offload-activations", "offload"}};

START_TEST(layouts_that_are_not_lowered) {
    const wf_model model = small_model(TEST_GPT2);
    wf_schedule *s = NULL;
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, refused[_i].layout, 0, WF_MODE_TRAIN, &s),
                     WF_ERR_UNSUPPORTED);
    ck_assert_ptr_null(s);
    ck_assert_msg(strstr(wf_last_error(), refused[_i].named), "%s", wf_last_error());
    ck_assert_msg(strstr(wf_last_error(), refused[_i].layout), "%s", wf_last_error());
}
END_TEST

START_TEST(shapes_that_do_not_fit) {
    wf_model model = small_model(TEST_GPT2);
    wf_schedule *s = NULL;
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 7}, "tp2", 0, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "positions"));
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 3, .sequence = 5}, "mb2", 0, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_ptr_nonnull(strstr(wf_last_error(), "mb2"));
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 0, .sequence = 5}, "tp1", 0, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = (int64_t)1 << 60, .sequence = 5}, "tp1", 0, WF_MODE_TRAIN, &s),
                     WF_ERR_ARGUMENT);
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, "tp2", 2, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, "tp2", 0, (wf_mode)9, &s), WF_ERR_ARGUMENT);
    ck_assert_ptr_null(s);
}
END_TEST

START_TEST(a_model_without_a_head_gives_hidden_states_only) {
    wf_model model = small_model(TEST_BERT);
    wf_schedule *s = NULL;
    model.head_form = WF_HEAD_NONE;
    for (int mode = 0; mode < WF_MODE_HIDDEN; mode++) {
        ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, "tp2", 0, (wf_mode)mode, &s),
                         WF_ERR_UNSUPPORTED);
        ck_assert_ptr_null(s);
        ck_assert_ptr_nonnull(strstr(wf_last_error(), "head"));
    }
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, "tp2", 0, WF_MODE_HIDDEN, &s), WF_OK);
    wf_schedule_destroy(s);
}
END_TEST

/* ---- structure ------------------------------------------------------------------------------- */

static int32_t slot(const wf_schedule *s, const char *name) {
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (s->buffers[i].life == WF_SLOT && strcmp(s->buffers[i].name, name) == 0) return i;
    return -1;
}

/* Parameters come first and in one order in every mode and layout: plans share their memory. */
START_TEST(slots_of_every_mode) {
    const wf_model model = small_model((test_form)_i);
    const bool rope = model.position_form == WF_POSITIONS_ROPE;
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(&model, table);
    for (int i = 0; i < 2 * WF_MODES; i++) {
        const int mode = i / 2;
        const bool packed = i % 2;
        wf_schedule *s;
        const bool loss = mode != WF_MODE_LOGITS && mode != WF_MODE_HIDDEN;
        ck_assert_msg(lower(&model, (wf_shape){.batch = 4, .sequence = 5, .documents = packed}, "tp2.sp.mb2", 1, (wf_mode)mode, &s) ==
                          WF_OK,
                      "%s", wf_last_error());
        for (int t = 0; t < WF_TENSORS; t++) {
            ck_assert_str_eq(s->buffers[t].name, table[t].name);
            ck_assert_int_eq(s->buffers[t].count, table[t].per_layer ? model.layers : 1);
        }
        ck_assert_int_eq(slot(s, "normf.bias.grad") >= 0,
                         mode == WF_MODE_TRAIN || mode == WF_MODE_GRADIENTS);
        ck_assert_int_eq(slot(s, "normf.bias.v") >= 0, mode == WF_MODE_TRAIN);
        ck_assert_int_eq(slot(s, "clip") >= 0, mode == WF_MODE_TRAIN);
        ck_assert_int_eq(slot(s, "targets") >= 0, loss);
        ck_assert_int_eq(slot(s, "loss") >= 0, loss);
        ck_assert_int_eq(slot(s, "logits") >= 0, mode == WF_MODE_LOGITS);
        ck_assert_int_eq(slot(s, "hidden.all") >= 0, mode == WF_MODE_HIDDEN);
        ck_assert_int_eq(slot(s, "hidden") >= 0, mode == WF_MODE_GRADIENTS);
        ck_assert_int_eq(slot(s, "rope") >= 0, rope);
        if (rope) ck_assert_int_eq(s->buffers[slot(s, "rope")].bytes, 5 * model.head_size * 4);
        ck_assert_int_eq(s->buffers[slot(s, "tokens")].count, 2);
        ck_assert_int_eq(slot(s, "documents") >= 0, packed);
        ck_assert_int_eq(slot(s, "places") >= 0, packed && model.position_form == WF_POSITIONS_LEARNED);
        if (packed) ck_assert(s->buffers[slot(s, "documents")].bytes == 5 * 2 * 8 && s->buffers[slot(s, "documents")].count == 2);
        wf_schedule_destroy(s);
    }
}
END_TEST

/* Attention's size 11, forward and backward; 0 where the sequence is too short to be hidden from. */
START_TEST(windows_are_of_the_sequence) {
    for (int form = TEST_MIXED; form <= TEST_MISTRAL; form++)
        for (int64_t sequence = 1; sequence <= 6; sequence++) {
            const wf_model model = small_model((test_form)form);
            wf_schedule *s;
            int attention = 0;
            ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = sequence}, "tp2.sp", 0, WF_MODE_TRAIN, &s), WF_OK);
            for (int32_t i = 0; i < s->nproblems; i++) {
                const wf_problem *const p = &s->problems[i].problem;
                if (p->op != WF_OP_ATTENTION && p->op != WF_OP_ATTENTION_BACKWARD) continue;
                ck_assert_int_eq(p->size[11], sequence > 2 ? 2 : 0);
                ck_assert_int_eq((p->flags & WF_CAUSAL) != 0, form == TEST_MISTRAL);
                attention++;
            }
            ck_assert_int_ge(attention, 2);
            wf_schedule_destroy(s);
        }
}
END_TEST

START_TEST(evaluation_drops_nothing_and_keeps_nothing) {
    const wf_model model = small_model(TEST_GPT2);
    wf_schedule *s;
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 5}, "tp2.sp", 0, WF_MODE_EVALUATE, &s), WF_OK);
    for (int32_t i = 0; i < s->nproblems; i++)
        ck_assert(!(s->problems[i].problem.flags & WF_DROPOUT));
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (s->buffers[i].life == WF_POOL) {
            ck_assert_str_eq(s->buffers[i].name, "x");
            ck_assert_int_eq(s->buffers[i].count, 2);
        }
    wf_schedule_destroy(s);
}
END_TEST

static const char *segment_name(const wf_schedule *s, int32_t call) {
    return s->segments[s->calls[call].segment].name;
}

START_TEST(program_runs_in_megatrons_order) {
    const wf_model model = small_model(TEST_GPT2);
    wf_schedule *s;
    const char *const expected[] = {"embed.forward",
                                    "layer.forward",
                                    "layer.forward",
                                    "head.first",
                                    "layer.backward.first",
                                    "layer.backward.first",
                                    "embed.backward.first",
                                    "embed.forward",
                                    "layer.forward",
                                    "layer.forward",
                                    "head",
                                    "layer.backward",
                                    "layer.backward",
                                    "embed.backward",
                                    "finish",
                                    "layer.finish",
                                    "layer.finish",
                                    "gradnorm",
                                    "layer.optimizer",
                                    "layer.optimizer",
                                    "optimizer"};
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 4, .sequence = 5}, "tp2.sp.mb2", 0, WF_MODE_TRAIN, &s), WF_OK);
    ck_assert_int_eq(s->ncalls, (int)(sizeof expected / sizeof *expected));
    for (int32_t i = 0; i < s->ncalls; i++) ck_assert_str_eq(segment_name(s, i), expected[i]);
    ck_assert_int_eq(s->calls[4].layer, 1);
    ck_assert_int_eq(s->calls[5].layer, 0);
    ck_assert_int_eq(s->calls[10].microbatch, 1);
    wf_schedule_destroy(s);
}
END_TEST

/* A layer's gradients are on their way while the layer before computes; those of the last microbatch, which hold all. */
START_TEST(gradient_sums_hide_behind_backward) {
    const wf_model model = small_model(TEST_GPT2);
    wf_schedule *s;
    const char *const expected[] = {"head",
                                    "layer.backward",
                                    "layer.sums.send",
                                    "layer.backward",
                                    "layer.sums",
                                    "layer.sums.send",
                                    "embed.backward",
                                    "layer.sums",
                                    "finish",
                                    "gradnorm"};
    const int32_t layer[] = {2, 1, 1, 0, 1, 0, 0, 0};
    ck_assert_int_eq(lower(&model, (wf_shape){.batch = 4, .sequence = 5}, "cp2ring.mb2", 0, WF_MODE_TRAIN, &s), WF_OK);
    int32_t first = 0, next = 0;
    while (first < s->ncalls && strcmp(segment_name(s, first), "head") != 0) first++;
    for (int32_t i = 0; i < first; i++) ck_assert_ptr_null(strstr(segment_name(s, i), "sums"));
    for (int32_t i = first; i < s->ncalls && next < 10; i++) {
        if (strcmp(segment_name(s, i), "layer.finish") == 0) continue; /* squares */
        ck_assert_str_eq(segment_name(s, i), expected[next]);
        if (next < 8) ck_assert_int_eq(s->calls[i].layer, layer[next]);
        next++;
    }
    ck_assert_int_eq(next, 10);
    wf_schedule_destroy(s);
}
END_TEST

START_TEST(chunks_need_tp) {
    const wf_model model = small_model(TEST_GPT2);
    wf_schedule *s = NULL;
    ck_assert_int_eq(lower(&model, (wf_shape){2, 5, false}, "cp2ring.chunks2", 0, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_msg(strstr(wf_last_error(), "cp2ring.chunks2"), "%s", wf_last_error());
}
END_TEST

/* ---- all ranks together ---------------------------------------------------------------------- */

static const char *const layouts[] = {"tp1",
                                      "tp2",
                                      "tp2.sp",
                                      "tp3.sp.mb2",
                                      "tp4",
                                      "tp4.sp.mb4",
                                      "tp8.sp" /* ranks without heads, positions */,
                                      "cp2ring", "tp2.sp.cp3ring.mb2", "cp8ring" /* more ranks than tokens */, "cp3gather", "cp8gather",
                                      "cp2ulysses", "tp2.cp8ulysses", "tp2.sp.cp4usp2.mb2", "cp6usp3",
                                      "tp2.sp.chunks2", "tp4.sp.chunks3.mb2", "tp8.chunks2", "tp2.sp.cp2ring.chunks2",
                                      "tp3.tp-shares1-50-1.sp", "tp2.tp-shares2-1.cp3ring.cp-shares9-1-1.mb2",
                                      "tp9",
                                      "mb2.loss-chunks3",
                                      "tp3.sp.mb2.loss-chunks4",
                                      "tp2.loss-chunks99" /* more than tokens */,
                                      "tp2.sp.mb2.recompute-pointwise",
                                      "tp3.sp.recompute-attention",
                                      "tp2.recompute-attention.recompute-pointwise",
                                      "tp3.sp.mb2.recompute-full",
                                      "tp17.sp"};
enum { LAYOUTS = sizeof layouts / sizeof *layouts, MOST_RANKS = 17 };

START_TEST(every_layout_passes_check) {
    const wf_model model = small_model((test_form)(_i / LAYOUTS));
    const wf_limits limits = {.max_alloc_bytes = {0}};
    for (int mode = 0, distance = 0; mode < WF_MODES; mode += distance, distance = !distance) {
        wf_schedule *all[MOST_RANKS];
        wf_layout layout;
        wf_layout_parse(layouts[_i % LAYOUTS], &layout);
        const int32_t ranks = wf_layout_ranks(&layout);
        for (int32_t r = 0; r < ranks; r++) {
            ck_assert_msg(lower(&model, (wf_shape){.batch = 4, .sequence = 5}, layouts[_i % LAYOUTS], r, (wf_mode)mode, &all[r]) ==
                              WF_OK,
                          "%s", wf_last_error());
            const wf_choices near = near_choices(&r);
            ck_assert_msg(wf_choose(all[r], distance ? NULL : &near) == WF_OK, "%s", wf_last_error());
            ck_assert_msg(wf_place(all[r], &limits) == WF_OK, "%s", wf_last_error());
        }
        ck_assert_msg(wf_check((const wf_schedule *const *)all, ranks) == WF_OK, "%s: %s",
                      layouts[_i % LAYOUTS], wf_last_error());
        for (int32_t r = 0; r < ranks; r++) wf_schedule_destroy(all[r]);
    }
}
END_TEST

/* ---- recomputation --------------------------------------------------------------------------- */

static int64_t saved_bytes(const wf_model *model, const char *layout) {
    wf_schedule *s;
    int64_t bytes = 0;
    ck_assert_msg(lower(model, (wf_shape){.batch = 4, .sequence = 5}, layout, 0, WF_MODE_TRAIN, &s) == WF_OK, "%s", wf_last_error());
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (strncmp(s->buffers[i].name, "saved.", 6) == 0 && !strstr(s->buffers[i].name, "embed")) bytes += s->buffers[i].bytes * s->buffers[i].count;
    wf_schedule_destroy(s);
    return bytes;
}

/* What each kind does without, by its formula (bytes of f32, all layers; tp1). */
START_TEST(recomputation_keeps_less) {
    const wf_model m = small_model((test_form)_i);
    const int64_t tokens = 4 * 5, word = 4 * tokens * m.layers, all = saved_bytes(&m, "tp1");
    const int64_t norms = m.post_norm ? 1 : 2; /* a layer's output is kept as the next one's input */
    const int64_t pointwise = word * (norms * m.hidden + m.features), attention = word * m.heads * (m.head_size + 1);
    ck_assert_int_eq(all - saved_bytes(&m, "recompute-pointwise"), pointwise);
    ck_assert_int_eq(all - saved_bytes(&m, "recompute-attention"), attention);
    ck_assert_int_eq(all - saved_bytes(&m, "recompute-attention.recompute-pointwise"), pointwise + attention);
    ck_assert_int_eq(saved_bytes(&m, "recompute-full"), word * 4); /* of both norms two numbers a row */
}
END_TEST

/* ---- speed ----------------------------------------------------------------------------------- */

static int64_t logits_bytes(const wf_schedule *s, int *buffers) {
    int64_t most = 0;
    *buffers = 0;
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (strcmp(s->buffers[i].name, "head.logits") == 0) {
            ++*buffers;
            if (s->buffers[i].bytes > most) most = s->buffers[i].bytes;
        }
    return most;
}

/* A large vocabulary's logits are cut, into chunks of 512 tokens at least and as many on all ranks; a small one's are not.
 * Chunks share memory. */
START_TEST(large_logits_come_in_chunks) {
    static const struct {
        int64_t vocabulary;
        const char *layout;
        int chunks;
    } cut[] = {{257, "tp1", 1}, {50257, "tp1", 4}, {50257, "tp2.sp", 2}, {250001, "tp1", 4}, {147001, "tp3", 3}, {50257, "loss-chunks1", 1}};
    wf_model model = small_model(TEST_GPT2);
    const wf_limits limits = {.max_alloc_bytes = {0}};
    model.positions = 1024;
    for (size_t i = 0; i < sizeof cut / sizeof *cut; i++) {
        wf_layout layout;
        model.vocabulary = cut[i].vocabulary;
        ck_assert_int_eq(wf_layout_parse(cut[i].layout, &layout), WF_OK);
        for (int32_t r = 0; r < wf_layout_ranks(&layout); r++) {
            wf_schedule *s;
            int buffers;
            ck_assert_int_eq(lower(&model, (wf_shape){.batch = 2, .sequence = 1024}, cut[i].layout, r, WF_MODE_TRAIN, &s), WF_OK);
            ck_assert_int_eq(wf_choose(s, NULL), WF_OK);
            ck_assert_int_eq(wf_place(s, &limits), WF_OK);
            const int64_t bytes = logits_bytes(s, &buffers), ids = wf_shard(model.vocabulary, layout.size[WF_AXIS_TP], r).count;
            ck_assert_msg(buffers == cut[i].chunks, "%s, %lld ids: %d chunks", cut[i].layout, (long long)cut[i].vocabulary, buffers);
            ck_assert_int_eq(bytes, (2048 + cut[i].chunks - 1) / cut[i].chunks * ids * 4);
            int64_t scratch = 0;
            for (int32_t k = 0; k < s->nsegments; k++)
                if (s->segments[k].scratch_bytes > scratch) scratch = s->segments[k].scratch_bytes;
            if (cut[i].chunks > 1) ck_assert_int_lt(scratch, 3 * bytes / 2); /* the model's own are small */
            wf_schedule_destroy(s);
        }
    }
}
END_TEST

static double milliseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now); /* other jobs of the machine do not count */
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

START_TEST(a_large_model_is_planned_in_milliseconds) {
    wf_model model = small_model(TEST_GPT2);
    const wf_limits limits = {.max_alloc_bytes = {0}};
    double least = 1e9;
    model.layers = 128, model.hidden = 12288, model.heads = model.kv_heads = 96,
    model.head_size = 128;
    model.features = 49152, model.vocabulary = 50257, model.positions = 2048;
    for (int repeat = 0; repeat < 20; repeat++) {
        wf_schedule *s;
        const double begin = milliseconds();
        ck_assert_msg(lower(&model, (wf_shape){.batch = 512, .sequence = 2048}, "tp8.sp.mb512", 3, WF_MODE_TRAIN, &s) ==
                          WF_OK,
                      "%s", wf_last_error());
        ck_assert_int_eq(wf_choose(s, NULL), WF_OK);
        ck_assert_msg(wf_place(s, &limits) == WF_OK, "%s", wf_last_error());
        const double took = milliseconds() - begin;
        least = took < least ? took : least;
        ck_assert_int_gt(s->ncalls, 128 * 512 * 2);
        wf_schedule_destroy(s);
    }
    printf("128 layers, tp8.sp, 512 microbatches: lowered, chosen and placed in %.1f ms, least of "
           "20\n",
           least);
#ifdef __SANITIZE_ADDRESS__
    printf("(sanitizers are on: no bar)\n");
#else
    ck_assert_msg(least < 50, "it took %.1f ms, the bar is 50", least);
#endif
}
END_TEST

int main(void) {
    Suite *suite = suite_create("lower");
    TCase *tests = tcase_create("lower");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, chunks_need_tp);
    tcase_add_loop_test(tests, layouts_that_are_not_lowered, 0, sizeof refused / sizeof *refused);
    tcase_add_test(tests, shapes_that_do_not_fit);
    tcase_add_test(tests, a_model_without_a_head_gives_hidden_states_only);
    tcase_add_loop_test(tests, slots_of_every_mode, 0, TEST_FORMS);
    tcase_add_test(tests, windows_are_of_the_sequence);
    tcase_add_test(tests, evaluation_drops_nothing_and_keeps_nothing);
    tcase_add_test(tests, program_runs_in_megatrons_order);
    tcase_add_test(tests, gradient_sums_hide_behind_backward);
    tcase_add_loop_test(tests, every_layout_passes_check, 0, LAYOUTS * TEST_FORMS);
    tcase_add_loop_test(tests, recomputation_keeps_less, 0, TEST_FORMS);
    tcase_add_test(tests, large_logits_come_in_chunks);
    tcase_add_test(tests, a_large_model_is_planned_in_milliseconds);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
