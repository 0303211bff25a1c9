/* defaults.c: the candidates of an untuned device.
 *
 * Every operation's first variant takes every legal problem, and is the default of all operations
 * but GEMM. GEMM on a GPU: CLBlast, whose database knows many GPUs. GEMM on a CPU: the own kernels
 * in the order of the table below, which is a measurement (see there) and no law: tuning replaces
 * it. A variant that was asked for by name is used or refused, never replaced in silence. */
#include "autotune/defaults.h"

#include <stdio.h>
#include <string.h>

/* Preferred GEMM variants, best first; those that do not exist or refuse are passed over. */
static const char *const on_gpu[] = {"clblast", NULL};
static const char *const on_cpu[] = {NULL};

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

static bool runs(const wf_defaults *d, const wf_problem *problem, const wf_candidate *candidate, const char **why) {
    if (d->opencl) return wf_kernel_ok(d->opencl, problem, candidate, why);
    *why = "no device is at hand";
    return wf_operations[problem->op]->variants[candidate->variant].kind == WF_VARIANT_KERNEL;
}

static int preferred(const wf_defaults *d, const wf_problem *problem, wf_candidate *out) {
    const wf_operation *const op = wf_operations[problem->op];
    const bool gpu = d->opencl && wf_opencl_device(d->opencl)->type == WF_DEVICE_GPU;
    const char *const *names = gpu ? on_gpu : on_cpu;
    for (; problem->op == WF_OP_GEMM && *names; names++) {
        const int v = find_variant(op, *names);
        const char *why;
        if (v < 0) continue;
        wf_candidate_default(problem, v, out);
        if (runs(d, problem, out, &why)) return v;
    }
    return 0;
}

static wf_status workspace(const wf_defaults *d, const wf_problem *problem, const wf_candidate *candidate, int64_t *out) {
    if (d->opencl) return wf_kernel_workspace(d->opencl, problem, candidate, out);
    const wf_variant *const v = &wf_operations[problem->op]->variants[candidate->variant];
    *out = v->workspace_bytes ? v->workspace_bytes(problem, candidate) : 0;
    return WF_OK;
}

wf_status wf_defaults_candidate(void *context, const wf_problem *problem, wf_candidate *out, int64_t *workspace_bytes_out) {
    const wf_defaults *const d = context;
    const bool named = problem->op == WF_OP_GEMM && d->gemm;
    int v = 0;
    if (named) {
        TRY(wf_defaults_check(d));
        v = find_variant(wf_operations[WF_OP_GEMM], d->gemm);
    } else {
        v = preferred(d, problem, out);
    }
    wf_candidate_default(problem, v, out);
    const char *why = "";
    if (!runs(d, problem, out, &why)) {
        char text[256];
        wf_problem_print(problem, text, sizeof text);
        return wf_fail(WF_ERR_UNSUPPORTED, "variant %s cannot compute %s: %s", wf_operations[problem->op]->variants[v].name,
                       text, why);
    }
    return workspace(d, problem, out, workspace_bytes_out);
}
