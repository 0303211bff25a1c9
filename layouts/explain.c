/* explain.c: a schedule as text, in which a reader recognises Megatron's figure: per segment one
 * line per step with its lane, what it computes or exchanges, what it reads and writes, what is
 * kept for the backward pass, and which computation hides an exchange. Then the bytes.
 *
 * Everything is read off the schedule; nothing here knows a layer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layouts/lower.h"

/* ---- views ----------------------------------------------------------------------------------- */

static bool is_gradient(const wf_view *view) {
    return view->at == WF_AT_DX_IN || view->at == WF_AT_DX_OUT;
}

/* A pool that a segment reads which gets a gradient: what forward keeps for backward. */
static bool *find_kept(const wf_schedule *s) {
    bool *kept = calloc((size_t)s->nbuffers + 1, sizeof *kept);
    for (int32_t i = 0; kept && i < s->nsegments; i++) {
        bool backward = false;
        for (int pass = 0; pass < 2; pass++)
            for (int32_t j = 0; j < s->segments[i].steps; j++) {
                const wf_step *step = &s->steps[s->segments[i].step + j];
                for (int32_t v = 0; v < step->reads + step->updates; v++) {
                    const wf_view *view = &s->views[step->view + v];
                    backward |= is_gradient(view);
                    if (pass && backward && !is_gradient(view) &&
                        s->buffers[view->buffer].life == WF_POOL)
                        kept[view->buffer] = true;
                }
            }
    }
    return kept;
}

static bool is_whole(const wf_schedule *s, const wf_view *view) {
    return view->offset == 0 && wf_view_bytes(s, view) == s->buffers[view->buffer].bytes;
}

/* "norm1.all[122x96]"; a part of a buffer says where it begins: "attn.qkv+48[..]". */
static void print_view(FILE *out, const wf_schedule *s, const wf_view *view, const bool *kept) {
    fprintf(out, " %s", s->buffers[view->buffer].name);
    if (!is_whole(s, view) && view->offset) fprintf(out, "+%lld", (long long)view->offset);
    for (int d = 0; d < view->ndim; d++)
        fprintf(out, "%c%lld", d ? 'x' : '[', (long long)view->extent[d]);
    fprintf(out, view->ndim ? "]%s" : "%s", kept && kept[view->buffer] ? "*" : "");
}

static void print_views(FILE *out, const wf_schedule *s, const wf_step *step, const bool *kept) {
    const int reads = step->reads, updates = step->updates, all = reads + updates + step->writes;
    for (int v = 0; v < reads; v++) print_view(out, s, &s->views[step->view + v], NULL);
    fprintf(out, updates ? " +>" : " ->");
    for (int v = reads; v < all; v++) print_view(out, s, &s->views[step->view + v], kept);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

static bool overlap(const wf_schedule *s, const wf_view *a, const wf_view *b) {
    int64_t first[2], end[2];
    if (a->buffer != b->buffer || a->at != b->at) return false;
    wf_view_span(s, a, &first[0], &end[0]);
    wf_view_span(s, b, &first[1], &end[1]);
    return first[0] < end[1] && first[1] < end[0];
}

/* Of one segment the scratch of another takes the place. */
static bool in_one_place(const wf_schedule *s, const wf_view *a, const wf_call *of_a, const wf_view *b, const wf_call *of_b) {
    if (of_a == of_b) return overlap(s, a, b);
    if (s->buffers[a->buffer].life == WF_SCRATCH) return s->buffers[b->buffer].life == WF_SCRATCH;
    wf_view same = *b;
    same.at = a->at;
    return wf_view_instance(a, of_a) == wf_view_instance(b, of_b) && overlap(s, a, &same);
}

/* Does the step touch what the exchange receives, or overwrite what it sends? Each within its call. */
static bool depends(const wf_schedule *s, const wf_step *step, const wf_call *call, const wf_step *exchange, const wf_call *own) {
    const int all = step->reads + step->updates + step->writes;
    for (int e = 0; e < exchange->reads + exchange->writes; e++)
        for (int v = e < exchange->reads ? step->reads : 0; v < all; v++)
            if (in_one_place(s, &s->views[exchange->view + e], own, &s->views[step->view + v], call)) return true;
    return false;
}

/* What is computed while an exchange is on its way, as far as the order of the program tells: the steps behind it, up to the first
 * that needs it. */
typedef struct hiding {
    const wf_schedule *s;
    const wf_step *exchange;
    const wf_call *own;
    bool met; /* the step that needs it */
    int32_t hidden;
    FILE *out; /* NULL: they are only counted */
} hiding;

/* The steps of a call from `first` on; of its own segment by name, of another as that one. */
static void hide(hiding *h, const wf_call *call, int32_t first) {
    const wf_segment *const segment = &h->s->segments[call->segment];
    bool named = false;
    for (int32_t j = first; j < segment->steps && !h->met; j++) {
        const wf_step *const step = &h->s->steps[segment->step + j];
        if (step->lane == h->exchange->lane || step->lane == WF_LANE_RETURN) continue;
        h->met = depends(h->s, step, call, h->exchange, h->own);
        if (h->met || (h->own != call && (named || step->kind != WF_STEP_KERNEL))) continue;
        named = true;
        if (h->out) fprintf(h->out, "%s %s", h->hidden ? "," : "; hides behind", h->own == call ? step->site : segment->name);
        h->hidden++;
    }
}

/* The exchange that stands at `at` in the segment of this call: behind how many steps does it hide? */
static int32_t find_hidden(FILE *out, const wf_schedule *s, int32_t call, int32_t at) {
    enum { FURTHER = 2 };
    const wf_call *const own = &s->calls[call];
    hiding h = {.s = s, .exchange = &s->steps[s->segments[own->segment].step + at], .own = own, .out = out};
    hide(&h, own, at + 1);
    for (int32_t c = call + 1; c < s->ncalls && c <= call + FURTHER && !h.met; c++) hide(&h, &s->calls[c], 0);
    return h.hidden;
}

/* Segments are explained as their first call has them. */
static int32_t first_call(const wf_schedule *s, int32_t segment) {
    int32_t c = 0;
    while (c < s->ncalls && s->calls[c].segment != segment) c++;
    return c;
}

static void print_exchange(FILE *out, const wf_schedule *s, int32_t index, int32_t at) {
    const wf_step *step = &s->steps[s->segments[index].step + at];
    const int32_t call = first_call(s, index);
    const wf_exchange *e = &s->exchanges[step->exchange];
    fprintf(out, "%s%s", wf_collective_name((wf_collective)e->collective), e->kind == WF_RETURN ? " read" : "");
    if (e->group >= 0 && e->group < s->ngroups)
        fprintf(out, " of %d ranks, hop %d", s->groups[e->group].members, e->hop);
    if (e->transport) fprintf(out, " (%s)", wf_transport_name((wf_transport_kind)e->transport));
    if (step->reads)
        fprintf(out, ": %lld bytes to rank %d", (long long)wf_view_bytes(s, &s->views[step->view]),
                e->to);
    if (step->writes)
        fprintf(out, "%s %lld bytes %s rank %d%s", step->reads ? "," : ":",
                (long long)wf_view_bytes(s, &s->views[step->view + step->reads]), e->kind == WF_RETURN ? "back from" : "from", e->from,
                e->in_place ? " in place" : "");
    if (call == s->ncalls || !find_hidden(out, s, call, at)) fprintf(out, "; exposed");
}

/* ---- segments -------------------------------------------------------------------------------- */

static void print_kernel(FILE *out, const wf_schedule *s, const wf_step *step) {
    char text[WF_CASE_BYTES];
    if (step->problem < 0) {
        fprintf(out, "(no kernel)");
        return;
    }
    const wf_chosen *chosen = &s->problems[step->problem];
    const wf_operation *operation = wf_operations[chosen->problem.op];
    wf_problem_print(&chosen->problem, text, sizeof text);
    fprintf(out, "%s", text);
    if (chosen->candidate.variant > 0 && chosen->candidate.variant < operation->nvariants)
        fprintf(out, " (%s)", operation->variants[chosen->candidate.variant].name);
    if (step->fused) fprintf(out, " fused");
}

static void print_segment(FILE *out, const wf_schedule *s, int32_t index, const bool *kept) {
    const wf_segment *segment = &s->segments[index];
    int64_t calls = 0;
    for (int32_t i = 0; i < s->ncalls; i++) calls += s->calls[i].segment == index;
    fprintf(out, "\n%s: %d steps, called %lld time%s\n", segment->name, segment->steps,
            (long long)calls, calls == 1 ? "" : "s");
    for (int32_t j = 0; j < segment->steps; j++) {
        const wf_step *step = &s->steps[segment->step + j];
        fprintf(out, "  %-8s %-32s ", wf_lane_name((wf_lane)step->lane), step->site);
        if (step->kind == WF_STEP_EXCHANGE)
            print_exchange(out, s, index, j);
        else
            print_kernel(out, s, step);
        fprintf(out, " |");
        print_views(out, s, step, kept);
        fprintf(out, "\n");
    }
}

/* ---- bytes and work -------------------------------------------------------------------------- */

static void print_bytes(FILE *out, const wf_schedule *s) {
    wf_bytes bytes;
    if (!s->placed) return;
    wf_schedule_measure(s, &bytes);
    fprintf(out, "\nbytes by space:");
    for (int i = 0; i < WF_SPACES; i++)
        if (bytes.by_space[i])
            fprintf(out, " %s %lld", wf_space_name((wf_space)i), (long long)bytes.by_space[i]);
    fprintf(out, "\nbytes by class:");
    for (int i = 0; i < WF_CLASSES; i++)
        if (bytes.by_class[i])
            fprintf(out, " %s %lld", wf_class_name((wf_class)i), (long long)bytes.by_class[i]);
    fprintf(out, "\n");
}

static void print_work(FILE *out, const wf_schedule *s) {
    wf_work work;
    double flops = 0;
    wf_schedule_count(s, &work);
    for (int op = 0; op < WF_OPS; op++) flops += work.flops[op];
    fprintf(out, "one run: %.4g flops, %lld messages; sent:", flops, (long long)work.messages);
    for (int c = 0; c < WF_COLLECTIVES; c++)
        if (work.sent_bytes[c])
            fprintf(out, " %s %lld bytes", wf_collective_name((wf_collective)c),
                    (long long)work.sent_bytes[c]);
    fprintf(out, work.messages ? "\n" : " nothing\n");
}

/* Of a run's messages, those that nothing hides. */
static void print_exposed(FILE *out, const wf_schedule *s) {
    int64_t messages = 0, bytes = 0;
    for (int32_t c = 0; c < s->ncalls; c++) {
        const wf_segment *const segment = &s->segments[s->calls[c].segment];
        for (int32_t j = 0; j < segment->steps; j++) {
            const wf_step *const step = &s->steps[segment->step + j];
            if (step->kind != WF_STEP_EXCHANGE || !step->reads || s->exchanges[step->exchange].kind == WF_RETURN) continue;
            if (find_hidden(NULL, s, c, j)) continue;
            messages++;
            bytes += wf_view_bytes(s, &s->views[step->view]);
        }
    }
    fprintf(out, "exposed, with nothing to compute meanwhile: %lld messages, %lld bytes\n", (long long)messages, (long long)bytes);
}

wf_status wf_explain(const wf_schedule *s, char **text_out) {
    char *text = NULL;
    size_t bytes = 0;
    bool *kept = find_kept(s);
    FILE *out = kept ? open_memstream(&text, &bytes) : NULL;
    if (!out) {
        free(kept);
        return wf_fail(WF_ERR_MEMORY, "no host memory to explain a schedule");
    }
    fprintf(out, "rank %d of %d: %d segments of %d steps, %d calls\n", s->rank, s->ranks,
            s->nsegments, s->nsteps, s->ncalls);
    fprintf(out, "lane, step, what | reads -> writes (+> adds to); * kept for the backward pass\n");
    for (int32_t i = 0; i < s->nsegments; i++) print_segment(out, s, i, kept);
    print_bytes(out, s);
    print_work(out, s);
    print_exposed(out, s);
    free(kept);
    if (fclose(out) != 0) {
        free(text);
        return wf_fail(WF_ERR_MEMORY, "no host memory to explain a schedule");
    }
    *text_out = text;
    return WF_OK;
}
