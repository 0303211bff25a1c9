/* config.c: the config.json of a Hugging Face gpt2 becomes a wf_model.
 *
 * Fields and their defaults are those of transformers' GPT2Config; the sizes have no default here,
 * because a file without them is rather damaged than meant. Unknown fields are left alone (files
 * carry dozens that do not concern the architecture); those that change what is computed are
 * refused. One table of fields per type, so that every field is read and checked the same way. */
#include "host/model/config.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#define MOST_BYTES (16 << 20) /* a configuration is a few KiB; more is another kind of file */

typedef struct reader {
    const char *path;
    const json_t *root;
} reader;

/* The value as JSON text, cut for a sentence. */
static const char *shown(const json_t *value, char out[64]) {
    char *const text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    snprintf(out, 64, "%s", text ? text : "?");
    free(text);
    return out;
}

static wf_status bad(const reader *r, const char *field, const json_t *value, const char *want) {
    char text[64];
    if (!value) return wf_fail(WF_ERR_FILE, "%s: field %s is missing; it must be %s", r->path, field, want);
    return wf_fail(WF_ERR_FILE, "%s: field %s is %s; it must be %s", r->path, field, shown(value, text), want);
}

/* null counts as absent, as in transformers. */
static const json_t *get(const reader *r, const char *field) {
    const json_t *const value = json_object_get(r->root, field);
    return json_is_null(value) ? NULL : value;
}

static wf_status get_size(const reader *r, const char *field, int64_t most, int64_t *out) {
    const json_t *const value = get(r, field);
    char want[64];
    snprintf(want, sizeof want, "a whole number from 1 to %lld", (long long)most);
    if (!json_is_integer(value) || json_integer_value(value) < 1 || json_integer_value(value) > most)
        return bad(r, field, value, want);
    *out = json_integer_value(value);
    return WF_OK;
}

static wf_status get_real(const reader *r, const char *field, double low, double high, double otherwise, double *out) {
    const json_t *const value = get(r, field);
    char want[64];
    *out = otherwise;
    if (!value) return WF_OK;
    snprintf(want, sizeof want, "a number from %g up to and below %g", low, high);
    if (!json_is_number(value) || !(json_number_value(value) >= low && json_number_value(value) < high))
        return bad(r, field, value, want);
    *out = json_number_value(value);
    return WF_OK;
}

static wf_status get_flag(const reader *r, const char *field, bool otherwise, bool *out) {
    const json_t *const value = get(r, field);
    *out = otherwise;
    if (!value) return WF_OK;
    if (!json_is_boolean(value)) return bad(r, field, value, "true or false");
    *out = json_is_true(value);
    return WF_OK;
}

/* Names of transformers' ACT2FN that weft computes. */
static wf_status get_activation(const reader *r, int32_t *out) {
    static const struct {
        const char *name;
        int32_t activation;
    } known[] = {{"gelu_new", WF_ACT_GELU_TANH}, {"gelu_pytorch_tanh", WF_ACT_GELU_TANH}, {"gelu_fast", WF_ACT_GELU_TANH},
                 {"gelu", WF_ACT_GELU},          {"relu", WF_ACT_RELU},                   {"silu", WF_ACT_SILU},
                 {"swish", WF_ACT_SILU}};
    const json_t *const value = get(r, "activation_function");
    const char *const name = value ? json_string_value(value) : "gelu_new";
    for (size_t i = 0; name && i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].name, name) == 0) {
            *out = known[i].activation;
            return WF_OK;
        }
    char names[256] = "one of";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s %s", i ? "," : "", known[i].name);
    }
    return bad(r, "activation_function", value, names);
}

static wf_status check_variant(const reader *r) {
    static const struct {
        const char *field;
        bool legal, otherwise;
    } flags[] = {{"scale_attn_weights", true, true},
                 {"scale_attn_by_inverse_layer_idx", false, false},
                 {"reorder_and_upcast_attn", false, false},
                 {"add_cross_attention", false, false},
                 {"tie_word_embeddings", true, true}};
    const json_t *const type = get(r, "model_type");
    if (!json_is_string(type) || strcmp(json_string_value(type), "gpt2") != 0) return bad(r, "model_type", type, "\"gpt2\"");
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool value;
        TRY(get_flag(r, flags[i].field, flags[i].otherwise, &value));
        if (value != flags[i].legal)
            return wf_fail(WF_ERR_UNSUPPORTED, "%s: field %s is %s, a variant of gpt2 that weft does not compute", r->path,
                           flags[i].field, value ? "true" : "false");
    }
    return WF_OK;
}

static wf_status read_sizes(const reader *r, wf_model *m) {
    TRY(get_size(r, "n_layer", 10000, &m->layers));
    TRY(get_size(r, "n_embd", 1 << 20, &m->hidden));
    TRY(get_size(r, "n_head", 1 << 16, &m->heads));
    TRY(get_size(r, "vocab_size", 1 << 28, &m->vocabulary));
    /* Old files say n_ctx, which transformers reads as n_positions. */
    TRY(get_size(r, get(r, "n_positions") || !get(r, "n_ctx") ? "n_positions" : "n_ctx", 1 << 28, &m->positions));
    m->features = 4 * m->hidden;
    if (get(r, "n_inner")) TRY(get_size(r, "n_inner", 1 << 22, &m->features));
    if (m->hidden % m->heads != 0)
        return wf_fail(WF_ERR_FILE, "%s: field n_embd is %lld, not a multiple of n_head, %lld", r->path, (long long)m->hidden,
                       (long long)m->heads);
    m->kv_heads = m->heads;
    m->head_size = m->hidden / m->heads;
    return WF_OK;
}

static wf_status read_reals(const reader *r, wf_model *m) {
    TRY(get_real(r, "layer_norm_epsilon", 0, 1, 1e-5, &m->norm_epsilon));
    TRY(get_real(r, "initializer_range", 0, 100, 0.02, &m->init_std));
    TRY(get_real(r, "embd_pdrop", 0, 1, 0.1, &m->dropout_embedding));
    TRY(get_real(r, "attn_pdrop", 0, 1, 0.1, &m->dropout_attention));
    TRY(get_real(r, "resid_pdrop", 0, 1, 0.1, &m->dropout_residual));
    return WF_OK;
}

static wf_status read_model(const reader *r, wf_model *out) {
    wf_model m;
    memset(&m, 0, sizeof m);
    if (!json_is_object(r->root)) return wf_fail(WF_ERR_FILE, "%s: not a JSON object", r->path);
    TRY(check_variant(r));
    TRY(read_sizes(r, &m));
    TRY(read_reals(r, &m));
    TRY(get_activation(r, &m.activation));
    m.tied_head = true;
    m.biases = WF_BIASES_ALL;
    const wf_status status = wf_model_check(&m);
    if (status != WF_OK) {
        char why[512];
        snprintf(why, sizeof why, "%s", wf_last_error());
        return wf_fail(status, "%s: %s", r->path, why);
    }
    *out = m;
    return WF_OK;
}

static wf_status load(const char *path, json_t **out) {
    FILE *const file = fopen(path, "rb");
    if (!file) return wf_fail(WF_ERR_FILE, "cannot open model configuration %s: %s", path, strerror(errno));
    json_error_t error;
    wf_status status = WF_OK;
    json_t *root = NULL;
    if (fseek(file, 0, SEEK_END) != 0 || ftell(file) > MOST_BYTES || fseek(file, 0, SEEK_SET) != 0)
        status = wf_fail(WF_ERR_FILE, "%s: not a file, or larger than any model configuration (16 MiB)", path);
    else if (!(root = json_loadf(file, JSON_REJECT_DUPLICATES, &error)))
        status = wf_fail(WF_ERR_FILE, "%s: not JSON: %s in line %d, column %d", path, error.text, error.line, error.column);
    fclose(file);
    *out = root;
    return status;
}

wf_status wf_config_read(const char *path, wf_model *out) {
    json_t *root;
    TRY(load(path, &root));
    const reader r = {path, root};
    const wf_status status = read_model(&r, out);
    json_decref(root);
    return status;
}
