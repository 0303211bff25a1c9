/* gpt_reference.h: a GPT-2 forward and backward in plain f64 C: the judge of schedules and devices.
 *
 * It knows no schedule, no layout and no kernel: one sample at a time, every activation kept, the
 * textbook's formulas (Radford et al., "Language models are unsupervised multitask learners", 2019;
 * pre-norm blocks, learned positions, head tied to the embedding). From the project it takes only
 * the model as a value and Philox, whose definition of the masks it shares by contract. */
#ifndef WF_TESTS_GPT_REFERENCE_H
#define WF_TESTS_GPT_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Weights or gradients: one array per row of the parameter table, by wf_tensor_id; [rows][columns]
 * as in the table (linear weights are [out][in], QKV rows are q then k then v), and for tensors of
 * a layer [layers][rows][columns]. */
typedef struct gpt_tensors {
    double *data[WF_TENSORS];
} gpt_tensors;

typedef struct gpt_batch {
    int64_t batch, sequence;
    const int32_t *tokens, *targets;    /* [batch][sequence]; a negative target is not counted */
    int64_t sample0;                    /* global index of sample 0, for dropout's masks */
    uint64_t seed;                      /* of dropout */
    int64_t step;
    bool dropout;                       /* false: evaluation, whatever the model's rates */
} gpt_batch;

/* Elements of a tensor, all layers together. */
int64_t gpt_tensor_count(const wf_model *, int tensor);
gpt_tensors gpt_tensors_create(const wf_model *);   /* zeros */
void gpt_tensors_destroy(gpt_tensors *);
/* The model's initial weights, as params are initialised: normals by Philox, ones, zeros. */
void gpt_initialise(const wf_model *, uint64_t seed, gpt_tensors *);

/* Mean loss over the valid targets (0 if there is none). Where not NULL: logits [batch][sequence]
 * [vocabulary]; hidden [batch][sequence][hidden], the last block's output before the final norm;
 * gradients of the mean loss, written (not added). */
double gpt_reference(const wf_model *, const gpt_tensors *weights, const gpt_batch *,
                     double *logits, double *hidden, gpt_tensors *gradients);

#ifdef __cplusplus
}
#endif
#endif
