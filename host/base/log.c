#include "host/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "host/base/env.h"

/* Is `word` one of the words of a comma-separated list? */
static bool listed(const char *list, const char *word) {
    const size_t length = strlen(word);
    for (const char *at = list; at; at = strchr(at, ',')) {
        if (*at == ',') at++;
        const size_t part = strcspn(at, ",");
        if (part == length && strncmp(at, word, length) == 0) return true;
    }
    return false;
}

bool wf_log_on(const char *category) {
    const char *list = wf_env(WF_ENV_LOG);
    return list && (listed(list, category) || listed(list, "all"));
}

/* One write per line, so that lines of several ranks do not mix. */
static void line(const char *category, const char *format, va_list arguments) {
    char text[1024];
    const int head = snprintf(text, sizeof text, "weft: %s%s", category, *category ? ": " : "");
    vsnprintf(text + head, sizeof text - (size_t)head - 1, format, arguments);
    strcat(text, "\n");
    fputs(text, stderr);
}

void wf_log(const char *category, const char *format, ...) {
    if (!wf_log_on(category)) return;
    va_list arguments;
    va_start(arguments, format);
    line(category, format, arguments);
    va_end(arguments);
}

void wf_warn(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    line("", format, arguments);
    va_end(arguments);
}
