/* GEMM on this machine's device: every variant, all transposes and epilogues, sizes around the tiles'
 * edges, odd strides and offsets, against the reference within the derived bound; exactly on integers.
 * The sizes are fresh in each run; a failure prints the seed, and `check_gemm SEED` repeats it. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/run/run.h"
#include "kernels/activation.h"
#include "kernels/table.h"

static wf_opencl *opencl;
static uint64_t seed, random_state;

static uint32_t next_random(void) { /* Knuth's MMIX generator, upper half */
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

#define ck_ok(expression)                                                                          \
    ck_assert_msg((expression) == WF_OK, "%s: %s (seed %llu)", #expression, wf_last_error(),       \
                  (unsigned long long)seed)

/* ---- one operand: f32 as the device has it, f64 as the reference has it ------------------------------ */

typedef struct buffer {
    wf_operand operand;
    int64_t elements, offset; /* of the allocation; of the view's first element */
    float *device;            /* what is sent, then what came back */
    float *sent;
    double *reference;
    wf_tensor view;
    wf_memory *memory;
} buffer;

enum { GUARD = 37 };

static bool inside(const buffer *b, int64_t i) {
    const int64_t columns = b->operand.extent[b->operand.ndim - 1];
    const int64_t rows = b->operand.ndim > 1 ? b->operand.extent[0] : 1;
    const int64_t stride = b->operand.ndim > 1 ? b->view.stride[0] : columns + GUARD;
    const int64_t at = i - b->offset;
    return columns > 0 && at >= 0 && at / stride < rows && at % stride < columns;
}

/* Numbers in (-1, 1), or integers -3..3. Written buffers start as NaN; so does all around the views. */
static void fill(buffer *b, bool integers) {
    for (int64_t i = 0; i < b->elements; i++) {
        const double x = integers ? (double)(next_random() % 7) - 3
                                  : (double)(next_random() >> 8) * 0x1p-23 - 1;
        const bool poison = b->operand.access == WF_WRITE || !inside(b, i);
        b->device[i] = b->sent[i] = poison ? NAN : (float)x;
        b->reference[i] = b->device[i];
    }
}

static void make_buffer(buffer *b, const wf_operand *operand, bool integers) {
    *b = (buffer){.operand = *operand};
    const int64_t columns = operand->extent[operand->ndim - 1];
    const int64_t rows = operand->ndim > 1 ? operand->extent[0] : 1;
    const int64_t stride = columns + next_random() % 6;
    b->offset = GUARD + next_random() % 8;
    b->elements = b->offset + rows * stride + GUARD;
    b->view.stride[0] = operand->ndim > 1 ? stride : 1;
    b->view.stride[1] = 1;
    b->device = malloc((size_t)b->elements * sizeof(float));
    b->sent = malloc((size_t)b->elements * sizeof(float));
    b->reference = malloc((size_t)b->elements * sizeof(double));
    b->view.data = b->reference + b->offset;
    fill(b, integers);
    ck_ok(wf_memory_create(opencl, b->elements * 4, &b->memory));
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, b->memory, 0, b->elements * 4, b->device, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
}

static void destroy_buffer(buffer *b) {
    wf_memory_destroy(b->memory);
    free(b->device);
    free(b->sent);
    free(b->reference);
}

/* ---- running and comparing ------------------------------------------------------------------------------ */

static void run(const wf_problem *p, const wf_candidate *c, buffer *buffers, int n) {
    wf_bound_view views[WF_OPERANDS] = {{0}}, workspace = {0};
    wf_kernel *kernel = NULL;
    int64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        views[i] = (wf_bound_view){.memory = buffers[i].memory, .offset = buffers[i].offset};
        memcpy(views[i].stride, buffers[i].view.stride, sizeof views[i].stride);
    }
    ck_ok(wf_kernel_workspace(opencl, p, c, &bytes));
    if (bytes > 0) ck_ok(wf_memory_create(opencl, bytes, &workspace.memory));
    ck_ok(wf_kernel_prepare(opencl, p, c, &kernel));
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, n, bytes > 0 ? &workspace : NULL, NULL,
                            NULL));
    for (int i = 0; i < n; i++)
        ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, buffers[i].memory, 0, buffers[i].elements * 4,
                            buffers[i].device, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    wf_kernel_destroy(kernel);
    wf_memory_destroy(workspace.memory);
}

/* Elements outside the view, and operands that are only read, keep their bits. */
static int64_t damaged(const buffer *b) {
    for (int64_t i = 0; i < b->elements; i++) {
        if (inside(b, i) && b->operand.access != WF_READ) continue;
        if (memcmp(&b->device[i], &b->sent[i], sizeof(float)) != 0) return i;
    }
    return -1;
}

/* Largest |got - reference| / bound of an output, "" or a sentence on what is wrong. */
static double compare(const wf_problem *p, const wf_tensor *tensors, const buffer *b, int operand,
                      bool exact, char sentence[200]) {
    const int64_t m = b->operand.extent[0], n = b->operand.extent[1];
    double *bound = malloc((size_t)(m * n + 1) * sizeof *bound), worst = 0;
    wf_operations[p->op]->tolerance(p, tensors, operand, bound);
    sentence[0] = 0;
    for (int64_t i = 0; i < m * n; i++) {
        const int64_t at = b->offset + i / n * b->view.stride[0] + i % n;
        const double got = b->device[at], want = b->reference[at];
        const double difference = fabs(got - want), allowed = exact ? 0 : bound[i];
        if (difference <= allowed && difference <= worst * bound[i]) continue;
        worst = bound[i] > 0 ? difference / bound[i] : INFINITY;
        if (!(difference <= allowed))
            snprintf(sentence, 200, "%s[%lld,%lld] is %.9g, reference %.9g, allowed %.3g",
                     b->operand.name, (long long)(i / n), (long long)(i % n), got, want, allowed);
    }
    free(bound);
    return worst;
}

static double check_case(const wf_problem *p, const wf_candidate *c, bool integers) {
    wf_operand operands[WF_OPERANDS];
    wf_tensor tensors[WF_OPERANDS];
    buffer buffers[WF_OPERANDS];
    char text[WF_CASE_BYTES], candidate[200], sentence[200];
    double worst = 0;
    const int n = wf_operations[p->op]->operands(p, operands);
    for (int i = 0; i < n; i++) {
        make_buffer(&buffers[i], &operands[i], integers);
        tensors[i] = buffers[i].view;
    }
    run(p, c, buffers, n);
    wf_operations[p->op]->reference(p, tensors, NULL);
    wf_problem_print(p, text, sizeof text);
    wf_candidate_print(p, c, candidate, sizeof candidate);
    const bool exact = integers && (!p->activation || p->activation == WF_ACT_RELU);
    for (int i = 0; i < n; i++) {
        ck_assert_msg(damaged(&buffers[i]) < 0, "%s '%s': element %lld of %s was overwritten (seed %llu)",
                      text, candidate, (long long)damaged(&buffers[i]), operands[i].name,
                      (unsigned long long)seed);
        if (operands[i].access == WF_READ) continue;
        worst = fmax(worst, compare(p, tensors, &buffers[i], i, exact, sentence));
        ck_assert_msg(!sentence[0], "%s '%s': %s (seed %llu)", text, candidate, sentence,
                      (unsigned long long)seed);
    }
    for (int i = 0; i < n; i++) destroy_buffer(&buffers[i]);
    return worst;
}

/* ---- the sweep ------------------------------------------------------------------------------------------- */

/* Each line is built once (some second, when no cache has it) and run at many sizes. */
static const char *const lines[][2] = {
    {"nn", "simple"},
    {"nt", "simple"},
    {"tn", "simple"},
    {"tt", "simple"},
    {"nn.accumulate", "simple"},
    {"nt.bias.gelu_tanh", "simple"},
    {"nn.accumulate.bias.gelu", "simple"},
    {"nt.bias.relu", "simple"},
    {"nt.bias.silu", "simple"},
    {"nn.act-grad.gelu_tanh", "simple"},
    {"nn.accumulate.bias.act-grad.gelu", "simple"},
    {"nn.act-grad.relu", "simple"},
    {"nn.act-grad.silu", "simple"},
    {"nt", "simple TILE_M=32 TILE_N=128 TILE_K=8 GROUP_M=8 GROUP_N=16"},
    {"tn", "simple TILE_M=64 TILE_N=32 TILE_K=32 GROUP_M=16 GROUP_N=8"},
    {"nn", "direct"},
    {"tn", "direct"},
    {"tn.accumulate", "direct"},
    {"nn.bias.gelu_tanh", "direct"},
    {"nn.accumulate.bias.gelu", "direct"},
    {"nn.bias.relu", "direct"},
    {"nn.bias.silu", "direct"},
    {"nn.act-grad.gelu_tanh", "direct"},
    {"nn.act-grad.gelu", "direct"},
    {"nn.act-grad.relu", "direct"},
    {"nn.accumulate.bias.act-grad.silu", "direct"},
    {"nn.bias", "direct ROWS=8 VECTORS=1 WIDTH=8"},
    {"tn", "direct ROWS=1 VECTORS=4 WIDTH=4"},
    {"nn", "direct ROWS=12 VECTORS=2 WIDTH=16"},
    {"nt", "dot"},
    {"nt.accumulate.bias", "dot"},
    {"nt.bias.gelu_tanh", "dot"},
    {"nt.act-grad.gelu", "dot"},
    {"nt.bias", "dot ROWS=2 WIDTH=8 DEPTH=8"},
    {"nt", "dot ROWS=6 WIDTH=4 DEPTH=4"},
    {"nn", "panel"},
    {"nt", "panel"},
    {"tn", "panel"},
    {"tt.accumulate.bias", "panel"},
    {"tn.accumulate", "panel"},
    {"nt.bias.gelu_tanh", "panel"},
    {"nn.accumulate.bias.gelu", "panel"},
    {"nt.bias.relu", "panel"},
    {"tn.bias.silu", "panel"},
    {"nn.act-grad.gelu_tanh", "panel"},
    {"nt.accumulate.bias.act-grad.gelu", "panel"},
    {"nn.act-grad.relu", "panel"},
    {"tn.act-grad.silu", "panel"},
    {"nt", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=64 TILES_M=1 TILES_N=1"},
    {"nn", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=64 TILES_M=4 TILES_N=2 SHARED=0 AHEAD=0"},
    {"tn.accumulate", "panel ROWS=6 VECTORS=2 WIDTH=4 DEPTH=64 TILES_M=2 TILES_N=4"},
    {"tn.accumulate", "panel TILES_M=4 TILES_N=2 SHARED=0"},
    {"tt.accumulate.act-grad.relu", "panel ROWS=12 VECTORS=3 WIDTH=8 DEPTH=64 TILES_M=8 TILES_N=1"},
    {"nt.accumulate.gelu_tanh", "panel ROWS=8 VECTORS=3 WIDTH=16 DEPTH=128 TILES_M=4 TILES_N=2"},
    {"nt.panels-b", "simple"},
    {"nn.panels-b", "simple"},
    {"tn.panels-c", "simple"},
    {"nn.accumulate.panels-c", "simple TILE_M=32 TILE_N=128 TILE_K=8 GROUP_M=8 GROUP_N=16"},
    {"nt.panels-b", "panel"},
    {"nn.panels-b", "panel"},
    {"tn.panels-c", "panel"},
    {"nt.bias.panels-b.gelu_tanh", "panel"},
    {"nn.act-grad.panels-b.gelu", "panel"},
    {"tn.accumulate.panels-c", "panel"},
    {"nt.panels-b", "panel ROWS=8 VECTORS=1 WIDTH=16 DEPTH=64 TILES_M=4 TILES_N=2"},
    {"nn.panels-b", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=64 TILES_M=4 TILES_N=2 SHARED=0 AHEAD=0"},
    {"tn.accumulate.panels-c", "panel ROWS=6 VECTORS=2 WIDTH=4 DEPTH=64 TILES_M=2 TILES_N=4"},
    {"tt.accumulate.panels-b", "panel ROWS=8 VECTORS=1 WIDTH=8 DEPTH=128 TILES_M=4 TILES_N=2"},
    {"nn.panels-c", "panel ROWS=14 VECTORS=1 WIDTH=16 DEPTH=64 TILES_M=2 TILES_N=2 SHARED=0"},
    {"nn", "clblast"},
    {"nt.accumulate", "clblast"},
    {"tn.bias", "clblast"},
    {"tt.accumulate.bias.gelu_tanh", "clblast"},
    {"nn.act-grad.silu", "clblast"},
};
enum { LINES = sizeof lines / sizeof *lines, RANDOM_SIZES = 8 };

static const int64_t edges[] = {1,  2,  3,  4,  7,  11, 12, 13, 15, 16, 17, 23,  29,  31,  32, 33,
                                47, 48, 49, 61, 63, 64, 65, 66, 79, 97, 127, 128, 129, 131};
enum { EDGES = sizeof edges / sizeof *edges };
/* Zeros, ones, one of each long. */
static const int64_t fixed_sizes[][3] = {{0, 5, 3}, {5, 0, 3},  {6, 7, 0},    {1, 1, 1},
                                         {1, 67, 5}, {67, 1, 5}, {13, 19, 300},
                                         {131, 161, 129}, {71, 65, 513}};
enum { FIXED = sizeof fixed_sizes / sizeof *fixed_sizes };

static void choose_size(int i, wf_problem *p) {
    for (int d = 0; d < 3; d++) p->size[d] = i < FIXED ? fixed_sizes[i][d] : edges[next_random() % EDGES];
}

static wf_problem problem_of(const char *flags) {
    char text[100];
    wf_problem p;
    snprintf(text, sizeof text, "gemm:f32::%s", flags);
    ck_ok(wf_problem_parse(text, &p));
    return p;
}

START_TEST(every_size_and_epilogue_is_within_the_bound) {
    wf_problem p = problem_of(lines[_i][0]);
    wf_candidate c;
    const char *why = NULL;
    double worst = 0;
    int ran = 0;
    random_state = seed + (uint64_t)_i * 1000003;
    ck_ok(wf_candidate_parse(&p, lines[_i][1], &c));
    const wf_variant *variant = &wf_gemm_operation.variants[c.variant];
    for (int i = 0; i < FIXED + RANDOM_SIZES; i++) {
        choose_size(i, &p);
        if (!variant->ok(&p, &c, wf_opencl_device(opencl), &why)) continue;
        worst = fmax(worst, check_case(&p, &c, false));
        check_case(&p, &c, true);
        ran++;
    }
    if (ran == 0) fprintf(stderr, "skipped: gemm %s '%s': %s\n", lines[_i][0], lines[_i][1], why);
    ck_assert_msg(ran == 0 || worst > 0, "%s '%s': no difference at all is not to be believed",
                  lines[_i][0], lines[_i][1]);
}
END_TEST

/* ---- the reference itself, and the comparison ---------------------------------------------------------------- */

START_TEST(the_reference_is_right_by_hand) {
    double a[] = {1, 2, 3, 4, 5, 6}, b[] = {7, 8, 9, 10, 11, 12}, bias[] = {100, 200};
    double c[] = {1, 2, 3, 4}, pre[4];
    wf_tensor t[5] = {{a, {3, 1}}, {b, {2, 1}}, {c, {2, 1}}, {pre, {2, 1}}};
    wf_problem p = {.op = WF_OP_GEMM, .size = {2, 2, 3}, .flags = WF_ACCUMULATE};
    wf_gemm_operation.reference(&p, t, NULL);
    static const double sums[] = {58 + 1, 64 + 2, 139 + 3, 154 + 4};
    ck_assert_mem_eq(c, sums, sizeof sums);

    /* A as [k,m] = {{1,2},{3,4},{5,6}}, B as [n,k] = {{7,8,9},{10,11,12}}; ReLU of sum + bias - 200 */
    bias[0] = -76, bias[1] = -500;
    p.flags = WF_TRANS_A | WF_TRANS_B | WF_BIAS | WF_ACTIVATE, p.activation = WF_ACT_RELU;
    wf_tensor u[5] = {{a, {2, 1}}, {b, {3, 1}}, {bias, {1}}, {c, {2, 1}}, {pre, {2, 1}}};
    wf_gemm_operation.reference(&p, u, NULL);
    static const double before[] = {0, -397, 24, -364}, after[] = {0, 0, 24, 0};
    ck_assert_mem_eq(pre, before, sizeof before);
    ck_assert_mem_eq(c, after, sizeof after);

    /* act-grad: C = (A B) * relu'(pre) */
    p.flags = WF_ACT_GRAD;
    pre[0] = -1, pre[1] = 1, pre[2] = 2, pre[3] = -2;
    wf_tensor g[4] = {{a, {3, 1}}, {b, {2, 1}}, {pre, {2, 1}}, {c, {2, 1}}};
    wf_gemm_operation.reference(&p, g, NULL);
    static const double masked[] = {0, 64, 139, 0};
    ck_assert_mem_eq(c, masked, sizeof masked);
}
END_TEST

/* A rounding too few is seen: a result off by twice the bound, a NaN, and a lost guard word. */
START_TEST(seeded_faults_are_caught) {
    wf_problem p = problem_of("nn");
    wf_operand operands[WF_OPERANDS];
    wf_tensor tensors[WF_OPERANDS];
    buffer buffers[WF_OPERANDS];
    wf_candidate c;
    char sentence[200];
    p.size[0] = 17, p.size[1] = 33, p.size[2] = 20;
    random_state = seed;
    ck_ok(wf_candidate_parse(&p, "simple", &c));
    const int n = wf_operations[p.op]->operands(&p, operands);
    for (int i = 0; i < n; i++) {
        make_buffer(&buffers[i], &operands[i], false);
        tensors[i] = buffers[i].view;
    }
    run(&p, &c, buffers, n);
    wf_operations[p.op]->reference(&p, tensors, NULL);
    buffer *out = &buffers[2];
    ck_assert_double_le(compare(&p, tensors, out, 2, false, sentence), 1);
    const int64_t at = out->offset + 5 * out->view.stride[0] + 7;
    const float kept = out->device[at];
    out->device[at] = kept + 1e-5f;
    ck_assert_double_gt(compare(&p, tensors, out, 2, false, sentence), 1);
    ck_assert_ptr_nonnull(strstr(sentence, "C[5,7]"));
    out->device[at] = NAN;
    compare(&p, tensors, out, 2, false, sentence);
    ck_assert_ptr_nonnull(strstr(sentence, "C[5,7]"));
    ck_assert_int_lt(damaged(out), 0);
    out->device[out->offset - 1] = 0;
    ck_assert_int_eq(damaged(out), out->offset - 1);
    for (int i = 0; i < n; i++) destroy_buffer(&buffers[i]);
}
END_TEST

/* Activations alone: with k = 0, C = act(bias), or bias act'(pre). Arguments of both signs: -12.5 to
 * 12.5 finely, then powers of 8 to 2^60.
 * Values: relative, so that the left tails count. f = x s(z): 40 u for s (gemm_ref.c), and a rounding of
 * z by 4 u relatively moves s by 4 u |z|, |z| < 2|x| + |x|^3/10, or 2 x^2 in GELU's erfc. Gradients: 80 u
 * absolutely, again as there. Numbers below 1e-37 may be flushed to 0. */
enum { POINTS = 4041, FINE = 4001 };

static float point(int i) {
    return i < FINE ? (float)(i - FINE / 2) / 160 : ldexpf(i & 1 ? 1 : -1, 3 * ((i - FINE) / 2));
}

/* A factor of x may be flushed to 0 where it is denormal. */
static double activation_bound(bool gradient, double x, double want) {
    const double y = fmin(fabs(x), 100);
    const double relative = 40 + 8 * y + 8 * y * y + 0.4 * y * y * y;
    return (gradient ? 80 : relative * fabs(want)) * 0x1p-24 + (8 + y) * 0x1p-126;
}

static void write_row(const buffer *b, bool points) {
    for (int i = 0; i < POINTS; i++) b->sent[b->offset + i] = points ? point(i) : 1;
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, b->memory, 0, b->elements * 4, b->sent, NULL));
}

static void check_activation(wf_activation which, bool gradient) {
    char flags[80];
    snprintf(flags, sizeof flags, "nn.bias.%s%s", gradient ? "act-grad." : "", wf_activations[which].name);
    wf_problem p = problem_of(flags);
    wf_operand operands[WF_OPERANDS];
    buffer buffers[WF_OPERANDS];
    wf_candidate c;
    double worst = 0;
    int worst_at = 0;
    p.size[0] = 1, p.size[1] = POINTS;
    ck_ok(wf_candidate_for_device(&p, wf_opencl_device(opencl), &c));
    const int n = wf_operations[p.op]->operands(&p, operands), out = gradient ? 4 : 3;
    for (int i = 0; i < n; i++) make_buffer(&buffers[i], &operands[i], false);
    write_row(&buffers[2], !gradient);
    if (gradient) write_row(&buffers[3], true);
    run(&p, &c, buffers, n);
    for (int i = 0; i < POINTS; i++) {
        const double x = point(i), got = buffers[out].device[buffers[out].offset + i];
        const double want = (gradient ? wf_activations[which].df : wf_activations[which].f)(x);
        const double ratio = fabs(got - want) / activation_bound(gradient, x, want);
        if (!isnan(ratio) && ratio <= worst) continue;
        ck_assert_msg(!isnan(ratio), "%s at %g is NaN", flags, x);
        worst = ratio, worst_at = i;
    }
    const double got = buffers[out].device[buffers[out].offset + worst_at];
    for (int i = 0; i < n; i++) destroy_buffer(&buffers[i]);
    ck_assert_msg(worst <= 1, "%s at %g: %.9g, %g of the bound off", flags, point(worst_at), got, worst);
}

START_TEST(activations_are_accurate_in_their_tails) {
    random_state = seed;
    for (int which = 1; which < WF_ACTS; which++) check_activation((wf_activation)which, _i);
}
END_TEST

/* What `weft verify` runs agrees. */
START_TEST(verify_agrees) {
    static const char *const texts[] = {"gemm:f32:m33n65k17:nt.bias.gelu_tanh", "gemm:f32:m1n1k1:tt.accumulate"};
    for (int i = 0; i < 2; i++) {
        wf_problem p;
        ck_ok(wf_problem_parse(texts[i], &p));
        for (int v = 0; v < wf_gemm_operation.nvariants; v++) {
            wf_candidate c;
            wf_verdict verdict;
            wf_candidate_default(&p, v, &c);
            ck_ok(wf_verify_problem(opencl, &p, &c, seed, &verdict));
            ck_assert_msg(verdict.ok || verdict.skipped, "%s: %s (seed %llu)", texts[i], verdict.sentence,
                          (unsigned long long)seed);
        }
    }
}
END_TEST

/* The untuned choice for this device runs every kind of GEMM. */
START_TEST(the_untuned_candidate_runs_here) {
    static const char *const flags[] = {"nn", "nt", "tn", "tt"};
    random_state = seed;
    for (int i = 0; i < 4; i++) {
        wf_problem p = problem_of(flags[i]);
        wf_candidate c;
        p.size[0] = 70, p.size[1] = 90, p.size[2] = 50;
        ck_ok(wf_candidate_for_device(&p, wf_opencl_device(opencl), &c));
        check_case(&p, &c, false);
    }
}
END_TEST

/* More rows of A than the workspace holds: slabs, of which the last is shorter; the bias's columns and the rows
 * of C are the whole matrix's. */
START_TEST(slabs_of_rows) {
    static const char *const texts[] = {"gemm:f32:m57601n33k130:nn.bias", "gemm:f32:m57601n33k130:tt.accumulate"};
    wf_problem p;
    wf_candidate c;
    wf_launch launches[WF_LAUNCHES];
    ck_ok(wf_problem_parse(texts[_i], &p));
    ck_ok(wf_candidate_parse(&p, "panel TILES_N=1 DEPTH=64", &c));
    const wf_variant *variant = &wf_operations[p.op]->variants[c.variant];
    const int n = variant->launches(&p, &c, launches);
    ck_assert_int_ge(n, 4); /* pack and multiply, more than once */
    ck_assert_int_le(n, WF_LAUNCHES);
    ck_assert(variant->workspace_bytes(&p, &c) < 4 * p.size[0] * p.size[2]);
    check_case(&p, &c, false);
}
END_TEST

/* A workspace of any size takes few launches. */
START_TEST(slabs_are_few) {
    wf_problem p;
    wf_candidate c;
    wf_launch launches[WF_LAUNCHES];
    static const char *const texts[] = {"gemm:f32:m2000000n256k4096:nt", "gemm:f32:m154n256k9000000:nt", "gemm:f32:m1n256k90000000:nt"};
    static const int most[] = {WF_LAUNCHES, WF_LAUNCHES, 2};
    for (int i = 0; i < 3; i++) {
        ck_ok(wf_problem_parse(texts[i], &p));
        ck_ok(wf_candidate_parse(&p, "panel", &c));
        const int n = wf_operations[p.op]->variants[c.variant].launches(&p, &c, launches);
        ck_assert_int_ge(n, 2);
        ck_assert_int_le(n, most[i]);
        ck_assert_int_eq(launches[n - 1].arguments[3].value.i, p.size[0]); /* the last slab ends with the matrix */
    }
}
END_TEST

/* What the operation prefers on described CPUs: by vectors, cores, and where packing does not pay. */
START_TEST(the_preference_follows_device_and_shape) {
    static const struct {
        const char *text, *candidate;
        int32_t floats, cores;
    } wants[] = {
        {"gemm:f32:m1024n1024k1024:nt", "panel ROWS=14 VECTORS=2 WIDTH=16 DEPTH=512 TILES_M=128 TILES_N=4 SHARED=1 AHEAD=16", 16, 2},
        {"gemm:f32:m1024n1024k1024:nt", "panel ROWS=6 VECTORS=2 WIDTH=8 DEPTH=256 TILES_M=8 TILES_N=4 SHARED=1 AHEAD=0", 8, 64},
        {"gemm:f32:m1024n1024k1024:nn", "panel ROWS=6 VECTORS=2 WIDTH=4 DEPTH=256 TILES_M=128 TILES_N=8 SHARED=1 AHEAD=0", 4, 1},
        {"gemm:f32:m128n1024k1024:nn", "panel ROWS=8 VECTORS=2 WIDTH=16 DEPTH=512 TILES_M=128 TILES_N=4 SHARED=1 AHEAD=16", 16, 2},
        {"gemm:f32:m4096n32k1024:nn", "panel ROWS=14 VECTORS=2 WIDTH=16 DEPTH=512 TILES_M=32 TILES_N=4 SHARED=0 AHEAD=16", 16, 2},
        {"gemm:f32:m50257n768k2048:tn", "panel ROWS=14 VECTORS=2 WIDTH=16 DEPTH=512 TILES_M=128 TILES_N=4 SHARED=1 AHEAD=16", 16, 2},
        {"gemm:f32:m1024n31k1024:nn", "direct ROWS=8 VECTORS=1 WIDTH=16", 16, 2},
        {"gemm:f32:m7n1024k1024:nt", "dot ROWS=4 WIDTH=4 DEPTH=16", 16, 2},
        {"gemm:f32:m7n19:nt.bias", "dot ROWS=4 WIDTH=4 DEPTH=16", 16, 2},
    };
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++) {
        const wf_device device = {.name = "a CPU", .type = WF_DEVICE_CPU, .compute_units = wants[i].cores,
                                  .vector_floats = wants[i].floats, .max_group = 4096, .local_bytes = 1 << 20};
        wf_problem p;
        wf_candidate c;
        char got[200];
        ck_ok(wf_problem_parse(wants[i].text, &p));
        ck_ok(wf_candidate_for_device(&p, &device, &c));
        wf_candidate_print(&p, &c, got, sizeof got);
        ck_assert_msg(!strcmp(got, wants[i].candidate), "%s: %s, not %s", wants[i].text, got, wants[i].candidate);
    }
}
END_TEST

int main(int argc, char **argv) {
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL);
    if (wf_opencl_create(&(wf_opencl_options){0}, &opencl) != WF_OK) {
        fprintf(stderr, "skipped: %s\n", wf_last_error());
        return 77;
    }
    Suite *suite = suite_create("gemm");
    TCase *tests = tcase_create("gemm");
    suite_add_tcase(suite, tests);
    tcase_set_timeout(tests, 0);
    tcase_add_test(tests, the_reference_is_right_by_hand);
    tcase_add_test(tests, seeded_faults_are_caught);
    tcase_add_test(tests, the_untuned_candidate_runs_here);
    tcase_add_test(tests, the_preference_follows_device_and_shape);
    tcase_add_loop_test(tests, slabs_of_rows, 0, 2);
    tcase_add_test(tests, slabs_are_few);
    tcase_add_test(tests, verify_agrees);
    tcase_add_loop_test(tests, activations_are_accurate_in_their_tails, 0, 2);
    tcase_add_loop_test(tests, every_size_and_epilogue_is_within_the_bound, 0, LINES);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    wf_opencl_destroy(opencl);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
