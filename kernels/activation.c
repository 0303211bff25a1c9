/* activation.c: GELU and its tanh form (Hendrycks and Gimpel, "Gaussian error linear units", 2016),
 * ReLU, and SiLU (Elfwing, Uchibe, Doya, 2018), with their derivatives, in f64. */
#include "kernels/activation.h"

#include <math.h>

static double identity(double x) {
    return x;
}

static double one(double x) {
    (void)x;
    return 1;
}

/* The logistic function s(z) = 1/(1+exp(-z)), and s(1-s), by exp(-|z|): nothing overflows or
 * cancels. */
static double logistic(double z) {
    const double e = exp(-fabs(z));
    return (z >= 0 ? 1 : e) / (1 + e);
}

static double logistic_gradient(double z) {
    const double e = exp(-fabs(z));
    return e / ((1 + e) * (1 + e));
}

/* x/2 (1 + tanh(u)) = x s(2u), u = sqrt(2/pi) (x + 0.044715 x^3): "gelu_new" of Hugging Face.
 * In this form the left tail is right, too: 1 + tanh(u) loses it below 1e-16. Far out s(2u) is 0 or 1. */
static const double two_sqrt_2_over_pi = 1.59576912160573071176;
static const double cubic = 0.044715;

static double gelu_tanh(double x) {
    const double y = fmin(fmax(x, -100), 100);
    return x * logistic(two_sqrt_2_over_pi * (y + cubic * y * y * y));
}

static double gelu_tanh_gradient(double x) {
    const double y = fmin(fmax(x, -100), 100);
    const double z = two_sqrt_2_over_pi * (y + cubic * y * y * y);
    const double dz = two_sqrt_2_over_pi * (1 + 3 * cubic * y * y);
    return logistic(z) + x * logistic_gradient(z) * dz;
}

/* x Phi(x), Phi the normal distribution; erfc keeps the left tail accurate. */
static double gelu(double x) {
    return 0.5 * x * erfc(-x * M_SQRT1_2);
}

static double gelu_gradient(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2) + x * exp(-0.5 * x * x) * (0.5 * M_2_SQRTPI * M_SQRT1_2);
}

static double relu(double x) {
    return x < 0 ? 0 : x; /* NaN stays */
}

static double relu_gradient(double x) {
    return x > 0 ? 1 : 0;
}

static double silu(double x) {
    return x * logistic(x);
}

static double silu_gradient(double x) {
    return logistic(x) + x * logistic_gradient(x);
}

/* Bounds from the maxima of f' (GELU 1.1290, SiLU 1.0999) and f'' (at 0: 2 phi(0) = 0.7979; 0.5),
 * rounded up. check_activation.c samples them. */
const wf_activation_entry wf_activations[WF_ACTS] = {
    [WF_ACT_NONE] = {"none", identity, one, 1, 0},
    [WF_ACT_GELU_TANH] = {"gelu_tanh", gelu_tanh, gelu_tanh_gradient, 1.13, 0.80},
    [WF_ACT_GELU] = {"gelu", gelu, gelu_gradient, 1.13, 0.80},
    [WF_ACT_RELU] = {"relu", relu, relu_gradient, 1, 0},
    [WF_ACT_SILU] = {"silu", silu, silu_gradient, 1.10, 0.50},
};
