/* layout.h: how a model's step is split over ranks: text, mesh, shards. Pure values. */
#ifndef WF_LAYOUTS_LAYOUT_H
#define WF_LAYOUTS_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Mesh order, fastest first. */
typedef enum wf_axis { WF_AXIS_TP, WF_AXIS_CP, WF_AXIS_EP, WF_AXIS_DP, WF_AXIS_PP, WF_AXES } wf_axis;

typedef enum wf_cp_form { WF_CP_NONE, WF_CP_RING, WF_CP_ULYSSES, WF_CP_GATHER, WF_CP_USP } wf_cp_form;
typedef enum wf_pipeline { WF_PIPELINE_NONE, WF_GPIPE, WF_1F1B, WF_PIPEDREAM } wf_pipeline;

/* What of a layer's forward values is not kept for its backward pass, which makes them again: bits. */
enum {
    WF_RECOMPUTE_POINTWISE = 1, /* of norms and activations: a pass over memory each */
    WF_RECOMPUTE_ATTENTION = 2, /* of attention itself (Korthikanti et al. 2022, "selective") */
    WF_RECOMPUTE_FULL = 4       /* all but the layer's input (Chen et al. 2016) */
};

/* Ranks of unlike speed along an axis: who gets how much of what the axis splits, relative to the others. */
enum { WF_MOST_SHARES = 16, WF_LARGEST_SHARE = 999 };
typedef struct wf_shares {
    int32_t measured;           /* not 0: they are to be, by wf_layout_in_proportion; until then all get the same */
    int32_t count;              /* 0: all the same */
    int32_t of[WF_MOST_SHARES];
} wf_shares;

enum { WF_LAYOUT_BYTES = 384 }; /* enough for any layout's text */

/* "tp4.sp.cp2ring.dp2": terms joined by dots, any order, defaults left out; round-trips. */
typedef struct wf_layout {
    int32_t size[WF_AXES];      /* ranks along each axis, at least 1 */
    bool sp;
    int32_t cp_form, usp;       /* wf_cp_form; ulysses ranks of usp */
    wf_shares shares[WF_AXIS_CP + 1]; /* tp-shares2-1: of heads, features, ids and rows; cp-shares2-1: of positions (and, ulysses, heads);
                                       * without numbers, tp-shares: as measured */
    int32_t zero;               /* 0..3 */
    int32_t pipeline;           /* wf_pipeline */
    int32_t virtual_stages;     /* vpN, 1 */
    int32_t microbatches;       /* mbN, 1 */
    int32_t chunks;             /* chunksN, 1 */
    int32_t loss_chunks;        /* loss-chunksN: parts of a microbatch's tokens whose logits are there one after another; 0: as
                                 * many as keep them small (lower_head.c) */
    bool recompute_pointwise, recompute_attention, recompute_full;
    bool offload_activations;
    int32_t order;              /* wf_order (kernels/order.h) of the matrices that only GEMMs read, where they
                                 * can have it (wf_model_order). Of the device, not of the text; 0: rows */
} wf_layout;

/* A sentence pointing at the place of the first error. */
wf_status wf_layout_parse(const char *text, wf_layout *out);
void wf_layout_print(const wf_layout *, char *out, size_t out_bytes);
int32_t wf_layout_ranks(const wf_layout *);

/* Are there shares to be measured? Then numbers take their place: in proportion to rate[ranks], each rank's speed in any unit, in
 * percent of the fastest (NULL: all alike). What has one place along an axis works together, so the slowest of it counts; within 5% all are equal.
 * layouts/proportion.c */
bool wf_layout_measures(const wf_layout *);
void wf_layout_in_proportion(wf_layout *, const double *rate);

/* Coordinates of a rank along each axis, and the members of its group along one axis (out has
 * size[axis] entries); returns the own index in the group. */
void wf_mesh_coordinates(const wf_layout *, int32_t rank, int32_t coordinate_out[WF_AXES]);
int32_t wf_mesh_group(const wf_layout *, int32_t rank, wf_axis, int32_t *members_out);

/* Shard `index` of `parts` of an extent: balanced, the first extent % parts get one more. Empty
 * shards are legal. */
typedef struct wf_range { int64_t first, count; } wf_range;
wf_range wf_shard(int64_t extent, int32_t parts, int32_t index);
/* That of rank `index` along tp or cp: by the axis' shares, where it has some, each part's end being rounded down. */
wf_range wf_layout_shard(const wf_layout *, wf_axis, int64_t extent, int32_t index);

/* Cp ranks are a ring, each of whose members is a group of neighbours that exchange heads for positions: how many of
 * each. Ring index = cp coordinate / ulysses, place among the neighbours = the rest. */
int32_t wf_layout_ring(const wf_layout *);
int32_t wf_layout_ulysses(const wf_layout *);
/* What neighbour `index` gets of what neighbours divide: positions, or heads. */
wf_range wf_ulysses_shard(const wf_layout *, int64_t extent, int32_t index);

/* Positions of a sequence, ascending, in two runs of neighbours; either may be empty. layouts/positions.c */
typedef struct wf_positions { wf_range run[2]; int64_t count; } wf_positions;
int64_t wf_positions_at(const wf_positions *, int64_t i);   /* the i-th */
int64_t wf_positions_gap(const wf_positions *);             /* between the runs */
wf_positions wf_positions_part(const wf_positions *, wf_range part); /* the part.first-th to the part's last */

#ifdef __cplusplus
}
#endif
#endif
