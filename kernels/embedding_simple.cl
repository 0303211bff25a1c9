/* embedding_simple.cl: rows of a table by id, and the table's gradient; a work-group per token.
 *
 *     out[i][j] = table[ids[i] - first][j], or 0 where the shard (ids first ... first + vocabulary - 1)
 *     does not hold the id
 *
 *     dtable[id - first][j] += d[i][j] for every i with ids[i] = id, in ascending i:
 *     the group of the first such i does all of them, the groups of the others leave. No atomics,
 *     no sorting, one order; the price is that each group looks through the ids, which are few
 *     bytes beside the rows. */
#include "rows.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
embedding(const global int *ids, long ids_offset, const global float *table, long table_offset,
          long table_stride, global float *out, long out_offset, long out_stride, long vocabulary,
          long first, long n) {
    const long i = (long)get_group_id(0);
    const long row = ids[ids_offset + i] - first;
    const bool here = row >= 0 && row < vocabulary;
    table += table_offset + (here ? row * table_stride : 0);
    out += out_offset + i * out_stride;
    ROW_FOR(j, n) row_store(out + j, n - j, here ? row_load(table + j, n - j, 0.0f) : (vec)(0.0f));
}

/* Does an earlier token have the same id? The items share the look through the ids. */
bool seen_before(const global int *ids, long i, int id, local float2 *scratch) {
    float found = 0.0f;
    for (long k = (long)get_local_id(0); k < i && found == 0.0f; k += GROUP)
        if (ids[k] == id) found = 1.0f;
    return group_max(found, scratch) > 0.0f;
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
embedding_backward(const global int *ids, long ids_offset, const global float *d, long d_offset,
                   long d_stride, global float *dtable, long dtable_offset, long dtable_stride,
                   long rows, long vocabulary, long first, long n) {
    local float2 scratch[SCRATCH];
    const long i = (long)get_group_id(0);
    ids += ids_offset;
    const int id = ids[i];
    const long row = id - first;
    const bool here = row >= 0 && row < vocabulary;
    if (seen_before(ids, here ? i : 0, id, scratch) || !here) return;
    d += d_offset;
    dtable += dtable_offset + row * dtable_stride;
    for (long k = i; k < rows; k++) {
        if (ids[k] != id) continue;
        ROW_FOR(j, n) {
            const vec sum = row_load(dtable + j, n - j, 0.0f) + row_load(d + k * d_stride + j, n - j, 0.0f);
            row_store(dtable + j, n - j, sum);
        }
    }
}
