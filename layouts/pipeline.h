/* pipeline.h: programs whose order is not plain: pipelines over microbatches, and weights that are
 * gathered ahead. Generators write the calls and take instances from free lists, so any order gives
 * the exact high-water mark of its pools; lowering brings the segments. Pure.
 *
 * Sources: GPipe (Huang et al. 2019); 1F1B with weight stashing: PipeDream (Narayanan et al. 2019);
 * 1F1B with flush, interleaved: Narayanan et al. 2021; ZeRO-3: Rajbhandari et al. 2020. */
#ifndef WF_LAYOUTS_PIPELINE_H
#define WF_LAYOUTS_PIPELINE_H

#include "layouts/build.h"
#include "layouts/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_pipeline_shape {
    int32_t form;               /* wf_pipeline; NONE: as 1F1B (one stage: forward, backward, in turn) */
    int32_t stages, stage;
    int32_t chunks;             /* virtual stages per stage; more than 1: 1F1B only, microbatches % stages == 0 */
    int32_t microbatches;
} wf_pipeline_shape;

typedef struct wf_pipeline_item {
    bool backward;
    int32_t chunk, microbatch;
} wf_pipeline_item;

/* WF_ERR_ARGUMENT with a sentence when the form does not take this shape. items_out: what this stage
 * does, in order; 2 * chunks * microbatches entries. */
wf_status wf_pipeline_order(const wf_pipeline_shape *, wf_pipeline_item *items_out);

/* What the program calls; -1: leave this call out. By which index each segment reaches what:
 *   embed            writes X_OUT            receive_forward  writes X_OUT
 *   forward          X_IN -> X_OUT, SAVED    send_forward     reads X_IN
 *   head             X_IN -> DX_OUT          receive_backward writes DX_OUT
 *   backward, _first DX_IN -> DX_OUT, SAVED  send_backward    reads DX_IN
 *   embed_backward   reads DX_IN
 *   head_first, backward_first, embed_backward_first: the same where a gradient holds nothing yet
 *   update           PipeDream: after each backward of a layer: weights X_IN -> WEIGHTS
 *   sums_send, sums  of gradients over ranks, after the last microbatch's backward of a layer: the exchanges, and, when the
 *                    next layer's backward has hidden these, the sums
 * layer: global. WEIGHTS: the layer's place among this stage's layers; of PipeDream its version's
 * instance (those of the first version are 0, 1, ... in that order).
 * keep_x: a layer's backward reads its input, too, by X_IN, which is therefore kept until then.
 * An evaluation has no backward segments (-1): its program is forwards and heads. */
typedef struct wf_pipeline_segments {
    int32_t embed, forward, head, head_first, backward, backward_first, embed_backward, embed_backward_first, update;
    int32_t sums_send, sums;
    int32_t receive_forward, send_forward, receive_backward, send_backward;
    bool keep_x;
} wf_pipeline_segments;

/* High-water marks: the counts of the pools behind each index. */
typedef struct wf_pipeline_counts {
    int32_t x, dx, saved, weights;
} wf_pipeline_counts;

/* Layers go to chunks of stages as wf_shard cuts them, chunk 0 of all stages first. Appends the
 * calls of one step. */
wf_status wf_pipeline_program(wf_schedule *, const wf_pipeline_shape *, int32_t layers,
                              const wf_pipeline_segments *, wf_pipeline_counts *counts_out);

/* n uses of gathered weights in order: calls gather[k] `ahead` uses before use[k]; both get one
 * instance in at[WF_AT_WEIGHTS]. Returns the pool's count. */
int32_t wf_gathered_program(wf_schedule *, const wf_call *gather, const wf_call *use, int32_t n, int32_t ahead);

#ifdef __cplusplus
}
#endif
#endif
