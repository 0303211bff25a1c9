/* reduce_simple.cl: v = part0 + part1 + ... in this order, then bias, dropout, residual, norm;
 * a work-group per row.
 *
 *     out[i][j] = keep(sample, position, j) / (1-p) * (sum of parts[i][j] + bias[i / bias_group][j])
 *                 + residual[i][j]          sample = sample0 + i % b,
 *                                           position = pos0 + i / b (+ gap where i / b >= gap_at)
 *     y, stats = LayerNorm or RMSNorm of out[i]     (norm.clh)
 *
 *     COUNT                            parts, 1 to 8
 *     BIAS, DROPOUT, RESIDUAL, NORM    0 or 1: the links of the chain
 *     RMS                              norm.clh; 0 without NORM
 *     GROUP, WIDTH                     rows.clh
 *
 * Element i of every matrix m: m[m_offset + row * m_stride + j], j < n. An item reads each element
 * before it writes it, so out may be a part or the residual. Dropout's words are a function of the
 * element's global index (philox.clh); a vector of WIDTH columns starts at a multiple of 4, so one
 * block serves four of its lanes.
 *
 * Scratch: none on any target up to 7 parts. With 8 and the whole chain the arguments alone want
 * more scalar registers than gfx1200 has, and 68 bytes go to scratch: a rank count that one node of
 * such GPUs hardly has, and a second launch for the norm would cost more than they do. */
#if !defined COUNT || !defined BIAS || !defined DROPOUT || !defined RESIDUAL || !defined NORM
#error "COUNT, BIAS, DROPOUT, RESIDUAL, NORM: which chain this is"
#endif
#include "rows.clh"
#include "norm.clh"
#include "philox.clh"

#define MATRIX(m) m, long m##_offset, long m##_stride
#define ROW(m) (m + m##_offset + row * m##_stride)

typedef struct mask {
    uint2 key;
    uint head, c1, c2, threshold;
    float scale;
} mask;

float4 drop4(float4 v, const mask *m, uint quad) {
    const uint4 words = philox_block(m->key, m->head, m->c1, m->c2, quad);
    return select((float4)(0.0f), v * m->scale, words >= (uint4)(m->threshold));
}

vec drop(vec v, const mask *m, long column) {
    const uint quad = (uint)(column >> 2);
#if WIDTH == 4
    return drop4(v, m, quad);
#elif WIDTH == 8
    return (vec)(drop4(v.lo, m, quad), drop4(v.hi, m, quad + 1));
#else
    const uint16 words = philox_blocks4(m->key, m->head, m->c1, m->c2, quad);
    return select((vec)(0.0f), v * m->scale, words >= (uint16)(m->threshold));
#endif
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
reduce(const global float *MATRIX(part0),
#if COUNT > 1
       const global float *MATRIX(part1),
#endif
#if COUNT > 2
       const global float *MATRIX(part2),
#endif
#if COUNT > 3
       const global float *MATRIX(part3),
#endif
#if COUNT > 4
       const global float *MATRIX(part4),
#endif
#if COUNT > 5
       const global float *MATRIX(part5),
#endif
#if COUNT > 6
       const global float *MATRIX(part6),
#endif
#if COUNT > 7
       const global float *MATRIX(part7),
#endif
#if BIAS
       const global float *MATRIX(bias), long bias_group,
#endif
#if DROPOUT
       uint key0, uint key1, uint layer, uint sample0, long b, long pos0, long gap_at, long gap, int site,
       long threshold, float scale,
#endif
#if RESIDUAL
       const global float *MATRIX(residual),
#endif
#if NORM
       const global float *gamma, long gamma_offset,
#if !RMS
       const global float *beta, long beta_offset,
#endif
#endif
       global float *MATRIX(out),
#if NORM
       global float *MATRIX(y), global float *MATRIX(stats), float eps,
#endif
       long n) {
    const long row = (long)get_group_id(0);
#if DROPOUT
    const long position = pos0 + row / b + (row / b >= gap_at ? gap : 0);
    const mask m = {(uint2)(key0, key1), philox_head((uint)site, layer), sample0 + (uint)(row % b),
                    (uint)position, (uint)threshold, scale};
#endif
    global float *result = ROW(out);
    vec sum = 0.0f;
    ROW_FOR(j, n) {
        const long left = n - j;
        vec v = row_load(ROW(part0) + j, left, 0.0f);
#if COUNT > 1
        v += row_load(ROW(part1) + j, left, 0.0f);
#endif
#if COUNT > 2
        v += row_load(ROW(part2) + j, left, 0.0f);
#endif
#if COUNT > 3
        v += row_load(ROW(part3) + j, left, 0.0f);
#endif
#if COUNT > 4
        v += row_load(ROW(part4) + j, left, 0.0f);
#endif
#if COUNT > 5
        v += row_load(ROW(part5) + j, left, 0.0f);
#endif
#if COUNT > 6
        v += row_load(ROW(part6) + j, left, 0.0f);
#endif
#if COUNT > 7
        v += row_load(ROW(part7) + j, left, 0.0f);
#endif
#if BIAS
        v += row_load(bias + bias_offset + row / bias_group * bias_stride + j, left, 0.0f);
#endif
#if DROPOUT
        v = drop(v, &m, j);
#endif
#if RESIDUAL
        v += row_load(ROW(residual) + j, left, 0.0f);
#endif
        row_store(result + j, left, v);
        sum += norm_term(v); /* lanes beyond the row are 0: nothing of the chain makes them anything else */
    }
#if NORM
    local float2 scratch[SCRATCH];
    const float total = group_sum((float2)(vec_sum(sum), 0.0f), scratch).x;
    const float2 pair = norm_stats_of_sum(result, n, total, eps, scratch);
    norm_apply(result, gamma + gamma_offset, BETA(beta) ROW(y), n, pair);
    if (get_local_id(0) == 0) vstore2(pair, 0, ROW(stats));
#endif
}
