#include "host/cli/sample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/cli/corpus.h"

/* ---- drawing ---------------------------------------------------------------------------------------------- */

static int32_t likeliest(const float *logits, int64_t n) {
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

static const float *sorted_by; /* qsort has no room for it; the command has one thread */

/* Likeliest first, of equals the lower id. */
static int likelier(const void *a, const void *b) {
    const int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sorted_by[i] != sorted_by[j]) return sorted_by[i] > sorted_by[j] ? -1 : 1;
    return (i > j) - (i < j);
}

/* How many of the sorted tokens may be drawn. */
static int64_t kept(const sampler *how, const float *logits, int64_t n, const int32_t *order) {
    const double top = logits[order[0]];
    double sum = 0, reached = 0;
    if (how->top_k && how->top_k < n) n = how->top_k;
    if (how->top_p >= 1) return n;
    for (int64_t i = 0; i < n; i++) sum += exp((logits[order[i]] - top) / how->temperature);
    for (int64_t i = 0; i < n; i++) {
        reached += exp((logits[order[i]] - top) / how->temperature);
        if (reached >= how->top_p * sum) return i + 1;
    }
    return n;
}

int32_t sample_token(sampler *how, const float *logits, int64_t n, int32_t *order) {
    const int32_t best = likeliest(logits, n);
    if (how->temperature == 0) return best;
    const bool cut = how->top_k || how->top_p < 1;
    int64_t count = n;
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    if (cut) {
        sorted_by = logits;
        qsort(order, (size_t)n, sizeof *order, likelier);
        count = kept(how, logits, n, order);
    }
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += exp((logits[order[i]] - logits[best]) / how->temperature);
    double rest = random_uniform(&how->state) * sum;
    for (int64_t i = 0; i < count; i++) {
        rest -= exp((logits[order[i]] - logits[best]) / how->temperature);
        if (rest < 0) return order[i];
    }
    return best;
}

/* ---- going on ---------------------------------------------------------------------------------------------- */

typedef struct generation {
    const sample_request *request;
    float *logits;
    int32_t *order, *window, *text;
    int64_t count;          /* tokens of text */
} generation;

static weft_status next_logits(generation *g) {
    const sample_request *const q = g->request;
    const int64_t first = g->count > q->window ? g->count - q->window : 0;
    weft_args args;
    weft_result result;
    /* What lies after the last token is masked by causality, but must be ids. */
    memset(g->window, 0, (size_t)q->window * sizeof *g->window);
    memcpy(g->window, g->text + first, (size_t)(g->count - first) * sizeof *g->window);
    weft_args_init(&args);
    args.tokens = g->window;
    const weft_status status = weft_plan_run(q->plan, &args, &result);
    return status ? status : weft_plan_logits(q->plan, 0, g->count - first - 1, g->logits);
}

static void write_token(const sample_request *q, int32_t token) {
    if (q->rank) return;
    if (q->bytes) fputc(token, q->out);
    else fprintf(q->out, "%d ", (int)token);
    fflush(q->out);
}

static int go_on(generation *g, sampler *how) {
    const sample_request *const q = g->request;
    /* Ids of a model that reads bytes are bytes and the end mark, whatever else its vocabulary has room for. */
    const int64_t choices = q->bytes && q->vocabulary > CORPUS_VOCABULARY ? CORPUS_VOCABULARY : q->vocabulary;
    for (int64_t i = 0; i < q->more; i++) {
        const weft_status status = next_logits(g);
        if (status) return complain_status(status); /* each rank for itself: a run may fail on one alone */
        const int32_t token = sample_token(how, g->logits, choices, g->order);
        if (token == q->end) break;
        g->text[g->count++] = token;
        write_token(q, token);
    }
    if (!q->rank) fputc('\n', q->out);
    return EXIT_FINE;
}

static void close_generation(generation *g) {
    free(g->logits);
    free(g->order);
    free(g->window);
    free(g->text);
}

static int open_generation(const sample_request *q, int64_t prompt, generation *g) {
    *g = (generation){.request = q,
                      .logits = malloc((size_t)q->vocabulary * sizeof *g->logits),
                      .order = malloc((size_t)q->vocabulary * sizeof *g->order),
                      .window = malloc((size_t)q->window * sizeof *g->window),
                      .text = malloc((size_t)(prompt + q->more + 1) * sizeof *g->text)};
    if (g->logits && g->order && g->window && g->text) return EXIT_FINE;
    close_generation(g);
    return complain(EXIT_ENVIRONMENT, "out of memory for a sample");
}

int sample_after_text(const sample_request *q, sampler *how, const char *prompt, int64_t count) {
    generation g;
    int status = open_generation(q, count, &g);
    if (status) return status;
    g.text[g.count++] = q->end; /* a document begins where another ended */
    for (int64_t i = 0; i < count; i++) g.text[g.count++] = (unsigned char)prompt[i];
    if (!q->rank) fwrite(prompt, 1, (size_t)count, q->out);
    status = go_on(&g, how);
    close_generation(&g);
    return status;
}

int sample_after_tokens(const sample_request *q, sampler *how, const token_source *prompt) {
    generation g;
    int status = open_generation(q, prompt->count, &g);
    if (status) return status;
    for (int64_t i = 0; i < prompt->count; i++) {
        g.text[g.count++] = (int32_t)token_at(prompt, i);
        write_token(q, g.text[i]);
    }
    status = go_on(&g, how);
    close_generation(&g);
    return status;
}
