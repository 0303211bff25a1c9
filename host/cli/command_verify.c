/* command_verify.c: weft verify: every variant against the reference, on this device. */
#include "host/cli/cli.h"

#include <jansson.h>
#include <stdlib.h>

static context_arguments context_options;
static bool json, all, quiet;
static const option options[] = {
    {"all", OPTION_FLAG, NULL, "every candidate, not only each variant's default values and the device's", &all, 0, 0},
    {"quiet", OPTION_FLAG, NULL, "only failures and the count", &quiet, 0, 0},
    {"json", OPTION_FLAG, NULL, "one JSON object per check on stdout", &json, 0, 0},
    {"device", OPTION_TEXT, "NAME", "device by index, platform.device or part of its or its platform's name", &context_options.device, 0, 0},
};

typedef struct tally {
    int passed, failed, skipped;
} tally;

static void report_json(const weft_verdict *v) {
    json_t *row = json_pack("{s:s, s:s, s:s, s:f, s:s}", "case", v->case_text, "candidate", v->candidate, "result",
                            v->skipped ? "skipped" : v->ok ? "passed" : "failed", "worst", v->worst, "why",
                            v->sentence ? v->sentence : "");
    if (row) json_dumpf(row, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER), putchar('\n');
    json_decref(row);
}

static void report(void *user, const weft_verdict *v) {
    tally *t = user;
    *(v->skipped ? &t->skipped : v->ok ? &t->passed : &t->failed) += 1;
    if (json) return report_json(v);
    if (v->ok && !v->skipped && quiet) return;
    if (v->skipped && quiet) return;
    printf("%-7s %s  [%s]", v->skipped ? "skip" : v->ok ? "ok" : "FAILED", v->case_text, v->candidate);
    if (v->ok && !v->skipped) printf("  %.2f of its bound", v->worst);
    if ((!v->ok || v->skipped) && v->sentence) printf("  %s", v->sentence);
    putchar('\n');
}

static int run(int argc, char **argv) {
    text_list cases = {0};
    if (!options_parse("verify", options, sizeof options / sizeof *options, argc - 2, argv + 2, &cases)) return EXIT_USAGE;
    const ranks alone = {.count = 1};
    weft_context *context = NULL;
    tally t = {0};
    weft_status status = context_open(&context_options, &alone, false, &context);
    for (int i = 0; !status && i < (cases.count ? cases.count : 1); i++) {
        const weft_status one = weft_verify(context, cases.count ? cases.text[i] : NULL, all, report, &t);
        if (one && one != WEFT_ERR_MISMATCH) status = one; /* failures are counted; the rest still runs */
    }
    weft_context_destroy(context);
    free(cases.text);
    if (status) return complain_status(status);
    fprintf(json ? stderr : stdout, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped);
    return t.failed ? EXIT_CHECK : t.passed ? EXIT_FINE : complain(EXIT_CHECK, "verify: nothing was checked");
}

const command command_verify = {
    "verify", "[CASE...] [--all]", "every variant of every operation against its reference, on this device",
    "Runs each variant on random data and compares it with a plain f64 reference: what the owner of\n"
    "a new GPU runs first. \"0.30 of its bound\": the largest error is 0.30 of what rounding alone may\n"
    "cause; skip: this variant is not for this problem. Without a CASE: all built-in ones.\n\n" OPERATION_CASES_HELP
    "Whole blocks (weft bench's block:...) are checked by `make check TESTS=tests/host/check_block_forms`, not here.",
    options, sizeof options / sizeof *options, run};
