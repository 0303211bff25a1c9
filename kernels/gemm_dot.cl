/* gemm_dot.cl: C[m,n] = epilogue(A B) for A stored [m,k] and B stored [n,k], where both run along k
 * in memory: one work-item owns ROWS x WIDTH elements of C, each a vector of DEPTH partial sums over
 * k, added up at the end. No local memory; for devices with wide vector units and caches (CPUs).
 *
 *     A[i,p] = a[a_offset + i a_stride + p]
 *     B[p,j] = b[b_offset + j b_stride + p]
 *     C[i,j] = c[c_offset + i c_stride + j]
 *
 *              rows j0 .. j0+WIDTH-1 of b, DEPTH of k at a time
 *     rows     +-----+-----+        acc[r][w] += a_r[p .. p+DEPTH) b_w[p .. p+DEPTH)
 *     i0 ..    | acc | ... | ROWS   ROWS + WIDTH loads feed ROWS WIDTH products
 *     of a     +-----+-----+
 *
 * Ragged edges: rows beyond m or n read the last row and are not written; the tail of k reads
 * zeros. Numerics: f32; element p of a sum goes to partial sum p % DEPTH; the partial sums are added
 * by halving, so the order is fixed. */
#if !defined(ROWS) || !defined(WIDTH) || !defined(DEPTH)
#error "ROWS, WIDTH and DEPTH must be defined"
#endif
#include "gemm.clh"
#include "gemm_band.clh"

#define SUMS PASTE(float, DEPTH)
#define LOAD_SUMS PASTE(vload, DEPTH)

static inline SUMS load_sums(__global const float *from, int valid) {
    if (valid >= DEPTH) return LOAD_SUMS(0, from);
    float part[DEPTH];
    for (int i = 0; i < DEPTH; i++) part[i] = i < valid ? from[i] : 0.0f;
    return LOAD_SUMS(0, part);
}

static inline float add_up(SUMS x) {
#if DEPTH == 16
    const float8 h = x.lo + x.hi;
    const float4 q = h.lo + h.hi;
#elif DEPTH == 8
    const float4 q = x.lo + x.hi;
#else
    const float4 q = x;
#endif
    const float2 d = q.lo + q.hi;
    return d.x + d.y;
}

static inline void multiply(__global const float *a, const long a_row[ROWS],
                            __global const float *b, const long b_row[WIDTH], int valid,
                            SUMS acc[ROWS][WIDTH]) {
    SUMS right[WIDTH];
    for (int w = 0; w < WIDTH; w++) right[w] = load_sums(b + b_row[w], valid);
    for (int r = 0; r < ROWS; r++) {
        const SUMS left = load_sums(a + a_row[r], valid);
        for (int w = 0; w < WIDTH; w++) acc[r][w] += left * right[w];
    }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_dot(int band, int m, int n, int k, __global const float *a, long a_offset, __global const float *b,
         long b_offset, long a_stride, long b_stride, EPILOGUE_ARGUMENTS) {
    const int2 tile = tile_of(get_global_id(0), (m - 1) / ROWS + 1, (n - 1) / WIDTH + 1, band);
    const int i0 = tile.x * ROWS, j0 = tile.y * WIDTH;
    long a_row[ROWS], b_row[WIDTH];
    for (int r = 0; r < ROWS; r++) a_row[r] = a_offset + min(i0 + r, m - 1) * a_stride;
    for (int w = 0; w < WIDTH; w++) b_row[w] = b_offset + min(j0 + w, n - 1) * b_stride;
    SUMS acc[ROWS][WIDTH];
    for (int r = 0; r < ROWS; r++)
        for (int w = 0; w < WIDTH; w++) acc[r][w] = (SUMS)(0.0f);

    int p = 0;
    for (; p + DEPTH <= k; p += DEPTH) multiply(a + p, a_row, b + p, b_row, DEPTH, acc);
    if (p < k) multiply(a + p, a_row, b + p, b_row, k - p, acc);

    const epilogue to = EPILOGUE;
    for (int r = 0; r < ROWS && i0 + r < m; r++) {
        float total[WIDTH];
        for (int w = 0; w < WIDTH; w++) total[w] = add_up(acc[r][w]);
        finish(to, VLOAD(0, total), i0 + r, j0, min(n - j0, WIDTH));
    }
}
