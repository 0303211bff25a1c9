/* gemm_panel.cl: C[m,n] = epilogue(sum_k A B) near the speed of a CPU's multiply-add units:
 * operands go through panels (gemm_panel.clh), and a work-item owns `height` x `width` register
 * tiles of C, at most TILES_M x TILES_N; groups along the rows of C first, so that a row's part of
 * A is read once.
 *
 *     A[i,p] = a[a_offset + i a_stride + p]   (TRANS_A: p a_stride + i)
 *     B[p,j] = b[b_offset + p b_stride + j]   (TRANS_B: j b_stride + p)
 *              PANELS_B: (p / 32 n + j) b_stride + p % 32   (TRANS_B: (j / 32 k + p) b_stride + j % 32)
 *     C[i,j] = c[c_offset + i c_stride + j]                (PANELS_C: gemm.clh)
 *
 *                 width panels, DEPTH of k: filled by the work-item in private memory; they stay in
 * a
 *              +-------+-------+            core's second cache while A goes by
 *              |   b   |   b   |
 *              +-------+-------+
 *      +-----+ +-------+-------+
 *      |  a  | | acc   |       |  acc: ROWS x VECTORS vectors of WIDTH in registers, over DEPTH of
 * k:
 *      +-----+ +-------+-------+  VECTORS loads of b and ROWS scalars of a feed ROWS VECTORS
 * products |  a  | |       |       |  height tiles
 *      +-----+ +-------+-------+
 *      one panel of A is in the first cache while it meets all of b. SHARED: gemm_panel_pack has
 * filled A's panels in the workspace, once for all, for as many rows as it holds (a slab: both
 * kernels are launched per slab); else the work-item fills its own.
 *
 * A weight in panels is read where it lies (TRANS_B), or turned (dgrad). Its panels have 32 rows, which
 * COLUMNS must divide.
 *
 * Between cuts of k the sums rest in private memory. No local memory, no barrier; work-groups of
 * one work-item. Numerics: f32, one accumulator per element, k ascending, whatever the parameters
 * are. After K. Goto and R. van de Geijn, "Anatomy of high-performance matrix multiplication",
 * 2008. */
#if !defined(ROWS) || !defined(VECTORS) || !defined(DEPTH) || !defined(TILES_M) || !defined(TILES_N)
#error "ROWS, VECTORS, DEPTH, TILES_M and TILES_N must be defined"
#endif
#if !defined(SHARED) || !defined(AHEAD) || !defined(TRANS_A) || !defined(TRANS_B)
#error "SHARED, AHEAD, TRANS_A and TRANS_B must be defined"
#endif
#include "gemm.clh"
#include "gemm_panel.clh"

#if (PANELS_B || PANELS_C) && PANEL % COLUMNS
#error "COLUMNS must divide a weight's panels"
#endif

/* IN_PLACE: where the tile of column j begins at step p; a row of the panel is b_stride from the next. */
#define IN_PLACE (PANELS_B && TRANS_B)
#if IN_PLACE
#define B_SPACE __global
#define B_NEXT b_stride
#else
#define B_SPACE
#define B_NEXT COLUMNS
#endif

#if IN_PLACE
INLINE __global const float *b_at(__global const float *b, long stride, int k, int p, int j) {
    return b + ((long)(j / PANEL) * k + p) * stride + j % PANEL;
}
#elif PANELS_B
/* A panel of the weight is PANEL steps of k, stored along k. DEPTH is a multiple of PANEL. */
DEFINE_TURN(turn_b, )
INLINE void fill_b(__global const float *b, long stride, int n, int j0, int p, int depth,
                   float *panel, int count) {
    for (int at = 0; at < depth; at += PANEL)
        turn_b(b + ((long)((p + at) / PANEL) * n + j0) * stride, stride, n - j0,
               min(PANEL, depth - at), panel + at * COLUMNS, COLUMNS, count, DEPTH * COLUMNS);
}
#elif TRANS_B
DEFINE_TURN(fill_b, )
#define B_COLUMN b_stride
#define B_STEP   1L
#else
DEFINE_COPY(fill_b, , COLUMNS)
#define B_COLUMN 1L
#define B_STEP   b_stride
#endif

#if SHARED
#define A_SPACE __global
#else
#define A_SPACE
#endif
#if TRANS_A
DEFINE_COPY(fill_a, A_SPACE, ROWS)
#define A_ROW  1L
#define A_STEP a_stride
#else
DEFINE_TURN(fill_a, A_SPACE)
#define A_ROW  a_stride
#define A_STEP 1L
#endif

#if SHARED
/* Panels in the order that they are read: k's cuts of DEPTH, in each all row tiles. */
INLINE long panel_at(int tile, int p, int tiles, int k) {
    const int cut = p / DEPTH * DEPTH;
    return ((long)cut * tiles + (long)tile * min(DEPTH, k - cut) + p - cut) * A_STRIDE;
}

/* Of the rows row0 to m - 1. Group: (`batch` row tiles, chunk of k): along the way that A is stored. DEPTH is a
 * multiple of the chunk. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_panel_pack(int chunk, int batch, int row0, int m, int k, __global const float *a, long a_offset,
                long a_stride, __global float *panels, long panels_offset) {
    const int chunks = (k - 1) / chunk + 1, tiles = (m - 1 - row0) / ROWS + 1;
    const int batches = (tiles - 1) / batch + 1, group = get_global_id(0);
    const int t = (TRANS_A ? group % batches : group / chunks) * batch,
              c = TRANS_A ? group / batches : group % chunks;
    const int p = c * chunk, i0 = row0 + t * ROWS, apart = min(DEPTH, k - p / DEPTH * DEPTH) * A_STRIDE;
    fill_a(a + a_offset + i0 * A_ROW + p * A_STEP, a_stride, m - i0, min(chunk, k - p),
           panels + panels_offset + panel_at(t, p, tiles, k), A_STRIDE, min(batch, tiles - t), apart);
}
#endif

/* Steps of k between two jumps: more of them and a sum of 16 floats goes through memory. */
#if WIDTH < 16
#define STEPS 4
#else
#define STEPS 2
#endif

/* Floats of a line of the caches: what is asked for is asked for once. A comes from afar, so it is asked for AHEAD steps of k
 * beforehand; with 0 that is left to the processor. */
#define LINE 16
#if AHEAD
#define ASK_FOR_A(s) if ((s) * A_STRIDE % LINE < A_STRIDE) WILL_READ(a + ((s) + AHEAD) * A_STRIDE);
#else
#define ASK_FOR_A(s)
#endif

/* out = (first ? 0 : sums) + the products of `depth` steps of k, for the first HEIGHT rows of a tile; STEPS of them between two
 * jumps, as elsewhere the loop's own instructions are a third of all. `c`: the tile's place in C: its lines are asked for a row
 * in every STEPS, the first ones, so that they are there when they are written. Asked for all at once they hold up the loads. */
#define MULTIPLY_STEP(HEIGHT, s)                                                                   \
    {                                                                                              \
        REAL row[VECTORS];                                                                         \
        _Pragma("unroll") for (int v = 0; v < VECTORS; v++) row[v] = VLOAD(v, b);                  \
        ASK_FOR_A(s)                                                                               \
        _Pragma("unroll") for (int r = 0; r < HEIGHT; r++) {                                       \
            const REAL scalar = (REAL)(a[(s) * A_STRIDE + r]);                                     \
            _Pragma("unroll") for (int v = 0; v < VECTORS; v++) acc[r][v] += scalar * row[v];      \
        }                                                                                          \
        b += b_next;                                                                               \
    }
#define MULTIPLY_STEPS(HEIGHT)                                                                     \
    {                                                                                              \
        _Pragma("unroll") for (int s = 0; s < STEPS; s++) MULTIPLY_STEP(HEIGHT, s)                 \
        a += STEPS * A_STRIDE;                                                                     \
    }
#define DEFINE_MULTIPLY(name, HEIGHT)                                                              \
    INLINE void name(A_SPACE const float *a, B_SPACE const float *b, long b_next, int depth, int first, \
                     __global const float *c, long c_stride,                                       \
                     const REAL sums[ROWS * VECTORS], REAL out[ROWS * VECTORS]) {                  \
        REAL acc[HEIGHT][VECTORS];                                                                 \
        int p = 0;                                                                                 \
        _Pragma("unroll") for (int r = 0; r < HEIGHT; r++)                                         \
            _Pragma("unroll") for (int v = 0; v < VECTORS; v++)                                    \
                acc[r][v] = first ? (REAL)(0.0f) : sums[r * VECTORS + v];                          \
        const int whole = depth / STEPS * STEPS;                                                   \
        for (int r = 1; p < whole; r++) {                                                          \
            const int end = r < HEIGHT ? p + STEPS : whole;                                        \
            _Pragma("unroll") for (int j = 0; j < COLUMNS; j += LINE) WILL_WRITE(c + j);           \
            c += c_stride;                                                                         \
            for (; p < end; p += STEPS) MULTIPLY_STEPS(HEIGHT)                                     \
        }                                                                                          \
        for (; p < depth; p++) {                                                                   \
            MULTIPLY_STEP(HEIGHT, 0)                                                               \
            a += A_STRIDE;                                                                         \
        }                                                                                          \
        _Pragma("unroll") for (int r = 0; r < HEIGHT; r++)                                         \
            _Pragma("unroll") for (int v = 0; v < VECTORS; v++) out[r * VECTORS + v] = acc[r][v];  \
    }
DEFINE_MULTIPLY(multiply, ROWS)

/* The last rows of C, where most of a tile would be for nothing: 1024 rows are 73 tiles of 14, and 2. */
#define SHORT 4
#if ROWS > SHORT
DEFINE_MULTIPLY(multiply_short, SHORT)
#else
#define multiply_short multiply
#endif

/* Columns that all exist: no branches. A whole tile without an activation: no loop either, so that the sums come from
 * registers; with little k this is a tenth of the time. */
INLINE void finish_whole(epilogue to, const REAL sums[ROWS * VECTORS], int i0, int j0, int rows) {
#if !ACTIVATE && !ACT_GRAD
    if (rows == ROWS) {
#pragma unroll
        for (int r = 0; r < ROWS; r++)
#pragma unroll
            for (int v = 0; v < VECTORS; v++) finish(to, sums[r * VECTORS + v], i0 + r, j0 + v * WIDTH, WIDTH);
        return;
    }
#endif
    for (int r = 0; r < rows; r++)
#pragma unroll
        for (int v = 0; v < VECTORS; v++)
            finish(to, sums[r * VECTORS + v], i0 + r, j0 + v * WIDTH, WIDTH);
}

INLINE void finish_tile(epilogue to, const REAL sums[ROWS * VECTORS], int i0, int j0, int m,
                               int n) {
    const int rows = min(ROWS, m - i0), vectors = (n - 1 - j0) / WIDTH + 1;
    if (j0 + COLUMNS <= n) {
        finish_whole(to, sums, i0, j0, rows);
        return;
    }
    for (int e = 0; e < rows * vectors; e++) {
        const int r = e / vectors, v = e % vectors, j = j0 + v * WIDTH;
        finish(to, sums[r * VECTORS + v], i0 + r, j, min(n - j, WIDTH));
    }
}

#if SHARED
#define A_ARGUMENTS
#define PANELS_ARGUMENTS __global const float *panels, long panels_offset,
#else
#define A_ARGUMENTS __global const float *a, long a_offset, long a_stride,
#define PANELS_ARGUMENTS
#endif

/* Of the rows row0 to m - 1. */
__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void
gemm_panel(int height, int width, int row0, int m, int n, int k, A_ARGUMENTS
           __global const float *b, long b_offset, long b_stride, PANELS_ARGUMENTS
           EPILOGUE_ARGUMENTS) {
    const int row_tiles = (m - 1 - row0) / ROWS + 1, column_tiles = (WRITTEN(n) - 1) / COLUMNS + 1;
    const int blocks_across = (column_tiles - 1) / width + 1, group = get_global_id(0);
    const int ti0 = group / blocks_across * height, tj0 = group % blocks_across * width,
              j0 = tj0 * COLUMNS;
    const int tis = min(height, row_tiles - ti0), tjs = min(width, column_tiles - tj0);
    REAL sums[TILES_M][TILES_N][ROWS * VECTORS], done[ROWS * VECTORS];
#if !IN_PLACE
    REAL b_panels[TILES_N][DEPTH * VECTORS]; /* vectors, so that rows begin where cache lines do */
#endif
#if !SHARED
    REAL a_own[DEPTH * A_STRIDE / WIDTH];
#endif
    const epilogue to = EPILOGUE;
    int p = 0;
    do {
        const int depth = min(DEPTH, k - p);
#if PANELS_B && !IN_PLACE
        fill_b(b + b_offset, b_stride, n, j0, p, depth, (float *)b_panels, tjs);
#elif !IN_PLACE
        fill_b(b + b_offset + j0 * B_COLUMN + p * B_STEP, b_stride, n - j0, depth,
               (float *)b_panels, COLUMNS, tjs, DEPTH * COLUMNS);
#endif
        for (int ti = 0; ti < tis; ti++) {
            const int i0 = row0 + (ti0 + ti) * ROWS;
#if SHARED
            __global const float *a_panel =
                panels + panels_offset + panel_at(ti0 + ti, p, row_tiles, k);
#else
            float *const a_panel = (float *)a_own;
            fill_a(a + a_offset + i0 * A_ROW + p * A_STEP, a_stride, m - i0, depth, a_panel,
                   A_STRIDE, 1, 0);
#endif
            for (int tj = 0; tj < tjs; tj++) {
                const int last = p + depth == k, j = j0 + tj * COLUMNS;
                REAL *const out = last ? done : sums[ti][tj];
                __global const float *const c_tile = c_at(to, i0, j);
                const long c_next = last ? to.c_stride : 0; /* else row 0 over and over: no branch */
#if IN_PLACE
                __global const float *b_panel = b_at(b + b_offset, b_stride, k, p, j);
#else
                const float *b_panel = (const float *)b_panels[tj];
#endif
                if (m - i0 > SHORT) multiply(a_panel, b_panel, B_NEXT, depth, p == 0, c_tile, c_next, sums[ti][tj], out);
                else multiply_short(a_panel, b_panel, B_NEXT, depth, p == 0, c_tile, c_next, sums[ti][tj], out);
                if (last) finish_tile(to, done, i0, j, m, WRITTEN(n));
            }
        }
        p += DEPTH;
    } while (p < k);
}
