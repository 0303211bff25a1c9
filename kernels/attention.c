/* attention.c: the problems ATTENTION, ATTENTION_DELTA and ATTENTION_BACKWARD and their variants:
 * sizes, operands, operations, parameters, geometry and arguments, as data.
 *
 * Flash attention (Dao, Fu, Ermon, Rudra, Re 2022; Dao 2023) with the online softmax of Milakov and
 * Gimelshein 2018: no s x kv array, the backward recomputes P from lse. dQ and dK/dV are launches of
 * their own, so that nothing is summed by atomics.
 *
 * Masks are two numbers: query i sees the keys clamp(i + low) <= j < clamp(i + high), from the causal
 * flag, the window and both global positions; blocks outside of it are skipped, not computed. Packed documents cut this
 * interval per row, by an operand: a build option, so that without them nothing is paid.
 *
 *     variant  for       a group                                     source
 *     simple   anything  16 lanes x teams, tiles in local memory     attention_simple.cl, ...
 *     panel    CPUs      one work-item, one vector lane per own row  attention_panel.cl, ...
 *
 * Grouped queries (Ainslie and others 2023): query head g reads kv head (lead + g) / per_kv of those that
 * are here; lead is where in its group the shard's first query head stands.
 *
 * Keys may come in pieces (Liu, Zaharia, Abbeel 2023, "Ring attention"): with ACCUMULATE the result of a piece is
 * merged with what O and lse hold when it is stored, so that the loops over tiles know nothing of it.
 *
 * What it does not do: other dtypes. */
#include "kernels/attention.h"

#include <math.h>

#include "kernels/philox.h"
#include "kernels/table.h"

enum { B, S, KV, HQ, HKV, D, HEAD0, HEADS, POS0, KPOS0, SITE, WINDOW, GROUP };

enum { largest_head_dim = 256, largest_grid = 65535 /* groups along y and z on some devices */ };

/* ---- sizes ----------------------------------------------------------------------------------- */

wf_attention wf_attention_sizes(const wf_problem *p) {
    const int64_t *n = p->size;
    wf_attention a = {.b = n[B], .s = n[S], .kv = n[KV], .hq = n[HQ], .hkv = n[HKV], .d = n[D],
                      .head0 = n[HEAD0], .heads = n[HEADS], .pos0 = n[POS0], .kpos0 = n[KPOS0],
                      .site = n[SITE], .window = n[WINDOW],
                      .per_kv = n[GROUP] ? n[GROUP] : n[HKV] ? n[HQ] / n[HKV] : 1,
                      .lead = n[GROUP] ? n[HEAD0] % n[GROUP] : 0,
                      .dropout = (p->flags & WF_DROPOUT) != 0,
                      .accumulate = (p->flags & WF_ACCUMULATE) != 0,
                      .documents = (p->flags & WF_DOCUMENTS) != 0, .p = p->real[0]};
    const bool backward = p->op == WF_OP_ATTENTION_BACKWARD;
    a.qspan = backward ? 6 : 3;
    a.output = a.qspan + (a.documents ? 1 + backward : 0);
    const int64_t shift = a.pos0 - a.kpos0, everything = (int64_t)1 << 40;
    a.low = a.window ? shift - a.window + 1 : -everything;
    a.high = p->flags & WF_CAUSAL ? shift + 1 : a.window ? shift + a.window : everything;
    return a;
}

static wf_status check_heads(const wf_attention *a, bool grouped) {
    if (!grouped && (a->hkv == 0 ? a->hq != 0 : a->hq % a->hkv != 0))
        return wf_fail(WF_ERR_ARGUMENT, "attention: %lld query heads cannot share %lld kv heads",
                       (long long)a->hq, (long long)a->hkv);
    if (grouped && a->hq > 0 && wf_attention_kv_head(a, a->hq - 1) >= a->hkv)
        return wf_fail(WF_ERR_ARGUMENT,
                       "attention: %lld query heads from number %lld of a group of %lld read more than %lld "
                       "kv heads",
                       (long long)a->hq, (long long)a->lead, (long long)a->per_kv, (long long)a->hkv);
    if (a->hkv > largest_grid || a->per_kv > INT32_MAX / (largest_grid + 1))
        return wf_fail(WF_ERR_UNSUPPORTED, "attention: at most %d kv heads of %d query heads, not %lld of %lld",
                       largest_grid, INT32_MAX / (largest_grid + 1), (long long)a->hkv,
                       (long long)a->per_kv);
    if (a->d < 1 || a->d > largest_head_dim)
        return wf_fail(WF_ERR_UNSUPPORTED, "attention: head size %lld, legal are 1 to %d",
                       (long long)a->d, largest_head_dim);
    if (a->b > largest_grid || a->hq > largest_grid)
        return wf_fail(WF_ERR_UNSUPPORTED, "attention: at most %d samples and heads, not %lld, %lld",
                       largest_grid, (long long)a->b, (long long)a->hq);
    return WF_OK;
}

static wf_status check(const wf_problem *p) {
    const wf_attention a = wf_attention_sizes(p);
    TRY(check_heads(&a, p->size[GROUP] != 0));
    const int64_t longest = INT32_MAX - 1024; /* kernels count rows of a shard in 32 bits */
    if (a.s > longest || a.kv > longest)
        return wf_fail(WF_ERR_UNSUPPORTED, "attention: %lld queries and %lld keys, at most %lld",
                       (long long)a.s, (long long)a.kv, (long long)longest);
    if (a.documents && (a.pos0 + a.s > INT32_MAX || a.kpos0 + a.kv > INT32_MAX))
        return wf_fail(WF_ERR_UNSUPPORTED, "attention: documents need positions of 31 bits, not %lld and %lld",
                       (long long)(a.pos0 + a.s), (long long)(a.kpos0 + a.kv));
    if (!a.dropout) return WF_OK;
    if (!(a.p >= 0 && a.p < 1))
        return wf_fail(WF_ERR_ARGUMENT, "attention: dropout p = %g, legal is 0 <= p < 1", a.p);
    if (a.head0 + a.hq > a.heads || a.heads > UINT32_MAX || a.site > 255 ||
        a.pos0 + a.s > (int64_t)UINT32_MAX || a.kpos0 + a.kv > (int64_t)UINT32_MAX)
        return wf_fail(WF_ERR_ARGUMENT,
                       "attention: dropout needs heads %lld + %lld <= %lld, site %lld <= 255 and "
                       "positions of 32 bits",
                       (long long)a.head0, (long long)a.hq, (long long)a.heads, (long long)a.site);
    return WF_OK;
}

/* Case texts: keys are as long as queries, kv heads as many as heads, unless said otherwise. */
static void complete(wf_problem *p, uint32_t given) {
    if (!(given & 1u << KV)) p->size[KV] = p->size[S];
    if (!(given & 1u << HKV)) p->size[HKV] = p->size[HQ];
    if (!(given & 1u << HEADS)) p->size[HEADS] = p->size[HEAD0] + p->size[HQ];
}

/* ---- operands -------------------------------------------------------------------------------- */

static wf_operand rows_operand(const char *name, wf_access access, int64_t positions,
                               int64_t heads, const wf_attention *a) {
    return (wf_operand){name, (uint8_t)access, WF_F32, 4, {positions, a->b, heads, a->d}};
}

static wf_operand numbers_operand(const char *name, wf_access access, const wf_attention *a) {
    return (wf_operand){name, (uint8_t)access, WF_F32, 3, {a->b, a->hq, a->s}};
}

static wf_operand spans_operand(const char *name, int64_t positions, const wf_attention *a) {
    return (wf_operand){name, WF_READ, WF_I32, 3, {positions, a->b, 2}};
}

static wf_access written(const wf_attention *a) {
    return a->accumulate ? WF_UPDATE : WF_WRITE;
}

enum { Q, K, V };
static int forward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const wf_attention a = wf_attention_sizes(p);
    out[Q] = rows_operand("Q", WF_READ, a.s, a.hq, &a);
    out[K] = rows_operand("K", WF_READ, a.kv, a.hkv, &a);
    out[V] = rows_operand("V", WF_READ, a.kv, a.hkv, &a);
    if (a.documents) out[a.qspan] = spans_operand("qspan", a.s, &a);
    out[a.output] = rows_operand("O", written(&a), a.s, a.hq, &a);
    out[a.output + 1] = numbers_operand("lse", written(&a), &a);
    return a.output + 2;
}

static int delta_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const wf_attention a = wf_attention_sizes(p);
    out[0] = rows_operand("O", WF_READ, a.s, a.hq, &a);
    out[1] = rows_operand("dO", WF_READ, a.s, a.hq, &a);
    out[2] = numbers_operand("delta", WF_WRITE, &a);
    return 3;
}

enum { DO = 3, LSE, DELTA };
static int backward_operands(const wf_problem *p, wf_operand out[WF_OPERANDS]) {
    const wf_attention a = wf_attention_sizes(p);
    out[Q] = rows_operand("Q", WF_READ, a.s, a.hq, &a);
    out[K] = rows_operand("K", WF_READ, a.kv, a.hkv, &a);
    out[V] = rows_operand("V", WF_READ, a.kv, a.hkv, &a);
    out[DO] = rows_operand("dO", WF_READ, a.s, a.hq, &a);
    out[LSE] = numbers_operand("lse", WF_READ, &a);
    out[DELTA] = numbers_operand("delta", WF_READ, &a);
    if (a.documents) {
        out[a.qspan] = spans_operand("qspan", a.s, &a);
        out[a.qspan + 1] = spans_operand("kspan", a.kv, &a);
    }
    out[a.output] = rows_operand("dQ", written(&a), a.s, a.hq, &a);
    out[a.output + 1] = rows_operand("dK", written(&a), a.kv, a.hkv, &a);
    out[a.output + 2] = rows_operand("dV", written(&a), a.kv, a.hkv, &a);
    return a.output + 3;
}

/* ---- operations ------------------------------------------------------------------------------ */

/* sum over 0 <= i < s of clamp(i + from, 0, kv): nothing, then a ramp, then kv each. */
static double ramp_sum(int64_t s, int64_t from, int64_t kv) {
    const int64_t rise = from >= 0 ? 0 : -from < s ? -from : s;
    int64_t flat = kv - from;
    flat = flat < rise ? rise : flat > s ? s : flat;
    const double n = (double)(flat - rise), first = (double)(rise + from);
    return (n > 0 ? n * first + n * (n - 1) / 2 : 0) + (double)(s - flat) * (double)kv;
}

/* Pairs (query, key) that see each other, over all samples and heads. */
static double pairs(const wf_attention *a) {
    const double one_head = ramp_sum(a->s, a->high, a->kv) - ramp_sum(a->s, a->low, a->kv);
    return one_head * (double)a->b * (double)a->hq;
}

/* Two products: Q K^T and P V. */
static double forward_flops(const wf_problem *p) {
    const wf_attention a = wf_attention_sizes(p);
    return 4 * (double)a.d * pairs(&a);
}

static double delta_flops(const wf_problem *p) {
    const wf_attention a = wf_attention_sizes(p);
    return 2 * (double)(a.b * a.hq) * (double)(a.s * a.d);
}

/* Five products: Q K^T and dO V^T (once, though both launches compute them), dQ, dK, dV. */
static double backward_flops(const wf_problem *p) {
    const wf_attention a = wf_attention_sizes(p);
    return 10 * (double)a.d * pairs(&a);
}

/* ---- arguments, the same for all variants ---------------------------------------------------- */

static void view_4d(wf_launch *launch, int view) {
    wf_launch_view(launch, view);
    for (int dim = 0; dim < 3; dim++) wf_launch_stride(launch, view, dim);
}

static void view_3d(wf_launch *launch, int view) {
    wf_launch_view(launch, view);
    for (int dim = 0; dim < 2; dim++) wf_launch_stride(launch, view, dim);
}

/* Matches READ_SPANS of attention.clh: the operands qspan and kspan, each with the first position of the other side. */
static void launch_spans(wf_launch *launch, const wf_attention *a, bool of_queries, bool of_keys) {
    for (int i = 0; i < 2 && a->documents; i++) {
        if (!(i ? of_keys : of_queries)) continue;
        view_3d(launch, a->qspan + i);
        wf_launch_i32(launch, i ? a->pos0 : a->kpos0);
    }
}

/* Differences of two rows of a shard fit 32 bits; what is beyond is as good as infinite. */
static int64_t clip(int64_t x) {
    return x < INT32_MIN ? INT32_MIN : x > INT32_MAX ? INT32_MAX : x;
}

/* An int argument has the bits of a uint, which check() has seen to fit. */
static void launch_u32(wf_launch *launch, int64_t value) {
    wf_launch_i32(launch, (int32_t)(uint32_t)value);
}

/* Matches SIZE_ARGUMENTS and DROPOUT_ARGUMENTS of attention.clh. */
static void common_arguments(wf_launch *launch, const wf_attention *a) {
    wf_launch_i32(launch, a->s);
    wf_launch_i32(launch, a->kv);
    wf_launch_i32(launch, a->hq);
    wf_launch_i32(launch, a->per_kv);
    wf_launch_i32(launch, a->lead);
    wf_launch_i32(launch, clip(a->low));
    wf_launch_i32(launch, clip(a->high));
    wf_launch_f32(launch, 1 / sqrt((double)a->d));
    if (!a->dropout) return;
    wf_launch_run(launch, WF_RUN_KEY0);
    wf_launch_run(launch, WF_RUN_KEY1);
    wf_launch_run(launch, WF_RUN_LAYER);
    wf_launch_run(launch, WF_RUN_SAMPLE0);
    launch_u32(launch, a->site);
    launch_u32(launch, a->heads);
    launch_u32(launch, a->head0);
    launch_u32(launch, a->pos0);
    launch_u32(launch, a->kpos0);
    launch_u32(launch, wf_philox_threshold(a->p));
    wf_launch_f32(launch, 1 / (1 - a->p));
}

static void options(const wf_problem *p, const wf_candidate *c, char *out, size_t out_bytes) {
    wf_append(out, out_bytes, " -DHEAD_DIM=%d -DDROPOUT=%d -DDOCUMENTS=%d", (int)p->size[D],
              p->flags & WF_DROPOUT ? 1 : 0, p->flags & WF_DOCUMENTS ? 1 : 0);
}

static int64_t tiles(int64_t n, int64_t tile) {
    return (n + tile - 1) / tile;
}

/* Under dropout, key tiles begin at multiples of 4 of the global position (PHASE of attention.clh). */
static int64_t key_tiles(const wf_attention *a, int64_t tile) {
    return a->kv ? tiles(a->kv + (a->dropout ? a->kpos0 & 3 : 0), tile) : 0;
}

/* Groups of `local` items over (tiles, heads, samples); false when there is nothing to do. */
static bool begin_launch(wf_launch *launch, const char *entry, int64_t ntiles, int64_t heads,
                         int64_t samples, int32_t local) {
    if (!ntiles || !heads || !samples) return false;
    *launch = (wf_launch){.entry = entry};
    wf_launch_geometry(launch, 3, (const int64_t[3]){ntiles, heads, samples},
                       (const int32_t[3]){local, 1, 1});
    return true;
}

/* Where two operands lie once their rows are packed in the workspace, from its element `from` on: [operand][sample][head][position][row]. */
typedef struct packed {
    int64_t positions, heads, row, from;
} packed;

static int64_t packed_elements(const packed *in, const wf_attention *a) {
    return a->b * in->heads * in->positions * in->row;
}

/* The operand `view`, or, packed, the workspace's `operand`. */
static void packed_4d(wf_launch *launch, int view, const packed *in, int operand, const wf_attention *a) {
    if (!in) {
        view_4d(launch, view);
        return;
    }
    wf_launch_view_from(launch, WF_WORKSPACE, in->from + operand * packed_elements(in, a));
    wf_launch_i64(launch, in->row);
    wf_launch_i64(launch, in->heads * in->positions * in->row);
    wf_launch_i64(launch, in->positions * in->row);
}

static int forward_launches(const wf_problem *p, int64_t rows, int32_t local, const packed *keys, wf_launch *out) {
    const wf_attention a = wf_attention_sizes(p);
    if (!begin_launch(out, "attention_forward", tiles(a.s, rows), a.hq, a.b, local)) return 0;
    view_4d(out, Q);
    packed_4d(out, K, keys, 0, &a);
    packed_4d(out, V, keys, 1, &a);
    view_4d(out, a.output);
    view_3d(out, a.output + 1);
    launch_spans(out, &a, true, false);
    common_arguments(out, &a);
    return 1;
}

static void backward_inputs(wf_launch *launch, const packed *queries, const wf_attention *a) {
    packed_4d(launch, Q, queries, 0, a);
    view_4d(launch, K);
    view_4d(launch, V);
    packed_4d(launch, DO, queries, 1, a);
    view_3d(launch, LSE);
    view_3d(launch, DELTA);
}

/* Gradients of 0 that are only to be added. */
static bool adds_nothing(const wf_attention *a) {
    return a->accumulate && (!a->s || !a->kv || !a->hq);
}

static int dq_dkdv_launches(const wf_problem *p, int64_t rows, int32_t local, wf_launch *out) {
    const wf_attention a = wf_attention_sizes(p);
    int n = 0;
    if (adds_nothing(&a)) return 0;
    if (begin_launch(&out[n], "attention_dq", tiles(a.s, rows), a.hq, a.b, local)) {
        backward_inputs(&out[n], NULL, &a);
        view_4d(&out[n], a.output);
        launch_spans(&out[n], &a, true, false);
        common_arguments(&out[n++], &a);
    }
    if (begin_launch(&out[n], "attention_dkdv", key_tiles(&a, rows), a.hkv, a.b, local)) {
        backward_inputs(&out[n], NULL, &a);
        view_4d(&out[n], a.output + 1);
        view_4d(&out[n], a.output + 2);
        launch_spans(&out[n], &a, false, true);
        common_arguments(&out[n++], &a);
    }
    return n;
}

/* ---- variant simple -------------------------------------------------------------------------- */

enum { TILE_ROWS, TILE_COLS, ITEM_ROWS, CHUNK };
enum { simple_lanes = 16 };

static const wf_parameter simple_parameters[] = {
    {"TILE_ROWS", 3, {32, 16, 64}, "rows that a group owns"},
    {"TILE_COLS", 3, {32, 16, 64}, "rows of the other side that it streams at a time"},
    {"ITEM_ROWS", 4, {2, 1, 4, 8}, "rows of the tile that a work-item computes"},
    {"CHUNK", 3, {32, 16, 64}, "head dimensions in local memory at a time"},
};

static int32_t simple_group(const wf_candidate *c) {
    return simple_lanes * (c->value[TILE_ROWS] / c->value[ITEM_ROWS]);
}

/* As the sources declare, or more: tiles (of own rows as many as weight arrays), per-row maxima,
 * kept quads. */
static int64_t simple_local_bytes(const wf_candidate *c, int weights) {
    const int64_t rows = c->value[TILE_ROWS], cols = c->value[TILE_COLS];
    return 4 * ((weights * rows + cols) * (c->value[CHUNK] + 4) + weights * rows * (cols + 4) +
                rows * simple_lanes) + rows * cols / 4;
}

static bool simple_ok(const wf_candidate *c, const wf_device *device, int weights,
                      const char **why) {
    const int32_t group = simple_group(c);
    *why = group > 256 || group > device->max_group ? "the work-group is too large"
           : simple_local_bytes(c, weights) > device->local_bytes ? "not enough local memory"
                                                                  : NULL;
    return !*why;
}

static bool forward_simple_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                              const char **why) {
    return simple_ok(c, device, 1, why);
}

static bool backward_simple_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                               const char **why) {
    return simple_ok(c, device, 2, why);
}

/* The flag is compiled in: what it adds costs compilers of GPUs registers. */
static void simple_options(const wf_problem *p, const wf_candidate *c, char *out, size_t out_bytes) {
    options(p, c, out, out_bytes);
    wf_append(out, out_bytes, " -DACCUMULATE=%d", p->flags & WF_ACCUMULATE ? 1 : 0);
}

static int forward_simple(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    return forward_launches(p, c->value[TILE_ROWS], simple_group(c), NULL, out);
}

static int backward_simple(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    return dq_dkdv_launches(p, c->value[TILE_ROWS], simple_group(c), out);
}

enum { delta_rows = 16 };
static bool delta_simple_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                            const char **why) {
    *why = device->max_group < 16 * delta_rows ? "the work-group is too large" : NULL;
    return !*why;
}

static int delta_simple(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const wf_attention a = wf_attention_sizes(p);
    if (!begin_launch(out, "attention_delta", tiles(a.s, delta_rows), a.hq, a.b, 16 * delta_rows))
        return 0;
    view_4d(out, 0);
    view_4d(out, 1);
    view_3d(out, 2);
    wf_launch_i32(out, a.s);
    wf_launch_i32(out, a.d);
    return 1;
}

/* ---- variant panel --------------------------------------------------------------------------- */

enum { PANEL_WIDTH, VECTORS, BLOCK, STEP, SHARED, PARTS };
static const wf_parameter panel_parameters[] = {
    {"WIDTH", 3, {16, 8, 4}, "floats per vector"},
    {"VECTORS", 4, {2, 1, 4, 3}, "vectors of own rows of a tile"},
    {"BLOCK", 3, {8, 4, 6}, "rows of the other side, or elements, whose sums are in registers"},
    {"STEP", 7, {32, 64, 16, 128, 24, 48, 96}, "rows of the other side between two updates of the sums"},
    {"SHARED", 2, {0, 1}, "the other side's rows are packed once, in the workspace"},
    {"PARTS", 7, {1, 2, 4, 8, 16, 32, 64}, "of the keys, one work-item each, whose dQ are summed"},
};
enum { FORWARD_PARAMETERS = PARTS, BACKWARD_PARAMETERS };

static bool panel_ok(const wf_problem *p, const wf_candidate *c, const wf_device *device,
                     const char **why) {
    *why = device->type != WF_DEVICE_CPU                 ? "made for CPUs: a work-item keeps kilobytes"
           : c->value[STEP] % c->value[BLOCK] != 0       ? "BLOCK does not divide STEP"
                                                         : NULL;
    return !*why;
}

static int64_t panel_lanes(const wf_candidate *c) {
    return c->value[PANEL_WIDTH] * c->value[VECTORS];
}

/* Rows of a head, whole vectors. */
static int64_t panel_row(const wf_attention *a, const wf_candidate *c) {
    return tiles(a->d, c->value[PANEL_WIDTH]) * c->value[PANEL_WIDTH];
}

/* Rows that a work-item packs. */
enum { PACKED_ROWS = 64 };

static int pack_launch(const packed *to, int first, int second, const wf_attention *a, wf_launch *launch) {
    if (!begin_launch(launch, "attention_pack", tiles(to->positions, PACKED_ROWS), to->heads, 2 * a->b, 1)) return 0;
    view_4d(launch, first);
    view_4d(launch, second);
    wf_launch_view_from(launch, WF_WORKSPACE, to->from);
    wf_launch_i32(launch, PACKED_ROWS);
    wf_launch_i32(launch, to->positions);
    return 1;
}

static packed packed_keys(const wf_attention *a, const wf_candidate *c) {
    return (packed){.positions = a->kv, .heads = a->hkv, .row = panel_row(a, c)};
}

static int64_t forward_workspace(const wf_problem *p, const wf_candidate *c) {
    const wf_attention a = wf_attention_sizes(p);
    const packed keys = packed_keys(&a, c);
    return c->value[SHARED] ? 4 * 2 * packed_elements(&keys, &a) : 0;
}

static int forward_panel(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const wf_attention a = wf_attention_sizes(p);
    const packed keys = packed_keys(&a, c);
    const bool shared = c->value[SHARED] && forward_workspace(p, c) > 0;
    int n = 0;
    if (shared && a.s && a.hq) n += pack_launch(&keys, K, V, &a, &out[n]);
    if (!forward_launches(p, panel_lanes(c), 1, shared ? &keys : NULL, &out[n])) return n;
    wf_launch_i32(&out[n++], (p->flags & WF_ACCUMULATE) != 0);
    return n;
}

/* Elements of dQ of each part, as attention_backward_panel.cl lays it out: rows padded. Never nothing, because a
 * launch names it. */
static int64_t parts_elements(const wf_attention *a, const wf_candidate *c) {
    const int64_t rows = c->value[PARTS] * a->b * a->hq * (a->s + c->value[BLOCK] - 1);
    return panel_row(a, c) * (rows ? rows : 1);
}

static packed packed_queries(const wf_attention *a, const wf_candidate *c) {
    return (packed){.positions = a->s, .heads = a->hq, .row = panel_row(a, c), .from = parts_elements(a, c)};
}

static int64_t backward_workspace(const wf_problem *p, const wf_candidate *c) {
    const wf_attention a = wf_attention_sizes(p);
    const packed queries = packed_queries(&a, c);
    return 4 * (parts_elements(&a, c) + (c->value[SHARED] ? 2 * packed_elements(&queries, &a) : 0));
}

static int backward_panel(const wf_problem *p, const wf_candidate *c, wf_launch out[WF_LAUNCHES]) {
    const wf_attention a = wf_attention_sizes(p);
    const packed queries = packed_queries(&a, c);
    const int64_t ntiles = key_tiles(&a, panel_lanes(c));
    int n = 0;
    if (adds_nothing(&a)) return 0;
    if (c->value[SHARED] && a.kv && a.hkv) n += pack_launch(&queries, Q, DO, &a, &out[n]);
    if (begin_launch(&out[n], "attention_backward", c->value[PARTS], a.hkv, a.b, 1)) {
        backward_inputs(&out[n], c->value[SHARED] ? &queries : NULL, &a);
        view_4d(&out[n], a.output + 1);
        view_4d(&out[n], a.output + 2);
        wf_launch_view(&out[n], WF_WORKSPACE);
        wf_launch_i32(&out[n], ntiles);
        launch_spans(&out[n], &a, true, true);
        common_arguments(&out[n], &a);
        wf_launch_i32(&out[n++], a.accumulate);
    }
    if (begin_launch(&out[n], "attention_dq_sum", a.s, a.hq, a.b, 1)) {
        view_4d(&out[n], a.output);
        wf_launch_view(&out[n], WF_WORKSPACE);
        wf_launch_i32(&out[n], a.s);
        wf_launch_i32(&out[n++], a.accumulate);
    }
    return n;
}

/* Does packing `rows` rows of a head pay? Each then is read by so many tiles; a mask counts, documents are not known here. Rows of few
 * elements would be mostly padding. */
static bool packing_pays(const wf_attention *a, const wf_candidate *c, int64_t rows) {
    enum { LEAST_TILES = 8 };
    const double readers = pairs(a) / ((double)(a->b * a->hq) * (double)rows);
    return panel_row(a, c) <= 2 * a->d && readers >= LEAST_TILES * (double)panel_lanes(c);
}

/* On CPUs nobody has tuned: no barriers, vectors as wide as the device's, and as many sums as its registers
 * hold: 32 with AVX-512, else 16, of which SSE needs one more for each product. */
static void prefer(const wf_problem *p, const wf_device *device, wf_candidate *candidate) {
    if (device->type != WF_DEVICE_CPU) return;
    int32_t *const v = candidate->value;
    wf_candidate_default(p, 1, candidate);
    v[PANEL_WIDTH] = device->vector_floats >= 16 ? 16 : device->vector_floats >= 8 ? 8 : 4;
    v[BLOCK] = v[PANEL_WIDTH] == 16 ? 8 : 4;
    if (v[PANEL_WIDTH] != 8) return;
    const wf_attention a = wf_attention_sizes(p);
    v[VECTORS] = 3, v[STEP] = 64;
    v[SHARED] = packing_pays(&a, candidate, p->op == WF_OP_ATTENTION ? a.kv : a.s);
}

/* Work-items for each core, so that the last ones to run do not leave cores idle for long. */
enum { ITEMS_PER_CORE = 4 };

static void prefer_backward(const wf_problem *p, const wf_device *device, wf_candidate *candidate) {
    const wf_attention a = wf_attention_sizes(p);
    const int64_t items = ITEMS_PER_CORE * (int64_t)device->compute_units, one = a.b * a.hkv;
    prefer(p, device, candidate);
    if (device->type != WF_DEVICE_CPU) return;
    candidate->value[STEP] = 64;
    const int64_t most = key_tiles(&a, panel_lanes(candidate));
    int32_t parts = 1;
    while (parts < 64 && parts * one < items && 2 * parts <= most) parts *= 2;
    candidate->value[PARTS] = parts;
}

/* ---- tables ---------------------------------------------------------------------------------- */

#define COUNT(array) (int32_t)(sizeof(array) / sizeof *(array))

static const wf_variant forward_variants[] = {
    {.name = "simple", .source = "attention_simple.cl", .nparameters = COUNT(simple_parameters),
     .parameters = simple_parameters, .ok = forward_simple_ok, .launches = forward_simple,
     .options = simple_options},
    {.name = "panel", .source = "attention_panel.cl", .nparameters = FORWARD_PARAMETERS,
     .parameters = panel_parameters, .ok = panel_ok, .launches = forward_panel,
     .options = options, .workspace_bytes = forward_workspace},
};

static const wf_variant delta_variants[] = {
    {.name = "simple", .source = "attention_delta_simple.cl", .ok = delta_simple_ok,
     .launches = delta_simple},
};

static const wf_variant backward_variants[] = {
    {.name = "simple", .source = "attention_backward_simple.cl",
     .nparameters = COUNT(simple_parameters), .parameters = simple_parameters,
     .ok = backward_simple_ok, .launches = backward_simple, .options = simple_options},
    {.name = "panel", .source = "attention_backward_panel.cl", .nparameters = BACKWARD_PARAMETERS,
     .parameters = panel_parameters, .ok = panel_ok, .launches = backward_panel, .options = options,
     .workspace_bytes = backward_workspace},
};

#define ATTENTION_SIZES                                                                            \
    .size_names = {"b", "s", "t", "h", "kv", "d", "ho", "hn", "po", "ko", "site", "w", "group"},            \
    .real_names = {"p"}, .check = check, .complete = complete
enum { FLAGS = WF_CAUSAL | WF_DROPOUT | WF_DOCUMENTS };

const wf_operation wf_attention_operation = {
    .name = "attention", ATTENTION_SIZES, .flags = FLAGS | WF_ACCUMULATE, .operands = forward_operands,
    .flops = forward_flops,
    .reference = wf_attention_reference, .tolerance_run = wf_attention_bound,
    .prefer = prefer,
    .nvariants = COUNT(forward_variants), .variants = forward_variants};

const wf_operation wf_attention_delta_operation = {
    .name = "attention_delta", ATTENTION_SIZES, .flags = FLAGS, .operands = delta_operands, .flops = delta_flops,
    .reference = wf_attention_delta_reference, .tolerance = wf_attention_delta_bound,
    .nvariants = COUNT(delta_variants), .variants = delta_variants};

const wf_operation wf_attention_backward_operation = {
    .name = "attention_backward", ATTENTION_SIZES, .flags = FLAGS | WF_ACCUMULATE, .operands = backward_operands,
    .flops = backward_flops, .reference = wf_attention_backward_reference,
    .tolerance_run = wf_attention_backward_bound, .prefer = prefer_backward, .nvariants = COUNT(backward_variants),
    .variants = backward_variants};
