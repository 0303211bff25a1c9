/* command_bench.c: weft bench: how fast operations and blocks run, and of what this device can do at most. */
#include "host/cli/cli.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static context_arguments context_options;
static const char *layout_text, *candidate;
static int64_t repeats;
static double seconds;
static bool json, all;
static const option options[] = {
    {"layout", OPTION_TEXT, "LAYOUT", "of blocks: how they are split, as in tp2.sp (default: tpN.sp of --ranks)", &layout_text, 0, 0},
    {"candidate", OPTION_TEXT, "TEXT", "variant and values, as verify prints them, several joined by \";\" (default: the device's)", &candidate, 0, 0},
    {"all", OPTION_FLAG, NULL, "every variant of each case", &all, 0, 0},
    {"repeats", OPTION_INTEGER, "N", "samples of each case (default: as many as --seconds allows)", &repeats, 1, 1e6},
    {"seconds", OPTION_REAL, "S", "to spend on each case (default: 1)", &seconds, 1e-3, 1e5},
    {"json", OPTION_FLAG, NULL, "one JSON object per machine and case on stdout", &json, 0, 0},
    CONTEXT_OPTIONS(context_options),
};

typedef struct report_state {
    bool quiet;     /* not rank 0 */
    int timed;
    bool headed;
} report_state;

static void print_json(json_t *row) {
    if (row) json_dumpf(row, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
    json_decref(row);
}

static void report_machine(void *user, const weft_machine *m) {
    const report_state *const state = user;
    char clock[32] = "";
    if (state->quiet) return;
    if (json) {
        print_json(json_pack("{s:i, s:s, s:s, s:s, s:s, s:i, s:o, s:f, s:f, s:f}", "rank", (int)m->rank, "device", m->device, "type",
                             m->type, "platform", m->platform, "driver", m->driver, "compute_units", (int)m->compute_units,
                             "clock_mhz", m->clock_mhz ? json_integer(m->clock_mhz) : json_null(), "peak_gflops",
                             1e-9 * m->flops_per_s, "peak_gb_per_s", 1e-9 * m->bytes_per_s, "launch_us", 1e6 * m->launch_s));
        return;
    }
    if (m->clock_mhz) snprintf(clock, sizeof clock, " at %d MHz", (int)m->clock_mhz);
    printf("rank %d: %s, %s, %s\n        %d compute units%s; measured: %.4g GFLOP/s of f32 multiply-adds, %.4g GB/s, %.3g us a launch\n",
           (int)m->rank, m->device, m->platform, m->driver, (int)m->compute_units, clock, 1e-9 * m->flops_per_s,
           1e-9 * m->bytes_per_s, 1e6 * m->launch_s);
}

static void report_json(const weft_timing *t) {
    if (t->skipped) {
        print_json(json_pack("{s:s, s:s, s:s}", "case", t->case_text, "candidate", t->candidate, "skipped", t->sentence));
        return;
    }
    print_json(json_pack("{s:s, s:s, s:f, s:f, s:f, s:f, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:o, s:o}", "case", t->case_text, "candidate",
                         t->candidate, "minimum_s", t->minimum_s, "quartile1_s", t->quartile1_s, "median_s", t->median_s,
                         "quartile3_s", t->quartile3_s, "samples", (int)t->samples, "runs_per_sample",
                         (json_int_t)t->runs_per_sample, "gflops", 1e-9 * t->flops / t->minimum_s, "gb_per_s",
                         1e-9 * t->bytes / t->minimum_s, "of_peak_flops", t->flops_share, "of_peak_bandwidth", t->bytes_share,
                         "of_launches", t->launch_share, "of_copy", t->copy_share > 0 ? json_real(t->copy_share) : json_null(), "of_fma",
                         t->fma_share > 0 ? json_real(t->fma_share) : json_null()));
}

static void report_timing(void *user, const weft_timing *t) {
    report_state *const state = user;
    state->timed += !t->skipped;
    if (state->quiet) return;
    if (json) return report_json(t);
    if (!state->headed)
        printf("\n%10s %10s %7s %9s %5s %9s %5s %5s %7s  case [candidate]\n", "min us", "median us", "spread", "GFLOP/s", "peak", "GB/s",
               "peak", "limit", "launch");
    state->headed = true;
    if (t->skipped) {
        printf("%10s %70s  %s [%s]  %s\n", "skip", "", t->case_text, t->candidate, t->sentence);
        return;
    }
    const double share = t->copy_share > 0 ? t->copy_share : t->fma_share;
    char limit[16] = "";
    if (share > 0) snprintf(limit, sizeof limit, "%.0f%%", 100 * share);
    printf("%10.1f %10.1f %6.0f%% %9.4g %4.0f%% %9.4g %4.0f%% %5s %6.0f%%  %s [%s]\n", 1e6 * t->minimum_s, 1e6 * t->median_s,
           100 * (t->quartile3_s - t->quartile1_s) / t->median_s, 1e-9 * t->flops / t->minimum_s, 100 * t->flops_share,
           1e-9 * t->bytes / t->minimum_s, 100 * t->bytes_share, limit, 100 * t->launch_share, t->case_text, t->candidate);
}

static int bench(const ranks *ranks, const text_list *cases, weft_layout **layout) {
    weft_context *context = NULL;
    report_state state = {.quiet = ranks->rank != 0};
    weft_bench_options o;
    weft_bench_options_init(&o);
    o.cases = cases->text, o.ncases = cases->count;
    o.candidate = candidate, o.all = all;
    o.repeats = (int32_t)repeats, o.seconds = seconds;
    o.machine = report_machine, o.timing = report_timing, o.user = &state;
    weft_status status = context_open(&context_options, ranks, false, &context);
    if (!status && *layout) status = layout_measure(context, layout);
    o.layout = *layout;
    if (!status) status = weft_bench(context, &o);
    const int result = status ? fail_on_rank(ranks->rank, status) : EXIT_FINE;
    weft_context_destroy(context);
    if (result || state.timed) return result;
    return ranks->rank ? EXIT_CHECK : complain(EXIT_CHECK, "bench: nothing was timed");
}

static int run_cases(char **argv, const text_list *cases) {
    weft_layout *layout = NULL;
    if (all && candidate) return complain(EXIT_USAGE, "bench: --all and --candidate exclude each other");
    int needed = (int)context_options.ranks; /* 0: as many as were started */
    int status = layout_text ? ranks_of_layout("bench", &context_options, &layout_text, &needed) : EXIT_FINE;
    if (!status && layout_text && weft_layout_parse(layout_text, &layout)) status = complain_status(WEFT_ERR_ARGUMENT);
    if (status) return status;
    ranks ranks;
    status = ranks_join(needed, context_options.timeout_s, RANKS_END_AT_ONCE, argv, &ranks);
    if (!status) status = bench(&ranks, cases, &layout);
    weft_layout_destroy(layout);
    return ranks_leave(&ranks, status);
}

static int run(int argc, char **argv) {
    text_list cases = {0};
    const bool good = options_parse("bench", options, sizeof options / sizeof *options, argc - 2, argv + 2, &cases);
    const int status = good ? run_cases(argv, &cases) : EXIT_USAGE;
    free(cases.text);
    return status;
}

const command command_bench = {
    "bench", "[CASE...] [--all] [--layout L]", "how fast operations and blocks run, and what part of the device's peaks that is",
    "Without a CASE: a short list of all operations and blocks. On top: this machine's peaks, measured in the same run. Cases\n"
    "take turns, so that noise hits all alike; the first run of each is not counted, nor, of what is short, the first of a\n"
    "turn, so that caches hold what they can. spread: the interquartile range, of the median. GFLOP/s and GB/s (every operand\n"
    "moved once) are of the minimum; peak: of the peak measured; above 100% of the bandwidth means that caches hold the\n"
    "operands. limit: the median time of what bounds the case, alone, by the case's: copying as many bytes, wherever they lie,\n"
    "or, from 16 flops a byte, as many multiply-adds. launch: what part of the minimum a launch's cost is.\n\n" OPERATION_CASES_HELP
    "A block's case is block:f32:SIZES:FLAGS:forward, or :train (and backward), under --layout:\n"
    "  block:f32:b1s1024h1024a16kv16f4096:gelu.layernorm.causal:train\n"
    "Sizes: b sequences of s tokens, h hidden, a heads; kv heads (a), d head size (h / a), f features (4 h), l layers (1),\n"
    "w window of attention (none).\n"
    "Flags: an activation; layernorm or rmsnorm; causal (else both ways), gated, rope, post-norm, no-bias.",
    options, sizeof options / sizeof *options, run};
