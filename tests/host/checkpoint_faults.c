/* checkpoint_faults.c: is there always a whole checkpoint? A child saves; strace, attached to it
 * for just as long (traced.h), kills it at a system call, or lets that call fail with ENOSPC or EIO, or every rename
 * from one on. Then what is there is loaded: every weight, m and v must be the old ones or the new ones. A child that
 * says that it saved must have; one that fails must give a sentence; where a file, folder or name of the new checkpoint
 * could not be made or synced it must fail, with the file and the system's reason, and leave nothing partial behind.
 *
 * strace counts calls by name. So a save is traced once without a fault, and then each of its calls,
 * the k-th of its name, is a place of its own: for SIGKILL all of them, for errors those about files. Some scenarios
 * are on a file system that cannot exchange two folders (renameat2 fails with EINVAL, as on NFS).
 *
 *     checkpoint_faults              a few dozen places about files, drawn anew each time; of those without an
 *                                    exchange every rename
 *     checkpoint_faults seed=N       those of that draw
 *     checkpoint_faults long         every place of every scenario
 *     checkpoint_faults child SCENARIO FOLDER
 *
 * Seeded faults show that the check sees something: a save that first removes what was there; one that moves it away
 * and only then puts the new one in its place, which is seen by a kill between its two renames alone; one that drops
 * the error of fsync, which is seen by what it says alone.
 * Prints one line in Check's format; 77 where there is no strace that may attach. */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "host/base/file.h"
#include "tests/host/traced.h"

enum { OLD = 11, NEW = 22 }; /* seeds, from which all values follow */

static const char config[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 8, \"n_head\": 2, \"n_inner\": 12, "
    "\"n_positions\": 6, \"vocab_size\": 10}";

enum { CHECKPOINT, MODEL };               /* what is saved: by weft_checkpoint_save, weft_params_save */
enum { EXCHANGE, TWO_RENAMES };           /* what the file system can */
enum { SOUND, REMOVED_FIRST, MOVED_FIRST, SYNC_DROPPED }; /* a fault of our own */
typedef struct scenario {
    const char *name;
    int64_t before[3]; /* steps that are there, 0: none */
    int64_t step;
    int32_t keep;
    int stale; /* leavings of a dead run */
    int what, system, seeded;
} scenario;
static const scenario scenarios[] = {
    {"a second checkpoint", {1}, 2, 1, 0, CHECKPOINT, EXCHANGE, SOUND},
    {"over itself", {1}, 1, 0, 0, CHECKPOINT, EXCHANGE, SOUND},
    {"pruning, with leavings", {1, 2, 3}, 4, 1, 1, CHECKPOINT, EXCHANGE, SOUND},
    {"a model's folder", {0}, 0, 0, 0, MODEL, EXCHANGE, SOUND},
    {"a third, two stay", {1, 2}, 3, 2, 0, CHECKPOINT, EXCHANGE, SOUND},
    {"over itself, two renames", {1}, 1, 0, 0, CHECKPOINT, TWO_RENAMES, SOUND},
    {"a model's folder, two renames", {0}, 0, 0, 0, MODEL, TWO_RENAMES, SOUND},
    {"seeded: removed first", {1}, 2, 1, 0, CHECKPOINT, EXCHANGE, REMOVED_FIRST},
    {"seeded: moved first", {1}, 2, 1, 0, CHECKPOINT, EXCHANGE, MOVED_FIRST},
    {"seeded: sync's error dropped", {1}, 2, 1, 0, CHECKPOINT, EXCHANGE, SYNC_DROPPED},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios, SEEDED = SCENARIOS - 3 };

static char base[256], self[512];
static char now[300], again[300], trace[300]; /* a scenario under way, a copy of it, what strace writes */
static int checks, failures;

static void must(weft_status status, const char *what) {
    if (status != WEFT_OK) traced_die(what);
}

/* A path; good for the next seven calls. */
static const char *in(const char *folder, const char *name) {
    static char text[8][1024];
    static int turn;
    char *const out = text[turn++ % 8];
    const size_t n = strlen(folder);
    if (n + strlen(name) + 2 > sizeof text[0]) traced_die(name);
    memmove(out, folder, n);
    out[n] = '/';
    strcpy(out + n + 1, name);
    return out;
}

/* ---- state: values that follow from a seed
 * --------------------------------------------------------------- */

static weft_context *context;
static weft_model *model;
static weft_layout *layout;
static weft_params *params;

static void open_all(void) {
    must(weft_context_create(NULL, NULL, &context), "context");
    must(weft_model_create(in(base, "config.json"), &model), "model");
    must(weft_layout_parse("tp1", &layout), "layout");
    must(weft_params_create(context, model, layout, &params), "params");
}

static void close_all(void) {
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    weft_context_destroy(context);
}

static float value_of(uint64_t seed, int what, int32_t tensor, int64_t i) {
    return (float)(seed * 1000000 + (uint64_t)what * 100000 + (uint64_t)tensor * 1000) +
           (float)(i % 997);
}

static const char *const whats[] = {"", "m", "v"};

/* write: sets all values; else: are they all this seed's? */
static bool each_value(uint64_t seed, int nwhats, bool write) {
    float room[4096];
    for (int w = 0; w < nwhats; w++)
        for (int32_t t = 0; t < weft_params_count(params); t++) {
            weft_tensor_info info;
            must(weft_params_info(params, t, &info), "info");
            const int64_t n = info.rows * info.columns;
            for (int64_t i = 0; i < n && write; i++) room[i] = value_of(seed, w, t, i);
            if (write)
                must(weft_params_write(params, t, whats[w], 0, room), "write");
            else
                must(weft_params_read(params, t, whats[w], 0, room), "read");
            for (int64_t i = 0; i < n && !write; i++)
                if (room[i] != value_of(seed, w, t, i)) return false;
        }
    return true;
}

static weft_status save(const scenario *s, const char *folder, int64_t step, uint64_t seed,
                        int32_t keep) {
    const weft_progress progress = {.step = step, .seed = seed, .data_position = step};
    each_value(seed, 3, true);
    if (s->what == MODEL) return weft_params_save(params, in(folder, "model"));
    return weft_checkpoint_save(params, folder, &progress, keep);
}

/* Room for m and v: that of a plan that trains. */
static void make_room(void) {
    weft_plan *plan;
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = model;
    o.layout = layout;
    o.batch = 1;
    o.sequence = 2;
    o.mode = WEFT_TRAIN;
    must(weft_plan_create(context, &o, &plan), "plan");
    must(weft_plan_load(plan, params), "load");
    weft_plan_destroy(plan);
}

/* ---- the child
 * -------------------------------------------------------------------------------------------- */

/* Two renames, between which nothing whole is there. */
static weft_status move_first(const scenario *s, const char *folder) {
    const char *const aside = in(folder, "aside");
    const weft_status status = save(s, aside, s->step, NEW, s->keep);
    if (status != WEFT_OK) return status;
    if (rename(in(folder, "step-000000001"), in(folder, "gone")) != 0) return WEFT_ERR_FILE;
    if (rename(in(aside, "step-000000002"), in(folder, "step-000000002")) != 0) return WEFT_ERR_FILE;
    return WEFT_OK;
}

static bool drops_sync;

/* libc's, for all of weft in this program. */
int fsync(int file) {
    const long ended = syscall(SYS_fsync, file);
    return drops_sync ? 0 : (int)ended;
}

static int child(const scenario *s, const char *folder) {
    weft_progress ignored;
    open_all();
    must(weft_checkpoint_load(params, in(base, "seed"), &ignored), "seed"); /* makes m and v */
    drops_sync = s->seeded == SYNC_DROPPED;
    traced_child_ready();
    if (s->seeded == REMOVED_FIRST) wf_folder_remove(in(folder, "step-000000001"));
    const weft_status status = s->seeded == MOVED_FIRST ? move_first(s, folder) : save(s, folder, s->step, NEW, s->keep);
    const char *const said = status == WEFT_OK ? "saved" : weft_last_error();
    const size_t n = strlen(said);
    if (!n || (write(1, said, n) != (ssize_t)n && write(1, said, n) != (ssize_t)n)) return 97;
    return status == WEFT_OK ? 0 : status == WEFT_ERR_FILE ? 3 : 96;
}

/* ---- faults
 * ------------------------------------------------------------------------------------------------------ */

typedef struct fault {
    const char *name, *words; /* strace's */
    const char *error, *reason;
    bool from_then_on; /* every call from the k-th on */
} fault;
static const fault faults[] = {
    {"SIGKILL", "signal=KILL", NULL, NULL, false},
    {"ENOSPC", "error=ENOSPC", "ENOSPC", "No space left on device", false},
    {"EIO", "error=EIO", "EIO", "Input/output error", false},
    {"EIO from then on", "error=EIO", "EIO", "Input/output error", true}, /* of renames */
};
enum { FAULTS = 4 };

/* Is the name one of these words? */
static bool is_one_of(const char *name, const char *words) {
    char word[TRACED_NAME_BYTES + 2];
    snprintf(word, sizeof word, " %.*s ", TRACED_NAME_BYTES - 1, name);
    return strstr(words, word) != NULL;
}

/* Calls that can fail for want of space or by a bad disk. */
static bool about_files(const char *name) {
    return is_one_of(name, " open openat mkdir mkdirat write pwrite64 fsync fdatasync close rename renameat renameat2 unlink unlinkat "
                           "rmdir linkat link newfstatat fstat stat statx getdents64 pread64 read lseek ftruncate fallocate ");
}

static bool is_rename(const char *name) {
    return is_one_of(name, " rename renameat renameat2 ");
}

static bool applies(const fault *f, const char *name) {
    return f->from_then_on ? is_rename(name) : !f->error || about_files(name);
}

/* Does a save that met this failure of a call, a line of strace's, have no choice but to fail? What it only clears away
 * (the target of a pruned checkpoint's rename begins with a dot) may stay. */
static bool must_fail(const char *name, const char *line) {
    char of_file[310], of_path[310];
    snprintf(of_file, sizeof of_file, "<%s", now);
    snprintf(of_path, sizeof of_path, "\"%s", now);
    if (is_one_of(name, " write pwrite64 fsync fdatasync ")) return strstr(line, of_file) != NULL;
    if (!strstr(line, of_path)) return false;
    if (is_rename(name)) return strstr(line, ".old\"") || !strstr(strstr(line, ", "), "/.step-") || strstr(line, "RENAME_EXCHANGE");
    if (strncmp(name, "open", 4) == 0) return strstr(line, "O_CREAT") != NULL;
    return is_one_of(name, " mkdir mkdirat link linkat ");
}

/* ---- what must hold
 * ------------------------------------------------------------------------------------------ */

static void __attribute__((format(printf, 2, 3))) expect(bool fine, const char *format, ...) {
    checks++;
    if (fine) return;
    va_list arguments;
    failures++;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

static void copy(const char *from, const char *to) {
    if (traced_command((char *[]){"cp", "-r", (char *)from, (char *)to, NULL}) != 0) traced_die("cp");
}

static void remove_tree(const char *path) {
    if (traced_command((char *[]){"rm", "-rf", (char *)path, NULL}) != 0) traced_die("rm");
}

/* Where a scenario begins. */
static void prepare(const scenario *s, const char *folder) {
    if (mkdir(folder, 0777) != 0) traced_die(folder);
    for (int i = 0; i < 3; i++)
        if (s->before[i]) must(save(s, folder, s->before[i], OLD, 0), "prepare");
    if (s->what == MODEL) {
        must(save(s, folder, 0, OLD, 0), "prepare");
        copy(in(base, "config.json"), in(folder, "model/tokenizer.json"));
    }
    if (!s->stale) return;
    char host[64] = "", name[256];
    gethostname(host, sizeof host - 1);
    const pid_t gone = fork();
    if (gone == 0) _exit(0);
    waitpid(gone, NULL, 0);
    snprintf(name, sizeof name, ".step-000000009.partial-%s-%d", host, (int)gone);
    copy(in(folder, "step-000000001"), in(folder, name));
}

/* The seed whose values are loaded, all of them; 0: nothing whole. */
static uint64_t find_whole(const scenario *s, const char *folder) {
    weft_progress progress = {0};
    const int n = s->what == MODEL ? 1 : 3;
    each_value(99, 3, true);
    if (s->what == MODEL) {
        if (weft_params_load(params, in(folder, "model")) != WEFT_OK) return 0;
        if (access(in(folder, "model/tokenizer.json"), R_OK) != 0) return 0;
        return each_value(OLD, n, false) ? OLD : each_value(NEW, n, false) ? NEW : 0;
    }
    if (weft_checkpoint_load(params, folder, &progress) != WEFT_OK) return 0;
    return each_value(progress.seed, n, false) ? progress.seed : 0;
}

/* Names in the folder with this text in them. */
static bool holds(const char *folder, const char *text) {
    char command[2600];
    snprintf(command, sizeof command, "ls -A '%s' | grep -q -- '%s'", folder, text);
    return system(command) == 0;
}

/* The next save works, and clears away what is left of this one. */
static bool recovers(const scenario *s, const char *folder) {
    if (save(s, folder, s->step + 1, NEW, 1) != WEFT_OK) return false;
    return find_whole(s, folder) == NEW && !holds(folder, "partial");
}

/* The next save, of a step of its own, comes before anything is loaded: it must not take for a dead run's leavings what
 * was put aside. */
static bool survives_a_save(const scenario *s, const char *folder) {
    char name[40];
    weft_progress progress = {0};
    if (save(s, folder, s->step + 1, NEW, 0) != WEFT_OK) return false;
    if (s->what == MODEL) return find_whole(s, folder) == NEW; /* with its tokenizer */
    snprintf(name, sizeof name, "step-%09d", (int)s->step);
    return weft_checkpoint_load(params, in(folder, name), &progress) == WEFT_OK && each_value(progress.seed, 3, false);
}

static void skip(void) {
    remove_tree(base);
    printf("SKIP: strace cannot attach to a process here\n");
    exit(77);
}

/* Runs a scenario in a copy of its beginning. */
static traced_outcome run(int which, const char *inject) {
    static const char no_exchange[] = "inject=renameat2:error=EINVAL";
    const scenario *const s = &scenarios[which];
    const char *const expressions[] = {s->system == TWO_RENAMES ? no_exchange : "signal=all", inject, NULL};
    char number[16];
    traced_outcome o;
    snprintf(number, sizeof number, "%d", which);
    remove_tree(now);
    copy(in(base, s->name), now);
    if (!traced_run((char *[]){self, "child", number, now, base, NULL}, expressions, trace, &o)) skip();
    return o;
}

typedef struct place {
    int which; /* scenario */
    const fault *fault;
    const char *name;
    int k; /* of the calls of this name */
} place;

static const char *print_place(const place *p) {
    static char text[256];
    snprintf(text, sizeof text, "%.60s, %s at %.31s %d", scenarios[p->which].name, p->fault->name, p->name, p->k);
    return text;
}

/* What a save that had to fail owes. `line`: what failed. */
static void judge_failure(const place *p, const traced_outcome *o, const char *line) {
    char own[40];
    expect(WIFEXITED(o->status) && WEXITSTATUS(o->status) == 3, "%s: said to be saved after %s", print_place(p), line);
    expect(strstr(o->said, p->fault->reason) && strstr(o->said, now), "%s: no file or no reason in: %s", print_place(p), o->said);
    if (p->fault->from_then_on) return;
    /* an old one that was put aside may stay for the next save where the folder that holds the new one could not be synced */
    snprintf(own, sizeof own, "partial-.*-%d%s", (int)o->pid, is_rename(p->name) ? "" : "$");
    expect(!holds(now, own), "%s: left after its failure: %s", print_place(p), own);
}

static void judge(const place *p, const traced_outcome *o, uint64_t found) {
    const scenario *const s = &scenarios[p->which];
    const bool exited = WIFEXITED(o->status), saved = exited && WEXITSTATUS(o->status) == 0;
    expect(found && (!saved || found == NEW), "%s: %s; child: %s", print_place(p),
           found ? "the old one, after it was said to be saved" : weft_last_error(), o->said);
    expect(exited ? saved || WEXITSTATUS(o->status) == 3 : WTERMSIG(o->status) == SIGKILL, "%s: the child ended with status %x: %s",
           print_place(p), (unsigned)o->status, o->said);
    if (p->k % 5 == 0 || about_files(p->name)) expect(recovers(s, now), "%s: the next save: %s", print_place(p), weft_last_error());
}

/* One fault; false: that call was not made, or not by this fault. Counts what was unusable, and for seeded scenarios
 * what they said wrongly. */
static bool try_fault(const place *p, int *unusable, int *wrong) {
    const scenario *const s = &scenarios[p->which];
    char inject[128], line[2048] = "";
    snprintf(inject, sizeof inject, "inject=%s:%s:when=%d%s", p->name, p->fault->words, p->k, p->fault->from_then_on ? "+" : "");
    const traced_outcome o = run(p->which, inject);
    const bool met = p->fault->error ? traced_find_injected(trace, p->fault->error, line, sizeof line) : WIFSIGNALED(o.status);
    const bool owes = p->fault->error && met && must_fail(p->name, line);
    if (owes && s->seeded) *wrong += WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0;
    if (owes && !s->seeded) judge_failure(p, &o, line);
    if (s->system == TWO_RENAMES) {
        remove_tree(again);
        copy(now, again);
        expect(survives_a_save(s, again), "%s: the next save, before a load: %s", print_place(p), weft_last_error());
    }
    const uint64_t found = find_whole(s, now);
    *unusable += !found;
    if (!s->seeded) judge(p, &o, found);
    return met;
}

/* ---- all places
 * ------------------------------------------------------------------------------------------------- */

/* The calls of a scenario's save without a fault. */
static int places_of(int which, traced_call calls[TRACED_CALLS]) {
    const traced_outcome o = run(which, NULL);
    expect(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "%s without a fault: %s", scenarios[which].name, o.said);
    return traced_count(trace, calls);
}

typedef struct tally {
    char name[TRACED_NAME_BYTES];
    int hits[FAULTS]; /* over all scenarios */
} tally;
static tally hit[TRACED_CALLS];
static int nhit;

static void count_hit(const place *p) {
    int i = 0;
    while (i < nhit && strcmp(hit[i].name, p->name) != 0) i++;
    if (i == TRACED_CALLS) traced_die("more names of calls than there is room for");
    if (i == nhit) strcpy(hit[nhit++].name, p->name);
    hit[i].hits[p->fault - faults]++;
}

static int total(int f) {
    int sum = 0;
    for (int i = 0; i < nhit; i++) sum += hit[i].hits[f];
    return sum;
}

static uint64_t draw; /* of the short form */

static bool is_drawn(int one_in) {
    draw = draw * 6364136223846793005u + 1442695040888963407u;
    return (draw >> 33) % (uint64_t)one_in == 0;
}

/* The short form leaves out what is not about files (futex, above all), and takes one in so many of the others, but every
 * rename of the first scenario that has no exchange. */
static bool is_chosen(const place *p, int one_in) {
    if (one_in == 1) return true;
    if (!about_files(p->name)) return false;
    const scenario *const s = &scenarios[p->which];
    return (s->system == TWO_RENAMES && s->what == CHECKPOINT && strcmp(p->name, "rename") == 0) || is_drawn(one_in);
}

/* A call about files is made in every save alike, so each of its places must be met. */
static void sweep(int which, const fault *f, int one_in, int *unusable) {
    traced_call calls[TRACED_CALLS];
    const int n = places_of(which, calls);
    int unused = 0;
    for (int i = 0; i < n; i++)
        for (int k = 1; k <= calls[i].count; k++) {
            const place p = {which, f, calls[i].name, k};
            if (!applies(f, p.name) || !is_chosen(&p, one_in)) continue;
            const bool met = try_fault(&p, unusable, &unused);
            /* The read that waits for the start may or may not have begun when strace comes. */
            expect(met || !about_files(p.name) || strcmp(p.name, "read") == 0, "%s: was not made", print_place(&p));
            if (met) count_hit(&p);
        }
}

/* What a save is made of was killed and failed at least once: on this system by one of these names. */
static void expect_all_hit(void) {
    static const char *const kinds[] = {" write pwrite64 ", " fsync fdatasync ", " openat open ", " close ", " mkdir mkdirat ",
                                        " rename renameat ", " renameat2 ", " unlinkat unlink ", " rmdir unlinkat ", " link linkat "};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int f = 0; f < FAULTS; f++) {
            int sum = 0;
            for (int i = 0; i < nhit; i++)
                if (is_one_of(hit[i].name, kinds[kind])) sum += hit[i].hits[f];
            expect(sum > 0 || (faults[f].from_then_on && !strstr(kinds[kind], "rename")), "none of%swas hit by %s", kinds[kind], faults[f].name);
        }
    for (int f = 0; f < FAULTS; f++) expect(total(f) >= (faults[f].from_then_on ? 8 : 200), "only %d of %s", total(f), faults[f].name);
}

/* Each kind of seeded fault is seen; that which moves first at one place only, its second rename; that which drops errors
 * of fsync at each of them, by what it says. Few calls are enough. */
static void sweep_seeded(int seen[3]) {
    traced_call calls[TRACED_CALLS];
    int wrong = 0, syncs = 0;
    for (int which = SEEDED; which < SCENARIOS; which++) {
        const bool sync = scenarios[which].seeded == SYNC_DROPPED;
        const int n = places_of(which, calls);
        for (int i = 0; i < n; i++) {
            const bool is_sync = strcmp(calls[i].name, "fsync") == 0;
            for (int k = 1; k <= calls[i].count && k <= 3 && (is_sync || (!sync && is_rename(calls[i].name))); k++) {
                const place p = {which, &faults[sync ? 2 : 0], calls[i].name, k};
                try_fault(&p, &seen[which - SEEDED], &wrong);
                syncs += sync;
            }
        }
    }
    seen[2] += wrong;
    expect(seen[0] > 0, "a save that first removes what was there was never caught");
    expect(seen[1] == 1, "a save that moves first was caught at %d places, not between its renames", seen[1]);
    expect(seen[2] == syncs && syncs > 0, "a save that drops the error of fsync was caught at %d of %d", seen[2], syncs);
}

static void sweep_all(bool all) {
    int unusable = 0, seen[3] = {0};
    for (int i = 0; i < SCENARIOS; i++) prepare(&scenarios[i], in(base, scenarios[i].name));
    for (int i = 0; i < SEEDED; i++)
        for (int f = 0; f < FAULTS; f++) sweep(i, &faults[f], all ? 1 : 40, &unusable);
    sweep_seeded(seen);
    if (all) expect_all_hit();
    for (int i = 0; i < nhit && all; i++)
        printf("  %-12s SIGKILL %4d, ENOSPC %4d, EIO %4d\n", hit[i].name, hit[i].hits[0], hit[i].hits[1], hit[i].hits[2]);
    printf("SIGKILL at %d calls, ENOSPC at %d, EIO at %d and from %d renames on: %d unusable; of the seeded faults %d, %d and %d\n",
           total(0), total(1), total(2), total(3), unusable, seen[0], seen[1], seen[2]);
}

static void write_config(void) {
    FILE *const f = fopen(in(base, "config.json"), "w");
    if (!f || fputs(config, f) < 0 || fclose(f) != 0) traced_die("config");
}

int main(int argc, char **argv) {
    if (argc == 5 && strcmp(argv[1], "child") == 0) {
        snprintf(base, sizeof base, "%s", argv[4]);
        return child(&scenarios[atoi(argv[2])], argv[3]);
    }
    const uint64_t seed = argc == 2 && strncmp(argv[1], "seed=", 5) == 0 ? strtoull(argv[1] + 5, NULL, 0) : (uint64_t)time(NULL);
    draw = seed;
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    char own[] = "weft-faults-XXXXXX", here[200];
    if (n < 0 || !mkdtemp(own) || !getcwd(here, sizeof here)) traced_die("a folder of my own");
    snprintf(base, sizeof base, "%s/%s", here, own);
    snprintf(now, sizeof now, "%s/now", base);
    snprintf(again, sizeof again, "%s/again", base);
    snprintf(trace, sizeof trace, "%s/strace", base);
    write_config();
    signal(SIGPIPE, SIG_IGN);
    open_all();
    make_room();
    const scenario plain = {0};
    must(save(&plain, in(base, "seed"), 1, OLD, 0), "seed");
    sweep_all(argc > 1 && strcmp(argv[1], "long") == 0);
    close_all();
    remove_tree(base);
    printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", 100 * (checks - failures) / checks,
           checks, failures);
    if (failures) fprintf(stderr, "tests/host/checkpoint_faults seed=%llu repeats the short form's draw\n", (unsigned long long)seed);
    return failures ? 1 : 0;
}
