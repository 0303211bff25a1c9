/* philox.c: Philox4x32-10 and what weft draws with it; see philox.h for keys and counters.
 *
 * The normal deviate is the inverse of the normal distribution at (word + 1/2) / 2^32, by Wichura's
 * AS 241 (PPND16: "The percentage points of the normal distribution", Applied Statistics 37, 1988).
 * It needs a square root, which IEEE 754 rounds correctly everywhere, and a logarithm, which no
 * standard does: log_exact() below uses + - * / on f64 only, so that initial weights are the same
 * bits on every machine. One 32-bit word per element: the largest deviate is 6.3. */
#include "kernels/philox.h"

#include <math.h>
#include <string.h>

/* ---- the generator ---- */

static void round_once(uint32_t c[4], const uint32_t key[2]) {
    const uint64_t product0 = (uint64_t)0xD2511F53u * c[0];
    const uint64_t product1 = (uint64_t)0xCD9E8D57u * c[2];
    const uint32_t next[4] = {(uint32_t)(product1 >> 32) ^ c[1] ^ key[0], (uint32_t)product1,
                              (uint32_t)(product0 >> 32) ^ c[3] ^ key[1], (uint32_t)product0};
    memcpy(c, next, sizeof next);
}

void wf_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c[4], k[2] = {key[0], key[1]};
    memcpy(c, counter, sizeof c);
    for (int i = 0; i < 10; i++) {
        round_once(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

void wf_philox_key(uint64_t seed, int64_t step, uint32_t key_out[2]) {
    const uint64_t bits = (uint64_t)step;
    const uint32_t counter[4] = {(uint32_t)bits, (uint32_t)(bits >> 32), 0, 0x77656674u};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t block[4];
    wf_philox4x32(counter, key, block);
    key_out[0] = block[0];
    key_out[1] = block[1];
}

static void block_of(const uint32_t key[2], uint32_t site, uint32_t layer, uint32_t c1, uint32_t c2,
                     int64_t column, uint32_t out[4]) {
    const uint32_t counter[4] = {site | layer << 8, c1, c2, (uint32_t)(column / 4)};
    wf_philox4x32(counter, key, out);
}

static uint32_t word_of(const uint32_t key[2], uint32_t site, uint32_t layer, uint32_t c1,
                        uint32_t c2, int64_t column) {
    uint32_t block[4];
    block_of(key, site, layer, c1, c2, column, block);
    return block[column % 4];
}

/* ---- dropout ---- */

uint32_t wf_philox_threshold(double p) {
    if (!(p > 0)) return 0;
    const double scaled = p * 4294967296.0;
    return scaled >= 4294967295.0 ? 0xffffffffu : (uint32_t)scaled;
}

int wf_dropout_keep(const uint32_t key[2], uint32_t site, uint32_t layer, uint32_t c1, uint32_t c2,
                    int64_t column, uint32_t threshold) {
    return word_of(key, site, layer, c1, c2, column) >= threshold;
}

/* ---- normal deviates ---- */

/* Natural logarithm of a positive normal number. x = m 2^e with m in [1/sqrt 2, sqrt 2), then
 * log m = 2 atanh s with s = (m - 1) / (m + 1): |s| < 0.172, and 13 terms of s^2 < 0.0295 leave
 * less than 2^-60. */
static double log_exact(double x) {
    static const double inverse[] = {1.0 / 25, 1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                                     1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3,  1.0};
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000fffffffffffffu) | 0x3ff0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        exponent++;
    }
    const double s = (m - 1) / (m + 1), square = s * s;
    double series = 0;
    for (int i = 0; i < 13; i++) series = series * square + inverse[i];
    return exponent * 0.69314718055994530942 + 2 * s * series;
}

typedef struct rational {
    double numerator[8], denominator[8]; /* constant first */
} rational;

static const rational centre = {
    {3.3871328727963666080e0, 1.3314166789178437745e+2, 1.9715909503065514427e+3,
     1.3731693765509461125e+4, 4.5921953931549871457e+4, 6.7265770927008700853e+4,
     3.3430575583588128105e+4, 2.5090809287301226727e+3},
    {1.0, 4.2313330701600911252e+1, 6.8718700749205790830e+2, 5.3941960214247511077e+3,
     2.1213794301586595867e+4, 3.9307895800092710610e+4, 2.8729085735721942674e+4,
     5.2264952788528545610e+3}};
static const rational near_tail = {
    {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0,
     3.64784832476320460504e0, 1.27045825245236838258e0, 2.41780725177450611770e-1,
     2.27238449892691845833e-2, 7.74545014278341407640e-4},
    {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
     1.05075007164441684324e-9}};
/* AS 241 has a third region, for probabilities below exp(-25) = 1.4e-11, which a 32-bit word does
 * not reach: its smallest is 2^-33 = 1.2e-10. */

static double evaluate(const rational *r, double x) {
    double numerator = 0, denominator = 0;
    for (int i = 7; i >= 0; i--) {
        numerator = numerator * x + r->numerator[i];
        denominator = denominator * x + r->denominator[i];
    }
    return numerator / denominator;
}

static double inverse_normal(double probability) {
    const double q = probability - 0.5;
    if (fabs(q) <= 0.425) return q * evaluate(&centre, 0.180625 - q * q);
    const double tail = q < 0 ? probability : 1 - probability;
    const double deviate = evaluate(&near_tail, sqrt(-log_exact(tail)) - 1.6);
    return q < 0 ? -deviate : deviate;
}

void wf_philox_normals(const uint32_t key[2], uint32_t site, uint32_t layer, int64_t row,
                       int64_t column, int64_t count, double *out) {
    uint32_t block[4];
    for (int64_t i = 0; i < count; i++) {
        if (i == 0 || (column + i) % 4 == 0)
            block_of(key, site, layer, (uint32_t)row, (uint32_t)((uint64_t)row >> 32), column + i, block);
        out[i] = inverse_normal((block[(column + i) % 4] + 0.5) / 4294967296.0);
    }
}

double wf_philox_normal(const uint32_t key[2], uint32_t site, uint32_t layer, int64_t row,
                        int64_t column) {
    double one;
    wf_philox_normals(key, site, layer, row, column, 1, &one);
    return one;
}
