/* attention_support.h: what the two suites of attention share: case texts, and one problem cut into pieces of queries, keys and
 * heads. */
#ifndef WF_TESTS_KERNELS_ATTENTION_SUPPORT_H
#define WF_TESTS_KERNELS_ATTENTION_SUPPORT_H

#include <math.h>

#include "host/run/verify.h"
#include "kernels/attention.h"
#include "tests/host/device_support.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static inline wf_problem parse(const char *text) {
    wf_problem problem;
    ck_assert_msg(wf_problem_parse(text, &problem) == WF_OK, "%s", wf_last_error());
    return problem;
}

/* The forward problem's operands among a backward's: Q, K, V, qspan where there is one, O like Q, lse; the data of the
 * outputs is the caller's. */
static inline void run_forward(const wf_case *test, const wf_problem *forward, double *o, double *lse) {
    const wf_attention a = wf_attention_sizes(forward);
    wf_tensor t[WF_OPERANDS] = {test->before[0], test->before[1], test->before[2], test->before[6]};
    t[a.output] = test->before[0];
    t[a.output].data = o;
    t[a.output + 1] = test->before[4];
    t[a.output + 1].data = lse;
    wf_attention_reference(forward, t, test->run);
}

/* Makes lse and delta those of the case's own Q, K, V, dO, and the gradients with them. */
static inline void make_consistent(wf_case *test, const wf_problem *forward) {
    wf_tensor o = test->before[0];
    o.data = calloc((size_t)test->count[0] + 1, sizeof(double));
    run_forward(test, forward, o.data, test->before[4].data);
    wf_attention_delta_reference(forward, (wf_tensor[]){o, test->before[3], test->before[5]}, test->run);
    free(o.data);
}

/* ---- in pieces ------------------------------------------------------------------------------- */

/* Forward problems: whole groups of heads, shards of them, masks, keys that nobody sees, dropout at odd positions. */
static const char *const divided[] = {
    "attention:f32:b2s37h2d8",
    "attention:f32:b2s37h2d8:causal",
    "attention:f32:b1s40t37h1d8w9",
    "attention:f32:b1s40h2kv1d8w5:causal",
    "attention:f32:b2s21h6kv2d8:causal",
    "attention:f32:b1s20h1d8ko100:causal",
    "attention:f32:b1s35t41h4kv2d8ho4hn9po7ko5site2:causal.dropout:p=0.3",
    "attention:f32:b2s37h5kv3d8ho2hn8site2group3:causal.dropout:p=0.1",
    "attention:f32:b1s19t27h3d33",
    "attention:f32:b2s37h2d8:causal.documents",
    "attention:f32:b2s35t41h4kv2d8ho4hn9po7ko5site2w19:dropout.documents:p=0.3",
};

/* Queries, keys and query heads of one piece: first and end. */
enum { QUERIES, KEYS, HEADS, AXES };
typedef struct piece {
    int64_t first[AXES], end[AXES];
} piece;

enum { CUTS = 4, PIECES = CUTS * CUTS * 2 };

/* 0, ..., n in `parts` parts of any length, 0 too. */
static inline void cut(wf_stream *stream, int64_t n, int parts, int64_t at[CUTS + 1]) {
    at[0] = 0;
    for (int i = 1; i < parts; i++) at[i] = wf_stream_range(stream, 0, n);
    at[parts] = n;
    for (int i = 1; i < parts; i++)
        for (int j = i; j > 1 && at[j] < at[j - 1]; j--) {
            const int64_t swapped = at[j];
            at[j] = at[j - 1];
            at[j - 1] = swapped;
        }
}

/* All pairs of query, key and head, each in one piece; the pieces in the order of the keys (0), against it (1) or in
 * any. */
static inline void divide(const wf_attention *a, wf_stream *stream, int order, piece out[PIECES]) {
    int64_t at[AXES][CUTS + 1];
    cut(stream, a->s, CUTS, at[QUERIES]);
    cut(stream, a->kv, CUTS, at[KEYS]);
    cut(stream, a->hq, 2, at[HEADS]);
    for (int n = 0; n < PIECES; n++) {
        const int part[AXES] = {n / 2 % CUTS, n / 2 / CUTS, n % 2};
        for (int axis = 0; axis < AXES; axis++) {
            out[n].first[axis] = at[axis][part[axis]];
            out[n].end[axis] = at[axis][part[axis] + 1];
        }
    }
    for (int n = 0; order && n < PIECES; n++) {
        const int other = order == 1 ? PIECES - 1 - n : (int)wf_stream_range(stream, n, PIECES - 1);
        const piece swapped = out[n];
        if (other < n) continue;
        out[n] = out[other];
        out[other] = swapped;
    }
}

/* The heads of a piece may begin and end inside a kv head's group. */
static inline wf_problem problem_of(const wf_problem *whole, const piece *part) {
    const wf_attention a = wf_attention_sizes(whole);
    const int64_t heads = part->end[HEADS] - part->first[HEADS];
    const int64_t kv_first = wf_attention_kv_head(&a, part->first[HEADS]);
    const int64_t hkv = heads ? wf_attention_kv_head(&a, part->end[HEADS] - 1) - kv_first + 1 : 0;
    wf_problem p = {.op = whole->op, .flags = whole->flags | WF_ACCUMULATE, .real = {a.p},
                    .size = {a.b, part->end[QUERIES] - part->first[QUERIES], part->end[KEYS] - part->first[KEYS], heads,
                             hkv, a.d, a.head0 + part->first[HEADS], a.heads, a.pos0 + part->first[QUERIES],
                             a.kpos0 + part->first[KEYS], a.site, a.window, a.per_kv}};
    ck_ok(wf_problem_check(&p));
    ck_assert_int_eq(p.size[6] % a.per_kv, (a.lead + part->first[HEADS]) % a.per_kv);
    return p;
}

/* Elements of the whole operand before the piece's first. */
static inline int64_t offset_of(const wf_problem *whole, const piece *part, const wf_operand *operand, const int64_t *stride) {
    const wf_attention a = wf_attention_sizes(whole);
    const bool keys = strchr("KV", operand->name[strlen(operand->name) - 1]) != NULL;
    const int64_t head = part->first[HEADS];
    if (operand->dtype == WF_I32) return part->first[*operand->name == 'k' ? KEYS : QUERIES] * stride[0];
    if (operand->ndim == 3) return head * stride[1] + part->first[QUERIES];
    return part->first[keys ? KEYS : QUERIES] * stride[0] + (keys ? wf_attention_kv_head(&a, head) : head) * stride[2];
}

/* The start of a sum: no key seen, whatever O holds; gradients of 0. */
static inline double start_of(const wf_problem *p, const wf_operand *operand) {
    return p->op == WF_OP_ATTENTION_BACKWARD ? 0 : operand->ndim == 3 ? -INFINITY : NAN;
}

static inline wf_case *whole_case(int which, int op, wf_problem *problem, uint64_t from) {
    wf_case *test = NULL;
    *problem = parse(divided[which]);
    problem->op = op;
    ck_ok(wf_case_create(wf_operations[op], problem, from, &test));
    return test;
}

#endif
