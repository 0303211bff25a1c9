/* gemm_panel.cl: C[m,n] = epilogue(sum_k A B) at the speed of a CPU's multiply-add units: both operands
 * are packed in panels (gemm_panel.clh), all of B, then all of A, and one work-item owns TILES_M x
 * TILES_N register tiles of ROWS x VECTORS vectors of WIDTH columns.
 *
 *     A[i,p] = a[a_offset + i a_stride + p]   (TRANS_A: p a_stride + i)
 *     B[p,j] = b[b_offset + p b_stride + j]   (TRANS_B: j b_stride + p)
 *     C[i,j] = c[c_offset + i c_stride + j]
 *
 *               TILES_N column tiles
 *              +-------+-------+
 *              | panel | panel |  of B, DEPTH of k at a time: stays in the first cache
 *              +-------+-------+
 *      +-----+ +-------+-------+
 *      |panel| | acc   |       |  acc: ROWS x VECTORS vectors in registers over DEPTH steps of k:
 *      +-----+ +-------+-------+  VECTORS loads of B and ROWS scalars of A feed ROWS VECTORS products
 *      |panel| |       |       |  TILES_M row tiles
 *      +-----+ +-------+-------+
 *       of A
 *
 * Between cuts of k a tile's sums rest in private memory. No local memory, no barrier; work-groups of one
 * work-item. Numerics: f32, one accumulator per element, k ascending, whatever DEPTH is.
 * After K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication", 2008. */
#if !defined(ROWS) || !defined(VECTORS) || !defined(DEPTH) || !defined(TILES_M) || !defined(TILES_N)
#error "ROWS, VECTORS, DEPTH, TILES_M and TILES_N must be defined"
#endif
#if !defined(TRANS_A) || !defined(TRANS_B)
#error "TRANS_A and TRANS_B must be defined"
#endif
#include "gemm.clh"
#include "gemm_band.clh"
#include "gemm_panel.clh"

/* A work-item fills one panel over `chunk` steps of k. `at` is element (0, lane 0) of the panel in the operand
 * x, which has strides lane_stride and k_stride, one of which is 1. */
static inline void pack(__global const float *x, long stride, int along_k, int lanes, int tile, int p, int depth,
                        __global float *panel, int panel_stride) {
    for (int lane = 0; lane < panel_stride; lane += WIDTH) {
        const int valid = clamp(min(tile, lanes) - lane, 0, WIDTH);
        if (along_k) turn_lanes(x + lane * stride + p, stride, valid, depth, panel + lane, panel_stride);
        else copy_lanes(x + p * stride + lane, stride, valid, depth, panel + lane, panel_stride);
    }
}

/* Group: (panel, chunk of k), chunks fastest; panels of B first. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_panel_pack(int chunk, int m, int n, int k, __global const float *a, long a_offset, __global const float *b,
                long b_offset, long a_stride, long b_stride, __global float *panels, long panels_offset) {
    const int chunks = (k - 1) / chunk + 1;
    const int t = get_global_id(0) / chunks, p = get_global_id(0) % chunks * chunk;
    const int depth = min(chunk, k - p), column_tiles = (n - 1) / COLUMNS + 1;
    panels += panels_offset;
    if (t < column_tiles) {
        const int j0 = t * COLUMNS;
        pack(b + b_offset + j0 * (TRANS_B ? b_stride : 1L), b_stride, TRANS_B, n - j0, COLUMNS, p, depth,
             panels + ((long)t * k + p) * COLUMNS, COLUMNS);
    } else {
        const int i0 = (t - column_tiles) * ROWS;
        panels += (long)column_tiles * k * COLUMNS;
        pack(a + a_offset + i0 * (TRANS_A ? 1L : a_stride), a_stride, !TRANS_A, m - i0, ROWS, p, depth,
             panels + ((long)(t - column_tiles) * k + p) * A_STRIDE, A_STRIDE);
    }
}

/* sums (+)= the products of `depth` steps of k. */
static inline void multiply(__global const float *a, __global const float *b, int depth, int first,
                            REAL sums[ROWS * VECTORS]) {
    REAL acc[ROWS][VECTORS];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int v = 0; v < VECTORS; v++) acc[r][v] = first ? (REAL)(0.0f) : sums[r * VECTORS + v];
    for (int p = 0; p < depth; p++) {
        REAL row[VECTORS];
#pragma unroll
        for (int v = 0; v < VECTORS; v++) row[v] = VLOAD(v, b);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            const REAL scalar = (REAL)(a[r]);
#pragma unroll
            for (int v = 0; v < VECTORS; v++) acc[r][v] += scalar * row[v];
        }
        a += A_STRIDE;
        b += COLUMNS;
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int v = 0; v < VECTORS; v++) sums[r * VECTORS + v] = acc[r][v];
}

static inline void finish_tile(epilogue to, const REAL sums[ROWS * VECTORS], int i0, int j0, int m, int n) {
    for (int r = 0; r < min(ROWS, m - i0); r++)
        for (int j = j0; j < min(j0 + COLUMNS, n); j += WIDTH)
            finish(to, sums[r * VECTORS + (j - j0) / WIDTH], i0 + r, j, min(n - j, WIDTH));
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_panel(int band, int m, int n, int k, __global const float *panels, long panels_offset,
           EPILOGUE_ARGUMENTS) {
    const int row_tiles = (m - 1) / ROWS + 1, column_tiles = (n - 1) / COLUMNS + 1;
    const int2 block = tile_of(get_global_id(0), (row_tiles - 1) / TILES_M + 1, (column_tiles - 1) / TILES_N + 1, band);
    const int ti0 = block.x * TILES_M, tj0 = block.y * TILES_N;
    const int ti1 = min(ti0 + TILES_M, row_tiles), tj1 = min(tj0 + TILES_N, column_tiles);
    __global const float *b_panels = panels + panels_offset, *a_panels = b_panels + (long)column_tiles * k * COLUMNS;
    REAL sums[TILES_M * TILES_N][ROWS * VECTORS];
    const epilogue to = EPILOGUE;
    int p = 0;
    do {
        const int depth = min(DEPTH, k - p);
        for (int tj = tj0; tj < tj1; tj++)
            for (int ti = ti0; ti < ti1; ti++) {
                REAL *const tile = sums[(tj - tj0) * TILES_M + ti - ti0];
                multiply(a_panels + ((long)ti * k + p) * A_STRIDE, b_panels + ((long)tj * k + p) * COLUMNS, depth,
                         p == 0, tile);
                if (p + depth == k) finish_tile(to, tile, ti * ROWS, tj * COLUMNS, m, n);
            }
        p += DEPTH;
    } while (p < k);
}
