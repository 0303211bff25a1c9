/* weights_write.c: a model's tensors under its family's names, one after another: fused ones cut
 * into their pieces, transposes turned back. */
#include <stdlib.h>
#include <string.h>

#include "host/model/weights.h"

enum { NAME_BYTES = 512, ROOM = 1 << 18 /* elements turned at a time */ };

struct wf_weights_writer {
    wf_model model;
    wf_parameter_info info[WF_TENSORS];
    wf_safetensors_writer *file;
    float *room;
};

static int64_t instances(const wf_model *m, const wf_parameter_info *info) {
    return !info->rows ? 0 : info->per_layer ? m->layers : 1;
}

/* Calls `add` for each name of the tensor that is written. */
static bool is_written(const wf_model *m, const wf_name *name, int tensor) {
    return name->tensor == tensor && !wf_name_again(name) && wf_name_applies(m, name);
}

/* ---- what the file will hold
 * ---------------------------------------------------------------------------- */

typedef struct list {
    wf_tensor_plan *plan;
    char (*name)[NAME_BYTES];
    int64_t count;
} list;

static void add(list *l, const wf_model *m, const wf_parameter_info *info, const wf_name *name,
                const char *set, int64_t instance) {
    const int64_t rows = wf_name_rows(m, info, name).count;
    const bool turned = name->form & WF_NAME_TRANSPOSED;
    if (l->plan) {
        wf_name_print(name, set, wf_names_of(m)->prefix, instance, l->name[l->count], NAME_BYTES);
        l->plan[l->count] = (wf_tensor_plan){l->name[l->count], turned ? info->columns : rows,
                                             turned ? rows : info->columns, !info->matrix};
    }
    l->count++;
}

/* Counts only, where there is no room yet. */
static void list_all(list *l, const wf_weights_writer *w, const char *const *sets, int nsets) {
    l->count = 0;
    for (int s = 0; s < nsets; s++)
        for (int t = 0; t < WF_TENSORS; t++)
            for (int64_t i = 0; i < instances(&w->model, &w->info[t]); i++)
                for (const wf_name *n = wf_names_of(&w->model)->names; n->pattern; n++)
                    if (is_written(&w->model, n, t)) add(l, &w->model, &w->info[t], n, sets[s], i);
}

wf_status wf_weights_create(const char *path, const wf_model *m, const char *const *sets, int nsets,
                            wf_weights_writer **out) {
    list l = {0};
    wf_status status = WF_OK;
    wf_weights_writer *const w = calloc(1, sizeof *w);
    if (!w) return wf_fail(WF_ERR_MEMORY, "no host memory to write %s", path);
    w->model = *m;
    wf_model_parameters(m, w->info);
    list_all(&l, w, sets, nsets);
    w->room = malloc(ROOM * sizeof *w->room);
    l.plan = calloc((size_t)l.count + 1, sizeof *l.plan);
    l.name = calloc((size_t)l.count + 1, sizeof *l.name);
    if (!w->room || !l.plan || !l.name)
        status = wf_fail(WF_ERR_MEMORY, "no host memory to write %s", path);
    if (status == WF_OK) list_all(&l, w, sets, nsets);
    if (status == WF_OK) status = wf_safetensors_create(path, l.plan, l.count, &w->file);
    free(l.plan);
    free(l.name);
    if (status != WF_OK)
        wf_weights_abandon(w);
    else
        *out = w;
    return status;
}

/* ---- data
 * --------------------------------------------------------------------------------------------------
 */

/* The file's row j is column j of `rows` rows of weft's. */
static wf_status put_turned(wf_weights_writer *w, const float *data, int64_t rows,
                            int64_t columns) {
    int64_t held = 0;
    for (int64_t j = 0; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) {
            w->room[held++] = data[i * columns + j];
            if (held < ROOM) continue;
            TRY(wf_safetensors_put(w->file, w->room, held));
            held = 0;
        }
    return wf_safetensors_put(w->file, w->room, held);
}

wf_status wf_weights_put(wf_weights_writer *w, int tensor, const float *whole) {
    const wf_parameter_info *const info = &w->info[tensor];
    for (const wf_name *n = wf_names_of(&w->model)->names; n->pattern; n++) {
        if (!is_written(&w->model, n, tensor)) continue;
        const wf_range rows = wf_name_rows(&w->model, info, n);
        const float *const from = whole + rows.first * info->columns;
        if (n->form & WF_NAME_TRANSPOSED)
            TRY(put_turned(w, from, rows.count, info->columns));
        else
            TRY(wf_safetensors_put(w->file, from, rows.count * info->columns));
    }
    return WF_OK;
}

wf_status wf_weights_finish(wf_weights_writer *w, int64_t *bytes_out,
                            uint8_t digest_out[WF_SHA256_BYTES]) {
    const wf_status status = wf_safetensors_finish(w->file, bytes_out, digest_out);
    w->file = NULL;
    wf_weights_abandon(w);
    return status;
}

void wf_weights_abandon(wf_weights_writer *w) {
    if (!w) return;
    wf_safetensors_abandon(w->file);
    free(w->room);
    free(w);
}
