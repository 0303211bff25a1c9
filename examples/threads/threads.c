/* threads.c: a small GPT trained by ranks that are threads of one process.
 *
 *     threads [ranks [steps]]          the layout is tpN.sp; every thread is a rank with a context of its own
 *
 * With several OpenCL devices, each thread would name its own in weft_context_options.device; one CPU device
 * is cut into shares of its cores. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <weft.h>

enum { BATCH = 4, SEQUENCE = 32, MOST = 16 };

typedef struct rank {
    weft_bootstrap *bootstrap;
    int number, ranks, steps;
    double first, last;
} rank;

#define TRY(call) do { if ((call) != WEFT_OK) { fprintf(stderr, "rank %d: %s\n", r->number, weft_last_error()); exit(1); } } while (0)

static void *run(void *argument) {
    rank *const r = argument;
    weft_context *context;
    weft_model *model;
    weft_layout *layout;
    weft_params *params;
    weft_plan *plan;
    weft_plan_options options;
    weft_args args;
    weft_result result;
    int32_t tokens[BATCH * SEQUENCE], targets[BATCH * SEQUENCE];
    char text[16];
    snprintf(text, sizeof text, r->ranks > 1 ? "tp%d.sp" : "tp%d", r->ranks);
    TRY(weft_context_create(NULL, r->bootstrap, &context));
    TRY(weft_model_create("tiny", &model));
    TRY(weft_layout_parse(text, &layout));
    TRY(weft_params_create(context, model, layout, &params));
    TRY(weft_params_init(params, 7));
    weft_plan_options_init(&options);
    options.model = model;
    options.layout = layout;
    options.batch = BATCH;
    options.sequence = SEQUENCE;
    TRY(weft_plan_create(context, &options, &plan)); /* trains: forward, backward, AdamW */
    TRY(weft_plan_load(plan, params));
    for (int i = 0; i < BATCH * SEQUENCE; i++) tokens[i] = i * 7 % 50, targets[i] = (i + 1) * 7 % 50;
    weft_args_init(&args);
    args.tokens = tokens;
    args.targets = targets;
    args.learning_rate = 3e-3f;
    for (args.step = 0; args.step < r->steps; args.step++) {
        TRY(weft_plan_run(plan, &args, &result));
        if (args.step == 0) r->first = result.loss;
        r->last = result.loss;
    }
    weft_plan_destroy(plan);
    weft_params_destroy(params);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    weft_context_destroy(context);
    return NULL;
}

int main(int argc, char **argv) {
    const int ranks = argc > 1 ? atoi(argv[1]) : 3, steps = argc > 2 ? atoi(argv[2]) : 10;
    weft_bootstrap *bootstrap[MOST];
    rank of[MOST];
    pthread_t thread[MOST];
    if (ranks < 1 || ranks > MOST || weft_bootstrap_local(ranks, bootstrap) != WEFT_OK) {
        fprintf(stderr, "usage: threads [ranks, 1 to %d [steps]]\n", MOST);
        return 2;
    }
    for (int i = 0; i < ranks; i++) {
        of[i] = (rank){.bootstrap = bootstrap[i], .number = i, .ranks = ranks, .steps = steps};
        if (pthread_create(&thread[i], NULL, run, &of[i]) != 0) return 1;
    }
    for (int i = 0; i < ranks; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < ranks; i++) weft_bootstrap_destroy(bootstrap[i]);
    for (int i = 1; i < ranks; i++)
        if (memcmp(&of[i].last, &of[0].last, sizeof of[0].last) != 0) return 1; /* every rank has the same loss */
    printf("%d ranks in one process: loss %.4f -> %.4f in %d steps\n", ranks, of[0].first, of[0].last, steps);
    return of[0].last < of[0].first ? 0 : 1;
}
