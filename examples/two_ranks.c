/* Forward and backward of a stack of Transformer blocks, split over two ranks along heads, features and sequence:
 *   cc two_ranks.c $(pkg-config --cflags --libs weft ompi-c) -o two_ranks && mpirun -np 2 ./two_ranks */
#include <stdio.h>
#include <stdlib.h>
#include <weft_mpi.h>
#define TRY(call) if (call) fprintf(stderr, "%s\n", weft_last_error()), MPI_Abort(MPI_COMM_WORLD, 1)

int main(int argc, char **argv) {
    weft_bootstrap *ranks; weft_context *context; weft_model *model; weft_layout *layout;
    weft_params *params; weft_plan *plan; weft_stash *stash; weft_plan_options options; weft_rows rows; weft_args args;
    MPI_Init(&argc, &argv);
    TRY(weft_bootstrap_mpi(MPI_COMM_WORLD, &ranks));
    TRY(weft_context_create(NULL, ranks, &context));
    TRY(weft_model_create("tiny", &model)); /* or a Hugging Face config.json */
    TRY(weft_layout_parse("tp2.sp", &layout));
    TRY(weft_params_create(context, model, layout, &params));
    TRY(weft_params_init(params, 1));
    weft_plan_options_init(&options);
    options.model = model; options.layout = layout; options.mode = WEFT_BLOCKS; options.batch = 2; options.sequence = 63;
    TRY(weft_plan_create(context, &options, &plan));
    TRY(weft_plan_load(plan, params));
    TRY(weft_stash_create(plan, &stash));

    weft_plan_rows(plan, &rows); /* this rank's share of the sequence */
    const long n = rows.positions * rows.samples * rows.hidden;
    float *x = calloc(n, 4), *y = calloc(n, 4), *dx = calloc(n, 4), sum[2] = {0}, all[2];
    for (long i = 0; i < n; i++) x[i] = (i % 17 - 8) / 8.0f;
    weft_args_init(&args);
    args.x.host = x; args.y.host = y; args.dy.host = y; args.dx.host = dx; /* loss = |y|^2 / 2, so dy = y */
    TRY(weft_plan_enqueue(plan, WEFT_FORWARD, NULL, stash, &args, NULL, NULL));
    TRY(weft_plan_enqueue(plan, WEFT_BACKWARD | WEFT_FINISH, NULL, stash, &args, NULL, NULL));

    for (long i = 0; i < n; i++) sum[0] += y[i] * y[i] / 2, sum[1] += dx[i] * dx[i];
    MPI_Allreduce(sum, all, 2, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    printf("rank %d: %ld rows; loss %g, |dx|^2 %g\n", weft_context_rank(context), n / rows.hidden, all[0], all[1]);
    weft_stash_destroy(stash); weft_plan_destroy(plan); weft_params_destroy(params);
    weft_model_destroy(model); weft_layout_destroy(layout); free(x); free(y); free(dx);
    weft_context_destroy(context); weft_bootstrap_destroy(ranks);
    return MPI_Finalize();
}
