/* describe.c: devices, caches, transports and variables, for people and programs. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "host/base/env.h"

static const char *type_name(wf_device_type type) {
    return type == WF_DEVICE_CPU ? "cpu" : type == WF_DEVICE_GPU ? "gpu" : "other";
}

/* What a rank tells of itself. */
typedef struct card {
    wf_device device;
    wf_cache_info cache;
} card;

static void print_device(FILE *f, int32_t rank, const wf_device *d) {
    fprintf(f, "rank %d: %s (%s, %s, %s): %d compute units, %.1f GiB available, largest allocation %.1f GiB, %lld KiB local\n",
            rank, d->name, type_name(d->type), d->platform, d->driver, d->compute_units, (double)d->available_bytes / (1 << 30),
            (double)d->max_alloc_bytes / (1 << 30), (long long)(d->local_bytes >> 10));
}

static json_t *json_device(int32_t rank, const card *c) {
    const wf_device *const d = &c->device;
    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:I,s:I,s:I,s:b,s:o}", "rank", rank, "name", d->name, "vendor", d->vendor,
                     "platform", d->platform, "driver", d->driver, "type", type_name(d->type), "compute_units",
                     d->compute_units, "max_group", d->max_group, "local_bytes", (json_int_t)d->local_bytes, "global_bytes",
                     (json_int_t)d->global_bytes, "available_bytes", (json_int_t)d->available_bytes, "max_alloc_bytes",
                     (json_int_t)d->max_alloc_bytes, "host_unified", d->host_unified, "cache", wf_cache_json(&c->cache));
}

static char *text_of(const card *cards, int32_t ranks, const char *transports) {
    char *text = NULL;
    size_t bytes;
    FILE *const f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    for (int32_t i = 0; i < ranks; i++) {
        char before[32];
        snprintf(before, sizeof before, "rank %d: ", i);
        print_device(f, i, &cards[i].device);
        wf_cache_print(&cards[i].cache, before, f);
    }
    fputs(transports, f);
    return fclose(f) == 0 ? text : NULL;
}

static char *json_of(const card *cards, int32_t ranks, const char *transports) {
    json_t *const list = json_array(), *const lines = json_array();
    for (int32_t i = 0; i < ranks; i++) json_array_append_new(list, json_device(i, &cards[i]));
    for (const char *at = transports; *at;) {
        const size_t n = strcspn(at, "\n");
        if (n) json_array_append_new(lines, json_stringn(at, n));
        at += n + (at[n] == '\n');
    }
    json_t *const root = json_pack("{s:i,s:o,s:o}", "ranks", ranks, "devices", list, "transports", lines);
    char *const text = json_dumps(root, JSON_INDENT(1));
    json_decref(root);
    return text;
}

static wf_status describe(weft_context *c, bool json, char **text_out) {
    const int32_t ranks = wf_fabric_ranks(c->fabric);
    char *transports = NULL, *text = NULL;
    card mine, *const cards = calloc((size_t)ranks, sizeof *cards);
    wf_status status = cards ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to describe %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(c->fabric, status), done);
    memset(&mine, 0, sizeof mine);
    mine.device = *wf_opencl_device(c->opencl);
    wf_opencl_cache(c->opencl, &mine.cache);
    TRY_GOTO(wf_fabric_all_gather(c->fabric, &mine, sizeof mine, cards), done);
    TRY_GOTO(wf_fabric_describe(c->fabric, &transports), done);
    if (wf_fabric_rank(c->fabric) == 0) {
        text = (json ? json_of : text_of)(cards, ranks, transports ? transports : "");
        if (!text) status = wf_fail(WF_ERR_MEMORY, "no host memory for the description of %d ranks", ranks);
    }
done:
    free(cards);
    free(transports);
    if (status == WF_OK) *text_out = text;
    return status;
}

weft_status weft_context_describe(weft_context *c, bool json, char **text_out) {
    const wf_status usable = weft_context_usable(c);
    if (usable != WF_OK) return weft_from(usable);
    return weft_from(weft_context_note(c, describe(c, json, text_out)));
}

static json_t *json_variables(void) {
    json_t *const list = json_array();
    for (int v = 0; v < WF_ENVS; v++) {
        const char *const value = wf_env((wf_env_id)v);
        json_array_append_new(list, json_pack("{s:s,s:s?,s:s,s:s}", "name", wf_env_name((wf_env_id)v), "value", value,
                                              "option", wf_env_option((wf_env_id)v), "meaning", wf_env_meaning((wf_env_id)v)));
    }
    return list;
}

static char *environment_json(const char *devices) {
    json_t *const root = json_pack("{s:s,s:o,s:o}", "version", WEFT_VERSION, "variables", json_variables(), "devices",
                                   json_loads(devices, JSON_DECODE_ANY, NULL));
    char *const text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return text;
}

static char *environment_text(const char *devices) {
    char *text = NULL;
    size_t bytes;
    FILE *const f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    fprintf(f, "%s", devices);
    for (int v = 0; v < WF_ENVS; v++) {
        const char *const value = wf_env((wf_env_id)v);
        fprintf(f, "%-16s %-12s %s\n", wf_env_name((wf_env_id)v), value ? value : "(unset)", wf_env_meaning((wf_env_id)v));
    }
    return fclose(f) == 0 ? text : NULL;
}

weft_status weft_environment_describe(bool json, char **text_out) {
    char *devices = NULL;
    wf_log log;
    if (wf_log_open(NULL, NULL, NULL, &log) != WF_OK) log = (wf_log){0}; /* it is shown below, as it is */
    const wf_status status = wf_opencl_list(&log, json, &devices);
    if (status != WF_OK) return weft_from(status);
    char *const text = (json ? environment_json : environment_text)(devices);
    free(devices);
    if (!text) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory to describe the environment"));
    *text_out = text;
    return WEFT_OK;
}
