/* command_run.c: weft run: a model's logits, hidden states, or the text that it goes on with.
 *
 * Input is cut into windows, each a sequence of its own; a shorter last one has a plan of its own, so that
 * nothing is padded: a model that looks both ways would see it. */
#include "host/cli/sample.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "host/cli/corpus.h"
#include "host/cli/npy.h"

static context_arguments context_options;
static struct {
    const char *model, *layout, *gemm, *text, *tokens, *token_type, *prompt, *logits, *hidden;
    int64_t window, sample, seed;
    sampler how;                
    bool bytes, json;
} a = {.seed = 1, .how = {.temperature = 0.8, .top_p = 1}};
static const option options[] = {
    {"model", OPTION_TEXT, "DIR", "folder of a Hugging Face model: config.json and model.safetensors (shards too)", &a.model, 0, 0},
    {"prompt", OPTION_TEXT, "TEXT", "input: this text, as bytes", &a.prompt, 0, 0},
    {"text", OPTION_TEXT, "FILE", "input: the bytes of a file", &a.text, 0, 0},
    {"tokens", OPTION_TEXT, "FILE", "input: ids, raw or .npy", &a.tokens, 0, 0},
    {"token-type", OPTION_TEXT, "TYPE", "of raw --tokens: int32, uint16 or int64, little-endian (default: int32)", &a.token_type, 0, 0},
    {"bytes", OPTION_FLAG, NULL, "tokens are bytes although the vocabulary is larger than 257", &a.bytes, 0, 0},
    {"logits", OPTION_TEXT, "FILE", "write logits: .npy, f32, [tokens, vocabulary]", &a.logits, 0, 0},
    {"hidden", OPTION_TEXT, "FILE", "write the last hidden states: .npy, f32, [tokens, hidden]", &a.hidden, 0, 0},
    {"sample", OPTION_INTEGER, "N", "go on for N tokens, on stdout: bytes as text, others as ids", &a.sample, 1, 1e6},
    SAMPLER_OPTIONS(a.how),
    {"seed", OPTION_INTEGER, "N", "of the sample", &a.seed, 0, 9e15},
    {"window", OPTION_INTEGER, "W", "cut the input into sequences of W tokens that do not see each other (default: one)", &a.window, 1, 1 << 24},
    {"layout", OPTION_TEXT, "LAYOUT", "how the model is split, as in tp2.sp (default: tpN.sp of --ranks)", &a.layout, 0, 0},
    {"gemm", OPTION_TEXT, "VARIANT", "of every matrix product, as in simple or clblast", &a.gemm, 0, 0},
    {"json", OPTION_FLAG, NULL, "one JSON object on stdout: what was written; a sample goes to stderr", &a.json, 0, 0},
    CONTEXT_OPTIONS(context_options),
};

typedef struct input {
    token_source tokens;
    token_file file;        /* of --tokens */
    unsigned char *text;    /* of --text */
} input;

typedef struct model_run {
    int rank;
    bool *parted;           /* a run failed: perhaps on this rank alone, and others wait for it */
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    weft_model_info info;
    input input;
} model_run;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- input ---------------------------------------------------------------------------------------------- */

static int read_text(const char *path, input *out) {
    struct stat what;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &what)) {
        const int error = errno;
        if (file) fclose(file);
        return complain(EXIT_USAGE, "run: cannot read text '%s': %s", path, strerror(error));
    }
    int status = EXIT_FINE;
    const size_t size = S_ISREG(what.st_mode) ? (size_t)what.st_size : 0;
    if (!size) status = complain(EXIT_USAGE, "run: text '%s' is %s", path, S_ISREG(what.st_mode) ? "empty" : "not a file");
    if (!status && !(out->text = malloc(size))) status = complain(EXIT_ENVIRONMENT, "run: out of memory for the text");
    if (!status && fread(out->text, 1, size, file) != size) status = complain(EXIT_USAGE, "run: cannot read text '%s'", path);
    fclose(file);
    out->tokens = (token_source){out->text, 1, (int64_t)size};
    return status;
}

static void close_input(input *in) {
    tokens_close(&in->file);
    free(in->text);
    *in = (input){.text = NULL};
}

static int open_input(int64_t vocabulary, input *out) {
    input in = {.text = NULL};
    int status = EXIT_FINE;
    if (a.tokens) {
        status = tokens_open(a.tokens, a.token_type, vocabulary, &in.file);
        in.tokens = in.file.tokens;
    } else if (a.text) {
        status = read_text(a.text, &in);
    } else {
        in.tokens = (token_source){(const unsigned char *)a.prompt, 1, (int64_t)strlen(a.prompt)};
    }
    if (status) close_input(&in);
    else *out = in;
    return status;
}

/* ---- checks before any rank starts -------------------------------------------------------------------------- */

static int check_options(void) {
    const int inputs = !!a.prompt + !!a.text + !!a.tokens;
    if (!a.model) return complain(EXIT_USAGE, "run: --model is needed: a folder with config.json and model.safetensors");
    if (inputs != 1) return complain(EXIT_USAGE, "run: one of --prompt, --text and --tokens is needed, the input");
    if (!a.logits && !a.hidden && !a.sample) return complain(EXIT_USAGE, "run: nothing is asked for: give --logits, --hidden or --sample");
    if (a.token_type && !a.tokens) return complain(EXIT_USAGE, "run: --token-type is of --tokens, which is not given");
    if (a.bytes && a.tokens) return complain(EXIT_USAGE, "run: --bytes is of text, but --tokens are given");
    int status = path_writable("run", a.logits, "logits to");
    return status ? status : path_writable("run", a.hidden, "hidden states to");
}

static int check_model(const weft_model_info *i) {
    if (!a.tokens && !tokens_are_bytes(i->vocabulary) && !(a.bytes && i->vocabulary > 257))
        return complain(EXIT_USAGE,
                        "run: the vocabulary of '%s' is %lld, so its tokens are not bytes (256 or 257): give tokenised input by --tokens%s",
                        a.model, (long long)i->vocabulary, i->vocabulary > 257 ? ", or say --bytes" : "");
    if (!i->has_head && (a.logits || a.sample))
        return complain(EXIT_USAGE, "run: '%s' has no head, so no logits and no sample: only --hidden", a.model);
    if (i->bidirectional && a.sample)
        return complain(EXIT_USAGE, "run: '%s' looks at tokens on both sides, so it cannot go on with a text: --logits or --hidden", a.model);
    return EXIT_FINE;
}

static int64_t window_of(int64_t tokens) {
    return a.window && a.window < tokens ? a.window : tokens;
}

static int check_length(const weft_model_info *i, int64_t tokens) {
    if (!tokens && (a.logits || a.hidden)) return complain(EXIT_USAGE, "run: the input is empty");
    if ((a.logits || a.hidden) && window_of(tokens) > i->positions)
        return complain(EXIT_USAGE, "run: %lld tokens are more than the model's %lld positions: --window cuts them into sequences",
                        (long long)window_of(tokens), (long long)i->positions);
    if (a.window > i->positions)
        return complain(EXIT_USAGE, "run: --window %lld is more than the model's %lld positions", (long long)a.window, (long long)i->positions);
    return EXIT_FINE;
}

static int check(void) {
    weft_model *model = NULL;
    weft_model_info info;
    input in = {.text = NULL};
    int status = check_options();
    if (status) return status;
    const weft_status created = weft_model_create(a.model, &model);
    if (created) return complain_status(created);
    weft_model_describe(model, &info);
    status = check_model(&info);
    if (!status) status = open_input(info.vocabulary, &in);
    if (!status) status = check_length(&info, in.tokens.count);
    close_input(&in);
    weft_model_destroy(model);
    return status;
}

/* ---- running --------------------------------------------------------------------------------------------------- */

/* Every variant that --gemm may name takes rows. */
static weft_order order_asked(void) {
    return a.gemm ? WEFT_ORDER_ROWS : WEFT_ORDER_AUTO;
}

static weft_status open_plan(const model_run *r, weft_mode mode, int64_t sequence, weft_plan **out) {
    weft_plan_options o;
    weft_plan *plan = NULL;
    weft_plan_options_init(&o);
    o.model = r->model, o.layout = r->layout, o.mode = mode, o.gemm = a.gemm;
    o.order = order_asked();
    o.batch = 1, o.sequence = sequence;
    weft_status status = weft_plan_create(r->context, &o, &plan);
    if (!status) status = weft_plan_load(plan, r->params);
    if (status) weft_plan_destroy(plan);
    else *out = plan;
    return status;
}

static weft_status open_all(model_run *r, const ranks *ranks) {
    weft_layout *layout = NULL;
    weft_status status = context_open(&context_options, ranks, false, &r->context);
    if (!status) status = weft_model_create(a.model, &r->model);
    if (!status) status = weft_layout_parse(a.layout, &layout);
    if (!status) status = layout_measure(r->context, &layout);
    if (!status) status = layout_of_one(layout, &r->layout);
    if (!status) status = weft_params_create_ordered(r->context, r->model, r->layout, order_asked(), &r->params);
    if (!status) status = weft_params_load(r->params, a.model);
    if (!status) weft_model_describe(r->model, &r->info);
    weft_layout_destroy(layout);
    return status;
}

static void close_all(model_run *r) {
    close_input(&r->input);
    weft_params_destroy(r->params);
    weft_layout_destroy(r->layout);
    weft_model_destroy(r->model);
    weft_context_destroy(r->context);
}

/* One window's rows, to rank 0's file. */
static int run_window(const model_run *r, weft_plan *plan, weft_mode mode, int64_t first, int64_t count, int32_t *ids, float *row,
                      npy_writer *file) {
    weft_args args;
    weft_result result;
    weft_args_init(&args);
    for (int64_t i = 0; i < count; i++) ids[i] = (int32_t)token_at(&r->input.tokens, first + i);
    args.tokens = ids;
    weft_status status = weft_plan_run(plan, &args, &result);
    if (status) return *r->parted = true, complain_status(status);
    int written = EXIT_FINE;
    for (int64_t i = 0; i < count && !status && !written && r->rank == 0; i++) {
        status = mode == WEFT_LOGITS ? weft_plan_logits(plan, 0, i, row) : weft_plan_hidden(plan, 0, i, row);
        if (!status) written = npy_write_row(file, row);
    }
    return status ? complain_status(status) : written;
}

static int run_windows(const model_run *r, weft_mode mode, int32_t *ids, float *row, npy_writer *file) {
    const int64_t tokens = r->input.tokens.count, window = window_of(tokens);
    weft_plan *plan = NULL;
    int64_t planned = 0;
    int status = EXIT_FINE;
    for (int64_t first = 0; first < tokens && !status; first += window) {
        const int64_t count = tokens - first < window ? tokens - first : window;
        if (count != planned) {
            weft_plan_destroy(plan);
            plan = NULL;
            const weft_status opened = open_plan(r, mode, count, &plan);
            if (opened) return fail_on_rank(r->rank, opened);
            planned = count;
        }
        status = run_window(r, plan, mode, first, count, ids, row, file);
        if (*r->parted) break;
        /* the others must not begin a window that rank 0, whose disk is full, does not */
        if (weft_context_agree(r->context, status ? WEFT_ERR_FILE : WEFT_OK) && !status) status = EXIT_ENVIRONMENT;
    }
    weft_plan_destroy(plan);
    return status;
}

static int write_rows(const model_run *r, weft_mode mode, const char *path) {
    npy_writer file = {.file = NULL};
    const int64_t tokens = r->input.tokens.count, columns = mode == WEFT_LOGITS ? r->info.vocabulary : r->info.hidden;
    int32_t *ids = malloc((size_t)window_of(tokens) * sizeof *ids);
    float *row = malloc((size_t)columns * sizeof *row);
    int status = ids && row ? EXIT_FINE : complain(EXIT_ENVIRONMENT, "run: out of memory for a window");
    if (!status && r->rank == 0) status = npy_create(path, tokens, columns, &file);
    if (weft_context_agree(r->context, status ? WEFT_ERR_FILE : WEFT_OK) && !status) status = EXIT_ENVIRONMENT;
    if (!status) status = run_windows(r, mode, ids, row, &file);
    if (!status && r->rank == 0) status = npy_finish(&file);
    npy_abandon(&file);
    free(ids);
    free(row);
    return status;
}

static int sample(const model_run *r) {
    sampler how = a.how;
    const int64_t longest = r->input.tokens.count + a.sample + 1, most = a.window ? a.window : r->info.positions;
    sample_request request = {.window = longest < most ? longest : most,
                              .vocabulary = r->info.vocabulary,
                              .bytes = !a.tokens,
                              .end = a.tokens ? -1 : r->info.vocabulary > CORPUS_END ? CORPUS_END : 0,
                              .more = a.sample,
                              .rank = r->rank,
                              .out = a.json ? stderr : stdout};
    how.state = (uint64_t)a.seed;
    const weft_status opened = open_plan(r, WEFT_LOGITS, request.window, &request.plan);
    if (opened) return fail_on_rank(r->rank, opened);
    const int status = a.tokens ? sample_after_tokens(&request, &how, &r->input.tokens)
                                : sample_after_text(&request, &how, (const char *)r->input.tokens.data, r->input.tokens.count);
    *r->parted = status != EXIT_FINE;
    weft_plan_destroy(request.plan);
    return status;
}

static void report(const model_run *r, double seconds) {
    const int64_t tokens = r->input.tokens.count;
    if (a.json) {
        char layout[384];
        weft_layout_print(r->layout, layout, sizeof layout);
        json_t *row = json_pack("{s:s, s:s, s:I, s:I, s:s?, s:s?, s:f}", "model", a.model, "layout", layout, "tokens", (json_int_t)tokens,
                                "window", (json_int_t)window_of(tokens), "logits", a.logits, "hidden", a.hidden, "seconds", seconds);
        if (row) json_dumpf(row, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
        json_decref(row);
        return;
    }
    if (a.logits) fprintf(stderr, "logits: %s, f32 [%lld, %lld]\n", a.logits, (long long)tokens, (long long)r->info.vocabulary);
    if (a.hidden) fprintf(stderr, "hidden states: %s, f32 [%lld, %lld]\n", a.hidden, (long long)tokens, (long long)r->info.hidden);
}

static int run_model(ranks *ranks) {
    model_run r = {.rank = ranks->rank, .parted = &ranks->parted};
    const double started = now();
    const weft_status opened = open_all(&r, ranks);
    int status = opened ? fail_on_rank(r.rank, opened) : EXIT_FINE;
    if (!status) {
        status = open_input(r.info.vocabulary, &r.input);
        if (weft_context_agree(r.context, status ? WEFT_ERR_FILE : WEFT_OK) && !status) status = EXIT_USAGE;
    }
    if (!status && a.logits) status = write_rows(&r, WEFT_LOGITS, a.logits);
    if (!status && a.hidden) status = write_rows(&r, WEFT_HIDDEN, a.hidden);
    if (!status && a.sample) status = sample(&r);
    if (!status && r.rank == 0) report(&r, now() - started);
    if (!ranks->parted || !ranks->mpi) close_all(&r); /* closing would wait for who does not come */
    return status;
}

static int run(int argc, char **argv) {
    int needed = 1;
    if (!options_parse("run", options, sizeof options / sizeof *options, argc - 2, argv + 2, NULL)) return EXIT_USAGE;
    int status = check();
    if (!status) status = ranks_of_layout("run", &context_options, &a.layout, &needed);
    if (status) return status;
    ranks ranks;
    status = ranks_join(needed, context_options.timeout_s, RANKS_END_AT_ONCE, argv, &ranks);
    if (!status) status = run_model(&ranks);
    return ranks_leave(&ranks, status);
}

const command command_run = {
    "run", "--model DIR --prompt TEXT|--text FILE|--tokens FILE --logits FILE|--hidden FILE|--sample N",
    "runs a model: logits, hidden states or text",
    "Reads a Hugging Face model (gpt2, llama, bert), splits it over ranks, and writes logits or hidden states of an input, or goes\n"
    "on with it. weft has no tokeniser: text is bytes, for models of a vocabulary of 256 or 257 (257: an end mark, id 256);\n"
    "for others tokenise first and give the ids by --tokens. Files are whole or not there.",
    options, sizeof options / sizeof *options, run};
