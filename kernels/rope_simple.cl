/* rope_simple.cl: rotates pairs of a head's elements in place by angles from a table; a work-group per
 * token, its items over (head, vector of pairs).
 *
 *     x[position, sample, head, e] = x[x_offset + position*x_s + sample*x_b + head*x_h + e]
 *     table[position] = cosines of half angles, then their sines
 *
 *     head 0              head 1                       pair i: elements i and i + half
 *     |vec 0|vec 1|...|   |vec 0|vec 1|...|            group id = position * b + sample
 *     item 0    1 ...        ...
 *
 *     sign    1, or -1 to rotate back;  GROUP, WIDTH: rows.clh
 *
 * Preconditions: half > 0. Numerics: f32, two products and a sum each. Paper: see rope.c. */
#include "rows.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
rope(const global float *table, long table_offset, long table_stride, global float *x, long x_offset,
     long x_s, long x_b, long x_h, long b, long heads, long half_count, float sign) {
    const long position = (long)get_group_id(0) / b, sample = (long)get_group_id(0) % b;
    const long vectors = (half_count + WIDTH - 1) / WIDTH;
    table += table_offset + position * table_stride;
    x += x_offset + position * x_s + sample * x_b;
    for (long i = (long)get_local_id(0); i < heads * vectors; i += GROUP) {
        const long j = i % vectors * WIDTH, left = half_count - j;
        global float *low = x + i / vectors * x_h + j, *high = low + half_count;
        const vec cosine = row_load(table + j, left, 0.0f);
        const vec sine = sign * row_load(table + half_count + j, left, 0.0f);
        const vec from_low = row_load(low, left, 0.0f), from_high = row_load(high, left, 0.0f);
        row_store(low, left, from_low * cosine - from_high * sine);
        row_store(high, left, from_high * cosine + from_low * sine);
    }
}
