/* context.c: one rank: its device and its fabric. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "host/base/env.h"
#include "host/fabric/watchdog.h"

/* ---- options: what is not said comes from the environment ----------------------------------------------------- */

void weft_context_options_init(weft_context_options *options) {
    memset(options, 0, sizeof *options);
}

double weft_timeout(double timeout_s) {
    double given = timeout_s;
    if (given > 0) return given;
    return wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &given) == WF_OK ? given : 60;
}

static wf_status find_transport(const char *name, wf_transport_kind *out) {
    for (int t = WF_TRANSPORT_NONE + 1; t < WF_TRANSPORTS; t++)
        if (strcmp(name, wf_transport_name((wf_transport_kind)t)) == 0) {
            *out = (wf_transport_kind)t;
            return WF_OK;
        }
    return wf_fail(WF_ERR_ARGUMENT, "no transport \"%s\"; known: mpi, staged, window", name);
}

static wf_status complete(const weft_context_options *given, wf_opencl_options *device, wf_fabric_options *fabric) {
    weft_context_options o;
    weft_context_options_init(&o);
    if (given) o = *given;
    if (!o.device) o.device = wf_env(WF_ENV_DEVICE);
    if (!o.transport) o.transport = wf_env(WF_ENV_TRANSPORT);
    if (!o.cache_dir) o.cache_dir = wf_env(WF_ENV_CACHE_DIR);
    if (o.timeout_s < 0) return wf_fail(WF_ERR_ARGUMENT, "a deadline of %g s is no deadline", o.timeout_s);
    if (o.timeout_s == 0) TRY(wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &o.timeout_s));
    *device = (wf_opencl_options){.device = o.device,
                                  .cache_dir = o.cache_dir,
                                  .profile = o.profile,
                                  .context = o.cl_context,
                                  .device_id = o.cl_device,
                                  .queue = o.cl_queue};
    *fabric = (wf_fabric_options){.timeout_s = o.timeout_s};
    return o.transport ? find_transport(o.transport, &fabric->force) : WF_OK;
}

/* ---- life --------------------------------------------------------------------------------------------------------- */

/* The board is there from the first call that may hang on: the driver's. */
static wf_status watch(const weft_context_options *options, weft_context *c, int32_t rank, wf_opencl_options *device,
                       wf_fabric_options *fabric) {
    wf_activity before;
    device->board = fabric->board = &c->board;
    device->timeout_s = fabric->timeout_s;
    wf_board_start(&c->board, rank);
    if (options && options->stuck)
        TRY(wf_watchdog_start(&c->board, options->stuck, options->stuck_user, &c->watchdog));
    fabric->watchdog = c->watchdog;
    wf_board_enter(&c->board, "opening the device", WF_NOBODY, fabric->timeout_s, &before);
    return WF_OK;
}

static wf_status open_all(const weft_context_options *options, const wf_bootstrap *b, weft_context *c) {
    wf_opencl_options device;
    wf_fabric_options fabric;
    wf_activity before;
    wf_status status = complete(options, &device, &fabric);
    if (status == WF_OK) status = watch(options, c, b->rank, &device, &fabric);
    if (status == WF_OK) {
        device.node_rank = b->node_rank;
        device.node_ranks = b->node_ranks;
        status = wf_opencl_create(&device, &c->opencl);
    }
    /* Until there is a fabric, ranks agree over the bootstrap: one that has no device must not leave
     * the others waiting for it. */
    wf_board_enter(&c->board, "joining the other ranks", WF_NOBODY, 0, &before);
    TRY(wf_bootstrap_agree(b, fabric.timeout_s, status));
    c->timeout_s = fabric.timeout_s;
    wf_board_rest(&c->board);
    return wf_fabric_create(b, c->opencl, &fabric, &c->fabric);
}

weft_status weft_context_create(const weft_context_options *options, const weft_bootstrap *bootstrap, weft_context **out) {
    weft_context *const c = calloc(1, sizeof *c);
    if (!c) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory for a context"));
    wf_status status = WF_OK;
    c->is_alone = !bootstrap;
    if (c->is_alone) status = wf_bootstrap_self(&c->alone);
    if (status == WF_OK) status = open_all(options, bootstrap ? &bootstrap->bootstrap : &c->alone, c);
    if (status != WF_OK) {
        weft_context_destroy(c);
        return weft_from(status);
    }
    *out = c;
    return WEFT_OK;
}

void weft_context_destroy(weft_context *c) {
    if (!c) return;
    wf_fabric_destroy(c->fabric);
    wf_opencl_destroy(c->opencl);
    wf_watchdog_stop(c->watchdog);
    if (c->is_alone && c->alone.destroy) c->alone.destroy(c->alone.self);
    free(c);
}

int32_t weft_context_rank(const weft_context *c) {
    return wf_fabric_rank(c->fabric);
}

int32_t weft_context_ranks(const weft_context *c) {
    return wf_fabric_ranks(c->fabric);
}

wf_status weft_context_usable(const weft_context *c) {
    if (c->broken == WEFT_OK) return WF_OK;
    return wf_fail((wf_status)(int)c->broken, "this context refuses further work: an earlier call failed (%s); the ranks "
                                              "no longer know where each other stands",
                   wf_status_name((wf_status)(int)c->broken));
}

wf_status weft_context_note(weft_context *c, wf_status status) {
    if (status == WF_ERR_TIMEOUT || status == WF_ERR_FABRIC) weft_context_break(c, status);
    return status;
}

/* From now on nobody counts on this rank, nor is surprised when its process ends. */
void weft_context_break(weft_context *c, wf_status status) {
    c->broken = weft_from(status);
    wf_board_leave(&c->board);
}

void weft_context_limits(const weft_context *c, wf_limits *out) {
    memset(out, 0, sizeof *out);
    if (!c) return;
    const wf_device *const device = wf_opencl_device(c->opencl);
    out->max_alloc_bytes[WF_SPACE_DEVICE] = out->max_alloc_bytes[WF_SPACE_WINDOW] = device->max_alloc_bytes;
    if (device->align_bytes > 128) out->align_bytes = device->align_bytes;
}

weft_status weft_context_agree(weft_context *c, weft_status mine) {
    wf_status status = weft_context_usable(c);
    if (status == WF_OK) status = weft_context_note(c, wf_fabric_agree(c->fabric, (wf_status)(int)mine));
    return weft_from(status);
}

weft_status weft_context_sent(const weft_context *c, const char *transport, int64_t *bytes_out, int64_t *messages_out) {
    int64_t bytes[WF_TRANSPORTS], messages[WF_TRANSPORTS];
    wf_transport_kind kind = WF_TRANSPORT_NONE;
    const wf_status status = find_transport(transport ? transport : "", &kind);
    if (status != WF_OK) return weft_from(status);
    wf_fabric_counters(c->fabric, bytes, messages);
    *bytes_out = bytes[kind];
    *messages_out = messages[kind];
    return WEFT_OK;
}

/* ---- descriptions ----------------------------------------------------------------------------------------------------- */

static const char *type_name(wf_device_type type) {
    return type == WF_DEVICE_CPU ? "cpu" : type == WF_DEVICE_GPU ? "gpu" : "other";
}

static void print_device(FILE *f, int32_t rank, const wf_device *d) {
    fprintf(f, "rank %d: %s (%s, %s, %s): %d compute units, %.1f GiB available, largest allocation %.1f GiB, %lld KiB local\n",
            rank, d->name, type_name(d->type), d->platform, d->driver, d->compute_units, (double)d->available_bytes / (1 << 30),
            (double)d->max_alloc_bytes / (1 << 30), (long long)(d->local_bytes >> 10));
}

static json_t *json_device(int32_t rank, const wf_device *d) {
    return json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:I,s:I,s:I,s:I,s:b}", "rank", rank, "name", d->name, "vendor", d->vendor,
                     "platform", d->platform, "driver", d->driver, "type", type_name(d->type), "compute_units",
                     d->compute_units, "max_group", d->max_group, "local_bytes", (json_int_t)d->local_bytes, "global_bytes",
                     (json_int_t)d->global_bytes, "available_bytes", (json_int_t)d->available_bytes, "max_alloc_bytes",
                     (json_int_t)d->max_alloc_bytes, "host_unified", d->host_unified);
}

static char *text_of(const wf_device *devices, int32_t ranks, const char *transports) {
    char *text = NULL;
    size_t bytes;
    FILE *const f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    for (int32_t i = 0; i < ranks; i++) print_device(f, i, &devices[i]);
    fputs(transports, f);
    return fclose(f) == 0 ? text : NULL;
}

static char *json_of(const wf_device *devices, int32_t ranks, const char *transports) {
    json_t *const list = json_array(), *const lines = json_array();
    for (int32_t i = 0; i < ranks; i++) json_array_append_new(list, json_device(i, &devices[i]));
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
    wf_device *const devices = calloc((size_t)ranks, sizeof *devices);
    wf_status status = devices ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory to describe %d ranks", ranks);
    TRY_GOTO(wf_fabric_agree(c->fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(c->fabric, wf_opencl_device(c->opencl), sizeof *devices, devices), done);
    TRY_GOTO(wf_fabric_describe(c->fabric, &transports), done);
    if (wf_fabric_rank(c->fabric) == 0) {
        text = (json ? json_of : text_of)(devices, ranks, transports ? transports : "");
        if (!text) status = wf_fail(WF_ERR_MEMORY, "no host memory for the description of %d ranks", ranks);
    }
done:
    free(devices);
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
        json_array_append_new(list, json_pack("{s:s,s:s?,s:s}", "name", wf_env_name((wf_env_id)v), "value", value, "meaning",
                                              wf_env_meaning((wf_env_id)v)));
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
    const wf_status status = wf_opencl_list(json, &devices);
    if (status != WF_OK) return weft_from(status);
    char *const text = (json ? environment_json : environment_text)(devices);
    free(devices);
    if (!text) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory to describe the environment"));
    *text_out = text;
    return WEFT_OK;
}
