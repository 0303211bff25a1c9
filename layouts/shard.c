/* shard.c: a rank's shard of each parameter: whole heads, balanced features and ids. The fused QKV
 * tensor is three row pieces: the rank's heads of q, then of k, then of v; a gated fc1 is two, gate
 * and up. */
#include "layouts/model.h"

/* The query heads are shared out; the kv heads are those that they read, so that neighbours may hold
 * the same ones: where kv heads are fewer than ranks, and where a shard ends inside a group. */
wf_range wf_model_kv_heads(const wf_model *m, const wf_layout *layout, int32_t index) {
    return wf_model_kv_of(m, wf_layout_shard(layout, WF_AXIS_TP, m->heads, index));
}

wf_range wf_model_kv_of(const wf_model *m, wf_range heads) {
    const int64_t group = m->heads / m->kv_heads, first = heads.first / group;
    if (heads.count == 0) return (wf_range){first, 0};
    return (wf_range){first, (heads.first + heads.count - 1) / group + 1 - first};
}

/* Of neighbours that hold the same kv head, pieces of rows are added up: they must stand together. */
static bool shares_kv_heads(const wf_model *m, const wf_layout *layout) {
    int64_t next = 0;
    for (int32_t i = 0; i < layout->size[WF_AXIS_TP]; i++) {
        const wf_range kv = wf_model_kv_heads(m, layout, i);
        if (kv.count && kv.first < next) return true;
        if (kv.count) next = kv.first + kv.count;
    }
    return false;
}

wf_order wf_model_order(const wf_model *m, int tensor, const wf_layout *layout) {
    switch (tensor) {
    case WF_T_QKV_WEIGHT:
        return shares_kv_heads(m, layout) ? WF_ORDER_ROWS : (wf_order)layout->order;
    case WF_T_PROJ_WEIGHT:
    case WF_T_FC1_WEIGHT:
    case WF_T_FC2_WEIGHT:
    case WF_T_HEAD_WEIGHT:
        return (wf_order)layout->order;
    default:
        return WF_ORDER_ROWS;
    }
}

static void add_piece(wf_shard_map *map, int64_t first, int64_t count) {
    map->piece[map->pieces].local = map->rows;
    map->piece[map->pieces].global = first;
    map->piece[map->pieces++].count = count;
    map->rows += count;
}

static void qkv_pieces(wf_shard_map *map, const wf_model *m, wf_range heads, wf_range kv) {
    const int64_t d = m->head_size;
    add_piece(map, heads.first * d, heads.count * d);
    for (int64_t before = m->heads; before <= m->heads + m->kv_heads; before += m->kv_heads)
        add_piece(map, (before + kv.first) * d, kv.count * d);
}

static void feature_pieces(wf_shard_map *map, const wf_model *m, wf_range features) {
    add_piece(map, features.first, features.count);
    if (m->gated) add_piece(map, m->features + features.first, features.count);
}

void wf_model_shard(const wf_model *m, const wf_parameter_info *info, const wf_layout *layout,
                    int32_t rank, wf_shard_map *out) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(layout, rank, at);
    const int32_t index = at[WF_AXIS_TP];
    const wf_range heads = wf_layout_shard(layout, WF_AXIS_TP, m->heads, index);
    const wf_range features = wf_layout_shard(layout, WF_AXIS_TP, m->features, index);
    const wf_range ids = wf_layout_shard(layout, WF_AXIS_TP, m->vocabulary, index);
    *out = (wf_shard_map){.columns = info->columns};
    switch (info->rows ? (wf_split)info->split : WF_REPLICATED) {
    case WF_REPLICATED:
        add_piece(out, 0, info->rows);
        break;
    case WF_SPLIT_HEADS:
        qkv_pieces(out, m, heads, wf_model_kv_heads(m, layout, index));
        break;
    case WF_SPLIT_HEAD_COLUMNS:
        add_piece(out, 0, info->rows);
        out->columns = heads.count * m->head_size;
        out->first_column = heads.first * m->head_size;
        break;
    case WF_SPLIT_FEATURES:
        feature_pieces(out, m, features);
        break;
    case WF_SPLIT_FEATURE_COLUMNS:
        add_piece(out, 0, info->rows);
        out->columns = features.count;
        out->first_column = features.first;
        break;
    case WF_SPLIT_VOCABULARY:
        add_piece(out, ids.first, ids.count);
        break;
    }
}
