/* cross_entropy_simple.cl: softmax cross-entropy over shards of the vocabulary; a work-group per
 * row of logits, an item per row in the merge.
 *
 *     x = logits[i], one row of the shard: ids first ... first + vocabulary - 1
 *     loss_stats     stats[i] = (max x, sum exp(x - max), x[target] or 0)
 *     loss_merge     lse[i] = m + log(sum_k s_k exp(m_k - m)), loss[i] = lse - target's logit
 *                    stats: [parts, rows, 3], any strides of the first two
 *     loss_backward  logits[i][j] = (exp(x - lse) - [j is target]) * scale, in place
 *
 * Each lane of each item goes through its elements once, BLOCK of the row at a time: the block's maximum, then its sum, and
 * what was summed before is scaled when the maximum has grown (Milakov and Gimelshein: "Online normalizer calculation for
 * softmax", 2018).
 *
 * Any magnitude of logits: nothing is raised to a power before the maximum is taken off. A shard
 * without ids has max -inf and sum 0, and counts as nothing in the merge (exp(-inf - -inf) would be
 * NaN). A negative target is not counted: loss and gradient 0. */
#include "rows.clh"

/* Of a row, in loss_stats: 16 vectors an item, which its first cache holds. */
#define BLOCK (16 * SPAN)

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
loss_stats(const global float *logits, long logits_offset, long logits_stride,
           const global int *targets, long targets_offset, global float *stats, long stats_offset,
           long stats_stride, long vocabulary, long first) {
    local float2 scratch[SCRATCH];
    const long i = (long)get_group_id(0);
    logits += logits_offset + i * logits_stride;
    vec largest = -INFINITY, sum = 0.0f;
    for (long block = 0; block < vocabulary; block += BLOCK) {
        const global float *const x = logits + block;
        const long here = min(BLOCK, vocabulary - block);
        vec top[FOUR] = FOUR_OF(largest), part[FOUR] = FOUR_OF(0.0f);
        ROW_EACH(j, left, k, here, const vec v = row_load(x + j, left, -INFINITY); top[k] = v > top[k] ? v : top[k];);
        const vec larger = fmax(fmax(top[0], top[1]), fmax(top[2], top[3]));
        const vec base = larger > -INFINITY ? larger : (vec)(0.0f);
        ROW_EACH(j, left, k, here, part[k] += EXP(row_load(x + j, left, -INFINITY) - base););
        sum = sum * EXP(largest - base) + four_sum(part);
        largest = larger;
    }
    const float top = group_max(vec_max(largest), scratch);
    if (top > -INFINITY) sum *= EXP(largest - top);
    const float total = group_sum((float2)(vec_sum(sum), 0.0f), scratch).x;
    if (get_local_id(0) != 0) return;
    const int target = targets[targets_offset + i];
    const long column = target - first;
    const bool here = target >= 0 && column >= 0 && column < vocabulary;
    vstore3((float3)(top, total, here ? logits[column] : 0.0f), 0,
            stats + stats_offset + i * stats_stride);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
loss_merge(const global float *stats, long stats_offset, long part_stride, long row_stride,
           const global int *targets, long targets_offset, global float *lse, long lse_offset,
           global float *loss, long loss_offset, long rows, long parts) {
    const long i = (long)get_global_id(0);
    if (i >= rows) return;
    stats += stats_offset + i * row_stride;
    float largest = -INFINITY;
    for (long k = 0; k < parts; k++) largest = fmax(largest, stats[k * part_stride]);
    float sum = 0.0f, logit = 0.0f;
    for (long k = 0; k < parts; k++) {
        const float3 part = vload3(0, stats + k * part_stride);
        if (part.x > -INFINITY) sum += part.y * exp(part.x - largest);
        logit += part.z;
    }
    const float result = largest > -INFINITY ? largest + log(sum) : -INFINITY;
    lse[lse_offset + i] = result;
    loss[loss_offset + i] = targets[targets_offset + i] < 0 ? 0.0f : result - logit;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
loss_backward(const global float *lse, long lse_offset, const global int *targets,
              long targets_offset, global float *logits, long logits_offset, long logits_stride,
              long vocabulary, long first, float scale) {
    const long i = (long)get_group_id(0);
    const int target = targets[targets_offset + i];
    const long column = target - first;
    const float shift = lse[lse_offset + i];
    logits += logits_offset + i * logits_stride;
    /* The target's column again, alone and by the item that has written it: exp(x - lse) - 1 must be rounded before it is
     * scaled. */
    const bool mine = target >= 0 && column >= 0 && column < vocabulary && column / WIDTH % GROUP == (long)get_local_id(0);
    const float hit = mine ? (exp(logits[column] - shift) - 1.0f) * scale : 0.0f;
    if (target >= 0)
        ROW_EACH(j, left, k, vocabulary, row_store(logits + j, left, EXP(row_load(logits + j, left, 0.0f) - shift) * scale););
    else
        ROW_EACH(j, left, k, vocabulary, row_store(logits + j, left, 0.0f););
    if (mine) logits[column] = hit;
}
