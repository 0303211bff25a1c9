/* cli.h: what the files of the command share. The command is a user of weft.h and weft_mpi.h and of
 * nothing else of the library. stdout carries results, stderr everything else; exit statuses are
 * 0, 1 (a check failed), 2 (usage), 3 (environment). */
#ifndef WEFT_CLI_H
#define WEFT_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "weft_mpi.h"

enum { EXIT_FINE = 0, EXIT_CHECK = 1, EXIT_USAGE = 2, EXIT_ENVIRONMENT = 3 };

/* ---- options (options.c) ------------------------------------------------------------------------ */

typedef enum option_kind { OPTION_FLAG, OPTION_TEXT, OPTION_LIST, OPTION_INTEGER, OPTION_REAL } option_kind;

typedef struct text_list {
    const char **text;
    int count;
} text_list;

/* One row of a command's table: what is parsed, checked and shown by --help. */
typedef struct option {
    const char *name;       /* "layout": --layout */
    option_kind kind;
    const char *argument;   /* "LAYOUT"; NULL for flags */
    const char *help;
    void *target;           /* bool, const char *, text_list, int64_t, double; holds the default */
    double least, most;     /* of numbers, inclusive; both 0: any */
} option;

/* Parses what follows the command's name; operands (no dash) go to `operands`, NULL: none allowed.
 * A list takes every argument up to the next option. Returns false after one sentence on stderr. */
bool options_parse(const char *command, const option *options, int count, int argc, char **argv, text_list *operands);
void options_help(const option *options, int count, FILE *out);
/* May a file or folder of this path be made? Asked before ranks start, not after an hour of work. `what`:
 * "logits to"; path NULL is fine. Returns an exit status. */
int path_writable(const char *command, const char *path, const char *what);
void text_list_add(text_list *list, const char *text);

/* ---- commands (main.c has the table) ---------------------------------------------------------------- */

typedef struct command {
    const char *name, *usage, *summary, *about;
    const option *options;
    int noptions;
    int (*run)(int argc, char **argv); /* exit status */
} command;
extern const command command_info, command_verify, command_bench, command_plan, command_train,
    command_run;

/* What verify and bench say of the texts of operations (kernels/case.c). */
#define OPERATION_CASES_HELP \
    "An operation's case is OPERATION:TYPE:SIZES[:FLAGS][:REALS]. Sizes are names with digits, those of 0 left out; flags are\n" \
    "words joined by dots, GEMM's transposes (nn nt tn tt) and an activation's name among them; reals are name=value joined by\n" \
    "commas. A gradient is an operation of its own, not a flag:\n" \
    "  gemm:f32:m65n33k17:nt.bias.gelu              attention:f32:b1s65h2kv1d64:causal    norm:f32:rows61n96:rms:eps=1e-05\n" \
    "  gemm:f32:m61n125k96:nn.act-grad.gelu         attention_backward:f32:b1s33h1d128    adamw:f32:n1021:decay\n" \
    "An operation's name alone, as in gemm, stands for its built-in cases, which `weft verify` lists and checks.\n"

/* One sentence on stderr, "weft: ..."; returns the exit status that fits. */
int complain(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The same for a library status, with weft_last_error(). */
int complain_status(weft_status status);
/* A collective call failed, on every rank: rank 0 says why, the others return the exit status only. */
int fail_on_rank(int rank, weft_status status);

/* ---- ranks (launch.c) --------------------------------------------------------------------------------- */

/* This process's place among the ranks, and how they find each other. */
typedef struct ranks {
    int rank, count;
    bool mpi;                   /* MPI was initialised */
    bool parted;                /* one failed in what the others may still wait in: only an abort ends all */
    weft_bootstrap *bootstrap;  /* NULL when alone without MPI */
} ranks;

/* guard.c: before MPI_Init; after it; and what a context's watchdog does: one sentence, then exit. */
void guard_begin(double timeout_s);
void guard_joined(void);
void guard_stuck(void *user, const char *sentence);

/* Options that every command with ranks takes; rows for its table. */
typedef struct context_arguments {
    int64_t ranks;              /* --ranks: 0 when not given */
    const char *device, *transport;
    double timeout_s;
} context_arguments;
#define CONTEXT_OPTIONS(a)                                                                         \
    {"ranks", OPTION_INTEGER, "N", "start N ranks under mpirun (default: what the layout needs)", &(a).ranks, 1, 4096}, \
    {"device", OPTION_TEXT, "NAME", "device by index, platform.device or part of its or its platform's name", &(a).device, 0, 0}, \
    {"transport", OPTION_TEXT, "NAME", "force mpi, staged or window instead of the self-test's choice", &(a).transport, 0, 0}, \
    {"timeout", OPTION_REAL, "S", "deadline of every wait in seconds", &(a).timeout_s, 0.1, 1e6}

/* How signals end the job: at once, or, where the ranks watch for them (stop.h), when they have saved. */
typedef enum ranks_end { RANKS_END_AT_ONCE, RANKS_END_SAVED } ranks_end;
/* Makes this process one of `needed` ranks: joins when a launcher started it, starts itself under
 * mpirun otherwise (then it does not return), stays alone without MPI when needed == 1.
 * timeout_s: of joining, as --timeout gives it. Returns an exit status, EXIT_FINE to go on. */
int ranks_join(int needed, double timeout_s, ranks_end end, char **argv, ranks *out);
/* The ranks of a command with --layout: fills in *layout (tpN.sp of --ranks, or tp1) where it was not
 * given, and refuses one for another number than --ranks. Returns an exit status. */
int ranks_of_layout(const char *command, const context_arguments *, const char **layout, int *needed_out);
/* The layout without what only a batch has (mbN): for plans of one sequence. */
weft_status layout_of_one(const weft_layout *layout, weft_layout **out);
/* Shares that are to be measured are, and rank 0 says which they are; without a context they are equal, as is said. Collective. */
weft_status layout_measure(weft_context *, weft_layout **layout);
/* Ends MPI. A failure that other ranks may not know of aborts the job. */
int ranks_leave(ranks *ranks, int status);
weft_status context_open(const context_arguments *, const ranks *, bool profile, weft_context **out);

#endif
