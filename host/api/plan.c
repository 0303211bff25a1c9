/* plan.c: what one rank does for a model, shape and layout: made, measured and explained. Running
 * it is run.c's. A plan without a context is pure: any rank of any layout, on any machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"

void weft_plan_options_init(weft_plan_options *options) {
    memset(options, 0, sizeof *options);
}

/* ---- is the request sound? -------------------------------------------------------------------------------- */

wf_status weft_plan_share(const wf_layout *layout, const wf_shape *shape, int32_t rank, weft_share *out) {
    int32_t at[WF_AXES];
    wf_mesh_coordinates(layout, rank, at);
    const int64_t parts = (int64_t)layout->size[WF_AXIS_DP] * layout->size[WF_AXIS_EP];
    const int64_t pieces = parts * layout->microbatches;
    if (shape->batch % pieces != 0)
        return wf_fail(WF_ERR_ARGUMENT, "a batch of %lld sequences cannot be cut into %lld equal microbatches",
                       (long long)shape->batch, (long long)pieces);
    out->microbatches = layout->microbatches;
    out->samples = shape->batch / pieces;
    out->first = (at[WF_AXIS_DP] * (int64_t)layout->size[WF_AXIS_EP] + at[WF_AXIS_EP]) * out->samples * out->microbatches;
    return WF_OK;
}

static wf_status check_shape(const weft_plan *p) {
    if (p->shape.batch < 1 || p->shape.sequence < 1)
        return wf_fail(WF_ERR_ARGUMENT, "a batch of %lld sequences of %lld tokens is empty", (long long)p->shape.batch,
                       (long long)p->shape.sequence);
    if (p->shape.sequence > p->model.positions)
        return wf_fail(WF_ERR_ARGUMENT, "a sequence of %lld tokens is longer than the model's %lld positions",
                       (long long)p->shape.sequence, (long long)p->model.positions);
    weft_share share;
    return weft_plan_share(&p->layout, &p->shape, p->rank, &share);
}

static wf_status check_ranks(const weft_plan *p) {
    char text[WF_LAYOUT_BYTES];
    const int32_t ranks = wf_layout_ranks(&p->layout);
    wf_layout_print(&p->layout, text, sizeof text);
    if (p->context) TRY(weft_layout_settled(p->context, &p->layout));
    if (p->context && wf_fabric_is_cut(p->context->fabric) && !p->blocks)
        return wf_fail(WF_ERR_ARGUMENT, "with the link \"cut\" results are wrong: only block stacks run, to be timed");
    if (p->rank < 0 || p->rank >= ranks)
        return wf_fail(WF_ERR_ARGUMENT, "layout %s has ranks 0 to %d, not %d", text, ranks - 1, p->rank);
    return WF_OK;
}

/* ---- from the request to a schedule --------------------------------------------------------------------------- */

typedef struct chooser {
    wf_defaults defaults;
    const wf_fabric *fabric;
    int32_t rank; /* whose plan it is */
} chooser;

static wf_status choose_candidate(void *context, const wf_problem *problem, wf_candidate *out, int64_t *workspace_bytes_out) {
    return wf_defaults_candidate(&((chooser *)context)->defaults, problem, out, workspace_bytes_out);
}

static wf_transport_kind choose_transport(void *context, int32_t peer, bool slots) {
    const chooser *const c = context;
    return wf_fabric_between(c->fabric, c->rank, peer, slots);
}

static bool read_in_place(void *context, int32_t peer) {
    const chooser *const c = context;
    return wf_fabric_in_place(c->fabric, c->rank, peer);
}

wf_status weft_plan_schedule(const weft_plan *p, int32_t rank, wf_schedule **out) {
    chooser chooser = {.defaults.gemm = *p->gemm ? p->gemm : NULL, .rank = rank};
    wf_choices choices = {.candidate = choose_candidate, .context = &chooser};
    if (p->context) {
        chooser.defaults.opencl = p->context->opencl;
        chooser.fabric = p->context->fabric;
        choices.transport = choose_transport;
        choices.in_place = read_in_place;
    }
    wf_schedule *schedule = NULL;
    wf_limits limits;
    wf_status status;
    weft_context_limits(p->context, &limits);
    TRY(wf_defaults_check(&chooser.defaults));
    TRY_GOTO((p->blocks ? wf_lower_blocks : wf_lower)(&p->model, &p->shape, &p->layout, rank, p->mode, &schedule), fail);
    TRY_GOTO(wf_choose(schedule, &choices), fail);
    TRY_GOTO(wf_place(schedule, &limits), fail);
    *out = schedule;
    return WF_OK;
fail:
    wf_schedule_destroy(schedule);
    return status;
}

/* ---- life ------------------------------------------------------------------------------------------------------------ */

/* A block stack is lowered as the whole model of the mode that its phases need. */
static wf_status set_mode(weft_plan *p, const weft_plan_options *o) {
    const uint32_t all = WEFT_FORWARD | WEFT_BACKWARD | WEFT_FINISH | WEFT_OPTIMIZE;
    p->blocks = o->mode == WEFT_BLOCKS;
    p->mode = (wf_mode)(int)o->mode;
    if (!p->blocks && (unsigned)o->mode >= (unsigned)WF_MODES) return wf_fail(WF_ERR_ARGUMENT, "no mode %d", (int)o->mode);
    if (!p->blocks && o->phases) return wf_fail(WF_ERR_ARGUMENT, "only plans of mode WEFT_BLOCKS have phases");
    if (!p->blocks) return WF_OK;
    if (o->layout->layout.loss_chunks)
        return wf_fail(WF_ERR_ARGUMENT, "loss-chunks%d is of a model's loss; blocks have none", o->layout->layout.loss_chunks);
    p->phases = o->phases ? o->phases : all & ~(uint32_t)WEFT_OPTIMIZE;
    if (p->phases & ~all) return wf_fail(WF_ERR_ARGUMENT, "phases 0x%x are not all known", (unsigned)p->phases);
    if (!(p->phases & WEFT_FORWARD)) return wf_fail(WF_ERR_ARGUMENT, "a plan of blocks needs the phase WEFT_FORWARD");
    if (p->phases & ~(uint32_t)WEFT_FORWARD) p->phases |= WEFT_BACKWARD | WEFT_FINISH;
    p->mode = p->phases & WEFT_OPTIMIZE ? WF_MODE_TRAIN : p->phases & WEFT_BACKWARD ? WF_MODE_GRADIENTS : WF_MODE_EVALUATE;
    return WF_OK;
}

static wf_status fill_in(weft_plan *p, const weft_plan_options *o) {
    if (!o->model || !o->layout) return wf_fail(WF_ERR_ARGUMENT, "a plan needs a model and a layout");
    TRY(set_mode(p, o));
    p->model = o->model->model;
    p->layout = o->layout->layout;
    TRY(weft_order_for(p->context, o->order, &p->layout.order));
    p->shape = (wf_shape){.batch = o->batch, .sequence = o->sequence, .documents = o->documents};
    p->rank = p->context ? wf_fabric_rank(p->context->fabric) : o->rank;
    if (o->gemm && (size_t)snprintf(p->gemm, sizeof p->gemm, "%s", o->gemm) >= sizeof p->gemm)
        return wf_fail(WF_ERR_ARGUMENT, "no GEMM variant has a name as long as \"%.32s...\"", o->gemm);
    TRY(wf_model_check(&p->model));
    TRY(check_ranks(p));
    TRY(check_shape(p));
    TRY(weft_plan_schedule(p, p->rank, &p->schedule));
    p->memory_bytes = o->memory_bytes;
    return weft_plan_check_memory(p);
}

/* On one line; a plan without a context has the variable's log. */
static wf_status tell(const weft_plan *p) {
    static const char *const modes[WF_MODES] = {[WF_MODE_TRAIN] = "train", [WF_MODE_GRADIENTS] = "gradients", [WF_MODE_EVALUATE] = "evaluate",
                                                [WF_MODE_LOGITS] = "logits", [WF_MODE_HIDDEN] = "hidden"};
    wf_log of_variable;
    const wf_log *const log = p->context ? &p->context->log : &of_variable;
    char layout[WF_LAYOUT_BYTES];
    weft_plan_info i;
    if (!p->context) TRY(wf_log_open(NULL, NULL, NULL, &of_variable));
    if (!wf_log_on(log, WF_LOG_PLAN)) return WF_OK;
    wf_layout_print(&p->layout, layout, sizeof layout);
    weft_plan_describe(p, &i);
    wf_say(log, WF_LOG_PLAN,
            "rank %d of %s, %s%s, b%llds%lld: %lld segments, %lld steps, %lld calls; %.1f MiB device, %.1f window, %.1f host; "
            "%.3g GFLOP; sends %.2f MiB, %lld messages; hash %016llx",
            p->rank, layout, p->blocks ? "blocks to " : "", modes[p->mode], (long long)p->shape.batch, (long long)p->shape.sequence,
            (long long)i.segments, (long long)i.steps, (long long)i.calls, (double)i.device_bytes / 0x1p20,
            (double)i.window_bytes / 0x1p20, (double)i.host_bytes / 0x1p20, i.flops / 1e9, (double)i.sent_bytes / 0x1p20,
            (long long)i.messages, (unsigned long long)i.hash);
    return WF_OK;
}

weft_status weft_plan_create(weft_context *context, const weft_plan_options *options, weft_plan **out) {
    wf_status status = context ? weft_context_usable(context) : WF_OK;
    if (status != WF_OK) return weft_from(status);
    weft_plan *const p = calloc(1, sizeof *p);
    status = p ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a plan");
    if (p) {
        p->context = context;
        status = fill_in(p, options);
        if (status == WF_OK) status = tell(p);
    }
    if (context) status = weft_context_note(context, wf_fabric_agree(context->fabric, status));
    if (status != WF_OK) {
        weft_plan_destroy(p);
        return weft_from(status);
    }
    *out = p;
    return WEFT_OK;
}

void weft_plan_destroy(weft_plan *p) {
    if (!p) return;
    weft_run_destroy(p);
    wf_runner_destroy(p->runner);
    wf_schedule_destroy(p->schedule);
    free(p);
}

/* Microbatches, chunks and recomputation move no weights: a plan may have others than the one that trains. */
static bool same_model(const weft_plan *p, const weft_params *params) {
    char a[WF_LAYOUT_BYTES], b[WF_LAYOUT_BYTES];
    wf_layout of_plan = p->layout, of_params = params->layout;
    of_plan.microbatches = of_params.microbatches = 1;
    of_plan.loss_chunks = of_params.loss_chunks = 0;
    of_plan.chunks = of_params.chunks = 1;
    of_plan.recompute_pointwise = of_plan.recompute_attention = of_plan.recompute_full = false;
    of_params.recompute_pointwise = of_params.recompute_attention = of_params.recompute_full = false;
    wf_layout_print(&of_plan, a, sizeof a);
    wf_layout_print(&of_params, b, sizeof b);
    const wf_model *const m = &p->model, *const n = &params->model;
    wf_parameter_info of_m[WF_TENSORS], of_n[WF_TENSORS];
    wf_model_parameters(m, of_m);
    wf_model_parameters(n, of_n);
    for (int t = 0; t < WF_TENSORS; t++)
        if (of_m[t].rows != of_n[t].rows || of_m[t].columns != of_n[t].columns) return false;
    return m->layers == n->layers && m->heads == n->heads && m->kv_heads == n->kv_heads && strcmp(a, b) == 0;
}

wf_status weft_plan_takes(const weft_plan *p, const weft_params *params) {
    if (params->context != p->context) return wf_fail(WF_ERR_ARGUMENT, "plan and params are of different contexts");
    if (!same_model(p, params))
        return wf_fail(WF_ERR_ARGUMENT, "plan and params are of different models or layouts");
    if (p->layout.order != params->layout.order)
        return wf_fail(WF_ERR_ARGUMENT, "the plan takes weights in %s, and these params hold them in %s",
                       wf_order_name((wf_order)p->layout.order), wf_order_name((wf_order)params->layout.order));
    return WF_OK;
}

static wf_status check_load(const weft_plan *p, const weft_params *params) {
    if (p->runner) return wf_fail(WF_ERR_ARGUMENT, "this plan is loaded already");
    TRY(weft_plan_takes(p, params));
    return weft_plan_check_room(p, params);
}

/* The table of rotary positions, once: it depends on nothing that a run changes. */
static wf_status fill_rope(weft_plan *p) {
    const wf_positions positions = wf_model_positions(&p->model, &p->layout, p->shape.sequence, p->rank);
    const int64_t d = p->model.head_size, n = positions.count * d;
    if (p->model.position_form != WF_POSITIONS_ROPE || !n) return WF_OK;
    float *const table = malloc((size_t)n * sizeof *table);
    double *const row = malloc((size_t)d * sizeof *row);
    wf_status status = table && row ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a table of rotary positions");
    for (int64_t at = 0; status == WF_OK && at < positions.count; at++) {
        wf_model_rope(&p->model, wf_positions_at(&positions, at), row);
        for (int64_t i = 0; i < d; i++) table[at * d + i] = (float)row[i];
    }
    if (status == WF_OK) status = wf_runner_write(p->runner, "rope", 0, table, n * (int64_t)sizeof *table);
    free(table);
    free(row);
    return status;
}

/* Documents change no message, by which ranks' plans are compared otherwise (host/run/match.c). */
static wf_status same_documents(const weft_plan *p, wf_fabric *fabric) {
    const int32_t ranks = wf_fabric_ranks(fabric), mine = p->shape.documents;
    int32_t *const all = calloc((size_t)ranks, sizeof *all);
    wf_status status = all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to compare the plans of %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(fabric, status), free_all);
    TRY_GOTO(wf_fabric_all_gather(fabric, &mine, sizeof mine, all), free_all);
    for (int32_t r = 1; r < ranks && status == WF_OK; r++)
        if (all[r] != all[0])
            status = wf_fail(WF_ERR_MISMATCH, "rank %d's plan is of packed documents, and rank %d's is not", all[r] ? r : 0, all[r] ? 0 : r);
free_all:
    free(all);
    return status;
}

static wf_status load(weft_plan *p, weft_params *params) {
    wf_fabric *const fabric = p->context->fabric;
    wf_status status = check_load(p, params);
    if (status == WF_OK) status = weft_run_prepare(p);
    TRY(wf_fabric_agree(fabric, status));
    TRY(same_documents(p, fabric));
    TRY(wf_runner_create(p->schedule, p->context->opencl, fabric, params->store, &p->runner));
    if (p->mode == WF_MODE_TRAIN) params->choices_hash = wf_schedule_hash(p->schedule);
    p->params = p->checked = params;
    return wf_fabric_agree(fabric, fill_rope(p));
}

weft_status weft_plan_load(weft_plan *p, weft_params *params) {
    if (!p->context) return weft_from(wf_fail(WF_ERR_ARGUMENT, "a plan made without a context cannot be loaded"));
    wf_status status = weft_context_usable(p->context);
    if (status == WF_OK) status = weft_context_note(p->context, load(p, params));
    return weft_from(status);
}

void weft_plan_rows(const weft_plan *p, weft_rows *out) {
    const wf_positions own = wf_model_own_positions(&p->model, &p->layout, p->shape.sequence, p->rank);
    const int64_t gap = wf_positions_gap(&own);
    weft_share share = {0};
    weft_plan_share(&p->layout, &p->shape, p->rank, &share);
    *out = (weft_rows){.samples = share.samples, .positions = own.count, .first_position = own.run[0].first,
                       .hidden = p->model.hidden, .gap_at = gap ? own.run[0].count : 0, .gap = gap};
}

/* ---- reading --------------------------------------------------------------------------------------------------------- */

static void add(const wf_schedule *s, wf_piece piece, wf_work *sum) {
    wf_work work;
    wf_schedule_count_piece(s, piece, &work);
    for (int i = 0; i < WF_OPS; i++) sum->flops[i] += work.flops[i];
    for (int i = 0; i < WF_COLLECTIVES; i++) {
        sum->sent_bytes[i] += work.sent_bytes[i];
        sum->received_bytes[i] += work.received_bytes[i];
    }
    sum->messages += work.messages;
}

/* A block stack's "run" is a step of one microbatch: every phase once. */
static void count_run(const weft_plan *p, wf_work *out) {
    wf_schedule_count(p->schedule, out);
    if (!p->blocks) return;
    *out = (wf_work){0};
    for (int phase = 0; phase < WF_PHASES; phase++)
        if (phase != WF_PHASE_BACKWARD) add(p->schedule, p->schedule->phases[phase], out);
}

void weft_plan_describe(const weft_plan *p, weft_plan_info *out) {
    const wf_schedule *const s = p->schedule;
    wf_bytes bytes;
    wf_work work;
    wf_schedule_measure(s, &bytes);
    count_run(p, &work);
    *out = (weft_plan_info){
        .device_bytes = bytes.by_space[WF_SPACE_DEVICE],
        .window_bytes = bytes.by_space[WF_SPACE_WINDOW],
        .host_bytes = bytes.by_space[WF_SPACE_HOST] + bytes.by_space[WF_SPACE_PINNED],
        .parameter_bytes = bytes.by_class[WF_CLASS_PARAMETER],
        .gradient_bytes = bytes.by_class[WF_CLASS_GRADIENT],
        .optimizer_bytes = bytes.by_class[WF_CLASS_OPTIMIZER],
        .activation_bytes = bytes.by_class[WF_CLASS_ACTIVATION],
        .workspace_bytes = bytes.by_class[WF_CLASS_WORKSPACE],
        .io_bytes = bytes.by_class[WF_CLASS_IO],
        .messages = work.messages,
        .all_gather_bytes = work.sent_bytes[WF_ALL_GATHER],
        .reduce_scatter_bytes = work.sent_bytes[WF_REDUCE_SCATTER],
        .segments = s->nsegments,
        .steps = s->nsteps,
        .calls = s->ncalls,
        .hash = wf_schedule_hash(s),
    };
    for (int i = 0; i < WF_OPS; i++) out->flops += work.flops[i];
    for (int i = 0; i < WF_COLLECTIVES; i++) {
        out->sent_bytes += work.sent_bytes[i];
        out->received_bytes += work.received_bytes[i];
    }
}

weft_status weft_plan_explain(const weft_plan *p, char **text_out) {
    return weft_from(wf_explain(p->schedule, text_out));
}

weft_status weft_plan_check(const weft_plan *p) {
    const int32_t ranks = wf_layout_ranks(&p->layout);
    wf_schedule **const all = calloc((size_t)ranks, sizeof *all);
    wf_status status = all ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for the schedules of %d ranks", ranks);
    for (int32_t rank = 0; rank < ranks && status == WF_OK; rank++) status = weft_plan_schedule(p, rank, &all[rank]);
    if (status == WF_OK) status = wf_check((const wf_schedule *const *)all, ranks);
    for (int32_t rank = 0; all && rank < ranks; rank++) wf_schedule_destroy(all[rank]);
    free(all);
    return weft_from(status);
}

void weft_plan_allocated(const weft_plan *p, int64_t *device_bytes, int64_t *window_bytes, int64_t *host_bytes) {
    int64_t bytes[WF_SPACES] = {0};
    if (p->runner) wf_runner_allocated(p->runner, bytes);
    *device_bytes = bytes[WF_SPACE_DEVICE];
    if (p->staging) *device_bytes += wf_memory_bytes(p->staging);
    *window_bytes = bytes[WF_SPACE_WINDOW];
    *host_bytes = bytes[WF_SPACE_HOST] + bytes[WF_SPACE_PINNED];
}
