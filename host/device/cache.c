/* An entry is a header, the SHA-256 of what follows, and the driver's binary; its file is named by the key.
 * The folder is opened once and everything is done relative to that handle, without following links,
 * so that nobody can swap it for another. */
#include "host/device/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config.h"
#include "host/base/env.h"
#include "host/base/log.h"

struct wf_cache {
    int folder;     /* file descriptor */
    char path[512];
};

static const char magic[16] = "weft program 1\n";

typedef struct header {
    char magic[16];
    uint64_t bytes;                     /* of the binary */
    uint8_t key[WF_SHA256_BYTES];       /* an entry renamed is an entry of another program */
    uint8_t digest[WF_SHA256_BYTES];    /* of the binary */
} header;

/* ---- the folder ------------------------------------------------------------------------------------------ */

/* Drivers that were seen to keep binaries themselves; a second cache only costs (PoCL: 10.7 s against
 * 5.2 s for 24 kernels on 4 ranks). */
static bool driver_caches(const wf_opencl *opencl) {
    static const char *const platforms[] = {"Portable Computing Language", "NVIDIA CUDA"};
    for (size_t i = 0; i < sizeof platforms / sizeof *platforms; i++)
        if (strcmp(opencl->device.platform, platforms[i]) == 0) return true;
    return false;
}

static wf_status is_on(const wf_opencl *opencl, bool *out) {
    const char *wish = wf_env(WF_ENV_CACHE);
    *out = false;
    if (wf_env(WF_ENV_KERNEL_DIR)) return WF_OK; /* its files include others, which the key does not see */
    *out = !driver_caches(opencl);
    if (!wish || strcmp(wish, "auto") == 0) return WF_OK;
    *out = strcmp(wish, "on") == 0;
    if (*out || strcmp(wish, "off") == 0) return WF_OK;
    return wf_fail(WF_ERR_ARGUMENT, "%s=%s is none of on, off, auto", wf_env_name(WF_ENV_CACHE), wish);
}

/* Makes the folder and those above it that are missing, for its user alone. */
static void make_folders(const char *path) {
    char part[512];
    for (const char *at = path + 1; *at; at++) {
        if (*at != '/') continue;
        snprintf(part, sizeof part, "%.*s", (int)(at - path), path);
        mkdir(part, 0700);
    }
    mkdir(path, 0700);
}

/* Owned by this user, and nobody else may write? */
static const char *distrust(const struct stat *status) {
    if (status->st_uid != geteuid()) return "it belongs to another user";
    if (status->st_mode & (S_IWGRP | S_IWOTH)) return "others may write to it";
    return NULL;
}

static int open_folder(const char *path) {
    struct stat status;
    make_folders(path);
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const char *why = folder < 0 || fstat(folder, &status) != 0 ? strerror(errno) : distrust(&status);
    if (!why) return folder;
    wf_log("cache", "the folder %s is not used: %s", path, why);
    if (folder >= 0) close(folder);
    return -1;
}

wf_status wf_cache_open(wf_opencl *opencl, const char *folder, wf_cache **out) {
    bool on;
    char home[512];
    *out = NULL;
    TRY(is_on(opencl, &on));
    if (!on) return WF_OK;
    if (!folder) folder = wf_env(WF_ENV_CACHE_DIR);
    if (!folder) {
        if (wf_env_cache_home(home, sizeof home) != WF_OK) {
            wf_log("cache", "off: %s", wf_last_error());
            return WF_OK;
        }
        folder = home;
    }
    wf_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return wf_fail(WF_ERR_MEMORY, "out of host memory for a program cache");
    if ((size_t)snprintf(cache->path, sizeof cache->path, "%s", folder) >= sizeof cache->path) {
        free(cache);
        return wf_fail(WF_ERR_ARGUMENT, "the path of the program cache is too long: %s", folder);
    }
    cache->folder = open_folder(cache->path);
    if (cache->folder < 0) {
        free(cache);
        return WF_OK;
    }
    *out = cache;
    return WF_OK;
}

void wf_cache_close(wf_cache *cache) {
    if (!cache) return;
    close(cache->folder);
    free(cache);
}

/* ---- entries ------------------------------------------------------------------------------------------------ */

static void add_text(wf_sha256 *hash, const char *text) {
    wf_sha256_add(hash, text, strlen(text) + 1); /* its 0 keeps neighbours apart */
}

void wf_cache_key_of(const wf_opencl *opencl, const char *text, const char *options, wf_cache_key *out) {
    const wf_device *device = &opencl->device;
    wf_sha256 hash;
    wf_sha256_start(&hash);
    add_text(&hash, PACKAGE_VERSION);
    add_text(&hash, device->platform);
    add_text(&hash, device->vendor);
    add_text(&hash, device->name);
    add_text(&hash, device->driver);
    add_text(&hash, options);
    add_text(&hash, text);
    wf_sha256_finish(&hash, out->digest);
}

static void name_of(const wf_cache_key *key, char out[80]) {
    char hex[2 * WF_SHA256_BYTES + 1];
    wf_sha256_hex(key->digest, hex);
    snprintf(out, 80, "%s.bin", hex);
}

static void digest_of(const void *bytes, size_t nbytes, uint8_t out[WF_SHA256_BYTES]) {
    wf_sha256 hash;
    wf_sha256_start(&hash);
    wf_sha256_add(&hash, bytes, nbytes);
    wf_sha256_finish(&hash, out);
}

static bool read_whole(int file, void *out, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t got = read(file, (char *)out + done, bytes - done);
        if (got <= 0) return false;
        done += (size_t)got;
    }
    return true;
}

/* The binary of an open entry, or NULL and why not. The size is compared with the file's before
 * anything is allocated. */
static unsigned char *read_entry(int file, const wf_cache_key *key, size_t *nbytes_out, const char **why) {
    struct stat status;
    header head;
    uint8_t digest[WF_SHA256_BYTES];
    *why = fstat(file, &status) != 0 || !S_ISREG(status.st_mode) ? "it is no plain file" : distrust(&status);
    if (*why) return NULL;
    *why = "it is damaged";
    if (!read_whole(file, &head, sizeof head) || memcmp(head.magic, magic, sizeof magic) != 0) return NULL;
    if (memcmp(head.key, key->digest, sizeof head.key) != 0) return NULL;
    if (head.bytes == 0 || (uint64_t)status.st_size != head.bytes + sizeof head) return NULL;
    unsigned char *bytes = malloc((size_t)head.bytes);
    if (!bytes) return NULL;
    if (read_whole(file, bytes, (size_t)head.bytes)) {
        digest_of(bytes, (size_t)head.bytes, digest);
        if (memcmp(digest, head.digest, sizeof digest) == 0) {
            *nbytes_out = (size_t)head.bytes;
            return bytes;
        }
    }
    free(bytes);
    return NULL;
}

bool wf_cache_read(wf_cache *cache, const wf_cache_key *key, unsigned char **bytes_out, size_t *nbytes_out) {
    char name[80];
    const char *why = NULL;
    name_of(key, name);
    const int file = openat(cache->folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        if (errno != ENOENT) wf_log("cache", "%s/%s is not used: %s", cache->path, name, strerror(errno));
        return false;
    }
    *bytes_out = read_entry(file, key, nbytes_out, &why);
    close(file);
    if (!*bytes_out) wf_log("cache", "%s/%s is not used: %s", cache->path, name, why);
    return *bytes_out != NULL;
}

static bool write_whole(int file, const void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t put = write(file, (const char *)data + done, bytes - done);
        if (put <= 0) return false;
        done += (size_t)put;
    }
    return true;
}

/* Temporary name, fsync, rename, fsync of the folder: after a crash the entry is whole or absent. */
static bool write_entry(const wf_cache *cache, const char *name, const header *head, const unsigned char *bytes) {
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.%ld", name, (long)getpid());
    const int file = openat(cache->folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) return false;
    bool good = write_whole(file, head, sizeof *head) && write_whole(file, bytes, (size_t)head->bytes) && fsync(file) == 0;
    good = close(file) == 0 && good;
    good = good && renameat(cache->folder, temporary, cache->folder, name) == 0;
    if (!good) unlinkat(cache->folder, temporary, 0);
    return good && fsync(cache->folder) == 0;
}

void wf_cache_write(wf_cache *cache, const wf_cache_key *key, const unsigned char *bytes, size_t nbytes) {
    char name[80];
    header head = {.bytes = nbytes};
    memcpy(head.magic, magic, sizeof magic);
    memcpy(head.key, key->digest, sizeof head.key);
    digest_of(bytes, nbytes, head.digest);
    name_of(key, name);
    if (!write_entry(cache, name, &head, bytes))
        wf_log("cache", "%s/%s could not be written: %s", cache->path, name, strerror(errno));
}
