/* check_choose.c: what fuses and what must not; candidates, workspace, transports. */
#include <check.h>
#include <stdio.h>
#include <string.h>

#include "layouts/build.h"
#include "layouts/lower.h"
#include "tests/layouts/models.h"
#include "tests/layouts/near.h"

static wf_schedule *lowered(const char *text, wf_mode mode) {
    const wf_model model = small_model(TEST_GPT2);
    const wf_shape shape = {.batch = 2, .sequence = 5};
    wf_layout layout;
    wf_schedule *s;
    ck_assert_int_eq(wf_layout_parse(text, &layout), WF_OK);
    ck_assert_msg(wf_lower(&model, &shape, &layout, 0, mode, &s) == WF_OK, "%s", wf_last_error());
    return s;
}

/* The kernels' sites of a segment, one per line. */
static void sites(const wf_schedule *s, const char *segment, char *out, size_t out_bytes) {
    size_t used = 0;
    out[0] = 0;
    for (int32_t i = 0; i < s->nsegments; i++)
        for (int32_t j = 0; strcmp(s->segments[i].name, segment) == 0 && j < s->segments[i].steps;
             j++) {
            const wf_step *step = &s->steps[s->segments[i].step + j];
            if (step->kind == WF_STEP_KERNEL)
                used += (size_t)snprintf(out + used, out_bytes - used, "%s%s\n", step->site,
                                         step->fused ? " fused" : "");
        }
}

static const char fused_alone[] = "norm1\nattn.qkv+bias fused\nattn\nattn.proj\n"
                                  "attn.proj.bias+dropout+residual+norm2 fused\nmlp.fc1\nmlp.fc2\n"
                                  "mlp.fc2.bias+dropout+residual fused\n";
static const char fused_tp2[] =
    "norm1\nattn.qkv+bias fused\nattn\nattn.proj\nattn.proj.sum\n"
    "attn.proj.bias+dropout+residual+norm2 fused\nmlp.fc1\nmlp.fc2\nmlp.fc2.sum\n"
    "mlp.fc2.bias+dropout+residual fused\n";
static const char fused_sp[] =
    "norm1\nnorm1.gather\nattn.qkv+bias fused\nattn\nattn.proj\n"
    "attn.proj.sum+bias+dropout+residual+norm2 fused\nnorm2.gather\nmlp.fc1\nmlp.fc2\n"
    "mlp.fc2.sum+bias+dropout+residual fused\n";

START_TEST(a_layer_fuses) {
    const struct {
        const char *layout, *expected;
    } cases[] = {{"tp1", fused_alone}, {"tp2", fused_tp2}, {"tp2.sp", fused_sp}};
    for (int i = 0; i < 3; i++) {
        wf_schedule *s = lowered(cases[i].layout, WF_MODE_TRAIN);
        char text[1024];
        ck_assert_msg(wf_choose(s, NULL) == WF_OK, "%s", wf_last_error());
        sites(s, "layer.forward", text, sizeof text);
        ck_assert_str_eq(text, cases[i].expected);
        sites(s, "layer.backward.first", text, sizeof text);
        ck_assert_ptr_nonnull(strstr(text, "norm2.backward+residual fused\n"));
        ck_assert_ptr_nonnull(strstr(text, "norm1.backward+residual fused\n"));
        wf_schedule_destroy(s);
    }
}
END_TEST

START_TEST(nothing_fuses_when_asked) {
    wf_schedule *s = lowered("tp2.sp", WF_MODE_TRAIN);
    const int32_t steps = s->nsteps;
    ck_assert_int_eq(wf_choose(s, &(wf_choices){.no_fusion = true}), WF_OK);
    ck_assert_int_eq(s->nsteps, steps);
    for (int32_t i = 0; i < s->nsteps; i++) ck_assert(!s->steps[i].fused);
    wf_schedule_destroy(s);
}
END_TEST

/* a -> b (+bias) -> c (+residual), and a second reader of b when asked; returns the steps left. */
static int32_t chain(bool second_reader, uint32_t first, uint32_t second) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(0, 1, &s), WF_OK);
    const int32_t slot = wf_build_slot(s, "in", WF_CLASS_IO, WF_F32, 15, 1);
    const int32_t bias = wf_build_slot(s, "bias", WF_CLASS_IO, WF_F32, 5, 1);
    const int32_t out = wf_build_slot(s, "out", WF_CLASS_IO, WF_F32, 15, 2);
    wf_build_segment(s, "chain");
    const int32_t between = wf_build_scratch(s, "between", WF_F32, 15);
    const wf_view a = wf_matrix(slot, WF_AT_NONE, 0, 3, 5, 5),
                  b = wf_matrix(between, WF_AT_NONE, 0, 3, 5, 5);
    const wf_view c = wf_matrix(out, WF_AT_NONE, 0, 3, 5, 5),
                  d = wf_matrix(out, WF_AT_LAYER, 0, 3, 5, 5);
    const wf_view v = wf_vector(bias, WF_AT_NONE, 0, 5);
    const uint32_t flags[] = {first, second};
    for (int i = 0; i < 2; i++) {
        const wf_problem p = {.op = WF_OP_REDUCE, .flags = flags[i], .size = {3, 5, 1, 0, 1}};
        const wf_view views[] = {i ? b : a, flags[i] & WF_BIAS ? v : a, i ? c : b};
        wf_build_kernel(s, i ? "second" : "first", &p, views, 3);
    }
    const wf_problem copy = {.op = WF_OP_COPY, .size = {3, 5}};
    if (second_reader) wf_build_kernel(s, "copy", &copy, (const wf_view[]){b, d}, 2);
    wf_build_segment_end(s);
    wf_build_call(s, &(wf_call){0});
    ck_assert_msg(wf_build_finish(s) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_choose(s, NULL) == WF_OK, "%s", wf_last_error());
    const int32_t steps = s->nsteps;
    wf_schedule_destroy(s);
    return steps;
}

START_TEST(only_what_may_fuses) {
    ck_assert_int_eq(chain(false, WF_BIAS, WF_RESIDUAL), 1);
    ck_assert_int_eq(chain(true, WF_BIAS, WF_RESIDUAL),
                     3); /* somebody else reads the intermediate */
    ck_assert_int_eq(chain(false, WF_RESIDUAL, WF_BIAS),
                     2); /* residual before bias is another sum */
    ck_assert_int_eq(chain(false, WF_RESIDUAL, WF_RESIDUAL), 2);
}
END_TEST

/* sum, dropout, residual: one step, whose positions are dropout's. */
START_TEST(positions_ride_along) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(0, 1, &s), WF_OK);
    const wf_view in = wf_matrix(wf_build_slot(s, "in", WF_CLASS_IO, WF_F32, 30, 1), WF_AT_NONE, 0, 6, 5, 5);
    const wf_view out = wf_matrix(wf_build_slot(s, "out", WF_CLASS_IO, WF_F32, 30, 1), WF_AT_NONE, 0, 6, 5, 5);
    wf_build_segment(s, "chain");
    const wf_view sum = wf_matrix(wf_build_scratch(s, "sum", WF_F32, 30), WF_AT_NONE, 0, 6, 5, 5);
    const wf_view dropped = wf_matrix(wf_build_scratch(s, "dropped", WF_F32, 30), WF_AT_NONE, 0, 6, 5, 5);
    const wf_problem add = {.op = WF_OP_REDUCE, .size = {6, 5, 2, 0, 1}};
    const wf_problem drop = {.op = WF_OP_REDUCE, .flags = WF_DROPOUT, .size = {6, 5, 1, 0, 2, 7, 3, 1, 20}, .real = {0.1}};
    const wf_problem residual = {.op = WF_OP_REDUCE, .flags = WF_RESIDUAL, .size = {6, 5, 1, 0, 1}};
    wf_build_kernel(s, "sum", &add, (const wf_view[]){in, in, sum}, 3);
    wf_build_kernel(s, "dropout", &drop, (const wf_view[]){sum, dropped}, 2);
    wf_build_kernel(s, "residual", &residual, (const wf_view[]){dropped, in, out}, 3);
    wf_build_segment_end(s);
    wf_build_call(s, &(wf_call){0});
    ck_assert_msg(wf_build_finish(s) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_choose(s, NULL) == WF_OK, "%s", wf_last_error());
    ck_assert_int_eq(s->nsteps, 1);
    const wf_problem whole = {.op = WF_OP_REDUCE, .flags = WF_DROPOUT | WF_RESIDUAL,
                              .size = {6, 5, 2, 0, 2, 7, 3, 1, 20}, .real = {0.1}};
    ck_assert(wf_problem_equal(&s->problems[s->steps[0].problem].problem, &whole));
    wf_schedule_destroy(s);
}
END_TEST

/* residual, then the norm of the sum, forward; norm's backward, then residual: whatever the norm, the
 * fused step has the operands that its problem asks for, in their order. */
static void norms_fuse(uint32_t rms) {
    wf_schedule *s;
    ck_assert_int_eq(wf_schedule_create(0, 1, &s), WF_OK);
    const wf_view in = wf_matrix(wf_build_slot(s, "in", WF_CLASS_IO, WF_F32, 15, 2), WF_AT_NONE, 0, 3, 5, 5);
    const int32_t weights = wf_build_slot(s, "weights", WF_CLASS_IO, WF_F32, 10, 1);
    const int32_t out = wf_build_slot(s, "out", WF_CLASS_IO, WF_F32, 15, 3);
    const wf_view gamma = wf_vector(weights, WF_AT_NONE, 0, 5), beta = wf_vector(weights, WF_AT_NONE, 5, 5);
    wf_build_segment(s, "chain");
    const wf_view sum = wf_matrix(wf_build_scratch(s, "sum", WF_F32, 15), WF_AT_NONE, 0, 3, 5, 5);
    const wf_view dx = wf_matrix(wf_build_scratch(s, "dx", WF_F32, 15), WF_AT_NONE, 0, 3, 5, 5);
    const wf_view stats = wf_matrix(wf_build_scratch(s, "stats", WF_F32, 6), WF_AT_NONE, 0, 3, 2, 2);
    const wf_view y = wf_matrix(out, WF_AT_NONE, 0, 3, 5, 5), dy = wf_matrix(out, WF_AT_LAYER, 0, 3, 5, 5);
    const wf_problem add = {.op = WF_OP_REDUCE, .flags = WF_RESIDUAL, .size = {3, 5, 1, 0, 1}};
    const wf_problem norm = {.op = WF_OP_NORM, .flags = rms, .size = {3, 5}, .real = {1e-6}};
    const wf_problem back = {.op = WF_OP_NORM_BACKWARD, .flags = rms, .size = {3, 5}};
    wf_build_kernel(s, "add", &add, (const wf_view[]){in, in, sum}, 3);
    if (rms) wf_build_kernel(s, "norm", &norm, (const wf_view[]){sum, gamma, y, stats}, 4);
    else wf_build_kernel(s, "norm", &norm, (const wf_view[]){sum, gamma, beta, y, stats}, 5);
    wf_build_kernel(s, "norm.backward", &back, (const wf_view[]){in, sum, stats, gamma, dx}, 5);
    wf_build_kernel(s, "residual", &add, (const wf_view[]){dx, in, dy}, 3);
    wf_build_segment_end(s);
    wf_build_call(s, &(wf_call){0});
    ck_assert_msg(wf_build_finish(s) == WF_OK, "%s", wf_last_error());
    ck_assert_msg(wf_choose(s, NULL) == WF_OK, "%s", wf_last_error());
    ck_assert_int_eq(s->nsteps, 2);
    for (int i = 0; i < 2; i++) {
        const wf_problem *p = &s->problems[s->steps[i].problem].problem;
        wf_operand operands[WF_OPERANDS];
        ck_assert_msg(wf_problem_check(p) == WF_OK, "%s", wf_last_error());
        ck_assert_uint_eq(p->flags, i ? WF_RESIDUAL | rms : WF_RESIDUAL | WF_NORM | rms);
        const int n = wf_operations[p->op]->operands(p, operands);
        ck_assert_int_eq(n, s->steps[i].reads + s->steps[i].writes);
        for (int v = 0; v < n; v++) {
            const wf_view *view = &s->views[s->steps[i].view + v];
            ck_assert_int_eq(v < s->steps[i].reads, operands[v].access == WF_READ);
            ck_assert_int_eq(view->ndim, operands[v].ndim);
            for (int d = 0; d < view->ndim; d++) ck_assert_int_eq(view->extent[d], operands[v].extent[d]);
        }
    }
    ck_assert_double_eq(s->problems[s->steps[0].problem].problem.real[1], 1e-6);
    wf_schedule_destroy(s);
}

START_TEST(either_norm_fuses) {
    norms_fuse(_i ? WF_RMS : 0);
}
END_TEST

/* ---- candidates and workspace ---------------------------------------------------------------- */

typedef struct asked {
    int count;
    wf_status status;
} asked;

static wf_status candidate(void *context, const wf_problem *problem, wf_candidate *out,
                           int64_t *workspace_bytes_out) {
    asked *a = context;
    a->count++;
    *out = (wf_candidate){0};
    *workspace_bytes_out = problem->op == WF_OP_GEMM ? 130 : 0;
    return a->status == WF_OK ? WF_OK : wf_fail(a->status, "no candidate");
}

START_TEST(each_problem_is_asked_for_once) {
    wf_schedule *s = lowered("tp2.sp", WF_MODE_TRAIN);
    asked a = {0};
    ck_assert_int_eq(wf_choose(s, &(wf_choices){.candidate = candidate, .context = &a}), WF_OK);
    ck_assert_int_eq(a.count, s->nproblems);
    int gemms = 0;
    for (int32_t i = 0; i < s->nsteps; i++) {
        const wf_step *step = &s->steps[i];
        if (step->kind != WF_STEP_KERNEL || s->problems[step->problem].problem.op != WF_OP_GEMM)
            continue;
        const wf_view *last =
            &s->views[step->view + step->reads + step->updates + step->writes - 1];
        const wf_buffer *b = &s->buffers[last->buffer];
        ck_assert_int_eq(b->class_, WF_CLASS_WORKSPACE);
        ck_assert_int_eq(b->life, WF_SCRATCH);
        ck_assert_int_eq(b->bytes, 132); /* whole elements */
        gemms++;
    }
    ck_assert_int_gt(gemms, 10);
    wf_schedule_destroy(s);
    s = lowered("tp1", WF_MODE_EVALUATE);
    a.status = WF_ERR_DEVICE;
    ck_assert_int_eq(wf_choose(s, &(wf_choices){.candidate = candidate, .context = &a}),
                     WF_ERR_DEVICE);
    wf_schedule_destroy(s);
}
END_TEST

/* ---- transports ------------------------------------------------------------------------------ */

static wf_transport_kind transport(void *context, int32_t peer, bool slots) {
    return peer == 1 ? WF_TRANSPORT_WINDOW : *(const wf_transport_kind *)context;
}

START_TEST(what_a_window_sends_lies_in_it) {
    wf_transport_kind far = WF_TRANSPORT_MPI;
    wf_schedule *s = lowered("tp3.sp", WF_MODE_TRAIN);
    ck_assert_int_eq(wf_choose(s, &(wf_choices){.transport = transport, .context = &far}), WF_OK);
    int windows = 0;
    for (int32_t i = 0; i < s->nsteps; i++) {
        const wf_step *step = &s->steps[i];
        if (step->kind != WF_STEP_EXCHANGE) continue;
        const wf_exchange *e = &s->exchanges[step->exchange];
        if (e->to >= 0)
            ck_assert_int_eq(e->transport, e->to == 1 ? WF_TRANSPORT_WINDOW : WF_TRANSPORT_MPI);
        if (e->from >= 0)
            ck_assert_int_eq(e->receive_transport,
                             e->from == 1 ? WF_TRANSPORT_WINDOW : WF_TRANSPORT_MPI);
        if (e->to == 1)
            ck_assert_int_eq(s->buffers[s->views[step->view].buffer].space, WF_SPACE_WINDOW);
        windows += e->to == 1;
    }
    ck_assert_int_gt(windows, 10);
    for (int32_t i = 0; i < s->nbuffers; i++) /* slots stay where the caller's memory is */
        if (s->buffers[i].life == WF_SLOT) ck_assert_int_eq(s->buffers[i].space, WF_SPACE_DEVICE);
    wf_schedule_destroy(s);
}
END_TEST

static wf_transport_kind window_or_staged(void *context, int32_t peer, bool slots) {
    return slots ? WF_TRANSPORT_STAGED : WF_TRANSPORT_WINDOW;
}

/* Gradients are summed from their slots, by another transport on both sides, be there anything to send or not. */
START_TEST(no_window_sends_slots) {
    wf_schedule *s = lowered("cp8ring" /* more ranks than tokens */, WF_MODE_TRAIN);
    ck_assert_int_eq(wf_choose(s, &(wf_choices){.transport = window_or_staged}), WF_OK);
    int slots = 0, windows = 0;
    for (int32_t i = 0; i < s->nsteps; i++) {
        const wf_step *step = &s->steps[i];
        if (step->kind != WF_STEP_EXCHANGE) continue;
        const wf_exchange *e = &s->exchanges[step->exchange];
        const bool slot = step->reads && s->buffers[s->views[step->view].buffer].life == WF_SLOT;
        const wf_transport_kind want = step->lane == WF_LANE_DP ? WF_TRANSPORT_STAGED : WF_TRANSPORT_WINDOW;
        ck_assert(!slot || step->lane == WF_LANE_DP);
        ck_assert_int_eq(e->transport, want);
        ck_assert_int_eq(e->receive_transport, want);
        slots += slot;
        windows += want == WF_TRANSPORT_WINDOW;
    }
    ck_assert(slots > 10 && windows > 10);
    for (int32_t i = 0; i < s->nbuffers; i++)
        if (s->buffers[i].life == WF_SLOT) ck_assert_int_eq(s->buffers[i].space, WF_SPACE_DEVICE);
    wf_schedule_destroy(s);
}
END_TEST

/* ---- in place -------------------------------------------------------------------------------- */

static bool same_views(const wf_schedule *s, int32_t a, int32_t b) {
    return memcmp(&s->views[a], &s->views[b], sizeof s->views[a]) == 0;
}

/* Behind all that read what the hop at `at` receives, its views the other way round; the index of the step. */
static int32_t return_of(const wf_schedule *s, const wf_segment *g, int32_t at) {
    const wf_step *const hop = &s->steps[at];
    const wf_exchange *const e = &s->exchanges[hop->exchange];
    int32_t last = at, found = -1;
    for (int32_t i = g->step; i < g->step + g->steps; i++) {
        const wf_step *const step = &s->steps[i];
        if (step->kind == WF_STEP_KERNEL)
            for (int v = 0; v < step->reads && e->in_place; v++)
                if (s->views[step->view + v].buffer == s->views[hop->view + hop->reads].buffer) last = i;
        if (step->lane != WF_LANE_RETURN) continue;
        const wf_exchange *const word = &s->exchanges[step->exchange];
        const bool reads = e->in_place && step->reads && same_views(s, step->view, hop->view + hop->reads);
        const bool back = hop->reads && step->writes && same_views(s, step->view + step->reads, hop->view);
        if (!reads && !back) continue;
        ck_assert(word->kind == WF_RETURN && word->transport == WF_TRANSPORT_WINDOW && found < 0);
        ck_assert(!reads || word->to == e->from);
        ck_assert(!back || word->from == e->to);
        found = i;
    }
    ck_assert(found < 0 || found > last);
    return found;
}

START_TEST(sums_read_their_parts_where_they_lie) {
    static const char *const layouts[] = {"tp2.sp", "tp3", "tp4.sp.chunks2", "tp2.sp.cp2gather", "tp3.cp2ring", "cp4gather"};
    int32_t rank = 0;
    const wf_choices choices = near_choices(&rank);
    wf_schedule *s = lowered(layouts[_i], WF_MODE_TRAIN);
    ck_assert_msg(wf_choose(s, &choices) == WF_OK, "%s", wf_last_error());
    int places = 0, returns = 0, copied = 0;
    for (int32_t g = 0; g < s->nsegments; g++) {
        int32_t before = -1;
        for (int32_t i = s->segments[g].step; i < s->segments[g].step + s->segments[g].steps; i++) {
            const wf_step *const step = &s->steps[i];
            const wf_exchange *const e = step->kind == WF_STEP_EXCHANGE ? &s->exchanges[step->exchange] : NULL;
            if (!e || e->kind == WF_RETURN) continue;
            const bool sum = e->collective == WF_REDUCE_SCATTER && step->lane != WF_LANE_DP;
            ck_assert(e->in_place == (sum && e->from >= 0 && near_in_place(&rank, e->from)));
            const int32_t word = return_of(s, &s->segments[g], i);
            ck_assert((word >= 0) == (e->in_place || (sum && e->to >= 0 && near_in_place(&rank, e->to))));
            ck_assert(word < 0 || word > before);
            if (word >= 0) before = word;
            if (e->from >= 0) ck_assert((s->buffers[s->views[step->view + step->reads].buffer].space == WF_SPACE_PEER) == e->in_place);
            places += e->in_place;
            returns += word >= 0;
            copied += sum && e->from >= 0 && !e->in_place;
        }
    }
    ck_assert(places > 3 && returns >= places);
    ck_assert(strcmp(layouts[_i], "tp4.sp.chunks2") || copied > 3); /* ranks 0 and 3 do not */
    wf_bytes bytes;
    ck_assert_int_eq(wf_place(s, &(wf_limits){0}), WF_OK);
    wf_schedule_measure(s, &bytes);
    ck_assert_int_eq(bytes.by_space[WF_SPACE_PEER], 0);
    wf_schedule_destroy(s);
}
END_TEST

/* What lands is sent on: nobody would tell its owner. */
START_TEST(only_what_kernels_read_stays_in_place) {
    wf_schedule *s;
    int32_t rank = 0;
    const wf_choices choices = near_choices(&rank);
    const wf_rows shard[] = {{0, 2}, {2, 2}};
    wf_view parts[2];
    ck_assert_int_eq(wf_schedule_create(0, 2, &s), WF_OK);
    const int32_t group = wf_build_group(s, 0, (const int32_t[]){0, 1}, 2);
    wf_build_segment(s, "s");
    const wf_view whole = wf_matrix(wf_build_scratch(s, "whole", WF_F32, 16), WF_AT_NONE, 0, 4, 4, 4);
    wf_build_reduce_scatter(s, "sum", WF_LANE_TP, group, &whole, shard, parts);
    wf_build_hop(s, "on", WF_LANE_TP, WF_SHIFT, group, 1, 1, &parts[1], -1, NULL);
    wf_build_segment_end(s);
    ck_assert_int_eq(wf_choose(s, &choices), WF_ERR_INTERNAL);
    ck_assert_msg(strstr(wf_last_error(), "sum.landing") && strstr(wf_last_error(), "for kernels to read"), "%s", wf_last_error());
    wf_schedule_destroy(s);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("choose");
    TCase *tests = tcase_create("choose");
    tcase_add_test(tests, a_layer_fuses);
    tcase_add_test(tests, nothing_fuses_when_asked);
    tcase_add_test(tests, only_what_may_fuses);
    tcase_add_test(tests, positions_ride_along);
    tcase_add_loop_test(tests, either_norm_fuses, 0, 2);
    tcase_add_test(tests, each_problem_is_asked_for_once);
    tcase_add_test(tests, what_a_window_sends_lies_in_it);
    tcase_add_test(tests, no_window_sends_slots);
    tcase_add_loop_test(tests, sums_read_their_parts_where_they_lie, 0, 6);
    tcase_add_test(tests, only_what_kernels_read_stays_in_place);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
