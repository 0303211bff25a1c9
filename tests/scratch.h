/* scratch.h: where tests write. */
#ifndef WF_TESTS_SCRATCH_H
#define WF_TESTS_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>

/* A template for mkdtemp and mkstemp, in TMPDIR, else /tmp; returns out. */
static inline char *scratch_template(char *out, size_t bytes, const char *name) {
    const char *const folder = getenv("TMPDIR");
    snprintf(out, bytes, "%s/weft-%s-XXXXXX", folder && *folder ? folder : "/tmp", name);
    return out;
}

#endif
