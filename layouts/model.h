/* model.h: a Transformer as a plain value, and its parameters as one table: names, shapes, how each
 * is sharded, initialised and optimised. Configuration files are read in host/model. */
#ifndef WF_LAYOUTS_MODEL_H
#define WF_LAYOUTS_MODEL_H

#include "kernels/operation.h"
#include "layouts/layout.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_model {
    int64_t layers, hidden, heads, kv_heads, head_size, features, vocabulary, positions;
    int32_t activation;         /* wf_activation */
    double norm_epsilon, init_std;
    double dropout_embedding, dropout_attention, dropout_residual;
    bool tied_head;
} wf_model;

/* "tiny" (the quickstart's byte model), "gpt2"; WF_ERR_ARGUMENT names the known ones. */
wf_status wf_model_preset(const char *name, wf_model *out);
/* Legal and within what lowering supports? */
wf_status wf_model_check(const wf_model *);

/* How a tensor [rows, columns] is split over tp. */
typedef enum wf_split {
    WF_REPLICATED,      /* whole on every tp rank; under sp its gradient is summed over tp */
    WF_SPLIT_HEADS,     /* rows: q, k and v heads of the rank, one after another (fused QKV) */
    WF_SPLIT_HEAD_COLUMNS, /* columns: the rank's heads * head_size (attention output) */
    WF_SPLIT_FEATURES,  /* rows: the rank's MLP features */
    WF_SPLIT_FEATURE_COLUMNS,
    WF_SPLIT_VOCABULARY /* rows: the rank's ids */
} wf_split;

typedef enum wf_initial { WF_INIT_NORMAL /* init_std */, WF_INIT_NORMAL_RESIDUAL /* init_std / sqrt(2 layers) */, WF_INIT_ONE, WF_INIT_ZERO } wf_initial;

/* One row of the table. Weights of linear layers are [out, in]; vectors have columns = 1 and
 * rows = n. Order of rows = order of the slots in every schedule of the model. */
typedef struct wf_parameter_info {
    const char *name;       /* "layer.attn.qkv.weight"; slots of per-layer tensors have count = layers */
    const char *hf_name;    /* GPT-2's name in files: "h.%d.attn.c_attn.weight" */
    bool per_layer, matrix; /* matrix: weight decay applies */
    int32_t split, initial;
    int64_t rows, columns;  /* of the whole tensor */
} wf_parameter_info;

enum wf_tensor_id { /* rows of the table, and the sites of initialisation (WF_SITE_INIT + id) */
    WF_T_TOKEN_EMBEDDING, WF_T_POSITION_EMBEDDING,
    WF_T_NORM1_WEIGHT, WF_T_NORM1_BIAS, WF_T_QKV_WEIGHT, WF_T_QKV_BIAS, WF_T_PROJ_WEIGHT, WF_T_PROJ_BIAS,
    WF_T_NORM2_WEIGHT, WF_T_NORM2_BIAS, WF_T_FC1_WEIGHT, WF_T_FC1_BIAS, WF_T_FC2_WEIGHT, WF_T_FC2_BIAS,
    WF_T_NORMF_WEIGHT, WF_T_NORMF_BIAS, WF_TENSORS
};

void wf_model_parameters(const wf_model *, wf_parameter_info out[WF_TENSORS]);
int64_t wf_model_parameter_count(const wf_model *);

/* The rank's shard of a tensor: rows and columns held, and where element (row, column) of the
 * shard lies in the whole. */
typedef struct wf_shard_map {
    int64_t rows, columns;
    int32_t pieces;             /* row pieces: 3 for fused QKV, else 1 */
    struct { int64_t local, global, count; } piece[3];
    int64_t first_column;       /* global column of local column 0 */
} wf_shard_map;
void wf_model_shard(const wf_model *, const wf_parameter_info *, const wf_layout *, int32_t rank, wf_shard_map *out);

typedef struct wf_shape { int64_t batch, sequence; } wf_shape; /* "b8s128": global batch in sequences */
wf_status wf_shape_parse(const char *text, wf_shape *out);
void wf_shape_print(const wf_shape *, char *out, size_t out_bytes);

#ifdef __cplusplus
}
#endif
#endif
