/* rows.h: what the row-wise and element-wise operations share: their two parameters, builders of
 * operands, access to the references' tensors. Internal to kernels/.
 *
 * Their simple kernels have one shape. A work-group of GROUP items owns one row (or one chunk of a
 * flat array, or one tile of columns); item i reads the vectors i, i + GROUP, ... of WIDTH
 * neighbouring elements, so a GPU's loads coalesce, and GROUP=1 makes a CPU walk along the row with
 * wide vectors and no barrier. Sums have one order: lanes of a vector, items of a group, then chunks. */
#ifndef WF_KERNELS_ROWS_H
#define WF_KERNELS_ROWS_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* GROUP and WIDTH, in this order, for every simple kernel of a row-wise operation. */
enum { WF_ROW_GROUP, WF_ROW_WIDTH, WF_ROW_PARAMETERS };
extern const wf_parameter wf_row_parameters[WF_ROW_PARAMETERS];
/* The same, and how many terms a group sums at least, for sums that are cut into chunks. */
enum { WF_ROW_CHUNK = WF_ROW_PARAMETERS, WF_CHUNK_PARAMETERS };
extern const wf_parameter wf_chunk_parameters[WF_CHUNK_PARAMETERS];
/* Group and local memory within the device's limits? */
bool wf_row_ok(const wf_problem *, const wf_candidate *, const wf_device *, const char **why);
/* For CPUs one item per group and the widest vectors: a core runs a group's items one after the
 * other, and each barrier costs it a pass over all of them. */
void wf_row_prefer(const wf_problem *, const wf_device *, wf_candidate *);
/* Elements that a group handles at once: GROUP * WIDTH. */
int64_t wf_row_span(const wf_candidate *);
/* Elements of a flat array that one group goes through, a multiple of the span. */
int64_t wf_flat_chunk(const wf_candidate *);
/* One launch of `groups` groups of GROUP items, without arguments yet. */
void wf_row_launch(wf_launch *, const char *entry, int64_t groups, const wf_candidate *);

/* ceil(a / b) for a >= 0, b > 0. */
int64_t wf_ceil_div(int64_t a, int64_t b);
/* How many pieces a long sum over n terms is cut into, each summed by groups of its own: at least
 * `least` terms each, at most 256 pieces, at least one piece. Of the problem only, so that the
 * order of the sum is. */
int64_t wf_sum_chunks(int64_t n, int64_t least);

wf_operand wf_flat_operand(const char *name, wf_access, wf_dtype, int64_t n);
wf_operand wf_matrix_operand(const char *name, wf_access, wf_dtype, int64_t rows, int64_t columns);
static inline wf_operand wf_vector_operand(const char *name, wf_access access, int64_t n) {
    return wf_flat_operand(name, access, WF_F32, n);
}
static inline wf_operand wf_rows_operand(const char *name, wf_access access, int64_t rows,
                                         int64_t columns) {
    return wf_matrix_operand(name, access, WF_F32, rows, columns);
}

/* Elements of the references' tensors. */
static inline double *wf_at1(const wf_tensor *t, int64_t i) {
    return (double *)t->data + i * t->stride[0];
}
static inline double *wf_at2(const wf_tensor *t, int64_t i, int64_t j) {
    return (double *)t->data + i * t->stride[0] + j * t->stride[1];
}
static inline double *wf_at3(const wf_tensor *t, int64_t i, int64_t j, int64_t k) {
    return (double *)t->data + i * t->stride[0] + j * t->stride[1] + k * t->stride[2];
}
static inline int32_t wf_id_at(const wf_tensor *t, int64_t i) {
    return ((const int32_t *)t->data)[i * t->stride[0]];
}

/* Unit roundoff of f32. */
#define WF_U 5.9604644775390625e-8
/* The bound of results that must be exact: too small for any wrong f32, and no zero to divide by. */
#define WF_EXACT 1e-60
/* Relative error allowed to an f32 sum of n terms, of the sum of their magnitudes. */
double wf_sum_error(int64_t n);
/* A row to be normalised: LayerNorm, or without beta and mean RMSNorm. */
typedef struct wf_norm_input {
    const double *x;
    int64_t stride, n;
    double eps;
    bool rms;
    const wf_tensor *gamma, *beta; /* of the whole row; NULL where only stats are asked for */
} wf_norm_input;
/* Bounds of y (may be NULL) and stats of a row whose elements are off by at most `input_error` (0:
 * exact). norm_ref.c */
void wf_norm_bounds(const wf_norm_input *, double input_error, double *y_bound,
                    double stats_bound[2]);
/* In f64: y (may be NULL) and stats. norm_ref.c */
void wf_norm_row(const wf_norm_input *, double *y, int64_t y_stride, double stats[2]);

/* References and tolerances, <op>_ref.c. */
#define WF_REFERENCE(op)                                                                           \
    void wf_##op##_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);        \
    void wf_##op##_tolerance(const wf_problem *, const wf_tensor *, int operand, double *bound);
WF_REFERENCE(norm)
WF_REFERENCE(norm_backward)
WF_REFERENCE(norm_wgrad)
WF_REFERENCE(reduce)
WF_REFERENCE(sum_rows)
WF_REFERENCE(embedding)
WF_REFERENCE(embedding_backward)
WF_REFERENCE(loss_stats)
WF_REFERENCE(loss_merge)
WF_REFERENCE(sum_squares)
WF_REFERENCE(grad_norm)
WF_REFERENCE(fill)
WF_REFERENCE(copy)
WF_REFERENCE(rope)
WF_REFERENCE(gate)
WF_REFERENCE(gate_backward)
WF_REFERENCE(activation)
#undef WF_REFERENCE
/* Those whose bounds depend on run-time values. */
void wf_loss_backward_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);
void wf_loss_backward_tolerance(const wf_problem *, const wf_tensor *, const wf_run_number *,
                                int operand, double *bound);
void wf_adamw_reference(const wf_problem *, const wf_tensor *, const wf_run_number *);
void wf_adamw_tolerance(const wf_problem *, const wf_tensor *, const wf_run_number *, int operand,
                        double *bound);

#ifdef __cplusplus
}
#endif
#endif
