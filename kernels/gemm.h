/* gemm.h: what gemm.c and gemm_ref.c share. Internal to kernels/. */
#ifndef WF_KERNELS_GEMM_H
#define WF_KERNELS_GEMM_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the operands stand after A (0) and B (1); -1: the problem has none. */
typedef struct wf_gemm_index {
    int bias, pre, c;
} wf_gemm_index;
wf_gemm_index wf_gemm_operand_index(const wf_problem *problem);

void wf_gemm_reference(const wf_problem *, const wf_tensor *operands, const wf_run_number *run);
void wf_gemm_tolerance(const wf_problem *, const wf_tensor *operands, int operand, double *bound);

#ifdef __cplusplus
}
#endif
#endif
