/* context_matrix.h: what splitting a sequence is tried with: layouts x masks x heads x sequences, generated, for all who try
 * it: tests/layouts/check_context.c in f64 without a device, tests/host/context_ranks.c on devices under mpirun.
 *
 * A case is a model of one layer in which nothing divides, its weights, a batch, and what one rank makes of it: the plain
 * model of tests/model_reference.h. Weights are f32 values, so that a device starts from the same numbers. */
#ifndef WF_TESTS_CONTEXT_MATRIX_H
#define WF_TESTS_CONTEXT_MATRIX_H

#include "tests/model_reference.h"

enum { CONTEXT_BATCH = 2, CONTEXT_LONGEST = 130, CONTEXT_SEED = 7 /* of dropout */ };

typedef struct context_mask {
    const char *name;
    bool bidirectional;
    int64_t window;
    bool packed;                /* with documents */
} context_mask;
static const context_mask context_masks[] = {{"causal", false, 0, false},  {"full", true, 0, false},
                                             {"window 37", false, 37, false}, {"window 9, both ways", true, 9, false},
                                             {"packed", false, 0, true},   {"packed, window 9, both ways", true, 9, true}};

/* Heads as such, grouped, and one for all; the first with learned positions, the others with rotary ones. */
static const struct context_heads {
    int64_t heads, kv_heads;
} context_heads[] = {{5, 5}, {6, 2}, {8, 1}};

/* The first is shorter than twice the ranks: some have no token. */
static const int64_t context_sequences[] = {5, 61, 64, CONTEXT_LONGEST};
static const int context_ranks[] = {2, 3, 4, 6};

enum {
    CONTEXT_MASKS = sizeof context_masks / sizeof *context_masks,
    CONTEXT_HEADS = sizeof context_heads / sizeof *context_heads,
    CONTEXT_SEQUENCES = sizeof context_sequences / sizeof *context_sequences,
    CONTEXT_RANKS = sizeof context_ranks / sizeof *context_ranks,
    CONTEXT_MODELS = CONTEXT_MASKS * CONTEXT_HEADS * CONTEXT_SEQUENCES
};

/* ---- layouts --------------------------------------------------------------------------------------------------------- */

/* How the rest of the ranks is used: 1: there is no rest, 2 to 4: ring, gather, ulysses; CONTEXT_USP + M: uspM. */
enum { CONTEXT_NO_FORM = 1, CONTEXT_RING, CONTEXT_GATHER, CONTEXT_ULYSSES, CONTEXT_USP };
typedef enum context_tp { CONTEXT_TP1, CONTEXT_TP2, CONTEXT_TP2_SP, CONTEXT_TPS } context_tp;
typedef struct context_layout {
    int32_t tp, form;
    char text[48];
} context_layout;

/* All that use so many ranks, which need not be among context_ranks; malloc'ed. Returns their number. */
int context_layouts(int ranks, context_layout **out);

/* ---- models ---------------------------------------------------------------------------------------------------------- */

/* Of which rows of the tables the i-th of CONTEXT_MODELS is. */
typedef struct context_rows {
    int mask, heads, sequence;
} context_rows;
context_rows context_rows_of(int i);

typedef struct context_case {
    char name[64];              /* "causal, 6 heads of 2, 61 tokens" */
    wf_model model;
    int32_t tokens[CONTEXT_BATCH * CONTEXT_LONGEST], targets[CONTEXT_BATCH * CONTEXT_LONGEST];
    bool packed;                /* documents of 1 to 24 tokens, which end anywhere */
    int32_t documents[CONTEXT_BATCH * CONTEXT_LONGEST];
    reference_batch batch;      /* of these, with dropout */
    int64_t valid;              /* targets that count: a power of 2, so that 1 / valid is exact in f32 */
    reference_tensors weights;
    double loss, *last;         /* with dropout; the last layer's output, [batch][sequence][hidden] */
    reference_tensors gradients;
} context_case;

/* Of the i-th model; the case stays where it is until it is closed. */
void context_case_open(context_case *, int i);
/* What one rank makes of it, anew: after a change of the model or the weights. */
void context_case_solve(context_case *);
void context_case_close(context_case *);

#endif
