/* gemm_simple.cl: C[m,n] = epilogue(sum_k A B) for any GPU: tiles in local memory, a register
 * micro-tile per work-item, every size and row stride, both transposes of both operands.
 *
 *     A[i,p] = a[a_offset + i a_stride + p]   (TRANS_A: p a_stride + i)
 *     B[p,j] = b[b_offset + p b_stride + j]   (TRANS_B: j b_stride + p)
 *              PANELS_B: (p / 32 n + j) b_stride + p % 32   (TRANS_B: (j / 32 k + p) b_stride + j % 32)
 *     C[i,j] = c[c_offset + i c_stride + j]                (PANELS_C: gemm.clh)
 *
 *             TILE_N                 a group of GROUP_N x GROUP_M items owns one tile of C;
 *           +--------+ TILE_K        item (x, y) owns rows y + GROUP_M i, columns x + GROUP_N j,
 *           | b_tile |               so neighbours write neighbours, and read b_tile without
 *           +--------+               bank conflicts; a_tile is read by broadcast.
 *     +---+ +--------+
 *     | a | |        |               Tiles are read along whichever dimension is contiguous in
 *     | _ | | C tile | TILE_M        memory; a row of padding keeps the transposing writes of
 *     | t | |        |               a_tile and b_tile off one bank.
 *     +---+ +--------+
 *     TILE_K
 *
 * Preconditions: TILE_M % GROUP_M == 0, TILE_N % GROUP_N == 0. Outside the matrices zeros are read.
 * Numerics: f32, one accumulator per element, k ascending. */
#if !defined(TILE_M) || !defined(TILE_N) || !defined(TILE_K) || !defined(GROUP_M) || !defined(GROUP_N)
#error "TILE_M, TILE_N, TILE_K, GROUP_M and GROUP_N must be defined"
#endif
#if !defined(TRANS_A) || !defined(TRANS_B)
#error "TRANS_A and TRANS_B must be defined"
#endif
#define WIDTH 1
#include "portable.clh"
#include "gemm.clh"

#define ITEMS (GROUP_M * GROUP_N)
#define MICRO_M (TILE_M / GROUP_M)
#define MICRO_N (TILE_N / GROUP_N)

/* Where step p of row i of X lies: [k, rows], [rows, k], and in panels of k, of rows. */
#define AT_K_MAJOR(i, p, rows, k, stride) ((p) * (stride) + (i))
#define AT_ROWS(i, p, rows, k, stride) ((i) * (stride) + (p))
#define AT_K_PANELS(i, p, rows, k, stride) (((long)((p) / PANEL) * (rows) + (i)) * (stride) + (p) % PANEL)
#define AT_ROW_PANELS(i, p, rows, k, stride) (((long)((i) / PANEL) * (k) + (p)) * (stride) + (i) % PANEL)

/* tile[p][i] = X[i0 + i, k0 + p], zero outside; `ROWS_FIRST`: neighbours in memory are of
 * neighbouring rows, else of neighbouring steps. */
#define DEFINE_LOAD_TILE(name, ROWS, ROWS_FIRST, AT)                                               \
    static inline void name(__local float (*tile)[ROWS + 1], __global const float *x, long stride, \
                            int i0, int k0, int rows, int k, int item) {                           \
        for (int e = item; e < ROWS * TILE_K; e += ITEMS) {                                        \
            const int i = ROWS_FIRST ? e % ROWS : e / TILE_K;                                      \
            const int p = ROWS_FIRST ? e / ROWS : e % TILE_K;                                      \
            const long at = AT((i0 + i), (k0 + p), rows, k, stride);                               \
            tile[p][i] = i0 + i < rows && k0 + p < k ? x[at] : 0.0f;                               \
        }                                                                                          \
    }
#if TRANS_A
DEFINE_LOAD_TILE(load_a, TILE_M, 1, AT_K_MAJOR)
#else
DEFINE_LOAD_TILE(load_a, TILE_M, 0, AT_ROWS)
#endif
#if PANELS_B && TRANS_B
DEFINE_LOAD_TILE(load_b, TILE_N, 1, AT_ROW_PANELS)
#elif PANELS_B
DEFINE_LOAD_TILE(load_b, TILE_N, 0, AT_K_PANELS)
#elif TRANS_B
DEFINE_LOAD_TILE(load_b, TILE_N, 0, AT_ROWS)
#else
DEFINE_LOAD_TILE(load_b, TILE_N, 1, AT_K_MAJOR)
#endif

static inline void multiply(__local const float (*a_tile)[TILE_M + 1],
                            __local const float (*b_tile)[TILE_N + 1], int x, int y,
                            float acc[MICRO_M][MICRO_N]) {
    for (int p = 0; p < TILE_K; p++) {
        float b[MICRO_N];
        for (int j = 0; j < MICRO_N; j++) b[j] = b_tile[p][x + GROUP_N * j];
        for (int i = 0; i < MICRO_M; i++) {
            const float a = a_tile[p][y + GROUP_M * i];
            for (int j = 0; j < MICRO_N; j++) acc[i][j] += a * b[j];
        }
    }
}

__kernel NARROW __attribute__((reqd_work_group_size(GROUP_N, GROUP_M, 1))) void
gemm_simple(int m, int n, int k, __global const float *a, long a_offset, __global const float *b,
            long b_offset, long a_stride, long b_stride, EPILOGUE_ARGUMENTS) {
    __local float a_tile[TILE_K][TILE_M + 1];
    __local float b_tile[TILE_K][TILE_N + 1];
    const int x = get_local_id(0), y = get_local_id(1), item = y * GROUP_N + x;
    const int i0 = get_group_id(1) * TILE_M, j0 = get_group_id(0) * TILE_N;
    float acc[MICRO_M][MICRO_N];
    for (int i = 0; i < MICRO_M; i++)
        for (int j = 0; j < MICRO_N; j++) acc[i][j] = 0.0f;

    for (int k0 = 0; k0 < k; k0 += TILE_K) {
        load_a(a_tile, a + a_offset, a_stride, i0, k0, m, k, item);
        load_b(b_tile, b + b_offset, b_stride, j0, k0, n, k, item);
        barrier(CLK_LOCAL_MEM_FENCE);
        multiply(a_tile, b_tile, x, y, acc);
        barrier(CLK_LOCAL_MEM_FENCE);
    }

    const epilogue to = EPILOGUE;
    for (int i = 0; i < MICRO_M; i++) {
        const int row = i0 + y + GROUP_M * i;
        for (int j = 0; j < MICRO_N; j++) {
            const int col = j0 + x + GROUP_N * j;
            if (row < m && col < WRITTEN(n)) finish(to, acc[i][j], row, col, 1);
        }
    }
}
