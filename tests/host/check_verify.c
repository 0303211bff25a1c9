/* The checker of kernels, checked: on a kernel of the test's own it accepts what is right and finds each
 * seeded fault; and its inputs suit the operations. CK_NOFORK: an OpenCL context does not survive a fork. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "host/run/verify.h"
#include "tests/host/device_support.h"

/* A kernel that is told how often it ran differs from run to run on every device: launches are counted
 * on their way to the driver, and the count is the last argument. */
enum { LAUNCH_NUMBER = 8 };
static cl_int launches;

__attribute__((visibility("default"))) cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims,
                                                                    const size_t *at, const size_t *global,
                                                                    const size_t *local, cl_uint nwait,
                                                                    const cl_event *wait, cl_event *event) {
    static cl_int (*real)(cl_command_queue, cl_kernel, cl_uint, const size_t *, const size_t *, const size_t *, cl_uint,
                          const cl_event *, cl_event *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clEnqueueNDRangeKernel");
    launches++;
    clSetKernelArg(kernel, LAUNCH_NUMBER, sizeof launches, &launches);
    return real(queue, kernel, dims, at, global, local, nwait, wait, event);
}

/* out[r,c] = 3 in[r,c] + 1, size {rows, n}; FAULT picks what is wrong. */
static const char source[] =
    "__kernel __attribute__((reqd_work_group_size(8, 8, 1)))\n"
    "void affine(__global float *in, long in_at, long in_row, __global float *out, long out_at, long out_row, long rows,\n"
    "            long n, int launch_number) {\n"
    "    const long c = get_global_id(0), r = get_global_id(1);\n"
    "    if (r >= rows || c >= n) return;\n"
    "    float v = 3 * in[in_at + r * in_row + c] + 1;\n"
    "    __global float *to = &out[out_at + r * out_row + c];\n"
    "#if FAULT == 1\n"
    "    if (r == rows - 1 && c == n - 1) v *= 1.0001f;\n"
    "#elif FAULT == 2\n"
    "    if (r == rows - 1 && c == n - 1) to[1] = v;\n"
    "#elif FAULT == 3\n"
    "    if (r == 0 && c == n - 1) return;\n"
    "#elif FAULT == 4\n"
    "    v += 0 * in[in_at + r * in_row + c + 1];\n"
    "#elif FAULT == 5\n"
    "    in[in_at] += 1;\n"
    "#elif FAULT == 6\n"
    "    v = 0;\n"
    "#elif FAULT == 7\n"
    "    v *= 1 + (float)launch_number * 1e-6f;\n"
    "#elif FAULT == 8\n"
    "    to = &out[out_at + r * n + c];\n"
    "#elif FAULT == 9\n"
    "    to = &out[r * out_row + c];\n"
    "#elif FAULT == 11\n"
    "    v = no_such_name;\n"
    "#elif FAULT == 10\n"
    "    if (r == 0 && c == 0) to[-1] = v;\n"
    "#endif\n"
    "    *to = v;\n"
    "}\n";

static int affine_launches(const wf_problem *problem, const wf_candidate *candidate, wf_launch out[WF_LAUNCHES]) {
    const wf_argument arguments[] = {
        {WF_ARG_MEMORY, 0, 0, {0}}, {WF_ARG_OFFSET, 0, 0, {0}}, {WF_ARG_STRIDE, 0, 0, {0}},
        {WF_ARG_MEMORY, 1, 0, {0}}, {WF_ARG_OFFSET, 1, 0, {0}}, {WF_ARG_STRIDE, 1, 0, {0}},
        {WF_ARG_I64, 0, 0, {.i = problem->size[0]}}, {WF_ARG_I64, 0, 0, {.i = problem->size[1]}},
        {WF_ARG_I32, 0, 0, {.i = 0}}};
    out[0] = (wf_launch){.entry = "affine", .dims = 2, .local = {8, 8}, .narguments = 9};
    out[0].global[0] = (problem->size[1] + 7) / 8 * 8;
    out[0].global[1] = (problem->size[0] + 7) / 8 * 8;
    memcpy(out[0].arguments, arguments, sizeof arguments);
    return 1;
}

static int affine_operands(const wf_problem *problem, wf_operand out[WF_OPERANDS]) {
    out[0] = (wf_operand){"in", WF_READ, WF_F32, 2, {problem->size[0], problem->size[1]}};
    out[1] = (wf_operand){"out", WF_WRITE, WF_F32, 2, {problem->size[0], problem->size[1]}};
    return 2;
}

static void affine_reference(const wf_problem *problem, const wf_tensor *operands, const wf_run_number *run) {
    const double *in = operands[0].data;
    double *out = operands[1].data;
    for (int64_t r = 0; r < problem->size[0]; r++)
        for (int64_t c = 0; c < problem->size[1]; c++)
            out[r * operands[1].stride[0] + c] = 3 * in[r * operands[0].stride[0] + c] + 1;
}

/* real {bound}: how much is allowed. */
static void affine_tolerance(const wf_problem *problem, const wf_tensor *operands, int operand, double *bound) {
    for (int64_t i = 0; i < problem->size[0] * problem->size[1]; i++) bound[i] = problem->real[0];
}

static const wf_variant variants[] = {
    {.name = "simple", .kind = WF_VARIANT_KERNEL, .source = "affine.cl", .ok = scale_ok, .launches = affine_launches}};
static const wf_operation affine = {.name = "affine",
                                    .operands = affine_operands,
                                    .reference = affine_reference,
                                    .tolerance = affine_tolerance,
                                    .nvariants = 1,
                                    .variants = variants};

static wf_opencl *opencl;

static void open_plain(void) {
    opencl = open_device(false);
}

static void close_device(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

static wf_verdict verdict_of(int64_t rows, int64_t n, double bound, const char *options) {
    wf_problem problem = {.size = {rows, n}, .real = {bound}};
    wf_verdict verdict = {0};
    ck_ok(wf_verify_operation(opencl, &affine, &problem, &(wf_candidate){0}, source, options, 7, &verdict));
    return verdict;
}

START_TEST(right_kernels_pass) {
    static const int64_t sizes[][2] = {{1, 1}, {1, 7}, {7, 1}, {8, 8}, {9, 17}, {0, 5}, {5, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const wf_verdict verdict = verdict_of(sizes[i][0], sizes[i][1], 4e-6, "-DFAULT=0");
        ck_assert_msg(verdict.ok && !verdict.skipped, "%s", verdict.sentence);
        ck_assert(verdict.worst <= 1);
    }
}
END_TEST

START_TEST(seeded_faults_are_found) {
    static const struct {
        const char *options, *says;
        double bound;
    } cases[] = {
        {"-DFAULT=1", "out[8,16]", 4e-6}, {"-DFAULT=2", "may not be written", 4e-6}, {"-DFAULT=3", "not written", 4e-6},
        {"-DFAULT=4", "nan", 4e-6},       {"-DFAULT=5", "operand in", 4e-6},         {"-DFAULT=6", "are zero", 12},
        {"-DFAULT=8", "", 4e-6},          {"-DFAULT=9", "", 4e-6},                    {"-DFAULT=10", "may not be written", 4e-6},
        {"-DFAULT=11", "does not build", 4e-6}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const wf_verdict verdict = verdict_of(9, 17, cases[i].bound, cases[i].options);
        ck_assert_msg(!verdict.ok && !verdict.skipped, "%s passes", cases[i].options);
        ck_assert_msg(strstr(verdict.sentence, cases[i].says) != NULL, "%s: %s", cases[i].options, verdict.sentence);
    }
}
END_TEST

START_TEST(kernels_that_differ_from_run_to_run_are_found) {
    launches = 0;
    const wf_verdict verdict = verdict_of(31, 63, 1e-3, "-DFAULT=7");
    ck_assert_int_eq(launches, 2);
    ck_assert(!verdict.ok);
    ck_assert_msg(strstr(verdict.sentence, "two runs"), "%s", verdict.sentence);
}
END_TEST

START_TEST(candidates_beyond_the_device_are_skipped) {
    wf_problem problem = scale_problem(8);
    wf_verdict verdict = {0};
    problem.real[0] = (double)(wf_opencl_device(opencl)->local_bytes + 4);
    ck_ok(wf_verify_operation(opencl, &scale_operation, &problem, &(wf_candidate){.value = {32}}, scale_source,
                              "-DFACTOR=3 -DGROUP=32", 7, &verdict));
    ck_assert(verdict.skipped && verdict.ok);
    ck_assert_msg(strstr(verdict.sentence, "local memory") != NULL, "%s", verdict.sentence);
}
END_TEST

START_TEST(the_same_seed_gives_the_same_case) {
    const wf_problem problem = {.size = {5, 3}, .real = {1}};
    wf_case *a = NULL, *b = NULL, *c = NULL;
    ck_ok(wf_case_create(&affine, &problem, 1, &a));
    ck_ok(wf_case_create(&affine, &problem, 1, &b));
    ck_ok(wf_case_create(&affine, &problem, 2, &c));
    ck_assert_mem_eq(a->before[0].data, b->before[0].data, 15 * sizeof(double));
    ck_assert(memcmp(a->before[0].data, c->before[0].data, 15 * sizeof(double)) != 0);
    wf_case_destroy(a);
    wf_case_destroy(b);
    wf_case_destroy(c);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("verify");
    TCase *tests = tcase_create("verify");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, open_plain, close_device);
    tcase_add_test(tests, right_kernels_pass);
    tcase_add_test(tests, seeded_faults_are_found);
    tcase_add_test(tests, kernels_that_differ_from_run_to_run_are_found);
    tcase_add_test(tests, candidates_beyond_the_device_are_skipped);
    tcase_add_test(tests, the_same_seed_gives_the_same_case);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
