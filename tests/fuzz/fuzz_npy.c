/* .npy files of tokens. The input is a file; or, where it begins with '{', a header up to the first newline and
 * the data behind it, so that magic and length before it are right. The header is parsed in memory of exactly its
 * size, where reading on is seen (a mapped file has the rest of its page), then the file is opened as tokens: the two
 * must agree. */
#include <stdarg.h>

#include "host/cli/cli.h"
#include "host/cli/npy.h"
#include "host/cli/tokens.h"
#include "tests/fuzz/fuzz.h"

enum { VOCABULARY = 257 };

/* The command's own prints the sentence and returns the status. */
int complain(int status, const char *format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    FUZZ_EXPECT(vsnprintf(text, sizeof text, format, arguments) > 0);
    va_end(arguments);
    fuzz_expect_sentence(text);
    return status;
}

static void expect_header(const npy_header *h, size_t size) {
    FUZZ_EXPECT(memchr(h->type, 0, sizeof h->type) != NULL);
    FUZZ_EXPECT(h->dims >= 0 && h->dims <= NPY_DIMS);
    for (int i = 0; i < h->dims; i++) FUZZ_EXPECT(h->extent[i] >= 0);
    FUZZ_EXPECT(h->data > 0 && (size_t)h->data <= size);
}

/* All there is was asked for, and nothing behind it. */
static void expect_tokens(const token_source *s, const npy_header *h, size_t size) {
    FUZZ_EXPECT(s->count > 0 && s->width > 0 && h->dims == 1 && s->count == h->extent[0]);
    FUZZ_EXPECT(h->data + s->count * s->width == (int64_t)size);
    for (int64_t i = 0; i < s->count; i++) FUZZ_EXPECT(token_at(s, i) >= 0 && token_at(s, i) < VOCABULARY);
}

static void try_file(const uint8_t *data, size_t size) {
    static const char *const types[] = {"int32", "uint16", "int64", NULL};
    uint8_t *const exact = malloc(size + !size);
    npy_header header;
    FUZZ_EXPECT(exact);
    if (size) memcpy(exact, data, size);
    const bool npy = npy_is(exact, (int64_t)size);
    const char *const why = npy_parse(exact, (int64_t)size, &header);
    FUZZ_EXPECT(npy || why);
    if (!why) expect_header(&header, size);
    if (why) fuzz_expect_sentence(why);
    int opened = 0;
    for (int t = 0; t < 4 && npy; t++) {
        token_file file = {0};
        if (tokens_open(fuzz_file(data, size), types[t], VOCABULARY, &file) != EXIT_FINE) continue;
        FUZZ_EXPECT(!why);
        expect_tokens(&file.tokens, &header, size);
        tokens_close(&file);
        opened++;
    }
    FUZZ_EXPECT(opened == 0 || opened == 2); /* by its own type, named or not */
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!size || *data != '{') {
        try_file(data, size);
        return 0;
    }
    const uint8_t *const end = memchr(data, '\n', size);
    const size_t header = end ? (size_t)(end - data) + 1 : size;
    uint8_t *const file = malloc(12 + size);
    FUZZ_EXPECT(file);
    const bool wide = header > 65535 || header % 3 == 0; /* formats 1.0 and 2.0 */
    const size_t start = wide ? 12 : 10;
    memcpy(file, "\223NUMPY\001\0", 8);
    file[6] = wide ? 2 : 1;
    for (size_t i = 0; i < start - 8; i++) file[8 + i] = (uint8_t)((uint64_t)header >> 8 * i);
    memcpy(file + start, data, size);
    try_file(file, start + size);
    free(file);
    return 0;
}
