/* command_train.c: weft train: options, checks before any rank starts, and the order of the run. */
#include "host/cli/stop.h"
#include "host/cli/train.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { CHECKPOINT_EVERY = 500 };

static context_arguments context_options = {.timeout_s = 0};
static train_arguments a = {.prompt = "",
                            .batch = 8,
                            .sequence = 128,
                            .steps = 100,
                            .seed = -1,
                            .document_end = -1,
                            .evaluate_batches = 8,
                            .checkpoint_every = -1,
                            .keep = 3,
                            .learning_rate = 1e-3,
                            .learning_rate_end = -1,
                            .weight_decay = 0.01,
                            .max_norm = 1,
                            .how = {.temperature = 0.8, .top_p = 1}};
static const option options[] = {
    {"text", OPTION_LIST, "PATH...", "files and folders of text; tokens are bytes", &a.text, 0, 0},
    {"tokens", OPTION_TEXT, "FILE", "instead of text: ids, raw or .npy; the last twentieth is held out to evaluate", &a.tokens, 0, 0},
    {"token-type", OPTION_TEXT, "TYPE", "of raw --tokens: int32, uint16 or int64, little-endian (default: int32)", &a.token_type, 0, 0},
    {"model", OPTION_TEXT, "M", "preset (tiny, gpt2), config.json or folder of a Hugging Face model (default: tiny)", &a.model, 0, 0},
    {"from", OPTION_TEXT, "DIR", "start from a Hugging Face model: its config.json and its weights", &a.from, 0, 0},
    {"layout", OPTION_TEXT, "LAYOUT", "how the step is split, as in tp2.sp.mb2 (default: tpN.sp of --ranks)", &a.layout, 0, 0},
    {"batch", OPTION_INTEGER, "B", "sequences per step, over all ranks", &a.batch, 1, 1 << 20},
    {"sequence", OPTION_INTEGER, "S", "tokens per sequence", &a.sequence, 1, 1 << 24},
    {"document-end", OPTION_INTEGER, "ID", "token that ends a document: the tokens of a sequence then see those of their own document only,\n"
     "                           and learned positions begin anew; of text 256, or 0 of a vocabulary of 256\n"
     "                           (default: they see the whole sequence)", &a.document_end, 0, INT32_MAX},
    {"steps", OPTION_INTEGER, "N", "optimizer steps in all, those of a resumed run included", &a.steps, 1, 1e9},
    {"lr", OPTION_REAL, "RATE", "learning rate of AdamW", &a.learning_rate, 1e-12, 100},
    {"lr-end", OPTION_REAL, "RATE", "cosine decay to this rate at the last step (default: constant)", &a.learning_rate_end, 0, 100},
    {"warmup", OPTION_INTEGER, "N", "steps over which the rate rises to --lr", &a.warmup, 0, 1e9},
    {"weight-decay", OPTION_REAL, "W", "of matrices, decoupled", &a.weight_decay, 0, 10},
    {"clip", OPTION_REAL, "NORM", "largest gradient norm; 0: no clipping", &a.max_norm, 0, 1e9},
    {"seed", OPTION_INTEGER, "N", "of weights, dropout and batches (default: 1, or that of the run that is resumed)", &a.seed, 0, 9e15},
    {"checkpoint", OPTION_TEXT, "DIR", "folder of checkpoints, step-000000500 and so on: weights, optimizer, position; also written at the end\n"
     "                           and when SIGTERM, SIGINT or SIGUSR2 asks to stop: then the status is 0", &a.checkpoint, 0, 0},
    {"checkpoint-every", OPTION_INTEGER, "N", "steps between checkpoints; 0: only at the end or when stopped (default: 500)", &a.checkpoint_every, 0, 1e9},
    {"keep", OPTION_INTEGER, "K", "newest checkpoints that stay; 0: all", &a.keep, 0, 1e6},
    {"resume", OPTION_TEXT, "DIR", "go on from a checkpoint, or the newest of a folder of them; auto: the newest of --checkpoint,\n"
     "                           or from the start if there is none. Any layout, on the same data", &a.resume, 0, 0},
    {"new-data", OPTION_FLAG, NULL, "resume although the data are others", &a.new_data, 0, 0},
    {"save", OPTION_TEXT, "DIR", "write the trained model as a Hugging Face folder", &a.save, 0, 0},
    {"evaluate-every", OPTION_INTEGER, "N", "steps between evaluations (default: at the end only)", &a.evaluate_every, 0, 1e9},
    {"evaluate-batches", OPTION_INTEGER, "N", "batches of an evaluation; 0: none", &a.evaluate_batches, 0, 1e6},
    {"sample", OPTION_INTEGER, "N", "tokens (bytes of text) to generate at the end", &a.sample, 0, 1e6},
    {"prompt", OPTION_TEXT, "TEXT", "that the sample begins with", &a.prompt, 0, 0},
    SAMPLER_OPTIONS(a.how),
    {"gemm", OPTION_TEXT, "VARIANT", "of every matrix product, as in simple or clblast", &a.gemm, 0, 0},
    {"trace", OPTION_TEXT, "FILE", "timeline of the last two steps, all ranks, for Perfetto", &a.trace, 0, 0},
    {"json", OPTION_FLAG, NULL, "one JSON object per step on stdout, nothing else there", &a.json, 0, 0},
    CONTEXT_OPTIONS(context_options),
};

/* What the options say together. */
static int check_options(void) {
    if (!a.text.count && !a.tokens) return complain(EXIT_USAGE, "train: --text is needed, files or folders to train on, or --tokens");
    if (a.text.count && a.tokens) return complain(EXIT_USAGE, "train: --text and --tokens exclude each other");
    if (a.token_type && !a.tokens) return complain(EXIT_USAGE, "train: --token-type is of --tokens, which is not given");
    if (a.from && a.model) return complain(EXIT_USAGE, "train: --from and --model exclude each other: the model is that of --from");
    if (a.evaluate_every && !a.evaluate_batches) return complain(EXIT_USAGE, "train: --evaluate-every needs --evaluate-batches above 0");
    if (a.checkpoint_every >= 0 && !a.checkpoint) return complain(EXIT_USAGE, "train: --checkpoint-every needs --checkpoint, the folder");
    if (a.resume && !strcmp(a.resume, "auto") && !a.checkpoint) return complain(EXIT_USAGE, "train: --resume auto needs --checkpoint, the folder");
    if (a.new_data && !a.resume) return complain(EXIT_USAGE, "train: --new-data is of --resume, which is not given");
    if (*a.prompt && a.tokens) return complain(EXIT_USAGE, "train: --prompt is text, but the model learns tokens of a file");
    if (a.resume && strcmp(a.resume, "auto") && access(a.resume, R_OK | X_OK))
        return complain(EXIT_USAGE, "train: cannot read checkpoint '%s': %s", a.resume, strerror(errno));
    if (a.from) a.model = a.from;
    if (!a.model) a.model = "tiny";
    if (a.checkpoint && a.checkpoint_every < 0) a.checkpoint_every = CHECKPOINT_EVERY;
    return EXIT_FINE;
}

/* What can be refused is refused here, before ranks start: model, layout, shape. */
static int check_plan(weft_model_info *info) {
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_plan *plan = NULL;
    weft_plan_options o;
    weft_plan_options_init(&o);
    weft_status status = weft_model_create(a.model, &model);
    if (!status) status = weft_layout_parse(a.layout, &layout);
    o.model = model, o.layout = layout, o.batch = a.batch, o.sequence = a.sequence, o.gemm = a.gemm;
    o.documents = a.document_end >= 0;
    if (!status) status = weft_plan_create(NULL, &o, &plan);
    if (!status) weft_model_describe(model, info);
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    return status ? complain_status(status) : EXIT_FINE;
}

/* Each token is predicted from those before it: a model that sees those behind it sees the answer. And weights
 * of a real model know words of their tokeniser: bytes would be nonsense to them. */
static int check_model(const weft_model_info *info) {
    const int64_t vocabulary = info->vocabulary;
    if (info->bidirectional)
        return complain(EXIT_USAGE, "train: '%s' (%s) looks at tokens on both sides, so it cannot learn to predict the next one; weft.h trains it "
                                    "on targets of your own", a.model, info->family);
    if (a.document_end >= vocabulary)
        return complain(EXIT_USAGE, "train: --document-end %lld is outside the vocabulary of %lld", (long long)a.document_end, (long long)vocabulary);
    if (!a.from || a.tokens || tokens_are_bytes(vocabulary)) return EXIT_FINE;
    return complain(EXIT_USAGE, "train: the vocabulary of '%s' is %lld, so its tokens are not bytes: give --tokens instead of --text",
                    a.from, (long long)vocabulary);
}

static int train(ranks *ranks) {
    train_run run = {.arguments = &a, .rank = ranks->rank};
    int status = train_open(&run, &context_options, ranks);
    if (!status) status = train_steps(&run);
    if (!status && !run.stopped && a.evaluate_batches) status = train_report(&run);
    if (!status && !run.stopped && a.save) status = train_save(&run);
    if (!status && !run.stopped && a.sample) status = train_sample(&run);
    ranks->parted = run.parted;
    if (!ranks->parted || !ranks->mpi) train_close(&run); /* closing would wait for who does not come */
    return status;
}

/* The data are read before ranks start too: a bad path is one sentence. */
static int probe(int64_t vocabulary) {
    train_data data;
    int status = path_writable("train", a.trace, "the trace file");
    if (!status) status = path_writable("train", a.checkpoint, "checkpoints to");
    if (!status) status = path_writable("train", a.save, "the model to");
    if (!status) status = train_data_open(&a, vocabulary, &data);
    if (!status) train_data_close(&data);
    return status;
}

static int run(int argc, char **argv) {
    weft_model_info info;
    int needed = 1;
    if (!options_parse("train", options, sizeof options / sizeof *options, argc - 2, argv + 2, NULL)) return EXIT_USAGE;
    int status = check_options();
    if (!status) status = ranks_of_layout("train", &context_options, &a.layout, &needed);
    if (!status) status = check_plan(&info);
    if (!status) status = check_model(&info);
    if (!status && !weft_mpi_launched()) status = probe(info.vocabulary);
    if (status) return status;
    const bool is_rank = weft_mpi_launched() || needed == 1;
    if (a.checkpoint && is_rank) stop_watch();
    ranks ranks;
    status = ranks_join(needed, context_options.timeout_s, a.checkpoint ? RANKS_END_SAVED : RANKS_END_AT_ONCE, argv, &ranks);
    if (a.checkpoint) stop_watch(); /* joining has watched for a SIGTERM of its own */
    if (!status) status = train(&ranks);
    return ranks_leave(&ranks, status);
}

const command command_train = {
    "train", "--text PATH... [--model M] [--layout L] [--steps N]", "trains a model on text or tokens, split over ranks",
    "Trains on bytes of text, or on tokens that were made before. Progress goes to stderr; with --json one object per step\n"
    "goes to stdout. Steps count from 1 everywhere: \"step\" says how many are done. At the end: the loss on held-out data, of\n"
    "text beside byte models of order 1, 2 and 3 fitted to the same text. A run that is stopped and resumed gives the same\n"
    "losses as one that was not: the same bits on the same layout. A launcher of your own should give ranks time to save after\n"
    "SIGTERM (mpirun kills after a second): send mpirun SIGUSR2, which it hands on and does not follow up.",
    options, sizeof options / sizeof *options, run};
