/* command_info.c: weft info: devices, transports, variables. */
#include "host/cli/cli.h"

static context_arguments context_options;
static bool json;
static const option options[] = {
    {"json", OPTION_FLAG, NULL, "one JSON object on stdout", &json, 0, 0},
    CONTEXT_OPTIONS(context_options),
};

static int describe_ranks(const ranks *ranks) {
    weft_context *context = NULL;
    char *text = NULL;
    weft_status status = context_open(&context_options, ranks, false, &context);
    if (!status) status = weft_context_describe(context, json, &text);
    if (!status && text) fputs(text, stdout);
    const int result = status && !ranks->rank ? complain_status(status) : status ? EXIT_ENVIRONMENT : EXIT_FINE;
    weft_text_free(text);
    weft_context_destroy(context);
    return result;
}

/* Alone it opens no device and starts no MPI, so that it also answers where a device hangs. */
static int describe_environment(void) {
    char *text = NULL;
    const weft_status status = weft_environment_describe(json, &text);
    if (status) return complain_status(status);
    fputs(text, stdout);
    weft_text_free(text);
    return EXIT_FINE;
}

static int run(int argc, char **argv) {
    if (!options_parse("info", options, sizeof options / sizeof *options, argc - 2, argv + 2, NULL)) return EXIT_USAGE;
    if (!context_options.ranks && !weft_mpi_launched()) return describe_environment();
    ranks ranks;
    int status = ranks_join((int)context_options.ranks, context_options.timeout_s, RANKS_END_AT_ONCE, argv, &ranks);
    if (!status) status = describe_ranks(&ranks);
    return ranks_leave(&ranks, status);
}

const command command_info = {
    "info", "[--json] [--ranks N]", "devices, transports and every WEFT_* variable",
    "Lists the OpenCL devices, the WEFT_* variables and the files in use. With --ranks N it opens\n"
    "the ranks' devices and says which transports passed their self-test between them.",
    options, sizeof options / sizeof *options, run};
