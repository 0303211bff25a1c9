/* defaults.c: the candidates of an untuned device.
 *
 * What an operation prefers on a kind of device stands in its own table (kernels/<op>.c, prefer:
 * CLBlast for GEMM on GPUs, whose database knows many; register tiles on CPUs), because only there
 * are variants and parameters known. Here that is asked for, held against the real device, and
 * replaced where the caller named a variant. A named variant is used or refused, never replaced in
 * silence. */
#include "autotune/defaults.h"

#include <stdio.h>
#include <string.h>

static int find_variant(const wf_operation *op, const char *name) {
    for (int v = 0; v < op->nvariants; v++)
        if (strcmp(op->variants[v].name, name) == 0) return v;
    return -1;
}

wf_status wf_defaults_check(const wf_defaults *d) {
    const wf_operation *const op = wf_operations[WF_OP_GEMM];
    if (!d->gemm || find_variant(op, d->gemm) >= 0) return WF_OK;
    char known[256] = "";
    for (int v = 0; v < op->nvariants; v++) {
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", v ? ", " : "", op->variants[v].name);
    }
    return wf_fail(WF_ERR_ARGUMENT, "no GEMM variant \"%s\"; known: %s", d->gemm, known);
}

static wf_status refused(const wf_problem *problem, const wf_candidate *candidate, const char *why) {
    char text[WF_CASE_BYTES];
    wf_problem_print(problem, text, sizeof text);
    return wf_fail(WF_ERR_UNSUPPORTED, "variant %s cannot compute %s: %s",
                   wf_operations[problem->op]->variants[candidate->variant].name, text, why);
}

/* Without a device nothing is known of a library, not even its workspace. */
static wf_status without_device(const wf_problem *problem, const wf_candidate *candidate, int64_t *workspace_bytes_out) {
    const wf_variant *const v = &wf_operations[problem->op]->variants[candidate->variant];
    if (v->kind == WF_VARIANT_LIBRARY) return refused(problem, candidate, "no device is at hand that a library could be asked for");
    *workspace_bytes_out = v->workspace_bytes ? v->workspace_bytes(problem, candidate) : 0;
    return WF_OK;
}

/* The operation's preference, or the first variant that this device takes. */
static wf_status untuned(wf_opencl *opencl, const wf_problem *problem, wf_candidate *out) {
    const char *why = "";
    bool ok = false;
    TRY(wf_candidate_for_device(problem, wf_opencl_device(opencl), out));
    TRY(wf_kernel_try(opencl, problem, out, &ok, &why));
    for (int v = 0; v < wf_operations[problem->op]->nvariants && !ok; v++) {
        wf_candidate_default(problem, v, out);
        TRY(wf_kernel_try(opencl, problem, out, &ok, &why));
    }
    if (ok) return WF_OK;
    return refused(problem, out, why);
}

wf_status wf_defaults_candidate(void *context, const wf_problem *problem, wf_candidate *out, int64_t *workspace_bytes_out) {
    const wf_defaults *const d = context;
    const char *why = "";
    wf_candidate_default(problem, 0, out);
    /* An empty sum (an epilogue alone) is no product: libraries take none, and nobody means it. */
    const bool product = problem->op == WF_OP_GEMM && wf_operations[WF_OP_GEMM]->flops(problem) > 0;
    if (product && d->gemm) {
        TRY(wf_defaults_check(d));
        wf_candidate_default(problem, find_variant(wf_operations[WF_OP_GEMM], d->gemm), out);
        if (d->opencl && !wf_kernel_ok(d->opencl, problem, out, &why)) return refused(problem, out, why);
    } else if (d->opencl) {
        TRY(untuned(d->opencl, problem, out));
    }
    if (!d->opencl) return without_device(problem, out, workspace_bytes_out);
    return wf_kernel_workspace(d->opencl, problem, out, workspace_bytes_out);
}
