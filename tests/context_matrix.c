/* context_matrix.c: the cases and layouts of context_matrix.h. */
#include "tests/context_matrix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"

enum { WORDS = 13 };

/* ---- layouts --------------------------------------------------------------------------------------------------------- */

static void add(context_layout *out, int *n, int tp, int form, const char *text) {
    out[*n] = (context_layout){.tp = tp, .form = form};
    snprintf(out[*n].text, sizeof out->text, "%s", text);
    ++*n;
}

/* All forms of cp over the n ranks that tp leaves. */
static void add_forms(context_layout *out, int *count, int tp, int n) {
    static const char *const tps[CONTEXT_TPS] = {"", "tp2", "tp2.sp"};
    static const char *const forms[] = {[CONTEXT_RING] = "ring", [CONTEXT_GATHER] = "gather", [CONTEXT_ULYSSES] = "ulysses"};
    const char *const dot = tp == CONTEXT_TP1 ? "" : ".";
    char text[sizeof out->text];
    if (n == 1 && tp != CONTEXT_TP1) add(out, count, tp, CONTEXT_NO_FORM, tps[tp]);
    for (int form = CONTEXT_RING; form < CONTEXT_USP && n > 1; form++) {
        snprintf(text, sizeof text, "%s%scp%d%s", tps[tp], dot, n, forms[form]);
        add(out, count, tp, form, text);
    }
    for (int m = 2; m < n; m++) {
        if (n % m) continue;
        snprintf(text, sizeof text, "%s%scp%dusp%d", tps[tp], dot, n, m);
        add(out, count, tp, CONTEXT_USP + m, text);
    }
}

int context_layouts(int ranks, context_layout **out) {
    int n = 0;
    *out = malloc(sizeof **out * (size_t)(CONTEXT_TPS * (CONTEXT_USP + ranks)));
    for (int tp = 0; tp < CONTEXT_TPS; tp++) {
        const int parts = tp == CONTEXT_TP1 ? 1 : 2;
        if (ranks % parts == 0) add_forms(*out, &n, tp, ranks / parts);
    }
    return n;
}

/* ---- models ---------------------------------------------------------------------------------------------------------- */

static wf_model model_of(const context_mask *mask, const struct context_heads *heads) {
    const bool rotary = heads->kv_heads != heads->heads;
    return (wf_model){.layers = 1, .hidden = 20, .heads = heads->heads, .kv_heads = heads->kv_heads, .head_size = 4,
                      .features = 11, .vocabulary = WORDS, .positions = CONTEXT_LONGEST, .activation = WF_ACT_GELU_TANH,
                      .biases = WF_BIASES_ALL, .norm_epsilon = 1e-5, .init_std = 0.2, .tied_head = true,
                      .dropout_embedding = 0.1, .dropout_attention = 0.1, .dropout_residual = 0.1,
                      .position_form = rotary ? WF_POSITIONS_ROPE : WF_POSITIONS_LEARNED, .rope_theta = rotary ? 100 : 0,
                      .bidirectional = mask->bidirectional, .window = mask->window};
}

/* One in eight is of a single token. */
static void make_documents(context_case *c, int64_t count) {
    static const uint32_t key[2] = {17, 19};
    for (int32_t t = 0, end = 0, n = 0; t < count; t++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)t}, key, words);
        if (t == end) end += words[0] % 8 ? 1 + (int32_t)(words[1] % 24) : 1, n++;
        c->documents[t] = n;
    }
}

static void fill_batch(context_case *c, int64_t sequence) {
    static const uint32_t key[2] = {11, 13};
    const int used = (int)(CONTEXT_BATCH * sequence);
    for (int t = 0; t < used; t++) {
        uint32_t words[4];
        wf_philox4x32((const uint32_t[4]){(uint32_t)t}, key, words);
        c->tokens[t] = (int32_t)(words[0] % WORDS);
        c->targets[t] = t < 8 ? (int32_t)(words[1] % WORDS) : t % 3 ? -1 : (int32_t)(words[2] % WORDS);
        c->valid += c->targets[t] >= 0;
    }
    for (int t = used; t-- > 0 && c->valid & (c->valid - 1);) {
        c->valid -= c->targets[t] >= 0;
        c->targets[t] = -1;
    }
    make_documents(c, used);
    c->batch = (reference_batch){.batch = CONTEXT_BATCH, .sequence = sequence, .tokens = c->tokens, .targets = c->targets,
                                 .documents = c->packed ? c->documents : NULL, .seed = CONTEXT_SEED, .dropout = true};
}

/* Biases and norms are moved off their 0 and 1. */
static void fill_weights(context_case *c) {
    static const uint32_t key[2] = {11, 13};
    c->weights = reference_tensors_create(&c->model);
    reference_initialise(&c->model, CONTEXT_SEED, &c->weights);
    for (int t = 0; t < WF_TENSORS; t++)
        for (int64_t e = 0; e < reference_count(&c->model, t); e++) {
            double *const w = &c->weights.data[t][e];
            *w = (double)(float)(*w + 0.05 * wf_philox_normal(key, 200 + (uint32_t)t % 50, 0, e, 0));
        }
}

void context_case_solve(context_case *c) {
    const reference_outputs outputs = {.last = c->last};
    c->loss = model_reference(&c->model, &c->weights, &c->batch, &outputs, &c->gradients);
}

context_rows context_rows_of(int i) {
    return (context_rows){.mask = i / CONTEXT_SEQUENCES / CONTEXT_HEADS, .heads = i / CONTEXT_SEQUENCES % CONTEXT_HEADS,
                          .sequence = i % CONTEXT_SEQUENCES};
}

void context_case_open(context_case *c, int i) {
    const context_rows of = context_rows_of(i);
    const context_mask *const mask = &context_masks[of.mask];
    const struct context_heads *const heads = &context_heads[of.heads];
    const int64_t sequence = context_sequences[of.sequence];
    *c = (context_case){.model = model_of(mask, heads), .packed = mask->packed};
    fill_batch(c, sequence);
    fill_weights(c);
    c->gradients = reference_tensors_create(&c->model);
    c->last = malloc(sizeof *c->last * (size_t)(CONTEXT_BATCH * sequence * c->model.hidden));
    snprintf(c->name, sizeof c->name, "%s, %lld heads of %lld, %lld tokens", mask->name, (long long)heads->heads,
             (long long)heads->kv_heads, (long long)sequence);
    context_case_solve(c);
}

void context_case_close(context_case *c) {
    reference_tensors_destroy(&c->weights);
    reference_tensors_destroy(&c->gradients);
    free(c->last);
}
