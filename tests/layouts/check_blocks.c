/* Block stacks: for every form of a layer and every mode, the phases tile the program, all ranks' schedules fit each
 * other, what a forward keeps is the stash's and what a run brings is the caller's. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/lower.h"
#include "tests/layouts/models.h"

static const char *const layouts[] = {"tp1", "tp2", "tp2.sp", "tp3.sp.mb2", "tp4.mb2", "tp4.sp", "tp8.sp",
                                      "cp2ring", "tp2.sp.cp3gather", "cp4ulysses", "tp2.cp4usp2"};
static const wf_mode modes[] = {WF_MODE_EVALUATE, WF_MODE_GRADIENTS, WF_MODE_TRAIN};

static wf_schedule *lower(const wf_model *m, const wf_layout *layout, int32_t rank, wf_mode mode, bool packed) {
    const wf_shape shape = {.batch = 4, .sequence = 6, .documents = packed};
    wf_schedule *s = NULL;
    ck_assert_msg(wf_lower_blocks(m, &shape, layout, rank, mode, &s) == WF_OK && wf_choose(s, &(wf_choices){0}) == WF_OK &&
                      wf_place(s, &(wf_limits){0}) == WF_OK,
                  "%s", wf_last_error());
    return s;
}

static int32_t calls_of(const wf_schedule *s, wf_phase phase) {
    return s->phases[phase].count;
}

static void check_phases(const wf_schedule *s, wf_mode mode, int64_t layers) {
    int32_t at = 0;
    for (int p = 0; p < WF_PHASES; p++) {
        ck_assert_int_eq(s->phases[p].first, at);
        at += s->phases[p].count;
    }
    ck_assert_int_eq(at, s->ncalls);
    ck_assert_int_eq(calls_of(s, WF_PHASE_FORWARD), layers + 2);
    ck_assert_int_eq(calls_of(s, WF_PHASE_BACKWARD), mode == WF_MODE_EVALUATE ? 0 : layers + 2);
    ck_assert_int_eq(calls_of(s, WF_PHASE_BACKWARD_FIRST), calls_of(s, WF_PHASE_BACKWARD));
    ck_assert_int_eq(calls_of(s, WF_PHASE_OPTIMIZE) > 0, mode == WF_MODE_TRAIN);
}

static void check_owners(const wf_schedule *s, wf_mode mode) {
    int callers = 0, stashed = 0;
    for (int32_t b = 0; b < s->nbuffers; b++) {
        const wf_buffer *const x = &s->buffers[b];
        if (x->owner == WF_OWNER_CALLER) {
            callers++;
            ck_assert_int_eq(x->life, WF_SLOT);
            if (x->allocation >= 0) ck_assert(x->offset == 0 && s->allocations[x->allocation].owner == WF_OWNER_CALLER);
        }
        if (x->owner == WF_OWNER_STASH) {
            stashed++;
            ck_assert(x->life == WF_POOL && x->space == WF_SPACE_DEVICE);
            if (x->allocation >= 0) ck_assert_int_eq(s->allocations[x->allocation].owner, WF_OWNER_STASH);
        }
        if (strncmp(x->name, "saved.", 6) == 0) ck_assert_int_eq(x->owner, WF_OWNER_STASH);
    }
    ck_assert_int_eq(callers, mode == WF_MODE_EVALUATE ? 2 : 4);
    ck_assert_int_eq(stashed > 0, mode != WF_MODE_EVALUATE);
}

/* Of all tokens, on every rank; a backward reads its forward's. */
static void check_documents(const wf_schedule *s, wf_mode mode, int64_t samples, bool packed) {
    int slots = 0, kept = 0;
    for (int32_t b = 0; b < s->nbuffers; b++) {
        const bool slot = strcmp(s->buffers[b].name, "documents") == 0, saved = strcmp(s->buffers[b].name, "saved.documents") == 0;
        if (slot || saved) ck_assert_int_eq(s->buffers[b].bytes, 6 * samples * 8);
        slots += slot, kept += saved;
    }
    ck_assert_int_eq(slots, packed);
    ck_assert_int_eq(kept, packed && mode != WF_MODE_EVALUATE);
    for (int32_t i = 0; i < s->nproblems; i++) {
        const wf_problem *const p = &s->problems[i].problem;
        if (p->op >= WF_OP_ATTENTION && p->op <= WF_OP_ATTENTION_BACKWARD) ck_assert_int_eq(!!(p->flags & WF_DOCUMENTS), packed);
    }
}

/* A piece is played by itself: only its calls, none waiting for what is before it. */
static void check_pieces(const wf_schedule *s) {
    wf_cursor *c;
    wf_instance i;
    ck_assert_int_eq(wf_cursor_create(s, &c), WF_OK);
    for (int p = 0; p < WF_PHASES; p++) {
        int64_t next[WF_LANES] = {0};
        wf_cursor_rewind_to(c, s->phases[p]);
        while (wf_cursor_next(c, &i)) {
            ck_assert(i.call_index >= s->phases[p].first && i.call_index < s->phases[p].first + s->phases[p].count);
            ck_assert_int_eq(i.seq, next[i.step->lane]++);
            for (int l = 0; l < WF_LANES; l++) ck_assert(i.wait[l] < next[l]);
        }
    }
    wf_cursor_destroy(c);
}

START_TEST(every_form_and_layout_fits) {
    const wf_mode mode = modes[_i % 3];
    const bool packed = _i / 3 % 2;
    const wf_model m = uneven_model((test_form)(_i / 6));
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++) {
        wf_layout layout;
        ck_assert_int_eq(wf_layout_parse(layouts[k], &layout), WF_OK);
        const int32_t ranks = wf_layout_ranks(&layout);
        wf_schedule *all[8];
        for (int32_t r = 0; r < ranks; r++) {
            all[r] = lower(&m, &layout, r, mode, packed);
            check_phases(all[r], mode, m.layers);
            check_owners(all[r], mode);
            check_documents(all[r], mode, 4 / layout.microbatches, packed);
            check_pieces(all[r]);
        }
        ck_assert_msg(wf_check((const wf_schedule *const *)all, ranks) == WF_OK, "%s, %s: %s", test_form_names[_i / 6], layouts[k],
                      wf_last_error());
        for (int32_t r = 0; r < ranks; r++) wf_schedule_destroy(all[r]);
    }
}
END_TEST

/* Slots lie where a whole model's do: both kinds of plan share params. */
START_TEST(parameters_lie_as_in_whole_models) {
    const wf_model m = uneven_model(TEST_GPT2);
    const wf_shape shape = {.batch = 4, .sequence = 6};
    wf_layout layout;
    wf_schedule *whole = NULL;
    ck_assert_int_eq(wf_layout_parse("tp2.sp", &layout), WF_OK);
    ck_assert(wf_lower(&m, &shape, &layout, 1, WF_MODE_TRAIN, &whole) == WF_OK && wf_choose(whole, &(wf_choices){0}) == WF_OK &&
              wf_place(whole, &(wf_limits){0}) == WF_OK);
    wf_schedule *const blocks = lower(&m, &layout, 1, WF_MODE_TRAIN, false);
    int compared = 0;
    for (int32_t b = 0; b < blocks->nbuffers; b++) {
        const wf_buffer *const x = &blocks->buffers[b], *const y = &whole->buffers[b];
        if (x->life != WF_SLOT || x->class_ == WF_CLASS_IO) continue;
        ck_assert_str_eq(x->name, y->name);
        ck_assert(x->offset == y->offset && x->stride == y->stride && x->count == y->count);
        compared++;
    }
    ck_assert_int_gt(compared, 40);
    wf_schedule_destroy(blocks);
    wf_schedule_destroy(whole);
}
END_TEST

START_TEST(other_modes_are_refused) {
    const wf_model m = uneven_model(TEST_GPT2);
    const wf_shape shape = {.batch = 4, .sequence = 6};
    wf_layout layout;
    wf_schedule *s = NULL;
    ck_assert_int_eq(wf_layout_parse("tp2", &layout), WF_OK);
    ck_assert_int_eq(wf_lower_blocks(&m, &shape, &layout, 0, WF_MODE_LOGITS, &s), WF_ERR_ARGUMENT);
    ck_assert_int_eq(wf_lower_blocks(&m, &shape, &layout, 2, WF_MODE_TRAIN, &s), WF_ERR_ARGUMENT);
    ck_assert_ptr_null(s);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("blocks");
    TCase *const c = tcase_create("phases");
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, every_form_and_layout_fits, 0, 6 * TEST_FORMS);
    tcase_add_test(c, parameters_lie_as_in_whole_models);
    tcase_add_test(c, other_modes_are_refused);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
