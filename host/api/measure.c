/* measure.c: how fast the ranks' devices are beside each other, for layouts that share work in proportion. */
#include <stdlib.h>

#include "host/api/objects.h"
#include "host/run/bench.h"

/* What most of a block's time is: a product, by the kernel that the device gets for it. */
enum { EXTENT = 1024 };
#define LONG_S  1.0
#define TURN_S  20e-3

typedef struct load {
    wf_bench_data *data;
    wf_bench_kernel *kernel;
    wf_bench_item item;
} load;

static wf_status open_load(wf_opencl *opencl, load *out) {
    const wf_problem product = {.op = WF_OP_GEMM, .flags = WF_TRANS_B, .size = {EXTENT, EXTENT, EXTENT}};
    wf_candidate candidate;
    TRY(wf_candidate_for_device(&product, wf_opencl_device(opencl), &candidate));
    TRY(wf_bench_data_create(opencl, NULL, &product, &out->data));
    TRY(wf_bench_kernel_create(opencl, out->data, &candidate, NULL, &out->kernel));
    out->item = wf_bench_kernel_item(out->kernel);
    return out->item.run(out->item.self, 1); /* builds */
}

/* Runs a second. The mean counts, not the best: a device that rests at times, or that others use, is slower. */
static wf_status run_load(const load *l, double *rate_out) {
    const double start = wf_clock_s();
    int64_t done = 0, times = 1;
    double passed_s = 0;
    while (passed_s < LONG_S) {
        TRY(l->item.run(l->item.self, times));
        done += times;
        passed_s = wf_clock_s() - start;
        if (passed_s < TURN_S) times *= 2; /* short ones in a row: the wait at the end is no part of the work */
    }
    *rate_out = (double)done / passed_s;
    return WF_OK;
}

/* All at once, as they will work. out NULL: this rank has no memory for it, which the others must hear. */
static wf_status measure(weft_context *c, weft_layout *out) {
    const int32_t ranks = wf_fabric_ranks(c->fabric);
    double rate = 0, *const rates = calloc((size_t)ranks, sizeof *rates);
    load l = {0};
    wf_status status = out && rates ? open_load(c->opencl, &l) : wf_fail(WF_ERR_MEMORY, "no host memory for the speeds of %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(c->fabric, status), done);
    status = run_load(&l, &rate);
    TRY_GOTO(wf_fabric_agree(c->fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(c->fabric, &rate, sizeof rate, rates), done);
    wf_layout_in_proportion(&out->layout, rates);
done:
    wf_bench_kernel_destroy(l.kernel);
    wf_bench_data_destroy(l.data);
    free(rates);
    return status;
}

static wf_status fill_in(weft_context *c, const wf_layout *given, weft_layout *out) {
    if (c) TRY(weft_context_usable(c));
    if (c) TRY(weft_layout_fits(c, given));
    if (out) out->layout = *given;
    if (c && wf_layout_measures(given)) return weft_context_note(c, measure(c, out));
    if (!out) return wf_fail(WF_ERR_MEMORY, "no host memory for a layout");
    if (!c) wf_layout_in_proportion(&out->layout, NULL);
    return WF_OK;
}

weft_status weft_layout_measure(weft_context *c, const weft_layout *given, weft_layout **out) {
    weft_layout *const copy = calloc(1, sizeof *copy);
    const wf_status status = fill_in(c, &given->layout, copy);
    if (status == WF_OK) *out = copy;
    else weft_layout_destroy(copy);
    return weft_from(status);
}
