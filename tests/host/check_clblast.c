/* CLBlast as a library variant: right for all transposes, offsets and strides, empty sums included, and
 * without a buffer of its own: clCreateBuffer is interposed here, and a call of CLBlast's that does make
 * one is seen. CK_NOFORK: an OpenCL context does not survive a fork. */
#define _GNU_SOURCE
#include <dlfcn.h>

#include "tests/host/device_support.h"

#include <clblast_c.h>

static int created;

__attribute__((visibility("default"))) cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t bytes,
                                                            void *host, cl_int *code) {
    static cl_mem (*real)(cl_context, cl_mem_flags, size_t, void *, cl_int *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "clCreateBuffer");
    created++;
    return real(context, flags, bytes, host, code);
}

static wf_opencl *opencl;

static void open_plain(void) {
    opencl = open_device(false);
}

static void close_device(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

/* size {m, n, k}, flags TRANS_A, TRANS_B, ACCUMULATE: the launch that kernels/gemm.c writes for CLBlast,
 * written here once more, so that this suite stands alone. */
static int gemm_launches(const wf_problem *problem, const wf_candidate *candidate, wf_launch out[WF_LAUNCHES]) {
    out[0] = (wf_launch){.entry = "clblast_gemm", .library = true};
    for (int view = 0; view < 3; view++) wf_launch_view(&out[0], view);
    for (int i = 0; i < 3; i++) wf_launch_i64(&out[0], problem->size[i]);
    wf_launch_i32(&out[0], (problem->flags & WF_TRANS_A) != 0);
    wf_launch_i32(&out[0], (problem->flags & WF_TRANS_B) != 0);
    for (int view = 0; view < 3; view++) wf_launch_stride(&out[0], view, 0);
    wf_launch_f32(&out[0], problem->flags & WF_ACCUMULATE ? 1 : 0);
    return 1;
}

static int gemm_operands(const wf_problem *problem, wf_operand out[WF_OPERANDS]) {
    const int64_t m = problem->size[0], n = problem->size[1], k = problem->size[2];
    const bool ta = problem->flags & WF_TRANS_A, tb = problem->flags & WF_TRANS_B;
    out[0] = (wf_operand){"a", WF_READ, WF_F32, 2, {ta ? k : m, ta ? m : k}};
    out[1] = (wf_operand){"b", WF_READ, WF_F32, 2, {tb ? n : k, tb ? k : n}};
    out[2] = (wf_operand){"c", WF_UPDATE, WF_F32, 2, {m, n}};
    return 3;
}

static const wf_variant variants[] = {
    {.name = "clblast", .kind = WF_VARIANT_LIBRARY, .ok = scale_ok, .launches = gemm_launches}};
static const wf_operation gemm = {.name = "gemm_of_the_test", .operands = gemm_operands, .nvariants = 1, .variants = variants};

/* A matrix of small integers, so that sums are exact, in a wider buffer that starts at an odd element. */
typedef struct matrix {
    int64_t rows, columns, words;
    wf_bound_view view;
    float *data;
} matrix;

static matrix make_matrix(const wf_operand *operand, int64_t offset, int64_t pad, int seed) {
    matrix made = {.rows = operand->extent[0], .columns = operand->extent[1]};
    made.view.offset = offset;
    made.view.stride[0] = made.columns + pad;
    made.view.stride[1] = 1;
    made.words = offset + made.rows * made.view.stride[0] + 1;
    made.data = malloc(sizeof *made.data * (size_t)made.words);
    for (int64_t i = 0; i < made.words; i++) made.data[i] = (float)((i * 7 + seed) % 5 - 2);
    ck_ok(wf_memory_create(opencl, 4 * made.words, &made.view.memory));
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, made.view.memory, 0, 4 * made.words, made.data, NULL));
    return made;
}

static float element(const matrix *of, int64_t row, int64_t column, bool transposed) {
    return of->data[of->view.offset + (transposed ? column : row) * of->view.stride[0] + (transposed ? row : column)];
}

static void check_product(const wf_problem *problem, const matrix *a, const matrix *b, const matrix *c, const float *got) {
    const bool ta = problem->flags & WF_TRANS_A, tb = problem->flags & WF_TRANS_B;
    const int64_t step = problem->size[0] > 500 ? 41 : 1; /* some rows of the large ones */
    for (int64_t i = 0; i < problem->size[0]; i += step)
        for (int64_t j = 0; j < problem->size[1]; j++) {
            const int64_t at = c->view.offset + i * c->view.stride[0] + j;
            double sum = problem->flags & WF_ACCUMULATE ? (double)c->data[at] : 0;
            for (int64_t p = 0; p < problem->size[2]; p++) sum += (double)element(a, i, p, ta) * (double)element(b, p, j, tb);
            ck_assert_msg((double)got[at] == sum, "c[%d,%d] is %g, not %g (flags %x)", (int)i, (int)j, (double)got[at], sum,
                          (unsigned)problem->flags);
        }
}

/* Padding and what lies around C stays. */
static void check_around(const matrix *c, const float *got) {
    for (int64_t i = 0; i < c->words; i++) {
        const int64_t at = i - c->view.offset;
        const bool inside = at >= 0 && at / c->view.stride[0] < c->rows && at % c->view.stride[0] < c->columns;
        ck_assert(inside || got[i] == c->data[i]);
    }
}

static void multiply(int64_t m, int64_t n, int64_t k, uint32_t flags, int64_t offset, int64_t pad) {
    const wf_problem problem = {.size = {m, n, k}, .flags = flags};
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    wf_operand operands[WF_OPERANDS];
    wf_kernel *kernel = NULL;
    wf_event *event = NULL;
    wf_bound_view workspace = {.offset = opencl->device.align_bytes / 4};
    gemm_operands(&problem, operands);
    matrix a = make_matrix(&operands[0], offset, pad, 1), b = make_matrix(&operands[1], 2 * offset, 2 * pad, 3);
    matrix c = make_matrix(&operands[2], 3 * offset, pad, 2);
    ck_ok(wf_kernel_prepare_as(opencl, &gemm, &problem, &(wf_candidate){0}, NULL, "", &kernel));
    const int64_t bytes = opencl->device.align_bytes + wf_kernel_workspace_bytes(kernel);
    ck_ok(wf_memory_create(opencl, bytes, &workspace.memory));
    const int before = created;
    const wf_bound_view views[] = {a.view, b.view, c.view};
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 3, &workspace, run, &event));
    ck_ok(wf_event_wait(event));
    ck_assert_msg(created == before, "CLBlast made %d buffers", created - before);
    float *got = malloc(sizeof *got * (size_t)c.words);
    ck_ok(wf_queue_read(opencl, WF_QUEUE_COMPUTE, c.view.memory, 0, 4 * c.words, got, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    check_product(&problem, &a, &b, &c, got);
    check_around(&c, got);
    free(got);
    wf_event_release(event);
    wf_kernel_destroy(kernel);
    wf_memory_destroy(workspace.memory);
    for (int i = 0; i < 3; i++) {
        wf_memory_destroy(views[i].memory);
        free(i == 0 ? a.data : i == 1 ? b.data : c.data);
    }
}

START_TEST(products_are_exact_on_integers_and_make_no_buffer) {
    for (uint32_t form = 0; form < 8; form++) {
        const uint32_t flags = (form & 1 ? WF_TRANS_A : 0) | (form & 2 ? WF_TRANS_B : 0) | (form & 4 ? WF_ACCUMULATE : 0);
        multiply(17, 33, 9, flags, 1, 3);
        multiply(129, 65, 131, flags, 5, 1);
        multiply(64, 128, 64, flags, 0, 0);
    }
}
END_TEST

/* Above 1024^3 CLBlast's defaults copy the operands into the workspace. */
START_TEST(the_form_with_a_workspace_makes_no_buffer_either) {
    multiply(1025, 1031, 1030, WF_TRANS_A | WF_ACCUMULATE, 5, 1);
}
END_TEST

START_TEST(single_rows_and_empty_sums_are_taken) {
    multiply(1, 1, 1, 0, 0, 0);
    multiply(1, 7, 5, WF_TRANS_B, 3, 0);
    multiply(7, 1, 5, WF_TRANS_A, 3, 2);
    multiply(5, 7, 0, 0, 1, 2);
    multiply(5, 7, 0, WF_ACCUMULATE, 1, 2);
    multiply(0, 7, 3, 0, 1, 2);
    multiply(5, 0, 3, 0, 1, 2);
}
END_TEST

/* The large form needs a workspace on any device; without it, enqueue refuses. */
START_TEST(a_missing_workspace_is_refused) {
    const wf_problem problem = {.size = {2048, 2048, 2048}};
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    wf_kernel *kernel = NULL;
    wf_memory *memory = NULL;
    ck_ok(wf_kernel_prepare_as(opencl, &gemm, &problem, &(wf_candidate){0}, NULL, "", &kernel));
    if (wf_kernel_workspace_bytes(kernel) > 0) {
        ck_ok(wf_memory_create(opencl, 4 * 2048 * 2048, &memory));
        const wf_bound_view view = {memory, 0, {2048, 1}}, views[] = {view, view, view};
        ck_fails(WF_ERR_INTERNAL, wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, 3, NULL, run, NULL));
        wf_memory_destroy(memory);
    }
    wf_kernel_destroy(kernel);
}
END_TEST

/* The check above can fail: CLBlast without a temporary buffer makes one, and it is counted. */
START_TEST(a_buffer_of_clblasts_own_would_be_seen) {
    wf_memory *memory = NULL;
    size_t bytes = 0;
    enum { N = 1100 };
    ck_assert_int_eq(CLBlastSGemmTempBufferSize(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo, N, N, N, 0, N,
                                                0, N, 0, N, &opencl->queue[0], &bytes), CLBlastSuccess);
    ck_assert_msg(bytes > 0, "CLBlast needs no workspace for %d here: take more", N);
    ck_ok(wf_memory_create(opencl, 4 * N * N * 3, &memory));
    const int before = created;
    ck_assert_int_eq(CLBlastSgemm(CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo, N, N, N, 1, memory->mem, 0, N,
                                  memory->mem, N * N, N, 0, memory->mem, 2 * N * N, N, &opencl->queue[0], NULL),
                     CLBlastSuccess);
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    ck_assert_int_gt(created, before);
    wf_memory_destroy(memory);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("clblast");
    TCase *tests = tcase_create("clblast");
    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, open_plain, close_device);
    tcase_add_test(tests, products_are_exact_on_integers_and_make_no_buffer);
    tcase_add_test(tests, the_form_with_a_workspace_makes_no_buffer_either);
    tcase_add_test(tests, single_rows_and_empty_sums_are_taken);
    tcase_add_test(tests, a_missing_workspace_is_refused);
    tcase_add_test(tests, a_buffer_of_clblasts_own_would_be_seen);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
