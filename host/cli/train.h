/* train.h: one training run of the command: what was asked, what is open, what it does in order. */
#ifndef WEFT_CLI_TRAIN_H
#define WEFT_CLI_TRAIN_H

#include "host/cli/cli.h"
#include "host/cli/corpus.h"

typedef struct train_arguments {
    const char *model, *layout, *gemm, *trace, *prompt;
    text_list text;
    int64_t batch, sequence, steps, warmup, seed, evaluate_every, evaluate_batches, sample;
    double learning_rate, learning_rate_end, weight_decay, max_norm, temperature;
    bool json;
} train_arguments;

typedef struct train_run {
    const train_arguments *arguments;
    int rank;
    bool stepping;                          /* opened: from here on a call may fail on one rank alone */
    bool parted;                            /* it has: the others may still wait for this rank */
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    weft_plan *plan, *evaluation, *logits;  /* NULL where not asked for */
    weft_model_info info;
    struct corpus corpus;
    int32_t *tokens, *targets;              /* [batch][sequence] */
} train_run;

/* Collective, in this order; each returns an exit status, after one sentence on rank 0. */
int train_open(train_run *run, const context_arguments *context, const ranks *ranks);
int train_steps(train_run *run);
/* Loss on the evaluation part, beside byte models of order 1 to 3. */
int train_report(train_run *run);
int train_sample(train_run *run);
void train_close(train_run *run);

#endif
