/* store.c: weights, gradients and optimizer state of one rank, shared by the plans of one model.
 *
 * Placement puts the slots of each class into allocations of their own, the same way in every plan
 * whose slots are the same. So the first plan that needs a class says where its slots lie, and later
 * ones only have to agree in the table of slots. Nothing is ever moved or resized.
 *
 * A class's memory is created when one of its slots is first needed. Instances that the caller lends
 * lie in his memory instead; a class that is lent wholly never takes memory of its own. */
#include "host/run/internal.h"

#include <stdlib.h>
#include <string.h>

typedef struct entry {
    char *name;
    wf_buffer buffer;           /* as placed, but .allocation counts in the class's memory */
    wf_lent *lent;              /* [count]; NULL: none ever was */
} entry;

typedef struct shelf { /* one class */
    wf_memory **memory;         /* NULL until needed */
    int64_t *bytes;             /* of each */
    int32_t nmemory;
    entry *entries;
    int32_t nentries;
    bool bound;
} shelf;

struct wf_store {
    wf_opencl *opencl;
    int64_t lendings;
    shelf shelves[WF_CLASSES];
};

bool wf_store_keeps(const wf_allocation *allocation) {
    return allocation->life == WF_SLOT &&
           (allocation->class_ == WF_CLASS_PARAMETER || allocation->class_ == WF_CLASS_GRADIENT ||
            allocation->class_ == WF_CLASS_OPTIMIZER);
}

wf_status wf_store_create(wf_opencl *opencl, wf_store **out) {
    wf_store *const store = calloc(1, sizeof *store);
    if (!store) return wf_fail(WF_ERR_MEMORY, "no host memory for a parameter store");
    store->opencl = opencl;
    *out = store;
    return WF_OK;
}

static void clear(shelf *s) {
    for (int32_t i = 0; i < s->nmemory; i++) wf_memory_destroy(s->memory[i]);
    for (int32_t i = 0; i < s->nentries; i++) {
        for (int32_t k = 0; s->entries[i].lent && k < s->entries[i].buffer.count; k++)
            wf_memory_destroy(s->entries[i].lent[k].memory);
        free(s->entries[i].name);
        free(s->entries[i].lent);
    }
    free(s->memory);
    free(s->bytes);
    free(s->entries);
    *s = (shelf){0};
}

void wf_store_destroy(wf_store *store) {
    if (!store) return;
    for (int c = 0; c < WF_CLASSES; c++) clear(&store->shelves[c]);
    free(store);
}

/* Number of allocation `a` among the schedule's allocations of its class; -1: not stored. */
static int32_t rank_in_class(const wf_schedule *s, int32_t a) {
    if (a < 0 || !wf_store_keeps(&s->allocations[a])) return -1;
    int32_t n = 0;
    for (int32_t i = 0; i < a; i++)
        n += wf_store_keeps(&s->allocations[i]) && s->allocations[i].class_ == s->allocations[a].class_;
    return n;
}

static bool in_class(const wf_buffer *b, int class_) {
    return b->life == WF_SLOT && b->class_ == class_;
}

static wf_status zero(wf_opencl *opencl, wf_memory *memory) {
    enum { CHUNK = 1 << 20 };
    char *const zeros = calloc(1, CHUNK);
    if (!zeros) return wf_fail(WF_ERR_MEMORY, "no host memory for 1 MiB of zeros");
    wf_status status = WF_OK;
    const int64_t bytes = wf_memory_bytes(memory);
    for (int64_t at = 0; at < bytes && status == WF_OK; at += CHUNK)
        status = wf_memory_put(opencl, memory, at, zeros, bytes - at < CHUNK ? bytes - at : CHUNK);
    free(zeros);
    return status;
}

static void add_memory(const wf_schedule *s, int class_, shelf *out) {
    for (int32_t a = 0; a < s->nallocations; a++)
        if (wf_store_keeps(&s->allocations[a]) && s->allocations[a].class_ == class_)
            out->bytes[out->nmemory++] = s->allocations[a].bytes;
}

static bool is_lent(const entry *e, int32_t instance) {
    return e->lent && e->lent[instance].memory;
}

/* Does any instance lie in allocation a of the shelf? */
static bool is_needed(const shelf *s, int32_t a) {
    for (int32_t i = 0; i < s->nentries; i++)
        for (int32_t k = 0; k < s->entries[i].buffer.count; k++)
            if (!is_lent(&s->entries[i], k) && wf_buffer_locate(&s->entries[i].buffer, k).allocation == a) return true;
    return false;
}

/* Zeroed memory for all that is not lent. */
static wf_status hold(wf_store *store, shelf *s) {
    for (int32_t a = 0; a < s->nmemory; a++) {
        if (s->memory[a] || !is_needed(s, a)) continue;
        wf_memory *memory = NULL;
        TRY(wf_memory_create(store->opencl, s->bytes[a], &memory));
        const wf_status status = zero(store->opencl, memory);
        if (status != WF_OK) {
            wf_memory_destroy(memory);
            return status;
        }
        s->memory[a] = memory;
    }
    return WF_OK;
}

static wf_status add_entries(const wf_schedule *s, int class_, shelf *out) {
    for (int32_t b = 0; b < s->nbuffers; b++) {
        const wf_buffer *const from = &s->buffers[b];
        if (!in_class(from, class_)) continue;
        entry *const e = &out->entries[out->nentries];
        *e = (entry){strdup(from->name), *from, NULL};
        e->buffer.allocation = rank_in_class(s, from->allocation);
        if (!e->name) return wf_fail(WF_ERR_MEMORY, "no host memory for the name of slot %s", from->name);
        out->nentries++;
    }
    return WF_OK;
}

static wf_status fill_shelf(wf_store *store, const wf_schedule *s, int class_) {
    shelf fresh = {0};
    wf_status status;
    fresh.memory = calloc((size_t)s->nallocations + 1, sizeof *fresh.memory);
    fresh.bytes = calloc((size_t)s->nallocations + 1, sizeof *fresh.bytes);
    fresh.entries = calloc((size_t)s->nbuffers + 1, sizeof *fresh.entries);
    if (!fresh.memory || !fresh.bytes || !fresh.entries) {
        status = wf_fail(WF_ERR_MEMORY, "no host memory for the store's table of %s slots", wf_class_name(class_));
        goto fail;
    }
    add_memory(s, class_, &fresh);
    TRY_GOTO(add_entries(s, class_, &fresh), fail);
    fresh.bound = true;
    store->shelves[class_] = fresh;
    return WF_OK;
fail:
    clear(&fresh);
    return status;
}

static bool same_place(const wf_buffer *a, const wf_buffer *b, int32_t allocation) {
    return a->allocation == allocation && a->count == b->count && a->bytes == b->bytes && a->offset == b->offset &&
           a->stride == b->stride && a->per_allocation == b->per_allocation;
}

/* The plan's slots of the class lie where the store's do? */
static wf_status compare(const shelf *s, const wf_schedule *schedule, int class_) {
    int32_t n = 0;
    for (int32_t b = 0; b < schedule->nbuffers; b++) {
        const wf_buffer *const x = &schedule->buffers[b];
        if (!in_class(x, class_)) continue;
        const entry *const e = n < s->nentries ? &s->entries[n] : NULL;
        n++;
        if (e && strcmp(e->name, x->name) == 0 && same_place(&e->buffer, x, rank_in_class(schedule, x->allocation))) continue;
        return wf_fail(WF_ERR_ARGUMENT,
                       "the plan's %s slot %s (%lld bytes) is not the one that these params hold (%s, %lld bytes); "
                       "plans that share params need the same model and layout",
                       wf_class_name(class_), x->name, (long long)x->bytes, e ? e->name : "none",
                       (long long)(e ? e->buffer.bytes : 0));
    }
    if (n != s->nentries)
        return wf_fail(WF_ERR_ARGUMENT, "the plan has %d %s slots, these params hold %d", n, wf_class_name(class_),
                       s->nentries);
    return WF_OK;
}

static bool needs(const wf_schedule *s, int class_) {
    for (int32_t b = 0; b < s->nbuffers; b++)
        if (in_class(&s->buffers[b], class_)) return true;
    return false;
}

wf_status wf_store_prepare(wf_store *store, const wf_schedule *s) {
    static const int classes[] = {WF_CLASS_PARAMETER, WF_CLASS_GRADIENT, WF_CLASS_OPTIMIZER};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        const int c = classes[i];
        if (!needs(s, c)) continue;
        if (!store->shelves[c].bound) TRY(fill_shelf(store, s, c));
        TRY(compare(&store->shelves[c], s, c));
    }
    return WF_OK;
}

/* Entries stand in the order of the schedule's buffers. */
static void bind_lent(const shelf *shelf, const wf_schedule *s, int class_, const wf_lent **lent) {
    int32_t n = 0;
    for (int32_t b = 0; b < s->nbuffers; b++)
        if (in_class(&s->buffers[b], class_)) lent[b] = shelf->entries[n++].lent;
}

wf_status wf_store_bind(wf_store *store, const wf_schedule *s, wf_memory **memory, const wf_lent **lent) {
    TRY(wf_store_prepare(store, s));
    for (int c = 0; c < WF_CLASSES; c++) {
        if (!store->shelves[c].bound || !needs(s, c)) continue;
        TRY(hold(store, &store->shelves[c]));
        bind_lent(&store->shelves[c], s, c, lent);
    }
    for (int32_t a = 0; a < s->nallocations; a++)
        if (wf_store_keeps(&s->allocations[a]))
            memory[a] = store->shelves[s->allocations[a].class_].memory[rank_in_class(s, a)];
    return WF_OK;
}

int64_t wf_store_bytes(const wf_store *store, wf_class class_) {
    int64_t bytes = 0;
    for (int32_t i = 0; i < store->shelves[class_].nmemory; i++)
        if (store->shelves[class_].memory[i]) bytes += wf_memory_bytes(store->shelves[class_].memory[i]);
    return bytes;
}

bool wf_store_has(const wf_store *store, wf_class class_) {
    return store->shelves[class_].bound;
}

bool wf_store_holds(const wf_store *store, wf_class class_) {
    const shelf *const s = &store->shelves[class_];
    for (int32_t a = 0; a < s->nmemory; a++)
        if (!s->memory[a] && is_needed(s, a)) return false;
    return s->bound;
}

static wf_status find_entry(wf_store *store, const char *slot, int32_t instance, shelf **shelf_out, entry **out) {
    for (int c = 0; c < WF_CLASSES; c++)
        for (int32_t i = 0; i < store->shelves[c].nentries; i++) {
            entry *const e = &store->shelves[c].entries[i];
            if (strcmp(e->name, slot) != 0) continue;
            if (instance < 0 || instance >= e->buffer.count)
                return wf_fail(WF_ERR_ARGUMENT, "slot %s has %d instances; asked for instance %d", slot, e->buffer.count, instance);
            *shelf_out = &store->shelves[c];
            *out = e;
            return WF_OK;
        }
    return wf_fail(WF_ERR_ARGUMENT, "no slot %s in these params (no plan that needs it has been loaded)", slot);
}

static wf_status find(wf_store *store, const char *slot, int32_t instance, int64_t bytes, wf_memory **memory_out,
                      int64_t *offset_out) {
    shelf *shelf;
    entry *e;
    TRY(find_entry(store, slot, instance, &shelf, &e));
    if (bytes != e->buffer.bytes)
        return wf_fail(WF_ERR_ARGUMENT, "slot %s has instances of %lld bytes; asked for %lld bytes", slot,
                       (long long)e->buffer.bytes, (long long)bytes);
    if (is_lent(e, instance)) {
        *memory_out = e->lent[instance].memory;
        *offset_out = e->lent[instance].offset_bytes;
        return WF_OK;
    }
    TRY(hold(store, shelf));
    const wf_location at = wf_buffer_locate(&e->buffer, instance);
    *memory_out = at.allocation < 0 ? NULL : shelf->memory[at.allocation];
    *offset_out = at.offset_bytes;
    return WF_OK;
}

wf_status wf_store_lend(wf_store *store, const char *slot, int32_t instance, void *cl_mem, int64_t offset_bytes) {
    shelf *shelf;
    entry *e;
    wf_memory *memory = NULL;
    TRY(find_entry(store, slot, instance, &shelf, &e));
    if (!e->lent) e->lent = calloc((size_t)e->buffer.count, sizeof *e->lent);
    if (!e->lent) return wf_fail(WF_ERR_MEMORY, "no host memory to lend slot %s", slot);
    if (cl_mem) {
        TRY(wf_memory_borrow(store->opencl, &memory));
        wf_status status = wf_memory_point(memory, cl_mem, true, true);
        if (status == WF_OK && (offset_bytes < 0 || offset_bytes % 4 || e->buffer.bytes > wf_memory_bytes(memory) ||
                                offset_bytes > wf_memory_bytes(memory) - e->buffer.bytes))
            status = wf_fail(WF_ERR_ARGUMENT, "slot %s takes %lld bytes at a multiple of 4; a buffer of %lld bytes was lent, from byte %lld on",
                             slot, (long long)e->buffer.bytes, (long long)wf_memory_bytes(memory), (long long)offset_bytes);
        if (status != WF_OK) {
            wf_memory_destroy(memory);
            return status;
        }
    }
    wf_memory_destroy(e->lent[instance].memory);
    e->lent[instance] = (wf_lent){memory, memory ? offset_bytes : 0};
    store->lendings++;
    return WF_OK;
}

wf_status wf_store_clear(wf_store *store, const char *slot, int32_t instance) {
    shelf *shelf;
    entry *e;
    if (find_entry(store, slot, instance, &shelf, &e) != WF_OK || e->buffer.bytes == 0) return WF_OK;
    const wf_location at = wf_buffer_locate(&e->buffer, instance);
    if (!is_lent(e, instance) && !shelf->memory[at.allocation]) return WF_OK;
    void *const zeros = calloc(1, (size_t)e->buffer.bytes);
    if (!zeros) return wf_fail(WF_ERR_MEMORY, "no host memory for %lld bytes of zeros", (long long)e->buffer.bytes);
    const wf_status status = wf_store_write(store, slot, instance, zeros, e->buffer.bytes);
    free(zeros);
    return status;
}

int64_t wf_store_lendings(const wf_store *store) {
    return store->lendings;
}

wf_status wf_store_write(wf_store *store, const char *slot, int32_t instance, const void *data, int64_t bytes) {
    wf_memory *memory;
    int64_t offset;
    TRY(find(store, slot, instance, bytes, &memory, &offset));
    return bytes ? wf_memory_put(store->opencl, memory, offset, data, bytes) : WF_OK;
}

wf_status wf_store_read(wf_store *store, const char *slot, int32_t instance, void *data, int64_t bytes) {
    wf_memory *memory;
    int64_t offset;
    TRY(find(store, slot, instance, bytes, &memory, &offset));
    return bytes ? wf_memory_get(store->opencl, memory, offset, data, bytes) : WF_OK;
}
