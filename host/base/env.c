/* The only file that reads the environment. */
#include "host/base/env.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static const struct {
    const char *name, *option, *meaning;
} variables[WF_ENVS] = {
    [WF_ENV_DEVICE] = {"WEFT_DEVICE", "device", "device to use: an index, platform.device, or a part of its name or its platform's"},
    [WF_ENV_TRANSPORT] = {"WEFT_TRANSPORT", "transport", "force a transport between ranks: window, staged or mpi"},
    [WF_ENV_TIMEOUT_S] = {"WEFT_TIMEOUT_S", "timeout_s", "deadline in seconds of every wait for another rank"},
    [WF_ENV_CACHE_DIR] = {"WEFT_CACHE_DIR", "cache_dir", "folder of the program cache; must belong to its user alone"},
    [WF_ENV_CACHE] = {"WEFT_CACHE", "cache", "program cache: on, off, or auto (where the driver has its own: off, or what that lacks)"},
    [WF_ENV_LOG] = {"WEFT_LOG", "log_categories", "what to log on stderr, joined by commas: plan, fabric, device, cache, build, checkpoint, or all"},
    [WF_ENV_KERNEL_DIR] = {"WEFT_KERNEL_DIR", "kernel_dir", "for kernel authors: read .cl files from here, not the embedded ones"},
    [WF_ENV_LINK] = {"WEFT_LINK", "link", "for experiments: emulate a link between ranks, as in 20us,1.5GB/s; or cut: exchange nothing"},
};

const char *wf_env_name(wf_env_id id) {
    return variables[id].name;
}

const char *wf_env_meaning(wf_env_id id) {
    return variables[id].meaning;
}

const char *wf_env_option(wf_env_id id) {
    return variables[id].option;
}

static const char *nonempty(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

const char *wf_env(wf_env_id id) {
    return nonempty(variables[id].name);
}

wf_status wf_env_seconds(wf_env_id id, double unset, double *out) {
    const char *text = wf_env(id);
    if (!text) {
        *out = unset;
        return WF_OK;
    }
    char *end = NULL;
    const double value = strtod(text, &end);
    if (*end || !isfinite(value) || value <= 0)
        return wf_fail(WF_ERR_ARGUMENT, "%s=%s is not a number of seconds above 0", wf_env_name(id), text);
    *out = value;
    return WF_OK;
}

const char *wf_env_launcher(void) {
    static const struct {
        const char *variable, *launcher;
    } signs[] = {
        {"OMPI_COMM_WORLD_RANK", "Open MPI"}, {"PMIX_RANK", "PMI"}, {"PMI_RANK", "PMI"},
    };
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++)
        if (nonempty(signs[i].variable)) return signs[i].launcher;
    /* SLURM_PROCID alone is also set in the batch script itself, which is no rank. */
    const char *step = nonempty("SLURM_STEP_ID"), *task = nonempty("SLURM_PROCID");
    const char *tasks = nonempty("SLURM_STEP_NUM_TASKS");
    return step && task && tasks && atoi(tasks) > 1 ? "Slurm" : NULL;
}

wf_status wf_env_cache_home(char *out, size_t out_bytes) {
    const char *cache = nonempty("XDG_CACHE_HOME"), *home = nonempty("HOME");
    int length = -1;
    if (cache && *cache == '/') length = snprintf(out, out_bytes, "%s/weft", cache);
    else if (home && *home == '/') length = snprintf(out, out_bytes, "%s/.cache/weft", home);
    if (length < 0 || (size_t)length >= out_bytes)
        return wf_fail(WF_ERR_FILE, "no cache folder: neither XDG_CACHE_HOME nor HOME is a usable path");
    return WF_OK;
}

const char *wf_env_pocl_flags(void) {
    const char *const flags = nonempty("POCL_EXTRA_BUILD_FLAGS");
    return flags ? flags : "";
}

wf_status wf_env_pocl_cache(char *out, size_t out_bytes) {
    const char *const own = nonempty("POCL_CACHE_DIR"), *const cache = nonempty("XDG_CACHE_HOME"), *const home = getenv("HOME");
    const char *const off = getenv("POCL_KERNEL_CACHE");
    const char *const name = off && *off != '1' ? "pocl/uncached" : "pocl/kcache";
    int length;
    if (own) length = snprintf(out, out_bytes, "%s", own);
    else if (cache) length = snprintf(out, out_bytes, "%s/%s", cache, name);
    else if (home) length = snprintf(out, out_bytes, "%s/.cache/%s", home, name);
    else length = snprintf(out, out_bytes, "/tmp/%s", name);
    if (length < 0 || (size_t)length >= out_bytes) return wf_fail(WF_ERR_FILE, "the path of PoCL's cache is too long");
    return WF_OK;
}
