/* player.h: plays the placed schedules of all ranks in one process, with f64 memory and the
 * operations' f64 references, at random interleavings of ranks and lanes that obey nothing but the
 * waits. Memory is NaN at first; exchanges copy at the level of messages. What comes out right here
 * is right for any device and fabric that keep the contracts; no device, no MPI is involved. */
#ifndef WF_TESTS_PLAYER_H
#define WF_TESTS_PLAYER_H

#include "layouts/schedule.h"

typedef struct player player;

/* Schedules are borrowed; schedules[rank]. */
player *player_create(const wf_schedule *const *schedules, int32_t ranks);
void player_destroy(player *);

/* A slot's instance: f64 (or i32) elements. NULL when the slot is unknown; elements may be 0. */
double *player_f64(player *, int32_t rank, const char *slot, int32_t instance,
                   int64_t *elements_out);
int32_t *player_i32(player *, int32_t rank, const char *slot, int32_t instance,
                    int64_t *elements_out);

/* Plays the programs once. run: as for wf_runner_run; samples: per microbatch. seed: of the
 * interleaving. obey: false ignores waits (to see that they matter). NULL, or what went wrong. */
const char *player_run(player *, const wf_run_number run[WF_RUN_VALUES], int64_t samples,
                       uint64_t seed, bool obey);

#endif
