/* free_list.c: which instance of a pool is handed out next: a ring of those that were given back, the one freed longest ago
 * first. The schedule owns its lists. */
#include <stdlib.h>

#include "layouts/building.h"

struct wf_free_list {
    wf_schedule *schedule;
    wf_free_list *next;
    int32_t *freed;             /* ring of the freed instances, oldest first */
    int32_t first, length, capacity, count, quarantine;
};

void wf_free_lists_destroy(wf_free_list *first) {
    for (wf_free_list *list = first, *next; list; list = next) {
        next = list->next;
        free(list->freed);
        free(list);
    }
}

wf_free_list *wf_free_list_create(wf_schedule *s) {
    wf_free_list *list = calloc(1, sizeof *list);
    if (!list) {
        wf_build_fail(s, wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's free list"));
        return NULL;
    }
    list->schedule = s;
    list->next = s->builder->lists;
    return s->builder->lists = list;
}

int32_t wf_free_list_take(wf_free_list *list) {
    if (!list) return -1;
    if (list->length <= list->quarantine) return list->count++;
    const int32_t instance = list->freed[list->first];
    list->first = (list->first + 1) % list->capacity;
    list->length--;
    return instance;
}

/* The ring straightened into a larger one. */
static bool enlarge_ring(wf_free_list *list) {
    const int32_t capacity = list->capacity ? 2 * list->capacity : 16;
    int32_t *freed = malloc((size_t)capacity * sizeof *freed);
    if (!freed) {
        wf_build_fail(list->schedule, wf_fail(WF_ERR_MEMORY, "no host memory for a schedule's free list"));
        return false;
    }
    for (int32_t i = 0; i < list->length; i++) freed[i] = list->freed[(list->first + i) % list->capacity];
    free(list->freed);
    list->freed = freed;
    list->first = 0;
    list->capacity = capacity;
    return true;
}

void wf_free_list_give(wf_free_list *list, int32_t instance) {
    if (!list || (list->length == list->capacity && !enlarge_ring(list))) return;
    list->freed[(list->first + list->length++) % list->capacity] = instance;
}

void wf_free_list_quarantine(wf_free_list *list, int32_t instances) {
    if (list) list->quarantine = instances;
}

int32_t wf_free_list_count(const wf_free_list *list) {
    return list ? list->count : 0;
}
