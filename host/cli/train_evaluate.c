/* train_evaluate.c: loss on the part of the data that is held out, and what it means. */
#include <math.h>

#include "host/cli/train.h"

enum { BYTE_ORDERS = 3 };

/* Consecutive windows from the start of the evaluation part; those past its end do not count. */
weft_status train_evaluate(train_run *r, double *loss_out, int64_t *tokens_out) {
    const train_arguments *a = r->arguments;
    const token_source *held = &r->data.evaluation;
    double sum = 0;
    int64_t tokens = 0, first = 0;
    for (int64_t batch = 0; batch < a->evaluate_batches && first + a->sequence < held->count; batch++) {
        for (int64_t row = 0; row < a->batch; row++, first += a->sequence) {
            const bool inside = first + a->sequence < held->count;
            train_take_window(r, held, row, inside ? first : 0);
            for (int64_t i = 0; !inside && i < a->sequence; i++) r->targets[row * a->sequence + i] = -1;
        }
        weft_args args;
        weft_result result;
        weft_args_init(&args);
        args.tokens = r->tokens, args.targets = r->targets, args.documents = r->documents;
        const weft_status status = weft_plan_run(r->evaluation, &args, &result);
        if (status) return status;
        sum += result.loss * (double)result.tokens, tokens += result.tokens;
    }
    *loss_out = sum / (double)tokens, *tokens_out = tokens;
    return WEFT_OK;
}

static int print_byte_models(const train_run *r, FILE *out, double loss, int64_t tokens) {
    double orders[BYTE_ORDERS + 1];
    bool shown = false;
    if (!ngram_losses(&r->data.corpus.train, &r->data.corpus.evaluation, tokens, BYTE_ORDERS, orders))
        return complain(EXIT_ENVIRONMENT, "out of memory for the byte models");
    fprintf(out, "evaluation on %lld held-out bytes, nats per byte:\n", (long long)tokens);
    for (int order = 1; order <= BYTE_ORDERS; order++) {
        if (!shown && loss > orders[order]) shown = fprintf(out, "  %.3f  <- this model\n", loss) > 0;
        fprintf(out, "  %.3f  byte model of order %d (each byte given the %d before)\n", orders[order], order, order);
    }
    if (!shown) fprintf(out, "  %.3f  <- this model\n", loss);
    return EXIT_FINE;
}

int train_report(train_run *r) {
    double loss;
    int64_t tokens;
    const weft_status status = train_evaluate(r, &loss, &tokens);
    if (status) return train_fail(r, status);
    if (r->rank) return EXIT_FINE;
    FILE *out = r->arguments->json ? stderr : stdout;
    if (r->data.bytes) return print_byte_models(r, out, loss, tokens);
    fprintf(out, "evaluation on %lld held-out tokens: %.4f nats per token, perplexity %.2f\n", (long long)tokens, loss, exp(loss));
    return EXIT_FINE;
}
