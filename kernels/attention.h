/* attention.h: attention's sizes by name, which keys a query sees, and the functions that
 * attention.c's table takes from attention_ref.c and attention_bound.c. Internal to kernels/. */
#ifndef WF_KERNELS_ATTENTION_H
#define WF_KERNELS_ATTENTION_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_attention {
    int64_t b, s, kv, hq, hkv, d, head0, heads, pos0, kpos0, site, window;
    int64_t per_kv;   /* query heads that read one kv head, of the whole model */
    int64_t lead;     /* query heads of the first group that other shards have */
    int64_t low, high; /* query i sees the keys clamp(i + low, 0, kv) <= j < clamp(i + high, 0, kv), in its document */
    int qspan, output; /* operands of ATTENTION and its backward: qspan, if there; the first output */
    bool dropout, accumulate, documents;
    double p;
} wf_attention;

wf_attention wf_attention_sizes(const wf_problem *problem);

/* Which of the kv heads here a query head reads. */
static inline int64_t wf_attention_kv_head(const wf_attention *a, int64_t head) {
    return (a->lead + head) / a->per_kv;
}

typedef struct wf_keys {
    int64_t first, end;
} wf_keys;
/* operands: the problem's; looked at with documents only. */
wf_keys wf_attention_keys(const wf_attention *a, const wf_tensor *operands, int64_t sample, int64_t query);

/* 0, or 1/(1-p) where the element is kept; 1 without dropout. */
double wf_attention_keep(const wf_attention *a, const wf_run_number *run, int64_t sample,
                         int64_t head, int64_t query, int64_t key);

/* Element (position, sample, head, e) of a 4-D operand; (sample, head, position) of a 3-D one. */
double *wf_attention_at(const wf_tensor *x, int64_t position, int64_t sample, int64_t head,
                        int64_t e);
double *wf_attention_row(const wf_tensor *x, int64_t sample, int64_t head, int64_t position);

void wf_attention_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);
void wf_attention_delta_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);
void wf_attention_backward_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);

void wf_attention_bound(const wf_problem *, const wf_tensor *, const wf_run_number *, int operand,
                        double *bound);
void wf_attention_delta_bound(const wf_problem *, const wf_tensor *, int operand, double *bound);
void wf_attention_backward_bound(const wf_problem *, const wf_tensor *, const wf_run_number *,
                                 int operand, double *bound);

#ifdef __cplusplus
}
#endif
#endif
