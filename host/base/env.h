/* env.h: every environment variable that weft reads, in one table. env.c is the only file that calls
 * getenv (a test greps). Each variable stands in for an option that was left out, which says the same
 * and wins over it (tests/host/check_environment.c asks this of every row). */
#ifndef WF_BASE_ENV_H
#define WF_BASE_ENV_H

#include <stdbool.h>
#include <stddef.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_env_id {
    WF_ENV_DEVICE,
    WF_ENV_TRANSPORT,
    WF_ENV_TIMEOUT_S,
    WF_ENV_CACHE_DIR,
    WF_ENV_CACHE,
    WF_ENV_LOG,
    WF_ENV_KERNEL_DIR,
    WF_ENV_LINK,
    WF_ENVS
} wf_env_id;

/* Name of a variable, meaning in one line, and the field of weft_context_options that says the same. */
const char *wf_env_name(wf_env_id id);
const char *wf_env_meaning(wf_env_id id);
const char *wf_env_option(wf_env_id id);
/* Its value; NULL when unset or empty. */
const char *wf_env(wf_env_id id);
/* A variable that must be a number of seconds > 0; `unset` when it is not there. WF_ERR_ARGUMENT. */
wf_status wf_env_seconds(wf_env_id id, double unset, double *out);

/* "Open MPI", "PMI" or "Slurm" when a launcher started this process as one of its ranks; else NULL. */
const char *wf_env_launcher(void);

/* The user's cache folder for weft: $XDG_CACHE_HOME/weft or ~/.cache/weft. WF_ERR_FILE when neither
 * variable is set or the path does not fit. */
wf_status wf_env_cache_home(char *out, size_t out_bytes);
/* The folder in which PoCL 3.1 keeps the programs that it builds, by its own rule: $POCL_CACHE_DIR, else
 * pocl/kcache under $XDG_CACHE_HOME, ~/.cache or /tmp. (PoCL asks once per process, when it is first
 * used.) WF_ERR_FILE where it does not fit. */
wf_status wf_env_pocl_cache(char *out, size_t out_bytes);
/* What PoCL adds to all build options ($POCL_EXTRA_BUILD_FLAGS); "": nothing. */
const char *wf_env_pocl_flags(void);

#ifdef __cplusplus
}
#endif
#endif
