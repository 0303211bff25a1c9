/* rope_ref.c: ROPE in f64, and how far f32 may be off.
 *
 *     (x_i, x_{i+h}) = (x_i cos - x_{i+h} sin, x_{i+h} cos + x_i sin),  i < h = rotated / 2 */
#include <math.h>

#include "kernels/rows.h"

enum { S, B, HEADS, D, ROTATED };

static double *at(const wf_tensor *x, int64_t position, int64_t sample, int64_t head, int64_t e) {
    return (double *)x->data + position * x->stride[0] + sample * x->stride[1] +
           head * x->stride[2] + e * x->stride[3];
}

void wf_rope_reference(const wf_problem *p, const wf_tensor *t, const wf_run_number *run) {
    const int64_t half = p->size[ROTATED] / 2;
    const double sign = p->flags & WF_INVERSE ? -1 : 1;
    for (int64_t position = 0; position < p->size[S]; position++)
        for (int64_t sample = 0; sample < p->size[B]; sample++)
            for (int64_t head = 0; head < p->size[HEADS]; head++)
                for (int64_t i = 0; i < half; i++) {
                    const double cosine = *wf_at2(&t[0], position, i);
                    const double sine = sign * *wf_at2(&t[0], position, half + i);
                    double *low = at(&t[1], position, sample, head, i);
                    double *high = at(&t[1], position, sample, head, half + i);
                    const double x = *low, y = *high;
                    *low = x * cosine - y * sine;
                    *high = y * cosine + x * sine;
                }
}

/* Two products and a sum: three roundings of |x c| + |y s| at most. The inputs are gone, but the
 * result (r, q) gives them back: x = (r c + q s) / (c^2 + s^2), so |x c| <= (|r| + |q|) max(|c|, |s|)^2 /
 * (c^2 + s^2) <= |r| + |q|, and so is |y s|. What is not rotated must be exact. */
void wf_rope_tolerance(const wf_problem *p, const wf_tensor *t, int operand, double *bound) {
    const int64_t half = p->size[ROTATED] / 2;
    for (int64_t position = 0; position < p->size[S]; position++)
        for (int64_t sample = 0; sample < p->size[B]; sample++)
            for (int64_t head = 0; head < p->size[HEADS]; head++, bound += p->size[D]) {
                for (int64_t e = 0; e < p->size[D]; e++) bound[e] = WF_EXACT;
                for (int64_t i = 0; i < half; i++) {
                    const double pair = fabs(*at(&t[1], position, sample, head, i)) +
                                        fabs(*at(&t[1], position, sample, head, half + i));
                    bound[i] = bound[half + i] = 3 * 2 * WF_U * pair + WF_EXACT;
                }
            }
}
