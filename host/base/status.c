#include "host/base/status.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char sentence[1024];

wf_status wf_fail(wf_status status, const char *format, ...) {
    char text[sizeof sentence]; /* arguments may quote the last sentence */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(sentence, sizeof sentence, "%s", text);
    return status;
}

const char *wf_last_error(void) {
    return sentence;
}

const char *wf_status_name(wf_status status) {
    static const char *const names[] = {"ok",     "argument", "unsupported", "file",     "device",
                                        "memory", "fabric",   "timeout",     "mismatch", "internal"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}
