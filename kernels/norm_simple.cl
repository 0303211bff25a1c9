/* norm_simple.cl: LayerNorm or RMSNorm, and its gradients; a work-group per row, and for the weights' gradients
 * a work-group per chunk of rows and tile of columns.
 *
 *     row i of x: x[x_offset + i * x_stride + j], j < n; other matrices alike
 *     stats[i] = (mean, 1/sqrt(var + eps));    RMS: (0, 1/sqrt(mean(x^2) + eps)), no beta, no dbeta
 *
 *     norm_wgrad_chunks         columns                    norm_wgrad_sum
 *                     tile 0     tile 1     ...            adds a column's chunks in order
 *       chunk 0   group 0     group 1
 *       chunk 1   group tiles ...                          part: [chunks, 2 (RMS: 1), n], dgamma then dbeta
 *
 * Every extent may be 0, strides are any; GROUP, WIDTH: rows.clh. Sums have a fixed order. */
#include "rows.clh"
#include "norm.clh"

#define VECTORS (RMS ? 1 : 2) /* of a chunk: dgamma, dbeta */

float2 load_stats(const global float *stats) {
    return RMS ? (float2)(0.0f, stats[1]) : vload2(0, stats);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
norm(const global float *x, long x_offset, long x_stride, const global float *gamma,
     long gamma_offset,
#if !RMS
     const global float *beta, long beta_offset,
#endif
     global float *y, long y_offset, long y_stride, global float *stats, long stats_offset,
     long stats_stride, long n, float eps) {
    local float2 scratch[SCRATCH];
    const long row = (long)get_group_id(0);
    x += x_offset + row * x_stride;
    const float2 result = norm_stats(x, n, eps, scratch);
    norm_apply(x, gamma + gamma_offset, BETA(beta) y + y_offset + row * y_stride, n, result);
    if (get_local_id(0) == 0) vstore2(result, 0, stats + stats_offset + row * stats_stride);
}

/* g = dy gamma, xhat = (x - mean) rstd: dx = rstd (g - avg(g) - xhat avg(g xhat)) (+ residual);
 * RMS: xhat = x rstd, and no avg(g). */
kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
norm_backward(const global float *dy, long dy_offset, long dy_stride, const global float *x,
              long x_offset, long x_stride, const global float *stats, long stats_offset,
              long stats_stride, const global float *gamma, long gamma_offset,
              const global float *residual, long residual_offset, long residual_stride,
              global float *dx, long dx_offset, long dx_stride, long n, int add_residual) {
    local float2 scratch[SCRATCH];
    const long row = (long)get_group_id(0);
    dy += dy_offset + row * dy_stride;
    x += x_offset + row * x_stride;
    gamma += gamma_offset;
    residual += residual_offset + row * residual_stride;
    dx += dx_offset + row * dx_stride;
    const float2 stat = load_stats(stats + stats_offset + row * stats_stride);
    vec sum[FOUR] = FOUR_OF(0.0f), projection[FOUR] = FOUR_OF(0.0f);
    ROW_EACH(j, left, k, n, const vec g = row_load(dy + j, left, 0.0f) * row_load(gamma + j, left, 0.0f);
             if (!RMS) sum[k] += g;
             projection[k] += g * ((row_load(x + j, left, 0.0f) - stat.x) * stat.y););
    const float2 sums = group_sum((float2)(vec_sum(four_sum(sum)), vec_sum(four_sum(projection))), scratch);
    const float2 average = sums / (float)n;
    ROW_EACH(j, left, k, n, const vec g = row_load(dy + j, left, 0.0f) * row_load(gamma + j, left, 0.0f);
             const vec xhat = (row_load(x + j, left, 0.0f) - stat.x) * stat.y;
             vec result = (g - average.x - xhat * average.y) * stat.y;
             if (add_residual) result += row_load(residual + j, left, 0.0f);
             row_store(dx + j, left, result););
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
norm_wgrad_chunks(const global float *dy, long dy_offset, long dy_stride, const global float *x,
                  long x_offset, long x_stride, const global float *stats, long stats_offset,
                  long stats_stride, global float *part, long part_offset, long rows, long n,
                  long chunk_rows, long tiles) {
    const long chunk = (long)get_group_id(0) / tiles;
    const long j = ((long)get_group_id(0) % tiles * GROUP + (long)get_local_id(0)) * WIDTH;
    if (j >= n) return;
    const long end = min(rows, (chunk + 1) * chunk_rows);
    vec dgamma = 0.0f, dbeta = 0.0f;
    for (long i = chunk * chunk_rows; i < end; i++) {
        const float2 stat = load_stats(stats + stats_offset + i * stats_stride);
        const vec g = row_load(dy + dy_offset + i * dy_stride + j, n - j, 0.0f);
        const vec v = row_load(x + x_offset + i * x_stride + j, n - j, 0.0f);
        dgamma += g * ((v - stat.x) * stat.y);
        dbeta += g;
    }
    part += part_offset + chunk * VECTORS * n + j;
    row_store(part, n - j, dgamma);
    if (!RMS) row_store(part + n, n - j, dbeta);
}

/* out = sum over the chunks of one of their vectors (+ out). */
void sum_chunks(const global float *part, global float *out, long chunks, long n, long left,
                int accumulate) {
    vec sum = 0.0f;
    for (long chunk = 0; chunk < chunks; chunk++)
        sum += row_load(part + chunk * VECTORS * n, left, 0.0f);
    if (accumulate) sum += row_load(out, left, 0.0f);
    row_store(out, left, sum);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
norm_wgrad_sum(const global float *part, long part_offset, global float *dgamma, long dgamma_offset,
#if !RMS
               global float *dbeta, long dbeta_offset,
#endif
               long chunks, long n, int accumulate) {
    const long j = (long)get_global_id(0) * WIDTH;
    if (j >= n) return;
    part += part_offset + j;
    sum_chunks(part, dgamma + dgamma_offset + j, chunks, n, n - j, accumulate);
#if !RMS
    sum_chunks(part + n, dbeta + dbeta_offset + j, chunks, n, n - j, accumulate);
#endif
}
