/* command_train.c: weft train: options, checks before any rank starts, and the order of the run. */
#include "host/cli/train.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static context_arguments context_options = {.timeout_s = 0};
static train_arguments a = {.model = "tiny",
                            .prompt = "",
                            .batch = 8,
                            .sequence = 128,
                            .steps = 100,
                            .seed = 1,
                            .evaluate_batches = 8,
                            .learning_rate = 1e-3,
                            .learning_rate_end = -1,
                            .weight_decay = 0.01,
                            .max_norm = 1,
                            .temperature = 0.8};
static const option options[] = {
    {"text", OPTION_LIST, "PATH...", "files and folders of text; tokens are bytes", &a.text, 0, 0},
    {"model", OPTION_TEXT, "M", "preset (tiny, gpt2) or a Hugging Face config.json", &a.model, 0, 0},
    {"layout", OPTION_TEXT, "LAYOUT", "how the step is split, as in tp2.sp.mb2 (default: tpN.sp of --ranks)", &a.layout, 0, 0},
    {"batch", OPTION_INTEGER, "B", "sequences per step, over all ranks", &a.batch, 1, 1 << 20},
    {"sequence", OPTION_INTEGER, "S", "tokens per sequence", &a.sequence, 1, 1 << 24},
    {"steps", OPTION_INTEGER, "N", "optimizer steps", &a.steps, 1, 1e9},
    {"lr", OPTION_REAL, "RATE", "learning rate of AdamW", &a.learning_rate, 1e-12, 100},
    {"lr-end", OPTION_REAL, "RATE", "cosine decay to this rate at the last step (default: constant)", &a.learning_rate_end, 0, 100},
    {"warmup", OPTION_INTEGER, "N", "steps over which the rate rises to --lr", &a.warmup, 0, 1e9},
    {"weight-decay", OPTION_REAL, "W", "of matrices, decoupled", &a.weight_decay, 0, 10},
    {"clip", OPTION_REAL, "NORM", "largest gradient norm; 0: no clipping", &a.max_norm, 0, 1e9},
    {"seed", OPTION_INTEGER, "N", "of weights, dropout and batches", &a.seed, 0, 9e15},
    {"evaluate-every", OPTION_INTEGER, "N", "steps between evaluations (default: at the end only)", &a.evaluate_every, 0, 1e9},
    {"evaluate-batches", OPTION_INTEGER, "N", "batches of an evaluation", &a.evaluate_batches, 0, 1e6},
    {"sample", OPTION_INTEGER, "N", "bytes of text to generate at the end", &a.sample, 0, 1e6},
    {"prompt", OPTION_TEXT, "TEXT", "that the sample begins with", &a.prompt, 0, 0},
    {"temperature", OPTION_REAL, "T", "of the sample; 0: always the likeliest byte", &a.temperature, 0, 100},
    {"gemm", OPTION_TEXT, "VARIANT", "of every matrix product, as in simple or clblast", &a.gemm, 0, 0},
    {"trace", OPTION_TEXT, "FILE", "timeline of the last two steps, all ranks, for Perfetto", &a.trace, 0, 0},
    {"json", OPTION_FLAG, NULL, "one JSON object per step on stdout, nothing else there", &a.json, 0, 0},
    CONTEXT_OPTIONS(context_options),
};

/* What can be refused is refused here, before ranks start: model, layout, shape, text. */
static int check(int *needed) {
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_plan *plan = NULL;
    static char default_layout[24];
    if (!a.layout) {
        snprintf(default_layout, sizeof default_layout, context_options.ranks > 1 ? "tp%lld.sp" : "tp1", (long long)context_options.ranks);
        a.layout = default_layout;
    }
    if (!a.text.count) return complain(EXIT_USAGE, "train: --text is needed: files or folders to train on");
    weft_status status = weft_model_create(a.model, &model);
    if (!status) status = weft_layout_parse(a.layout, &layout);
    int result = EXIT_FINE;
    if (!status) *needed = weft_layout_ranks(layout);
    if (!status && context_options.ranks && context_options.ranks != *needed)
        result = complain(EXIT_USAGE, "train: layout %s is for %d rank%s, but --ranks says %lld", a.layout, *needed,
                          *needed == 1 ? "" : "s", (long long)context_options.ranks);
    if (!status && !result) {
        weft_plan_options o;
        weft_plan_options_init(&o);
        o.model = model, o.layout = layout, o.batch = a.batch, o.sequence = a.sequence, o.gemm = a.gemm;
        status = weft_plan_create(NULL, &o, &plan);
    }
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    return status ? complain_status(status) : result;
}

/* Not after an hour of training. */
static int check_trace(void) {
    if (!a.trace) return EXIT_FINE;
    const char *slash = strrchr(a.trace, '/');
    const int length = slash == a.trace ? 1 : slash ? (int)(slash - a.trace) : 0;
    char folder[4096] = ".";
    if (length) snprintf(folder, sizeof folder, "%.*s", length, a.trace);
    if (access(folder, W_OK | X_OK) == 0) return EXIT_FINE;
    return complain(EXIT_USAGE, "train: cannot write the trace file %s: %s", a.trace, strerror(errno));
}

static int train(ranks *ranks) {
    train_run run = {.arguments = &a, .rank = ranks->rank};
    int status = train_open(&run, &context_options, ranks);
    if (!status) status = train_steps(&run);
    if (!status && a.evaluate_batches) status = train_report(&run);
    if (!status && a.sample) status = train_sample(&run);
    ranks->parted = run.parted;
    if (!ranks->parted || !ranks->mpi) train_close(&run); /* closing would wait for who does not come */
    return status;
}

static int run(int argc, char **argv) {
    if (!options_parse("train", options, sizeof options / sizeof *options, argc - 2, argv + 2, NULL)) return EXIT_USAGE;
    int needed = 1;
    int status = check(&needed);
    if (status) return status;
    if (!weft_mpi_launched()) { /* the text is read before ranks start too: a bad path is one sentence */
        corpus probe;
        status = check_trace();
        if (status) return status;
        status = corpus_read(a.text.text, a.text.count, 20, &probe);
        if (status) return status;
        corpus_free(&probe);
    }
    ranks ranks;
    status = ranks_join(needed, context_options.timeout_s, argv, &ranks);
    if (!status) status = train(&ranks);
    return ranks_leave(&ranks, status);
}

const command command_train = {
    "train", "--text PATH... [--model M] [--layout L] [--steps N]", "trains a GPT on text, split over ranks",
    "Trains on bytes of text. Progress goes to stderr; with --json one object per step goes to stdout.\n"
    "At the end: the evaluation loss beside byte models of order 1, 2 and 3 fitted to the same text.",
    options, sizeof options / sizeof *options, run};
