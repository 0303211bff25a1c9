#include "host/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "host/base/env.h"

static const char *const names[WF_LOG_CATEGORIES] = {
    [WF_LOG_PLAN] = "plan",   [WF_LOG_FABRIC] = "fabric", [WF_LOG_DEVICE] = "device",
    [WF_LOG_CACHE] = "cache", [WF_LOG_BUILD] = "build",   [WF_LOG_CHECKPOINT] = "checkpoint",
};

const char *wf_log_name(wf_log_category category) {
    return names[category];
}

/* The bits of one word of the list; 0: it is none. */
static uint32_t bits_of(const char *word, size_t length) {
    if (length == 3 && memcmp(word, "all", 3) == 0) return (1u << WF_LOG_CATEGORIES) - 1;
    for (int c = 0; c < WF_LOG_CATEGORIES; c++)
        if (strlen(names[c]) == length && memcmp(word, names[c], length) == 0) return 1u << c;
    return 0;
}

wf_status wf_log_open(const char *categories, wf_log_write *write, void *user, wf_log *out) {
    const char *const list = categories ? categories : wf_env(WF_ENV_LOG);
    wf_log log = {.write = write, .user = user};
    for (const char *at = list; at && *at;) {
        const size_t length = strcspn(at, ",");
        const uint32_t bits = bits_of(at, length);
        if (length && !bits)
            return wf_fail(WF_ERR_ARGUMENT,
                           "%s%.64s names no category \"%.*s\"; known: plan, fabric, device, cache, build, checkpoint, all",
                           categories ? "the log " : "WEFT_LOG=", list, (int)(length < 32 ? length : 32), at);
        log.on |= bits;
        at += length + (at[length] == ',');
    }
    *out = log;
    return WF_OK;
}

bool wf_log_on(const wf_log *log, wf_log_category category) {
    return log && (log->on >> category & 1);
}

/* One write per line, so that lines of several ranks do not mix. */
static void say(const wf_log *log, wf_log_level level, wf_log_category category, const char *format, va_list arguments) {
    char text[1100];
    const int head = snprintf(text, sizeof text, "weft: %s: ", names[category]);
    vsnprintf(text + head, sizeof text - (size_t)head - 1, format, arguments);
    if (log->write) {
        log->write(log->user, level, names[category], text + head);
        return;
    }
    strcat(text, "\n");
    fputs(text, stderr);
}

void wf_say(const wf_log *log, wf_log_category category, const char *format, ...) {
    if (!wf_log_on(log, category)) return;
    va_list arguments;
    va_start(arguments, format);
    say(log, WF_LOG_NOTE, category, format, arguments);
    va_end(arguments);
}

void wf_warn(const wf_log *log, wf_log_category category, const char *format, ...) {
    if (!log || (!log->write && !wf_log_on(log, category))) return;
    va_list arguments;
    va_start(arguments, format);
    say(log, WF_LOG_WARNING, category, format, arguments);
    va_end(arguments);
}
