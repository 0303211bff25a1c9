/* measure.c: bytes, work and hashes of a schedule: known before anything runs. Sums over segments,
 * times the calls of each; nothing is played. */
#include <stdlib.h>
#include <string.h>

#include "layouts/schedule.h"

/* ---- bytes ---------------------------------------------------------------------------------------- */

/* The most of each class that is alive at once: at the first use of some buffer. */
static void measure_scratch(const wf_schedule *s, int64_t most[WF_CLASSES]) {
    for (int32_t begins = 0; begins < s->nbuffers; begins++) {
        const wf_buffer *const now = &s->buffers[begins];
        if (now->life != WF_SCRATCH || now->allocation < 0 || now->space == WF_SPACE_PEER) continue;
        int64_t bytes[WF_CLASSES] = {0};
        for (int32_t i = 0; i < s->nbuffers; i++) {
            const wf_buffer *const b = &s->buffers[i];
            if (b->life != WF_SCRATCH || b->segment != now->segment || b->allocation < 0 || b->space == WF_SPACE_PEER) continue;
            if (b->first <= now->first && now->first <= b->last) bytes[b->class_] += b->bytes;
        }
        for (int c = 0; c < WF_CLASSES; c++)
            if (bytes[c] > most[c]) most[c] = bytes[c];
    }
}

void wf_schedule_measure(const wf_schedule *s, wf_bytes *out) {
    *out = (wf_bytes){0};
    for (int32_t a = 0; a < s->nallocations; a++)
        if (s->allocations[a].owner != WF_OWNER_CALLER && s->allocations[a].space != WF_SPACE_PEER) out->by_space[s->allocations[a].space] += s->allocations[a].bytes;
    measure_scratch(s, out->by_class);
    for (int32_t i = 0; i < s->nbuffers; i++) {
        const wf_buffer *b = &s->buffers[i];
        if (b->life != WF_SCRATCH && b->owner != WF_OWNER_CALLER) out->by_class[b->class_] += b->bytes * b->count;
    }
}

/* ---- work ----------------------------------------------------------------------------------------- */

static void count_step(const wf_schedule *s, const wf_step *step, int64_t calls, wf_work *out) {
    if (step->kind == WF_STEP_KERNEL) {
        if (step->problem < 0) return;
        const wf_problem *problem = &s->problems[step->problem].problem;
        out->flops[problem->op] += (double)calls * wf_operations[problem->op]->flops(problem);
        out->moved_bytes += (double)calls * wf_problem_bytes(problem);
        out->kernels += calls;
        return;
    }
    const wf_exchange *exchange = &s->exchanges[step->exchange];
    if (exchange->kind == WF_RETURN) return;
    if (step->reads > 0) {
        out->sent_bytes[exchange->collective] += calls * wf_view_bytes(s, &s->views[step->view]);
        out->messages += calls;
    }
    if (step->writes > 0)
        out->received_bytes[exchange->collective] += calls * wf_view_bytes(s, &s->views[step->view + step->reads]);
}

void wf_schedule_count(const wf_schedule *s, wf_work *out) {
    wf_schedule_count_piece(s, (wf_piece){0, s->ncalls}, out);
}

void wf_schedule_count_piece(const wf_schedule *s, wf_piece piece, wf_work *out) {
    *out = (wf_work){0};
    for (int32_t g = 0; g < s->nsegments; g++) {
        int64_t calls = 0;
        for (int32_t c = piece.first; c < piece.first + piece.count; c++) calls += s->calls[c].segment == g;
        for (int32_t i = 0; i < s->segments[g].steps; i++)
            count_step(s, &s->steps[s->segments[g].step + i], calls, out);
    }
}

/* ---- hashes --------------------------------------------------------------------------------------- */

/* splitmix64's finish (Steele, Lea, Flood 2014) over a running sum. */
static uint64_t mix(uint64_t hash, uint64_t value) {
    uint64_t z = (hash ^ value) + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t mix_text(uint64_t hash, const char *text) {
    for (; *text; text++) hash = mix(hash, (unsigned char)*text);
    return mix(hash, 0);
}

/* What both ends of a message must agree on, apart from the microbatch: what part of which
 * collective, dtype, elements; of run-time extents the bound. */
static uint64_t hash_message(const wf_schedule *s, const wf_exchange *exchange, const wf_view *view) {
    uint64_t hash = mix((uint64_t)exchange->collective | (uint64_t)exchange->kind << 8, (uint64_t)exchange->hop);
    hash = mix(hash, s->buffers[view->buffer].dtype);
    for (int d = 0; d < view->ndim; d++) hash = mix(hash, view->source[d] >= 0);
    return mix(hash, (uint64_t)wf_view_elements(view));
}

/* Folds a call's messages of one channel into *c, one by one, up to `most` in all: how a rank cuts its
 * program into segments is its own affair. False: the segment has none. */
static bool fold_call(const wf_schedule *s, int32_t at, int32_t from, int32_t to, wf_lane channel, int64_t most, wf_channel *c) {
    const wf_call *call = &s->calls[at];
    const wf_segment *segment = &s->segments[call->segment];
    bool any = false;
    for (int32_t i = segment->step; i < segment->step + segment->steps; i++) {
        const wf_step *step = &s->steps[i];
        if (step->kind != WF_STEP_EXCHANGE || wf_lane_channel((wf_lane)step->lane) != channel) continue;
        const wf_exchange *exchange = &s->exchanges[step->exchange];
        const bool sends = s->rank == from && exchange->to == to && step->reads > 0;
        const bool receives = s->rank == to && exchange->from == from && step->writes > 0;
        if (!sends && !receives) continue;
        any = true;
        if (c->messages == most) break;
        c->view = step->view + (sends ? 0 : step->reads);
        c->hash = mix(c->hash, hash_message(s, exchange, &s->views[c->view]));
        c->hash = mix(c->hash, (uint64_t)call->microbatch);
        c->call = at;
        c->step = i;
        c->messages++;
    }
    return any;
}

wf_channel wf_schedule_channel(const wf_schedule *s, int32_t from, int32_t to, wf_lane lane, int64_t most) {
    wf_channel channel = {.call = -1, .step = -1, .view = -1};
    int32_t silent = -1; /* a segment known to have no such message: programs repeat segments often */
    for (int32_t c = 0; c < s->ncalls && channel.messages < most; c++)
        if (s->calls[c].segment != silent && !fold_call(s, c, from, to, wf_lane_channel(lane), most, &channel))
            silent = s->calls[c].segment;
    return channel;
}

uint64_t wf_schedule_hash_channel(const wf_schedule *s, int32_t from, int32_t to, wf_lane lane) {
    return wf_schedule_channel(s, from, to, lane, INT64_MAX).hash;
}

static uint64_t hash_buffers(const wf_schedule *s, uint64_t hash) {
    for (int32_t i = 0; i < s->nbuffers; i++) {
        const wf_buffer *b = &s->buffers[i];
        hash = mix_text(hash, b->name);
        const int64_t values[] = {b->life, b->space, b->class_, b->dtype, b->segment, b->bytes,
                                  b->count, b->allocation, b->offset, b->stride, b->per_allocation, b->owner};
        for (size_t k = 0; k < sizeof values / sizeof *values; k++) hash = mix(hash, (uint64_t)values[k]);
    }
    for (int32_t a = 0; a < s->nallocations; a++) {
        const wf_allocation *one = &s->allocations[a];
        hash = mix(mix(hash, (uint64_t)one->bytes), (uint64_t)(one->life | one->space << 8 | one->class_ << 16));
    }
    return hash;
}

static uint64_t hash_view(const wf_view *view, uint64_t hash) {
    hash = mix(mix(hash, (uint64_t)view->buffer), (uint64_t)(view->at | view->ndim << 8));
    hash = mix(hash, (uint64_t)view->offset);
    for (int d = 0; d < view->ndim; d++) {
        hash = mix(mix(hash, (uint64_t)view->extent[d]), (uint64_t)view->stride[d]);
        hash = mix(hash, (uint64_t)view->source[d]);
    }
    return hash;
}

static uint64_t hash_step(const wf_schedule *s, const wf_step *step, uint64_t hash) {
    const int views = step->reads + step->updates + step->writes;
    hash = mix(mix(hash, (uint64_t)(step->kind | step->lane << 8)), (uint64_t)step->reads);
    hash = mix_text(mix(mix(hash, step->updates), step->writes), step->site);
    if (step->problem >= 0) {
        const wf_chosen *chosen = &s->problems[step->problem];
        hash = mix(mix(hash, wf_problem_hash(&chosen->problem)), (uint64_t)chosen->candidate.variant);
        for (int i = 0; i < WF_PARAMETERS; i++) hash = mix(hash, (uint64_t)chosen->candidate.value[i]);
    }
    if (step->exchange >= 0) {
        const wf_exchange *e = &s->exchanges[step->exchange];
        hash = mix(hash, (uint64_t)(e->kind | e->collective << 8 | e->transport << 16 | e->in_place << 24));
        hash = mix(mix(mix(hash, (uint64_t)e->hop), (uint64_t)e->to), (uint64_t)e->from);
    }
    for (int v = 0; v < views; v++) hash = hash_view(&s->views[step->view + v], hash);
    for (int l = 0; l < WF_LANES; l++) hash = mix(hash, (uint64_t)step->wait[l]);
    return hash;
}

uint64_t wf_schedule_hash(const wf_schedule *s) {
    uint64_t hash = hash_buffers(s, mix((uint64_t)s->rank, (uint64_t)s->ranks));
    for (int32_t g = 0; g < s->nsegments; g++) {
        hash = mix_text(hash, s->segments[g].name);
        for (int32_t i = 0; i < s->segments[g].steps; i++)
            hash = hash_step(s, &s->steps[s->segments[g].step + i], hash);
    }
    for (int32_t c = 0; c < s->ncalls; c++) {
        const wf_call *call = &s->calls[c];
        hash = mix(mix(mix(hash, (uint64_t)call->segment), (uint64_t)call->layer), (uint64_t)call->microbatch);
        for (int at = WF_AT_X_IN; at < WF_ATS; at++) hash = mix(hash, (uint64_t)call->at[at]);
    }
    return hash;
}
