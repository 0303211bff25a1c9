#include "host/base/trust.h"
#include "host/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LINKS = 16 }; /* on one path */

const char *wf_distrust(const struct stat *status) {
    if (status->st_uid != geteuid()) return "it belongs to another user";
    if (status->st_mode & (S_IWGRP | S_IWOTH)) return "others may write to it";
    return NULL;
}

/* The primary group of this user, named as he is, without other members? */
static bool is_private_group(gid_t group) {
    char user_text[2048], group_text[2048];
    struct passwd user, *the_user = NULL;
    struct group entry, *the_group = NULL;
    if (getpwuid_r(geteuid(), &user, user_text, sizeof user_text, &the_user) != 0 || !the_user) return false;
    if (user.pw_gid != group || getgrgid_r(group, &entry, group_text, sizeof group_text, &the_group) != 0 || !the_group)
        return false;
    for (char **member = entry.gr_mem; *member; member++)
        if (strcmp(*member, user.pw_name) != 0) return false;
    return strcmp(entry.gr_name, user.pw_name) == 0;
}

static wf_status check_owner(const struct stat *what, const char *path) {
    if (what->st_uid == geteuid() || what->st_uid == 0) return WF_OK;
    return wf_fail(WF_ERR_FILE, "%s belongs to user %lu", path, (unsigned long)what->st_uid);
}

/* May others add, remove or exchange what lies in this folder? */
static wf_status check_folder(const struct stat *what, const char *path, bool sticky_is_fine) {
    TRY(check_owner(what, path));
    if (sticky_is_fine && what->st_mode & S_ISVTX) return WF_OK;
    if (what->st_mode & S_IWOTH) return wf_fail(WF_ERR_FILE, "%s may be written to by others", path);
    if (what->st_mode & S_IWGRP && !is_private_group(what->st_gid))
        return wf_fail(WF_ERR_FILE, "%s may be written to by group %lu", path, (unsigned long)what->st_gid);
    return WF_OK;
}

/* path = its first `length` characters, a link, replaced by what the link says, and the rest. */
static wf_status follow(char path[PATH_MAX], size_t length, const char *rest) {
    char target[PATH_MAX], whole[PATH_MAX], link[PATH_MAX];
    snprintf(link, sizeof link, "%.*s", (int)length, path);
    const ssize_t bytes = readlink(link, target, sizeof target - 1);
    if (bytes < 0) return wf_fail(WF_ERR_FILE, "the link %.900s cannot be read: %s", link, strerror(errno));
    target[bytes] = 0;
    size_t folder = length;
    while (folder > 1 && link[folder - 1] != '/') folder--;
    const int n = *target == '/' ? snprintf(whole, sizeof whole, "%s%s", target, rest)
                                 : snprintf(whole, sizeof whole, "%.*s%s%s", (int)folder, link, target, rest);
    if (n < 0 || (size_t)n >= sizeof whole) return wf_fail(WF_ERR_FILE, "the path behind %.900s is too long", link);
    memcpy(path, whole, (size_t)n + 1);
    return WF_OK;
}

/* The length of the part of an absolute path after the one of this length: "/", "/a", "/a/b"; 0: none. */
static size_t next_part(const char *path, size_t length) {
    const size_t name = length + strspn(path + length, "/");
    if (!length) return 1;
    return path[name] ? name + strcspn(path + name, "/") : 0;
}

/* Checks all parts of the path; the first link is followed in `path`, and *again set. */
static wf_status check_parts(char path[PATH_MAX], bool *again) {
    char part[PATH_MAX];
    *again = false;
    for (size_t length = next_part(path, 0); length; length = next_part(path, length)) {
        struct stat what;
        snprintf(part, sizeof part, "%.*s", (int)length, path);
        if (lstat(part, &what) != 0)
            return errno == ENOENT ? WF_OK : wf_fail(WF_ERR_FILE, "%.900s cannot be looked at: %s", part, strerror(errno));
        if (S_ISLNK(what.st_mode)) {
            TRY(check_owner(&what, part));
            *again = true;
            return follow(path, length, path + length);
        }
        TRY(check_folder(&what, part, next_part(path, length) != 0));
    }
    return WF_OK;
}

/* What others put here while they could: their folders, their links. */
static wf_status check_inside(const char *path) {
    wf_status status = WF_OK;
    DIR *const entries = opendir(path);
    if (!entries) return errno == ENOENT || errno == ENOTDIR ? WF_OK : wf_fail(WF_ERR_FILE, "cannot open folder %s: %s", path, strerror(errno));
    for (const struct dirent *e; status == WF_OK && (e = wf_folder_next(entries, path, &status));) {
        char name[PATH_MAX];
        struct stat what;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || e->d_type == DT_REG) continue;
        if (fstatat(dirfd(entries), e->d_name, &what, AT_SYMLINK_NOFOLLOW) != 0) continue; /* gone meanwhile */
        if ((size_t)snprintf(name, sizeof name, "%s/%s", path, e->d_name) >= sizeof name) continue;
        if (S_ISDIR(what.st_mode)) status = check_folder(&what, name, false);
        else if (S_ISLNK(what.st_mode)) status = wf_fail(WF_ERR_FILE, "%s is a link", name);
    }
    closedir(entries);
    return status;
}

wf_status wf_trust_folder(const char *given) {
    char path[PATH_MAX], here[PATH_MAX];
    bool again = true;
    if (*given != '/' && !getcwd(here, sizeof here)) return wf_fail(WF_ERR_FILE, "the working folder has no path: %s", strerror(errno));
    const int n = *given == '/' ? snprintf(path, sizeof path, "%s", given) : snprintf(path, sizeof path, "%s/%s", here, given);
    if (n < 0 || (size_t)n >= sizeof path) return wf_fail(WF_ERR_FILE, "the path %.64s... is too long", given);
    for (int links = 0; again; links++) {
        if (links > LINKS) return wf_fail(WF_ERR_FILE, "%.900s leads over more than %d links", given, LINKS);
        TRY(check_parts(path, &again));
    }
    return check_inside(path);
}
