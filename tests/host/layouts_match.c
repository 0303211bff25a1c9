/* layouts_match.c: does every layout equal one rank? Run under mpirun by check_layouts.sh:
 *
 *     layouts_match [packed-]write|compare REFERENCE CONFIG LAYOUT...
 *
 * With "packed-" sequences are several documents. With "write", one rank records its loss, gradients, initial
 * weights and twenty losses of training, and the loss and gradients of the plain f64 model
 * (tests/model_reference.c); with "compare", every layout given is held against that record:
 *   - initial weights: the same bits;
 *   - loss and every gradient against the f64 truth, to the same tolerance as against one rank:
 *   - loss and every gradient with dropout: largest difference at most 3e-6 of the tensor's largest
 *     magnitude (DESIGN.md, section 11). The fused QKV bias has an exactly zero part, the key's; it
 *     is held to the same bound, as one tensor;
 *   - last hidden states against the f64 truth, without dropout: the same bound;
 *   - twenty steps at learning rate 3e-3: each loss within 1e-5, relative, and falling by 0.5;
 *   - the same run again, and over each forced transport in turn: the same bits, and the bytes
 *     counted on that transport, and on no other, are those that the plan foresaw;
 *   - allocated bytes equal planned ones per space, with both variants of GEMM.
 * Verdicts are of values that all ranks hold, or all-reduced. Prints one line in Check's format. */
#include <math.h>
#include <mpi.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/weft_mpi.h"
#include "host/model/config.h"
#include "tests/host/sent.h"
#include "tests/model_reference.h"

enum { BATCH = 4, SEQUENCE = 61, VOCABULARY = 257, STEPS = 20, REPEATS = 4, SEED = 1234,
       TRUE_STEP = 3 /* of the gradients; any but 0 */ };

static int rank, ranks, checks, failures;
static const char *stage = "";

static void __attribute__((format(printf, 2, 3))) expect(bool fine, const char *format, ...) {
    int mine = !fine, worst;
    MPI_Allreduce(&mine, &worst, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    checks++;
    failures += worst;
    if (!mine) return;
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "rank %d of %d, %s: %s\n", rank, ranks, stage, text);
}

/* A call that must succeed for anything after it to make sense. */
static void must(weft_status status, const char *what) {
    if (status == WEFT_OK) return;
    fprintf(stderr, "rank %d of %d, %s: %s: %s\n", rank, ranks, stage, what, weft_last_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* ---- data -------------------------------------------------------------------------------------------------- */

static int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE], packed[BATCH * SEQUENCE];
static const int32_t *documents; /* NULL: none */

/* Ends of no rank's positions, others in each sequence. */
static void fill_documents(void) {
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        const int position = i % SEQUENCE, sequence = i / SEQUENCE;
        packed[i] = (position + 3 * sequence) / 11 + (position >= 20) + (position > 47);
    }
    documents = packed;
}

/* Skewed ids with some order in them, new ones for each step, so that there is something to learn
 * but nothing to memorise; a few targets are not counted. */
static void fill_tokens(int64_t step) {
    uint32_t state = 7 + 977 * (uint32_t)step;
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        state = state * 1664525u + 1013904223u;
        const uint32_t a = state >> 16 & 255, b = state >> 24;
        tokens[i] = (int32_t)(i % 3 ? (a * b) >> 8 : (uint32_t)(17 * (i % 15)));
    }
    tokens[5] = VOCABULARY - 1;
    for (int i = 0; i < BATCH * SEQUENCE; i++) targets[i] = i % SEQUENCE + 1 < SEQUENCE ? tokens[i + 1] : -1;
    targets[40] = -1;
}

static weft_args args_of(int64_t step) {
    weft_args args;
    fill_tokens(step);
    weft_args_init(&args);
    args.tokens = tokens;
    args.targets = targets;
    args.documents = documents;
    args.seed = SEED;
    args.step = step;
    args.learning_rate = 3e-3f;
    return args;
}

/* ---- the record ----------------------------------------------------------------------------------------------- */

/* What one rank computed, or a layout: all values whole, not shards. */
typedef struct record {
    double loss, losses[STEPS], true_loss;
    int64_t n;                  /* elements of all tensors */
    float *weights, *gradients;
    double *truth;              /* gradients in f64 */
    int64_t nhidden;
    double *hidden;             /* f64, last hidden states without dropout */
} record;

static int64_t elements(weft_params *params) {
    int64_t n = 0;
    for (int32_t t = 0; t < weft_params_count(params); t++) {
        weft_tensor_info info;
        must(weft_params_info(params, t, &info), "params_info");
        n += info.instances * info.global_rows * info.global_columns;
    }
    return n;
}

static float *gather(weft_params *params, const char *what) {
    float *const all = calloc((size_t)elements(params), sizeof *all), *at = all;
    for (int32_t t = 0; t < weft_params_count(params); t++) {
        weft_tensor_info info;
        must(weft_params_info(params, t, &info), "params_info");
        for (int64_t i = 0; i < info.instances; i++, at += info.global_rows * info.global_columns)
            must(weft_params_gather(params, t, what, i, at), "params_gather");
    }
    return all;
}

/* Writes or reads all of a record; `move` is fwrite or fread. */
typedef size_t (*mover)(void *, size_t, size_t, FILE *);

static bool move_record(mover move, record *r, FILE *f) {
    const size_t n = (size_t)r->n;
    return move(&r->loss, sizeof r->loss, 1, f) == 1 && move(r->losses, sizeof r->losses, 1, f) == 1 &&
           move(&r->true_loss, sizeof r->true_loss, 1, f) == 1 && move(r->weights, sizeof(float), n, f) == n &&
           move(r->gradients, sizeof(float), n, f) == n && move(r->truth, sizeof(double), n, f) == n &&
           move(r->hidden, sizeof(double), (size_t)r->nhidden, f) == (size_t)r->nhidden;
}

static size_t put(void *data, size_t size, size_t n, FILE *f) {
    return fwrite(data, size, n, f);
}

static void store(const char *path, record *r) {
    FILE *const f = fopen(path, "wb");
    if (!f || fwrite(&r->n, sizeof r->n, 1, f) != 1 || fwrite(&r->nhidden, sizeof r->n, 1, f) != 1 || !move_record(put, r, f) || fclose(f) != 0) must(WEFT_ERR_FILE, path);
}

static void restore(const char *path, record *r) {
    FILE *const f = fopen(path, "rb");
    if (!f || fread(&r->n, sizeof r->n, 1, f) != 1 || fread(&r->nhidden, sizeof r->n, 1, f) != 1) must(WEFT_ERR_FILE, path);
    r->weights = calloc((size_t)r->n, sizeof *r->weights);
    r->gradients = calloc((size_t)r->n, sizeof *r->gradients);
    r->truth = calloc((size_t)r->n, sizeof *r->truth);
    r->hidden = calloc((size_t)r->nhidden, sizeof *r->hidden);
    if (!move_record(fread, r, f)) must(WEFT_ERR_FILE, path);
    fclose(f);
}

static void forget(record *r) {
    free(r->weights);
    free(r->gradients);
    free(r->truth);
    free(r->hidden);
}

/* The plain f64 model's loss and gradients at the initial weights, with dropout. */
static void find_truth(const char *config, record *r) {
    wf_model model;
    if (wf_config_read(config, &model) != WF_OK) must(WEFT_ERR_FILE, config);
    reference_tensors weights = reference_tensors_create(&model), gradients = reference_tensors_create(&model);
    args_of(TRUE_STEP);
    reference_batch batch = {.batch = BATCH, .sequence = SEQUENCE, .tokens = tokens, .targets = targets, .documents = documents,
                             .seed = SEED, .step = TRUE_STEP, .dropout = true};
    reference_initialise(&model, SEED, &weights);
    r->true_loss = model_reference(&model, &weights, &batch, NULL, &gradients);
    batch.dropout = false;
    r->nhidden = BATCH * SEQUENCE * model.hidden;
    r->hidden = calloc((size_t)r->nhidden, sizeof *r->hidden);
    model_reference(&model, &weights, &batch, &(reference_outputs){.hidden = r->hidden}, NULL);
    double *at = r->truth = calloc((size_t)r->n, sizeof *r->truth);
    for (int t = 0; t < WF_TENSORS; at += reference_count(&model, t++))
        memcpy(at, gradients.data[t], (size_t)reference_count(&model, t) * sizeof *at);
    reference_tensors_destroy(&gradients);
    reference_tensors_destroy(&weights);
}

/* ---- running ------------------------------------------------------------------------------------------------------ */

typedef struct world {
    weft_bootstrap *bootstrap;
    weft_model *model;
    weft_layout *layout;
    weft_context *context;
    weft_params *params;
} world;

static void open_world(world *w, const char *transport, weft_order order) {
    weft_context_options options;
    weft_context_options_init(&options);
    options.transport = transport;
    must(weft_context_create(&options, ranks > 1 ? w->bootstrap : NULL, &w->context), "context_create");
    must(weft_params_create_ordered(w->context, w->model, w->layout, order, &w->params), "params_create");
    must(weft_params_init(w->params, SEED), "params_init");
}

static void close_world(world *w) {
    weft_params_destroy(w->params);
    weft_context_destroy(w->context);
}

static weft_plan *load(const world *w, weft_mode mode, const char *gemm) {
    weft_plan_options options;
    weft_plan *plan;
    weft_plan_options_init(&options);
    options.model = w->model;
    options.layout = w->layout;
    options.batch = BATCH;
    options.sequence = SEQUENCE;
    options.mode = mode;
    options.gemm = gemm;
    options.order = gemm ? WEFT_ORDER_ROWS : WEFT_ORDER_AUTO;
    options.documents = documents != NULL;
    must(weft_plan_create(w->context, &options, &plan), "plan_create");
    must(weft_plan_load(plan, w->params), "plan_load");
    return plan;
}

static void expect_planned(const weft_plan *plan, const char *what) {
    weft_plan_info info;
    int64_t device, window, host;
    weft_plan_describe(plan, &info);
    weft_plan_allocated(plan, &device, &window, &host);
    expect(device == info.device_bytes && window == info.window_bytes && host == info.host_bytes && device > 0,
           "%s: planned %lld, %lld, %lld bytes of device, window, host; allocated %lld, %lld, %lld", what,
           (long long)info.device_bytes, (long long)info.window_bytes, (long long)info.host_bytes, (long long)device,
           (long long)window, (long long)host);
}

/* Loss and gradients, all of it gathered. */
static void run_gradients(weft_plan *plan, world *w, record *out) {
    const weft_args args = args_of(TRUE_STEP);
    weft_result result;
    must(weft_plan_run(plan, &args, &result), "gradients");
    out->loss = result.loss;
    out->n = elements(w->params);
    out->gradients = gather(w->params, "grad");
}

static void run_training(weft_plan *plan, int steps, double *losses) {
    for (int step = 0; step < steps; step++) {
        const weft_args args = args_of(step);
        weft_result result;
        must(weft_plan_run(plan, &args, &result), "training");
        losses[step] = result.loss;
    }
}

/* ---- comparing ------------------------------------------------------------------------------------------------------ */

/* The largest difference, in units of the tensor's largest magnitude; *at is where. */
static double worst_of(int64_t n, const double *want, const float *got, int64_t *at) {
    double largest = 0, worst = -1;
    for (int64_t i = 0; i < n; i++) {
        const double difference = fabs((double)got[i] - want[i]);
        if (fabs(want[i]) > largest) largest = fabs(want[i]);
        if (difference <= worst) continue;
        worst = difference; /* NaN, too */
        *at = i;
        if (isnan(difference)) break;
    }
    return largest > 0 ? worst / largest : INFINITY;
}

static double worst_seen;

static void compare_tensor(const weft_tensor_info *info, int64_t instance, const double *want, const float *got, const char *whose) {
    int64_t at = 0;
    const double worst = worst_of(info->global_rows * info->global_columns, want, got, &at);
    expect(worst <= 3e-6, "%s[%lld]: element (%lld, %lld) is %.9g, %s %.9g: off by %.2g of the largest", info->name,
           (long long)instance, (long long)(at / info->global_columns), (long long)(at % info->global_columns), (double)got[at],
           whose, want[at], worst);
    if (!(worst <= worst_seen)) worst_seen = worst;
}

static void compare_gradients(weft_params *params, const double *want, const float *got, const char *whose) {
    worst_seen = 0;
    for (int32_t t = 0; t < weft_params_count(params); t++) {
        weft_tensor_info info;
        must(weft_params_info(params, t, &info), "params_info");
        const int64_t n = info.global_rows * info.global_columns;
        for (int64_t i = 0; i < info.instances; i++, want += n, got += n) compare_tensor(&info, i, want, got, whose);
    }
    if (!rank) printf("  %d ranks, %s: gradients within %.1e of %s\n", ranks, stage, worst_seen, whose);
}

/* Against one rank and against the truth; and a comparison that sees nothing would be worthless. */
static void compare_record(weft_params *params, const record *want, const float *got) {
    double *const one = calloc((size_t)want->n, sizeof *one);
    int64_t at = 0;
    for (int64_t i = 0; i < want->n; i++) one[i] = (double)want->gradients[i];
    compare_gradients(params, one, got, "one rank's");
    compare_gradients(params, want->truth, got, "the f64 reference's");
    float bent[3] = {1, -2, 0.5f};
    const double straight[3] = {1, -2, 0.5};
    bent[2] += 1e-5f;
    expect(worst_of(3, straight, bent, &at) > 3e-6 && at == 2, "a bent value was not seen");
    bent[2] = NAN;
    expect(!(worst_of(3, straight, bent, &at) <= 3e-6), "a NaN was not seen");
    free(one);
}

static void compare_losses(const record *want, const record *got) {
    double worst = 0;
    for (int i = 0; i < STEPS; i++) worst = fmax(worst, fabs(got->losses[i] - want->losses[i]) / want->losses[i]);
    expect(worst <= 1e-5, "losses of %d steps differ by %.3g from one rank's", STEPS, worst);
    expect(fabs(got->loss - want->loss) <= 3e-6 * want->loss && fabs(got->loss - want->true_loss) <= 3e-6 * want->true_loss,
           "loss %.9g, on one rank %.9g, in f64 %.9g", got->loss, want->loss, want->true_loss);
    if (!rank)
        printf("  %d ranks, %s: loss %.6f -> %.6f in %d steps, within %.1e of one rank's\n", ranks, stage, got->losses[0],
               got->losses[STEPS - 1], STEPS, worst);
}

static void expect_falling(const record *r) {
    expect(r->losses[STEPS - 1] <= r->losses[0] - 0.5, "the loss went from %.4f to %.4f only", r->losses[0], r->losses[STEPS - 1]);
}

static bool same_gradients(const record *a, const record *b) {
    return a->n == b->n && memcmp(&a->loss, &b->loss, sizeof a->loss) == 0 &&
           memcmp(a->gradients, b->gradients, (size_t)a->n * sizeof(float)) == 0;
}

/* The last hidden states, which every rank has: of all tokens, against f64. */
static void compare_hidden(world *w, const record *want) {
    const int64_t hidden = want->nhidden / (BATCH * SEQUENCE);
    float *const got = calloc((size_t)want->nhidden, sizeof *got);
    const weft_args args = args_of(TRUE_STEP);
    weft_result result;
    int64_t at = 0;
    open_world(w, NULL, WEFT_ORDER_AUTO);
    weft_plan *const plan = load(w, WEFT_HIDDEN, NULL);
    must(weft_plan_run(plan, &args, &result), "hidden states");
    for (int64_t i = 0; i < BATCH * SEQUENCE; i++)
        must(weft_plan_hidden(plan, i / SEQUENCE, i % SEQUENCE, got + i * hidden), "plan_hidden");
    const double worst = worst_of(want->nhidden, want->hidden, got, &at);
    expect(worst <= 3e-6, "hidden state %lld is %.9g, in f64 %.9g", (long long)at, (double)got[at], want->hidden[at]);
    expect_planned(plan, "hidden");
    weft_plan_destroy(plan);
    close_world(w);
    free(got);
}

/* ---- one layout ---------------------------------------------------------------------------------------------------------- */

static void expect_bytes(const world *w, const weft_plan *plan, const char *transport) {
    static const char *const all[] = {"mpi", "staged", "window"};
    weft_plan_info info;
    int64_t sum = 0;
    weft_plan_describe(plan, &info);
    for (int i = 0; i < 3; i++) {
        int64_t bytes, messages;
        must(weft_context_sent(w->context, all[i], &bytes, &messages), "sent");
        const bool some = info.sent_bytes && strcmp(all[i], transport) == 0;
        expect((bytes > 0) == (messages > 0) && (may_send(all[i], transport, strstr(stage, "cp") != NULL) || !bytes) && (bytes || !some),
               "%lld bytes in %lld messages over %s, forced %s", (long long)bytes, (long long)messages, all[i], transport);
        sum += bytes;
    }
    expect(sum == info.sent_bytes, "%lld bytes sent, %lld expected", (long long)sum, (long long)info.sent_bytes);
}

static void try_transport(world *w, const char *transport, const record *want) {
    record got = {0};
    open_world(w, transport, WEFT_ORDER_AUTO);
    weft_plan *const plan = load(w, WEFT_GRADIENTS, NULL);
    const weft_args args = args_of(TRUE_STEP);
    weft_result result;
    must(weft_plan_run(plan, &args, &result), transport);
    expect_bytes(w, plan, transport);
    expect_planned(plan, transport);
    got.loss = result.loss;
    got.n = elements(w->params);
    got.gradients = gather(w->params, "grad");
    expect(same_gradients(want, &got), "over %s: other bits", transport);
    free(got.gradients);
    weft_plan_destroy(plan);
    close_world(w);
}

static void run_layout(world *w, record *out) {
    record again = {0};
    double repeated[REPEATS];
    open_world(w, NULL, WEFT_ORDER_AUTO);
    out->weights = gather(w->params, "");
    weft_plan *const gradients = load(w, WEFT_GRADIENTS, NULL);
    must(weft_plan_check(gradients), "plan_check");
    run_gradients(gradients, w, out);
    run_gradients(gradients, w, &again);
    expect(same_gradients(out, &again), "the same run twice: other bits");
    free(again.gradients);
    expect_planned(gradients, "gradients");
    weft_plan *const train = load(w, WEFT_TRAIN, NULL);
    expect_planned(train, "train");
    run_training(train, STEPS, out->losses);
    must(weft_params_init(w->params, SEED), "params_init");
    run_training(train, REPEATS, repeated);
    expect(memcmp(repeated, out->losses, sizeof repeated) == 0, "training twice: other bits");
    weft_plan_destroy(train);
    weft_plan_destroy(gradients);
    close_world(w);
}

static void try_clblast(world *w, const record *want) {
    record got = {0};
    open_world(w, NULL, WEFT_ORDER_ROWS);
    weft_plan *const plan = load(w, WEFT_GRADIENTS, "clblast");
    run_gradients(plan, w, &got);
    expect_planned(plan, "clblast");
    compare_record(w->params, want, got.gradients);
    free(got.gradients);
    weft_plan_destroy(plan);
    close_world(w);
}

static void try_layout(world *w, const char *text, const char *mode, const char *path, const char *config) {
    static const char *const transports[] = {"mpi", "staged", "window"};
    record want = {0}, got = {0};
    stage = text;
    must(weft_layout_parse(text, &w->layout), "layout_parse");
    run_layout(w, &got);
    expect_falling(&got);
    if (strcmp(mode, "write") == 0) {
        find_truth(config, &got);
        store(path, &got);
    } else {
        restore(path, &want);
        open_world(w, NULL, WEFT_ORDER_AUTO);
        expect(want.n == got.n && memcmp(want.weights, got.weights, (size_t)got.n * sizeof(float)) == 0, "initial weights: other bits");
        compare_record(w->params, &want, got.gradients);
        compare_losses(&want, &got);
        close_world(w);
        for (size_t i = 0; ranks > 1 && i < 3; i++) try_transport(w, transports[i], &got);
    }
    compare_hidden(w, strcmp(mode, "write") == 0 ? &got : &want);
    try_clblast(w, strcmp(mode, "write") == 0 ? &got : &want);
    weft_layout_destroy(w->layout);
    forget(&want);
    forget(&got);
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    world w = {0};
    if (strncmp(argv[1], "packed-", 7) == 0) {
        fill_documents();
        argv[1] += 7;
    }
    must(weft_bootstrap_mpi(MPI_COMM_WORLD, &w.bootstrap), "bootstrap");
    must(weft_model_create(argv[3], &w.model), "model");
    for (int i = 4; i < argc; i++) try_layout(&w, argv[i], argv[1], argv[2], argv[3]);
    weft_model_destroy(w.model);
    weft_bootstrap_destroy(w.bootstrap);
    if (!rank)
        printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", checks ? 100 * (checks - failures) / checks : 0, checks, failures);
    MPI_Finalize();
    return failures ? 1 : 0;
}
