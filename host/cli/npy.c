#include "host/cli/npy.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/cli/cli.h"

enum { MAGIC = 8 /* with the version */, ALIGN = 64 };
static const unsigned char magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

bool npy_is(const unsigned char *bytes, int64_t size) {
    return size >= (int64_t)sizeof magic && memcmp(bytes, magic, sizeof magic) == 0;
}

/* ---- reading: the header is the text of a Python dictionary -------------------------------------------- */

typedef struct reader {
    const char *at, *end;
} reader;

static void skip_blanks(reader *r) {
    while (r->at < r->end && isspace((unsigned char)*r->at)) r->at++;
}

static bool take(reader *r, char c) {
    skip_blanks(r);
    if (r->at >= r->end || *r->at != c) return false;
    r->at++;
    return true;
}

static bool take_text(reader *r, char *out, size_t out_bytes) {
    skip_blanks(r);
    if (r->at >= r->end || (*r->at != '\'' && *r->at != '"')) return false;
    const char quote = *r->at++;
    const char *close = memchr(r->at, quote, (size_t)(r->end - r->at));
    if (!close || (size_t)(close - r->at) >= out_bytes) return false;
    memcpy(out, r->at, (size_t)(close - r->at));
    out[close - r->at] = 0;
    r->at = close + 1;
    return true;
}

static bool take_word(reader *r, const char *word) {
    const size_t length = strlen(word);
    skip_blanks(r);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0) return false;
    r->at += length;
    return true;
}

static bool take_extent(reader *r, int64_t *out) {
    int64_t value = 0;
    skip_blanks(r);
    if (r->at >= r->end || !isdigit((unsigned char)*r->at)) return false;
    for (; r->at < r->end && isdigit((unsigned char)*r->at); r->at++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *r->at - '0', &value)) return false;
    *out = value;
    return true;
}

static bool take_shape(reader *r, npy_header *out) {
    if (!take(r, '(')) return false;
    for (out->dims = 0; !take(r, ')'); out->dims++) {
        if (out->dims == NPY_DIMS || !take_extent(r, &out->extent[out->dims])) return false;
        if (take(r, ',')) continue;
        out->dims++;
        return take(r, ')');
    }
    return true;
}

static bool take_entry(reader *r, npy_header *out, unsigned *seen) {
    char key[32];
    if (!take_text(r, key, sizeof key) || !take(r, ':')) return false;
    if (!strcmp(key, "descr")) return *seen |= 1u, take_text(r, out->type, sizeof out->type);
    if (!strcmp(key, "shape")) return *seen |= 2u, take_shape(r, out);
    if (strcmp(key, "fortran_order")) return false;
    *seen |= 4u;
    out->fortran_order = take_word(r, "True");
    return out->fortran_order || take_word(r, "False");
}

const char *npy_parse(const unsigned char *bytes, int64_t size, npy_header *out) {
    npy_header header = {.dims = 0};
    unsigned seen = 0;
    if (!npy_is(bytes, size)) return "it does not begin as a .npy file does";
    if (size < MAGIC + 2) return "it ends within its header";
    const bool wide = bytes[6] >= 2;
    if (bytes[6] < 1 || bytes[6] > 3) return "its format is not one of 1.0, 2.0 and 3.0";
    if (size < MAGIC + (wide ? 4 : 2)) return "it ends within its header";
    int64_t length = bytes[8] | bytes[9] << 8;
    if (wide) length |= (int64_t)bytes[10] << 16 | (int64_t)bytes[11] << 24;
    const int64_t start = MAGIC + (wide ? 4 : 2);
    if (length > size - start) return "it ends within its header";
    reader r = {(const char *)bytes + start, (const char *)bytes + start + length};
    if (!take(&r, '{')) return "its header is no dictionary";
    while (!take(&r, '}')) {
        if (!take_entry(&r, &header, &seen)) return "its header is not understood";
        if (take(&r, ',')) continue;
        if (take(&r, '}')) break;
        return "its header is not understood";
    }
    if (seen != 7u) return "its header lacks descr, shape or fortran_order";
    header.data = start + length;
    *out = header;
    return NULL;
}

/* ---- writing ----------------------------------------------------------------------------------------------- */

static int failed(npy_writer *w, const char *what) {
    const int error = errno;
    npy_abandon(w);
    return complain(EXIT_ENVIRONMENT, "cannot %s '%s': %s", what, w->path, strerror(error));
}

int npy_create(const char *path, int64_t rows, int64_t columns, npy_writer *out) {
    char text[160];
    npy_writer w = {.columns = columns};
    if ((size_t)snprintf(w.path, sizeof w.path, "%s", path) >= sizeof w.path)
        return complain(EXIT_USAGE, "the path of a file to write is longer than %zu bytes", sizeof w.path);
    snprintf(w.temporary, sizeof w.temporary, "%s.%ld.partial", path, (long)getpid());
    const int n = snprintf(text, sizeof text, "{'descr': '<f4', 'fortran_order': False, 'shape': (%lld, %lld), }", (long long)rows,
                           (long long)columns);
    const int length = (MAGIC + 2 + n + 1 + ALIGN - 1) / ALIGN * ALIGN - MAGIC - 2;
    const unsigned char head[MAGIC + 2] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(length & 255), (unsigned char)(length >> 8)};
    w.file = fopen(w.temporary, "wbx");
    if (!w.file) return w.temporary[0] = 0, failed(&w, "write");
    if (fwrite(head, sizeof head, 1, w.file) != 1 || fprintf(w.file, "%s%*s\n", text, length - n - 1, "") != length)
        return failed(&w, "write");
    *out = w;
    return EXIT_FINE;
}

int npy_write_row(npy_writer *w, const float *row) {
    const size_t n = (size_t)w->columns;
    return fwrite(row, sizeof *row, n, w->file) == n ? EXIT_FINE : failed(w, "write");
}

/* The folder is synced too: otherwise the new name may not be there after a crash. */
static void sync_folder(const char *path) {
    char folder[4096] = ".";
    const char *slash = strrchr(path, '/');
    if (slash) snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    const int descriptor = open(folder, O_RDONLY | O_DIRECTORY);
    if (descriptor < 0) return;
    fsync(descriptor);
    close(descriptor);
}

int npy_finish(npy_writer *w) {
    if (fflush(w->file) || fsync(fileno(w->file))) return failed(w, "write");
    FILE *const file = w->file;
    w->file = NULL;
    if (fclose(file) || rename(w->temporary, w->path)) return failed(w, "write");
    w->temporary[0] = 0;
    sync_folder(w->path);
    return EXIT_FINE;
}

void npy_abandon(npy_writer *w) {
    if (w->file) fclose(w->file);
    if (w->temporary[0]) unlink(w->temporary);
    w->file = NULL;
    w->temporary[0] = 0;
}
