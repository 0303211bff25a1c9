/* operations.c: the table of operations and what all of them share: checks, bytes, hashes,
 * launches and candidates as data. The text form of a problem is kernels/case.c. */
#include "kernels/operation.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/table.h"

const wf_operation *const wf_operations[WF_OPS] = {
    [WF_OP_GEMM] = &wf_gemm_operation,
    [WF_OP_ATTENTION] = &wf_attention_operation,
    [WF_OP_ATTENTION_DELTA] = &wf_attention_delta_operation,
    [WF_OP_ATTENTION_BACKWARD] = &wf_attention_backward_operation,
    [WF_OP_NORM] = &wf_norm_operation,
    [WF_OP_NORM_BACKWARD] = &wf_norm_backward_operation,
    [WF_OP_NORM_WGRAD] = &wf_norm_wgrad_operation,
    [WF_OP_REDUCE] = &wf_reduce_operation,
    [WF_OP_SUM_ROWS] = &wf_sum_rows_operation,
    [WF_OP_EMBEDDING] = &wf_embedding_operation,
    [WF_OP_EMBEDDING_BACKWARD] = &wf_embedding_backward_operation,
    [WF_OP_LOSS_STATS] = &wf_loss_stats_operation,
    [WF_OP_LOSS_MERGE] = &wf_loss_merge_operation,
    [WF_OP_LOSS_BACKWARD] = &wf_loss_backward_operation,
    [WF_OP_ADAMW] = &wf_adamw_operation,
    [WF_OP_SUM_SQUARES] = &wf_sum_squares_operation,
    [WF_OP_GRAD_NORM] = &wf_grad_norm_operation,
    [WF_OP_FILL] = &wf_fill_operation,
    [WF_OP_COPY] = &wf_copy_operation,
    [WF_OP_ROPE] = &wf_rope_operation,
    [WF_OP_GATE] = &wf_gate_operation,
    [WF_OP_GATE_BACKWARD] = &wf_gate_backward_operation,
    [WF_OP_ACTIVATION] = &wf_activation_operation,
};

int64_t wf_dtype_bytes(wf_dtype dtype) {
    static const int64_t bytes[WF_DTYPES] = {[WF_F32] = 4, [WF_I32] = 4, [WF_F64] = 8};
    return bytes[dtype];
}

bool wf_run_value_is_integer(wf_run_value value) {
    return value == WF_RUN_KEY0 || value == WF_RUN_KEY1 || value == WF_RUN_LAYER ||
           value == WF_RUN_SAMPLE0;
}

/* ---- problems -------------------------------------------------------------------------------- */

/* No single extent is longer, so that products of two sizes are far from the end of int64. */
static const int64_t longest_extent = (int64_t)1 << 40;

static int size_count(const wf_operation *operation) {
    int n = 0;
    while (n < WF_SIZES && operation->size_names[n]) n++;
    return n;
}

static int real_count(const wf_operation *operation) {
    int n = 0;
    while (n < WF_REALS && operation->real_names[n]) n++;
    return n;
}

static wf_status check_numbers(const wf_problem *p, const wf_operation *operation) {
    const int sizes = size_count(operation), reals = real_count(operation);
    for (int i = 0; i < WF_SIZES; i++) {
        if (i >= sizes && p->size[i] != 0)
            return wf_fail(WF_ERR_ARGUMENT, "%s has %d sizes, but size %d is %lld", operation->name,
                           sizes, i, (long long)p->size[i]);
        if (p->size[i] < 0 || p->size[i] > longest_extent)
            return wf_fail(WF_ERR_ARGUMENT, "%s: size %s is %lld, legal are 0 to %lld",
                           operation->name, operation->size_names[i], (long long)p->size[i],
                           (long long)longest_extent);
    }
    for (int i = 0; i < WF_REALS; i++) {
        if (i >= reals && p->real[i] != 0)
            return wf_fail(WF_ERR_ARGUMENT, "%s has %d real parameters, but number %d is %g",
                           operation->name, reals, i, p->real[i]);
        if (!isfinite(p->real[i]))
            return wf_fail(WF_ERR_ARGUMENT, "%s: %s is not a finite number", operation->name,
                           operation->real_names[i]);
    }
    return WF_OK;
}

static wf_status check_flags(const wf_problem *p, const wf_operation *operation) {
    if (p->flags & ~operation->flags)
        return wf_fail(WF_ERR_ARGUMENT, "%s does not take flags 0x%x", operation->name,
                       p->flags & ~operation->flags);
    if ((p->flags & WF_ACTIVATE) && (p->flags & WF_ACT_GRAD))
        return wf_fail(WF_ERR_ARGUMENT, "%s: activation and its gradient exclude each other",
                       operation->name);
    if (p->activation < 0 || p->activation >= WF_ACTS)
        return wf_fail(WF_ERR_ARGUMENT, "%s: there is no activation number %d", operation->name,
                       p->activation);
    const uint32_t asks = WF_ACTIVATE | WF_ACT_GRAD;
    const bool wanted = operation->flags & asks ? p->flags & asks : operation->activation;
    if (wanted != (p->activation != WF_ACT_NONE))
        return wf_fail(WF_ERR_ARGUMENT,
                       wanted ? "%s: an activation is asked for, but none is named"
                              : "%s: an activation is named, but not asked for",
                       operation->name);
    return WF_OK;
}

/* Bytes and element offsets of every operand must be countable, in f64 for the references too. */
static wf_status check_operands(const wf_problem *p, const wf_operation *operation) {
    wf_operand operands[WF_OPERANDS];
    const int n = operation->operands(p, operands);
    for (int i = 0; i < n; i++) {
        int64_t bytes = wf_dtype_bytes(WF_F64);
        for (int d = 0; d < operands[i].ndim; d++)
            if (__builtin_mul_overflow(bytes, operands[i].extent[d], &bytes))
                return wf_fail(WF_ERR_ARGUMENT, "%s: operand %s has more than 2^60 elements",
                               operation->name, operands[i].name);
    }
    return WF_OK;
}

wf_status wf_problem_check(const wf_problem *p) {
    if (p->op < 0 || p->op >= WF_OPS || !wf_operations[p->op])
        return wf_fail(WF_ERR_ARGUMENT, "there is no operation number %d", p->op);
    const wf_operation *operation = wf_operations[p->op];
    if (p->dtype != WF_F32 && !(p->dtype == WF_I32 && operation->integers))
        return wf_fail(WF_ERR_UNSUPPORTED, "%s is only there for f32", operation->name);
    TRY(check_numbers(p, operation));
    TRY(check_flags(p, operation));
    if (operation->check) TRY(operation->check(p));
    return check_operands(p, operation);
}

double wf_problem_bytes(const wf_problem *p) {
    wf_operand operands[WF_OPERANDS];
    if (wf_operations[p->op]->bytes) return wf_operations[p->op]->bytes(p);
    const int n = wf_operations[p->op]->operands(p, operands);
    double total = 0;
    for (int i = 0; i < n; i++) {
        double bytes = (double)wf_dtype_bytes((wf_dtype)operands[i].dtype);
        for (int d = 0; d < operands[i].ndim; d++) bytes *= (double)operands[i].extent[d];
        total += operands[i].access == WF_UPDATE ? 2 * bytes : bytes;
    }
    return total;
}

/* FNV-1a, 64 bits. */
uint64_t wf_problem_hash(const wf_problem *p) {
    const unsigned char *bytes = (const unsigned char *)p;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof *p; i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
    return hash;
}

bool wf_problem_equal(const wf_problem *a, const wf_problem *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* ---- launches -------------------------------------------------------------------------------- */

static wf_argument *next_argument(wf_launch *launch, wf_argument_kind kind, int index, int dim) {
    assert(launch->narguments < WF_ARGUMENTS);
    wf_argument *argument = &launch->arguments[launch->narguments++];
    *argument = (wf_argument){.kind = (uint8_t)kind, .index = (uint8_t)index, .dim = (uint8_t)dim};
    return argument;
}

void wf_launch_view(wf_launch *launch, int view) {
    wf_launch_view_from(launch, view, 0);
}

void wf_launch_view_from(wf_launch *launch, int view, int64_t elements) {
    next_argument(launch, WF_ARG_MEMORY, view, 0);
    next_argument(launch, WF_ARG_OFFSET, view, 0)->value.i = elements;
}

void wf_launch_stride(wf_launch *launch, int view, int dim) {
    next_argument(launch, WF_ARG_STRIDE, view, dim);
}

void wf_launch_i32(wf_launch *launch, int64_t value) {
    assert(value >= INT32_MIN && value <= INT32_MAX);
    next_argument(launch, WF_ARG_I32, 0, 0)->value.i = value;
}

void wf_launch_i64(wf_launch *launch, int64_t value) {
    next_argument(launch, WF_ARG_I64, 0, 0)->value.i = value;
}

void wf_launch_f32(wf_launch *launch, double value) {
    next_argument(launch, WF_ARG_F32, 0, 0)->value.f = value;
}

void wf_launch_run(wf_launch *launch, wf_run_value value) {
    next_argument(launch, WF_ARG_RUN, (int)value, 0);
}

void wf_launch_local(wf_launch *launch, int64_t bytes) {
    next_argument(launch, WF_ARG_LOCAL, 0, 0)->value.i = bytes;
}

void wf_launch_geometry(wf_launch *launch, int dims, const int64_t *groups, const int32_t *local) {
    launch->dims = dims;
    for (int d = 0; d < 3; d++) {
        launch->local[d] = d < dims ? local[d] : 1;
        launch->global[d] = d < dims ? groups[d] * local[d] : 1;
    }
}

/* ---- candidates ------------------------------------------------------------------------------ */

void wf_append(char *out, size_t out_bytes, const char *format, ...) {
    const size_t used = strlen(out);
    va_list arguments;
    va_start(arguments, format);
    const int written = vsnprintf(out + used, out_bytes - used, format, arguments);
    va_end(arguments);
    assert(written >= 0 && used + (size_t)written < out_bytes);
    (void)written;
}

static const wf_variant *variant_of(const wf_problem *problem, const wf_candidate *candidate) {
    return &wf_operations[problem->op]->variants[candidate->variant];
}

void wf_candidate_default(const wf_problem *problem, int variant, wf_candidate *out) {
    const wf_variant *v = &wf_operations[problem->op]->variants[variant];
    *out = (wf_candidate){.variant = variant};
    for (int i = 0; i < v->nparameters; i++) out->value[i] = v->parameters[i].values[0];
}

wf_status wf_candidate_for_device(const wf_problem *problem, const wf_device *device,
                                  wf_candidate *out) {
    const wf_operation *operation = wf_operations[problem->op];
    const char *why = "";
    for (int i = -1; i < operation->nvariants; i++) {
        wf_candidate candidate;
        wf_candidate_default(problem, i < 0 ? 0 : i, &candidate);
        if (i < 0 && operation->prefer) operation->prefer(problem, device, &candidate);
        if (!operation->variants[candidate.variant].ok(problem, &candidate, device, &why)) continue;
        *out = candidate;
        return WF_OK;
    }
    char text[WF_CASE_BYTES];
    wf_problem_print(problem, text, sizeof text);
    return wf_fail(WF_ERR_UNSUPPORTED, "no variant computes %s on device %s: %s", text, device->name,
                   why);
}

void wf_candidate_of_variant(const wf_problem *problem, int32_t variant, const wf_device *device, wf_candidate *out) {
    wf_candidate preferred;
    wf_candidate_default(problem, variant, out);
    if (wf_candidate_for_device(problem, device, &preferred) == WF_OK && preferred.variant == variant) *out = preferred;
}

/* One "NAME=value" of `length` characters. */
static wf_status parse_parameter(const wf_variant *v, const char *text, int length,
                                 wf_candidate *out) {
    for (int i = 0; i < v->nparameters; i++) {
        const wf_parameter *parameter = &v->parameters[i];
        const int name = (int)strlen(parameter->name);
        if (length <= name || strncmp(text, parameter->name, (size_t)name) || text[name] != '=')
            continue;
        for (int j = 0; j < parameter->nvalues; j++) {
            char value[16];
            const int digits = snprintf(value, sizeof value, "%d", parameter->values[j]);
            if (digits != length - name - 1 || strncmp(text + name + 1, value, (size_t)digits))
                continue;
            out->value[i] = parameter->values[j];
            return WF_OK;
        }
        return wf_fail(WF_ERR_ARGUMENT, "variant %s: '%.*s' is not a legal value of %s", v->name,
                       length, text, parameter->name);
    }
    return wf_fail(WF_ERR_ARGUMENT, "variant %s has no parameter '%.*s'", v->name, length, text);
}

static int find_variant(const wf_operation *operation, const char *text, size_t length) {
    for (int i = 0; i < operation->nvariants; i++)
        if (strlen(operation->variants[i].name) == length &&
            strncmp(operation->variants[i].name, text, length) == 0)
            return i;
    return -1;
}

wf_status wf_candidate_parse(const wf_problem *problem, const char *text, wf_candidate *out) {
    const wf_operation *operation = wf_operations[problem->op];
    size_t length = strcspn(text, " ");
    const int variant = find_variant(operation, text, length);
    if (variant < 0)
        return wf_fail(WF_ERR_ARGUMENT, "%s has no variant '%.*s'", operation->name, (int)length,
                       text);
    wf_candidate candidate;
    wf_candidate_default(problem, variant, &candidate);
    for (text += length; *(text += strspn(text, " ")); text += length) {
        length = strcspn(text, " ");
        TRY(parse_parameter(&operation->variants[variant], text, (int)length, &candidate));
    }
    *out = candidate;
    return WF_OK;
}

void wf_candidate_options(const wf_problem *problem, const wf_candidate *candidate, char *out,
                          size_t out_bytes) {
    const wf_variant *v = variant_of(problem, candidate);
    out[0] = 0;
    for (int i = 0; i < v->nparameters; i++)
        wf_append(out, out_bytes, "%s-D%s=%d", i ? " " : "", v->parameters[i].name,
                  candidate->value[i]);
    if (v->options) v->options(problem, candidate, out, out_bytes);
}

void wf_candidate_print(const wf_problem *problem, const wf_candidate *candidate, char *out,
                        size_t out_bytes) {
    const wf_variant *v = variant_of(problem, candidate);
    out[0] = 0;
    wf_append(out, out_bytes, "%s", v->name);
    for (int i = 0; i < v->nparameters; i++)
        wf_append(out, out_bytes, " %s=%d", v->parameters[i].name, candidate->value[i]);
}
