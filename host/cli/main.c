/* main.c: the table of commands. */
#include "host/cli/cli.h"

#include <signal.h>
#include <stdarg.h>
#include <string.h>

static const command *const commands[] = {&command_info, &command_verify, &command_bench, &command_plan,
                                         &command_train, &command_run};
static const int ncommands = (int)(sizeof commands / sizeof *commands);

int complain(int status, const char *format, ...) {
    char text[2048];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c; c++)
        if (*c == '\n') *c = ' '; /* one line, always */
    fprintf(stderr, "weft: %s\n", text);
    return status;
}

static int exit_of(weft_status status) {
    static const int exits[] = {[WEFT_OK] = EXIT_FINE,
                                [WEFT_ERR_ARGUMENT] = EXIT_USAGE,
                                [WEFT_ERR_UNSUPPORTED] = EXIT_USAGE,
                                [WEFT_ERR_FILE] = EXIT_USAGE,
                                [WEFT_ERR_DEVICE] = EXIT_ENVIRONMENT,
                                [WEFT_ERR_MEMORY] = EXIT_ENVIRONMENT,
                                [WEFT_ERR_FABRIC] = EXIT_ENVIRONMENT,
                                [WEFT_ERR_TIMEOUT] = EXIT_ENVIRONMENT,
                                [WEFT_ERR_MISMATCH] = EXIT_CHECK,
                                [WEFT_ERR_INTERNAL] = EXIT_CHECK};
    return exits[status];
}

int complain_status(weft_status status) {
    const char *sentence = weft_last_error();
    return complain(exit_of(status), "%s", *sentence ? sentence : "failed without a reason");
}

int fail_on_rank(int rank, weft_status status) {
    return rank ? exit_of(status) : complain_status(status);
}

static void help(FILE *out) {
    fprintf(out, "weft %s: sequence-parallel Transformer blocks on any OpenCL device\n\nusage: weft COMMAND [OPTION...]\n\n",
            weft_version());
    for (int i = 0; i < ncommands; i++) fprintf(out, "  %-8s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out, "\nfirst steps on a new machine:\n"
                 "  weft verify                                   does every kernel compute right here?\n"
                 "  weft bench                                    how fast is each?\n"
                 "  weft train --text FOLDER --ranks 2 --save M   trains a small GPT on text, split over two ranks\n"
                 "  weft run --model M --prompt Once --sample 99  goes on with a text\n");
    fprintf(out, "\n'weft COMMAND --help' shows its options. Exit status: 0, 1 a check failed, 2 usage, 3 environment.\n");
}

static void help_command(const command *c) {
    printf("usage: weft %s %s\n\n%s\n\n", c->name, c->usage, c->about);
    options_help(c->options, c->noptions, stdout);
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN); /* a closed stdout is an error of a write, not a silent death */
    if (argc < 2) {
        help(stderr);
        return EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help")) return help(stdout), EXIT_FINE;
    if (!strcmp(name, "--version")) return printf("weft %s\n", weft_version()), EXIT_FINE;
    for (int i = 0; i < ncommands; i++) {
        if (strcmp(name, commands[i]->name)) continue;
        for (int a = 2; a < argc; a++)
            if (!strcmp(argv[a], "--help") || !strcmp(argv[a], "-h")) return help_command(commands[i]), EXIT_FINE;
        const int status = commands[i]->run(argc, argv);
        return fflush(stdout) || ferror(stdout) ? complain(EXIT_ENVIRONMENT, "cannot write to stdout") : status;
    }
    return complain(EXIT_USAGE, "unknown command '%s' (see weft --help)", name);
}
