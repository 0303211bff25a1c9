/* context_support.c: see context_support.h. */
#include "tests/host/context_support.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TOLERANCE 3e-6

int rank, ranks, checks, failures;
context_case now;
char stage[200];
double worst_seen;

/* ---- verdicts -------------------------------------------------------------------------------------------------------- */

static char *complaint; /* of this rank, the first one about the stage; NULL: none */

void __attribute__((format(printf, 2, 3))) expect(bool fine, const char *format, ...) {
    static char text[400];
    if (fine || complaint) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    complaint = text;
}

void conclude(void) {
    int mine = complaint != NULL, worst;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    checks++;
    failures += worst;
    if (mine) fprintf(stderr, "rank %d of %d, %s: %s\n", rank, ranks, stage, complaint);
    complaint = NULL;
}

void conclude_seen(void) {
    int mine = complaint != NULL, any;
    MPI_Allreduce(&mine, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    complaint = NULL;
    expect(any, "a planted fault is not seen");
    conclude();
}

void must(weft_status status, const char *what) {
    if (status == WEFT_OK) return;
    fprintf(stderr, "rank %d of %d, %s: %s: %s\n", rank, ranks, stage, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* ---- contexts -------------------------------------------------------------------------------------------------------- */

const char *const transports[TRANSPORTS] = {"window", "staged", "mpi"};
weft_context *contexts[TRANSPORTS];
static weft_bootstrap *bootstraps[TRANSPORTS]; /* of one context each */

void open_contexts(void) {
    for (int t = 0; t < TRANSPORTS; t++) {
        weft_context_options options;
        weft_context_options_init(&options);
        options.transport = transports[t];
        snprintf(stage, sizeof stage, "over %s", transports[t]);
        must(weft_bootstrap_mpi(MPI_COMM_WORLD, &bootstraps[t]), "bootstrap_mpi");
        must(weft_context_create(&options, bootstraps[t], &contexts[t]), "context_create");
    }
}

void close_contexts(void) {
    for (int t = 0; t < TRANSPORTS; t++) {
        weft_context_destroy(contexts[t]);
        weft_bootstrap_destroy(bootstraps[t]);
    }
}

int64_t bytes_sent(const weft_context *context, const char *transport) {
    int64_t bytes, messages;
    must(weft_context_sent(context, transport, &bytes, &messages), "context_sent");
    return bytes;
}

/* ---- a plan of a case ------------------------------------------------------------------------------------------------ */

/* The case's model as a caller would say it. */
weft_model_options model_options(const wf_model *m) {
    weft_model_options o;
    weft_model_options_init(&o);
    o.layers = m->layers, o.hidden = m->hidden, o.heads = m->heads, o.kv_heads = m->kv_heads, o.head_size = m->head_size;
    o.features = m->features, o.vocabulary = m->vocabulary, o.positions = m->positions;
    o.window = m->window, o.bidirectional = m->bidirectional, o.tied_head = m->tied_head;
    if (m->position_form == WF_POSITIONS_ROPE) o.position_form = "rope", o.rope_theta = m->rope_theta;
    o.dropout_embedding = m->dropout_embedding, o.dropout_attention = m->dropout_attention;
    o.dropout_residual = m->dropout_residual;
    return o;
}

weft_plan_options plan_options(const weft_model *model, const weft_layout *layout) {
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = model;
    o.layout = layout;
    o.batch = now.batch.batch;
    o.sequence = now.batch.sequence;
    o.mode = WEFT_GRADIENTS;
    o.documents = now.packed;
    return o;
}

static int64_t elements(const wf_parameter_info *info) {
    return info->rows * info->columns;
}

static int64_t global_row(const wf_shard_map *map, int64_t row) {
    int p = 0;
    while (row >= map->piece[p].local + map->piece[p].count) p++;
    return map->piece[p].global + row - map->piece[p].local;
}

/* This rank's shard of the weights of a tensor. */
static void write_weights(weft_params *params, int32_t i) {
    const int t = params->tensor[i];
    const wf_shard_map *const map = &params->map[t];
    float *const shard = calloc((size_t)(map->rows * map->columns) + 1, sizeof *shard);
    for (int64_t r = 0; r < map->rows; r++)
        for (int64_t c = 0; c < map->columns; c++)
            shard[r * map->columns + c] =
                (float)now.weights.data[t][global_row(map, r) * params->info[t].columns + map->first_column + c];
    must(weft_params_write(params, i, "", 0, shard), "params_write");
    free(shard);
}

void open_program(program *p, weft_context *context, const char *layout) {
    open_ordered_program(p, context, layout, WEFT_ORDER_AUTO);
}

void open_ordered_program(program *p, weft_context *context, const char *layout, weft_order order) {
    const weft_model_options model = model_options(&now.model);
    *p = (program){.context = context};
    must(weft_model_fill(&model, &p->model), "model_fill");
    must(weft_layout_parse(layout, &p->layout), "layout_parse");
    weft_plan_options options = plan_options(p->model, p->layout);
    options.order = order;
    must(weft_params_create_ordered(context, p->model, p->layout, order, &p->params), "params_create");
    for (int32_t i = 0; i < p->params->tensors; i++) write_weights(p->params, i);
    must(weft_plan_create(context, &options, &p->plan), "plan_create");
    must(weft_plan_load(p->plan, p->params), "plan_load");
}

void close_program(program *p) {
    weft_plan_destroy(p->plan);
    weft_params_destroy(p->params);
    weft_layout_destroy(p->layout);
    weft_model_destroy(p->model);
}

/* ---- what a run leaves ----------------------------------------------------------------------------------------------- */

static void gather_gradients(weft_params *params, outcome *out) {
    for (int32_t i = 0; i < params->tensors; i++) out->n += elements(&params->info[params->tensor[i]]);
    float *at = out->gradients = calloc((size_t)out->n, sizeof *at);
    for (int32_t i = 0; i < params->tensors; at += elements(&params->info[params->tensor[i++]]))
        must(weft_params_gather(params, i, "grad", 0, at), "params_gather");
}

static void read_last(weft_plan *plan, outcome *out) {
    weft_rows rows;
    weft_plan_rows(plan, &rows);
    out->nlast = rows.positions * rows.samples * rows.hidden;
    out->last = calloc((size_t)out->nlast + 1, sizeof *out->last);
    if (wf_runner_read(plan->runner, "hidden", 0, 0, out->last, out->nlast * (int64_t)sizeof *out->last) != WF_OK)
        must(WEFT_ERR_DEVICE, "the last layer's output");
}

outcome run(program *p) {
    outcome out = {0};
    weft_result result;
    weft_args args;
    weft_args_init(&args);
    args.tokens = now.tokens;
    args.targets = now.targets;
    args.documents = now.packed ? now.documents : NULL;
    args.seed = now.batch.seed;
    args.step = now.batch.step;
    must(weft_plan_run(p->plan, &args, &result), "plan_run");
    out.loss = result.loss;
    gather_gradients(p->params, &out);
    read_last(p->plan, &out);
    return out;
}

void forget(outcome *o) {
    free(o->gradients);
    free(o->last);
    *o = (outcome){0};
}

bool same_bits(const outcome *a, const outcome *b) {
    return a->n == b->n && a->nlast == b->nlast && memcmp(&a->loss, &b->loss, sizeof a->loss) == 0 &&
           memcmp(a->gradients, b->gradients, (size_t)a->n * sizeof *a->gradients) == 0 &&
           memcmp(a->last, b->last, (size_t)a->nlast * sizeof *a->last) == 0;
}

/* ---- comparing with one rank ----------------------------------------------------------------------------------------- */

static double largest(const double *data, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(data[i]));
    return most;
}

static void compare_value(const char *name, int64_t row, int64_t column, double want, double got, double most) {
    const double off = fabs(got - want) / most; /* NaN, too */
    expect(off <= TOLERANCE, "%s: element (%lld, %lld) is %.9g, in f64 %.9g: off by %.2g of the largest", name, (long long)row,
           (long long)column, got, want, off);
    if (off <= TOLERANCE && off > worst_seen) worst_seen = off;
}

/* The largest magnitude of the part of a tensor that row `row` is of: queries, keys and values of a fused QKV are tensors of
 * their own. Without rotary positions the gradient of a key's bias is zero, and what rounding leaves is held to the rest's. */
static double largest_beside(const wf_parameter_info *info, const double *want, int64_t row) {
    const int64_t q = now.model.heads * now.model.head_size, kv = now.model.kv_heads * now.model.head_size;
    const double all = largest(want, elements(info));
    if (info->split != WF_SPLIT_HEADS) return all;
    const int64_t first = row < q ? 0 : row < q + kv ? q : q + kv, count = row < q ? q : kv;
    const double own = largest(want + first * info->columns, count * info->columns);
    return own > 1e-9 * all ? own : all;
}

static void compare_gradients(const weft_params *params, const float *got) {
    for (int32_t i = 0; i < params->tensors; i++) {
        const wf_parameter_info *const info = &params->info[params->tensor[i]];
        const double *const want = now.gradients.data[params->tensor[i]];
        for (int64_t r = 0; r < info->rows; r++) {
            const double most = largest_beside(info, want, r);
            for (int64_t c = 0; c < info->columns; c++, got++)
                compare_value(info->name, r, c, want[r * info->columns + c], (double)*got, most);
        }
    }
}

static void compare_last(const weft_plan *plan, const float *got) {
    const int64_t hidden = now.model.hidden;
    const double most = largest(now.last, now.batch.batch * now.batch.sequence * hidden);
    weft_rows rows;
    weft_plan_rows(plan, &rows);
    for (int64_t r = 0; r < rows.positions * rows.samples; r++) {
        const int64_t i = r / rows.samples, position = rows.first_position + i + (i >= rows.gap_at ? rows.gap : 0);
        const int64_t token = r % rows.samples * now.batch.sequence + position;
        for (int64_t h = 0; h < hidden; h++)
            compare_value("the last layer's output", token, h, now.last[token * hidden + h], (double)got[r * hidden + h], most);
    }
}

void compare_replicas(weft_params *params, const float *whole) {
    for (int32_t i = 0; i < params->tensors; whole += elements(&params->info[params->tensor[i++]])) {
        const int t = params->tensor[i];
        const wf_shard_map *const map = &params->map[t];
        float *const shard = calloc((size_t)(map->rows * map->columns) + 1, sizeof *shard);
        bool same = true;
        must(weft_params_read(params, i, "grad", 0, shard), "params_read");
        for (int64_t r = 0; r < map->rows; r++)
            same = same && memcmp(shard + r * map->columns,
                                  whole + global_row(map, r) * params->info[t].columns + map->first_column,
                                  (size_t)map->columns * sizeof *shard) == 0;
        expect(same, "%s: other bits on this rank than on another", params->info[t].name);
        free(shard);
    }
}

void compare_truth(const program *p, const outcome *got) {
    compare_value("loss", 0, 0, now.loss, got->loss, now.loss);
    compare_last(p->plan, got->last);
    compare_gradients(p->params, got->gradients);
}
