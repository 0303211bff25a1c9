/* bench_peak.c: the device's peaks: every form is tried, the fastest of each peak is kept; see bench.h.
 * Arrays are several times larger than caches, and a run of multiply-adds is long beside its launch. */
#include <math.h>
#include <stdlib.h>

#include "host/run/bench.h"

#define TRIAL_S 4e-3
enum { TRIALS = 2, ITEMS_PER_UNIT_CPU = 16, ITEMS_PER_UNIT_GPU = 8192, FIRST_ROUNDS = 64 };
#define ARRAY_BYTES_UNIFIED (64ll << 20)
#define ARRAY_BYTES (256ll << 20)

typedef struct form {
    wf_peak_form form;
    wf_problem problem;
    wf_bench_data *data;
    wf_bench_kernel *kernel;
} form;

struct wf_bench_peaks {
    form best[WF_PEAKS];
};

static void close_form(form *f) {
    wf_bench_kernel_destroy(f->kernel);
    wf_bench_data_destroy(f->data);
    *f = (form){.form = f->form};
}

static wf_status open_form(wf_opencl *opencl, const wf_peak_form *which, int64_t n, int64_t rounds, form *f) {
    char options[96];
    const wf_candidate candidate = {0};
    const wf_operation *const operation = wf_peak_operation(which->peak);
    *f = (form){.form = *which};
    wf_peak_problem(which, n, rounds, &f->problem, options, sizeof options);
    TRY(wf_bench_data_create(opencl, operation, &f->problem, &f->data));
    return wf_bench_kernel_create(opencl, f->data, &candidate, options, &f->kernel);
}

static int64_t elements(const wf_device *device, const wf_peak_form *form) {
    const bool cpu = device->type == WF_DEVICE_CPU;
    if (form->peak == WF_PEAK_LAUNCH) return 1;
    if (form->peak == WF_PEAK_FMA) return (int64_t)device->compute_units * (cpu ? ITEMS_PER_UNIT_CPU : ITEMS_PER_UNIT_GPU);
    int64_t bytes = device->host_unified ? ARRAY_BYTES_UNIFIED : ARRAY_BYTES;
    if (bytes > device->available_bytes / 8) bytes = device->available_bytes / 8;
    if (bytes > device->max_alloc_bytes) bytes = device->max_alloc_bytes;
    return bytes / (int64_t)sizeof(float);
}

/* Seconds of the best of TRIALS times `times` runs. The first run builds and is not counted. */
static wf_status try_form(const form *f, int64_t times, double *best_out) {
    const wf_bench_item item = wf_bench_kernel_item(f->kernel);
    TRY(item.run(item.self, 1));
    for (int i = 0; i < TRIALS; i++) {
        const double start = wf_clock_s();
        TRY(item.run(item.self, times));
        const double seconds = (wf_clock_s() - start) / (double)times;
        if (i == 0 || seconds < *best_out) *best_out = seconds;
    }
    return WF_OK;
}

/* `one` takes the place of the best so far, or is closed. */
static void keep_faster(form *one, double rate, form *best, double *best_rate) {
    if (rate > *best_rate) {
        *best_rate = rate;
        close_form(best);
        *best = *one;
    } else {
        close_form(one);
    }
    *one = (form){0};
}

/* Multiply-adds are made more until they take long enough. */
static wf_status settle(wf_opencl *opencl, const wf_peak_form *which, form *f, double *seconds_out) {
    const int64_t n = elements(wf_opencl_device(opencl), which);
    for (int64_t rounds = FIRST_ROUNDS;; rounds *= 4) {
        TRY(open_form(opencl, which, n, rounds, f));
        TRY(try_form(f, 1, seconds_out));
        if (which->peak != WF_PEAK_FMA || *seconds_out >= TRIAL_S || rounds > INT32_MAX / 8) return WF_OK;
        close_form(f);
    }
}

/* Flops, or bytes, or one launch. */
static double work_of(const form *f) {
    const double work = wf_peak_flops(&f->form, &f->problem) + wf_peak_bytes(&f->form, &f->problem);
    return work > 0 ? work : 1;
}

wf_status wf_bench_peaks_create(wf_opencl *opencl, wf_bench_peaks **out) {
    const wf_peak_form *forms;
    const int n = wf_peak_forms(wf_opencl_device(opencl), &forms);
    double best[WF_PEAKS] = {0};
    form one = {0};
    wf_status status = WF_OK;
    wf_bench_peaks *const peaks = calloc(1, sizeof *peaks);
    if (!peaks) return wf_fail(WF_ERR_MEMORY, "no host memory for the device's peaks");
    for (int i = 0; i < n; i++) {
        double seconds = 1;
        TRY_GOTO(settle(opencl, &forms[i], &one, &seconds), destroy);
        const wf_peak peak = forms[i].peak;
        keep_faster(&one, work_of(&one) / seconds, &peaks->best[peak], &best[peak]);
    }
    *out = peaks;
    return WF_OK;
destroy:
    close_form(&one);
    wf_bench_peaks_destroy(peaks);
    return status;
}

void wf_bench_peaks_destroy(wf_bench_peaks *peaks) {
    if (!peaks) return;
    for (int i = 0; i < WF_PEAKS; i++) close_form(&peaks->best[i]);
    free(peaks);
}

wf_bench_item wf_bench_peaks_item(wf_bench_peaks *peaks, wf_peak peak) {
    wf_bench_item item = wf_bench_kernel_item(peaks->best[peak].kernel);
    item.work = work_of(&peaks->best[peak]);
    return item;
}

/* ---- a case's limit ---------------------------------------------------------------------------------------------- */

/* Flops per byte from which no device's memory is the limit, so that a copy says nothing. */
enum { ARITHMETIC = 16 };
enum { SHORT_TIMES = 16, SHORT_BYTES = 4 << 20 };

struct wf_bench_limit {
    form form;
    double scale;
};

static wf_status open_multiply_adds(wf_opencl *opencl, const wf_bench_peaks *peaks, double flops, wf_bench_limit *limit) {
    const form *const best = &peaks->best[WF_PEAK_FMA];
    const int64_t n = elements(wf_opencl_device(opencl), &best->form);
    wf_problem one_round;
    char options[96];
    wf_peak_problem(&best->form, n, 1, &one_round, options, sizeof options);
    const double rounds = ceil(flops / wf_peak_flops(&best->form, &one_round));
    TRY(open_form(opencl, &best->form, n, rounds < 1 ? 1 : rounds > INT32_MAX ? INT32_MAX : (int64_t)rounds, &limit->form));
    limit->scale = flops / work_of(&limit->form);
    return WF_OK;
}

static wf_status open_copy(wf_opencl *opencl, double bytes, wf_bench_limit *limit) {
    const wf_peak_form *forms;
    const int count = wf_peak_forms(wf_opencl_device(opencl), &forms);
    const int64_t n = bytes < 8 ? 1 : (int64_t)(bytes / 8);
    const int64_t times = bytes < SHORT_BYTES ? SHORT_TIMES : 1; /* a short run shows what the clock costs */
    double best = 0, seconds = 1;
    form one = {0};
    wf_status status = WF_OK;
    limit->scale = 1;
    for (int i = 0; i < count && status == WF_OK; i++) {
        if (forms[i].peak != WF_PEAK_COPY) continue;
        status = open_form(opencl, &forms[i], n, 0, &one);
        if (status == WF_OK) status = try_form(&one, times, &seconds);
        if (status == WF_OK) keep_faster(&one, 1 / seconds, &limit->form, &best);
    }
    close_form(&one);
    return status;
}

wf_status wf_bench_limit_create(wf_opencl *opencl, const wf_bench_peaks *peaks, double flops, double bytes, wf_bench_limit **out) {
    wf_bench_limit *const limit = calloc(1, sizeof *limit);
    if (!limit) return wf_fail(WF_ERR_MEMORY, "no host memory to time a case's limit");
    const wf_status status =
        flops >= ARITHMETIC * bytes ? open_multiply_adds(opencl, peaks, flops, limit) : open_copy(opencl, bytes, limit);
    if (status != WF_OK) return wf_bench_limit_destroy(limit), status;
    *out = limit;
    return WF_OK;
}

void wf_bench_limit_destroy(wf_bench_limit *limit) {
    if (limit) close_form(&limit->form);
    free(limit);
}

wf_bench_item wf_bench_limit_item(wf_bench_limit *limit) {
    return wf_bench_kernel_item(limit->form.kernel);
}

bool wf_bench_limit_is_copy(const wf_bench_limit *limit) {
    return limit->form.form.peak == WF_PEAK_COPY;
}

double wf_bench_limit_scale(const wf_bench_limit *limit) {
    return limit->scale;
}
