/* The row-wise and element-wise kernels on the machine's device, against their f64 references: every
 * chain of REDUCE, ragged sizes, several candidates, dropout's masks bit by bit, integers' bits.
 * The cases that verify gets are the texts that `weft verify` takes. CK_NOFORK: an OpenCL context
 * does not survive a fork. */
#include <math.h>
#include <time.h>

#include "host/run/run.h"
#include "kernels/philox.h"
#include "tests/host/device_support.h"

static wf_opencl *opencl;
static uint64_t seed;

static void open_it(void) {
    opencl = open_device(false);
}

static void close_it(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

/* WEFT_TEST_SEED repeats a failure; the sizes themselves are fixed. */
static uint64_t fresh_seed(void) {
    const char *text = getenv("WEFT_TEST_SEED");
    return text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
}

static void verify(const char *text, const wf_candidate *candidate) {
    wf_problem problem;
    wf_candidate chosen;
    wf_verdict verdict;
    ck_assert_msg(wf_problem_parse(text, &problem) == WF_OK, "%s", wf_last_error());
    wf_candidate_default(&problem, 0, &chosen);
    if (candidate) chosen = *candidate;
    ck_ok(wf_verify_problem(opencl, &problem, &chosen, seed, &verdict));
    char name[128];
    wf_candidate_print(&problem, &chosen, name, sizeof name);
    ck_assert_msg(verdict.ok && !verdict.skipped, "%s by %s: %s (WEFT_TEST_SEED=%llu repeats it)", text,
                  name, verdict.sentence, (unsigned long long)seed);
}

/* ---- sizes ------------------------------------------------------------------------------------------ */

/* Rows and columns: nothing, one, primes, and the span of a group of 64 items of 4 elements, less
 * and more one. */
static const int64_t sizes[][2] = {{0, 5}, {2, 0}, {1, 1}, {5, 3}, {2, 255}, {3, 256}, {2, 257}, {7, 1021}};

static const char *const formats[] = {
    "norm:f32:rows%lldn%lld:eps=1e-05",
    "norm_backward:f32:rows%lldn%lld",
    "norm_backward:f32:rows%lldn%lld:residual",
    "norm_wgrad:f32:rows%lldn%lld",
    "norm:f32:rows%lldn%lld:rms:eps=1e-05",
    "norm_backward:f32:rows%lldn%lld:rms",
    "norm_backward:f32:rows%lldn%lld:residual.rms",
    "norm_wgrad:f32:rows%lldn%lld:rms",
    "norm_wgrad:f32:rows%lldn%lld:accumulate.rms",
    "gate:f32:rows%lldn%lld:silu",
    "gate_backward:f32:rows%lldn%lld:silu",
    "activation:f32:rows%lldn%lld:silu",
    "norm_wgrad:f32:rows%lldn%lld:accumulate",
    "sum_rows:f32:groups1per%lldn%lld",
    "sum_rows:f32:groups3per%lldn%lld:accumulate",
    "embedding:f32:rows%lldn%lldvocabulary7first3",
    "embedding_backward:f32:rows%lldn%lldvocabulary4first3",
    "loss_stats:f32:rows%lldvocabulary%lldfirst9",
    "loss_backward:f32:rows%lldvocabulary%lldfirst9",
    "fill:f32:rows%lldn%lld:value=-2.5",
    "fill:i32:rows%lldn%lld:value=-7",
    "copy:f32:rows%lldn%lld",
    "copy:i32:rows%lldn%lld",
    "reduce:f32:rows%lldn%lld",
};

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

START_TEST(ragged_sizes) {
    char text[160];
    for (int i = 0; i < COUNT(sizes); i++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        snprintf(text, sizeof text, formats[_i], (long long)sizes[i][0], (long long)sizes[i][1]);
#pragma GCC diagnostic pop
        verify(text, NULL);
    }
}
END_TEST

static const char *const cases[] = {
    /* rotations: heads whole and in part, vectors with ragged ends, nothing to do, one pair */
    "rope:f32:s1d2", "rope:f32:s0b2h3d8", "rope:f32:s3b0h3d8", "rope:f32:s3b2h0d8", "rope:f32:s3h2d8rotated0",
    "rope:f32:s3b2h5d30", "rope:f32:s3b2h5d30:inverse", "rope:f32:s7b3h2d34rotated32", "rope:f32:s2h70d16",
    "rope:f32:s5b2h3d256", "rope:f32:s3h1d514", "rope:f32:s3h1d1030rotated1026:inverse",
    /* gates: wide rows, every activation */
    "activation:f32:rows2n4100:gelu", "activation:f32:rows3n97:gelu_tanh", "activation:f32:rows3n97:relu",
    "gate:f32:rows2n4100:gelu", "gate_backward:f32:rows2n4100:gelu", "gate:f32:rows3n97:gelu_tanh",
    "gate_backward:f32:rows3n97:gelu_tanh", "gate:f32:rows3n97:relu", "gate_backward:f32:rows3n97:relu",
    /* long sums: several chunks, a last one that is short, more rows than chunks times the least */
    "norm_wgrad:f32:rows1009n97:accumulate", "norm_wgrad:f32:rows64n5", "norm_wgrad:f32:rows65n300",
    "sum_rows:f32:groups1per1009n97", "sum_rows:f32:groups5per129n31:accumulate",
    "sum_rows:f32:groups2per17001n3", "sum_squares:f32:", "sum_squares:f32:n1", "sum_squares:f32:n1023",
    "sum_squares:f32:n1025", "sum_squares:f32:n300007", "grad_norm:f32:", "grad_norm:f32:n1",
    "grad_norm:f32:n217", "adamw:f32:", "adamw:f32:n1", "adamw:f32:n1023:decay", "adamw:f32:n4097",
    /* shards of the vocabulary that are empty, whole, far along */
    "embedding:f32:rows40n33first5", "embedding_backward:f32:rows40n33first5",
    "embedding_backward:f32:rows301n129vocabulary11first50000", "embedding:f32:rows40n33vocabulary50257",
    "loss_stats:f32:rows5first257", "loss_stats:f32:rows3vocabulary50257", "loss_backward:f32:rows3vocabulary50257",
    "loss_merge:f32:", "loss_merge:f32:rows1", "loss_merge:f32:rows63parts2", "loss_merge:f32:rows65parts3",
    "loss_merge:f32:rows301parts12",
    /* wide rows of copies: several chunks per row */
    "copy:f32:rows3n4100", "copy:i32:rows2n2049", "fill:f32:rows3n4100", "fill:f32:rows1n1:value=1e-40",
};

START_TEST(particular_cases) {
    verify(cases[_i], NULL);
}
END_TEST

/* ---- REDUCE's chain -------------------------------------------------------------------------------- */

/* All subsets of the chain's links, with 1, 2, 3 and 8 parts in turn. */
START_TEST(reduce_chains) {
    static const int parts[] = {1, 2, 3, 8};
    char text[200];
    snprintf(text, sizeof text, "reduce:f32:rows21n131parts%dgroup%db3pos11site3%s%s%s%s%s:p=0.3,eps=1e-05",
             parts[_i % 4 == 0 ? (_i / 4) % 4 : _i % 4], _i % 3, _i ? ":" : "", _i & 1 ? "bias." : "",
             _i & 2 ? "dropout." : "", _i & 4 ? "residual." : "", _i & 8 ? "norm." : "");
    char *dot = strstr(text, ".:p");
    if (dot) memmove(dot, dot + 1, strlen(dot));
    verify(text, NULL);
}
END_TEST

static const char *const chains[] = {
    "reduce:f32:rows1n1parts2b1site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows7n1021parts2b7site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows6n256parts2b2pos70000site4group2:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows4parts2b2site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows1n1parts2b1site4:bias.dropout.residual.norm.rms:p=0.1,eps=1e-05",
    "reduce:f32:rows7n1021parts3:residual.norm.rms:eps=1e-05", "reduce:f32:rows7n257:norm.rms:eps=1e-05",
    "reduce:f32:rows4parts2:residual.norm.rms:eps=1e-05", "reduce:f32:n96parts2:residual.norm.rms:eps=1e-05",
    "reduce:f32:n96parts2b2site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows21n67parts2b3pos5site4ga4gap30:bias.dropout.residual.norm:p=0.3,eps=1e-05",
    "reduce:f32:rows21n67b3pos5site4gap30:dropout:p=0.3", "reduce:f32:rows21n67b3pos5site4ga7gap30:dropout:p=0.3",
};

START_TEST(reduce_sizes) {
    verify(chains[_i], NULL);
}
END_TEST

/* ---- candidates --------------------------------------------------------------------------------------- */

static const char *const per_source[] = {
    "norm:f32:rows5n531:eps=1e-05", "norm_backward:f32:rows5n531:residual", "norm_wgrad:f32:rows133n45",
    "sum_rows:f32:groups2per133n45", "embedding_backward:f32:rows101n45vocabulary9first2",
    "loss_stats:f32:rows5vocabulary531first9", "loss_merge:f32:rows65parts3", "adamw:f32:n5003:decay",
    "loss_backward:f32:rows5vocabulary531first9", "sum_squares:f32:n50021", "copy:f32:rows3n4567",
    "reduce:f32:rows6n531parts2b2site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "norm:f32:rows5n531:rms:eps=1e-05", "norm_backward:f32:rows5n531:residual.rms", "norm_wgrad:f32:rows133n45:rms",
    "reduce:f32:rows6n531parts2:residual.norm.rms:eps=1e-05", "rope:f32:s3b2h3d70rotated66",
    "gate:f32:rows3n4567:silu", "gate_backward:f32:rows3n4567:silu",
};

START_TEST(candidates) {
    static const int32_t values[][2] = {{1, 16}, {16, 8}, {256, 4}};
    for (int i = 0; i < COUNT(per_source); i++) {
        wf_problem problem;
        wf_candidate candidate;
        ck_ok(wf_problem_parse(per_source[i], &problem));
        wf_candidate_default(&problem, 0, &candidate);
        candidate.value[0] = values[_i][0];
        candidate.value[1] = values[_i][1];
        verify(per_source[i], &candidate);
    }
}
END_TEST

/* ---- masks and bits ------------------------------------------------------------------------------------ */

/* Runs a problem on dense f32 or i32 operands of `count[i]` elements: reads first, then one output. */
static void run_dense(const wf_problem *problem, int32_t width, const wf_run_number *run,
                      const void *in, int64_t in_count, void *out, int64_t out_count) {
    wf_candidate candidate;
    wf_kernel *kernel = NULL;
    wf_memory *memory[2] = {NULL, NULL};
    const int64_t columns = problem->size[1];
    wf_candidate_default(problem, 0, &candidate);
    candidate.value[1] = width;
    ck_ok(wf_kernel_prepare(opencl, problem, &candidate, &kernel));
    ck_ok(wf_memory_create(opencl, 4 * in_count, &memory[0]));
    ck_ok(wf_memory_create(opencl, 4 * out_count, &memory[1]));
    const wf_bound_view views[] = {{memory[0], 0, {columns, 1}}, {memory[1], 0, {columns, 1}}};
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, memory[0], 0, 4 * in_count, in, NULL));
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 2, NULL, run, NULL));
    ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, memory[1], 0, 4 * out_count, out, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    wf_memory_destroy(memory[0]);
    wf_memory_destroy(memory[1]);
    wf_kernel_destroy(kernel);
}

static const int32_t widths[] = {4, 8, 16};

/* Dropout of ones: the device's words are the host's. The rows are of two ranges of positions. */
START_TEST(masks_equal_the_hosts) {
    enum { B = 3, ROWS = 21, N = 203, GAP_AT = 4, GAP = 5000 };
    static float ones[ROWS * N], out[ROWS * N];
    const wf_problem problem = {.op = WF_OP_REDUCE, .flags = WF_DROPOUT,
                                .size = {ROWS, N, 1, 0, B, 1000000, WF_SITE_ATTENTION_OUT, GAP_AT, GAP},
                                .real = {0.25}};
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    uint32_t key[2];
    int wrong = 0, kept = 0;
    wf_philox_key(seed, 5, key);
    run[WF_RUN_KEY0].u = key[0], run[WF_RUN_KEY1].u = key[1];
    run[WF_RUN_LAYER].u = 47, run[WF_RUN_SAMPLE0].u = 4000000000u;
    for (int i = 0; i < ROWS * N; i++) ones[i] = 1;
    ck_assert_int_eq(wf_problem_check(&problem), WF_OK);
    run_dense(&problem, widths[_i], run, ones, ROWS * N, out, ROWS * N);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) {
            const int position = 1000000 + i / B + (i / B >= GAP_AT ? GAP : 0);
            const int keep = wf_dropout_keep(key, WF_SITE_ATTENTION_OUT, 47, 4000000000u + (uint32_t)(i % B),
                                             (uint32_t)position, j, wf_philox_threshold(0.25));
            kept += keep;
            wrong += out[i * N + j] != (keep ? (float)(1 / 0.75) : 0);
        }
    ck_assert_int_eq(wrong, 0);
    ck_assert(kept > ROWS * N / 2 && kept < ROWS * N);
}
END_TEST

START_TEST(copies_keep_bits) {
    enum { ROWS = 3, N = 67 };
    static uint32_t in[ROWS * N], out[ROWS * N];
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    for (int dtype = WF_F32; dtype <= WF_I32; dtype++) {
        const wf_problem problem = {.op = WF_OP_COPY, .dtype = dtype, .size = {ROWS, N}};
        uint32_t word[4];
        for (int i = 0; i < ROWS * N; i++) {
            wf_philox4x32((uint32_t[]){(uint32_t)i, 0, 0, 0}, (uint32_t[]){(uint32_t)seed, 0}, word);
            in[i] = i % 5 ? word[0] : 0x7f812345u; /* a signalling NaN among them */
        }
        memset(out, 0, sizeof out);
        run_dense(&problem, widths[_i], run, in, ROWS * N, out, ROWS * N);
        ck_assert_mem_eq(in, out, sizeof in);
    }
}
END_TEST

/* ---- far from zero --------------------------------------------------------------------------------------- */

/* Dense operands from host memory and, those that are written, back to it. */
static void run_operands(const wf_problem *problem, const wf_candidate *candidate, void *const host[]) {
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    wf_operand operand[WF_OPERANDS];
    wf_bound_view view[WF_OPERANDS] = {{0}};
    int64_t bytes[WF_OPERANDS];
    wf_kernel *kernel = NULL;
    const int n = wf_operations[problem->op]->operands(problem, operand);
    ck_ok(wf_kernel_prepare(opencl, problem, candidate, &kernel));
    for (int i = 0; i < n; i++) {
        bytes[i] = 4;
        for (int k = operand[i].ndim - 1; k >= 0; k--) view[i].stride[k] = bytes[i] / 4, bytes[i] *= operand[i].extent[k];
        ck_ok(wf_memory_create(opencl, bytes[i], &view[i].memory));
        ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, view[i].memory, 0, bytes[i], host[i], NULL));
    }
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, view, n, NULL, run, NULL));
    for (int i = 0; i < n; i++)
        if (operand[i].access != WF_READ) ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, view[i].memory, 0, bytes[i], host[i], NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    for (int i = 0; i < n; i++) wf_memory_destroy(view[i].memory);
    wf_kernel_destroy(kernel);
}

/* 0: the defaults, which are a GPU's; 1: what this device prefers. */
static void choose(const wf_problem *problem, int which, wf_candidate *out) {
    if (which) ck_ok(wf_candidate_for_device(problem, wf_opencl_device(opencl), out));
    else wf_candidate_default(problem, 0, out);
}

/* A row at 10000 +- 1: the variance must not drown in the mean's square (1e8 u = 6, against 0.3), and the mean must
 * be good to two roundings, u * 10000 each. Then one that only begins there, so that its beginning is a bad guess of
 * the mean. */
START_TEST(norm_far_from_zero) {
    enum { N = 1021, FIRST = 16, FAR = 10000 };
    static float x[N], y[N], ones[N], zeros[N];
    float stats[2];
    double mean = 0, variance = 0;
    const wf_problem problem = {.op = WF_OP_NORM, .size = {1, N}, .real = {1e-5}};
    wf_candidate candidate;
    for (int j = 0; j < N; j++) x[j] = (_i < 2 || j < FIRST ? FAR : 0) + (float)(j * 37 % 101) / 50, ones[j] = 1;
    for (int j = 0; j < N; j++) mean += (double)x[j] / N;
    for (int j = 0; j < N; j++) variance += pow((double)x[j] - mean, 2) / N;
    const double rstd = 1 / sqrt(variance + 1e-5), u = 0x1p-24;
    choose(&problem, _i % 2, &candidate);
    run_operands(&problem, &candidate, (void *[]){x, ones, zeros, y, stats});
    ck_assert_double_le(fabs(stats[0] - mean), 2 * u * FAR);
    ck_assert_double_le(fabs(stats[1] - rstd), 5e-7 * rstd);
    for (int j = 0; j < N; j++) {
        const double want = ((double)x[j] - mean) * rstd;
        ck_assert_double_le(fabs(y[j] - want), 2 * u * FAR * rstd + 5e-7 * (2 + fabs(want)));
    }
}
END_TEST

/* ---- not a number ------------------------------------------------------------------------------------------- */

static const char *const exponentials[] = {
    "activation:f32:rows1n67:gelu_tanh", "activation:f32:rows1n67:gelu", "activation:f32:rows1n67:silu",
    "activation:f32:rows1n67:relu", "gate_backward:f32:rows1n67:silu", "gate_backward:f32:rows1n67:gelu_tanh",
    "loss_stats:f32:rows1vocabulary67first0",
};

/* Whatever their bits: exponents are put together from integers, which must not make a number of them. */
START_TEST(not_a_number_stays) {
    enum { N = 67 };
    static const uint32_t bits[] = {0x7fc00000, 0xffffffff, 0x7fffffff, 0xffc00001, 0x7f800001, 0x7fc00100};
    wf_problem problem;
    wf_candidate candidate;
    ck_ok(wf_problem_parse(exponentials[_i / 2], &problem));
    choose(&problem, _i % 2, &candidate);
    for (int b = 0; b < COUNT(bits); b++)
        for (int at = 3; at < N; at += 31) {
            float first[2 * N], second[2 * N], third[2 * N];
            int32_t targets[N] = {0};
            for (int i = 0; i < 2 * N; i++) first[i] = second[i] = third[i] = 0.5f;
            memcpy(&first[at], &bits[b], 4);
            const bool loss = problem.op == WF_OP_LOSS_STATS, gate = problem.op == WF_OP_GATE_BACKWARD;
            run_operands(&problem, &candidate, (void *[]){first, loss ? (void *)targets : second, third});
            const float got = loss ? third[1] : gate ? third[at] : second[at];
            ck_assert_msg(isnan(got), "%s: %08x at %d gives %g", exponentials[_i / 2], (unsigned)bits[b], at, got);
            ck_assert(loss || isfinite(gate ? third[at - 1] : second[at - 1]));
        }
}
END_TEST

int main(void) {
    seed = fresh_seed();
    Suite *suite = suite_create("rows");
    TCase *tests = tcase_create("rows");
    tcase_set_timeout(tests, 300);
    tcase_add_unchecked_fixture(tests, open_it, close_it);
    tcase_add_loop_test(tests, ragged_sizes, 0, COUNT(formats));
    tcase_add_loop_test(tests, particular_cases, 0, COUNT(cases));
    tcase_add_loop_test(tests, reduce_chains, 0, 16);
    tcase_add_loop_test(tests, reduce_sizes, 0, COUNT(chains));
    tcase_add_loop_test(tests, candidates, 0, 3);
    tcase_add_loop_test(tests, masks_equal_the_hosts, 0, COUNT(widths));
    tcase_add_loop_test(tests, copies_keep_bits, 0, COUNT(widths));
    tcase_add_loop_test(tests, norm_far_from_zero, 0, 4);
    tcase_add_loop_test(tests, not_a_number_stays, 0, 2 * COUNT(exponentials));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
