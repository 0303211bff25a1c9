/* bootstrap.c: how ranks find each other. */
#include <stdlib.h>

#include "host/api/objects.h"
#include "host/api/weft_mpi.h"
#include "host/base/env.h"

weft_status weft_bootstrap_mpi(MPI_Comm communicator, weft_bootstrap **out) {
    return weft_bootstrap_mpi_within(communicator, 0, out);
}

weft_status weft_bootstrap_mpi_within(MPI_Comm communicator, double timeout_s, weft_bootstrap **out) {
    wf_bootstrap made;
    weft_bootstrap *const b = calloc(1, sizeof *b);
    const wf_status mine = b ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for a bootstrap");
    const wf_status status = wf_bootstrap_mpi_within(&communicator, timeout_s, mine, &made);
    if (status != WF_OK) {
        free(b);
        return weft_from(status);
    }
    b->bootstrap = made;
    *out = b;
    return WEFT_OK;
}

bool weft_mpi_launched(void) {
    return wf_env_launcher() != NULL;
}

/* `made` tables, each into a handle of its own; all or none. */
static wf_status wrap(const wf_bootstrap *made, int32_t ranks, weft_bootstrap **out) {
    weft_bootstrap **const all = calloc((size_t)ranks, sizeof *all);
    bool enough = all != NULL;
    for (int32_t r = 0; enough && r < ranks; r++) enough = (all[r] = calloc(1, sizeof **all)) != NULL;
    for (int32_t r = 0; r < ranks; r++) {
        if (enough) {
            all[r]->bootstrap = made[r];
            out[r] = all[r];
            continue;
        }
        if (all) free(all[r]);
        made[r].destroy(made[r].self);
    }
    free(all);
    return enough ? WF_OK : wf_fail(WF_ERR_MEMORY, "no host memory for the bootstraps of %d ranks", ranks);
}

weft_status weft_bootstrap_local(int32_t ranks, weft_bootstrap **out) {
    wf_bootstrap *const made = calloc(ranks > 0 ? (size_t)ranks : 1, sizeof *made);
    if (!made) return weft_from(wf_fail(WF_ERR_MEMORY, "no host memory for the bootstraps of %d ranks", ranks));
    wf_status status = wf_bootstrap_local(ranks, made);
    if (status == WF_OK) status = wrap(made, ranks, out);
    free(made);
    return weft_from(status);
}

weft_status weft_bootstrap_callbacks(const weft_callbacks *c, weft_bootstrap **out) {
    wf_bootstrap made;
    const wf_callbacks calls = {.user = c->user,
                                .rank = c->rank,
                                .ranks = c->ranks,
                                .node = c->node,
                                .node_rank = c->node_rank,
                                .node_ranks = c->node_ranks,
                                .send = c->send,
                                .receive = c->receive,
                                .test = c->test,
                                .cancel = c->cancel,
                                .all_gather = c->all_gather};
    wf_status status = wf_bootstrap_callbacks(&calls, &made);
    if (status == WF_OK) status = wrap(&made, 1, out);
    return weft_from(status);
}

void weft_bootstrap_destroy(weft_bootstrap *b) {
    if (!b) return;
    b->bootstrap.destroy(b->bootstrap.self);
    free(b);
}
