/* lower.h: (model, shape, layout, rank) -> logical steps over named buffers; then choose. Pure. */
#ifndef WF_LAYOUTS_LOWER_H
#define WF_LAYOUTS_LOWER_H

#include "layouts/model.h"
#include "layouts/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_mode {
    WF_MODE_TRAIN,      /* forward, backward, gradient norm, AdamW */
    WF_MODE_GRADIENTS,  /* forward and backward only: gradients stay in their slots, no optimizer */
    WF_MODE_EVALUATE,   /* forward with loss, no dropout */
    WF_MODE_LOGITS,     /* forward, no dropout; every rank gets all logits in the slot "logits" */
    WF_MODE_HIDDEN,     /* forward, no dropout; every rank gets the last hidden states, after the final
                         * norm where there is one, in the slot "hidden.all" */
    WF_MODES
} wf_mode;

/* Slots that the caller binds or fills, besides parameters, "<parameter>.grad", "<parameter>.m", "<parameter>.v":
 *   "tokens"  i32, count = microbatches, rows position-major (b: samples per microbatch of this dp rank), of the
 *             rank's positions (wf_model_positions): all, unless cp splits the sequence
 *   "targets" i32, likewise; negative: not counted
 *   "loss"    f32 [2]: sum over valid tokens of this run (all microbatches), unused
 *   "clip"    f32 [2]: gradient norm, scale (TRAIN)
 *   "logits"  f32 [s*b, vocabulary] (LOGITS)
 *   "hidden"  f32 rows of the last layer's output on this rank (GRADIENTS; for tests)
 *   "hidden.all" f32 [s*b, hidden], count = microbatches (HIDDEN)
 *   "documents" i32 [s*b, 2], count = microbatches (shape.documents): where the document of each token of the whole sequence begins
 *             and ends, as positions; likewise of a block stack, whose count is 1: FORWARD reads it, and keeps a copy for BACKWARD
 *   "places"  i32, like tokens: positions counted from the document's first token (shape.documents, learned positions)
 *   "rope"    f32 [positions, head_size]: row i is wf_model_rope's of the rank's i-th position (rotary positions)
 * A model without a head has mode HIDDEN only. */
wf_status wf_lower(const wf_model *, const wf_shape *, const wf_layout *, int32_t rank, wf_mode, wf_schedule **out);

/* A stack of blocks without embedding and head: hidden states in, hidden states out. One microbatch;
 * the program is in phases (schedule->phases), which its caller plays in any sensible order:
 *   FORWARD          "in.x" -> "out.y"
 *   BACKWARD_FIRST   "in.dy" -> "out.dx"; gradients of weights are written
 *   BACKWARD         the same; they are added to
 *   FINISH           sums over tp what each rank has seen of them (empty where there is nothing to sum)
 *   OPTIMIZE         gradient norm of the layers ("clip"), AdamW
 * by mode: EVALUATE has FORWARD alone, without dropout; GRADIENTS all but OPTIMIZE; TRAIN all.
 * "in.x" and so on are slots of WF_OWNER_CALLER, f32 [own rows, hidden]: all rows of the microbatch,
 * position-major, under sp those of the rank's positions. What forward keeps for backward is of
 * WF_OWNER_STASH. layouts/lower_blocks.c */
wf_status wf_lower_blocks(const wf_model *, const wf_shape *, const wf_layout *, int32_t rank, wf_mode, wf_schedule **out);

/* What tuning, or the defaults, decided. A candidate per problem is asked for by function, so that
 * layouts knows no wisdom; `candidate` returns the candidate and its workspace. Must be the same on
 * all ranks whenever the problems are. */
typedef struct wf_choices {
    wf_status (*candidate)(void *context, const wf_problem *, wf_candidate *out, int64_t *workspace_bytes_out);
    void *context;
    bool no_fusion;                 /* for tests */
    /* Transport between this rank and `peer`, as found by self-test or forced. slots: what is sent may be a slot, which lies in
     * memory that no window holds. */
    wf_transport_kind (*transport)(void *context, int32_t peer, bool slots);
    /* Do kernels of the two read each other's window where it lies? The same answer on both. NULL: none do. */
    bool (*in_place)(void *context, int32_t peer);
} wf_choices;
/* Fuses, asks for candidates, adds workspace views, sets transports; buffers that are sent over a
 * window move to WF_SPACE_WINDOW. NULL functions: simple variants, no transport. */
wf_status wf_choose(wf_schedule *, const wf_choices *);
/* Its last part: parts of a reduce-scatter that a window carries are read where they lie. layouts/in_place.c */
void wf_read_in_place(wf_schedule *, const wf_choices *);

/* Human-readable schedule of each distinct segment: what is computed, exchanged, fused, kept, on
 * which lane. Returns a malloc'ed text. */
wf_status wf_explain(const wf_schedule *, char **text_out);

#ifdef __cplusplus
}
#endif
#endif
