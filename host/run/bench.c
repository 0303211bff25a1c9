/* bench.c: how samples are taken; see bench.h. */
#include "host/run/bench.h"

#include <math.h>
#include <stdlib.h>

/* A sample lasts at least so long: the host's clock and a queue's end cost microseconds. */
#define SAMPLE_S 2e-3
/* What takes less finds caches that others' turns have filled, the peak's copy all of them: a loop of its user's finds its own
 * operands there. */
#define WARMED_S 20e-3
enum { LEAST_SAMPLES = 5, MOST_SAMPLES = 200, MOST_TIMES = 10000 };

/* ---- statistics ------------------------------------------------------------------------------------------ */

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const double *sorted, int32_t n, double q) {
    const double at = q * (n - 1);
    const int32_t below = (int32_t)at, above = below + 1 < n ? below + 1 : below;
    return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

void wf_spread_of(double *seconds, int32_t n, wf_spread *out) {
    qsort(seconds, (size_t)n, sizeof *seconds, ascending);
    out->minimum = seconds[0];
    out->quartile1 = quantile(seconds, n, 0.25);
    out->median = quantile(seconds, n, 0.5);
    out->quartile3 = quantile(seconds, n, 0.75);
    out->samples = n;
}

/* ---- samples ------------------------------------------------------------------------------------------------ */

static wf_status run_item(const wf_bench_item *item, int64_t times, double *seconds_out) {
    const double start = wf_clock_s();
    TRY(item->run(item->self, times));
    *seconds_out = wf_clock_s() - start;
    return WF_OK;
}

/* The ranks' numbers, one rank's after the other's, on every rank. */
static wf_status gather(wf_fabric *fabric, const double *mine, int64_t n, double **out) {
    const int32_t ranks = wf_fabric_ranks(fabric);
    double *const all = calloc((size_t)(ranks * n) + 1, sizeof *all);
    wf_status status = all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for the samples of %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(fabric, status), fail);
    TRY_GOTO(wf_fabric_all_gather(fabric, mine, n * (int64_t)sizeof *mine, all), fail);
    *out = all;
    return WF_OK;
fail:
    free(all);
    return status;
}

/* Each of n numbers becomes the largest of all ranks'; a rank's are `stride` after the one's before. */
static void keep_slowest(const double *all, int32_t ranks, int64_t stride, int64_t n, double *seconds) {
    for (int32_t rank = 0; rank < ranks; rank++)
        for (int64_t i = 0; i < n; i++)
            if (all[rank * stride + i] > seconds[i]) seconds[i] = all[rank * stride + i];
}

/* Each item once to build and warm up, then once to see how long it takes. A rank that fails says so
 * before the next item, so that nobody waits for it. */
static wf_status calibrate(wf_fabric *fabric, const wf_bench_item *items, int32_t n, double *seconds) {
    for (int32_t i = 0; i < n; i++) {
        wf_status status = items[i].run(items[i].self, 1);
        TRY(wf_fabric_agree(fabric, status));
        status = run_item(&items[i], 1, &seconds[i]);
        TRY(wf_fabric_agree(fabric, status));
    }
    double *all = NULL;
    TRY(gather(fabric, seconds, n, &all));
    keep_slowest(all, wf_fabric_ranks(fabric), n, n, seconds);
    free(all);
    return WF_OK;
}

static int64_t times_of(double seconds) {
    const double times = ceil(SAMPLE_S / (seconds > 0 ? seconds : SAMPLE_S / MOST_TIMES));
    return times < 1 ? 1 : times > MOST_TIMES ? MOST_TIMES : (int64_t)times;
}

/* Of agreed numbers only, so that the ranks take as many. */
static int32_t samples_of(const wf_bench_options *options, const double *seconds, const wf_spread *spread, int32_t n) {
    double round = 0;
    if (options->repeats) return options->repeats;
    for (int32_t i = 0; i < n; i++) round += seconds[i] * (double)(spread[i].times + spread[i].warmed);
    const double samples = n * (options->seconds > 0 ? options->seconds : 1) / (round > 0 ? round : 1);
    return samples < LEAST_SAMPLES ? LEAST_SAMPLES : samples > MOST_SAMPLES ? MOST_SAMPLES : (int32_t)samples;
}

static wf_status take(wf_fabric *fabric, const wf_bench_item *items, int32_t n, int32_t samples, const wf_spread *spread,
                      double *seconds) {
    wf_status status = WF_OK;
    for (int32_t sample = 0; sample < samples; sample++)
        for (int32_t i = 0; i < n; i++) {
            double *const one = &seconds[(int64_t)i * samples + sample];
            TRY(wf_fabric_agree(fabric, status));
            if (spread[i].warmed) status = items[i].run(items[i].self, 1);
            TRY(wf_fabric_agree(fabric, status)); /* and so they start together */
            status = run_item(&items[i], spread[i].times, one);
            *one /= (double)spread[i].times;
        }
    return wf_fabric_agree(fabric, status);
}

/* One rank's peaks at one moment are another's pause, where both share a memory or cores: only what all
 * do at the same time adds up. */
static double together(const double *all, const double *work, int32_t ranks, int64_t stride, int64_t work_stride, int32_t samples) {
    double most = 0;
    for (int32_t sample = 0; sample < samples; sample++) {
        double sum = 0;
        for (int32_t rank = 0; rank < ranks; rank++) sum += work[rank * work_stride] / all[rank * stride + sample];
        if (sum > most) most = sum;
    }
    return most;
}

static wf_status summarise(wf_fabric *fabric, const wf_bench_item *items, int32_t n, int32_t samples, double *seconds, double *work,
                           wf_spread *out) {
    const int32_t ranks = wf_fabric_ranks(fabric);
    const int64_t stride = (int64_t)n * samples;
    double *all = NULL, *works = NULL;
    wf_status status = WF_OK;
    for (int32_t i = 0; i < n; i++) work[i] = items[i].work;
    TRY_GOTO(gather(fabric, work, n, &works), done);
    TRY_GOTO(gather(fabric, seconds, stride, &all), done);
    for (int32_t i = 0; i < n; i++) {
        double *const mine = seconds + (int64_t)i * samples;
        out[i].together = items[i].work > 0 ? together(all + (int64_t)i * samples, works + i, ranks, stride, n, samples) : 0;
        if (items[i].work == 0) keep_slowest(all + (int64_t)i * samples, ranks, stride, samples, mine);
        wf_spread_of(mine, samples, &out[i]);
    }
done:
    free(all);
    free(works);
    return status;
}

wf_status wf_bench_measure(wf_fabric *fabric, const wf_bench_item *items, int32_t n, const wf_bench_options *options,
                           wf_spread *out) {
    double *once = calloc((size_t)n + 1, sizeof *once), *seconds = NULL;
    wf_status status = once ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for %d items to time", (int)n);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(calibrate(fabric, items, n, once), done);
    for (int32_t i = 0; i < n; i++) out[i].times = times_of(once[i]), out[i].warmed = once[i] < WARMED_S;
    const int32_t samples = samples_of(options, once, out, n);
    seconds = calloc((size_t)n * (size_t)samples + 1, sizeof *seconds);
    if (!seconds) status = wf_fail(WF_ERR_MEMORY, "no host memory for %d samples of %d items", (int)samples, (int)n);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(take(fabric, items, n, samples, out, seconds), done);
    TRY_GOTO(summarise(fabric, items, n, samples, seconds, once, out), done);
done:
    free(once);
    free(seconds);
    return status;
}
