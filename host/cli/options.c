/* options.c: one table per command is its parser, its checks and its help. */
#include "host/cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void text_list_add(text_list *list, const char *text) {
    const char **grown = realloc(list->text, (size_t)(list->count + 1) * sizeof *grown);
    if (!grown) abort(); /* a few words of the command line: no memory for them is no way to go on */
    list->text = grown;
    list->text[list->count++] = text;
}

static const option *find(const option *options, int count, const char *name, size_t length) {
    for (int i = 0; i < count; i++)
        if (strlen(options[i].name) == length && strncmp(options[i].name, name, length) == 0) return &options[i];
    return NULL;
}

static bool store_number(const char *command, const option *o, const char *text) {
    char *end = NULL;
    errno = 0;
    const double real = o->kind == OPTION_REAL ? strtod(text, &end) : (double)strtoll(text, &end, 10);
    if (end == text || *end || errno || real != real) {
        complain(EXIT_USAGE, "%s: --%s needs %s, not '%s'", command, o->name,
                 o->kind == OPTION_REAL ? "a number" : "a whole number", text);
        return false;
    }
    if ((o->least != 0 || o->most != 0) && (real < o->least || real > o->most)) {
        complain(EXIT_USAGE, "%s: --%s must lie between %g and %g, not %s", command, o->name, o->least, o->most, text);
        return false;
    }
    if (o->kind == OPTION_REAL)
        *(double *)o->target = real;
    else
        *(int64_t *)o->target = strtoll(text, NULL, 10);
    return true;
}

static bool store(const char *command, const option *o, const char *text) {
    switch (o->kind) {
    case OPTION_FLAG: *(bool *)o->target = true; return true;
    case OPTION_TEXT: *(const char **)o->target = text; return true;
    case OPTION_LIST: text_list_add(o->target, text); return true;
    default: return store_number(command, o, text);
    }
}

bool options_parse(const char *command, const option *options, int count, int argc, char **argv, text_list *operands) {
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (word[0] != '-') {
            if (!operands) {
                complain(EXIT_USAGE, "%s: unexpected argument '%s' (see weft %s --help)", command, word, command);
                return false;
            }
            text_list_add(operands, word);
            continue;
        }
        const char *name = word + strspn(word, "-");
        const char *equals = strchr(name, '=');
        const option *o = strncmp(word, "--", 2) ? NULL : find(options, count, name, equals ? (size_t)(equals - name) : strlen(name));
        if (!o) {
            complain(EXIT_USAGE, "%s: unknown option '%s' (see weft %s --help)", command, word, command);
            return false;
        }
        if (o->kind == OPTION_FLAG && equals) {
            complain(EXIT_USAGE, "%s: --%s takes no value", command, o->name);
            return false;
        }
        if (o->kind != OPTION_FLAG && !equals && i + 1 >= argc) {
            complain(EXIT_USAGE, "%s: --%s needs a value, %s", command, o->name, o->argument);
            return false;
        }
        if (!store(command, o, o->kind == OPTION_FLAG ? "" : equals ? equals + 1 : argv[++i])) return false;
        if (o->kind == OPTION_LIST && !equals)
            while (i + 1 < argc && argv[i + 1][0] != '-') text_list_add(o->target, argv[++i]);
    }
    return true;
}

static void help_default(const option *o, FILE *out) {
    /* What is out of range stands for "not given": the help text says what that means. */
    if (o->kind == OPTION_INTEGER && *(int64_t *)o->target && (double)*(int64_t *)o->target >= o->least) fprintf(out, " [%lld]", (long long)*(int64_t *)o->target);
    if (o->kind == OPTION_REAL && *(double *)o->target != 0 && *(double *)o->target >= o->least) fprintf(out, " [%g]", *(double *)o->target);
    if (o->kind == OPTION_TEXT && *(const char **)o->target && **(const char **)o->target) fprintf(out, " [%s]", *(const char **)o->target);
}

void options_help(const option *options, int count, FILE *out) {
    for (int i = 0; i < count; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", options[i].name, options[i].argument ? " " : "",
                 options[i].argument ? options[i].argument : "");
        fprintf(out, "  %-24s %s", left, options[i].help);
        help_default(&options[i], out);
        fputc('\n', out);
    }
}

int path_writable(const char *command, const char *path, const char *what) {
    if (!path) return EXIT_FINE;
    const char *slash = strrchr(path, '/');
    while (slash && !slash[1] && slash > path) /* a folder's name may end with one */
        for (slash--; slash > path && *slash != '/'; slash--) continue;
    const int length = slash == path ? *path == '/' : slash ? (int)(slash - path) : 0;
    char folder[4096] = ".";
    if (length) snprintf(folder, sizeof folder, "%.*s", length, path);
    if (access(folder, W_OK | X_OK) == 0) return EXIT_FINE;
    return complain(EXIT_USAGE, "%s: cannot write %s %s: %s", command, what, path, strerror(errno));
}
