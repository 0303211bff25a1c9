/* collectives.c: what each collective moves and must arrive at; see the header. */
#include <stdlib.h>
#include <sys/mman.h>

#include "benchmarks/fabric/collectives.h"

const char *const collective_names[COLLECTIVES] = {"all-gather", "reduce-scatter", "all-reduce",
                                                   "all-to-all", "ring-shift",     "send-receive"};

enum { FLOAT = sizeof(float) };

static bool splits(collective what) {
    return what == REDUCE_SCATTER || what == ALL_REDUCE || what == ALL_TO_ALL;
}

bool task_make(collective what, int32_t rank, int32_t ranks, int64_t size, task *out) {
    const int64_t block = size / FLOAT / (splits(what) ? ranks : 1) / COLUMNS * COLUMNS;
    const bool sums = what == REDUCE_SCATTER || what == ALL_REDUCE;
    *out = (task){.what = what, .rank = rank, .ranks = ranks, .block = block};
    return block > 0 && ranks > 1 && !(sums && ranks > MOST_SUMMED);
}

int64_t task_size_bytes(const task *t) {
    return t->block * (splits(t->what) ? t->ranks : 1) * FLOAT;
}

int64_t task_written_bytes(const task *t) {
    const int64_t n = t->ranks, blocks[COLLECTIVES] = {[ALL_GATHER] = n - 1,  [REDUCE_SCATTER] = n, [ALL_REDUCE] = 2 * n - 1,
                                                       [ALL_TO_ALL] = n - 1,  [RING_SHIFT] = 1,     [SEND_RECEIVE] = 1};
    return blocks[t->what] * t->block * FLOAT;
}

int64_t task_array_bytes(const task *t, array which) {
    const bool one = t->what == RING_SHIFT || t->what == SEND_RECEIVE;
    if (which == WHOLE ? one || t->what == ALL_TO_ALL : t->what == ALL_GATHER) return 0;
    return (one ? 1 : t->ranks) * t->block * FLOAT;
}

/* Small whole numbers: sums are exact. */
float task_value(int32_t rank, int64_t i) {
    return (float)((i * 7 + i / 1021 + (int64_t)rank * 31) % 1021);
}

void task_source(const task *t, array *which, int64_t *first, int64_t *count) {
    *which = t->what == ALL_GATHER ? WHOLE : OUT;
    *first = t->what == ALL_GATHER ? t->rank * t->block : 0;
    *count = task_size_bytes(t) / FLOAT;
}

void task_result(const task *t, array *which, int64_t *first, int64_t *count) {
    *which = t->what == ALL_GATHER || t->what == REDUCE_SCATTER || t->what == ALL_REDUCE ? WHOLE : IN;
    *first = t->what == REDUCE_SCATTER ? t->rank * t->block : 0;
    *count = t->what == REDUCE_SCATTER ? t->block : task_array_bytes(t, *which) / FLOAT;
    if (t->what == SEND_RECEIVE && (t->rank ^ 1) >= t->ranks) *count = 0;
}

static float sum(const task *t, int64_t i) {
    float total = 0;
    for (int32_t r = 0; r < t->ranks; r++) total += task_value(r, i);
    return total;
}

float task_expected(const task *t, int64_t i) {
    const int64_t block = i / t->block, within = i % t->block;
    switch (t->what) {
    case ALL_GATHER: return task_value((int32_t)block, within);
    case ALL_TO_ALL: return task_value((int32_t)block, t->rank * t->block + within);
    case RING_SHIFT: return task_value((t->rank + t->ranks - 1) % t->ranks, i);
    case SEND_RECEIVE: return task_value(t->rank ^ 1, i);
    default: return sum(t, i);
    }
}

wf_status task_check(const task *t, const float *result, const char *name) {
    array which;
    int64_t first, count;
    task_result(t, &which, &first, &count);
    for (int64_t i = first; i < first + count; i++)
        if (!(t->what == ALL_TO_ALL && i / t->block == t->rank) && result[i] != task_expected(t, i))
            return wf_fail(WF_ERR_MISMATCH, "%s of %lld bytes by %s: on rank %d number %lld is %g instead of %g",
                           collective_names[t->what], (long long)task_size_bytes(t), name, t->rank, (long long)i, result[i],
                           task_expected(t, i));
    return WF_OK;
}

float *host_pages(int64_t bytes) {
    enum { HUGE_PAGE = 2 << 20 };
    const size_t whole = ((size_t)bytes + HUGE_PAGE) / HUGE_PAGE * HUGE_PAGE;
    float *const pages = aligned_alloc(HUGE_PAGE, whole);
#ifdef MADV_HUGEPAGE
    if (pages) (void)madvise(pages, whole, MADV_HUGEPAGE); /* a wish */
#endif
    for (size_t i = 0; pages && i < whole / FLOAT; i += 1024) pages[i] = 0; /* none is touched for the first time while timed */
    return pages;
}
