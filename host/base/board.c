/* board.c: see the header. Words are written and read one by one with atomic builtins, so that a
 * thread sanitizer sees no race where there is none. */
#include "host/base/board.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double wf_board_clock_s(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void write_words(wf_board *board, const uint64_t *word) {
    const uint64_t version = __atomic_load_n(&board->version, __ATOMIC_RELAXED);
    __atomic_store_n(&board->version, version + 1, __ATOMIC_RELAXED);
    for (int i = 0; i < WF_BOARD_WORDS; i++) __atomic_store_n(&board->word[i], word[i], __ATOMIC_RELEASE);
    __atomic_store_n(&board->version, version + 2, __ATOMIC_RELEASE);
}

void wf_board_last(const wf_board *board, wf_activity *out) {
    uint64_t word[WF_BOARD_WORDS];
    memset(out, 0, sizeof *out);
    if (!board) return;
    for (int i = 0; i < WF_BOARD_WORDS; i++) word[i] = __atomic_load_n(&board->word[i], __ATOMIC_RELAXED);
    memcpy(out, word, sizeof *out);
}

static void publish(wf_board *board, wf_activity *activity) {
    uint64_t word[WF_BOARD_WORDS];
    memcpy(word, activity, sizeof word);
    write_words(board, word);
    if (board->mirror) write_words(board->mirror, word);
}

void wf_board_start(wf_board *board, int32_t rank) {
    wf_activity none = {.rank = rank, .process = getpid(), .peer = WF_NOBODY, .layer = -1, .microbatch = -1};
    none.since_s = wf_board_clock_s();
    if (board) publish(board, &none);
}

void wf_board_set(wf_board *board, const wf_activity *activity) {
    if (!board) return;
    wf_activity last, next = *activity;
    wf_board_last(board, &last);
    next.number = last.number + 1;
    next.since_s = wf_board_clock_s();
    next.rank = last.rank;
    next.process = last.process;
    publish(board, &next);
}

void wf_board_enter(wf_board *board, const char *operation, int32_t peer, double limit_s, wf_activity *before_out) {
    wf_board_last(board, before_out);
    if (!board) return;
    wf_activity next = *before_out;
    next.peer = peer;
    next.limit_s = limit_s;
    snprintf(next.operation, sizeof next.operation, "%s", operation);
    wf_board_set(board, &next);
}

void wf_board_rest(wf_board *board) {
    wf_board_set(board, &(wf_activity){.peer = WF_NOBODY, .layer = -1, .microbatch = -1});
}

void wf_board_leave(wf_board *board) {
    wf_board_set(board, &(wf_activity){.peer = WF_NOBODY, .layer = -1, .microbatch = -1, .left = 1});
}

void wf_board_report(wf_board *board) {
    __atomic_store_n(&board->reported, 1, __ATOMIC_RELEASE);
    if (board->mirror) __atomic_store_n(&board->mirror->reported, 1, __ATOMIC_RELEASE);
}

int wf_board_reported(const wf_board *board) {
    return __atomic_load_n(&board->reported, __ATOMIC_ACQUIRE) != 0;
}

void wf_board_read(const wf_board *board, wf_activity *out) {
    enum { PATIENCE = 1000000 }; /* a writer that was stopped in the middle leaves its version odd */
    uint64_t word[WF_BOARD_WORDS], before, after;
    for (int tries = 0; tries < PATIENCE; tries++) {
        before = __atomic_load_n(&board->version, __ATOMIC_ACQUIRE);
        for (int i = 0; i < WF_BOARD_WORDS; i++) word[i] = __atomic_load_n(&board->word[i], __ATOMIC_ACQUIRE);
        after = __atomic_load_n(&board->version, __ATOMIC_RELAXED);
        if (before == after && before % 2 == 0) break;
    }
    memcpy(out, word, sizeof *out);
    out->site[sizeof out->site - 1] = out->segment[sizeof out->segment - 1] = 0;
    out->operation[sizeof out->operation - 1] = 0;
}

void wf_activity_print(const wf_activity *a, char *out, size_t out_bytes) {
    char where[192] = "";
    if (*a->site && a->layer >= 0)
        snprintf(where, sizeof where, "step %s of %s (layer %d, microbatch %d)", a->site, a->segment, a->layer, a->microbatch);
    else if (*a->site)
        snprintf(where, sizeof where, "step %s of %s", a->site, a->segment);
    const char *const what = *a->operation ? a->operation : *where ? "" : a->left ? "done" : "outside of weft";
    snprintf(out, out_bytes, "%s%s%s", where, *where && *what ? ", " : "", what);
}
