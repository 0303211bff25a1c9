/* building.h: what build.c's files share. Private to them. */
#ifndef WF_LAYOUTS_BUILDING_H
#define WF_LAYOUTS_BUILDING_H

#include "layouts/build.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct wf_text wf_text;

typedef struct wf_builder {
    wf_status status;
    char *sentence;
    int32_t open;               /* segment being built, -1 none */
    int32_t buffers, views, exchanges, groups, members, steps, segments, calls, problems; /* capacities */
    int32_t *table;             /* hash table of problems: index + 1, 0 empty; twice as many as problems */
    int32_t table_size;
    wf_text *texts;
    wf_free_list *lists;
} wf_builder;

/* Of one step, before it is appended. */
wf_status wf_build_check_shape(const wf_schedule *, const char *site, const wf_view *);
wf_status wf_build_check_view(const wf_schedule *, int32_t segment, const char *site, const wf_view *);
/* Counts the operands by access into step; *outputs: elements that are written or updated. */
wf_status wf_build_check_kernel(const wf_schedule *, const char *site, const wf_problem *, const wf_view *, int nviews, wf_step *step,
                                int64_t *outputs);
wf_status wf_build_check_message(const wf_schedule *, const char *site, const wf_view *, int32_t peer);

/* All lists of a schedule. */
void wf_free_lists_destroy(wf_free_list *first);

#ifdef __cplusplus
}
#endif
#endif
