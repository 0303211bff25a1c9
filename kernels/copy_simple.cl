/* copy_simple.cl: fill and copy matrices of 32-bit elements, by their bits (a float's NaN keeps its
 * payload, an int stays an int); a work-group per row and chunk of its columns.
 *
 *     out[i][j] = bits, or in[i][j]     group id = i * chunks + c, columns c * chunk ... */
#include "rows.clh"

#if WIDTH == 4
typedef int4 bits_vec;
#elif WIDTH == 8
typedef int8 bits_vec;
#else
typedef int16 bits_vec;
#endif

#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
fill(global int *out, long out_offset, long out_stride, int bits, long n, long chunk, long chunks) {
    const long row = (long)get_group_id(0) / chunks;
    const long first = (long)get_group_id(0) % chunks * chunk, here = min(chunk, n - first);
    out += out_offset + row * out_stride + first;
    ROW_FOR(j, here) {
        if (here - j >= WIDTH) JOIN(vstore, WIDTH)((bits_vec)(bits), 0, out + j);
        else for (long k = j; k < here; k++) out[k] = bits;
    }
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
copy(const global int *in, long in_offset, long in_stride, global int *out, long out_offset,
     long out_stride, long n, long chunk, long chunks) {
    const long row = (long)get_group_id(0) / chunks;
    const long first = (long)get_group_id(0) % chunks * chunk, here = min(chunk, n - first);
    in += in_offset + row * in_stride + first;
    out += out_offset + row * out_stride + first;
    ROW_FOR(j, here) {
        if (here - j >= WIDTH) JOIN(vstore, WIDTH)(JOIN(vload, WIDTH)(0, in + j), 0, out + j);
        else for (long k = j; k < here; k++) out[k] = in[k];
    }
}
