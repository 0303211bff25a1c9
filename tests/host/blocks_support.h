/* blocks_support.h: a whole model's step on one rank as the truth for block stacks: embedding, final norm, head
 * and loss are computed here on the host, as a caller with a loss of his own would, and the layers between
 * them by a plan of WEFT_BLOCKS, on ranks that are threads of this process. */
#ifndef WEFT_TESTS_BLOCKS_SUPPORT_H
#define WEFT_TESTS_BLOCKS_SUPPORT_H

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "tests/scratch.h"

enum { BATCH = 4, MICROBATCHES = 2, SEQUENCE = 13, HIDDEN = 48, VOCABULARY = 67, SEED = 11, STEP = 5, MOST_TENSORS = 32 };

#define SHARE (BATCH / MICROBATCHES)

static int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE];
static const int32_t *documents; /* [BATCH][SEQUENCE] of all plans and runs; NULL: none */

/* Ends all, for other threads may wait for this one; and says why. */
static inline void give_up(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    abort();
}

static inline void must(weft_status status, const char *what) {
    if (status != WEFT_OK) give_up(what, weft_last_error());
}
#define MUST(call) must(call, #call)

/* The file of this text becomes a model, and what else `use` makes of it. */
static inline weft_model *make_model_of(const char *text, void (*use)(const char *path)) {
    char path[512];
    weft_model *model;
    const int file = mkstemp(scratch_template(path, sizeof path, "blocks"));
    FILE *const f = file < 0 ? NULL : fdopen(file, "w");
    if (!f) give_up(path, "no file for a model");
    fputs(text, f);
    fclose(f);
    MUST(weft_model_create(path, &model));
    if (use) use(path);
    unlink(path);
    return model;
}

static inline weft_model *make_model(void) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"model_type\": \"gpt2\", \"n_layer\": 3, \"n_embd\": %d, \"n_head\": 6, \"n_inner\": 101, \"n_positions\": 16,"
             " \"vocab_size\": %d, \"embd_pdrop\": 0.0, \"attn_pdrop\": 0.1, \"resid_pdrop\": 0.1}",
             HIDDEN, VOCABULARY);
    return make_model_of(text, NULL);
}

static inline void fill_tokens(void) {
    for (int i = 0; i < BATCH * SEQUENCE; i++) tokens[i] = (i * 29 + i / 7) % VOCABULARY;
    for (int i = 0; i < BATCH * SEQUENCE; i++) targets[i] = i % 5 == 4 ? -1 : (tokens[i] * 3 + 1) % VOCABULARY;
}

static inline int64_t counted(void) {
    int64_t n = 0;
    for (int i = 0; i < BATCH * SEQUENCE; i++) n += targets[i] >= 0;
    return n;
}

/* ---- a model's whole tensors ------------------------------------------------------------------------------------ */

typedef struct tensors {
    int32_t n;
    weft_tensor_info info[MOST_TENSORS];
    float *data[MOST_TENSORS];  /* all instances */
} tensors;

static inline tensors gather_tensors(weft_params *params, const char *what) {
    tensors t = {.n = weft_params_count(params)};
    for (int32_t i = 0; i < t.n; i++) {
        MUST(weft_params_info(params, i, &t.info[i]));
        const int64_t each = t.info[i].global_rows * t.info[i].global_columns;
        t.data[i] = calloc((size_t)(each * t.info[i].instances), sizeof(float));
        for (int64_t k = 0; k < t.info[i].instances; k++) MUST(weft_params_gather(params, i, what, k, t.data[i] + k * each));
    }
    return t;
}

static inline void free_tensors(tensors *t) {
    for (int32_t i = 0; i < t->n; i++) free(t->data[i]);
}

static inline int32_t find_tensor(const tensors *t, const char *name) {
    for (int32_t i = 0; i < t->n; i++)
        if (strcmp(t->info[i].name, name) == 0) return i;
    give_up(name, "no such tensor");
    return -1;
}

static inline const float *tensor(const tensors *t, const char *name) {
    return t->data[find_tensor(t, name)];
}

/* ---- the ends of the model, on the host ---------------------------------------------------------------------------- */

/* A rank's i-th position, and its row for a sample. */
static inline int64_t position_of(const weft_rows *r, int64_t i) {
    return r->first_position + i + (i >= r->gap_at ? r->gap : 0);
}

static inline float *row_of(const weft_rows *r, float *rows, int64_t i, int64_t sample) {
    return rows + (i * r->samples + sample) * r->hidden;
}

static inline void embed(const tensors *w, const weft_rows *r, int microbatch, float *x) {
    const float *const token = tensor(w, "embedding.token"), *const place = tensor(w, "embedding.position");
    for (int64_t i = 0; i < r->positions; i++)
        for (int64_t s = 0; s < r->samples; s++) {
            const int64_t p = position_of(r, i);
            const int32_t id = tokens[(microbatch * r->samples + s) * SEQUENCE + p];
            float *const row = row_of(r, x, i, s);
            for (int h = 0; h < HIDDEN; h++) row[h] = token[id * HIDDEN + h] + place[p * HIDDEN + h];
        }
}

/* dy of one row for mean cross-entropy over the whole batch; returns its loss. */
static inline double loss_of_row(const tensors *w, const float *y, int32_t target, float *dy) {
    const float *const gamma = tensor(w, "normf.weight"), *const beta = tensor(w, "normf.bias"),
                *const head = tensor(w, "embedding.token");
    double mean = 0, variance = 0, n[HIDDEN], dn[HIDDEN] = {0}, logit[VOCABULARY], most = -1e300, sum = 0;
    for (int h = 0; h < HIDDEN; h++) mean += (double)y[h] / HIDDEN;
    for (int h = 0; h < HIDDEN; h++) variance += ((double)y[h] - mean) * ((double)y[h] - mean) / HIDDEN;
    const double r = 1 / sqrt(variance + 1e-5);
    for (int h = 0; h < HIDDEN; h++) n[h] = ((double)y[h] - mean) * r;
    for (int v = 0; v < VOCABULARY; v++) {
        logit[v] = 0;
        for (int h = 0; h < HIDDEN; h++) logit[v] += (n[h] * (double)gamma[h] + (double)beta[h]) * (double)head[v * HIDDEN + h];
        if (logit[v] > most) most = logit[v];
    }
    for (int v = 0; v < VOCABULARY; v++) sum += exp(logit[v] - most);
    for (int h = 0; h < HIDDEN; h++) dy[h] = 0;
    if (target < 0) return 0;
    for (int v = 0; v < VOCABULARY; v++) {
        const double d = (exp(logit[v] - most) / sum - (v == target)) / (double)counted();
        for (int h = 0; h < HIDDEN; h++) dn[h] += d * (double)head[v * HIDDEN + h] * (double)gamma[h];
    }
    double a = 0, b = 0;
    for (int h = 0; h < HIDDEN; h++) a += dn[h] / HIDDEN, b += dn[h] * n[h] / HIDDEN;
    for (int h = 0; h < HIDDEN; h++) dy[h] = (float)(r * (dn[h] - a - n[h] * b));
    return log(sum) + most - logit[target];
}

static inline double own_loss(const tensors *w, const weft_rows *r, int microbatch, float *y, float *dy) {
    double loss = 0;
    for (int64_t i = 0; i < r->positions; i++)
        for (int64_t s = 0; s < r->samples; s++)
            loss += loss_of_row(w, row_of(r, y, i, s), targets[(microbatch * r->samples + s) * SEQUENCE + position_of(r, i)],
                                row_of(r, dy, i, s));
    return loss;
}

/* ---- the truth: the whole model on one rank --------------------------------------------------------------------------- */

typedef struct truth {
    double loss;
    tensors weights, gradients, trained; /* trained: weights after one step of AdamW without clipping */
} truth;

static inline weft_args plain_args(void) {
    weft_args a;
    weft_args_init(&a);
    a.seed = SEED;
    a.step = STEP;
    a.max_norm = 0;
    a.documents = documents;
    return a;
}

static inline weft_plan *make_ordered_plan(weft_context *context, const weft_model *model, const char *layout,
                                           weft_mode mode, uint32_t phases, weft_order order) {
    weft_plan_options o;
    weft_layout *l;
    weft_plan *plan;
    weft_plan_options_init(&o);
    MUST(weft_layout_parse(layout, &l));
    o.model = model;
    o.layout = l;
    o.batch = BATCH;
    o.sequence = SEQUENCE;
    o.mode = mode;
    o.phases = phases;
    o.order = order;
    o.documents = documents != NULL;
    MUST(weft_plan_create(context, &o, &plan));
    weft_layout_destroy(l);
    return plan;
}

static inline weft_plan *make_plan(weft_context *context, const weft_model *model, const char *layout, weft_mode mode, uint32_t phases) {
    return make_ordered_plan(context, model, layout, mode, phases, WEFT_ORDER_AUTO);
}

static inline weft_params *make_params(weft_context *context, const weft_model *model, const char *layout) {
    weft_layout *l;
    weft_params *params;
    MUST(weft_layout_parse(layout, &l));
    MUST(weft_params_create(context, model, l, &params));
    MUST(weft_params_init(params, SEED));
    weft_layout_destroy(l);
    return params;
}

static inline truth find_truth(const weft_model *model) {
    truth t;
    weft_context *context;
    weft_result result;
    MUST(weft_context_create(NULL, NULL, &context));
    weft_params *const params = make_params(context, model, "mb2");
    weft_plan *const gradients = make_plan(context, model, "mb2", WEFT_GRADIENTS, 0), *const train = make_plan(context, model, "mb2", WEFT_TRAIN, 0);
    weft_args a = plain_args();
    a.tokens = tokens;
    a.targets = targets;
    t.weights = gather_tensors(params, "");
    MUST(weft_plan_load(gradients, params));
    MUST(weft_plan_run(gradients, &a, &result));
    t.loss = result.loss;
    t.gradients = gather_tensors(params, "grad");
    MUST(weft_plan_load(train, params));
    MUST(weft_plan_run(train, &a, &result));
    t.trained = gather_tensors(params, "");
    weft_plan_destroy(train);
    weft_plan_destroy(gradients);
    weft_params_destroy(params);
    weft_context_destroy(context);
    return t;
}

static inline void free_truth(truth *t) {
    free_tensors(&t->weights);
    free_tensors(&t->gradients);
    free_tensors(&t->trained);
}

/* Largest difference, in units of the tensor's largest magnitude, over the layers' tensors. */
static inline double worst_of_layers(const tensors *want, const tensors *got, const char **where) {
    double worst = 0;
    for (int32_t i = 0; i < want->n; i++) {
        if (strncmp(want->info[i].name, "layer.", 6) != 0) continue;
        const int64_t each = want->info[i].global_rows * want->info[i].global_columns;
        for (int64_t k = 0; k < want->info[i].instances; k++) {
            double most = 0, off = 0;
            for (int64_t e = k * each; e < (k + 1) * each; e++) {
                const double d = fabs((double)want->data[i][e] - (double)got->data[i][e]);
                if (!(d <= off)) off = d;
                if (fabs((double)want->data[i][e]) > most) most = fabs((double)want->data[i][e]);
            }
            if (!(off / most <= worst)) {
                worst = off / most;
                *where = want->info[i].name;
            }
        }
    }
    return worst;
}

/* ---- ranks as threads --------------------------------------------------------------------------------------------------- */

typedef struct rank_thread {
    weft_bootstrap *bootstrap;
    const char *layout;
    void *work;                 /* of all ranks */
    int rank;
    void (*run)(struct rank_thread *);
    weft_context *context;
} rank_thread;

static inline void *thread_main(void *argument) {
    rank_thread *const t = argument;
    MUST(weft_context_create(NULL, t->bootstrap, &t->context));
    t->run(t);
    weft_context_destroy(t->context);
    return NULL;
}

/* Runs `run` on every rank of the layout, each a thread with a context of its own. */
static inline void on_threads(const char *layout, void (*run)(rank_thread *), void *work) {
    enum { MOST = 8 };
    weft_bootstrap *boot[MOST] = {NULL};
    rank_thread thread[MOST];
    pthread_t id[MOST];
    weft_layout *l;
    MUST(weft_layout_parse(layout, &l));
    const int ranks = weft_layout_ranks(l);
    weft_layout_destroy(l);
    MUST(weft_bootstrap_local(ranks, boot));
    for (int r = 0; r < ranks; r++) {
        thread[r] = (rank_thread){.bootstrap = boot[r], .layout = layout, .work = work, .rank = r, .run = run};
        if (pthread_create(&id[r], NULL, thread_main, &thread[r]) != 0) give_up(layout, "no thread for a rank");
    }
    for (int r = 0; r < ranks; r++) pthread_join(id[r], NULL);
    for (int r = 0; r < ranks; r++) weft_bootstrap_destroy(boot[r]);
}

#endif
