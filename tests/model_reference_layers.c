/* model_reference_layers.c: linear layers, norms, activations, rotary positions: forward, and backward adding to gradients. */
#include <math.h>

#include "tests/model_reference_parts.h"

/* y[s][out] = x[s][in] w[out][in]^T + b[out] */
void reference_linear(const double *x, const double *w, const double *b, double *y, int64_t s,
                      int64_t in, int64_t out) {
    for (int64_t i = 0; i < s; i++)
        for (int64_t o = 0; o < out; o++) {
            double sum = b ? b[o] : 0;
            for (int64_t k = 0; k < in; k++) sum += x[i * in + k] * w[o * in + k];
            y[i * out + o] = sum;
        }
}

void reference_linear_backward(const double *dy, const double *x, const double *w, double *dx,
                               double *dw, double *db, int64_t s, int64_t in, int64_t out) {
    for (int64_t i = 0; i < s; i++)
        for (int64_t o = 0; o < out; o++) {
            const double d = dy[i * out + o];
            if (db) db[o] += d;
            for (int64_t k = 0; k < in; k++) {
                dx[i * in + k] += d * w[o * in + k];
                dw[o * in + k] += d * x[i * in + k];
            }
        }
}

/* Centre and deviation of a row: RMSNorm's centre is 0. */
static void moments(const wf_model *m, const double *row, double *centre, double *deviation) {
    const int64_t h = m->hidden;
    double mean = 0, variance = 0;
    for (int64_t j = 0; j < h && m->norm == WF_LAYERNORM; j++) mean += row[j] / (double)h;
    for (int64_t j = 0; j < h; j++) variance += pow(row[j] - mean, 2) / (double)h;
    *centre = mean;
    *deviation = sqrt(variance + m->norm_epsilon);
}

void reference_norm(const wf_model *m, const double *x, const double *g, const double *b, double *y, int64_t s) {
    const int64_t h = m->hidden;
    for (int64_t i = 0; i < s; i++) {
        double centre, deviation;
        moments(m, x + i * h, &centre, &deviation);
        for (int64_t j = 0; j < h; j++)
            y[i * h + j] = (x[i * h + j] - centre) / deviation * g[j] + (b ? b[j] : 0);
    }
}

/* Added: with z = (x - centre) / deviation, dx = (g dy - avg(g dy) - z avg(g dy z)) / deviation; the
 * first average is the centre's, which RMSNorm does not subtract. */
void reference_norm_backward(const wf_model *m, const double *dy, const double *x, const double *g, double *dx,
                             double *dg, double *db, int64_t s) {
    const int64_t h = m->hidden;
    for (int64_t i = 0; i < s; i++) {
        const double *row = x + i * h, *d = dy + i * h;
        double centre, deviation, average = 0, projection = 0;
        moments(m, row, &centre, &deviation);
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - centre) / deviation;
            if (m->norm == WF_LAYERNORM) average += g[j] * d[j] / (double)h;
            projection += g[j] * d[j] * z / (double)h;
            dg[j] += d[j] * z;
            if (db) db[j] += d[j];
        }
        for (int64_t j = 0; j < h; j++) {
            const double z = (row[j] - centre) / deviation;
            dx[i * h + j] += (g[j] * d[j] - average - z * projection) / deviation;
        }
    }
}

double reference_activate(int activation, double x) {
    const double c = sqrt(2 / M_PI);
    switch (activation) {
    case WF_ACT_GELU_TANH: return 0.5 * x * (1 + tanh(c * (x + 0.044715 * x * x * x)));
    case WF_ACT_GELU: return 0.5 * x * (1 + erf(x * M_SQRT1_2));
    case WF_ACT_RELU: return x > 0 ? x : 0;
    case WF_ACT_SILU: return x / (1 + exp(-x));
    default: return x;
    }
}

double reference_activate_slope(int activation, double x) {
    const double c = sqrt(2 / M_PI);
    switch (activation) {
    case WF_ACT_GELU_TANH: {
        const double t = tanh(c * (x + 0.044715 * x * x * x));
        return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
    }
    case WF_ACT_GELU: return 0.5 * (1 + erf(x * M_SQRT1_2)) + x * exp(-0.5 * x * x) / sqrt(2 * M_PI);
    case WF_ACT_RELU: return x > 0;
    case WF_ACT_SILU: {
        const double p = 1 / (1 + exp(-x));
        return p + x * p * (1 - p);
    }
    default: return 1;
    }
}

/* ---- rotary positions -------------------------------------------------------------------------- */

/* Angle per position of pair i, as transformers computes it, in f32: its rounding is part of the
 * model. Llama 3 stretches long waves by the factor, short ones not, those between in part. */
static float frequency(const wf_model *m, int64_t i) {
    const float exponent = (float)(2 * i) / (float)m->head_size;
    const float plain = 1 / (float)pow(m->rope_theta, (double)exponent);
    if (m->rope_factor <= 1) return plain;
    if (m->rope_low_frequency <= 0 && m->rope_high_frequency <= 0) return plain / (float)m->rope_factor;
    const double old = (double)m->rope_original_positions;
    const double low = m->rope_low_frequency, high = m->rope_high_frequency;
    const double wave = 2 * M_PI / (double)plain;
    if (wave < old / high) return plain;
    if (wave > old / low) return plain / (float)m->rope_factor;
    const double smooth = (old / wave - low) / (high - low);
    return (float)((1 - smooth) * (double)plain / m->rope_factor + smooth * (double)plain);
}

/* Rotates pair (i, i + d / 2) of each head of [s][heads][d] by the position's angle; sign -1: back. */
void reference_rotate(const wf_model *m, double *x, int64_t s, int64_t heads, int64_t row, double sign) {
    const int64_t d = m->head_size, half = d / 2;
    for (int64_t position = 0; position < s; position++)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)position * frequency(m, i);
            const double c = cos((double)angle), sine = sign * sin((double)angle);
            for (int64_t head = 0; head < heads; head++) {
                double *const a = x + position * row + head * d + i, *const b = a + half;
                const double first = *a, second = *b;
                *a = first * c - second * sine;
                *b = second * c + first * sine;
            }
        }
}
