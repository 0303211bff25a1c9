/* bench_block.c: one run of a block stack: every microbatch forward, and, to train, backward; then the sums over
 * ranks that end a step's gradients. The optimizer is an operation of its own. Rows stay on the device. */
#include <stdlib.h>

#include "host/api/bench_block.h"
#include "host/run/verify.h"
#include "layouts/block.h"

enum { X, Y, DY, DX, BUFFERS };

struct bench_block {
    weft_context *context;
    wf_block block;
    weft_params *params;
    weft_plan *plan;
    weft_stash *stash;          /* NULL where nothing goes backward */
    wf_memory *memory[BUFFERS];
    weft_args args;
    int64_t microbatches;
};

/* Small enough that 100 layers do not overflow. */
static wf_status fill_rows(wf_opencl *opencl, wf_memory *memory, int64_t bytes) {
    wf_stream stream = {0xb10c};
    float *const rows = malloc((size_t)bytes + 1);
    if (!rows) return wf_fail(WF_ERR_MEMORY, "no host memory for %lld bytes of hidden states", (long long)bytes);
    for (int64_t i = 0; i < bytes / (int64_t)sizeof *rows; i++) rows[i] = (float)(wf_stream_uniform(&stream) - 0.5);
    const wf_status status = wf_memory_put(opencl, memory, 0, rows, bytes);
    free(rows);
    return status;
}

static wf_status make_buffers(bench_block *b) {
    wf_opencl *const opencl = b->context->opencl;
    weft_buffer *const to[BUFFERS] = {&b->args.x, &b->args.y, &b->args.dy, &b->args.dx};
    weft_rows rows;
    weft_plan_rows(b->plan, &rows);
    const int64_t bytes = rows.samples * rows.positions * rows.hidden * (int64_t)sizeof(float);
    for (int i = 0; i < (b->block.train ? BUFFERS : DY); i++) {
        TRY(wf_memory_create(opencl, bytes, &b->memory[i]));
        if (bytes) TRY(fill_rows(opencl, b->memory[i], bytes));
        to[i]->cl_mem = wf_memory_cl(b->memory[i]);
    }
    return WF_OK;
}

static weft_status open_plan(bench_block *b, const weft_layout *layout, const char *gemm) {
    const struct weft_model model = {b->block.model};
    weft_plan_options o;
    weft_share share;
    weft_plan_options_init(&o);
    o.model = &model, o.layout = layout, o.gemm = gemm, o.mode = WEFT_BLOCKS;
    o.batch = b->block.shape.batch, o.sequence = b->block.shape.sequence;
    o.phases = b->block.train ? 0 : WEFT_FORWARD;
    o.order = gemm ? WEFT_ORDER_ROWS : WEFT_ORDER_AUTO; /* rows: every variant takes them */
    weft_status status = weft_params_create_ordered(b->context, &model, layout, o.order, &b->params);
    if (!status) status = weft_params_init(b->params, 1);
    if (!status) status = weft_plan_create(b->context, &o, &b->plan);
    if (!status) status = weft_plan_load(b->plan, b->params);
    if (!status && b->block.train) status = weft_stash_create(b->plan, &b->stash);
    if (status) return status;
    weft_plan_share(&b->plan->layout, &b->plan->shape, b->plan->rank, &share);
    b->microbatches = share.microbatches;
    return WEFT_OK;
}

weft_status bench_block_create(weft_context *context, const char *case_text, const weft_layout *layout, const char *gemm,
                               bench_block **out) {
    bench_block *const b = calloc(1, sizeof *b);
    wf_status status = b ? wf_block_parse(case_text, &b->block) : wf_fail(WF_ERR_MEMORY, "no host memory for a block");
    if (status != WF_OK) { /* on every rank: a text is what it is */
        free(b);
        return weft_from(status);
    }
    b->context = context;
    weft_args_init(&b->args);
    weft_status opened = open_plan(b, layout, gemm);
    if (!opened) opened = weft_from(weft_context_note(context, wf_fabric_agree(context->fabric, make_buffers(b))));
    if (opened) bench_block_destroy(b);
    else *out = b;
    return opened;
}

void bench_block_destroy(bench_block *b) {
    if (!b) return;
    weft_stash_destroy(b->stash);
    weft_plan_destroy(b->plan);
    weft_params_destroy(b->params);
    for (int i = 0; i < BUFFERS; i++) wf_memory_destroy(b->memory[i]);
    free(b);
}

static weft_status run_once(bench_block *b) {
    for (int64_t m = 0; m < b->microbatches; m++) {
        const bool last = m + 1 == b->microbatches;
        const uint32_t phases = !b->block.train ? WEFT_FORWARD : WEFT_FORWARD | WEFT_BACKWARD | (last ? WEFT_FINISH : 0);
        b->args.microbatch = m;
        b->args.accumulate = m > 0;
        const weft_status status = weft_plan_enqueue(b->plan, phases, NULL, b->stash, &b->args, NULL, NULL);
        if (status) return status;
    }
    return WEFT_OK;
}

static wf_status run(void *self, int64_t times) {
    for (int64_t i = 0; i < times; i++) {
        const weft_status status = run_once(self);
        if (status) return (wf_status)(int)status;
    }
    return WF_OK;
}

wf_bench_item bench_block_item(bench_block *b) {
    return (wf_bench_item){.run = run, .self = b};
}

static void add(const bench_block *b, wf_phase phase, int64_t times, double *flops, double *bytes, int64_t *kernels) {
    const wf_schedule *const s = b->plan->schedule;
    wf_work work;
    wf_schedule_count_piece(s, s->phases[phase], &work);
    for (int i = 0; i < WF_OPS; i++) *flops += (double)times * work.flops[i];
    *bytes += (double)times * work.moved_bytes;
    *kernels += times * work.kernels;
}

void bench_block_work(const bench_block *b, double *flops_out, double *bytes_out, int64_t *kernels_out) {
    double flops = 0, bytes = 0;
    int64_t kernels = 0;
    add(b, WF_PHASE_FORWARD, b->microbatches, &flops, &bytes, &kernels);
    if (b->block.train) {
        add(b, WF_PHASE_BACKWARD_FIRST, 1, &flops, &bytes, &kernels);
        add(b, WF_PHASE_BACKWARD, b->microbatches - 1, &flops, &bytes, &kernels);
        add(b, WF_PHASE_FINISH, 1, &flops, &bytes, &kernels);
    }
    *flops_out = flops, *bytes_out = bytes, *kernels_out = kernels;
}
