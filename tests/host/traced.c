/* traced.c: see traced.h. */
#include "tests/host/traced.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/api/weft.h"
#include "host/base/file.h"

void traced_die(const char *what) {
    fprintf(stderr, "%s: %s (%s)\n", what, weft_last_error(), strerror(errno));
    exit(99);
}

/* ---- processes
 * ----------------------------------------------------------------------------------------------- */

typedef struct process {
    pid_t pid;
    int in, out; /* what we write to it, and read from it */
} process;

/* Descriptor 2 too, where `errors`. */
static process start(char *const argv[], bool errors) {
    int to[2], from[2];
    process p = {0};
    if (pipe(to) != 0 || pipe(from) != 0) traced_die("pipe");
    p.pid = fork();
    if (p.pid < 0) traced_die("fork");
    if (p.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no orphans */
        dup2(to[0], 0);
        dup2(from[1], 1);
        if (errors) dup2(from[1], 2);
        for (int i = 3; i < 64; i++) close(i);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p.in = to[1];
    p.out = from[0];
    return p;
}

/* Text up to the end, or until `until` stands in it. false: the end, or 20 s. */
static bool read_until(int file, const char *until, char *out, size_t out_bytes) {
    size_t used = strlen(out);
    struct pollfd one = {.fd = file, .events = POLLIN};
    while (!until || !strstr(out, until)) {
        if (poll(&one, 1, 20000) != 1) return false;
        const ssize_t got = read(file, out + used, out_bytes - used - 1);
        if (got <= 0) return !until;
        out[used += (size_t)got] = 0;
    }
    return true;
}

static int end_of(process p) {
    int status = 0;
    close(p.in);
    close(p.out);
    waitpid(p.pid, &status, 0);
    return status;
}

int traced_command(char *const argv[]) {
    return end_of(start(argv, false));
}

/* ---- under strace
 * -------------------------------------------------------------------------------------------- */

static process attach(pid_t pid, const char *const *expressions, const char *log) {
    char number[16];
    char *argv[18] = {"strace", "-y", "-o", (char *)log, "-p", number, "-e", "trace=all"};
    int n = 8;
    snprintf(number, sizeof number, "%d", (int)pid);
    for (int i = 0; i < 4 && expressions && expressions[i]; i++) {
        argv[n++] = "-e";
        argv[n++] = (char *)expressions[i];
    }
    return start(argv, true);
}

bool traced_run(char *const argv[], const char *const *expressions, const char *log, traced_outcome *out) {
    char ready[8] = "", attached[2048] = "";
    *out = (traced_outcome){0};
    process child = start(argv, false);
    if (!read_until(child.out, "r", ready, sizeof ready)) traced_die("the child did not start");
    process tracer = attach(child.pid, expressions, log);
    const bool fine = read_until(tracer.out, "attached", attached, sizeof attached);
    if (fine && write(child.in, "g", 1) != 1 && errno != EPIPE) traced_die("go"); /* EPIPE: killed at the read that waits for it */
    if (!fine) kill(child.pid, SIGKILL);
    read_until(child.out, NULL, out->said, sizeof out->said);
    out->pid = child.pid;
    out->status = end_of(child);
    end_of(tracer);
    if (!fine) fprintf(stderr, "strace: %s\n", attached);
    return fine;
}

void traced_child_ready(void) {
    char go = 0;
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
    if (write(1, "r", 1) != 1) _exit(98);
    while (read(0, &go, 1) != 1) {
    } /* the fault may be this call's; the parent's end is not, it kills */
}

/* ---- strace's log
 * -------------------------------------------------------------------------------------------- */

static char *load(const char *log) {
    char *text = NULL;
    int64_t bytes;
    if (wf_file_load(log, 1 << 26, &text, &bytes) != WF_OK) traced_die("strace's log");
    return text;
}

static const char *next_line(const char *line) {
    line += strcspn(line, "\n");
    return line + (*line == '\n');
}

/* A line begins with the call's name; signals and the end with other marks. */
int traced_count(const char *log, traced_call calls[TRACED_CALLS]) {
    char *const text = load(log);
    int n = 0;
    for (const char *line = text; *line; line = next_line(line)) {
        const size_t length = strspn(line, "abcdefghijklmnopqrstuvwxyz_0123456789");
        int i = 0;
        if (!length || length >= TRACED_NAME_BYTES || line[length] != '(') continue;
        while (i < n && (strncmp(calls[i].name, line, length) != 0 || calls[i].name[length])) i++;
        if (i == TRACED_CALLS) traced_die("more names of calls than there is room for");
        if (i == n) {
            calls[n] = (traced_call){.count = 0};
            memcpy(calls[n++].name, line, length);
        }
        calls[i].count++;
    }
    free(text);
    return n;
}

bool traced_find_injected(const char *log, const char *error, char *line, size_t line_bytes) {
    char *const text = load(log), failed[40];
    bool found = false;
    snprintf(failed, sizeof failed, "= -1 %s (", error);
    for (const char *at = text; *at; at = next_line(at)) {
        char one[2048];
        snprintf(one, sizeof one, "%.*s", (int)strcspn(at, "\n"), at);
        if (!strstr(one, failed) || !strstr(one, "(INJECTED)")) continue;
        snprintf(line, line_bytes, "%s", one);
        found = true;
    }
    free(text);
    return found;
}
