/* shard.c: a rank's shard of each parameter: whole heads, balanced features and ids. The fused QKV
 * tensor is three row pieces: the rank's heads of q, then of k, then of v. */
#include "layouts/model.h"

static void one_piece(wf_shard_map *map, int64_t first, int64_t count) {
    map->rows = count;
    map->pieces = 1;
    map->piece[0].local = 0;
    map->piece[0].global = first;
    map->piece[0].count = count;
}

static void three_pieces(wf_shard_map *map, const wf_model *m, wf_range heads) {
    const int64_t each = heads.count * m->head_size;
    map->rows = 3 * each;
    map->pieces = 3;
    for (int i = 0; i < 3; i++) {
        map->piece[i].local = i * each;
        map->piece[i].global = (i * m->heads + heads.first) * m->head_size;
        map->piece[i].count = each;
    }
}

void wf_model_shard(const wf_model *m, const wf_parameter_info *info, const wf_layout *layout,
                    int32_t rank, wf_shard_map *out) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(layout, rank, at);
    const int32_t tp = layout->size[WF_AXIS_TP], index = at[WF_AXIS_TP];
    const wf_range heads = wf_shard(m->heads, tp, index);
    const wf_range features = wf_shard(m->features, tp, index);
    const wf_range ids = wf_shard(m->vocabulary, tp, index);
    *out = (wf_shard_map){.columns = info->columns};
    one_piece(out, 0, info->rows);
    if (!info->rows) return;
    switch ((wf_split)info->split) {
    case WF_REPLICATED:
        break;
    case WF_SPLIT_HEADS:
        three_pieces(out, m, heads);
        break;
    case WF_SPLIT_HEAD_COLUMNS:
        out->columns = heads.count * m->head_size;
        out->first_column = heads.first * m->head_size;
        break;
    case WF_SPLIT_FEATURES:
        one_piece(out, features.first, features.count);
        break;
    case WF_SPLIT_FEATURE_COLUMNS:
        out->columns = features.count;
        out->first_column = features.first;
        break;
    case WF_SPLIT_VOCABULARY:
        one_piece(out, ids.first, ids.count);
        break;
    }
}
