/* tokens.h: what a model reads, as ids: bytes of text, or files that were tokenised before. */
#ifndef WEFT_CLI_TOKENS_H
#define WEFT_CLI_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A list of ids in memory, little-endian: 2 bytes without sign, 4 or 8 with. Borrowed. */
typedef struct token_source {
    const unsigned char *data;
    int width;
    int64_t count;
} token_source;
int64_t token_at(const token_source *source, int64_t i);
/* Of all ids, in order; does not depend on their width. */
uint64_t tokens_hash(const token_source *source);
token_source tokens_part(const token_source *source, int64_t first, int64_t count);

/* A file of tokens, mapped: raw, of a type, or .npy (known by its first bytes) of one dimension. */
typedef struct token_file {
    void *map;
    size_t map_bytes;
    token_source tokens;
} token_file;
/* type: "int32", "uint16" or "int64"; of a .npy NULL or the type that its header says. Every id is checked
 * against the vocabulary; the sentence names the position of the first bad one. Returns an exit status. */
int tokens_open(const char *path, const char *type, int64_t vocabulary, token_file *out);
void tokens_close(token_file *file);

/* Text as bytes: may a model of this vocabulary read it? 256: bytes; 257: and an end mark. Otherwise false. */
bool tokens_are_bytes(int64_t vocabulary);

#endif
