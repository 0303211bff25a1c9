/* sample.h: text that a model goes on with, one token after the other. There is no cache yet: the whole
 * window is computed again for each token. */
#ifndef WEFT_CLI_SAMPLE_H
#define WEFT_CLI_SAMPLE_H

#include "host/cli/cli.h"
#include "host/cli/tokens.h"

/* How a token is drawn from logits: softmax(logits / temperature), of which only the top_k likeliest stay, of
 * those the fewest whose probabilities reach top_p. */
typedef struct sampler {
    double temperature;     /* 0: always the likeliest */
    int64_t top_k;          /* 0: all */
    double top_p;           /* 1: all */
    uint64_t state;         /* of the random numbers; the same on every rank */
} sampler;
/* Options that every command with a sampler takes; rows for its table. */
#define SAMPLER_OPTIONS(s)                                                                         \
    {"temperature", OPTION_REAL, "T", "of the sample; 0: always the likeliest token", &(s).temperature, 0, 100}, \
    {"top-k", OPTION_INTEGER, "K", "of the sample: draw among the K likeliest tokens (default: all)", &(s).top_k, 1, 1e9}, \
    {"top-p", OPTION_REAL, "P", "of the sample: draw among the likeliest tokens that together have probability P", &(s).top_p, 1e-6, 1}

typedef struct sample_request {
    weft_plan *plan;        /* WEFT_LOGITS, loaded, one sequence of `window` tokens, of a model that looks back only */
    int64_t window, vocabulary;
    bool bytes;             /* tokens are bytes: they are written as such; else as numbers */
    int32_t end;            /* ends the text, and begins it; -1: there is none */
    int64_t more;           /* tokens to generate */
    int rank;
    FILE *out;              /* rank 0 writes */
} sample_request;
/* Collective. Write the prompt (of bytes) and what follows it. Exit status, after one sentence on each rank that
 * failed: the others may still wait for it. */
int sample_after_text(const sample_request *request, sampler *how, const char *prompt, int64_t count);
int sample_after_tokens(const sample_request *request, sampler *how, const token_source *prompt);

/* A token of n; `order` has room for n. */
int32_t sample_token(sampler *how, const float *logits, int64_t n, int32_t *order);

#endif
