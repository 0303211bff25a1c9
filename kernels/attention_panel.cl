/* attention_panel.cl: O = softmax(Q K^T * scale) V for LANES queries per work-item, for CPU devices.
 *
 *   work-item (tile, head, sample): LANES queries, one per lane; see attention_panel.clh
 *   per STEP keys: S (LANES each), m' = max, P = exp(S - m'), l, O *= exp(m - m'), O += P V.
 * Numerics: as attention_simple.cl; powers of 2 with the scale in the exponent, exp(scale (s - m)) =
 * 2^(c s - c m), one rounding. No local memory, no barrier. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#include "attention_panel.clh"

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_forward(READ_4D(q), READ_4D(k), READ_4D(v), WRITE_4D(o), WRITE_3D(lse),
                       SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    const int head = get_group_id(1), sample = get_group_id(2);
    const int row0 = mixed(get_group_id(0), get_num_groups(0)) * LANES;
    global const float *my_k = HEAD_4D(k, sample, KV_HEAD(head));
    global const float *my_v = HEAD_4D(v, sample, KV_HEAD(head));
    const float to_base_2 = scale * LOG2_E;
    REAL rows[HEAD_DIM][VECTORS], sum[HEAD_DIM][VECTORS], p[STEP][VECTORS];
    REAL m[VECTORS], l[VECTORS];
    INT first[VECTORS], end[VECTORS];
    gather_rows(rows, HEAD_4D(q, sample, head), q_s, row0, queries);
    clear(sum);
    clamp_rows(first, row0, low, keys);
    clamp_rows(end, row0, high, keys);
    EACH_VECTOR m[v] = -FLT_MAX, l[v] = 0.0f;
    const int last = min(row0 + LANES, queries) - 1;
    const int seen_first = first_key(row0, low, keys), seen_end = end_key(last, high, keys);
    const int all_first = first_key(last, low, keys), all_end = end_key(row0, high, keys);
    for (int col0 = seen_first - PHASE(seen_first); col0 < seen_end; col0 += STEP) {
        const int count = min(STEP, seen_end - col0);
        const int whole = col0 >= all_first && col0 + count <= all_end;
        REAL largest[VECTORS], factor[VECTORS];
        products(p, rows, my_k, k_s, col0, count, keys);
        if (!whole)
            for (int j = 0; j < count; j++)
                EACH_VECTOR p[j][v] = ((col0 + j >= first[v]) & (col0 + j < end[v])) ? p[j][v] : (REAL)(-FLT_MAX);
        EACH_VECTOR largest[v] = m[v];
        for (int j = 0; j < count; j++) EACH_VECTOR largest[v] = p[j][v] > largest[v] ? p[j][v] : largest[v];
        EACH_VECTOR {
            factor[v] = exp2_of((m[v] - largest[v]) * to_base_2);
            m[v] = largest[v];
            largest[v] *= to_base_2;
            l[v] *= factor[v];
        }
        for (int j = 0; j < count; j++) EACH_VECTOR p[j][v] = exp2_of(p[j][v] * to_base_2 - largest[v]);
        if (!whole)
            for (int j = 0; j < count; j++)
                EACH_VECTOR p[j][v] = ((col0 + j >= first[v]) & (col0 + j < end[v])) ? p[j][v] : (REAL)(0.0f);
        for (int j = 0; j < count; j++) EACH_VECTOR l[v] += p[j][v];
#if DROPOUT
        REAL keep[STEP][VECTORS];
        keep_of_queries(keep, count, (uint2)(key0, key1), philox_head(site, layer),
                        (sample0 + (uint)sample) * heads + head0 + (uint)head,
                        pos0 + (uint)row0, kpos0 + (uint)col0, threshold, keep_scale);
        for (int j = 0; j < count; j++) EACH_VECTOR p[j][v] *= keep[j][v];
#endif
        weighted(sum, factor, p, my_v, v_s, col0, count, keys);
    }
    REAL factor[VECTORS], result[VECTORS];
    EACH_VECTOR {
        factor[v] = l[v] > 0.0f ? 1.0f / l[v] : l[v]; /* NaN stays visible */
        result[v] = first[v] < end[v] ? m[v] * scale + log(l[v]) : (REAL)(-INFINITY);
    }
    scatter_rows(HEAD_4D(o, sample, head), o_s, row0, queries, sum, factor);
    for (int i = 0; i < LANES && row0 + i < queries; i++)
        lse[lse_at + sample * lse_b + head * lse_h + row0 + i] = ((const float *)result)[i];
}
