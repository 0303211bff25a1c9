/* fuzz.h: what the targets share. Each file here is one libFuzzer target of one parser. */
#ifndef WF_TESTS_FUZZ_H
#define WF_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The input as a file in memory; its path, until the next call. */
const char *fuzz_file(const void *data, size_t size);
/* The input as text, 0-terminated, malloc'ed to exactly its size, so that reading on is seen. */
char *fuzz_text(const uint8_t *data, size_t size);
/* A promise of the parser's that does not hold ends the run. */
#define FUZZ_EXPECT(x)                                                                             \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)
/* A refusal has one sentence. */
void fuzz_expect_sentence(const char *sentence);

#endif
