/* sum_rows_simple.cl: sums of consecutive rows; a work-group per (group, chunk of its rows, tile of
 * columns). Long sums take two launches of the same kernel: rows to chunks, chunks to the result.
 *
 *     out[g * chunks + c][j] = sum of in[g * per + i][j] for c * chunk_rows <= i < (c+1) * chunk_rows
 *
 *     work-group id = (g * chunks + c) * tiles + tile;  an item owns WIDTH columns of the tile
 *
 * Each item sums four rows at a time into four sums, added in pairs at the end: one order, and
 * loads that do not wait for each other. */
#include "rows.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
sum_rows(const global float *in, long in_offset, long in_stride, global float *out, long out_offset,
         long out_stride, long per, long chunks, long chunk_rows, long n, long tiles,
         int accumulate) {
    const long target = (long)get_group_id(0) / tiles;
    const long j = ((long)get_group_id(0) % tiles * GROUP + (long)get_local_id(0)) * WIDTH;
    if (j >= n) return;
    const long left = n - j, first = target % chunks * chunk_rows;
    const long end = min(per, first + chunk_rows);
    in += in_offset + target / chunks * per * in_stride + j;
    out += out_offset + target * out_stride + j;
    vec sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    long i = first;
    for (; i + 4 <= end; i += 4)
        for (int k = 0; k < 4; k++) sum[k] += row_load(in + (i + k) * in_stride, left, 0.0f);
    for (; i < end; i++) sum[0] += row_load(in + i * in_stride, left, 0.0f);
    vec total = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    if (accumulate) total += row_load(out, left, 0.0f);
    row_store(out, left, total);
}
