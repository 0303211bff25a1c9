/* activation.h: the activations as data: name in case texts, f and f' in f64, and the bounds that
 * tolerances need. The kernels' twin is activation.clh, selected by -DACTIVATION=<wf_activation>. */
#ifndef WF_KERNELS_ACTIVATION_H
#define WF_KERNELS_ACTIVATION_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_activation_entry {
    const char *name;
    double (*f)(double);
    double (*df)(double);       /* f' */
    double lipschitz;           /* at least sup |f'| */
    double lipschitz_gradient;  /* at least sup |f''|; relu: 0 off the kink */
} wf_activation_entry;

extern const wf_activation_entry wf_activations[WF_ACTS]; /* by wf_activation; [0] is the identity */

#ifdef __cplusplus
}
#endif
#endif
