/* lowering.h: what the files of lowering share: the sizes of this rank's shards, the buffers, and
 * the small steps that layers, embedding, head and optimizer are written in.
 *
 * Rows of activations are tokens, position-major: those of the rank's positions, which are all unless
 * cp splits the sequence. `own` rows are what norm, dropout and residual work on: the rank's share of
 * these positions under sp, else all rows. `block` cuts rows for exchanges over tp: the positions'
 * blocks under sp, else balanced rows. Private to layouts/lower*.c. */
#ifndef WF_LAYOUTS_LOWERING_H
#define WF_LAYOUTS_LOWERING_H

#include "layouts/build.h"
#include "layouts/lower.h"

/* Values of a layer, in the order of a forward pass whose norms stand before the halves. */
typedef enum wf_value {
    WF_V_X,
    WF_V_STATS1,
    WF_V_NORM1,
    WF_V_ALL1, /* what attention reads: all rows */
    WF_V_QKV,
    WF_V_CONTEXT_QKV, /* what attention itself works on: QKV, unless heads are exchanged for positions */
    WF_V_CONTEXT_O,      /* its result, where that is not ATTN itself */
    WF_V_CONTEXT_OTHERS, /* of it the neighbours' rows: the rank's own are columns of ATTN */
    WF_V_ATTN,
    WF_V_LSE,
    WF_V_SUM1, /* after attention and its residual */
    WF_V_STATS2,
    WF_V_NORM2,
    WF_V_ALL2, /* what the MLP reads */
    WF_V_PRE,
    WF_V_ACT,
    WF_V_SUM2, /* after the MLP and its residual */
    WF_LAYER_VALUES
} wf_value;

/* The two halves of a layer, and how norms and sums join them. */
enum { WF_ATTENTION_HALF, WF_MLP_HALF, WF_HALVES };
typedef struct wf_form {
    wf_value norm_of[WF_HALVES];  /* what norm 1 and 2 are of */
    wf_value in[WF_HALVES];       /* own rows of what the half reads */
    wf_value residual[WF_HALVES]; /* what its result is added to */
    wf_value out;                 /* of the layer */
} wf_form;

/* The four slots of a parameter. */
typedef enum wf_kind { WF_KIND_VALUE, WF_KIND_GRAD, WF_KIND_M, WF_KIND_V, WF_KINDS } wf_kind;

enum { WF_DEFERRED = 16, WF_MOST_VIEWS = 8 };
typedef struct wf_deferred {
    const char *site;
    wf_problem problem;
    wf_view views[WF_MOST_VIEWS];
    int nviews;
} wf_deferred;

/* A kv head whose query heads are split over several ranks; each adds its part to the gradient. */
typedef struct wf_shared_head {
    int64_t local;                 /* its number among those of this rank */
    int32_t group, members, index; /* the ranks that hold it, own place among them */
} wf_shared_head;

/* Ranks along cp, or some of them: how many, own place, group (-1: alone). */
typedef struct wf_team {
    int32_t ranks, me, group;
} wf_team;

/* What attention itself works on: these heads (of the model) at these positions, which are the rank's own, unless
 * neighbours exchange heads for positions. */
typedef struct wf_domain {
    wf_range heads, kv;
    wf_positions positions;
} wf_domain;

typedef struct wf_lowering {
    wf_schedule *s;
    const wf_model *model;
    wf_layout layout;
    wf_mode mode;
    bool training; /* TRAIN, GRADIENTS: dropout, and a backward pass follows */

    int64_t b, sequence, rows; /* of a microbatch: samples, positions, this rank's tokens */
    int32_t microbatches;
    int32_t tp, me, group; /* tp ranks, own index, group (-1: alone) */
    bool sp;               /* of the layout, and more than one tp rank */
    bool packed;           /* sequences of several documents */
    wf_team cp, ring, ulysses; /* ring and ulysses divide cp (layout.h) */
    wf_positions local, positions; /* of the rank; of the own rows */
    wf_domain domain;
    wf_rows own;
    wf_rows *block;                /* [tp] */
    wf_range heads, kv, features, ids; /* own shards; kv: the kv heads that the query heads read */
    wf_form form;
    struct wf_shared_head *shared; /* kv heads that others hold too, ascending */
    int32_t nshared;

    wf_parameter_info table[WF_TENSORS];
    wf_shard_map shard[WF_TENSORS];
    wf_order order[WF_TENSORS];
    int64_t elements[WF_TENSORS]; /* of the own shard, with the padding of its order */
    int32_t square[WF_TENSORS], nsquares; /* place among the tensors that the model has; -1 */
    int32_t slot[WF_KINDS][WF_TENSORS];
    int32_t tokens, targets, loss, clip, logits, hidden, hidden_all, rope; /* slots */
    int32_t documents, places; /* slots; documents of a block stack that trains: in the stash */
    wf_at documents_at;
    int32_t x, dx, saved[WF_LAYER_VALUES], squares;      /* pools; saved: -1 where not kept */
    int32_t landing;                  /* pool: what arrives of a layer's gradients */
    int32_t embedded, embedded_stats; /* pools: what the embedding's norm is of; -1 */

    /* of the open segment */
    bool first;    /* first microbatch: gradients are written, not added to */
    bool backward; /* saved values are there; others are lowered again */
    bool has[WF_LAYER_VALUES];
    wf_view value[WF_LAYER_VALUES];
    int32_t whole[WF_HALVES]; /* gathered buffer whose own block is in place; -1 */
    int32_t arriving;         /* gathered buffer that comes in chunks; -1 */
    bool pending;             /* attention is computed by those who need rows of it: wf_lower_attend_rows */
    wf_deferred deferred[WF_DEFERRED]; /* weight gradients that wait for the next exchange */
    int ndeferred;
} wf_lowering;

/* ---- small steps: lower_steps.c -------------------------------------------------------------- */

/* Own shard: 1-D or 2-D; in panels as GEMM takes them. */
wf_view wf_lower_parameter(const wf_lowering *, wf_kind, int tensor);
wf_view wf_lower_flat(const wf_lowering *, wf_kind, int tensor);      /* 1-D */
wf_view wf_lower_scratch(wf_lowering *, const char *name, int64_t rows, int64_t columns);
wf_view wf_lower_rows(wf_view whole, wf_rows rows); /* a row block of a matrix */

void wf_lower_begin(wf_lowering *, const char *name, bool first);
void wf_lower_end(wf_lowering *);

void wf_lower_kernel(wf_lowering *, const char *site, const wf_problem *, const wf_view *views,
                     int nviews);
#define WF_KERNEL(lowering, site, problem, ...)                                                    \
    wf_lower_kernel(lowering, site, problem, (const wf_view[]){__VA_ARGS__},                       \
                    (int)(sizeof((const wf_view[]){__VA_ARGS__}) / sizeof(wf_view)))
/* The same, but after the next exchange is posted (which it then hides), or at the segment's end.
 */
void wf_lower_defer(wf_lowering *, const char *site, const wf_problem *, const wf_view *views,
                    int nviews);
#define WF_DEFER(lowering, site, problem, ...)                                                     \
    wf_lower_defer(lowering, site, problem, (const wf_view[]){__VA_ARGS__},                        \
                   (int)(sizeof((const wf_view[]){__VA_ARGS__}) / sizeof(wf_view)))

/* All that were deferred, here. */
void wf_lower_flush(wf_lowering *);

void wf_lower_copy(wf_lowering *, const char *site, wf_view from, wf_view to);
void wf_lower_fill(wf_lowering *, const char *site, wf_view out, double value);

/* c = epilogue(a b); flags TRANS_A, TRANS_B, ACCUMULATE. An empty sum is a fill. */
void wf_lower_gemm(wf_lowering *, const char *site, uint32_t flags, wf_view a, wf_view b,
                   wf_view c);
/* The same with a weight [out, in] as b, in its order: TRANS_B for x W^T, none for dy W. */
uint32_t wf_lower_weight_flags(const wf_lowering *, int tensor);
void wf_lower_product(wf_lowering *, const char *site, uint32_t flags, wf_view a, int weight, wf_view c);
bool wf_lower_has(const wf_lowering *, int tensor); /* does the model? */
/* out = x weight^T + bias, where there is one; act = activation of pre = the same. */
void wf_lower_linear(wf_lowering *, const char *site, wf_view x, int weight, int bias, wf_view out);
void wf_lower_activate(wf_lowering *, const char *site, wf_view x, int weight, int bias,
                       wf_view act, wf_view pre);
/* d = (dy weight) * activation'(pre). */
void wf_lower_activation_backward(wf_lowering *, const char *site, wf_view dy, int weight, wf_view pre, wf_view d);
/* Weight gradient dy^T x of a matrix, and the bias gradient's row sum (of a bias that is absent:
 * nothing); deferred. */
void wf_lower_wgrad(wf_lowering *, const char *site, wf_view dy, wf_view x, int tensor);
void wf_lower_bias_grad(wf_lowering *, const char *site, wf_view dy, int tensor);
void wf_lower_norm(wf_lowering *, const char *site, wf_view x, int weight, wf_view y,
                   wf_view stats);
/* dx = norm'(dy) of own rows (+ residual when not NULL) into out; weights' gradients deferred.
 */
void wf_lower_norm_backward(wf_lowering *, const char *const site[3], wf_view dy, wf_view x,
                            wf_view stats, int weight, const wf_view *residual, wf_view out);

/* Element-wise steps after a sum, each left out when NULL or 0; none: a copy. */
typedef struct wf_tail {
    const wf_view *bias;
    int64_t bias_group;
    double dropout;
    int32_t dropout_site;
    const wf_view *residual;
} wf_tail;
typedef struct wf_tail_sites {
    const char *bias, *dropout, *residual;
} wf_tail_sites;
void wf_lower_tail(wf_lowering *, const wf_tail_sites *, wf_view in, const wf_tail *, wf_view out);

/* Own block of `whole` is in place: gather the others' (sp only; does nothing when alone). Under chunks the first product
 * with the whole is computed in the pieces that arrive. */
void wf_lower_gather(wf_lowering *, const char *site, wf_view whole);
/* Own rows of the sum of all tp ranks' partial [rows, n]: reduce-scatter under sp, all-reduce else.
 */
typedef struct wf_sum_sites {
    const char *scatter, *sum, *gather;
} wf_sum_sites;
wf_view wf_lower_sum(wf_lowering *, const wf_sum_sites *, wf_view partial);
/* The sum of all ranks' x weight^T or x weight (flags): under chunks a block is on its way as soon as it is computed. */
wf_view wf_lower_product_sum(wf_lowering *, const char *product, uint32_t flags, wf_view x, int weight, const wf_sum_sites *);
/* Backward of a column-parallel layer, given the gradient dy of its output: own rows of the gradient
 * of x (dy weight, summed over tp); weight and bias gradients deferred. They hide the sum's exchange; under chunks this
 * hides behind the product itself, and they the segment's next one, if there is one. */
typedef struct wf_column_sites {
    const char *dgrad, *wgrad, *bias;
    wf_sum_sites sum;
    bool more; /* exchanges follow in this segment */
} wf_column_sites;
wf_view wf_lower_column_backward(wf_lowering *, const wf_column_sites *, wf_view dy, wf_view x,
                                 int weight, int bias);
/* out = parts[0] + parts[1] + ..., in this order, in steps of at most 8. */
void wf_lower_add(wf_lowering *, const char *site, const wf_view *parts, int32_t count,
                  wf_view out);
/* Gradient d of a row-parallel layer's output, on all rows: dropout's backward, the bias gradient
 * (tensor -1: none), and under sp the gather. *own_out: the own rows of it. */
typedef struct wf_branch_sites {
    const char *dropout, *bias, *gather;
} wf_branch_sites;
wf_view wf_lower_branch(wf_lowering *, const wf_branch_sites *, wf_view dx, double dropout,
                        int32_t dropout_site, int bias_tensor, wf_view *own_out);

/* ---- segments, each lowered once; the segment's index is returned ---------------------------- */

int32_t wf_lower_embedding_forward(wf_lowering *);
int32_t wf_lower_embedding_backward(wf_lowering *, bool first);
int32_t wf_lower_layer_forward(wf_lowering *);
int32_t wf_lower_layer_backward(wf_lowering *, bool first);
int32_t wf_lower_head(wf_lowering *, bool first);
/* Sums of replicated gradients under sp, squares for the norm, the norm, AdamW. -1: nothing to do.
 */
int32_t wf_lower_finish(wf_lowering *);
int32_t wf_lower_layer_finish(wf_lowering *);
int32_t wf_lower_gradnorm(wf_lowering *);
int32_t wf_lower_optimizer(wf_lowering *, bool per_layer);
/* Sums of a layer's gradients over cp (-1: none): the exchanges that begin them, and the rest. */
int32_t wf_lower_layer_sums_send(wf_lowering *);
int32_t wf_lower_layer_sums(wf_lowering *);
/* The parts of the finishing segments, for a block stack: sums over tp (-1: none), all squares 0, a
 * layer's squares. */
int32_t wf_lower_layer_tp_sums(wf_lowering *);
int32_t wf_lower_no_squares(wf_lowering *);
int32_t wf_lower_layer_squares(wf_lowering *);

/* What every lowering begins with (lower.c): checks, sizes, groups, the parameters' slots; and how it
 * ends: *out is written if status and the building are fine. */
wf_status wf_lower_open(const wf_model *, const wf_shape *, const wf_layout *, int32_t rank, wf_mode,
                        wf_lowering **out);
wf_status wf_lower_close(wf_lowering *, wf_status status, wf_schedule **out);

/* ---- a layer: lower_layer.c; its halves: lower_attention.c, lower_mlp.c ----------------------- */

/* A value, from this segment, from what was saved, or lowered here; and where one goes. */
wf_view wf_lower_need(wf_lowering *, wf_value);
wf_view wf_lower_destination(wf_lowering *, wf_value);
/* value = residual + dropout(bias + sum over tp of x weight^T). */
typedef struct wf_row_sites {
    const char *product;
    wf_sum_sites sum;
    wf_tail_sites tail;
} wf_row_sites;
void wf_lower_row_parallel(wf_lowering *, const wf_row_sites *, wf_view x, int weight,
                           int32_t dropout_site, wf_view residual, wf_value out);

/* `view` is that value from here on. */
void wf_lower_produced(wf_lowering *, wf_value, wf_view);

void wf_lower_qkv(wf_lowering *);
void wf_lower_attention_out(wf_lowering *);
void wf_lower_features(wf_lowering *);
void wf_lower_mlp_out(wf_lowering *);
/* Own rows of the gradient of what the half reads, given that of its sum. */
wf_view wf_lower_attention_backward(wf_lowering *, wf_view d);
wf_view wf_lower_mlp_backward(wf_lowering *, wf_view d);

/* ---- attention along a split sequence: lower_context.c, lower_ring.c, lower_gather.c --------------- */

/* Producers of what attention itself works on, of its result, of that for the rank's positions. */
void wf_lower_context(wf_lowering *);
void wf_lower_attend(wf_lowering *);
void wf_lower_attention(wf_lowering *);
/* Gradients of the rank's q, k and v as attention reads them, given that of its result. */
wf_view wf_lower_context_backward(wf_lowering *, wf_view d);

/* Keys and values of neighbouring positions: [positions * b, 2 * kv heads * d], k's columns before v's. */
typedef struct wf_kv {
    wf_view kv;
    wf_range positions;
} wf_kv;
/* Operands of attention over the domain; backward: also gradients, and delta. lse, delta: [b * heads, positions]. */
typedef struct wf_attended {
    wf_view qkv, o, lse; /* o: in backward, its gradient */
    wf_view delta, dqkv;
} wf_attended;
/* Does any query see any of the keys, through mask and window? And all that any of them sees. */
bool wf_lower_sees(const wf_lowering *, wf_range queries, wf_range keys);
wf_range wf_lower_seen(const wf_lowering *, wf_range queries);
/* Positions of a member of the ring, whose places are counted round; and does it see any key of a run of another's? */
wf_positions wf_lower_held(const wf_lowering *, int32_t place);
bool wf_lower_needs(const wf_lowering *, int32_t place, int32_t owner, int run);
/* Where attention is pending: these rows of it, whole positions. */
void wf_lower_attend_rows(wf_lowering *, wf_rows);
wf_view wf_lower_run(const wf_lowering *, wf_view of_domain, int run); /* its rows */
wf_view wf_lower_columns(wf_view, int64_t first, int64_t count);
wf_kv wf_lower_own_keys(const wf_lowering *, wf_view qkv, int run);
/* A run's queries over some keys; `more`: these are not its first, results are merged, or gradients (of the run's q, and of
 * the keys, dkv) added to. */
void wf_lower_attend_run(wf_lowering *, const char *site, const wf_attended *, int run, const wf_kv *, bool more);
void wf_lower_attend_run_backward(wf_lowering *, const char *site, const wf_attended *, int run, const wf_kv *, wf_view dkv,
                                  bool more);
/* Attention whose keys go round the ring, block by block; and whose keys are gathered. */
void wf_lower_ring(wf_lowering *, const wf_attended *);
void wf_lower_ring_backward(wf_lowering *, const wf_attended *);
void wf_lower_gathered(wf_lowering *, const wf_attended *);
void wf_lower_gathered_backward(wf_lowering *, const wf_attended *);

/* Pools of a layer's saved values, and of the embedding's. */
void wf_lower_layer_pools(wf_lowering *);
void wf_lower_embedding_pools(wf_lowering *);

#endif
