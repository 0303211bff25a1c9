#include "host/cli/corpus.h"

#include <ctype.h>
#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/cli/cli.h"

/* Hashes of paragraphs seen, open addressing; 0 is free. Two paragraphs of one 64-bit hash would be
 * taken for duplicates: with 10^6 paragraphs the odds are 10^-8. */
typedef struct seen_set {
    uint64_t *hash;
    int64_t room, used;
} seen_set;

static int out_of_memory(void) {
    return complain(EXIT_ENVIRONMENT, "out of memory while reading text");
}

static bool seen_grow(seen_set *set) {
    const int64_t room = set->room ? 2 * set->room : 1 << 12;
    uint64_t *table = calloc((size_t)room, sizeof *table);
    if (!table) return false;
    for (int64_t i = 0; i < set->room; i++) {
        if (!set->hash[i]) continue;
        int64_t at = (int64_t)(set->hash[i] & (uint64_t)(room - 1));
        while (table[at]) at = (at + 1) & (room - 1);
        table[at] = set->hash[i];
    }
    free(set->hash);
    set->hash = table, set->room = room;
    return true;
}

/* 1 new, 0 seen before, -1 no memory. */
static int seen_add(seen_set *set, uint64_t hash) {
    if (2 * (set->used + 1) > set->room && !seen_grow(set)) return -1;
    hash += !hash;
    int64_t at = (int64_t)(hash & (uint64_t)(set->room - 1));
    while (set->hash[at] && set->hash[at] != hash) at = (at + 1) & (set->room - 1);
    if (set->hash[at]) return 0;
    set->hash[at] = hash;
    set->used++;
    return 1;
}

/* FNV-1a over words, runs of white space as one, mixed once more: its low bits choose the split. */
static uint64_t paragraph_hash(const unsigned char *text, int64_t length) {
    uint64_t hash = 0xcbf29ce484222325u;
    bool space = true;
    for (int64_t i = 0; i < length; i++) {
        const bool blank = isspace(text[i]);
        if (blank && space) continue;
        hash = (hash ^ (blank ? ' ' : text[i])) * 0x100000001b3u;
        space = blank;
    }
    uint64_t state = hash;
    return random_next(&state);
}

static bool push(token_list *list, const unsigned char *text, int64_t length, int end) {
    const int64_t need = list->count + length + 1;
    if (need > list->room) {
        const int64_t room = need + need / 2 + 4096;
        uint16_t *grown = realloc(list->token, (size_t)room * sizeof *grown);
        if (!grown) return false;
        list->token = grown, list->room = room;
    }
    for (int64_t i = 0; i < length; i++) list->token[list->count++] = text[i];
    if (end >= 0) list->token[list->count++] = (uint16_t)end;
    return true;
}

/* Length of the paragraph at `text`, up to and with the blank lines that end it. */
static int64_t paragraph_length(const unsigned char *text, int64_t rest) {
    for (int64_t i = 0; i < rest; i++) {
        if (text[i] != '\n') continue;
        int64_t j = i + 1;
        while (j < rest && (text[j] == ' ' || text[j] == '\t' || text[j] == '\r')) j++;
        if (j < rest && text[j] != '\n') continue;
        while (j < rest && isspace(text[j])) j++;
        while (j > i + 1 && text[j - 1] != '\n') j--; /* the next paragraph keeps its indentation */
        return j;
    }
    return rest;
}

static bool blank(const unsigned char *text, int64_t length) {
    for (int64_t i = 0; i < length; i++)
        if (!isspace(text[i])) return false;
    return true;
}

static int add_document(corpus *c, seen_set *seen, const unsigned char *text, int64_t length, int holdout) {
    const int64_t train = c->train.count, evaluation = c->evaluation.count;
    for (int64_t at = 0, size; at < length; at += size) {
        size = paragraph_length(text + at, length - at);
        if (blank(text + at, size)) continue;
        const uint64_t hash = paragraph_hash(text + at, size);
        const int added = seen_add(seen, hash);
        if (added < 0) return out_of_memory();
        c->paragraphs++, c->duplicates += !added;
        if (added && !push(hash >> 32 < UINT32_MAX / (unsigned)holdout ? &c->evaluation : &c->train, text + at, size, -1))
            return out_of_memory();
    }
    if (c->train.count > train && !push(&c->train, NULL, 0, CORPUS_END)) return out_of_memory();
    if (c->evaluation.count > evaluation && !push(&c->evaluation, NULL, 0, CORPUS_END)) return out_of_memory();
    return EXIT_FINE;
}

/* named: given by the user, so a failure is an error; found in a folder: binary files are left out. */
static int add_file(corpus *c, seen_set *seen, const char *path, bool named, int holdout) {
    FILE *file = fopen(path, "rb");
    if (!file) return named ? complain(EXIT_USAGE, "cannot read text '%s': %s", path, strerror(errno)) : EXIT_FINE;
    unsigned char *text = NULL;
    int64_t length = 0, room = 0;
    int status = EXIT_FINE;
    for (size_t got = 1; got;) {
        if (length + 65536 > room) {
            unsigned char *grown = realloc(text, (size_t)(room = 2 * room + 131072));
            if (!grown) { status = out_of_memory(); goto done; }
            text = grown;
        }
        got = fread(text + length, 1, 65536, file);
        length += (int64_t)got;
    }
    if (ferror(file)) {
        status = complain(EXIT_USAGE, "cannot read text '%s': %s", path, strerror(errno));
    } else if (memchr(text, 0, (size_t)length)) {
        if (named) status = complain(EXIT_USAGE, "'%s' is not text: it holds zero bytes", path);
    } else {
        c->files++, c->bytes += length;
        status = add_document(c, seen, text, length, holdout);
    }
done:
    free(text);
    fclose(file);
    return status;
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int add_folder(corpus *c, seen_set *seen, const char *path, int holdout) {
    char *const roots[] = {(char *)path, NULL};
    FTS *tree = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    if (!tree) return complain(EXIT_USAGE, "cannot read folder '%s': %s", path, strerror(errno));
    int status = EXIT_FINE;
    for (FTSENT *entry; !status && (entry = fts_read(tree));)
        if (entry->fts_info == FTS_F) status = add_file(c, seen, entry->fts_path, false, holdout);
    fts_close(tree);
    return status;
}

int corpus_read(const char *const *paths, int count, int holdout, corpus *out) {
    corpus c = {0};
    seen_set seen = {0};
    int status = EXIT_FINE;
    for (int i = 0; !status && i < count; i++) {
        struct stat what;
        if (stat(paths[i], &what))
            status = complain(EXIT_USAGE, "cannot read text '%s': %s", paths[i], strerror(errno));
        else
            status = S_ISDIR(what.st_mode) ? add_folder(&c, &seen, paths[i], holdout) : add_file(&c, &seen, paths[i], true, holdout);
    }
    free(seen.hash);
    if (!status && !c.train.count) status = complain(EXIT_USAGE, "the text is empty: nothing to train on in %d path%s", count, count == 1 ? "" : "s");
    if (status)
        corpus_free(&c);
    else
        *out = c;
    return status;
}

void corpus_free(corpus *c) {
    free(c->train.token);
    free(c->evaluation.token);
    *c = (corpus){0};
}

uint64_t random_next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

double random_uniform(uint64_t *state) {
    return (double)(random_next(state) >> 11) * 0x1p-53;
}
