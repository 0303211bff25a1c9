/* gemm_direct.cl: C[m,n] = epilogue(sum_k A B) without local memory, for devices with wide vector
 * units and caches (CPUs): one work-item owns ROWS rows of VECTORS vectors of WIDTH columns of C, in
 * registers, and walks k once. B is stored [k,n]; A [m,k], or [k,m] if TRANS_A.
 *
 *     A[i,p] = a[a_offset + i a_stride + p]   (TRANS_A: p a_stride + i)
 *     B[p,j] = b[b_offset + p b_stride + j]
 *     C[i,j] = c[c_offset + i c_stride + j]
 *
 *            WIDTH   WIDTH
 *          [-------|-------]  row p of B: VECTORS loads      acc[r][v] += A[i0+r, p] B[p, j0 + v WIDTH ..]
 *      A   +-------+-------+
 *      [p] |  acc          |  ROWS                           one scalar of A feeds VECTORS products,
 *          +-------+-------+                                 one vector of B feeds ROWS
 *
 * Ragged edges: a row beyond m reads row m-1 and is not written; a vector cut by n is read and written
 * element by element. Numerics: f32, one accumulator per element, k ascending. */
#if !defined(ROWS) || !defined(VECTORS) || !defined(TRANS_A)
#error "ROWS, VECTORS and TRANS_A must be defined"
#endif
#include "gemm.clh"
#include "gemm_band.clh"

#define COLUMNS (WIDTH * VECTORS)

/* acc += A B over k. `a_row` and `a_step` are A's strides along m and k; valid[v] elements of vector v
 * of B exist. Inlined twice: with every valid[v] known to be WIDTH, and not. */
static inline void multiply(__global const float *a, const long a_row[ROWS], long a_step,
                            __global const float *b, long b_stride, int k, const int valid[VECTORS],
                            REAL acc[ROWS][VECTORS]) {
    for (int p = 0; p < k; p++) {
        REAL row[VECTORS];
        for (int v = 0; v < VECTORS; v++) row[v] = load(b + v * WIDTH, valid[v]);
        for (int r = 0; r < ROWS; r++) {
            const REAL scalar = (REAL)(a[a_row[r]]);
            for (int v = 0; v < VECTORS; v++) acc[r][v] += scalar * row[v];
        }
        a += a_step;
        b += b_stride;
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_direct(int band, int m, int n, int k, __global const float *a, long a_offset, __global const float *b,
            long b_offset, long a_stride, long b_stride, EPILOGUE_ARGUMENTS) {
    const int2 tile = tile_of(get_global_id(0), (m - 1) / ROWS + 1, (n - 1) / COLUMNS + 1, band);
    const int i0 = tile.x * ROWS, j0 = tile.y * COLUMNS;
    long a_row[ROWS];
    for (int r = 0; r < ROWS; r++) a_row[r] = min(i0 + r, m - 1) * (TRANS_A ? 1L : a_stride);
    int valid[VECTORS], whole[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
        valid[v] = clamp(n - (j0 + v * WIDTH), 0, WIDTH);
        whole[v] = WIDTH;
    }
    REAL acc[ROWS][VECTORS];
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) acc[r][v] = (REAL)(0.0f);

    const long a_step = TRANS_A ? a_stride : 1L;
    if (j0 + COLUMNS <= n)
        multiply(a + a_offset, a_row, a_step, b + b_offset + j0, b_stride, k, whole, acc);
    else
        multiply(a + a_offset, a_row, a_step, b + b_offset + j0, b_stride, k, valid, acc);

    const epilogue to = EPILOGUE;
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++)
            if (i0 + r < m) finish(to, acc[r][v], i0 + r, j0 + v * WIDTH, valid[v]);
}
