/* attention_backward_panel.cl: dQ for 16 queries, and dK with dV for 16 keys, per work-item, for CPU
 * devices. P is computed again from Q, K and lse; the formulas stand in attention_backward_simple.cl.
 *
 *   work-item (tile, head, sample): 16 own rows, one per vector lane; see attention_panel.clh
 * Numerics: as attention_backward_simple.cl. No local memory, no barrier. Papers: see attention.c. */
#include "philox.clh"
#include "attention.clh"
#include "attention_panel.clh"

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_dq(READ_4D(q), READ_4D(k), READ_4D(v), READ_4D(d_o), READ_3D(lse), READ_3D(delta),
                  WRITE_4D(dq), SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    const int head = get_group_id(1), sample = get_group_id(2);
    const int row0 = ((int)get_num_groups(0) - 1 - (int)get_group_id(0)) * LANES;
    global const float *my_k = HEAD_4D(k, sample, KV_HEAD(head));
    global const float *my_v = HEAD_4D(v, sample, KV_HEAD(head));
    float16 q_rows[HEAD_DIM], do_rows[HEAD_DIM], sum[HEAD_DIM], s[STEP], dp[STEP];
    gather_rows(q_rows, HEAD_4D(q, sample, head), q_s, row0, queries);
    gather_rows(do_rows, HEAD_4D(d_o, sample, head), d_o_s, row0, queries);
    for (int e = 0; e < HEAD_DIM; e++) sum[e] = 0.0f;
    const float16 my_lse =
        gather_numbers(lse + lse_at + sample * lse_b + head * lse_h, row0, queries);
    const float16 my_delta =
        gather_numbers(delta + delta_at + sample * delta_b + head * delta_h, row0, queries);
    const int16 first = clamp_rows(convert_long16(row_numbers(row0)) + (long)low, keys);
    const int16 end = clamp_rows(convert_long16(row_numbers(row0)) + (long)high, keys);
    const int seen_first = first_key(row0, low, keys);
    const int seen_end = end_key(min(row0 + LANES, queries) - 1, high, keys);
    for (int col0 = seen_first - PHASE(seen_first); col0 < seen_end; col0 += STEP) {
        lane_products(s, q_rows, my_k, k_s, col0, keys);
        lane_products(dp, do_rows, my_v, v_s, col0, keys);
#if DROPOUT
        float16 keep[STEP];
        keep_of_queries(keep, (uint2)(key0, key1), philox_head(site, layer),
                        (sample0 + (uint)sample) * heads + head0 + (uint)head,
                        pos0 + (uint)row0, kpos0 + (uint)col0, threshold, keep_scale);
        for (int j = 0; j < STEP; j++) dp[j] *= keep[j];
#endif
        for (int j = 0; j < STEP; j++) {
            const int16 seen = (col0 + j >= first) & (col0 + j < end);
            const float16 ds = exp(s[j] * scale - my_lse) * (dp[j] - my_delta);
            s[j] = select((float16)(0.0f), ds, seen);
        }
        lane_weighted(sum, s, my_k, k_s, col0, keys);
    }
    scatter_rows(HEAD_4D(dq, sample, head), dq_s, row0, queries, sum, (float16)(scale));
}

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_dkdv(READ_4D(q), READ_4D(k), READ_4D(v), READ_4D(d_o), READ_3D(lse),
                    READ_3D(delta), WRITE_4D(dk), WRITE_4D(dv),
                    SIZE_ARGUMENTS DROPOUT_ARGUMENTS) {
    const int kv_head = get_group_id(1), sample = get_group_id(2);
    /* The first tile may begin before the first key, so that random words come in whole blocks. */
    const int row0 = (int)get_group_id(0) * LANES - PHASE(0);
    const int16 row = row_numbers(row0);
    float16 k_rows[HEAD_DIM], v_rows[HEAD_DIM], k_sum[HEAD_DIM], v_sum[HEAD_DIM];
    float16 s[STEP], dp[STEP];
    gather_rows(k_rows, HEAD_4D(k, sample, kv_head), k_s, row0, keys);
    gather_rows(v_rows, HEAD_4D(v, sample, kv_head), v_s, row0, keys);
    for (int e = 0; e < HEAD_DIM; e++) k_sum[e] = v_sum[e] = 0.0f;
    const int seen_first = first_query(max(row0, 0), high, queries);
    const int seen_end = end_query(min(row0 + LANES, keys) - 1, low, queries);
    for (int head = FIRST_READER(kv_head); head < END_READER(kv_head); head++) {
        global const float *my_q = HEAD_4D(q, sample, head), *my_do = HEAD_4D(d_o, sample, head);
        global const float *my_lse = lse + lse_at + sample * lse_b + head * lse_h;
        global const float *my_delta = delta + delta_at + sample * delta_b + head * delta_h;
        for (int col0 = seen_first; col0 < seen_end; col0 += STEP) {
            float16 keep[STEP];
            lane_products(s, k_rows, my_q, q_s, col0, queries);
            lane_products(dp, v_rows, my_do, d_o_s, col0, queries);
#if DROPOUT
            keep_of_keys(keep, (uint2)(key0, key1), philox_head(site, layer),
                         (sample0 + (uint)sample) * heads + head0 + (uint)head,
                         pos0 + (uint)col0, kpos0 + (uint)row0, threshold, keep_scale);
#else
            for (int j = 0; j < STEP; j++) keep[j] = 1.0f;
#endif
            for (int j = 0; j < min(STEP, seen_end - col0); j++) {
                const int i = col0 + j;
                const int16 seen =
                    (row >= first_key(i, low, keys)) & (row < end_key(i, high, keys));
                const float16 p = select((float16)(0.0f), exp(s[j] * scale - my_lse[i]), seen);
                s[j] = p * keep[j];
                dp[j] = select((float16)(0.0f), p * (dp[j] * keep[j] - my_delta[i]), seen);
            }
            lane_weighted(v_sum, s, my_do, d_o_s, col0, seen_end);
            lane_weighted(k_sum, dp, my_q, q_s, col0, seen_end);
        }
    }
    scatter_rows(HEAD_4D(dk, sample, kv_head), dk_s, row0, keys, k_sum, (float16)(scale));
    scatter_rows(HEAD_4D(dv, sample, kv_head), dv_s, row0, keys, v_sum, (float16)(1.0f));
}
