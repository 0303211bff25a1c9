/* world.h: all ranks of a schedule in one process, for tests.
 *
 * Two independent witnesses that placed schedules are right. play: every rank's lanes advance in a
 * random interleaving over real memory that begins as poison; a kernel's output is a hash of its
 * site, call and input bits, so a wrong byte anywhere changes what comes after. order: vector clocks
 * from lane order, waits and messages (Fidge 1988, Mattern 1989) prove every pair of conflicting
 * accesses ordered, whatever the interleaving; conflicts come from placed bytes, not from waits.c. */
#ifndef WF_TESTS_LAYOUTS_WORLD_H
#define WF_TESTS_LAYOUTS_WORLD_H

#include "layouts/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

#define WORLD_SOURCES 16

typedef struct world_instance {
    wf_instance i;
    int32_t receiver, sender;   /* hop: instance at the rank it sends to, receives from; -1 none */
} world_instance;

typedef struct world_rank {
    const wf_schedule *schedule;
    world_instance *instances;  /* in program order */
    int32_t n;
    int32_t *lane[WF_LANES];    /* instance by sequence number */
    int32_t lane_n[WF_LANES];
    uint32_t **memory;          /* per allocation, as words */
    uint32_t **found;           /* per buffer: where what is read in place begins, in another rank's memory */
    int32_t value[WORLD_SOURCES]; /* run-time extents by source */
} world_rank;

typedef struct world {
    int32_t ranks;
    world_rank *rank;
    int64_t poisoned;           /* elements read that nobody wrote */
} world;

/* Aborts the test where a message has no other end. */
world *world_create(wf_schedule *const *schedules, int32_t ranks);
void world_destroy(world *);

/* ---- play ---- */

void world_poison(world *); /* all memory */
/* Fills a buffer's instance with words that depend on `value` alone. */
void world_fill(world *, int32_t rank, const char *buffer, int32_t instance, uint32_t value);
uint64_t world_hash(const world *, int32_t rank, const char *buffer, int32_t instance);
/* Plays to the end; seed 0: each rank in program order as far as it goes. False: nothing moves any more. */
bool world_play(world *, uint64_t seed);

/* ---- order ---- */

typedef enum world_grain {
    WORLD_BYTES,    /* bytes as placed */
    WORLD_INSTANCES /* over calls: whole instances, whole allocations of scratch */
} world_grain;

/* Accesses that are in conflict and must be ordered: (first, second) of a rank, in program order. */
typedef struct world_pair { int32_t rank, first, second; } world_pair;
int32_t world_conflicts(const world *, world_grain, world_pair **pairs_out);

/* Pairs that are not ordered; messages: a message's edges count, else only the rank's own waits.
 * -1: the ranks deadlock. first_out (may be NULL): one such pair. */
int32_t world_unordered(const world *, const world_pair *pairs, int32_t npairs, bool messages, world_pair *first_out);

typedef struct world_drops {
    int32_t waits, redundant, caught, missed; /* missed: the order is lost, and no pair shows it */
} world_drops;
/* Drops each wait of each instance in turn. */
world_drops world_drop_waits(world *, const world_pair *pairs, int32_t npairs, bool messages);

#ifdef __cplusplus
}
#endif
#endif
