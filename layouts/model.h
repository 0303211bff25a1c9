/* model.h: a Transformer as a plain value, and its parameters as one table: names, shapes, how each
 * is sharded, initialised and optimised. Configuration files are read in host/model. */
#ifndef WF_LAYOUTS_MODEL_H
#define WF_LAYOUTS_MODEL_H

#include "kernels/operation.h"
#include "kernels/order.h"
#include "layouts/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whose names, transposes and fused projections the model's files use (host/model/names.c). */
typedef enum wf_family { WF_FAMILY_GPT2, WF_FAMILY_LLAMA, WF_FAMILY_BERT, WF_FAMILIES } wf_family;
typedef enum wf_norm_form { WF_LAYERNORM, WF_RMSNORM /* no mean, no bias */ } wf_norm_form;
typedef enum wf_position_form {
    WF_POSITIONS_LEARNED, /* an embedding, added */
    WF_POSITIONS_ROPE,    /* q and k rotated (Su et al. 2021), pairs (i, i + head_size / 2) */
    WF_POSITIONS_NONE
} wf_position_form;
typedef enum wf_head_form {
    WF_HEAD_LINEAR,       /* logits = normf(x) W^T */
    WF_HEAD_TRANSFORM,    /* BERT's: logits = norm(act(x T^T + t)) W^T + bias */
    WF_HEAD_NONE          /* the last hidden states are the result */
} wf_head_form;
/* Which linear layers have biases. */
enum { WF_BIAS_QKV = 1u << 0, WF_BIAS_PROJ = 1u << 1, WF_BIAS_MLP = 1u << 2, WF_BIASES_ALL = 7 };

/* Forms whose zero is GPT-2's: LayerNorm before each half, learned positions, causal, no gate. */
typedef struct wf_model {
    int64_t layers, hidden, heads, kv_heads, head_size, features, vocabulary, positions;
    int64_t types;              /* rows of the token type embedding; 0: none. Type 0 is used for all tokens */
    int64_t window;             /* a query sees the keys less than so many positions away, itself included; 0: none.
                                 * Causal, that is sliding_window of transformers; its bidirectional mask sees one more */
    int32_t family, norm, position_form, head_form;
    int32_t activation;         /* wf_activation */
    uint32_t biases;            /* WF_BIAS_... */
    bool gated;                 /* MLP: act(x G^T) * (x U^T); fc1 holds G's rows, then U's */
    bool post_norm;             /* norm after each residual sum, none after the last layer */
    bool bidirectional;
    bool embedding_norm;        /* norm (then dropout) of the summed embeddings */
    bool tied_head;             /* the head's matrix is the token embedding */
    double norm_epsilon, init_std;
    double dropout_embedding, dropout_attention, dropout_residual;
    /* RoPE: frequencies theta^(-2i/d); Llama 3's scaling by wavelength where rope_factor > 1, plain
     * linear scaling (positions / factor) where low and high are 0. */
    double rope_theta, rope_factor, rope_low_frequency, rope_high_frequency;
    int64_t rope_original_positions;
} wf_model;

/* "tiny" (the quickstart's byte model), "gpt2"; WF_ERR_ARGUMENT names the known ones. */
wf_status wf_model_preset(const char *name, wf_model *out);
/* Legal? */
wf_status wf_model_check(const wf_model *);
/* The window over so many positions: 0 where it hides none of them. */
int64_t wf_model_window(const wf_model *, int64_t positions);

/* How a tensor [rows, columns] is split over tp. */
typedef enum wf_split {
    WF_REPLICATED,      /* whole on every tp rank; under sp its gradient is summed over tp */
    WF_SPLIT_HEADS,     /* rows: q, k and v heads of the rank, one after another (fused QKV); kv heads
                         * may be held by several neighbours */
    WF_SPLIT_HEAD_COLUMNS, /* columns: the rank's heads * head_size (attention output) */
    WF_SPLIT_FEATURES,  /* rows: the rank's MLP features (gated: of the gate, then of up) */
    WF_SPLIT_FEATURE_COLUMNS,
    WF_SPLIT_VOCABULARY /* rows: the rank's ids */
} wf_split;

typedef enum wf_initial { WF_INIT_NORMAL /* init_std */, WF_INIT_NORMAL_RESIDUAL /* init_std / sqrt(2 layers) */, WF_INIT_ONE, WF_INIT_ZERO } wf_initial;

/* One row of the table. Weights of linear layers are [out, in]; vectors have columns = 1 and
 * rows = n. Order of rows = order of the slots in every schedule of the model. A tensor that the
 * model does not have has rows = columns = 0 (its slot has no bytes). */
typedef struct wf_parameter_info {
    const char *name;       /* "layer.attn.qkv.weight"; slots of per-layer tensors have count = layers */
    bool per_layer, matrix; /* matrix: weight decay applies */
    int32_t split, initial;
    int64_t rows, columns;  /* of the whole tensor */
} wf_parameter_info;

enum wf_tensor_id { /* rows of the table, and the sites of initialisation (WF_SITE_INIT + id) */
    WF_T_TOKEN_EMBEDDING, WF_T_POSITION_EMBEDDING,
    WF_T_NORM1_WEIGHT, WF_T_NORM1_BIAS, WF_T_QKV_WEIGHT, WF_T_QKV_BIAS, WF_T_PROJ_WEIGHT, WF_T_PROJ_BIAS,
    WF_T_NORM2_WEIGHT, WF_T_NORM2_BIAS, WF_T_FC1_WEIGHT, WF_T_FC1_BIAS, WF_T_FC2_WEIGHT, WF_T_FC2_BIAS,
    WF_T_NORMF_WEIGHT, WF_T_NORMF_BIAS,
    WF_T_TYPE_EMBEDDING, WF_T_EMBEDDING_NORM_WEIGHT, WF_T_EMBEDDING_NORM_BIAS, WF_T_HEAD_WEIGHT,
    WF_T_HEAD_BIAS, WF_T_TRANSFORM_WEIGHT, WF_T_TRANSFORM_BIAS, WF_T_TRANSFORM_NORM_WEIGHT,
    WF_T_TRANSFORM_NORM_BIAS, WF_TENSORS
};

void wf_model_parameters(const wf_model *, wf_parameter_info out[WF_TENSORS]);
int64_t wf_model_parameter_count(const wf_model *);

/* The rank's shard of a tensor: rows and columns held, and where element (row, column) of the
 * shard lies in the whole. */
typedef struct wf_shard_map {
    int64_t rows, columns;
    int32_t pieces;             /* row pieces: 3 for fused QKV, 2 for gated fc1, else 1 */
    struct { int64_t local, global, count; } piece[3];
    int64_t first_column;       /* global column of local column 0 */
} wf_shard_map;
/* The kv heads that tp rank `index` reads. */
wf_range wf_model_kv_heads(const wf_model *, const wf_layout *, int32_t index);
/* Those that these query heads read. */
wf_range wf_model_kv_of(const wf_model *, wf_range heads);
void wf_model_shard(const wf_model *, const wf_parameter_info *, const wf_layout *, int32_t rank, wf_shard_map *out);

/* The order in memory of a tensor: its value, gradient and optimizer state. A function of model and
 * layout, so that all plans of one params agree: the layout's, where only GEMMs read the matrix. */
wf_order wf_model_order(const wf_model *, int tensor, const wf_layout *);

/* Rotary positions (layouts/rope.c): cosines of the head_size / 2 angles of a position, then their
 * sines: a row of the slot "rope". */
void wf_model_rope(const wf_model *, int64_t position, double *out /* [head_size] */);

/* The positions of a sequence that a rank's attention and MLP work on (all of them, unless cp splits them); those of its own
 * rows (its share of the former under sp); and those of a member of the ring. layouts/positions.c */
wf_positions wf_model_positions(const wf_model *, const wf_layout *, int64_t sequence, int32_t rank);
wf_positions wf_model_own_positions(const wf_model *, const wf_layout *, int64_t sequence, int32_t rank);
wf_positions wf_model_ring_positions(const wf_model *, const wf_layout *, int64_t sequence, int32_t index);

/* "b8s128": global batch in sequences. */
typedef struct wf_shape {
    int64_t batch, sequence;
    bool documents; /* a sequence is several documents, which the run names and which do not see each other; not of the text */
} wf_shape;
wf_status wf_shape_parse(const char *text, wf_shape *out);
void wf_shape_print(const wf_shape *, char *out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
#endif
