/* Attention on the machine's device: every variant against the reference; one softmax in pieces against the whole;
 * documents. CK_NOFORK: an OpenCL context does not survive a fork. */
#include <time.h>

#include "host/run/run.h"
#include "tests/kernels/attention_support.h"

/* ---- the device ------------------------------------------------------------------------------ */

static wf_opencl *opencl;
static uint64_t seed;

static void open_it(void) {
    const char *text = getenv("WEFT_TEST_SEED");
    seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
    opencl = open_device(false);
}

static void close_it(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

static void verify(const wf_problem *problem, const wf_candidate *candidate) {
    wf_verdict verdict;
    char text[WF_CASE_BYTES], name[160];
    ck_ok(wf_verify_problem(opencl, problem, candidate, seed, &verdict));
    wf_problem_print(problem, text, sizeof text);
    wf_candidate_print(problem, candidate, name, sizeof name);
    ck_assert_msg(verdict.ok || verdict.skipped, "%s by %s: %s (WEFT_TEST_SEED=%llu repeats it)", text,
                  name, verdict.sentence, (unsigned long long)seed);
}

/* The text names the forward problem; its delta and backward are verified with it, each variant by the device's values,
 * `defaults`: and by its defaults, where they differ. */
static void verify_all(const char *text, bool defaults) {
    const wf_problem forward = parse(text);
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op++) {
        wf_problem problem = forward;
        problem.op = op;
        problem.flags &= wf_operations[op]->flags;
        for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
            wf_candidate candidate, preferred;
            wf_candidate_default(&problem, variant, &candidate);
            wf_candidate_of_variant(&problem, variant, wf_opencl_device(opencl), &preferred);
            verify(&problem, &preferred);
            if (defaults && memcmp(candidate.value, preferred.value, sizeof candidate.value) != 0) verify(&problem, &candidate);
        }
    }
}

/* A head size is a program, which takes a CPU driver seconds: few sizes, many shapes of each. */
static const char *const cases[] = {
    /* nothing, one, tiles less and more one */
    "attention:f32:b1s0t3h1d8", "attention:f32:b1s3t0h1d8", "attention:f32:b1s1h1d8",
    "attention:f32:b1s5t2h1d8", "attention:f32:b1s31h1d8:causal", "attention:f32:b1s33h1d8:causal",
    "attention:f32:b2s17t31h2d8", "attention:f32:b1s15t33h1d8", "attention:f32:b1s65h2d8:causal",
    /* head sizes around the chunks */
    "attention:f32:b1s1h1d1", "attention:f32:b1s19h1d33:causal", "attention:f32:b1s9t5h1d256",
    "attention:f32:b1s37h2d64site2:causal.dropout:p=0.1",
    /* grouped heads, windows, shifted positions, rows without keys */
    "attention:f32:b2s21h6kv2d8:causal", "attention:f32:b1s40h2kv1d8w5:causal",
    "attention:f32:b1s40t37h1d8w9", "attention:f32:b1s20t50h2d8po30:causal",
    "attention:f32:b1s50t20h1d8ko13:causal", "attention:f32:b1s40t20h1d8po25w6:causal",
    "attention:f32:b1s20h1d8ko100:causal",
    /* shards of the heads inside groups, causal or not, with kv heads that nobody reads */
    "attention:f32:b2s21h5kv3d8ho2group3:causal", "attention:f32:b1s33t40h3kv2d8ho5group4",
    "attention:f32:b1s17h2kv1d8ho6group8:causal", "attention:f32:b1s17h2kv4d8group3",
    "attention:f32:b2s37h3kv2d8ho3hn8site2group4:causal.dropout:p=0.1",
    "attention:f32:b1s19h5kv3d65ho1group2",
    /* continued: rows that see nothing, nothing at all, tails of vectors, heads inside groups, dropout */
    "attention:f32:b1s33h2d8:accumulate.causal", "attention:f32:b1s40t20h1d8po25w6:accumulate.causal",
    "attention:f32:b1s50t20h1d8ko13:accumulate.causal", "attention:f32:b1s20h1d8ko100:accumulate.causal",
    "attention:f32:b1s0t3h1d8:accumulate", "attention:f32:b2s3t0h2d8:accumulate",
    "attention:f32:b1s3h0kv2d8group3:accumulate", "attention:f32:b1s1h1d1:accumulate",
    "attention:f32:b2s19t40h1d33:accumulate", "attention:f32:b1s9t5h1d256:accumulate",
    "attention:f32:b2s37h3kv2d8ho3hn8ko5site2group4:accumulate.dropout:p=0.1",
    "attention:f32:b1s37h2d64site2:accumulate.causal.dropout:p=0.1",
    /* documents: masks, shards, pieces, tails, no keys, head sizes around the chunks */
    "attention:f32:b2s70h2d8:documents", "attention:f32:b2s131h2d8:causal.documents",
    "attention:f32:b2s33t29h4kv2d8po96ko80w25:documents", "attention:f32:b2s65t70h4kv2d8po7ko5:accumulate.documents",
    "attention:f32:b1s37h5kv3d8ho2hn8ko5site2group3:accumulate.dropout.documents:p=0.1",
    "attention:f32:b3s61t67h3d8po9ko7site2:causal.dropout.documents:p=0.1", "attention:f32:b1s3t0h1d8:documents",
    "attention:f32:b1s0t3h1d8:documents", "attention:f32:b0s3h1d8:documents", "attention:f32:b2s1h1d8:documents",
    "attention:f32:b1s40t20h1d8ko100:documents", "attention:f32:b2s19h1d33:causal.documents",
    "attention:f32:b2s70h2d64site2:causal.dropout.documents:p=0.1",
    /* no samples; no query heads, so that kv heads get gradients of 0 */
    "attention:f32:b0s3h2d8", "attention:f32:b1s3h0kv2d8group3", "attention:f32:b1s3h0kv0d8group3",
    /* dropout: odd key positions, a shard of the heads, positions past 2^31 */
    "attention:f32:b2s37h2d8site2:causal.dropout:p=0.1",
    "attention:f32:b1s35t41h4kv2d8ho3hn9po7ko5site2:causal.dropout:p=0.3",
    "attention:f32:b1s35t41h1d8ko3site2w11:dropout:p=0.5",
    "attention:f32:b1s18t18h1d8po3000000001ko3000000001site2:causal.dropout:p=0.2",
    "attention:f32:b2s61h3d8site2:causal.dropout:p=0.1",
};

START_TEST(every_variant_equals_the_reference) {
    verify_all(cases[_i], (_i + seed) % 4 == 0); /* others' values: a quarter each time, as programs take long to build */
}
END_TEST

/* ---- in pieces, on the device ---------------------------------------------------------------- */

/* A problem's operands in device memory, dense. */
typedef struct buffers {
    int n;
    wf_operand operand[WF_OPERANDS];
    int64_t count[WF_OPERANDS];
    wf_bound_view view[WF_OPERANDS];
} buffers;

static void create_buffers(const wf_problem *problem, buffers *out) {
    out->n = wf_operations[problem->op]->operands(problem, out->operand);
    for (int i = 0; i < out->n; i++) {
        const wf_operand *operand = &out->operand[i];
        out->view[i] = (wf_bound_view){0};
        out->count[i] = 1;
        for (int d = operand->ndim - 1; d >= 0; d--) {
            out->view[i].stride[d] = out->count[i];
            out->count[i] *= operand->extent[d];
        }
        ck_ok(wf_memory_create(opencl, 4 * (out->count[i] + 1), &out->view[i].memory));
    }
}

static void destroy_buffers(buffers *b) {
    for (int i = 0; i < b->n; i++) wf_memory_destroy(b->view[i].memory);
}

static void write_operand(const buffers *b, int operand, const float *data) {
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, b->view[operand].memory, 0, 4 * b->count[operand], data, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
}

static void read_operand(const buffers *b, int operand, float *data) {
    ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, b->view[operand].memory, 0, 4 * b->count[operand], data, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
}

static void run_variant(const wf_problem *problem, int variant, const wf_bound_view *views, int n,
                        const wf_run_number *run) {
    wf_candidate candidate;
    wf_kernel *kernel = NULL;
    wf_bound_view workspace = {0};
    wf_candidate_default(problem, variant, &candidate);
    ck_ok(wf_kernel_prepare(opencl, problem, &candidate, &kernel));
    ck_ok(wf_memory_create(opencl, wf_kernel_workspace_bytes(kernel) + 4, &workspace.memory));
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, n, &workspace, run, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    wf_memory_destroy(workspace.memory);
    wf_kernel_destroy(kernel);
}

static float *floats_of(int64_t count) {
    float *x = calloc((size_t)count + 1, sizeof *x);
    ck_assert_ptr_nonnull(x);
    return x;
}

static void upload(const wf_case *test, const buffers *b) {
    for (int i = 0; i < b->n; i++) {
        float *data = floats_of(b->count[i]);
        if (test->operand[i].dtype == WF_I32) memcpy(data, test->before[i].data, (size_t)b->count[i] * sizeof *data);
        for (int64_t j = 0; j < b->count[i] && test->operand[i].dtype != WF_I32; j++)
            data[j] = (float)(test->operand[i].access == WF_WRITE ? start_of(test->problem, &test->operand[i])
                                                                   : ((const double *)test->before[i].data)[j]);
        write_operand(b, i, data);
        free(data);
    }
}

/* Off by at most so many bounds. */
static void judge(const wf_case *test, const buffers *b, double bounds, const char *name) {
    for (int i = 0; i < b->n; i++) {
        if (test->operand[i].access == WF_READ) continue;
        float *got = floats_of(b->count[i]);
        double *bound = calloc((size_t)b->count[i] + 1, sizeof *bound);
        read_operand(b, i, got);
        test->operation->tolerance_run(test->problem, test->after, test->run, i, bound);
        for (int64_t j = 0; j < b->count[i]; j++) {
            const double want = ((const double *)test->after[i].data)[j];
            ck_assert_msg((double)got[j] == want || fabs((double)got[j] - want) <= bounds * bound[j],
                          "%s: %s %lld is %.9g, not %.9g (+- %g) (WEFT_TEST_SEED=%llu repeats it)", name,
                          test->operand[i].name, (long long)j, (double)got[j], want, bound[j],
                          (unsigned long long)seed);
        }
        free(got);
        free(bound);
    }
}

/* In three orders, forward and backward, by every variant: as in one piece. A row is merged with those of its own queries and
 * head, at most CUTS times, a key's or query's gradient added up of CUTS * 2 pieces; each time it may be off by what a
 * problem of all of them may. */
START_TEST(pieces_add_up) {
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op += WF_OP_ATTENTION_BACKWARD - WF_OP_ATTENTION)
        for (int variant = 0; variant < wf_operations[op]->nvariants; variant++)
            for (int order = 0; order < 3; order++) {
                wf_problem whole;
                buffers b;
                piece parts[PIECES];
                wf_case *test = whole_case(_i, op, &whole, seed);
                wf_stream stream = {seed + (uint64_t)order};
                const wf_attention a = wf_attention_sizes(&whole);
                divide(&a, &stream, order, parts);
                create_buffers(&whole, &b);
                upload(test, &b);
                for (int n = 0; n < PIECES; n++) {
                    const wf_problem p = problem_of(&whole, &parts[n]);
                    wf_bound_view views[WF_OPERANDS];
                    for (int i = 0; i < b.n; i++) {
                        views[i] = b.view[i];
                        views[i].offset = offset_of(&whole, &parts[n], &b.operand[i], b.view[i].stride);
                    }
                    run_variant(&p, variant, views, b.n, test->run);
                }
                judge(test, &b, 2 * CUTS, wf_operations[op]->variants[variant].name);
                destroy_buffers(&b);
                wf_case_destroy(test);
            }
}
END_TEST

/* One row for each pair of a score, which all N keys have, and an lse of keys before. The values of these keys are
 * 1, 2, 3, so O is 2 and lse the score + log 3; O was 9, and NaN where there was no key. Exponents as large as the
 * larger of the pair are rounded a few times. */
START_TEST(any_magnitudes_merge) {
    static const float scores[] = {-120, -1, 0, 10, 89, 1000}, before[] = {-INFINITY, -1000, -120, 0, 9.5f, 10, 89};
    enum { SCORES = COUNT(scores), ROWS = SCORES * COUNT(before), N = 3, D = 16 };
    static float q[ROWS * D], k[N * D], v[N * D], o[ROWS * D], lse[ROWS];
    const wf_problem problem = {.op = WF_OP_ATTENTION, .flags = WF_ACCUMULATE, .size = {1, ROWS, N, 1, 1, D, 0, 1}};
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    buffers b;
    for (int i = 0; i < ROWS; i++) {
        q[i * D] = scores[i % SCORES];
        lse[i] = before[i / SCORES];
        for (int e = 0; e < D; e++) o[i * D + e] = lse[i] == -INFINITY ? NAN : 9;
    }
    for (int j = 0; j < N; j++) {
        k[j * D] = 4; /* sqrt(D) */
        for (int e = 0; e < D; e++) v[j * D + e] = (float)(j + 1);
    }
    create_buffers(&problem, &b);
    float *const data[] = {q, k, v, o, lse};
    for (int i = 0; i < b.n; i++) write_operand(&b, i, data[i]);
    run_variant(&problem, _i, b.view, b.n, run);
    read_operand(&b, 3, o);
    read_operand(&b, 4, lse);
    for (int i = 0; i < ROWS; i++) {
        const double ours = scores[i % SCORES] + log(N), theirs = before[i / SCORES], largest = fmax(ours, theirs);
        const double total = exp(ours - largest) + exp(theirs - largest), few = 8 * 0x1p-24 * (1 + fabs(largest));
        const double want = (2 * exp(ours - largest) + (theirs == -INFINITY ? 0 : 9 * exp(theirs - largest))) / total;
        ck_assert_msg(fabs(lse[i] - (largest + log(total))) <= few, "%g and %g: %.9g", ours, theirs, (double)lse[i]);
        for (int e = 0; e < D; e++)
            ck_assert_msg(fabs(o[i * D + e] - want) <= 9 * few, "%g and %g: %.9g, not %.9g", ours, theirs,
                          (double)o[i * D + e], want);
    }
    destroy_buffers(&b);
}
END_TEST

/* Also beside rows of the same tile that do see keys, of which one has an infinite value. */
START_TEST(rows_that_see_no_key_keep_their_bits) {
    enum { ROWS = 20, N = 30, D = 8, BLIND = 10 };
    static float q[ROWS * D], k[N * D], v[N * D], o[ROWS * D], lse[ROWS], o_before[ROWS * D], lse_before[ROWS];
    const wf_problem problem = {.op = WF_OP_ATTENTION, .flags = WF_ACCUMULATE | WF_CAUSAL,
                                .size = {1, ROWS, N, 1, 1, D, 0, 1, 100, 100 + BLIND}};
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    buffers b;
    wf_stream stream = {seed};
    for (int i = 0; i < ROWS * D; i++) q[i] = (float)wf_stream_uniform(&stream);
    for (int i = 0; i < N * D; i++) k[i] = v[i] = (float)wf_stream_uniform(&stream);
    for (int i = 0; i < ROWS * D; i++) o_before[i] = i % 5 ? (float)(wf_stream_uniform(&stream) - 0.5) : -0.0f;
    for (int i = 0; i < ROWS; i++) lse_before[i] = (float)(200 * (wf_stream_uniform(&stream) - 0.5));
    v[0] = INFINITY;
    create_buffers(&problem, &b);
    const float *const data[] = {q, k, v, o_before, lse_before};
    for (int i = 0; i < b.n; i++) write_operand(&b, i, data[i]);
    run_variant(&problem, _i, b.view, b.n, run);
    read_operand(&b, 3, o);
    read_operand(&b, 4, lse);
    ck_assert_mem_eq(o, o_before, BLIND * D * sizeof *o);
    ck_assert_mem_eq(lse, lse_before, BLIND * sizeof *lse);
    for (int i = BLIND; i < ROWS; i++) ck_assert(memcmp(&o[i * D], &o_before[i * D], D * sizeof *o) != 0);
    destroy_buffers(&b);
}
END_TEST

static int32_t *value_of(const wf_variant *v, wf_candidate *candidate, const char *name) {
    for (int i = 0; i < v->nparameters; i++)
        if (!strcmp(v->parameters[i].name, name)) return &candidate->value[i];
    return NULL;
}

/* Rows packed in the workspace, of several heads and samples. */
static const struct {
    const char *text, *values;
} packed[] = {
    {"attention:f32:b2s93t101h6kv2d33:causal", "WIDTH=8 VECTORS=3 BLOCK=4 STEP=64"},
    {"attention:f32:b2s93t101h6kv2d33:causal", "WIDTH=16 VECTORS=2 BLOCK=8 STEP=32"},
    {"attention:f32:b2s93t101h5kv3d8ho1group2:accumulate", "WIDTH=8 VECTORS=3 BLOCK=4 STEP=32"},
    {"attention:f32:b2s93t101h3d8po96ko80w77site2:causal.dropout.documents:p=0.1", "WIDTH=4 VECTORS=2 BLOCK=6 STEP=24"},
    {"attention:f32:b2s93t101h4kv4d20po96ko80:accumulate.causal.documents", "WIDTH=8 VECTORS=1 BLOCK=8 STEP=16"},
    {"attention:f32:b1s0t3h1d8", "WIDTH=8"},
    {"attention:f32:b1s3t0h1d8:accumulate", "WIDTH=8"},
    {"attention:f32:b1s3h0kv2d8group3", "WIDTH=8"},
};

START_TEST(packed_rows) {
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op += WF_OP_ATTENTION_BACKWARD - WF_OP_ATTENTION) {
        wf_problem problem = parse(packed[_i].text);
        char text[200];
        wf_candidate candidate;
        wf_verdict verdict;
        problem.op = op;
        problem.flags &= wf_operations[op]->flags;
        snprintf(text, sizeof text, "panel %s SHARED=1", packed[_i].values);
        ck_ok(wf_candidate_parse(&problem, text, &candidate));
        ck_ok(wf_verify_problem(opencl, &problem, &candidate, seed, &verdict));
        ck_assert_msg(verdict.ok && !verdict.skipped, "%s by %s: %s", packed[_i].text, text, verdict.sentence);
    }
}
END_TEST

/* Every parameter at its second value, at its third, and so on: each value once. A STEP that its BLOCK does not divide gets
 * another, so that the STEP is tried. */
START_TEST(every_parameter_value) {
    wf_problem problem = parse("attention:f32:b1s67t70h2kv1d8ko2site1:causal.dropout:p=0.2");
    problem.op = _i & 1 ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    problem.flags |= (_i & 2 ? WF_ACCUMULATE : 0) | (_i & 4 ? WF_DOCUMENTS : 0);
    const wf_operation *operation = wf_operations[problem.op];
    for (int variant = 0; variant < operation->nvariants; variant++) {
        const wf_variant *v = &operation->variants[variant];
        int32_t most = 0;
        for (int i = 0; i < v->nparameters; i++)
            if (v->parameters[i].nvalues > most) most = v->parameters[i].nvalues;
        for (int32_t value = 1; value < most; value++) {
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            for (int i = 0; i < v->nparameters; i++) {
                const int32_t last = v->parameters[i].nvalues - 1;
                candidate.value[i] = v->parameters[i].values[value < last ? value : last];
            }
            int32_t *const step = value_of(v, &candidate, "STEP"), *const block = value_of(v, &candidate, "BLOCK");
            if (step && *step % *block) *block = 4;
            verify(&problem, &candidate);
        }
    }
}
END_TEST

/* ---- documents, on the device ------------------------------------------------------------------ */

/* Positions are counted from 0 in both. */
static void set_documents(const wf_case *test, const int64_t *ends) {
    for (int i = 0; i < test->n; i++) {
        if (test->operand[i].dtype != WF_I32) continue;
        const int64_t rows = test->operand[i].extent[0], samples = test->operand[i].extent[1];
        int32_t *span = test->before[i].data;
        for (int64_t row = 0, n = 0; row < rows; row++) {
            n += row == ends[n];
            for (int64_t sample = 0; sample < samples; sample++, span += 2)
                span[0] = n ? (int32_t)ends[n - 1] : 0, span[1] = (int32_t)ends[n];
        }
    }
}

static wf_problem documents_problem(int op, uint32_t flags) {
    wf_problem p = parse("attention:f32:b2s150h2kv1d8:documents");
    p.op = op;
    p.flags |= flags;
    return p;
}

static wf_case *documents_case(const wf_problem *p, const int64_t *ends) {
    wf_problem forward = *p;
    wf_case *test = NULL;
    forward.op = WF_OP_ATTENTION;
    ck_ok(wf_case_create(wf_operations[p->op], p, seed, &test));
    set_documents(test, ends);
    if (p->op == WF_OP_ATTENTION_BACKWARD) {
        make_consistent(test, &forward);
        for (int i = 4; i < 6; i++) /* the device gets f32 */
            for (int64_t j = 0; j < test->count[i]; j++) ((double *)test->before[i].data)[j] = (float)((double *)test->before[i].data)[j];
    }
    wf_operations[p->op]->reference(p, test->after, test->run);
    return test;
}

/* A document that ends at a tile's edge, before it and after it, beside one of a single token; and tokens that are all alone. */
static const int64_t edges[][5] = {{15, 16, 150}, {16, 17, 150}, {17, 18, 150}, {31, 32, 150}, {32, 33, 64, 150},
                                   {33, 34, 64, 150}, {63, 64, 65, 150}, {1, 2, 149, 150}, {127, 128, 129, 150}};
enum { EDGES = 2 * (COUNT(edges) + 1) };

START_TEST(documents_end_anywhere) {
    int64_t alone[150];
    for (int i = 0; i < COUNT(alone); i++) alone[i] = i + 1;
    const int64_t *const ends = _i / 2 < COUNT(edges) ? edges[_i / 2] : alone;
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op += WF_OP_ATTENTION_BACKWARD - WF_OP_ATTENTION)
        for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
            const wf_problem p = documents_problem(op, _i % 2 ? WF_CAUSAL : 0);
            wf_case *test = documents_case(&p, ends);
            buffers b;
            create_buffers(&p, &b);
            upload(test, &b);
            run_variant(&p, variant, b.view, b.n, test->run);
            judge(test, &b, 1, wf_operations[op]->variants[variant].name);
            destroy_buffers(&b);
            wf_case_destroy(test);
        }
}
END_TEST

/* The outputs of a variant, one after another. */
static float *outputs_of(const wf_problem *p, int variant, const wf_case *test, int64_t *count_out) {
    buffers b;
    float *out = NULL;
    int64_t count = 0;
    create_buffers(p, &b);
    upload(test, &b);
    run_variant(p, variant, b.view, b.n, test->run);
    for (int i = 0; i < b.n; i++) {
        if (b.operand[i].access == WF_READ) continue;
        out = realloc(out, (size_t)(count + b.count[i]) * sizeof *out);
        ck_assert_ptr_nonnull(out);
        read_operand(&b, i, out + count);
        count += b.count[i];
    }
    destroy_buffers(&b);
    *count_out = count;
    return out;
}

START_TEST(one_document_is_none) {
    const int op = _i / 2 ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
        const wf_problem p = documents_problem(op, _i % 2 ? WF_CAUSAL : 0);
        wf_problem none = p;
        none.flags &= ~(uint32_t)WF_DOCUMENTS;
        wf_case *test = documents_case(&p, (const int64_t[]){150}), *plain = NULL;
        ck_ok(wf_case_create(wf_operations[op], &none, seed, &plain));
        for (int i = 0; i < plain->n && plain->operand[i].access == WF_READ; i++) /* spans come after these */
            memcpy(plain->before[i].data, test->before[i].data, (size_t)plain->count[i] * sizeof(double));
        int64_t count, plain_count;
        float *got = outputs_of(&p, variant, test, &count), *want = outputs_of(&none, variant, plain, &plain_count);
        ck_assert_int_eq(count, plain_count);
        ck_assert_mem_eq(got, want, (size_t)count * sizeof *got);
        free(got);
        free(want);
        wf_case_destroy(test);
        wf_case_destroy(plain);
    }
}
END_TEST

/* So the arithmetic goes with what is seen: had a tile of another document been computed, 0 * NaN would show. Each tile of 32 is a
 * document; the one looked at is FIRST to END - 1, the NaNs are a tile away from it, on both sides. */
START_TEST(other_documents_are_not_read) {
    enum { FIRST = 64, END = 96, APART = 32 };
    const int op = _i / 2 ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
        const wf_problem p = documents_problem(op, _i % 2 ? WF_CAUSAL : 0);
        wf_case *test = documents_case(&p, (const int64_t[]){32, FIRST, END, 128, 150});
        for (int i = 0; i < 4; i++) {
            if (test->operand[i].access != WF_READ || test->operand[i].dtype == WF_I32) continue;
            for (int64_t j = 0; j < test->count[i]; j++) {
                const int64_t row = j / test->before[i].stride[0];
                if (row < FIRST - APART || row >= END + APART) ((double *)test->before[i].data)[j] = NAN;
            }
        }
        buffers b;
        create_buffers(&p, &b);
        upload(test, &b);
        run_variant(&p, variant, b.view, b.n, test->run);
        for (int i = 0; i < b.n; i++) {
            if (b.operand[i].access == WF_READ || b.operand[i].ndim != 4) continue;
            float *got = floats_of(b.count[i]);
            read_operand(&b, i, got);
            for (int64_t j = FIRST * b.view[i].stride[0]; j < END * b.view[i].stride[0]; j++)
                ck_assert_msg(isfinite(got[j]), "%s %lld", b.operand[i].name, (long long)j);
            free(got);
        }
        destroy_buffers(&b);
        wf_case_destroy(test);
    }
}
END_TEST

int main(void) {
    TCase *device = tcase_create("device");
    tcase_add_unchecked_fixture(device, open_it, close_it);
    tcase_add_loop_test(device, every_variant_equals_the_reference, 0, COUNT(cases));
    tcase_add_loop_test(device, pieces_add_up, 0, COUNT(divided));
    tcase_add_loop_test(device, any_magnitudes_merge, 0, wf_operations[WF_OP_ATTENTION]->nvariants);
    tcase_add_loop_test(device, rows_that_see_no_key_keep_their_bits, 0, wf_operations[WF_OP_ATTENTION]->nvariants);
    tcase_add_loop_test(device, packed_rows, 0, COUNT(packed));
    tcase_add_loop_test(device, every_parameter_value, 0, 8);
    tcase_add_loop_test(device, documents_end_anywhere, 0, EDGES);
    tcase_add_loop_test(device, one_document_is_none, 0, 4);
    tcase_add_loop_test(device, other_documents_are_not_read, 0, 4);
    tcase_set_timeout(device, 0);
    Suite *suite = suite_create("attention_device");
    suite_add_tcase(suite, device);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
