/* check_calls.c: the n-th call fails: each OpenCL call, MPI call, allocation and piece of shared memory, while a
 * context opens, a plan is loaded, a step runs, a checkpoint is saved and loaded. Each time: a status and one
 * sentence on every rank that fails, within the deadline; or no failure, and then the same loss to the bit;
 * and nothing left behind. On one rank, or on several under mpirun: then the last rank is hit.
 * Arguments: FEW [SEED [KIND]]: so many faults of each kind, or of one, in each phase, spread (0: every one; left out: 1);
 * or KIND PHASE N: that one fault. */
#include <ctype.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/api/weft_mpi.h"
#include "tests/long/inject.h"

enum { BATCH = 2, SEQUENCE = 8, VOCABULARY = 29, LATE_S = 2 };
static double deadline_s = 3;
static double patience = 1; /* the fast suite shares its machine with others: there only a hang is late */
typedef enum phase { OPEN, LOAD, STEP, SAVE, RESTORE, PHASES } phase;
static const char *const phase_names[PHASES] = {"open", "load", "step", "save", "restore"};

typedef struct job {
    weft_bootstrap *bootstrap;
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    weft_plan *plan;
    weft_result result;
} job;

static int rank, ranks, victim;
static char folder[256], config[300], layout_text[32], reference[32];
static int checks, failures;

/* ---- what is done ---------------------------------------------------------------------------------------------- */

static weft_status do_open(job *j) {
    weft_context_options o;
    weft_context_options_init(&o);
    o.timeout_s = deadline_s;
    weft_status status = ranks > 1 ? weft_bootstrap_mpi(MPI_COMM_WORLD, &j->bootstrap) : WEFT_OK;
    return status ? status : weft_context_create(&o, j->bootstrap, &j->context);
}

static weft_status do_load(job *j) {
    weft_plan_options o;
    weft_status status = weft_model_create(config, &j->model);
    if (!status) status = weft_layout_parse(layout_text, &j->layout);
    /* what failed on one rank alone the others must hear of before the next collective call */
    status = weft_context_agree(j->context, status);
    if (!status) status = weft_params_create(j->context, j->model, j->layout, &j->params);
    if (!status) status = weft_context_agree(j->context, weft_params_init(j->params, 5));
    weft_plan_options_init(&o);
    o.model = j->model, o.layout = j->layout, o.batch = BATCH, o.sequence = SEQUENCE;
    if (!status) status = weft_plan_create(j->context, &o, &j->plan);
    return status ? status : weft_plan_load(j->plan, j->params);
}

static weft_status do_step(job *j) {
    int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE];
    weft_args a;
    weft_args_init(&a);
    for (int i = 0; i < BATCH * SEQUENCE; i++) tokens[i] = i * 7 % VOCABULARY, targets[i] = i * 5 % VOCABULARY;
    a.tokens = tokens, a.targets = targets, a.seed = 3;
    return weft_plan_run(j->plan, &a, &j->result);
}

static weft_status do_save(job *j) {
    const weft_progress progress = {.step = 1, .seed = 3};
    return weft_checkpoint_save(j->params, folder, &progress, 1);
}

static weft_status do_restore(job *j) {
    weft_progress progress;
    return weft_checkpoint_load(j->params, folder, &progress);
}

static weft_status (*const phases[PHASES])(job *) = {do_open, do_load, do_step, do_save, do_restore};

static void close_job(job *j) {
    weft_plan_destroy(j->plan);
    weft_params_destroy(j->params);
    weft_layout_destroy(j->layout);
    weft_model_destroy(j->model);
    weft_context_destroy(j->context);
    weft_bootstrap_destroy(j->bootstrap);
}

/* ---- judging ----------------------------------------------------------------------------------------------------- */

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Past weft: the ranks' own word. */
static int any(int mine) {
    int all = mine;
    if (ranks > 1) MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

/* Ranks of one node have one clock. */
static double time_of_fault(bool fired) {
    double mine = fired ? inject_fired_s() : 0, all = mine;
    if (ranks > 1) MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

static int complain(const char *what, inject_kind kind, phase at, int64_t n, const char *detail) {
    fprintf(stderr, "FAILED: rank %d of %d: %s call %lld of %s: %s (%s)\n", rank, ranks, inject_names[kind], (long long)n,
            phase_names[at], what, detail);
    return 1;
}

static bool is_sentence(const char *text) {
    return strlen(text) > 12 && !strchr(text, '\n');
}

/* Seconds of a phase, in which a rank may work before it waits; calls on the rank that is hit: when nothing fails. */
static double lasts_s[PHASES];
static int64_t places[PHASES][INJECT_KINDS];

/* One fault. Returns whether it happened. */
static bool fault(inject_kind kind, phase at, int64_t n) {
    int64_t made[INJECT_KINDS];
    job j = {0};
    int bad = 0;
    bool fired = false;
    weft_status status = WEFT_OK;
    inject_track();
    for (int p = 0; p < (int)at && !bad; p++) {
        status = phases[p](&j);
        if (status) bad = complain("a phase before the fault failed", kind, (phase)p, n, weft_last_error());
        bad = any(bad);
    }
    if (!bad) {
        inject_arm(rank == victim ? kind : INJECT_NONE, n);
        status = phases[at](&j);
        fired = inject_disarm(made);
    }
    const double end_s = now_s(), took_s = end_s - time_of_fault(fired);
    char said[1200] = "";
    snprintf(said, sizeof said, "status %d: %s", (int)status, weft_last_error());
    if (!bad && status && !is_sentence(weft_last_error())) bad = complain("no sentence", kind, at, n, said);
    if (!bad && status == WEFT_ERR_INTERNAL) bad = complain("weft takes it for its own bug", kind, at, n, said);
    if (!bad && status && !any(fired)) bad = complain("failed without a fault", kind, at, n, said);
    else if (!bad && !status) any(fired);
    const int failed = any(status != WEFT_OK);
    if (took_s > patience * (deadline_s + LATE_S + 4 * lasts_s[at]) && failed) bad |= complain("it took too long", kind, at, n, said);
    /* What was done in spite of the fault must be right. */
    for (int p = (int)at + 1; p < PHASES && !failed && !any(bad); p++)
        if (phases[p](&j)) bad |= complain("a phase after a fault that did not matter failed", kind, (phase)p, n, weft_last_error());
    char loss[32];
    snprintf(loss, sizeof loss, "%a", j.result.loss);
    if (!failed && !bad && strcmp(loss, reference)) bad |= complain("the loss is another", kind, at, n, loss);
    close_job(&j);
    if (inject_leaks(stderr)) bad |= complain("something is left behind", kind, at, n, said);
    checks++;
    failures += any(bad) != 0;
    if (getenv("VERBOSE") && rank == victim) fprintf(stderr, "%s %lld of %s: %s\n", inject_names[kind], (long long)n, phase_names[at], said);
    return any(fired) != 0;
}

/* Everything once, undisturbed: what the loss is, and how many calls there are to fail. */
static void count_places(void) {
    job j = {0};
    int bad = 0;
    inject_track();
    for (int p = 0; p < PHASES && !bad; p++) {
        inject_arm(INJECT_NONE, 0);
        const double start_s = now_s();
        const weft_status status = phases[p](&j);
        lasts_s[p] = now_s() - start_s;
        inject_disarm(places[p]);
        if (status) bad = complain("failed without a fault", INJECT_NONE, (phase)p, 0, weft_last_error());
        bad = any(bad);
    }
    snprintf(reference, sizeof reference, "%a", j.result.loss);
    close_job(&j);
    if (inject_leaks(stderr)) bad = complain("something is left behind", INJECT_NONE, OPEN, 0, "no fault");
    if (ranks > 1) MPI_Bcast(places, sizeof places, MPI_CHAR, victim, MPI_COMM_WORLD);
    checks++;
    failures += any(bad) != 0;
}

/* few: that many faults, spread; 0: all. */
static void sweep(inject_kind kind, phase at, int64_t few, int64_t offset) {
    const int64_t total = places[at][kind], stride = few && total > few ? (total + few - 1) / few : 1;
    int64_t done = 0, n = 1 + offset % stride;
    while (n <= total && fault(kind, at, n)) done++, n += stride;
    if (rank == victim)
        fprintf(stderr, "%s calls of %s: %lld faults of %lld places, %d failures so far\n", inject_names[kind], phase_names[at],
                (long long)done, (long long)total, failures);
}

/* ---- the program ---------------------------------------------------------------------------------------------------- */

static int find(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name)) return i;
    fprintf(stderr, "there is no %s\n", name);
    exit(2);
}

static bool prepare(void) {
    snprintf(folder, sizeof folder, "%s/weft-calls-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (rank == 0 && !mkdtemp(folder)) return false;
    if (ranks > 1) MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(layout_text, sizeof layout_text, ranks > 1 ? "tp%d.sp" : "tp%d", ranks);
    if (rank) return true;
    FILE *const file = fopen(config, "w");
    if (!file) return false;
    fprintf(file,
            "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 24, \"n_head\": 4, \"n_inner\": 32, \"n_positions\": %d, "
            "\"vocab_size\": %d, \"embd_pdrop\": 0.1, \"attn_pdrop\": 0.1, \"resid_pdrop\": 0.1}\n",
            SEQUENCE, VOCABULARY);
    return fclose(file) == 0;
}

static void clean(void) {
    char command[512];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (rank == 0 && system(command)) fprintf(stderr, "%s stays\n", folder);
}

int main(int argc, char **argv) {
    int level;
    if (weft_mpi_launched()) {
        MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &level);
        MPI_Comm_rank(MPI_COMM_WORLD, &rank);
        MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    } else ranks = 1;
    victim = ranks - 1;
    if (getenv("WEFT_TIMEOUT_S")) deadline_s = atof(getenv("WEFT_TIMEOUT_S")); /* under valgrind, longer */
    else setenv("WEFT_TIMEOUT_S", "3", 1); /* of the bootstrap, which has no options */
    if (any(!prepare())) return 2;
    count_places();
    const bool one = argc == 4 && !isdigit((unsigned char)argv[1][0]);
    if (one) {
        fault((inject_kind)find(inject_names, INJECT_KINDS, argv[1]), (phase)find(phase_names, PHASES, argv[2]), atoll(argv[3]));
    } else if (!failures) {
        const int64_t few = argc > 1 ? atoll(argv[1]) : 1;
        if (few == 1) patience = 5;
        int64_t seed = argc > 2 ? atoll(argv[2]) : (int64_t)time(NULL);
        if (ranks > 1) MPI_Bcast(&seed, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
        if (rank == 0) fprintf(stderr, "seed %lld\n", (long long)seed);
        const int only = argc > 3 ? find(inject_names, INJECT_KINDS, argv[3]) : INJECT_NONE;
        for (int kind = only ? only : INJECT_CL; kind < (only ? only + 1 : INJECT_KINDS); kind++)
            for (int p = 0; p < PHASES; p++)
                if (ranks > 1 || kind == INJECT_CL || kind == INJECT_MEMORY)
                    sweep((inject_kind)kind, (phase)p, kind == INJECT_TEST && (!few || few > 24) ? 24 : few, seed);
    }
    clean();
    if (rank == 0) printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", checks ? (checks - failures) * 100 / checks : 0, checks, failures);
    const int result = failures || !checks;
    if (weft_mpi_launched()) MPI_Finalize();
    return result;
}
