/* board.h: what a rank is doing right now, where another thread or another process can read it while
 * the rank itself hangs: a progress board. One writer, the rank's own thread; any number of readers.
 * A version number that is odd while the writer is at it tells a reader to look again (a seqlock;
 * Boehm, "Can seqlocks get along with programming language memory models?", 2012). Publishing takes
 * some 50 ns, allocates nothing and calls nobody.
 *
 * A board says nothing about right and wrong: who watches it decides (host/fabric/watchdog.h). */
#ifndef WF_BASE_BOARD_H
#define WF_BASE_BOARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_activity {
    int64_t number;             /* of activities so far; filled in */
    double since_s;             /* CLOCK_MONOTONIC: when it began; filled in */
    double limit_s;             /* how long it may take; 0: as long as it likes */
    int32_t rank, process;      /* whose it is; kept */
    int32_t peer;               /* the rank that is waited for; WF_NOBODY */
    int32_t layer, microbatch;  /* of the step; -1: of none */
    int32_t left;               /* this rank is done with its fabric, and may go */
    char site[64];              /* "attn.qkv.dgrad"; "": not in a step */
    char segment[32];           /* "layer.forward" */
    char operation[48];         /* "gemm", "receive", "clFinish"; "": outside of weft */
} wf_activity;
enum { WF_NOBODY = -1, WF_BOARD_WORDS = sizeof(wf_activity) / 8 };

typedef struct wf_board {
    uint64_t version;
    uint64_t word[WF_BOARD_WORDS];  /* a wf_activity */
    uint64_t reported;              /* this rank's watchdog has spoken: the rank ends, and others need not say so */
    struct wf_board *mirror;        /* written too: in memory that other processes see; NULL: none */
} wf_board;

/* All functions of the writer take NULL: nobody watches. */
void wf_board_start(wf_board *, int32_t rank);
/* From now on the rank does this. */
void wf_board_set(wf_board *, const wf_activity *);
/* What the writer set last. */
void wf_board_last(const wf_board *, wf_activity *out);
/* The same step as before, but now in this operation, which may take limit_s. Returns in before_out
 * what wf_board_set puts back when it is over. */
void wf_board_enter(wf_board *, const char *operation, int32_t peer, double limit_s, wf_activity *before_out);
/* Outside of weft. */
void wf_board_rest(wf_board *);
/* This rank leaves: its process may end. */
void wf_board_leave(wf_board *);

/* Of the watchdog's thread. */
void wf_board_report(wf_board *);
int wf_board_reported(const wf_board *);

/* For readers. */
void wf_board_read(const wf_board *, wf_activity *out);
/* "step attn.qkv of layer.forward (layer 3, microbatch 0), gemm"; "outside of weft". */
void wf_activity_print(const wf_activity *, char *out, size_t out_bytes);
double wf_board_clock_s(void);

#ifdef __cplusplus
}
#endif
#endif
