/* The plain GPT-2 that judges the others is judged itself: its gradients, all of them, against
 * central differences with dropout on; and what must hold of any causal language model. */
#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/gpt_reference.h"

enum { BATCH = 2, SEQUENCE = 5 };
static const int32_t tokens[BATCH * SEQUENCE] = {1, 4, 4, 0, 6, 3, 2, 1, 5, 1};
static const int32_t targets[BATCH * SEQUENCE] = {4, 4, 0, 6, -1, 2, 1, 5, -1, 3};

static wf_model small_model(int activation) {
    return (wf_model){.layers = 2, .hidden = 6, .heads = 2, .kv_heads = 2, .head_size = 3,
                      .features = 10, .vocabulary = 7, .positions = 8, .activation = activation,
                      .norm_epsilon = 1e-5, .init_std = 0.4, .dropout_embedding = 0.2,
                      .dropout_attention = 0.3, .dropout_residual = 0.25, .tied_head = true, .biases = WF_BIASES_ALL};
}

static gpt_batch whole_batch(void) {
    return (gpt_batch){.batch = BATCH, .sequence = SEQUENCE, .tokens = tokens, .targets = targets,
                       .sample0 = 11, .seed = 5, .step = 3, .dropout = true};
}

/* Initial weights, with norms and biases moved away from 1 and 0. */
static gpt_tensors moved_weights(const wf_model *model) {
    gpt_tensors weights = gpt_tensors_create(model);
    gpt_initialise(model, 1, &weights);
    uint32_t state = 1;
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t i = 0; i < gpt_tensor_count(model, t); i++) {
            state = state * 1664525u + 1013904223u;
            weights.data[t][i] += 0.2 * ((double)state / 4294967296.0 - 0.5);
        }
    return weights;
}

/* Off by at most 1e-6 of the tensor's largest gradient (h^2 is 1e-10, rounding 1e-16 / h). */
static void check_tensor(const wf_model *model, gpt_tensors *weights, const gpt_tensors *gradients,
                         int tensor) {
    const gpt_batch batch = whole_batch();
    const double h = 1e-5;
    const int64_t n = gpt_tensor_count(model, tensor);
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(gradients->data[tensor][i]));
    if (n) ck_assert_double_gt(largest, 0);
    for (int64_t i = 0; i < n; i++) {
        double *w = &weights->data[tensor][i];
        const double kept = *w;
        *w = kept + h;
        const double above = gpt_reference(model, weights, &batch, NULL, NULL, NULL);
        *w = kept - h;
        const double below = gpt_reference(model, weights, &batch, NULL, NULL, NULL);
        *w = kept;
        const double difference = (above - below) / (2 * h);
        ck_assert_msg(fabs(difference - gradients->data[tensor][i]) <= 1e-6 * largest,
                      "tensor %d, element %lld: %.12g by differences, %.12g by the backward", tensor,
                      (long long)i, difference, gradients->data[tensor][i]);
    }
}

static const int activations[] = {WF_ACT_GELU_TANH, WF_ACT_GELU, WF_ACT_RELU, WF_ACT_SILU};

START_TEST(gradients_match_differences) {
    const wf_model model = small_model(activations[_i]);
    const gpt_batch batch = whole_batch();
    gpt_tensors weights = moved_weights(&model), gradients = gpt_tensors_create(&model);
    gpt_reference(&model, &weights, &batch, NULL, NULL, &gradients);
    for (int t = 0; t < WF_TENSORS; t++) check_tensor(&model, &weights, &gradients, t);
    gpt_tensors_destroy(&weights);
    gpt_tensors_destroy(&gradients);
}
END_TEST

/* Fresh weights know nothing: the loss is about log(vocabulary); the logits' softmax gives it. */
START_TEST(loss_is_of_the_logits) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    gpt_batch batch = whole_batch();
    gpt_tensors weights = moved_weights(&model);
    double logits[BATCH * SEQUENCE][7], total = 0;
    int valid = 0;
    const double loss = gpt_reference(&model, &weights, &batch, &logits[0][0], NULL, NULL);
    for (int i = 0; i < BATCH * SEQUENCE; i++) {
        double sum = 0;
        if (targets[i] < 0) continue;
        for (int j = 0; j < 7; j++) sum += exp(logits[i][j] - logits[i][targets[i]]);
        total += log(sum);
        valid++;
    }
    ck_assert_double_eq_tol(loss, total / valid, 1e-13);
    ck_assert_double_lt(fabs(loss - log(7)), 1.5);
    gpt_tensors_destroy(&weights);
}
END_TEST

/* No logit depends on a later token, and a sample alone with its global index is as in the batch. */
START_TEST(causal_and_independent_samples) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    gpt_batch batch = whole_batch();
    gpt_tensors weights = moved_weights(&model);
    double whole[BATCH * SEQUENCE * 7], changed[BATCH * SEQUENCE * 7], alone[SEQUENCE * 7];
    int32_t other[BATCH * SEQUENCE];
    gpt_reference(&model, &weights, &batch, whole, NULL, NULL);
    memcpy(other, tokens, sizeof other);
    other[3] = 2;
    batch.tokens = other;
    gpt_reference(&model, &weights, &batch, changed, NULL, NULL);
    ck_assert_mem_eq(whole, changed, sizeof(double) * 3 * 7);
    ck_assert_mem_ne(whole + 3 * 7, changed + 3 * 7, sizeof(double) * 7);
    batch.tokens = tokens + SEQUENCE, batch.targets = targets + SEQUENCE;
    batch.batch = 1, batch.sample0++;
    gpt_reference(&model, &weights, &batch, alone, NULL, NULL);
    ck_assert_mem_eq(alone, whole + SEQUENCE * 7, sizeof alone);
    gpt_tensors_destroy(&weights);
}
END_TEST

START_TEST(dropout_depends_on_seed_and_step) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    gpt_tensors weights = moved_weights(&model);
    gpt_batch batch = whole_batch();
    const double loss = gpt_reference(&model, &weights, &batch, NULL, NULL, NULL);
    batch.step++;
    ck_assert_double_ne(loss, gpt_reference(&model, &weights, &batch, NULL, NULL, NULL));
    batch = whole_batch(), batch.seed++;
    ck_assert_double_ne(loss, gpt_reference(&model, &weights, &batch, NULL, NULL, NULL));
    batch = whole_batch(), batch.dropout = false;
    const double plain = gpt_reference(&model, &weights, &batch, NULL, NULL, NULL);
    ck_assert_double_ne(loss, plain);
    batch.seed++;
    ck_assert_double_eq(plain, gpt_reference(&model, &weights, &batch, NULL, NULL, NULL));
    gpt_tensors_destroy(&weights);
}
END_TEST

/* The shapes here and those of the parameter table are two statements of the same thing. */
START_TEST(tensors_are_the_tables) {
    const wf_model model = small_model(WF_ACT_GELU_TANH);
    wf_parameter_info info[WF_TENSORS];
    wf_model_parameters(&model, info);
    for (int t = 0; t < WF_TENSORS; t++)
        ck_assert_int_eq(gpt_tensor_count(&model, t),
                         info[t].rows * info[t].columns * (info[t].per_layer ? model.layers : 1));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("gpt_reference");
    TCase *tests = tcase_create("gpt_reference");
    tcase_set_timeout(tests, 60);
    tcase_add_loop_test(tests, gradients_match_differences, 0, 4);
    tcase_add_test(tests, loss_is_of_the_logits);
    tcase_add_test(tests, causal_and_independent_samples);
    tcase_add_test(tests, dropout_depends_on_seed_and_step);
    tcase_add_test(tests, tensors_are_the_tables);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
