/* positions.c: which positions of a sequence a rank holds.
 *
 * Cp ranks are a ring of N/M, each a group of M neighbours that divide the ring's share among them (usp; M = 1: ring, gather;
 * M = N: ulysses). Under a causal mask late queries see more keys than early ones: the ring's shares are then zigzag (the
 * sequence in 2 N/M chunks, rank r has the r-th from either end), which evens that out. Nothing has to divide, and ranks of unlike
 * speed may have unlike shares. */
#include "layouts/model.h"

int32_t wf_layout_ulysses(const wf_layout *layout) {
    return layout->cp_form == WF_CP_ULYSSES ? layout->size[WF_AXIS_CP] : layout->cp_form == WF_CP_USP ? layout->usp : 1;
}

int32_t wf_layout_ring(const wf_layout *layout) {
    return layout->size[WF_AXIS_CP] / wf_layout_ulysses(layout);
}

/* Of usp the members of the ring share alike. */
static wf_range ring_shard(const wf_layout *layout, int64_t extent, int32_t index) {
    const int32_t ring = wf_layout_ring(layout);
    return ring == layout->size[WF_AXIS_CP] ? wf_layout_shard(layout, WF_AXIS_CP, extent, index) : wf_shard(extent, ring, index);
}

/* Chunk i of 2 N: the first N have the members' shares in their order, the others in the opposite one. Under a causal mask the
 * work of a member's two chunks is then in proportion to its share, too: what the early one lacks of keys, the late one has. */
static wf_range chunk(const wf_layout *layout, int64_t sequence, int32_t i) {
    const int32_t ring = wf_layout_ring(layout);
    if (!layout->shares[WF_AXIS_CP].count) return wf_shard(sequence, 2 * ring, i);
    const int64_t half = sequence / 2;
    if (i < ring) return ring_shard(layout, half, i);
    const wf_range mirrored = ring_shard(layout, sequence - half, 2 * ring - 1 - i);
    return (wf_range){sequence - mirrored.first - mirrored.count, mirrored.count};
}

wf_positions wf_model_ring_positions(const wf_model *m, const wf_layout *layout, int64_t sequence, int32_t index) {
    const int32_t ring = wf_layout_ring(layout);
    const bool zigzag = !m->bidirectional && ring > 1;
    wf_positions of = {.run = {zigzag ? chunk(layout, sequence, index) : ring_shard(layout, sequence, index)}};
    of.run[1] = zigzag ? chunk(layout, sequence, 2 * ring - 1 - index) : (wf_range){of.run[0].first + of.run[0].count, 0};
    of.count = of.run[0].count + of.run[1].count;
    return of;
}

wf_positions wf_positions_part(const wf_positions *whole, wf_range part) {
    wf_positions of = {.count = part.count};
    int64_t before = 0;
    for (int h = 0; h < 2; before += whole->run[h++].count) {
        const int64_t first = part.first > before ? part.first - before : 0, end = part.first + part.count - before;
        const int64_t from = first < whole->run[h].count ? first : whole->run[h].count;
        const int64_t to = end < from ? from : end < whole->run[h].count ? end : whole->run[h].count;
        of.run[h] = (wf_range){whole->run[h].first + from, to - from};
    }
    return of;
}

wf_range wf_ulysses_shard(const wf_layout *layout, int64_t extent, int32_t index) {
    const int32_t ulysses = wf_layout_ulysses(layout);
    return ulysses == layout->size[WF_AXIS_CP] ? wf_layout_shard(layout, WF_AXIS_CP, extent, index) : wf_shard(extent, ulysses, index);
}

wf_positions wf_model_positions(const wf_model *m, const wf_layout *layout, int64_t sequence, int32_t rank) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(layout, rank, at);
    const int32_t ulysses = wf_layout_ulysses(layout), cp = at[WF_AXIS_CP];
    const wf_positions ring = wf_model_ring_positions(m, layout, sequence, cp / ulysses);
    return wf_positions_part(&ring, wf_ulysses_shard(layout, ring.count, cp % ulysses));
}

wf_positions wf_model_own_positions(const wf_model *m, const wf_layout *layout, int64_t sequence, int32_t rank) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(layout, rank, at);
    const wf_positions all = wf_model_positions(m, layout, sequence, rank);
    const bool sp = layout->sp && layout->size[WF_AXIS_TP] > 1;
    return sp ? wf_positions_part(&all, wf_layout_shard(layout, WF_AXIS_TP, all.count, at[WF_AXIS_TP])) : all;
}

int64_t wf_positions_at(const wf_positions *p, int64_t i) {
    return p->run[0].first + i + (i >= p->run[0].count ? wf_positions_gap(p) : 0);
}

int64_t wf_positions_gap(const wf_positions *p) {
    return p->run[1].count ? p->run[1].first - p->run[0].first - p->run[0].count : 0;
}
