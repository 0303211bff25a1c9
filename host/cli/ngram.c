/* ngram.c: byte models of low order, the yardstick that a trained model is judged by. Counts live in
 * one open-addressing table per order, keyed by (context, next) and by (context). */
#include "host/cli/corpus.h"

#include <math.h>
#include <stdlib.h>

typedef struct count_entry {
    uint64_t key; /* 0 is free */
    uint32_t count, distinct;
} count_entry;

typedef struct count_table {
    count_entry *entry;
    int64_t room, used;
} count_table;

static count_entry *slot(const count_table *t, uint64_t key) {
    uint64_t state = key;
    int64_t at = (int64_t)(random_next(&state) & (uint64_t)(t->room - 1));
    while (t->entry[at].key && t->entry[at].key != key) at = (at + 1) & (t->room - 1);
    return &t->entry[at];
}

static bool grow(count_table *t) {
    count_table larger = {NULL, t->room ? 2 * t->room : 1 << 16, t->used};
    larger.entry = calloc((size_t)larger.room, sizeof *larger.entry);
    if (!larger.entry) return false;
    for (int64_t i = 0; i < t->room; i++)
        if (t->entry[i].key) *slot(&larger, t->entry[i].key) = t->entry[i];
    free(t->entry);
    *t = larger;
    return true;
}

static count_entry *enter(count_table *t, uint64_t key) {
    if (2 * (t->used + 1) > t->room && !grow(t)) return NULL;
    count_entry *e = slot(t, key);
    if (!e->key) e->key = key, t->used++;
    return e;
}

/* The `order` tokens before position i, 9 bits each. */
static uint64_t context_of(const uint16_t *token, int64_t i, int order) {
    uint64_t context = 0;
    for (int k = 1; k <= order; k++) context = context << 9 | token[i - k];
    return context;
}

/* Bit 63 tells the two kinds of keys apart; neither is ever 0. */
static uint64_t pair_key(uint64_t context, uint16_t next) {
    return (context << 9 | next) + 1;
}
static uint64_t context_key(uint64_t context) {
    return context | (uint64_t)1 << 63;
}

static bool fit(count_table *t, const token_list *text, int order) {
    for (int64_t i = order; i < text->count; i++) {
        const uint64_t context = context_of(text->token, i, order);
        count_entry *pair = enter(t, pair_key(context, text->token[i]));
        if (!pair) return false;
        const bool first = !pair->count++;
        count_entry *total = enter(t, context_key(context));
        if (!total) return false;
        total->count++, total->distinct += first;
    }
    return true;
}

/* Witten-Bell: what a context has not seen gets the share of its number of distinct successors. */
static double probability(const count_table *tables, const uint16_t *token, int64_t i, int order) {
    double p = 1.0 / CORPUS_VOCABULARY;
    for (int k = 0; k <= order; k++) {
        const uint64_t context = context_of(token, i, k);
        const count_entry *total = slot(&tables[k], context_key(context));
        if (!total->key) break;
        const count_entry *pair = slot(&tables[k], pair_key(context, token[i]));
        p = (pair->count + total->distinct * p) / ((double)total->count + total->distinct);
    }
    return p;
}

bool ngram_losses(const token_list *train, const token_list *evaluation, int64_t tokens, int most, double *loss_out) {
    count_table *tables = calloc((size_t)most + 1, sizeof *tables);
    bool fine = tables != NULL;
    for (int k = 0; fine && k <= most; k++) fine = grow(&tables[k]) && fit(&tables[k], train, k);
    if (tokens > evaluation->count) tokens = evaluation->count;
    for (int order = 0; fine && order <= most; order++) {
        double sum = 0;
        for (int64_t i = most; i < tokens; i++) sum -= log(probability(tables, evaluation->token, i, order));
        loss_out[order] = tokens > most ? sum / (double)(tokens - most) : 0;
    }
    for (int k = 0; tables && k <= most; k++) free(tables[k].entry);
    free(tables);
    return fine;
}
