/* The f64 references of the row-wise operations: gradients against central differences, identities
 * that must hold between operations (shards against the whole, parts against one), the edges of
 * their contracts, and what their checks refuse. No device. */
#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/operation.h"
#include "kernels/philox.h"

/* ---- data ---------------------------------------------------------------------------------------- */

static uint64_t state;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) * 0x1p-53 * 2 - 1;
}

static void randomize(double *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = uniform();
}

/* Dense row-major. */
static wf_tensor tensor(void *data, int64_t rows, int64_t columns) {
    (void)rows;
    return (wf_tensor){.data = data, .stride = {columns, 1}};
}

static wf_tensor vector(void *data) {
    return (wf_tensor){.data = data, .stride = {1}};
}

static double dot(const double *a, const double *b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Central differences of f along each of x's n elements, against `gradient`: off by at most 1e-6 of
 * the largest element (anchors' bar; the differences themselves are good to h^2 = 1e-10 f'''). */
static void check_gradient(double (*f)(void), double *x, const double *gradient, int64_t n) {
    const double h = 1e-5;
    double largest = 0;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(gradient[i]));
    ck_assert_double_gt(largest, 0);
    for (int64_t i = 0; i < n; i++) {
        const double kept = x[i];
        x[i] = kept + h;
        const double above = f();
        x[i] = kept - h;
        const double difference = (above - f()) / (2 * h);
        x[i] = kept;
        ck_assert_msg(fabs(difference - gradient[i]) <= 1e-6 * largest,
                      "element %lld: %.12g by differences, %.12g by the reference", (long long)i,
                      difference, gradient[i]);
    }
}

static void run_reference(const wf_problem *p, const wf_tensor *tensors) {
    static const wf_run_number run[WF_RUN_VALUES];
    ck_assert_int_eq(wf_problem_check(p), WF_OK);
    wf_operations[p->op]->reference(p, tensors, run);
}

/* ---- norm ------------------------------------------------------------------------------------------ */

enum { ROWS = 3, N = 7 };
static double x[ROWS * N], gamma_[N], beta[N], y[ROWS * N], stats[ROWS * 2], weight[ROWS * N];

/* sum of weight * LayerNorm(x): its gradients are the backward's with dy = weight. */
static double norm_value(void) {
    const wf_problem p = {.op = WF_OP_NORM, .size = {ROWS, N}, .real = {1e-3}};
    run_reference(&p, (wf_tensor[]){tensor(x, ROWS, N), vector(gamma_), vector(beta),
                                    tensor(y, ROWS, N), tensor(stats, ROWS, 2)});
    return dot(weight, y, ROWS * N);
}

static void randomize_norm(void) {
    state = 1;
    randomize(x, ROWS * N);
    randomize(gamma_, N);
    randomize(beta, N);
    randomize(weight, ROWS * N);
    norm_value();
}

START_TEST(norm_rows_are_normal) {
    randomize_norm();
    for (int j = 0; j < N; j++) gamma_[j] = 1, beta[j] = 0;
    norm_value();
    for (int i = 0; i < ROWS; i++) {
        double mean = 0, square = 0;
        for (int j = 0; j < N; j++) mean += y[i * N + j] / N, square += y[i * N + j] * y[i * N + j] / N;
        ck_assert_double_lt(fabs(mean), 1e-14);
        const double rstd = stats[2 * i + 1]; /* var / (var + eps) = 1 - eps rstd^2 */
        ck_assert_double_lt(fabs(square - (1 - 1e-3 * rstd * rstd)), 1e-12);
    }
}
END_TEST

START_TEST(norm_gradient_of_input) {
    double dx[ROWS * N], residual[ROWS * N];
    randomize_norm();
    wf_problem p = {.op = WF_OP_NORM_BACKWARD, .size = {ROWS, N}};
    const wf_tensor dy = tensor(weight, ROWS, N), in = tensor(x, ROWS, N);
    const wf_tensor pair = tensor(stats, ROWS, 2), out = tensor(dx, ROWS, N);
    run_reference(&p, (wf_tensor[]){dy, in, pair, vector(gamma_), out});
    double kept[ROWS * N], kept_stats[ROWS * 2];
    memcpy(kept, dx, sizeof dx);
    memcpy(kept_stats, stats, sizeof stats);
    check_gradient(norm_value, x, kept, ROWS * N);
    memcpy(stats, kept_stats, sizeof stats);
    randomize(residual, ROWS * N);
    p.flags = WF_RESIDUAL;
    run_reference(&p, (wf_tensor[]){dy, in, pair, vector(gamma_), tensor(residual, ROWS, N), out});
    for (int i = 0; i < ROWS * N; i++) ck_assert_double_eq_tol(dx[i], kept[i] + residual[i], 1e-15);
}
END_TEST

START_TEST(norm_gradient_of_weights) {
    double dgamma[N], dbeta[N], again[2][N] = {{0}};
    randomize_norm();
    wf_problem p = {.op = WF_OP_NORM_WGRAD, .size = {ROWS, N}};
    wf_tensor t[] = {tensor(weight, ROWS, N), tensor(x, ROWS, N), tensor(stats, ROWS, 2),
                     vector(dgamma), vector(dbeta)};
    run_reference(&p, t);
    check_gradient(norm_value, gamma_, dgamma, N);
    check_gradient(norm_value, beta, dbeta, N);
    norm_value();
    p.flags = WF_ACCUMULATE;
    t[3] = vector(again[0]), t[4] = vector(again[1]);
    run_reference(&p, t);
    run_reference(&p, t);
    for (int j = 0; j < N; j++) ck_assert_double_eq_tol(again[0][j], 2 * dgamma[j], 1e-13);
    for (int j = 0; j < N; j++) ck_assert_double_eq_tol(again[1][j], 2 * dbeta[j], 1e-13);
}
END_TEST

/* The same three without mean and beta. */
static double rms_value(void) {
    const wf_problem p = {.op = WF_OP_NORM, .flags = WF_RMS, .size = {ROWS, N}, .real = {1e-3}};
    run_reference(&p, (wf_tensor[]){tensor(x, ROWS, N), vector(gamma_), tensor(y, ROWS, N),
                                    tensor(stats, ROWS, 2)});
    return dot(weight, y, ROWS * N);
}

START_TEST(rms_rows_have_square_one) {
    randomize_norm();
    for (int j = 0; j < N; j++) gamma_[j] = 1, x[j] += 3;
    rms_value();
    for (int i = 0; i < ROWS; i++) {
        double square = 0, sum = 0;
        for (int j = 0; j < N; j++) square += y[i * N + j] * y[i * N + j] / N, sum += y[i * N + j];
        const double rstd = stats[2 * i + 1];
        ck_assert_double_eq(stats[2 * i], 0);
        ck_assert_double_lt(fabs(square - (1 - 1e-3 * rstd * rstd)), 1e-12);
        if (i == 0) ck_assert_double_gt(sum, 1); /* no mean was taken away */
    }
}
END_TEST

START_TEST(rms_gradients) {
    double dx[ROWS * N], kept_stats[ROWS * 2], dgamma[N], residual[ROWS * N], sum[ROWS * N];
    randomize_norm();
    rms_value();
    for (int i = 0; i < ROWS; i++) stats[2 * i] = NAN; /* is not asked for */
    memcpy(kept_stats, stats, sizeof stats);
    const wf_tensor dy = tensor(weight, ROWS, N), in = tensor(x, ROWS, N);
    const wf_tensor pair = tensor(kept_stats, ROWS, 2);
    wf_problem p = {.op = WF_OP_NORM_BACKWARD, .flags = WF_RMS, .size = {ROWS, N}};
    run_reference(&p, (wf_tensor[]){dy, in, pair, vector(gamma_), tensor(dx, ROWS, N)});
    check_gradient(rms_value, x, dx, ROWS * N);
    randomize(residual, ROWS * N);
    p.flags |= WF_RESIDUAL;
    run_reference(&p, (wf_tensor[]){dy, in, pair, vector(gamma_), tensor(residual, ROWS, N),
                                    tensor(sum, ROWS, N)});
    for (int i = 0; i < ROWS * N; i++) ck_assert_double_eq_tol(sum[i], dx[i] + residual[i], 1e-15);
    p = (wf_problem){.op = WF_OP_NORM_WGRAD, .flags = WF_RMS, .size = {ROWS, N}};
    const wf_tensor t[] = {dy, in, pair, vector(dgamma)};
    run_reference(&p, t);
    check_gradient(rms_value, gamma_, dgamma, N);
    double once[N];
    memcpy(once, dgamma, sizeof once);
    p.flags |= WF_ACCUMULATE;
    run_reference(&p, t);
    for (int j = 0; j < N; j++) ck_assert_double_eq_tol(dgamma[j], 2 * once[j], 1e-13);
}
END_TEST

/* ---- rope -------------------------------------------------------------------------------------------- */

enum { POSITIONS = 3, SAMPLES = 2, HEADS = 2, HEAD = 7, ROTATED = 4, TURNS = POSITIONS * SAMPLES * HEADS * HEAD };
static double turns[POSITIONS * ROTATED], before[TURNS], after[TURNS], pull[TURNS];

static void rotate(double *values, uint32_t flags) {
    const wf_problem p = {.op = WF_OP_ROPE, .flags = flags, .size = {POSITIONS, SAMPLES, HEADS, HEAD, ROTATED}};
    run_reference(&p, (wf_tensor[]){tensor(turns, POSITIONS, ROTATED),
                                    {.data = values, .stride = {SAMPLES * HEADS * HEAD, HEADS * HEAD, HEAD, 1}}});
}

static void make_turns(void) {
    for (int i = 0; i < POSITIONS; i++)
        for (int j = 0; j < ROTATED / 2; j++) {
            const double angle = (i + 5) / pow(10, j);
            turns[i * ROTATED + j] = cos(angle), turns[i * ROTATED + ROTATED / 2 + j] = sin(angle);
        }
    state = 8;
    randomize(before, TURNS), randomize(pull, TURNS);
}

static double rope_value(void) {
    memcpy(after, before, sizeof after);
    rotate(after, 0);
    return dot(pull, after, TURNS);
}

/* Pairs turn as complex numbers do; what is not rotated stays to the bit. */
START_TEST(rope_turns_pairs) {
    make_turns();
    rope_value();
    for (int t = 0; t < POSITIONS * SAMPLES * HEADS; t++)
        for (int e = 0; e < HEAD; e++) {
            const int position = t / (SAMPLES * HEADS), i = e % 2;
            const double angle = (position + 5) / pow(10, i);
            const double *z = &before[t * HEAD];
            const double expected = e >= ROTATED ? z[e]
                                    : e < 2      ? z[i] * cos(angle) - z[i + 2] * sin(angle)
                                                 : z[i + 2] * cos(angle) + z[i] * sin(angle);
            if (e >= ROTATED) ck_assert_double_eq(after[t * HEAD + e], expected);
            else ck_assert_double_eq_tol(after[t * HEAD + e], expected, 1e-15);
        }
    rotate(after, WF_INVERSE);
    for (int i = 0; i < TURNS; i++) ck_assert_double_eq_tol(after[i], before[i], 1e-15);
}
END_TEST

START_TEST(rope_gradient_is_its_inverse) {
    double gradient[TURNS];
    make_turns();
    memcpy(gradient, pull, sizeof gradient);
    rotate(gradient, WF_INVERSE);
    check_gradient(rope_value, before, gradient, TURNS);
}
END_TEST

/* ---- gate -------------------------------------------------------------------------------------------- */

enum { WIDE = 5 };
static int gate_activation;
static double pre[ROWS * 2 * WIDE], gated[ROWS * WIDE], pulls[ROWS * WIDE];

static double gate_value(void) {
    const wf_problem p = {.op = WF_OP_GATE, .activation = gate_activation, .size = {ROWS, WIDE}};
    run_reference(&p, (wf_tensor[]){tensor(pre, ROWS, 2 * WIDE), tensor(gated, ROWS, WIDE)});
    return dot(pulls, gated, ROWS * WIDE);
}

START_TEST(gate_gradient) {
    double gradient[ROWS * 2 * WIDE];
    gate_activation = _i;
    state = 9;
    randomize(pre, ROWS * 2 * WIDE), randomize(pulls, ROWS * WIDE);
    const wf_problem p = {.op = WF_OP_GATE_BACKWARD, .activation = _i, .size = {ROWS, WIDE}};
    run_reference(&p, (wf_tensor[]){tensor(pre, ROWS, 2 * WIDE), tensor(pulls, ROWS, WIDE),
                                    tensor(gradient, ROWS, 2 * WIDE)});
    check_gradient(gate_value, pre, gradient, ROWS * 2 * WIDE);
}
END_TEST

START_TEST(gate_is_the_first_half) {
    gate_activation = WF_ACT_RELU;
    for (int j = 0; j < 2 * WIDE; j++) pre[j] = j < WIDE ? j - 2 : 10 + j;
    gate_value();
    for (int j = 0; j < WIDE; j++) ck_assert_double_eq(gated[j], j < 2 ? 0 : (j - 2) * (15.0 + j));
}
END_TEST

/* What the gate has where up is 1. */
START_TEST(activation_is_a_gate_without_up) {
    double alone[ROWS * WIDE], got[ROWS * WIDE];
    gate_activation = _i;
    state = 10;
    randomize(pre, ROWS * 2 * WIDE);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < WIDE; j++) alone[i * WIDE + j] = pre[i * 2 * WIDE + j], pre[i * 2 * WIDE + WIDE + j] = 1;
    gate_value();
    const wf_problem p = {.op = WF_OP_ACTIVATION, .activation = _i, .size = {ROWS, WIDE}};
    run_reference(&p, (wf_tensor[]){tensor(alone, ROWS, WIDE), tensor(got, ROWS, WIDE)});
    for (int i = 0; i < ROWS * WIDE; i++) ck_assert_double_eq(got[i], gated[i]);
}
END_TEST

/* ---- reduce ---------------------------------------------------------------------------------------- */

/* The whole chain on one row, by hand. */
START_TEST(reduce_is_its_chain) {
    enum { B = 2, R = 4, C = 5 };
    double a[R * C], b[R * C], bias[2 * C], residual[R * C], ones[C], zeros[C] = {0};
    double out[R * C], normed[R * C], pair[R * 2], again[R * C], pair_again[R * 2];
    state = 3;
    randomize(a, R * C), randomize(b, R * C), randomize(bias, 2 * C), randomize(residual, R * C);
    for (int j = 0; j < C; j++) ones[j] = 1;
    const int gap_at = 1, gap = _i * 7; /* positions 10 and 11, or 10 and 18 */
    const wf_problem p = {.op = WF_OP_REDUCE,
                          .flags = WF_BIAS | WF_DROPOUT | WF_RESIDUAL | WF_NORM,
                          .size = {R, C, 2, 2, B, 10, WF_SITE_MLP_OUT, gap_at, gap}, .real = {0.3, 1e-5}};
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    run[WF_RUN_KEY0].u = 77, run[WF_RUN_KEY1].u = 88, run[WF_RUN_LAYER].u = 4, run[WF_RUN_SAMPLE0].u = 6;
    ck_assert_int_eq(wf_problem_check(&p), WF_OK);
    wf_operations[p.op]->reference(&p, (wf_tensor[]){
        tensor(a, R, C), tensor(b, R, C), tensor(bias, 2, C), tensor(residual, R, C), vector(ones),
        vector(zeros), tensor(out, R, C), tensor(normed, R, C), tensor(pair, R, 2)}, run);
    int dropped = 0;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < C; j++) {
            const int position = 10 + i / B + (i / B >= gap_at ? gap : 0);
            const int keep = wf_dropout_keep((uint32_t[]){77, 88}, WF_SITE_MLP_OUT, 4, 6 + i % B,
                                             (uint32_t)position, j, wf_philox_threshold(0.3));
            const double sum = a[i * C + j] + b[i * C + j] + bias[i / 2 * C + j];
            const double value = (keep ? sum / 0.7 : 0) + residual[i * C + j];
            ck_assert_double_eq_tol(out[i * C + j], value, 1e-14);
            dropped += !keep;
        }
    ck_assert(dropped > 0 && dropped < R * C);
    const wf_problem norm = {.op = WF_OP_NORM, .size = {R, C}, .real = {1e-5}};
    run_reference(&norm, (wf_tensor[]){tensor(out, R, C), vector(ones), vector(zeros),
                                       tensor(again, R, C), tensor(pair_again, R, 2)});
    ck_assert_mem_eq(normed, again, sizeof again);
    ck_assert_mem_eq(pair, pair_again, sizeof pair);
}
END_TEST

/* REDUCE's own RMSNorm is NORM's. */
START_TEST(reduce_norms_by_rms) {
    enum { R = 3, C = 5 };
    double a[R * C], b[R * C], gamma[C], out[R * C], normed[R * C], pair[R * 2], again[R * C], pair_again[R * 2];
    state = 4;
    randomize(a, R * C), randomize(b, R * C), randomize(gamma, C);
    const wf_problem p = {.op = WF_OP_REDUCE, .flags = WF_RESIDUAL | WF_NORM | WF_RMS,
                          .size = {R, C, 1, 0, 1}, .real = {0, 1e-5}};
    run_reference(&p, (wf_tensor[]){tensor(a, R, C), tensor(b, R, C), vector(gamma), tensor(out, R, C),
                                    tensor(normed, R, C), tensor(pair, R, 2)});
    for (int i = 0; i < R * C; i++) ck_assert_double_eq(out[i], a[i] + b[i]);
    const wf_problem norm = {.op = WF_OP_NORM, .flags = WF_RMS, .size = {R, C}, .real = {1e-5}};
    run_reference(&norm, (wf_tensor[]){tensor(out, R, C), vector(gamma), tensor(again, R, C),
                                       tensor(pair_again, R, 2)});
    ck_assert_mem_eq(normed, again, sizeof again);
    ck_assert_mem_eq(pair, pair_again, sizeof pair);
}
END_TEST

/* ---- cross-entropy ----------------------------------------------------------------------------------- */

enum { TOKENS = 5, IDS = 11 };
static double logits[TOKENS * IDS];
static int32_t targets[TOKENS] = {0, 10, -1, 4, 3};
/* Shards of the vocabulary: three, one of them empty. */
static const int64_t cut[] = {0, 4, 4, IDS};
enum { SHARDS = 3 };
static double lse[TOKENS], loss[TOKENS];

static void merged_loss(void) {
    double parts[SHARDS * TOKENS * 3];
    for (int k = 0; k < SHARDS; k++) {
        const wf_problem p = {.op = WF_OP_LOSS_STATS, .size = {TOKENS, cut[k + 1] - cut[k], cut[k]}};
        run_reference(&p, (wf_tensor[]){tensor(logits + cut[k], TOKENS, IDS), vector(targets),
                                        tensor(parts + k * TOKENS * 3, TOKENS, 3)});
    }
    const wf_problem p = {.op = WF_OP_LOSS_MERGE, .size = {TOKENS, SHARDS}};
    run_reference(&p, (wf_tensor[]){{.data = parts, .stride = {TOKENS * 3, 3, 1}}, vector(targets),
                                    vector(lse), vector(loss)});
}

static double loss_value(void) {
    double sum = 0;
    merged_loss();
    for (int i = 0; i < TOKENS; i++) sum += 0.25 * loss[i];
    return sum;
}

START_TEST(loss_is_minus_log_softmax) {
    state = 5;
    randomize(logits, TOKENS * IDS);
    for (int j = 0; j < IDS; j++) logits[3 * IDS + j] += 1e4; /* any magnitude */
    merged_loss();
    for (int i = 0; i < TOKENS; i++) {
        double sum = 0;
        for (int j = 0; j < IDS && targets[i] >= 0; j++)
            sum += exp(logits[i * IDS + j] - logits[i * IDS + targets[i]]);
        ck_assert_double_eq_tol(loss[i], targets[i] < 0 ? 0 : log(sum), 1e-11);
    }
}
END_TEST

START_TEST(loss_gradient) {
    double gradient[TOKENS * IDS];
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    run[WF_RUN_LOSS_SCALE].f = 0.25f;
    state = 6;
    randomize(logits, TOKENS * IDS);
    merged_loss();
    memcpy(gradient, logits, sizeof gradient);
    for (int k = 0; k < SHARDS; k++) {
        const wf_problem p = {.op = WF_OP_LOSS_BACKWARD, .size = {TOKENS, cut[k + 1] - cut[k], cut[k]}};
        ck_assert_int_eq(wf_problem_check(&p), WF_OK);
        wf_operations[p.op]->reference(&p, (wf_tensor[]){vector(lse), vector(targets),
                                       tensor(gradient + cut[k], TOKENS, IDS)}, run);
    }
    for (int j = 0; j < IDS; j++) ck_assert_double_eq(gradient[2 * IDS + j], 0); /* not counted */
    check_gradient(loss_value, logits, gradient, TOKENS * IDS);
}
END_TEST

START_TEST(empty_shards_count_as_nothing) {
    double parts[2][3] = {{-INFINITY, 0, 0}, {2, 3, 1.5}}, one, value;
    int32_t target = 9;
    wf_problem p = {.op = WF_OP_LOSS_MERGE, .size = {1, 2}};
    run_reference(&p, (wf_tensor[]){{.data = parts, .stride = {3, 3, 1}}, vector(&target),
                                    vector(&one), vector(&value)});
    ck_assert_double_eq_tol(one, 2 + log(3), 1e-15);
    ck_assert_double_eq_tol(value, one - 1.5, 1e-15);
    p.size[1] = 1;
    run_reference(&p, (wf_tensor[]){{.data = parts, .stride = {3, 3, 1}}, vector(&target),
                                    vector(&one), vector(&value)});
    ck_assert(one == -INFINITY);
    wf_problem empty = {.op = WF_OP_LOSS_STATS, .size = {1, 0, 4}};
    double result[3] = {1, 1, 1};
    run_reference(&empty, (wf_tensor[]){tensor(NULL, 1, 0), vector(&target), tensor(result, 1, 3)});
    ck_assert(result[0] == -INFINITY && result[1] == 0 && result[2] == 0);
}
END_TEST

/* ---- embedding ----------------------------------------------------------------------------------------- */

enum { TABLE = 5, WIDTH = 3, FIRST = 2 };
static double table[TABLE * WIDTH], looked_up[TOKENS * WIDTH], weights[TOKENS * WIDTH];
static int32_t ids[TOKENS] = {3, 6, 3, 1, 7}; /* 3 twice; 1 and 7 lie in other shards */

static double embedding_value(void) {
    const wf_problem p = {.op = WF_OP_EMBEDDING, .size = {TOKENS, TABLE, WIDTH, FIRST}};
    run_reference(&p, (wf_tensor[]){vector(ids), tensor(table, TABLE, WIDTH),
                                    tensor(looked_up, TOKENS, WIDTH)});
    return dot(weights, looked_up, TOKENS * WIDTH);
}

START_TEST(embedding_gradient) {
    double gradient[TABLE * WIDTH] = {0};
    state = 7;
    randomize(table, TABLE * WIDTH), randomize(weights, TOKENS * WIDTH);
    const wf_problem p = {.op = WF_OP_EMBEDDING_BACKWARD, .size = {TOKENS, TABLE, WIDTH, FIRST}};
    run_reference(&p, (wf_tensor[]){vector(ids), tensor(weights, TOKENS, WIDTH),
                                    tensor(gradient, TABLE, WIDTH)});
    check_gradient(embedding_value, table, gradient, TABLE * WIDTH);
    for (int j = 0; j < WIDTH; j++) ck_assert_double_eq(looked_up[3 * WIDTH + j], 0);
}
END_TEST

/* ---- gradient norm, optimizer ---------------------------------------------------------------------------- */

static void clip_of(double square, double limit, double clip[2]) {
    const wf_problem p = {.op = WF_OP_GRAD_NORM, .size = {1}};
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    run[WF_RUN_MAX_NORM].f = (float)limit;
    wf_operations[p.op]->reference(&p, (wf_tensor[]){vector(&square), vector(clip)}, run);
}

START_TEST(clip_keeps_bad_norms_visible) {
    double clip[2];
    clip_of(16, 1, clip);
    ck_assert_double_eq(clip[0], 4);
    ck_assert_double_eq_tol(clip[1], 0.25, 1e-6);
    clip_of(16, 5, clip);
    ck_assert_double_eq(clip[1], 1);
    clip_of(16, 0, clip);
    ck_assert_double_eq(clip[1], 1);
    clip_of(INFINITY, 1, clip);
    ck_assert(isinf(clip[0]) && isnan(clip[1]));
    clip_of(NAN, 1, clip);
    ck_assert(isnan(clip[0]) && isnan(clip[1]));
}
END_TEST

/* The first step of Adam is lr * sign(g), whatever the gradient's size; decay comes on top. */
START_TEST(first_step_of_adam) {
    double g[] = {1e-3, -40}, clip[] = {1, 1}, w[] = {2, 2}, m[] = {0, 0}, v[] = {0, 0};
    const wf_problem p = {.op = WF_OP_ADAMW, .flags = WF_DECAY, .size = {2}};
    wf_run_number run[WF_RUN_VALUES] = {{0}};
    run[WF_RUN_LR].f = 0.5f, run[WF_RUN_BETA1].f = 0.75f, run[WF_RUN_BETA2].f = 0.5f;
    run[WF_RUN_DECAY].f = 0.25f, run[WF_RUN_CORRECTION1].f = 4, run[WF_RUN_CORRECTION2].f = 2;
    wf_operations[p.op]->reference(&p, (wf_tensor[]){vector(g), vector(clip), vector(w), vector(m),
                                                     vector(v)}, run);
    ck_assert_double_eq_tol(w[0], 2 - 0.25 - 0.5, 1e-12);
    ck_assert_double_eq_tol(w[1], 2 - 0.25 + 0.5, 1e-12);
    ck_assert_double_eq_tol(m[1], -10, 1e-12);
    ck_assert_double_eq_tol(v[1], 800, 1e-12);
}
END_TEST

/* ---- cases and refusals ------------------------------------------------------------------------------------ */

static const char *const cases[] = {
    "norm:f32:rows5n768:eps=1e-05", "norm_backward:f32:rows5n7:residual", "norm_wgrad:f32:n7:accumulate",
    "reduce:f32:rows5n7parts1b1", "reduce:f32:rows12n96parts3group2b2pos7site4:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "sum_rows:f32:groups1per9n4", "sum_rows:f32:groups0per9n4", "embedding:f32:rows3vocabulary5n7first9",
    "loss_stats:f32:rows3first9", "loss_merge:f32:rows3parts12", "adamw:f32:n10:decay",
    "sum_squares:f32:", "grad_norm:f32:n9", "fill:i32:rows2n3:value=-7", "copy:i32:rows2n3",
    "norm:f32:rows5n768:rms:eps=1e-05", "norm_wgrad:f32:n7:accumulate.rms",
    "reduce:f32:rows5n7parts1b1:norm.rms:eps=1e-05", "reduce:f32:rows5n7parts1b1pos3site4ga2gap9:dropout:p=0.5",
    "rope:f32:s5b2h3d16rotated8:inverse",
    "rope:f32:s5b0h3d16rotated0", "gate:f32:rows5n7:silu", "gate_backward:f32:n7:gelu_tanh", "activation:f32:rows5n7:relu",
};

START_TEST(cases_round_trip) {
    wf_problem p, again;
    char text[WF_CASE_BYTES];
    ck_assert_msg(wf_problem_parse(cases[_i], &p) == WF_OK, "%s", wf_last_error());
    wf_problem_print(&p, text, sizeof text);
    ck_assert_str_eq(text, cases[_i]);
    ck_assert_int_eq(wf_problem_parse(text, &again), WF_OK);
    ck_assert(wf_problem_equal(&p, &again));
}
END_TEST

START_TEST(cases_are_completed) {
    wf_problem given, whole;
    ck_assert_int_eq(wf_problem_parse("reduce:f32:rows5n7", &given), WF_OK);
    ck_assert_int_eq(wf_problem_parse("reduce:f32:rows5n7parts1b1ga0gap0", &whole), WF_OK);
    ck_assert(wf_problem_equal(&given, &whole));
    ck_assert_int_eq(wf_problem_parse("sum_rows:f32:per9n4", &given), WF_OK);
    ck_assert_int_eq(given.size[0], 1);
    ck_assert_int_eq(wf_problem_parse("rope:f32:s5d8", &given), WF_OK);
    ck_assert_int_eq(wf_problem_parse("rope:f32:s5b1h1d8rotated8", &whole), WF_OK);
    ck_assert(wf_problem_equal(&given, &whole));
    ck_assert_int_eq(wf_problem_parse("loss_merge:f32:rows3", &given), WF_OK);
    ck_assert_int_eq(given.size[1], 1);
}
END_TEST

static const char *const refused[] = {
    "norm:f32:rows5n7", "norm:i32:rows5n7:eps=1", "reduce:f32:rows5n7parts9", "reduce:f32:rows5n7parts0",
    "reduce:f32:rows5n7:dropout:p=1", "reduce:f32:rows5n7b0:dropout:p=0.5", "reduce:f32:rows5n7:norm",
    "reduce:f32:rows5n7site256:dropout:p=0.5", "loss_merge:f32:rows3parts0", "fill:i32:rows2n3:value=0.5",
    "reduce:f32:rows5n7:rms", "rope:f32:s5d7", "rope:f32:s5d8rotated10", "gate:f32:rows5n7",
    "gate:f32:rows5n7:act-grad.silu", "activation:f32:rows5n7", "activation:f32:rows5n7:bias.silu", "copy:f32:rows5n7:silu",
};

START_TEST(nonsense_is_refused) {
    wf_problem p;
    ck_assert_int_ne(wf_problem_parse(refused[_i], &p), WF_OK);
    ck_assert_int_gt((int)strlen(wf_last_error()), 10);
}
END_TEST

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

int main(void) {
    Suite *suite = suite_create("rows_reference");
    TCase *tests = tcase_create("references");
    tcase_add_test(tests, norm_rows_are_normal);
    tcase_add_test(tests, norm_gradient_of_input);
    tcase_add_test(tests, norm_gradient_of_weights);
    tcase_add_test(tests, rms_rows_have_square_one);
    tcase_add_test(tests, rms_gradients);
    tcase_add_test(tests, rope_turns_pairs);
    tcase_add_test(tests, rope_gradient_is_its_inverse);
    tcase_add_loop_test(tests, gate_gradient, 1, WF_ACTS);
    tcase_add_test(tests, gate_is_the_first_half);
    tcase_add_loop_test(tests, activation_is_a_gate_without_up, 1, WF_ACTS);
    tcase_add_loop_test(tests, reduce_is_its_chain, 0, 2);
    tcase_add_test(tests, reduce_norms_by_rms);
    tcase_add_test(tests, loss_is_minus_log_softmax);
    tcase_add_test(tests, loss_gradient);
    tcase_add_test(tests, empty_shards_count_as_nothing);
    tcase_add_test(tests, embedding_gradient);
    tcase_add_test(tests, clip_keeps_bad_norms_visible);
    tcase_add_test(tests, first_step_of_adam);
    tcase_add_loop_test(tests, cases_round_trip, 0, COUNT(cases));
    tcase_add_test(tests, cases_are_completed);
    tcase_add_loop_test(tests, nonsense_is_refused, 0, COUNT(refused));
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
