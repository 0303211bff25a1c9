/* check_explain.c: the text of a small tp2.sp model, against a golden file. After a wanted change:
 *     tests/layouts/check_explain $top_srcdir/tests/layouts/explain.txt
 * writes it anew; read the difference before you commit it. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/lower.h"
#include "tests/layouts/models.h"

/* No workspace and the first variant, whatever the kernels prefer: the text is layouts' alone. */
static wf_status plain(void *context, const wf_problem *problem, wf_candidate *out,
                       int64_t *workspace_bytes_out) {
    wf_candidate_default(problem, 0, out);
    *workspace_bytes_out = 0;
    return WF_OK;
}

static char *explained(void) {
    wf_model model = small_model(TEST_GPT2);
    const wf_shape shape = {.batch = 2, .sequence = 5};
    const wf_limits limits = {.max_alloc_bytes = {0}};
    wf_layout layout;
    wf_schedule *s = NULL;
    char *text = NULL;
    model.dropout_embedding = model.dropout_attention = 0;
    if (wf_layout_parse("tp2.sp", &layout) == WF_OK &&
        wf_lower(&model, &shape, &layout, 0, WF_MODE_TRAIN, &s) == WF_OK &&
        wf_choose(s, &(wf_choices){.candidate = plain}) == WF_OK && wf_place(s, &limits) == WF_OK)
        wf_explain(s, &text);
    wf_schedule_destroy(s);
    return text;
}

static char *golden(void) {
    char path[4096];
    const char *top = getenv("top_srcdir"); /* of make check */
    snprintf(path, sizeof path, "%s/tests/layouts/explain.txt", top ? top : ".");
    FILE *file = fopen(path, "r");
    ck_assert_msg(file != NULL, "%s cannot be read", path);
    char *text = calloc(1, 1 << 20);
    ck_assert_uint_lt(fread(text, 1, (1 << 20) - 1, file), (1 << 20) - 1);
    fclose(file);
    return text;
}

START_TEST(text_is_as_committed) {
    char *expected = golden(), *got = explained();
    ck_assert_msg(got != NULL, "%s", wf_last_error());
    char *at = expected, *now = got;
    for (int line = 1; at && now; line++) { /* by line, so that a failure shows one */
        char *a = strsep(&at, "\n"), *b = strsep(&now, "\n");
        ck_assert_msg(strcmp(a, b) == 0, "line %d is\n%s\nexpected\n%s", line, b, a);
    }
    ck_assert_msg(!at && !now, "one text is longer");
    free(expected);
    free(got);
}
END_TEST

/* What a reader looks for in Megatron's figure. */
START_TEST(text_tells_what_matters) {
    char *got = explained();
    ck_assert_msg(got != NULL, "%s", wf_last_error());
    const char *const told[] = {"all-gather",
                                "reduce-scatter",
                                "saved.attn.qkv[10x24]*",
                                "hides behind mlp.fc1.wgrad",
                                "sum+bias+dropout+residual+norm2",
                                "bytes by space",
                                "called 2 times",
                                "+>"};
    for (size_t i = 0; i < sizeof told / sizeof *told; i++)
        ck_assert_msg(strstr(got, told[i]), "\"%s\" is missing", told[i]);
    free(got);
}
END_TEST

static int write_golden(const char *path) {
    char *text = explained();
    FILE *file = text ? fopen(path, "w") : NULL;
    if (!file) return 1;
    fputs(text, file);
    free(text);
    return fclose(file) != 0;
}

int main(int argc, char **argv) {
    if (argc > 1) return write_golden(argv[1]);
    Suite *suite = suite_create("explain");
    TCase *tests = tcase_create("explain");
    tcase_add_test(tests, text_is_as_committed);
    tcase_add_test(tests, text_tells_what_matters);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
