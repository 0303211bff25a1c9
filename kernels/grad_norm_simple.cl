/* grad_norm_simple.cl: the sum of a flat tensor's squares in two launches, and the norm of all
 * tensors with the factor that clips it.
 *
 *     sum_squares   part[c] = sum of g[i]^2 over chunk c                 a work-group per chunk
 *     sum_chunks    out[0] = sum of part[c]                              one work-group
 *     grad_norm     clip = (sqrt(sum squares), min(1, max_norm / (norm + 1e-6)))    in order, one item
 *
 * A norm that is not finite stays visible: its factor is NaN, never 0. */
#include "rows.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
sum_squares(const global float *g, long g_offset, global float *part, long part_offset, long n,
            long chunk) {
    local float2 scratch[SCRATCH];
    const long first = (long)get_group_id(0) * chunk, here = min(chunk, n - first);
    g += g_offset + first;
    vec sum = 0.0f;
    ROW_FOR(j, here) {
        const vec x = row_load(g + j, here - j, 0.0f);
        sum += x * x;
    }
    const float total = group_sum((float2)(vec_sum(sum), 0.0f), scratch).x;
    if (get_local_id(0) == 0) part[part_offset + (long)get_group_id(0)] = total;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
sum_chunks(const global float *part, long part_offset, global float *out, long out_offset,
           long chunks) {
    local float2 scratch[SCRATCH];
    part += part_offset;
    vec sum = 0.0f;
    ROW_FOR(j, chunks) sum += row_load(part + j, chunks - j, 0.0f);
    const float total = group_sum((float2)(vec_sum(sum), 0.0f), scratch).x;
    if (get_local_id(0) == 0) out[out_offset] = total;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
grad_norm(const global float *squares, long squares_offset, global float *clip, long clip_offset,
          long n, float max_norm) {
    if (get_local_id(0) != 0) return;
    float sum = 0.0f;
    for (long i = 0; i < n; i++) sum += squares[squares_offset + i];
    const float norm = sqrt(sum), factor = max_norm / (norm + 1e-6f);
    const float scale = !isfinite(norm) ? NAN : fmin(factor, 1.0f);
    clip[clip_offset] = norm;
    clip[clip_offset + 1] = max_norm <= 0.0f ? 1.0f : scale;
}
