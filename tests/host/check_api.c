/* The public header on one rank: what is refused, and with which sentence; loss and life of objects. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host/api/weft.h"

static weft_context *context;
static weft_model *tiny;
static weft_layout *one;

static void expect_sentence(weft_status got, weft_status want, const char *said) {
    ck_assert_msg(got == want, "status %d, not %d: %s", (int)got, (int)want, weft_last_error());
    ck_assert_msg(strstr(weft_last_error(), said) != NULL, "\"%s\" does not say \"%s\"", weft_last_error(), said);
}

static void must(weft_status status) {
    ck_assert_msg(status == WEFT_OK, "%s", weft_last_error());
}

static void open_all(void) {
    must(weft_context_create(NULL, NULL, &context));
    must(weft_model_create("tiny", &tiny));
    must(weft_layout_parse("", &one));
}

static void close_all(void) {
    weft_layout_destroy(one);
    weft_model_destroy(tiny);
    weft_context_destroy(context);
}

static weft_plan_options options_of(int64_t batch, int64_t sequence, weft_mode mode) {
    weft_plan_options o;
    weft_plan_options_init(&o);
    o.model = tiny;
    o.layout = one;
    o.batch = batch;
    o.sequence = sequence;
    o.mode = mode;
    return o;
}

/* ---- what is refused --------------------------------------------------------------------------------------- */

START_TEST(unknown_models_are_named) {
    weft_model *m = NULL;
    expect_sentence(weft_model_create("huge", &m), WEFT_ERR_ARGUMENT, "\"huge\"");
    expect_sentence(weft_model_create("no/such.json", &m), WEFT_ERR_FILE, "no/such.json");
    expect_sentence(weft_model_create("", &m), WEFT_ERR_ARGUMENT, "no model");
    ck_assert_ptr_null(m);
}
END_TEST

START_TEST(unknown_transports_and_devices_are_named) {
    weft_context_options o;
    weft_context *c = NULL;
    weft_context_options_init(&o);
    o.transport = "pigeon";
    expect_sentence(weft_context_create(&o, NULL, &c), WEFT_ERR_ARGUMENT, "pigeon");
    weft_context_options_init(&o);
    o.device = "no such device";
    ck_assert_int_eq(weft_context_create(&o, NULL, &c), WEFT_ERR_DEVICE);
    weft_context_options_init(&o);
    o.timeout_s = -1;
    expect_sentence(weft_context_create(&o, NULL, &c), WEFT_ERR_ARGUMENT, "deadline");
    ck_assert_ptr_null(c);
}
END_TEST

START_TEST(plans_that_do_not_fit_are_refused) {
    weft_plan *p = NULL;
    weft_layout *two;
    weft_plan_options o = options_of(2, 100000, WEFT_TRAIN);
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "positions");
    o = options_of(0, 8, WEFT_TRAIN);
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "empty");
    must(weft_layout_parse("tp2.sp", &two));
    o = options_of(2, 8, WEFT_TRAIN);
    o.layout = two;
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "2 ranks");
    o.rank = 2;
    expect_sentence(weft_plan_create(NULL, &o, &p), WEFT_ERR_ARGUMENT, "ranks 0 to 1");
    weft_layout_destroy(two);
    must(weft_layout_parse("mb3", &two));
    o.layout = two;
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "microbatches");
    weft_layout_destroy(two);
    o = options_of(2, 8, WEFT_TRAIN);
    o.gemm = "fastest";
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "fastest");
    ck_assert_ptr_null(p);
}
END_TEST

/* Shares without numbers: for as many ranks as there are; without a device they are equal; of one rank there is nothing to measure. */
START_TEST(shares_to_be_measured) {
    weft_plan *p = NULL;
    weft_params *params = NULL;
    weft_layout *asked, *equal, *own, *none = NULL;
    char text[64];
    weft_plan_options o = options_of(2, 8, WEFT_TRAIN);
    must(weft_layout_parse("cp2ring.cp-shares", &asked));
    expect_sentence(weft_layout_measure(context, asked, &none), WEFT_ERR_ARGUMENT, "for 2 ranks");
    ck_assert_ptr_null(none);
    must(weft_layout_measure(NULL, asked, &equal));
    weft_layout_print(equal, text, sizeof text);
    ck_assert_str_eq(text, "cp2ring");
    o.layout = asked;
    expect_sentence(weft_plan_create(context, &o, &p), WEFT_ERR_ARGUMENT, "for 2 ranks");
    must(weft_plan_create(NULL, &o, &p)); /* equal shares */
    weft_plan_destroy(p);
    must(weft_layout_measure(context, one, &own));
    weft_layout_print(own, text, sizeof text);
    ck_assert_str_eq(text, "tp1");
    must(weft_params_create(context, tiny, own, &params));
    weft_params_destroy(params);
    weft_layout_destroy(own);
    weft_layout_destroy(equal);
    weft_layout_destroy(asked);
}
END_TEST

START_TEST(memory_is_foreseen) {
    weft_plan *p = NULL;
    weft_plan_options o = options_of(1 << 13, 256, WEFT_TRAIN);
    const weft_status status = weft_plan_create(context, &o, &p);
    ck_assert_msg(status == WEFT_ERR_MEMORY, "status %d: %s", (int)status, weft_last_error());
    ck_assert_ptr_nonnull(strstr(weft_last_error(), "bytes"));
    ck_assert_ptr_null(p);
}
END_TEST

START_TEST(plans_without_a_context_are_pure) {
    weft_plan *p;
    weft_plan_info info;
    weft_layout *two;
    char *text;
    must(weft_layout_parse("tp2.sp", &two));
    for (int32_t rank = 0; rank < 2; rank++) {
        weft_plan_options o = options_of(4, 32, WEFT_TRAIN);
        o.layout = two;
        o.rank = rank;
        must(weft_plan_create(NULL, &o, &p));
        weft_plan_describe(p, &info);
        ck_assert(info.device_bytes > 0 && info.parameter_bytes > 0 && info.flops > 0 && info.sent_bytes > 0);
        ck_assert_int_eq(info.optimizer_bytes, 2 * info.parameter_bytes);
        must(weft_plan_check(p));
        must(weft_plan_explain(p, &text));
        ck_assert_ptr_nonnull(strstr(text, "layer.forward"));
        weft_text_free(text);
        expect_sentence(weft_plan_load(p, NULL), WEFT_ERR_ARGUMENT, "without a context");
        weft_plan_destroy(p);
    }
    weft_layout_destroy(two);
}
END_TEST

/* ---- a life -------------------------------------------------------------------------------------------------- */

enum { BATCH = 2, SEQUENCE = 16 };
static int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE];

static weft_args some_args(void) {
    weft_args a;
    weft_args_init(&a);
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        tokens[i] = (i * 7) % 50;
        targets[i] = (i * 7 + 7) % 50;
    }
    a.tokens = tokens;
    a.targets = targets;
    a.seed = 1;
    return a;
}

START_TEST(runs_refuse_what_is_out_of_range) {
    weft_params *params;
    weft_plan *p;
    weft_result result = {.loss = -1};
    weft_args a = some_args();
    must(weft_params_create(context, tiny, one, &params));
    const weft_plan_options o = options_of(BATCH, SEQUENCE, WEFT_EVALUATE);
    must(weft_plan_create(context, &o, &p));
    expect_sentence(weft_plan_run(p, &a, &result), WEFT_ERR_ARGUMENT, "not loaded");
    must(weft_plan_load(p, params));
    expect_sentence(weft_plan_load(p, params), WEFT_ERR_ARGUMENT, "loaded already");
    tokens[SEQUENCE + 3] = 257;
    expect_sentence(weft_plan_run(p, &a, &result), WEFT_ERR_ARGUMENT, "token 257 of sequence 1, position 3");
    tokens[SEQUENCE + 3] = 0;
    targets[0] = 300;
    expect_sentence(weft_plan_run(p, &a, &result), WEFT_ERR_ARGUMENT, "target 300 of sequence 0, position 0");
    for (int i = 0; i < BATCH * SEQUENCE; i++) targets[i] = -1;
    expect_sentence(weft_plan_run(p, &a, &result), WEFT_ERR_ARGUMENT, "no target");
    a = some_args();
    a.learning_rate = NAN;
    expect_sentence(weft_plan_run(p, &a, &result), WEFT_ERR_ARGUMENT, "learning rate");
    ck_assert(result.loss == -1);
    float row[257];
    expect_sentence(weft_plan_logits(p, 0, 0, row), WEFT_ERR_ARGUMENT, "WEFT_LOGITS");
    expect_sentence(weft_params_read(params, 0, "grad", 0, row), WEFT_ERR_ARGUMENT, "embedding.token.grad");
    expect_sentence(weft_params_read(params, 0, "momentum", 0, row), WEFT_ERR_ARGUMENT, "momentum");
    expect_sentence(weft_params_read(params, 99, "", 0, row), WEFT_ERR_ARGUMENT, "99");
    weft_plan_destroy(p);
    weft_params_destroy(params);
}
END_TEST

static double loss_of_logits(weft_plan *p) {
    double sum = 0;
    float row[257];
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        double total = 0;
        must(weft_plan_logits(p, i / SEQUENCE, i % SEQUENCE, row));
        for (int v = 0; v < 257; v++) total += exp((double)row[v]);
        sum += log(total) - (double)row[targets[i]];
    }
    return sum / (BATCH * SEQUENCE);
}

/* Training, evaluation and logits share weights; the loss is the logits' cross-entropy. */
START_TEST(documents_are_of_plans_with_documents) {
    weft_params *params;
    weft_plan *without, *with, *blocks;
    weft_stash *stash;
    weft_result plain, result;
    static int32_t documents[BATCH * SEQUENCE];
    static float rows[BATCH * SEQUENCE * 128];
    weft_args a = some_args();
    weft_plan_options o = options_of(BATCH, SEQUENCE, WEFT_EVALUATE);
    must(weft_params_create(context, tiny, one, &params));
    must(weft_params_init(params, 1));
    must(weft_plan_create(context, &o, &without));
    o.documents = true;
    must(weft_plan_create(context, &o, &with));
    o.mode = WEFT_BLOCKS;
    must(weft_plan_create(context, &o, &blocks));
    must(weft_plan_load(without, params));
    must(weft_plan_load(with, params));
    must(weft_plan_load(blocks, params));
    must(weft_stash_create(blocks, &stash));
    must(weft_plan_run(without, &a, &plain));
    expect_sentence(weft_plan_run(with, &a, &result), WEFT_ERR_ARGUMENT, "needs them");
    a.x.host = a.y.host = rows;
    expect_sentence(weft_plan_enqueue(blocks, WEFT_FORWARD, NULL, stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "needs them");
    a.documents = documents;
    expect_sentence(weft_plan_run(without, &a, &result), WEFT_ERR_ARGUMENT, "without documents");
    must(weft_plan_run(with, &a, &result));
    ck_assert_double_eq(result.loss, plain.loss); /* one document */
    for (int i = SEQUENCE + 3; i < SEQUENCE + 9; i++) documents[i] = -5;
    expect_sentence(weft_plan_run(with, &a, &result), WEFT_ERR_ARGUMENT,
                    "document 0 of sequence 1 ends at position 3 and comes back at position 9");
    expect_sentence(weft_plan_enqueue(blocks, WEFT_FORWARD, NULL, stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "comes back");
    for (int i = SEQUENCE + 9; i < 2 * SEQUENCE; i++) documents[i] = 7;
    must(weft_plan_run(with, &a, &result));
    ck_assert_double_ne(result.loss, plain.loss);
    must(weft_plan_enqueue(blocks, WEFT_FORWARD, NULL, stash, &a, NULL, NULL));
    weft_stash_destroy(stash);
    weft_plan_destroy(without);
    weft_plan_destroy(with);
    weft_plan_destroy(blocks);
    weft_params_destroy(params);
}
END_TEST

START_TEST(plans_share_params) {
    weft_params *params;
    weft_plan *train, *evaluate, *logits;
    weft_result r;
    weft_args a = some_args();
    must(weft_params_create(context, tiny, one, &params));
    must(weft_params_init(params, 5));
    const weft_plan_options of_train = options_of(BATCH, SEQUENCE, WEFT_TRAIN), of_logits = options_of(BATCH, SEQUENCE, WEFT_LOGITS),
                            of_evaluate = options_of(BATCH, SEQUENCE, WEFT_EVALUATE);
    must(weft_plan_create(context, &of_train, &train));
    must(weft_plan_create(context, &of_evaluate, &evaluate));
    must(weft_plan_create(context, &of_logits, &logits));
    must(weft_plan_load(train, params));
    must(weft_plan_load(evaluate, params));
    must(weft_plan_load(logits, params));
    must(weft_plan_run(evaluate, &a, &r));
    /* tiny's first logits are normal with variance hidden * init_std^2; so E log sum exp = log 257 + variance / 2 */
    ck_assert_msg(fabs(r.loss - (log(257) + 0.5 * 128 * 0.08 * 0.08)) < 0.2, "%g", r.loss);
    for (a.step = 0; a.step < 5; a.step++) must(weft_plan_run(train, &a, &r));
    ck_assert(r.grad_norm > 0 && r.tokens == BATCH * SEQUENCE);
    must(weft_plan_run(evaluate, &a, &r));
    must(weft_plan_run(logits, &a, &r));
    must(weft_plan_run(evaluate, &a, &r));
    ck_assert_msg(r.loss < log(257), "%g", r.loss);
    const double want = loss_of_logits(logits);
    ck_assert_msg(fabs(want - r.loss) < 1e-5, "%.9g, from logits %.9g", r.loss, want);
    weft_plan_destroy(logits);
    weft_plan_destroy(evaluate);
    weft_plan_destroy(train);
    weft_params_destroy(params);
}
END_TEST

/* A plan is loaded once, but its runs may take other params: what they give is what a plan loaded with those gives. */
START_TEST(a_loaded_plan_takes_other_params) {
    weft_params *params, *others;
    weft_plan *plan, *of_others;
    weft_result mine, want, got;
    const weft_args a = some_args();
    const weft_plan_options o = options_of(BATCH, SEQUENCE, WEFT_EVALUATE);
    must(weft_params_create(context, tiny, one, &params));
    must(weft_params_init(params, 5));
    must(weft_params_create(context, tiny, one, &others));
    must(weft_params_init(others, 6));
    must(weft_plan_create(context, &o, &plan));
    must(weft_plan_create(context, &o, &of_others));
    must(weft_plan_load(plan, params));
    must(weft_plan_load(of_others, others));
    expect_sentence(weft_plan_load(plan, others), WEFT_ERR_ARGUMENT, "loaded already");
    must(weft_plan_run(of_others, &a, &want));
    must(weft_plan_run(plan, &a, &mine));
    ck_assert(mine.loss != want.loss);
    must(weft_plan_enqueue(plan, 0, others, NULL, &a, NULL, NULL));
    must(weft_plan_result(plan, &got));
    ck_assert_msg(got.loss == want.loss, "%.9g, not %.9g", got.loss, want.loss);
    must(weft_plan_run(plan, &a, &got)); /* those of load again */
    ck_assert_msg(got.loss == mine.loss, "%.9g, not %.9g", got.loss, mine.loss);
    weft_plan_destroy(of_others);
    weft_plan_destroy(plan);
    weft_params_destroy(others);
    weft_params_destroy(params);
}
END_TEST

typedef struct trained {
    weft_params *params;
    weft_plan *plan;
    weft_plan_info info;
    double loss;
} trained;

static trained train_in(weft_order order) {
    trained t;
    weft_result r;
    weft_args a = some_args();
    weft_plan_options o = options_of(BATCH, SEQUENCE, WEFT_TRAIN);
    o.order = order;
    must(weft_params_create_ordered(context, tiny, one, order, &t.params));
    must(weft_params_init(t.params, 5));
    must(weft_plan_create(context, &o, &t.plan));
    must(weft_plan_load(t.plan, t.params));
    for (a.step = 0; a.step < 3; a.step++) must(weft_plan_run(t.plan, &a, &r));
    weft_plan_describe(t.plan, &t.info);
    t.loss = r.loss;
    return t;
}

static void expect_same_tensors(weft_params *x, weft_params *y) {
    static const char *const kinds[] = {"", "m", "v"};
    for (int32_t i = 0; i < weft_params_count(x); i++) {
        weft_tensor_info info;
        must(weft_params_info(x, i, &info));
        const size_t n = (size_t)(info.rows * info.columns);
        float *const room = calloc(2 * n, sizeof *room);
        for (int kind = 0; kind < 3; kind++)
            for (int64_t k = 0; k < info.instances; k++) {
                must(weft_params_read(x, i, kinds[kind], k, room));
                must(weft_params_read(y, i, kinds[kind], k, room + n));
                ck_assert_msg(memcmp(room, room + n, n * sizeof *room) == 0, "%s %s[%lld]", info.name, kinds[kind], (long long)k);
            }
        free(room);
    }
}

/* Two orders train alike; a plan takes its own; what one saves the other loads, to the bit. */
START_TEST(orders_of_weights_hold_the_same_numbers) {
    trained rows = train_in(WEFT_ORDER_ROWS), panels = train_in(WEFT_ORDER_PANELS);
    weft_plan_options o = options_of(BATCH, SEQUENCE, WEFT_EVALUATE);
    weft_progress progress = {.step = 3};
    weft_plan *other = NULL;
    weft_params *none = NULL;
    char folder[64];
    ck_assert_msg(fabs(rows.loss - panels.loss) < 1e-5 * rows.loss, "%.9g, %.9g", rows.loss, panels.loss);
    ck_assert(rows.info.hash != panels.info.hash);
    o.order = WEFT_ORDER_ROWS;
    must(weft_plan_create(context, &o, &other));
    expect_sentence(weft_plan_load(other, panels.params), WEFT_ERR_ARGUMENT, "weights in rows, and these params hold them in panels");
    weft_plan_destroy(other);
    expect_sentence(weft_params_create_ordered(context, tiny, one, (weft_order)7, &none), WEFT_ERR_ARGUMENT, "no order 7");
    snprintf(folder, sizeof folder, "weft-orders-%ld", (long)getpid());
    for (int turn = 0; turn < 2; turn++) {
        weft_params *const from = turn ? panels.params : rows.params, *const to = turn ? rows.params : panels.params;
        progress.step = 3 + turn;
        must(weft_checkpoint_save(from, folder, &progress, 1));
        must(weft_params_init(to, 99));
        must(weft_checkpoint_load(to, folder, &progress));
        expect_same_tensors(from, to);
        must(weft_params_init(from, 6)); /* so that the way back has something else to carry */
    }
    weft_plan_destroy(rows.plan);
    weft_plan_destroy(panels.plan);
    weft_params_destroy(rows.params);
    weft_params_destroy(panels.params);
    char command[100];
    snprintf(command, sizeof command, "rm -r %s", folder);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(descriptions_say_what_is_there) {
    char *text;
    must(weft_context_describe(context, false, &text));
    ck_assert_ptr_nonnull(strstr(text, "rank 0"));
    weft_text_free(text);
    must(weft_context_describe(context, true, &text));
    ck_assert_int_eq(text[0], '{');
    weft_text_free(text);
    must(weft_environment_describe(true, &text));
    ck_assert_ptr_nonnull(strstr(text, "WEFT_DEVICE"));
    weft_text_free(text);
    must(weft_environment_describe(false, &text));
    ck_assert_ptr_nonnull(strstr(text, "WEFT_TIMEOUT_S"));
    weft_text_free(text);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("api");
    TCase *const c = tcase_create("one rank");
    tcase_set_timeout(c, 120);
    tcase_add_unchecked_fixture(c, open_all, close_all);
    tcase_add_test(c, unknown_models_are_named);
    tcase_add_test(c, unknown_transports_and_devices_are_named);
    tcase_add_test(c, plans_that_do_not_fit_are_refused);
    tcase_add_test(c, shares_to_be_measured);
    tcase_add_test(c, memory_is_foreseen);
    tcase_add_test(c, plans_without_a_context_are_pure);
    tcase_add_test(c, runs_refuse_what_is_out_of_range);
    tcase_add_test(c, documents_are_of_plans_with_documents);
    tcase_add_test(c, plans_share_params);
    tcase_add_test(c, a_loaded_plan_takes_other_params);
    tcase_add_test(c, orders_of_weights_hold_the_same_numbers);
    tcase_add_test(c, descriptions_say_what_is_there);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
