/* model.c: models of weft.h: a preset by name, a Hugging Face config.json by path, or filled in by the caller. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "host/api/objects.h"
#include "host/model/checkpoint.h"
#include "host/model/config.h"
#include "kernels/activation.h"

static bool looks_like_path(const char *text) {
    const size_t n = strlen(text);
    struct stat st;
    return strchr(text, '/') || (n > 5 && strcmp(text + n - 5, ".json") == 0) || stat(text, &st) == 0;
}

/* A folder means its config.json. */
static wf_status read_path(const char *path, wf_model *out) {
    struct stat st;
    char inside[4096];
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) return wf_config_read(path, out);
    if ((size_t)snprintf(inside, sizeof inside, "%s/config.json", path) >= sizeof inside)
        return wf_fail(WF_ERR_ARGUMENT, "model path is longer than %zu bytes", sizeof inside);
    return wf_config_read(inside, out);
}

static wf_status find(const char *text, wf_model *out) {
    if (!text || !*text) return wf_fail(WF_ERR_ARGUMENT, "no model was named: give a preset or the path of a config.json");
    TRY(wf_checkpoint_recover(text)); /* a preset's name, too, may be a folder's */
    if (looks_like_path(text)) return read_path(text, out);
    if (wf_model_preset(text, out) == WF_OK) return WF_OK;
    char why[512];
    snprintf(why, sizeof why, "%s", wf_last_error());
    return wf_fail(WF_ERR_ARGUMENT, "%s, and no file has this name", why);
}

static wf_status wrap(const wf_model *model, weft_model **out) {
    weft_model *const m = calloc(1, sizeof *m);
    if (!m) return wf_fail(WF_ERR_MEMORY, "no host memory for a model");
    m->model = *model;
    *out = m;
    return WF_OK;
}

weft_status weft_model_create(const char *preset_or_path, weft_model **out) {
    wf_model model;
    wf_status status = find(preset_or_path, &model);
    if (status == WF_OK) status = wf_model_check(&model);
    if (status == WF_OK) status = wrap(&model, out);
    return weft_from(status);
}

weft_status weft_model_fill(const weft_model_options *options, weft_model **out) {
    wf_model model;
    wf_status status = weft_model_from_options(options, &model);
    if (status == WF_OK) status = wrap(&model, out);
    return weft_from(status);
}

void weft_model_destroy(weft_model *m) {
    free(m);
}

void weft_model_describe(const weft_model *object, weft_model_info *out) {
    static const char *const families[WF_FAMILIES] = {
        [WF_FAMILY_GPT2] = "gpt2", [WF_FAMILY_LLAMA] = "llama", [WF_FAMILY_BERT] = "bert"};
    const wf_model *const m = &object->model;
    *out = (weft_model_info){
        .layers = m->layers,
        .hidden = m->hidden,
        .heads = m->heads,
        .features = m->features,
        .vocabulary = m->vocabulary,
        .positions = m->positions,
        .parameters = wf_model_parameter_count(m),
        .dropout_embedding = m->dropout_embedding,
        .dropout_attention = m->dropout_attention,
        .dropout_residual = m->dropout_residual,
        .norm_epsilon = m->norm_epsilon,
        .activation = wf_activations[m->activation].name,
        .kv_heads = m->kv_heads,
        .head_size = m->head_size,
        .types = m->types,
        .window = m->window,
        .family = families[m->family],
        .bidirectional = m->bidirectional,
        .gated = m->gated,
        .has_head = m->head_form != WF_HEAD_NONE,
    };
}
