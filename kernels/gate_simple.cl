/* gate_simple.cl: act(gate) * up of the two halves of a row, and its gradient; act alone; a work-group per row and
 * chunk of its columns.
 *
 *     out[i][j] = act(pre[i][j]) * pre[i][n + j]                     j < n
 *     dpre[i][j] = d[i][j] pre[i][n + j] act'(pre[i][j]),  dpre[i][n + j] = d[i][j] act(pre[i][j])
 *     activation: out[i][j] = act(pre[i][j])
 *
 *     group id = i * chunks + c: columns c * chunk ...;  ACTIVATION: activation.clh;  GROUP, WIDTH: rows.clh
 *
 * An item reads both elements before it writes them, so dpre may be pre, and out its first half
 * (activation's: all of it).
 * Numerics: f32, see activation.clh. Paper: see gate.c. */
#include "rows.clh"
#include "activation.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
gate(const global float *pre, long pre_offset, long pre_stride, global float *out, long out_offset,
     long out_stride, long n, long chunk, long chunks) {
    const long row = (long)get_group_id(0) / chunks;
    const long first = (long)get_group_id(0) % chunks * chunk, here = min(chunk, n - first);
    pre += pre_offset + row * pre_stride + first;
    out += out_offset + row * out_stride + first;
    ROW_EACH(j, left, k, here, const vec g = row_load(pre + j, left, 0.0f);
             row_store(out + j, left, activate(g) * row_load(pre + n + j, left, 0.0f)););
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
gate_backward(const global float *pre, long pre_offset, long pre_stride, const global float *d,
              long d_offset, long d_stride, global float *dpre, long dpre_offset, long dpre_stride,
              long n, long chunk, long chunks) {
    const long row = (long)get_group_id(0) / chunks;
    const long first = (long)get_group_id(0) % chunks * chunk, here = min(chunk, n - first);
    pre += pre_offset + row * pre_stride + first;
    d += d_offset + row * d_stride + first;
    dpre += dpre_offset + row * dpre_stride + first;
    ROW_EACH(j, left, k, here, const vec g = row_load(pre + j, left, 0.0f);
             const vec u = row_load(pre + n + j, left, 0.0f); const vec grad = row_load(d + j, left, 0.0f);
             row_store(dpre + j, left, grad * u * activation_gradient(g));
             row_store(dpre + n + j, left, grad * activate(g)););
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
activation(const global float *pre, long pre_offset, long pre_stride, global float *out, long out_offset, long out_stride,
           long n, long chunk, long chunks) {
    const long row = (long)get_group_id(0) / chunks;
    const long first = (long)get_group_id(0) % chunks * chunk, here = min(chunk, n - first);
    pre += pre_offset + row * pre_stride + first;
    out += out_offset + row * out_stride + first;
    ROW_EACH(j, left, k, here, row_store(out + j, left, activate(row_load(pre + j, left, 0.0f))););
}
