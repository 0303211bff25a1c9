/* proportion.c: shares of ranks whose speeds were measured. */
#include <math.h>

#include "layouts/layout.h"

bool wf_layout_measures(const wf_layout *layout) {
    return layout->shares[WF_AXIS_TP].measured || layout->shares[WF_AXIS_CP].measured;
}

static void fill_in(wf_layout *layout, wf_axis axis, const double *rate) {
    enum { PERCENT = 100, EQUAL = 95 }; /* what is nearer than that differs from run to run */
    wf_shares *const shares = &layout->shares[axis];
    const int32_t ranks = wf_layout_ranks(layout), parts = layout->size[axis];
    double of[WF_MOST_SHARES], fastest = 0, slowest = INFINITY;
    for (int32_t i = 0; i < parts; i++) of[i] = INFINITY;
    for (int32_t r = 0; r < ranks; r++) {
        int32_t at[WF_AXES];
        wf_mesh_coordinates(layout, r, at);
        of[at[axis]] = fmin(of[at[axis]], rate ? rate[r] : 1);
    }
    for (int32_t i = 0; i < parts; i++) fastest = fmax(fastest, of[i]), slowest = fmin(slowest, of[i]);
    *shares = (wf_shares){0};
    if (!(PERCENT * slowest < EQUAL * fastest)) return;
    shares->count = parts;
    for (int32_t i = 0; i < parts; i++) shares->of[i] = (int32_t)fmax(1, round(PERCENT * of[i] / fastest));
}

void wf_layout_in_proportion(wf_layout *layout, const double *rate) {
    for (int axis = WF_AXIS_TP; axis <= WF_AXIS_CP; axis++)
        if (layout->shares[axis].measured) fill_in(layout, (wf_axis)axis, rate);
}
