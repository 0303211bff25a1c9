#include "host/cli/train.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { HOLDOUT = 20, BYTE_ORDERS = 3, TRACED_STEPS = 2 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What all ranks have agreed on rank 0 says. A step fails on one rank alone, which says it itself; so
 * does each that has waited in vain. */
static int fail(train_run *r, weft_status status) {
    r->parted = r->stepping || status == WEFT_ERR_TIMEOUT || status == WEFT_ERR_FABRIC;
    return fail_on_rank(r->parted ? 0 : r->rank, status);
}

/* ---- opening --------------------------------------------------------------------------------------- */

static weft_status open_plan(train_run *r, weft_mode mode, const weft_layout *layout, int64_t batch, weft_plan **out) {
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = r->model, o.layout = layout, o.mode = mode, o.gemm = r->arguments->gemm;
    o.batch = batch, o.sequence = r->arguments->sequence;
    weft_plan *plan = NULL;
    const weft_status status = weft_plan_create(r->context, &o, &plan);
    if (status) return status;
    *out = plan;
    return weft_plan_load(plan, r->params);
}

/* One sequence makes no microbatches: the layout without its mb. */
static weft_status open_sampling(train_run *r) {
    char text[256], kept[256] = "";
    weft_layout *layout = NULL;
    weft_layout_print(r->layout, text, sizeof text);
    for (char *rest, *term = strtok_r(text, ".", &rest); term; term = strtok_r(NULL, ".", &rest)) {
        const size_t used = strlen(kept);
        if (strncmp(term, "mb", 2) != 0) snprintf(kept + used, sizeof kept - used, "%s%s", used ? "." : "", term);
    }
    weft_status status = weft_layout_parse(kept, &layout);
    if (!status) status = open_plan(r, WEFT_LOGITS, layout, 1, &r->logits);
    weft_layout_destroy(layout);
    return status;
}

static weft_status open_all(train_run *r, const context_arguments *context, const ranks *ranks) {
    const train_arguments *a = r->arguments;
    weft_status status = context_open(context, ranks, a->trace != NULL, &r->context);
    if (!status) status = weft_model_create(a->model, &r->model);
    if (!status) status = weft_layout_parse(a->layout, &r->layout);
    if (!status) status = weft_params_create(r->context, r->model, r->layout, &r->params);
    if (!status) status = open_plan(r, WEFT_TRAIN, r->layout, a->batch, &r->plan);
    if (!status && (a->evaluate_batches || a->evaluate_every)) status = open_plan(r, WEFT_EVALUATE, r->layout, a->batch, &r->evaluation);
    if (!status && a->sample) status = open_sampling(r);
    if (!status) status = weft_params_init(r->params, (uint64_t)a->seed);
    return status;
}

static int check_corpus(const train_run *r) {
    const corpus *c = &r->corpus;
    const int64_t window = r->arguments->sequence + 1;
    if (r->info.vocabulary < CORPUS_VOCABULARY)
        return r->rank ? EXIT_USAGE
                       : complain(EXIT_USAGE, "bytes and an end mark need a vocabulary of %d, but the model has %lld",
                                  CORPUS_VOCABULARY, (long long)r->info.vocabulary);
    if (c->train.count <= window || (r->evaluation && c->evaluation.count <= window))
        return r->rank ? EXIT_USAGE
                       : complain(EXIT_USAGE,
                                  "the text is too short for sequences of %lld: %lld bytes to train on, %lld held out to evaluate "
                                  "(more text, a smaller --sequence, or --evaluate-batches 0)",
                                  (long long)r->arguments->sequence, (long long)c->train.count, (long long)c->evaluation.count);
    return EXIT_FINE;
}

int train_open(train_run *r, const context_arguments *context, const ranks *ranks) {
    const train_arguments *a = r->arguments;
    const weft_status status = open_all(r, context, ranks);
    if (status) return fail(r, status);
    weft_model_describe(r->model, &r->info);
    int result = corpus_read(a->text.text, a->text.count, HOLDOUT, &r->corpus);
    if (!result) result = check_corpus(r);
    r->tokens = malloc((size_t)(a->batch * a->sequence) * sizeof *r->tokens);
    r->targets = malloc((size_t)(a->batch * a->sequence) * sizeof *r->targets);
    if (!result && (!r->tokens || !r->targets)) result = complain(EXIT_ENVIRONMENT, "out of memory for a batch");
    /* a rank that cannot read what the others can must not leave them waiting */
    if (weft_context_agree(r->context, result ? WEFT_ERR_FILE : WEFT_OK) && !result) result = EXIT_USAGE;
    if (!result && r->rank == 0)
        fprintf(stderr,
                "text: %lld files, %.1f MB; %lld of %lld paragraphs are repeats and left out; %.2f MB to train on, %.2f MB to evaluate\n"
                "model: %s, %lld layers, hidden %lld, %lld heads, %.2f M parameters; layout %s on %d rank%s; %lld x %lld tokens a step\n",
                (long long)r->corpus.files, 1e-6 * (double)r->corpus.bytes, (long long)r->corpus.duplicates,
                (long long)r->corpus.paragraphs, 1e-6 * (double)r->corpus.train.count, 1e-6 * (double)r->corpus.evaluation.count,
                a->model, (long long)r->info.layers, (long long)r->info.hidden, (long long)r->info.heads,
                1e-6 * (double)r->info.parameters, a->layout, ranks->count, ranks->count == 1 ? "" : "s", (long long)a->batch,
                (long long)a->sequence);
    return result;
}

void train_close(train_run *r) {
    weft_plan_destroy(r->logits);
    weft_plan_destroy(r->evaluation);
    weft_plan_destroy(r->plan);
    weft_params_destroy(r->params);
    weft_layout_destroy(r->layout);
    weft_model_destroy(r->model);
    weft_context_destroy(r->context);
    corpus_free(&r->corpus);
    free(r->tokens);
    free(r->targets);
}

/* ---- batches ------------------------------------------------------------------------------------------ */

static void take_window(train_run *r, const token_list *text, int64_t row, int64_t first) {
    const int64_t sequence = r->arguments->sequence;
    for (int64_t i = 0; i < sequence; i++) {
        r->tokens[row * sequence + i] = text->token[first + i];
        r->targets[row * sequence + i] = text->token[first + i + 1];
    }
}

/* A function of (seed, step), so that every rank draws the same windows. */
static void take_batch(train_run *r, int64_t step) {
    uint64_t state = (uint64_t)r->arguments->seed * 0x9e3779b97f4a7c15u + (uint64_t)step;
    const int64_t choices = r->corpus.train.count - r->arguments->sequence;
    for (int64_t row = 0; row < r->arguments->batch; row++)
        take_window(r, &r->corpus.train, row, (int64_t)(random_uniform(&state) * (double)choices));
}

/* ---- evaluation ----------------------------------------------------------------------------------------- */

/* Consecutive windows from the start of the evaluation part; those past its end do not count. */
static weft_status evaluate(train_run *r, double *loss_out, int64_t *tokens_out) {
    const train_arguments *a = r->arguments;
    const token_list *text = &r->corpus.evaluation;
    double sum = 0;
    int64_t tokens = 0, first = 0;
    for (int64_t batch = 0; batch < a->evaluate_batches && first + a->sequence < text->count; batch++) {
        for (int64_t row = 0; row < a->batch; row++, first += a->sequence) {
            const bool inside = first + a->sequence < text->count;
            take_window(r, text, row, inside ? first : 0);
            for (int64_t i = 0; !inside && i < a->sequence; i++) r->targets[row * a->sequence + i] = -1;
        }
        weft_args args;
        weft_result result;
        weft_args_init(&args);
        args.tokens = r->tokens, args.targets = r->targets;
        const weft_status status = weft_plan_run(r->evaluation, &args, &result);
        if (status) return status;
        sum += result.loss * (double)result.tokens, tokens += result.tokens;
    }
    *loss_out = sum / (double)tokens, *tokens_out = tokens;
    return WEFT_OK;
}

int train_report(train_run *r) {
    double loss, orders[BYTE_ORDERS + 1];
    int64_t tokens;
    const weft_status status = evaluate(r, &loss, &tokens);
    if (status) return fail(r, status);
    if (r->rank) return EXIT_FINE;
    FILE *out = r->arguments->json ? stderr : stdout;
    if (!ngram_losses(&r->corpus.train, &r->corpus.evaluation, tokens, BYTE_ORDERS, orders))
        return complain(EXIT_ENVIRONMENT, "out of memory for the byte models");
    fprintf(out, "evaluation on %lld held-out bytes, nats per byte:\n", (long long)tokens);
    bool shown = false;
    for (int order = 1; order <= BYTE_ORDERS; order++) {
        if (!shown && loss > orders[order]) shown = fprintf(out, "  %.3f  <- this model\n", loss) > 0;
        fprintf(out, "  %.3f  byte model of order %d (each byte given the %d before)\n", orders[order], order, order);
    }
    if (!shown) fprintf(out, "  %.3f  <- this model\n", loss);
    return EXIT_FINE;
}

/* ---- steps ------------------------------------------------------------------------------------------------ */

static double learning_rate(const train_arguments *a, int64_t step) {
    if (step < a->warmup) return a->learning_rate * (double)(step + 1) / (double)a->warmup;
    if (a->learning_rate_end < 0 || a->steps <= a->warmup + 1) return a->learning_rate;
    const double done = (double)(step - a->warmup) / (double)(a->steps - 1 - a->warmup);
    return a->learning_rate_end + (a->learning_rate - a->learning_rate_end) * 0.5 * (1 + cos(3.14159265358979323846 * done));
}

static void report_json(int64_t step, const weft_result *result, double tokens_per_s) {
    json_t *row = json_pack("{s:I, s:f, s:f, s:f}", "step", (json_int_t)step, "loss", result->loss, "tokens_per_s",
                            tokens_per_s, "grad_norm", result->grad_norm);
    if (row) json_dumpf(row, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
    fflush(stdout);
    json_decref(row);
}

/* A line that overwrites itself on a terminal, plain lines ten times a run elsewhere. */
static void report_progress(const train_run *r, int64_t step, const weft_result *result, double tokens_per_s, double spent) {
    const int64_t steps = r->arguments->steps, every = steps / 10 > 0 ? steps / 10 : 1;
    const bool terminal = isatty(STDERR_FILENO), last = step + 1 == steps;
    if (!terminal && step && (step + 1) % every && !last) return;
    const double eta = spent / (double)(step + 1) * (double)(steps - step - 1);
    fprintf(stderr, "%sstep %lld/%lld  loss %.4f  norm %.2f  %.0f tokens/s  ETA %d:%02d%s", terminal ? "\r" : "", (long long)step + 1,
            (long long)steps, result->loss, result->grad_norm, tokens_per_s, (int)eta / 60, (int)eta % 60,
            terminal && !last ? "\x1b[K" : "\n");
}

static int one_step(train_run *r, int64_t step, double started) {
    const train_arguments *a = r->arguments;
    weft_args args;
    weft_result result;
    weft_args_init(&args);
    take_batch(r, step);
    args.tokens = r->tokens, args.targets = r->targets;
    args.seed = (uint64_t)a->seed, args.step = step;
    args.learning_rate = (float)learning_rate(a, step);
    args.weight_decay = (float)a->weight_decay, args.max_norm = (float)a->max_norm;
    if (a->trace && step == (a->steps > TRACED_STEPS ? a->steps - TRACED_STEPS : 0)) {
        const weft_status status = weft_plan_trace(r->plan, true);
        if (status) return fail(r, status);
    }
    const weft_status status = weft_plan_run(r->plan, &args, &result);
    if (status) return fail(r, status);
    if (!isfinite(result.loss) || !isfinite(result.grad_norm)) /* the same bits on every rank */
        return r->rank ? EXIT_CHECK : complain(EXIT_CHECK, "step %lld: loss %g, gradient norm %g: training diverged", (long long)step, result.loss, result.grad_norm);
    if (r->rank) return EXIT_FINE;
    const double tokens_per_s = (double)(a->batch * a->sequence) / result.seconds;
    if (a->json) report_json(step, &result, tokens_per_s);
    report_progress(r, step, &result, tokens_per_s, now() - started);
    return EXIT_FINE;
}

int train_steps(train_run *r) {
    r->stepping = true;
    const train_arguments *a = r->arguments;
    const double started = now();
    for (int64_t step = 0; step < a->steps; step++) {
        const int status = one_step(r, step, started);
        if (status) return status;
        if (!a->evaluate_every || (step + 1) % a->evaluate_every) continue;
        double loss;
        int64_t tokens;
        const weft_status failed = evaluate(r, &loss, &tokens);
        if (failed) return fail(r, failed);
        if (!r->rank) fprintf(stderr, "\nstep %lld: evaluation loss %.4f over %lld bytes\n", (long long)step + 1, loss, (long long)tokens);
    }
    if (!r->rank) fprintf(stderr, "trained %lld steps in %.1f s\n", (long long)a->steps, now() - started);
    if (!a->trace) return EXIT_FINE;
    const weft_status status = weft_plan_trace_write(r->plan, a->trace);
    if (status) return fail(r, status);
    if (!r->rank) fprintf(stderr, "trace: %s; https://ui.perfetto.dev opens it\n", a->trace);
    return EXIT_FINE;
}

/* ---- sampling ----------------------------------------------------------------------------------------------- */

/* Inverse of the cumulative distribution of softmax(logits / temperature) over bytes and the end mark. */
static int draw(const float *logits, double temperature, uint64_t *state) {
    int best = 0;
    for (int i = 1; i < CORPUS_VOCABULARY; i++)
        if (logits[i] > logits[best]) best = i;
    if (temperature == 0) return best;
    double sum = 0;
    for (int i = 0; i < CORPUS_VOCABULARY; i++) sum += exp((logits[i] - logits[best]) / temperature);
    double rest = random_uniform(state) * sum;
    for (int i = 0; i < CORPUS_VOCABULARY; i++) {
        rest -= exp((logits[i] - logits[best]) / temperature);
        if (rest < 0) return i;
    }
    return best;
}

/* The whole window is recomputed for each byte: there is no cache yet. Every rank draws the same. */
int train_sample(train_run *r) {
    const train_arguments *a = r->arguments;
    const int64_t window = a->sequence;
    float *logits = malloc((size_t)r->info.vocabulary * sizeof *logits);
    int32_t *text = calloc((size_t)(window + a->sample) + strlen(a->prompt) + 1, sizeof *text);
    if (!logits || !text) return free(logits), free(text), complain(EXIT_ENVIRONMENT, "out of memory for a sample");
    FILE *out = a->json ? stderr : stdout;
    if (!r->rank) fprintf(out, "sample:\n%s", a->prompt);
    int64_t count = 0;
    uint64_t state = (uint64_t)a->seed;
    weft_status status = WEFT_OK;
    text[count++] = CORPUS_END; /* a document begins where another ended */
    for (const char *c = a->prompt; *c; c++) text[count++] = (unsigned char)*c;
    for (int64_t i = 0; !status && i < a->sample; i++) {
        const int64_t first = count > window ? count - window : 0;
        weft_args args;
        weft_result result;
        weft_args_init(&args);
        args.tokens = text + first; /* what lies after the last token is masked by causality */
        status = weft_plan_run(r->logits, &args, &result);
        if (!status) status = weft_plan_logits(r->logits, 0, count - first - 1, logits);
        if (status) break;
        text[count] = draw(logits, a->temperature, &state);
        if (text[count] == CORPUS_END) break;
        if (!r->rank) fputc(text[count], out), fflush(out);
        count++;
    }
    if (!r->rank) fputc('\n', out);
    free(logits);
    free(text);
    return status ? fail(r, status) : EXIT_FINE;
}
