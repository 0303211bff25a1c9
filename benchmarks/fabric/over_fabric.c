/* over_fabric.c: the collectives as schedules have them: direct hops over one transport, on device memory, and a REDUCE that
 * adds what has landed (layouts/collectives.c), or over a window what lies with the others (layouts/in_place.c). */
#include <stdlib.h>
#include <string.h>

#include "benchmarks/fabric/collectives.h"

enum { FLOAT = sizeof(float) };

struct over_fabric {
    wf_fabric *fabric;
    wf_opencl *device;
    wf_transport_kind kind;
    task task;
    wf_memory *array[ARRAYS];
    bool window[ARRAYS];
    wf_kernel *sum; /* of the task; NULL: it has none */
    bool in_place;  /* all ranks: what is summed is not copied */
    wf_found found[MOST_SUMMED];
};

/* ---- hops ---- */

static wf_status hop(over_fabric *f, const wf_message *send, const wf_message *receive) {
    wf_transfer *transfer = NULL;
    bool done = false;
    TRY(wf_fabric_start(f->fabric, WF_LANE_CP, f->kind, send, f->kind, receive, &transfer));
    for (int64_t idle = 0; !done; idle++) {
        TRY(wf_fabric_test(f->fabric, &transfer, &done));
        if (!done) wf_fabric_pause(f->fabric, idle);
    }
    return WF_OK;
}

/* A block of an array to or from `peer`. */
static wf_message block(const over_fabric *f, array which, int64_t number, int32_t peer) {
    const int64_t bytes = f->task.block * FLOAT;
    return (wf_message){.memory = f->array[which], .offset_bytes = number * bytes, .bytes = bytes, .peer = peer};
}

static int32_t member(const task *t, int32_t n) {
    return (t->rank + n + t->ranks) % t->ranks;
}

static wf_status gather_blocks(over_fabric *f) {
    const task *const t = &f->task;
    for (int32_t k = 1; k < t->ranks; k++) {
        const wf_message send = block(f, WHOLE, t->rank, member(t, k)), receive = block(f, WHOLE, member(t, -k), member(t, -k));
        TRY(hop(f, &send, &receive));
    }
    return WF_OK;
}

/* Where the part of rank r lands. */
static int64_t landing(const task *t, int32_t r) {
    return r < t->rank ? r : r - 1;
}

static wf_status scatter_blocks(over_fabric *f, bool own_place) {
    const task *const t = &f->task;
    for (int32_t k = 1; k < t->ranks; k++) {
        const int32_t to = member(t, k), from = member(t, -k);
        const wf_message send = block(f, OUT, to, to), receive = block(f, IN, own_place ? from : landing(t, from), from);
        TRY(hop(f, &send, &receive));
    }
    return WF_OK;
}

/* Where the parts lie, from all; and back: they are read. */
static wf_status tell_parts(over_fabric *f, bool read) {
    const task *const t = &f->task;
    const int64_t bytes = t->block * FLOAT;
    for (int32_t k = 1; k < t->ranks; k++) {
        const int32_t to = member(t, k), from = member(t, -k);
        const wf_message part = block(f, OUT, to, to), found = {.bytes = bytes, .peer = from, .found = &f->found[from]};
        const wf_message send_word = {.bytes = bytes, .peer = from, .word = true}, word = {.bytes = bytes, .peer = to, .word = true};
        TRY(hop(f, read ? &send_word : &part, read ? &word : &found));
    }
    return WF_OK;
}

static wf_status add_parts(over_fabric *f) {
    const task *const t = &f->task;
    wf_bound_view view[MOST_SUMMED + 1];
    const wf_run_number none[WF_RUN_VALUES] = {0};
    wf_event *event = NULL;
    for (int32_t r = 0; r <= t->ranks; r++) {
        const bool own = r == t->rank, result = r == t->ranks;
        view[r] = (wf_bound_view){.memory = f->array[result ? WHOLE : own ? OUT : IN],
                                  .offset = (result || own ? t->rank : landing(t, r)) * t->block,
                                  .stride = {COLUMNS, 1}};
        if (f->in_place && !own && !result) view[r].memory = f->found[r].memory, view[r].offset = f->found[r].offset_bytes / FLOAT;
    }
    TRY(wf_kernel_enqueue(f->sum, WF_QUEUE_COMPUTE, view, t->ranks + 1, NULL, none, &event));
    const wf_status status = wf_event_wait(event);
    wf_event_release(event);
    return status;
}

static wf_status all_gather(over_fabric *f) {
    return gather_blocks(f);
}

static wf_status reduce_scatter(over_fabric *f) {
    TRY(f->in_place ? tell_parts(f, false) : scatter_blocks(f, false));
    TRY(add_parts(f));
    return f->in_place ? tell_parts(f, true) : WF_OK;
}

static wf_status all_reduce(over_fabric *f) {
    TRY(reduce_scatter(f));
    return gather_blocks(f);
}

static wf_status all_to_all(over_fabric *f) {
    return scatter_blocks(f, true);
}

static wf_status ring_shift(over_fabric *f) {
    const wf_message send = block(f, OUT, 0, member(&f->task, 1)), receive = block(f, IN, 0, member(&f->task, -1));
    return hop(f, &send, &receive);
}

static wf_status send_receive(over_fabric *f) {
    const int32_t peer = f->task.rank ^ 1;
    const wf_message send = block(f, OUT, 0, peer), receive = block(f, IN, 0, peer);
    if (peer >= f->task.ranks) return WF_OK;
    for (int way = 0; way < 2; way++) {
        const bool sends = f->task.rank % 2 == way;
        TRY(hop(f, sends ? &send : NULL, sends ? NULL : &receive));
    }
    return WF_OK;
}

static wf_status (*const ways[COLLECTIVES])(over_fabric *) = {all_gather, reduce_scatter, all_reduce,
                                                              all_to_all, ring_shift,     send_receive};

static wf_status run(void *self, int64_t times) {
    over_fabric *const f = self;
    for (int64_t i = 0; i < times; i++) TRY(ways[f->task.what](f));
    return WF_OK;
}

/* ---- life ---- */

static wf_status prepare_sum(over_fabric *f) {
    wf_candidate candidate;
    const int64_t rows = f->task.block / COLUMNS;
    const wf_problem sum = {.op = WF_OP_REDUCE, .dtype = WF_F32, .size = {rows, COLUMNS, f->task.ranks, 0, 1}};
    wf_kernel_destroy(f->sum);
    f->sum = NULL;
    if (f->task.what != REDUCE_SCATTER && f->task.what != ALL_REDUCE) return WF_OK;
    TRY(wf_candidate_for_device(&sum, wf_opencl_device(f->device), &candidate));
    return wf_kernel_prepare(f->device, &sum, &candidate, &f->sum);
}

/* Fills the arrays in, with numbers that no result has where none belongs. */
static wf_status fill(over_fabric *f, float *host) {
    const task *const t = &f->task;
    array source;
    int64_t first, count;
    task_source(t, &source, &first, &count);
    for (int a = 0; a < ARRAYS; a++) {
        const int64_t bytes = task_array_bytes(t, (array)a);
        if (bytes == 0) continue;
        memset(host, 0xff, (size_t)bytes);
        for (int64_t i = 0; a == (int)source && i < count; i++) host[first + i] = task_value(t->rank, i);
        TRY(wf_memory_put(f->device, f->array[a], 0, host, bytes));
    }
    return WF_OK;
}

static wf_status check(over_fabric *f, float *host) {
    array which;
    int64_t first, count;
    task_result(&f->task, &which, &first, &count);
    TRY(wf_memory_get(f->device, f->array[which], 0, host, task_array_bytes(&f->task, which)));
    return task_check(&f->task, host, wf_transport_name(f->kind));
}

wf_status over_fabric_prepare(over_fabric *f, const task *t, wf_bench_item *out) {
    f->task = *t;
    float *const host = malloc((size_t)task_array_bytes(t, WHOLE) + (size_t)task_array_bytes(t, OUT));
    wf_status status = host ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to check a collective");
    if (status == WF_OK) status = prepare_sum(f);
    if (status == WF_OK) status = fill(f, host);
    TRY_GOTO(wf_fabric_agree(f->fabric, status), free_host);
    status = run(f, 1);
    if (status == WF_OK) status = check(f, host);
    TRY_GOTO(wf_fabric_agree(f->fabric, status), free_host);
    *out = (wf_bench_item){.run = run, .self = f};

free_host:
    free(host);
    return status;
}

static wf_status create_array(over_fabric *f, array which, int64_t bytes) {
    f->window[which] = f->kind == WF_TRANSPORT_WINDOW && which != IN; /* windows are what is sent from */
    if (f->window[which]) return wf_fabric_window_create(f->fabric, bytes, &f->array[which]);
    return wf_memory_create(f->device, bytes, &f->array[which]);
}

wf_status over_fabric_create(wf_fabric *fabric, wf_opencl *device, wf_transport_kind kind, int64_t most, over_fabric **out) {
    over_fabric *const f = calloc(1, sizeof *f);
    TRY(wf_fabric_agree(fabric, f ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a transport")));
    *f = (over_fabric){.fabric = fabric, .device = device, .kind = kind, .in_place = kind == WF_TRANSPORT_WINDOW};
    for (int32_t a = 0; a < wf_fabric_ranks(fabric); a++)
        for (int32_t b = 0; b < a; b++) f->in_place = f->in_place && wf_fabric_in_place(fabric, a, b);
    *out = f;
    for (int a = 0; a < ARRAYS; a++)
        TRY(wf_fabric_agree(fabric, create_array(f, (array)a, a == WHOLE ? wf_fabric_ranks(fabric) * most : most)));
    return WF_OK;
}

void over_fabric_destroy(over_fabric *f) {
    if (!f) return;
    wf_kernel_destroy(f->sum);
    for (int a = 0; a < ARRAYS; a++) {
        if (f->window[a]) wf_fabric_window_destroy(f->fabric, f->array[a]);
        else wf_memory_destroy(f->array[a]);
    }
    free(f);
}
