/* own_loss.c: weft inside a program that has everything already: its cl_context, device, queue and buffers,
 * its MPI communicator, and its own loss between forward and backward.
 *
 * It trains a stack of blocks to turn x into a target, by mean squared error that a kernel of this program
 * computes on the device, with two microbatches in flight: forward A, forward B, backward A, backward B. weft
 * orders its work into the program's queue: nothing here waits for the device but the last read of the loss.
 *
 *     mpirun -np 2 ./own_loss [steps]          the layout is tpN.sp over N ranks
 */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <weft_mpi.h>

enum { MICROBATCHES = 2, BATCH = 4, SEQUENCE = 31 };

static void die(const char *what, const char *why) {
    fprintf(stderr, "own_loss: %s: %s\n", what, why);
    MPI_Abort(MPI_COMM_WORLD, 1);
}
#define WEFT(call) do { if ((call) != WEFT_OK) die(#call, weft_last_error()); } while (0)
#define CL(call) do { if ((call) != CL_SUCCESS) die(#call, "OpenCL failed"); } while (0)

/* ---- what the program has without weft ------------------------------------------------------------------ */

typedef struct program {
    cl_context context;
    cl_device_id device;
    cl_command_queue queue;
    cl_kernel loss;
    MPI_Comm ranks;             /* not MPI_COMM_WORLD: weft must not mind */
} program;

static const char *const source =
    "kernel void loss(global const float *y, global const float *target, global float *dy, global float *sum, long n, float scale) {\n"
    "    float mine = 0;\n"
    "    for (long i = get_global_id(0); i < n; i += get_global_size(0)) {\n"
    "        const float d = y[i] - target[i];\n"
    "        dy[i] = d * scale;\n"
    "        mine += 0.5f * d * d * scale;\n"
    "    }\n"
    "    sum[get_global_id(0)] += mine;\n"
    "}\n";

enum { ITEMS = 64 };

static void open_program(program *p) {
    cl_platform_id platform;
    cl_int code;
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_split(MPI_COMM_WORLD, 0, rank, &p->ranks);
    CL(clGetPlatformIDs(1, &platform, NULL));
    CL(clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &p->device, NULL));
    p->context = clCreateContext(NULL, 1, &p->device, NULL, NULL, &code);
    CL(code);
    p->queue = clCreateCommandQueue(p->context, p->device, 0, &code);
    CL(code);
    const cl_program built = clCreateProgramWithSource(p->context, 1, (const char **)&source, NULL, &code);
    CL(code);
    CL(clBuildProgram(built, 1, &p->device, "", NULL, NULL));
    p->loss = clCreateKernel(built, "loss", &code);
    CL(code);
    clReleaseProgram(built);
}

static cl_mem buffer(const program *p, int64_t elements) {
    cl_int code;
    const cl_mem mem = clCreateBuffer(p->context, CL_MEM_READ_WRITE, sizeof(float) * (size_t)(elements + 1), NULL, &code);
    CL(code);
    return mem;
}

/* dy and the sum of the loss, on the program's queue. */
static void enqueue_loss(const program *p, cl_mem y, cl_mem target, cl_mem dy, cl_mem sum, int64_t n, float scale) {
    const size_t items = ITEMS;
    const cl_long count = n;
    CL(clSetKernelArg(p->loss, 0, sizeof y, &y));
    CL(clSetKernelArg(p->loss, 1, sizeof target, &target));
    CL(clSetKernelArg(p->loss, 2, sizeof dy, &dy));
    CL(clSetKernelArg(p->loss, 3, sizeof sum, &sum));
    CL(clSetKernelArg(p->loss, 4, sizeof count, &count));
    CL(clSetKernelArg(p->loss, 5, sizeof scale, &scale));
    CL(clEnqueueNDRangeKernel(p->queue, p->loss, 1, NULL, &items, NULL, 0, NULL, NULL));
}

/* ---- and with it ------------------------------------------------------------------------------------------- */

typedef struct blocks {
    weft_bootstrap *bootstrap;
    weft_context *context;
    weft_params *params;
    weft_plan *plan;
    weft_stash *stash[MICROBATCHES];
    weft_rows rows;
} blocks;

static void open_blocks(const program *p, blocks *b) {
    weft_context_options on;
    weft_plan_options options;
    weft_model *model;
    weft_layout *layout;
    char text[32];
    int ranks;
    MPI_Comm_size(p->ranks, &ranks);
    snprintf(text, sizeof text, ranks > 1 ? "tp%d.sp.mb%d" : "tp%d.mb%d", ranks, MICROBATCHES);
    weft_context_options_init(&on);
    on.cl_context = p->context;
    on.cl_device = p->device;
    on.cl_queue = p->queue;
    WEFT(weft_bootstrap_mpi(p->ranks, &b->bootstrap));
    WEFT(weft_context_create(&on, b->bootstrap, &b->context));
    WEFT(weft_model_create("tiny", &model));
    WEFT(weft_layout_parse(text, &layout));
    WEFT(weft_params_create(b->context, model, layout, &b->params));
    WEFT(weft_params_init(b->params, 3));
    weft_plan_options_init(&options);
    options.model = model;
    options.layout = layout;
    options.batch = BATCH;
    options.sequence = SEQUENCE;
    options.mode = WEFT_BLOCKS;
    options.phases = WEFT_FORWARD | WEFT_BACKWARD | WEFT_OPTIMIZE;
    WEFT(weft_plan_create(b->context, &options, &b->plan));
    WEFT(weft_plan_load(b->plan, b->params));
    for (int m = 0; m < MICROBATCHES; m++) WEFT(weft_stash_create(b->plan, &b->stash[m]));
    weft_plan_rows(b->plan, &b->rows);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
}

static void close_blocks(blocks *b) {
    for (int m = 0; m < MICROBATCHES; m++) weft_stash_destroy(b->stash[m]);
    weft_plan_destroy(b->plan);
    weft_params_destroy(b->params);
    weft_context_destroy(b->context);
    weft_bootstrap_destroy(b->bootstrap);
}

typedef struct data {
    int64_t n;                  /* elements on this rank, of one microbatch */
    cl_mem x[MICROBATCHES], y[MICROBATCHES], dy[MICROBATCHES], target[MICROBATCHES], sum;
} data;

/* Functions of the global place of an element, so that every number of ranks trains on the same. */
static void open_data(const program *p, const weft_rows *r, data *d) {
    d->n = r->positions * r->samples * r->hidden;
    d->sum = buffer(p, ITEMS);
    float *const x = malloc(sizeof *x * (size_t)(d->n + 1)), *const target = malloc(sizeof *target * (size_t)(d->n + 1));
    for (int m = 0; m < MICROBATCHES; m++) {
        for (int64_t i = 0; i < d->n; i++) {
            const int64_t h = i % r->hidden, sample = i / r->hidden % r->samples + m * r->samples, at = i / r->hidden / r->samples,
                          position = r->first_position + at + (at >= r->gap_at ? r->gap : 0);
            x[i] = (float)sin(0.1 * (double)(h + 1) * (double)(position + 1) + (double)sample);
            target[i] = (float)cos(0.2 * (double)h + (double)sample);
        }
        d->x[m] = buffer(p, d->n);
        d->y[m] = buffer(p, d->n);
        d->dy[m] = buffer(p, d->n);
        d->target[m] = buffer(p, d->n);
        if (!d->n) continue;
        CL(clEnqueueWriteBuffer(p->queue, d->x[m], CL_TRUE, 0, sizeof *x * (size_t)d->n, x, 0, NULL, NULL));
        CL(clEnqueueWriteBuffer(p->queue, d->target[m], CL_TRUE, 0, sizeof *x * (size_t)d->n, target, 0, NULL, NULL));
    }
    free(x);
    free(target);
}

static double step(const program *p, const blocks *b, const data *d, int number) {
    const float zero = 0;
    float sums[ITEMS];
    double mine = 0, loss = 0;
    weft_args args;
    void *done;
    weft_args_init(&args);
    args.seed = 1;
    args.step = number;
    args.learning_rate = 3e-3f;
    CL(clEnqueueFillBuffer(p->queue, d->sum, &zero, sizeof zero, 0, sizeof sums, 0, NULL, NULL));
    for (int m = 0; m < MICROBATCHES; m++) {
        args.microbatch = m;
        args.x = (weft_buffer){.cl_mem = d->x[m]};
        args.y = (weft_buffer){.cl_mem = d->y[m]};
        WEFT(weft_plan_enqueue(b->plan, WEFT_FORWARD, NULL, b->stash[m], &args, NULL, &done));
        clReleaseEvent(done);
        enqueue_loss(p, d->y[m], d->target[m], d->dy[m], d->sum, d->n, 1.0f / ((float)BATCH * SEQUENCE * (float)b->rows.hidden));
    }
    for (int m = 0; m < MICROBATCHES; m++) {
        args.accumulate = m > 0;
        args.dy = (weft_buffer){.cl_mem = d->dy[m]};
        WEFT(weft_plan_enqueue(b->plan, WEFT_BACKWARD, NULL, b->stash[m], &args, NULL, &done));
        clReleaseEvent(done);
    }
    WEFT(weft_plan_enqueue(b->plan, WEFT_OPTIMIZE, NULL, NULL, &args, NULL, &done));
    clReleaseEvent(done);
    CL(clEnqueueReadBuffer(p->queue, d->sum, CL_TRUE, 0, sizeof sums, sums, 0, NULL, NULL));
    for (int i = 0; i < ITEMS; i++) mine += (double)sums[i];
    MPI_Allreduce(&mine, &loss, 1, MPI_DOUBLE, MPI_SUM, p->ranks);
    return loss;
}

int main(int argc, char **argv) {
    program p;
    blocks b;
    data d;
    int rank, provided;
    const int steps = argc > 1 ? atoi(argv[1]) : 20;
    double first = 0, loss = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    open_program(&p);
    open_blocks(&p, &b);
    open_data(&p, &b.rows, &d);
    for (int i = 0; i < steps; i++) {
        loss = step(&p, &b, &d, i);
        if (i == 0) first = loss;
        if (!rank && (i == 0 || i == steps - 1)) printf("step %d: loss %.6f\n", i, loss);
    }
    for (int m = 0; m < MICROBATCHES; m++) {
        clReleaseMemObject(d.x[m]);
        clReleaseMemObject(d.y[m]);
        clReleaseMemObject(d.dy[m]);
        clReleaseMemObject(d.target[m]);
    }
    clReleaseMemObject(d.sum);
    close_blocks(&b);
    clReleaseKernel(p.loss);
    clReleaseCommandQueue(p.queue);
    clReleaseContext(p.context);
    MPI_Comm_free(&p.ranks);
    MPI_Finalize();
    return loss < first ? 0 : 1;
}
