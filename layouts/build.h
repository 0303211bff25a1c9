/* build.h: how schedules are made; used by lowering and by the tests that build schedules without
 * kernels. Every function appends; errors (out of memory, an illegal view) stick to the schedule
 * and are returned by wf_build_finish, so that lowering reads as straight lines. */
#ifndef WF_LAYOUTS_BUILD_H
#define WF_LAYOUTS_BUILD_H

#include "layouts/schedule.h"

#ifdef __cplusplus
extern "C" {
#endif

wf_status wf_schedule_create(int32_t rank, int32_t ranks, wf_schedule **out);
wf_status wf_build_finish(wf_schedule *); /* the first error of the calls below, or WF_OK */

/* Makes a failure stick: `status` with this thread's last sentence, unless an earlier one does. */
void wf_build_fail(wf_schedule *, wf_status status);
/* An earlier call failed: what it would have appended is not there, and its index means nothing. */
bool wf_build_failed(const wf_schedule *);

const char *wf_build_text(wf_schedule *, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* members: world ranks in the layout's order; must contain the own rank. Returns the group's index. */
int32_t wf_build_group(wf_schedule *, int axis, const int32_t *members, int32_t count);

/* Returns buffer indices. Scratch belongs to the open segment. */
int32_t wf_build_scratch(wf_schedule *, const char *name, wf_dtype, int64_t elements);
int32_t wf_build_pool(wf_schedule *, const char *name, wf_class, wf_dtype, int64_t elements);
int32_t wf_build_slot(wf_schedule *, const char *name, wf_class, wf_dtype, int64_t elements, int32_t count);

/* Views: rows x columns with a row stride, vectors, or free. By value; not stored until used in a step. */
wf_view wf_vector(int32_t buffer, wf_at at, int64_t offset, int64_t extent);
wf_view wf_matrix(int32_t buffer, wf_at at, int64_t offset, int64_t rows, int64_t columns, int64_t row_stride);
wf_view wf_array(int32_t buffer, wf_at at, int64_t offset, int ndim, const int64_t *extent, const int64_t *stride);

/* Segments do not nest. Returns the segment's index. */
int32_t wf_build_segment(wf_schedule *, const char *format, ...) __attribute__((format(printf, 2, 3)));
void wf_build_segment_end(wf_schedule *);

/* A kernel step in the open segment; views in operand order (reads, updates, writes as the
 * operation says; checked). Does nothing when the outputs have no element. */
void wf_build_kernel(wf_schedule *, const char *site, const wf_problem *, const wf_view *views, int nviews);
/* A kernel step without a problem (tests, schedules without kernels). */
void wf_build_opaque(wf_schedule *, const char *site, wf_lane, const wf_view *views, int reads, int updates, int writes);
/* One hop. Either view may be NULL; messages without bytes are left out, on both ends by the same rule. */
void wf_build_hop(wf_schedule *, const char *site, wf_lane, wf_collective, int32_t group, int32_t hop,
                  int32_t to, const wf_view *send, int32_t from, const wf_view *receive);

/* Collectives over a group, as hops (layouts/collectives.c). shard[i]: the rows of member i within
 * `whole`, a matrix whose row blocks the members own, in order.
 * all_gather: my block of `whole` is sent to all, theirs received into theirs; my own block must
 * already lie in place (a COPY step by lowering when it does not).
 * reduce_scatter: block j of `partial` goes to member j; what arrives for me from member i lands in a
 * scratch buffer of its own; parts_out[i] are then the views to sum in member order (my own is a view of
 * `partial`). What lands is only read, by kernels of the same segment: so it may stay where it is (in_place.c). */
typedef struct wf_rows { int64_t first, count; } wf_rows;
void wf_build_all_gather(wf_schedule *, const char *site, wf_lane, int32_t group, const wf_view *whole, const wf_rows *shard);
void wf_build_reduce_scatter(wf_schedule *, const char *site, wf_lane, int32_t group, const wf_view *partial,
                             const wf_rows *shard, wf_view *parts_out);
/* Its exchanges alone, with a landing place of the caller's: a matrix of (members - 1) * own rows; and the views to sum. */
void wf_build_scatter(wf_schedule *, const char *site, wf_lane, int32_t group, const wf_view *partial, const wf_rows *shard,
                      const wf_view *landing);
void wf_build_parts(const wf_schedule *, int32_t group, const wf_view *partial, const wf_rows *shard, const wf_view *landing,
                    wf_view *parts_out);

void wf_build_call(wf_schedule *, const wf_call *call);

/* For passes that change a finished schedule before it is placed (choose): append without an open
 * segment. wf_build_views: consecutive views; returns the index of the first. */
int32_t wf_build_scratch_of(wf_schedule *, int32_t segment, const char *name, wf_class, wf_dtype, int64_t elements);
int32_t wf_build_views(wf_schedule *, const wf_view *views, int32_t nviews);
/* An exchange before the at-th step of a segment. */
void wf_build_insert(wf_schedule *, int32_t segment, int32_t at, const wf_step *, const wf_exchange *, const wf_view *views);
/* The index of this problem among schedule->problems; equal problems share one. */
int32_t wf_build_problem(wf_schedule *, const wf_problem *);

/* Instances of a pool, handed out in the order of the program: the exact high-water mark. */
typedef struct wf_free_list wf_free_list;
wf_free_list *wf_free_list_create(wf_schedule *);       /* owned by the schedule */
int32_t wf_free_list_take(wf_free_list *);              /* the instance freed longest ago, or a new one; -1 without memory */
void wf_free_list_give(wf_free_list *, int32_t instance);
/* The `instances` freed last are not handed out (0 at first): a receive into the buffer that was
 * just sent would wait for that send, which deadlocks an interleaved pipeline. */
void wf_free_list_quarantine(wf_free_list *, int32_t instances);
int32_t wf_free_list_count(const wf_free_list *);       /* high-water mark, the pools' count */
/* Sets count of a POOL buffer, before placing. */
void wf_build_pool_count(wf_schedule *, int32_t buffer, int32_t count);
/* Who brings the memory of a buffer that is kept. */
void wf_build_owner(wf_schedule *, int32_t buffer, wf_owner);
/* Of a buffer's elements; of a schedule that has failed, whose buffers may not be there: f32. */
wf_dtype wf_build_dtype(const wf_schedule *, int32_t buffer);

#ifdef __cplusplus
}
#endif
#endif
