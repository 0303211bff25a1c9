/* attention_backward_panel.cl: dQ, dK and dV in one pass over the pairs of rows, for CPU devices. P is
 * computed again from Q, K and lse; the formulas stand in attention_backward_simple.cl.
 *
 *   work-item (part, kv head, sample): every PARTS-th tile of LANES keys, one key per lane; see
 *   attention_panel.clh. Per tile, for every query head that reads it, per STEP queries:
 *       S = Q K^T, dP = dO V^T, P, dS   (LANES each)
 *       dV += P^T dO, dK += dS^T Q      in the work-item
 *       part[query] += dS K             in the workspace: [part][sample][query head][query][ROW]
 *   attention_dq_sum: dQ = the parts' sum, in order; accumulate: added to it. No atomics: the same bits every run.
 * Five products where dQ and dK/dV apart take seven. No local memory, no barrier. Papers: see
 * attention.c. */
#include "philox.clh"
#include "attention.clh"
#include "attention_panel.clh"

#ifndef PARTS
#error "PARTS: see attention.c"
#endif

/* The own rows as they are, filled up with zeros: what `returned` reads. */
INLINE void copy_rows(REAL own[LANES][ROW_VECTORS], global const float *x, long stride, int row0,
                             int n) {
    for (int i = 0; i < LANES; i++) {
        global const float *row = x + clamp(row0 + i, 0, n - 1) * stride;
        int e = 0;
        for (; e + WIDTH <= HEAD_DIM; e += WIDTH) own[i][e / WIDTH] = VLOAD(0, row + e);
        if (e < HEAD_DIM) {
            own[i][e / WIDTH] = 0.0f;
            for (; e < HEAD_DIM; e++) ((float *)own[i])[e] = row[e];
        }
    }
}

/* rows += the rows of x; `spare` is overwritten. */
INLINE void add_rows(REAL rows[HEAD_DIM][VECTORS], REAL spare[HEAD_DIM][VECTORS], global const float *x,
                            long stride, int row0, int n) {
    gather_rows(spare, x, stride, row0, n);
    for (int e = 0; e < HEAD_DIM; e++) EACH_VECTOR rows[e][v] += spare[e][v];
}

/* y[k] += sum_i w[k][i] own[i] of `wide` vectors from element e0 on, for BLOCK rows. */
#define DEFINE_RETURNED(name, wide)                                                                \
    INLINE void name(global float *y, REAL w[STEP][VECTORS], int k0, REAL own[LANES][ROW_VECTORS], int at) { \
        REAL sum[BLOCK][wide];                                                                     \
        _Pragma("unroll") for (int k = 0; k < BLOCK; k++)                                          \
            _Pragma("unroll") for (int c = 0; c < wide; c++) sum[k][c] =                           \
                VLOAD(at + c, y + k * ROW);                                                        \
        _Pragma("unroll 4") for (int i = 0; i < LANES; i++) {                                      \
            REAL part[wide];                                                                       \
            _Pragma("unroll") for (int c = 0; c < wide; c++) part[c] = own[i][at + c];             \
            _Pragma("unroll") for (int k = 0; k < BLOCK; k++) {                                    \
                const REAL scalar = ((const float *)w[k0 + k])[i];                                 \
                _Pragma("unroll") for (int c = 0; c < wide; c++) sum[k][c] += scalar * part[c];    \
            }                                                                                      \
        }                                                                                          \
        _Pragma("unroll") for (int k = 0; k < BLOCK; k++)                                          \
            _Pragma("unroll") for (int c = 0; c < wide; c++)                                       \
                VSTORE(sum[k][c], at + c, y + k * ROW);                                            \
    }
DEFINE_RETURNED(returned_block, VECTORS)
#if ROW_VECTORS % VECTORS
DEFINE_RETURNED(returned_rest, ROW_VECTORS % VECTORS)
#endif

/* The workspace has BLOCK - 1 rows more than there are queries, so that blocks are whole. */
INLINE void returned(global float *y, REAL w[STEP][VECTORS], REAL own[LANES][ROW_VECTORS],
                            int count) {
    int at = 0;
    for (; at + VECTORS <= ROW_VECTORS; at += VECTORS)
        for (int k = 0; k < count; k += BLOCK) returned_block(y + k * ROW, w, k, own, at);
#if ROW_VECTORS % VECTORS
    for (int k = 0; k < count; k += BLOCK) returned_rest(y + k * ROW, w, k, own, at);
#endif
}

kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_backward(READ_4D(q), READ_4D(k), READ_4D(v), READ_4D(d_o), READ_3D(lse),
                        READ_3D(delta), WRITE_4D(dk), WRITE_4D(dv), global float *parts, long parts_at,
                        int tiles, READ_SPANS(qspan) READ_SPANS(kspan) SIZE_ARGUMENTS DROPOUT_ARGUMENTS, int accumulate) {
    const int part = get_group_id(0), kv_head = get_group_id(1), sample = get_group_id(2);
    const int samples = get_num_groups(2), padded = queries + BLOCK - 1;
    const float to_base_2 = scale * LOG2_E;
    REAL k_rows[HEAD_DIM][VECTORS], v_rows[HEAD_DIM][VECTORS], own[LANES][ROW_VECTORS];
    REAL k_sum[HEAD_DIM][VECTORS], v_sum[HEAD_DIM][VECTORS], s[STEP][VECTORS], dp[STEP][VECTORS];
    REAL one[VECTORS], scales[VECTORS];
    EACH_VECTOR one[v] = 1.0f, scales[v] = scale;
    global float *const my_parts =
        parts + parts_at + ((long)part * samples + sample) * query_heads * padded * ROW;
    for (int head = FIRST_READER(kv_head); head < END_READER(kv_head); head++)
        for (long i = 0; i < (long)padded * ROW_VECTORS; i++)
            VSTORE((REAL)(0.0f), i, my_parts + (long)head * padded * ROW);
    for (int tile = part; tile < tiles; tile += PARTS) {
        /* The first tile may begin before the first key, so that random words come in whole blocks. */
        const int row0 = tile * LANES - PHASE(0);
        const int first = max(row0, 0), last = min(row0 + LANES, keys) - 1;
        const int seen_first = FIRST_IN_DOCUMENT(kspan, first, first_query(first, high, queries));
        const int seen_end = END_IN_DOCUMENT(kspan, last, end_query(last, low, queries));
        gather_rows(k_rows, HEAD_4D(k, sample, kv_head), k_s, row0, keys);
        gather_rows(v_rows, HEAD_4D(v, sample, kv_head), v_s, row0, keys);
        copy_rows(own, HEAD_4D(k, sample, kv_head), k_s, row0, keys);
        clear(k_sum);
        clear(v_sum);
        for (int head = FIRST_READER(kv_head); head < END_READER(kv_head); head++) {
            global const float *my_q = HEAD_4D(q, sample, head), *my_do = HEAD_4D(d_o, sample, head);
            global const float *my_lse = lse + lse_at + sample * lse_b + head * lse_h;
            global const float *my_delta = delta + delta_at + sample * delta_b + head * delta_h;
            for (int col0 = seen_first; col0 < seen_end; col0 += STEP) {
                const int count = min(STEP, seen_end - col0);
                const int to = col0 + count - 1;
                const int whole = row0 >= FIRST_IN_DOCUMENT(qspan, to, first_key(to, low, keys)) &&
                                  row0 + LANES <= END_IN_DOCUMENT(qspan, col0, end_key(col0, high, keys));
#if DROPOUT
                REAL keep[STEP][VECTORS];
                keep_of_keys(keep, count, (uint2)(key0, key1), philox_head(site, layer),
                             (sample0 + (uint)sample) * heads + head0 + (uint)head,
                             pos0 + (uint)col0, kpos0 + (uint)row0, threshold, keep_scale);
#endif
                products(s, k_rows, my_q, q_s, col0, count, queries);
                products(dp, v_rows, my_do, d_o_s, col0, count, queries);
                for (int j = 0; j < count; j++) {
                    const float row_lse = my_lse[col0 + j] * LOG2_E, row_delta = my_delta[col0 + j] * scale;
                    EACH_VECTOR s[j][v] = exp2_of(s[j][v] * to_base_2 - row_lse);
                    if (!whole) {
                        const int i = col0 + j;
                        const int from = FIRST_IN_DOCUMENT(qspan, i, first_key(i, low, keys));
                        const int end = END_IN_DOCUMENT(qspan, i, end_key(i, high, keys));
                        EACH_VECTOR {
                            const INT row = row0 + v * WIDTH + LANE;
                            s[j][v] = ((row >= from) & (row < end)) ? s[j][v] : (REAL)(0.0f);
                        }
                    }
                    EACH_VECTOR {
#if DROPOUT
                        const REAL kept = s[j][v] * keep[j][v];
                        dp[j][v] = s[j][v] * (dp[j][v] * keep[j][v] * scale - row_delta);
                        s[j][v] = kept;
#else
                        dp[j][v] = s[j][v] * (dp[j][v] * scale - row_delta);
#endif
                    }
                }
                for (int j = count; j % BLOCK; j++) EACH_VECTOR dp[j][v] = 0.0f;
                weighted(v_sum, one, s, my_do, d_o_s, col0, count, queries);
                weighted(k_sum, one, dp, my_q, q_s, col0, count, queries);
                returned(my_parts + ((long)head * padded + col0) * ROW, dp, own, count);
            }
        }
        if (accumulate) {
            add_rows(k_sum, k_rows, HEAD_4D(dk, sample, kv_head), dk_s, row0, keys);
            add_rows(v_sum, v_rows, HEAD_4D(dv, sample, kv_head), dv_s, row0, keys);
        }
        scatter_rows(HEAD_4D(dk, sample, kv_head), dk_s, row0, keys, k_sum, one);
        scatter_rows(HEAD_4D(dv, sample, kv_head), dv_s, row0, keys, v_sum, one);
    }
}

/* Work-item (query, head, sample). */
kernel __attribute__((reqd_work_group_size(1, 1, 1)))
void attention_dq_sum(WRITE_4D(dq), global const float *parts, long parts_at, int queries, int accumulate) {
    const int query = get_group_id(0), head = get_group_id(1), sample = get_group_id(2);
    const int query_heads = get_num_groups(1), samples = get_num_groups(2), padded = queries + BLOCK - 1;
    const long apart = (long)samples * query_heads * padded * ROW;
    global const float *const from =
        parts + parts_at + (((long)sample * query_heads + head) * padded + query) * ROW;
    global float *const to = HEAD_4D(dq, sample, head) + query * dq_s;
    for (int e = 0; e < HEAD_DIM; e += WIDTH) {
        REAL sum = VLOAD(0, from + e);
        for (int p = 1; p < PARTS; p++) sum += VLOAD(0, from + p * apart + e);
        if (e + WIDTH <= HEAD_DIM) {
            if (accumulate) sum += VLOAD(0, to + e);
            VSTORE(sum, 0, to + e);
        } else
            for (int i = 0; e + i < HEAD_DIM; i++)
                to[e + i] = ((const float *)&sum)[i] + (accumulate ? to[e + i] : 0.0f);
    }
}
