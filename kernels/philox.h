/* philox.h: Philox4x32-10 on global indices (Salmon, Moraes, Dror, Shaw: "Parallel random numbers:
 * as easy as 1, 2, 3", SC'11), the one source of randomness: dropout masks and initial weights are
 * functions of (seed, step, layer, site, global element), so they are the same under every layout.
 *
 * key     = fold(seed, step): one Philox block with key (seed low, seed high) and counter
 *           (step low, step high, 0, 0x77656674 "weft"); its first two words.
 * counter = { site | layer << 8,  c1, c2, c3 }; a block's four words serve four neighbours in the
 *           last dimension: c3 = column / 4, word = column % 4.
 *   hidden dropout:    c1 = sample,                 c2 = position, c3 = column / 4
 *   attention dropout: c1 = sample * heads + head,  c2 = query position, c3 = key position / 4
 *   initial weights:   c1 = row low, c2 = row high, c3 = column / 4   (key: step = -1)
 * keep    : word >= threshold(p), threshold = (uint32) floor(p * 2^32); kept values are scaled by 1/(1-p).
 * The kernels' twin is philox.clh. */
#ifndef WF_KERNELS_PHILOX_H
#define WF_KERNELS_PHILOX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void wf_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
void wf_philox_key(uint64_t seed, int64_t step, uint32_t key_out[2]);
uint32_t wf_philox_threshold(double p);
/* 1 if kept. */
int wf_dropout_keep(const uint32_t key[2], uint32_t site, uint32_t layer, uint32_t c1, uint32_t c2,
                    int64_t column, uint32_t threshold);
/* Standard normal deviate of element (row, column) of tensor `site` of `layer`, by integer and f64
 * arithmetic that does not depend on a math library. */
double wf_philox_normal(const uint32_t key[2], uint32_t site, uint32_t layer, int64_t row, int64_t column);
/* The same of `count` neighbours in a row, from `column` on. */
void wf_philox_normals(const uint32_t key[2], uint32_t site, uint32_t layer, int64_t row, int64_t column, int64_t count,
                       double *out);

/* Sites of dropout and initialisation (8 bits). */
enum wf_site_id {
    WF_SITE_EMBEDDING = 1, WF_SITE_ATTENTION, WF_SITE_ATTENTION_OUT, WF_SITE_MLP_OUT,
    WF_SITE_INIT = 64 /* + index of the tensor in the parameter table */
};

#ifdef __cplusplus
}
#endif
#endif
