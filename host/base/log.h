/* log.h: what a context says beside its results. Nothing is said unless it is asked for: by the
 * caller's function, or by categories, whose lines go to stderr. A log is a value of its context;
 * whoever has something to say is given it. Never on stdout, never in hot paths. */
#ifndef WF_BASE_LOG_H
#define WF_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_log_category {
    WF_LOG_PLAN,        /* each plan that is made */
    WF_LOG_FABRIC,      /* each pair of ranks: which transport, and why no other */
    WF_LOG_DEVICE,      /* which device is opened, and how much of it */
    WF_LOG_CACHE,       /* where programs are kept, what comes out of there and what is refused */
    WF_LOG_BUILD,       /* each program that is built, how long it took, and the compiler's own log of one that fails */
    WF_LOG_CHECKPOINT,  /* each checkpoint saved, loaded, passed over or removed */
    WF_LOG_CATEGORIES
} wf_log_category;

typedef enum wf_log_level { WF_LOG_WARNING = 1, WF_LOG_NOTE = 2 } wf_log_level;

/* The caller's function; `sentence` is one line without an end mark. */
typedef void wf_log_write(void *user, int level, const char *category, const char *sentence);

/* All zero: says nothing. */
typedef struct wf_log {
    uint32_t on;            /* bit 1 << category */
    wf_log_write *write;    /* NULL: stderr. Otherwise it gets every warning, whatever is on */
    void *user;
} wf_log;

/* categories: "plan,cache", "all" or "": names joined by commas; NULL: WEFT_LOG. WF_ERR_ARGUMENT names
 * a word that is none. */
wf_status wf_log_open(const char *categories, wf_log_write *write, void *user, wf_log *out);
const char *wf_log_name(wf_log_category);
/* Would a note of this category be said? log NULL: no. */
bool wf_log_on(const wf_log *log, wf_log_category);
/* One line, "weft: category: ...", if the category is on. */
void wf_say(const wf_log *log, wf_log_category, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* The same where there is a function, whether or not the category is on: something its user should know. */
void wf_warn(const wf_log *log, wf_log_category, const char *format, ...) __attribute__((format(printf, 3, 4)));

#ifdef __cplusplus
}
#endif
#endif
