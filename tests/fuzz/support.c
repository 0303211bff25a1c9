#define _GNU_SOURCE
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/fuzz.h"

const char *fuzz_file(const void *data, size_t size) {
    static int file = -1;
    static char path[64];
    if (file < 0) file = memfd_create("input", 0);
    if (file < 0 || ftruncate(file, 0) != 0 ||
        (size && pwrite(file, data, size, 0) != (ssize_t)size)) {
        perror("the file of an input");
        abort();
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    return path;
}

char *fuzz_text(const uint8_t *data, size_t size) {
    char *const text = malloc(size + 1);
    if (!text) {
        fprintf(stderr, "no memory for an input of %zu bytes\n", size);
        abort();
    }
    memcpy(text, data, size);
    text[size] = 0;
    return text;
}

void fuzz_expect_sentence(const char *sentence) {
    FUZZ_EXPECT(*sentence);
    FUZZ_EXPECT(strlen(sentence) < 1024);
}
