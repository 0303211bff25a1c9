/* context.c: one rank: its device and its fabric; what options and variables say of them. */
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

static wf_status find_link(const char *text, wf_link *out) {
    double us = 0, gb_per_s = 0;
    int length = -1;
    if (strcmp(text, "cut") == 0) {
        out->cut = true;
        return WF_OK;
    }
    sscanf(text, "%lfus,%lfGB/s%n", &us, &gb_per_s, &length);
    if (length < 0 || text[length] || !(us >= 0 && us <= 1e9) || !(gb_per_s > 0 && gb_per_s <= 1e6))
        return wf_fail(WF_ERR_ARGUMENT, "\"%s\" is no link: say it as in 20us,1.5GB/s, or cut", text);
    *out = (wf_link){.latency_s = us * 1e-6, .bytes_per_s = gb_per_s * 1e9};
    return WF_OK;
}

static wf_status complete(const weft_context_options *given, const wf_log *log, wf_opencl_options *device,
                          wf_fabric_options *fabric) {
    weft_context_options o;
    weft_context_options_init(&o);
    if (given) o = *given;
    if (!o.transport) o.transport = wf_env(WF_ENV_TRANSPORT);
    if (!(o.timeout_s >= 0)) return wf_fail(WF_ERR_ARGUMENT, "a deadline of %g s is no deadline", o.timeout_s);
    if (o.timeout_s == 0) TRY(wf_env_seconds(WF_ENV_TIMEOUT_S, 60, &o.timeout_s));
    *device = (wf_opencl_options){.device = o.device,
                                  .cache = o.cache,
                                  .cache_dir = o.cache_dir,
                                  .kernel_dir = o.kernel_dir,
                                  .log = log,
                                  .profile = o.profile,
                                  .context = o.cl_context,
                                  .device_id = o.cl_device,
                                  .queue = o.cl_queue};
    *fabric = (wf_fabric_options){.timeout_s = o.timeout_s, .log = log};
    if (!o.link) o.link = wf_env(WF_ENV_LINK);
    if (o.link) TRY(find_link(o.link, &fabric->link));
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
    wf_fabric_options fabric = {.timeout_s = weft_timeout(0)}; /* for those with wrong options to say so */
    wf_activity before;
    wf_status status = options ? wf_log_open(options->log_categories, options->log, options->log_user, &c->log)
                               : wf_log_open(NULL, NULL, NULL, &c->log);
    if (status == WF_OK) status = complete(options, &c->log, &device, &fabric);
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
