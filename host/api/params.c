/* params.c: this rank's weights, gradients and optimizer state.
 *
 * The memory is host/run's store, whose placement is the schedules'. Weights are placed and allocated
 * at once, by a schedule that only evaluates; gradients and optimizer state appear when the first
 * plan that has them is loaded, zeroed. Initial weights are functions of global indices, computed on
 * the host, so that they are the same bits under every layout and on every device.
 *
 * A tensor's order is the memory's alone: weft_shard_read and _write, through which all others go, turn
 * it to and from row-major. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/api/objects.h"
#include "kernels/philox.h"

/* ---- life ---------------------------------------------------------------------------------------------- */

/* The smallest schedule of the layout that holds what the mode needs: where it lies does not depend on the shape. */
wf_status weft_params_prepare(weft_params *p, wf_mode mode) {
    const wf_layout *const l = &p->layout;
    const wf_shape shape = {.batch = (int64_t)l->microbatches * l->size[WF_AXIS_DP] * l->size[WF_AXIS_EP], .sequence = 1};
    wf_schedule *schedule = NULL;
    wf_limits limits;
    wf_status status;
    weft_context_limits(p->context, &limits);
    TRY_GOTO(wf_lower_blocks(&p->model, &shape, l, wf_fabric_rank(p->context->fabric), mode, &schedule), done);
    TRY_GOTO(wf_place(schedule, &limits), done);
    TRY_GOTO(wf_store_prepare(p->store, schedule), done);
done:
    wf_schedule_destroy(schedule);
    return status;
}

wf_status weft_order_for(const weft_context *context, weft_order order, int32_t *out) {
    const bool cpu = context && wf_opencl_device(context->opencl)->type == WF_DEVICE_CPU;
    switch (order) {
    case WEFT_ORDER_AUTO: *out = cpu ? WF_ORDER_PANELS : WF_ORDER_ROWS; return WF_OK;
    case WEFT_ORDER_ROWS: *out = WF_ORDER_ROWS; return WF_OK;
    case WEFT_ORDER_PANELS: *out = WF_ORDER_PANELS; return WF_OK;
    }
    return wf_fail(WF_ERR_ARGUMENT, "there is no order %d of weights", (int)order);
}

static wf_status fill_in(weft_params *p, weft_order order) {
    const int32_t rank = wf_fabric_rank(p->context->fabric);
    TRY(weft_layout_settled(p->context, &p->layout));
    TRY(weft_order_for(p->context, order, &p->layout.order));
    wf_model_parameters(&p->model, p->info);
    for (int t = 0; t < WF_TENSORS; t++) p->order[t] = wf_model_order(&p->model, t, &p->layout);
    for (int t = 0; t < WF_TENSORS; t++) wf_model_shard(&p->model, &p->info[t], &p->layout, rank, &p->map[t]);
    for (int t = 0; t < WF_TENSORS; t++)
        if (p->info[t].rows) p->tensor[p->tensors++] = t;
    TRY(wf_store_create(p->context->opencl, &p->store));
    return weft_params_prepare(p, WF_MODE_EVALUATE);
}

weft_status weft_params_create(weft_context *context, const weft_model *model, const weft_layout *layout, weft_params **out) {
    return weft_params_create_ordered(context, model, layout, WEFT_ORDER_AUTO, out);
}

weft_status weft_params_create_ordered(weft_context *context, const weft_model *model, const weft_layout *layout,
                                       weft_order order, weft_params **out) {
    const wf_status usable = weft_context_usable(context);
    if (usable != WF_OK) return weft_from(usable);
    weft_params *const p = calloc(1, sizeof *p);
    wf_status status = p ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for params");
    if (p) {
        p->context = context;
        p->model = model->model;
        p->layout = layout->layout;
        status = fill_in(p, order);
    }
    status = weft_context_note(context, wf_fabric_agree(context->fabric, status));
    if (status != WF_OK) {
        weft_params_destroy(p);
        return weft_from(status);
    }
    *out = p;
    return WEFT_OK;
}

void weft_params_destroy(weft_params *p) {
    if (!p) return;
    wf_store_destroy(p->store);
    free(p);
}

/* ---- names ------------------------------------------------------------------------------------------------ */

int64_t weft_params_instances(const weft_params *p, int32_t index) {
    return p->info[index].per_layer ? p->model.layers : 1;
}

int32_t weft_params_count(const weft_params *p) {
    return p->tensors;
}

/* The public number of a tensor counts those that the model has; *t_out: its row of the table. */
static wf_status find_tensor(const weft_params *p, int32_t index, int64_t instance, int32_t *t_out) {
    if (index < 0 || index >= p->tensors)
        return wf_fail(WF_ERR_ARGUMENT, "no tensor %d; there are %d, from 0", index, p->tensors);
    const int32_t t = p->tensor[index];
    if (instance < 0 || instance >= weft_params_instances(p, t))
        return wf_fail(WF_ERR_ARGUMENT, "tensor %s has %lld instances, from 0; %lld was asked for", p->info[t].name,
                       (long long)weft_params_instances(p, t), (long long)instance);
    *t_out = t;
    return WF_OK;
}

weft_status weft_params_info(const weft_params *p, int32_t index, weft_tensor_info *out) {
    int32_t t = 0;
    const wf_status status = find_tensor(p, index, 0, &t);
    if (status != WF_OK) return weft_from(status);
    *out = (weft_tensor_info){p->info[t].name,   weft_params_instances(p, t), p->map[t].rows,
                              p->map[t].columns, p->info[t].rows, p->info[t].columns};
    return WEFT_OK;
}

static wf_status slot_name(const weft_params *p, int32_t t, const char *what, char out[128]) {
    static const char *const known[] = {"", "grad", "m", "v"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(what ? what : "", known[i]) == 0) {
            snprintf(out, 128, "%s%s%s", p->info[t].name, i ? "." : "", known[i]);
            return WF_OK;
        }
    return wf_fail(WF_ERR_ARGUMENT, "params hold \"\" (weights), \"grad\", \"m\" and \"v\", not \"%s\"", what);
}

wf_status weft_params_slot(const weft_params *p, int32_t index, const char *what, int64_t instance, char name_out[128]) {
    int32_t t = 0;
    TRY(find_tensor(p, index, instance, &t));
    return slot_name(p, t, what, name_out);
}

int64_t weft_shard_bytes(const wf_shard_map *map) {
    return map->rows * map->columns * (int64_t)sizeof(float);
}

/* Room for a shard as it lies in memory; *out stays NULL where that is row-major. */
static wf_status ordered_room(const weft_params *p, int32_t t, int64_t *bytes_out, float **out) {
    const wf_shard_map *const map = &p->map[t];
    *bytes_out = wf_order_elements(p->order[t], map->rows, map->columns) * (int64_t)sizeof(float);
    if (p->order[t] == WF_ORDER_ROWS) return WF_OK;
    *out = malloc((size_t)*bytes_out + 1);
    return *out ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a tensor of %lld bytes", (long long)*bytes_out);
}

wf_status weft_shard_read(weft_params *p, int32_t t, const char *what, int64_t instance, float *out) {
    char name[128];
    float *room = NULL;
    int64_t bytes;
    TRY(slot_name(p, t, what, name));
    TRY(ordered_room(p, t, &bytes, &room));
    const wf_status status = wf_store_read(p->store, name, (int32_t)instance, room ? room : out, bytes);
    if (room && status == WF_OK) wf_order_unpack(p->order[t], p->map[t].rows, p->map[t].columns, room, out);
    free(room);
    return status;
}

weft_status weft_params_read(weft_params *p, int32_t index, const char *what, int64_t instance, float *out) {
    int32_t t = 0;
    wf_status status = find_tensor(p, index, instance, &t);
    if (status == WF_OK) status = weft_shard_read(p, t, what, instance, out);
    return weft_from(status);
}

wf_status weft_shard_write(weft_params *p, int32_t t, const char *what, int64_t instance, const float *data) {
    char name[128];
    float *room = NULL;
    int64_t bytes;
    TRY(slot_name(p, t, what, name));
    TRY(ordered_room(p, t, &bytes, &room));
    if (room) wf_order_pack(p->order[t], p->map[t].rows, p->map[t].columns, data, room);
    const wf_status status = wf_store_write(p->store, name, (int32_t)instance, room ? room : data, bytes);
    free(room);
    return status;
}

wf_status weft_shard_clear(weft_params *p, int32_t t, const char *what, int64_t instance) {
    char name[128];
    TRY(slot_name(p, t, what, name));
    return wf_store_clear(p->store, name, (int32_t)instance);
}

weft_status weft_params_write(weft_params *p, int32_t index, const char *what, int64_t instance, const float *data) {
    int32_t t = 0;
    wf_status status = find_tensor(p, index, instance, &t);
    if (status == WF_OK) status = weft_shard_write(p, t, what, instance, data);
    return weft_from(status);
}

/* ---- initialisation ------------------------------------------------------------------------------------------ */

/* Global row of a local row. */
static int64_t global_row(const wf_shard_map *map, int64_t row) {
    for (int32_t i = 0; i < map->pieces; i++)
        if (row >= map->piece[i].local && row < map->piece[i].local + map->piece[i].count)
            return map->piece[i].global + row - map->piece[i].local;
    return -1;
}

enum { NORMALS = 64 }; /* drawn at a time */

static void fill_normal(const weft_params *p, int32_t t, const uint32_t key[2], int64_t layer, double std, float *out) {
    const wf_shard_map *const map = &p->map[t];
    for (int64_t row = 0; row < map->rows; row++) {
        const int64_t from = global_row(map, row);
        for (int64_t column = 0; column < map->columns; column += NORMALS) {
            double normals[NORMALS];
            const int64_t n = map->columns - column < NORMALS ? map->columns - column : NORMALS;
            wf_philox_normals(key, WF_SITE_INIT + (uint32_t)t, (uint32_t)layer, from, map->first_column + column, n, normals);
            for (int64_t i = 0; i < n; i++) out[row * map->columns + column + i] = (float)(std * normals[i]);
        }
    }
}

static void fill_initial(const weft_params *p, int32_t t, const uint32_t key[2], int64_t layer, float *out) {
    const int64_t n = p->map[t].rows * p->map[t].columns;
    switch (p->info[t].initial) {
    case WF_INIT_NORMAL: fill_normal(p, t, key, layer, p->model.init_std, out); return;
    case WF_INIT_NORMAL_RESIDUAL:
        fill_normal(p, t, key, layer, p->model.init_std / sqrt(2.0 * (double)p->model.layers), out);
        return;
    default:
        for (int64_t i = 0; i < n; i++) out[i] = p->info[t].initial == WF_INIT_ONE ? 1.0f : 0.0f;
    }
}

static wf_status initialise(weft_params *p, int32_t t, const uint32_t key[2], float *room) {
    for (int64_t layer = 0; layer < weft_params_instances(p, t); layer++) {
        fill_initial(p, t, key, layer, room);
        TRY(weft_shard_write(p, t, "", layer, room));
        TRY(weft_shard_clear(p, t, "m", layer));
        TRY(weft_shard_clear(p, t, "v", layer));
    }
    return WF_OK;
}

static int64_t largest_shard(const weft_params *p) {
    int64_t most = 0;
    for (int t = 0; t < WF_TENSORS; t++)
        if (weft_shard_bytes(&p->map[t]) > most) most = weft_shard_bytes(&p->map[t]);
    return most;
}

weft_status weft_params_init(weft_params *p, uint64_t seed) {
    uint32_t key[2];
    wf_philox_key(seed, -1, key);
    float *const room = malloc((size_t)largest_shard(p) + 1);
    if (!room) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory for a tensor of %lld bytes", (long long)largest_shard(p)));
    wf_status status = WF_OK;
    for (int32_t i = 0; i < p->tensors && status == WF_OK; i++) status = initialise(p, p->tensor[i], key, room);
    free(room);
    return weft_from(status);
}

/* ---- gathering --------------------------------------------------------------------------------------------------- */

void weft_shard_scatter(const weft_params *p, int32_t t, int32_t rank, const float *shard, float *whole) {
    wf_shard_map map;
    wf_model_shard(&p->model, &p->info[t], &p->layout, rank, &map);
    for (int64_t row = 0; row < map.rows; row++)
        memcpy(whole + global_row(&map, row) * p->info[t].columns + map.first_column, shard + row * map.columns,
               (size_t)map.columns * sizeof *whole);
}

/* Shards differ in size: each travels in room for the largest. */
static wf_status gather(weft_params *p, int32_t t, const char *what, int64_t instance, float *out) {
    const int32_t ranks = wf_fabric_ranks(p->context->fabric);
    int64_t most = 1;
    for (int32_t rank = 0; rank < ranks; rank++) {
        wf_shard_map map;
        wf_model_shard(&p->model, &p->info[t], &p->layout, rank, &map);
        if (weft_shard_bytes(&map) > most) most = weft_shard_bytes(&map);
    }
    char *const mine = calloc(1, (size_t)most), *const all = calloc((size_t)ranks, (size_t)most);
    wf_status status = mine && all ? weft_shard_read(p, t, what, instance, (float *)mine)
                                   : wf_fail(WF_ERR_MEMORY, "no host memory to gather tensor %s", p->info[t].name);
    TRY_GOTO(wf_fabric_agree(p->context->fabric, status), done);
    TRY_GOTO(wf_fabric_all_gather(p->context->fabric, mine, most, all), done);
    for (int32_t rank = 0; rank < ranks; rank++) weft_shard_scatter(p, t, rank, (const float *)(all + rank * most), out);
done:
    free(mine);
    free(all);
    return status;
}

weft_status weft_params_gather(weft_params *p, int32_t index, const char *what, int64_t instance, float *out) {
    wf_status status = weft_context_usable(p->context);
    int32_t t = 0;
    if (status == WF_OK) status = find_tensor(p, index, instance, &t);
    if (status == WF_OK) status = weft_context_note(p->context, gather(p, t, what, instance, out));
    return weft_from(status);
}
