/* Phases of block stacks: with a loss of the caller's between forward and backward they give the gradients of the
 * whole model; several microbatches may be in flight; start and advance give the bits of enqueue; misuse is refused. */
#include <time.h>

#include "tests/host/blocks_support.h"

static weft_model *model;
static truth want;

static void open_all(void) {
    fill_tokens();
    model = make_model();
    want = find_truth(model);
}

static void close_all(void) {
    free_truth(&want);
    weft_model_destroy(model);
}

/* ---- a step in phases ------------------------------------------------------------------------------------------------ */

typedef struct step {
    weft_plan *plan;
    weft_params *params;
    weft_stash *stash[MICROBATCHES];
    weft_rows rows;
    float *x[MICROBATCHES], *y[MICROBATCHES], *dy[MICROBATCHES], *dx[MICROBATCHES];
} step;

static step open_step(rank_thread *t, uint32_t phases) {
    step s = {.plan = make_plan(t->context, model, t->layout, WEFT_BLOCKS, phases), .params = make_params(t->context, model, t->layout)};
    MUST(weft_plan_check(s.plan));
    MUST(weft_plan_load(s.plan, s.params));
    weft_plan_rows(s.plan, &s.rows);
    const size_t n = (size_t)(s.rows.positions * s.rows.samples * HIDDEN) + 1;
    for (int m = 0; m < MICROBATCHES; m++) {
        MUST(weft_stash_create(s.plan, &s.stash[m]));
        s.x[m] = calloc(4 * n, sizeof(float));
        s.y[m] = s.x[m] + n;
        s.dy[m] = s.y[m] + n;
        s.dx[m] = s.dy[m] + n;
        embed(&want.weights, &s.rows, m, s.x[m]);
    }
    return s;
}

static void close_step(step *s) {
    for (int m = 0; m < MICROBATCHES; m++) {
        weft_stash_destroy(s->stash[m]);
        free(s->x[m]);
    }
    weft_plan_destroy(s->plan);
    weft_params_destroy(s->params);
}

static weft_args args_of(const step *s, int m) {
    weft_args a = plain_args();
    a.x.host = s->x[m];
    a.y.host = s->y[m];
    a.dy.host = s->dy[m];
    a.dx.host = s->dx[m];
    a.microbatch = m;
    return a;
}

static void forward(step *s, int m) {
    const weft_args a = args_of(s, m);
    MUST(weft_plan_enqueue(s->plan, WEFT_FORWARD, NULL, s->stash[m], &a, NULL, NULL));
}

static void backward(step *s, int m, bool accumulate) {
    weft_args a = args_of(s, m);
    a.accumulate = accumulate;
    a.seed = 99; /* a backward has its forward's */
    MUST(weft_plan_enqueue(s->plan, WEFT_BACKWARD, NULL, s->stash[m], &a, NULL, NULL));
}

typedef struct outcome {
    pthread_mutex_t mutex;
    double loss;
    double worst_gradient, worst_weight, worst_position;
    const char *where;
    float position_grad[SEQUENCE * HIDDEN]; /* summed over ranks, by position */
} outcome;

/* The position table's gradient is dx summed over samples; under sp each rank has its positions, else all have all. */
static void note_dx(step *s, outcome *o, bool split, int rank) {
    if (!split && rank) return;
    for (int m = 0; m < MICROBATCHES; m++)
        for (int64_t p = 0; p < s->rows.positions; p++)
            for (int64_t i = 0; i < s->rows.samples; i++)
                for (int h = 0; h < HIDDEN; h++) o->position_grad[position_of(&s->rows, p) * HIDDEN + h] += row_of(&s->rows, s->dx[m], p, i)[h];
}

static void train_in_phases(rank_thread *t) {
    outcome *const o = t->work;
    const bool split = strstr(t->layout, ".sp") || strstr(t->layout, "cp"); /* of positions */
    step s = open_step(t, WEFT_FORWARD | WEFT_BACKWARD | WEFT_OPTIMIZE);
    double loss = 0;
    for (int m = 0; m < MICROBATCHES; m++) forward(&s, m);
    for (int m = 0; m < MICROBATCHES; m++) loss += own_loss(&want.weights, &s.rows, m, s.y[m], s.dy[m]);
    for (int m = 0; m < MICROBATCHES; m++) backward(&s, m, m > 0);
    weft_args a = plain_args();
    MUST(weft_plan_enqueue(s.plan, WEFT_FINISH, NULL, NULL, &a, NULL, NULL));
    tensors gradients = gather_tensors(s.params, "grad");
    MUST(weft_plan_enqueue(s.plan, WEFT_OPTIMIZE, NULL, NULL, &a, NULL, NULL));
    tensors weights = gather_tensors(s.params, "");
    weft_result result;
    MUST(weft_plan_result(s.plan, &result));
    pthread_mutex_lock(&o->mutex);
    if (split || t->rank == 0) o->loss += loss / (double)counted();
    note_dx(&s, o, split, t->rank);
    const char *where = "";
    const double g = worst_of_layers(&want.gradients, &gradients, &where), w = worst_of_layers(&want.trained, &weights, &where);
    if (!(g <= o->worst_gradient)) o->worst_gradient = g, o->where = where;
    if (!(w <= o->worst_weight)) o->worst_weight = w;
    if (!(result.grad_norm > 0)) o->worst_gradient = NAN;
    pthread_mutex_unlock(&o->mutex);
    free_tensors(&gradients);
    free_tensors(&weights);
    close_step(&s);
}

static const char *const layouts[] = {"mb2", "tp2.mb2", "tp2.sp.mb2", "tp3.sp.mb2", "tp4.sp.mb2", "cp2ring.mb2", "cp3ulysses.mb2", "tp2.sp.cp2gather.mb2"};

START_TEST(phases_equal_the_whole_model) {
    outcome o = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    const float *const position = tensor(&want.gradients, "embedding.position");
    double most = 0, off = 0;
    on_threads(layouts[_i], train_in_phases, &o);
    for (int i = 0; i < SEQUENCE * HIDDEN; i++) {
        most = fmax(most, fabs((double)position[i]));
        off = fmax(off, fabs((double)position[i] - (double)o.position_grad[i]));
    }
    ck_assert_msg(fabs(o.loss - want.loss) <= 3e-6 * want.loss, "%s: loss %.9g, of the whole model %.9g", layouts[_i], o.loss, want.loss);
    ck_assert_msg(o.worst_gradient <= 3e-6, "%s: gradient of %s off by %.2g", layouts[_i], o.where, o.worst_gradient);
    /* AdamW's first step divides a gradient by its own magnitude: 1e-3 per weight, whatever rounding did to it; where
     * the gradient is near its rounding error (the key's bias) the direction is chance. */
    ck_assert_msg(o.worst_weight <= 2.1e-3, "%s: trained weights off by %.2g", layouts[_i], o.worst_weight);
    ck_assert_msg(off <= 3e-6 * most, "%s: dx off by %.2g of the largest", layouts[_i], off / most);
    printf("  %s: gradients within %.1e of the whole model's, dx within %.1e\n", layouts[_i], o.worst_gradient, off / most);
}
END_TEST

/* ---- the order of phases, and who waits, do not change a bit ------------------------------------------------------------ */

static void advance_by_hand(step *s, uint32_t phases, int m, bool accumulate) {
    weft_args a = args_of(s, m);
    weft_run *run, *other;
    bool done = false;
    a.accumulate = accumulate;
    MUST(weft_run_start(s->plan, phases, s->params, s->stash[m], &a, NULL, &run));
    if (!weft_run_submitted(run) && weft_run_start(s->plan, phases, s->params, s->stash[m], &a, NULL, &other) == WEFT_OK)
        give_up("weft_run_start", "a second run started while one was in progress");
    while (!done) MUST(weft_run_advance(run, &done));
    if (!weft_run_submitted(run)) give_up("weft_run_advance", "a run is done that was not submitted");
    MUST(weft_run_finish(run, NULL));
}

static void compare_orders(rank_thread *t) {
    bool *const same = t->work;
    step a = open_step(t, 0), b = open_step(t, 0);
    weft_stash_destroy(b.stash[1]);
    weft_args args = plain_args();
    for (int m = 0; m < MICROBATCHES; m++) forward(&a, m);
    for (int m = 0; m < MICROBATCHES; m++) own_loss(&want.weights, &a.rows, m, a.y[m], a.dy[m]);
    for (int m = 0; m < MICROBATCHES; m++) backward(&a, m, m > 0);
    MUST(weft_plan_enqueue(a.plan, WEFT_FINISH, NULL, NULL, &args, NULL, NULL));
    for (int m = 0; m < MICROBATCHES; m++) { /* one after the other, by one stash, by hand */
        b.stash[1] = b.stash[0];
        advance_by_hand(&b, WEFT_FORWARD, m, false);
        own_loss(&want.weights, &b.rows, m, b.y[m], b.dy[m]);
        advance_by_hand(&b, m == MICROBATCHES - 1 ? WEFT_BACKWARD | WEFT_FINISH : WEFT_BACKWARD, m, m > 0);
    }
    b.stash[1] = NULL;
    tensors x = gather_tensors(a.params, "grad"), y = gather_tensors(b.params, "grad");
    same[t->rank] = true;
    for (int32_t i = 0; i < x.n; i++)
        if (strncmp(x.info[i].name, "layer.", 6) == 0 &&
            memcmp(x.data[i], y.data[i], (size_t)(x.info[i].global_rows * x.info[i].global_columns * x.info[i].instances) * sizeof(float)) != 0)
            same[t->rank] = false;
    free_tensors(&x);
    free_tensors(&y);
    close_step(&a);
    close_step(&b);
}

START_TEST(any_order_gives_the_same_bits) {
    bool same[4] = {false, false, false, false};
    on_threads("tp2.sp.mb2", compare_orders, same);
    ck_assert(same[0] && same[1]);
}
END_TEST

/* ---- enqueued without waiting: events only at the end --------------------------------------------------------------------- */

static void enqueue_ahead(rank_thread *t) {
    double *const worst = t->work;
    step s = open_step(t, 0);
    float *const y = calloc((size_t)(s.rows.positions * s.rows.samples * HIDDEN) + 1, sizeof *y);
    void *event[2];
    weft_args a = args_of(&s, 0), b = args_of(&s, 1);
    forward(&s, 0);
    own_loss(&want.weights, &s.rows, 0, s.y[0], s.dy[0]);
    memcpy(y, s.y[0], (size_t)(s.rows.positions * s.rows.samples * HIDDEN) * sizeof *y);
    a.x.host = s.x[0];
    MUST(weft_plan_enqueue(s.plan, WEFT_BACKWARD, NULL, s.stash[0], &a, NULL, &event[0]));
    /* the backward may still run: this forward shares its scratch, queue and staging */
    a.microbatch = 0;
    b = a;
    b.y.host = s.y[1];
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash[1], &b, NULL, &event[1]));
    MUST(weft_plan_result(s.plan, &(weft_result){0}));
    worst[t->rank] = memcmp(y, s.y[1], (size_t)(s.rows.positions * s.rows.samples * HIDDEN) * sizeof *y) == 0 ? 0 : 1;
    free(y);
    close_step(&s);
}

START_TEST(runs_may_follow_without_waiting) {
    for (int i = 0; i < 3; i++) {
        double worst[4] = {1, 1, 1, 1};
        on_threads("tp3.sp.mb2", enqueue_ahead, worst);
        ck_assert(worst[0] == 0 && worst[1] == 0 && worst[2] == 0);
    }
}
END_TEST

/* Each forward has its own documents, though the host is ahead of the device by several. */
static void enqueue_documents(rank_thread *t) {
    enum { RUNS = 8 };
    static int32_t packed[2][BATCH * SEQUENCE];
    double *const worst = t->work;
    for (int i = 0; i < BATCH * SEQUENCE; i++) packed[0][i] = i % SEQUENCE > 4, packed[1][i] = i % SEQUENCE > 8;
    documents = packed[0];
    weft_plan *const plan = make_plan(t->context, model, t->layout, WEFT_BLOCKS, WEFT_FORWARD);
    documents = NULL;
    weft_params *const params = make_params(t->context, model, t->layout);
    weft_rows rows;
    MUST(weft_plan_load(plan, params));
    weft_plan_rows(plan, &rows);
    const size_t n = (size_t)(rows.positions * rows.samples * HIDDEN);
    float *const x = calloc((RUNS + 3) * n + 1, sizeof *x), *const apart = x + n;
    void *event[RUNS];
    embed(&want.weights, &rows, 0, x);
    for (int i = 0; i < RUNS + 2; i++) {
        weft_args a = plain_args();
        a.x.host = x;
        a.y.host = apart + (size_t)i * n;
        a.documents = packed[i % 2];
        MUST(weft_plan_enqueue(plan, WEFT_FORWARD, NULL, NULL, &a, NULL, i < 2 ? NULL : &event[i - 2]));
    }
    MUST(weft_plan_result(plan, &(weft_result){0}));
    worst[t->rank] = memcmp(apart, apart + n, n * sizeof *x) == 0; /* documents that make no difference */
    for (int i = 2; i < RUNS + 2; i++) worst[t->rank] += memcmp(apart + (size_t)i * n, apart + (size_t)(i % 2) * n, n * sizeof *x) != 0;
    free(x);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
}

START_TEST(documents_are_each_forwards_own) {
    double worst[1] = {1};
    on_threads("mb2", enqueue_documents, worst);
    ck_assert_double_eq(worst[0], 0);
}
END_TEST

/* Of two ranks one has documents: both are told. */
static void load_unlike(rank_thread *t) {
    bool *const told = t->work;
    weft_params *const params = make_params(t->context, model, t->layout);
    weft_plan_options o;
    weft_layout *layout;
    weft_plan *plan;
    weft_plan_options_init(&o);
    MUST(weft_layout_parse(t->layout, &layout));
    o.model = model, o.layout = layout, o.batch = BATCH, o.sequence = SEQUENCE, o.mode = WEFT_BLOCKS, o.documents = t->rank == 1;
    MUST(weft_plan_create(t->context, &o, &plan));
    told[t->rank] = weft_plan_load(plan, params) == WEFT_ERR_MISMATCH && strstr(weft_last_error(), "rank 1's plan is of packed documents");
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_params_destroy(params);
}

START_TEST(documents_of_one_rank_alone_are_refused) {
    bool told[2] = {false, false};
    on_threads("tp2.mb2", load_unlike, told);
    ck_assert(told[0] && told[1]);
}
END_TEST

/* ---- evaluation: no stash, no dropout ---------------------------------------------------------------------------------------- */

static void evaluate(rank_thread *t) {
    double *const loss = t->work;
    weft_plan *const plan = make_plan(t->context, model, t->layout, WEFT_BLOCKS, WEFT_FORWARD);
    weft_params *const params = make_params(t->context, model, t->layout);
    weft_plan *const whole = make_plan(t->context, model, t->layout, WEFT_EVALUATE, 0);
    weft_stash *stash = NULL;
    weft_result result;
    weft_rows rows;
    MUST(weft_plan_load(plan, params));
    MUST(weft_plan_load(whole, params));
    weft_plan_rows(plan, &rows);
    float *const x = calloc((size_t)(rows.positions * rows.samples * HIDDEN) * 3 + 1, sizeof *x), *const y = x + rows.positions * rows.samples * HIDDEN,
                 *const dy = y + rows.positions * rows.samples * HIDDEN;
    weft_args a = plain_args();
    for (int m = 0; m < MICROBATCHES; m++) {
        embed(&want.weights, &rows, m, x);
        a.x.host = x;
        a.y.host = y;
        a.microbatch = m;
        MUST(weft_plan_enqueue(plan, WEFT_FORWARD, NULL, NULL, &a, NULL, NULL));
        loss[0] += own_loss(&want.weights, &rows, m, y, dy) / (double)counted();
    }
    a.tokens = tokens;
    a.targets = targets;
    MUST(weft_plan_run(whole, &a, &result));
    loss[1] = result.loss;
    ck_assert_int_eq(weft_stash_create(plan, &stash), WEFT_ERR_ARGUMENT);
    free(x);
    weft_plan_destroy(whole);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
}

START_TEST(forward_alone_evaluates) {
    double loss[2] = {0, 0};
    on_threads("mb2", evaluate, loss);
    ck_assert_msg(fabs(loss[0] - loss[1]) <= 3e-6 * loss[1], "%.9g, of the whole model %.9g", loss[0], loss[1]);
}
END_TEST

/* ---- misuse --------------------------------------------------------------------------------------------------------------------- */

static void expect(weft_status got, const char *said) {
    ck_assert_msg(got == WEFT_ERR_ARGUMENT && strstr(weft_last_error(), said), "status %d: %s", (int)got, weft_last_error());
}

static void misuse(rank_thread *t) {
    step s = open_step(t, 0);
    weft_args a = args_of(&s, 0);
    weft_stash *const stash = s.stash[0];
    expect(weft_plan_enqueue(s.plan, 0, NULL, stash, &a, NULL, NULL), "no phase");
    expect(weft_plan_enqueue(s.plan, WEFT_OPTIMIZE, NULL, stash, &a, NULL, NULL), "WEFT_OPTIMIZE");
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, NULL, &a, NULL, NULL), "need a stash");
    expect(weft_plan_enqueue(s.plan, WEFT_BACKWARD, NULL, stash, &a, NULL, NULL), "holds no forward");
    a.microbatch = 2;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, stash, &a, NULL, NULL), "microbatch 2");
    a.microbatch = 0;
    a.x.host = NULL;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, stash, &a, NULL, NULL), "needs x");
    a.x.host = s.x[0];
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, stash, &a, NULL, NULL));
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, stash, &a, NULL, NULL), "has not run");
    MUST(weft_plan_enqueue(s.plan, WEFT_BACKWARD | WEFT_FINISH, NULL, stash, &a, NULL, NULL));
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, stash, &a, NULL, NULL));
    a.accumulate = true;
    expect(weft_plan_enqueue(s.plan, WEFT_BACKWARD, NULL, stash, &a, NULL, NULL), "summed");
    expect(weft_plan_run(s.plan, &a, &(weft_result){0}), "weft_plan_enqueue");
    weft_plan_options o;
    weft_plan *p = NULL;
    weft_plan_options_init(&o);
    o.model = model;
    weft_layout *l;
    MUST(weft_layout_parse("mb2", &l));
    o.layout = l;
    o.batch = BATCH;
    o.sequence = SEQUENCE;
    o.mode = WEFT_EVALUATE;
    o.phases = WEFT_FORWARD;
    expect(weft_plan_create(NULL, &o, &p), "WEFT_BLOCKS");
    o.mode = WEFT_BLOCKS;
    o.phases = WEFT_BACKWARD;
    expect(weft_plan_create(NULL, &o, &p), "WEFT_FORWARD");
    o.mode = (weft_mode)15;
    o.phases = 0;
    expect(weft_plan_create(NULL, &o, &p), "no mode");
    weft_layout_destroy(l);
    close_step(&s);
}

START_TEST(misuse_is_refused) {
    on_threads("mb2", misuse, NULL);
}
END_TEST

/* ---- waiting --------------------------------------------------------------------------------------------------------- */

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* On one rank FINISH has no kernels: the host waits for those of the phases before it, and must not take a core from the
 * device meanwhile. Some 13 Gflop, so that there is something to wait for. */
START_TEST(the_host_sleeps_while_the_device_works) {
    weft_context *context;
    weft_layout *layout;
    weft_model *wide;
    weft_plan *plan;
    weft_stash *stash;
    weft_model_options m;
    weft_plan_options o;
    weft_args a;
    weft_model_options_init(&m);
    m.layers = 1, m.hidden = 512, m.heads = 8, m.vocabulary = 11, m.positions = 256;
    MUST(weft_context_create(NULL, NULL, &context));
    MUST(weft_model_fill(&m, &wide));
    MUST(weft_layout_parse("tp1", &layout));
    weft_plan_options_init(&o);
    o.model = wide, o.layout = layout, o.mode = WEFT_BLOCKS, o.batch = 4, o.sequence = 256;
    weft_params *const params = make_params(context, wide, "tp1");
    MUST(weft_plan_create(context, &o, &plan));
    MUST(weft_plan_load(plan, params));
    MUST(weft_stash_create(plan, &stash));
    float *const x = calloc(4 * 256 * 512, sizeof *x);
    weft_args_init(&a);
    a.x.host = a.y.host = a.dy.host = a.dx.host = x;
    double wall = 0, busy = 0;
    for (int run = 0; run < 3; run++) { /* the first compiles */
        const double wall0 = seconds_of(CLOCK_MONOTONIC), busy0 = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        MUST(weft_plan_enqueue(plan, WEFT_FORWARD | WEFT_BACKWARD | WEFT_FINISH, NULL, stash, &a, NULL, NULL));
        wall = seconds_of(CLOCK_MONOTONIC) - wall0;
        busy = seconds_of(CLOCK_THREAD_CPUTIME_ID) - busy0;
    }
    ck_assert_msg(busy < wall / 2, "the host worked %.4f s of the %.4f s that it waited", busy, wall);
    free(x);
    weft_stash_destroy(stash);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(wide);
    weft_context_destroy(context);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("stash");
    TCase *const c = tcase_create("blocks");
    tcase_set_timeout(c, 240);
    tcase_add_unchecked_fixture(c, open_all, close_all);
    tcase_add_loop_test(c, phases_equal_the_whole_model, 0, sizeof layouts / sizeof *layouts);
    tcase_add_test(c, any_order_gives_the_same_bits);
    tcase_add_test(c, runs_may_follow_without_waiting);
    tcase_add_test(c, documents_are_each_forwards_own);
    tcase_add_test(c, documents_of_one_rank_alone_are_refused);
    tcase_add_test(c, forward_alone_evaluates);
    tcase_add_test(c, misuse_is_refused);
    tcase_add_test(c, the_host_sleeps_while_the_device_works);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
