/* Attention: the f64 gradients against finite differences, what each query sees against the plain
 * definition, operations counted, case texts; then every variant on the machine's device against the
 * reference; and one softmax in pieces against the whole, by both. CK_NOFORK: an OpenCL context does
 * not survive a fork. */
#include <math.h>
#include <time.h>

#include "host/run/run.h"
#include "host/run/verify.h"
#include "kernels/attention.h"
#include "tests/host/device_support.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static wf_problem parse(const char *text) {
    wf_problem problem;
    ck_assert_msg(wf_problem_parse(text, &problem) == WF_OK, "%s", wf_last_error());
    return problem;
}

/* ---- the reference --------------------------------------------------------------------------- */

/* Causal, grouped heads, window, dropout, shifted positions, rows without keys; all small. */
static const char *const small_cases[] = {
    "attention_backward:f32:b1s1h1d1",
    "attention_backward:f32:b2s5h2d3",
    "attention_backward:f32:b1s6h4kv2d3:causal",
    "attention_backward:f32:b1s7t5h2kv1d2w3:causal",
    "attention_backward:f32:b1s5t7h1d3w2",
    "attention_backward:f32:b2s5h4kv2d3site2w4:causal.dropout:p=0.3",
    "attention_backward:f32:b1s6t4h2d2po5ko3site9hn5ho2:causal.dropout:p=0.5",
    "attention_backward:f32:b1s5t4h2d3ko2:causal",
    /* shards of the heads that begin and end inside a group; kv heads that nobody here reads */
    "attention_backward:f32:b1s4h5kv3d2ho2group3:causal",
    "attention_backward:f32:b2s3t5h2kv2d3ho7group4",
    "attention_backward:f32:b1s3h1kv3d2ho9hn12group4",
    /* documents */
    "attention_backward:f32:b2s9h2d3:documents",
    "attention_backward:f32:b2s8t6h4kv2d2po3ko5site2w4:causal.dropout.documents:p=0.3",
};

/* The forward problem's operands among a backward's: Q, K, V, qspan where there is one, O like Q, lse; the data of the
 * outputs is the caller's. */
static void run_forward(const wf_case *test, const wf_problem *forward, double *o, double *lse) {
    const wf_attention a = wf_attention_sizes(forward);
    wf_tensor t[WF_OPERANDS] = {test->before[0], test->before[1], test->before[2], test->before[6]};
    t[a.output] = test->before[0];
    t[a.output].data = o;
    t[a.output + 1] = test->before[4];
    t[a.output + 1].data = lse;
    wf_attention_reference(forward, t, test->run);
}

/* sum O W for W = dO, through the forward reference. */
static double loss(const wf_case *test, const wf_problem *forward) {
    const int64_t outputs = test->count[0];
    double *o = calloc((size_t)outputs, sizeof *o), *lse = calloc((size_t)test->count[4], sizeof *lse);
    run_forward(test, forward, o, lse);
    double sum = 0;
    for (int64_t i = 0; i < outputs; i++) sum += o[i] * ((const double *)test->before[3].data)[i];
    free(o);
    free(lse);
    return sum;
}

/* Makes lse and delta those of the case's own Q, K, V, dO, and the gradients with them. */
static void make_consistent(wf_case *test, const wf_problem *forward) {
    wf_tensor o = test->before[0];
    o.data = calloc((size_t)test->count[0] + 1, sizeof(double));
    run_forward(test, forward, o.data, test->before[4].data);
    wf_attention_delta_reference(forward, (wf_tensor[]){o, test->before[3], test->before[5]}, test->run);
    free(o.data);
}

/* Central differences, error h^2: at h = 1e-4 some 1e-8 of the largest element; asked is 1e-6. */
static void check_gradient(wf_case *test, const wf_problem *forward, int input, int gradient) {
    const double h = 1e-4;
    double *x = test->before[input].data, largest = 0, worst = 0;
    const double *g = test->after[gradient].data;
    for (int64_t i = 0; i < test->count[input]; i++) {
        const double keep = x[i];
        x[i] = keep + h;
        const double above = loss(test, forward);
        x[i] = keep - h;
        const double below = loss(test, forward);
        x[i] = keep;
        largest = fmax(largest, fabs(g[i]));
        worst = fmax(worst, fabs((above - below) / (2 * h) - g[i]));
    }
    ck_assert_msg(worst <= 1e-6 * fmax(largest, 1e-3), "%s: %g of %g",
                  test->operand[gradient].name, worst, largest);
}

START_TEST(gradients_equal_finite_differences) {
    const wf_problem problem = parse(small_cases[_i]);
    wf_problem forward = problem;
    forward.op = WF_OP_ATTENTION;
    wf_case *test = NULL;
    ck_ok(wf_case_create(wf_operations[problem.op], &problem, 11 + (uint64_t)_i, &test));
    make_consistent(test, &forward);
    wf_attention_backward_reference(&problem, test->after, test->run); /* what is only read is the same in both */
    for (int i = 0; i < 3; i++) check_gradient(test, &forward, i, wf_attention_sizes(&problem).output + i);
    wf_case_destroy(test);
}
END_TEST

/* ---- in pieces ------------------------------------------------------------------------------- */

/* Forward problems: whole groups of heads, shards of them, masks, keys that nobody sees, dropout at odd positions. */
static const char *const divided[] = {
    "attention:f32:b2s37h2d8",
    "attention:f32:b2s37h2d8:causal",
    "attention:f32:b1s40t37h1d8w9",
    "attention:f32:b1s40h2kv1d8w5:causal",
    "attention:f32:b2s21h6kv2d8:causal",
    "attention:f32:b1s20h1d8ko100:causal",
    "attention:f32:b1s35t41h4kv2d8ho4hn9po7ko5site2:causal.dropout:p=0.3",
    "attention:f32:b2s37h5kv3d8ho2hn8site2group3:causal.dropout:p=0.1",
    "attention:f32:b1s19t27h3d33",
    "attention:f32:b2s37h2d8:causal.documents",
    "attention:f32:b2s35t41h4kv2d8ho4hn9po7ko5site2w19:dropout.documents:p=0.3",
};

/* Queries, keys and query heads of one piece: first and end. */
enum { QUERIES, KEYS, HEADS, AXES };
typedef struct piece {
    int64_t first[AXES], end[AXES];
} piece;

enum { CUTS = 4, PIECES = CUTS * CUTS * 2 };

/* 0, ..., n in `parts` parts of any length, 0 too. */
static void cut(wf_stream *stream, int64_t n, int parts, int64_t at[CUTS + 1]) {
    at[0] = 0;
    for (int i = 1; i < parts; i++) at[i] = wf_stream_range(stream, 0, n);
    at[parts] = n;
    for (int i = 1; i < parts; i++)
        for (int j = i; j > 1 && at[j] < at[j - 1]; j--) {
            const int64_t swapped = at[j];
            at[j] = at[j - 1];
            at[j - 1] = swapped;
        }
}

/* All pairs of query, key and head, each in one piece; the pieces in the order of the keys (0), against it (1) or in
 * any. */
static void divide(const wf_attention *a, wf_stream *stream, int order, piece out[PIECES]) {
    int64_t at[AXES][CUTS + 1];
    cut(stream, a->s, CUTS, at[QUERIES]);
    cut(stream, a->kv, CUTS, at[KEYS]);
    cut(stream, a->hq, 2, at[HEADS]);
    for (int n = 0; n < PIECES; n++) {
        const int part[AXES] = {n / 2 % CUTS, n / 2 / CUTS, n % 2};
        for (int axis = 0; axis < AXES; axis++) {
            out[n].first[axis] = at[axis][part[axis]];
            out[n].end[axis] = at[axis][part[axis] + 1];
        }
    }
    for (int n = 0; order && n < PIECES; n++) {
        const int other = order == 1 ? PIECES - 1 - n : (int)wf_stream_range(stream, n, PIECES - 1);
        const piece swapped = out[n];
        if (other < n) continue;
        out[n] = out[other];
        out[other] = swapped;
    }
}

/* The heads of a piece may begin and end inside a kv head's group. */
static wf_problem problem_of(const wf_problem *whole, const piece *part) {
    const wf_attention a = wf_attention_sizes(whole);
    const int64_t heads = part->end[HEADS] - part->first[HEADS];
    const int64_t kv_first = wf_attention_kv_head(&a, part->first[HEADS]);
    const int64_t hkv = heads ? wf_attention_kv_head(&a, part->end[HEADS] - 1) - kv_first + 1 : 0;
    wf_problem p = {.op = whole->op, .flags = whole->flags | WF_ACCUMULATE, .real = {a.p},
                    .size = {a.b, part->end[QUERIES] - part->first[QUERIES], part->end[KEYS] - part->first[KEYS], heads,
                             hkv, a.d, a.head0 + part->first[HEADS], a.heads, a.pos0 + part->first[QUERIES],
                             a.kpos0 + part->first[KEYS], a.site, a.window, a.per_kv}};
    ck_ok(wf_problem_check(&p));
    ck_assert_int_eq(p.size[6] % a.per_kv, (a.lead + part->first[HEADS]) % a.per_kv);
    return p;
}

/* Elements of the whole operand before the piece's first. */
static int64_t offset_of(const wf_problem *whole, const piece *part, const wf_operand *operand, const int64_t *stride) {
    const wf_attention a = wf_attention_sizes(whole);
    const bool keys = strchr("KV", operand->name[strlen(operand->name) - 1]) != NULL;
    const int64_t head = part->first[HEADS];
    if (operand->dtype == WF_I32) return part->first[*operand->name == 'k' ? KEYS : QUERIES] * stride[0];
    if (operand->ndim == 3) return head * stride[1] + part->first[QUERIES];
    return part->first[keys ? KEYS : QUERIES] * stride[0] + (keys ? wf_attention_kv_head(&a, head) : head) * stride[2];
}

/* The start of a sum: no key seen, whatever O holds; gradients of 0. */
static double start_of(const wf_problem *p, const wf_operand *operand) {
    return p->op == WF_OP_ATTENTION_BACKWARD ? 0 : operand->ndim == 3 ? -INFINITY : NAN;
}

static wf_case *whole_case(int which, int op, wf_problem *problem, uint64_t from) {
    wf_case *test = NULL;
    *problem = parse(divided[which]);
    problem->op = op;
    ck_ok(wf_case_create(wf_operations[op], problem, from, &test));
    return test;
}

/* The reference by itself, where only f64 rounds: a thousand roundings of numbers of at most some 100. */
START_TEST(references_add_up) {
    const int op = _i % 2 ? WF_OP_ATTENTION_BACKWARD : WF_OP_ATTENTION;
    wf_problem whole;
    wf_case *test = whole_case(_i / 6, op, &whole, 5 + (uint64_t)_i);
    wf_stream stream = {17 + (uint64_t)_i};
    const wf_attention a = wf_attention_sizes(&whole);
    piece parts[PIECES];
    divide(&a, &stream, _i / 2 % 3, parts);
    for (int i = 0; i < test->n; i++)
        for (int64_t j = 0; test->operand[i].access == WF_WRITE && j < test->count[i]; j++)
            ((double *)test->before[i].data)[j] = start_of(&whole, &test->operand[i]);
    for (int n = 0; n < PIECES; n++) {
        const wf_problem p = problem_of(&whole, &parts[n]);
        wf_tensor t[WF_OPERANDS];
        for (int i = 0; i < test->n; i++) {
            t[i] = test->before[i];
            const int64_t offset = offset_of(&whole, &parts[n], &test->operand[i], t[i].stride);
            t[i].data = test->operand[i].dtype == WF_I32 ? (void *)((int32_t *)t[i].data + offset) : (double *)t[i].data + offset;
        }
        wf_operations[op]->reference(&p, t, test->run);
    }
    for (int i = 0; i < test->n; i++)
        for (int64_t j = 0; j < test->count[i] && test->operand[i].dtype != WF_I32; j++) {
            const double got = ((const double *)test->before[i].data)[j];
            const double want = ((const double *)test->after[i].data)[j];
            ck_assert_msg(got == want || fabs(got - want) < 1e-11, "%s: %s %lld: %g, not %g", divided[_i / 6],
                          test->operand[i].name, (long long)j, got, want);
        }
    wf_case_destroy(test);
}
END_TEST

/* ---- what is seen, and counted --------------------------------------------------------------- */

static bool sees(const wf_attention *a, bool causal, int64_t i, int64_t j) {
    const int64_t behind = (a->pos0 + i) - (a->kpos0 + j);
    if (causal && behind < 0) return false;
    if (a->window && behind >= a->window) return false;
    return !(a->window && !causal && -behind >= a->window);
}

START_TEST(keys_and_operations_as_defined) {
    static const int64_t shapes[][5] = {{1, 1, 0, 0, 0}, {7, 5, 0, 0, 3}, {5, 9, 4, 0, 0},
                                        {6, 6, 0, 9, 0}, {9, 4, 2, 3, 2}, {3, 8, 20, 1, 4}};
    for (int i = 0; i < COUNT(shapes); i++)
        for (int causal = 0; causal < 2; causal++) {
            const int64_t *n = shapes[i];
            const wf_problem p = {.op = WF_OP_ATTENTION, .flags = causal ? WF_CAUSAL : 0,
                                  .size = {2, n[0], n[1], 2, 1, 3, 0, 2, n[2], n[3], 0, n[4]}};
            const wf_attention a = wf_attention_sizes(&p);
            int64_t pairs = 0;
            for (int64_t q = 0; q < n[0]; q++) {
                const wf_keys keys = wf_attention_keys(&a, NULL, 0, q);
                for (int64_t k = 0; k < n[1]; k++) {
                    ck_assert_int_eq(k >= keys.first && k < keys.end, sees(&a, causal, q, k));
                    pairs += sees(&a, causal, q, k);
                }
            }
            ck_assert_double_eq(wf_operations[p.op]->flops(&p), (double)(pairs * 2 * 2 * 4 * 3));
        }
}
END_TEST

/* Of what mask and window leave, a query sees its own document. */
START_TEST(documents_hide_the_others) {
    static const int32_t ends[] = {1, 4, 5, 11, 20};
    const char *const texts[] = {"attention:f32:b2s7t9h1d1po5ko4:documents", "attention:f32:b2s7t9h1d1po5ko4:causal.documents",
                                 "attention:f32:b2s9t7h1d1po2ko6w3:documents"};
    for (int i = 0; i < COUNT(texts); i++) {
        const wf_problem p = parse(texts[i]);
        const wf_attention a = wf_attention_sizes(&p);
        int32_t spans[9][2][2], document[2][20];
        for (int sample = 0; sample < 2; sample++)
            for (int position = 0, n = 0; position < 20; position++) {
                n += position == ends[n] - (n < 4 ? sample : 0);
                document[sample][position] = n;
            }
        for (int64_t q = 0; q < a.s; q++)
            for (int sample = 0; sample < 2; sample++) {
                int32_t *const span = spans[q][sample];
                const int mine = document[sample][a.pos0 + q];
                span[0] = span[1] = (int32_t)(a.pos0 + q);
                while (span[0] > 0 && document[sample][span[0] - 1] == mine) span[0]--;
                while (span[1] < 20 && document[sample][span[1]] == mine) span[1]++;
            }
        const wf_tensor operands[] = {{0}, {0}, {0}, {.data = spans, .stride = {4, 2, 1}}};
        for (int sample = 0; sample < 2; sample++)
            for (int64_t q = 0; q < a.s; q++) {
                const wf_keys keys = wf_attention_keys(&a, operands, sample, q);
                for (int64_t k = 0; k < a.kv; k++)
                    ck_assert_int_eq(k >= keys.first && k < keys.end,
                                     sees(&a, p.flags & WF_CAUSAL, q, k) &&
                                         document[sample][a.pos0 + q] == document[sample][a.kpos0 + k]);
            }
    }
}
END_TEST

/* Heads of a shard read what the same heads read in the whole model. */
START_TEST(shards_read_the_models_kv_heads) {
    enum { HEADS = 12 };
    for (int64_t group = 1; group <= HEADS; group++)
        for (int64_t head0 = 0; head0 < HEADS; head0++)
            for (int64_t hq = 1; head0 + hq <= HEADS; hq++) {
                const int64_t first = head0 / group, hkv = (head0 + hq - 1) / group - first + 1;
                wf_problem p = {.op = WF_OP_ATTENTION,
                                .size = {1, 2, 2, hq, hkv, 4, head0, HEADS, 0, 0, 0, 0, group}};
                ck_ok(wf_problem_check(&p));
                const wf_attention a = wf_attention_sizes(&p);
                for (int64_t g = 0; g < hq; g++)
                    ck_assert_int_eq(first + wf_attention_kv_head(&a, g), (head0 + g) / group);
                p.size[4] = hkv - 1; /* one too few */
                ck_assert_int_ne(wf_problem_check(&p), WF_OK);
            }
}
END_TEST

START_TEST(case_texts_complete_and_return) {
    char text[WF_CASE_BYTES];
    const wf_problem p = parse("attention:f32:b2s9h4d8ho4:causal");
    ck_assert_int_eq(p.size[2], 9);
    ck_assert_int_eq(p.size[4], 4);
    ck_assert_int_eq(p.size[7], 8);
    static const char grouped[] = "attention:f32:b2s9t9h5kv3d8ho2hn7group3:causal";
    const wf_problem shard = parse(grouped);
    ck_assert_int_eq(shard.size[12], 3);
    wf_problem_print(&shard, text, sizeof text);
    ck_assert_str_eq(text, grouped);
    const wf_problem none = parse("attention:f32:b2s9t0h4d8");
    ck_assert_int_eq(none.size[2], 0);
    wf_problem_print(&none, text, sizeof text);
    const wf_problem again = parse(text);
    ck_assert_msg(wf_problem_equal(&none, &again), "%s", text);
}
END_TEST

/* What is added up is left alone where there is nothing to add; what is written becomes 0, or is empty. */
START_TEST(empty_gradients_are_not_added) {
    static const char *const empty[] = {"attention_backward:f32:b1s0t3h1d8", "attention_backward:f32:b1s3t0h1d8",
                                        "attention_backward:f32:b1s3h0kv2d8group3"};
    wf_launch launches[WF_LAUNCHES];
    for (int i = 0; i < COUNT(empty); i++) {
        const wf_operation *operation = wf_operations[WF_OP_ATTENTION_BACKWARD];
        for (int variant = 0; variant < operation->nvariants; variant++) {
            wf_problem problem = parse(empty[i]);
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            ck_assert_int_gt(operation->variants[variant].launches(&problem, &candidate, launches), 0);
            problem.flags |= WF_ACCUMULATE;
            ck_assert_int_eq(operation->variants[variant].launches(&problem, &candidate, launches), 0);
        }
    }
}
END_TEST

START_TEST(bad_sizes_are_refused) {
    static const char *const bad[] = {
        "attention:f32:b1s4h4kv3d8", "attention:f32:b1s4h4d0", "attention:f32:b1s4h4d257",
        "attention:f32:b1s4h4d8:dropout:p=1", "attention:f32:b1s4h4d8hn3ho1:dropout:p=0.5",
        "attention:f32:b1s4h4d8site256:dropout:p=0.5", "attention:f32:b1s4h4kv1d8ho2group3",
        "attention:f32:b1s4h4d8po2147483644:documents", "attention:f32:b1s4h4d8ko2147483644:documents",
        "attention:f32:b1s4h4kv0d8group4", "attention:f32:b1s4h4kv4d8group100000"};
    wf_problem problem;
    for (int i = 0; i < COUNT(bad); i++)
        ck_assert_msg(wf_problem_parse(bad[i], &problem) != WF_OK, "%s", bad[i]);
}
END_TEST

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

/* The text names the forward problem; its delta and backward are verified with it. */
static void verify_all(const char *text) {
    const wf_problem forward = parse(text);
    for (int op = WF_OP_ATTENTION; op <= WF_OP_ATTENTION_BACKWARD; op++) {
        wf_problem problem = forward;
        problem.op = op;
        problem.flags &= wf_operations[op]->flags;
        for (int variant = 0; variant < wf_operations[op]->nvariants; variant++) {
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            verify(&problem, &candidate);
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
    verify_all(cases[_i]);
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

/* Every parameter at its second value, at its third, and so on: each value once. */
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
    TCase *reference = tcase_create("reference"), *device = tcase_create("device");
    tcase_add_loop_test(reference, gradients_equal_finite_differences, 0, COUNT(small_cases));
    tcase_add_test(reference, keys_and_operations_as_defined);
    tcase_add_test(reference, documents_hide_the_others);
    tcase_add_test(reference, shards_read_the_models_kv_heads);
    tcase_add_test(reference, case_texts_complete_and_return);
    tcase_add_loop_test(reference, references_add_up, 0, 6 * COUNT(divided));
    tcase_add_test(reference, empty_gradients_are_not_added);
    tcase_add_test(reference, bad_sizes_are_refused);
    tcase_add_unchecked_fixture(device, open_it, close_it);
    tcase_add_loop_test(device, every_variant_equals_the_reference, 0, COUNT(cases));
    tcase_add_loop_test(device, pieces_add_up, 0, COUNT(divided));
    tcase_add_loop_test(device, any_magnitudes_merge, 0, wf_operations[WF_OP_ATTENTION]->nvariants);
    tcase_add_loop_test(device, rows_that_see_no_key_keep_their_bits, 0, wf_operations[WF_OP_ATTENTION]->nvariants);
    tcase_add_loop_test(device, every_parameter_value, 0, 8);
    tcase_add_loop_test(device, documents_end_anywhere, 0, EDGES);
    tcase_add_loop_test(device, one_document_is_none, 0, 4);
    tcase_add_loop_test(device, other_documents_are_not_read, 0, 4);
    tcase_set_timeout(device, 0);
    Suite *suite = suite_create("attention");
    suite_add_tcase(suite, reference);
    suite_add_tcase(suite, device);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
