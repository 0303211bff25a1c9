/* checkpoint_ranks.c: checkpoints that move between layouts; run under mpirun by
 * check_checkpoint.sh:
 *
 *     checkpoint_ranks save CONFIG LAYOUT DIR     trains some steps, saves DIR/all, DIR/model, and
 * DIR/record checkpoint_ranks load CONFIG LAYOUT DIR     loads what any layout saved, compares with
 * the record checkpoint_ranks kill CONFIG LAYOUT DIR RANK MS   saves one checkpoint after another
 * until RANK is killed checkpoint_ranks whole CONFIG LAYOUT DIR    the newest that is there is
 * whole
 *
 * The record holds every weight, m and v, whole, as they were gathered by weft_params_gather; what
 * is loaded must have the same bits, before a plan is loaded and after, and training must go on.
 * Verdicts are all-reduced. Prints one line in Check's format. */
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/api/weft_mpi.h"

enum { BATCH = 3, SEQUENCE = 20, STEPS = 3, SEED = 99 };

static int rank, ranks, checks, failures;
static const char *stage = "";

static void __attribute__((format(printf, 2, 3))) expect(bool fine, const char *format, ...) {
    int mine = !fine, worst;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    checks++;
    failures += worst;
    if (!mine) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "rank %d of %d, %s: %s; last error: %s\n", rank, ranks, stage, text,
            weft_last_error());
}

static void must(weft_status status, const char *what) {
    if (status == WEFT_OK) return;
    fprintf(stderr, "rank %d of %d, %s: %s: %s\n", rank, ranks, stage, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* ---- state
 * -------------------------------------------------------------------------------------------- */

static const char *const whats[] = {"", "m", "v"};

static int64_t elements(weft_params *params) {
    int64_t n = 0;
    for (int32_t t = 0; t < weft_params_count(params); t++) {
        weft_tensor_info info;
        must(weft_params_info(params, t, &info), "info");
        n += info.instances * info.global_rows * info.global_columns;
    }
    return n;
}

/* Weights, m and v, whole. */
static float *gather_all(weft_params *params, int nwhats) {
    float *const all = calloc((size_t)(nwhats * elements(params)) + 1, sizeof *all), *at = all;
    for (int w = 0; w < nwhats; w++)
        for (int32_t t = 0; t < weft_params_count(params); t++) {
            weft_tensor_info info;
            must(weft_params_info(params, t, &info), "info");
            for (int64_t i = 0; i < info.instances;
                 i++, at += info.global_rows * info.global_columns)
                must(weft_params_gather(params, t, whats[w], i, at), "gather");
        }
    return all;
}

static FILE *open_record(const char *dir, const char *mode) {
    char path[512];
    snprintf(path, sizeof path, "%s/record", dir);
    FILE *const f = fopen(path, mode);
    if (!f) must(WEFT_ERR_FILE, "record");
    return f;
}

static void write_record(const char *dir, weft_params *params) {
    float *const all = gather_all(params, 3);
    if (!rank) {
        FILE *const f = open_record(dir, "wb");
        const size_t n = (size_t)(3 * elements(params));
        if (fwrite(all, sizeof *all, n, f) != n || fclose(f) != 0) must(WEFT_ERR_FILE, "record");
    }
    free(all);
}

static void compare_record(const char *dir, weft_params *params, int nwhats, const char *when) {
    const size_t n = (size_t)(nwhats * elements(params));
    float *const got = gather_all(params, nwhats), *const want = malloc(n * sizeof *want);
    FILE *const f = open_record(dir, "rb");
    const bool whole = fread(want, sizeof *want, n, f) == n;
    fclose(f);
    size_t different = 0, nonzero = 0;
    for (size_t i = 0; whole && i < n; i++) {
        different += memcmp(&got[i], &want[i], sizeof *got) != 0;
        nonzero += want[i] != 0;
    }
    expect(whole && different == 0, "%s: %zu of %zu values have other bits", when, different, n);
    expect(nonzero > n / 4, "%s: the record is mostly zeros: nothing is compared", when);
    free(got);
    free(want);
}

/* ---- training
 * -------------------------------------------------------------------------------------------- */

typedef struct world {
    weft_bootstrap *bootstrap;
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
} world;

static weft_plan *load_plan(const world *w, weft_params *params) {
    weft_plan *plan;
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = w->model;
    o.layout = w->layout;
    o.batch = BATCH;
    o.sequence = SEQUENCE;
    o.mode = WEFT_TRAIN;
    must(weft_plan_create(w->context, &o, &plan), "plan_create");
    must(weft_plan_load(plan, params), "plan_load");
    return plan;
}

static double train(weft_plan *plan, int64_t from, int64_t steps) {
    int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE];
    weft_result result = {0};
    for (int64_t step = from; step < from + steps; step++) {
        weft_args a;
        weft_args_init(&a);
        for (int i = 0; i < BATCH * SEQUENCE; i++) {
            tokens[i] = (int32_t)((i * 7 + step * 31) % 257);
            targets[i] = (i * 5 + 11) % 257;
        }
        a.tokens = tokens;
        a.targets = targets;
        a.seed = SEED;
        a.step = step;
        must(weft_plan_run(plan, &a, &result), "run");
    }
    return result.loss;
}

/* ---- the two halves
 * ------------------------------------------------------------------------------------------ */

static void path_of(const char *dir, const char *name, char out[512]) {
    snprintf(out, 512, "%s/%s", dir, name);
}

static const weft_progress moment = {
    .step = STEPS, .seed = SEED, .data_position = 1234567890123, .data_hash = 0xfedcba9876543210u};

static void save(const world *w, const char *dir) {
    weft_params *params;
    char path[512];
    must(weft_params_create(w->context, w->model, w->layout, &params), "params");
    must(weft_params_init(params, SEED), "init");
    weft_plan *const plan = load_plan(w, params);
    train(plan, 0, STEPS);
    path_of(dir, "all", path);
    expect(weft_checkpoint_save(params, path, &moment, 2) == WEFT_OK, "checkpoint_save");
    path_of(dir, "model", path);
    expect(weft_params_save(params, path) == WEFT_OK, "params_save");
    write_record(dir, params);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
}

static void expect_moment(const weft_progress *got) {
    expect(got->step == moment.step && got->seed == moment.seed &&
               got->data_position == moment.data_position && got->data_hash == moment.data_hash &&
               *got->layout && got->choices_hash,
           "progress is other than what was saved: step %lld, layout %s", (long long)got->step,
           got->layout);
}

/* Saved again from this layout under its own name: another load, the same bits. */
static void save_again(const world *w, const char *dir, weft_params *params) {
    char path[512], name[64];
    weft_params *fresh;
    weft_progress got;
    snprintf(name, sizeof name, "again-%d", ranks);
    path_of(dir, name, path);
    expect(weft_checkpoint_save(params, path, &moment, 0) == WEFT_OK, "saved again");
    expect(weft_checkpoint_save(params, path, &moment, 0) == WEFT_OK, "saved over itself");
    must(weft_params_create(w->context, w->model, w->layout, &fresh), "params");
    expect(weft_checkpoint_load(fresh, path, &got) == WEFT_OK, "loaded again");
    compare_record(dir, fresh, 3, "saved again and loaded");
    weft_params_destroy(fresh);
}

static void load(const world *w, const char *dir) {
    weft_params *params;
    weft_progress got;
    char path[512];
    must(weft_params_create(w->context, w->model, w->layout, &params), "params");
    path_of(dir, "all", path);
    expect(weft_checkpoint_load(params, path, &got) == WEFT_OK, "checkpoint_load");
    expect_moment(&got);
    compare_record(dir, params, 3, "before a plan is loaded");
    save_again(w, dir, params);
    weft_plan *const plan = load_plan(w, params);
    compare_record(dir, params, 3, "after a plan is loaded");
    const double first = train(plan, STEPS, 1);
    path_of(dir, "all/step-000000003", path);
    expect(weft_checkpoint_load(params, path, &got) == WEFT_OK,
           "loaded by its name, over what was trained on");
    compare_record(dir, params, 3, "over what was trained on");
    const double again = train(plan, STEPS, 1);
    expect(first == again && first > 0, "the next step's loss %.9g, then %.9g", first, again);
    path_of(dir, "model", path);
    expect(weft_params_load(params, path) == WEFT_OK, "params_load");
    compare_record(dir, params, 1, "weights alone");
    weft_plan_destroy(plan);
    weft_params_destroy(params);
}

/* ---- ranks whose file systems or wishes differ
 * ----------------------------------------------------------------- */

static bool exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static void disagree(const world *w, const char *dir) {
    weft_params *params;
    weft_progress got, mine = moment;
    char path[512];
    must(weft_params_create(w->context, w->model, w->layout, &params), "params");
    must(weft_params_init(params, 1), "init");
    path_of(dir, rank == ranks - 1 ? "nowhere/step-000000003" : "all/step-000000003", path);
    expect(weft_checkpoint_load(params, path, &got) == WEFT_ERR_FILE &&
               strstr(weft_last_error(), "nowhere"),
           "a rank that cannot read is not told of");
    expect(weft_params_load(params, rank == ranks - 1 ? path : dir) == WEFT_ERR_FILE,
           "a rank that cannot read weights");
    mine.step += rank == ranks - 1;
    path_of(dir, "parted", path);
    expect(weft_checkpoint_save(params, path, &mine, 0) == WEFT_ERR_MISMATCH && !exists(path),
           "ranks that save other steps");
    path_of(dir, "record/folder", path); /* record is a file: rank 0 cannot make the folder */
    expect(weft_checkpoint_save(params, path, &moment, 0) == WEFT_ERR_FILE &&
               strstr(weft_last_error(), "record"),
           "a folder that cannot be made");
    path_of(dir, "all", path);
    expect(weft_checkpoint_load(params, path, &got) == WEFT_OK,
           "after failures the context still works");
    weft_params_destroy(params);
}

/* ---- a rank dies while all save
 * ---------------------------------------------------------------------------------- */

static void save_until_killed(const world *w, const char *dir, int victim, int after_ms) {
    weft_params *params;
    char path[512];
    struct sigevent death = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
    timer_t timer;
    path_of(dir, "killed", path);
    must(weft_params_create(w->context, w->model, w->layout, &params), "params");
    for (int64_t step = 1; step < 100000; step++) {
        const weft_progress progress = {.step = step, .seed = SEED};
        must(weft_params_init(params, (uint64_t)step), "init");
        must(weft_checkpoint_save(params, path, &progress, 2), "save");
        if (step > 1 || rank != victim) continue; /* one is there: from now on one must always be */
        if (timer_create(CLOCK_MONOTONIC, &death, &timer) != 0) must(WEFT_ERR_INTERNAL, "timer");
        timer_settime(timer, 0, &(struct itimerspec){.it_value.tv_nsec = 1000000L * after_ms},
                      NULL);
    }
}

static void find_whole(const world *w, const char *dir) {
    weft_params *params;
    weft_progress got = {0};
    char path[512];
    path_of(dir, "killed", path);
    must(weft_params_create(w->context, w->model, w->layout, &params), "params");
    expect(weft_checkpoint_load(params, path, &got) == WEFT_OK && got.step > 0, "nothing whole");
    float *const is = gather_all(params, 1);
    must(weft_params_init(params, (uint64_t)got.step), "init");
    float *const want = gather_all(params, 1);
    expect(memcmp(is, want, (size_t)elements(params) * sizeof *is) == 0,
           "step %lld has other weights", (long long)got.step);
    free(is);
    free(want);
    weft_params_destroy(params);
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 7) return 2;
    int provided;
    world w = {0};
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    stage = argv[3];
    must(weft_bootstrap_mpi(MPI_COMM_WORLD, &w.bootstrap), "bootstrap");
    must(weft_context_create(NULL, w.bootstrap, &w.context), "context");
    must(weft_model_create(argv[2], &w.model), "model");
    must(weft_layout_parse(argv[3], &w.layout), "layout");
    if (strcmp(argv[1], "save") == 0) save(&w, argv[4]);
    if (strcmp(argv[1], "load") == 0) load(&w, argv[4]);
    if (argc == 7) save_until_killed(&w, argv[4], atoi(argv[5]), atoi(argv[6]));
    if (strcmp(argv[1], "whole") == 0)
        find_whole(&w, argv[4]);
    else if (ranks > 1)
        disagree(&w, argv[4]);
    weft_layout_destroy(w.layout);
    weft_model_destroy(w.model);
    weft_context_destroy(w.context);
    weft_bootstrap_destroy(w.bootstrap);
    if (!rank)
        printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n",
               checks ? 100 * (checks - failures) / checks : 0, checks, failures);
    MPI_Finalize();
    return failures ? 1 : 0;
}
