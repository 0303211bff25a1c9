/* window.c: between ranks of a node whose devices share memory with their hosts. What is sent lies
 * in a window, which both have mapped: the sender says where, the receiver's device copies it once,
 * straight from there, and the count of completed messages tells the sender that its bytes are
 * free (or in place: that the receiver has heard where they are).
 *
 * Refreshing: the sender first reads its own bytes onto themselves. By the OpenCL specification
 * (clEnqueueReadBuffer, CL_MEM_USE_HOST_PTR) that is what makes the wrapped memory hold what
 * kernels wrote. A device that was seen to have no other memory to keep them in (wf_memory_direct) is spared the wait.
 *
 * In place: between two such devices a message need not be copied. The receiver hears where it lies, in a wrapping of the
 * sender's piece for its own device, and says by a word, a message without bytes, when its kernels have read it. */
#include <stdlib.h>
#include <string.h>

#include "host/fabric/copy.h"
#include "host/fabric/mail.h"

enum { DIRECT_BYTES = 1 << 20 }; /* that the host copies in one visit */

/* ---- window memory ---- */

const wf_window *wf_window_of(const wf_fabric *fabric, const wf_memory *memory) {
    const wf_window *w = fabric->windows;
    while (w && (!w->memory || w->memory != memory)) w = w->next;
    return w;
}

const wf_window *wf_window_by_id(const wf_fabric *fabric, int32_t id) {
    const wf_window *w = fabric->windows;
    while (w && w->id != id) w = w->next;
    return w;
}

static wf_status wrap(wf_fabric *fabric, int64_t bytes, const wf_share *share, wf_memory **out) {
    if (bytes == 0) return WF_OK;
    return wf_memory_wrap(fabric->device, share->piece[share->mine], bytes, out);
}

/* The piece of another, where kernels of this rank read it: needed; or, while the self-test asks whether they may, wanted. */
static wf_status wrap_piece(wf_fabric *fabric, const wf_share *share, int32_t place, wf_memory **out) {
    const int32_t peer = fabric->node_ranks[place];
    const bool asked = fabric->peers[peer].chosen == WF_TRANSPORT_NONE;
    if (share->bytes[place] == 0 || !(asked ? wf_window_direct(fabric, peer) : wf_fabric_in_place(fabric, fabric->rank, peer))) return WF_OK;
    const wf_status status = wf_memory_wrap_to_read(fabric->device, share->piece[place], share->bytes[place], out);
    return asked ? WF_OK : status;
}

static wf_status wrap_theirs(wf_fabric *fabric, wf_window *window) {
    const wf_members *const node = &fabric->node;
    window->theirs = calloc((size_t)node->count, sizeof *window->theirs);
    if (!window->theirs) return wf_fail(WF_ERR_MEMORY, "no memory for a window");
    for (int32_t m = 0; m < node->count; m++)
        if (m != node->index) TRY(wrap_piece(fabric, window->share, m, &window->theirs[m]));
    return WF_OK;
}

void wf_window_free(const wf_fabric *fabric, wf_window *window) {
    for (int32_t m = 0; window->theirs && m < fabric->node.count; m++) wf_memory_destroy(window->theirs[m]);
    wf_memory_destroy(window->memory);
    wf_share_destroy(window->share);
    free(window->theirs);
    free(window);
}

bool wf_window_direct(const wf_fabric *fabric, int32_t peer) {
    return fabric->peers[fabric->rank].direct && fabric->peers[peer].direct;
}

static wf_status may_have_window(const wf_fabric *fabric, int64_t bytes) {
    if (bytes < 0) return wf_fail(WF_ERR_ARGUMENT, "a window of %lld bytes", (long long)bytes);
    if (bytes > 0 && !fabric->device)
        return wf_fail(WF_ERR_ARGUMENT, "a window of %lld bytes needs a device", (long long)bytes);
    if (bytes > 0 && !wf_opencl_device(fabric->device)->host_unified)
        return wf_fail(WF_ERR_UNSUPPORTED,
                       "rank %d asks for a window of %lld bytes, but its device does not share "
                       "memory with its host",
                       fabric->rank, (long long)bytes);
    return WF_OK;
}

static wf_status agree_on_node(wf_fabric *fabric, wf_status mine) {
    return wf_agree_among(fabric->boot, &fabric->node, WF_TAG_NODE, fabric->timeout_s, mine);
}

wf_status wf_fabric_window_create(wf_fabric *fabric, int64_t bytes, wf_memory **out) {
    wf_window *window = calloc(1, sizeof *window);
    wf_status status =
        window ? may_have_window(fabric, bytes) : wf_fail(WF_ERR_MEMORY, "no memory for a window");
    TRY_GOTO(agree_on_node(fabric, status), free_window);
    TRY_GOTO(
        wf_share_create(fabric->boot, &fabric->node, fabric->timeout_s, bytes, 0, &window->share),
        free_window);
    status = wrap(fabric, bytes, window->share, &window->memory);
    if (status == WF_OK) status = wrap_theirs(fabric, window);
    TRY_GOTO(agree_on_node(fabric, status), free_window);
    window->id = fabric->windows_made++;
    window->next = fabric->windows;
    fabric->windows = window;
    *out = window->memory;
    return WF_OK;

free_window:
    if (window) wf_window_free(fabric, window);
    return status;
}

static void remove_window(wf_fabric *fabric, const wf_window *gone) {
    wf_window **link = &fabric->windows;
    while (*link && *link != gone) link = &(*link)->next;
    wf_window *const window = *link;
    if (!window) return;
    *link = window->next;
    wf_window_free(fabric, window);
}

/* A rank that asked for 0 bytes has nothing to name the window by; the others tell it. Where they
 * have parted, the peers' memory stays mapped until the fabric goes, and the next wf_fabric_agree says so. */
void wf_fabric_window_destroy(wf_fabric *fabric, wf_memory *memory) {
    const wf_window *window = memory ? wf_window_of(fabric, memory) : NULL;
    const int32_t mine = window ? window->id : -1;
    if (fabric->everyone.parted) fabric->node.parted = true; /* nobody would come */
    char first[WF_TEXT_BYTES]; /* what failed before is still to be told */
    snprintf(first, sizeof first, "%s", wf_last_error());
    int32_t id = mine, *const all = fabric->node.room->words; /* no memory is asked for: there is nobody to tell */
    const wf_status status = wf_gather(fabric->boot, &fabric->node, WF_TAG_NODE, fabric->timeout_s, &mine, sizeof mine, all);
    if (status != WF_OK) {
        if (!fabric->why_parted) fabric->why_parted = strdup(wf_last_error());
        wf_fail(status, "%s", first);
    } else
        for (int32_t m = 0; m < fabric->node.count; m++)
            if (all[m] > id) id = all[m];
    if (id >= 0) remove_window(fabric, wf_window_by_id(fabric, id));
}

/* ---- the transport ---- */

static wf_verdict_code ok(const wf_fabric *fabric, int32_t rank, int32_t peer) {
    if (fabric->peers[rank].node != fabric->peers[peer].node) return WF_PAIR_OTHER_NODE;
    if (!fabric->peers[rank].unified || !fabric->peers[peer].unified) return WF_PAIR_NOT_UNIFIED;
    return fabric->outboxes ? WF_PAIR_PASSED : WF_PAIR_NO_SHARE;
}

static wf_status create(wf_fabric *fabric) {
    return WF_OK;
}

static void destroy(wf_fabric *fabric) {}

static wf_status finished(wf_half *half, bool *done_out) {
    TRY(wf_event_done(half->event, done_out));
    if (!*done_out) return WF_OK;
    wf_event_release(half->event);
    half->event = NULL;
    return WF_OK;
}

/* Starts to refresh; the halves of an end do so in order. */
static wf_status start(wf_fabric *fabric, wf_half *half) {
    if (!half->sends || half->word) return WF_OK;
    const wf_window *const window = wf_window_of(fabric, half->memory);
    if (!window)
        return wf_fail(WF_ERR_FABRIC,
                       "the %lld bytes that rank %d sends to rank %d on lane %s by window do not "
                       "lie in window memory",
                       (long long)half->bytes, fabric->rank, half->peer, wf_lane_name(half->lane));
    if (!fabric->refresh_windows && wf_memory_direct(half->memory)) return WF_OK;
    char *const host = window->share->piece[window->share->mine];
    TRY(wf_queue_read(fabric->device, WF_QUEUE_SEND, half->memory, half->offset, half->bytes,
                      host + half->offset, &half->event));
    return wf_queue_flush(fabric->device, WF_QUEUE_SEND);
}

static wf_status advance_send(wf_fabric *fabric, wf_half *half) {
    bool current = true;
    if (half->event) TRY(finished(half, &current));
    if (!current) return WF_OK;
    const wf_post post = {.bytes = half->bytes,
                          .offset = half->offset,
                          .window = half->word ? -1 : wf_window_of(fabric, half->memory)->id};
    if (!wf_mail_announce(fabric, half, &post)) return WF_OK;
    TRY(wf_mail_match(fabric, half));
    const wf_mail *const mail = wf_half_mail(fabric, half);
    if (!half->matched ||
        atomic_load_explicit(&mail->completed, memory_order_acquire) <= half->sequence)
        return WF_OK;
    if (half->moved < half->bytes) wf_half_moved(fabric, half, half->bytes);
    wf_mail_close(fabric, half);
    return WF_OK;
}

static const wf_post *post_of(const wf_fabric *fabric, const wf_half *half) {
    return &wf_half_mail(fabric, half)->sent[half->sequence % WF_POSTS];
}

static wf_status find_window(const wf_fabric *fabric, const wf_half *half, const wf_window **out) {
    const wf_post *const post = post_of(fabric, half);
    *out = wf_window_by_id(fabric, post->window);
    if (*out && post->offset >= 0 && post->offset <= (*out)->share->bytes[fabric->peers[half->peer].place] - half->bytes) return WF_OK;
    return wf_fail(WF_ERR_FABRIC, "rank %d sends %lld bytes from %lld of its window %d, which rank %d has not mapped", half->peer,
                   (long long)half->bytes, (long long)post->offset, post->window, fabric->rank);
}

/* No bytes move. */
static wf_status look_in(wf_fabric *fabric, wf_half *half) {
    if (half->found) {
        const wf_window *window;
        TRY(find_window(fabric, half, &window));
        *half->found = (wf_found){window->theirs[fabric->peers[half->peer].place], post_of(fabric, half)->offset};
    }
    half->issued = half->bytes;
    half->end->issuing++;
    wf_half_moved(fabric, half, half->bytes);
    return WF_OK;
}

/* By the host, a piece in each visit, or by the device at once. */
static wf_status copy_in(wf_fabric *fabric, wf_half *half) {
    const wf_window *window;
    TRY(find_window(fabric, half, &window));
    const char *const from = (const char *)window->share->piece[fabric->peers[half->peer].place] + post_of(fabric, half)->offset;
    char *const direct = wf_memory_direct(half->memory);
    if (direct) {
        const int64_t left = half->bytes - half->issued, bytes = left < DIRECT_BYTES ? left : DIRECT_BYTES;
        wf_copy_part(direct + half->offset + half->issued, from + half->issued, bytes, half->bytes);
        half->issued += bytes;
        if (half->issued == half->bytes) half->end->issuing++;
        wf_half_moved(fabric, half, bytes);
        return WF_OK;
    }
    TRY(wf_queue_write(fabric->device, WF_QUEUE_RECEIVE, half->memory, half->offset, half->bytes,
                       from, &half->event));
    half->issued = half->bytes;
    half->end->issuing++;
    return wf_queue_flush(fabric->device, WF_QUEUE_RECEIVE);
}

static wf_status advance_receive(wf_fabric *fabric, wf_half *half) {
    if (!wf_mail_announce(fabric, half, &(wf_post){.bytes = half->bytes})) return WF_OK;
    TRY(wf_mail_match(fabric, half));
    if (!half->matched) return WF_OK;
    if (half->issued < half->bytes && half->end->issuing == half->sequence)
        TRY(half->found || half->word ? look_in(fabric, half) : copy_in(fabric, half));
    bool arrived = false;
    if (half->event) TRY(finished(half, &arrived));
    if (arrived) wf_half_moved(fabric, half, half->bytes);
    if (half->moved == half->bytes) wf_mail_close(fabric, half);
    return WF_OK;
}

static wf_status advance(wf_fabric *fabric, wf_half *half) {
    return half->sends ? advance_send(fabric, half) : advance_receive(fabric, half);
}

static bool abandon(wf_fabric *fabric, wf_half *half) {
    if (half->event) wf_event_release(half->event);
    half->event = NULL;
    return true;
}

const wf_transport wf_transport_window = {.kind = WF_TRANSPORT_WINDOW,
                                          .name = "window",
                                          .ok = ok,
                                          .create = create,
                                          .destroy = destroy,
                                          .start = start,
                                          .advance = advance,
                                          .abandon = abandon};
