/* wf_opencl_warm leaves nothing to compile: after it, running the real problems adds no file to PoCL's
 * cache (a private, empty one). On other drivers only that warming works and is not counted. */
#define _GNU_SOURCE
#include <ftw.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/host/device_support.h"
#include "tests/scratch.h"

static wf_opencl *opencl;
static char folder[512], programs[512];
static int objects;

static void open_plain(void) {
    opencl = open_device(false);
}

static void close_device(void) {
    wf_opencl_destroy(opencl);
    opencl = NULL;
}

static int count_object(const char *path, const struct stat *status, int type, struct FTW *at) {
    const size_t length = strlen(path);
    objects += type == FTW_F && length > 3 && strcmp(path + length - 3, ".so") == 0;
    return 0;
}

/* Compiled objects in PoCL's cache. */
static int compiled(void) {
    objects = 0;
    nftw(folder, count_object, 16, FTW_PHYS);
    return objects;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *at) {
    return remove(path);
}

static int remove_inside(const char *path, const struct stat *status, int type, struct FTW *at) {
    return at->level ? remove(path) : 0;
}

/* Runs a prepared kernel on zeros in one buffer, operands dense one after the other. */
static void run_dense(wf_kernel *kernel) {
    const wf_run_number run[WF_RUN_VALUES] = {{0}};
    wf_bound_view views[WF_OPERANDS] = {{0}}, workspace = {0};
    wf_memory *memory = NULL;
    int64_t words = 0;
    for (int i = 0; i < kernel->noperands; i++) {
        int64_t count = 1;
        for (int d = kernel->operands[i].ndim - 1; d >= 0; count *= kernel->operands[i].extent[d--])
            views[i].stride[d] = count;
        views[i].offset = words;
        words += (count + 63) / 64 * 64;
    }
    workspace.offset = words;
    words += (kernel->workspace_bytes + 3) / 4;
    ck_ok(wf_memory_create(opencl, 4 * words, &memory));
    void *zeros = calloc((size_t)words, 4);
    ck_ok(wf_queue_write(opencl, WF_QUEUE_COMPUTE, memory, 0, 4 * words, zeros, NULL));
    for (int i = 0; i < kernel->noperands; i++) views[i].memory = memory;
    workspace.memory = memory;
    ck_ok(wf_kernel_enqueue(kernel, WF_QUEUE_COMPUTE, views, kernel->noperands, &workspace, run, NULL));
    ck_ok(wf_queue_finish(opencl, WF_QUEUE_COMPUTE));
    wf_memory_destroy(memory);
    free(zeros);
}

static const char *const cases[] = {"gemm:f32:m200n136k520:nn.bias", "gemm:f32:m300n257k131:nt.accumulate",
                                    "norm:f32:rows500n300:eps=1e-5", "sum_rows:f32:groups1per300n500",
                                    "fill:f32:rows300n400:value=1"};

START_TEST(warmed_kernels_compile_no_more) {
    enum { MOST = 32 };
    wf_kernel *kernels[MOST];
    int n = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        wf_problem problem;
        ck_ok(wf_problem_parse(cases[i], &problem));
        for (int variant = 0; variant < wf_operations[problem.op]->nvariants && n < MOST; variant++) {
            wf_candidate candidate;
            wf_candidate_default(&problem, variant, &candidate);
            const wf_status status = wf_kernel_prepare(opencl, &problem, &candidate, &kernels[n]);
            ck_assert_msg(status == WF_OK || status == WF_ERR_UNSUPPORTED, "%s", wf_last_error());
            n += status == WF_OK;
        }
    }
    ck_assert_int_ge(n, 6);
    const int64_t bytes = wf_opencl_allocated_bytes(opencl), peak = wf_opencl_peak_bytes(opencl);
    const int cold = compiled();
    ck_ok(wf_opencl_warm(opencl));
    const int warm = compiled();
    ck_assert_int_eq(wf_opencl_allocated_bytes(opencl), bytes);
    ck_assert_int_eq(wf_opencl_peak_bytes(opencl), peak);
    for (int i = 0; i < n; i++) {
        ck_assert(kernels[i]->warmed);
        run_dense(kernels[i]);
        ck_assert_msg(compiled() == warm, "%s compiled again", kernels[i]->prepared[0].launch.entry);
        wf_kernel_destroy(kernels[i]);
    }
    if (strstr(opencl->device.platform, "Portable")) ck_assert_int_gt(warm, cold);
}
END_TEST

START_TEST(alike_kernels_are_warmed_once) {
    wf_kernel *kernels[2];
    for (int i = 0; i < 2; i++) {
        wf_problem problem;
        wf_candidate candidate;
        ck_ok(wf_problem_parse(i ? "fill:f32:rows428n400:value=1" : "fill:f32:rows300n272:value=1", &problem));
        wf_candidate_default(&problem, 0, &candidate);
        ck_ok(wf_kernel_prepare(opencl, &problem, &candidate, &kernels[i]));
    }
    ck_ok(wf_opencl_warm(opencl));
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(kernels[i]->small.size[0], 44);
        ck_assert_int_eq(kernels[i]->small.size[1], 16);
        wf_kernel_destroy(kernels[i]);
    }
}
END_TEST

/* Runs a fill whose program the cache gives or not; returns how many objects PoCL has then. */
static int fill_from_cache(bool kept) {
    wf_problem problem;
    wf_candidate candidate;
    wf_kernel *kernel = NULL;
    ck_ok(wf_opencl_create(&(wf_opencl_options){.cache = "on", .cache_dir = programs}, &opencl));
    ck_ok(wf_problem_parse("fill:f32:rows300n400:value=1", &problem));
    wf_candidate_default(&problem, 0, &candidate);
    ck_ok(wf_kernel_prepare(opencl, &problem, &candidate, &kernel));
    ck_assert_int_eq((int)opencl->loaded, kept);
    ck_ok(wf_opencl_warm(opencl));
    run_dense(kernel);
    wf_kernel_destroy(kernel);
    close_device();
    return compiled();
}

/* Weft's programs and the driver's machine code may go one without the other. PoCL remembers machine code that it
 * has loaded, so what is gone is looked for by a process of its own. */
START_TEST(kept_programs_find_their_machine_code_or_compile_it) {
    const bool intermediate = opencl->kept.intermediate;
    int status = 0;
    close_device();
    if (!intermediate) return;
    nftw(folder, remove_inside, 16, FTW_DEPTH | FTW_PHYS);
    ck_assert_ptr_nonnull(mkdtemp(scratch_template(programs, sizeof programs, "programs")));
    ck_assert_int_eq(fill_from_cache(false), 1);
    ck_assert_int_eq(fill_from_cache(true), 1);
    nftw(folder, remove_inside, 16, FTW_DEPTH | FTW_PHYS);
    ck_assert_int_eq(compiled(), 0);
    const pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "check_warm", folder, programs, (char *)NULL);
        _exit(99);
    }
    ck_assert_int_eq((int)waitpid(child, &status, 0), (int)child);
    ck_assert_int_eq(status, 0);
    nftw(programs, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
END_TEST

START_TEST(machine_code_that_is_gone_is_compiled) {
    close_device();
    ck_assert_int_eq(compiled(), 0);
    ck_assert_int_eq(fill_from_cache(true), 1);
}
END_TEST

int main(int argc, char **argv) {
    const bool is_child = argc == 3;
    if (is_child) snprintf(folder, sizeof folder, "%s", argv[1]), snprintf(programs, sizeof programs, "%s", argv[2]);
    else if (!mkdtemp(scratch_template(folder, sizeof folder, "warm"))) return 99;
    setenv("POCL_CACHE_DIR", folder, 1); /* before the driver's first call */
    Suite *suite = suite_create("warm");
    TCase *tests = tcase_create("warm");
    tcase_set_timeout(tests, 240);
    tcase_add_checked_fixture(tests, open_plain, close_device);
    if (is_child) tcase_add_test(tests, machine_code_that_is_gone_is_compiled);
    if (!is_child) tcase_add_test(tests, warmed_kernels_compile_no_more);
    if (!is_child) tcase_add_test(tests, alike_kernels_are_warmed_once);
    if (!is_child) tcase_add_test(tests, kept_programs_find_their_machine_code_or_compile_it);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    if (!is_child) nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return failed ? 1 : 0;
}
