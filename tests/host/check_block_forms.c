/* Block stacks of llama's, mistral's and bert's forms, packed documents too, against plain f64 (gpt2's, and the order of phases: check_stash.c): what comes out,
 * what goes back and the gradients of all the layers' weights, with dropout, two microbatches, and weights in which
 * no norm is 1 and no bias 0, on one rank and on ranks that are threads. The reference knows no layout: it is given
 * the same weights, x and dy, whole. */
#include "host/api/objects.h"
#include "host/model/config.h"
#include "tests/host/blocks_support.h"
#include "tests/model_reference.h"

enum { ROWS = BATCH * SEQUENCE };

/* f32 against f64, of the tensor's largest magnitude. Two layers are a chain of 12 sums of at most 202 products each, whose
 * roundings are independent: sqrt(12 * 202) 2^-24 = 2.9e-6. What is seen is printed. */
#define TOLERANCE 3e-6

#define SIZES                                                                                                              \
    "\"num_hidden_layers\": 2, \"hidden_size\": 48, \"num_attention_heads\": 6, \"intermediate_size\": 101, \"vocab_size\": 67, " \
    "\"max_position_embeddings\": 16, "
#define KIN(type) "{\"model_type\": \"" type "\", " SIZES "\"attention_dropout\": 0.1, \"rms_norm_eps\": 1e-5, "
#define LLAMA KIN("llama")
#define BERT "{\"model_type\": \"bert\", " SIZES "\"hidden_dropout_prob\": 0.1, \"attention_probs_dropout_prob\": 0.1}"
static const struct {
    const char *name, *config;
    int64_t window; /* which no config.json of the family says: set once weights are written */
    bool packed;
} forms[] = {
    /* three ranks share two kv heads: the middle one's queries read both */
    {"llama", LLAMA "\"num_key_value_heads\": 2}", 0, false},
    /* one kv head for all; heads wider than hidden / heads; biases; stretched positions */
    {"llama, one kv head", LLAMA "\"num_key_value_heads\": 1, \"head_dim\": 10, \"attention_bias\": true, \"mlp_bias\": true, "
                                 "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 4.0, \"low_freq_factor\": 1.0, "
                                 "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8}}", 0, false},
    {"llama, linear scaling", LLAMA "\"num_key_value_heads\": 6, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 2.5}}", 0, false},
    /* windows of 13 positions: less than half of them; all but one; both ways */
    {"mistral, a window", KIN("mistral") "\"num_key_value_heads\": 2, \"sliding_window\": 5}", 0, false},
    {"qwen2, a window", KIN("qwen2") "\"num_key_value_heads\": 2, \"use_sliding_window\": true, \"sliding_window\": 12, "
                                     "\"max_window_layers\": 0}", 0, false},
    {"bert, a window", BERT, 5, false},
    {"bert", BERT, 0, false},
    /* documents whose ends are those of no rank's positions, others in each sample: causal, both ways, beside a window */
    {"llama, packed", LLAMA "\"num_key_value_heads\": 2}", 0, true},
    {"bert, packed", BERT, 0, true},
    {"mistral, packed", KIN("mistral") "\"num_key_value_heads\": 2, \"sliding_window\": 5}", 0, true},
};
enum { FORMS = sizeof forms / sizeof *forms };
static const char *const layouts[] = {"mb2", "tp2.mb2", "tp2.sp.mb2", "tp3.sp.mb2"};
static const char *const contexts[] = {"cp3ring.mb2", "tp2.sp.cp2gather.mb2", "tp2.cp2ulysses.mb2", "cp4usp2.mb2"}; /* each form one of them */
enum { LAYOUTS = sizeof layouts / sizeof *layouts, CONTEXTS = sizeof contexts / sizeof *contexts };

/* Ends in each sample, of documents whose numbers do not ascend. */
static int32_t packed[BATCH * SEQUENCE];

static void fill_packed(void) {
    static const int ends[BATCH][5] = {{1, 2, 9, 12, SEQUENCE}, {5, 11, SEQUENCE}, {SEQUENCE}, {3, 4, 5, 8, SEQUENCE}};
    for (int i = 0, n = 0; i < BATCH * SEQUENCE; i++) {
        n = i % SEQUENCE ? n + (i % SEQUENCE == ends[i / SEQUENCE][n]) : 0;
        packed[i] = 40 - 7 * n;
    }
}

/* ---- the truth ----------------------------------------------------------------------------------------------------------- */

static weft_model *model;
static wf_model form;
static char saved[512]; /* folder of the weights */
static reference_tensors weights, gradients;
static double x[ROWS * HIDDEN], y[ROWS * HIDDEN], evaluated[ROWS * HIDDEN], dy[ROWS * HIDDEN], dx[ROWS * HIDDEN];

static void read_form(const char *path) {
    if (wf_config_read(path, &form) != WF_OK) give_up(path, wf_last_error());
}

/* A row of the table by name; -1: it is no tensor of a layer. */
static int tensor_id(const char *name) {
    wf_parameter_info info[WF_TENSORS];
    wf_model_parameters(&form, info);
    for (int t = 0; t < WF_TENSORS; t++)
        if (strcmp(info[t].name, name) == 0) return info[t].per_layer ? t : -1;
    give_up(name, "no such tensor");
    return -1;
}

static double noise(void) {
    static uint32_t state = 7;
    state = state * 1664525u + 1013904223u;
    return (double)state / 4294967296.0 - 0.5;
}

/* Writes what every rank will load, and keeps the same in f64: initial weights, all of them moved. */
static void make_weights(void) {
    weft_context *context;
    MUST(weft_context_create(NULL, NULL, &context));
    weft_params *const params = make_params(context, model, "tp1");
    for (int32_t i = 0; i < weft_params_count(params); i++) {
        weft_tensor_info info;
        MUST(weft_params_info(params, i, &info));
        const int64_t n = info.global_rows * info.global_columns;
        const int id = tensor_id(info.name);
        float *const data = calloc((size_t)n, sizeof *data);
        for (int64_t k = 0; k < info.instances; k++) {
            MUST(weft_params_read(params, i, "", k, data));
            for (int64_t e = 0; e < n; e++) data[e] += (float)(0.3 * noise());
            for (int64_t e = 0; e < n && id >= 0; e++) weights.data[id][k * n + e] = (double)data[e];
            MUST(weft_params_write(params, i, "", k, data));
        }
        free(data);
    }
    MUST(weft_params_save(params, saved));
    weft_params_destroy(params);
    weft_context_destroy(context);
}

static reference_batch batch_of(bool dropout) {
    return (reference_batch){.batch = BATCH, .sequence = SEQUENCE, .documents = documents, .seed = SEED, .step = STEP, .dropout = dropout};
}

static void open_form(int which) {
    documents = forms[which].packed ? packed : NULL;
    reference_batch batch = batch_of(true);
    model = make_model_of(forms[which].config, read_form);
    ck_assert_int_eq(form.hidden, HIDDEN);
    ck_assert_ptr_nonnull(mkdtemp(scratch_template(saved, sizeof saved, "forms")));
    weights = reference_tensors_create(&form);
    gradients = reference_tensors_create(&form);
    make_weights();
    if (forms[which].window) model->model.window = form.window = forms[which].window;
    for (int i = 0; i < ROWS * HIDDEN; i++) x[i] = (double)(float)(2 * noise()), dy[i] = (double)(float)noise();
    reference_blocks(&form, &weights, &batch, x, y, dy, dx, &gradients);
    batch.dropout = false;
    reference_blocks(&form, &weights, &batch, x, evaluated, NULL, NULL, NULL);
}

static void close_form(void) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[1024];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", saved, files[i]);
        unlink(path);
    }
    ck_assert_int_eq(rmdir(saved), 0);
    reference_tensors_destroy(&weights);
    reference_tensors_destroy(&gradients);
    weft_model_destroy(model);
}

/* ---- comparing ------------------------------------------------------------------------------------------------------------- */

/* The largest difference of a tensor, in units of its largest magnitude, and which tensor that is; of all ranks. */
typedef struct verdict {
    pthread_mutex_t mutex;
    int compared;
    double worst;
    char where[96];
    double *got; /* where not NULL, forward's rows are kept: [batch][sequence][hidden] */
} verdict;

static void note(verdict *v, const char *name, int rank, double off, double most) {
    const double far = most > 0 ? off / most : off > 0 ? INFINITY : 0;
    pthread_mutex_lock(&v->mutex);
    v->compared++;
    if (!(far <= v->worst)) {
        v->worst = far;
        snprintf(v->where, sizeof v->where, "%s, rank %d", name, rank);
    }
    pthread_mutex_unlock(&v->mutex);
}

static void worse(double *off, double want, double got) {
    const double d = fabs(want - got);
    if (!(d <= *off)) *off = d; /* NaN, too */
}

static double largest(const double *data, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs(data[i]));
    return most;
}

/* Rows of a microbatch, to and from [batch][sequence][hidden]. */
static double *whole_row(double *whole, const weft_rows *r, int microbatch, int64_t position, int64_t sample) {
    return whole + ((microbatch * r->samples + sample) * SEQUENCE + position) * HIDDEN;
}

static void take_rows(double *whole, const weft_rows *r, int microbatch, float *rows) {
    for (int64_t p = 0; p < r->positions; p++)
        for (int64_t s = 0; s < r->samples; s++)
            for (int h = 0; h < HIDDEN; h++) row_of(r, rows, p, s)[h] = (float)whole_row(whole, r, microbatch, position_of(r, p), s)[h];
}

static void compare_rows(verdict *v, const char *name, int rank, double *whole, const weft_rows *r, int microbatch, float *rows) {
    double off = 0;
    for (int64_t p = 0; p < r->positions; p++)
        for (int64_t s = 0; s < r->samples; s++)
            for (int h = 0; h < HIDDEN; h++) worse(&off, whole_row(whole, r, microbatch, position_of(r, p), s)[h], (double)row_of(r, rows, p, s)[h]);
    note(v, name, rank, off, largest(whole, ROWS * HIDDEN));
}

static void keep_rows(double *whole, const weft_rows *r, int microbatch, float *rows) {
    for (int64_t p = 0; p < r->positions; p++)
        for (int64_t s = 0; s < r->samples; s++)
            for (int h = 0; h < HIDDEN; h++) whole_row(whole, r, microbatch, position_of(r, p), s)[h] = (double)row_of(r, rows, p, s)[h];
}

static void compare_gradients(verdict *v, int rank, weft_params *params) {
    tensors got = gather_tensors(params, "grad");
    for (int32_t i = 0; i < got.n; i++) {
        const int id = tensor_id(got.info[i].name);
        const int64_t each = got.info[i].global_rows * got.info[i].global_columns;
        for (int64_t k = 0; k < got.info[i].instances && id >= 0; k++) {
            const double *const want = gradients.data[id] + k * each;
            double off = 0;
            for (int64_t e = 0; e < each; e++) worse(&off, want[e], (double)got.data[i][k * each + e]);
            note(v, got.info[i].name, rank, off, largest(want, each));
        }
    }
    free_tensors(&got);
}

/* ---- a step on the ranks of a layout ------------------------------------------------------------------------------------------ */

static void step_of_rank(rank_thread *t, weft_params *params, verdict *v) {
    weft_plan *const plan = make_plan(t->context, model, t->layout, WEFT_BLOCKS, 0);
    weft_stash *stash[MICROBATCHES];
    weft_rows rows;
    float *room[MICROBATCHES];
    weft_args a[MICROBATCHES];
    MUST(weft_plan_check(plan));
    MUST(weft_plan_load(plan, params));
    weft_plan_rows(plan, &rows);
    const size_t n = (size_t)(rows.positions * rows.samples * HIDDEN);
    for (int m = 0; m < MICROBATCHES; m++) {
        room[m] = calloc(4 * n + 4, sizeof(float));
        MUST(weft_stash_create(plan, &stash[m]));
        take_rows(x, &rows, m, room[m]);
        take_rows(dy, &rows, m, room[m] + 2 * n);
        a[m] = plain_args();
        a[m].microbatch = m;
        a[m].x.host = room[m];
        a[m].y.host = room[m] + n;
        a[m].dy.host = room[m] + 2 * n;
        a[m].dx.host = room[m] + 3 * n;
        MUST(weft_plan_enqueue(plan, WEFT_FORWARD, NULL, stash[m], &a[m], NULL, NULL));
    }
    for (int m = 0; m < MICROBATCHES; m++) {
        a[m].accumulate = m > 0;
        const uint32_t phases = m == MICROBATCHES - 1 ? WEFT_BACKWARD | WEFT_FINISH : WEFT_BACKWARD;
        MUST(weft_plan_enqueue(plan, phases, NULL, stash[m], &a[m], NULL, NULL));
    }
    for (int m = 0; m < MICROBATCHES; m++) {
        compare_rows(v, "y", t->rank, y, &rows, m, room[m] + n);
        compare_rows(v, "dx", t->rank, dx, &rows, m, room[m] + 3 * n);
        weft_stash_destroy(stash[m]);
        free(room[m]);
    }
    compare_gradients(v, t->rank, params);
    weft_plan_destroy(plan);
}

/* Forward alone: no stash, no dropout. Against `evaluated`. */
static void evaluate_on_rank(rank_thread *t, weft_params *params, verdict *v) {
    weft_plan *const plan = make_plan(t->context, model, t->layout, WEFT_BLOCKS, WEFT_FORWARD);
    weft_rows rows;
    MUST(weft_plan_load(plan, params));
    weft_plan_rows(plan, &rows);
    const size_t n = (size_t)(rows.positions * rows.samples * HIDDEN);
    float *const room = calloc(2 * n + 2, sizeof *room);
    for (int m = 0; m < MICROBATCHES; m++) {
        weft_args a = plain_args();
        take_rows(x, &rows, m, room);
        a.microbatch = m;
        a.x.host = room;
        a.y.host = room + n;
        MUST(weft_plan_enqueue(plan, WEFT_FORWARD, NULL, NULL, &a, NULL, NULL));
        compare_rows(v, "y", t->rank, evaluated, &rows, m, room + n);
        if (v->got) keep_rows(v->got, &rows, m, room + n);
    }
    free(room);
    weft_plan_destroy(plan);
}

typedef struct outcome {
    verdict step, forward;
} outcome;

static void run_rank(rank_thread *t) {
    outcome *const o = t->work;
    weft_params *const params = make_params(t->context, model, t->layout);
    MUST(weft_params_load(params, saved));
    step_of_rank(t, params, &o->step);
    evaluate_on_rank(t, params, &o->forward);
    weft_params_destroy(params);
}

/* ---- tests ------------------------------------------------------------------------------------------------------------------------ */

static void expect_close(const char *name, const char *layout, double *got) {
    outcome o = {{.mutex = PTHREAD_MUTEX_INITIALIZER}, {.mutex = PTHREAD_MUTEX_INITIALIZER, .got = got}};
    on_threads(layout, run_rank, &o);
    ck_assert_int_ge(o.step.compared, 2 * MICROBATCHES + 6 * (int)form.layers);
    ck_assert_int_ge(o.forward.compared, MICROBATCHES);
    ck_assert_msg(o.step.worst <= TOLERANCE, "%s, %s: %s is off by %.2g", name, layout, o.step.where, o.step.worst);
    ck_assert_msg(o.forward.worst <= TOLERANCE, "%s, %s: forward alone is off by %.2g", name, layout, o.forward.worst);
    printf("  %s, %s: a step within %.1e (%s), forward alone within %.1e\n", name, layout, o.step.worst, o.step.where,
           o.forward.worst);
}

/* Is the truth of the moment another than what came out? */
static bool is_seen(const double *got) {
    const reference_batch batch = batch_of(false);
    double off = 0;
    reference_blocks(&form, &weights, &batch, x, evaluated, NULL, NULL, NULL);
    for (int i = 0; i < ROWS * HIDDEN; i++) worse(&off, evaluated[i], got[i]);
    return off > TOLERANCE * largest(evaluated, ROWS * HIDDEN);
}

/* A comparison that sees nothing would be worthless: one element of each tensor of each layer changed in the truth is seen,
 * a window that is one key shorter or longer, and a document that ends a token later. */
static void expect_seen(const char *name, const double *got) {
    for (int i = 1; i < BATCH * SEQUENCE && documents; i++) {
        const int32_t kept = packed[i];
        if (i % SEQUENCE == 0 || packed[i - 1] == kept) continue;
        packed[i] = packed[i - 1];
        ck_assert_msg(is_seen(got), "%s: token %d in the document before its own is not seen", name, i);
        packed[i] = kept;
    }
    for (int by = -1; by <= 1 && form.window; by++) {
        form.window += by;
        ck_assert_msg(is_seen(got) == (by != 0), "%s: with a window of %lld", name, (long long)form.window);
        form.window -= by;
    }
    for (int t = 0; t < WF_TENSORS; t++) {
        wf_parameter_info info[WF_TENSORS];
        wf_model_parameters(&form, info);
        if (!info[t].per_layer || !info[t].rows) continue;
        for (int64_t k = 0; k < form.layers; k++) {
            double *const w = weights.data[t] + k * info[t].rows * info[t].columns, kept = *w;
            *w += 0.1;
            ck_assert_msg(is_seen(got), "%s: a change of %s of layer %lld is not seen", name, info[t].name, (long long)k);
            *w = kept;
        }
    }
}

START_TEST(layers_match_the_reference) {
    static double got[ROWS * HIDDEN];
    open_form(_i);
    for (int l = 0; l < LAYOUTS; l++) expect_close(forms[_i].name, layouts[l], l == 0 ? got : NULL);
    expect_close(forms[_i].name, contexts[_i % CONTEXTS], NULL);
    expect_seen(forms[_i].name, got);
    close_form();
}
END_TEST

int main(void) {
    fill_packed();
    Suite *const suite = suite_create("block_forms");
    TCase *const c = tcase_create("forms");
    tcase_set_timeout(c, 240);
    tcase_add_loop_test(c, layers_match_the_reference, 0, FORMS);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
