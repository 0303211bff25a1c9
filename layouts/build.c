/* build.c: schedules grow by appending. One growable array per table, an arena for texts, a hash
 * table that gives equal problems one index. The first error sticks: every later call does nothing,
 * and wf_build_finish returns it, so that lowering reads as straight lines.
 *
 * What one step alone can break is checked on its way in, by build_check.c. */
#include "layouts/building.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct wf_text {
    struct wf_text *next;
    char bytes[];
};

/* ---- life ------------------------------------------------------------------------------------- */

wf_status wf_schedule_create(int32_t rank, int32_t ranks, wf_schedule **out) {
    if (ranks < 1 || rank < 0 || rank >= ranks)
        return wf_fail(WF_ERR_ARGUMENT, "there is no rank %d of %d ranks", rank, ranks);
    wf_schedule *s = calloc(1, sizeof *s);
    wf_builder *b = calloc(1, sizeof *b);
    if (!s || !b) {
        free(s);
        free(b);
        return wf_fail(WF_ERR_MEMORY, "no host memory for a schedule");
    }
    s->rank = rank;
    s->ranks = ranks;
    s->builder = b;
    b->open = -1;
    *out = s;
    return WF_OK;
}

static void destroy_builder(wf_builder *b) {
    while (b->texts) {
        wf_text *next = b->texts->next;
        free(b->texts);
        b->texts = next;
    }
    wf_free_lists_destroy(b->lists);
    free(b->table);
    free(b->sentence);
    free(b);
}

void wf_schedule_destroy(wf_schedule *s) {
    if (!s) return;
    if (s->builder) destroy_builder(s->builder);
    free(s->buffers);
    free(s->views);
    free(s->exchanges);
    free(s->groups);
    free(s->members);
    free(s->steps);
    free(s->touches);
    free(s->segments);
    free(s->calls);
    free(s->problems);
    free(s->allocations);
    free(s);
}

/* ---- errors that stick ------------------------------------------------------------------------ */

void wf_build_fail(wf_schedule *s, wf_status status) {
    wf_builder *b = s->builder;
    if (b->status != WF_OK || status == WF_OK) return;
    b->status = status;
    b->sentence = strdup(wf_last_error());
}

bool wf_build_failed(const wf_schedule *s) {
    return s->builder->status != WF_OK;
}

wf_status wf_build_finish(wf_schedule *s) {
    const wf_builder *b = s->builder;
    if (b->status != WF_OK)
        return wf_fail(b->status, "%s", b->sentence ? b->sentence : "no host memory for a schedule");
    if (b->open >= 0)
        return wf_fail(WF_ERR_INTERNAL, "segment %s is not ended", s->segments[b->open].name);
    return WF_OK;
}

/* ---- growing ---------------------------------------------------------------------------------- */

/* Room for `more` entries behind `count`: the array, moved where it must be; NULL sticks. */
static void *room(wf_schedule *s, void *array, int32_t *capacity, int32_t count, int32_t more,
                  size_t entry_bytes) {
    const int64_t needed = (int64_t)count + more;
    if (needed <= *capacity) return array;
    int64_t larger = *capacity < 8 ? 16 : 2 * (int64_t)*capacity;
    if (larger < needed) larger = needed;
    if (larger > INT32_MAX) larger = INT32_MAX;
    void *moved = needed > INT32_MAX ? NULL : realloc(array, (size_t)larger * entry_bytes);
    if (!moved) {
        wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for a schedule with %lld entries of %zu bytes",
                                 (long long)needed, entry_bytes));
        return NULL;
    }
    *capacity = (int32_t)larger;
    return moved;
}

/* append_NAME(s, entries, n): copies them behind s->NAME; returns the index of the first, 0 after an error. */
#define DEFINE_APPEND(type, name)                                                                  \
    static int32_t append_##name(wf_schedule *s, const type *entries, int32_t n) {                 \
        if (wf_build_failed(s)) return 0;                                                                   \
        type *array = room(s, s->name, &s->builder->name, s->n##name, n, sizeof *array);           \
        if (!array && n > 0) return 0;                                                             \
        s->name = array;                                                                           \
        if (n > 0) memcpy(array + s->n##name, entries, (size_t)n * sizeof *array);                 \
        s->n##name += n;                                                                           \
        return s->n##name - n;                                                                     \
    }
DEFINE_APPEND(wf_buffer, buffers)
DEFINE_APPEND(wf_view, views)
DEFINE_APPEND(wf_exchange, exchanges)
DEFINE_APPEND(wf_group, groups)
DEFINE_APPEND(int32_t, members)
DEFINE_APPEND(wf_step, steps)
DEFINE_APPEND(wf_segment, segments)
DEFINE_APPEND(wf_call, calls)
DEFINE_APPEND(wf_chosen, problems)

static const char *format_text(wf_schedule *s, const char *format, va_list arguments) {
    va_list again;
    va_copy(again, arguments);
    const int length = vsnprintf(NULL, 0, format, arguments);
    wf_text *t = length < 0 ? NULL : malloc(sizeof *t + (size_t)length + 1);
    if (t) {
        vsnprintf(t->bytes, (size_t)length + 1, format, again);
        t->next = s->builder->texts;
        s->builder->texts = t;
    } else {
        wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's names"));
    }
    va_end(again);
    return t ? t->bytes : "";
}

const char *wf_build_text(wf_schedule *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const char *out = format_text(s, format, arguments);
    va_end(arguments);
    return out;
}

/* ---- groups ----------------------------------------------------------------------------------- */

int32_t wf_build_group(wf_schedule *s, int axis, const int32_t *members, int32_t count) {
    wf_group group = {.axis = (uint8_t)axis, .members = count, .index = -1};
    for (int32_t i = 0; i < count; i++) {
        if (members[i] < 0 || members[i] >= s->ranks) {
            wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "a group has rank %d of %d", members[i], s->ranks));
            return 0;
        }
        if (members[i] == s->rank) group.index = i;
    }
    if (group.index < 0) {
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "rank %d is not in its own group of %d", s->rank, count));
        return 0;
    }
    group.first_member = append_members(s, members, count);
    return append_groups(s, &group, 1);
}

/* ---- buffers ---------------------------------------------------------------------------------- */

static int32_t add_buffer(wf_schedule *s, const char *name, wf_life life, wf_class class_, wf_dtype dtype,
                          int64_t elements, int32_t count, int32_t segment) {
    if (wf_build_failed(s)) return 0;
    int64_t bytes;
    if (elements < 0 || count < 0 || __builtin_mul_overflow(elements, wf_dtype_bytes(dtype), &bytes) ||
        bytes > INT64_MAX / 8 / (count + 1)) {
        wf_build_fail(s, wf_fail(WF_ERR_ARGUMENT, "buffer %s of %lld elements, %d times, cannot be counted in bytes",
                                 name, (long long)elements, count));
        return 0;
    }
    const wf_buffer buffer = {.name = wf_build_text(s, "%s", name), .life = (uint8_t)life,
                              .space = WF_SPACE_DEVICE, .class_ = (uint8_t)class_, .dtype = (uint8_t)dtype,
                              .segment = segment, .bytes = bytes, .count = count, .first = -1, .last = -1,
                              .allocation = -1};
    return append_buffers(s, &buffer, 1);
}

int32_t wf_build_scratch_of(wf_schedule *s, int32_t segment, const char *name, wf_class class_, wf_dtype dtype,
                            int64_t elements) {
    return add_buffer(s, name, WF_SCRATCH, class_, dtype, elements, 1, segment);
}

int32_t wf_build_scratch(wf_schedule *s, const char *name, wf_dtype dtype, int64_t elements) {
    if (!wf_build_failed(s) && s->builder->open < 0)
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "scratch %s is outside any segment", name));
    return wf_build_scratch_of(s, s->builder->open, name, WF_CLASS_ACTIVATION, dtype, elements);
}

int32_t wf_build_pool(wf_schedule *s, const char *name, wf_class class_, wf_dtype dtype, int64_t elements) {
    return add_buffer(s, name, WF_POOL, class_, dtype, elements, 1, -1);
}

int32_t wf_build_slot(wf_schedule *s, const char *name, wf_class class_, wf_dtype dtype, int64_t elements,
                      int32_t count) {
    return add_buffer(s, name, WF_SLOT, class_, dtype, elements, count, -1);
}

void wf_build_pool_count(wf_schedule *s, int32_t buffer, int32_t count) {
    if (!wf_build_failed(s)) s->buffers[buffer].count = count;
}

void wf_build_owner(wf_schedule *s, int32_t buffer, wf_owner owner) {
    if (!wf_build_failed(s)) s->buffers[buffer].owner = owner;
}

wf_dtype wf_build_dtype(const wf_schedule *s, int32_t buffer) {
    return wf_build_failed(s) ? WF_F32 : (wf_dtype)s->buffers[buffer].dtype;
}

/* ---- views ------------------------------------------------------------------------------------ */

wf_view wf_array(int32_t buffer, wf_at at, int64_t offset, int ndim, const int64_t *extent,
                 const int64_t *stride) {
    wf_view view = {.buffer = buffer, .at = (uint8_t)at, .ndim = (uint8_t)ndim, .offset = offset};
    for (int d = 0; d < WF_DIMS; d++) {
        view.source[d] = -1;
        view.extent[d] = d < ndim ? extent[d] : 1;
        view.stride[d] = d < ndim ? stride[d] : 0;
    }
    return view;
}

wf_view wf_vector(int32_t buffer, wf_at at, int64_t offset, int64_t extent) {
    return wf_array(buffer, at, offset, 1, &extent, (const int64_t[]){1});
}

wf_view wf_matrix(int32_t buffer, wf_at at, int64_t offset, int64_t rows, int64_t columns, int64_t row_stride) {
    return wf_array(buffer, at, offset, 2, (const int64_t[]){rows, columns}, (const int64_t[]){row_stride, 1});
}

int32_t wf_build_views(wf_schedule *s, const wf_view *views, int32_t nviews) {
    for (int32_t i = 0; i < nviews && !wf_build_failed(s); i++) {
        wf_build_fail(s, wf_build_check_shape(s, "a changed step", &views[i]));
        if (!wf_build_failed(s)) wf_build_fail(s, wf_build_check_view(s, s->buffers[views[i].buffer].segment, "a changed step", &views[i]));
    }
    return append_views(s, views, nviews);
}

/* ---- segments and steps ----------------------------------------------------------------------- */

int32_t wf_build_segment(wf_schedule *s, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    const wf_segment segment = {.name = format_text(s, format, arguments), .step = s->nsteps};
    va_end(arguments);
    if (s->builder->open >= 0)
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "segment %s begins inside another", segment.name));
    return s->builder->open = append_segments(s, &segment, 1);
}

void wf_build_segment_end(wf_schedule *s) {
    if (wf_build_failed(s)) return;
    if (s->builder->open < 0) {
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "no segment is open"));
        return;
    }
    s->segments[s->builder->open].steps = s->nsteps - s->segments[s->builder->open].step;
    s->builder->open = -1;
}

static void add_step(wf_schedule *s, wf_step step, const char *site, const wf_view *views) {
    const int32_t n = step.reads + step.updates + step.writes;
    if (wf_build_failed(s)) return;
    if (s->builder->open < 0) {
        wf_build_fail(s, wf_fail(WF_ERR_INTERNAL, "step %s is outside any segment", site));
        return;
    }
    for (int32_t i = 0; i < n; i++) {
        wf_build_fail(s, wf_build_check_view(s, s->builder->open, site, &views[i]));
        if (wf_build_failed(s)) return;
    }
    step.view = append_views(s, views, n);
    step.site = wf_build_text(s, "%s", site);
    for (int l = 0; l < WF_LANES; l++) step.wait[l] = -1;
    append_steps(s, &step, 1);
}

void wf_build_insert(wf_schedule *s, int32_t segment, int32_t at, const wf_step *step, const wf_exchange *exchange, const wf_view *views) {
    wf_step made = *step;
    made.exchange = append_exchanges(s, exchange, 1);
    made.view = wf_build_views(s, views, step->reads + step->writes);
    for (int l = 0; l < WF_LANES; l++) made.wait[l] = -1;
    append_steps(s, &made, 1);
    if (wf_build_failed(s)) return;
    wf_step *const place = &s->steps[s->segments[segment].step + at];
    memmove(place + 1, place, (size_t)(&s->steps[s->nsteps - 1] - place) * sizeof *place);
    *place = made;
    s->segments[segment].steps++;
    for (int32_t g = segment + 1; g < s->nsegments; g++) s->segments[g].step++;
}

/* ---- problems and kernels --------------------------------------------------------------------- */

static int32_t *table_place(const wf_schedule *s, const wf_problem *problem) {
    const wf_builder *b = s->builder;
    uint32_t at = (uint32_t)wf_problem_hash(problem) & (uint32_t)(b->table_size - 1);
    while (b->table[at] && !wf_problem_equal(&s->problems[b->table[at] - 1].problem, problem))
        at = (at + 1) & (uint32_t)(b->table_size - 1);
    return &b->table[at];
}

static void enlarge_table(wf_schedule *s) {
    wf_builder *b = s->builder;
    const int32_t size = b->table_size ? 2 * b->table_size : 64;
    int32_t *table = calloc((size_t)size, sizeof *table);
    if (!table) {
        wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's problems"));
        return;
    }
    free(b->table);
    b->table = table;
    b->table_size = size;
    for (int32_t i = 0; i < s->nproblems; i++) *table_place(s, &s->problems[i].problem) = i + 1;
}

int32_t wf_build_problem(wf_schedule *s, const wf_problem *problem) {
    if (2 * s->nproblems >= s->builder->table_size) enlarge_table(s);
    if (wf_build_failed(s)) return 0;
    int32_t *entry = table_place(s, problem);
    if (*entry) return *entry - 1;
    const wf_chosen chosen = {.problem = *problem};
    const int32_t index = append_problems(s, &chosen, 1);
    if (!wf_build_failed(s)) *entry = index + 1;
    return index;
}

void wf_build_kernel(wf_schedule *s, const char *site, const wf_problem *problem, const wf_view *views,
                     int nviews) {
    if (wf_build_failed(s)) return;
    wf_step step = {.kind = WF_STEP_KERNEL, .lane = WF_LANE_COMPUTE, .exchange = -1};
    int64_t outputs = 0;
    wf_build_fail(s, wf_build_check_kernel(s, site, problem, views, nviews, &step, &outputs));
    if (wf_build_failed(s) || outputs == 0) return;
    step.problem = wf_build_problem(s, problem);
    add_step(s, step, site, views);
}

void wf_build_opaque(wf_schedule *s, const char *site, wf_lane lane, const wf_view *views, int reads, int updates,
                     int writes) {
    const wf_step step = {.kind = WF_STEP_KERNEL, .lane = (uint8_t)lane, .reads = (uint8_t)reads,
                          .updates = (uint8_t)updates, .writes = (uint8_t)writes, .problem = -1, .exchange = -1};
    add_step(s, step, site, views);
}

/* ---- exchanges -------------------------------------------------------------------------------- */

void wf_build_hop(wf_schedule *s, const char *site, wf_lane lane, wf_collective collective, int32_t group,
                  int32_t hop, int32_t to, const wf_view *send, int32_t from, const wf_view *receive) {
    if (wf_build_failed(s)) return;
    const bool sends = send && wf_view_elements(send) > 0, receives = receive && wf_view_elements(receive) > 0;
    if (!sends && !receives) return;
    if (sends) wf_build_fail(s, wf_build_check_message(s, site, send, to));
    if (receives) wf_build_fail(s, wf_build_check_message(s, site, receive, from));
    const wf_exchange exchange = {.kind = WF_HOP, .collective = (uint8_t)collective, .group = group, .hop = hop,
                                  .to = sends ? to : -1, .from = receives ? from : -1};
    const wf_step step = {.kind = WF_STEP_EXCHANGE, .lane = (uint8_t)lane, .reads = sends, .writes = receives,
                          .problem = -1, .exchange = append_exchanges(s, &exchange, 1)};
    wf_view views[2];
    if (sends) views[0] = *send;
    if (receives) views[sends] = *receive;
    add_step(s, step, site, views);
}

/* ---- the program ------------------------------------------------------------------------------ */

void wf_build_call(wf_schedule *s, const wf_call *call) {
    append_calls(s, call, 1);
}
