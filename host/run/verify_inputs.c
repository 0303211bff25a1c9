/* Test data for any problem. Operands are random normal numbers rounded to f32, except those listed in
 * the tables below: integers that must be ids, numbers that must be positive, and results of another
 * operation (statistics, log-sum-exp), which are computed with that operation's reference so that
 * they are consistent with the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "host/base/sizes.h"
#include "host/run/verify.h"

/* ---- random numbers ------------------------------------------------------------------------------------ */

/* Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA'14. */
uint64_t wf_stream_next(wf_stream *stream) {
    uint64_t z = stream->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

double wf_stream_uniform(wf_stream *stream) {
    return (double)(wf_stream_next(stream) >> 11) * 0x1p-53;
}

int64_t wf_stream_range(wf_stream *stream, int64_t first, int64_t last) {
    return first + (int64_t)(wf_stream_next(stream) % (uint64_t)(last - first + 1));
}

/* Nearly normal, within +-3, variance 1: twelve uniforms would do no better here. */
static double normal(wf_stream *stream) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += wf_stream_uniform(stream);
    return (sum - 2) * 1.7320508;
}

/* ---- operands that are not just normal --------------------------------------------------------------------- */

typedef struct special {
    int op;
    const char *operand;
    /* Fills in one operand's data; those before it, and all that are not special, are filled. */
    wf_status (*fill)(wf_case *, int operand, wf_stream *);
    uint32_t flags; /* without which the problem has no such operand */
} special;

static double *reals(const wf_case *test, int operand) {
    return test->before[operand].data;
}

static int index_of(const wf_case *test, const char *name) {
    for (int i = 0; i < test->n; i++)
        if (strcasecmp(test->operand[i].name, name) == 0) return i;
    return -1;
}

/* Where a problem's sizes say which ids the shard holds. */
static void shard_of(const wf_problem *problem, int64_t *first, int64_t *rows) {
    const bool embedding = problem->op == WF_OP_EMBEDDING || problem->op == WF_OP_EMBEDDING_BACKWARD;
    *rows = problem->size[1];
    *first = problem->size[embedding ? 3 : 2];
}

/* Ids in and around the shard, many of them equal. */
static wf_status fill_ids(wf_case *test, int operand, wf_stream *stream) {
    int64_t first, rows;
    int32_t *ids = test->before[operand].data;
    shard_of(test->problem, &first, &rows);
    const int64_t from = first > 5 ? first - 5 : 0;
    for (int64_t i = 0; i < test->count[operand]; i++) {
        ids[i] = (int32_t)wf_stream_range(stream, from, first + rows + 4);
        if (i > 0 && wf_stream_uniform(stream) < 0.2) ids[i] = ids[wf_stream_range(stream, 0, i - 1)];
    }
    return WF_OK;
}

/* As ids, and one in eight is not to be counted. */
static wf_status fill_targets(wf_case *test, int operand, wf_stream *stream) {
    int32_t *targets = test->before[operand].data;
    TRY(fill_ids(test, operand, stream));
    for (int64_t i = 0; i < test->count[operand]; i++)
        if (wf_stream_uniform(stream) < 0.125) targets[i] = -1;
    return WF_OK;
}

/* Targets of a merge have no shard; only their sign matters. */
static wf_status fill_merge_targets(wf_case *test, int operand, wf_stream *stream) {
    int32_t *targets = test->before[operand].data;
    for (int64_t i = 0; i < test->count[operand]; i++)
        targets[i] = wf_stream_uniform(stream) < 0.125 ? -1 : (int32_t)wf_stream_range(stream, 0, 1000);
    return WF_OK;
}

/* (max, sum of exponentials, x[target] of the one shard that has it) per part and row; some parts
 * are empty shards, never all of a row. */
static wf_status fill_merge_stats(wf_case *test, int operand, wf_stream *stream) {
    const int64_t parts = test->operand[operand].extent[0], rows = test->operand[operand].extent[1];
    double *stats = reals(test, operand);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t owner = parts > 0 ? wf_stream_range(stream, 0, parts - 1) : 0;
        for (int64_t part = 0; part < parts; part++) {
            double *one = &stats[3 * (part * rows + row)];
            const bool empty = part != owner && wf_stream_uniform(stream) < 0.1;
            one[0] = empty ? -INFINITY : (double)(float)(4 * normal(stream));
            one[1] = empty ? 0 : (double)(float)(1 + 30 * wf_stream_uniform(stream));
            one[2] = part == owner ? (double)(float)(one[0] - 3 * wf_stream_uniform(stream)) : 0;
        }
    }
    return WF_OK;
}

static wf_status fill_squares(wf_case *test, int operand, wf_stream *stream) {
    for (int64_t i = 0; i < test->count[operand]; i++) {
        const double x = normal(stream);
        reals(test, operand)[i] = (double)(float)(x * x);
    }
    return WF_OK;
}

/* (norm, scale) as a gradient norm above the limit leaves them. */
static wf_status fill_clip(wf_case *test, int operand, wf_stream *stream) {
    const double norm = 1 + 9 * wf_stream_uniform(stream);
    reals(test, operand)[0] = (double)(float)norm;
    reals(test, operand)[1] = (double)(float)(1 / norm);
    return WF_OK;
}

/* ---- operands that another operation computes ---------------------------------------------------------------- */

/* Runs the reference of `problem` on some of the test's operands, `given[i]` for its i-th (-1: a
 * scratch output). Results go where they are given. */
static wf_status derive(wf_case *test, const wf_problem *problem, const int *given, int ngiven) {
    const wf_operation *operation = wf_operations[problem->op];
    wf_operand operands[WF_OPERANDS];
    wf_tensor tensors[WF_OPERANDS] = {{0}};
    void *scratch[WF_OPERANDS] = {0};
    wf_status status = WF_OK;
    const int n = operation->operands(problem, operands);
    if (n != ngiven) return wf_fail(WF_ERR_INTERNAL, "%s has %d operands, not %d", operation->name, n, ngiven);
    for (int i = 0; i < n; i++) {
        int64_t count = 0;
        if (given[i] >= 0) {
            tensors[i] = test->before[given[i]];
            continue;
        }
        if (wf_size_product(operands[i].extent, operands[i].ndim, &count))
            tensors[i].data = scratch[i] = calloc((size_t)count + 1, sizeof(double));
        if (!scratch[i]) TRY_GOTO(wf_fail(WF_ERR_MEMORY, "out of host memory for a check"), free_scratch);
        int64_t stride = 1;
        for (int d = operands[i].ndim - 1; d >= 0; stride *= operands[i].extent[d--]) tensors[i].stride[d] = stride;
    }
    operation->reference(problem, tensors, test->run);
free_scratch:
    for (int i = 0; i < n; i++) free(scratch[i]);
    return status;
}

/* What the device gets is f32. */
static void round_to_f32(wf_case *test, int operand) {
    for (int64_t i = 0; i < test->count[operand]; i++) reals(test, operand)[i] = (double)(float)reals(test, operand)[i];
}

static wf_status fill_norm_stats(wf_case *test, int operand, wf_stream *stream) {
    const bool rms = test->problem->flags & WF_RMS;
    wf_problem forward = {.op = WF_OP_NORM, .dtype = test->problem->dtype,
                          .flags = rms ? WF_RMS : 0, .real = {1e-5}};
    memcpy(forward.size, test->problem->size, 2 * sizeof *forward.size);
    /* NORM: x, gamma, beta unless RMS -> y, stats. gamma and beta do not matter here, and may be not there. */
    const int given[] = {index_of(test, "x"), -1, -1, rms ? operand : -1, operand};
    TRY(derive(test, &forward, given, rms ? 4 : 5));
    round_to_f32(test, operand);
    return WF_OK;
}

/* Documents of one token to many over the positions of queries and keys alike, of both operands. */
static wf_status fill_attention_spans(wf_case *test, int operand, wf_stream *stream) {
    static const int64_t longest[] = {1, 7, 70};
    const int64_t *size = test->problem->size, origin[2] = {size[8], size[9]}, count[2] = {size[1], size[2]};
    const int64_t first = origin[0] < origin[1] ? origin[0] : origin[1];
    const int64_t end = origin[0] + count[0] > origin[1] + count[1] ? origin[0] + count[0] : origin[1] + count[1];
    const int sides = test->problem->op == WF_OP_ATTENTION_BACKWARD ? 2 : 1;
    for (int64_t sample = 0; sample < size[0]; sample++)
        for (int64_t at = first > 5 ? first - 5 : 0, next; at < end; at = next) {
            next = at + wf_stream_range(stream, 1, longest[wf_stream_range(stream, 0, 2)]);
            for (int side = 0; side < sides; side++) {
                const wf_tensor *spans = &test->before[operand + side];
                for (int64_t p = at > origin[side] ? at : origin[side]; p < next && p < origin[side] + count[side]; p++) {
                    int32_t *span = (int32_t *)spans->data + (p - origin[side]) * spans->stride[0] + sample * spans->stride[1];
                    span[0] = (int32_t)at, span[1] = (int32_t)next;
                }
            }
        }
    return WF_OK;
}

/* ACCUMULATE: lse of keys that came before, for one row in eight of none, whose O then holds nothing. */
static wf_status fill_attention_before(wf_case *test, int operand, wf_stream *stream) {
    const int64_t *lse_extent = test->operand[operand].extent; /* sample, head, position */
    const int o = index_of(test, "o");
    if (!(test->problem->flags & WF_ACCUMULATE)) return WF_OK;
    for (int64_t row = 0; row < test->count[operand]; row++) {
        const bool none = wf_stream_uniform(stream) < 0.125;
        const int64_t position = row % lse_extent[2], head = row / lse_extent[2] % lse_extent[1];
        const int64_t sample = row / lse_extent[2] / lse_extent[1], *stride = test->before[o].stride;
        reals(test, operand)[row] = none ? -INFINITY : (double)(float)(4 * normal(stream));
        for (int64_t e = 0; none && e < test->operand[o].extent[3]; e++)
            reals(test, o)[position * stride[0] + sample * stride[1] + head * stride[2] + e] = NAN;
    }
    return WF_OK;
}

/* Operands of the forward of a backward: how many. */
enum { FORWARD_OPERANDS = 6 };
static int forward_operands(const wf_case *test, int o, int lse, int out[FORWARD_OPERANDS]) {
    const int qspan = index_of(test, "qspan");
    int n = 0;
    for (; n < 3; n++) out[n] = n;
    if (qspan >= 0) out[n++] = qspan;
    out[n++] = o;
    out[n++] = lse;
    return n;
}

/* With ACCUMULATE the random number that is there is the lse of keys which are elsewhere. */
static wf_status fill_attention_lse(wf_case *test, int operand, wf_stream *stream) {
    wf_problem forward = *test->problem;
    forward.op = WF_OP_ATTENTION;
    int given[FORWARD_OPERANDS];
    TRY(derive(test, &forward, given, forward_operands(test, -1, operand, given)));
    round_to_f32(test, operand);
    return WF_OK;
}

/* delta = sum O dO: O first, into scratch of the size of Q. */
static wf_status fill_attention_delta(wf_case *test, int operand, wf_stream *stream) {
    wf_problem forward = *test->problem, delta = *test->problem;
    const int q = index_of(test, "q");
    const wf_tensor kept = test->before[q];
    forward.op = WF_OP_ATTENTION;
    forward.flags &= ~(uint32_t)WF_ACCUMULATE;
    delta.op = WF_OP_ATTENTION_DELTA;
    double *o = calloc((size_t)test->count[q] + 1, sizeof *o);
    if (!o) return wf_fail(WF_ERR_MEMORY, "out of host memory for a check");
    const int spare = test->n; /* one more operand for the time being: O */
    test->before[spare] = (wf_tensor){.data = o};
    memcpy(test->before[spare].stride, kept.stride, sizeof kept.stride);
    int given[FORWARD_OPERANDS];
    wf_status status = derive(test, &forward, given, forward_operands(test, spare, -1, given));
    const int given_delta[] = {spare, index_of(test, "do"), operand};
    /* The dropout and mask of the two are the same: delta is of the very O that was computed. */
    delta.flags = 0;
    delta.real[0] = 0;
    if (status == WF_OK) status = derive(test, &delta, given_delta, 3);
    test->before[spare] = (wf_tensor){0};
    free(o);
    round_to_f32(test, operand);
    return status;
}

/* lse of this shard's logits alone: legal, as if the others were empty. */
static wf_status fill_loss_lse(wf_case *test, int operand, wf_stream *stream) {
    wf_problem stats = *test->problem;
    wf_problem merge = {.op = WF_OP_LOSS_MERGE, .dtype = stats.dtype, .size = {stats.size[0], 1}};
    stats.op = WF_OP_LOSS_STATS;
    double *three = calloc((size_t)(3 * stats.size[0] + 1), sizeof *three);
    if (!three) return wf_fail(WF_ERR_MEMORY, "out of host memory for a check");
    const int spare = test->n, targets = index_of(test, "targets");
    test->before[spare] = (wf_tensor){.data = three, .stride = {3, 1}};
    const int given[] = {index_of(test, "logits"), targets, spare};
    wf_status status = derive(test, &stats, given, 3);
    test->before[spare] = (wf_tensor){.data = three, .stride = {3 * stats.size[0], 3, 1}};
    const int given_merge[] = {spare, targets, operand, -1};
    if (status == WF_OK) status = derive(test, &merge, given_merge, 4);
    test->before[spare] = (wf_tensor){0};
    free(three);
    round_to_f32(test, operand);
    return status;
}

/* In the order of filling: what another row needs stands above it. */
static const special specials[] = {
    {WF_OP_EMBEDDING, "ids", fill_ids, 0},
    {WF_OP_EMBEDDING_BACKWARD, "ids", fill_ids, 0},
    {WF_OP_LOSS_STATS, "targets", fill_targets, 0},
    {WF_OP_LOSS_BACKWARD, "targets", fill_targets, 0},
    {WF_OP_LOSS_MERGE, "targets", fill_merge_targets, 0},
    {WF_OP_LOSS_MERGE, "stats", fill_merge_stats, 0},
    {WF_OP_LOSS_BACKWARD, "lse", fill_loss_lse, 0},
    {WF_OP_NORM_BACKWARD, "stats", fill_norm_stats, 0},
    {WF_OP_NORM_WGRAD, "stats", fill_norm_stats, 0},
    {WF_OP_ATTENTION, "qspan", fill_attention_spans, WF_DOCUMENTS},
    {WF_OP_ATTENTION_BACKWARD, "qspan", fill_attention_spans, WF_DOCUMENTS},
    {WF_OP_ATTENTION, "lse", fill_attention_before, 0},
    {WF_OP_ATTENTION_BACKWARD, "lse", fill_attention_lse, 0},
    {WF_OP_ATTENTION_BACKWARD, "delta", fill_attention_delta, 0},
    {WF_OP_ADAMW, "v", fill_squares, 0},
    {WF_OP_ADAMW, "clip", fill_clip, 0},
    {WF_OP_GRAD_NORM, "squares", fill_squares, 0},
};

static void fill_run(wf_case *test, wf_stream *stream) {
    static const float values[WF_RUN_VALUES] = {
        [WF_RUN_LR] = 1e-3f,         [WF_RUN_BETA1] = 0.9f,       [WF_RUN_BETA2] = 0.95f,
        [WF_RUN_EPS] = 1e-8f,        [WF_RUN_DECAY] = 0.1f,       [WF_RUN_CORRECTION1] = 1 / 0.271f,
        [WF_RUN_CORRECTION2] = 1 / 0.142625f, [WF_RUN_LOSS_SCALE] = 1 / 37.0f, [WF_RUN_MAX_NORM] = 1.0f};
    for (int i = 0; i < WF_RUN_VALUES; i++) test->run[i].f = values[i];
    test->run[WF_RUN_KEY0].u = (uint32_t)wf_stream_next(stream);
    test->run[WF_RUN_KEY1].u = (uint32_t)wf_stream_next(stream);
    test->run[WF_RUN_LAYER].u = (uint32_t)wf_stream_range(stream, 0, 200);
    test->run[WF_RUN_SAMPLE0].u = (uint32_t)wf_stream_range(stream, 0, 5000);
}

/* ---- the whole case ---------------------------------------------------------------------------------------------- */

static int64_t element_bytes(const wf_operand *operand) {
    return operand->dtype == WF_I32 ? (int64_t)sizeof(int32_t) : (int64_t)sizeof(double);
}

static wf_status allocate(wf_case *test, int operand) {
    const wf_operand *what = &test->operand[operand];
    int64_t stride = 1, bytes = 0;
    for (int d = what->ndim - 1; d >= 0; d--) {
        test->before[operand].stride[d] = test->after[operand].stride[d] = stride;
        if (!wf_size_multiply(stride, what->extent[d], &stride))
            return wf_fail(WF_ERR_UNSUPPORTED, "operand %s is too large to check", what->name);
    }
    test->count[operand] = stride;
    if (wf_size_multiply(stride + 1, element_bytes(what), &bytes)) test->before[operand].data = calloc(1, (size_t)bytes);
    if (what->access == WF_READ) test->after[operand].data = test->before[operand].data;
    else if (test->before[operand].data) test->after[operand].data = malloc((size_t)bytes);
    if (test->after[operand].data) return WF_OK;
    return wf_fail(WF_ERR_MEMORY, "out of host memory to check operand %s of %lld elements", what->name, (long long)stride);
}

static void fill_integers(wf_case *test, int operand, wf_stream *stream) {
    int32_t *data = test->before[operand].data;
    for (int64_t j = 0; j < test->count[operand]; j++) data[j] = (int32_t)wf_stream_range(stream, -1000000, 1000000);
}

static wf_status fill(wf_case *test, wf_stream *stream) {
    for (int i = 0; i < test->n; i++) {
        if (test->operand[i].dtype == WF_I32) {
            fill_integers(test, i, stream);
            continue;
        }
        const bool output = test->operand[i].access == WF_WRITE;
        for (int64_t j = 0; j < test->count[i]; j++) reals(test, i)[j] = output ? NAN : (double)(float)normal(stream);
    }
    for (size_t row = 0; row < sizeof specials / sizeof *specials; row++) {
        if (specials[row].flags & ~test->problem->flags) continue;
        if (specials[row].op != test->problem->op || test->operation != wf_operations[test->problem->op]) continue;
        const int operand = index_of(test, specials[row].operand);
        if (operand < 0)
            return wf_fail(WF_ERR_INTERNAL, "%s has no operand %s", test->operation->name, specials[row].operand);
        TRY(specials[row].fill(test, operand, stream));
    }
    return WF_OK;
}

wf_status wf_case_create(const wf_operation *operation, const wf_problem *problem, uint64_t seed, wf_case **out) {
    wf_stream stream = {seed};
    wf_case *test = calloc(1, sizeof *test);
    if (!test) return wf_fail(WF_ERR_MEMORY, "out of host memory for a check");
    test->operation = operation;
    test->problem = problem;
    test->n = operation->operands(problem, test->operand);
    wf_status status = WF_OK;
    for (int i = 0; i < test->n; i++) TRY_GOTO(allocate(test, i), destroy);
    fill_run(test, &stream);
    TRY_GOTO(fill(test, &stream), destroy);
    for (int i = 0; i < test->n; i++)
        if (test->operand[i].access != WF_READ)
            memcpy(test->after[i].data, test->before[i].data, (size_t)(test->count[i] * element_bytes(&test->operand[i])));
    operation->reference(problem, test->after, test->run);
    *out = test;
    return WF_OK;
destroy:
    wf_case_destroy(test);
    return status;
}

void wf_case_destroy(wf_case *test) {
    if (!test) return;
    for (int i = 0; i < test->n; i++) {
        free(test->before[i].data);
        if (test->operand[i].access != WF_READ) free(test->after[i].data);
    }
    free(test);
}
