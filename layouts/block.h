/* block.h: a stack of Transformer layers as a case: one text, the same in bench, tune, logs and wisdom.
 *
 *     block:f32:b1s1024h1024a16kv16f4096:gelu.layernorm.causal:train
 *
 *     sizes   b sequences of s tokens, h hidden, a heads; kv heads (left out: a), d head size (h / a),
 *             f features (4 h), l layers (1), w a window of attention (none; one of s tokens hides none)
 *     flags   an activation; layernorm or rmsnorm; causal (left out: both ways); gated, rope, post-norm,
 *             no-bias (of all linear layers)
 *     phase   forward, or train: forward and backward, the optimizer not */
#ifndef WF_LAYOUTS_BLOCK_H
#define WF_LAYOUTS_BLOCK_H

#include "layouts/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_block {
    wf_model model;     /* whose layers these are; its vocabulary is the smallest */
    wf_shape shape;
    bool train;
} wf_block;

/* Does the text begin as a block's does? */
bool wf_block_is(const char *text);
/* WF_ERR_ARGUMENT points at the place. */
wf_status wf_block_parse(const char *text, wf_block *out);
/* Canonical: declared order, what would be filled in left out. */
void wf_block_print(const wf_block *, char *out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
#endif
