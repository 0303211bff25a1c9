/* place.c: every buffer's allocation and offset.
 *
 * Kept buffers (slots, pools) lie one after another in declaration order, apart by who brings their
 * memory, slots also by class, so that all schedules that declare the same parameters place them alike. Scratch is packed per
 * segment by lifetime, largest first at the lowest gap (other orders, and both ends, are tried where
 * this misses the bound of live bytes); the scratch of all segments shares the same allocations.
 *
 * Sharing bytes never makes a result wrong: waits are derived afterwards from what lies where. It
 * can add waits between lanes, and so a deadlock between ranks: a receive into the bytes of a
 * message on another lane would wait for that message. Such scratch never shares bytes; what is
 * left, over calls and ranks, layouts/check.c finds after placing. */
#include <stdlib.h>
#include <string.h>

#include "layouts/schedule.h"

typedef struct item {           /* scratch of one segment and space */
    int32_t buffer, first, last;
    uint32_t lanes;             /* that exchange it */
    int64_t bytes;
    int32_t bin;                /* result: the n-th allocation of scratch in this space */
    int64_t offset;
} item;

typedef struct placing {
    wf_schedule *schedule;
    wf_limits limits;           /* 0 replaced by what it means */
    uint32_t *lanes;            /* per buffer */
    item *items, *trial;        /* of the segment in hand */
    int32_t *sequence, *by_offset;
    int32_t first_bin, nbins;   /* allocations of the space in hand */
} placing;

static int64_t aligned(const placing *p, int64_t bytes) {
    const int64_t a = p->limits.align_bytes;
    return (bytes + a - 1) / a * a;
}

static wf_status add_allocation(wf_schedule *s, wf_life life, wf_space space, wf_class class_, wf_owner owner, int64_t bytes) {
    wf_allocation *grown = realloc(s->allocations, (size_t)(s->nallocations + 1) * sizeof *grown);
    if (!grown) return wf_fail(WF_ERR_MEMORY, "no host memory for placing a schedule");
    s->allocations = grown;
    grown[s->nallocations++] = (wf_allocation){.life = (uint8_t)life, .space = (uint8_t)space,
                                               .class_ = (uint8_t)class_, .owner = (uint8_t)owner, .bytes = bytes};
    return WF_OK;
}

static wf_status check_size(const placing *p, const wf_buffer *b) {
    const int64_t limit = p->limits.max_alloc_bytes[b->space];
    if (aligned(p, b->bytes) <= limit) return WF_OK;
    return wf_fail(WF_ERR_MEMORY, "buffer %s needs %lld bytes, the largest allocation in %s memory is %lld bytes",
                   b->name, (long long)b->bytes, wf_space_name((wf_space)b->space), (long long)limit);
}

/* ---- slots and pools -------------------------------------------------------------------------- */

/* More instances than one allocation takes: as many allocations as they need, for themselves. */
static wf_status place_spread(placing *p, wf_buffer *b, wf_class class_) {
    b->per_allocation = (int32_t)(p->limits.max_alloc_bytes[b->space] / b->stride);
    b->allocation = p->schedule->nallocations;
    b->offset = 0;
    for (int32_t left = b->count; left > 0; left -= b->per_allocation)
        TRY(add_allocation(p->schedule, (wf_life)b->life, (wf_space)b->space, class_, (wf_owner)b->owner,
                           b->stride * (left < b->per_allocation ? left : b->per_allocation)));
    return WF_OK;
}

/* Behind what lies in the open allocation (*open, -1 none), or in a new one. */
static wf_status place_kept(placing *p, wf_buffer *b, wf_class class_, int32_t *open) {
    const int64_t limit = p->limits.max_alloc_bytes[b->space];
    TRY(check_size(p, b));
    b->stride = aligned(p, b->bytes);
    if (b->stride > limit / b->count) return place_spread(p, b, class_);
    const int64_t bytes = b->stride * b->count;
    if (*open < 0 || p->schedule->allocations[*open].bytes > limit - bytes) {
        *open = p->schedule->nallocations;
        TRY(add_allocation(p->schedule, (wf_life)b->life, (wf_space)b->space, class_, (wf_owner)b->owner, 0));
    }
    b->allocation = *open;
    b->offset = p->schedule->allocations[*open].bytes;
    b->per_allocation = b->count;
    p->schedule->allocations[*open].bytes += bytes;
    return WF_OK;
}

/* class_ WF_CLASSES: of any class. What the caller brings lies apart, each buffer for itself. */
static wf_status place_group(placing *p, wf_life life, wf_space space, wf_class class_, wf_owner owner) {
    int32_t open = -1;
    for (int32_t i = 0; i < p->schedule->nbuffers; i++) {
        wf_buffer *b = &p->schedule->buffers[i];
        if (b->life != life || b->space != space || b->owner != owner || b->bytes == 0 || b->count == 0) continue;
        if (class_ != WF_CLASSES && b->class_ != class_) continue;
        if (owner == WF_OWNER_CALLER) open = -1;
        TRY(place_kept(p, b, class_ == WF_CLASSES ? WF_CLASS_ACTIVATION : class_, &open));
    }
    return WF_OK;
}

/* ---- scratch ---------------------------------------------------------------------------------- */

/* First and last step (of its segment) that uses each scratch buffer, and lanes that exchange it (a RETURN waits for
 * nothing that comes behind it in the program: whoever waits for one makes no circle). */
static void find_uses(placing *p) {
    wf_schedule *s = p->schedule;
    for (int32_t i = 0; i < s->nbuffers; i++) s->buffers[i].first = s->buffers[i].last = -1;
    for (int32_t g = 0; g < s->nsegments; g++)
        for (int32_t i = 0; i < s->segments[g].steps; i++) {
            const wf_step *step = &s->steps[s->segments[g].step + i];
            for (int32_t v = 0; v < step->reads + step->updates + step->writes; v++) {
                const int32_t buffer = s->views[step->view + v].buffer;
                wf_buffer *b = &s->buffers[buffer];
                if (step->kind == WF_STEP_EXCHANGE && step->lane != WF_LANE_RETURN) p->lanes[buffer] |= 1u << step->lane;
                if (b->life != WF_SCRATCH) continue;
                if (b->first < 0) b->first = i;
                b->last = i;
            }
        }
}

static bool apart(const item *a, const item *b) {
    return (a->first <= b->last && b->first <= a->last) || (a->lanes && b->lanes && a->lanes != b->lanes);
}

/* Into by_offset (n items, ascending). */
static void insert(placing *p, const item *t, int32_t at, int32_t n) {
    int32_t i = n;
    for (; i > 0 && t[p->by_offset[i - 1]].offset > t[at].offset; i--) p->by_offset[i] = p->by_offset[i - 1];
    p->by_offset[i] = at;
}

/* Places t[at] among the n items of by_offset (ascending), in the first bin that takes it. */
static void place_lowest(placing *p, item *t, int32_t at, int32_t n, int64_t limit) {
    item *it = &t[at];
    for (it->bin = 0;; it->bin++) {
        it->offset = 0;
        for (int32_t i = 0; i < n; i++) {
            const item *other = &t[p->by_offset[i]];
            if (other->bin != it->bin || !apart(it, other)) continue;
            if (other->offset - it->offset >= it->bytes) break;
            if (other->offset + other->bytes > it->offset) it->offset = other->offset + other->bytes;
        }
        if (it->offset <= limit - it->bytes) break;
    }
    insert(p, t, at, n);
}

static bool fits(const placing *p, const item *t, int32_t n, const item *it, int64_t offset) {
    for (int32_t i = 0; i < n; i++) {
        const item *other = &t[p->by_offset[i]];
        if (other->bin != 0 || !apart(it, other)) continue;
        if (other->offset < offset + it->bytes && offset < other->offset + other->bytes) return false;
    }
    return true;
}

/* As place_lowest, but as high as it goes below the ceiling, in bin 0; false: nowhere. */
static bool place_highest(placing *p, item *t, int32_t at, int32_t n, int64_t ceiling) {
    item *it = &t[at];
    int64_t best = fits(p, t, n, it, ceiling - it->bytes) ? ceiling - it->bytes : -1;
    for (int32_t i = 0; best < ceiling - it->bytes && i < n; i++) {
        const int64_t below = t[p->by_offset[i]].offset - it->bytes;
        if (below > best && below <= ceiling - it->bytes && fits(p, t, n, it, below)) best = below;
    }
    if (best < 0) return false;
    it->bin = 0;
    it->offset = best;
    insert(p, t, at, n);
    return true;
}

static int64_t peak_of_bins(const item *t, int32_t n) {
    int64_t total = 0;
    bool more = true;
    for (int32_t bin = 0; more; bin++) {
        int64_t peak = 0;
        more = false;
        for (int32_t i = 0; i < n; i++) {
            if (t[i].bin == bin && t[i].offset + t[i].bytes > peak) peak = t[i].offset + t[i].bytes;
            if (t[i].bin > bin) more = true;
        }
        total += peak;
    }
    return total;
}

static int64_t live_bytes_bound(const item *t, int32_t n) {
    int64_t most = 0;
    for (int32_t i = 0; i < n; i++) { /* a peak begins where something begins */
        int64_t live = 0;
        for (int32_t j = 0; j < n; j++)
            if (t[j].first <= t[i].first && t[i].first <= t[j].last) live += t[j].bytes;
        if (live > most) most = live;
    }
    return most;
}

/* Orders of placing, the best first; ties by lifetime, then declaration, so that all ranks agree. */
static int64_t rank_size(const item *a) {
    return a->bytes;
}
static int64_t rank_area(const item *a) {
    return a->bytes / 128 * (a->last - a->first + 1);
}
static int64_t rank_first(const item *a) {
    return -a->first;
}
static int64_t rank_length(const item *a) {
    return a->last - a->first;
}

static bool goes_before(const item *a, const item *b, int64_t (*rank)(const item *)) {
    if (rank(a) != rank(b)) return rank(a) > rank(b);
    if (a->bytes != b->bytes) return a->bytes > b->bytes;
    if (a->first != b->first) return a->first < b->first;
    return a->buffer < b->buffer;
}

static void sort_sequence(placing *p, const item *t, int32_t n, int64_t (*rank)(const item *)) {
    for (int32_t i = 0; i < n; i++) {
        int32_t j = i;
        for (; j > 0 && goes_before(&t[i], &t[p->sequence[j - 1]], rank); j--) p->sequence[j] = p->sequence[j - 1];
        p->sequence[j] = i;
    }
}

/* ends: every second item goes to the top below the bound, as a chain of steps needs, each of which
 * reads one buffer and writes the next. */
static void try_order(placing *p, int32_t n, int64_t limit, int64_t bound, bool ends) {
    for (int32_t i = 0; i < n; i++) {
        const int32_t at = p->sequence[i];
        if (!(ends && i % 2 && place_highest(p, p->trial, at, i, bound))) place_lowest(p, p->trial, at, i, limit);
    }
}

/* The best of a few orders into p->items; returns its bytes. */
static int64_t pack(placing *p, int32_t n, int64_t limit) {
    static int64_t (*const ranks[])(const item *) = {rank_size, rank_area, rank_first, rank_length};
    enum { RANKS = sizeof ranks / sizeof *ranks, MOST_FOR_ENDS = 200 /* cubic */ };
    const int64_t bound = live_bytes_bound(p->items, n);
    const int32_t tries = bound <= limit && n <= MOST_FOR_ENDS ? 2 * RANKS : RANKS;
    int64_t best = INT64_MAX;
    memcpy(p->trial, p->items, (size_t)n * sizeof *p->trial);
    for (int32_t r = 0; r < tries && best > bound; r++) {
        sort_sequence(p, p->trial, n, ranks[r % RANKS]);
        try_order(p, n, limit, bound, r >= RANKS);
        const int64_t bytes = peak_of_bins(p->trial, n);
        if (bytes >= best) continue;
        best = bytes;
        memcpy(p->items, p->trial, (size_t)n * sizeof *p->trial);
    }
    return best;
}

static wf_status collect(placing *p, const int32_t *scratch, int32_t nscratch, wf_space space, int32_t *n_out) {
    int32_t n = 0;
    for (int32_t i = 0; i < nscratch; i++) {
        const wf_buffer *b = &p->schedule->buffers[scratch[i]];
        if (b->space != space) continue;
        TRY(check_size(p, b));
        p->items[n++] = (item){.buffer = scratch[i], .first = b->first, .last = b->last, .lanes = p->lanes[scratch[i]],
                               .bytes = aligned(p, b->bytes)};
    }
    *n_out = n;
    return WF_OK;
}

static wf_status store(placing *p, int32_t n, wf_space space) {
    wf_schedule *s = p->schedule;
    for (int32_t i = 0; i < n; i++) {
        const item *it = &p->items[i];
        wf_buffer *b = &s->buffers[it->buffer];
        while (it->bin >= p->nbins) {
            TRY(add_allocation(s, WF_SCRATCH, space, WF_CLASS_ACTIVATION, WF_OWNER_PLAN, 0));
            p->nbins++;
        }
        b->allocation = p->first_bin + it->bin;
        b->offset = it->offset;
        b->stride = it->bytes;
        b->per_allocation = 1;
        if (s->allocations[b->allocation].bytes < it->offset + it->bytes)
            s->allocations[b->allocation].bytes = it->offset + it->bytes;
    }
    return WF_OK;
}

/* scratch: buffer indices by segment; those of segment g are scratch[start[g]] ... scratch[start[g + 1]]. */
static wf_status place_scratch(placing *p, wf_space space, const int32_t *scratch, const int32_t *start) {
    p->first_bin = p->schedule->nallocations;
    p->nbins = 0;
    for (int32_t g = 0; g < p->schedule->nsegments; g++) {
        int32_t n;
        TRY(collect(p, scratch + start[g], start[g + 1] - start[g], space, &n));
        if (n == 0) continue;
        const int64_t bytes = pack(p, n, p->limits.max_alloc_bytes[space]);
        if (space != WF_SPACE_PEER) p->schedule->segments[g].scratch_bytes += bytes;
        TRY(store(p, n, space));
    }
    return WF_OK;
}

/* Counting sort of the used scratch buffers by segment. */
static void sort_scratch(const wf_schedule *s, int32_t *scratch, int32_t *start) {
    memset(start, 0, (size_t)(s->nsegments + 2) * sizeof *start);
    for (int32_t pass = 0; pass < 2; pass++) {
        for (int32_t i = 0; i < s->nbuffers; i++) {
            const wf_buffer *b = &s->buffers[i];
            if (b->life != WF_SCRATCH || b->bytes == 0 || b->first < 0) continue;
            if (pass == 0)
                start[b->segment + 2]++;
            else
                scratch[start[b->segment + 1]++] = i;
        }
        for (int32_t g = 0; pass == 0 && g < s->nsegments; g++) start[g + 2] += start[g + 1];
    }
}

/* ---- the pass --------------------------------------------------------------------------------- */

static wf_status place_all(placing *p, int32_t *scratch, int32_t *start) {
    find_uses(p);
    sort_scratch(p->schedule, scratch, start);
    for (int space = 0; space < WF_SPACES; space++)
        for (int class_ = 0; class_ < WF_CLASSES; class_++)
            for (int owner = 0; owner < WF_OWNERS; owner++)
                TRY(place_group(p, WF_SLOT, (wf_space)space, (wf_class)class_, (wf_owner)owner));
    for (int space = 0; space < WF_SPACES; space++) {
        for (int owner = 0; owner < WF_OWNERS; owner++)
            TRY(place_group(p, WF_POOL, (wf_space)space, WF_CLASSES, (wf_owner)owner));
        TRY(place_scratch(p, (wf_space)space, scratch, start));
    }
    return WF_OK;
}

static void forget(wf_schedule *s) {
    free(s->allocations);
    s->allocations = NULL;
    s->nallocations = 0;
    s->placed = false;
    for (int32_t i = 0; i < s->nbuffers; i++) {
        wf_buffer *b = &s->buffers[i];
        b->allocation = -1;
        b->offset = b->stride = 0;
        b->per_allocation = b->count > 0 ? b->count : 1;
    }
    for (int32_t g = 0; g < s->nsegments; g++) s->segments[g].scratch_bytes = 0;
}

wf_status wf_place(wf_schedule *s, const wf_limits *limits) {
    const size_t n = (size_t)s->nbuffers + 1;
    placing p = {.schedule = s};
    wf_status status = WF_OK;
    if (limits) p.limits = *limits;
    if (p.limits.align_bytes <= 0) p.limits.align_bytes = 128;
    for (int i = 0; i < WF_SPACES; i++)
        if (p.limits.max_alloc_bytes[i] <= 0) p.limits.max_alloc_bytes[i] = INT64_MAX / 4;
    forget(s);
    p.lanes = calloc(n, sizeof *p.lanes);
    p.items = calloc(n, sizeof *p.items);
    p.trial = calloc(n, sizeof *p.trial);
    p.sequence = calloc(n, sizeof *p.sequence);
    p.by_offset = calloc(n, sizeof *p.by_offset);
    int32_t *scratch = calloc(n, sizeof *scratch);
    int32_t *start = calloc((size_t)s->nsegments + 2, sizeof *start);
    if (p.lanes && p.items && p.trial && p.sequence && p.by_offset && scratch && start)
        status = place_all(&p, scratch, start);
    else
        status = wf_fail(WF_ERR_MEMORY, "no host memory for placing a schedule");
    if (status == WF_OK) status = wf_derive_waits(s);
    s->placed = status == WF_OK;
    free(p.lanes);
    free(p.items);
    free(p.trial);
    free(p.sequence);
    free(p.by_offset);
    free(scratch);
    free(start);
    return status;
}
