/* cases.c: the one list of problems to try kernels with; see cases.h. */
#include "kernels/cases.h"

const char *const wf_cases[] = {
    /* transposes, an empty sum, accumulation */
    "gemm:f32:m1n1k1:nn",
    "gemm:f32:m64n64k64:nt",
    "gemm:f32:m37n41k43:tt",
    "gemm:f32:m17n19:nt.bias",
    "gemm:f32:m63n127k31:nn.accumulate",
    "gemm:f32:m127n65k129:tn.accumulate",
    "gemm:f32:m122n257k96:nt",
    /* epilogues */
    "gemm:f32:m65n33k17:nt.bias",
    "gemm:f32:m129n250k96:nt.bias.gelu_tanh",
    "gemm:f32:m61n83k96:nt.bias.gelu",
    "gemm:f32:m61n83k96:nt.relu",
    "gemm:f32:m61n83k96:nn.silu",
    "gemm:f32:m61n125k96:nn.act-grad.gelu_tanh",
    "gemm:f32:m61n125k96:nn.act-grad.gelu",
    "gemm:f32:m31n35k33:nn.act-grad.relu",
    "gemm:f32:m31n35k33:tn.act-grad.silu",

    /* one key; a tp rank's second half of the heads; grouped heads; keys of another rank; a window */
    "attention:f32:b1s1h1d8:causal",
    "attention:f32:b2s61h3d16ho3:causal.dropout:p=0.1",
    "attention:f32:b1s65h2kv1d64:causal",
    "attention:f32:b1s33h1d128",
    "attention:f32:b2s33t129h2d33po96:causal",
    "attention:f32:b1s70h1d16w17:causal",
    "attention_delta:f32:b2s61h3d16",
    "attention_delta:f32:b1s17h2d65:causal.dropout:p=0.1",
    "attention_backward:f32:b1s1t3h1d8po2:causal",
    "attention_backward:f32:b2s61h3d16ho3:causal.dropout:p=0.1",
    "attention_backward:f32:b1s65h2kv1d64:causal",
    "attention_backward:f32:b1s33h1d128",
    "attention_backward:f32:b2s33t129h2d33po96:causal",

    "norm:f32:rows1n1:eps=1e-05",
    "norm:f32:rows61n96:eps=1e-05",
    "norm:f32:rows3n1031:eps=1e-05",
    "norm_backward:f32:rows61n96",
    "norm_backward:f32:rows61n97:residual",
    "norm_wgrad:f32:rows61n96",
    "norm_wgrad:f32:rows257n31:accumulate",

    "reduce:f32:rows61n96parts1b1site3:bias.dropout.residual:p=0.1",
    "reduce:f32:rows62n96parts3b2pos7site3:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows31n97parts8b1",
    "reduce:f32:rows12n33parts2group4:bias",
    "sum_rows:f32:groups1per122n96",
    "sum_rows:f32:groups61per2n96:accumulate",

    /* a shard of the vocabulary that begins in the middle */
    "embedding:f32:rows122vocabulary129n96first128",
    "embedding_backward:f32:rows122vocabulary129n96first128",
    "loss_stats:f32:rows61vocabulary129first128",
    "loss_merge:f32:rows61parts3",
    "loss_backward:f32:rows61vocabulary129first128",

    "adamw:f32:n1021:decay",
    "adamw:f32:n1",
    "sum_squares:f32:n100003",
    "grad_norm:f32:n31",
    "fill:f32:rows7n33:value=1.5",
    "fill:i32:rows3n17:value=-7",
    "copy:f32:rows7n33",
    "copy:i32:rows3n17",
    NULL,
};
