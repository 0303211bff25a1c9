/* bootstrap_callbacks.c: ranks that the caller connects, by functions of his own: any launcher, any
 * network. His codes are quoted in our sentences; how his messages travel is his affair, that they
 * arrive in order and whole is his promise. The fabric tells lengths itself before data moves, so a
 * plan that does not fit is found all the same. */
#include <stdlib.h>

#include "host/fabric/internal.h"

typedef struct request {
    struct request *next;       /* in the free list */
    void *his;
    int32_t peer, tag;
    int64_t bytes;
    bool receives;
} request;

typedef struct bootstrap_callbacks {
    wf_callbacks calls;
    request *free_list;
    wf_bootstrap copy;
} bootstrap_callbacks;

static wf_status failed(const request *r, const char *call, int code) {
    return wf_fail(WF_ERR_FABRIC, "the caller's %s returned %d (%s rank %d, tag %d, %lld bytes)", call, code,
                   r->receives ? "from" : "to", r->peer, r->tag, (long long)r->bytes);
}

static wf_status take(bootstrap_callbacks *b, const request *what, request **out) {
    request *one = b->free_list;
    if (one)
        b->free_list = one->next;
    else if (!(one = malloc(sizeof *one)))
        return wf_fail(WF_ERR_MEMORY, "no memory for a message of %lld bytes", (long long)what->bytes);
    *one = *what;
    *out = one;
    return WF_OK;
}

static void give(bootstrap_callbacks *b, request *one) {
    one->next = b->free_list;
    b->free_list = one;
}

static wf_status send(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes,
                      void **request_out) {
    bootstrap_callbacks *const b = self;
    request *one = NULL;
    TRY(take(b, &(request){.peer = to, .tag = tag, .bytes = bytes}, &one));
    const int code = b->calls.send(b->calls.user, to, tag, data, (size_t)bytes, &one->his);
    if (code) {
        give(b, one);
        return failed(one, "send", code);
    }
    *request_out = one;
    return WF_OK;
}

static wf_status receive(void *self, int32_t from, int32_t tag, void *data, int64_t bytes,
                         void **request_out) {
    bootstrap_callbacks *const b = self;
    request *one = NULL;
    TRY(take(b, &(request){.peer = from, .tag = tag, .bytes = bytes, .receives = true}, &one));
    const int code = b->calls.receive(b->calls.user, from, tag, data, (size_t)bytes, &one->his);
    if (code) {
        give(b, one);
        return failed(one, "receive", code);
    }
    *request_out = one;
    return WF_OK;
}

static wf_status test(void *self, void **request_inout, bool *done) {
    bootstrap_callbacks *const b = self;
    request *const one = *request_inout;
    int over = 0;
    const int code = b->calls.test(b->calls.user, one->his, &over);
    if (code) return failed(one, "test", code);
    *done = over != 0;
    if (!*done) return WF_OK;
    give(b, one);
    *request_inout = NULL;
    return WF_OK;
}

static bool cancel(void *self, void **request_inout) {
    bootstrap_callbacks *const b = self;
    request *const one = *request_inout;
    *request_inout = NULL;
    if (!one) return true;
    const bool free_again = b->calls.cancel && b->calls.cancel(b->calls.user, one->his) == 0;
    give(b, one);
    return free_again;
}

static wf_status all_gather(void *self, const void *mine, int64_t bytes, void *all_out) {
    bootstrap_callbacks *const b = self;
    if (b->calls.all_gather) {
        const int code = b->calls.all_gather(b->calls.user, mine, (size_t)bytes, all_out);
        return code ? wf_fail(WF_ERR_FABRIC, "the caller's all_gather of %lld bytes returned %d", (long long)bytes, code) : WF_OK;
    }
    wf_members everyone = {.count = b->copy.ranks, .index = b->copy.rank};
    return wf_gather(&b->copy, &everyone, WF_TAG_BOOTSTRAP, WF_TIMEOUT_S, mine, bytes, all_out);
}

static void destroy(void *self) {
    bootstrap_callbacks *const b = self;
    if (!b) return;
    while (b->free_list) {
        request *const next = b->free_list->next;
        free(b->free_list);
        b->free_list = next;
    }
    free(b);
}

static wf_status check(const wf_callbacks *c) {
    if (!c->send || !c->receive || !c->test) return wf_fail(WF_ERR_ARGUMENT, "a bootstrap needs send, receive and test");
    if (c->ranks < 1 || c->rank < 0 || c->rank >= c->ranks)
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d among %d", c->rank, c->ranks);
    if (c->node_ranks < 0 || c->node_ranks > c->ranks || (c->node_ranks && (c->node_rank < 0 || c->node_rank >= c->node_ranks)))
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d among %d of a node, with %d ranks in all", c->node_rank,
                       c->node_ranks, c->ranks);
    return WF_OK;
}

wf_status wf_bootstrap_callbacks(const wf_callbacks *calls, wf_bootstrap *out) {
    TRY(check(calls));
    bootstrap_callbacks *const b = calloc(1, sizeof *b);
    if (!b) return wf_fail(WF_ERR_MEMORY, "no memory for a bootstrap");
    b->calls = *calls;
    b->copy = (wf_bootstrap){.name = "callbacks",
                             .rank = calls->rank,
                             .ranks = calls->ranks,
                             .node = calls->node_ranks ? calls->node : calls->rank,
                             .node_rank = calls->node_ranks ? calls->node_rank : 0,
                             .node_ranks = calls->node_ranks ? calls->node_ranks : 1,
                             .self = b,
                             .all_gather = all_gather,
                             .send = send,
                             .receive = receive,
                             .test = test,
                             .cancel = cancel,
                             .destroy = destroy};
    *out = b->copy;
    return WF_OK;
}
