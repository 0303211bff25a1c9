/* command_plan.c: weft plan: what each rank would hold, compute and exchange, without a device. */
#include "host/cli/cli.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *model_text = "tiny", *layout_text = "tp1", *shape_text = "b8s128", *mode_text = "train";
static int64_t rank_asked;
static double memory_gib;
static bool json, explain, check;
static const option options[] = {
    {"model", OPTION_TEXT, "M", "preset (tiny, gpt2) or a Hugging Face config.json", &model_text, 0, 0},
    {"shape", OPTION_TEXT, "SHAPE", "global batch and sequence", &shape_text, 0, 0},
    {"layout", OPTION_TEXT, "LAYOUT", "how the step is split, as in tp2.sp.mb2", &layout_text, 0, 0},
    {"mode", OPTION_TEXT, "MODE", "train, gradients, evaluate, logits or hidden", &mode_text, 0, 0},
    {"rank", OPTION_INTEGER, "R", "whose schedule --explain shows", &rank_asked, 0, 1e6},
    {"memory", OPTION_REAL, "GIB", "of one rank's device: refuse what does not fit, and say which layouts would", &memory_gib, 1e-9, 1e9},
    {"explain", OPTION_FLAG, NULL, "the schedule: computed, exchanged, fused, kept, on which lane", &explain, 0, 0},
    {"check", OPTION_FLAG, NULL, "prove over all ranks that exchanges match and nothing deadlocks", &check, 0, 0},
    {"json", OPTION_FLAG, NULL, "one JSON object on stdout", &json, 0, 0},
};

static weft_status mode_parse(const char *text, weft_mode *out) {
    static const char *const names[] = {"train", "gradients", "evaluate", "logits", "hidden"};
    for (int i = 0; i < 5; i++)
        if (!strcmp(text, names[i])) return *out = (weft_mode)i, WEFT_OK;
    return WEFT_ERR_ARGUMENT;
}

/* "b8s128" -> batch, sequence. */
static bool shape_parse(const char *text, int64_t *batch, int64_t *sequence) {
    int end = 0;
    long long b, s;
    if (sscanf(text, "b%llds%lld%n", &b, &s, &end) != 2) return false;
    *batch = b, *sequence = s;
    return !text[end] && b > 0 && s > 0;
}

static void print_text(int rank, const weft_plan_info *i) {
    if (!rank)
        printf("%-5s %12s %12s %12s %12s %12s %12s %10s %12s %9s\n", "rank", "parameters", "gradients", "optimizer",
               "activations", "device", "window", "GFLOP", "sent bytes", "messages");
    printf("%-5d %12lld %12lld %12lld %12lld %12lld %12lld %10.3f %12lld %9lld\n", rank, (long long)i->parameter_bytes,
           (long long)i->gradient_bytes, (long long)i->optimizer_bytes, (long long)i->activation_bytes,
           (long long)i->device_bytes, (long long)i->window_bytes, i->flops * 1e-9, (long long)i->sent_bytes,
           (long long)i->messages);
}

static json_t *info_json(int rank, const weft_plan_info *i) {
    char hash[20];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)i->hash);
    return json_pack("{s:i, s:{s:I,s:I,s:I}, s:{s:I,s:I,s:I,s:I,s:I,s:I}, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "rank",
                     rank, "bytes_by_space", "device", (json_int_t)i->device_bytes, "window", (json_int_t)i->window_bytes,
                     "host", (json_int_t)i->host_bytes, "bytes_by_class", "parameter", (json_int_t)i->parameter_bytes,
                     "gradient", (json_int_t)i->gradient_bytes, "optimizer", (json_int_t)i->optimizer_bytes, "activation",
                     (json_int_t)i->activation_bytes, "workspace", (json_int_t)i->workspace_bytes, "io",
                     (json_int_t)i->io_bytes, "flops", i->flops, "sent_bytes", (json_int_t)i->sent_bytes, "received_bytes",
                     (json_int_t)i->received_bytes, "all_gather_bytes", (json_int_t)i->all_gather_bytes,
                     "reduce_scatter_bytes", (json_int_t)i->reduce_scatter_bytes, "messages", (json_int_t)i->messages,
                     "segments", (json_int_t)i->segments, "steps", (json_int_t)i->steps, "calls", (json_int_t)i->calls,
                     "hash", hash);
}

static weft_status one_rank(weft_plan_options *o, int rank, json_t *rows, char **explained) {
    weft_plan *plan = NULL;
    char *text = NULL;
    weft_plan_info info;
    o->rank = rank;
    weft_status status = weft_plan_create(NULL, o, &plan);
    if (status) return status;
    weft_plan_describe(plan, &info);
    if (json)
        json_array_append_new(rows, info_json(rank, &info));
    else
        print_text(rank, &info);
    if (!status && check && rank == 0) status = weft_plan_check(plan);
    if (!status && explain && rank == rank_asked) status = weft_plan_explain(plan, &text);
    if (text && json) json_object_set_new(json_array_get(rows, (size_t)rank), "explain", json_string(text));
    if (text && !json)
        *explained = text; /* after the table of all ranks */
    else
        weft_text_free(text);
    weft_plan_destroy(plan);
    return status;
}

static weft_status all_ranks(weft_plan_options *o, int count, json_t *rows) {
    weft_status status = WEFT_OK;
    char *explained = NULL;
    for (int rank = 0; !status && rank < count; rank++) status = one_rank(o, rank, rows, &explained);
    if (!status && explained) printf("\n%s\n", explained);
    weft_text_free(explained);
    if (!status && check && !json) printf("checked: exchanges match, reads are covered, no deadlock, over %d ranks\n", count);
    return status;
}

static int run(int argc, char **argv) {
    if (!options_parse("plan", options, sizeof options / sizeof *options, argc - 2, argv + 2, NULL)) return EXIT_USAGE;
    weft_plan_options o;
    weft_plan_options_init(&o);
    if (mode_parse(mode_text, &o.mode)) return complain(EXIT_USAGE, "plan: --mode is train, gradients, evaluate, logits or hidden, not '%s'", mode_text);
    if (!shape_parse(shape_text, &o.batch, &o.sequence))
        return complain(EXIT_USAGE, "plan: --shape is like b8s128 (batch, sequence), not '%s'", shape_text);
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    json_t *rows = json_array();
    weft_status status = weft_model_create(model_text, &model);
    if (!status) status = weft_layout_parse(layout_text, &layout);
    if (!status) status = layout_measure(NULL, &layout);
    const int count = status ? 0 : weft_layout_ranks(layout);
    int result = EXIT_FINE;
    if (!status && rank_asked >= count) result = complain(EXIT_USAGE, "plan: --rank %lld, but %s has %d ranks", (long long)rank_asked, layout_text, count);
    o.model = model, o.layout = layout;
    o.memory_bytes = (int64_t)(memory_gib * 0x1p30);
    if (!status && !result) status = all_ranks(&o, count, rows);
    if (!status && !result && json) {
        json_t *top = json_pack("{s:s, s:s, s:s, s:s, s:b, s:O}", "model", model_text, "layout", layout_text, "shape", shape_text,
                                "mode", mode_text, "checked", check, "ranks", rows);
        json_dumpf(top, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
        json_decref(top);
    }
    json_decref(rows);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    return status ? complain_status(status) : result;
}

const command command_plan = {
    "plan", "--model M --shape b8s128 --layout tp2.sp [--explain]", "what each rank would hold, compute and exchange",
    "Lowers the model's step for every rank of the layout, without a device: bytes by class, flops,\n"
    "bytes sent. --explain shows one rank's schedule, --check proves it over all ranks.",
    options, sizeof options / sizeof *options, run};
