/* The plain model that judges the others is judged itself, in every form of its block: its gradients,
 * all of them, against central differences with dropout on; and what must hold of any model. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/model_reference.h"

enum { BATCH = 2, SEQUENCE = 5 };
static const int32_t tokens[BATCH * SEQUENCE] = {1, 4, 4, 0, 6, 3, 2, 1, 5, 1};
static const int32_t targets[BATCH * SEQUENCE] = {4, 4, 0, 6, -1, 2, 1, 5, -1, 3};

static wf_model small_model(int activation) {
    return (wf_model){.layers = 2, .hidden = 6, .heads = 2, .kv_heads = 2, .head_size = 3,
                      .features = 10, .vocabulary = 7, .positions = 8, .activation = activation,
                      .norm_epsilon = 1e-5, .init_std = 0.4, .dropout_embedding = 0.2,
                      .dropout_attention = 0.3, .dropout_residual = 0.25, .tied_head = true,
                      .biases = WF_BIASES_ALL};
}

static wf_model small_llama(void) {
    wf_model m = small_model(WF_ACT_SILU);
    m.family = WF_FAMILY_LLAMA, m.norm = WF_RMSNORM, m.position_form = WF_POSITIONS_ROPE;
    m.heads = 4, m.kv_heads = 2, m.head_size = 6, m.gated = true, m.biases = 0, m.tied_head = false;
    m.rope_theta = 20;
    return m;
}

static wf_model small_bert(void) {
    wf_model m = small_model(WF_ACT_GELU);
    m.family = WF_FAMILY_BERT, m.head_form = WF_HEAD_TRANSFORM, m.types = 2;
    m.post_norm = m.bidirectional = m.embedding_norm = true;
    return m;
}

/* Forms whose gradients are tried: the families', and mixtures that no family has. */
enum { ACTIVATIONS = 4, LLAMA = ACTIVATIONS, LLAMA3, QWEN, BERT, MIXED, BARE, WINDOW, PACKED, PACKED_BERT, FORMS };

static wf_model form_of(int form) {
    static const int activations[] = {WF_ACT_GELU_TANH, WF_ACT_GELU, WF_ACT_RELU, WF_ACT_SILU};
    wf_model m = form < ACTIVATIONS ? small_model(activations[form]) : form == BERT || form == PACKED_BERT ? small_bert() : small_llama();
    if (form == PACKED) m = small_model(WF_ACT_GELU_TANH);
    if (form == LLAMA3) /* of the three waves one is short, one between, one long */
        m.rope_factor = 4, m.rope_low_frequency = 1, m.rope_high_frequency = 2, m.rope_original_positions = 20;
    if (form == QWEN) m.biases = WF_BIAS_QKV, m.tied_head = true, m.kv_heads = 1, m.rope_factor = 2;
    if (form == MIXED)
        m.post_norm = m.embedding_norm = true, m.head_form = WF_HEAD_TRANSFORM, m.types = 3,
        m.biases = WF_BIASES_ALL;
    if (form == WINDOW) m.window = 2;
    if (form == BARE) m.window = 3, m.position_form = WF_POSITIONS_NONE, m.norm = WF_LAYERNORM, m.bidirectional = true;
    return m;
}

static const int32_t documents[BATCH * SEQUENCE] = {3, 3, 1, 1, 1, 0, 5, 5, 5, 7};

static reference_batch whole_batch(void) {
    return (reference_batch){.batch = BATCH, .sequence = SEQUENCE, .tokens = tokens, .targets = targets,
                       .sample0 = 11, .seed = 5, .step = 3, .dropout = true};
}

static reference_batch batch_of(int form) {
    reference_batch batch = whole_batch();
    if (form == PACKED || form == PACKED_BERT) batch.documents = documents;
    return batch;
}

static double logits_of(const wf_model *model, const reference_tensors *weights, const reference_batch *batch,
                        double *logits) {
    return model_reference(model, weights, batch, &(reference_outputs){.logits = logits}, NULL);
}

/* Initial weights, with norms and biases moved away from 1 and 0. */
static reference_tensors moved_weights(const wf_model *model) {
    reference_tensors weights = reference_tensors_create(model);
    reference_initialise(model, 1, &weights);
    uint32_t state = 1;
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < reference_count(model, t); i++) {
            state = state * 1664525u + 1013904223u;
            weights.data[t][i] += 0.2 * ((double)state / 4294967296.0 - 0.5);
        }
    return weights;
}

/* Off by at most 1e-6 of the tensor's largest gradient (h^2 is 1e-10, rounding 1e-16 / h). */
static void check_tensor(const wf_model *model, const reference_batch *batch, reference_tensors *weights,
                         const reference_tensors *gradients, int tensor) {
    const double h = 1e-5;
    const int64_t n = reference_count(model, tensor);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(gradients->data[tensor][i]));
    if (n) ck_assert_double_gt(largest, 0);
    for (int64_t i = 0; i < n; i++) {
        double *w = &weights->data[tensor][i];
        const double kept = *w;
        *w = kept + h;
        const double above = model_reference(model, weights, batch, NULL, NULL);
        *w = kept - h;
        const double below = model_reference(model, weights, batch, NULL, NULL);
        *w = kept;
        const double difference = (above - below) / (2 * h);
        ck_assert_msg(fabs(difference - gradients->data[tensor][i]) <= 1e-6 * largest,
                      "tensor %d, element %lld: %.12g by differences, %.12g by the backward", tensor,
                      (long long)i, difference, gradients->data[tensor][i]);
    }
}

START_TEST(gradients_match_differences) {
    const wf_model model = form_of(_i);
    const reference_batch batch = batch_of(_i);
    reference_tensors weights = moved_weights(&model), gradients = reference_tensors_create(&model);
    model_reference(&model, &weights, &batch, NULL, &gradients);
    for (int t = 0; t < WF_TENSORS; t++) check_tensor(&model, &batch, &weights, &gradients, t);
    reference_tensors_destroy(&weights);
    reference_tensors_destroy(&gradients);
}
END_TEST

enum { ROWS = BATCH * SEQUENCE, WIDTH = 6 };

/* Sum of y dy of the layers alone. */
static double product_of(const wf_model *model, const reference_batch *batch, const reference_tensors *weights, const double *x,
                         const double *dy) {
    double y[ROWS * WIDTH], sum = 0;
    reference_blocks(model, weights, batch, x, y, NULL, NULL, NULL);
    for (int i = 0; i < ROWS * WIDTH; i++) sum += y[i] * dy[i];
    return sum;
}

START_TEST(layers_alone_match_differences) {
    const wf_model model = form_of(_i);
    const reference_batch batch = batch_of(_i);
    reference_tensors weights = moved_weights(&model), gradients = reference_tensors_create(&model);
    double x[ROWS * WIDTH], y[ROWS * WIDTH], dy[ROWS * WIDTH], dx[ROWS * WIDTH], largest = 0;
    const double h = 1e-5;
    for (int i = 0; i < ROWS * WIDTH; i++) x[i] = sin(1.0 + i * i), dy[i] = cos(3.0 * i);
    reference_blocks(&model, &weights, &batch, x, y, dy, dx, &gradients);
    for (int i = 0; i < ROWS * WIDTH; i++) largest = fmax(largest, fabs(dx[i]));
    for (int i = 0; i < ROWS * WIDTH; i++) {
        const double kept = x[i];
        x[i] = kept + h;
        const double above = product_of(&model, &batch, &weights, x, dy);
        x[i] = kept - h;
        const double difference = (above - product_of(&model, &batch, &weights, x, dy)) / (2 * h);
        x[i] = kept;
        ck_assert_msg(fabs(difference - dx[i]) <= 1e-6 * largest, "x %d: %.12g by differences, %.12g by the backward", i, difference, dx[i]);
    }
    double *const w = weights.data[WF_T_FC1_WEIGHT], kept = w[7];
    w[7] = kept + h;
    const double above = product_of(&model, &batch, &weights, x, dy);
    w[7] = kept - h;
    const double difference = (above - product_of(&model, &batch, &weights, x, dy)) / (2 * h);
    ck_assert_double_eq_tol(difference, gradients.data[WF_T_FC1_WEIGHT][7], 1e-6 * largest);
    for (int64_t i = 0; i < reference_count(&model, WF_T_TOKEN_EMBEDDING); i++)
        ck_assert_double_eq(gradients.data[WF_T_TOKEN_EMBEDDING][i], 0);
    reference_tensors_destroy(&weights);
    reference_tensors_destroy(&gradients);
}
END_TEST

/* Without dropout and a norm of its own the embedding is a sum of rows, and the layers alone make of it what they make of it
 * in the model. */
START_TEST(layers_alone_are_the_models) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    reference_batch batch = whole_batch();
    reference_tensors weights = moved_weights(&model);
    double x[ROWS * WIDTH], y[ROWS * WIDTH], last[ROWS * WIDTH];
    batch.dropout = false;
    for (int i = 0; i < ROWS * WIDTH; i++)
        x[i] = weights.data[WF_T_TOKEN_EMBEDDING][tokens[i / WIDTH] * WIDTH + i % WIDTH] +
               weights.data[WF_T_POSITION_EMBEDDING][i / WIDTH % SEQUENCE * WIDTH + i % WIDTH];
    model_reference(&model, &weights, &batch, &(reference_outputs){.last = last}, NULL);
    reference_blocks(&model, &weights, &batch, x, y, NULL, NULL, NULL);
    ck_assert_mem_eq(y, last, sizeof y);
    reference_tensors_destroy(&weights);
}
END_TEST

/* Fresh weights know nothing: the loss is about log(vocabulary); the logits' softmax gives it. */
START_TEST(loss_is_of_the_logits) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    reference_batch batch = whole_batch();
    reference_tensors weights = moved_weights(&model);
    double logits[BATCH * SEQUENCE][7], total = 0;
    int valid = 0;
    const double loss = logits_of(&model, &weights, &batch, &logits[0][0]);
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        double sum = 0;
        if (targets[i] < 0) continue;
        for (int j = 0; j < 7; j++) sum += exp(logits[i][j] - logits[i][targets[i]]);
        total += log(sum);
        valid++;
    }
    ck_assert_double_eq_tol(loss, total / valid, 1e-13);
    ck_assert_double_lt(fabs(loss - log(7)), 1.5);
    reference_tensors_destroy(&weights);
}
END_TEST

/* No logit depends on a later token, and a sample alone with its global index is as in the batch. */
START_TEST(causal_and_independent_samples) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    reference_batch batch = whole_batch();
    reference_tensors weights = moved_weights(&model);
    double whole[BATCH * SEQUENCE * 7], changed[BATCH * SEQUENCE * 7], alone[SEQUENCE * 7];
    int32_t other[BATCH * SEQUENCE];
    logits_of(&model, &weights, &batch, whole);
    memcpy(other, tokens, sizeof other);
    other[3] = 2;
    batch.tokens = other;
    logits_of(&model, &weights, &batch, changed);
    ck_assert_mem_eq(whole, changed, sizeof(double) * 3 * 7);
    ck_assert_mem_ne(whole + 3 * 7, changed + 3 * 7, sizeof(double) * 7);
    batch.tokens = tokens + SEQUENCE, batch.targets = targets + SEQUENCE;
    batch.batch = 1, batch.sample0++;
    logits_of(&model, &weights, &batch, alone);
    ck_assert_mem_eq(alone, whole + SEQUENCE * 7, sizeof alone);
    reference_tensors_destroy(&weights);
}
END_TEST

/* A bidirectional model's first logit depends on the last token. */
START_TEST(both_directions_see_later_tokens) {
    const wf_model model = small_bert();
    reference_batch batch = whole_batch();
    reference_tensors weights = moved_weights(&model);
    double whole[BATCH * SEQUENCE * 7], changed[BATCH * SEQUENCE * 7];
    int32_t other[BATCH * SEQUENCE];
    batch.dropout = false;
    logits_of(&model, &weights, &batch, whole);
    memcpy(other, tokens, sizeof other);
    other[SEQUENCE - 1] = 2;
    batch.tokens = other;
    logits_of(&model, &weights, &batch, changed);
    ck_assert_mem_ne(whole, changed, sizeof(double) * 7);
    ck_assert_mem_eq(whole + SEQUENCE * 7, changed + SEQUENCE * 7, sizeof(double) * SEQUENCE * 7);
    reference_tensors_destroy(&weights);
}
END_TEST

/* In one layer a token changes the logits of those less than a window away, itself among them, and no others. */
START_TEST(windows_hide_what_is_further) {
    wf_model model = small_llama();
    reference_batch batch = whole_batch();
    batch.dropout = false;
    model.layers = 1, model.window = 2 + _i / 2, model.bidirectional = _i % 2;
    reference_tensors weights = moved_weights(&model);
    double whole[BATCH * SEQUENCE * 7];
    logits_of(&model, &weights, &batch, whole);
    for (int at = 0; at < SEQUENCE; at++) {
        double changed[BATCH * SEQUENCE * 7];
        int32_t other[BATCH * SEQUENCE];
        memcpy(other, tokens, sizeof other);
        other[at] = (tokens[at] + 3) % 7;
        batch.tokens = other;
        logits_of(&model, &weights, &batch, changed);
        for (int i = 0; i < SEQUENCE; i++) {
            const bool seen = (model.bidirectional || at <= i) && abs(i - at) < model.window;
            ck_assert_msg((memcmp(whole + i * 7, changed + i * 7, 7 * sizeof *whole) != 0) == seen,
                          "window %d, token %d changed: logits of %d", (int)model.window, at, i);
        }
    }
    reference_tensors_destroy(&weights);
}
END_TEST

/* Each document's logits are those that it has alone, as a sequence of its own: with learned positions, which begin anew, with
 * rotary ones, whose angles are f32, and both ways. */
START_TEST(documents_are_sequences_of_their_own) {
    wf_model model = _i == 1 ? small_llama() : _i == 2 ? small_bert() : small_model(WF_ACT_GELU_TANH);
    reference_batch batch = whole_batch();
    reference_tensors weights = moved_weights(&model);
    const double tolerance = _i == 1 ? 1e-6 : 1e-12;
    double whole[BATCH * SEQUENCE * 7], alone[SEQUENCE * 7];
    batch.documents = documents;
    batch.dropout = false;
    logits_of(&model, &weights, &batch, whole);
    for (int at = 0, end; at < BATCH * SEQUENCE; at = end) {
        for (end = at; end < BATCH * SEQUENCE && documents[end] == documents[at];) end++;
        const reference_batch one = {.batch = 1, .sequence = end - at, .tokens = tokens + at, .targets = targets + at};
        logits_of(&model, &weights, &one, alone);
        for (int i = 0; i < (end - at) * 7; i++) ck_assert_double_eq_tol(alone[i], whole[at * 7 + i], tolerance);
    }
    reference_tensors_destroy(&weights);
}
END_TEST

/* A causal model without any positions knows the order from what it saw only: its last logits do not
 * change when earlier tokens change places; with rotary positions they do. */
START_TEST(rotary_positions_tell_the_order) {
    for (int rotary = 0; rotary < 2; rotary++) {
        wf_model model = small_llama();
        reference_batch batch = whole_batch();
        double whole[BATCH * SEQUENCE * 7], changed[BATCH * SEQUENCE * 7], worst = 0;
        int32_t other[BATCH * SEQUENCE];
        if (!rotary) model.position_form = WF_POSITIONS_NONE;
        model.layers = 1;
        reference_tensors weights = moved_weights(&model);
        batch.dropout = false;
        logits_of(&model, &weights, &batch, whole);
        memcpy(other, tokens, sizeof other);
        other[0] = tokens[1], other[1] = tokens[0];
        batch.tokens = other;
        logits_of(&model, &weights, &batch, changed);
        for (int j = (SEQUENCE - 1) * 7; j < SEQUENCE * 7; j++)
            worst = fmax(worst, fabs(whole[j] - changed[j]));
        ck_assert_msg(rotary ? worst > 1e-6 : worst < 1e-12,
                      "rotary %d: the last logits moved by %g", rotary, worst);
        reference_tensors_destroy(&weights);
    }
}
END_TEST

START_TEST(dropout_depends_on_seed_and_step) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    reference_tensors weights = moved_weights(&model);
    reference_batch batch = whole_batch();
    const double loss = model_reference(&model, &weights, &batch, NULL, NULL);
    batch.step++;
    ck_assert_double_ne(loss, model_reference(&model, &weights, &batch, NULL, NULL));
    batch = whole_batch(), batch.seed++;
    ck_assert_double_ne(loss, model_reference(&model, &weights, &batch, NULL, NULL));
    batch = whole_batch(), batch.dropout = false;
    const double plain = model_reference(&model, &weights, &batch, NULL, NULL);
    ck_assert_double_ne(loss, plain);
    batch.seed++;
    ck_assert_double_eq(plain, model_reference(&model, &weights, &batch, NULL, NULL));
    reference_tensors_destroy(&weights);
}
END_TEST

/* The shapes here and those of the parameter table are two statements of the same thing. */
START_TEST(tensors_are_the_tables) {
    const wf_model model = form_of(_i);
    wf_parameter_info info[WF_TENSORS];
    wf_model_parameters(&model, info);
    for (int t = 0; t < WF_TENSORS; t++)
        ck_assert_int_eq(reference_count(&model, t),
                         info[t].rows * info[t].columns * (info[t].per_layer ? model.layers : 1));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("model_reference");
    TCase *tests = tcase_create("model_reference");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, gradients_match_differences, 0, FORMS);
    tcase_add_loop_test(tests, layers_alone_match_differences, 0, FORMS);
    tcase_add_test(tests, layers_alone_are_the_models);
    tcase_add_test(tests, loss_is_of_the_logits);
    tcase_add_test(tests, causal_and_independent_samples);
    tcase_add_test(tests, both_directions_see_later_tokens);
    tcase_add_loop_test(tests, windows_hide_what_is_further, 0, 4);
    tcase_add_loop_test(tests, documents_are_sequences_of_their_own, 0, 3);
    tcase_add_test(tests, rotary_positions_tell_the_order);
    tcase_add_test(tests, dropout_depends_on_seed_and_step);
    tcase_add_loop_test(tests, tensors_are_the_tables, 0, FORMS);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
