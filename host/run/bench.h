/* bench.h: timing. Things to time are items: a peak of the device, a kernel on its operands, or
 * anything else that runs to its end when told to. Items take turns, so that the noise of a machine that
 * others use hits all of them alike. */
#ifndef WF_RUN_BENCH_H
#define WF_RUN_BENCH_H

#include "host/device/device.h"
#include "host/fabric/fabric.h"
#include "kernels/peak.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_bench_item {
    wf_status (*run)(void *self, int64_t times); /* `times` in a row; returns when the device is done */
    void *self;
    double work;            /* of a peak, done by one run: each rank's own time counts; 0: the slowest's does */
} wf_bench_item;

typedef struct wf_bench_options {
    int32_t repeats;        /* samples of each item; 0: as many as `seconds` allows, at least 5 */
    double seconds;         /* to spend on each item; 0: 1 */
} wf_bench_options;

/* Seconds of one run over the samples. A sample is `times` runs in a row, so many that the clock and the
 * wait at its end do not count; the first run of an item is in none, nor, of a short one, the first of a turn. */
typedef struct wf_spread {
    double minimum, quartile1, median, quartile3;
    int32_t samples;
    int64_t times;
    bool warmed;            /* each sample follows a run that does not count */
    double together;        /* of a peak: the most that all ranks did at the same time, work per second */
} wf_spread;

/* Collective: the ranks start each sample together and the slowest counts, except of peaks. out: [nitems]. */
wf_status wf_bench_measure(wf_fabric *, const wf_bench_item *items, int32_t nitems, const wf_bench_options *, wf_spread *out);

/* Minimum, quartiles (interpolated) and median of n >= 1 numbers, which are sorted. */
void wf_spread_of(double *seconds, int32_t n, wf_spread *out);

/* ---- an operation (host/run/bench_operation.c) ----------------------------------------------------- */

/* Operands of a problem on the device, shared by its candidates: numbers that no kernel trips over
 * (ids within range, nothing that grows when an update is repeated), dense and aligned. Of another
 * operation than wf_operations' when `operation` is given. */
typedef struct wf_bench_data wf_bench_data;
wf_status wf_bench_data_create(wf_opencl *, const wf_operation *operation, const wf_problem *, wf_bench_data **out);
void wf_bench_data_destroy(wf_bench_data *);

/* A candidate on these operands, which are borrowed. WF_ERR_UNSUPPORTED when it refuses the problem. */
typedef struct wf_bench_kernel wf_bench_kernel;
wf_status wf_bench_kernel_create(wf_opencl *, wf_bench_data *, const wf_candidate *, const char *options, wf_bench_kernel **out);
void wf_bench_kernel_destroy(wf_bench_kernel *);
wf_bench_item wf_bench_kernel_item(wf_bench_kernel *);

/* ---- the device's peaks (host/run/bench_peak.c) ------------------------------------------------------ */

/* The best form of each peak on this device, found by a first trial. Local. */
typedef struct wf_bench_peaks wf_bench_peaks;
wf_status wf_bench_peaks_create(wf_opencl *, wf_bench_peaks **out);
void wf_bench_peaks_destroy(wf_bench_peaks *);
/* Its work: flops of FMA, bytes of COPY and UPDATE, 1 of LAUNCH. */
wf_bench_item wf_bench_peaks_item(wf_bench_peaks *, wf_peak);

/* What bounds a case, alone, to take turns with it: what slows a device at times slows both. Where flops are many beside bytes, as
 * many multiply-adds by the peaks' best form; else copying within so many bytes, half of them read, half written, by the form
 * that is fastest at that size, wherever they lie, in caches or not. Local. */
typedef struct wf_bench_limit wf_bench_limit;
wf_status wf_bench_limit_create(wf_opencl *, const wf_bench_peaks *, double flops, double bytes, wf_bench_limit **out);
void wf_bench_limit_destroy(wf_bench_limit *);
wf_bench_item wf_bench_limit_item(wf_bench_limit *);
bool wf_bench_limit_is_copy(const wf_bench_limit *);
/* The limit's seconds by those of its item, which makes whole rounds of multiply-adds, no more than INT32_MAX. */
double wf_bench_limit_scale(const wf_bench_limit *);

#ifdef __cplusplus
}
#endif
#endif
