/* cache_place.c: where built programs stay between processes: in weft's folder, in the driver's own, or nowhere. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host/base/env.h"
#include "host/base/trust.h"
#include "host/device/cache.h"

/* Drivers that were seen to keep programs themselves; a second cache of the same only costs (PoCL: 10.7 s
 * against 5.2 s for 24 kernels on 4 ranks, as it compiles another form of each kernel when asked for a
 * binary). What lies in their folders they execute: a shared object planted in PoCL's was. Of NVIDIA's it
 * is not known to us where it lies and what it checks.
 *
 * PoCL finds its machine code by a hash of the preprocessed source, so it has each program preprocessed, with
 * all of OpenCL's headers, before it knows that it has it. Intermediate code is hashed as it is: that is what
 * weft keeps there (host/device/intermediate.c). */
typedef struct keeper {
    const char *platform;
    wf_status (*folder)(char *out, size_t out_bytes); /* NULL: not known */
    const char *variable;                             /* of the driver's, which names another folder */
    bool intermediate;                                /* it takes intermediate code for a program's binary */
} keeper;
static const keeper keepers[] = {
    {"Portable Computing Language", wf_env_pocl_cache, "POCL_CACHE_DIR", true},
    {"NVIDIA CUDA", NULL, NULL, false},
};

static const keeper *keeper_of(const char *platform) {
    for (size_t i = 0; i < sizeof keepers / sizeof *keepers; i++)
        if (strcmp(platform, keepers[i].platform) == 0) return &keepers[i];
    return NULL;
}

static void say(wf_kept *kept, bool used, const char *why) {
    kept->used = used;
    snprintf(kept->why, sizeof kept->why, "%s", why);
}

static wf_status decide(const wf_cache_wish *wish, const keeper *driver, wf_kept *own) {
    const char *const text = wish->cache ? wish->cache : wf_env(WF_ENV_CACHE);
    const bool automatic = !text || strcmp(text, "auto") == 0, on = text && strcmp(text, "on") == 0;
    if (!automatic && !on && strcmp(text, "off") != 0)
        return wf_fail(WF_ERR_ARGUMENT, "%s=%.64s is none of on, off, auto", wf_env_name(WF_ENV_CACHE), text);
    if (wish->text_from_files) say(own, false, "kernels are read from files"); /* which include others, unseen by the key */
    else if (on) say(own, true, "switched on");
    else if (!automatic) say(own, false, "switched off");
    else if (driver && driver->intermediate) say(own, true, "intermediate code; the driver keeps machine code itself");
    else if (driver) say(own, false, "the driver keeps programs itself");
    else say(own, true, "the driver is not known to keep programs");
    return WF_OK;
}

static wf_status find_folder(const wf_cache_wish *wish, wf_kept *own) {
    const char *const folder = wish->folder ? wish->folder : wf_env(WF_ENV_CACHE_DIR);
    if (!folder && wf_env_cache_home(own->folder, sizeof own->folder) != WF_OK) {
        own->folder[0] = 0;
        if (own->used) say(own, false, wf_last_error());
        return WF_OK;
    }
    if (folder && (size_t)snprintf(own->folder, sizeof own->folder, "%s", folder) >= sizeof own->folder)
        return wf_fail(WF_ERR_ARGUMENT, "the path of the program cache is too long: %.64s...", folder);
    return WF_OK;
}

static void look_at(const keeper *k, wf_kept *out) {
    say(out, true, "weft does not know where");
    if (!k->folder) return;
    say(out, true, "nobody else may write to it");
    if (k->folder(out->folder, sizeof out->folder) != WF_OK || wf_trust_folder(out->folder) != WF_OK)
        say(out, false, wf_last_error());
}

wf_status wf_cache_place(const char *platform, const wf_cache_wish *wish, wf_cache_info *out) {
    const keeper *const k = keeper_of(platform);
    wf_cache_info info;
    memset(&info, 0, sizeof info); /* all of it is sent */
    TRY(decide(wish, k, &info.own));
    TRY(find_folder(wish, &info.own));
    if (k) {
        snprintf(info.keeper, sizeof info.keeper, "%s", k->platform);
        info.intermediate = k->intermediate;
        look_at(k, &info.driver);
    }
    *out = info;
    return WF_OK;
}

wf_status wf_cache_refuse(const wf_cache_info *info) {
    const keeper *const k = keeper_of(info->keeper);
    if (!k || info->driver.used) return WF_OK;
    return wf_fail(WF_ERR_DEVICE,
                   "%s executes what it finds in %.300s, where somebody else may have put a program: %.400s; "
                   "set %s to a folder that only you can write to, or remove this one",
                   k->platform, info->driver.folder, info->driver.why, k->variable);
}

/* ---- sizes ------------------------------------------------------------------------------------------------ */

/* Files under an open folder, which is closed. */
static void count(int folder, int depth, wf_kept *out) {
    DIR *const entries = folder < 0 ? NULL : fdopendir(folder);
    if (!entries && folder >= 0) close(folder);
    for (const struct dirent *e; entries && (e = readdir(entries));) {
        struct stat what;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (fstatat(dirfd(entries), e->d_name, &what, AT_SYMLINK_NOFOLLOW) != 0) continue; /* gone meanwhile */
        if (S_ISDIR(what.st_mode) && depth > 0)
            count(openat(dirfd(entries), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), depth - 1, out);
        if (!S_ISREG(what.st_mode)) continue;
        out->files++;
        out->bytes += what.st_size;
    }
    if (entries) closedir(entries);
}

void wf_cache_measure(wf_cache_info *info) {
    wf_kept *const both[] = {&info->own, &info->driver};
    for (int i = 0; i < 2; i++) {
        both[i]->files = both[i]->bytes = 0;
        if (*both[i]->folder) count(open(both[i]->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), 8, both[i]);
    }
}

/* ---- for people ------------------------------------------------------------------------------------------- */

static void print_kept(FILE *f, const wf_kept *kept, const char *unused) {
    fprintf(f, "%s, %s (%s), %lld file%s, %.1f MiB\n", *kept->folder ? kept->folder : "no folder", kept->used ? "used" : unused,
            kept->why, (long long)kept->files, kept->files == 1 ? "" : "s", (double)kept->bytes / 0x1p20);
}

void wf_cache_print(const wf_cache_info *info, const char *before, FILE *f) {
    fprintf(f, "%sprogram cache: ", before);
    print_kept(f, &info->own, "not used");
    if (!*info->keeper) return;
    fprintf(f, "%sprogram cache of %s: ", before, info->keeper);
    print_kept(f, &info->driver, "REFUSED");
}
