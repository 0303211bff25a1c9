/* safetensors_write.c: writing. Shapes are known before data, so the header is written first and
 * the tensors follow one by one: no more than one is ever held. */
#include <stdio.h>
#include <stdlib.h>

#include "host/model/safetensors.h"

struct wf_safetensors_writer {
    wf_output output;
    int64_t end; /* bytes of the whole file */
};

static void print_entry(FILE *f, const wf_tensor_plan *t, int64_t from, int64_t to) {
    fprintf(f, ",\"%s\":{\"dtype\":\"F32\",\"shape\":[%lld", t->name, (long long)t->rows);
    if (!t->vector) fprintf(f, ",%lld", (long long)t->columns);
    fprintf(f, "],\"data_offsets\":[%lld,%lld]}", (long long)from, (long long)to);
}

/* The header's text, padded by spaces so that data begin at a multiple of 8, and the data's bytes.
 */
static char *print_header(const wf_tensor_plan *plan, int64_t count, size_t *bytes_out,
                          int64_t *data_out) {
    char *text = NULL;
    int64_t at = 0;
    FILE *const f = open_memstream(&text, bytes_out);
    if (!f) return NULL;
    fprintf(f,
            "{\"__metadata__\":{\"format\":\"pt\"}"); /* `transformers` opens no file without it */
    for (int64_t i = 0; i < count; i++) {
        const int64_t bytes =
            plan[i].rows * (plan[i].vector ? 1 : plan[i].columns) * (int64_t)sizeof(float);
        print_entry(f, &plan[i], at, at + bytes);
        at += bytes;
    }
    fputc('}', f);
    for (long n = ftell(f); n >= 0 && n % 8; n++) fputc(' ', f);
    *data_out = at;
    if (fclose(f) == 0) return text;
    free(text);
    return NULL;
}

wf_status wf_safetensors_create(const char *path, const wf_tensor_plan *plan, int64_t count,
                                wf_safetensors_writer **out) {
    wf_status status;
    size_t bytes;
    int64_t data;
    uint8_t raw[8];
    wf_safetensors_writer *const w = calloc(1, sizeof *w);
    char *const header = print_header(plan, count, &bytes, &data);
    if (!w || !header) {
        free(header);
        free(w);
        return wf_fail(WF_ERR_MEMORY, "no host memory for the header of %s", path);
    }
    for (int i = 0; i < 8; i++) raw[i] = (uint8_t)((uint64_t)bytes >> 8 * i);
    w->end = 8 + (int64_t)bytes + data;
    TRY_GOTO(wf_output_open(path, &w->output), fail);
    TRY_GOTO(wf_output_put(&w->output, raw, sizeof raw), fail);
    TRY_GOTO(wf_output_put(&w->output, header, (int64_t)bytes), fail);
    free(header);
    *out = w;
    return WF_OK;
fail:
    free(header);
    wf_safetensors_abandon(w);
    return status;
}

wf_status wf_safetensors_put(wf_safetensors_writer *w, const float *data, int64_t elements) {
    return wf_output_put(&w->output, data, elements * (int64_t)sizeof *data);
}

wf_status wf_safetensors_finish(wf_safetensors_writer *w, int64_t *bytes_out,
                                uint8_t digest_out[WF_SHA256_BYTES]) {
    wf_status status = WF_OK;
    if (w->output.bytes != w->end)
        status = wf_fail(WF_ERR_INTERNAL, "%s was given %lld of its %lld bytes", w->output.path,
                         (long long)w->output.bytes, (long long)w->end);
    if (status == WF_OK) status = wf_output_close(&w->output, digest_out);
    if (status == WF_OK) *bytes_out = w->output.bytes;
    wf_safetensors_abandon(w);
    return status;
}

void wf_safetensors_abandon(wf_safetensors_writer *w) {
    if (!w) return;
    wf_output_abandon(&w->output);
    free(w);
}
