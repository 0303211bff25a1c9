/* What the environment can say, the options of a context can say too, and win: every row of the table of
 * variables is asked. And what is logged: each category has lines, for the caller's function or for
 * stderr, and nobody who did not ask hears anything. CK_NOFORK. */
#define _GNU_SOURCE
#include <check.h>
#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "host/base/env.h"
#include "host/base/log.h"
#include "tests/scratch.h"

static void must(weft_status status) {
    ck_assert_msg(status == WEFT_OK, "%s", weft_last_error());
}

/* ---- variables and options ------------------------------------------------------------------------------------ */

/* A field of the options, found by the name that the table of variables gives it. */
static const char **text_of(weft_context_options *o, const char *option) {
    return strcmp(option, "device") == 0           ? &o->device
           : strcmp(option, "transport") == 0      ? &o->transport
           : strcmp(option, "cache") == 0          ? &o->cache
           : strcmp(option, "cache_dir") == 0      ? &o->cache_dir
           : strcmp(option, "kernel_dir") == 0     ? &o->kernel_dir
           : strcmp(option, "link") == 0           ? &o->link
           : strcmp(option, "log_categories") == 0 ? &o->log_categories
                                                   : NULL;
}

static void say(weft_context_options *o, const char *option, const char *value) {
    if (strcmp(option, "timeout_s") == 0) {
        o->timeout_s = atof(value);
        return;
    }
    const char **const field = text_of(o, option);
    ck_assert_msg(field != NULL, "no field \"%s\" of weft_context_options is known to this test", option);
    *field = value;
}

/* What is refused, with which word; and what is fine. */
typedef struct row {
    const char *wrong, *said, *right;
    weft_status status;
} row;
static char long_path[700];
static const row rows[WF_ENVS] = {
    [WF_ENV_DEVICE] = {"no such device", "no such device", "0", WEFT_ERR_DEVICE},
    [WF_ENV_TRANSPORT] = {"telepathy", "telepathy", "mpi", WEFT_ERR_ARGUMENT},
    [WF_ENV_TIMEOUT_S] = {"-3", "-3", "30", WEFT_ERR_ARGUMENT},
    [WF_ENV_CACHE_DIR] = {long_path, "too long", "/tmp", WEFT_ERR_ARGUMENT},
    [WF_ENV_CACHE] = {"perhaps", "perhaps", "auto", WEFT_ERR_ARGUMENT},
    [WF_ENV_LOG] = {"planets", "planets", "plan", WEFT_ERR_ARGUMENT},
    [WF_ENV_KERNEL_DIR] = {"/no/such/folder", "/no/such/folder", "/tmp", WEFT_ERR_FILE},
    [WF_ENV_LINK] = {"20us,0GB/s", "20us,0GB/s", "0.5us,12.5GB/s", WEFT_ERR_ARGUMENT},
};

static weft_status open_with(const char *option, const char *value) {
    weft_context_options o;
    weft_context *c = NULL;
    weft_context_options_init(&o);
    if (option) say(&o, option, value);
    const weft_status status = weft_context_create(&o, NULL, &c);
    weft_context_destroy(c);
    return status;
}

static void refuses(const row *r, weft_status got, const char *how) {
    ck_assert_msg(got == r->status, "%s: status %d, not %d: %s", how, (int)got, (int)r->status, weft_last_error());
    ck_assert_msg(strstr(weft_last_error(), r->said) != NULL, "%s: \"%s\" does not say \"%s\"", how, weft_last_error(), r->said);
}

START_TEST(every_variable_has_an_option_that_wins_over_it) {
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[0] = '/';
    for (int v = 0; v < WF_ENVS; v++) {
        const row *const r = &rows[v];
        const char *const name = wf_env_name((wf_env_id)v), *const option = wf_env_option((wf_env_id)v);
        char how[256];
        ck_assert_msg(r->wrong && option, "%s has no option, or no row in this test", name);
        snprintf(how, sizeof how, "%s and %s", name, option);
        unsetenv(name);
        must(open_with(NULL, NULL));
        refuses(r, open_with(option, r->wrong), how);
        setenv(name, r->wrong, 1);
        refuses(r, open_with(NULL, NULL), how);
        must(open_with(option, r->right)); /* the variable is not looked at */
        setenv(name, r->right, 1);
        must(open_with(NULL, NULL));
        refuses(r, open_with(option, r->wrong), how);
        unsetenv(name);
    }
}
END_TEST

/* No other WEFT_* variable is read: env.c is the only reader (check_getenv.sh), and names them in its table. */
START_TEST(the_table_lists_every_variable_of_its_file) {
    char line[512], path[512];
    snprintf(path, sizeof path, "%s/host/base/env.c", getenv("top_srcdir") ? getenv("top_srcdir") : ".");
    FILE *const f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f)) {
        const char *const at = strstr(line, "\"WEFT_");
        bool known = !at;
        for (int v = 0; v < WF_ENVS && at; v++) known = known || strncmp(at + 1, wf_env_name((wf_env_id)v), strcspn(at + 1, "\"")) == 0;
        ck_assert_msg(known, "not in the table: %s", line);
    }
    fclose(f);
}
END_TEST

/* The driver executes what it finds there; the sentence names the folder and the remedy. (That nothing planted is
 * executed: check_planted.sh.) */
START_TEST(a_drivers_cache_that_others_can_write_to_is_refused) {
    char folder[512];
    char *text = NULL;
    must(weft_environment_describe(false, &text));
    const bool pocl = strstr(text, "Portable Computing Language") != NULL;
    weft_text_free(text);
    if (!pocl) return;
    ck_assert_ptr_nonnull(mkdtemp(scratch_template(folder, sizeof folder, "environment")));
    setenv("POCL_CACHE_DIR", folder, 1);
    must(open_with(NULL, NULL));
    ck_assert_int_eq(chmod(folder, 0777), 0);
    const weft_status status = open_with(NULL, NULL);
    ck_assert_msg(status == WEFT_ERR_DEVICE, "status %d", (int)status);
    ck_assert_msg(strstr(weft_last_error(), folder) && strstr(weft_last_error(), "set POCL_CACHE_DIR to"), "%s", weft_last_error());
    ck_assert_int_eq((int)open_with("cache", "on"), WEFT_ERR_DEVICE); /* a cache of weft's own changes nothing */
    unsetenv("POCL_CACHE_DIR");
    rmdir(folder);
}
END_TEST

/* ---- what is logged -------------------------------------------------------------------------------------------- */

typedef struct heard {
    int notes[WF_LOG_CATEGORIES], warnings, unknown;
    char last[WF_LOG_CATEGORIES][1100], warning[1100];
} heard;

static void hear(void *user, int level, const char *category, const char *sentence) {
    heard *const h = user;
    int c = 0;
    while (c < WF_LOG_CATEGORIES && strcmp(category, wf_log_name((wf_log_category)c)) != 0) c++;
    if (c == WF_LOG_CATEGORIES || strchr(sentence, '\n')) h->unknown++;
    else if (level == WEFT_LOG_WARNING) h->warnings++, snprintf(h->warning, sizeof h->warning, "%s", sentence);
    else h->notes[c]++, snprintf(h->last[c], sizeof h->last[c], "%s", sentence);
}

typedef struct listener {
    heard heard;
    weft_context_options options;
    weft_bootstrap *bootstrap;
    char folder[512];
    weft_status status;
    char why[1100];
} listener;

static void fill(weft_context_options *o, const char *categories, heard *h) {
    weft_context_options_init(o);
    o->cache = "on";
    o->log_categories = categories;
    if (h) o->log = hear, o->log_user = h;
}

/* Opens, plans, loads, saves and loads again, under tp2 as one of two ranks or alone. */
static weft_status live(listener *l, const char *layout_text) {
    weft_context *context = NULL;
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_params *params = NULL;
    weft_plan *plan = NULL;
    weft_plan_options o;
    weft_progress progress = {.step = 1};
    weft_status status = weft_context_create(&l->options, l->bootstrap, &context);
    if (!status) status = weft_model_create("tiny", &model);
    if (!status) status = weft_layout_parse(layout_text, &layout);
    if (!status) status = weft_params_create(context, model, layout, &params);
    if (!status) status = weft_params_init(params, 1);
    weft_plan_options_init(&o);
    o.model = model, o.layout = layout, o.batch = 1, o.sequence = 8, o.mode = WEFT_EVALUATE;
    if (!status) status = weft_plan_create(context, &o, &plan);
    if (!status) status = weft_plan_load(plan, params);
    for (; !status && progress.step <= 2; progress.step++) status = weft_checkpoint_save(params, l->folder, &progress, 0);
    if (!status) status = weft_checkpoint_load(params, l->folder, &progress);
    if (status) snprintf(l->why, sizeof l->why, "%s", weft_last_error());
    weft_plan_destroy(plan);
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    weft_context_destroy(context);
    return status;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *at) {
    return remove(path);
}

static void make_folder(listener *l) {
    ck_assert_ptr_nonnull(mkdtemp(scratch_template(l->folder, sizeof l->folder, "environment")));
}

static void remove_folder(const listener *l) {
    nftw(l->folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void *live_as_rank(void *data) {
    listener *const l = data;
    l->status = live(l, "tp2");
    return NULL;
}

static listener pair[2];
static void two_ranks(const char *categories) {
    weft_bootstrap *ranks[2] = {NULL};
    pthread_t threads[2];
    memset(pair, 0, sizeof pair);
    make_folder(&pair[0]);
    strcpy(pair[1].folder, pair[0].folder);
    must(weft_bootstrap_local(2, ranks));
    for (int r = 0; r < 2; r++) {
        fill(&pair[r].options, categories, &pair[r].heard);
        pair[r].options.cache_dir = pair[r].folder;
        pair[r].bootstrap = ranks[r];
        pthread_create(&threads[r], NULL, live_as_rank, &pair[r]);
    }
    for (int r = 0; r < 2; r++) pthread_join(threads[r], NULL);
    for (int r = 0; r < 2; r++) weft_bootstrap_destroy(ranks[r]);
    remove_folder(&pair[0]);
    for (int r = 0; r < 2; r++) ck_assert_msg(!pair[r].status, "rank %d: %s", r, pair[r].why);
}

START_TEST(each_category_says_what_it_is_of) {
    two_ranks("all");
    const heard *const h = &pair[0].heard;
    static const char *const words[WF_LOG_CATEGORIES] = {"rank 0 of tp2", "ranks 0 and 1 use", "compute units", NULL, NULL, "is loaded"};
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) {
        ck_assert_msg(h->notes[c] > 0, "%s says nothing", wf_log_name((wf_log_category)c));
        ck_assert_msg(!words[c] || strstr(h->last[c], words[c]), "%s says \"%s\"", wf_log_name((wf_log_category)c), h->last[c]);
    }
    ck_assert_int_eq(h->unknown, 0);
    ck_assert_int_eq(h->notes[WF_LOG_PLAN], 1);
    ck_assert_int_eq(h->notes[WF_LOG_FABRIC], 1);
    ck_assert_int_eq(h->notes[WF_LOG_DEVICE], 1);
    ck_assert_int_eq(h->notes[WF_LOG_CHECKPOINT], 3);
    /* a pair is told by one of the two, a checkpoint by rank 0, the rest by each */
    ck_assert_int_eq(pair[1].heard.notes[WF_LOG_FABRIC] + pair[1].heard.notes[WF_LOG_CHECKPOINT], 0);
    ck_assert_int_eq(pair[1].heard.notes[WF_LOG_PLAN], 1);
}
END_TEST

START_TEST(only_what_was_asked_for_is_noted) {
    two_ranks("fabric");
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) ck_assert_int_eq(pair[0].heard.notes[c], c == WF_LOG_FABRIC ? 1 : 0);
    setenv("WEFT_LOG", "device", 1);
    two_ranks(NULL);
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) ck_assert_int_eq(pair[0].heard.notes[c], c == WF_LOG_DEVICE ? 1 : 0);
    two_ranks("");
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) ck_assert_int_eq(pair[0].heard.notes[c], 0);
    unsetenv("WEFT_LOG");
}
END_TEST

/* A damaged checkpoint is passed over: a warning for the function of this context, of no other; without one, stderr
 * keeps silent but for those who ask. */
static long load_damaged(const char *categories, heard *h, heard *other) {
    listener l = {.bootstrap = NULL};
    char path[1024], text[1024];
    weft_context *bystander = NULL;
    weft_context_options others;
    fill(&others, "all", other);
    if (other) must(weft_context_create(&others, NULL, &bystander));
    if (other) memset(other, 0, sizeof *other);
    make_folder(&l);
    fill(&l.options, "", NULL);
    l.options.cache_dir = l.folder;
    ck_assert_msg(!live(&l, "tp1"), "%s", l.why);
    snprintf(path, sizeof path, "%s/step-000000002/model.safetensors", l.folder);
    ck_assert_int_eq(truncate(path, 1000), 0);
    snprintf(text, sizeof text, "%s/stderr", l.folder);
    fflush(stderr);
    const int before = dup(STDERR_FILENO);
    ck_assert_ptr_nonnull(freopen(text, "w", stderr));
    weft_context *context = NULL;
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_params *params = NULL;
    weft_progress progress;
    fill(&l.options, categories, h);
    must(weft_context_create(&l.options, NULL, &context));
    must(weft_model_create("tiny", &model));
    must(weft_layout_parse("", &layout));
    must(weft_params_create(context, model, layout, &params));
    must(weft_checkpoint_load(params, l.folder, &progress));
    ck_assert_int_eq((int)progress.step, 1);
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    weft_context_destroy(context);
    weft_context_destroy(bystander);
    fflush(stderr);
    const long bytes = ftell(stderr);
    dup2(before, STDERR_FILENO);
    close(before);
    remove_folder(&l);
    return bytes;
}

START_TEST(warnings_go_to_the_contexts_function_and_else_nowhere) {
    static heard mine, others;
    ck_assert_int_eq((int)load_damaged("", &mine, &others), 0);
    ck_assert_int_eq(mine.warnings, 1);
    ck_assert_ptr_nonnull(strstr(mine.warning, "passed over"));
    ck_assert_int_eq(others.warnings, 0);
    for (int c = 0; c < WF_LOG_CATEGORIES; c++) ck_assert_int_eq(mine.notes[c] + others.notes[c], 0);
    ck_assert_int_eq((int)load_damaged("", NULL, NULL), 0);
    ck_assert_int_eq((int)load_damaged(NULL, NULL, NULL), 0);
    ck_assert_int_gt((int)load_damaged("checkpoint", NULL, NULL), 100);
}
END_TEST

int main(void) {
    unsetenv("WEFT_LOG");
    Suite *suite = suite_create("environment");
    TCase *tests = tcase_create("environment");
    tcase_set_timeout(tests, 240);
    tcase_add_test(tests, every_variable_has_an_option_that_wins_over_it);
    tcase_add_test(tests, the_table_lists_every_variable_of_its_file);
    tcase_add_test(tests, a_drivers_cache_that_others_can_write_to_is_refused);
    tcase_add_test(tests, each_category_says_what_it_is_of);
    tcase_add_test(tests, only_what_was_asked_for_is_noted);
    tcase_add_test(tests, warnings_go_to_the_contexts_function_and_else_nowhere);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
