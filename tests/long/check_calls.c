/* check_calls.c: the n-th call fails: each OpenCL call, MPI call, allocation, piece of shared memory, file and thread,
 * while a context opens, a plan is loaded, a step runs, a checkpoint is saved and loaded, and all is closed. Each time: a
 * status and one sentence on every rank that fails, within the deadline; or no failure, and then the same loss to the bit;
 * and nothing left behind. On one rank, or on several under mpirun: then the first is hit, which gathers and writes, and
 * the last. MPI_Cancel and MPI_Request_free, which only follow another fault, fail after one (give-up).
 * Arguments: FEW [SEED [KIND [PHASE]]]: so many faults of each kind, or of one, in each phase, spread, on each victim (0:
 * every one; left out: 1, on one of the victims), and above 1 the first call of each site too (of each path through the
 * program, six callers long, that leads to one; among ranks of twice so many sites); or KIND PHASE N VICTIM: that one fault. */
#include <ctype.h>
#include <mpi.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/api/weft_mpi.h"
#include "tests/long/inject.h"
#include "tests/scratch.h"

enum { BATCH = 2, SEQUENCE = 8, VOCABULARY = 29, LATE_S = 2 };
static double deadline_s = 3;
static double patience = 1; /* the fast suite shares its machine with others: there only a hang is late */
typedef enum phase { OPEN, LOAD, STEP, SAVE, RESTORE, CLOSE, PHASES } phase;
static const char *const phase_names[PHASES] = {"open", "load", "step", "save", "restore", "close"};

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

/* The watchdog ends a process that hangs; none may. */
static void stuck(void *user, const char *sentence) {
    fprintf(stderr, "FAILED: the watchdog speaks: %s\n", sentence);
    _exit(9);
}

static weft_status do_open(job *j) {
    weft_context_options o;
    weft_context_options_init(&o);
    o.timeout_s = deadline_s;
    o.stuck = stuck;
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

/* What is closed already is not closed again. */
static weft_status do_close(job *j) {
    weft_plan_destroy(j->plan);
    weft_params_destroy(j->params);
    weft_layout_destroy(j->layout);
    weft_model_destroy(j->model);
    weft_context_destroy(j->context);
    weft_bootstrap_destroy(j->bootstrap);
    *j = (job){.result = j->result};
    return WEFT_OK;
}

static weft_status (*const phases[PHASES])(job *) = {do_open, do_load, do_step, do_save, do_restore, do_close};

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
    fprintf(stderr, "FAILED: rank %d of %d: %s call %lld of %s on rank %d: %s (%s)\n", rank, ranks, inject_names[kind],
            (long long)n, phase_names[at], victim, what, detail);
    return 1;
}

static bool is_sentence(const char *text) {
    return strlen(text) > 12 && !strchr(text, '\n');
}

/* Seconds of a phase, in which a rank may work before it waits; calls on each rank that is hit, when nothing fails. */
static double lasts_s[PHASES];
static int64_t places[2][PHASES][INJECT_KINDS];
static struct {
    int n;
    int64_t first[INJECT_SITES];
} sites[2][PHASES][INJECT_KINDS];
static int64_t given_up, kept; /* second faults that came to be; communicators that stayed */

/* A call that gives up fails after an MPI call has. */
static void arm(inject_kind kind, int64_t n) {
    if (kind == INJECT_GIVE_UP) inject_arm_give_up(1 + n % 3); /* on every rank: each gives up what it has with the other */
    inject_arm(rank != victim ? INJECT_NONE : kind == INJECT_GIVE_UP ? INJECT_MPI : kind, n);
}

/* One fault. Returns whether it happened. */
static bool fault(inject_kind kind, phase at, int64_t n) {
    int64_t made[INJECT_KINDS];
    job j = {0};
    int bad = 0;
    bool fired = false;
    inject_left left;
    weft_status status = WEFT_OK;
    inject_track();
    for (int p = 0; p < (int)at && !bad; p++) {
        status = phases[p](&j);
        if (status) bad = complain("a phase before the fault failed", kind, (phase)p, n, weft_last_error());
        bad = any(bad);
    }
    if (!bad) {
        arm(kind, n);
        status = phases[at](&j);
        fired = inject_disarm(made);
    }
    const double end_s = now_s(), took_s = end_s - time_of_fault(fired);
    char said[1200] = "";
    snprintf(said, sizeof said, "status %d: %s", (int)status, weft_last_error());
    if (!bad && status && !is_sentence(weft_last_error())) bad = complain("no sentence", kind, at, n, said);
    if (!bad && status == WEFT_ERR_INTERNAL) bad = complain("weft takes it for its own bug", kind, at, n, said);
    const int happened = any(fired), failed = any(status != WEFT_OK);
    if (!bad && status && !happened) bad = complain("failed without a fault", kind, at, n, said);
    /* While ranks meet, one may wait for what another waits for; with a third, in the self-test, first for a message, then for
     * the verdict on it, then for all to agree. */
    const int waits = at != OPEN ? 1 : ranks > 2 ? 3 : 2;
    const double most_s = waits * deadline_s + LATE_S + 4 * lasts_s[at];
    if (took_s > patience * most_s && failed) bad |= complain("it took too long", kind, at, n, said);
    /* What was done in spite of the fault must be right. */
    for (int p = (int)at + 1; p < PHASES && !failed && !any(bad); p++)
        if (phases[p](&j)) bad |= complain("a phase after a fault that did not matter failed", kind, (phase)p, n, weft_last_error());
    char loss[32];
    snprintf(loss, sizeof loss, "%a", j.result.loss);
    if (!failed && !bad && strcmp(loss, reference)) bad |= complain("the loss is another", kind, at, n, loss);
    do_close(&j);
    if (inject_leaks(stderr, &left)) bad |= complain("something is left behind", kind, at, n, said);
    if (left.communicators && !happened) bad |= complain("a communicator is left behind without a fault", kind, at, n, said);
    checks++;
    failures += any(bad) != 0;
    given_up += any(left.gave_up);
    kept += any(left.communicators != 0);
    if (getenv("VERBOSE") && rank == victim)
        fprintf(stderr, "%s %lld of %s on rank %d: %.2f s: %s\n", inject_names[kind], (long long)n, phase_names[at], rank, took_s, said);
    return happened != 0;
}

/* What is lost on purpose is counted, all of it and no more: a block; beside a request that was let go, whose block may
 * stay; a request that was not even let go. */
static void prove_detector(void) {
    enum { BYTES = 40, TAG = 7 };
    char text[512], sent[BYTES] = {0};
    FILE *const out = fmemopen(text, sizeof text, "w");
    MPI_Request gone, kept;
    inject_left left;
    inject_track();
    void *volatile lost = malloc(BYTES); /* volatile: or the compiler takes it away */
    int leaks = inject_leaks(out, &left);
    free(lost);
    int bad = leaks != 1 && complain("a lost block is not the one leak", INJECT_NONE, OPEN, leaks, "the detector");
    if (weft_mpi_launched()) {
        inject_track();
        void *volatile const held = malloc(BYTES), *volatile const other = malloc(BYTES);
        lost = malloc(BYTES);
        MPI_Irecv(held, BYTES, MPI_CHAR, 0, TAG, MPI_COMM_SELF, &gone);
        MPI_Irecv(other, BYTES, MPI_CHAR, 0, TAG, MPI_COMM_SELF, &kept);
        MPI_Request_free(&gone);
        leaks = inject_leaks(out, &left); /* the lost block, the other's and its request */
        if (leaks != 3) bad |= complain("not three leaks beside a request that was let go", INJECT_NONE, OPEN, leaks, "the detector");
        MPI_Send(sent, BYTES, MPI_CHAR, 0, TAG, MPI_COMM_SELF);
        MPI_Send(sent, BYTES, MPI_CHAR, 0, TAG, MPI_COMM_SELF);
        MPI_Wait(&kept, MPI_STATUS_IGNORE);
        free(held), free(other), free(lost);
    }
    fclose(out);
    checks++;
    failures += any(bad) != 0;
}

/* Everything once, undisturbed: what the loss is, and how many calls there are to fail. */
static void count_places(void) {
    job j = {0};
    int bad = 0;
    inject_track();
    for (int p = 0; p < PHASES && !bad; p++) {
        inject_arm(INJECT_NONE, 0);
        inject_record();
        const double start_s = now_s();
        const weft_status status = phases[p](&j);
        lasts_s[p] = now_s() - start_s;
        inject_disarm(places[rank != 0][p]);
        for (int kind = 0; kind < INJECT_KINDS; kind++) sites[rank != 0][p][kind].n = inject_sites((inject_kind)kind, sites[rank != 0][p][kind].first);
        places[rank != 0][p][INJECT_GIVE_UP] = places[rank != 0][p][INJECT_MPI];
        if (status) bad = complain("failed without a fault", INJECT_NONE, (phase)p, 0, weft_last_error());
        bad = any(bad);
    }
    snprintf(reference, sizeof reference, "%a", j.result.loss);
    do_close(&j);
    inject_left left;
    if (inject_leaks(stderr, &left) || left.communicators) bad = complain("something is left behind", INJECT_NONE, OPEN, 0, "no fault");
    if (ranks > 1) {
        MPI_Bcast(lasts_s, sizeof lasts_s, MPI_CHAR, 0, MPI_COMM_WORLD);
        MPI_Bcast(places[0], sizeof places[0], MPI_CHAR, 0, MPI_COMM_WORLD);
        MPI_Bcast(places[1], sizeof places[1], MPI_CHAR, ranks - 1, MPI_COMM_WORLD);
        MPI_Bcast(sites[0], sizeof sites[0], MPI_CHAR, 0, MPI_COMM_WORLD);
        MPI_Bcast(sites[1], sizeof sites[1], MPI_CHAR, ranks - 1, MPI_COMM_WORLD);
    }
    checks++;
    failures += any(bad) != 0;
}

/* Is this call its site's first? Among ranks, where a fault costs seconds and sites are many, of one site in so many. */
static bool is_first(inject_kind kind, phase at, int64_t n, int64_t few, int64_t offset) {
    const int64_t *const first = sites[victim != 0][at][kind].first;
    const int nsites = sites[victim != 0][at][kind].n;
    const int64_t stride = ranks > 1 && nsites > 2 * few ? (nsites + 2 * few - 1) / (2 * few) : 1;
    for (int64_t i = offset % stride; i < nsites; i += stride)
        if (first[i] == n) return true;
    return false;
}

/* few: that many faults, spread, and above 1 sites' firsts; 0: all. */
static void sweep(inject_kind kind, phase at, int64_t few, int64_t offset) {
    const int64_t total = places[victim != 0][at][kind], stride = few && total > few ? (total + few - 1) / few : 1;
    const double start_s = now_s();
    int64_t done = 0, missed = 0;
    given_up = kept = 0;
    for (int64_t n = 1; n <= total; n++) {
        if ((n - 1) % stride != offset % stride && (few == 1 || !is_first(kind, at, n, few, offset))) continue;
        if (fault(kind, at, n)) done++;
        else missed++;
    }
    if (rank != victim || !total) return;
    fprintf(stderr, "%s calls of %s on rank %d of %d: %lld faults of %lld places and %d sites in %.0f s, ", inject_names[kind],
            phase_names[at], victim, ranks, (long long)done, (long long)total, sites[victim != 0][at][kind].n, now_s() - start_s);
    if (missed) fprintf(stderr, "%lld not met, ", (long long)missed);
    if (kind == INJECT_GIVE_UP) fprintf(stderr, "%lld with a second, ", (long long)given_up);
    if (kept) fprintf(stderr, "after %lld a communicator stays, ", (long long)kept);
    fprintf(stderr, "%d failures so far\n", failures);
}

/* What depends on time is tried at some places only; MPI matters between ranks. */
static void sweep_all(int only_kind, int only_phase, int64_t few, int64_t seed) {
    for (int kind = INJECT_CL; kind < INJECT_KINDS; kind++) {
        const bool between = kind == INJECT_MPI || kind == INJECT_TEST || kind == INJECT_GIVE_UP || kind == INJECT_SHARE;
        const bool timed = kind == INJECT_TEST || kind == INJECT_GIVE_UP;
        if ((only_kind && kind != only_kind) || (between && ranks == 1)) continue;
        for (int p = 0; p < PHASES; p++) {
            const bool others = few == 1 && ranks > 1 && (kind + p + seed + (victim != 0)) % 2;
            if ((only_phase >= 0 && p != only_phase) || others) continue;
            sweep((inject_kind)kind, (phase)p, timed && (!few || few > 24) ? 24 : few, seed + victim);
        }
    }
}

/* ---- the program ---------------------------------------------------------------------------------------------------- */

static int find(const char *const *names, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name)) return i;
    fprintf(stderr, "there is no %s\n", name);
    exit(2);
}

static bool prepare(void) {
    scratch_template(folder, sizeof folder, "calls");
    if (rank == 0 && !mkdtemp(folder)) return false;
    if (ranks > 1) MPI_Bcast(folder, sizeof folder, MPI_CHAR, 0, MPI_COMM_WORLD);
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(layout_text, sizeof layout_text, ranks > 1 ? "tp%d.sp" : "tp%d", ranks);
    if (rank) return true;
    FILE *const file = fopen(config, "w");
    if (!file) return false;
    fprintf(file,
            "{\"model_type\": \"gpt2\", \"n_layer\": %d, \"n_embd\": 24, \"n_head\": 4, \"n_inner\": 32, \"n_positions\": %d, "
            "\"vocab_size\": %d, \"embd_pdrop\": 0.1, \"attn_pdrop\": 0.1, \"resid_pdrop\": 0.1}\n",
            ranks > 1 ? 1 : 2, SEQUENCE, VOCABULARY);
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
    if (getenv("WEFT_TIMEOUT_S")) deadline_s = atof(getenv("WEFT_TIMEOUT_S")); /* under valgrind, longer */
    else setenv("WEFT_TIMEOUT_S", "3", 1); /* of the bootstrap, which has no options */
    if (any(!prepare())) return 2;
    prove_detector();
    count_places();
    const bool one = argc >= 4 && !isdigit((unsigned char)argv[1][0]);
    if (one) {
        victim = argc > 4 ? atoi(argv[4]) : ranks - 1;
        fault((inject_kind)find(inject_names, INJECT_KINDS, argv[1]), (phase)find(phase_names, PHASES, argv[2]), atoll(argv[3]));
    } else if (!failures) {
        const int64_t few = argc > 1 ? atoll(argv[1]) : 1;
        if (few == 1) patience = 5;
        int64_t seed = argc > 2 ? atoll(argv[2]) : (int64_t)time(NULL);
        if (ranks > 1) MPI_Bcast(&seed, 1, MPI_INT64_T, 0, MPI_COMM_WORLD);
        if (rank == 0) fprintf(stderr, "seed %lld\n", (long long)seed);
        const int kind = argc > 3 ? find(inject_names, INJECT_KINDS, argv[3]) : INJECT_NONE;
        const int at = argc > 4 ? find(phase_names, PHASES, argv[4]) : -1;
        for (victim = 0; victim < ranks; victim += ranks > 1 ? ranks - 1 : 1) sweep_all(kind, at, few, seed);
    }
    clean();
    if (rank == 0) printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", checks ? (checks - failures) * 100 / checks : 0, checks, failures);
    const int result = failures || !checks;
    if (weft_mpi_launched()) MPI_Finalize();
    return result;
}
