/* outcome.c: all ranks of a layout played in f64, and what they leave put together; see outcome.h. */
#include "tests/layouts/outcome.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "tests/layouts/near.h"

struct trial trial = {.seed = 7};

/* ---- a run of a layout ----------------------------------------------------------------------- */

void open_world(world *w, const char *layout, wf_mode mode, bool fusion) {
    const wf_shape shape = {.batch = trial.batch, .sequence = trial.sequence, .documents = trial.documents != NULL};
    const wf_limits limits = {.max_alloc_bytes = {0}};
    *w = (world){.mode = mode};
    ck_assert_msg(wf_layout_parse(layout, &w->layout) == WF_OK, "%s", wf_last_error());
    w->layout.order = (int32_t)trial.order;
    w->ranks = wf_layout_ranks(&w->layout);
    w->b = trial.batch / w->layout.microbatches;
    for (int32_t r = 0; r < w->ranks; r++) {
        ck_assert_msg(wf_lower(&trial.model, &shape, &w->layout, r, mode, &w->schedules[r]) == WF_OK,
                      "%s", wf_last_error());
        const wf_choices fused = near_choices(&r), plain = {.no_fusion = true};
        ck_assert_msg(wf_choose(w->schedules[r], fusion ? &fused : &plain) == WF_OK, "%s", wf_last_error());
        ck_assert_msg(wf_place(w->schedules[r], &limits) == WF_OK, "%s", wf_last_error());
    }
    w->player = player_create((const wf_schedule *const *)w->schedules, w->ranks);
}

void close_world(world *w) {
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
    wf_model_parameters(&trial.model, table);
    wf_model_shard(&trial.model, &table[t], &w->layout, r, &map);
    for (int p = 0; p < map.pieces; p++)
        for (int64_t row = 0; row < map.piece[p].count; row++) {
            double *a = whole + layer * table[t].rows * table[t].columns +
                        (map.piece[p].global + row) * table[t].columns + map.first_column;
            move_row(wf_model_order(&trial.model, t, &w->layout), &map, map.piece[p].local + row, a, shard, out);
        }
}

static double *whole_slot(const world *w, int32_t r, int t, const char *kind, int64_t layer, int64_t *elements_out) {
    wf_parameter_info table[WF_TENSORS];
    char name[80];
    wf_model_parameters(&trial.model, table);
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

/* Elements of a slot that are no element of the matrix and not 0; the slots' size is the trial.order's. */
static int64_t dirty_padding(const world *w, int32_t r, int t, const char *kind, int64_t layer) {
    const wf_order of = wf_model_order(&trial.model, t, &w->layout);
    wf_parameter_info table[WF_TENSORS];
    wf_shard_map map;
    int64_t elements = 0, dirty = 0;
    wf_model_parameters(&trial.model, table);
    wf_model_shard(&trial.model, &table[t], &w->layout, r, &map);
    const double *const slot = whole_slot(w, r, t, kind, layer, &elements);
    ck_assert_int_eq(elements, wf_order_elements(of, map.rows, map.columns));
    for (int64_t row = map.rows; of == WF_ORDER_PANELS && row % WF_PANEL_ROWS; row++)
        for (int64_t column = 0; column < map.columns; column++)
            dirty += slot[wf_order_index(of, map.columns, row, column)] != 0;
    return dirty;
}

static int64_t instances(int t) {
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(&trial.model, table);
    return table[t].per_layer ? trial.model.layers : 1;
}

/* Row of a rank's position-major microbatch -> (sample, position). */
static int32_t token_of(const world *w, const wf_positions *positions, const int32_t *from, int32_t microbatch, int64_t row) {
    return from[(microbatch * w->b + row % w->b) * trial.sequence + wf_positions_at(positions, row / w->b)];
}

/* First position of a token's document, and the one after its last. */
static void span_of(int64_t sample, int64_t position, int32_t out[2]) {
    const int32_t *const row = trial.documents + sample * trial.sequence;
    int64_t first = position, end = position + 1;
    while (first > 0 && row[first - 1] == row[position]) first--;
    while (end < trial.sequence && row[end] == row[position]) end++;
    out[0] = (int32_t)first, out[1] = (int32_t)end;
}

static void fill_documents(const world *w, int32_t r, int32_t microbatch, const wf_positions *positions) {
    int64_t n;
    int32_t *const spans = player_i32(w->player, r, "documents", microbatch, &n),
            *const places = player_i32(w->player, r, "places", microbatch, &n);
    for (int64_t row = 0; row < w->b * trial.sequence; row++)
        span_of(microbatch * w->b + row % w->b, row / w->b, spans + 2 * row);
    for (int64_t row = 0; places && row < w->b * positions->count; row++) {
        const int64_t position = wf_positions_at(positions, row / w->b);
        places[row] = (int32_t)position - spans[2 * (position * w->b + row % w->b)];
    }
}

static void fill_slots(world *w, int32_t r) {
    const wf_positions positions = wf_model_positions(&trial.model, &w->layout, trial.sequence, r);
    int64_t n;
    for (int32_t m = 0; m < w->layout.microbatches; m++) {
        int32_t *ids = player_i32(w->player, r, "tokens", m, &n),
                *goals = player_i32(w->player, r, "targets", m, &n);
        for (int64_t row = 0; row < w->b * positions.count; row++) {
            ids[row] = token_of(w, &positions, trial.tokens, m, row);
            if (goals) goals[row] = token_of(w, &positions, trial.targets, m, row);
        }
        if (trial.documents) fill_documents(w, r, m, &positions);
    }
    double *const rope = player_f64(w->player, r, "rope", 0, &n);
    for (int64_t i = 0; rope && i < positions.count; i++)
        wf_model_rope(&trial.model, wf_positions_at(&positions, i), rope + i * trial.model.head_size);
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t layer = 0; layer < instances(t); layer++) {
            clear_slot(w, r, t, "", layer);
            move_shard(w, r, t, layer, trial.weights.data[t], tensor_slot(w, r, t, "", layer), true);
            for (int k = 0; k < 2 && w->mode == WF_MODE_TRAIN; k++)
                clear_slot(w, r, t, k ? ".v" : ".m", layer);
        }
}

const char *play(world *w, bool obey) {
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    uint32_t key[2];
    wf_philox_key(trial.seed, 0, key);
    run[WF_RUN_KEY0].u = key[0], run[WF_RUN_KEY1].u = key[1];
    run[WF_RUN_LR].f = 1e-3f, run[WF_RUN_BETA1].f = 0.9f, run[WF_RUN_BETA2].f = 0.999f,
    run[WF_RUN_EPS].f = 1e-8f;
    run[WF_RUN_DECAY].f = 0.01f, run[WF_RUN_CORRECTION1].f = 10, run[WF_RUN_CORRECTION2].f = 1000;
    run[WF_RUN_LOSS_SCALE].f = 1.0f / trial.valid, run[WF_RUN_MAX_NORM].f = 0.25f;
    for (int32_t r = 0; r < w->ranks; r++) fill_slots(w, r);
    return player_run(w->player, run, w->b, trial.interleaving++, obey);
}

/* ---- what came out --------------------------------------------------------------------------- */

static void collect_rows(const world *w, const char *slot, int64_t columns, bool sharded,
                         double *out) {
    for (int32_t r = 0; r < w->ranks; r++) {
        const wf_positions whole = {{{0, trial.sequence}, {trial.sequence, 0}}, trial.sequence};
        const wf_positions positions = sharded ? wf_model_own_positions(&trial.model, &w->layout, trial.sequence, r) : whole;
        for (int32_t m = 0; m < w->layout.microbatches; m++) {
            int64_t n;
            const double *rows = player_f64(w->player, r, slot, m, &n);
            ck_assert_int_eq(n, positions.count * w->b * columns);
            for (int64_t row = 0; row < positions.count * w->b; row++)
                memcpy(out + ((m * w->b + row % w->b) * trial.sequence + wf_positions_at(&positions, row / w->b)) *
                                 columns,
                       rows + row * columns, (size_t)columns * sizeof(double));
        }
    }
}

void collect_tensors(const world *w, const char *kind, reference_tensors *out) {
    *out = reference_tensors_create(&trial.model);
    for (int32_t r = 0; r < w->ranks; r++)
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t layer = 0; layer < instances(t); layer++)
                move_shard(w, r, t, layer, out->data[t], tensor_slot(w, r, t, kind, layer), false);
}

/* Largest difference over the largest magnitude; infinite where something is not a number. */
double difference(const double *a, const double *b, int64_t n) {
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
    wf_model_parameters(&trial.model, table);
    wf_model_shard(&trial.model, &table[t], &w->layout, a, &one);
    wf_model_shard(&trial.model, &table[t], &w->layout, b, &other);
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
    wf_model_parameters(&trial.model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const bool heads = table[t].split == WF_SPLIT_HEADS;
        const int32_t tp = w->layout.size[WF_AXIS_TP];
        for (int64_t layer = 0; layer < instances(t); layer++)
            for (int32_t r = tp; r < w->ranks; r++) /* cp ranks hold the same trial.weights */
                worst = fmax(worst, shards_differ(w, t, layer, kind, r - tp, r));
        for (int64_t layer = 0; layer < instances(t) && (heads || table[t].split == WF_REPLICATED); layer++)
            for (int32_t r = 1; r < w->ranks; r++)
                worst = fmax(worst, shards_differ(w, t, layer, kind, heads ? r - 1 : 0, r));
    }
    return worst;
}

void destroy_outcome(outcome *o) {
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
double outcome_of(const char *layout, wf_mode mode, bool fusion, outcome *out) {
    world w;
    double apart = 0;
    *out = (outcome){0};
    open_world(&w, layout, mode, fusion);
    const uint64_t seed = trial.interleaving;
    const char *sentence = play(&w, true);
    ck_assert_msg(!sentence, "%s, trial.interleaving %llu: %s", layout, (unsigned long long)seed,
                  sentence);
    if (mode == WF_MODE_LOGITS) {
        out->logits = malloc(sizeof(double) * trial.batch * trial.sequence * (size_t)trial.model.vocabulary);
        collect_rows(&w, "logits", trial.model.vocabulary, false, out->logits);
    } else if (mode == WF_MODE_HIDDEN) {
        out->hidden = malloc(sizeof(double) * trial.batch * trial.sequence * (size_t)trial.model.hidden);
        collect_rows(&w, "hidden.all", trial.model.hidden, false, out->hidden);
    } else {
        out->loss = scalar(&w, "loss", &apart) / trial.valid;
    }
    if (mode == WF_MODE_GRADIENTS) {
        out->last = malloc(sizeof(double) * trial.batch * trial.sequence * (size_t)trial.model.hidden);
        collect_rows(&w, "hidden", trial.model.hidden, true, out->last);
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

void assert_tensors_close(const reference_tensors *expected, const reference_tensors *got,
                                 const char *what) {
    wf_parameter_info table[WF_TENSORS];
    wf_model_parameters(&trial.model, table);
    for (int t = 0; t < WF_TENSORS; t++) {
        const double d = difference(expected->data[t], got->data[t], reference_count(&trial.model, t));
        ck_assert_msg(d <= OUTCOME_TOLERANCE, "%s of %s differ by %g (last trial.interleaving %llu)", what,
                      table[t].name, d, (unsigned long long)trial.interleaving - 1);
    }
}

reference_batch batch_of(bool dropout) {
    return (reference_batch){.batch = trial.batch,
                       .sequence = trial.sequence,
                       .tokens = trial.tokens,
                       .targets = trial.targets,
                       .documents = trial.documents,
                       .seed = trial.seed,
                       .dropout = dropout};
}
