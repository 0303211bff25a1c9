/* Checkpoints on one rank: which are kept, found, passed over and refused. */
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "host/base/file.h"
#include "host/model/checkpoint.h"

static const char config[] =
    "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 8, \"n_head\": 2, \"n_inner\": 12, "
    "\"n_positions\": 6, \"vocab_size\": 10}";
static char base[64];
static weft_context *context;
static weft_model *model;
static weft_layout *layout;
static weft_params *params;

static void must(weft_status status) {
    ck_assert_msg(status == WEFT_OK, "%s", weft_last_error());
}

static void expect_sentence(weft_status got, weft_status want, const char *said) {
    ck_assert_msg(got == want, "status %d, not %d: %s", (int)got, (int)want, weft_last_error());
    ck_assert_msg(strstr(weft_last_error(), said) != NULL, "\"%s\" does not say \"%s\"",
                  weft_last_error(), said);
}

static const char *in(const char *name) {
    static char text[4][512];
    static int turn;
    char *const out = text[turn++ % 4];
    snprintf(out, 512, "%s/%s", base, name);
    return out;
}

static void write_text(const char *path, const char *text) {
    FILE *const f = fopen(path, "w");
    ck_assert(f && fputs(text, f) >= 0 && fclose(f) == 0);
}

/* Folders in folders; of this test only. */
static void remove_all(const char *path) {
    char inside[1024];
    DIR *const d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        snprintf(inside, sizeof inside, "%s/%s", path, e->d_name);
        if (unlink(inside) != 0) remove_all(inside);
    }
    if (d) closedir(d);
    rmdir(path);
}

static int count_entries(const char *path, const char *with) {
    int n = 0;
    DIR *const d = opendir(path);
    for (const struct dirent *e; d && (e = readdir(d));) n += strstr(e->d_name, with) != NULL;
    if (d) closedir(d);
    return n;
}

static bool exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static void open_all(void) {
    must(weft_context_create(NULL, NULL, &context));
    must(weft_layout_parse("", &layout));
}

static void close_all(void) {
    weft_layout_destroy(layout);
    weft_context_destroy(context);
}

static void begin(void) {
    snprintf(base, sizeof base, "weft-checkpoint-%ld", (long)getpid());
    remove_all(base);
    ck_assert_int_eq(mkdir(base, 0777), 0);
    write_text(in("config.json"), config);
    must(weft_model_create(in("config.json"), &model));
    must(weft_params_create(context, model, layout, &params));
    must(weft_params_init(params, 5));
}

static void end(void) {
    weft_params_destroy(params);
    weft_model_destroy(model);
    remove_all(base);
}

static void save(int64_t step, int32_t keep) {
    const weft_progress progress = {
        .step = step, .seed = UINT64_MAX - 1, .data_position = 7 * step, .data_hash = 1ull << 63};
    must(weft_params_init(params, (uint64_t)step)); /* each step its own weights */
    must(weft_checkpoint_save(params, in("all"), &progress, keep));
}

static void expect_step(const char *path, int64_t step) {
    weft_progress got = {.step = -1};
    float want[80], is[80];
    must(weft_params_init(params, (uint64_t)step));
    must(weft_params_read(params, 0, "", 0, want));
    must(weft_params_init(params, 99));
    must(weft_checkpoint_load(params, path, &got));
    ck_assert_int_eq(got.step, step);
    ck_assert(got.seed == UINT64_MAX - 1 && got.data_position == 7 * step &&
              got.data_hash == 1ull << 63);
    ck_assert_str_eq(got.layout, "tp1");
    must(weft_params_read(params, 0, "", 0, is));
    ck_assert_int_eq(memcmp(is, want, sizeof is), 0);
}

/* ---- kept and found
 * ------------------------------------------------------------------------------------------ */

START_TEST(the_newest_is_found_and_any_by_its_name) {
    save(3, 0);
    save(12, 0);
    save(1000000000001, 0);
    expect_step(in("all"), 1000000000001);
    expect_step(in("all/step-000000003"), 3);
    expect_step(in("all/step-000000012"), 12);
}
END_TEST

START_TEST(old_ones_are_pruned_the_new_one_never) {
    for (int64_t step = 1; step <= 4; step++) save(step, 2);
    ck_assert_int_eq(count_entries(in("all"), "step-"), 2);
    ck_assert(exists(in("all/step-000000003")) && exists(in("all/step-000000004")));
    save(2, 1); /* an older one is taken up again: what lies after it is another run's */
    ck_assert(exists(in("all/step-000000002")) && exists(in("all/step-000000003")) &&
              exists(in("all/step-000000004")));
    save(4, 1);
    ck_assert_int_eq(count_entries(in("all"), "step-"), 1);
    expect_step(in("all"), 4);
}
END_TEST

START_TEST(names_that_are_no_checkpoints_are_left_alone) {
    static const char *const names[] = {"step-1",         "step-0000000009", "step-000000009x",
                                        "step--00000009", "Step-000000009",  "step-"};
    save(3, 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[128];
        snprintf(path, sizeof path, "all/%s", names[i]);
        ck_assert_int_eq(mkdir(in(path), 0777), 0);
    }
    save(4, 1);
    ck_assert_int_eq(count_entries(in("all"), "tep-"), 7);
    expect_step(in("all"), 4);
}
END_TEST

START_TEST(leavings_of_dead_runs_are_removed_others_stay) {
    char host[64] = "", own[128], live[128], other[128];
    gethostname(host, sizeof host - 1);
    snprintf(own, sizeof own, "all/.step-000000001.partial-%s-%ld", host,
             2147483646L); /* no such process */
    snprintf(live, sizeof live, "all/.step-000000001.partial-%s-%ld", host, (long)getppid());
    snprintf(other, sizeof other, "all/.step-000000001.partial-%sx-%ld", host, 2147483646L);
    save(1, 0);
    ck_assert(mkdir(in(own), 0777) == 0 && mkdir(in(live), 0777) == 0 &&
              mkdir(in(other), 0777) == 0);
    write_text(in("all/.step-000000001.note"), "mine");
    save(2, 0);
    ck_assert(!exists(in(own)) && exists(in(live)) && exists(in(other)) &&
              exists(in("all/.step-000000001.note")));
}
END_TEST

START_TEST(a_checkpoint_is_also_a_model) {
    weft_model *again;
    weft_model_info a, b;
    save(6, 0);
    must(weft_model_create(in("all/step-000000006"), &again));
    weft_model_describe(model, &a);
    weft_model_describe(again, &b);
    ck_assert_int_eq(a.parameters, b.parameters);
    weft_model_destroy(again);
    must(weft_params_load(params, in("all/step-000000006")));
}
END_TEST

/* ---- damaged
 * ----------------------------------------------------------------------------------------------------
 */

/* Changes one byte (or, where bytes < 0, cuts the file). */
static void damage(const char *path, int64_t at, bool cut) {
    struct stat st;
    ck_assert_int_eq(stat(path, &st), 0);
    if (at < 0) at += st.st_size;
    if (cut) {
        ck_assert_int_eq(truncate(path, at), 0);
        return;
    }
    FILE *const f = fopen(path, "r+");
    ck_assert(f && fseek(f, (long)at, SEEK_SET) == 0);
    const int c = fgetc(f);
    ck_assert(fseek(f, (long)at, SEEK_SET) == 0 && fputc(c ^ 1, f) != EOF && fclose(f) == 0);
}

static const struct {
    const char *file;
    int64_t at;
    bool cut;
} damages[] = {{"config.json", 3, false},         {"config.json", -1, true},
               {"model.safetensors", 100, false}, {"model.safetensors", -1, false},
               {"model.safetensors", -1, true},   {"model.safetensors", 0, true},
               {"progress.json", 20, false},      {"progress.json", -3, true},
               {"progress.json", 0, true},        {"progress.json", -5, false}};

START_TEST(a_damaged_one_is_passed_over_in_a_folder_and_refused_by_name) {
    char path[256];
    weft_progress got = {.step = -1};
    save(3, 0);
    save(4, 0);
    snprintf(path, sizeof path, "all/step-000000004/%s", damages[_i].file);
    damage(in(path), damages[_i].at, damages[_i].cut);
    expect_sentence(weft_checkpoint_load(params, in("all/step-000000004"), &got), WEFT_ERR_FILE,
                    "step-000000004");
    ck_assert_int_eq(got.step, -1);
    expect_step(in("all"), 3);
    ck_assert_int_eq(unlink(in(path)), 0); /* and where the file is not there at all */
    expect_sentence(weft_checkpoint_load(params, in("all/step-000000004"), &got), WEFT_ERR_FILE,
                    "");
    expect_step(in("all"), 3);
}
END_TEST

/* No single flipped bit of progress.json is believed. */
START_TEST(every_bit_of_progress_counts) {
    wf_progress p;
    char *text;
    int64_t bytes;
    int accepted = 0;
    save(3, 0);
    const char *const path = in("all/step-000000003/progress.json");
    must((weft_status)wf_file_load(path, 1 << 16, &text, &bytes));
    for (int64_t at = 0; at < bytes; at++)
        for (int bit = 0; bit < 8; bit += 3) {
            FILE *const f = fopen(path, "w");
            text[at] = (char)(text[at] ^ 1 << bit);
            ck_assert(fwrite(text, 1, (size_t)bytes, f) == (size_t)bytes && fclose(f) == 0);
            text[at] = (char)(text[at] ^ 1 << bit);
            accepted += wf_progress_read(path, &p) == WF_OK && p.step != 3;
            ck_assert(wf_progress_read(path, &p) != WF_OK ||
                      (p.step == 3 && p.seed == UINT64_MAX - 1));
        }
    ck_assert_int_eq(accepted, 0);
    free(text);
}
END_TEST

START_TEST(where_none_is_whole_it_says_so) {
    weft_progress got;
    expect_sentence(weft_checkpoint_load(params, in("all"), &got), WEFT_ERR_FILE, "all");
    ck_assert_int_eq(mkdir(in("all"), 0777), 0);
    expect_sentence(weft_checkpoint_load(params, in("all"), &got), WEFT_ERR_FILE, "holds none");
    save(1, 0);
    save(2, 0);
    damage(in("all/step-000000001/config.json"), 2, false);
    damage(in("all/step-000000002/config.json"), 2, false);
    expect_sentence(weft_checkpoint_load(params, in("all"), &got), WEFT_ERR_FILE,
                    "none of the 2 checkpoints");
    ck_assert_ptr_nonnull(strstr(weft_last_error(), "SHA-256"));
}
END_TEST

/* Whole, but of another model: no older one is taken in its place. */
START_TEST(one_of_another_model_is_an_error) {
    weft_model *other;
    weft_params *wide;
    weft_progress got;
    save(1, 0);
    write_text(
        in("other.json"),
        "{\"model_type\": \"gpt2\", \"n_layer\": 2, \"n_embd\": 8, \"n_head\": 2, \"n_inner\": 13, "
        "\"n_positions\": 6, \"vocab_size\": 10}");
    must(weft_model_create(in("other.json"), &other));
    must(weft_params_create(context, other, layout, &wide));
    expect_sentence(weft_checkpoint_load(wide, in("all"), &got), WEFT_ERR_FILE,
                    "mlp.c_fc.weight is [8, 12]; this model's is [8, 13]");
    weft_params_destroy(wide);
    weft_model_destroy(other);
}
END_TEST

/* ---- refused
 * ----------------------------------------------------------------------------------------------------
 */

START_TEST(wrong_requests_are_refused) {
    const weft_progress fine = {.step = 1}, negative = {.step = -1}, behind = {.data_position = -1};
    weft_progress got;
    expect_sentence(weft_checkpoint_save(params, "", &fine, 0), WEFT_ERR_ARGUMENT, "folder");
    expect_sentence(weft_checkpoint_save(params, in("all"), NULL, 0), WEFT_ERR_ARGUMENT,
                    "progress");
    expect_sentence(weft_checkpoint_save(params, in("all"), &fine, -1), WEFT_ERR_ARGUMENT, "keeps");
    expect_sentence(weft_checkpoint_save(params, in("all"), &negative, 0), WEFT_ERR_ARGUMENT,
                    "step -1");
    expect_sentence(weft_checkpoint_save(params, in("all"), &behind, 0), WEFT_ERR_ARGUMENT,
                    "position -1");
    expect_sentence(weft_checkpoint_load(params, "", &got), WEFT_ERR_ARGUMENT, "no checkpoint");
    expect_sentence(weft_params_save(params, ""), WEFT_ERR_ARGUMENT, "folder");
    expect_sentence(weft_params_save(params, in("..")), WEFT_ERR_FILE, "no name of a folder");
    expect_sentence(weft_params_load(params, ""), WEFT_ERR_ARGUMENT, "no path");
    expect_sentence(weft_checkpoint_save(params, in("config.json"), &fine, 0), WEFT_ERR_FILE,
                    "config.json");
    expect_sentence(weft_checkpoint_save(params, in("config.json/all"), &fine, 0), WEFT_ERR_FILE,
                    "config.json");
    ck_assert(!exists(in("all")));
}
END_TEST

START_TEST(a_read_only_folder_is_named) {
    if (geteuid() == 0) return; /* root may write anywhere */
    const weft_progress progress = {.step = 1};
    ck_assert_int_eq(mkdir(in("all"), 0555), 0);
    expect_sentence(weft_checkpoint_save(params, in("all"), &progress, 0), WEFT_ERR_FILE,
                    "Permission denied");
}
END_TEST

/* ---- a model's folder
 * ---------------------------------------------------------------------------------------------- */

START_TEST(a_models_folder_is_replaced_and_keeps_other_files) {
    float want[80], is[80];
    must(weft_params_save(params, in("new/model/")));
    ck_assert(exists(in("new/model/config.json")) && exists(in("new/model/model.safetensors")));
    write_text(in("new/model/tokenizer.json"), "{}");
    must(weft_params_init(params, 77));
    must(weft_params_read(params, 0, "", 0, want));
    must(weft_params_save(params, in("new/model")));
    ck_assert(exists(in("new/model/tokenizer.json")));
    ck_assert_int_eq(count_entries(in("new"), ""), 3); /* ., .., model */
    must(weft_params_init(params, 78));
    must(weft_params_load(params, in("new/model/model.safetensors")));
    must(weft_params_read(params, 0, "", 0, is));
    ck_assert_int_eq(memcmp(is, want, sizeof is), 0);
    ck_assert_int_eq(mkdir(in("new/model/folder"), 0777), 0);
    expect_sentence(weft_params_save(params, in("new/model")), WEFT_ERR_FILE, "folder");
    must(weft_params_load(params, in("new/model"))); /* it stays as it was */
    ck_assert_int_eq(count_entries(in("new"), ""), 3);
}
END_TEST

/* ---- optimizer state
 * ------------------------------------------------------------------------------------------------
 */

START_TEST(a_checkpoint_without_optimizer_state_clears_it) {
    weft_plan *plan;
    weft_plan_options o;
    weft_progress got;
    float m[80];
    save(1, 0);
    ck_assert(!exists(in("all/step-000000001/optimizer.safetensors")));
    weft_plan_options_init(&o);
    o.model = model;
    o.layout = layout;
    o.batch = 1;
    o.sequence = 4;
    o.mode = WEFT_TRAIN;
    must(weft_plan_create(context, &o, &plan));
    must(weft_plan_load(plan, params));
    for (int i = 0; i < 80; i++) m[i] = (float)i;
    must(weft_params_write(params, 0, "m", 0, m));
    save(2, 0); /* weft_params_init clears m */
    ck_assert(exists(in("all/step-000000002/optimizer.safetensors")));
    must(weft_params_write(params, 0, "m", 0, m));
    must(weft_checkpoint_load(params, in("all/step-000000001"), &got));
    must(weft_params_read(params, 0, "m", 0, m));
    for (int i = 0; i < 80; i++) ck_assert(m[i] == 0);
    weft_plan_destroy(plan);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("checkpoint");
    TCase *const c = tcase_create("one rank");
    tcase_set_timeout(c, 120);
    tcase_add_unchecked_fixture(c, open_all, close_all);
    tcase_add_checked_fixture(c, begin, end);
    tcase_add_test(c, the_newest_is_found_and_any_by_its_name);
    tcase_add_test(c, old_ones_are_pruned_the_new_one_never);
    tcase_add_test(c, names_that_are_no_checkpoints_are_left_alone);
    tcase_add_test(c, leavings_of_dead_runs_are_removed_others_stay);
    tcase_add_test(c, a_checkpoint_is_also_a_model);
    tcase_add_loop_test(c, a_damaged_one_is_passed_over_in_a_folder_and_refused_by_name, 0,
                        (int)(sizeof damages / sizeof *damages));
    tcase_add_test(c, every_bit_of_progress_counts);
    tcase_add_test(c, where_none_is_whole_it_says_so);
    tcase_add_test(c, one_of_another_model_is_an_error);
    tcase_add_test(c, wrong_requests_are_refused);
    tcase_add_test(c, a_read_only_folder_is_named);
    tcase_add_test(c, a_models_folder_is_replaced_and_keeps_other_files);
    tcase_add_test(c, a_checkpoint_without_optimizer_state_clears_it);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
