/* pass.c: host bytes from one rank to another, for data that is gathered piece by piece
 * (checkpoints): wf_fabric_all_gather would give every rank room for all of it. Chunked, so that no
 * count of the bootstrap overflows; the chunk is memory of its own that can be left behind when a
 * rank is lost, and the caller's, so that nothing can fail here on one side alone but the passing
 * itself. */
#include <string.h>

#include "host/fabric/internal.h"

/* One chunk, sent or received through `room`; takes the room away where MPI may still use it. */
static wf_status move(wf_fabric *fabric, int32_t peer, bool sends, char **room, int64_t bytes) {
    const wf_bootstrap *const boot = fabric->boot;
    void *request = NULL;
    wf_status status = sends ? boot->send(boot->self, peer, WF_TAG_PASS, *room, bytes, &request)
                             : boot->receive(boot->self, peer, WF_TAG_PASS, *room, bytes, &request);
    if (status == WF_OK)
        status = wf_request_wait(boot, &fabric->everyone, &request, fabric->timeout_s, peer, peer,
                                 sends ? "the arrival of a tensor" : "a tensor");
    if (request && !boot->cancel(boot->self, &request)) *room = NULL;
    return status;
}

wf_status wf_fabric_pass(wf_fabric *fabric, int32_t from, int32_t to, void *data, int64_t bytes,
                         char **room) {
    const bool sends = fabric->rank == from;
    if (from == to || (!sends && fabric->rank != to)) return WF_OK;
    wf_status status = WF_OK;
    for (int64_t at = 0; at < bytes && status == WF_OK; at += WF_PASS_BYTES) {
        const int64_t part = bytes - at < WF_PASS_BYTES ? bytes - at : WF_PASS_BYTES;
        if (sends) memcpy(*room, (char *)data + at, (size_t)part);
        status = move(fabric, sends ? to : from, sends, room, part);
        if (status == WF_OK && !sends) memcpy((char *)data + at, *room, (size_t)part);
    }
    /* the other side may wait for what does not come: the ranks no longer know where they stand */
    if (status != WF_OK) fabric->everyone.parted = true;
    return status;
}

bool wf_fabric_first_of_node(const wf_fabric *fabric) {
    return fabric->node.index == 0;
}

int32_t wf_fabric_processes(const wf_fabric *fabric, int32_t *index_out) {
    const wf_members *const node = &fabric->node;
    *index_out = node->index;
    for (int32_t a = 0; a < node->count; a++)
        for (int32_t b = 0; b < a; b++)
            if (fabric->peers[node->ranks[a]].process == fabric->peers[node->ranks[b]].process) return 0;
    return node->count;
}
