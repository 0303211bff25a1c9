/* context_support.h: what context_ranks.c tries its combinations with: a context for each transport, a plan of the case of the
 * moment on this rank, what a run of it leaves, and how that is held against one rank.
 *
 * A stage is one check. Ranks note what they find with `expect`, which does not communicate; `conclude` ends the stage
 * for all of them together. */
#ifndef WF_TESTS_CONTEXT_SUPPORT_H
#define WF_TESTS_CONTEXT_SUPPORT_H

#include "host/api/objects.h"
#include "host/api/weft_mpi.h"
#include "tests/context_matrix.h"

extern int rank, ranks, checks, failures;
extern context_case now;
extern char stage[200];     /* the combination, or what else is tried */
extern double worst_seen;   /* of all values that passed, in units of their tensors' largest magnitudes */

/* ---- verdicts -------------------------------------------------------------------------------------------------------- */

void __attribute__((format(printf, 2, 3))) expect(bool fine, const char *format, ...);
/* Ends a stage: it fails if any rank has something to say. */
void conclude(void);
/* Ends a stage in which a rank must have something to say. */
void conclude_seen(void);
/* A call that must succeed for anything after it to make sense. */
void must(weft_status, const char *what);

/* ---- contexts and plans ---------------------------------------------------------------------------------------------- */

enum { TRANSPORTS = 3 };
extern const char *const transports[TRANSPORTS];
extern weft_context *contexts[TRANSPORTS];
void open_contexts(void);
void close_contexts(void);
int64_t bytes_sent(const weft_context *, const char *transport);

typedef struct program {
    weft_model *model;
    weft_layout *layout;
    weft_context *context;
    weft_params *params;        /* with the case's weights */
    weft_plan *plan;            /* of its gradients; loaded */
} program;
weft_model_options model_options(const wf_model *);
weft_plan_options plan_options(const weft_model *, const weft_layout *);
void open_program(program *, weft_context *, const char *layout);
void open_ordered_program(program *, weft_context *, const char *layout, weft_order);
void close_program(program *);

/* ---- runs ------------------------------------------------------------------------------------------------------------ */

typedef struct outcome {
    double loss;
    int64_t n, nlast;
    float *gradients;           /* of all tensors, whole */
    float *last;                /* this rank's rows of the last layer's output */
} outcome;
outcome run(program *);
void forget(outcome *);
bool same_bits(const outcome *, const outcome *);
/* Against what one rank makes of the case. */
void compare_truth(const program *, const outcome *);
/* What a rank holds of the gradients is what the others hold of the same tensors: a step would part them. */
void compare_replicas(weft_params *, const float *gradients);

#endif
