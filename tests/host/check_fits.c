/* Memory foreseen: what does not fit is refused with its bytes and with layouts that would; those do. Pure. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/weft.h"

static weft_status try_plan(const char *model_text, const char *layout_text, int64_t batch, int64_t sequence, int64_t memory,
                            int64_t *bytes_out) {
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_plan *plan = NULL;
    weft_plan_options o;
    weft_plan_info info = {0};
    ck_assert_int_eq(weft_model_create(model_text, &model), WEFT_OK);
    ck_assert_int_eq(weft_layout_parse(layout_text, &layout), WEFT_OK);
    weft_plan_options_init(&o);
    o.model = model, o.layout = layout, o.batch = batch, o.sequence = sequence, o.memory_bytes = memory;
    const weft_status status = weft_plan_create(NULL, &o, &plan);
    if (!status) weft_plan_describe(plan, &info);
    if (bytes_out) *bytes_out = info.device_bytes + info.window_bytes;
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    return status;
}

START_TEST(a_plan_fits_to_the_byte) {
    int64_t need, ignored;
    ck_assert_int_eq(try_plan("tiny", "tp2.sp", 8, 64, 0, &need), WEFT_OK);
    ck_assert_int_gt(need, 0);
    ck_assert_int_eq(try_plan("tiny", "tp2.sp", 8, 64, need, &ignored), WEFT_OK);
    ck_assert_int_eq(try_plan("tiny", "tp2.sp", 8, 64, need - 1, &ignored), WEFT_ERR_MEMORY);
}
END_TEST

START_TEST(the_refusal_names_bytes_by_class) {
    static const char *const said[] = {"rank 0 needs ", "parameter ", "gradient ", "optimizer ", "activation ", " to give; these layouts would fit: "};
    int64_t need;
    ck_assert_int_eq(try_plan("gpt2", "tp2", 8, 1024, 0, &need), WEFT_OK);
    ck_assert_int_eq(try_plan("gpt2", "tp2", 8, 1024, need * 2 / 3, NULL), WEFT_ERR_MEMORY);
    for (size_t i = 0; i < sizeof said / sizeof *said; i++)
        ck_assert_msg(strstr(weft_last_error(), said[i]) != NULL, "\"%s\" does not say \"%s\"", weft_last_error(), said[i]);
}
END_TEST

/* Each suggested layout, held against the memory that the first did not fit. */
static int try_suggestions(const char *model, int64_t batch, int64_t sequence, int64_t memory) {
    char text[1200], *rest = NULL;
    const char *const list = strstr(weft_last_error(), "would fit: ");
    if (!list) return 0;
    snprintf(text, sizeof text, "%s", list + strlen("would fit: "));
    int tried = 0;
    for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest), tried++) {
        char layout[64];
        ck_assert_int_eq(sscanf(one, " %63[^ ]", layout), 1);
        ck_assert_msg(try_plan(model, layout, batch, sequence, memory, NULL) == WEFT_OK, "%s: %s", layout, weft_last_error());
    }
    return tried;
}

START_TEST(what_is_suggested_fits) {
    int suggested = 0;
    for (int64_t percent = 95; percent >= 5; percent -= 10) {
        int64_t need, memory;
        ck_assert_int_eq(try_plan("gpt2", "tp2", 8, 1024, 0, &need), WEFT_OK);
        memory = need * percent / 100;
        ck_assert_int_eq(try_plan("gpt2", "tp2", 8, 1024, memory, NULL), WEFT_ERR_MEMORY);
        suggested += try_suggestions("gpt2", 8, 1024, memory);
    }
    ck_assert_int_ge(suggested, 20);
}
END_TEST

START_TEST(where_nothing_fits_the_closest_is_named) {
    ck_assert_int_eq(try_plan("gpt2", "tp2", 8, 1024, 1 << 20, NULL), WEFT_ERR_MEMORY);
    ck_assert_ptr_nonnull(strstr(weft_last_error(), "comes closest"));
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("fits");
    TCase *const all = tcase_create("all");
    tcase_set_timeout(all, 120);
    tcase_add_test(all, a_plan_fits_to_the_byte);
    tcase_add_test(all, the_refusal_names_bytes_by_class);
    tcase_add_test(all, what_is_suggested_fits);
    tcase_add_test(all, where_nothing_fits_the_closest_is_named);
    suite_add_tcase(suite, all);
    SRunner *const runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
