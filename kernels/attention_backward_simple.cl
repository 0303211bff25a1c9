/* attention_backward_simple.cl: dQ, and dK with dV, each for one tile of its rows per group, on any
 * device. P is computed again from Q, K and lse:
 *
 *   attention_dq    owns queries, streams keys:     S = Q K^T, dP = keep dO V^T,
 *                                                   dS = exp(S*scale - lse) (dP - delta), dQ += dS K
 *   attention_dkdv  owns keys, streams the queries of all heads that share the kv head, in order:
 *                                                   dV += (keep P)^T dO, dK += dS^T Q
 *
 *   group (tile, head, sample) of (TILE_ROWS / ITEM_ROWS) * 16 items; see attention_tile.clh
 *   local memory: two or three tiles and two weight arrays, 23 KiB at the defaults.
 *   isa: scratch allowed: pvc: its compiler takes 32 lanes whatever the need, so an item has 64
 *   registers, of which dK and dV of a head of 128 take 32; 64 bytes per item go to scratch there.
 *   Fewer lanes, asked for by attribute, spill on the smaller GPUs; TILE_ROWS=16 ITEM_ROWS=1 does not.
 * Numerics: f32; a row without keys is masked throughout and gives 0 whatever its lse. No atomics:
 * each sum has one order. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#if defined __AMDGCN__ && HEAD_DIM > 64
#define LOADS 1 /* fewer scalar registers, so that none is spilled; PoCL would compile for minutes */
#else
#define LOADS 2
#endif
#include "attention_tile.clh"

/* A head of one chunk keeps both own tiles in local memory; else they pass through one. */
#define OTHER_TILE (CHUNKS == 1 ? TILE_ROWS * PITCH : 4)

/* sum = x y^T over all chunks; a is x already if there is one chunk. Begins with a barrier. */
void tile_product(float sum[ITEM_ROWS][ITEM_COLS], local float *a, local float *b,
                  global const float *x, long x_stride, int row0, int nrows,
                  global const float *y, long y_stride, int col0, int ncols, int team, int lane) {
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++)
#pragma unroll
        for (int c = 0; c < ITEM_COLS; c++) sum[r][c] = 0.0f;
#pragma unroll 1
    for (int c = 0; c < CHUNKS; c++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (CHUNKS > 1) load_tile(a, TILE_ROWS, x, x_stride, row0, nrows, c * CHUNK, team, lane);
        load_tile(b, TILE_COLS, y, y_stride, col0, ncols, c * CHUNK, team, lane);
        barrier(CLK_LOCAL_MEM_FENCE);
        add_products(sum, a, b, team, lane);
    }
}

/* sum += weights values over all chunks; begins with a barrier. */
void tile_weighted(float sum[CHUNKS][ITEM_ROWS][ITEM_DIMS], local const float *weights,
                   local float *b, global const float *y, long y_stride, int col0, int ncols,
                   int team, int lane) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        barrier(CLK_LOCAL_MEM_FENCE);
        load_tile(b, TILE_COLS, y, y_stride, col0, ncols, c * CHUNK, team, lane);
        barrier(CLK_LOCAL_MEM_FENCE);
        add_weighted(sum[c], weights, b, team, lane);
    }
}

void clear(float sum[CHUNKS][ITEM_ROWS][ITEM_DIMS]) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
#pragma unroll
        for (int r = 0; r < ITEM_ROWS; r++)
#pragma unroll
            for (int i = 0; i < ITEM_DIMS; i++) sum[c][r][i] = 0.0f;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_dq(READ_4D(q), READ_4D(k), READ_4D(v), READ_4D(d_o), READ_3D(lse), READ_3D(delta),
                  WRITE_4D(dq), READ_SPANS(qspan) SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    local float a[TILE_ROWS * PITCH] ALIGNED, b[TILE_COLS * PITCH] ALIGNED;
    local float other[OTHER_TILE] ALIGNED, weights[TILE_ROWS * WEIGHT_PITCH];
    local float *const a2 = CHUNKS == 1 ? other : a;
    const int item = get_local_id(0), lane = item % LANES, team = item / LANES;
    const int head = get_group_id(1), sample = get_group_id(2);
    const int row0 = ((int)get_num_groups(0) - 1 - (int)get_group_id(0)) * TILE_ROWS;
#if DROPOUT
    local uchar kept[TILE_ROWS * TILE_COLS / 4];
    const uint c1 = (sample0 + (uint)sample) * heads + head0 + (uint)head;
#endif
    global const float *my_q = HEAD_4D(q, sample, head), *my_do = HEAD_4D(d_o, sample, head);
    global const float *my_k = HEAD_4D(k, sample, KV_HEAD(head));
    global const float *my_v = HEAD_4D(v, sample, KV_HEAD(head));
    global const float *my_lse = lse + lse_at + sample * lse_b + head * lse_h;
    float my_delta[ITEM_ROWS], factor[ITEM_ROWS], one[ITEM_ROWS];
    float sum[CHUNKS][ITEM_ROWS][ITEM_DIMS];
    clear(sum);
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) {
        const int i = row0 + team * ITEM_ROWS + r, inside = min(i, queries - 1);
        my_delta[r] = delta[delta_at + sample * delta_b + head * delta_h + inside];
        factor[r] = scale;
        one[r] = 1.0f;
    }
    if (CHUNKS == 1) {
        load_tile(a, TILE_ROWS, my_q, q_s, row0, queries, 0, team, lane);
        load_tile(a2, TILE_ROWS, my_do, d_o_s, row0, queries, 0, team, lane);
    }
#if DOCUMENTS
    int2 document[ITEM_ROWS];
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++)
        document[r] = DOCUMENT(qspan, min(row0 + team * ITEM_ROWS + r, queries - 1));
#endif
    const int last = min(row0 + TILE_ROWS, queries) - 1;
    const int seen_first = FIRST_IN_DOCUMENT(qspan, row0, first_key(row0, low, keys));
    const int seen_end = END_IN_DOCUMENT(qspan, last, end_key(last, high, keys));
    for (int col0 = seen_first - PHASE(seen_first); col0 < seen_end; col0 += TILE_COLS) {
        float s[ITEM_ROWS][ITEM_COLS], dp[ITEM_ROWS][ITEM_COLS];
        tile_product(s, a, b, my_q, q_s, row0, queries, my_k, k_s, col0, keys, team, lane);
#if DROPOUT
        load_kept(kept, TILE_ROWS, TILE_COLS, (uint2)(key0, key1), philox_head(site, layer),
                  c1, pos0 + (uint)row0, kpos0 + (uint)col0, threshold, item);
#endif
        tile_product(dp, a2, b, my_do, d_o_s, row0, queries, my_v, v_s, col0, keys, team, lane);
#pragma unroll
        for (int r = 0; r < ITEM_ROWS; r++) {
            /* Not read once before the loop: Intel's CPU runtime (2026.2) then gives all rows of a group the last one's lse. */
            const int row = team * ITEM_ROWS + r;
            const float row_lse = my_lse[min(row0 + row, queries - 1)];
#pragma unroll
            for (int c = 0; c < ITEM_COLS; c++) {
                const int col = lane + LANES * c, j = col0 + col;
                const bool seen = sees(row0 + row, j, low, high, keys) && IN_DOCUMENT(document[r], j);
                const float p = seen ? exp(s[r][c] * scale - row_lse) : 0.0f;
                float g = dp[r][c];
#if DROPOUT
                g *= kept_factor(kept, TILE_COLS, row, col, keep_scale);
#endif
                weights[row * WEIGHT_PITCH + col] = seen ? p * (g - my_delta[r]) : 0.0f;
            }
        }
        tile_weighted(sum, weights, b, my_k, k_s, col0, keys, team, lane);
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        store_rows(HEAD_4D(dq, sample, head), dq_s, row0, queries, c, sum[c], factor, one, team, lane);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_dkdv(READ_4D(q), READ_4D(k), READ_4D(v), READ_4D(d_o), READ_3D(lse),
                    READ_3D(delta), WRITE_4D(dk), WRITE_4D(dv),
                    READ_SPANS(kspan) SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    local float a[TILE_ROWS * PITCH] ALIGNED, b[TILE_COLS * PITCH] ALIGNED;
    local float p_weights[TILE_ROWS * WEIGHT_PITCH], ds_weights[TILE_ROWS * WEIGHT_PITCH];
    local float other[OTHER_TILE] ALIGNED;
    local float *const a2 = CHUNKS == 1 ? other : a;
#if DROPOUT
    local uchar kept[TILE_COLS * TILE_ROWS / 4];
#endif
#if DOCUMENTS
    local int2 document[TILE_ROWS]; /* of the own keys: registers are few here */
#endif
    const int item = get_local_id(0), lane = item % LANES, team = item / LANES;
    const int kv_head = get_group_id(1), sample = get_group_id(2);
    /* The first tile may begin before the first key, so that random words come in whole blocks. */
    const int row0 = (int)get_group_id(0) * TILE_ROWS - PHASE(0);
    global const float *my_k = HEAD_4D(k, sample, kv_head), *my_v = HEAD_4D(v, sample, kv_head);
    float sum_k[CHUNKS][ITEM_ROWS][ITEM_DIMS], sum_v[CHUNKS][ITEM_ROWS][ITEM_DIMS];
    clear(sum_k);
    clear(sum_v);
    if (CHUNKS == 1) {
        load_tile(a, TILE_ROWS, my_k, k_s, row0, keys, 0, team, lane);
        load_tile(a2, TILE_ROWS, my_v, v_s, row0, keys, 0, team, lane);
    }
#if DOCUMENTS
    /* tile_product begins with a barrier. */
    for (int r = item; r < TILE_ROWS; r += GROUP) document[r] = DOCUMENT(kspan, clamp(row0 + r, 0, keys - 1));
#endif
    const int first = max(row0, 0), last = min(row0 + TILE_ROWS, keys) - 1;
    const int seen_first = FIRST_IN_DOCUMENT(kspan, first, first_query(first, high, queries));
    const int seen_end = END_IN_DOCUMENT(kspan, last, end_query(last, low, queries));
    for (int head = FIRST_READER(kv_head); head < END_READER(kv_head); head++) {
        global const float *my_q = HEAD_4D(q, sample, head), *my_do = HEAD_4D(d_o, sample, head);
        global const float *my_lse = lse + lse_at + sample * lse_b + head * lse_h;
        global const float *my_delta = delta + delta_at + sample * delta_b + head * delta_h;
        for (int col0 = seen_first; col0 < seen_end; col0 += TILE_COLS) {
            float s[ITEM_ROWS][ITEM_COLS], dp[ITEM_ROWS][ITEM_COLS];
            tile_product(s, a, b, my_k, k_s, row0, keys, my_q, q_s, col0, queries, team, lane);
#if DROPOUT
            const uint c1 = (sample0 + (uint)sample) * heads + head0 + (uint)head;
            load_kept(kept, TILE_COLS, TILE_ROWS, (uint2)(key0, key1),
                      philox_head(site, layer), c1, pos0 + (uint)col0,
                      kpos0 + (uint)row0, threshold, item);
#endif
            tile_product(dp, a2, b, my_v, v_s, row0, keys, my_do, d_o_s, col0, queries, team, lane);
#pragma unroll
            for (int c = 0; c < ITEM_COLS; c++) {
                const int col = lane + LANES * c, i = col0 + col, inside = min(i, queries - 1);
                const float row_lse = my_lse[inside], row_delta = my_delta[inside];
#pragma unroll
                for (int r = 0; r < ITEM_ROWS; r++) {
                    const int row = team * ITEM_ROWS + r, j = row0 + row;
                    const bool seen = i < queries && sees(i, j, low, high, keys) && IN_DOCUMENT(document[row], i);
                    const float p = seen ? exp(s[r][c] * scale - row_lse) : 0.0f;
                    float keep = 1.0f;
#if DROPOUT
                    keep = kept_factor(kept, TILE_ROWS, col, row, keep_scale);
#endif
                    p_weights[row * WEIGHT_PITCH + col] = p * keep;
                    ds_weights[row * WEIGHT_PITCH + col] =
                        seen ? p * (dp[r][c] * keep - row_delta) : 0.0f;
                }
            }
            tile_weighted(sum_v, p_weights, b, my_do, d_o_s, col0, queries, team, lane);
            tile_weighted(sum_k, ds_weights, b, my_q, q_s, col0, queries, team, lane);
        }
    }
    float one[ITEM_ROWS], factor[ITEM_ROWS];
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) {
        one[r] = 1.0f;
        factor[r] = scale;
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        store_rows(HEAD_4D(dk, sample, kv_head), dk_s, row0, keys, c, sum_k[c], factor, one, team, lane);
        store_rows(HEAD_4D(dv, sample, kv_head), dv_s, row0, keys, c, sum_v[c], one, one, team, lane);
    }
}
