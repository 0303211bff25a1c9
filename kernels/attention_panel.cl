/* attention_panel.cl: O = softmax(Q K^T * scale) V for 16 queries per work-item, for CPU devices.
 *
 *   work-item (tile, head, sample): 16 queries, one per vector lane; see attention_panel.clh
 *   per STEP keys: S (16 lanes each), m' = max, P = exp(S - m'), l, O *= exp(m - m'), O += P V.
 * Numerics: as attention_simple.cl. No local memory, no barrier. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#include "attention_panel.clh"

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_forward(READ_4D(q), READ_4D(k), READ_4D(v), WRITE_4D(o), WRITE_3D(lse),
                       SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    const int head = get_group_id(1), sample = get_group_id(2);
    const int row0 = ((int)get_num_groups(0) - 1 - (int)get_group_id(0)) * LANES;
    global const float *my_k = HEAD_4D(k, sample, KV_HEAD(head));
    global const float *my_v = HEAD_4D(v, sample, KV_HEAD(head));
    float16 rows[HEAD_DIM], sum[HEAD_DIM], p[STEP];
    gather_rows(rows, HEAD_4D(q, sample, head), q_s, row0, queries);
    for (int e = 0; e < HEAD_DIM; e++) sum[e] = 0.0f;
    const int16 first = clamp_rows(convert_long16(row_numbers(row0)) + (long)low, keys);
    const int16 end = clamp_rows(convert_long16(row_numbers(row0)) + (long)high, keys);
    const int seen_first = first_key(row0, low, keys);
    const int seen_end = end_key(min(row0 + LANES, queries) - 1, high, keys);
    float16 m = -FLT_MAX, l = 0.0f;
    for (int col0 = seen_first - PHASE(seen_first); col0 < seen_end; col0 += STEP) {
        lane_products(p, rows, my_k, k_s, col0, keys);
        float16 largest = m;
        for (int j = 0; j < STEP; j++) {
            const int16 seen = (col0 + j >= first) & (col0 + j < end);
            p[j] = select((float16)(-FLT_MAX), p[j] * scale, seen);
            largest = fmax(largest, p[j]);
        }
        const float16 shrink = exp(m - largest);
        m = largest;
        l *= shrink;
        for (int e = 0; e < HEAD_DIM; e++) sum[e] *= shrink;
        for (int j = 0; j < STEP; j++) {
            const int16 seen = (col0 + j >= first) & (col0 + j < end);
            p[j] = select((float16)(0.0f), exp(p[j] - largest), seen);
            l += p[j];
        }
#if DROPOUT
        float16 keep[STEP];
        keep_of_queries(keep, (uint2)(key0, key1), philox_head(site, layer),
                        (sample0 + (uint)sample) * heads + head0 + (uint)head,
                        pos0 + (uint)row0, kpos0 + (uint)col0, threshold, keep_scale);
        for (int j = 0; j < STEP; j++) p[j] *= keep[j];
#endif
        lane_weighted(sum, p, my_v, v_s, col0, keys);
    }
    const float16 factor = select(l, 1.0f / l, l > 0.0f); /* NaN stays visible */
    scatter_rows(HEAD_4D(o, sample, head), o_s, row0, queries, sum, factor);
    const float16 result = select((float16)(-INFINITY), m + log(l), first < end);
    for (int lane = 0; lane < LANES && row0 + lane < queries; lane++)
        lse[lse_at + sample * lse_b + head * lse_h + row0 + lane] = ((const float *)&result)[lane];
}
