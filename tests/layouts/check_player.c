/* check_player.c: lowering is right before any device is involved. All ranks of each layout are
 * played in f64 (player.h); outputs and every gradient equal one rank's, and one rank's equal the
 * plain model of tests/model_reference.h, which knows no schedule.
 *
 * Heads, features, sequence and vocabulary do not divide; dropout is on; two microbatches. In f64
 * sums in another order differ by some 1e-15 of the largest magnitude per step; 1e-12 leaves room
 * for the depth of the model and none for a mistake. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/philox.h"
#include "layouts/lower.h"
#include "tests/model_reference.h"
#include "tests/layouts/models.h"
#include "tests/layouts/player.h"

enum {
    LAYERS = UNEVEN_LAYERS,
    BATCH = 4,
    SEQUENCE = 61,
    VALID = 128 /* targets: so that 1/n is exact in f32 */,
    MOST_RANKS = 11
};
static const double TOLERANCE = 1e-12;
static const uint64_t SEED = 7;

static wf_model model; /* of the test case */

static uint64_t interleaving;                                       /* printed on failure */
static int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE]; /* [batch][sequence] */
static reference_tensors weights;

/* What a run leaves, put together from all ranks' shards. */
typedef struct outcome {
    double loss, norm, *logits, *last, *hidden; /* [batch][sequence][...] */
    reference_tensors gradients, updated;
} outcome;
static outcome one_rank;
static wf_order order; /* of the weights of layouts that are opened; rows unless a test says otherwise */

/* ---- a run of a layout ----------------------------------------------------------------------- */

typedef struct world {
    wf_layout layout;
    wf_mode mode;
    int32_t ranks;
    int64_t b;
    wf_schedule *schedules[MOST_RANKS];
    player *player;
} world;

static void open_world(world *w, const char *layout, wf_mode mode, bool fusion) {
    const wf_shape shape = {BATCH, SEQUENCE};
    const wf_limits limits = {.max_alloc_bytes = {0}};
    const wf_choices choices = {.no_fusion = !fusion};
    *w = (world){.mode = mode};
    ck_assert_msg(wf_layout_parse(layout, &w->layout) == WF_OK, "%s", wf_last_error());
    w->layout.order = (int32_t)order;
    w->ranks = wf_layout_ranks(&w->layout);
    w->b = BATCH / w->layout.microbatches;
    for (int32_t r = 0; r < w->ranks; r++) {
        ck_assert_msg(wf_lower(&model, &shape, &w->layout, r, mode, &w->schedules[r]) == WF_OK,
                      "%s", wf_last_error());
        ck_assert_msg(wf_choose(w->schedules[r], &choices) == WF_OK, "%s", wf_last_error());
        ck_assert_msg(wf_place(w->schedules[r], &limits) == WF_OK, "%s", wf_last_error());
    }
    w->player = player_create((const wf_schedule *const *)w->schedules, w->ranks);
}

static void close_world(world *w) {
    player_destroy(w->player);
    for (int32_t r = 0; r < w->ranks; r++) wf_schedule_destroy(w->schedules[r]);
}

/* Copies a row between a row-major whole and a shard in the tensor's order. */
static void move_row(wf_order of, const wf_shard_map *map, int64_t row, double *whole, double *shard, bool out) {
    for (int64_t column = 0; column < map->columns; column++) {
        double *const at = &shard[wf_order_index(of, map->columns, row, column)];
        *(out ? at : &whole[column]) = out ? whole[column] : *at;
    }
}

/* Copies a rank's shard of a whole tensor's instance out of (or into) it. */
static void move_shard(const world *w, int32_t r, int t, int64_t layer, double *whole,
                       double *shard, bool out) {
    wf_parameter_info table[WF_TENSORS];
    wf_shard_map map;
    wf_model_parameters(&model, table);
    wf_model_shard(&model, &table[t], &w->layout, r, &map);
    for (int p = 0; p < map.pieces; p++)
        for (int64_t row = 0; row < map.piece[p].count; row++) {
            double *a = whole + layer * table[t].rows * table[t].columns +
                        (map.piece[p].global + row) * table[t].columns + map.first_column;
            move_row(wf_model_order(&model, t, &w->layout), &map, map.piece[p].local + row, a, shard, out);
        }
}

static double *whole_slot(const world *w, int32_t r, int t, const char *kind, int64_t layer, int64_t *elements_out) {
    wf_parameter_info table[WF_TENSORS];
    char name[80];
    wf_model_parameters(&model, table);
    snprintf(name, sizeof name, "%s%s", table[t].name, kind);
    return player_f64(w->player, r, name, (int32_t)layer, elements_out);
}

static double *tensor_slot(const world *w, int32_t r, int t, const char *kind, int64_t layer) {
    int64_t elements;
    return whole_slot(w, r, t, kind, layer, &elements);
}

static void clear_slot(const world *w, int32_t r, int t, const char *kind, int64_t layer) {
    int64_t elements = 0;
    double *const slot = whole_slot(w, r, t, kind, layer, &elements);
    if (slot) memset(slot, 0, (size_t)elements * sizeof *slot);
}

/* Elements of a slot that are no element of the matrix and not 0; the slots' size is the order's. */
static int64_t dirty_padding(const world *w, int32_t r, int t, const char *kind, int64_t layer) {
    const wf_order of = wf_model_order(&model, t, &w->layout);
    wf_parameter_info table[WF_TENSORS];
    wf_shard_map map;
    int64_t elements = 0, dirty = 0;
    wf_model_parameters(&model, table);
    wf_model_shard(&model, &table[t], &w->layout, r, &map);
    const double *const slot = whole_slot(w, r, t, kind, layer, &elements);
    ck_assert_int_eq(elements, wf_order_elements(of, map.rows, map.columns));
    for (int64_t row = map.rows; of == WF_ORDER_PANELS && row % WF_PANEL_ROWS; row++)
        for (int64_t column = 0; column < map.columns; column++)
            dirty += slot[wf_order_index(of, map.columns, row, column)] != 0;
    return dirty;
}

static int64_t instances(int t) {
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(&model, table);
    return table[t].per_layer ? LAYERS : 1;
}

/* Row of the schedule's position-major microbatch -> (sample, position). */
static int32_t token_of(const world *w, const int32_t *from, int32_t microbatch, int64_t row) {
    return from[(microbatch * w->b + row % w->b) * SEQUENCE + row / w->b];
}

static void fill_slots(world *w, int32_t r) {
    int64_t n;
    for (int32_t m = 0; m < w->layout.microbatches; m++) {
        int32_t *ids = player_i32(w->player, r, "tokens", m, &n),
                *goals = player_i32(w->player, r, "targets", m, &n);
        for (int64_t row = 0; row < w->b * SEQUENCE; row++) {
            ids[row] = token_of(w, tokens, m, row);
            if (goals) goals[row] = token_of(w, targets, m, row);
        }
    }
    double *const rope = player_f64(w->player, r, "rope", 0, &n);
    for (int64_t position = 0; rope && position < SEQUENCE; position++)
        wf_model_rope(&model, position, rope + position * model.head_size);
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t layer = 0; layer < instances(t); layer++) {
            clear_slot(w, r, t, "", layer);
            move_shard(w, r, t, layer, weights.data[t], tensor_slot(w, r, t, "", layer), true);
            for (int k = 0; k < 2 && w->mode == WF_MODE_TRAIN; k++)
                clear_slot(w, r, t, k ? ".v" : ".m", layer);
        }
}

static const char *play(world *w, bool obey) {
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    uint32_t key[2];
    wf_philox_key(SEED, 0, key);
    run[WF_RUN_KEY0].u = key[0], run[WF_RUN_KEY1].u = key[1];
    run[WF_RUN_LR].f = 1e-3f, run[WF_RUN_BETA1].f = 0.9f, run[WF_RUN_BETA2].f = 0.999f,
    run[WF_RUN_EPS].f = 1e-8f;
    run[WF_RUN_DECAY].f = 0.01f, run[WF_RUN_CORRECTION1].f = 10, run[WF_RUN_CORRECTION2].f = 1000;
    run[WF_RUN_LOSS_SCALE].f = 1.0f / VALID, run[WF_RUN_MAX_NORM].f = 0.25f;
    for (int32_t r = 0; r < w->ranks; r++) fill_slots(w, r);
    return player_run(w->player, run, w->b, interleaving++, obey);
}

/* ---- what came out --------------------------------------------------------------------------- */

static void collect_rows(const world *w, const char *slot, int64_t columns, bool sharded,
                         double *out) {
    for (int32_t r = 0; r < w->ranks; r++) {
        const bool sp = w->layout.sp && sharded;
        const wf_range positions = sp ? wf_shard(SEQUENCE, w->ranks, r) : (wf_range){0, SEQUENCE};
        for (int32_t m = 0; m < w->layout.microbatches; m++) {
            int64_t n;
            const double *rows = player_f64(w->player, r, slot, m, &n);
            ck_assert_int_eq(n, positions.count * w->b * columns);
            for (int64_t row = 0; row < positions.count * w->b; row++)
                memcpy(out + ((m * w->b + row % w->b) * SEQUENCE + positions.first + row / w->b) *
                                 columns,
                       rows + row * columns, (size_t)columns * sizeof(double));
        }
    }
}

static void collect_tensors(const world *w, const char *kind, reference_tensors *out) {
    *out = reference_tensors_create(&model);
    for (int32_t r = 0; r < w->ranks; r++)
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t layer = 0; layer < instances(t); layer++)
                move_shard(w, r, t, layer, out->data[t], tensor_slot(w, r, t, kind, layer), false);
}

/* Largest difference over the largest magnitude; infinite where something is not a number. */
static double difference(const double *a, const double *b, int64_t n) {
    double most = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        most = fmax(most, fabs(a[i]));
        worst = fmax(worst, fabs(a[i] - b[i]));
    }
    return most > 0 ? worst / most : worst;
}

/* The shards of two ranks have the same bits where they hold the same rows. */
static double shards_differ(const world *w, int t, int64_t layer, const char *kind, int32_t a, int32_t b) {
    wf_parameter_info table[WF_TENSORS];
    wf_shard_map one, other;
    double worst = 0;
    wf_model_parameters(&model, table);
    wf_model_shard(&model, &table[t], &w->layout, a, &one);
    wf_model_shard(&model, &table[t], &w->layout, b, &other);
    const double *x = tensor_slot(w, a, t, kind, layer), *y = tensor_slot(w, b, t, kind, layer);
    for (int p = 0; p < one.pieces; p++)
        for (int64_t row = 0; row < one.piece[p].count; row++) {
            const int64_t at = one.piece[p].global + row - other.piece[p].global;
            if (at < 0 || at >= other.piece[p].count) continue;
            worst = fmax(worst, difference(x + (one.piece[p].local + row) * one.columns,
                                           y + (other.piece[p].local + at) * one.columns, one.columns));
        }
    return worst;
}

/* Replicated tensors, kv heads and scalars must be the same on every rank that has them, not only on
 * the last one read. */
static double replicas_differ(const world *w, const char *kind) {
    wf_parameter_info table[WF_TENSORS];
    double worst = 0;
    wf_model_parameters(&model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const bool heads = table[t].split == WF_SPLIT_HEADS;
        for (int64_t layer = 0; layer < instances(t) && (heads || table[t].split == WF_REPLICATED); layer++)
            for (int32_t r = 1; r < w->ranks; r++)
                worst = fmax(worst, shards_differ(w, t, layer, kind, heads ? r - 1 : 0, r));
    }
    return worst;
}

static void destroy_outcome(outcome *o) {
    free(o->hidden);
    free(o->last);
    free(o->logits);
    reference_tensors_destroy(&o->gradients);
    reference_tensors_destroy(&o->updated);
    *o = (outcome){0};
}

static double scalar(const world *w, const char *slot, double *worst) {
    int64_t n;
    const double value = *player_f64(w->player, 0, slot, 0, &n);
    for (int32_t r = 1; r < w->ranks; r++)
        *worst = fmax(*worst, difference(&value, player_f64(w->player, r, slot, 0, &n), 1));
    return value;
}

/* Plays the layout; gathers what its mode leaves. Returns how far replicas are apart. */
static double outcome_of(const char *layout, wf_mode mode, bool fusion, outcome *out) {
    world w;
    double apart = 0;
    *out = (outcome){0};
    open_world(&w, layout, mode, fusion);
    const uint64_t seed = interleaving;
    const char *sentence = play(&w, true);
    ck_assert_msg(!sentence, "%s, interleaving %llu: %s", layout, (unsigned long long)seed,
                  sentence);
    if (mode == WF_MODE_LOGITS) {
        out->logits = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.vocabulary);
        collect_rows(&w, "logits", model.vocabulary, false, out->logits);
    } else if (mode == WF_MODE_HIDDEN) {
        out->hidden = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.hidden);
        collect_rows(&w, "hidden.all", model.hidden, false, out->hidden);
    } else {
        out->loss = scalar(&w, "loss", &apart) / VALID;
    }
    if (mode == WF_MODE_GRADIENTS) {
        out->last = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.hidden);
        collect_rows(&w, "hidden", model.hidden, true, out->last);
    }
    for (int t = 0; t < WF_TENSORS && mode == WF_MODE_TRAIN; t++)
        for (int32_t r = 0; r < w.ranks; r++)
            for (int kind = 0; kind < 4; kind++)
                ck_assert_int_eq(dirty_padding(&w, r, t, (const char *const[]){"", ".grad", ".m", ".v"}[kind], 0), 0);
    if (mode == WF_MODE_TRAIN) {
        out->norm = scalar(&w, "clip", &apart);
        collect_tensors(&w, "", &out->updated);
        apart = fmax(apart, replicas_differ(&w, ""));
    }
    if (mode == WF_MODE_TRAIN || mode == WF_MODE_GRADIENTS) {
        collect_tensors(&w, ".grad", &out->gradients);
        apart = fmax(apart, replicas_differ(&w, ".grad"));
    }
    close_world(&w);
    return apart;
}

static void assert_tensors_close(const reference_tensors *expected, const reference_tensors *got,
                                 const char *what) {
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(&model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const double d = difference(expected->data[t], got->data[t], reference_count(&model, t));
        ck_assert_msg(d <= TOLERANCE, "%s of %s differ by %g (last interleaving %llu)", what,
                      table[t].name, d, (unsigned long long)interleaving - 1);
    }
}

/* ---- one rank against the plain model ---------------------------------------------------------- */

static reference_batch batch_of(bool dropout) {
    return (reference_batch){.batch = BATCH,
                       .sequence = SEQUENCE,
                       .tokens = tokens,
                       .targets = targets,
                       .seed = SEED,
                       .dropout = dropout};
}

START_TEST(one_rank_equals_the_plain_model) {
    const reference_batch batch = batch_of(true);
    reference_tensors gradients = reference_tensors_create(&model);
    double *last = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.hidden);
    const double loss = model_reference(
        &model, &weights, &batch, &(reference_outputs){.last = last}, &gradients);
    ck_assert_msg(fabs(loss - one_rank.loss) <= TOLERANCE * loss, "loss %.17g, expected %.17g",
                  one_rank.loss, loss);
    const double d = difference(last, one_rank.last, BATCH * SEQUENCE * model.hidden);
    ck_assert_msg(d <= TOLERANCE, "hidden states differ by %g", d);
    assert_tensors_close(&gradients, &one_rank.gradients, "gradients");
    reference_tensors_destroy(&gradients);
    free(last);
}
END_TEST

/* Norm, clipping and AdamW, from the plain gradients. */
START_TEST(one_rank_trains_as_adamw_says) {
    wf_parameter_info table[WF_TENSORS];
    outcome got;
    double sum = 0;
    ck_assert(outcome_of("tp1.mb2", WF_MODE_TRAIN, true, &got) == 0);
    wf_model_parameters(&model, table);
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < reference_count(&model, t); i++)
            sum += one_rank.gradients.data[t][i] * one_rank.gradients.data[t][i];
    ck_assert_msg(fabs(got.norm - sqrt(sum)) <= TOLERANCE * got.norm, "norm %.17g, expected %.17g",
                  got.norm, sqrt(sum));
    const double scale = fmin(1, (double)0.25f / (sqrt(sum) + 1e-6)), lr = 1e-3f, decay = 0.01f;
    const double first = 1 - (double)0.9f, second = 1 - (double)0.999f;
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < reference_count(&model, t); i++) {
            const double g = one_rank.gradients.data[t][i] * scale, p = weights.data[t][i];
            const double m = first * g * 10, v = second * g * g * 1000;
            const double expected =
                p - (table[t].matrix ? lr * decay * p : 0) - lr * m / (sqrt(v) + (double)1e-8f);
            /* g near 0 against eps 1e-8 amplifies its 1e-16 rounding by 1e8 */
            ck_assert_msg(fabs(got.updated.data[t][i] - expected) <= 1e-9,
                          "%s[%lld] is %.17g, expected %.17g", table[t].name, (long long)i,
                          got.updated.data[t][i], expected);
        }
    destroy_outcome(&got);
}
END_TEST

/* ---- layouts against one rank ---------------------------------------------------------------- */

static const char *const layouts[] = {"tp1.mb2",    "tp2.mb2",    "tp2.sp.mb2", "tp3.sp.mb2",
                                      "tp4.mb2",    "tp4.sp.mb2", "tp3",        "tp8.sp.mb4",
                                      "tp11.sp.mb2" /* sums of more than 8 parts */,
                                      "tp1.mb2.loss-chunks3", "tp3.sp.mb2.loss-chunks4", "tp2.loss-chunks99",
                                      "tp1.recompute-pointwise", "tp3.sp.mb2.recompute-pointwise", "tp2.sp.recompute-attention",
                                      "tp4.mb2.recompute-attention.recompute-pointwise", "tp2.recompute-full", "tp3.sp.mb2.recompute-full"};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static void compare(const char *layout, wf_mode mode, bool fusion) {
    outcome got;
    const double apart = outcome_of(layout, mode, fusion, &got);
    ck_assert_msg(apart == 0, "%s: replicas differ by %g", layout, apart);
    ck_assert_msg(fabs(got.loss - one_rank.loss) <= TOLERANCE * one_rank.loss,
                  "%s: loss %.17g, one rank's %.17g", layout, got.loss, one_rank.loss);
    if (got.last) {
        const double d = difference(one_rank.last, got.last, BATCH * SEQUENCE * model.hidden);
        ck_assert_msg(d <= TOLERANCE, "%s: the last layer's output differs by %g", layout, d);
    }
    assert_tensors_close(&one_rank.gradients, &got.gradients, layout);
    if (mode == WF_MODE_TRAIN) {
        ck_assert_msg(fabs(got.norm - one_rank.norm) <= TOLERANCE * one_rank.norm,
                      "%s: norm %.17g, one rank's %.17g", layout, got.norm, one_rank.norm);
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t i = 0; i < reference_count(&model, t); i++)
                ck_assert_msg(fabs(got.updated.data[t][i] - one_rank.updated.data[t][i]) <= 1e-9,
                              "%s: an updated weight of tensor %d is %.17g", layout, t,
                              got.updated.data[t][i]);
    }
    destroy_outcome(&got);
}

START_TEST(layouts_equal_one_rank) {
    compare(layouts[_i], WF_MODE_TRAIN, true);
}
END_TEST

START_TEST(unfused_layouts_equal_one_rank) {
    compare(layouts[_i], WF_MODE_GRADIENTS, false);
}
END_TEST

/* Weights in panels: the same as rows, in every layout, and padding is 0 after a step. */
START_TEST(weights_in_panels_equal_rows) {
    order = WF_ORDER_PANELS;
    compare(layouts[_i], WF_MODE_TRAIN, true);
    order = WF_ORDER_ROWS;
}
END_TEST

START_TEST(results_of_panels_equal_those_of_rows) {
    outcome rows, panels;
    outcome_of("tp2.sp.mb2", WF_MODE_LOGITS, true, &rows);
    order = WF_ORDER_PANELS;
    outcome_of("tp3.mb2", WF_MODE_LOGITS, true, &panels);
    order = WF_ORDER_ROWS;
    const double d = difference(rows.logits, panels.logits, BATCH * SEQUENCE * model.vocabulary);
    ck_assert_msg(d <= TOLERANCE, "logits differ by %g", d);
    destroy_outcome(&rows);
    destroy_outcome(&panels);
}
END_TEST

START_TEST(results_equal_the_plain_model) {
    const reference_batch batch = batch_of(false);
    double *logits = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.vocabulary);
    double *hidden = malloc(sizeof(double) * BATCH * SEQUENCE * (size_t)model.hidden);
    const double loss = model_reference(&model, &weights, &batch,
                                        &(reference_outputs){.logits = logits, .hidden = hidden}, NULL);
    const char *const some[] = {"tp1.mb2", "tp2.mb2", "tp3.sp.mb2", "tp2.sp.mb2.loss-chunks3"};
    for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
        outcome got;
        ck_assert(outcome_of(some[i], WF_MODE_EVALUATE, true, &got) == 0);
        ck_assert_msg(fabs(got.loss - loss) <= TOLERANCE * loss, "%s: loss %.17g, expected %.17g",
                      some[i], got.loss, loss);
        destroy_outcome(&got);
        outcome_of(some[i], WF_MODE_LOGITS, true, &got);
        const double d = difference(logits, got.logits, BATCH * SEQUENCE * model.vocabulary);
        ck_assert_msg(d <= TOLERANCE, "%s: logits differ by %g", some[i], d);
        destroy_outcome(&got);
        outcome_of(some[i], WF_MODE_HIDDEN, true, &got);
        const double e = difference(hidden, got.hidden, BATCH * SEQUENCE * model.hidden);
        ck_assert_msg(e <= TOLERANCE, "%s: hidden states differ by %g", some[i], e);
        destroy_outcome(&got);
    }
    free(logits);
    free(hidden);
}
END_TEST

/* ---- the player sees faults ------------------------------------------------------------------ */

/* Plays tp2.sp after `spoil` changed rank 1's schedule; true if anything differs from one rank. */
static bool is_seen(void (*spoil)(wf_schedule *), bool obey) {
    world w;
    reference_tensors got;
    bool seen = false;
    open_world(&w, "tp2.sp.mb2", WF_MODE_GRADIENTS, true);
    if (spoil) spoil(w.schedules[1]);
    if (play(&w, obey)) seen = true;
    collect_tensors(&w, ".grad", &got);
    for (int t = 0; t < WF_TENSORS && !seen; t++)
        seen = !(difference(one_rank.gradients.data[t], got.data[t], reference_count(&model, t)) <=
                 TOLERANCE);
    reference_tensors_destroy(&got);
    close_world(&w);
    return seen;
}

static void shift_positions(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_REDUCE &&
            (s->problems[i].problem.flags & WF_DROPOUT))
            s->problems[i].problem.size[5]++;
}

static void forget_accumulation(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_NORM_WGRAD)
            s->problems[i].problem.flags &= ~(uint32_t)WF_ACCUMULATE;
}

/* A window that ends one key early: of a sequence that it does not fill. */
static void shorten_window(wf_schedule *s) {
    for (int32_t i = 0; i < s->nproblems; i++)
        if (s->problems[i].problem.op == WF_OP_ATTENTION) s->problems[i].problem.size[11] -= 1;
}

START_TEST(seeded_faults_are_seen) {
    ck_assert(!is_seen(NULL, true));
    if (model.window) ck_assert(is_seen(shorten_window, true));
    ck_assert(is_seen(NULL, false)); /* waits matter */
    ck_assert(is_seen(shift_positions, true));
    ck_assert(is_seen(forget_accumulation, true));
}
END_TEST

/* ---- main ------------------------------------------------------------------------------------ */

static void make_data(test_form form) {
    const uint32_t key[2] = {11, 13};
    model = uneven_model(form);
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)i}, key, words);
        tokens[i] = (int32_t)(words[0] % (uint32_t)model.vocabulary);
        targets[i] =
            i % 2 || i >= 2 * VALID ? -1 : (int32_t)(words[1] % (uint32_t)model.vocabulary);
    }
    for (int i = 0, left = VALID - (BATCH * SEQUENCE + 1) / 2; left > 0; i++)
        if (i % 2) targets[i] = (i * 31) % (int)model.vocabulary, left--;
    weights = reference_tensors_create(&model);
    reference_initialise(&model, SEED, &weights);
    for (int t = 0; t < WF_TENSORS; t++) /* biases and norms off their 0 and 1 */
        for (int64_t i = 0; i < reference_count(&model, t); i++)
            weights.data[t][i] += 0.05 * wf_philox_normal(key, 200 + (uint32_t)t % 50, 0, i, 0);
}

static void make_one_rank(test_form form) {
    outcome train;
    make_data(form);
    outcome_of("tp1.mb2", WF_MODE_GRADIENTS, false, &one_rank);
    outcome_of("tp1.mb2", WF_MODE_TRAIN, false, &train);
    one_rank.norm = train.norm;
    one_rank.updated = train.updated;
    reference_tensors_destroy(&train.gradients);
}

static void with_gpt2(void) { make_one_rank(TEST_GPT2); }
static void with_llama(void) { make_one_rank(TEST_LLAMA); }
static void with_bert(void) { make_one_rank(TEST_BERT); }
static void with_mixed(void) { make_one_rank(TEST_MIXED); }
static void with_mistral(void) { make_one_rank(TEST_MISTRAL); }

static void without(void) {
    destroy_outcome(&one_rank);
    reference_tensors_destroy(&weights);
}

/* check_player [SEED]: with the printed seed the same interleavings again. */
int main(int argc, char **argv) {
    void (*const with[TEST_FORMS])(void) = {with_gpt2, with_llama, with_bert, with_mixed, with_mistral};
    interleaving = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL) << 20;
    printf("interleavings: check_player %llu\n", (unsigned long long)interleaving);
    Suite *suite = suite_create("player");
    for (int form = 0; form < TEST_FORMS; form++) {
        TCase *tests = tcase_create(test_form_names[form]);
        tcase_set_timeout(tests, 300);
        tcase_add_unchecked_fixture(tests, with[form], without);
        tcase_add_test(tests, one_rank_equals_the_plain_model);
        tcase_add_test(tests, one_rank_trains_as_adamw_says);
        tcase_add_loop_test(tests, layouts_equal_one_rank, 0, LAYOUTS);
        tcase_add_loop_test(tests, unfused_layouts_equal_one_rank, 1, LAYOUTS);
        tcase_add_test(tests, results_equal_the_plain_model);
        tcase_add_loop_test(tests, weights_in_panels_equal_rows, 0, LAYOUTS);
        tcase_add_test(tests, results_of_panels_equal_those_of_rows);
        tcase_add_test(tests, seeded_faults_are_seen);
        suite_add_tcase(suite, tests);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
