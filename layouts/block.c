/* block.c: the text of a block case; see block.h. */
#include "layouts/block.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "kernels/activation.h"
#include "kernels/table.h"

enum { B, S, H, A, KV, D, F, L, W, SIZES };
static const char *const size_names[SIZES] = {"b", "s", "h", "a", "kv", "d", "f", "l", "w"};

/* Words and what each sets. */
typedef enum flag { LAYERNORM, RMSNORM, CAUSAL, GATED, ROPE, POST_NORM, NO_BIAS, FLAGS } flag;
static const char *const flag_names[FLAGS] = {"layernorm", "rmsnorm", "causal", "gated", "rope", "post-norm", "no-bias"};

typedef struct reader {
    const char *text, *at;
    int64_t size[SIZES];
    bool flag[FLAGS];
    int32_t activation;
} reader;

static wf_status complain(const reader *r, const char *what) {
    return wf_fail(WF_ERR_ARGUMENT, "case '%.120s': %s at character %d, near '%.12s'", r->text, what, (int)(r->at - r->text) + 1,
                   *r->at ? r->at : "the end");
}

static bool is_word(const reader *r, size_t length, const char *word) {
    return strlen(word) == length && strncmp(r->at, word, length) == 0;
}

bool wf_block_is(const char *text) {
    return strncmp(text, "block", 5) == 0 && (text[5] == ':' || !text[5]);
}

/* ---- parsing -------------------------------------------------------------------------------------- */

static wf_status take(reader *r, const char *word, const char *missing) {
    const size_t length = strlen(word);
    if (strncmp(r->at, word, length) != 0) return complain(r, missing);
    r->at += length;
    return WF_OK;
}

static wf_status parse_size(reader *r) {
    size_t letters = 0;
    int which = 0;
    while (isalpha((unsigned char)r->at[letters])) letters++;
    while (which < SIZES && !is_word(r, letters, size_names[which])) which++;
    if (which == SIZES) return complain(r, "no such size");
    if (r->size[which]) return complain(r, "the size is given twice");
    const char *digit = r->at + letters;
    if (!isdigit((unsigned char)*digit)) return complain(r, "a size without digits");
    for (; isdigit((unsigned char)*digit); digit++)
        if (__builtin_mul_overflow(r->size[which], 10, &r->size[which]) ||
            __builtin_add_overflow(r->size[which], *digit - '0', &r->size[which]))
            return complain(r, "the size is too large");
    if (!r->size[which]) return complain(r, "a size of 0");
    r->at = digit;
    return WF_OK;
}

static wf_status parse_sizes(reader *r) {
    while (*r->at && *r->at != ':') TRY(parse_size(r));
    for (int i = B; i <= A; i++)
        if (!r->size[i]) return complain(r, "b, s, h and a are needed; one is missing");
    if (!r->size[D] && r->size[H] % r->size[A]) return complain(r, "h does not divide among a heads (or say d)");
    if (!r->size[D]) r->size[D] = r->size[H] / r->size[A];
    if (!r->size[KV]) r->size[KV] = r->size[A];
    if (!r->size[F]) r->size[F] = 4 * r->size[H];
    if (!r->size[L]) r->size[L] = 1;
    return WF_OK;
}

static bool take_flag(reader *r, size_t length) {
    for (int i = 0; i < FLAGS; i++)
        if (is_word(r, length, flag_names[i])) return r->flag[i] = true;
    for (int i = 1; i < WF_ACTS; i++)
        if (is_word(r, length, wf_activations[i].name) && !r->activation) return r->activation = i, true;
    return false;
}

static wf_status parse_flags(reader *r) {
    for (;;) {
        const size_t length = strcspn(r->at, ".:");
        if (!take_flag(r, length)) return complain(r, "no such flag");
        r->at += length;
        if (*r->at != '.') break;
        r->at++;
    }
    if (!r->activation) return complain(r, "no activation among the flags");
    if (r->flag[LAYERNORM] == r->flag[RMSNORM]) return complain(r, "the flags must say layernorm or rmsnorm");
    return WF_OK;
}

static wf_model model_of(const reader *r) {
    return (wf_model){.layers = r->size[L],
                      .hidden = r->size[H],
                      .heads = r->size[A],
                      .kv_heads = r->size[KV],
                      .head_size = r->size[D],
                      .features = r->size[F],
                      .vocabulary = 1,
                      .positions = r->size[S],
                      .window = r->size[W],
                      .norm = r->flag[RMSNORM] ? WF_RMSNORM : WF_LAYERNORM,
                      .position_form = r->flag[ROPE] ? WF_POSITIONS_ROPE : WF_POSITIONS_NONE,
                      .activation = r->activation,
                      .biases = r->flag[NO_BIAS] ? 0 : WF_BIASES_ALL,
                      .gated = r->flag[GATED],
                      .post_norm = r->flag[POST_NORM],
                      .bidirectional = !r->flag[CAUSAL],
                      .tied_head = true,
                      .norm_epsilon = 1e-5,
                      .init_std = 0.02,
                      .rope_theta = r->flag[ROPE] ? 10000 : 0};
}

wf_status wf_block_parse(const char *text, wf_block *out) {
    reader r = {.text = text, .at = text};
    TRY(take(&r, "block:", "no such operation"));
    TRY(take(&r, "f32:", "blocks are f32:"));
    TRY(parse_sizes(&r));
    TRY(take(&r, ":", "flags are missing"));
    TRY(parse_flags(&r));
    TRY(take(&r, ":", "forward or train is missing"));
    const bool train = strcmp(r.at, "train") == 0;
    if (!train && strcmp(r.at, "forward") != 0) return complain(&r, "neither forward nor train");
    wf_block block = {.model = model_of(&r), .shape = {r.size[B], r.size[S]}, .train = train};
    TRY(wf_model_check(&block.model));
    block.model.window = wf_model_window(&block.model, block.shape.sequence);
    *out = block;
    return WF_OK;
}

/* ---- printing -------------------------------------------------------------------------------------- */

void wf_block_print(const wf_block *block, char *out, size_t out_bytes) {
    const wf_model *const m = &block->model;
    const bool flags[FLAGS] = {m->norm == WF_LAYERNORM, m->norm == WF_RMSNORM, !m->bidirectional, m->gated,
                               m->position_form == WF_POSITIONS_ROPE, m->post_norm, !m->biases};
    out[0] = 0;
    wf_append(out, out_bytes, "block:f32:b%llds%lldh%llda%lld", (long long)block->shape.batch, (long long)block->shape.sequence,
              (long long)m->hidden, (long long)m->heads);
    if (m->kv_heads != m->heads) wf_append(out, out_bytes, "kv%lld", (long long)m->kv_heads);
    if (m->head_size * m->heads != m->hidden) wf_append(out, out_bytes, "d%lld", (long long)m->head_size);
    if (m->features != 4 * m->hidden) wf_append(out, out_bytes, "f%lld", (long long)m->features);
    if (m->layers != 1) wf_append(out, out_bytes, "l%lld", (long long)m->layers);
    if (m->window) wf_append(out, out_bytes, "w%lld", (long long)m->window);
    wf_append(out, out_bytes, ":%s", wf_activations[m->activation].name);
    for (int i = 0; i < FLAGS; i++)
        if (flags[i]) wf_append(out, out_bytes, ".%s", flag_names[i]);
    wf_append(out, out_bytes, ":%s", block->train ? "train" : "forward");
}
