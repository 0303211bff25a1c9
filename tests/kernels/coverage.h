/* coverage.h: what a list of problems leaves out of the table of operations. */
#ifndef WF_TESTS_COVERAGE_H
#define WF_TESTS_COVERAGE_H

#include "kernels/operation.h"

typedef struct coverage {
    bool seen[WF_OPS];
    uint32_t flags[WF_OPS];
    bool integers[WF_OPS];
    uint32_t activations[WF_OPS][2]; /* bits by wf_activation: activated, gradient */
} coverage;

void coverage_add(coverage *, const wf_problem *);

/* True and a sentence when an operation of the table is missing, or one of its flags, activations
 * or dtypes. */
bool coverage_misses(const coverage *, char *sentence, size_t bytes);

#endif
