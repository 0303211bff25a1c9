/* oracle_ranks.c: what weft makes of a model that others wrote, for check_oracles.py, which compares it with
 * what the `transformers` library makes of the same. Uses weft.h alone, as a user's program would.
 *
 *     mpirun -np N oracle_ranks JOBS
 *
 * Each line of JOBS is one job for N ranks: MODE MODEL LAYOUT TOKENS OUT, paths without blanks. MODE:
 *     logits      of every token: one record
 *     hidden      the last hidden states of every token: one record
 *     gradients   the loss, and the gradient of every tensor of every layer: a record each
 *     save        no record; OUT is the folder that the model is written into again
 * TOKENS holds int32: batch, sequence, tokens [batch][sequence], targets [batch][sequence].
 * Rank 0 writes OUT: records of a line "name instance rows columns" and rows * columns f32. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "weft_mpi.h"

static int rank;
static const char *stage = "";

static void fail(const char *what, const char *why) {
    fprintf(stderr, "rank %d, %s: %s: %s\n", rank, stage, what, why);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void must(weft_status status, const char *what) {
    if (status != WEFT_OK) fail(what, weft_last_error());
}

static void *allocate(int64_t count, size_t bytes) {
    void *memory = calloc((size_t)count + 1, bytes);
    if (!memory) fail("allocate", "no memory");
    return memory;
}

/* ---- the files ------------------------------------------------------------------------------------- */

typedef struct text {
    int32_t batch, sequence, *tokens, *targets;
} text;

static text read_text(const char *path) {
    text t;
    FILE *file = fopen(path, "rb");
    if (!file || fread(&t.batch, sizeof t.batch, 1, file) != 1 ||
        fread(&t.sequence, sizeof t.sequence, 1, file) != 1)
        fail(path, "no tokens");
    const int64_t count = (int64_t)t.batch * t.sequence;
    t.tokens = allocate(count, sizeof *t.tokens);
    t.targets = allocate(count, sizeof *t.targets);
    if (fread(t.tokens, sizeof *t.tokens, (size_t)count, file) != (size_t)count ||
        fread(t.targets, sizeof *t.targets, (size_t)count, file) != (size_t)count)
        fail(path, "too few tokens");
    fclose(file);
    return t;
}

static void record(FILE *file, const char *name, int64_t instance, int64_t rows, int64_t columns,
                   const float *data) {
    if (rank != 0) return;
    fprintf(file, "%s %lld %lld %lld\n", name, (long long)instance, (long long)rows, (long long)columns);
    if (fwrite(data, sizeof *data, (size_t)(rows * columns), file) != (size_t)(rows * columns))
        fail("record", "cannot be written");
}

/* ---- jobs ------------------------------------------------------------------------------------------ */

typedef struct job {
    char mode[16], model[512], layout[64], tokens[512], out[512];
} job;

static void write_tokens(weft_plan *plan, const text *t, weft_mode mode, int64_t width, FILE *out) {
    float *rows = allocate((int64_t)t->batch * t->sequence * width, sizeof *rows);
    for (int64_t sample = 0; sample < t->batch; sample++)
        for (int64_t position = 0; position < t->sequence; position++) {
            float *row = rows + (sample * t->sequence + position) * width;
            must(mode == WEFT_HIDDEN ? weft_plan_hidden(plan, sample, position, row)
                                     : weft_plan_logits(plan, sample, position, row),
                 "a token's row");
        }
    record(out, mode == WEFT_HIDDEN ? "hidden" : "logits", 0, (int64_t)t->batch * t->sequence, width, rows);
    free(rows);
}

static void write_gradients(weft_params *params, double loss, FILE *out) {
    const float first = (float)loss;
    record(out, "loss", 0, 1, 1, &first);
    for (int32_t i = 0; i < weft_params_count(params); i++) {
        weft_tensor_info info;
        must(weft_params_info(params, i, &info), "a tensor's shape");
        float *whole = allocate(info.global_rows * info.global_columns, sizeof *whole);
        for (int64_t instance = 0; instance < info.instances && info.global_rows > 0; instance++) {
            must(weft_params_gather(params, i, "grad", instance, whole), info.name);
            record(out, info.name, instance, info.global_rows, info.global_columns, whole);
        }
        free(whole);
    }
}

static void run(weft_context *context, const job *j, const weft_model *model, const weft_layout *layout,
                weft_params *params) {
    const text t = read_text(j->tokens);
    weft_plan_options options;
    weft_plan *plan;
    weft_args args;
    weft_result result;
    weft_model_info info;
    FILE *out = rank == 0 ? fopen(j->out, "wb") : NULL;
    if (rank == 0 && !out) fail(j->out, "cannot be written");
    weft_plan_options_init(&options);
    options.model = model, options.layout = layout;
    options.batch = t.batch, options.sequence = t.sequence;
    options.mode = strcmp(j->mode, "logits") == 0   ? WEFT_LOGITS
                   : strcmp(j->mode, "hidden") == 0 ? WEFT_HIDDEN
                                                    : WEFT_GRADIENTS;
    must(weft_plan_create(context, &options, &plan), "plan");
    must(weft_plan_load(plan, params), "load");
    weft_args_init(&args);
    args.tokens = t.tokens;
    args.targets = options.mode == WEFT_GRADIENTS ? t.targets : NULL;
    must(weft_plan_run(plan, &args, &result), "run");
    weft_model_describe(model, &info);
    if (options.mode == WEFT_GRADIENTS) write_gradients(params, result.loss, out);
    else write_tokens(plan, &t, options.mode, options.mode == WEFT_HIDDEN ? info.hidden : info.vocabulary, out);
    if (out && fclose(out) != 0) fail(j->out, "cannot be written");
    weft_plan_destroy(plan);
    free(t.tokens);
    free(t.targets);
}

static void do_job(weft_context *context, const job *j) {
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    char config[600];
    snprintf(config, sizeof config, "%s/config.json", j->model);
    must(weft_model_create(config, &model), "model");
    must(weft_layout_parse(j->layout, &layout), "layout");
    must(weft_params_create(context, model, layout, &params), "params");
    must(weft_params_load(params, j->model), "weights");
    if (strcmp(j->mode, "save") == 0) must(weft_params_save(params, j->out), "save");
    else run(context, j, model, layout, params);
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
}

int main(int argc, char **argv) {
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    weft_bootstrap *bootstrap;
    weft_context *context;
    weft_context_options options;
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (!file) fail("jobs", "usage: oracle_ranks JOBS");
    weft_context_options_init(&options);
    must(weft_bootstrap_mpi(MPI_COMM_WORLD, &bootstrap), "bootstrap");
    must(weft_context_create(&options, bootstrap, &context), "context");
    job j;
    char line[2048], name[700];
    while (fgets(line, sizeof line, file)) {
        if (sscanf(line, "%15s %511s %63s %511s %511s", j.mode, j.model, j.layout, j.tokens, j.out) != 5)
            fail(line, "is not a job");
        snprintf(name, sizeof name, "%s of %s under %s", j.mode, j.model, j.layout);
        stage = name;
        do_job(context, &j);
    }
    fclose(file);
    weft_context_destroy(context);
    weft_bootstrap_destroy(bootstrap);
    MPI_Finalize();
    return 0;
}
