/* rope.c: the table of rotary positions (Su et al., "RoFormer", 2021): per position the cosines and
 * sines that turn pair (i, i + head_size / 2) of each head of q and k.
 *
 * Trained weights know the angles of the library they were trained with, which computes frequencies
 * and angles in f32: at position p an angle is off by up to p 2^-24, which is much more than a
 * result may differ by. So both are rounded to f32 here, too, as `transformers` does; cosines and
 * sines are exact. Scaling: linear (frequencies over a factor: Chen et al. 2023), and Llama 3's by
 * wavelength (long waves over the factor, short ones as they are, those between in part). */
#include <math.h>

#include "layouts/model.h"

static double by_wavelength(const wf_model *m, double plain) {
    const double positions = (double)m->rope_original_positions, wave = 2 * M_PI / plain;
    if (wave < positions / m->rope_high_frequency) return plain;
    if (wave > positions / m->rope_low_frequency) return plain / m->rope_factor;
    const double share = (positions / wave - m->rope_low_frequency) /
                         (m->rope_high_frequency - m->rope_low_frequency);
    return (1 - share) * plain / m->rope_factor + share * plain;
}

/* Angle of pair i per position. */
static float frequency(const wf_model *m, int64_t i) {
    const float exponent = (float)(2 * i) / (float)m->head_size;
    const float power = (float)pow(m->rope_theta, (double)exponent);
    const float plain = 1.0f / power;
    if (m->rope_factor <= 1) return plain;
    if (m->rope_low_frequency > 0) return (float)by_wavelength(m, (double)plain);
    return plain / (float)m->rope_factor;
}

void wf_model_rope(const wf_model *m, int64_t position, double *out) {
    const int64_t half = m->head_size / 2;
    for (int64_t i = 0; i < half; i++) {
        const float angle = (float)position * frequency(m, i);
        out[i] = cos((double)angle);
        out[half + i] = sin((double)angle);
    }
}
