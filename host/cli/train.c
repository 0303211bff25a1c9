/* train.c: a training run: opens everything, makes the steps, says how they go. */
#include "host/cli/train.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "host/cli/stop.h"

enum { TRACED_STEPS = 2, SAMPLE_HEAD = 8 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int train_fail(train_run *r, weft_status status) {
    r->parted = r->stepping || status == WEFT_ERR_TIMEOUT || status == WEFT_ERR_FABRIC;
    return fail_on_rank(r->parted ? 0 : r->rank, status);
}

/* ---- opening --------------------------------------------------------------------------------------- */

/* Every variant that --gemm may name takes rows. */
static weft_order order_of(const train_run *r) {
    return r->arguments->gemm ? WEFT_ORDER_ROWS : WEFT_ORDER_AUTO;
}

static weft_status open_plan(train_run *r, weft_mode mode, const weft_layout *layout, int64_t batch, weft_plan **out) {
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = r->model, o.layout = layout, o.mode = mode, o.gemm = r->arguments->gemm;
    o.order = order_of(r);
    o.batch = batch, o.sequence = r->arguments->sequence;
    o.documents = r->arguments->document_end >= 0 && mode != WEFT_LOGITS; /* a sample is one document */
    weft_plan *plan = NULL;
    const weft_status status = weft_plan_create(r->context, &o, &plan);
    if (status) return status;
    *out = plan;
    return weft_plan_load(plan, r->params);
}

static weft_status open_sampling(train_run *r) {
    weft_layout *layout = NULL;
    weft_status status = layout_of_one(r->layout, &layout);
    if (!status) status = open_plan(r, WEFT_LOGITS, layout, 1, &r->logits);
    weft_layout_destroy(layout);
    return status;
}

static weft_status open_all(train_run *r, const context_arguments *context, const ranks *ranks) {
    const train_arguments *a = r->arguments;
    weft_status status = context_open(context, ranks, a->trace != NULL, &r->context);
    if (!status) status = weft_model_create(a->model, &r->model);
    if (!status) status = weft_layout_parse(a->layout, &r->layout);
    if (!status) status = layout_measure(r->context, &r->layout);
    if (!status) status = weft_params_create_ordered(r->context, r->model, r->layout, order_of(r), &r->params);
    if (!status) status = open_plan(r, WEFT_TRAIN, r->layout, a->batch, &r->plan);
    if (!status && a->evaluate_batches) status = open_plan(r, WEFT_EVALUATE, r->layout, a->batch, &r->evaluation);
    if (!status && a->sample) status = open_sampling(r);
    return status;
}

static void say_opened(const train_run *r) {
    const train_arguments *a = r->arguments;
    const corpus *c = &r->data.corpus;
    char read[40], train[40], held[40], layout[384];
    weft_layout_print(r->layout, layout, sizeof layout);
    if (r->data.bytes)
        fprintf(stderr, "text: %lld file%s, %s; %lld of %lld paragraphs are repeats and left out; ", (long long)c->files,
                c->files == 1 ? "" : "s", train_data_amount(&r->data, c->bytes, read), (long long)c->duplicates, (long long)c->paragraphs);
    else
        fprintf(stderr, "tokens: %s; ", a->tokens);
    fprintf(stderr, "%s to train on, %s to evaluate\n", train_data_amount(&r->data, r->data.train.count, train),
            train_data_amount(&r->data, r->data.evaluation.count, held));
    fprintf(stderr, "model: %s, %lld layers, hidden %lld, %lld heads, %.2f M parameters; layout %s on %d rank%s; %lld x %lld tokens a step\n",
            a->model, (long long)r->info.layers, (long long)r->info.hidden, (long long)r->info.heads,
            1e-6 * (double)r->info.parameters, layout, r->ranks, r->ranks == 1 ? "" : "s", (long long)a->batch,
            (long long)a->sequence);
}

int train_open(train_run *r, const context_arguments *context, const ranks *ranks) {
    const train_arguments *a = r->arguments;
    r->ranks = ranks->count;
    r->seed = a->seed < 0 ? 1 : (uint64_t)a->seed;
    const weft_status status = open_all(r, context, ranks);
    if (status) return train_fail(r, status);
    weft_model_describe(r->model, &r->info);
    int result = train_data_open(a, r->info.vocabulary, &r->data);
    r->tokens = malloc((size_t)(a->batch * a->sequence) * sizeof *r->tokens);
    r->targets = malloc((size_t)(a->batch * a->sequence) * sizeof *r->targets);
    if (a->document_end >= 0) r->documents = malloc((size_t)(a->batch * a->sequence) * sizeof *r->documents);
    if (!result && (!r->tokens || !r->targets || (a->document_end >= 0 && !r->documents))) result = complain(EXIT_ENVIRONMENT, "out of memory for a batch");
    /* a rank that cannot read what the others can must not leave them waiting */
    if (weft_context_agree(r->context, result ? WEFT_ERR_FILE : WEFT_OK) && !result) result = EXIT_USAGE;
    if (!result && r->rank == 0) say_opened(r);
    return result ? result : train_restore(r);
}

void train_close(train_run *r) {
    weft_plan_destroy(r->logits);
    weft_plan_destroy(r->evaluation);
    weft_plan_destroy(r->plan);
    weft_params_destroy(r->params);
    weft_layout_destroy(r->layout);
    weft_model_destroy(r->model);
    weft_context_destroy(r->context);
    train_data_close(&r->data);
    free(r->tokens);
    free(r->targets);
    free(r->documents);
}

/* ---- steps ------------------------------------------------------------------------------------------------ */

static double learning_rate(const train_arguments *a, int64_t step) {
    if (step < a->warmup) return a->learning_rate * (double)(step + 1) / (double)a->warmup;
    if (a->learning_rate_end < 0 || a->steps <= a->warmup + 1) return a->learning_rate;
    const double done = (double)(step - a->warmup) / (double)(a->steps - 1 - a->warmup);
    return a->learning_rate_end + (a->learning_rate - a->learning_rate_end) * 0.5 * (1 + cos(3.14159265358979323846 * done));
}

/* `done`: steps done, this one included: the first is 1, as everywhere that people read. */
static void report_json(int64_t done, const weft_result *result, double tokens_per_s) {
    json_t *row = json_pack("{s:I, s:f, s:f, s:f}", "step", (json_int_t)done, "loss", result->loss, "tokens_per_s",
                            tokens_per_s, "grad_norm", result->grad_norm);
    if (row) json_dumpf(row, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
    fflush(stdout);
    json_decref(row);
}

/* A line that overwrites itself on a terminal, plain lines ten times a run elsewhere. */
static void report_progress(const train_run *r, const weft_result *result, double tokens_per_s, double spent) {
    const int64_t steps = r->arguments->steps, every = steps / 10 > 0 ? steps / 10 : 1;
    const bool terminal = isatty(STDERR_FILENO), last = r->done == steps, first = r->done == r->first_step + 1;
    if (!terminal && !first && r->done % every && !last) return;
    const double eta = spent / (double)(r->done - r->first_step) * (double)(steps - r->done);
    fprintf(stderr, "%sstep %lld/%lld  loss %.4f  norm %.2f  %.0f tokens/s  ETA %d:%02d%s", terminal ? "\r" : "", (long long)r->done,
            (long long)steps, result->loss, result->grad_norm, tokens_per_s, (int)eta / 60, (int)eta % 60,
            terminal && !last ? "\x1b[K" : "\n");
}

/* Tracing begins before the last steps. */
static weft_status trace_last(train_run *r) {
    const train_arguments *a = r->arguments;
    const int64_t first = a->steps - TRACED_STEPS > r->first_step ? a->steps - TRACED_STEPS : r->first_step;
    return a->trace && r->done == first ? weft_plan_trace(r->plan, true) : WEFT_OK;
}

static int one_step(train_run *r, double started) {
    const train_arguments *a = r->arguments;
    weft_args args;
    weft_result result;
    weft_args_init(&args);
    train_take_batch(r, r->done);
    args.tokens = r->tokens, args.targets = r->targets, args.documents = r->documents;
    args.seed = r->seed, args.step = r->done;
    args.learning_rate = (float)learning_rate(a, r->done);
    args.weight_decay = (float)a->weight_decay, args.max_norm = (float)a->max_norm;
    weft_status status = trace_last(r);
    if (!status) status = weft_plan_run(r->plan, &args, &result);
    if (status) return train_fail(r, status);
    r->done++;
    if (!isfinite(result.loss) || !isfinite(result.grad_norm)) /* the same bits on every rank */
        return r->rank ? EXIT_CHECK
                       : complain(EXIT_CHECK, "step %lld: loss %g, gradient norm %g: training diverged", (long long)r->done,
                                  result.loss, result.grad_norm);
    if (r->rank) return EXIT_FINE;
    const double tokens_per_s = (double)(a->batch * a->sequence) / result.seconds;
    if (a->json) report_json(r->done, &result, tokens_per_s);
    report_progress(r, &result, tokens_per_s, now() - started);
    return EXIT_FINE;
}

static int evaluate_now(train_run *r) {
    double loss;
    int64_t tokens;
    char amount[40];
    const weft_status status = train_evaluate(r, &loss, &tokens);
    if (status) return train_fail(r, status);
    if (!r->rank)
        fprintf(stderr, "%sstep %lld: evaluation loss %.4f over %s\n", isatty(STDERR_FILENO) ? "\n" : "", (long long)r->done, loss,
                train_data_amount(&r->data, tokens, amount));
    return EXIT_FINE;
}

/* What follows a step, when it is its turn. *stop_out: a signal asked to end here. */
static int after_step(train_run *r, bool *stop_out) {
    const train_arguments *a = r->arguments;
    int status = EXIT_FINE;
    if (a->checkpoint) status = train_stop_asked(r, stop_out);
    if (!status && !*stop_out && a->evaluate_every && r->done % a->evaluate_every == 0) status = evaluate_now(r);
    if (status || !a->checkpoint) return status;
    const bool due = *stop_out || r->done == a->steps || (a->checkpoint_every && r->done % a->checkpoint_every == 0);
    return due ? train_checkpoint(r) : EXIT_FINE;
}

int train_steps(train_run *r) {
    r->stepping = true;
    const train_arguments *a = r->arguments;
    const double started = now();
    bool stop = false;
    while (r->done < a->steps && !stop) {
        int status = one_step(r, started);
        if (!status) status = after_step(r, &stop);
        if (status) return status;
    }
    r->stopped = stop && r->done < a->steps;
    if (!r->rank && r->stopped)
        fprintf(stderr, "%sstopped by a signal after step %lld of %lld; saved in '%s'; --resume auto goes on\n",
                isatty(STDERR_FILENO) ? "\n" : "", (long long)r->done, (long long)a->steps, a->checkpoint);
    else if (!r->rank && r->done > r->first_step)
        fprintf(stderr, "trained %lld steps in %.1f s\n", (long long)(r->done - r->first_step), now() - started);
    if (!a->trace || r->stopped || r->done == r->first_step) return EXIT_FINE;
    const weft_status status = weft_plan_trace_write(r->plan, a->trace);
    if (status) return train_fail(r, status);
    if (!r->rank) fprintf(stderr, "trace: %s; https://ui.perfetto.dev opens it\n", a->trace);
    return EXIT_FINE;
}

/* ---- sampling ----------------------------------------------------------------------------------------------- */

int train_sample(train_run *r) {
    const train_arguments *a = r->arguments;
    sampler how = a->how;
    how.state = r->seed;
    FILE *out = a->json ? stderr : stdout;
    const sample_request request = {.plan = r->logits,
                                    .window = a->sequence,
                                    .vocabulary = r->info.vocabulary,
                                    .bytes = r->data.bytes,
                                    .end = r->data.end,
                                    .more = a->sample,
                                    .rank = r->rank,
                                    .out = out};
    if (!r->rank) fprintf(out, "sample:\n");
    int status;
    if (r->data.bytes) {
        status = sample_after_text(&request, &how, a->prompt, (int64_t)strlen(a->prompt));
    } else { /* words of a tokeniser that is not here: it goes on from the beginning of the held-out part */
        const token_source *const from = r->data.evaluation.count ? &r->data.evaluation : &r->data.train;
        const token_source head = tokens_part(from, 0, from->count < SAMPLE_HEAD ? from->count : SAMPLE_HEAD);
        status = sample_after_tokens(&request, &how, &head);
    }
    r->parted = status != EXIT_FINE;
    return status;
}
