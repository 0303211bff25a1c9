/* rows.c: what a plan keeps for the caller to read: logits and hidden states by token; its trace. */
#include "host/api/request.h"

/* A token's row of a slot that holds one per token, [microbatch][position][sample]. */
static wf_status get_row(weft_plan *p, wf_mode mode, const char *slot, int64_t columns, int64_t sample, int64_t position, float *out) {
    weft_share share;
    TRY(weft_plan_loaded(p));
    if (p->blocks || p->mode != mode)
        return wf_fail(WF_ERR_ARGUMENT, "only plans of mode %s keep what was asked for",
                       mode == WF_MODE_LOGITS ? "WEFT_LOGITS" : "WEFT_HIDDEN");
    TRY(weft_plan_share(&p->layout, &p->shape, p->rank, &share));
    if (position < 0 || position >= p->shape.sequence || sample < share.first ||
        sample >= share.first + share.microbatches * share.samples)
        return wf_fail(WF_ERR_ARGUMENT, "no token at sample %lld, position %lld of this rank's %lld sequences of %lld tokens",
                       (long long)sample, (long long)position, (long long)(share.microbatches * share.samples),
                       (long long)p->shape.sequence);
    const int64_t local = sample - share.first, bytes = columns * (int64_t)sizeof(float);
    const int64_t row = position * share.samples + local % share.samples;
    return wf_runner_read(p->runner, slot, (int32_t)(local / share.samples), row * bytes, out, bytes);
}

weft_status weft_plan_logits(weft_plan *p, int64_t sample, int64_t position, float *out) {
    return weft_from(get_row(p, WF_MODE_LOGITS, "logits", p->model.vocabulary, sample, position, out));
}

weft_status weft_plan_hidden(weft_plan *p, int64_t sample, int64_t position, float *out) {
    return weft_from(get_row(p, WF_MODE_HIDDEN, "hidden.all", p->model.hidden, sample, position, out));
}

weft_status weft_plan_trace(weft_plan *p, bool on) {
    wf_status status = weft_plan_loaded(p);
    if (status == WF_OK) status = wf_runner_trace(p->runner, on);
    return weft_from(status);
}

weft_status weft_plan_trace_write(weft_plan *p, const char *path) {
    wf_status status = weft_plan_loaded(p);
    if (status == WF_OK) status = weft_context_note(p->context, wf_runner_trace_write(p->runner, path));
    return weft_from(status);
}
