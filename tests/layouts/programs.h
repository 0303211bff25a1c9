/* programs.h: schedules without kernels of what comes: pipelines, PipeDream, ZeRO-3, experts, a
 * growing cache. Built with the generators that lowering uses; placed, not checked. */
#ifndef WF_TESTS_LAYOUTS_PROGRAMS_H
#define WF_TESTS_LAYOUTS_PROGRAMS_H

#include "layouts/pipeline.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct program {
    const char *name;
    int32_t ranks;
    wf_pipeline_shape shape;    /* pipelines */
    int32_t layers;
    /* Seeded faults. */
    int32_t short_rank;         /* 1 + the rank that has one microbatch less */
    int32_t swap_rank;          /* 1 + the rank whose first two forward receives are swapped */
    bool one_buffer;            /* a single x buffer: what is received reuses what is being sent */
} program;

/* "pipeline", "pipedream": by shape; "zero3", "in-place" (the same, its partial sums read where they lie), "experts", "decode": ranks and layers. */
wf_schedule *program_rank(const program *, int32_t rank);

#define EXPERT_BOUND 6          /* most tokens from one rank to another */
#define CACHE_BOUND 9           /* positions */

#ifdef __cplusplus
}
#endif
#endif
