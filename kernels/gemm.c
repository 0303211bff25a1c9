/* gemm.c: the GEMM operation: C[m,n] = epilogue(sum_k A B), its variants and their geometry.
 *
 *     simple    local-memory tiles; every problem, any device
 *     direct    a register tile of wide vectors per work-item, B stored [k,n]; for CPUs
 *     dot       the same where A and B both run along k ("nt")
 *     panel     register tiles again, over operands packed in panels, k cut; for CPUs, all transposes
 *     clblast   the library, then our epilogue in place
 *
 * Sizes and strides are arguments; what is compiled in: transposes, flags, the activation, and the
 * candidate's parameters. */
#include "kernels/gemm.h"

#include "kernels/order.h"
#include "kernels/table.h"

enum { M, N, K }; /* size[] */

wf_gemm_index wf_gemm_operand_index(const wf_problem *p) {
    wf_gemm_index index = {-1, -1, -1};
    int next = 2;
    if (p->flags & WF_BIAS) index.bias = next++;
    if (p->flags & WF_ACT_GRAD) index.pre = next++;
    index.c = next++;
    if (p->flags & WF_ACTIVATE) index.pre = next++;
    return index;
}

static wf_operand matrix(const char *name, wf_access access, int64_t rows, int64_t columns) {
    return (wf_operand){.name = name, .access = (uint8_t)access, .dtype = WF_F32, .ndim = 2,
                        .extent = {rows, columns}};
}

/* A matrix [rows, columns] in panels. */
static wf_operand panels(const char *name, wf_access access, int64_t rows, int64_t columns) {
    return matrix(name, access, wf_order_panels(rows) * columns, WF_PANEL_ROWS);
}

static int operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const int64_t m = p->size[M], n = p->size[N], k = p->size[K];
    const bool trans_b = p->flags & WF_TRANS_B;
    const wf_access c_access = p->flags & WF_ACCUMULATE ? WF_UPDATE : WF_WRITE;
    int count = 0;
    out[count++] = p->flags & WF_TRANS_A ? matrix("A", WF_READ, k, m) : matrix("A", WF_READ, m, k);
    out[count++] = p->flags & WF_PANELS_B ? panels("B", WF_READ, trans_b ? n : k, trans_b ? k : n)
                   : trans_b              ? matrix("B", WF_READ, n, k)
                                          : matrix("B", WF_READ, k, n);
    if (p->flags & WF_BIAS)
        out[count++] = (wf_operand){.name = "bias", .access = WF_READ, .dtype = WF_F32, .ndim = 1,
                                    .extent = {n}};
    if (p->flags & WF_ACT_GRAD) out[count++] = matrix("pre", WF_READ, m, n);
    out[count++] = p->flags & WF_PANELS_C ? panels("C", c_access, n, m) : matrix("C", c_access, m, n);
    if (p->flags & WF_ACTIVATE) out[count++] = matrix("pre", WF_WRITE, m, n);
    return count;
}

static double flops(const wf_problem *p) {
    return 2.0 * (double)p->size[M] * (double)p->size[N] * (double)p->size[K];
}

/* Kernels hold indices within a dimension in an int, and round them up to tiles. */
static wf_status check(const wf_problem *p) {
    for (int i = M; i <= K; i++)
        if (p->size[i] > (int64_t)1 << 30)
            return wf_fail(WF_ERR_UNSUPPORTED, "gemm: a dimension is %lld long, at most 2^30 are",
                           (long long)p->size[i]);
    const uint32_t beside = WF_TRANS_B | WF_PANELS_B | WF_BIAS | WF_ACTIVATE | WF_ACT_GRAD;
    if ((p->flags & WF_PANELS_C) && (p->flags & beside))
        return wf_fail(WF_ERR_ARGUMENT, "gemm: a result in panels goes with nn, tn and accumulate only");
    return WF_OK;
}

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

/* ---- what the kernels share --------------------------------------------------------------------- */

static void options(const wf_problem *p, const wf_candidate *candidate, char *out, size_t bytes) {
    (void)candidate;
    wf_append(out, bytes,
              " -DTRANS_A=%d -DTRANS_B=%d -DACCUMULATE=%d -DBIAS=%d -DACTIVATE=%d -DACT_GRAD=%d"
              " -DACTIVATION=%d -DPANELS_B=%d -DPANELS_C=%d",
              !!(p->flags & WF_TRANS_A), !!(p->flags & WF_TRANS_B), !!(p->flags & WF_ACCUMULATE),
              !!(p->flags & WF_BIAS), !!(p->flags & WF_ACTIVATE), !!(p->flags & WF_ACT_GRAD),
              p->activation, !!(p->flags & WF_PANELS_B), !!(p->flags & WF_PANELS_C));
}

static void epilogue_arguments(wf_launch *launch, const wf_problem *p) {
    const wf_gemm_index index = wf_gemm_operand_index(p);
    if (p->flags & WF_BIAS) wf_launch_view(launch, index.bias);
    if (p->flags & WF_ACT_GRAD) wf_launch_view(launch, index.pre);
    wf_launch_view(launch, index.c);
    if (p->flags & WF_ACTIVATE) wf_launch_view(launch, index.pre);
    wf_launch_stride(launch, index.c, 0);
    if (index.pre >= 0) wf_launch_stride(launch, index.pre, 0);
    if (p->flags & WF_PANELS_C) wf_launch_i32(launch, p->size[M]);
}

/* Columns of C that are written: in panels with their padding. */
static int64_t written_columns(const wf_problem *p) {
    return p->flags & WF_PANELS_C ? wf_order_panels(p->size[N]) * WF_PANEL_ROWS : p->size[N];
}

/* What reads rows only refuses panels. */
static bool has_panels(const wf_problem *p, const char **why) {
    if (!(p->flags & (WF_PANELS_B | WF_PANELS_C))) return false;
    return *why = "it takes row-major matrices, not panels", true;
}

/* Sizes, A, B, the epilogue. */
static void gemm_arguments(wf_launch *launch, const wf_problem *p) {
    for (int i = M; i <= K; i++) wf_launch_i32(launch, p->size[i]);
    wf_launch_view(launch, 0);
    wf_launch_view(launch, 1);
    wf_launch_stride(launch, 0, 0);
    wf_launch_stride(launch, 1, 0);
    epilogue_arguments(launch, p);
}

/* Bytes of A that a band may hold: a good part of a core's second cache (512 KiB to 2 MiB today). */
static const int64_t band_bytes = 256 << 10;
/* A lower band would fetch B too often: then a column of B's tiles stays, and all of A goes by. */
static const int64_t lowest_band = 4;

/* Groups of one work-item, one per tile of `rows` x `columns` of C, in bands (gemm_band.clh). */
static int banded_launch(const wf_problem *p, const char *entry, int32_t rows, int32_t columns,
                         wf_launch *launch) {
    if (p->size[M] == 0 || p->size[N] == 0) return 0;
    const int64_t row_tiles = ceil_div(p->size[M], rows), column_tiles = ceil_div(p->size[N], columns);
    const int64_t fit = band_bytes / (4 * rows * (p->size[K] + 1));
    const int64_t band = fit < lowest_band || fit > row_tiles ? row_tiles : fit;
    *launch = (wf_launch){.entry = entry};
    wf_launch_geometry(launch, 1, (const int64_t[1]){row_tiles * column_tiles}, (const int32_t[1]){1});
    wf_launch_i32(launch, band);
    gemm_arguments(launch, p);
    return 1;
}

/* ---- simple -------------------------------------------------------------------------------------- */

enum { TILE_M, TILE_N, TILE_K, GROUP_M, GROUP_N, SIMPLE_PARAMETERS };
static const wf_parameter simple_parameters[SIMPLE_PARAMETERS] = {
    {"TILE_M", 3, {64, 32, 128}, "rows of C per group"},
    {"TILE_N", 3, {64, 32, 128}, "columns of C per group"},
    {"TILE_K", 3, {16, 8, 32}, "k per trip through local memory"},
    {"GROUP_M", 2, {16, 8}, "work-items along the rows"},
    {"GROUP_N", 2, {16, 8}, "work-items along the columns"},
};

static bool simple_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                      const char **why) {
    (void)p;
    const int32_t *v = c->value;
    const int64_t local = 4LL * v[TILE_K] * (v[TILE_M] + 1 + v[TILE_N] + 1);
    if (local > device->local_bytes)
        return *why = "its tiles do not fit the device's local memory", false;
    if (v[GROUP_M] * v[GROUP_N] > device->max_group)
        return *why = "its group is larger than the device allows", false;
    if (v[TILE_M] / v[GROUP_M] * (v[TILE_N] / v[GROUP_N]) > 64)
        return *why = "more than 64 accumulators per work-item", false;
    return true;
}

static int simple_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int32_t *v = c->value;
    const int64_t groups[2] = {ceil_div(written_columns(p), v[TILE_N]), ceil_div(p->size[M], v[TILE_M])};
    if (p->size[M] == 0 || p->size[N] == 0) return 0;
    out[0] = (wf_launch){.entry = "gemm_simple"};
    wf_launch_geometry(&out[0], 2, groups, (const int32_t[2]){v[GROUP_N], v[GROUP_M]});
    gemm_arguments(&out[0], p);
    return 1;
}

/* ---- direct, dot ----------------------------------------------------------------------------------- */

enum { ROWS, VECTORS, WIDTH, DIRECT_PARAMETERS };
static const wf_parameter direct_parameters[DIRECT_PARAMETERS] = {
    {"ROWS", 5, {8, 12, 6, 4, 1}, "rows of C per work-item"},
    {"VECTORS", 3, {1, 2, 4}, "vectors of columns of C per work-item"},
    {"WIDTH", 3, {16, 8, 4}, "floats per vector"},
};

/* One work-item per group leaves most of a GPU idle, and its tile spills there. */
static bool is_gpu(const wf_device *device, const char **why) {
    if (device->type != WF_DEVICE_GPU) return false;
    return *why = "its groups of one work-item are for CPUs", true;
}

static bool direct_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                      const char **why) {
    (void)c;
    if (is_gpu(device, why) || has_panels(p, why)) return false;
    if (p->flags & WF_TRANS_B) return *why = "B must be stored [k,n]", false;
    return true;
}

static int direct_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int32_t *v = c->value;
    return banded_launch(p, "gemm_direct", v[ROWS], v[VECTORS] * v[WIDTH], out);
}

enum { DOT_ROWS, DOT_WIDTH, DEPTH, DOT_PARAMETERS };
static const wf_parameter dot_parameters[DOT_PARAMETERS] = {
    {"ROWS", 3, {4, 2, 6}, "rows of C per work-item"},
    {"WIDTH", 2, {4, 8}, "columns of C per work-item"},
    {"DEPTH", 3, {16, 8, 4}, "partial sums per element of C"},
};

static bool dot_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                   const char **why) {
    (void)c;
    if (is_gpu(device, why) || has_panels(p, why)) return false;
    if ((p->flags & (WF_TRANS_A | WF_TRANS_B)) != WF_TRANS_B)
        return *why = "A must be stored [m,k] and B [n,k]", false;
    return true;
}

static int dot_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    return banded_launch(p, "gemm_dot", c->value[DOT_ROWS], c->value[DOT_WIDTH], out);
}

/* ---- panel ----------------------------------------------------------------------------------------- */

enum { PANEL_ROWS, PANEL_VECTORS, PANEL_WIDTH, PANEL_DEPTH, TILES_M, TILES_N, SHARED, AHEAD, PANEL_PARAMETERS };
static const wf_parameter panel_parameters[PANEL_PARAMETERS] = {
    {"ROWS", 6, {14, 6, 12, 8, 4, 10}, "rows of C per register tile"},
    {"VECTORS", 3, {2, 1, 3}, "vectors of columns of C per register tile"},
    {"WIDTH", 3, {16, 8, 4}, "floats per vector"},
    {"DEPTH", 5, {512, 1024, 256, 128, 64}, "k between two rests of the sums in memory"},
    {"TILES_M", 8, {64, 128, 32, 16, 8, 4, 2, 1}, "register tiles of a work-item, down, at most"},
    {"TILES_N", 5, {4, 2, 1, 8, 16}, "register tiles of a work-item, across, at most"},
    {"SHARED", 2, {1, 0}, "A's panels are filled once, in the workspace"},
    {"AHEAD", 2, {16, 0}, "steps of k that A is asked for beforehand"},
};

/* Private memory of a work-item: sums, panels of B, a panel of A. Threads' stacks hold it. */
static const int64_t most_private_bytes = 5 << 18;

static int64_t private_bytes(const int32_t *v) {
    const int64_t columns = v[PANEL_VECTORS] * v[PANEL_WIDTH], tiles = v[TILES_M] * v[TILES_N];
    return 4 * columns * (tiles * v[PANEL_ROWS] + v[TILES_N] * v[PANEL_DEPTH]);
}

static bool panel_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                     const char **why) {
    if (is_gpu(device, why)) return false;
    if ((p->flags & (WF_PANELS_B | WF_PANELS_C)) && WF_PANEL_ROWS % (c->value[PANEL_VECTORS] * c->value[PANEL_WIDTH]))
        return *why = "its tiles' columns do not divide a weight's panels of 32", false;
    if (private_bytes(c->value) > most_private_bytes)
        return *why = "a work-item's sums and panels are more than 1.25 MiB", false;
    return true;
}

/* Floats of one step of k of a panel of A. */
static int64_t a_stride(const int32_t *v) {
    return ceil_div(v[PANEL_ROWS], v[PANEL_WIDTH]) * v[PANEL_WIDTH];
}

/* A's panels lie in the workspace for one slab of rows at a time, whole tiles, so that large matrices do not
 * need as much again. */
static const int64_t slab_bytes = 32 << 20;
enum { MOST_SLABS = WF_LAUNCHES / 2 };

static int64_t tile_bytes(const wf_problem *p, const int32_t *v) {
    return 4 * p->size[K] * a_stride(v);
}

static int64_t slab_tiles(const wf_problem *p, const int32_t *v) {
    const int64_t tiles = ceil_div(p->size[M], v[PANEL_ROWS]);
    if (!v[SHARED] || tiles == 0 || p->size[K] == 0) return tiles;
    const int64_t wanted = ceil_div(tiles * tile_bytes(p, v), slab_bytes);
    const int64_t slabs = wanted < MOST_SLABS ? wanted : MOST_SLABS;
    return ceil_div(tiles, slabs);
}

static int64_t panel_workspace(const wf_problem *p, const wf_candidate *c) {
    if (p->size[M] == 0 || p->size[N] == 0 || !c->value[SHARED]) return 0;
    return slab_tiles(p, c->value) * tile_bytes(p, c->value);
}

/* k and row tiles that a work-item packs. Along the lanes: few rows, each a page, of as many tiles as share their cache
 * lines; along k: so many that a work-item's start costs nothing. */
static void pack_launch(const wf_problem *p, const wf_candidate *c, int64_t row0, int64_t end, wf_launch *launch) {
    const int64_t most = p->flags & WF_TRANS_A ? 32 : 128;
    const int64_t chunk = most < c->value[PANEL_DEPTH] ? most : c->value[PANEL_DEPTH];
    const int64_t batch = p->flags & WF_TRANS_A ? 8 : 1;
    const int64_t groups = ceil_div(end - row0, batch * c->value[PANEL_ROWS]) * ceil_div(p->size[K], chunk);
    *launch = (wf_launch){.entry = "gemm_panel_pack"};
    wf_launch_geometry(launch, 1, &groups, (const int32_t[1]){1});
    wf_launch_i32(launch, chunk);
    wf_launch_i32(launch, batch);
    wf_launch_i32(launch, row0);
    wf_launch_i32(launch, end);
    wf_launch_i32(launch, p->size[K]);
    wf_launch_view(launch, 0);
    wf_launch_stride(launch, 0, 0);
    wf_launch_view(launch, WF_WORKSPACE);
}

/* `tiles` in as few blocks of at most `most` as there can be, and those alike. */
typedef struct blocks {
    int64_t count, size;
} blocks;

static blocks blocks_of(int64_t tiles, int64_t most) {
    const int64_t count = ceil_div(tiles, most), size = ceil_div(tiles, count);
    return (blocks){.count = ceil_div(tiles, size), .size = size};
}

static blocks down(const int32_t *v, int64_t rows) {
    return blocks_of(ceil_div(rows, v[PANEL_ROWS]), v[TILES_M]);
}

static blocks across(const wf_problem *p, const int32_t *v) {
    return blocks_of(ceil_div(written_columns(p), v[PANEL_VECTORS] * v[PANEL_WIDTH]), v[TILES_N]);
}

static void multiply_launch(const wf_problem *p, const wf_candidate *c, int64_t row0, int64_t end, wf_launch *launch) {
    const int32_t *v = c->value;
    const blocks rows = down(v, end - row0), columns = across(p, v);
    const int64_t groups = rows.count * columns.count;
    *launch = (wf_launch){.entry = "gemm_panel"};
    wf_launch_geometry(launch, 1, &groups, (const int32_t[1]){1});
    wf_launch_i32(launch, rows.size);
    wf_launch_i32(launch, columns.size);
    wf_launch_i32(launch, row0);
    wf_launch_i32(launch, end);
    wf_launch_i32(launch, p->size[N]);
    wf_launch_i32(launch, p->size[K]);
    if (!v[SHARED]) {
        wf_launch_view(launch, 0);
        wf_launch_stride(launch, 0, 0);
    }
    wf_launch_view(launch, 1);
    wf_launch_stride(launch, 1, 0);
    if (v[SHARED]) wf_launch_view(launch, WF_WORKSPACE);
    epilogue_arguments(launch, p);
}

static int panel_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const int64_t rows = slab_tiles(p, c->value) * c->value[PANEL_ROWS];
    int n = 0;
    if (p->size[N] == 0) return 0;
    for (int64_t row0 = 0; row0 < p->size[M]; row0 += rows) {
        const int64_t end = row0 + rows < p->size[M] ? row0 + rows : p->size[M];
        if (p->size[K] > 0 && c->value[SHARED]) pack_launch(p, c, row0, end, &out[n++]);
        multiply_launch(p, c, row0, end, &out[n++]);
    }
    return n;
}

/* ---- clblast ----------------------------------------------------------------------------------------- */

enum { GROUP, CLBLAST_PARAMETERS };
static const wf_parameter clblast_parameters[CLBLAST_PARAMETERS] = {
    {"GROUP", 3, {64, 128, 256}, "work-items of a group of the epilogue"},
};

static bool clblast_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                       const char **why) {
    if (has_panels(p, why)) return false;
    if (p->size[K] == 0) return *why = "CLBlast takes no empty sums", false;
    if (c->value[GROUP] > device->max_group)
        return *why = "the epilogue's group is larger than the device allows", false;
    return true;
}

/* The library accumulates (beta), so the epilogue must not. */
static void clblast_options(const wf_problem *p, const wf_candidate *c, char *out, size_t bytes) {
    wf_problem epilogue = *p;
    epilogue.flags &= ~(uint32_t)WF_ACCUMULATE;
    options(&epilogue, c, out, bytes);
}

static void library_launch(const wf_problem *p, wf_launch *launch) {
    const int c = wf_gemm_operand_index(p).c;
    *launch = (wf_launch){.entry = "clblast_gemm", .library = true};
    wf_launch_view(launch, 0);
    wf_launch_view(launch, 1);
    wf_launch_view(launch, c);
    for (int i = M; i <= K; i++) wf_launch_i64(launch, p->size[i]);
    wf_launch_i32(launch, !!(p->flags & WF_TRANS_A));
    wf_launch_i32(launch, !!(p->flags & WF_TRANS_B));
    wf_launch_stride(launch, 0, 0);
    wf_launch_stride(launch, 1, 0);
    wf_launch_stride(launch, c, 0);
    wf_launch_f32(launch, p->flags & WF_ACCUMULATE ? 1 : 0);
}

static void epilogue_launch(const wf_problem *p, int32_t group, wf_launch *launch) {
    *launch = (wf_launch){.entry = "gemm_epilogue"};
    wf_launch_geometry(launch, 2, (const int64_t[2]){ceil_div(p->size[N], group), p->size[M]},
                       (const int32_t[2]){group, 1});
    wf_launch_i32(launch, p->size[N]);
    epilogue_arguments(launch, p);
}

static int clblast_launches(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    if (p->size[M] == 0 || p->size[N] == 0) return 0;
    library_launch(p, &out[0]);
    if (!(p->flags & (WF_BIAS | WF_ACTIVATE | WF_ACT_GRAD))) return 1;
    epilogue_launch(p, c->value[GROUP], &out[1]);
    return 2;
}

/* ---- the table --------------------------------------------------------------------------------------- */

enum { SIMPLE, DIRECT, DOT, PANEL, CLBLAST, VARIANTS };
static const wf_variant variants[VARIANTS] = {
    [SIMPLE] = {"simple", WF_VARIANT_KERNEL, "gemm_simple.cl", SIMPLE_PARAMETERS, simple_parameters,
                simple_ok, simple_launches, options, NULL},
    [DIRECT] = {"direct", WF_VARIANT_KERNEL, "gemm_direct.cl", DIRECT_PARAMETERS, direct_parameters,
                direct_ok, direct_launches, options, NULL},
    [DOT] = {"dot", WF_VARIANT_KERNEL, "gemm_dot.cl", DOT_PARAMETERS, dot_parameters, dot_ok,
             dot_launches, options, NULL},
    [PANEL] = {"panel", WF_VARIANT_KERNEL, "gemm_panel.cl", PANEL_PARAMETERS, panel_parameters,
               panel_ok, panel_launches, options, panel_workspace},
    [CLBLAST] = {"clblast", WF_VARIANT_LIBRARY, "gemm_epilogue.cl", CLBLAST_PARAMETERS,
                 clblast_parameters, clblast_ok, clblast_launches, clblast_options, NULL},
};

/* Where packing pays (benchmarks/NOTES.md has the crossings): below so many columns a tile's vectors are
 * mostly empty; below so many rows `dot`, which reads both operands as they lie, does less work. */
enum { FEWEST_COLUMNS = 32, FEWEST_ROWS_NT = 8 };

static bool panel_pays(const wf_problem *p) {
    const uint32_t transposes = p->flags & (WF_TRANS_A | WF_TRANS_B);
    if (p->size[K] == 0) return false;
    if (p->flags & (WF_PANELS_B | WF_PANELS_C)) return true; /* against `simple` */
    if (transposes == (WF_TRANS_A | WF_TRANS_B)) return true; /* against `simple` */
    return p->size[N] >= FEWEST_COLUMNS && (transposes != WF_TRANS_B || p->size[M] >= FEWEST_ROWS_NT);
}

/* Work-items for each core, so that the last ones to run do not leave cores idle for long. */
enum { ITEMS_PER_CORE = 4 };

/* AVX-512 has 32 registers, AVX2 and SSE 16. Where the last tile would be mostly empty, tiles are smaller:
 * a twentieth of the work is what 8 rows cost over 14. */
static int32_t panel_rows(int64_t m, int32_t width) {
    if (width < 16) return 6;
    const int64_t padded = ceil_div(m, 14) * 14, small = ceil_div(m, 8) * 8;
    return (padded - small) * 20 > m ? 8 : 14;
}

/* Blocks as large as leave each core its work-items. A's panels are in the workspace, unless each is
 * read by one work-item only. Of narrow vectors a panel of B and of A are in the first cache together at a DEPTH of 256, and what asks for
 * A beforehand costs more than it hides. */
static void prefer_panel(const wf_problem *p, const wf_device *device, wf_candidate *candidate) {
    static const int32_t tiles[][2] = {{128, 4}, {64, 4}, {32, 4}, {16, 4}, {16, 2}, {8, 2}, {8, 1}, {4, 1}};
    enum { SHAPES = sizeof tiles / sizeof *tiles };
    int32_t *const v = candidate->value;
    wf_candidate_default(p, PANEL, candidate);
    v[PANEL_WIDTH] = device->vector_floats >= 16 ? 16 : device->vector_floats >= 8 ? 8 : 4;
    v[PANEL_ROWS] = panel_rows(p->size[M], v[PANEL_WIDTH]);
    const bool narrow = v[PANEL_WIDTH] < 16;
    if (narrow) v[PANEL_DEPTH] = 256, v[AHEAD] = 0;
    for (int i = 0; i < SHAPES; i++) {
        v[TILES_M] = tiles[i][0], v[TILES_N] = (narrow ? 2 : 1) * tiles[i][1];
        if (down(v, p->size[M]).count * across(p, v).count >= ITEMS_PER_CORE * (int64_t)device->compute_units) break;
    }
    v[SHARED] = across(p, v).count > 1;
}

/* CLBlast knows the GPUs in its database; on CPUs the register tiles win (benchmarks/NOTES.md). */
static void prefer(const wf_problem *p, const wf_device *device, wf_candidate *candidate) {
    const bool panels = p->flags & (WF_PANELS_B | WF_PANELS_C);
    if (device->type == WF_DEVICE_GPU) wf_candidate_default(p, p->size[K] && !panels ? CLBLAST : SIMPLE, candidate);
    else if (panel_pays(p)) prefer_panel(p, device, candidate);
    else if (panels) wf_candidate_default(p, SIMPLE, candidate);
    else if (!(p->flags & WF_TRANS_B)) wf_candidate_default(p, DIRECT, candidate);
    else wf_candidate_default(p, p->flags & WF_TRANS_A ? SIMPLE : DOT, candidate);
}

const wf_operation wf_gemm_operation = {
    .name = "gemm",
    .size_names = {"m", "n", "k"},
    .flags = WF_ACCUMULATE | WF_BIAS | WF_ACTIVATE | WF_ACT_GRAD | WF_TRANS_A | WF_TRANS_B |
             WF_PANELS_B | WF_PANELS_C,
    .activation = true,
    .operands = operands,
    .flops = flops,
    .reference = wf_gemm_reference,
    .tolerance = wf_gemm_tolerance,
    .nvariants = VARIANTS,
    .variants = variants,
    .check = check,
    .prefer = prefer,
};
