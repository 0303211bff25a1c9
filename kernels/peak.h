/* peak.h: kernels that ask what a device can do at most: its rate of f32 multiply-adds, its memory's
 * bandwidth, the cost of a launch. They compute nothing that anybody needs, so they are operations of
 * their own, not rows of wf_operations: no schedule has them, no reference is worth having. */
#ifndef WF_KERNELS_PEAK_H
#define WF_KERNELS_PEAK_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_peak { WF_PEAK_FMA, WF_PEAK_COPY, WF_PEAK_UPDATE, WF_PEAK_LAUNCH, WF_PEAKS } wf_peak;

/* One way to ask. FMA: `chains` independent chains of vectors of `width` floats per work-item, so that
 * the latency of one multiply-add is hidden by the others. COPY, UPDATE: a = b and a = s a + b. */
typedef struct wf_peak_form {
    wf_peak peak;
    int32_t group, width, chains;
} wf_peak_form;

/* Forms worth trying on a kind of device, those of one peak after the other; returns their number. */
int wf_peak_forms(const wf_device *, const wf_peak_form **out);

/* The operation, problem and build options of a form. FMA: n work-items take `rounds` rounds of four
 * steps of every chain; COPY, UPDATE: n floats, rounds is not used; LAUNCH: neither. n is rounded up to whole groups. */
const wf_operation *wf_peak_operation(wf_peak);
void wf_peak_problem(const wf_peak_form *, int64_t n, int64_t rounds, wf_problem *problem_out, char *options, size_t options_bytes);

/* What one run of the problem does. Bytes: each array once, as the STREAM benchmark counts them. */
double wf_peak_flops(const wf_peak_form *, const wf_problem *);
double wf_peak_bytes(const wf_peak_form *, const wf_problem *);

#ifdef __cplusplus
}
#endif
#endif
