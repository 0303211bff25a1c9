/* fits.c: will a plan fit? Answered before anything is allocated, from the placed schedule: what is planned is what is
 * allocated. A plan that does not fit is refused with its bytes by class and with layouts that would: those
 * are planned too, purely, from the request's neighbours: recomputation, sequence parallelism, more microbatches, then more ranks. A
 * device that shares memory with its host has a share of the node's free memory, so that its ranks fit together
 * (host/device: available_bytes). */
#include <stdio.h>
#include <string.h>

#include "host/api/objects.h"

enum { SUGGESTIONS = 4, MOST_RANKS = 64, MOST_MICROBATCHES = 64 };

static void print_bytes(char *out, size_t out_bytes, double bytes) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    int unit = 0;
    for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
    snprintf(out, out_bytes, "%.*f %s", unit ? 1 : 0, bytes, units[unit]);
}

/* Device memory, and windows where the device's memory is the host's. */
static int64_t planned_bytes(const wf_schedule *s, const wf_device *device) {
    wf_bytes bytes;
    wf_schedule_measure(s, &bytes);
    return bytes.by_space[WF_SPACE_DEVICE] + (!device || device->host_unified ? bytes.by_space[WF_SPACE_WINDOW] : 0);
}

static const wf_device *device_of(const weft_plan *p) {
    return p->context ? wf_opencl_device(p->context->opencl) : NULL;
}

/* ---- what would fit --------------------------------------------------------------------------------- */

/* What the ranks may take between them grows with their number, where each brings a device; ranks that share one
 * memory share the same bytes. */
static int64_t share_of(const weft_plan *p, int32_t ranks, int64_t available) {
    const wf_device *const device = device_of(p);
    const int32_t now = wf_layout_ranks(&p->layout);
    return device && device->host_unified && ranks > now ? available / ranks * now : available;
}

/* Bytes of the rank that holds most: the first, whose shards are never the smaller. -1: no such plan. Without a device:
 * kernels are not built to answer a question. */
static int64_t would_need(const weft_plan *p, const wf_layout *layout) {
    weft_plan other = *p;
    wf_schedule *schedule = NULL;
    weft_share share;
    other.context = NULL;
    other.layout = *layout;
    if (weft_plan_share(layout, &p->shape, 0, &share) != WF_OK) return -1;
    if (weft_plan_schedule(&other, 0, &schedule) != WF_OK) return -1;
    const int64_t bytes = planned_bytes(schedule, device_of(p));
    wf_schedule_destroy(schedule);
    return bytes;
}

typedef struct search {
    const weft_plan *plan;
    int64_t available;
    int64_t more;               /* that the device's own kernels need, for the layout that was refused */
    int64_t held;               /* of what is planned, there already; then the weights stay as they are split; -1: none */
    int found;
    char text[560], least_text[WF_LAYOUT_BYTES];
    int64_t least;              /* of those that do not fit */
} search;

static void try_layout(search *s, const wf_layout *layout) {
    char name[WF_LAYOUT_BYTES], size[32];
    const int64_t planned = would_need(s->plan, layout), need = planned + s->more - (s->held > 0 ? s->held : 0);
    if (planned < 0 || s->found == SUGGESTIONS) return;
    wf_layout_print(layout, name, sizeof name);
    print_bytes(size, sizeof size, (double)need);
    if (need > share_of(s->plan, wf_layout_ranks(layout), s->available)) {
        if (s->least && need >= s->least) return;
        s->least = need;
        snprintf(s->least_text, sizeof s->least_text, "%s", name);
        return;
    }
    const size_t used = strlen(s->text);
    snprintf(s->text + used, sizeof s->text - used, "%s%s (%s)", s->found++ ? ", " : "", name, size);
}

/* Of one number of ranks: fewest microbatches first; those that fit need no more of them. */
static void try_ranks(search *s, int32_t tp) {
    wf_layout layout = s->plan->layout;
    const int32_t from = layout.microbatches;
    layout.size[WF_AXIS_TP] = tp;
    if (s->held < 0) layout.sp = tp > 1;
    for (int32_t mb = from; mb <= MOST_MICROBATCHES && s->found < SUGGESTIONS; mb *= 2) {
        layout.microbatches = mb;
        try_layout(s, &layout);
        if (layout.sp && s->plan->layout.sp != layout.sp && s->found < SUGGESTIONS) {
            layout.sp = false;
            try_layout(s, &layout);
            layout.sp = true;
        }
    }
}

/* The cheaper kind first. Where nothing is kept for a backward pass they need as much as the request. */
static void try_recomputation(search *s) {
    wf_layout layout = s->plan->layout;
    if (layout.recompute_full) return;
    layout.recompute_pointwise = true;
    if (!s->plan->layout.recompute_pointwise) try_layout(s, &layout);
    layout.recompute_pointwise = layout.recompute_attention = false;
    layout.recompute_full = true;
    try_layout(s, &layout);
}

static void suggest(const weft_plan *p, int64_t need, int64_t available, int64_t held, char *out, size_t out_bytes) {
    search s = {.plan = p, .available = available, .held = held};
    char size[32];
    const int64_t simple = would_need(p, &p->layout), own = need + (held > 0 ? held : 0);
    s.more = simple >= 0 && own > simple ? own - simple : 0;
    const int32_t now = p->layout.size[WF_AXIS_TP], most = held < 0 ? MOST_RANKS : now;
    try_recomputation(&s);
    for (int32_t tp = now; tp <= most && s.found < SUGGESTIONS; tp *= 2) try_ranks(&s, tp);
    print_bytes(size, sizeof size, (double)s.least);
    if (s.found) snprintf(out, out_bytes, "; these layouts would fit: %s", s.text);
    else if (s.least) snprintf(out, out_bytes, "; no layout that was tried fits, %s comes closest with %s", s.least_text, size);
    else snprintf(out, out_bytes, "; no other layout of this shape is possible");
}

/* ---- the refusal -------------------------------------------------------------------------------------- */

static wf_status refuse(const weft_plan *p, int64_t need, int64_t available, int64_t held) {
    wf_bytes bytes;
    char text[384], one[32], total[32], free_text[32], others[640];
    const wf_device *const device = device_of(p);
    size_t used = 0;
    wf_schedule_measure(p->schedule, &bytes);
    text[0] = 0;
    for (int c = 0; c < WF_CLASSES && used < sizeof text - 64; c++) {
        if (!bytes.by_class[c]) continue;
        print_bytes(one, sizeof one, (double)bytes.by_class[c]);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s %s", used ? ", " : "", wf_class_name((wf_class)c), one);
    }
    print_bytes(total, sizeof total, (double)need);
    print_bytes(free_text, sizeof free_text, (double)available);
    suggest(p, need, available, held, others, sizeof others);
    return wf_fail(WF_ERR_MEMORY, "rank %d needs %s (%lld bytes: %s), its device %s%shas %s (%lld bytes) to give%s", p->rank, total,
                   (long long)need, text, device ? device->name : "", device ? " " : "", free_text, (long long)available, others);
}

wf_status weft_plan_check_memory(const weft_plan *p) {
    const int64_t need = planned_bytes(p->schedule, device_of(p));
    const int64_t available = p->context ? device_of(p)->available_bytes : p->memory_bytes;
    if (!p->context && p->memory_bytes == 0) return WF_OK;
    return need > available ? refuse(p, need, available, -1) : WF_OK;
}

/* What these params do not hold yet must fit beside all that is allocated. */
wf_status weft_plan_check_room(const weft_plan *p, const weft_params *params) {
    int64_t held = 0;
    for (int32_t a = 0; a < p->schedule->nallocations; a++) {
        const wf_allocation *const x = &p->schedule->allocations[a];
        if (x->life == WF_SLOT && wf_store_holds(params->store, (wf_class)x->class_)) held += x->bytes;
    }
    const int64_t need = planned_bytes(p->schedule, device_of(p)) - held;
    const int64_t available = device_of(p)->available_bytes - wf_opencl_allocated_bytes(p->context->opencl);
    return need > available ? refuse(p, need, available, held) : WF_OK;
}
