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
#include "host/base/trust.h"

struct wf_cache {
    int folder;     /* file descriptor */
    char path[512];
    const wf_log *log;
};

static const char magic[16] = "weft program 1\n";

typedef struct header {
    char magic[16];
    uint64_t bytes;                     /* of the binary */
    uint8_t key[WF_SHA256_BYTES];       /* an entry renamed is an entry of another program */
    uint8_t digest[WF_SHA256_BYTES];    /* of the binary */
} header;

/* ---- the folder ------------------------------------------------------------------------------------------ */

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

static int open_folder(wf_kept *own) {
    struct stat status;
    make_folders(own->folder);
    const int folder = open(own->folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    const char *why = folder < 0 || fstat(folder, &status) != 0 ? strerror(errno) : wf_distrust(&status);
    if (!why) return folder;
    own->used = false;
    snprintf(own->why, sizeof own->why, "%s", why);
    if (folder >= 0) close(folder);
    return -1;
}

static void tell(const wf_opencl *opencl) {
    const wf_cache_info *const info = &opencl->kept;
    wf_say(opencl->calls.log, WF_LOG_CACHE, "the folder %s is %sused: %s", info->own.folder, info->own.used ? "" : "not ",
            info->own.why);
    if (*info->keeper)
        wf_say(opencl->calls.log, WF_LOG_CACHE, "%s keeps programs in %s: %s", info->keeper, info->driver.folder, info->driver.why);
}

wf_status wf_cache_open(wf_opencl *opencl, const wf_cache_wish *wish, wf_cache **out) {
    wf_kept *const own = &opencl->kept.own;
    wf_cache *cache = NULL;
    *out = NULL;
    TRY(wf_cache_place(opencl->device.platform, wish, &opencl->kept));
    if (own->used) {
        cache = calloc(1, sizeof *cache);
        if (!cache) return wf_fail(WF_ERR_MEMORY, "out of host memory for a program cache");
        snprintf(cache->path, sizeof cache->path, "%s", own->folder);
        cache->log = opencl->calls.log;
        cache->folder = open_folder(own);
        if (cache->folder < 0) {
            free(cache);
            cache = NULL;
        }
    }
    tell(opencl);
    const wf_status status = wf_cache_refuse(&opencl->kept);
    if (status == WF_OK) *out = cache;
    else wf_cache_close(cache);
    return status;
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
    add_text(&hash, opencl->identity);
    if (opencl->kept.intermediate) add_text(&hash, wf_env_pocl_flags());
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
    *why = fstat(file, &status) != 0 || !S_ISREG(status.st_mode) ? "it is no plain file" : wf_distrust(&status);
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
        if (errno != ENOENT) wf_say(cache->log, WF_LOG_CACHE, "%s/%s is not used: %s", cache->path, name, strerror(errno));
        return false;
    }
    *bytes_out = read_entry(file, key, nbytes_out, &why);
    close(file);
    if (!*bytes_out) wf_say(cache->log, WF_LOG_CACHE, "%s/%s is not used: %s", cache->path, name, why);
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

/* The entry's name for a file that is whole; where one has it already, that one stays unless it is replaced. */
static bool give_name(const wf_cache *cache, const char *temporary, const char *name, bool replace) {
    if (replace) return renameat(cache->folder, temporary, cache->folder, name) == 0;
    const bool good = linkat(cache->folder, temporary, cache->folder, name, 0) == 0 || errno == EEXIST;
    unlinkat(cache->folder, temporary, 0);
    return good;
}

/* Temporary name, fsync, its own name, fsync of the folder: after a crash the entry is whole or absent. */
static bool write_entry(const wf_cache *cache, const char *name, const header *head, const unsigned char *bytes, bool replace) {
    char temporary[128];
    snprintf(temporary, sizeof temporary, "%s.%ld", name, (long)getpid());
    const int file = openat(cache->folder, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (file < 0) return false;
    bool good = write_whole(file, head, sizeof *head) && write_whole(file, bytes, (size_t)head->bytes) && fsync(file) == 0;
    good = close(file) == 0 && good;
    good = good && give_name(cache, temporary, name, replace);
    if (!good) unlinkat(cache->folder, temporary, 0);
    return good && fsync(cache->folder) == 0;
}

static void put(wf_cache *cache, const wf_cache_key *key, const unsigned char *bytes, size_t nbytes, bool replace) {
    char name[80];
    header head = {.bytes = nbytes};
    memcpy(head.magic, magic, sizeof magic);
    memcpy(head.key, key->digest, sizeof head.key);
    digest_of(bytes, nbytes, head.digest);
    name_of(key, name);
    if (!write_entry(cache, name, &head, bytes, replace))
        wf_say(cache->log, WF_LOG_CACHE, "%s/%s could not be written: %s", cache->path, name, strerror(errno));
}

void wf_cache_write(wf_cache *cache, const wf_cache_key *key, const unsigned char *bytes, size_t nbytes) {
    put(cache, key, bytes, nbytes, true);
}

void wf_cache_forget(wf_cache *cache, const wf_cache_key *key) {
    char name[80];
    name_of(key, name);
    unlinkat(cache->folder, name, 0);
}

bool wf_cache_offer(wf_cache *cache, const wf_cache_key *key, const unsigned char *bytes, size_t nbytes,
                    unsigned char **bytes_out, size_t *nbytes_out) {
    for (int replace = 0; replace < 2; replace++) {
        put(cache, key, bytes, nbytes, replace);
        if (wf_cache_read(cache, key, bytes_out, nbytes_out)) return true;
    }
    return false;
}
