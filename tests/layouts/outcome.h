/* outcome.h: a trial of layouts: a model, its weights and a batch, which every layout gets. All ranks of a layout are played in f64
 * (player.h), and what they leave is put together from their shards, to be compared with one rank's. */
#ifndef WF_TESTS_LAYOUTS_OUTCOME_H
#define WF_TESTS_LAYOUTS_OUTCOME_H

#include "layouts/lower.h"
#include "tests/layouts/player.h"
#include "tests/model_reference.h"

enum { MOST_RANKS = 12 };
/* In f64 sums in another order differ by some 1e-15 of the largest magnitude per step; this leaves room for the depth
 * of the model and none for a mistake. */
#define OUTCOME_TOLERANCE 1e-12

extern struct trial {
    wf_model model;
    wf_order order;             /* of the weights of layouts that are opened; rows unless a test says otherwise */
    int64_t batch, sequence, valid;
    int32_t *tokens, *targets;  /* [batch][sequence]; `valid` of the targets count */
    int32_t *documents;         /* likewise: whose token it is, or NULL */
    reference_tensors weights;
    uint64_t seed;              /* of dropout */
    uint64_t interleaving;      /* of the next play; printed on failure */
} trial;

/* What a run leaves, put together from all ranks' shards. */
typedef struct outcome {
    double loss, norm, *logits, *last, *hidden; /* [batch][sequence][...] */
    reference_tensors gradients, updated;
} outcome;

typedef struct world {
    wf_layout layout;
    wf_mode mode;
    int32_t ranks;
    int64_t b;
    wf_schedule *schedules[MOST_RANKS];
    player *player;
} world;

void open_world(world *, const char *layout, wf_mode, bool fusion);
void close_world(world *);
/* Plays a training step, or what the mode is; NULL, or a sentence about the first fault. */
const char *play(world *, bool obey);
void collect_tensors(const world *, const char *kind, reference_tensors *out);

/* Plays the layout; gathers what its mode leaves. Returns how far replicas are apart. */
double outcome_of(const char *layout, wf_mode, bool fusion, outcome *out);
void destroy_outcome(outcome *);

/* Largest difference over the largest magnitude; infinite where something is not a number. */
double difference(const double *a, const double *b, int64_t n);
void assert_tensors_close(const reference_tensors *expected, const reference_tensors *got, const char *what);
reference_batch batch_of(bool dropout);

#endif
