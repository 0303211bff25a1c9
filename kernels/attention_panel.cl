/* attention_panel.cl: O = softmax(Q K^T * scale) V for LANES queries per work-item, for CPU devices.
 *
 *   work-item (tile, head, sample): LANES queries, one per lane; see attention_panel.clh
 *   per STEP keys: S (LANES each), m' = max, P = exp(S - m'), l, O *= exp(m - m'), O += P V;
 *   then O / l and lse = m + log(l); accumulate: merged with those that are there.
 * Numerics: as attention_simple.cl; powers of 2 with the scale in the exponent, exp(scale (s - m)) =
 * 2^(c s - c m), one rounding. No local memory, no barrier. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#include "attention_panel.clh"

/* What sum * factor and lse are once merged with the o and lse that are there; `spare` is overwritten. */
INLINE void merge(REAL sum[HEAD_DIM][VECTORS], REAL factor[VECTORS], REAL lse[VECTORS],
                  REAL spare[HEAD_DIM][VECTORS], global const float *o, long stride,
                  global const float *old_lse, int row0, int n) {
    REAL old[VECTORS];
    gather_rows(spare, o, stride, row0, n);
    gather_numbers(old, old_lse, row0, n);
    EACH_VECTOR {
        const INT seen = lse[v] != -INFINITY, none = old[v] == -INFINITY;
        const REAL largest = fmax(lse[v], old[v]);
        const REAL ours = exp2_of((lse[v] - largest) * LOG2_E);
        const REAL theirs = none ? (REAL)(0.0f) : exp2_of((old[v] - largest) * LOG2_E);
        const REAL total = ours + theirs, weight = factor[v] * (ours / total), kept = theirs / total;
        for (int e = 0; e < HEAD_DIM; e++) {
            const REAL there = none ? (REAL)(0.0f) : spare[e][v] * kept;
            sum[e][v] = seen ? there + sum[e][v] * weight : there;
        }
        factor[v] = 1.0f;
        lse[v] = seen ? largest + log(total) : old[v];
    }
}

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_forward(READ_4D(q), READ_4D(k), READ_4D(v), WRITE_4D(o), WRITE_3D(lse),
                       READ_SPANS(qspan) SIZE_ARGUMENTS DROPOUT_ARGUMENTS, int accumulate) {
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
#if DOCUMENTS
    cut_rows(first, end, qspan + qspan_at + sample * qspan_b, qspan_s, qspan_0, row0, queries);
#endif
    EACH_VECTOR m[v] = -FLT_MAX, l[v] = 0.0f;
    const int last = min(row0 + LANES, queries) - 1;
    const int seen_first = FIRST_IN_DOCUMENT(qspan, row0, first_key(row0, low, keys));
    const int seen_end = END_IN_DOCUMENT(qspan, last, end_key(last, high, keys));
    const int all_first = FIRST_IN_DOCUMENT(qspan, last, first_key(last, low, keys));
    const int all_end = END_IN_DOCUMENT(qspan, row0, end_key(row0, high, keys));
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
    global float *my_o = HEAD_4D(o, sample, head), *my_lse = lse + lse_at + sample * lse_b + head * lse_h;
    REAL factor[VECTORS], result[VECTORS];
    EACH_VECTOR {
        factor[v] = l[v] > 0.0f ? 1.0f / l[v] : l[v]; /* NaN stays visible */
        result[v] = first[v] < end[v] ? m[v] * scale + log(l[v]) : (REAL)(-INFINITY);
    }
    if (accumulate) merge(sum, factor, result, rows, my_o, o_s, my_lse, row0, queries);
    scatter_rows(my_o, o_s, row0, queries, sum, factor);
    for (int i = 0; i < LANES && row0 + i < queries; i++)
        my_lse[row0 + i] = ((const float *)result)[i];
}
