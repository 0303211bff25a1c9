/* verify.c: candidates of cases against the f64 references, on the context's device.
 * The built-in list is kernels/cases.c. */
#include <stdio.h>
#include <string.h>

#include "host/api/objects.h"
#include "kernels/cases.h"
#include "layouts/block.h"

#define SEED 20251123u

typedef struct teller {
    void (*report)(void *user, const weft_verdict *);
    void *user;
    int failed;
} teller;

static void tell(teller *t, const char *case_text, const char *candidate, const wf_verdict *v) {
    const weft_verdict public = {case_text, candidate, v->ok, v->skipped, v->worst, v->sentence};
    t->failed += !v->ok && !v->skipped;
    if (t->report) t->report(t->user, &public);
}

/* A failure of the device's own (a build that fails) is the candidate's verdict, not the end. */
static wf_status try_candidate(weft_context *c, const char *case_text, const wf_problem *p, const wf_candidate *candidate,
                               teller *t) {
    char text[256];
    wf_verdict v;
    memset(&v, 0, sizeof v);
    wf_candidate_print(p, candidate, text, sizeof text);
    const wf_status status = wf_verify_problem(c->opencl, p, candidate, SEED, &v);
    if (status == WF_ERR_MEMORY || status == WF_ERR_INTERNAL || status == WF_ERR_ARGUMENT) return status;
    if (status != WF_OK) {
        v.ok = v.skipped = false;
        snprintf(v.sentence, sizeof v.sentence, "%s", wf_last_error());
    }
    tell(t, case_text, text, &v);
    return WF_OK;
}

/* The next combination of parameter values, counting like an odometer; false after the last. */
static bool next_candidate(const wf_variant *v, int32_t *digit, wf_candidate *candidate) {
    for (int32_t i = 0; i < v->nparameters; i++) {
        digit[i] = (digit[i] + 1) % v->parameters[i].nvalues;
        candidate->value[i] = v->parameters[i].values[digit[i]];
        if (digit[i]) return true;
    }
    return false;
}

static wf_status try_variant(weft_context *c, const char *case_text, const wf_problem *p, int variant, bool all, teller *t) {
    wf_candidate candidate, preferred;
    wf_candidate_default(p, variant, &candidate);
    wf_candidate_of_variant(p, variant, wf_opencl_device(c->opencl), &preferred);
    if (!all) {
        TRY(try_candidate(c, case_text, p, &candidate, t));
        if (memcmp(candidate.value, preferred.value, sizeof candidate.value) == 0) return WF_OK;
        return try_candidate(c, case_text, p, &preferred, t);
    }
    const wf_variant *const v = &wf_operations[p->op]->variants[variant];
    int32_t digit[WF_PARAMETERS] = {0};
    for (int32_t i = 0; i < v->nparameters; i++) candidate.value[i] = v->parameters[i].values[0];
    do TRY(try_candidate(c, case_text, p, &candidate, t));
    while (next_candidate(v, digit, &candidate));
    return WF_OK;
}

static wf_status try_case(weft_context *c, const char *case_text, bool all, teller *t) {
    wf_problem p;
    TRY(wf_problem_parse(case_text, &p));
    for (int v = 0; v < wf_operations[p.op]->nvariants; v++) TRY(try_variant(c, case_text, &p, v, all, t));
    return WF_OK;
}

/* An operation's name alone stands for all built-in cases of it; none: all. */
static bool is_meant(const char *built_in, const char *text) {
    const size_t length = text ? strlen(text) : 0;
    return !text || (strncmp(built_in, text, length) == 0 && built_in[length] == ':');
}

/* Their f64 reference is of whole models, and in tests/ only. */
static wf_status refuse_block(const char *case_text) {
    if (!case_text || !wf_block_is(case_text)) return WF_OK;
    return wf_fail(WF_ERR_UNSUPPORTED,
                   "case '%.120s': verify takes operations; whole blocks are checked against f64 by "
                   "`make check TESTS=tests/host/check_block_forms`, on this device too, and timed by weft bench",
                   case_text);
}

weft_status weft_verify(weft_context *c, const char *case_text, bool all, void (*report)(void *user, const weft_verdict *),
                        void *user) {
    teller t = {report, user, 0};
    bool found = false;
    wf_status status = weft_context_usable(c);
    if (status == WF_OK) status = refuse_block(case_text);
    for (int i = 0; wf_cases[i] && (!case_text || !strchr(case_text, ':')) && status == WF_OK; i++) {
        if (!is_meant(wf_cases[i], case_text)) continue;
        found = true;
        status = try_case(c, wf_cases[i], all, &t);
    }
    if (status == WF_OK && case_text && !found) status = try_case(c, case_text, all, &t);
    if (status == WF_OK && t.failed)
        status = wf_fail(WF_ERR_MISMATCH, "%d candidate%s computed wrongly", t.failed, t.failed == 1 ? "" : "s");
    return weft_from(status);
}
