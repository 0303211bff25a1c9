/* mesh.c: ranks as points of a mesh with five axes, tp fastest, then cp, ep, dp, pp; and balanced
 * shards of an extent. */
#include "layouts/layout.h"

void wf_mesh_coordinates(const wf_layout *layout, int32_t rank, int32_t coordinate_out[WF_AXES]) {
    for (int axis = 0; axis < WF_AXES; axis++) {
        coordinate_out[axis] = rank % layout->size[axis];
        rank /= layout->size[axis];
    }
}

int32_t wf_mesh_group(const wf_layout *layout, int32_t rank, wf_axis axis, int32_t *members_out) {
    int32_t stride = 1, coordinate[WF_AXES];
    wf_mesh_coordinates(layout, rank, coordinate);
    for (int faster = 0; faster < (int)axis; faster++) stride *= layout->size[faster];
    for (int32_t i = 0; i < layout->size[axis]; i++)
        members_out[i] = rank + (i - coordinate[axis]) * stride;
    return coordinate[axis];
}

/* Extents are far below 2^63 / (16 * 999), as lowering sees to (lower.c: a batch that can be counted). */
wf_range wf_layout_shard(const wf_layout *layout, wf_axis axis, int64_t extent, int32_t index) {
    const wf_shares *const shares = axis <= WF_AXIS_CP ? &layout->shares[axis] : NULL;
    int64_t before = 0, all = 0;
    if (!shares || !shares->count) return wf_shard(extent, layout->size[axis], index);
    for (int32_t i = 0; i < shares->count; i++) {
        if (i < index) before += shares->of[i];
        all += shares->of[i];
    }
    const int64_t first = extent * before / all;
    return (wf_range){first, extent * (before + shares->of[index]) / all - first};
}

wf_range wf_shard(int64_t extent, int32_t parts, int32_t index) {
    const int64_t each = extent / parts, more = extent % parts;
    return (wf_range){.first = each * index + (index < more ? index : more),
                      .count = each + (index < more)};
}
