/* verify.c: candidates of cases against the f64 references, on the context's device.
 *
 * The built-in list has every operation with every flag at least once, at sizes that break kernels:
 * 1, primes, one less and one more than a tile, heads and rows that do not divide. */
#include <stdio.h>
#include <string.h>

#include "host/api/objects.h"

#define SEED 20251123u

static const char *const cases[] = {
    "gemm:f32:m1n1k1:nn",
    "gemm:f32:m64n64k64:nt",
    "gemm:f32:m65n33k17:nt.bias",
    "gemm:f32:m63n127k31:nn.accumulate",
    "gemm:f32:m127n65k129:tn.accumulate",
    "gemm:f32:m37n41k43:tt",
    "gemm:f32:m129n250k96:nt.bias.gelu_tanh",
    "gemm:f32:m61n83k96:nt.bias.gelu",
    "gemm:f32:m61n83k96:nt.relu",
    "gemm:f32:m61n83k96:nt.silu",
    "gemm:f32:m61n125k96:nn.act-grad.gelu_tanh",
    "gemm:f32:m61n125k96:nn.act-grad.gelu",
    "gemm:f32:m17n19k0:nt.bias",
    "gemm:f32:m122n257k96:nt",
    "attention:f32:b1s1kv1hq1hkv1d8heads1:causal",
    "attention:f32:b2s61kv61hq3hkv3d16heads6head3:causal.dropout:p=0.1",
    "attention:f32:b1s65kv65hq2hkv1d64heads2:causal",
    "attention:f32:b2s33kv129hq2hkv2d32heads2",
    "attention_delta:f32:b2s61kv61hq3hkv3d16heads3",
    "attention_backward:f32:b2s61kv61hq3hkv3d16heads6head3:causal.dropout:p=0.1",
    "attention_backward:f32:b1s65kv65hq2hkv1d64heads2:causal",
    "norm:f32:rows1n1:eps=1e-05",
    "norm:f32:rows61n96:eps=1e-05",
    "norm:f32:rows3n1031:eps=1e-05",
    "norm_backward:f32:rows61n96",
    "norm_backward:f32:rows61n97:residual",
    "norm_wgrad:f32:rows61n96",
    "norm_wgrad:f32:rows257n31:accumulate",
    "reduce:f32:rows61n96parts1b2site3:bias.dropout.residual:p=0.1",
    "reduce:f32:rows62n96parts3b2pos7site3:bias.dropout.residual.norm:p=0.1,eps=1e-05",
    "reduce:f32:rows31n97parts8b1",
    "sum_rows:f32:groups1per122n96",
    "sum_rows:f32:groups61per2n96:accumulate",
    "embedding:f32:rows122vocabulary129n96first128",
    "embedding_backward:f32:rows122vocabulary129n96first128",
    "loss_stats:f32:rows61vocabulary129first128",
    "loss_merge:f32:rows61parts3",
    "loss_backward:f32:rows61vocabulary129first128",
    "adamw:f32:n1021:decay",
    "adamw:f32:n1",
    "sum_squares:f32:n100003",
    "grad_norm:f32:n31",
    "fill:f32:rows7n33:value=1.5",
    "copy:f32:rows7n33",
};

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
    wf_candidate candidate;
    wf_candidate_default(p, variant, &candidate);
    if (!all) return try_candidate(c, case_text, p, &candidate, t);
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

weft_status weft_verify(weft_context *c, const char *case_text, bool all, void (*report)(void *user, const weft_verdict *),
                        void *user) {
    teller t = {report, user, 0};
    wf_status status = weft_context_usable(c);
    if (status == WF_OK && case_text) status = try_case(c, case_text, all, &t);
    for (size_t i = 0; !case_text && i < sizeof cases / sizeof *cases && status == WF_OK; i++)
        status = try_case(c, cases[i], all, &t);
    if (status == WF_OK && t.failed)
        status = wf_fail(WF_ERR_MISMATCH, "%d candidate%s computed wrongly", t.failed, t.failed == 1 ? "" : "s");
    return weft_from(status);
}
