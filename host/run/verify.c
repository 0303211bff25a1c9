/* One candidate of one problem against the f64 reference, on this device.
 *
 * Each operand lies in a buffer of its own between guard words, once with odd offsets and padded rows
 * (the padding is guard words too), once dense and aligned. Guard words are NaNs, so what is read from
 * outside a view poisons results, and what is written there is seen. Outputs are poisoned with another
 * NaN. The padded form runs twice and must give the same bits. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/run/verify.h"

enum { GUARD = 32 };  /* elements before and after a view, at least; 128 bytes */
static const uint32_t guard_word = 0x7fc5a5a5u, poison_word = 0x7fcbad00u;

/* One operand's buffer and what it is filled with. */
typedef struct image {
    wf_memory *memory;
    wf_bound_view view;
    int64_t words;      /* of the buffer */
    uint32_t *start;    /* what is written into it before each run */
    uint32_t *got[2];   /* what is there after the first and second run */
} image;

typedef struct bench {
    wf_opencl *opencl;
    const wf_case *test;
    wf_kernel *kernel;
    image image[WF_OPERANDS];
    image workspace;
} bench;

/* ---- views over words ------------------------------------------------------------------------------------- */

/* Dense index -> coordinates. */
static void coordinates(const wf_operand *operand, int64_t index, int64_t at[WF_DIMS]) {
    for (int d = operand->ndim - 1; d >= 0; d--) {
        at[d] = index % operand->extent[d];
        index /= operand->extent[d];
    }
}

/* Dense index -> word of the image. */
static int64_t word_of(const image *one, const wf_operand *operand, int64_t index) {
    int64_t at[WF_DIMS] = {0}, word = one->view.offset;
    coordinates(operand, index, at);
    for (int d = 0; d < operand->ndim; d++) word += at[d] * one->view.stride[d];
    return word;
}

static uint32_t word_from(const wf_case *test, int operand, int64_t index) {
    union {
        float f;
        int32_t i;
        uint32_t u;
    } word;
    if (test->operand[operand].access == WF_WRITE) return poison_word;
    if (test->operand[operand].dtype == WF_I32) word.i = ((const int32_t *)test->before[operand].data)[index];
    else word.f = (float)((const double *)test->before[operand].data)[index];
    return word.u;
}

static double real_of(uint32_t word) {
    float f;
    memcpy(&f, &word, sizeof f);
    return (double)f;
}

/* Offset and strides: padded rows and an odd offset, or dense and aligned. */
static void arrange(image *one, const wf_operand *operand, int64_t count, bool padded, wf_stream *stream) {
    int64_t stride = 1;
    for (int d = operand->ndim - 1; d >= 0; d--) {
        one->view.stride[d] = stride;
        stride *= operand->extent[d];
        if (padded && d > 0) stride += wf_stream_range(stream, 1, 4) | (int64_t)(stride % 2 == 0);
    }
    one->view.offset = GUARD + (padded ? 2 * wf_stream_range(stream, 0, 7) + 1 : 0);
    one->words = one->view.offset + (count > 0 ? stride : 0) + GUARD;
}

static wf_status make_image(wf_opencl *opencl, image *one) {
    const size_t bytes = sizeof(uint32_t) * (size_t)one->words;
    one->start = malloc(bytes);
    one->got[0] = malloc(bytes);
    one->got[1] = malloc(bytes);
    if (!one->start || !one->got[0] || !one->got[1])
        return wf_fail(WF_ERR_MEMORY, "out of host memory to check a buffer of %zu bytes", bytes);
    for (int64_t i = 0; i < one->words; i++) one->start[i] = guard_word;
    TRY(wf_memory_create(opencl, (int64_t)bytes, &one->memory));
    one->view.memory = one->memory;
    return WF_OK;
}

static wf_status make_images(bench *all, bool padded, wf_stream *stream) {
    const wf_case *test = all->test;
    for (int i = 0; i < test->n; i++) {
        arrange(&all->image[i], &test->operand[i], test->count[i], padded, stream);
        TRY(make_image(all->opencl, &all->image[i]));
        for (int64_t j = 0; j < test->count[i]; j++)
            all->image[i].start[word_of(&all->image[i], &test->operand[i], j)] = word_from(test, i, j);
    }
    /* A library's workspace must start where a sub-buffer may. */
    const int64_t aligned = wf_opencl_device(all->opencl)->align_bytes / (int64_t)sizeof(uint32_t);
    const int64_t bytes = wf_kernel_workspace_bytes(all->kernel);
    all->workspace.view.offset = aligned;
    all->workspace.words = aligned + (bytes + 3) / 4 + GUARD;
    return make_image(all->opencl, &all->workspace);
}

static void destroy_image(image *one) {
    wf_memory_destroy(one->memory);
    free(one->start);
    free(one->got[0]);
    free(one->got[1]);
    *one = (image){0};
}

static void destroy_images(bench *all) {
    for (int i = 0; i < all->test->n; i++) destroy_image(&all->image[i]);
    destroy_image(&all->workspace);
}

/* ---- running ------------------------------------------------------------------------------------------------ */

static wf_status upload(bench *all, const image *one) {
    return wf_queue_write(all->opencl, WF_QUEUE_COMPUTE, one->memory, 0, 4 * one->words, one->start, NULL);
}

static wf_status download(bench *all, const image *one, int round) {
    return wf_queue_read(all->opencl, WF_QUEUE_COMPUTE, one->memory, 0, 4 * one->words, one->got[round], NULL);
}

static wf_status run(bench *all, int round, double *seconds) {
    wf_bound_view views[WF_OPERANDS];
    for (int i = 0; i < all->test->n; i++) {
        views[i] = all->image[i].view;
        TRY(upload(all, &all->image[i]));
    }
    TRY(upload(all, &all->workspace));
    TRY(wf_queue_finish(all->opencl, WF_QUEUE_COMPUTE));
    const double start = wf_clock_s();
    TRY(wf_kernel_enqueue(all->kernel, WF_QUEUE_COMPUTE, views, all->test->n, &all->workspace.view, all->test->run, NULL));
    TRY(wf_queue_finish(all->opencl, WF_QUEUE_COMPUTE));
    *seconds = wf_clock_s() - start;
    for (int i = 0; i < all->test->n; i++) TRY(download(all, &all->image[i], round));
    TRY(download(all, &all->workspace, round));
    return wf_queue_finish(all->opencl, WF_QUEUE_COMPUTE);
}

/* ---- judging ------------------------------------------------------------------------------------------------ */

static void refuse(wf_verdict *verdict, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void refuse(wf_verdict *verdict, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(verdict->sentence, sizeof verdict->sentence, format, arguments);
    va_end(arguments);
    verdict->ok = false;
}

/* "c[3,17]" */
static void place(const wf_operand *operand, int64_t index, char *out, size_t out_bytes) {
    int64_t at[WF_DIMS] = {0};
    int n = snprintf(out, out_bytes, "%s[", operand->name);
    coordinates(operand, index, at);
    for (int d = 0; d < operand->ndim; d++)
        n += snprintf(out + n, out_bytes - (size_t)n, d ? ",%lld" : "%lld", (long long)at[d]);
    snprintf(out + n, out_bytes - (size_t)n, "]");
}

/* Guard words, padding and operands that are only read: untouched? */
static bool untouched(const image *one, const wf_operand *operand, wf_verdict *verdict) {
    for (int64_t i = 0; i < one->words; i++) {
        const bool may_change = operand->access != WF_READ && one->start[i] != guard_word;
        if (may_change || one->got[0][i] == one->start[i]) continue;
        refuse(verdict, "operand %s: word %lld of %lld may not be written (the view starts at %lld), and holds 0x%08x",
               operand->name, (long long)i, (long long)one->words, (long long)one->view.offset, (unsigned)one->got[0][i]);
        return false;
    }
    return true;
}

static bool workspace_untouched(const bench *all, wf_verdict *verdict) {
    const image *one = &all->workspace;
    const int64_t end = one->view.offset + (wf_kernel_workspace_bytes(all->kernel) + 3) / 4;
    for (int64_t i = 0; i < one->words; i++)
        if ((i < one->view.offset || i >= end) && one->got[0][i] != guard_word) {
            refuse(verdict, "word %lld was overwritten, outside the workspace's words %lld to %lld", (long long)i,
                   (long long)one->view.offset, (long long)end);
            return false;
        }
    return true;
}

static bool same_bits(const image *one, const wf_operand *operand, int64_t count, wf_verdict *verdict) {
    char name[96];
    for (int64_t j = 0; j < count; j++) {
        const int64_t word = word_of(one, operand, j);
        if (one->got[0][word] == one->got[1][word]) continue;
        place(operand, j, name, sizeof name);
        refuse(verdict, "%s differs between two runs: %.9g and %.9g", name, real_of(one->got[0][word]), real_of(one->got[1][word]));
        return false;
    }
    return true;
}

/* A word or an element of the reference, as the operand's type says, in f64. */
static double number_of(const wf_operand *operand, uint32_t word) {
    return operand->dtype == WF_I32 ? (double)(int32_t)word : real_of(word);
}

static double reference_of(const wf_case *test, int operand, int64_t index) {
    const void *data = test->after[operand].data;
    return test->operand[operand].dtype == WF_I32 ? (double)((const int32_t *)data)[index] : ((const double *)data)[index];
}

/* |got - reference| / bound: infinite for a NaN where none belongs. */
static double ratio(double got, double reference, double bound) {
    if (got == reference || (isnan(got) && isnan(reference))) return 0;
    const double difference = fabs(got - reference);
    return isfinite(difference) && bound > 0 ? difference / bound : INFINITY;
}

/* One output against the reference. */
static void judge(const bench *all, int operand, const double *bound, wf_verdict *verdict) {
    const wf_case *test = all->test;
    const wf_operand *what = &test->operand[operand];
    const image *one = &all->image[operand];
    int64_t zeros = 0;
    for (int64_t j = 0; j < test->count[operand]; j++) {
        const uint32_t word = one->got[0][word_of(one, what, j)];
        const double got = number_of(what, word), reference = reference_of(test, operand, j);
        const double worst = ratio(got, reference, bound[j]);
        char name[96];
        zeros += got == 0 && fabs(reference) > bound[j] / 8; /* 0 may stand for the rounding of a 0 */
        if (worst <= verdict->worst) continue;
        verdict->worst = worst;
        place(what, j, name, sizeof name);
        snprintf(verdict->sentence, sizeof verdict->sentence, "worst is %s: got %.9g%s, reference %.9g, bound %.3g (%.3g of it)",
                 name, got, word == poison_word ? " (not written)" : "", reference, bound[j], worst);
        if (!(worst <= 1)) verdict->ok = false;
    }
    if (verdict->ok && 10 * zeros > 3 * test->count[operand])
        refuse(verdict, "%lld of %lld elements of %s are zero where the reference is not", (long long)zeros,
               (long long)test->count[operand], what->name);
}

static wf_status judge_all(const bench *all, wf_verdict *verdict) {
    const wf_case *test = all->test;
    for (int i = 0; i < test->n; i++)
        if (!untouched(&all->image[i], &test->operand[i], verdict)) return WF_OK;
    if (!workspace_untouched(all, verdict)) return WF_OK;
    for (int i = 0; i < test->n && verdict->ok; i++) {
        if (test->operand[i].access == WF_READ) continue;
        double *bound = malloc(sizeof *bound * (size_t)(test->count[i] + 1));
        if (!bound) return wf_fail(WF_ERR_MEMORY, "out of host memory for the bounds of %s", test->operand[i].name);
        if (test->operation->tolerance_run)
            test->operation->tolerance_run(test->problem, test->after, test->run, i, bound);
        else test->operation->tolerance(test->problem, test->after, i, bound);
        judge(all, i, bound, verdict);
        free(bound);
    }
    return WF_OK;
}

/* The kernel in one arrangement of its operands, run once or twice. */
static wf_status try_arrangement(bench *all, bool padded, wf_stream *stream, wf_verdict *verdict) {
    wf_status status = WF_OK;
    TRY_GOTO(make_images(all, padded, stream), destroy);
    TRY_GOTO(run(all, 0, &verdict->seconds), destroy);
    if (padded) TRY_GOTO(run(all, 1, &verdict->seconds), destroy);
    TRY_GOTO(judge_all(all, verdict), destroy);
    for (int i = 0; padded && verdict->ok && i < all->test->n; i++)
        if (all->test->operand[i].access != WF_READ)
            same_bits(&all->image[i], &all->test->operand[i], all->test->count[i], verdict);
destroy:
    if (status != WF_OK) wf_queue_settle(all->opencl, WF_QUEUE_COMPUTE);
    destroy_images(all);
    return status;
}

static wf_status verify_prepared(bench *all, uint64_t seed, wf_verdict *verdict) {
    wf_stream stream = {seed ^ 0x1a10u};
    verdict->ok = true;
    TRY(try_arrangement(all, true, &stream, verdict));
    if (verdict->ok) TRY(try_arrangement(all, false, &stream, verdict));
    return WF_OK;
}

/* A candidate that cannot run here is skipped; one that does not build is wrong. */
static wf_status not_prepared(wf_status status, wf_verdict *verdict) {
    if (status != WF_ERR_UNSUPPORTED && status != WF_ERR_DEVICE) return status;
    verdict->skipped = status == WF_ERR_UNSUPPORTED;
    verdict->ok = verdict->skipped;
    snprintf(verdict->sentence, sizeof verdict->sentence, "%s", wf_last_error());
    return WF_OK;
}

wf_status wf_verify_operation(wf_opencl *opencl, const wf_operation *operation, const wf_problem *problem,
                              const wf_candidate *candidate, const char *text, const char *options, uint64_t seed,
                              wf_verdict *out) {
    wf_verdict verdict = {0};
    wf_case *test = NULL;
    bench all = {.opencl = opencl};
    wf_status status =
        options ? wf_kernel_prepare_as(opencl, operation, problem, candidate, text, options, &all.kernel)
                : wf_kernel_prepare(opencl, problem, candidate, &all.kernel);
    if (status != WF_OK) {
        TRY(not_prepared(status, &verdict));
        *out = verdict;
        return WF_OK;
    }
    TRY_GOTO(wf_case_create(operation, problem, seed, &test), destroy);
    all.test = test;
    TRY_GOTO(verify_prepared(&all, seed, &verdict), destroy);
    *out = verdict;
destroy:
    wf_case_destroy(test);
    wf_kernel_destroy(all.kernel);
    return status;
}

wf_status wf_verify_problem(wf_opencl *opencl, const wf_problem *problem, const wf_candidate *candidate, uint64_t seed,
                            wf_verdict *out) {
    TRY(wf_problem_check(problem));
    return wf_verify_operation(opencl, wf_operations[problem->op], problem, candidate, NULL, NULL, seed, out);
}
