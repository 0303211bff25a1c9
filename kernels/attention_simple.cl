/* attention_simple.cl: O = softmax(Q K^T * scale) V for one tile of queries per group, on any device.
 *
 *   for each tile of keys that some row sees:   S = Q K^T          (products, CHUNK by CHUNK)
 *                                               m' = max(m, S)     (over the 16 lanes of a row)
 *                                               P = exp(S - m'); l, O *= exp(m - m')
 *                                               l += P; O += P V   (CHUNK by CHUNK)
 *   O / l, lse = m + log(l); ACCUMULATE: merged with those that are there,
 *       m' = max(m, lse);  l' = l exp(m - m') + exp(lse - m');  O' = (O exp(m - m') + O_there exp(lse - m')) / l'
 *
 *   group (tile, head, sample) of (TILE_ROWS / ITEM_ROWS) * 16 items; see attention_tile.clh
 *   local memory: two tiles, P, 16 maxima per row: 16 KiB at the defaults.
 * Numerics: f32; maxima start at -FLT_MAX and masked P are 0 by selection, so no -inf is computed
 * with; a row without keys gives 0 and -inf. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#define LOADS 2
#include "attention_tile.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void attention_forward(READ_4D(q), READ_4D(k), READ_4D(v), WRITE_4D(o), WRITE_3D(lse),
                       READ_SPANS(qspan) SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    local float a[TILE_ROWS * PITCH] ALIGNED, b[TILE_COLS * PITCH] ALIGNED;
    local float weights[TILE_ROWS * WEIGHT_PITCH], best[TILE_ROWS * LANES];
#if DROPOUT
    local uchar kept[TILE_ROWS * TILE_COLS / 4];
    const uint head_word = philox_head(site, layer);
    const uint c1 = (sample0 + (uint)get_group_id(2)) * heads +
                    head0 + (uint)get_group_id(1);
#endif
    const int item = get_local_id(0), lane = item % LANES, team = item / LANES;
    const int head = get_group_id(1), sample = get_group_id(2);
    /* Late queries see most keys under a causal mask: start with them. */
    const int row0 = ((int)get_num_groups(0) - 1 - (int)get_group_id(0)) * TILE_ROWS;
    global const float *my_q = HEAD_4D(q, sample, head);
    global const float *my_k = HEAD_4D(k, sample, KV_HEAD(head));
    global const float *my_v = HEAD_4D(v, sample, KV_HEAD(head));
    float m[ITEM_ROWS], l[ITEM_ROWS], sum[CHUNKS][ITEM_ROWS][ITEM_DIMS];
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) {
        m[r] = -FLT_MAX;
        l[r] = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
#pragma unroll
            for (int i = 0; i < ITEM_DIMS; i++) sum[c][r][i] = 0.0f;
    }
    if (CHUNKS == 1) load_tile(a, TILE_ROWS, my_q, q_s, row0, queries, 0, team, lane);
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
        float s[ITEM_ROWS][ITEM_COLS] = {{0.0f}};
#pragma unroll 1
        for (int c = 0; c < CHUNKS; c++) {
            barrier(CLK_LOCAL_MEM_FENCE);
            if (CHUNKS > 1)
                load_tile(a, TILE_ROWS, my_q, q_s, row0, queries, c * CHUNK, team, lane);
            load_tile(b, TILE_COLS, my_k, k_s, col0, keys, c * CHUNK, team, lane);
#if DROPOUT
            if (c == 0)
                load_kept(kept, TILE_ROWS, TILE_COLS, (uint2)(key0, key1), head_word, c1,
                          pos0 + (uint)row0, kpos0 + (uint)col0, threshold, item);
#endif
            barrier(CLK_LOCAL_MEM_FENCE);
            add_products(s, a, b, team, lane);
        }
#pragma unroll
        for (int r = 0; r < ITEM_ROWS; r++) {
            const int i = row0 + team * ITEM_ROWS + r;
            float largest = -FLT_MAX;
#pragma unroll
            for (int c = 0; c < ITEM_COLS; c++) {
                const int j = col0 + lane + LANES * c;
                s[r][c] *= scale;
                if (sees(i, j, low, high, keys) && IN_DOCUMENT(document[r], j)) largest = fmax(largest, s[r][c]);
            }
            best[(team * ITEM_ROWS + r) * LANES + lane] = largest;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int r = 0; r < ITEM_ROWS; r++) {
            const int row = team * ITEM_ROWS + r;
            float largest = m[r];
#pragma unroll 4
            for (int i = 0; i < LANES; i++) largest = fmax(largest, best[row * LANES + i]);
            const float shrink = exp(m[r] - largest);
            m[r] = largest;
            l[r] *= shrink;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++)
#pragma unroll
                for (int i = 0; i < ITEM_DIMS; i++) sum[c][r][i] *= shrink;
#pragma unroll
            for (int c = 0; c < ITEM_COLS; c++) {
                const int col = lane + LANES * c, j = col0 + col;
                const bool seen = sees(row0 + row, j, low, high, keys) && IN_DOCUMENT(document[r], j);
                float p = seen ? exp(s[r][c] - largest) : 0.0f;
                l[r] += p;
#if DROPOUT
                p *= kept_factor(kept, TILE_COLS, row, col, keep_scale);
#endif
                weights[row * WEIGHT_PITCH + col] = p;
            }
        }
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            barrier(CLK_LOCAL_MEM_FENCE);
            load_tile(b, TILE_COLS, my_v, v_s, col0, keys, c * CHUNK, team, lane);
            barrier(CLK_LOCAL_MEM_FENCE);
            add_weighted(sum[c], weights, b, team, lane);
        }
    }
    /* Each lane has summed its own columns. */
    barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) best[(team * ITEM_ROWS + r) * LANES + lane] = l[r];
    barrier(CLK_LOCAL_MEM_FENCE);
    global float *my_lse = lse + lse_at + sample * lse_b + head * lse_h + row0;
    float factor[ITEM_ROWS], old_factor[ITEM_ROWS];
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) {
        const int row = team * ITEM_ROWS + r;
        float total = 0.0f;
#pragma unroll 4
        for (int i = 0; i < LANES; i++) total += best[row * LANES + i];
#if ACCUMULATE
        const float before = row0 + row < queries ? my_lse[row] : -INFINITY;
        const float largest = fmax(m[r], before); /* finite, so without any key all is 0 */
        const float old = exp(before - largest), own = exp(m[r] - largest);
        total = old + own * total;
        const float inverse = total > 0.0f ? 1.0f / total : total; /* NaN stays visible */
        factor[r] = own * inverse;
        old_factor[r] = old * inverse;
        m[r] = total == 0.0f ? -INFINITY : largest + log(total); /* lse from here on */
#else
        factor[r] = total > 0.0f ? 1.0f / total : total; /* NaN stays visible */
        old_factor[r] = 0.0f;
        if (lane == 0 && row0 + row < queries) my_lse[row] = total == 0.0f ? -INFINITY : m[r] + log(total);
#endif
    }
#if ACCUMULATE
    barrier(CLK_GLOBAL_MEM_FENCE); /* every lane has read its rows' lse */
#pragma unroll
    for (int r = 0; r < ITEM_ROWS; r++) {
        const int row = team * ITEM_ROWS + r;
        if (lane == 0 && row0 + row < queries) my_lse[row] = m[r];
    }
#endif
#pragma unroll
    for (int c = 0; c < CHUNKS; c++)
        store_rows(HEAD_4D(o, sample, head), o_s, row0, queries, c, sum[c], factor, old_factor, team, lane);
}
