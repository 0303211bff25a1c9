/* Whose a folder is: what others could have written to is named; what only the user and root can is not. Cases with
 * another owner need root. */
#define _GNU_SOURCE
#include <check.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/base/trust.h"

enum { SOMEBODY = 65534, SOME_GROUP = 54321 };
static char top[64], cache[128], path[256];

static int remove_one(const char *name, const struct stat *status, int type, struct FTW *at) {
    return remove(name);
}

/* top/a/cache, all of them the user's, in a sticky folder that all may write to, which /tmp is and TMPDIR need not be. */
static void setup(void) {
    umask(022);
    snprintf(top, sizeof top, "/tmp/weft-trust-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(top));
    snprintf(path, sizeof path, "%s/a", top);
    ck_assert_int_eq(mkdir(path, 0755), 0);
    snprintf(cache, sizeof cache, "%s/a/cache", top);
    ck_assert_int_eq(mkdir(cache, 0700), 0);
}

static void teardown(void) {
    nftw(top, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *under(const char *folder, const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void trusted(const char *folder) {
    const wf_status status = wf_trust_folder(folder);
    ck_assert_msg(status == WF_OK, "%s is not trusted: %s", folder, wf_last_error());
}

static void refused(const char *folder, const char *named, const char *why) {
    ck_assert_msg(wf_trust_folder(folder) == WF_ERR_FILE, "%s is trusted", folder);
    ck_assert_msg(strstr(wf_last_error(), named) && strstr(wf_last_error(), why), "\"%s\" does not say that %s %s",
                  wf_last_error(), named, why);
}

START_TEST(a_folder_of_the_users_own_is_trusted) {
    trusted(cache);
    trusted(under(cache, "not there yet"));
    trusted(under(cache, "../cache/./"));
    ck_assert_int_eq(chmod(cache, 0755), 0);
    trusted(cache);
    ck_assert_int_eq(chdir(top), 0);
    trusted("a/cache");
    ck_assert_int_eq(chmod(cache, 0777), 0);
    refused("a/cache", cache, "by others");
    ck_assert_int_eq(chdir("/"), 0);
}
END_TEST

START_TEST(one_that_others_may_write_to_is_not) {
    ck_assert_int_eq(chmod(cache, 0702), 0);
    refused(cache, cache, "by others");
    ck_assert_int_eq(chmod(cache, 01777), 0); /* sticky keeps others from ours, not from adding theirs */
    refused(cache, cache, "by others");
    if (geteuid() != 0) return;
    ck_assert_int_eq(chmod(cache, 0770), 0);
    ck_assert_int_eq(chown(cache, (uid_t)-1, SOME_GROUP), 0);
    refused(cache, cache, "by group 54321");
    ck_assert_int_eq(chmod(cache, 0750), 0);
    trusted(cache);
    ck_assert_int_eq(chown(cache, SOMEBODY, (gid_t)-1), 0);
    refused(cache, cache, "belongs to user 65534");
}
END_TEST

START_TEST(nor_one_under_a_folder_that_others_may_write_to) {
    ck_assert_int_eq(chmod(under(top, "a"), 0777), 0);
    refused(cache, under(top, "a"), "by others");
    refused(under(cache, "not there yet"), "/a may", "by others");
    ck_assert_int_eq(chmod(under(top, "a"), 01777), 0);
    trusted(cache);
    if (geteuid() != 0) return;
    ck_assert_int_eq(chown(under(top, "a"), SOMEBODY, (gid_t)-1), 0);
    refused(cache, under(top, "a"), "belongs to user 65534");
}
END_TEST

START_TEST(links_are_followed_as_their_owners_could_turn_them) {
    char link[128], second[128], open[128];
    snprintf(link, sizeof link, "%s/link", top);
    snprintf(second, sizeof second, "%s/second", top);
    snprintf(open, sizeof open, "%s/open", top);
    ck_assert_int_eq(symlink("a/cache", link), 0);
    ck_assert_int_eq(symlink(link, second), 0);
    trusted(link);
    trusted(second);
    ck_assert_int_eq(chmod(cache, 0777), 0);
    refused(second, cache, "by others");
    ck_assert_int_eq(chmod(cache, 0700), 0);
    /* over a link in a folder that others may write to */
    ck_assert_int_eq(mkdir(open, 0700), 0);
    ck_assert_int_eq(symlink("../a/cache", under(open, "away")), 0);
    ck_assert_int_eq(unlink(second), 0);
    ck_assert_int_eq(symlink("open/away", second), 0);
    trusted(second);
    ck_assert_int_eq(chmod(open, 0777), 0);
    refused(second, open, "by others");
    ck_assert_int_eq(chmod(open, 0700), 0);
    if (geteuid() == 0) {
        ck_assert_int_eq(lchown(link, SOMEBODY, (gid_t)-1), 0);
        refused(link, link, "belongs to user 65534");
        ck_assert_int_eq(unlink(link), 0);
        ck_assert_int_eq(symlink("a/cache", link), 0);
    }
    ck_assert_int_eq(unlink(second), 0);
    ck_assert_int_eq(symlink("second", second), 0);
    refused(second, second, "links");
}
END_TEST

START_TEST(what_others_left_inside_is_seen) {
    ck_assert_int_eq(mkdir(under(cache, "AB"), 0700), 0);
    trusted(cache);
    ck_assert_int_eq(chmod(under(cache, "AB"), 0707), 0);
    refused(cache, under(cache, "AB"), "by others");
    ck_assert_int_eq(chmod(under(cache, "AB"), 0700), 0);
    ck_assert_int_eq(symlink("/tmp", under(cache, "CD")), 0);
    refused(cache, under(cache, "CD"), "is a link");
    ck_assert_int_eq(unlink(under(cache, "CD")), 0);
    trusted(cache);
    if (geteuid() != 0) return;
    ck_assert_int_eq(chown(under(cache, "AB"), SOMEBODY, (gid_t)-1), 0);
    refused(cache, under(cache, "AB"), "belongs to user 65534");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("trust");
    TCase *tests = tcase_create("trust");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, a_folder_of_the_users_own_is_trusted);
    tcase_add_test(tests, one_that_others_may_write_to_is_not);
    tcase_add_test(tests, nor_one_under_a_folder_that_others_may_write_to);
    tcase_add_test(tests, links_are_followed_as_their_owners_could_turn_them);
    tcase_add_test(tests, what_others_left_inside_is_seen);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
