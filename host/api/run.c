/* run.c: one run of a plan: tokens in, the schedule played, loss and gradient norm out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "kernels/philox.h"

void weft_args_init(weft_args *args) {
    *args = (weft_args){
        .learning_rate = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f, .weight_decay = 0.01f, .max_norm = 1.0f};
}

/* ---- checks --------------------------------------------------------------------------------------------------- */

static wf_status check_ids(const weft_plan *p, const char *what, const int32_t *ids, bool may_be_negative, int64_t *counted_out) {
    const int64_t n = p->shape.batch * p->shape.sequence;
    *counted_out = 0;
    for (int64_t i = 0; i < n; i++) {
        *counted_out += ids[i] >= 0;
        if (ids[i] < p->model.vocabulary && (ids[i] >= 0 || may_be_negative)) continue;
        return wf_fail(WF_ERR_ARGUMENT, "%s %d of sequence %lld, position %lld, is outside the vocabulary of %lld", what, ids[i],
                       (long long)(i / p->shape.sequence), (long long)(i % p->shape.sequence), (long long)p->model.vocabulary);
    }
    return WF_OK;
}

static wf_status check_reals(const weft_args *a) {
    const struct {
        const char *name;
        double value, low, high;
    } reals[] = {{"learning rate", a->learning_rate, 0, 1e30}, {"beta1", a->beta1, 0, 0.99999997},
                 {"beta2", a->beta2, 0, 0.99999997},           {"epsilon", a->epsilon, 0, 1e30},
                 {"weight decay", a->weight_decay, 0, 1e30},   {"max_norm", a->max_norm, 0, 1e30}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (!(reals[i].value >= reals[i].low && reals[i].value <= reals[i].high))
            return wf_fail(WF_ERR_ARGUMENT, "a %s of %g is out of range", reals[i].name, reals[i].value);
    return a->step >= 0 ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "step %lld is negative", (long long)a->step);
}

static wf_status check_args(const weft_plan *p, const weft_args *a, int64_t *valid_out) {
    int64_t tokens;
    if (!a->tokens) return wf_fail(WF_ERR_ARGUMENT, "a run needs tokens");
    TRY(check_ids(p, "token", a->tokens, false, &tokens));
    TRY(check_reals(a));
    *valid_out = 0;
    if (p->mode == WF_MODE_LOGITS) return WF_OK;
    if (!a->targets) return wf_fail(WF_ERR_ARGUMENT, "a run with a loss needs targets");
    TRY(check_ids(p, "target", a->targets, true, valid_out));
    return *valid_out ? WF_OK : wf_fail(WF_ERR_ARGUMENT, "no target is counted: all are negative");
}

/* ---- in and out -------------------------------------------------------------------------------------------------- */

/* [batch][sequence] of the caller -> each microbatch's [position][sample]. */
static wf_status put_ids(weft_plan *p, const char *slot, const weft_share *share, const int32_t *ids) {
    const int64_t s = p->shape.sequence, b = share->samples;
    for (int64_t m = 0; m < share->microbatches; m++) {
        const int32_t *const from = ids + (share->first + m * b) * s;
        for (int64_t sample = 0; sample < b; sample++)
            for (int64_t position = 0; position < s; position++)
                p->packed[position * b + sample] = from[sample * s + position];
        TRY(wf_runner_write(p->runner, slot, (int32_t)m, p->packed, s * b * (int64_t)sizeof *p->packed));
    }
    return WF_OK;
}

static void fill_values(const weft_args *a, int64_t valid, wf_run_number value[WF_RUN_VALUES]) {
    uint32_t key[2];
    const double t = (double)a->step + 1;
    memset(value, 0, WF_RUN_VALUES * sizeof *value);
    wf_philox_key(a->seed, a->step, key);
    value[WF_RUN_KEY0].u = key[0];
    value[WF_RUN_KEY1].u = key[1];
    value[WF_RUN_LR].f = a->learning_rate;
    value[WF_RUN_BETA1].f = a->beta1;
    value[WF_RUN_BETA2].f = a->beta2;
    value[WF_RUN_EPS].f = a->epsilon;
    value[WF_RUN_DECAY].f = a->weight_decay;
    value[WF_RUN_CORRECTION1].f = (float)(1 / (1 - pow((double)a->beta1, t)));
    value[WF_RUN_CORRECTION2].f = (float)(1 / (1 - pow((double)a->beta2, t)));
    value[WF_RUN_LOSS_SCALE].f = valid ? (float)(1 / (double)valid) : 0;
    value[WF_RUN_MAX_NORM].f = a->max_norm;
}

static wf_status get_result(weft_plan *p, int64_t valid, weft_result *out) {
    float loss[2] = {0, 0}, clip[2] = {0, 0};
    if (p->mode != WF_MODE_LOGITS) TRY(wf_runner_read(p->runner, "loss", 0, 0, loss, sizeof loss));
    if (p->mode == WF_MODE_TRAIN) TRY(wf_runner_read(p->runner, "clip", 0, 0, clip, sizeof clip));
    out->loss = valid ? (double)loss[0] / (double)valid : 0;
    out->tokens = valid;
    out->grad_norm = (double)clip[0];
    return WF_OK;
}

/* ---- a run ---------------------------------------------------------------------------------------------------------- */

static wf_status run(weft_plan *p, const weft_args *a, weft_result *out) {
    const double begin = wf_clock_s();
    weft_result result = {0};
    weft_share share;
    int64_t valid;
    TRY(check_args(p, a, &valid));
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    wf_run_args args = {.sample0 = share.first, .samples = share.samples, .timeout_s = p->context->timeout_s};
    fill_values(a, valid, args.value);
    TRY(put_ids(p, "tokens", &share, a->tokens));
    if (p->mode != WF_MODE_LOGITS) TRY(put_ids(p, "targets", &share, a->targets));
    TRY(wf_runner_run(p->runner, &args));
    TRY(get_result(p, valid, &result));
    result.seconds = wf_clock_s() - begin;
    *out = result;
    return WF_OK;
}

static wf_status loaded(const weft_plan *p) {
    if (!p->runner) return wf_fail(WF_ERR_ARGUMENT, "this plan is not loaded: weft_plan_load comes first");
    return weft_context_usable(p->context);
}

weft_status weft_plan_run(weft_plan *p, const weft_args *args, weft_result *out) {
    wf_status status = loaded(p);
    if (status == WF_OK) status = weft_context_note(p->context, run(p, args, out));
    return weft_from(status);
}

static wf_status get_logits(weft_plan *p, int64_t sample, int64_t position, float *out) {
    weft_share share;
    TRY(loaded(p));
    if (p->mode != WF_MODE_LOGITS) return wf_fail(WF_ERR_ARGUMENT, "only plans of mode WEFT_LOGITS keep logits");
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    if (position < 0 || position >= p->shape.sequence || sample < share.first ||
        sample >= share.first + share.microbatches * share.samples)
        return wf_fail(WF_ERR_ARGUMENT, "no token at sample %lld, position %lld of this rank's %lld sequences of %lld tokens",
                       (long long)sample, (long long)position, (long long)(share.microbatches * share.samples),
                       (long long)p->shape.sequence);
    const int64_t local = sample - share.first, bytes = p->model.vocabulary * (int64_t)sizeof(float);
    const int64_t row = position * share.samples + local % share.samples;
    return wf_runner_read(p->runner, "logits", (int32_t)(local / share.samples), row * bytes, out, bytes);
}

weft_status weft_plan_logits(weft_plan *p, int64_t sample, int64_t position, float *out) {
    return weft_from(get_logits(p, sample, position, out));
}

weft_status weft_plan_trace(weft_plan *p, bool on) {
    wf_status status = loaded(p);
    if (status == WF_OK) status = wf_runner_trace(p->runner, on);
    return weft_from(status);
}

weft_status weft_plan_trace_write(weft_plan *p, const char *path) {
    wf_status status = loaded(p);
    if (status == WF_OK) status = weft_context_note(p->context, wf_runner_trace_write(p->runner, path));
    return weft_from(status);
}
