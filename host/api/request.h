/* request.h: a run, and what is asked of it. Private to host/api. */
#ifndef WEFT_API_REQUEST_H
#define WEFT_API_REQUEST_H

#include "host/api/objects.h"

/* The caller's buffers of a block stack: their slots in the schedule, and the phase that uses each. */
typedef struct weft_place {
    const char *name, *slot;
    wf_phase phase;
    bool written;
} weft_place;
extern const weft_place weft_places[WEFT_BUFFERS];

struct weft_run {
    weft_plan *plan;
    bool used, submitted, done;
    int phase[WF_PHASES], phases, at;   /* still to play: phase[at] is in hand; WF_PHASES: the whole program */
    wf_run_args args;                   /* of this run; a backward takes those of its forward */
    weft_stash *stash;
    weft_params *params;
    weft_buffer buffer[WEFT_BUFFERS];
    wf_event *end;                      /* of all that was submitted */
    wf_event *packed;                   /* the device has read the documents of a block stack's last forward; NULL: none */
    int64_t valid;                      /* targets that count */
    double begin_s, seconds;
};

/* Has a run of it a loss, which needs targets? */
bool weft_plan_has_loss(const weft_plan *);
/* WF_OK, or why no run of it can begin: not loaded, or its context has failed. */
wf_status weft_plan_loaded(const weft_plan *);
/* Values and ids; valid_out: targets that count. */
wf_status weft_args_check(const weft_plan *, const weft_args *, int64_t *valid_out);
/* Plan, phases, stash and buffers; also that no other run is in progress. */
wf_status weft_run_check(const weft_plan *, uint32_t phases, const weft_params *, const weft_stash *, const weft_args *);

#endif
