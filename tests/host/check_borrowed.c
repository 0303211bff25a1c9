/* What the caller brings: cl_context, device, queue, events, buffers, DLPack tensors, parameters in his memory. It is
 * used as it is, in the order that he asked for, and refused in a sentence where it cannot be used. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include "host/api/objects.h"
#include "host/device/opencl.h"
#include "tests/host/blocks_support.h"
#include "tests/host/gate.h"

enum { ROWS = SHARE * SEQUENCE, ELEMENTS = ROWS * HIDDEN, BYTES = ELEMENTS * 4, OFFSET = 28 };

static weft_model *model;
static truth want;
static cl_context his, other;
static cl_device_id device;
static cl_command_queue queue;
static float x[ELEMENTS], dy[ELEMENTS], y_want[ELEMENTS], dx_want[ELEMENTS];

static void cl_must(cl_int code) {
    ck_assert_int_eq(code, CL_SUCCESS);
}

static cl_mem make_buffer(cl_context context, cl_mem_flags flags, size_t bytes) {
    cl_int code;
    const cl_mem mem = clCreateBuffer(context, flags, bytes, NULL, &code);
    cl_must(code);
    return mem;
}

static weft_context *open_context(cl_command_queue with_queue) {
    weft_context_options o;
    weft_context *context;
    weft_context_options_init(&o);
    o.cl_context = his;
    o.cl_device = device;
    o.cl_queue = with_queue;
    MUST(weft_context_create(&o, NULL, &context));
    return context;
}

typedef struct stack {
    weft_context *context;
    weft_params *params;
    weft_plan *plan;
    weft_stash *stash;
    weft_rows rows;
} stack;

static void load_stack(stack *s, weft_order order) {
    s->plan = make_ordered_plan(s->context, model, "mb2", WEFT_BLOCKS, 0, order);
    MUST(weft_plan_load(s->plan, s->params));
    MUST(weft_stash_create(s->plan, &s->stash));
    weft_plan_rows(s->plan, &s->rows);
}

static stack open_stack(cl_command_queue with_queue) {
    stack s = {.context = open_context(with_queue)};
    s.params = make_params(s.context, model, "mb2");
    load_stack(&s, WEFT_ORDER_AUTO);
    return s;
}

static void close_stack(stack *s) {
    weft_stash_destroy(s->stash);
    weft_plan_destroy(s->plan);
    weft_params_destroy(s->params);
    weft_context_destroy(s->context);
}

static weft_args host_args(float *y, float *dx) {
    weft_args a = plain_args();
    a.x.host = x;
    a.y.host = y;
    a.dy.host = dy;
    a.dx.host = dx;
    return a;
}

static void open_all(void) {
    cl_platform_id platform;
    cl_int code;
    fill_tokens();
    model = make_model();
    want = find_truth(model);
    cl_must(clGetPlatformIDs(1, &platform, NULL));
    cl_must(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL));
    his = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
    cl_must(code);
    other = clCreateContext(NULL, 1, &device, NULL, NULL, &code);
    cl_must(code);
    queue = clCreateCommandQueue(his, device, 0, &code);
    cl_must(code);
    /* what host memory gives */
    stack s = open_stack(NULL);
    embed(&want.weights, &s.rows, 0, x);
    weft_args a = host_args(y_want, dx_want);
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL));
    own_loss(&want.weights, &s.rows, 0, y_want, dy);
    MUST(weft_plan_enqueue(s.plan, WEFT_BACKWARD | WEFT_FINISH, NULL, s.stash, &a, NULL, NULL));
    close_stack(&s);
}

static void close_all(void) {
    free_truth(&want);
    weft_model_destroy(model);
    clReleaseCommandQueue(queue);
    clReleaseContext(other);
    clReleaseContext(his);
}

static void expect(weft_status got, weft_status status, const char *said) {
    ck_assert_msg(got == status && strstr(weft_last_error(), said), "status %d: %s", (int)got, weft_last_error());
}

/* A run that fails has let go of the caller's host memory when it says so. Returns whether it failed. */
static bool fails_at(int64_t n, int64_t *made_out) {
    stack s = open_stack(NULL);
    wf_calls *const calls = &s.context->opencl->calls;
    float y[ELEMENTS], dx[ELEMENTS];
    weft_args a = host_args(y, dx);
    gate g;
    void *event = NULL;
    gate_shut(&g, his);
    const int64_t before = calls->made;
    calls->fail_at = n ? before + n : 0;
    calls->fail_code = CL_OUT_OF_RESOURCES;
    const weft_status status = weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, &(weft_events){.count = 1, .events = &(void *){g.event}}, &event);
    *made_out = calls->made - before;
    calls->fail_at = 0;
    ck_assert_msg(!status || gate_is_open(&g), "the device call %d of the run failed, and the copy of x goes on", (int)n);
    gate_end(&g);
    if (event) clReleaseEvent(event);
    close_stack(&s);
    return status;
}

START_TEST(a_failed_run_lets_go_of_host_memory) {
    int64_t made, unused;
    ck_assert(!fails_at(0, &made));
    ck_assert(fails_at(made, &unused));
    ck_assert(fails_at(made / 2, &unused));
}
END_TEST

/* A run that cannot begin leaves the one before as it is. */
START_TEST(a_refused_run_disturbs_none) {
    weft_context *const context = open_context(NULL);
    weft_params *const params = make_params(context, model, "mb2");
    weft_plan *const plan = make_ordered_plan(context, model, "mb2", WEFT_GRADIENTS, 0, WEFT_ORDER_AUTO);
    weft_args a = plain_args();
    weft_run *run, *second;
    bool done = false;
    gate g;
    a.tokens = tokens, a.targets = targets;
    MUST(weft_plan_load(plan, params));
    gate_shut(&g, his);
    MUST(weft_run_start(plan, 0, NULL, NULL, &a, &(weft_events){.count = 1, .events = &(void *){g.event}}, &run));
    while (!weft_run_submitted(run)) MUST(weft_run_advance(run, &done));
    const weft_status refused = weft_run_start(plan, 0, NULL, NULL, &a, NULL, &second);
    if (!gate_is_open(&g)) expect(refused, WEFT_ERR_ARGUMENT, "not done yet");
    MUST(weft_run_finish(run, NULL));
    gate_end(&g);
    weft_plan_destroy(plan);
    weft_params_destroy(params);
    weft_context_destroy(context);
}
END_TEST

/* ---- buffers, queue and events ------------------------------------------------------------------------------------------ */

typedef struct buffers {
    cl_mem in, out;             /* x and y, dy and dx, behind one another after OFFSET bytes */
} buffers;

static buffers make_buffers(void) {
    return (buffers){make_buffer(his, CL_MEM_READ_ONLY, OFFSET + 2 * BYTES), make_buffer(his, CL_MEM_WRITE_ONLY, OFFSET + 2 * BYTES)};
}

static void release(buffers *b) {
    clReleaseMemObject(b->in);
    clReleaseMemObject(b->out);
}

static weft_args cl_args(const buffers *b) {
    weft_args a = plain_args();
    a.x = (weft_buffer){.cl_mem = b->in, .offset_bytes = OFFSET};
    a.dy = (weft_buffer){.cl_mem = b->in, .offset_bytes = OFFSET + BYTES};
    a.y = (weft_buffer){.cl_mem = b->out, .offset_bytes = OFFSET};
    a.dx = (weft_buffer){.cl_mem = b->out, .offset_bytes = OFFSET + BYTES};
    return a;
}

/* His queue holds back x until he says so; the run, started before, waits for it; what he reads comes after the run. */
START_TEST(a_run_stands_in_his_queue) {
    stack s = open_stack(queue);
    buffers b = make_buffers();
    weft_args a = cl_args(&b);
    weft_run *run;
    bool done = false;
    cl_int code;
    float y[ELEMENTS] = {0}, dx[ELEMENTS] = {0};
    cl_event gate = clCreateUserEvent(his, &code), read;
    cl_must(code);
    cl_must(clEnqueueWriteBuffer(queue, b.in, CL_FALSE, OFFSET, BYTES, x, 1, &gate, NULL));
    MUST(weft_run_start(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, &run));
    for (int i = 0; i < 50; i++) MUST(weft_run_advance(run, &done));
    ck_assert(!done);
    cl_must(clSetUserEventStatus(gate, CL_COMPLETE));
    MUST(weft_run_finish(run, &(void *){NULL}));
    cl_must(clEnqueueReadBuffer(queue, b.out, CL_FALSE, OFFSET, BYTES, y, 0, NULL, &read));
    cl_must(clWaitForEvents(1, &read));
    ck_assert(memcmp(y, y_want, BYTES) == 0);
    clReleaseEvent(read);
    cl_must(clEnqueueWriteBuffer(queue, b.in, CL_FALSE, OFFSET + BYTES, BYTES, dy, 0, NULL, NULL));
    void *event;
    MUST(weft_plan_enqueue(s.plan, WEFT_BACKWARD | WEFT_FINISH, NULL, s.stash, &a, NULL, &event));
    cl_must(clEnqueueReadBuffer(queue, b.out, CL_TRUE, OFFSET + BYTES, BYTES, dx, 0, NULL, NULL));
    ck_assert(memcmp(dx, dx_want, BYTES) == 0);
    clReleaseEvent(event);
    clReleaseEvent(gate);
    close_stack(&s);
    release(&b);
}
END_TEST

/* Nothing of his is retained any more. A driver may let go of a command's objects a little after its end. */
static void expect_released(cl_command_queue his_queue, cl_mem mem) {
    cl_uint of_queue = 0, of_mem = 0;
    cl_must(clFinish(his_queue));
    for (int i = 0; i < 200 && (of_queue != 1 || of_mem != 1); i++) {
        cl_must(clGetCommandQueueInfo(his_queue, CL_QUEUE_REFERENCE_COUNT, sizeof of_queue, &of_queue, NULL));
        cl_must(clGetMemObjectInfo(mem, CL_MEM_REFERENCE_COUNT, sizeof of_mem, &of_mem, NULL));
        usleep(5000);
    }
    ck_assert_msg(of_queue == 1 && of_mem == 1, "%u references to his queue, %u to his buffer", of_queue, of_mem);
}

/* (With a queue of its own: PoCL 3.1 keeps a reference to one whose commands waited for a user event.) */
START_TEST(nothing_of_his_is_kept) {
    cl_int code;
    const cl_command_queue one = clCreateCommandQueue(his, device, 0, &code);
    cl_must(code);
    stack s = open_stack(one);
    buffers b = make_buffers();
    weft_args a = cl_args(&b);
    cl_must(clEnqueueWriteBuffer(one, b.in, CL_FALSE, OFFSET, BYTES, x, 0, NULL, NULL));
    cl_must(clEnqueueWriteBuffer(one, b.in, CL_FALSE, OFFSET + BYTES, BYTES, dy, 0, NULL, NULL));
    void *event;
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD | WEFT_BACKWARD, NULL, s.stash, &a, NULL, &event));
    clReleaseEvent(event);
    close_stack(&s);
    expect_released(one, b.out);
    clReleaseCommandQueue(one);
    release(&b);
}
END_TEST

START_TEST(events_order_runs) {
    stack s = open_stack(NULL);
    buffers b = make_buffers();
    weft_args a = cl_args(&b);
    cl_event written;
    void *forward, *backward;
    float dx[ELEMENTS] = {0};
    cl_must(clEnqueueWriteBuffer(queue, b.in, CL_FALSE, OFFSET, BYTES, x, 0, NULL, NULL));
    cl_must(clEnqueueWriteBuffer(queue, b.in, CL_FALSE, OFFSET + BYTES, BYTES, dy, 0, NULL, &written));
    cl_must(clFlush(queue));
    void *const list[] = {written};
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, &(weft_events){1, list}, &forward));
    MUST(weft_plan_enqueue(s.plan, WEFT_BACKWARD | WEFT_FINISH, s.params, s.stash, &a, NULL, &backward));
    cl_must(clEnqueueReadBuffer(queue, b.out, CL_TRUE, OFFSET + BYTES, BYTES, dx, 1, (cl_event *)&backward, NULL));
    ck_assert(memcmp(dx, dx_want, BYTES) == 0);
    clReleaseEvent(written);
    clReleaseEvent(forward);
    clReleaseEvent(backward);
    release(&b);
    close_stack(&s);
}
END_TEST

START_TEST(what_cannot_be_used_is_refused) {
    stack s = open_stack(NULL);
    buffers b = make_buffers();
    weft_context_options o;
    weft_context *none = NULL;
    weft_context_options_init(&o);
    o.cl_context = his;
    expect(weft_context_create(&o, NULL, &none), WEFT_ERR_ARGUMENT, "both");
    weft_context_options_init(&o);
    o.cl_queue = queue;
    expect(weft_context_create(&o, NULL, &none), WEFT_ERR_ARGUMENT, "both");
    weft_context_options_init(&o);
    o.cl_context = other;
    o.cl_device = device;
    o.cl_queue = queue;
    expect(weft_context_create(&o, NULL, &none), WEFT_ERR_ARGUMENT, "cl_command_queue");
    cl_mem foreign = make_buffer(other, 0, OFFSET + 2 * BYTES), small = make_buffer(his, 0, BYTES);
    weft_args a = cl_args(&b);
    a.x.cl_mem = foreign;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "another cl_context");
    a.x.cl_mem = small;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "begins at byte 28");
    a = cl_args(&b);
    a.x.offset_bytes = 30;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "multiple of 4");
    a = cl_args(&b);
    a.y.cl_mem = b.in;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "CL_MEM_READ_ONLY");
    a = cl_args(&b);
    a.x.cl_mem = b.out;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "CL_MEM_WRITE_ONLY");
    a.x.host = x;
    expect(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL), WEFT_ERR_ARGUMENT, "not in both");
    /* and the plan still works */
    float y[ELEMENTS] = {0};
    a = host_args(y, NULL);
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD, NULL, s.stash, &a, NULL, NULL));
    ck_assert(memcmp(y, y_want, BYTES) == 0);
    clReleaseMemObject(foreign);
    clReleaseMemObject(small);
    release(&b);
    close_stack(&s);
}
END_TEST

/* ---- parameters in his memory ------------------------------------------------------------------------------------------------ */

static void read_mem(cl_mem mem, int64_t offset, float *out, int64_t n) {
    cl_must(clEnqueueReadBuffer(queue, mem, CL_TRUE, (size_t)offset, (size_t)n * 4, out, 0, NULL, NULL));
}

/* His buffers are row-major. */
static void expect_panels_refused(weft_context *context, const weft_layout *layout) {
    weft_params *panels;
    weft_tensor_info info;
    const cl_mem mem = make_buffer(his, 0, 1 << 20);
    MUST(weft_params_create_ordered(context, model, layout, WEFT_ORDER_PANELS, &panels));
    for (int32_t i = 0; i < weft_params_count(panels); i++) {
        MUST(weft_params_info(panels, i, &info));
        if (strcmp(info.name, "layer.mlp.fc1.weight") == 0)
            expect(weft_params_bind(panels, i, "", 0, &(weft_buffer){.cl_mem = mem}), WEFT_ERR_ARGUMENT, "WEFT_ORDER_ROWS");
    }
    weft_params_destroy(panels);
    clReleaseMemObject(mem);
}

/* One buffer for the weights, one for their gradients, tensors behind one another; weft takes no memory for them. */
START_TEST(parameters_lie_where_he_says) {
    stack s = {.context = open_context(NULL)};
    weft_layout *layout;
    int64_t total = 0, at = 0;
    MUST(weft_layout_parse("mb2", &layout));
    expect_panels_refused(s.context, layout);
    MUST(weft_params_create_ordered(s.context, model, layout, WEFT_ORDER_ROWS, &s.params));
    for (int32_t i = 0; i < weft_params_count(s.params); i++) {
        weft_tensor_info info;
        MUST(weft_params_info(s.params, i, &info));
        total += info.instances * info.rows * info.columns * 4;
    }
    cl_mem weights = make_buffer(his, 0, (size_t)total), gradients = make_buffer(his, 0, (size_t)total);
    for (int32_t i = 0; i < weft_params_count(s.params); i++) {
        weft_tensor_info info;
        MUST(weft_params_info(s.params, i, &info));
        for (int64_t k = 0; k < info.instances; k++, at += info.rows * info.columns * 4) {
            MUST(weft_params_bind(s.params, i, "", k, &(weft_buffer){.cl_mem = weights, .offset_bytes = at}));
            MUST(weft_params_bind(s.params, i, "grad", k, &(weft_buffer){.cl_mem = gradients, .offset_bytes = at}));
        }
    }
    const weft_buffer beyond = {.cl_mem = weights, .offset_bytes = total};
    expect(weft_params_bind(s.params, 0, "", 0, &beyond), WEFT_ERR_ARGUMENT, "was lent");
    expect(weft_params_bind(s.params, 0, "", 0, &(weft_buffer){.host = x}), WEFT_ERR_ARGUMENT, "OpenCL buffer");
    MUST(weft_params_init(s.params, SEED));
    ck_assert_int_eq(wf_opencl_allocated_bytes(s.context->opencl), 0);
    load_stack(&s, WEFT_ORDER_ROWS);
    float y[ELEMENTS] = {0}, dx[ELEMENTS] = {0};
    weft_args a = host_args(y, dx);
    MUST(weft_plan_enqueue(s.plan, WEFT_FORWARD | WEFT_BACKWARD | WEFT_FINISH, NULL, s.stash, &a, NULL, NULL));
    ck_assert(memcmp(y, y_want, BYTES) == 0 && memcmp(dx, dx_want, BYTES) == 0);
    /* the same again in weft's own memory: the same bits, and his buffers hold what reading tells */
    stack own = open_stack(NULL);
    MUST(weft_plan_enqueue(own.plan, WEFT_FORWARD | WEFT_BACKWARD | WEFT_FINISH, NULL, own.stash, &a, NULL, NULL));
    at = 0;
    for (int32_t i = 0; i < weft_params_count(s.params); i++) {
        weft_tensor_info info;
        MUST(weft_params_info(s.params, i, &info));
        const int64_t n = info.rows * info.columns;
        float *const mine = calloc((size_t)(2 * n), sizeof *mine);
        for (int64_t k = 0; k < info.instances; k++, at += n * 4) {
            MUST(weft_params_read(own.params, i, "", k, mine));
            read_mem(weights, at, mine + n, n);
            ck_assert_msg(memcmp(mine, mine + n, (size_t)n * 4) == 0, "weights of %s[%lld]", info.name, (long long)k);
            if (strncmp(info.name, "layer.", 6) != 0) continue;
            MUST(weft_params_read(own.params, i, "grad", k, mine));
            read_mem(gradients, at, mine + n, n);
            ck_assert_msg(memcmp(mine, mine + n, (size_t)n * 4) == 0, "gradient of %s[%lld]", info.name, (long long)k);
        }
        free(mine);
    }
    /* given back: weft's own memory, zeroed */
    MUST(weft_params_bind(s.params, 2, "grad", 0, NULL));
    float first[HIDDEN] = {1};
    weft_tensor_info info;
    MUST(weft_params_info(s.params, 2, &info));
    ck_assert_int_le(info.rows * info.columns, HIDDEN);
    MUST(weft_params_read(s.params, 2, "grad", 0, first));
    ck_assert(first[0] == 0);
    close_stack(&own);
    close_stack(&s);
    weft_layout_destroy(layout);
    clReleaseMemObject(weights);
    clReleaseMemObject(gradients);
}
END_TEST

/* ---- DLPack -------------------------------------------------------------------------------------------------------------------- */

typedef struct dl { /* as dlpack.h has it */
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} dl;

START_TEST(dlpack_tensors_are_read) {
    int64_t shape[] = {SEQUENCE, SHARE, HIDDEN}, dense[] = {SHARE * HIDDEN, HIDDEN, 1}, gaps[] = {SHARE * HIDDEN + 1, HIDDEN, 1};
    weft_buffer b = {0};
    cl_mem mem = make_buffer(his, 0, OFFSET + BYTES);
    dl t = {.data = mem, .device_type = 4, .ndim = 3, .code = 2, .bits = 32, .lanes = 1, .shape = shape, .byte_offset = OFFSET};
    MUST(weft_buffer_from_dlpack(&t, ELEMENTS, &b));
    ck_assert(b.cl_mem == mem && b.offset_bytes == OFFSET && !b.host);
    t.strides = dense;
    MUST(weft_buffer_from_dlpack(&t, 0, &b));
    t.device_type = 1;
    t.data = x;
    t.byte_offset = 8;
    MUST(weft_buffer_from_dlpack(&t, 0, &b));
    ck_assert(!b.cl_mem && b.host == (void *)(x + 2));
    const weft_buffer before = b;
    t.strides = gaps;
    expect(weft_buffer_from_dlpack(&t, 0, &b), WEFT_ERR_ARGUMENT, "gaps");
    t.strides = NULL;
    expect(weft_buffer_from_dlpack(&t, ELEMENTS + 1, &b), WEFT_ERR_ARGUMENT, "elements");
    t.bits = 16;
    expect(weft_buffer_from_dlpack(&t, 0, &b), WEFT_ERR_ARGUMENT, "16 bits");
    t.bits = 32;
    t.device_type = 2;
    expect(weft_buffer_from_dlpack(&t, 0, &b), WEFT_ERR_ARGUMENT, "type 2");
    t.device_type = 1;
    shape[1] = -1;
    expect(weft_buffer_from_dlpack(&t, 0, &b), WEFT_ERR_ARGUMENT, "dimension 1");
    shape[1] = INT64_MAX;
    expect(weft_buffer_from_dlpack(&t, 0, &b), WEFT_ERR_ARGUMENT, "dimension");
    expect(weft_buffer_from_dlpack(NULL, 0, &b), WEFT_ERR_ARGUMENT, "no DLPack");
    ck_assert(memcmp(&before, &b, sizeof b) == 0);
    clReleaseMemObject(mem);
}
END_TEST

int main(void) {
    Suite *const suite = suite_create("borrowed");
    TCase *const c = tcase_create("the caller's");
    tcase_set_timeout(c, 240);
    tcase_add_unchecked_fixture(c, open_all, close_all);
    tcase_add_test(c, a_failed_run_lets_go_of_host_memory);
    tcase_add_test(c, a_refused_run_disturbs_none);
    tcase_add_test(c, a_run_stands_in_his_queue);
    tcase_add_test(c, nothing_of_his_is_kept);
    tcase_add_test(c, events_order_runs);
    tcase_add_test(c, what_cannot_be_used_is_refused);
    tcase_add_test(c, parameters_lie_where_he_says);
    tcase_add_test(c, dlpack_tensors_are_read);
    suite_add_tcase(suite, c);
    SRunner *const runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
