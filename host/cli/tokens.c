#include "host/cli/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "host/cli/cli.h"
#include "host/cli/npy.h"

static const struct {
    const char *name, *npy;
    int width;
} types[] = {{"int32", "<i4", 4}, {"uint16", "<u2", 2}, {"int64", "<i8", 8}};
enum { TYPES = sizeof types / sizeof *types };

int64_t token_at(const token_source *s, int64_t i) {
    const unsigned char *p = s->data + i * s->width;
    uint64_t bits = 0;
    for (int k = s->width - 1; k >= 0; k--) bits = bits << 8 | p[k];
    return s->width == 4 ? (int32_t)(uint32_t)bits : (int64_t)bits;
}

/* FNV-1a over the ids as 64-bit numbers, whole words at a time. */
uint64_t tokens_hash(const token_source *s) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (int64_t i = 0; i < s->count; i++) {
        hash = (hash ^ (uint64_t)token_at(s, i)) * 0x100000001b3u;
        hash ^= hash >> 29;
    }
    return hash;
}

token_source tokens_part(const token_source *s, int64_t first, int64_t count) {
    return (token_source){s->data + first * s->width, s->width, count};
}

bool tokens_are_bytes(int64_t vocabulary) {
    return vocabulary == 256 || vocabulary == 257;
}

/* ---- files --------------------------------------------------------------------------------------------- */

static int map_file(const char *path, token_file *f) {
    struct stat what;
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0 || fstat(descriptor, &what)) {
        const int error = errno;
        if (descriptor >= 0) close(descriptor);
        return complain(EXIT_USAGE, "cannot read tokens '%s': %s", path, strerror(error));
    }
    int status = EXIT_FINE;
    if (!S_ISREG(what.st_mode)) status = complain(EXIT_USAGE, "tokens '%s' are not a file", path);
    else if (what.st_size == 0) status = complain(EXIT_USAGE, "tokens '%s' are an empty file", path);
    if (!status) {
        f->map_bytes = (size_t)what.st_size;
        f->map = mmap(NULL, f->map_bytes, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (f->map == MAP_FAILED) f->map = NULL, status = complain(EXIT_ENVIRONMENT, "cannot map tokens '%s': %s", path, strerror(errno));
    }
    close(descriptor);
    return status;
}

static int find_type(const char *name, bool npy) {
    for (int i = 0; i < TYPES; i++)
        if (!strcmp(name, npy ? types[i].npy : types[i].name)) return i;
    return -1;
}

static int read_npy(const char *path, const char *type, token_file *f) {
    npy_header h;
    const char *why = npy_parse(f->map, (int64_t)f->map_bytes, &h);
    if (why) return complain(EXIT_USAGE, "tokens '%s': %s", path, why);
    const int t = find_type(h.type, true);
    if (t < 0) return complain(EXIT_USAGE, "tokens '%s' are of type %s, but ids are <i4, <u2 or <i8", path, h.type);
    if (type && strcmp(type, types[t].name))
        return complain(EXIT_USAGE, "tokens '%s' are of type %s, but --token-type says %s", path, types[t].name, type);
    if (h.dims != 1) return complain(EXIT_USAGE, "tokens '%s' are an array of %d dimensions, not of one", path, h.dims);
    const int64_t bytes = (int64_t)f->map_bytes - h.data;
    if (h.extent[0] != bytes / types[t].width || bytes % types[t].width)
        return complain(EXIT_USAGE, "tokens '%s': the header says %lld ids, but %lld bytes follow it", path, (long long)h.extent[0],
                        (long long)bytes);
    f->tokens = (token_source){(const unsigned char *)f->map + h.data, types[t].width, h.extent[0]};
    return EXIT_FINE;
}

static int read_raw(const char *path, const char *type, token_file *f) {
    const int t = type ? find_type(type, false) : 0;
    if (t < 0) return complain(EXIT_USAGE, "--token-type is int32, uint16 or int64, not '%s'", type);
    if (f->map_bytes % (size_t)types[t].width)
        return complain(EXIT_USAGE, "tokens '%s': %zu bytes are no whole number of %s ids (is it another --token-type?)", path,
                        f->map_bytes, types[t].name);
    f->tokens = (token_source){f->map, types[t].width, (int64_t)f->map_bytes / types[t].width};
    return EXIT_FINE;
}

static int check_ids(const char *path, const token_source *s, int64_t vocabulary) {
    for (int64_t i = 0; i < s->count; i++) {
        const int64_t id = token_at(s, i);
        if (id >= 0 && id < vocabulary) continue;
        return complain(EXIT_USAGE, "tokens '%s': id %lld at position %lld is outside the model's vocabulary of %lld", path,
                        (long long)id, (long long)i, (long long)vocabulary);
    }
    return s->count ? EXIT_FINE : complain(EXIT_USAGE, "tokens '%s' hold no id", path);
}

int tokens_open(const char *path, const char *type, int64_t vocabulary, token_file *out) {
    token_file f = {0};
    int status = map_file(path, &f);
    if (!status) status = (npy_is(f.map, (int64_t)f.map_bytes) ? read_npy : read_raw)(path, type, &f);
    if (!status) status = check_ids(path, &f.tokens, vocabulary);
    if (status) tokens_close(&f);
    else *out = f;
    return status;
}

void tokens_close(token_file *f) {
    if (f->map) munmap(f->map, f->map_bytes);
    *f = (token_file){0};
}
