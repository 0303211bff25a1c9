/* context_ranks.c: every way of splitting a sequence equals one rank, on devices: form x tensor parallelism x mask x heads x
 * sequence x transport (tests/context_matrix.h), all that use as many ranks as mpirun starts. Run by check_context.sh:
 *
 *     context_ranks sample [SEED]     combinations in which any two values meet; with the printed seed the same again
 *     context_ranks all [I/N]         all of them, or the I-th of N parts
 *
 * A combination is one check. It passes where, on every rank,
 *   - loss, the last layer's output and every gradient are those of the plain f64 model (tests/model_reference.h), with dropout:
 *     largest difference at most 3e-6 of the tensor's largest magnitude. Queries, keys and values of the fused QKV count as tensors;
 *     the gradient of a key's bias, which is zero where positions are learned, is held to the bound of the other two;
 *   - a second run, and the same combination over other transports, have the same bits;
 *   - tensors that several ranks hold have the same bits on all of them;
 *   - the bytes that the plan foresaw went over the transport that was forced, and none over others.
 * Then what is no legal split is refused with a sentence that says which it is; and faults that are planted are seen. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/host/context_support.h"
#include "tests/host/sent.h"
#include "tests/pairwise.h"

/* ---- a combination --------------------------------------------------------------------------------------------------- */

typedef struct combination {
    int model, transport;
    const context_layout *layout;
} combination;

static void expect_sent(const program *p, int transport, const int64_t *before, int runs) {
    weft_plan_info info;
    int64_t sum = 0;
    weft_plan_describe(p->plan, &info);
    for (int t = 0; t < TRANSPORTS; t++) {
        const int64_t bytes = bytes_sent(p->context, transports[t]) - before[t];
        expect(bytes == 0 || may_send(transports[t], transports[transport], true), "%lld bytes over %s", (long long)bytes, transports[t]);
        expect(t != transport || bytes > 0 || !info.sent_bytes, "nothing over %s", transports[t]);
        sum += bytes;
    }
    expect(sum == runs * info.sent_bytes, "%lld bytes in %d runs, %lld expected", (long long)sum, runs, (long long)(runs * info.sent_bytes));
}

/* first: what the layout left over another transport, or nothing yet, then this. */
static void try_combination(const combination *c, outcome *first) {
    weft_context *const context = contexts[c->transport];
    int64_t before[TRANSPORTS];
    program p;
    snprintf(stage, sizeof stage, "%s, %s over %s", now.name, c->layout->text, transports[c->transport]);
    open_program(&p, context, c->layout->text);
    for (int t = 0; t < TRANSPORTS; t++) before[t] = bytes_sent(context, transports[t]);
    outcome once = run(&p), twice = run(&p);
    expect_sent(&p, c->transport, before, 2);
    expect(same_bits(&once, &twice), "the same run twice: other bits");
    expect(!first->gradients || same_bits(first, &once), "other bits than over another transport");
    compare_truth(&p, &once);
    compare_replicas(p.params, twice.gradients);
    conclude();
    close_program(&p);
    forget(&twice);
    if (first->gradients) forget(&once);
    else *first = once;
}

/* Those with chosen[i] (NULL: all), in their order: by model, layout, transport. */
static void try_all(const combination *of, int n, const bool *chosen) {
    outcome first = {0};
    int before = -1;
    for (int i = 0; i < n; i++) {
        if (chosen && !chosen[i]) continue;
        if (before < 0 || of[i].model != of[before].model) {
            if (before >= 0) context_case_close(&now);
            context_case_open(&now, of[i].model);
        }
        if (before < 0 || of[i].model != of[before].model || of[i].layout != of[before].layout) forget(&first);
        try_combination(&of[i], &first);
        before = i;
    }
    forget(&first);
    if (before >= 0) context_case_close(&now);
}

static combination *all_combinations(const context_layout *layouts, int nlayouts, int *n) {
    combination *const all = malloc(sizeof *all * (size_t)(CONTEXT_MODELS * nlayouts * TRANSPORTS));
    *n = 0;
    for (int m = 0; m < CONTEXT_MODELS; m++)
        for (int l = 0; l < nlayouts; l++)
            for (int t = 0; t < TRANSPORTS; t++) all[(*n)++] = (combination){.model = m, .layout = &layouts[l], .transport = t};
    return all;
}

/* Each over one more transport, for the bits. */
static void add_neighbours(const combination *all, int n, bool *chosen) {
    bool *const before = malloc(sizeof *before * (size_t)n);
    memcpy(before, chosen, sizeof *before * (size_t)n);
    for (int i = 0; i < n; i++)
        if (before[i]) chosen[i - all[i].transport + (all[i].transport + 1) % TRANSPORTS] = true;
    free(before);
}

static void try_sample(const combination *all, int n, uint64_t seed) {
    pairwise_row *const rows = calloc((size_t)n, sizeof *rows);
    bool *const chosen = calloc((size_t)n, sizeof *chosen);
    for (int i = 0; i < n; i++) {
        const context_rows of = context_rows_of(all[i].model);
        rows[i] = (pairwise_row){{of.mask, of.heads, of.sequence, all[i].layout->tp, all[i].layout->form, all[i].transport}};
    }
    const int taken = pairwise_sample(rows, n, seed, chosen), pairs = pairwise_pairs(rows, n, chosen);
    snprintf(stage, sizeof stage, "sample %llu", (unsigned long long)seed);
    expect(pairs == pairwise_pairs(rows, n, NULL), "%d pairs of values are covered, %d occur", pairs,
           pairwise_pairs(rows, n, NULL));
    conclude();
    if (!rank) printf("  %d ranks: %d of %d combinations, %d pairs of values\n", ranks, taken, n, pairs);
    add_neighbours(all, n, chosen);
    try_all(all, n, chosen);
    free(chosen);
    free(rows);
}

/* ---- gradients that lie in the caller's memory ------------------------------------------------------------------------ */

/* All gradients, behind one another; released when the params are gone. */
static wf_memory *lend_gradients(program *p) {
    wf_memory *memory = NULL;
    int64_t bytes = 0, at = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < p->params->tensors; i++) {
            const wf_shard_map *const map = &p->params->map[p->params->tensor[i]];
            const int64_t each = map->rows * map->columns * (int64_t)sizeof(float);
            if (pass)
                must(weft_params_bind(p->params, i, "grad", 0, &(weft_buffer){.cl_mem = wf_memory_cl(memory), .offset_bytes = at}), "params_bind");
            *(pass ? &at : &bytes) += each;
        }
        if (!pass && wf_memory_create(p->context->opencl, bytes, &memory) != WF_OK) must(WEFT_ERR_MEMORY, "memory of the caller's");
    }
    return memory;
}

/* They are summed from there: the same bits as in weft's own. */
static void try_lent(const char *layout) {
    context_case_open(&now, 0);
    for (int t = 0; t < TRANSPORTS; t++) {
        program own, lent;
        snprintf(stage, sizeof stage, "lent gradients, %s over %s", layout, transports[t]);
        open_ordered_program(&own, contexts[t], layout, WEFT_ORDER_ROWS);
        open_ordered_program(&lent, contexts[t], layout, WEFT_ORDER_ROWS);
        wf_memory *const memory = lend_gradients(&lent);
        outcome in_own = run(&own), in_lent = run(&lent);
        expect(same_bits(&in_own, &in_lent), "other bits than in weft's memory");
        compare_truth(&lent, &in_lent);
        conclude();
        close_program(&own);
        close_program(&lent);
        wf_memory_destroy(memory);
        forget(&in_own);
        forget(&in_lent);
    }
    context_case_close(&now);
}

/* ---- what is refused ------------------------------------------------------------------------------------------------- */

/* No plan, whether of these ranks or of none; the sentence says which layout, or what of the batch, is meant. */
static void try_illegal(const char *text, int64_t batch, int64_t sequence, const char *says) {
    const weft_model_options options = model_options(&now.model);
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    snprintf(stage, sizeof stage, "illegal: %s, %lld sequences of %lld", text, (long long)batch, (long long)sequence);
    must(weft_model_fill(&options, &model), "model_fill");
    weft_status status = weft_layout_parse(text, &layout);
    for (int with = 0; with < 2 && layout; with++) {
        weft_plan *plan = NULL;
        weft_plan_options o = plan_options(model, layout);
        o.batch = batch, o.sequence = sequence;
        if (with && weft_layout_ranks(layout) != ranks) continue;
        status = weft_plan_create(with ? contexts[0] : NULL, &o, &plan);
        expect(status != WEFT_OK && strstr(weft_last_error(), says), "status %d, \"%s\", which says no \"%s\"", status,
               weft_last_error(), says);
        weft_plan_destroy(plan);
    }
    expect(status != WEFT_OK && strstr(weft_last_error(), says), "status %d, \"%s\", which says no \"%s\"", status,
           weft_last_error(), says);
    conclude();
    weft_layout_destroy(layout);
    weft_model_destroy(model);
}

/* A layout of another number of ranks than there are. */
static void try_misfit(const char *text) {
    const weft_model_options options = model_options(&now.model);
    weft_model *model;
    weft_layout *layout;
    weft_params *params = NULL;
    weft_plan *plan = NULL;
    snprintf(stage, sizeof stage, "misfit: %s", text);
    must(weft_model_fill(&options, &model), "model_fill");
    must(weft_layout_parse(text, &layout), "layout_parse");
    const weft_plan_options o = plan_options(model, layout);
    const weft_status of_params = weft_params_create(contexts[0], model, layout, &params);
    expect(of_params == WEFT_ERR_ARGUMENT && strstr(weft_last_error(), text), "params: status %d, \"%s\"", of_params,
           weft_last_error());
    const weft_status of_plan = weft_plan_create(contexts[0], &o, &plan);
    expect(of_plan == WEFT_ERR_ARGUMENT && strstr(weft_last_error(), text), "plan: status %d, \"%s\"", of_plan,
           weft_last_error());
    conclude();
    weft_params_destroy(params);
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
}

/* Of n ranks: a number of ulysses ranks that does not divide them. */
static void try_indivisible(int n) {
    for (int m = 0; m <= n + 1; m++) {
        char text[32];
        if (m > 0 && n % m == 0) continue;
        snprintf(text, sizeof text, "cp%dusp%d", n, m);
        try_illegal(text, CONTEXT_BATCH, CONTEXT_LONGEST, "a divisor of cp");
    }
}

/* What lowering does not know (yet), beside each form of these ranks. */
static void try_unlowered(const context_layout *layouts, int nlayouts) {
    static const char *const terms[] = {"ep2", "dp2", "pp2", "zero1", "offload-activations"};
    for (int l = 0; l < nlayouts; l++)
        for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
            char text[80], says[128];
            weft_layout *layout;
            snprintf(text, sizeof text, "%s.%s", layouts[l].text, terms[i]);
            must(weft_layout_parse(text, &layout), "layout_parse");
            weft_layout_print(layout, text, sizeof text);
            weft_layout_destroy(layout);
            snprintf(says, sizeof says, "%s: not lowered yet", text);
            try_illegal(text, CONTEXT_BATCH, CONTEXT_LONGEST, says);
        }
}

static void try_refusals(const context_layout *layouts, int nlayouts) {
    static const struct {
        const char *term, *says;
    } terms[] = {{"", "needs one of the forms"}, {"ringo", "needs one of the forms"}, {"usp", "needs the ulysses ranks"},
                 {"ring.", "is an empty term"}, {"ring.cp2ring", "cp2ring"}, {"ring.sp2", "sp2"}};
    char text[80];
    context_case_open(&now, 0);
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) {
        snprintf(text, sizeof text, "cp%d%s", ranks, terms[i].term);
        try_illegal(text, CONTEXT_BATCH, CONTEXT_LONGEST, terms[i].says);
    }
    try_indivisible(ranks);
    try_unlowered(layouts, nlayouts);
    for (int l = 0; l < nlayouts; l++) {
        try_illegal(layouts[l].text, CONTEXT_BATCH, CONTEXT_LONGEST + 1, "131 tokens is longer than the model's 130 positions");
        snprintf(text, sizeof text, "%s.mb3", layouts[l].text);
        try_illegal(text, CONTEXT_BATCH, CONTEXT_LONGEST, "2 sequences cannot be cut into 3");
        snprintf(text, sizeof text, "%s.chunks2", layouts[l].text);
        if (layouts[l].tp == CONTEXT_TP1) try_illegal(text, CONTEXT_BATCH, CONTEXT_LONGEST, "chunks cuts what tp exchanges");
        snprintf(text, sizeof text, "tp7.%s", layouts[l].text);
        if (layouts[l].tp == CONTEXT_TP1) try_misfit(text);
    }
    context_case_close(&now);
}

/* ---- what a fault would look like ------------------------------------------------------------------------------------ */

/* One weight of one rank is another than the truth's. */
static void plant_weight(program *p, const outcome *right) {
    int32_t i = 0;
    while (p->params->tensor[i] != WF_T_QKV_WEIGHT) i++;
    const wf_shard_map *const map = &p->params->map[WF_T_QKV_WEIGHT];
    float *const shard = calloc((size_t)(map->rows * map->columns) + 1, sizeof *shard);
    must(weft_params_read(p->params, i, "", 0, shard), "params_read");
    shard[map->rows * map->columns - 1] += 0.01f; /* of a value, which no softmax hides */
    if (rank == ranks - 1) must(weft_params_write(p->params, i, "", 0, shard), "params_write");
    outcome wrong = run(p);
    snprintf(stage, sizeof stage, "planted: a weight, against one rank");
    compare_truth(p, &wrong);
    conclude_seen();
    snprintf(stage, sizeof stage, "planted: a weight, against the right bits");
    expect(same_bits(right, &wrong), "other bits");
    conclude_seen();
    forget(&wrong);
    free(shard);
}

/* A gradient that one rank alone has otherwise. */
static void plant_replica(program *p) {
    int32_t i = 0;
    while (p->params->tensor[i] != WF_T_NORM1_WEIGHT) i++;
    float bent[64] = {0};
    outcome right = run(p);
    must(weft_params_read(p->params, i, "grad", 0, bent), "params_read");
    bent[0] += 1e-6f * (float)(1 + fabs((double)bent[0]));
    if (rank == 0) must(weft_params_write(p->params, i, "grad", 0, bent), "params_write");
    snprintf(stage, sizeof stage, "planted: a gradient of rank 0 alone");
    compare_replicas(p->params, right.gradients);
    conclude_seen();
    forget(&right);
}

/* The window of the plan is one key shorter than the truth's. */
static void plant_window(const char *layout) {
    program p;
    now.model.window--;
    open_program(&p, contexts[0], layout);
    outcome wrong = run(&p);
    snprintf(stage, sizeof stage, "planted: a window of %lld", (long long)now.model.window);
    compare_truth(&p, &wrong);
    conclude_seen();
    forget(&wrong);
    close_program(&p);
    now.model.window++;
}

static void try_faults(const char *layout) {
    program p;
    int i = 0;
    while (!context_masks[context_rows_of(i).mask].window || context_sequences[context_rows_of(i).sequence] < CONTEXT_LONGEST)
        i++;
    context_case_open(&now, i);
    open_program(&p, contexts[0], layout);
    outcome right = run(&p);
    snprintf(stage, sizeof stage, "nothing planted");
    compare_truth(&p, &right);
    compare_replicas(p.params, right.gradients);
    conclude();
    plant_replica(&p);
    plant_weight(&p, &right);
    forget(&right);
    close_program(&p);
    plant_window(layout);
    context_case_close(&now);
}

/* ---- the command ----------------------------------------------------------------------------------------------------- */

/* The same on all ranks. */
static uint64_t seed_of(const char *text) {
    uint64_t seed = text ? strtoull(text, NULL, 10) : (uint64_t)time(NULL);
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    return seed;
}

/* "2/5": every fifth model, from the second on. */
static bool read_part(const char *text, int *part, int *parts) {
    *part = *parts = 1;
    return !text || (sscanf(text, "%d/%d", part, parts) == 2 && *part >= 1 && *part <= *parts);
}

static void try_part(const combination *all, int n, int part, int parts) {
    bool *const chosen = calloc((size_t)n, sizeof *chosen);
    for (int i = 0; i < n; i++) chosen[i] = all[i].model % parts == part - 1;
    try_all(all, n, chosen);
    free(chosen);
}

int main(int argc, char **argv) {
    const bool sample = argc > 1 && strcmp(argv[1], "sample") == 0;
    int provided, part = 1, parts = 1, n = 0;
    if (argc < 2 || (!sample && (strcmp(argv[1], "all") != 0 || !read_part(argv[2], &part, &parts)))) {
        fprintf(stderr, "usage: context_ranks sample [SEED] | all [I/N]\n");
        return 2;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    const uint64_t seed = seed_of(sample ? argv[2] : NULL);
    if (!rank && sample) printf("%d ranks: context_ranks sample %llu\n", ranks, (unsigned long long)seed), fflush(stdout);
    context_layout *layouts;
    const int nlayouts = context_layouts(ranks, &layouts);
    combination *const all = all_combinations(layouts, nlayouts, &n);
    open_contexts();
    try_refusals(layouts, nlayouts);
    if (sample) try_sample(all, n, seed);
    else try_part(all, n, part, parts);
    if (!rank) printf("  %d ranks: within %.1e of one rank\n", ranks, worst_seen);
    try_lent(layouts[0].text);
    try_faults(layouts[0].text);
    close_contexts();
    free(all);
    free(layouts);
    if (!rank)
        printf("%d%%: Checks: %d, Failures: %d, Errors: 0\n", 100 * (checks - failures) / checks, checks, failures);
    MPI_Finalize();
    return failures ? 1 : 0;
}
