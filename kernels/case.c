/* case.c: the text of a problem, "gemm:f32:m512n384k1000:nt.bias.gelu_tanh", the same in verify,
 * bench, tune, tests, logs and wisdom.
 *
 *     operation : dtype : sizes [: flags] [: reals]
 *
 *     sizes   name then digits, in any order, zeros left out (unless the operation's `complete`
 *             would put something else there): rows6n768
 *     flags   words joined by dots. GEMM's transposes are one word, nn nt tn tt. An activation's
 *             name alone means "activate"; with act-grad it names the gradient. (GATE always has one,
 *             and no flag for it.)
 *     reals   name=value joined by commas, zeros left out: p=0.1,eps=1e-05
 *
 * Printing a parsed text gives the canonical form (declared order); parsing that gives the problem. */
#include "kernels/operation.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/table.h"

static const char *const dtype_names[WF_DTYPES] = {"f32", "i32", "f64"};

static const struct {
    uint32_t flag;
    const char *word;
} words[] = {
    {WF_ACCUMULATE, "accumulate"}, {WF_BIAS, "bias"},         {WF_ACT_GRAD, "act-grad"},
    {WF_DROPOUT, "dropout"},       {WF_RESIDUAL, "residual"}, {WF_NORM, "norm"},
    {WF_CAUSAL, "causal"},         {WF_DECAY, "decay"},       {WF_RMS, "rms"},
    {WF_INVERSE, "inverse"},       {WF_PANELS_B, "panels-b"}, {WF_PANELS_C, "panels-c"},
    {WF_DOCUMENTS, "documents"},
};
enum { WORDS = sizeof words / sizeof *words };

/* ---- printing -------------------------------------------------------------------------------- */

static void print_flag(char *out, size_t bytes, bool *first, const char *word) {
    wf_append(out, bytes, "%c%s", *first ? ':' : '.', word);
    *first = false;
}

static void print_flags(const wf_problem *p, const wf_operation *op, char *out, size_t bytes) {
    bool first = true;
    if (op->flags & WF_TRANS_A) {
        const char transposes[3] = {p->flags & WF_TRANS_A ? 't' : 'n',
                                    p->flags & WF_TRANS_B ? 't' : 'n', 0};
        print_flag(out, bytes, &first, transposes);
    }
    for (int i = 0; i < WORDS; i++)
        if (p->flags & words[i].flag) print_flag(out, bytes, &first, words[i].word);
    if (p->activation) print_flag(out, bytes, &first, wf_activations[p->activation].name);
}

/* The fewest digits that read back as the same number. */
static void print_real(char *out, size_t bytes, double value) {
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value) break;
    }
    wf_append(out, bytes, "%s", text);
}

static void print_sizes(const wf_problem *p, const wf_operation *op, char *out, size_t bytes) {
    wf_problem read_back = *p;
    uint32_t given = 0;
    for (int i = 0; i < WF_SIZES; i++) given |= p->size[i] ? 1u << i : 0u;
    if (op->complete) op->complete(&read_back, given);
    for (int i = 0; i < WF_SIZES && op->size_names[i]; i++)
        if (read_back.size[i])
            wf_append(out, bytes, "%s%lld", op->size_names[i], (long long)p->size[i]);
}

void wf_problem_print(const wf_problem *p, char *out, size_t out_bytes) {
    const wf_operation *op = wf_operations[p->op];
    out[0] = 0;
    wf_append(out, out_bytes, "%s:%s:", op->name, dtype_names[p->dtype]);
    print_sizes(p, op, out, out_bytes);
    print_flags(p, op, out, out_bytes);
    bool first = true;
    for (int i = 0; i < WF_REALS && op->real_names[i]; i++) {
        if (p->real[i] == 0) continue;
        wf_append(out, out_bytes, "%c%s=", first ? ':' : ',', op->real_names[i]);
        print_real(out, out_bytes, p->real[i]);
        first = false;
    }
}

/* ---- parsing --------------------------------------------------------------------------------- */

typedef struct reader {
    const char *text, *at;
} reader;

static wf_status complain(const reader *r, const char *what) {
    return wf_fail(WF_ERR_ARGUMENT, "case '%.120s': %s at character %d, near '%.12s'", r->text,
                   what, (int)(r->at - r->text) + 1, *r->at ? r->at : "the end");
}

/* Length of the word at r->at, up to one of `ends` or the end. */
static size_t word_length(const reader *r, const char *ends) {
    return strcspn(r->at, ends);
}

static bool is_word(const reader *r, size_t length, const char *word) {
    return strlen(word) == length && strncmp(r->at, word, length) == 0;
}

static wf_status parse_operation(reader *r, wf_problem *out) {
    const size_t length = word_length(r, ":");
    for (int i = 0; i < WF_OPS; i++) {
        if (!wf_operations[i] || !is_word(r, length, wf_operations[i]->name)) continue;
        out->op = i;
        r->at += length;
        return WF_OK;
    }
    return complain(r, "no such operation");
}

static wf_status parse_dtype(reader *r, wf_problem *out) {
    const size_t length = word_length(r, ":");
    for (int i = 0; i < WF_DTYPES; i++) {
        if (!is_word(r, length, dtype_names[i])) continue;
        out->dtype = i;
        r->at += length;
        return WF_OK;
    }
    return complain(r, "no such dtype");
}

static int find_name(const char *const *names, int n, const reader *r, size_t length) {
    for (int i = 0; i < n && names[i]; i++)
        if (is_word(r, length, names[i])) return i;
    return -1;
}

static wf_status parse_size(reader *r, const wf_operation *op, uint32_t *seen, wf_problem *out) {
    size_t letters = 0;
    while (isalpha((unsigned char)r->at[letters]) || r->at[letters] == '_') letters++;
    const int i = find_name(op->size_names, WF_SIZES, r, letters);
    if (i < 0) return complain(r, "no such size");
    if (*seen & (1u << i)) return complain(r, "the size is given twice");
    *seen |= 1u << i;
    const char *digit = r->at + letters;
    if (!isdigit((unsigned char)*digit)) return complain(r, "a size without digits");
    int64_t value = 0;
    for (; isdigit((unsigned char)*digit); digit++)
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, *digit - '0', &value))
            return complain(r, "the size is too large");
    out->size[i] = value;
    r->at = digit;
    return WF_OK;
}

static wf_status parse_sizes(reader *r, const wf_operation *op, wf_problem *out) {
    uint32_t seen = 0;
    while (*r->at && *r->at != ':') TRY(parse_size(r, op, &seen, out));
    if (op->complete) op->complete(out, seen);
    return WF_OK;
}

/* The transposes' word, a flag's, or an activation's name; 0 when it is none of the operation's. */
static bool take_flag(const reader *r, size_t length, const wf_operation *op, wf_problem *out) {
    static const char *const transposes[4] = {"nn", "tn", "nt", "tt"};
    for (int i = 0; i < 4 && (op->flags & WF_TRANS_A); i++) {
        if (!is_word(r, length, transposes[i])) continue;
        out->flags |= (i & 1 ? WF_TRANS_A : 0u) | (i & 2 ? WF_TRANS_B : 0u);
        return true;
    }
    for (int i = 0; i < WORDS; i++) {
        if (!(op->flags & words[i].flag) || !is_word(r, length, words[i].word)) continue;
        out->flags |= words[i].flag;
        return true;
    }
    for (int i = 1; i < WF_ACTS && op->activation; i++) {
        if (!is_word(r, length, wf_activations[i].name)) continue;
        out->activation = i;
        return true;
    }
    return false;
}

static wf_status parse_flags(reader *r, const wf_operation *op, wf_problem *out) {
    for (;;) {
        const size_t length = word_length(r, ".:");
        if (!take_flag(r, length, op, out)) return complain(r, "no such flag");
        r->at += length;
        if (*r->at != '.') break;
        r->at++;
    }
    if (out->activation && !(out->flags & WF_ACT_GRAD)) out->flags |= op->flags & WF_ACTIVATE;
    return WF_OK;
}

static wf_status parse_reals(reader *r, const wf_operation *op, wf_problem *out) {
    for (;;) {
        const size_t length = word_length(r, "=,:");
        const int i = find_name(op->real_names, WF_REALS, r, length);
        if (i < 0) return complain(r, "no such number");
        if (r->at[length] != '=') return complain(r, "a number without '='");
        r->at += length + 1;
        char *end;
        out->real[i] = strtod(r->at, &end);
        if (end == r->at || (*end && *end != ',' && *end != ':'))
            return complain(r, "not a number");
        r->at = end;
        if (*r->at != ',') return WF_OK;
        r->at++;
    }
}

/* Flags, then reals; a field with '=' is one of reals. */
static wf_status parse_tail(reader *r, const wf_operation *op, wf_problem *out) {
    bool flags = false, reals = false;
    while (*r->at == ':') {
        r->at++;
        const size_t length = word_length(r, ":");
        const bool is_reals = memchr(r->at, '=', length) != NULL;
        if (reals || (flags && !is_reals)) return complain(r, "one field too many");
        *(is_reals ? &reals : &flags) = true;
        TRY((is_reals ? parse_reals : parse_flags)(r, op, out));
    }
    return *r->at ? complain(r, "unexpected text") : WF_OK;
}

wf_status wf_problem_parse(const char *text, wf_problem *out) {
    wf_problem problem = {0};
    reader r = {text, text};
    TRY(parse_operation(&r, &problem));
    if (*r.at++ != ':') return r.at--, complain(&r, "a dtype is missing");
    TRY(parse_dtype(&r, &problem));
    if (*r.at++ != ':') return r.at--, complain(&r, "sizes are missing");
    const wf_operation *op = wf_operations[problem.op];
    TRY(parse_sizes(&r, op, &problem));
    TRY(parse_tail(&r, op, &problem));
    TRY(wf_problem_check(&problem));
    *out = problem;
    return WF_OK;
}
