/* model_reference.h: a Transformer's forward and backward in plain f64 C: the judge of schedules and
 * devices.
 *
 * It knows no schedule, no layout and no kernel: one sample at a time, every activation kept, the
 * textbook's formulas, for every form that a wf_model describes: GPT-2 (Radford et al. 2019), Llama
 * (Touvron et al. 2023: RMSNorm, rotary positions, gated MLP, grouped queries), BERT (Devlin et al.
 * 2018: norms after the sums, both directions, types, a transform before the vocabulary), Mistral (Jiang et
 * al. 2023: a window); and for packed documents, which do not see each other. From the project it takes only the model as a value and Philox, whose definition of the masks it shares by
 * contract. */
#ifndef WF_TESTS_MODEL_REFERENCE_H
#define WF_TESTS_MODEL_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Weights or gradients: one array per row of the parameter table, by wf_tensor_id; [rows][columns]
 * as in the table (linear weights are [out][in], QKV rows are q, then k, then v, gated fc1 rows are
 * gate, then up), and for tensors of a layer [layers][rows][columns]. */
typedef struct reference_tensors {
    double *data[WF_TENSORS];
} reference_tensors;

typedef struct reference_batch {
    int64_t batch, sequence;
    const int32_t *tokens, *targets;    /* [batch][sequence]; a negative target is not counted */
    const int32_t *documents;           /* [batch][sequence]: the document of each token; NULL: one. Learned positions are
                                         * counted from a document's first token */
    int64_t sample0;                    /* global index of sample 0, for dropout's masks */
    uint64_t seed;                      /* of dropout */
    int64_t step;
    bool dropout;                       /* false: evaluation, whatever the model's rates */
} reference_batch;

/* Each is left out where NULL. */
typedef struct reference_outputs {
    double *logits;                     /* [batch][sequence][vocabulary] */
    double *last;                       /* [batch][sequence][hidden]: the last block's output */
    double *hidden;                     /* the same after the final norm, where there is one */
} reference_outputs;

/* Elements of a tensor, all layers together; 0: the model has none. */
int64_t reference_count(const wf_model *, int tensor);
reference_tensors reference_tensors_create(const wf_model *);   /* zeros */
                                           void reference_tensors_destroy(reference_tensors *);
/* The model's initial weights, as params are initialised: normals by Philox, ones, zeros. */
void reference_initialise(const wf_model *, uint64_t seed, reference_tensors *);

/* Mean loss over the valid targets (0 if there is none). outputs may be NULL. gradients, where not
 * NULL: of the mean loss, written (not added). A model without a head has neither logits nor loss. */
double model_reference(const wf_model *, const reference_tensors *weights, const reference_batch *,
                       const reference_outputs *, reference_tensors *gradients);

/* The layers alone, of batch's samples (its tokens and targets are not looked at): x -> y, all of [batch][sequence]
 * [hidden]. Where gradients is not NULL: dx from dy, and the gradients of the layers' tensors, written; the
 * others are 0. */
void reference_blocks(const wf_model *, const reference_tensors *weights, const reference_batch *, const double *x, double *y,
                      const double *dy, double *dx, reference_tensors *gradients);

#ifdef __cplusplus
}
#endif
#endif
