/* list.c: every device, and where its programs are kept, for people and programs. Opens none, so that it also
 * answers where one hangs. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/env.h"
#include "host/device/cache.h"
#include "host/device/find.h"

static const char *type_name(wf_device_type type) {
    static const char *const names[] = {"CPU", "GPU", "other"};
    return names[type];
}

/* As the variables alone would have it. */
static void find_cache(const char *platform, wf_cache_info *out) {
    const wf_cache_wish wish = {.text_from_files = wf_env(WF_ENV_KERNEL_DIR) != NULL};
    if (wf_cache_place(platform, &wish, out) == WF_OK) {
        wf_cache_measure(out);
        return;
    }
    memset(out, 0, sizeof *out);
    snprintf(out->own.why, sizeof out->own.why, "%.500s", wf_last_error());
}

static json_t *json_kept(const wf_kept *kept) {
    return json_pack("{s:b, s:s?, s:s, s:I, s:I}", "used", kept->used, "folder", *kept->folder ? kept->folder : NULL, "why",
                     kept->why, "files", (json_int_t)kept->files, "bytes", (json_int_t)kept->bytes);
}

json_t *wf_cache_json(const wf_cache_info *info) {
    json_t *const root = json_kept(&info->own);
    if (!root || !*info->keeper) return root;
    json_t *const driver = json_kept(&info->driver);
    json_object_set_new(driver, "name", json_string(info->keeper));
    json_object_set_new(root, "driver", driver);
    return root;
}

static json_t *json_of(const wf_found *found, int32_t index) {
    const wf_device *device = &found->device;
    char dotted[32];
    wf_cache_info cache;
    find_cache(device->platform, &cache);
    snprintf(dotted, sizeof dotted, "%d.%d", (int)found->platform_index, (int)found->device_index);
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:i, s:I, s:I, s:I, s:b, s:b, s:b, s:o}", "index", (int)index,
                     "id", dotted, "name", device->name, "vendor", device->vendor, "platform", device->platform,
                     "driver", device->driver, "type", type_name(device->type), "compute_units",
                     (int)device->compute_units, "max_group", (int)device->max_group, "local_bytes",
                     (json_int_t)device->local_bytes, "global_bytes", (json_int_t)device->global_bytes,
                     "max_alloc_bytes", (json_int_t)device->max_alloc_bytes, "host_unified", device->host_unified,
                     "fp16", device->fp16, "subgroups", device->subgroups, "cache", wf_cache_json(&cache));
}

static char *list_json(const wf_found *found, int32_t count) {
    json_t *array = json_array();
    for (int32_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, json_of(&found[i], i)) != 0) {
            json_decref(array);
            return NULL;
        }
    char *text = array ? json_dumps(array, JSON_INDENT(2)) : NULL;
    json_decref(array);
    return text;
}

static char *list_text(const wf_found *found, int32_t count) {
    char *text = NULL;
    size_t bytes = 0;
    FILE *const f = open_memstream(&text, &bytes);
    if (!f) return NULL;
    for (int32_t i = 0; i < count; i++) {
        const wf_device *device = &found[i].device;
        fprintf(f, "%d  %s: %s, %d compute units, %.1f GiB (largest buffer %.1f GiB), %.0f KiB local; %s, %s\n", (int)i,
                type_name(device->type), device->name, (int)device->compute_units, (double)device->global_bytes / 0x1p30,
                (double)device->max_alloc_bytes / 0x1p30, (double)device->local_bytes / 1024, device->platform, device->driver);
        wf_cache_info cache;
        find_cache(device->platform, &cache);
        wf_cache_print(&cache, "   ", f);
    }
    if (fclose(f) == 0) return text;
    free(text);
    return NULL;
}

wf_status wf_opencl_list(const wf_log *log, bool json, char **text_out) {
    wf_calls calls = {.log = log};
    wf_found *found;
    int32_t count;
    wf_driver_lock();
    const wf_status status = wf_find_devices(&calls, &found, &count);
    wf_driver_unlock();
    if (status != WF_OK) return status;
    char *text = json ? list_json(found, count) : list_text(found, count);
    free(found);
    if (!text) return wf_fail(WF_ERR_MEMORY, "out of host memory for the list of devices");
    *text_out = text;
    return WF_OK;
}
