/* sizes.h: 64-bit arithmetic on sizes that says when it overflows. */
#ifndef WF_BASE_SIZES_H
#define WF_BASE_SIZES_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* *out = a + b, a * b. False (and *out unspecified) when the result does not fit. */
static inline bool wf_size_add(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline bool wf_size_multiply(int64_t a, int64_t b, int64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* Product of `n` extents. */
static inline bool wf_size_product(const int64_t *extents, int n, int64_t *out) {
    int64_t product = 1;
    for (int i = 0; i < n; i++)
        if (!wf_size_multiply(product, extents[i], &product)) return false;
    *out = product;
    return true;
}

/* `bytes` rounded up to a multiple of `unit` (> 0). */
static inline bool wf_size_round_up(int64_t bytes, int64_t unit, int64_t *out) {
    int64_t sum;
    if (!wf_size_add(bytes, unit - 1, &sum)) return false;
    *out = sum - sum % unit;
    return true;
}

#ifdef __cplusplus
}
#endif
#endif
