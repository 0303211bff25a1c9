/* inject.h: faults on demand, for test programs only. The linker (--wrap, see rules.am) leads calls that weft's own
 * objects make through here; calls of MPI, PoCL and other shared libraries are left alone. So no hook is in the
 * library, and what is refused is exactly what weft asks for. Everything is state of a thread: a fault hits the one
 * context that runs there. */
#ifndef WF_TESTS_INJECT_H
#define WF_TESTS_INJECT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum inject_kind {
    INJECT_NONE,
    INJECT_CL,      /* every OpenCL call through host/device/calls.h */
    INJECT_MPI,     /* every MPI call but MPI_Test and those of INJECT_GIVE_UP */
    INJECT_TEST,    /* MPI_Test, whose number depends on time */
    INJECT_MEMORY,  /* malloc, calloc, realloc, aligned_alloc, strdup, open_memstream; also Jansson's */
    INJECT_SHARE,   /* memfd_create, posix_fallocate, mmap */
    INJECT_SYSTEM,  /* fopen, opendir, pthread_create */
    INJECT_GIVE_UP, /* MPI_Cancel, MPI_Request_free: what follows another fault */
    INJECT_KINDS
} inject_kind;
extern const char *const inject_names[INJECT_KINDS];

/* The at-th call of this kind from now on fails, once; INJECT_NONE: none does. */
void inject_arm(inject_kind kind, int64_t at);
/* A second fault, which nothing but inject_leaks ends: the at-th call of INJECT_GIVE_UP, be it while all is closed. */
void inject_arm_give_up(int64_t at);
/* Ends the first. Has the fault happened? made_out: calls since, by kind. */
bool inject_disarm(int64_t made_out[INJECT_KINDS]);

/* Until inject_disarm, calls are told apart by their site: from where in the program they are made, six callers up. */
enum { INJECT_SITES = 1024 };
void inject_record(void);
/* Of the calls of a kind that were recorded last: the number of each site's first, ascending; how many there are. */
int inject_sites(inject_kind kind, int64_t firsts_out[INJECT_SITES]);

/* When it happened, on CLOCK_MONOTONIC. */
double inject_fired_s(void);

/* From here on what weft allocates and creates on this thread is remembered until it is freed. */
void inject_track(void);
/* What stays on purpose, and whether the second fault has happened. */
typedef struct inject_left {
    int64_t communicators; /* of ranks that did not end together: a late message may still come */
    bool gave_up;
} inject_left;
/* What is still there, each on a line; their number. The block that a request's bytes lie in, and the buffer over it, stay on purpose where the
 * request was let go before MPI was through with it; a request that was not even let go is left behind. Ends tracking. */
int inject_leaks(FILE *out, inject_left *left_out);

#endif
