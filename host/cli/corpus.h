/* corpus.h: text as byte tokens: files and folders, deduplicated by paragraph, split into a training
 * and an evaluation part. A token is a byte; 256 marks the end of a document. */
#ifndef WEFT_CLI_CORPUS_H
#define WEFT_CLI_CORPUS_H

#include <stdbool.h>
#include <stdint.h>

enum { CORPUS_END = 256, CORPUS_VOCABULARY = 257 };

typedef struct token_list {
    uint16_t *token;
    int64_t count, room;
} token_list;

typedef struct corpus {
    token_list train, evaluation;
    int64_t files, bytes, paragraphs, duplicates;
} corpus;

/* Reads text files (folders recursively, in order of their names; binary files in folders are left
 * out), drops paragraphs seen before (compared without white space's amount), and puts every
 * paragraph whose hash says so (one in `holdout`) into the evaluation part, so that the split does not
 * depend on the order of files. Returns an exit status after one sentence on failure. */
int corpus_read(const char *const *paths, int count, int holdout, corpus *out);
void corpus_free(corpus *corpus);

/* Reproducible random numbers of the command's own choices (batches, sampling): SplitMix64 (Steele,
 * Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014). */
uint64_t random_next(uint64_t *state);
double random_uniform(uint64_t *state); /* [0, 1) */

/* Mean negative log-likelihood, nats per token, of byte models of order 0..`most` (each token given
 * that many before it) fitted to `train` and applied to the first `tokens` of `evaluation`. Orders are
 * interpolated as Witten and Bell do ("The zero-frequency problem", 1991). Returns false without memory. */
bool ngram_losses(const token_list *train, const token_list *evaluation, int64_t tokens, int most, double *loss_out);

#endif
