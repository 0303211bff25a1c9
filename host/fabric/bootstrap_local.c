/* bootstrap_local.c: ranks that are threads of one process.
 *
 * Each rank has an inbox, behind a mutex: sends and receives that are addressed to it and have not
 * met. Whichever of a pair comes second copies the bytes, once, under the mutex, and both are done.
 * So nothing is buffered, and a request that is given up can be taken out of the inbox: its memory is
 * free again at once. Requests come from their rank's free list, so that a step allocates nothing.
 *
 * The hub lives until the last rank's handle is destroyed. A rank whose handle is gone answers no
 * more: who still waits for it is told so instead of waiting for a deadline. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "host/fabric/internal.h"

typedef struct request {
    struct request *next;       /* in the inbox, oldest first, or in the free list */
    int32_t from, to, tag;
    bool receives, posted;      /* posted: in the inbox of `to` */
    bool done;
    void *data;                 /* of a send: only read */
    int64_t bytes, arrived;
} request;

typedef struct inbox {
    pthread_mutex_t mutex;
    request *first;
    bool left;                  /* its rank is gone */
} inbox;

typedef struct hub {
    atomic_int users;
    int32_t ranks;
    inbox inboxes[];
} hub;

typedef struct bootstrap_local {
    hub *hub;
    int32_t rank;
    request *free_list;
} bootstrap_local;

/* ---- meeting ---- */

/* The oldest request that `one` meets, taken out; NULL: none yet. */
static request *take_match(inbox *box, const request *one) {
    for (request **at = &box->first; *at; at = &(*at)->next) {
        request *const other = *at;
        if (other->receives == one->receives || other->from != one->from || other->tag != one->tag) continue;
        *at = other->next;
        return other;
    }
    return NULL;
}

static void meet(request *send, request *receive) {
    const int64_t bytes = send->bytes < receive->bytes ? send->bytes : receive->bytes;
    if (bytes > 0) memcpy(receive->data, send->data, (size_t)bytes);
    receive->arrived = send->bytes;
    send->done = receive->done = true;
    send->posted = receive->posted = false;
}

static void post(hub *hub, request *one) {
    inbox *const box = &hub->inboxes[one->to];
    pthread_mutex_lock(&box->mutex);
    request *const other = take_match(box, one);
    if (other) {
        meet(one->receives ? other : one, one->receives ? one : other);
    } else {
        request **last = &box->first;
        while (*last) last = &(*last)->next;
        *last = one;
        one->posted = true;
    }
    pthread_mutex_unlock(&box->mutex);
}

/* ---- the table ---- */

static wf_status begin(bootstrap_local *local, const request *what, void **request_out) {
    const int32_t peer = what->receives ? what->from : what->to;
    request *one = local->free_list;
    if (peer < 0 || peer >= local->hub->ranks)
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d among %d", peer, local->hub->ranks);
    if (one)
        local->free_list = one->next;
    else if (!(one = malloc(sizeof *one)))
        return wf_fail(WF_ERR_MEMORY, "no memory for a message of %lld bytes", (long long)what->bytes);
    *one = *what;
    post(local->hub, one);
    *request_out = one;
    return WF_OK;
}

static wf_status send(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes,
                      void **request_out) {
    bootstrap_local *const local = self;
    union {
        const void *in;
        void *out;
    } memory = {.in = data}; /* meet() only reads a send's */
    const request what = {
        .from = local->rank, .to = to, .tag = tag, .data = memory.out, .bytes = bytes};
    return begin(local, &what, request_out);
}

static wf_status receive(void *self, int32_t from, int32_t tag, void *data, int64_t bytes,
                         void **request_out) {
    bootstrap_local *const local = self;
    const request what = {.from = from,
                          .to = local->rank,
                          .tag = tag,
                          .receives = true,
                          .data = data,
                          .bytes = bytes};
    return begin(local, &what, request_out);
}

static bool has_left(inbox *box) {
    pthread_mutex_lock(&box->mutex);
    const bool left = box->left;
    pthread_mutex_unlock(&box->mutex);
    return left;
}

static void give(bootstrap_local *local, request *one) {
    one->next = local->free_list;
    local->free_list = one;
}

static wf_status test(void *self, void **request_inout, bool *done) {
    bootstrap_local *const local = self;
    request *const one = *request_inout;
    const int32_t peer = one->receives ? one->from : one->to;
    /* First: what it sent before it left has met already. */
    const bool left = has_left(&local->hub->inboxes[peer]);
    inbox *const box = &local->hub->inboxes[one->to];
    pthread_mutex_lock(&box->mutex);
    *done = one->done;
    pthread_mutex_unlock(&box->mutex);
    if (!*done)
        return left ? wf_fail(WF_ERR_FABRIC, "rank %d has left: its context or its bootstrap was destroyed", peer)
                    : WF_OK;
    const request was = *one;
    give(local, one);
    *request_inout = NULL;
    if (was.receives && was.arrived != was.bytes)
        return wf_fail(WF_ERR_MISMATCH,
                       "rank %d sent %lld bytes with tag %d where %lld were expected", was.from,
                       (long long)was.arrived, was.tag, (long long)was.bytes);
    return WF_OK;
}

static void take_out(inbox *box, request *one) {
    pthread_mutex_lock(&box->mutex);
    for (request **at = &box->first; one->posted && *at; at = &(*at)->next)
        if (*at == one) {
            *at = one->next;
            break;
        }
    one->posted = false;
    pthread_mutex_unlock(&box->mutex);
}

static bool cancel(void *self, void **request_inout) {
    bootstrap_local *const local = self;
    request *const one = *request_inout;
    *request_inout = NULL;
    if (!one) return true;
    take_out(&local->hub->inboxes[one->to], one);
    give(local, one);
    return true;
}

static wf_status all_gather(void *self, const void *mine, int64_t bytes, void *all_out) {
    bootstrap_local *const local = self;
    const wf_bootstrap boot = {.name = "local",
                               .rank = local->rank,
                               .ranks = local->hub->ranks,
                               .self = self,
                               .send = send,
                               .receive = receive,
                               .test = test,
                               .cancel = cancel};
    wf_members everyone = {.count = boot.ranks, .index = boot.rank};
    return wf_gather(&boot, &everyone, WF_TAG_BOOTSTRAP, WF_TIMEOUT_S, mine, bytes, all_out);
}

/* ---- life ---- */

static void leave(hub *hub) {
    if (atomic_fetch_sub(&hub->users, 1) > 1) return;
    for (int32_t r = 0; r < hub->ranks; r++) pthread_mutex_destroy(&hub->inboxes[r].mutex);
    free(hub);
}

/* What this rank left in the inboxes of others would name memory that is gone. */
static void take_all_out(hub *hub, int32_t rank) {
    for (int32_t r = 0; r < hub->ranks; r++) {
        inbox *const box = &hub->inboxes[r];
        pthread_mutex_lock(&box->mutex);
        for (request **at = &box->first; *at;) {
            request *const one = *at;
            if ((one->receives ? one->to : one->from) != rank) {
                at = &one->next;
                continue;
            }
            *at = one->next;
            free(one);
        }
        if (r == rank) box->left = true;
        pthread_mutex_unlock(&box->mutex);
    }
}

static void destroy(void *self) {
    bootstrap_local *const local = self;
    if (!local) return;
    take_all_out(local->hub, local->rank);
    while (local->free_list) {
        request *const next = local->free_list->next;
        free(local->free_list);
        local->free_list = next;
    }
    leave(local->hub);
    free(local);
}

static wf_status create_hub(int32_t ranks, hub **out) {
    hub *const one = calloc(1, sizeof *one + (size_t)ranks * sizeof *one->inboxes);
    if (!one) return wf_fail(WF_ERR_MEMORY, "no memory for %d ranks in one process", ranks);
    one->ranks = ranks;
    atomic_init(&one->users, 1); /* the maker, until all handles are there */
    for (int32_t r = 0; r < ranks; r++)
        if (pthread_mutex_init(&one->inboxes[r].mutex, NULL) != 0) {
            while (r-- > 0) pthread_mutex_destroy(&one->inboxes[r].mutex);
            free(one);
            return wf_fail(WF_ERR_MEMORY, "no mutex for the inboxes of %d ranks", ranks);
        }
    *out = one;
    return WF_OK;
}

wf_status wf_bootstrap_local(int32_t ranks, wf_bootstrap *out) {
    enum { MOST = 4096 };
    hub *shared = NULL;
    if (ranks < 1 || ranks > MOST)
        return wf_fail(WF_ERR_ARGUMENT, "%d ranks in one process: 1 to %d are possible", ranks, MOST);
    TRY(create_hub(ranks, &shared));
    int32_t made = 0;
    for (; made < ranks; made++) {
        bootstrap_local *const local = calloc(1, sizeof *local);
        if (!local) break;
        *local = (bootstrap_local){.hub = shared, .rank = made};
        atomic_fetch_add(&shared->users, 1);
        out[made] = (wf_bootstrap){.name = "local",
                                   .rank = made,
                                   .ranks = ranks,
                                   .node_rank = made,
                                   .node_ranks = ranks,
                                   .self = local,
                                   .all_gather = all_gather,
                                   .send = send,
                                   .receive = receive,
                                   .test = test,
                                   .cancel = cancel,
                                   .destroy = destroy};
    }
    const wf_status status =
        made == ranks ? WF_OK : wf_fail(WF_ERR_MEMORY, "no memory for %d ranks in one process", ranks);
    while (status != WF_OK && made-- > 0) destroy(out[made].self);
    leave(shared);
    return status;
}
