/* table.h: the operations that kernels/operations.c puts into wf_operations[], one definition per
 * line in <op>.c, and the helpers that those files share. Internal to kernels/. */
#ifndef WF_KERNELS_TABLE_H
#define WF_KERNELS_TABLE_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const wf_operation wf_gemm_operation;
extern const wf_operation wf_attention_operation;
extern const wf_operation wf_attention_delta_operation;
extern const wf_operation wf_attention_backward_operation;
extern const wf_operation wf_norm_operation;
extern const wf_operation wf_norm_backward_operation;
extern const wf_operation wf_norm_wgrad_operation;
extern const wf_operation wf_reduce_operation;
extern const wf_operation wf_sum_rows_operation;
extern const wf_operation wf_embedding_operation;
extern const wf_operation wf_embedding_backward_operation;
extern const wf_operation wf_loss_stats_operation;
extern const wf_operation wf_loss_merge_operation;
extern const wf_operation wf_loss_backward_operation;
extern const wf_operation wf_adamw_operation;
extern const wf_operation wf_sum_squares_operation;
extern const wf_operation wf_grad_norm_operation;
extern const wf_operation wf_fill_operation;
extern const wf_operation wf_copy_operation;
extern const wf_operation wf_rope_operation;
extern const wf_operation wf_gate_operation;
extern const wf_operation wf_gate_backward_operation;
extern const wf_operation wf_activation_operation;

/* printf at the end of the string in `out`. A text that does not fit is a bug of the caller. */
void wf_append(char *out, size_t out_bytes, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
