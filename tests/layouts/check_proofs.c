/* check_proofs.c: proof that the structure carries what comes. Pipelines, weight versions, gathered
 * weights, experts with run-time counts and a growing cache, as schedules without kernels, on all
 * ranks: placed, checked, played in random interleavings, every conflict proved ordered; and each
 * seeded fault is found. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "programs.h"
#include "world.h"

enum { MOST_RANKS = 4, PLAYS = 6, LAYERS = 9, MICROBATCHES = 8 };

static const program programs[] = {
    {.name = "pipeline", .ranks = 4, .shape = {WF_GPIPE, 4, 0, 1, MICROBATCHES}, .layers = LAYERS},
    {.name = "pipeline", .ranks = 4, .shape = {WF_1F1B, 4, 0, 1, MICROBATCHES}, .layers = LAYERS},
    {.name = "pipeline", .ranks = 4, .shape = {WF_1F1B, 4, 0, 2, MICROBATCHES}, .layers = LAYERS},
    {.name = "pipedream", .ranks = 4, .shape = {WF_PIPEDREAM, 4, 0, 1, MICROBATCHES}, .layers = LAYERS},
    {.name = "zero3", .ranks = 4, .layers = 7},
    {.name = "in-place", .ranks = 4, .layers = 4},
    {.name = "experts", .ranks = 4, .layers = 3},
    {.name = "decode", .ranks = 2, .layers = 5},
};
enum { PROGRAMS = sizeof programs / sizeof *programs };

static void make(const program *q, wf_schedule *schedules[MOST_RANKS]) {
    for (int32_t r = 0; r < q->ranks; r++) schedules[r] = program_rank(q, r);
}

static void drop(const program *q, wf_schedule *schedules[MOST_RANKS]) {
    for (int32_t r = 0; r < q->ranks; r++) wf_schedule_destroy(schedules[r]);
}

static wf_status check_all(const program *q, wf_schedule *const *schedules) {
    return wf_check((const wf_schedule *const *)schedules, q->ranks);
}

/* Fills what the caller binds, alike for every layout of the same program. */
static void bind(const program *q, world *w) {
    for (int32_t r = 0; r < w->ranks; r++) {
        const wf_schedule *s = w->rank[r].schedule;
        for (int32_t b = 0; b < s->nbuffers; b++)
            for (int32_t i = 0; s->buffers[b].life == WF_SLOT && i < s->buffers[b].count; i++)
                world_fill(w, r, s->buffers[b].name, i, (uint32_t)(i * 31 + s->buffers[b].class_));
        for (int32_t chunk = 0, local = 0; q->shape.stages > 0 && q->shape.form != WF_PIPEDREAM && chunk < q->shape.chunks; chunk++) {
            const wf_range layers = wf_shard(q->layers, q->shape.chunks * q->shape.stages, chunk * q->shape.stages + r);
            for (int32_t i = 0; i < layers.count; i++) world_fill(w, r, "w", local++, 1000 + (uint32_t)layers.first + (uint32_t)i);
        }
    }
}

static void draw_counts(const program *q, world *w, uint32_t seed) {
    for (int32_t a = 0; a < w->ranks; a++)
        for (int32_t b = 0; b < w->ranks; b++) {
            const int32_t n = (int32_t)((seed * 7919u + (uint32_t)(a * 5 + b * 3)) % (EXPERT_BOUND + 1));
            w->rank[a].value[b] = n;
            w->rank[b].value[8 + a] = n;
        }
    for (int32_t a = 0; strcmp(q->name, "decode") == 0 && a < w->ranks; a++)
        w->rank[a].value[0] = 1 + (int32_t)(seed % CACHE_BOUND);
}

/* All slots of all ranks. */
static uint64_t outcome(const world *w) {
    uint64_t hash = 0;
    for (int32_t r = 0; r < w->ranks; r++) {
        const wf_schedule *s = w->rank[r].schedule;
        for (int32_t b = 0; b < s->nbuffers; b++)
            for (int32_t i = 0; s->buffers[b].life == WF_SLOT && i < s->buffers[b].count; i++)
                hash = hash * 31 + world_hash(w, r, s->buffers[b].name, i);
    }
    return hash;
}

/* Every scratch buffer gets bytes of its own: what sharing might break cannot happen. */
static void unshare(wf_schedule *s) {
    for (int32_t i = 0; i < s->nbuffers; i++) {
        wf_buffer *b = &s->buffers[i];
        if (b->life != WF_SCRATCH || b->allocation < 0) continue;
        b->offset = s->allocations[b->allocation].bytes;
        s->allocations[b->allocation].bytes += b->stride;
    }
    ck_assert_int_eq(wf_derive_waits(s), WF_OK);
}

START_TEST(every_program_passes_the_check) {
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    make(&programs[_i], schedules);
    ck_assert_msg(check_all(&programs[_i], schedules) == WF_OK, "%s", wf_last_error());
    for (int32_t a = 0; a < programs[_i].ranks; a++)
        for (int32_t b = 0; b < programs[_i].ranks; b++)
            for (int l = 0; l < WF_LANES; l++)
                ck_assert_uint_eq(wf_schedule_hash_channel(schedules[a], a, b, (wf_lane)l),
                                  wf_schedule_hash_channel(schedules[b], a, b, (wf_lane)l));
    drop(&programs[_i], schedules);
}
END_TEST

START_TEST(any_interleaving_gives_what_unshared_memory_gives) {
    const program *q = &programs[_i];
    wf_schedule *schedules[MOST_RANKS] = {NULL}, *plain[MOST_RANKS] = {NULL};
    make(q, schedules);
    make(q, plain);
    for (int32_t r = 0; r < q->ranks; r++) unshare(plain[r]);
    world *w = world_create(schedules, q->ranks), *reference = world_create(plain, q->ranks);
    for (uint32_t seed = 1; seed <= PLAYS; seed++) {
        world *const both[] = {reference, w};
        for (int k = 0; k < 2; k++) {
            world_poison(both[k]);
            bind(q, both[k]);
            draw_counts(q, both[k], seed);
            ck_assert(world_play(both[k], k == 0 ? 0 : seed));
            ck_assert_int_eq(both[k]->poisoned, 0);
        }
        ck_assert_uint_eq(outcome(w), outcome(reference));
    }
    world_destroy(w);
    world_destroy(reference);
    drop(q, schedules);
    drop(q, plain);
}
END_TEST

START_TEST(every_conflict_is_ordered_and_every_dropped_wait_is_caught) {
    const program *q = &programs[_i];
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    world_pair *bytes, *pairs;
    make(q, schedules);
    world *w = world_create(schedules, q->ranks);
    const int32_t nbytes = world_conflicts(w, WORLD_BYTES, &bytes), n = world_conflicts(w, WORLD_INSTANCES, &pairs);
    ck_assert_int_gt(nbytes, 0);
    for (int messages = 0; messages < 2; messages++) {
        ck_assert_int_eq(world_unordered(w, bytes, nbytes, messages, NULL), 0);
        ck_assert_int_eq(world_unordered(w, pairs, n, messages, NULL), 0);
        const world_drops drops = world_drop_waits(w, pairs, n, messages);
        printf("%s, form %d, %d chunks, %s: %d conflicts, %d waits: %d redundant, %d caught, %d missed\n", q->name,
               q->shape.form, q->shape.chunks, messages ? "with messages" : "own waits", n, drops.waits,
               drops.redundant, drops.caught, drops.missed);
        ck_assert_int_eq(drops.missed, 0);
        ck_assert_int_gt(drops.caught, 0);
        ck_assert_int_eq(drops.redundant + drops.caught, drops.waits);
    }
    free(bytes);
    free(pairs);
    world_destroy(w);
    drop(q, schedules);
}
END_TEST

/* Loss of each microbatch and gradient of each layer, wherever it lies. */
static void results(const program *q, uint64_t loss[MICROBATCHES], uint64_t gradient[LAYERS]) {
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    make(q, schedules);
    world *w = world_create(schedules, q->ranks);
    bind(q, w);
    ck_assert(world_play(w, 7));
    for (int32_t m = 0; m < q->shape.microbatches; m++) loss[m] = world_hash(w, q->ranks - 1, "loss", m);
    for (int32_t c = 0; c < q->shape.chunks; c++)
        for (int32_t r = 0; r < q->ranks; r++) {
            const wf_range layers = wf_shard(q->layers, q->shape.chunks * q->ranks, c * q->ranks + r);
            for (int32_t i = 0; i < layers.count; i++)
                gradient[layers.first + i] = world_hash(w, r, "w.grad", (int32_t)layers.first + i);
        }
    world_destroy(w);
    drop(q, schedules);
}

START_TEST(pipelines_equal_one_rank) {
    const program alone = {.name = "pipeline", .ranks = 1, .shape = {WF_1F1B, 1, 0, 1, MICROBATCHES}, .layers = LAYERS};
    uint64_t loss[2][MICROBATCHES], gradient[2][LAYERS];
    results(&alone, loss[0], gradient[0]);
    results(&programs[_i], loss[1], gradient[1]);
    ck_assert_mem_eq(loss[0], loss[1], sizeof loss[0]);
    ck_assert_mem_eq(gradient[0], gradient[1], sizeof gradient[0]);
    ck_assert_uint_ne(loss[0][0], loss[0][1]);
}
END_TEST

START_TEST(pipedream_goes_back_with_the_weights_it_came_with) {
    const program *q = &programs[3];
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    make(q, schedules);
    for (int32_t r = 0; r < q->ranks; r++) {
        const wf_schedule *s = schedules[r];
        int32_t found = 0;
        for (int32_t f = 0; f < s->ncalls; f++) {
            const wf_call *forward = &s->calls[f];
            if (strcmp(s->segments[forward->segment].name, "layer.forward") != 0) continue;
            for (int32_t b = f + 1; b < s->ncalls; b++) {
                const wf_call *call = &s->calls[b];
                const char *name = s->segments[call->segment].name;
                const int32_t version = forward->at[WF_AT_WEIGHTS];
                if (strncmp(name, "layer.backward", 14) == 0 && call->layer == forward->layer &&
                    call->microbatch == forward->microbatch) {
                    ck_assert_int_eq(call->at[WF_AT_WEIGHTS], version);
                    found++;
                    break;
                }
                if (strcmp(name, "update") == 0) ck_assert_int_ne(call->at[WF_AT_WEIGHTS], version);
            }
        }
        ck_assert_int_eq(found, MICROBATCHES * (int32_t)wf_shard(q->layers, q->ranks, r).count);
    }
    /* The first stage keeps most versions, the last least. */
    int32_t versions[2] = {0, 0};
    for (int k = 0; k < 2; k++)
        for (int32_t b = 0; b < schedules[3 * k]->nbuffers; b++)
            if (strcmp(schedules[3 * k]->buffers[b].name, "w.version") == 0) versions[k] = schedules[3 * k]->buffers[b].count;
    ck_assert_int_gt(versions[0], versions[1]);
    drop(q, schedules);
}
END_TEST

/* ---- seeded faults -------------------------------------------------------------------------------------- */

static void fails(const program *q, const char *first, const char *second, bool plays) {
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    make(q, schedules);
    ck_assert_int_eq(check_all(q, schedules), WF_ERR_MISMATCH);
    printf("found: %s\n", wf_last_error());
    ck_assert_msg(strstr(wf_last_error(), first) && strstr(wf_last_error(), second), "%s", wf_last_error());
    if (!plays) {
        world *w = world_create(schedules, q->ranks);
        ck_assert(!world_play(w, 3));
        world_destroy(w);
    }
    drop(q, schedules);
}

START_TEST(a_swapped_receive_is_found) {
    program q = programs[1];
    q.swap_rank = 1 + 2;
    fails(&q, "ranks 1 and 2 disagree on the microbatch", "recv.forward", true);
}
END_TEST

START_TEST(a_missing_microbatch_names_the_pair) {
    program q = programs[1];
    q.short_rank = 1 + 2;
    fails(&q, "rank 1, send.forward in send.forward (layer", "sends to rank 2, whose program is over", false);
}
END_TEST

START_TEST(a_missing_microbatch_changes_the_channels_hash) {
    program q = programs[1];
    q.short_rank = 1 + 2;
    wf_schedule *schedules[MOST_RANKS] = {NULL};
    make(&q, schedules);
    ck_assert_uint_ne(wf_schedule_hash_channel(schedules[1], 1, 2, WF_LANE_PP_SEND_F),
                      wf_schedule_hash_channel(schedules[2], 1, 2, WF_LANE_PP_SEND_F));
    ck_assert_uint_eq(wf_schedule_hash_channel(schedules[0], 0, 1, WF_LANE_PP_SEND_F),
                      wf_schedule_hash_channel(schedules[1], 0, 1, WF_LANE_PP_SEND_F));
    drop(&q, schedules);
}
END_TEST

START_TEST(a_reused_buffer_that_deadlocks_is_found_after_placing) {
    program q = programs[2];
    q.one_buffer = true;
    fails(&q, "a circle", "on lane pp.recv.f waits for rank ", false);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("proofs");
    TCase *all = tcase_create("programs"), *faults = tcase_create("faults");
    tcase_set_timeout(all, 120);
    tcase_add_loop_test(all, every_program_passes_the_check, 0, PROGRAMS);
    tcase_add_loop_test(all, any_interleaving_gives_what_unshared_memory_gives, 0, PROGRAMS);
    tcase_add_loop_test(all, every_conflict_is_ordered_and_every_dropped_wait_is_caught, 0, PROGRAMS);
    tcase_add_loop_test(all, pipelines_equal_one_rank, 0, 3);
    tcase_add_test(all, pipedream_goes_back_with_the_weights_it_came_with);
    tcase_add_test(faults, a_swapped_receive_is_found);
    tcase_add_test(faults, a_missing_microbatch_names_the_pair);
    tcase_add_test(faults, a_missing_microbatch_changes_the_channels_hash);
    tcase_add_test(faults, a_reused_buffer_that_deadlocks_is_found_after_placing);
    suite_add_tcase(suite, all);
    suite_add_tcase(suite, faults);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
