/* attention_delta_simple.cl: delta[sample, head, i] = sum_e O[i, sample, head, e] * dO[i, ..., e].
 *
 *   group (tile, head, sample) of 16 rows x 16 lanes; lane l of a row sums e = l, l + 16, ...,
 *   then lane 0 sums the 16 partial sums. Head size is an argument. */

#define LANES 16
#define ROWS 16

kernel __attribute__((reqd_work_group_size(LANES * ROWS, 1, 1)))
void attention_delta(global const float *restrict o, long o_at, long o_s, long o_b, long o_h,
                     global const float *restrict d_o, long d_o_at, long d_o_s, long d_o_b,
                     long d_o_h, global float *restrict delta, long delta_at, long delta_b,
                     long delta_h, int queries, int head_dim) {
    local float partial[ROWS * (LANES + 1)];
    const int lane = get_local_id(0) % LANES, row = get_local_id(0) / LANES;
    const int i = (int)get_group_id(0) * ROWS + row;
    const int head = get_group_id(1), sample = get_group_id(2);
    float sum = 0.0f;
    if (i < queries) {
        global const float *x = o + o_at + i * o_s + sample * o_b + head * o_h;
        global const float *y = d_o + d_o_at + i * d_o_s + sample * d_o_b + head * d_o_h;
        for (int e = lane; e < head_dim; e += LANES) sum += x[e] * y[e];
    }
    partial[row * (LANES + 1) + lane] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    if (lane == 0 && i < queries) {
        float total = 0.0f;
        for (int l = 0; l < LANES; l++) total += partial[row * (LANES + 1) + l];
        delta[delta_at + sample * delta_b + head * delta_h + i] = total;
    }
}
