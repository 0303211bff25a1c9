/* traced.h: a child process that strace watches, and hits with a fault at one of its system calls. */
#ifndef WEFT_TESTS_HOST_TRACED_H
#define WEFT_TESTS_HOST_TRACED_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { TRACED_CALLS = 64, TRACED_NAME_BYTES = 32 };

typedef struct traced_call {
    char name[TRACED_NAME_BYTES];
    int count;
} traced_call;

typedef struct traced_outcome {
    pid_t pid;
    int status;      /* of the child, as waitpid says */
    char said[1024]; /* what it wrote to its output */
} traced_outcome;

/* The text is printed, with errno's, and the program ends. */
void traced_die(const char *what);
/* Runs a command to its end; its status as waitpid says. */
int traced_command(char *const argv[]);
/* Starts the child, which calls traced_child_ready; then strace, with its expressions (up to the first NULL, at most 4),
 * attaches, and lets it go. strace's lines, which name the files of descriptors, go to `log`. false: strace cannot attach. */
bool traced_run(char *const argv[], const char *const *expressions, const char *log, traced_outcome *out);
/* In the child: says that it is ready, and waits until it is watched. */
void traced_child_ready(void);
/* The calls of a log, by name, with their numbers. */
int traced_count(const char *log, traced_call calls[TRACED_CALLS]);
/* The log's last line of a call that was made to fail with this error (EIO, ...); false: there is none. */
bool traced_find_injected(const char *log, const char *error, char *line, size_t line_bytes);

#endif
