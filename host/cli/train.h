/* train.h: one training run of the command: what was asked, what is open, what it does in order.
 * train.c: opening, steps; train_data.c: tokens and batches; train_evaluate.c; train_checkpoint.c. */
#ifndef WEFT_CLI_TRAIN_H
#define WEFT_CLI_TRAIN_H

#include "host/cli/cli.h"
#include "host/cli/corpus.h"
#include "host/cli/sample.h"
#include "host/cli/tokens.h"

/* One part in so many is held out for evaluation. */
enum { HOLDOUT = 20 };

typedef struct train_arguments {
    const char *model, *from, *layout, *gemm, *trace, *prompt, *tokens, *token_type;
    const char *checkpoint, *resume, *save;
    text_list text;
    int64_t batch, sequence, steps, warmup, seed, evaluate_every, evaluate_batches, sample, checkpoint_every, keep, document_end;
    double learning_rate, learning_rate_end, weight_decay, max_norm;
    sampler how;                
    bool json, new_data;
} train_arguments;

typedef struct train_data {
    token_source train, evaluation;
    uint64_t hash;              /* of the training part */
    bool bytes;                 /* text, not tokens of a file */
    int32_t end;                /* of a document; -1: unknown */
    struct corpus corpus;       /* of text */
    token_file file;
} train_data;

typedef struct train_run {
    const train_arguments *arguments;
    int rank, ranks;
    bool stepping;              /* opened: from here on a call may fail on one rank alone */
    bool parted;                /* it has: the others may still wait for this rank */
    uint64_t seed;
    int64_t first_step, done;   /* steps that a checkpoint brought; steps done */
    bool stopped;               /* by a signal, before the last */
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    weft_plan *plan, *evaluation, *logits;  /* NULL where not asked for */
    weft_model_info info;
    train_data data;
    int32_t *tokens, *targets, *documents;  /* [batch][sequence]; documents: NULL where their ends are not known */
} train_run;

/* Collective, in this order; each returns an exit status, after one sentence on rank 0. */
int train_open(train_run *run, const context_arguments *context, const ranks *ranks);
int train_steps(train_run *run);
/* Loss on the evaluation part; of text beside byte models of order 1 to 3. */
int train_report(train_run *run);
int train_sample(train_run *run);
/* --save. */
int train_save(train_run *run);
void train_close(train_run *run);
/* The exit status of a call that failed. What all ranks have agreed on rank 0 says. A step fails on one rank
 * alone, which says it itself; so does each that has waited in vain. */
int train_fail(train_run *run, weft_status status);

/* ---- train_data.c ------------------------------------------------------------------------------------- */

/* Reads what --text or --tokens names; vocabulary: of the model. Local. */
int train_data_open(const train_arguments *arguments, int64_t vocabulary, train_data *out);
void train_data_close(train_data *data);
/* "1.23 M tokens", "640 bytes": an amount of this data. */
const char *train_data_amount(const train_data *data, int64_t count, char room[40]);
/* Window `row` of the batch: tokens from `first` on, each with the one after it as its target. */
void train_take_window(train_run *run, const token_source *source, int64_t row, int64_t first);
/* The batch of a step: a function of (seed, step), so that every rank draws the same windows, and a run that
 * is resumed the same as one that was not. */
void train_take_batch(train_run *run, int64_t step);

/* ---- train_evaluate.c ------------------------------------------------------------------------------------ */

weft_status train_evaluate(train_run *run, double *loss_out, int64_t *tokens_out);

/* ---- train_checkpoint.c ------------------------------------------------------------------------------------ */

/* --from and --resume: weights, optimizer state, steps done. After the plans are loaded. */
int train_restore(train_run *run);
/* Writes the state after `run->done` steps. */
int train_checkpoint(train_run *run);
/* Did a signal ask any rank to stop? Collective. */
int train_stop_asked(train_run *run, bool *stop_out);

#endif
