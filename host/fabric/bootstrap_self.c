/* bootstrap_self.c: one rank alone. Needs no MPI start-up. */
#include "host/fabric/fabric.h"

#include <string.h>

static wf_status all_gather(void *self, const void *mine, int64_t bytes, void *all_out) {
    memcpy(all_out, mine, (size_t)bytes);
    return WF_OK;
}

static wf_status send(void *self, int32_t to, int32_t tag, const void *data, int64_t bytes,
                      void **request_out) {
    return wf_fail(WF_ERR_ARGUMENT, "a rank alone cannot send %lld bytes to rank %d",
                   (long long)bytes, to);
}

static wf_status receive(void *self, int32_t from, int32_t tag, void *data, int64_t bytes,
                         void **request_out) {
    return wf_fail(WF_ERR_ARGUMENT, "a rank alone cannot receive %lld bytes from rank %d",
                   (long long)bytes, from);
}

static wf_status test(void *self, void **request, bool *done) {
    return wf_fail(WF_ERR_INTERNAL, "a rank alone has no request to test");
}

static bool cancel(void *self, void **request) {
    return true;
}

static void destroy(void *self) {}

wf_status wf_bootstrap_self(wf_bootstrap *out) {
    *out = (wf_bootstrap){.name = "self",
                          .ranks = 1,
                          .node_ranks = 1,
                          .all_gather = all_gather,
                          .send = send,
                          .receive = receive,
                          .test = test,
                          .cancel = cancel,
                          .destroy = destroy};
    return WF_OK;
}
