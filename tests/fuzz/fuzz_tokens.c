/* Files of tokens: the first byte says which type is asked for, the rest is the file. And the same
 * as text: a corpus. */
#include <stdarg.h>

#include "host/cli/cli.h"
#include "host/cli/corpus.h"
#include "host/cli/tokens.h"
#include "tests/fuzz/fuzz.h"

/* The command's own prints the sentence and returns the status. */
int complain(int status, const char *format, ...) {
    char text[4096];
    va_list arguments;
    va_start(arguments, format);
    FUZZ_EXPECT(vsnprintf(text, sizeof text, format, arguments) > 0);
    va_end(arguments);
    return status;
}

static void try_tokens(const char *path, const char *type) {
    token_file file = {0};
    if (tokens_open(path, type, 257, &file) != EXIT_FINE) return;
    for (int64_t i = 0; i < file.tokens.count; i++)
        FUZZ_EXPECT(token_at(&file.tokens, i) >= 0 && token_at(&file.tokens, i) < 257);
    (void)tokens_hash(&file.tokens);
    tokens_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const types[] = {"int32", "uint16", "int64", NULL};
    corpus text = {0};
    if (!size) return 0;
    const char *const path = fuzz_file(data + 1, size - 1);
    try_tokens(path, types[*data % 4]);
    if (corpus_read(&path, 1, 1 + *data % 20, &text) == EXIT_FINE) corpus_free(&text);
    return 0;
}
