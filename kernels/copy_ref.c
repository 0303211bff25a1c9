/* copy_ref.c: FILL and COPY for the references' tensors: f64, or int32 where the problem is i32. */
#include "kernels/rows.h"

static int32_t *integer_at(const wf_tensor *t, int64_t i, int64_t j) {
    return (int32_t *)t->data + i * t->stride[0] + j * t->stride[1];
}

/* An f32 problem writes the f32 nearest to `value`. */
void wf_fill_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[0]; i++)
        for (int64_t j = 0; j < p->size[1]; j++) {
            if (p->dtype == WF_I32) *integer_at(&t[0], i, j) = (int32_t)p->real[0];
            else *wf_at2(&t[0], i, j) = (float)p->real[0];
        }
}

void wf_copy_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    for (int64_t i = 0; i < p->size[0]; i++)
        for (int64_t j = 0; j < p->size[1]; j++) {
            if (p->dtype == WF_I32) *integer_at(&t[1], i, j) = *integer_at(&t[0], i, j);
            else *wf_at2(&t[1], i, j) = *wf_at2(&t[0], i, j);
        }
}

void wf_fill_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    for (int64_t i = 0; i < p->size[0] * p->size[1]; i++) bound[i] = WF_EXACT;
}

void wf_copy_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    wf_fill_tolerance(p, t, operand, bound);
}
