/* bench.c: cases and the device's peaks, timed in turns. Operations are host/run/bench_operation.c's.
 *
 * Everything is opened before anything is timed, because all of it takes turns: the operands of all
 * cases are in the device's memory at once. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "host/api/bench_block.h"
#include "host/run/bench.h"
#include "layouts/block.h"

/* Sizes of a GPT-2's layer, each product that a training step needs, and what streams through memory. */
static const char *const built_in[] = {
    "gemm:f32:m1024n3072k768:nt.bias",
    "gemm:f32:m1024n3072k768:nt.bias.gelu_tanh",
    "gemm:f32:m1024n768k3072:nn",
    "gemm:f32:m3072n768k1024:tn.accumulate",
    "attention:f32:b1s1024h12d64:causal",
    "attention_backward:f32:b1s1024h12d64:causal",
    "norm:f32:rows1024n768:eps=1e-05",
    "norm_backward:f32:rows1024n768:residual",
    "norm_wgrad:f32:rows1024n768:accumulate",
    "reduce:f32:rows1024n768parts1b1:bias.residual",
    "reduce:f32:rows1024n768parts2b1:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "sum_rows:f32:groups1per1024n3072:accumulate",
    "embedding:f32:rows1024vocabulary50257n768",
    "embedding_backward:f32:rows1024vocabulary50257n768",
    "loss_stats:f32:rows256vocabulary50257",
    "loss_backward:f32:rows256vocabulary50257",
    "adamw:f32:n7077888:decay",
    "sum_squares:f32:n7077888",
    "copy:f32:rows1024n768",
    "block:f32:b1s1024h768a12:gelu_tanh.layernorm.causal:forward",
    "block:f32:b1s1024h768a12:gelu_tanh.layernorm.causal:train",
};

enum { PEAKS_EVERY = 4 };

/* A candidate of a case; `item` is -1 for what is skipped. */
typedef struct entry {
    char case_text[320], candidate[WF_LAYOUT_BYTES + 80], sentence[320];
    int32_t item;               /* index in bench.items */
    wf_bench_limit *limit;      /* the item after; NULL: no memory for it */
    wf_bench_data *data;        /* of the first entry of its case */
    wf_bench_kernel *kernel;
    bench_block *block;         /* instead of a kernel */
    double flops, bytes;        /* of one run, of all ranks */
    int64_t kernels;
} entry;

typedef struct bench {
    weft_context *context;
    const weft_bench_options *options;
    int32_t ranks;
    weft_layout *layout;        /* of blocks */
    wf_bench_peaks *peaks;
    entry *entries;
    int32_t count, room;
    wf_bench_item *items;       /* entries', and before every PEAKS_EVERY of them the peaks */
    int32_t nitems;
    wf_spread *spreads;
    double peak[WF_PEAKS], together[WF_PEAKS]; /* work per second: of this rank, of all ranks at once */
} bench;

void weft_bench_options_init(weft_bench_options *o) {
    memset(o, 0, sizeof *o);
}

/* ---- opening ------------------------------------------------------------------------------------------------ */

static wf_status add_entry(bench *b, entry **out) {
    if (b->count == b->room) {
        const int32_t room = b->room ? 2 * b->room : 32;
        entry *const grown = realloc(b->entries, (size_t)room * sizeof *grown);
        if (!grown) return wf_fail(WF_ERR_MEMORY, "no host memory for %d cases", (int)room);
        b->entries = grown, b->room = room;
    }
    *out = &b->entries[b->count++];
    memset(*out, 0, sizeof **out);
    (*out)->item = -1;
    return WF_OK;
}

static wf_status open_candidate(bench *b, const char *case_text, const wf_problem *p, const wf_candidate *candidate,
                                wf_bench_data *data, bool may_skip) {
    entry *e = NULL;
    TRY(add_entry(b, &e));
    snprintf(e->case_text, sizeof e->case_text, "%s", case_text);
    wf_candidate_print(p, candidate, e->candidate, sizeof e->candidate);
    const wf_status status = wf_bench_kernel_create(b->context->opencl, data, candidate, NULL, &e->kernel);
    if (status == WF_ERR_UNSUPPORTED && may_skip) return snprintf(e->sentence, sizeof e->sentence, "%s", wf_last_error()), WF_OK;
    TRY(status);
    e->item = 0; /* numbered once all are known */
    e->flops = wf_operations[p->op]->flops(p) * b->ranks;
    e->bytes = wf_problem_bytes(p) * b->ranks;
    e->kernels = 1;
    return WF_OK;
}

enum { CANDIDATE_BYTES = 256 };

/* The next of several joined by ";", without the blanks around it; *text: the rest, NULL after the last. */
static wf_status next_candidate(const char **text, char out[CANDIDATE_BYTES]) {
    const char *const first = *text + strspn(*text, " "), *const end = first + strcspn(first, ";");
    size_t length = (size_t)(end - first);
    while (length > 0 && first[length - 1] == ' ') length--;
    if (length == 0) return wf_fail(WF_ERR_ARGUMENT, "candidate \"%.120s\": a variant's name is missing", *text);
    if (length >= CANDIDATE_BYTES) return wf_fail(WF_ERR_ARGUMENT, "candidate \"%.120s...\" is longer than any", first);
    snprintf(out, CANDIDATE_BYTES, "%.*s", (int)length, first);
    *text = *end ? end + 1 : NULL;
    return WF_OK;
}

static wf_status open_named(bench *b, const char *case_text, const wf_problem *p, wf_bench_data *data) {
    char name[CANDIDATE_BYTES];
    wf_candidate candidate;
    for (const char *rest = b->options->candidate; rest;) {
        TRY(next_candidate(&rest, name));
        TRY(wf_candidate_parse(p, name, &candidate));
        TRY(open_candidate(b, case_text, p, &candidate, data, false));
    }
    return WF_OK;
}

static wf_status open_variants(bench *b, const char *case_text, const wf_problem *p, wf_bench_data *data) {
    wf_candidate candidate;
    for (int v = 0; v < wf_operations[p->op]->nvariants; v++) {
        wf_candidate_of_variant(p, v, wf_opencl_device(b->context->opencl), &candidate);
        TRY(open_candidate(b, case_text, p, &candidate, data, true));
    }
    return WF_OK;
}

static wf_status open_default(bench *b, const char *case_text, const wf_problem *p, wf_bench_data *data) {
    wf_candidate candidate;
    wf_defaults defaults = {.opencl = b->context->opencl};
    int64_t workspace;
    TRY(wf_defaults_candidate(&defaults, p, &candidate, &workspace));
    return open_candidate(b, case_text, p, &candidate, data, false);
}

static wf_status open_operation(bench *b, const char *case_text) {
    wf_problem p;
    wf_bench_data *data = NULL;
    TRY(wf_problem_parse(case_text, &p));
    const int32_t first = b->count;
    TRY(wf_bench_data_create(b->context->opencl, NULL, &p, &data));
    const wf_status status = b->options->candidate ? open_named(b, case_text, &p, data)
                             : b->options->all     ? open_variants(b, case_text, &p, data)
                                                   : open_default(b, case_text, &p, data);
    if (b->count > first) b->entries[first].data = data;
    else wf_bench_data_destroy(data);
    return status;
}

/* Collective. The work of all ranks, which differs from rank to rank. */
static weft_status share_work(bench *b, entry *e) {
    struct work {
        double flops, bytes;
    } mine, *const all = calloc((size_t)b->ranks, sizeof *all);
    wf_status status = all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for the work of %d ranks", (int)b->ranks);
    bench_block_work(e->block, &mine.flops, &mine.bytes, &e->kernels);
    TRY_GOTO(wf_fabric_agree(b->context->fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(b->context->fabric, &mine, sizeof mine, all), done);
    for (int32_t rank = 0; rank < b->ranks; rank++) e->flops += all[rank].flops, e->bytes += all[rank].bytes;
done:
    free(all);
    return weft_from(weft_context_note(b->context, status));
}

/* Collective: its plan is. */
static weft_status open_stack(bench *b, const char *case_text, const char *gemm, bool may_skip) {
    entry *e = NULL;
    const wf_status added = add_entry(b, &e);
    if (added != WF_OK) return weft_from(added);
    char layout[WF_LAYOUT_BYTES];
    wf_layout_print(&b->layout->layout, layout, sizeof layout);
    snprintf(e->case_text, sizeof e->case_text, "%s", case_text);
    snprintf(e->candidate, sizeof e->candidate, "%s%s%s", layout, gemm ? ", GEMMs by " : "", gemm ? gemm : "");
    const weft_status status = bench_block_create(b->context, case_text, b->layout, gemm, &e->block);
    if (status == WEFT_ERR_UNSUPPORTED && may_skip) return snprintf(e->sentence, sizeof e->sentence, "%s", weft_last_error()), WEFT_OK;
    if (status) return status;
    e->item = 0;
    return share_work(b, e);
}

static weft_status open_block(bench *b, const char *case_text) {
    const wf_operation *const gemm = wf_operations[WF_OP_GEMM];
    char name[CANDIDATE_BYTES];
    for (const char *rest = b->options->candidate; rest;) {
        weft_status status = weft_from(next_candidate(&rest, name));
        if (!status) status = open_stack(b, case_text, name, false);
        if (status) return status;
    }
    if (b->options->candidate) return WEFT_OK;
    if (!b->options->all) return open_stack(b, case_text, NULL, false);
    for (int v = 0; v < gemm->nvariants; v++) {
        const weft_status status = open_stack(b, case_text, gemm->variants[v].name, true);
        if (status) return status;
    }
    return WEFT_OK;
}

/* Collective, whatever the case: the ranks agree on each before the next. */
static weft_status open_one(bench *b, const char *case_text) {
    if (wf_block_is(case_text)) return open_block(b, case_text);
    return weft_from(weft_context_note(b->context, wf_fabric_agree(b->context->fabric, open_operation(b, case_text))));
}

/* "gemm" stands for all built-in cases of it. */
static weft_status open_case(bench *b, const char *text) {
    const size_t length = strlen(text);
    bool found = false;
    weft_status status = WEFT_OK;
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in && !strchr(text, ':') && !status; i++) {
        if (strncmp(built_in[i], text, length) != 0 || built_in[i][length] != ':') continue;
        found = true;
        status = open_one(b, built_in[i]);
    }
    return found ? status : open_one(b, text);
}

static weft_status open_cases(bench *b) {
    const weft_bench_options *const o = b->options;
    weft_status status = WEFT_OK;
    for (int32_t i = 0; i < o->ncases && !status; i++) status = open_case(b, o->cases[i]);
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in && o->ncases == 0 && !status; i++) status = open_one(b, built_in[i]);
    return status;
}

/* Each rank an equal part of the work, whatever its share of a block is. */
static wf_status open_limits(bench *b) {
    for (int32_t i = 0; i < b->count; i++) {
        entry *const e = &b->entries[i];
        if (e->item < 0) continue;
        const wf_status status =
            wf_bench_limit_create(b->context->opencl, b->peaks, e->flops / b->ranks, e->bytes / b->ranks, &e->limit);
        if (status != WF_OK && status != WF_ERR_MEMORY) return status; /* the case is timed without */
    }
    return WF_OK;
}

/* Devices differ: what one rank's cannot run, none does. The ranks have the same cases, so as many entries. */
static wf_status agree_on_entries(bench *b) {
    wf_fabric *const fabric = b->context->fabric;
    const int32_t ranks = wf_fabric_ranks(fabric);
    uint8_t *const mine = calloc((size_t)b->count + 1, 1), *const all = calloc((size_t)ranks, (size_t)b->count + 1);
    wf_status status = mine && all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for %d cases", (int)b->count);
    enum { SKIPPED = 1, NO_LIMIT = 2 };
    for (int32_t i = 0; i < b->count && status == WF_OK; i++)
        mine[i] = (uint8_t)((b->entries[i].item < 0 ? SKIPPED : 0) | (b->entries[i].limit ? 0 : NO_LIMIT));
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, mine, b->count, all), done);
    for (int32_t rank = 0; rank < ranks; rank++)
        for (int32_t i = 0; i < b->count; i++) {
            entry *const e = &b->entries[i];
            const uint8_t theirs = all[(int64_t)rank * b->count + i];
            if (theirs & NO_LIMIT) wf_bench_limit_destroy(e->limit), e->limit = NULL;
            if (!(theirs & SKIPPED) || e->item < 0) continue;
            e->item = -1;
            snprintf(e->sentence, sizeof e->sentence, "rank %d cannot run it", rank);
        }
done:
    free(mine);
    free(all);
    return status;
}

static wf_status number_items(bench *b) {
    const size_t room = 2 * (size_t)b->count + WF_PEAKS * ((size_t)b->count / PEAKS_EVERY + 1);
    b->items = calloc(room, sizeof *b->items);
    b->spreads = calloc(room, sizeof *b->spreads);
    if (!b->items || !b->spreads) return wf_fail(WF_ERR_MEMORY, "no host memory for %d cases", (int)b->count);
    for (int32_t i = 0; i < b->count; i++) {
        entry *const e = &b->entries[i];
        for (int p = 0; p < WF_PEAKS && i % PEAKS_EVERY == 0; p++) b->items[b->nitems++] = wf_bench_peaks_item(b->peaks, (wf_peak)p);
        if (e->item < 0) continue;
        e->item = b->nitems;
        b->items[b->nitems++] = e->block ? bench_block_item(e->block) : wf_bench_kernel_item(e->kernel);
        if (e->limit) b->items[b->nitems++] = wf_bench_limit_item(e->limit);
    }
    return WF_OK;
}

static void find_peak(bench *b, wf_peak p, int32_t item) {
    const double rate = b->items[item].work / b->spreads[item].minimum;
    if (rate > b->peak[p]) b->peak[p] = rate;
    if (b->spreads[item].together > b->together[p]) b->together[p] = b->spreads[item].together;
}

/* As number_items has laid them out. */
static void find_peaks(bench *b) {
    int32_t at = 0;
    for (int32_t i = 0; i < b->count; i++) {
        for (int p = 0; p < WF_PEAKS && i % PEAKS_EVERY == 0; p++) find_peak(b, (wf_peak)p, at++);
        if (b->entries[i].item >= 0) at += b->entries[i].limit ? 2 : 1;
    }
}

static wf_status open_layout(bench *b) {
    char text[32];
    b->layout = calloc(1, sizeof *b->layout);
    if (!b->layout) return wf_fail(WF_ERR_MEMORY, "no host memory for a layout");
    if (b->options->layout) return b->layout->layout = b->options->layout->layout, WF_OK;
    snprintf(text, sizeof text, b->ranks > 1 ? "tp%d.sp" : "tp%d", (int)b->ranks);
    return wf_layout_parse(text, &b->layout->layout);
}

static wf_status check_options(const weft_bench_options *o) {
    if (o->repeats < 0 || !(o->seconds >= 0))
        return wf_fail(WF_ERR_ARGUMENT, "a bench of %d repeats in %g s is none", (int)o->repeats, o->seconds);
    if (o->all && o->candidate) return wf_fail(WF_ERR_ARGUMENT, "every variant and one candidate exclude each other");
    return WF_OK;
}

static void close_all(bench *b) {
    for (int32_t i = 0; i < b->count; i++) wf_bench_kernel_destroy(b->entries[i].kernel);
    for (int32_t i = 0; i < b->count; i++) wf_bench_limit_destroy(b->entries[i].limit);
    for (int32_t i = 0; i < b->count; i++) bench_block_destroy(b->entries[i].block);
    for (int32_t i = 0; i < b->count; i++) wf_bench_data_destroy(b->entries[i].data);
    wf_bench_peaks_destroy(b->peaks);
    free(b->layout);
    free(b->entries);
    free(b->items);
    free(b->spreads);
}

/* ---- reporting ------------------------------------------------------------------------------------------------ */

/* One rank's, as it travels. */
typedef struct machine_row {
    wf_device device;
    double flops_per_s, bytes_per_s, launch_s;
} machine_row;

static double larger(double a, double b) {
    return a > b ? a : b;
}

static void fill_row(const bench *b, machine_row *row) {
    row->device = *wf_opencl_device(b->context->opencl);
    row->flops_per_s = b->peak[WF_PEAK_FMA];
    row->bytes_per_s = larger(b->peak[WF_PEAK_COPY], b->peak[WF_PEAK_UPDATE]);
    row->launch_s = 1 / b->peak[WF_PEAK_LAUNCH];
}

static void report_machine(const bench *b, int32_t rank, const machine_row *row) {
    static const char *const types[] = {[WF_DEVICE_CPU] = "cpu", [WF_DEVICE_GPU] = "gpu", [WF_DEVICE_OTHER] = "other"};
    const weft_machine machine = {.rank = rank,
                                  .device = row->device.name,
                                  .type = types[row->device.type],
                                  .platform = row->device.platform,
                                  .driver = row->device.driver,
                                  .compute_units = row->device.compute_units,
                                  .clock_mhz = row->device.clock_mhz,
                                  .flops_per_s = row->flops_per_s,
                                  .bytes_per_s = row->bytes_per_s,
                                  .launch_s = row->launch_s};
    if (b->options->machine) b->options->machine(b->options->user, &machine);
}

static double limit_share(const bench *b, const entry *e) {
    return wf_bench_limit_scale(e->limit) * b->spreads[e->item + 1].median / b->spreads[e->item].median;
}

static void report_entry(const bench *b, const entry *e, const machine_row *sum) {
    weft_timing t = {.case_text = e->case_text, .candidate = e->candidate, .skipped = e->item < 0, .sentence = e->sentence};
    if (e->item >= 0) {
        const wf_spread *const s = &b->spreads[e->item];
        t.minimum_s = s->minimum, t.quartile1_s = s->quartile1, t.median_s = s->median, t.quartile3_s = s->quartile3;
        t.samples = s->samples, t.runs_per_sample = s->times;
        t.flops = e->flops, t.bytes = e->bytes;
        t.flops_share = t.flops / s->minimum / sum->flops_per_s;
        t.bytes_share = t.bytes / s->minimum / sum->bytes_per_s;
        if (e->limit) *(wf_bench_limit_is_copy(e->limit) ? &t.copy_share : &t.fma_share) = limit_share(b, e);
        t.launch_share = (double)e->kernels * sum->launch_s / s->minimum;
    }
    if (b->options->timing) b->options->timing(b->options->user, &t);
}

static wf_status report(bench *b) {
    wf_fabric *const fabric = b->context->fabric;
    const int32_t ranks = wf_fabric_ranks(fabric);
    machine_row mine, sum = {0}, *const all = calloc((size_t)ranks, sizeof *all);
    wf_status status = all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to describe %d ranks", ranks);
    memset(&mine, 0, sizeof mine);
    fill_row(b, &mine);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(fabric, &mine, sizeof mine, all), done);
    for (int32_t rank = 0; rank < ranks; rank++) {
        report_machine(b, rank, &all[rank]);
        sum.launch_s = larger(sum.launch_s, all[rank].launch_s);
    }
    sum.flops_per_s = b->together[WF_PEAK_FMA];
    sum.bytes_per_s = larger(b->together[WF_PEAK_COPY], b->together[WF_PEAK_UPDATE]);
    for (int32_t i = 0; i < b->count; i++) report_entry(b, &b->entries[i], &sum);
done:
    free(all);
    return status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static weft_status run(bench *b) {
    wf_fabric *const fabric = b->context->fabric;
    const wf_bench_options how = {.repeats = b->options->repeats, .seconds = b->options->seconds};
    wf_status status = check_options(b->options);
    if (status == WF_OK) status = open_layout(b);
    TRY_GOTO(wf_fabric_agree(fabric, status), done);
    const weft_status opened = open_cases(b);
    if (opened) return opened;
    TRY_GOTO(wf_fabric_agree(fabric, wf_bench_peaks_create(b->context->opencl, &b->peaks)), done);
    TRY_GOTO(wf_fabric_agree(fabric, open_limits(b)), done);
    TRY_GOTO(agree_on_entries(b), done);
    TRY_GOTO(wf_fabric_agree(fabric, number_items(b)), done);
    TRY_GOTO(wf_bench_measure(fabric, b->items, b->nitems, &how, b->spreads), done);
    find_peaks(b);
    status = report(b);
done:
    return weft_from(weft_context_note(b->context, status));
}

weft_status weft_bench(weft_context *context, const weft_bench_options *options) {
    const wf_status usable = weft_context_usable(context);
    if (usable != WF_OK) return weft_from(usable);
    bench b = {.context = context, .options = options, .ranks = wf_fabric_ranks(context->fabric)};
    const weft_status status = run(&b);
    close_all(&b);
    return status;
}
