/* check_corpus.c: text becomes tokens as the help says; the byte models are right on texts whose
 * entropies are known. */
#include <check.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/cli/cli.h"
#include "host/cli/corpus.h"
#include "tests/scratch.h"

static char said[1024];

/* The command's own writes to stderr. */
int complain(int status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(said, sizeof said, format, arguments);
    va_end(arguments);
    return status;
}

static char path[512];

static void write_text(const char *text) {
    const int file = mkstemp(scratch_template(path, sizeof path, "corpus"));
    ck_assert_int_ge(file, 0);
    ck_assert_int_eq(write(file, text, strlen(text)), (ssize_t)strlen(text));
    close(file);
}

static int read_path(corpus *out) {
    const char *const paths[] = {path};
    const int status = corpus_read(paths, 1, 20, out);
    unlink(path);
    return status;
}

START_TEST(repeated_paragraphs_are_left_out) {
    corpus c;
    write_text("one two\n\nthree\n\none   two\n\n\n\nfour\n");
    ck_assert_int_eq(read_path(&c), EXIT_FINE);
    ck_assert_int_eq(c.paragraphs, 4);
    ck_assert_int_eq(c.duplicates, 1);
    corpus_free(&c);
}
END_TEST

START_TEST(every_byte_of_a_new_paragraph_is_kept_and_documents_end) {
    corpus c;
    const char *text = "alpha\n\n  beta gamma\ndelta\n\n\nepsilon";
    write_text(text);
    ck_assert_int_eq(read_path(&c), EXIT_FINE);
    int64_t bytes = 0, ends = 0;
    for (int part = 0; part < 2; part++) {
        const token_list *t = part ? &c.evaluation : &c.train;
        for (int64_t i = 0; i < t->count; i++) *(t->token[i] == CORPUS_END ? &ends : &bytes) += 1;
        if (t->count) ck_assert_int_eq(t->token[t->count - 1], CORPUS_END);
    }
    ck_assert_int_eq(bytes, (int64_t)strlen(text));
    ck_assert_int_eq(ends, (c.train.count > 0) + (c.evaluation.count > 0));
    corpus_free(&c);
}
END_TEST

START_TEST(one_paragraph_in_twenty_is_held_out) {
    char *text = malloc(1 << 20), *end = text;
    corpus c;
    for (int i = 0; i < 20000; i++) end += sprintf(end, "paragraph number %d\n\n", i);
    write_text(text);
    ck_assert_int_eq(read_path(&c), EXIT_FINE);
    const double share = (double)c.evaluation.count / (double)(c.evaluation.count + c.train.count);
    ck_assert_double_gt(share, 0.045); /* 20000 draws of 1/20: standard deviation 0.0015 */
    ck_assert_double_lt(share, 0.055);
    corpus_free(&c);
    free(text);
}
END_TEST

START_TEST(empty_text_is_one_sentence) {
    corpus c;
    write_text(" \n\n \n");
    ck_assert_int_eq(read_path(&c), EXIT_USAGE);
    ck_assert_ptr_nonnull(strstr(said, "empty"));
}
END_TEST

/* Tokens drawn uniformly from `kinds`, or each determined by the one before. */
static token_list make(int64_t count, int kinds, bool chain) {
    token_list t = {malloc((size_t)count * sizeof(uint16_t)), count, count};
    uint64_t state = 5;
    for (int64_t i = 0; i < count; i++)
        t.token[i] = (uint16_t)(chain && i ? (t.token[i - 1] * 5 + 3) % kinds : (int)(random_uniform(&state) * kinds));
    return t;
}

START_TEST(byte_models_reach_known_entropies) {
    double loss[3];
    token_list random = make(200000, 16, false), chain = make(200000, 16, true);
    ck_assert(ngram_losses(&random, &random, random.count, 2, loss));
    ck_assert_double_lt(fabs(loss[0] - log(16)), 0.01);
    ck_assert_double_lt(fabs(loss[1] - log(16)), 0.01);
    ck_assert(ngram_losses(&chain, &chain, chain.count, 2, loss));
    ck_assert_double_lt(fabs(loss[0] - log(16)), 0.01); /* the chain visits all 16 equally often */
    ck_assert_double_lt(loss[1], 0.01);
    free(random.token);
    free(chain.token);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("corpus");
    TCase *tests = tcase_create("corpus");
    tcase_add_test(tests, repeated_paragraphs_are_left_out);
    tcase_add_test(tests, every_byte_of_a_new_paragraph_is_kept_and_documents_end);
    tcase_add_test(tests, one_paragraph_in_twenty_is_held_out);
    tcase_add_test(tests, empty_text_is_one_sentence);
    tcase_add_test(tests, byte_models_reach_known_entropies);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed != 0;
}
