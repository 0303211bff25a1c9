/* operation.h: what a device computes, as data.
 *
 * An operation is a problem (an operation with its sizes), a plain C reference in f64, and a table
 * of variants. Executor, tuner, tests and benchmarks read these tables; none of them knows an
 * operation's sizes or a candidate's parameters by name. Nothing here touches a device.
 *
 * How a problem becomes launches: the schedule's step has one view per operand of the problem, in
 * the operand order that `operands` gives. A variant's `launches` writes down, as data, the entry
 * points to run, their geometry and their arguments; host/run resolves views to (memory, offset,
 * strides) and run-time values, and submits. */
#ifndef WF_KERNELS_OPERATION_H
#define WF_KERNELS_OPERATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/machine.h"
#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- problems -------------------------------------------------------------------------------- */

typedef enum wf_op {
    WF_OP_GEMM,               /* kernels/gemm.c */
    WF_OP_ATTENTION,          /* kernels/attention.c (and the two below) */
    WF_OP_ATTENTION_DELTA,
    WF_OP_ATTENTION_BACKWARD,
    WF_OP_NORM,               /* kernels/norm.c (and the two below) */
    WF_OP_NORM_BACKWARD,
    WF_OP_NORM_WGRAD,
    WF_OP_REDUCE,             /* kernels/reduce.c */
    WF_OP_SUM_ROWS,           /* kernels/sum_rows.c */
    WF_OP_EMBEDDING,          /* kernels/embedding.c (and backward) */
    WF_OP_EMBEDDING_BACKWARD,
    WF_OP_LOSS_STATS,         /* kernels/cross_entropy.c: vocabulary-parallel cross-entropy */
    WF_OP_LOSS_MERGE,
    WF_OP_LOSS_BACKWARD,
    WF_OP_ADAMW,              /* kernels/adamw.c */
    WF_OP_SUM_SQUARES,        /* kernels/grad_norm.c (and the one below) */
    WF_OP_GRAD_NORM,
    WF_OP_FILL,               /* kernels/copy.c */
    WF_OP_COPY,
    WF_OP_ROPE,               /* kernels/rope.c */
    WF_OP_GATE,               /* kernels/gate.c (and the two below) */
    WF_OP_GATE_BACKWARD,
    WF_OP_ACTIVATION,
    WF_OPS
} wf_op;

typedef enum wf_dtype { WF_F32, WF_I32, WF_F64 /* references only */, WF_DTYPES } wf_dtype;
int64_t wf_dtype_bytes(wf_dtype dtype);

/* Activations, one row of kernels/activation.c each (name, f, f') and one #if in activation.clh. */
typedef enum wf_activation {
    WF_ACT_NONE, WF_ACT_GELU_TANH, WF_ACT_GELU, WF_ACT_RELU, WF_ACT_SILU, WF_ACTS
} wf_activation;

/* Flags of problems; which an operation takes stands in its contract below. */
enum {
    WF_ACCUMULATE = 1u << 0, /* outputs are added to, in f32 */
    WF_BIAS       = 1u << 1,
    WF_ACTIVATE   = 1u << 2, /* GEMM: C = act(...) ; also writes the pre-activation */
    WF_ACT_GRAD   = 1u << 3, /* GEMM: C = (...) * act'(pre) */
    WF_DROPOUT    = 1u << 4,
    WF_RESIDUAL   = 1u << 5,
    WF_NORM       = 1u << 6, /* REDUCE: also the LayerNorm of the result */
    WF_CAUSAL     = 1u << 7,
    WF_TRANS_A    = 1u << 8, /* GEMM: A is stored [k,m] instead of [m,k] */
    WF_TRANS_B    = 1u << 9, /* GEMM: B is stored [n,k] instead of [k,n] */
    WF_DECAY      = 1u << 10, /* ADAMW: weight decay applies */
    WF_RMS        = 1u << 11, /* NORM, NORM_BACKWARD, NORM_WGRAD, REDUCE: RMSNorm */
    WF_INVERSE    = 1u << 12, /* ROPE: rotates back */
    WF_PANELS_B   = 1u << 13, /* GEMM: the matrix that B is or transposes lies in panels (order.h) */
    WF_PANELS_C   = 1u << 14, /* GEMM: the transpose of C lies in panels */
    WF_DOCUMENTS  = 1u << 15  /* ATTENTION...: the sequence is several documents */
};

#define WF_SIZES 13
#define WF_REALS 2
/* A plain value without padding: compared and hashed by its bytes, so always start from = {0}.
 * size[] and real[] mean what the operation's size_names / real_names say. */
typedef struct wf_problem {
    int32_t op;         /* wf_op */
    int32_t dtype;      /* wf_dtype of the floating-point operands */
    uint32_t flags;
    int32_t activation; /* wf_activation, where ACTIVATE or ACT_GRAD */
    int64_t size[WF_SIZES];
    double real[WF_REALS];
} wf_problem;

/* ---- contracts of the operations ---------------------------------------------------------------
 *
 * size[] and real[] are in the order given here.
 * Notation: operands "reads | updates | writes" in this order; updates are read and written (an
 * ACCUMULATE output is an update, else a write). All matrices are row-major with any row stride,
 * last dimension contiguous (stride 1) unless said. Rows of activations are tokens in
 * position-major order, row = position * b + sample (Megatron's [s, b, h]), so a shard of the
 * sequence is one contiguous block. Extents of 0 are legal: an output with no element launches
 * nothing; k = 0 is an empty sum.
 *
 * GEMM           size {m, n, k}: C[m,n] = epilogue(sum_k A B)
 *   reads  A[m,k] (TRANS_A: [k,m]), B[k,n] (TRANS_B: [n,k]), BIAS: bias[n], ACT_GRAD: pre[m,n]
 *   writes C[m,n] (update if ACCUMULATE), ACTIVATE: pre[m,n]
 *   epilogue, in this order: sum; +C if ACCUMULATE; +bias; then ACTIVATE: pre = v, C = act(v);
 *   or ACT_GRAD: C = v * act'(pre).
 *   PANELS_B: B's operand is a weight in panels of 32 rows (order.h), a matrix of 32 columns:
 *   B[p,j] is weight[j,p] with TRANS_B: B[ceil(n/32) k, 32], element (j / 32 * k + p, j % 32); else
 *   weight[p,j]: B[ceil(k/32) n, 32], element (p / 32 * n + j, p % 32). Its padding is not read.
 *   PANELS_C: C^T in panels, C[ceil(n/32) m, 32], C[i,j] at (j / 32 * m + i, j % 32): a weight's gradient,
 *   made transposed so that stores are contiguous. Padding is written 0, or stays if ACCUMULATE.
 *   Goes with ACCUMULATE and TRANS_A only.
 * ATTENTION      size {b, s, kv (length of keys), hq, hkv, d, head0, heads, pos0, kpos0, site,
 *   window (0: none), group}
 *   real {dropout p}; flags CAUSAL, DROPOUT, ACCUMULATE, DOCUMENTS. softmax(Q K^T / sqrt(d)) V, never storing s x kv.
 *   reads  Q[s,b,hq,d], K[kv,b,hkv,d], V[kv,b,hkv,d] (4 extents, any strides of the first three),
 *          DOCUMENTS: qspan i32 [s,b,2]
 *   writes O[s,b,hq,d], lse[b,hq,s] (natural log of the row's sum of exponentials; -inf: no key)
 *   ACCUMULATE: updates O and lse, those of other keys, to those of all: one softmax over keys that come in
 *   pieces, in any order. lse = -inf: no key yet, and O, whatever it holds, counts as 0. A row that sees none of
 *   these keys keeps its bits. Dropout acts on these keys' P, not on the sums, so that pieces agree with the whole.
 *   Query i has global position pos0+i, key j kpos0+j; CAUSAL keeps kpos0+j <= pos0+i; a window w keeps
 *   (pos0+i) - (kpos0+j) < w, and without CAUSAL the same the other way. Query head g
 *   reads kv head (head0 % group + g) / group of those that are here; group: query heads per kv head of
 *   the whole model, so that a shard of the query heads need not begin where a group begins (0: hq / hkv,
 *   and it does). A kv head's gradient sums over the query heads that are here and read it.
 *   Dropout: element (sample, head0+g of `heads`, pos0+i, kpos0+j).
 *   DOCUMENTS: a query sees, of what mask and window leave, the keys of its document: global positions
 *   qspan[i,sample,0] <= kpos0+j < qspan[i,sample,1]. Documents are stretches of positions, in their order, each sample's
 *   its own: neither number falls from a position to the next. What no query of a tile sees is not computed; flops count it.
 * ATTENTION_DELTA  sizes as ATTENTION, flags CAUSAL, DROPOUT, DOCUMENTS, which change nothing: reads O, dO (as Q);
 *   writes delta[b,hq,s] = sum_d O*dO
 * ATTENTION_BACKWARD sizes, flags as ATTENTION:
 *   reads  Q, K, V, dO, lse, delta, DOCUMENTS: qspan, and kspan i32 [kv,b,2], the same of the keys' positions;
 *   writes/updates dQ (as Q), dK, dV (as K)
 *   lse and delta are those of all keys, which need not be here. ACCUMULATE adds to all three; where there is no
 *   query or no key it writes nothing.
 * NORM           size {rows, n}; real {eps}: LayerNorm over the last dimension
 *   reads x[rows,n], gamma[n], beta[n]; writes y[rows,n], stats[rows,2] = (mean, 1/sqrt(var+eps))
 * NORM_BACKWARD  size {rows, n}; flags RESIDUAL: dx = LayerNorm'(dy) (+ residual)
 *   reads dy[rows,n], x[rows,n], stats[rows,2], gamma[n], RESIDUAL: residual[rows,n]
 *   writes dx[rows,n]
 * NORM_WGRAD     size {rows, n}; flags ACCUMULATE
 *   reads dy[rows,n], x[rows,n], stats[rows,2]; writes/updates dgamma[n], dbeta[n]
 * REDUCE         size {rows, n, parts (1..8), bias_group, b, pos0, site, gap_at, gap}; real {dropout p, eps}
 *   flags BIAS, DROPOUT, RESIDUAL, NORM. v = ((part0 + part1) + part2) ... in this order, f32;
 *   BIAS: v += bias[row / bias_group, :] (bias_group 0: the one vector bias[n], for every row);
 *   DROPOUT: v *= keep(sample, position, column) / (1-p), sample = row % b, position = pos0 + row / b, and gap
 *   more where row / b >= gap_at (rows of two ranges of the sequence); RESIDUAL: v += residual;
 *   writes out = v; NORM: y, stats as the operation NORM of v.
 *   reads part0..[rows,n], BIAS: bias [ngroups,n] or [n], RESIDUAL: residual[rows,n],
 *         NORM: gamma[n], beta[n];  writes out[rows,n], NORM: y[rows,n], stats[rows,2]
 *   With one part it is the element-wise chain (bias, dropout, residual, norm) and dropout's own
 *   backward (dx = DROPOUT of dy).
 * SUM_ROWS       size {groups, per, n}; flags ACCUMULATE: out[g,:] = sum_i in[g*per + i, :]
 *   reads in[groups*per, n]; writes/updates out[groups, n]. Bias gradients: groups = 1.
 * EMBEDDING      size {rows, vocabulary (rows of the shard), n, first (id of shard row 0)}
 *   reads ids i32 [rows], table[vocabulary,n]; writes out[rows,n]: 0 where the shard has no such id
 * EMBEDDING_BACKWARD sizes as EMBEDDING: reads ids, d[rows,n]; updates dtable[vocabulary,n]
 *   (always accumulates, rows with equal ids summed in ascending row order; no atomics)
 * LOSS_STATS     size {rows, vocabulary, first}: reads logits[rows,vocabulary], targets i32 [rows];
 *   writes stats[rows,3] = (max, sum exp(x - max), x[target] or 0 if not in the shard); an empty
 *   shard gives (-inf, 0, 0)
 * LOSS_MERGE     size {rows, parts (1..8 per step)}: reads stats_0..[rows,3] (each as LOSS_STATS),
 *   targets[rows]; writes lse[rows], loss[rows] (lse - x[target]; 0 where target < 0: not counted).
 *   parts > 8 is not an error of this operation: lowering keeps stats gathered in one [parts,rows,3]
 *   buffer, so there is one read operand stats[parts,rows,3].
 * LOSS_BACKWARD  size {rows, vocabulary, first}: reads lse[rows], targets[rows]; updates
 *   logits[rows,vocabulary] in place: (exp(x - lse) - [column is target]) * run LOSS_SCALE; 0 where
 *   target < 0
 * ADAMW          size {n}; flags DECAY; run LR, BETA1, BETA2, EPS, DECAY, and 1/(1-beta^t)'s:
 *   reads g[n], clip[2] (norm, scale); updates p[n], m[n], v[n]. g is scaled by clip[1] first.
 *   Decoupled decay (Loshchilov & Hutter): p -= lr*decay*p, then p -= lr * mhat/(sqrt(vhat)+eps).
 * SUM_SQUARES    size {n}: reads g[n]; writes out[1]
 * GRAD_NORM      size {n}; run MAX_NORM: reads squares[n] (summed in order); writes clip[2] =
 *   (sqrt(sum), min(1, MAX_NORM / (norm + 1e-6)); MAX_NORM <= 0: scale 1; norm not finite: scale 0
 *   is NOT substituted: NaN stays visible)
 * FILL           size {rows, n}; real {value}: writes out[rows,n]
 * COPY           size {rows, n}: reads in[rows,n]; writes out[rows,n]
 * ROPE           size {s, b, heads, d, rotated (even, <= d)}; flags INVERSE: rotary positions (Su et al.
 *   2021), pairs (i, i + rotated/2) of a head's elements; the other d - rotated stay.
 *   reads table[s, rotated] (row: position; cosines of the rotated/2 angles, then their sines);
 *   updates x[s,b,heads,d] in place. INVERSE: by the negative angles (its own gradient).
 * GATE           size {rows, n}, activation (always; no flags): reads pre[rows, 2n] (gate, then up);
 *   writes out[rows,n] = act(gate) * up   (Shazeer, "GLU Variants Improve Transformer", 2020)
 * GATE_BACKWARD  sizes as GATE: reads pre[rows, 2n], d[rows,n]; writes dpre[rows, 2n]
 * ACTIVATION     size {rows, n}, activation (always; no flags): reads pre[rows,n]; writes out[rows,n] = act(pre), as
 *   GEMM's ACTIVATE does: where a backward pass finds what stood before it alone
 * With RMS (Zhang and Sennrich 2019) NORM, NORM_BACKWARD, NORM_WGRAD and REDUCE.NORM subtract no
 * mean, have no beta and no dbeta operand, and stats = (0, 1/sqrt(mean(x^2)+eps)).
 *
 * Operands of matrices are 2-D views; vectors are 1-D; Q/K/V/O 4-D; lse, delta, spans 3-D; stats of
 * LOSS_MERGE 3-D. gradient/param tensors that are reached flat (ADAMW, SUM_SQUARES) are 1-D.
 */

typedef enum wf_access { WF_READ, WF_UPDATE, WF_WRITE } wf_access;

#define WF_OPERANDS 20
#define WF_DIMS 4
typedef struct wf_operand {
    const char *name;
    uint8_t access; /* wf_access; reads first, then updates, then writes */
    uint8_t dtype;  /* wf_dtype */
    uint8_t ndim;
    int64_t extent[WF_DIMS];
} wf_operand;

/* ---- run-time values: what changes per run, not per problem ------------------------------------ */

typedef enum wf_run_value {
    WF_RUN_KEY0, WF_RUN_KEY1,     /* u32: Philox key of (seed, step); see kernels/philox.h */
    WF_RUN_LAYER,                 /* u32: the call's global layer (0 outside layers) */
    WF_RUN_SAMPLE0,               /* u32: global index of the microbatch's first sample */
    WF_RUN_LR, WF_RUN_BETA1, WF_RUN_BETA2, WF_RUN_EPS, WF_RUN_DECAY, /* f32 */
    WF_RUN_CORRECTION1, WF_RUN_CORRECTION2, /* f32: 1/(1-beta1^t), 1/(1-beta2^t) */
    WF_RUN_LOSS_SCALE,            /* f32: 1 / global number of valid tokens */
    WF_RUN_MAX_NORM,              /* f32 */
    WF_RUN_VALUES
} wf_run_value;

/* Values by wf_run_value; those said to be u32 are read from .u, the rest from .f. */
typedef union wf_run_number {
    uint32_t u;
    float f;
} wf_run_number;
bool wf_run_value_is_integer(wf_run_value value);

/* ---- launches: geometry and arguments as data ---------------------------------------------------- */

typedef enum wf_argument_kind {
    WF_ARG_MEMORY,    /* the cl_mem of view `index` (of the workspace: index = WF_WORKSPACE) */
    WF_ARG_OFFSET,    /* long: first element of view `index`, in elements of its dtype, and `i` more */
    WF_ARG_STRIDE,    /* long: stride in elements of dimension `dim` of view `index` */
    WF_ARG_I32,       /* int */
    WF_ARG_I64,       /* long */
    WF_ARG_F32,       /* float */
    WF_ARG_RUN,       /* uint or float: wf_run_value `index` */
    WF_ARG_LOCAL      /* local memory of `i` bytes */
} wf_argument_kind;

#define WF_WORKSPACE 255

typedef struct wf_argument {
    uint8_t kind, index, dim;
    union {
        int64_t i;
        double f;
    } value;
} wf_argument;

#define WF_ARGUMENTS 80
#define WF_LAUNCHES 16
typedef struct wf_launch {
    const char *entry;      /* kernel name in the variant's source; of a library: its call's name */
    bool library;           /* host/device calls the library instead of a kernel */
    int32_t dims;           /* 1..3 */
    int64_t global[3];      /* work-items, a multiple of local */
    int32_t local[3];
    int32_t narguments;
    wf_argument arguments[WF_ARGUMENTS];
} wf_launch;

/* Append an argument; _view appends memory and offset, the pair that every buffer is passed as. */
void wf_launch_view(wf_launch *launch, int view);
void wf_launch_view_from(wf_launch *launch, int view, int64_t elements); /* `elements` after the view's first */
void wf_launch_stride(wf_launch *launch, int view, int dim);
void wf_launch_i32(wf_launch *launch, int64_t value);
void wf_launch_i64(wf_launch *launch, int64_t value);
void wf_launch_f32(wf_launch *launch, double value);
void wf_launch_run(wf_launch *launch, wf_run_value value);
void wf_launch_local(wf_launch *launch, int64_t bytes);
/* 1-, 2- or 3-D geometry: `groups` groups of `local` items along each dimension. */
void wf_launch_geometry(wf_launch *launch, int dims, const int64_t *groups, const int32_t *local);

/* ---- variants and operations --------------------------------------------------------------------- */

#define WF_PARAMETERS 8
#define WF_VALUES 8
typedef struct wf_parameter {
    const char *name;           /* becomes -D<name>=<value> */
    int32_t nvalues;
    int32_t values[WF_VALUES];  /* legal ones; values[0] is the default */
    const char *meaning;
} wf_parameter;

typedef enum wf_variant_kind { WF_VARIANT_KERNEL, WF_VARIANT_LIBRARY } wf_variant_kind;

/* A way to compute a problem with its parameter values, in the order of variant->parameters. */
typedef struct wf_candidate {
    int32_t variant;                /* index in the operation's table */
    int32_t value[WF_PARAMETERS];
} wf_candidate;

typedef struct wf_variant {
    const char *name;               /* "simple", "clblast" */
    wf_variant_kind kind;
    const char *source;             /* file in kernels/, embedded; NULL when nothing of our own is built */
    int32_t nparameters;
    const wf_parameter *parameters;
    /* May this candidate run this problem on this device? If not, *why is set to a phrase. */
    bool (*ok)(const wf_problem *, const wf_candidate *, const wf_device *, const char **why);
    /* Number of launches written (0: nothing to do). */
    int (*launches)(const wf_problem *, const wf_candidate *, wf_launch out[WF_LAUNCHES]);
    /* Appends " -DNAME=value" for what must be known at compile time beyond the parameters
     * (head dimension, activation, flags). May be NULL. */
    void (*options)(const wf_problem *, const wf_candidate *, char *out, size_t out_bytes);
    /* Bytes of device workspace; NULL: none. Library variants: host/device asks the library. */
    int64_t (*workspace_bytes)(const wf_problem *, const wf_candidate *);
} wf_variant;

/* A tensor for the references: data in f64 (or int32), same views as the kernels get. */
typedef struct wf_tensor {
    void *data;                     /* double*, or int32_t* for WF_I32 operands; first element of the view */
    int64_t stride[WF_DIMS];        /* elements */
} wf_tensor;

typedef struct wf_operation {
    const char *name;               /* case text's first word: "gemm" */
    const char *size_names[WF_SIZES]; /* "m","n","k"; NULL ends; letters only */
    const char *real_names[WF_REALS];
    uint32_t flags;                 /* that it takes */
    bool activation;                /* takes one: by flag ACTIVATE or ACT_GRAD, else always */
    /* Operands of this problem in order; returns their number. */
    int (*operands)(const wf_problem *, wf_operand out[WF_OPERANDS]);
    /* Floating-point operations (2 per multiply-add; causal attention counts what is needed). */
    double (*flops)(const wf_problem *);
    /* Bytes moved at least, where that is not every operand once (updates twice); NULL: it is. */
    double (*bytes)(const wf_problem *);
    /* Plain C, f64 arithmetic, obviously right. run: by wf_run_value, in f64 or as integers. */
    void (*reference)(const wf_problem *, const wf_tensor *operands, const wf_run_number *run);
    /* Largest allowed |got - reference| for element i of operand `operand` (f32 kernels): written
     * into bound[elements of the operand, dense]. Derivation in a comment. `operands` hold the
     * f64 inputs as before the run and the f64 reference outputs. */
    void (*tolerance)(const wf_problem *, const wf_tensor *operands, int operand, double *bound);
    /* Used instead of `tolerance` where the bound depends on run-time values (learning rate, loss
     * scale); NULL elsewhere. Updates hold the reference's result in both. */
    void (*tolerance_run)(const wf_problem *, const wf_tensor *operands, const wf_run_number *run,
                          int operand, double *bound);
    /* May dtype be WF_I32, too (operations that move bits)? */
    bool integers;
    int32_t nvariants;
    const wf_variant *variants;     /* [0] is the plain default that takes every legal problem */
    /* What wf_problem_check cannot know: relations between sizes, ranges of reals. Called after
     * the common checks and before operands(). NULL: nothing more to ask. */
    wf_status (*check)(const wf_problem *);
    /* Case text: fills in sizes that the text leaves out (bit i of `given`: size i stands there).
     * NULL: they are 0. Sizes of 0 that this would change are printed. */
    void (*complete)(wf_problem *, uint32_t given);
    /* Changes *candidate, which is variant 0 at its defaults, to what is best on a device that nobody
     * has tuned. NULL: nothing to change. */
    void (*prefer)(const wf_problem *, const wf_device *, wf_candidate *candidate);
} wf_operation;

extern const wf_operation *const wf_operations[WF_OPS]; /* kernels/operations.c: the one table */

/* Legal sizes and flags? WF_ERR_ARGUMENT with a sentence if not. */
wf_status wf_problem_check(const wf_problem *problem);
/* Bytes moved at least: what the operation says, else every operand once (updates twice). */
double wf_problem_bytes(const wf_problem *problem);
uint64_t wf_problem_hash(const wf_problem *problem);
bool wf_problem_equal(const wf_problem *a, const wf_problem *b);

/* Case text, "gemm:f32:m512n384k1000:nt.bias" : op, dtype, sizes (letters then digits, zeros left out),
 * flags and activation joined by dots. Round-trips. Parse errors name the place. */
wf_status wf_problem_parse(const char *text, wf_problem *out);
enum { WF_CASE_BYTES = 640 }; /* enough for any */
void wf_problem_print(const wf_problem *problem, char *out, size_t out_bytes);

/* The candidate for a device that nobody has tuned: what the operation prefers, or the defaults of
 * the first variant whose ok() holds. WF_ERR_UNSUPPORTED with a sentence if there is none. */
wf_status wf_candidate_for_device(const wf_problem *problem, const wf_device *device,
                                  wf_candidate *out);
/* A variant at the values that the operation prefers on the device, or, where it prefers another, at its defaults. */
void wf_candidate_of_variant(const wf_problem *problem, int32_t variant, const wf_device *device, wf_candidate *out);
/* "simple TILE_M=64", parameters left out at their defaults. */
wf_status wf_candidate_parse(const wf_problem *problem, const char *text, wf_candidate *out);
/* The default candidate of a variant; build options "-DTILE_M=64 ..." of a candidate. */
void wf_candidate_default(const wf_problem *problem, int variant, wf_candidate *out);
void wf_candidate_options(const wf_problem *problem, const wf_candidate *candidate, char *out, size_t out_bytes);
/* "simple TILE_M=64 TILE_N=64" */
void wf_candidate_print(const wf_problem *problem, const wf_candidate *candidate, char *out, size_t out_bytes);

/* Source text of an embedded kernels/ file by name ("gemm_simple.cl"), #includes of .clh resolved;
 * NULL when unknown. Generated by the build. */
const char *wf_kernel_source(const char *name);

#ifdef __cplusplus
}
#endif
#endif
