/* train_data.c: what a training reads: bytes of text or tokens of a file, its split, its batches. */
#include "host/cli/train.h"

#include <stdlib.h>
#include <string.h>

/* A vocabulary of 256 has no id of its own for the end of a document: a zero byte stands for it, which
 * no text has. */
static int32_t use_end(token_list *list, int64_t vocabulary) {
    if (vocabulary > CORPUS_END) return CORPUS_END;
    for (int64_t i = 0; i < list->count; i++)
        if (list->token[i] == CORPUS_END) list->token[i] = 0;
    return 0;
}

static token_source source_of(const token_list *list) {
    return (token_source){(const unsigned char *)list->token, sizeof *list->token, list->count};
}

static int read_text(const train_arguments *a, int64_t vocabulary, train_data *d) {
    if (vocabulary < 256) return complain(EXIT_USAGE, "text is read as bytes, which need a vocabulary of 256 (257 with an end mark), but the model has %lld: give --tokens", (long long)vocabulary);
    const int status = corpus_read(a->text.text, a->text.count, HOLDOUT, &d->corpus);
    if (status) return status;
    d->bytes = true;
    d->end = use_end(&d->corpus.train, vocabulary);
    use_end(&d->corpus.evaluation, vocabulary);
    d->train = source_of(&d->corpus.train);
    d->evaluation = source_of(&d->corpus.evaluation);
    return EXIT_FINE;
}

/* The last part of a file is held out: its order is a time, or a shuffle that somebody made. */
static int read_tokens(const train_arguments *a, int64_t vocabulary, train_data *d) {
    const int status = tokens_open(a->tokens, a->token_type, vocabulary, &d->file);
    if (status) return status;
    const bool evaluates = a->evaluate_batches || a->evaluate_every;
    const int64_t held = evaluates ? d->file.tokens.count / HOLDOUT : 0, kept = d->file.tokens.count - held;
    d->end = -1;
    d->train = tokens_part(&d->file.tokens, 0, kept);
    d->evaluation = tokens_part(&d->file.tokens, kept, held);
    return EXIT_FINE;
}

static int check_length(const train_arguments *a, const train_data *d) {
    char train[40], held[40];
    const int64_t window = a->sequence + 1;
    const bool evaluates = a->evaluate_batches || a->evaluate_every;
    if (d->train.count > window && (!evaluates || d->evaluation.count > window)) return EXIT_FINE;
    return complain(EXIT_USAGE,
                    "the %s too short for sequences of %lld: %s to train on, %s held out to evaluate (more of it, a smaller "
                    "--sequence, or --evaluate-batches 0)",
                    d->bytes ? "text is" : "tokens are", (long long)a->sequence, train_data_amount(d, d->train.count, train),
                    train_data_amount(d, d->evaluation.count, held));
}

int train_data_open(const train_arguments *a, int64_t vocabulary, train_data *out) {
    train_data d = {.end = -1};
    int status = (a->tokens ? read_tokens : read_text)(a, vocabulary, &d);
    if (!status) status = check_length(a, &d);
    if (status) {
        train_data_close(&d);
        return status;
    }
    d.hash = tokens_hash(&d.train);
    *out = d;
    return EXIT_FINE;
}

void train_data_close(train_data *d) {
    corpus_free(&d->corpus);
    tokens_close(&d->file);
}

const char *train_data_amount(const train_data *d, int64_t count, char room[40]) {
    const char *const unit = d->bytes ? "bytes" : "tokens";
    if (count < 100000) snprintf(room, 40, "%lld %s", (long long)count, unit);
    else snprintf(room, 40, "%.2f M %s", 1e-6 * (double)count, unit);
    return room;
}

/* ---- batches ------------------------------------------------------------------------------------------ */

void train_take_window(train_run *r, const token_source *source, int64_t row, int64_t first) {
    const int64_t sequence = r->arguments->sequence;
    int32_t document = 0;
    for (int64_t i = row * sequence; i < (row + 1) * sequence; i++, first++) {
        r->tokens[i] = (int32_t)token_at(source, first);
        r->targets[i] = (int32_t)token_at(source, first + 1);
        if (r->documents) r->documents[i] = r->tokens[i] == r->arguments->document_end ? document++ : document;
    }
}

void train_take_batch(train_run *r, int64_t step) {
    uint64_t state = r->seed * 0x9e3779b97f4a7c15u + (uint64_t)step;
    const int64_t choices = r->data.train.count - r->arguments->sequence;
    for (int64_t row = 0; row < r->arguments->batch; row++)
        train_take_window(r, &r->data.train, row, (int64_t)(random_uniform(&state) * (double)choices));
}
