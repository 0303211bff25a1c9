/* boards.c: what the ranks of a node show each other of what they do, and what follows for waiting. */
#include <stdio.h>
#include <stdlib.h>

#include "host/fabric/mail.h"
#include "host/fabric/watchdog.h"

bool wf_members_alive(const wf_members *members, int32_t rank) {
    wf_activity theirs;
    if (!members || !members->boards || !members->boards[rank]) return false;
    wf_board_read(members->boards[rank], &theirs);
    return !theirs.left && wf_board_clock_s() - theirs.since_s < *members->deadline_s + WF_LATE_S;
}

bool wf_members_left(const wf_members *members, int32_t rank) {
    wf_activity theirs;
    if (!members || !members->boards || !members->boards[rank]) return false;
    wf_board_read(members->boards[rank], &theirs);
    return theirs.left;
}

/* Where all boards are seen it is known since when each rank waits, and that it will come when its
 * own deadline has passed, or WF_LATE_S after the one that it waits for came to wait here: who has failed stays
 * a little longer than that. Elsewhere twice the deadline must do. */
double wf_fabric_patience(const wf_fabric *fabric, wf_status mine) {
    if (!fabric->may_move) return fabric->timeout_s + WF_LATE_S;
    if (!fabric->boards || fabric->node.count < fabric->ranks) return 2 * fabric->timeout_s;
    return mine == WF_ERR_TIMEOUT ? WF_LATE_S : fabric->timeout_s + 1.5 * WF_LATE_S;
}

void wf_members_tell(const wf_members *members, int32_t rank, char *out, size_t out_bytes) {
    wf_activity theirs;
    char doing[256];
    *out = 0;
    if (!members || !members->boards || rank < 0 || !members->boards[rank]) return;
    wf_board_read(members->boards[rank], &theirs);
    wf_activity_print(&theirs, doing, sizeof doing);
    if (theirs.left) snprintf(out, out_bytes, "; it has given up");
    else snprintf(out, out_bytes, "; it has been %s%s for %.1f s", *theirs.site || *theirs.operation ? "in " : "", doing, wf_board_clock_s() - theirs.since_s);
}

/* A board that its rank has not shown yet reads as zeros: process 0, which nobody takes for dead. */
static wf_status watch_node(wf_fabric *fabric) {
    const wf_board **const list = calloc((size_t)fabric->ranks, sizeof *list);
    if (!list) return wf_fail(WF_ERR_MEMORY, "no memory to watch %d ranks", fabric->node.count);
    for (int32_t m = 0; m < fabric->node.count; m++)
        list[m] = fabric->boards[fabric->node_ranks[m]];
    const wf_status status = wf_watchdog_peers(fabric->watchdog, list, fabric->node.count);
    free(list);
    return status;
}

wf_status wf_fabric_show_board(wf_fabric *fabric) {
    wf_activity now;
    wf_board_last(fabric->board, &now);
    wf_watchdog_mirror(fabric->watchdog, fabric->board, wf_outbox_board(fabric, fabric->rank));
    wf_board_set(fabric->board, &now);
    fabric->boards = calloc((size_t)fabric->ranks, sizeof *fabric->boards);
    if (!fabric->boards) return wf_fail(WF_ERR_MEMORY, "no memory for %d boards", fabric->ranks);
    for (int32_t m = 0; m < fabric->node.count; m++) {
        const int32_t rank = fabric->node_ranks[m];
        fabric->boards[rank] = wf_outbox_board(fabric, rank);
    }
    fabric->everyone.boards = fabric->node.boards = fabric->boards;
    fabric->everyone.deadline_s = fabric->node.deadline_s = &fabric->timeout_s;
    return watch_node(fabric);
}

void wf_fabric_hide_board(wf_fabric *fabric) {
    (void)wf_watchdog_peers(fabric->watchdog, NULL, 0);
    wf_board_leave(fabric->board);
    if (fabric->board) wf_watchdog_mirror(fabric->watchdog, fabric->board, NULL);
    fabric->everyone.boards = fabric->node.boards = NULL;
    free(fabric->boards);
    fabric->boards = NULL;
}
