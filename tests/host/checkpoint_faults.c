/* checkpoint_faults.c: is there always a whole checkpoint? A child saves; strace, attached to it
 * for just as long, kills it at a system call, or lets that call fail with ENOSPC or EIO. Then what
 * is there is loaded: every weight, m and v must be the old ones or the new ones. A child that says
 * that it saved must have; one that fails must give a sentence.
 *
 * strace counts calls by name. So a save is traced once without a fault, and then each of its calls,
 * the k-th of its name, is a place of its own: for SIGKILL all of them, for errors those about files.
 *
 *     checkpoint_faults              a few dozen places, drawn anew each time
 *     checkpoint_faults seed=N       those of that draw
 *     checkpoint_faults long         every place of every scenario
 *     checkpoint_faults child SCENARIO FOLDER
 *
 * Two seeded faults show that the check sees something: a save that first removes what was there, and
 * one that moves it away and only then puts the new one in its place, which is seen by a kill
 * between its two renames alone.
 * Prints one line in Check's format; 77 where there is no strace that may attach. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "host/base/file.h"

enum { OLD = 11, NEW = 22 }; /* seeds, from which all values follow */

static const char config[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 1, \"n_embd\": 8, \"n_head\": 2, \"n_inner\": 12, "
    "\"n_positions\": 6, \"vocab_size\": 10}";

typedef struct scenario {
    const char *name;
    int64_t before[3]; /* steps that are there, 0: none */
    int64_t step;
    int32_t keep;
    bool stale, model; /* leavings of a dead run; weft_params_save */
    enum { SOUND, REMOVED_FIRST, MOVED_FIRST } seeded; /* a fault of our own */
} scenario;
static const scenario scenarios[] = {
    {"a second checkpoint", {1}, 2, 1, false, false, SOUND},
    {"over itself", {1}, 1, 0, false, false, SOUND},
    {"pruning, with leavings", {1, 2, 3}, 4, 1, true, false, SOUND},
    {"a model's folder", {0}, 0, 0, false, true, SOUND},
    {"a third, two stay", {1, 2}, 3, 2, false, false, SOUND},
    {"seeded: removed first", {1}, 2, 1, false, false, REMOVED_FIRST},
    {"seeded: moved first", {1}, 2, 1, false, false, MOVED_FIRST},
};
enum { SCENARIOS = sizeof scenarios / sizeof *scenarios, SEEDED = SCENARIOS - 2 };

static char base[256], self[512];
static int checks, failures;

static void die(const char *what) {
    fprintf(stderr, "%s: %s (%s)\n", what, weft_last_error(), strerror(errno));
    exit(99);
}

static void must(weft_status status, const char *what) {
    if (status != WEFT_OK) die(what);
}

static const char *in(const char *folder, const char *name) {
    static char text[8][1024];
    static int turn;
    char *const out = text[turn++ % 8];
    const size_t n = strlen(folder);
    if (n + strlen(name) + 2 > sizeof text[0]) die(name);
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
    if (s->model) return weft_params_save(params, in(folder, "model"));
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

static int child(const scenario *s, const char *folder) {
    char go = 0;
    weft_progress ignored;
    open_all();
    must(weft_checkpoint_load(params, in(base, "seed"), &ignored), "seed"); /* makes m and v */
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    if (write(1, "r", 1) != 1) return 98;
    while (read(0, &go, 1) != 1) {
    } /* the fault may be this call's; the parent's end is not, it kills */
    if (s->seeded == REMOVED_FIRST) wf_folder_remove(in(folder, "step-000000001"));
    const weft_status status = s->seeded == MOVED_FIRST ? move_first(s, folder) : save(s, folder, s->step, NEW, s->keep);
    const char *const said = status == WEFT_OK ? "saved" : weft_last_error();
    const size_t n = strlen(said);
    if (!n || (write(1, said, n) != (ssize_t)n && write(1, said, n) != (ssize_t)n)) return 97;
    return status == WEFT_OK ? 0 : status == WEFT_ERR_FILE ? 3 : 96;
}

/* ---- running it under strace
 * -------------------------------------------------------------------------------- */

typedef struct process {
    pid_t pid;
    int in, out; /* what we write to it, and read from it */
} process;

/* Descriptor 2 too, where `errors`. */
static process start(char *const argv[], bool errors) {
    int to[2], from[2];
    process p = {0};
    if (pipe(to) != 0 || pipe(from) != 0) die("pipe");
    p.pid = fork();
    if (p.pid < 0) die("fork");
    if (p.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphans */
        dup2(to[0], 0);
        dup2(from[1], 1);
        if (errors) dup2(from[1], 2);
        for (int i = 3; i < 64; i++) close(i);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p.in = to[1];
    p.out = from[0];
    return p;
}

/* Text up to the end, or until `until` stands in it. false: the end, or 20 s. */
static bool read_until(int file, const char *until, char *out, size_t out_bytes) {
    size_t used = strlen(out);
    struct pollfd one = {.fd = file, .events = POLLIN};
    while (!until || !strstr(out, until)) {
        if (poll(&one, 1, 20000) != 1) return false;
        const ssize_t got = read(file, out + used, out_bytes - used - 1);
        if (got <= 0) return !until;
        out[used += (size_t)got] = 0;
    }
    return true;
}

static int end_of(process p) {
    int status = 0;
    close(p.in);
    close(p.out);
    waitpid(p.pid, &status, 0);
    return status;
}

typedef struct outcome {
    int status; /* of the child, as waitpid says */
    bool injected;
    char said[1024];
} outcome;

/* false: strace cannot attach. inject: strace's words, or NULL; log: where its lines go. */
static bool run(int which, const char *folder, const char *inject, const char *log, outcome *out) {
    char number[16], pid[16], ready[8] = "", attached[2048] = "";
    *out = (outcome){0};
    snprintf(number, sizeof number, "%d", which);
    process saver = start((char *[]){self, "child", number, (char *)folder, base, NULL}, false);
    if (!read_until(saver.out, "r", ready, sizeof ready)) die("the child did not start");
    snprintf(pid, sizeof pid, "%d", (int)saver.pid);
    process tracer = start((char *[]){"strace", "-o", (char *)log, "-p", pid, "-e", "trace=all", inject ? "-e" : NULL,
                                      (char *)inject, NULL}, true);
    const bool fine = read_until(tracer.out, "attached", attached, sizeof attached);
    if (fine && write(saver.in, "g", 1) != 1 && errno != EPIPE) die("go"); /* EPIPE: killed at the read that waits for it */
    if (!fine) kill(saver.pid, SIGKILL);
    read_until(saver.out, NULL, out->said, sizeof out->said);
    out->status = end_of(saver);
    end_of(tracer);
    if (!fine) return fprintf(stderr, "strace: %s\n", attached), false;
    char *text = NULL;
    int64_t bytes;
    must((weft_status)wf_file_load(log, 1 << 26, &text, &bytes), "strace's log");
    out->injected = strstr(text, "(INJECTED)") || WIFSIGNALED(out->status);
    free(text);
    return true;
}

/* ---- the calls of a save
 * ------------------------------------------------------------------------------------ */

enum { NAMES = 64, NAME_BYTES = 32 };
typedef struct call {
    char name[NAME_BYTES];
    int count;   /* in a save without a fault */
    int hits[3]; /* by kind of fault, over all scenarios */
} call;

/* Calls that can fail for want of space or by a bad disk. */
static bool about_files(const char *name) {
    static const char names[] =
        " open openat mkdir mkdirat write pwrite64 fsync fdatasync close rename renameat renameat2 unlink unlinkat "
        "rmdir linkat link newfstatat fstat stat statx getdents64 pread64 read lseek ftruncate fallocate ";
    char word[NAME_BYTES + 2];
    snprintf(word, sizeof word, " %.*s ", NAME_BYTES - 1, name);
    return strstr(names, word) != NULL;
}

static call *find_call(call *calls, int *ncalls, const char *name) {
    for (int i = 0; i < *ncalls; i++)
        if (strcmp(calls[i].name, name) == 0) return &calls[i];
    if (*ncalls == NAMES) die("more names of calls than there is room for");
    call *const one = &calls[(*ncalls)++];
    *one = (call){0};
    strcpy(one->name, name);
    return one;
}

/* A line of strace's log begins with the call's name; signals and the end with other marks. */
static int count_calls(const char *log, call calls[NAMES]) {
    char *text = NULL;
    int64_t bytes;
    int n = 0;
    must((weft_status)wf_file_load(log, 1 << 26, &text, &bytes), "strace's log");
    for (char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        char name[NAME_BYTES] = "";
        const size_t length = strspn(line, "abcdefghijklmnopqrstuvwxyz_0123456789");
        if (!length || length >= sizeof name || line[length] != '(') continue;
        memcpy(name, line, length);
        find_call(calls, &n, name)->count++;
    }
    free(text);
    return n;
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
    process p = start((char *[]){"cp", "-r", (char *)from, (char *)to, NULL}, false);
    if (end_of(p) != 0) die("cp");
}

static void remove_tree(const char *path) {
    process p = start((char *[]){"rm", "-rf", (char *)path, NULL}, false);
    if (end_of(p) != 0) die("rm");
}

/* Where a scenario begins. */
static void prepare(const scenario *s, const char *folder) {
    if (mkdir(folder, 0777) != 0) die(folder);
    for (int i = 0; i < 3; i++)
        if (s->before[i]) must(save(s, folder, s->before[i], OLD, 0), "prepare");
    if (s->model) {
        must(save(s, folder, 0, OLD, 0), "prepare");
        copy(in(base, "config.json"), in(folder, "model/tokenizer.json"));
    }
    if (!s->stale) return;
    char host[64] = "", name[256];
    gethostname(host, sizeof host - 1);
    process gone = start((char *[]){"true", NULL}, false);
    end_of(gone);
    snprintf(name, sizeof name, ".step-000000009.partial-%s-%d", host, (int)gone.pid);
    copy(in(folder, "step-000000001"), in(folder, name));
}

/* The seed whose values are loaded, all of them; 0: nothing whole. */
static uint64_t find_whole(const scenario *s, const char *folder) {
    weft_progress progress = {0};
    const int n = s->model ? 1 : 3;
    each_value(99, 3, true);
    if (s->model) {
        if (weft_params_load(params, in(folder, "model")) != WEFT_OK) return 0;
        if (access(in(folder, "model/tokenizer.json"), R_OK) != 0) return 0;
        return each_value(OLD, n, false) ? OLD : each_value(NEW, n, false) ? NEW : 0;
    }
    if (weft_checkpoint_load(params, folder, &progress) != WEFT_OK) return 0;
    return each_value(progress.seed, n, false) ? progress.seed : 0;
}

/* The next save works, and clears away what is left of this one. */
static bool recovers(const scenario *s, const char *folder) {
    char command[1100];
    if (save(s, folder, s->step + 1, NEW, 1) != WEFT_OK) return false;
    snprintf(command, sizeof command, "test -z \"$(ls -A '%s' | grep partial)\"", folder);
    return find_whole(s, folder) == NEW && system(command) == 0;
}

static void skip(void) {
    remove_tree(base);
    printf("SKIP: strace cannot attach to a process here\n");
    exit(77);
}

static const char *const faults[] = {"signal=KILL", "error=ENOSPC", "error=EIO"};
enum { FAULTS = 3 };

/* One fault, at the k-th call of this name; false: that call was not made. */
static bool try_fault(int which, int fault, const char *name, int k, int *unusable) {
    const scenario *const s = &scenarios[which];
    const char *const folder = in(base, "now");
    char inject[128];
    outcome o;
    snprintf(inject, sizeof inject, "inject=%s:%s:when=%d", name, faults[fault], k);
    remove_tree(folder);
    copy(in(base, s->name), folder);
    if (!run(which, folder, inject, in(base, "strace"), &o)) skip();
    const uint64_t found = find_whole(s, folder);
    const bool exited = WIFEXITED(o.status), saved = exited && WEXITSTATUS(o.status) == 0;
    *unusable += !found;
    if (s->seeded) return o.injected;
    expect(found && (!saved || found == NEW), "%s, %s at %s %d: %s; child: %s", s->name, faults[fault], name, k,
           found ? "the old one, after it was said to be saved" : weft_last_error(), o.said);
    expect(exited ? WEXITSTATUS(o.status) == 0 || WEXITSTATUS(o.status) == 3
                  : WTERMSIG(o.status) == SIGKILL,
           "%s, %s at %s %d: the child ended with status %x: %s", s->name, faults[fault], name, k,
           (unsigned)o.status, o.said);
    if (k % 5 == 0 || about_files(name))
        expect(recovers(s, folder), "%s, %s at %s %d: the next save: %s", s->name, faults[fault], name, k,
               weft_last_error());
    return o.injected;
}

/* The places of a scenario: of each call of an unfaulted save. */
static int places_of(int which, call calls[NAMES]) {
    const char *const folder = in(base, "now"), *const log = in(base, "calls");
    outcome o;
    remove_tree(folder);
    copy(in(base, scenarios[which].name), folder);
    if (!run(which, folder, NULL, log, &o)) skip();
    expect(WIFEXITED(o.status) && WEXITSTATUS(o.status) == 0, "%s without a fault: %s", scenarios[which].name, o.said);
    return count_calls(log, calls);
}

static uint64_t draw; /* of the short form */

static bool is_drawn(int one_in) {
    draw = draw * 6364136223846793005u + 1442695040888963407u;
    return (draw >> 33) % (uint64_t)one_in == 0;
}

/* Every place, or one in so many. Counts what was hit by name. A call about files is made in every save alike, so
 * each of its places must be met. */
static void sweep(int which, int fault, int one_in, call *hit, int *nhit, int *unusable) {
    call calls[NAMES];
    const int n = places_of(which, calls);
    for (int i = 0; i < n; i++)
        for (int k = 1; k <= calls[i].count; k++) {
            const bool file = about_files(calls[i].name);
            if ((fault && !file) || (one_in > 1 && !is_drawn(one_in))) continue;
            const bool met = try_fault(which, fault, calls[i].name, k, unusable);
            /* The read that waits for the start may or may not have begun when strace comes. */
            expect(met || !file || strcmp(calls[i].name, "read") == 0, "%s: %s %d was not made", scenarios[which].name, calls[i].name, k);
            if (met) find_call(hit, nhit, calls[i].name)->hits[fault]++;
        }
}

static int total(const call *hit, int nhit, int fault) {
    int sum = 0;
    for (int i = 0; i < nhit; i++) sum += hit[i].hits[fault];
    return sum;
}

/* What a save is made of was killed and failed at least once: on this system by one of these names. */
static void expect_all_hit(const call *hit, int nhit) {
    static const char *const kinds[][4] = {{"write", "pwrite64"}, {"fsync", "fdatasync"}, {"openat", "open"}, {"close"},
                                           {"mkdir", "mkdirat"}, {"rename", "renameat", "renameat2"}, {"unlinkat", "unlink"}};
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
        for (int f = 0; f < FAULTS; f++) {
            int sum = 0;
            for (int i = 0; i < nhit; i++)
                for (int name = 0; name < 4 && kinds[kind][name]; name++)
                    if (strcmp(hit[i].name, kinds[kind][name]) == 0) sum += hit[i].hits[f];
            expect(sum > 0, "no %s was hit by %s", kinds[kind][0], faults[f]);
        }
    for (int f = 0; f < FAULTS; f++)
        expect(total(hit, nhit, f) >= 200, "only %d of %s", total(hit, nhit, f), faults[f]);
}

/* Each kind of seeded fault is seen; that which moves first at one place only, its second rename. Kills at a few calls
 * are enough. */
static void sweep_seeded(int *seen) {
    call calls[NAMES];
    for (int which = SEEDED; which < SCENARIOS; which++) {
        const int n = places_of(which, calls);
        for (int i = 0; i < n; i++)
            for (int k = 1; k <= calls[i].count && k <= 3; k++)
                if (strncmp(calls[i].name, "rename", 6) == 0 || strcmp(calls[i].name, "fsync") == 0)
                    try_fault(which, 0, calls[i].name, k, &seen[which - SEEDED]);
    }
    expect(seen[0] > 0, "a save that first removes what was there was never caught");
    expect(seen[1] == 1, "a save that moves first was caught at %d places, not between its renames", seen[1]);
}

static void sweep_all(bool all) {
    call hit[NAMES];
    int nhit = 0, unusable = 0, seen[2] = {0};
    for (int i = 0; i < SCENARIOS; i++) prepare(&scenarios[i], in(base, scenarios[i].name));
    for (int i = 0; i < SEEDED; i++)
        for (int f = 0; f < FAULTS; f++) sweep(i, f, all ? 1 : f ? 40 : 100, hit, &nhit, &unusable);
    sweep_seeded(seen);
    if (all) expect_all_hit(hit, nhit);
    for (int i = 0; i < nhit && all; i++)
        printf("  %-12s SIGKILL %4d, ENOSPC %4d, EIO %4d\n", hit[i].name, hit[i].hits[0], hit[i].hits[1], hit[i].hits[2]);
    printf("SIGKILL at %d calls, ENOSPC at %d, EIO at %d: %d unusable; of the seeded faults %d and %d\n",
           total(hit, nhit, 0), total(hit, nhit, 1), total(hit, nhit, 2), unusable, seen[0], seen[1]);
}

static void write_config(void) {
    FILE *const f = fopen(in(base, "config.json"), "w");
    if (!f || fputs(config, f) < 0 || fclose(f) != 0) die("config");
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
    if (n < 0 || !mkdtemp(own) || !getcwd(here, sizeof here)) die("a folder of my own");
    snprintf(base, sizeof base, "%s/%s", here, own);
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
