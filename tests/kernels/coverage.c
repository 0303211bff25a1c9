/* coverage.c: see coverage.h. */
#include "tests/kernels/coverage.h"

#include <stdio.h>

#include "kernels/activation.h"

void coverage_add(coverage *c, const wf_problem *p) {
    c->seen[p->op] = true;
    c->flags[p->op] |= p->flags;
    c->integers[p->op] |= p->dtype == WF_I32;
    if (p->activation) c->activations[p->op][!!(p->flags & WF_ACT_GRAD)] |= 1u << p->activation;
}

static bool misses_activation(const coverage *c, int op, char *sentence, size_t bytes) {
    const bool gradients = wf_operations[op]->flags & WF_ACT_GRAD;
    for (int gradient = 0; gradient <= gradients; gradient++)
        for (int a = 1; a < WF_ACTS; a++) {
            if (c->activations[op][gradient] & 1u << a) continue;
            snprintf(sentence, bytes, "no case of %s with %s%s", wf_operations[op]->name,
                     gradient ? "act-grad and " : "", wf_activations[a].name);
            return true;
        }
    return false;
}

static bool misses(const coverage *c, int op, char *sentence, size_t bytes) {
    const wf_operation *operation = wf_operations[op];
    const uint32_t missing = operation->flags & ~c->flags[op];
    if (!c->seen[op]) snprintf(sentence, bytes, "no case of %s", operation->name);
    else if (missing) snprintf(sentence, bytes, "no case of %s with flags 0x%x", operation->name, missing);
    else if (operation->integers && !c->integers[op])
        snprintf(sentence, bytes, "no case of %s with integers", operation->name);
    else return operation->activation && misses_activation(c, op, sentence, bytes);
    return true;
}

bool coverage_misses(const coverage *c, char *sentence, size_t bytes) {
    for (int op = 0; op < WF_OPS; op++)
        if (wf_operations[op] && misses(c, op, sentence, bytes)) return true;
    return false;
}
