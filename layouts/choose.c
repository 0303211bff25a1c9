/* choose.c: fuses elementary steps by a table of pairs, asks for a candidate per problem, gives its
 * workspace a view, and sets each exchange's transport.
 *
 * A pair fuses when producer and consumer stand next to each other, the consumer reads exactly what
 * the producer writes, and that is scratch which nobody else touches (or stays as an output). So
 * the order of steps, and the order of every sum, is what it was; the intermediate's trip through
 * memory is gone. Chains fuse link by link, from the front. Equal on all ranks: nothing here asks a
 * device. */
#include <stdlib.h>
#include <string.h>

#include "layouts/build.h"
#include "layouts/lower.h"

/* ---- fusing ---------------------------------------------------------------------------------- */

enum { MOST_VIEWS = 24 };

/* A step with its problem and views at hand. */
typedef struct link {
    wf_problem problem;
    int reads, updates, writes;
    wf_view views[MOST_VIEWS];
} link;

typedef struct pair {
    int producer, consumer; /* wf_op */
    bool keeps;             /* the intermediate stays as an output */
    bool (*fuse)(const link *p, const link *c, link *out);
} pair;

static int count(const link *l) {
    return l->reads + l->updates + l->writes;
}

static bool same_view(const wf_view *a, const wf_view *b) {
    if (a->buffer != b->buffer || a->at != b->at || a->ndim != b->ndim || a->offset != b->offset)
        return false;
    for (int d = 0; d < a->ndim; d++)
        if (a->extent[d] != b->extent[d] || (a->extent[d] > 1 && a->stride[d] != b->stride[d]))
            return false;
    return true;
}

static void add_view(link *l, const wf_view *view) {
    l->views[count(l)] = *view;
}

static void add_read(link *l, const wf_view *view) {
    add_view(l, view);
    l->reads++;
}

static void add_write(link *l, const wf_view *view) {
    add_view(l, view);
    l->writes++;
}

/* Sizes of REDUCE by place, as kernels/operation.h says. */
enum { ROWS, COLUMNS, PARTS, BIAS_GROUP, SAMPLES, POSITION0, SITE, GAP_AT, GAP };
static const uint32_t reduce_order[] = {WF_BIAS, WF_DROPOUT, WF_RESIDUAL, WF_NORM};

/* May consumer's chain follow producer's? Its first flag stands behind all of producer's. */
static bool in_order(uint32_t producer, uint32_t consumer) {
    int last = -1, first = 4;
    for (int i = 0; i < 4; i++) {
        if (producer & reduce_order[i]) last = i;
        if ((consumer & reduce_order[i]) && i < first) first = i;
    }
    return last < first;
}

/* sum + bias + dropout + residual, one behind the other */
static bool reduce_reduce(const link *p, const link *c, link *out) {
    if (c->problem.size[PARTS] != 1 || (p->problem.flags & WF_NORM)) return false;
    if (!in_order(p->problem.flags, c->problem.flags)) return false;
    *out = (link){.problem = p->problem};
    out->problem.flags |= c->problem.flags;
    if (c->problem.flags & WF_BIAS) out->problem.size[BIAS_GROUP] = c->problem.size[BIAS_GROUP];
    if (c->problem.flags & WF_DROPOUT) {
        memcpy(&out->problem.size[SAMPLES], &c->problem.size[SAMPLES], (GAP + 1 - SAMPLES) * sizeof(int64_t));
        out->problem.real[0] = c->problem.real[0];
    }
    if (c->problem.flags & WF_NORM) out->problem.real[1] = c->problem.real[1];
    for (int i = 0; i < p->reads; i++) add_read(out, &p->views[i]);
    for (int i = 1; i < c->reads; i++) add_read(out, &c->views[i]);
    for (int i = 0; i < c->writes; i++) add_write(out, &c->views[c->reads + i]);
    return true;
}

static bool reduce_norm(const link *p, const link *c, link *out) {
    if (p->problem.flags & WF_NORM) return false;
    *out = (link){.problem = p->problem};
    out->problem.flags |= WF_NORM | (c->problem.flags & WF_RMS);
    out->problem.real[1] = c->problem.real[0];
    for (int i = 0; i < p->reads; i++) add_read(out, &p->views[i]);
    for (int i = 1; i < c->reads; i++) add_read(out, &c->views[i]); /* gamma, and beta if it is there */
    add_write(out, &p->views[p->reads]);
    for (int i = 0; i < c->writes; i++) add_write(out, &c->views[c->reads + i]);
    return true;
}

/* Only where the bias is all that follows: behind a sum, dropout or residual it rides along there.
 */
static bool gemm_bias(const link *p, const link *c, link *out) {
    if (p->problem.flags & ~(uint32_t)(WF_TRANS_A | WF_TRANS_B | WF_PANELS_B)) return false;
    if (c->problem.flags & ~(uint32_t)WF_BIAS || c->problem.size[PARTS] != 1 ||
        c->problem.size[BIAS_GROUP])
        return false;
    *out = (link){.problem = p->problem};
    out->problem.flags |= c->problem.flags;
    for (int i = 0; i < p->reads; i++) add_read(out, &p->views[i]);
    for (int i = 1; i < c->reads; i++) add_read(out, &c->views[i]);
    add_write(out, &c->views[c->reads]);
    return true;
}

static bool norm_backward_residual(const link *p, const link *c, link *out) {
    if ((p->problem.flags & WF_RESIDUAL) || c->problem.flags != WF_RESIDUAL ||
        c->problem.size[PARTS] != 1)
        return false;
    *out = (link){.problem = p->problem};
    out->problem.flags |= WF_RESIDUAL;
    for (int i = 0; i < p->reads; i++) add_read(out, &p->views[i]);
    add_read(out, &c->views[1]);
    add_write(out, &c->views[2]);
    return true;
}

/* In the order tried. Chains of REDUCE grow before a GEMM may take a bias. */
static const pair pairs[] = {
    {WF_OP_REDUCE, WF_OP_REDUCE, false, reduce_reduce},
    {WF_OP_REDUCE, WF_OP_NORM, true, reduce_norm},
    {WF_OP_NORM_BACKWARD, WF_OP_REDUCE, false, norm_backward_residual},
    {WF_OP_GEMM, WF_OP_REDUCE, false, gemm_bias},
};
enum { PAIRS = sizeof pairs / sizeof *pairs };

static link link_of(const wf_schedule *s, const wf_step *step) {
    link l = {.problem = s->problems[step->problem].problem,
              .reads = step->reads,
              .updates = step->updates,
              .writes = step->writes};
    memcpy(l.views, s->views + step->view, (size_t)count(&l) * sizeof *l.views);
    return l;
}

/* How many views of the segment's steps have this buffer. */
static int uses(const wf_schedule *s, const wf_step *steps, int32_t nsteps, int32_t buffer) {
    int n = 0;
    for (int32_t i = 0; i < nsteps; i++)
        for (int32_t v = 0; v < steps[i].reads + steps[i].updates + steps[i].writes; v++)
            n += s->views[steps[i].view + v].buffer == buffer;
    return n;
}

/* Is the consumer's first operand the producer's first output, and free to vanish if it must? */
static bool joined(const wf_schedule *s, const wf_step *steps, int32_t nsteps, const pair *rule,
                   const link *p, const link *c) {
    if (p->updates || c->updates || count(p) + count(c) > MOST_VIEWS) return false;
    const wf_view *made = &p->views[p->reads];
    if (!same_view(made, &c->views[0])) return false;
    if (rule->keeps) return true;
    return s->buffers[made->buffer].life == WF_SCRATCH && uses(s, steps, nsteps, made->buffer) == 2;
}

/* "residual" of "mlp.fc2.residual" */
static const char *last_word(const char *site) {
    const char *dot = strrchr(site, '.');
    return dot ? dot + 1 : site;
}

/* Tries to make steps[at] and steps[at + 1] one, in steps[at]. */
static bool fuse_at(wf_schedule *s, wf_step *steps, int32_t nsteps, int32_t at, const pair *rule) {
    wf_step *p = &steps[at], *c = &steps[at + 1];
    if (p->problem < 0 || c->problem < 0 || p->lane != c->lane) return false;
    if (s->problems[p->problem].problem.op != rule->producer ||
        s->problems[c->problem].problem.op != rule->consumer)
        return false;
    const link from = link_of(s, p), to = link_of(s, c);
    link fused;
    if (!joined(s, steps, nsteps, rule, &from, &to) || !rule->fuse(&from, &to, &fused))
        return false;
    c->problem = wf_build_problem(s, &fused.problem);
    c->view = wf_build_views(s, fused.views, count(&fused));
    c->reads = (uint8_t)fused.reads;
    c->writes = (uint8_t)fused.writes;
    c->fused = true;
    c->site = wf_build_text(s, "%s+%s", p->site, last_word(c->site));
    *p = *c;
    return true;
}

static void fuse_segment(wf_schedule *s, wf_segment *segment) {
    wf_step *steps = s->steps + segment->step;
    for (int rule = 0; rule < PAIRS; rule++)
        for (int32_t i = 0; i + 1 < segment->steps;) {
            if (!fuse_at(s, steps, segment->steps, i, &pairs[rule])) {
                i++;
                continue;
            }
            memmove(&steps[i + 1], &steps[i + 2], (size_t)(segment->steps - i - 2) * sizeof *steps);
            segment->steps--;
        }
}

/* Fuses every segment, then closes the gaps that vanished steps left. */
static void fuse(wf_schedule *s) {
    int32_t end = 0;
    for (int32_t i = 0; i < s->nsegments; i++) {
        wf_segment *segment = &s->segments[i];
        fuse_segment(s, segment);
        memmove(s->steps + end, s->steps + segment->step,
                (size_t)segment->steps * sizeof *s->steps);
        segment->step = end;
        end += segment->steps;
    }
    s->nsteps = end;
}

/* ---- candidates and workspace ---------------------------------------------------------------- */

/* Leaves out the problems that only vanished steps had. (The builder's index of problems is not
 * asked again after this pass.) */
static wf_status drop_unused_problems(wf_schedule *s) {
    int32_t *moved = malloc(((size_t)s->nproblems + 1) * sizeof *moved);
    if (!moved) return wf_fail(WF_ERR_MEMORY, "no host memory for %d problems", s->nproblems);
    for (int32_t i = 0; i < s->nproblems; i++) moved[i] = -1;
    for (int32_t i = 0; i < s->nsteps; i++)
        if (s->steps[i].problem >= 0) moved[s->steps[i].problem] = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < s->nproblems; i++) {
        if (moved[i] < 0) continue;
        s->problems[n] = s->problems[i];
        moved[i] = n++;
    }
    s->nproblems = n;
    for (int32_t i = 0; i < s->nsteps; i++)
        if (s->steps[i].problem >= 0) s->steps[i].problem = moved[s->steps[i].problem];
    free(moved);
    return WF_OK;
}

static wf_status ask_candidates(wf_schedule *s, const wf_choices *choices) {
    for (int32_t i = 0; i < s->nproblems; i++) {
        wf_chosen *chosen = &s->problems[i];
        chosen->workspace_bytes = 0;
        if (choices->candidate) {
            TRY(choices->candidate(choices->context, &chosen->problem, &chosen->candidate,
                                   &chosen->workspace_bytes));
            continue;
        }
        const wf_variant *plain = &wf_operations[chosen->problem.op]->variants[0];
        wf_candidate_default(&chosen->problem, 0, &chosen->candidate);
        if (plain->workspace_bytes)
            chosen->workspace_bytes = plain->workspace_bytes(&chosen->problem, &chosen->candidate);
    }
    return WF_OK;
}

/* The step gets its workspace as one more written view, behind its operands. */
static void add_workspace(wf_schedule *s, int32_t segment, wf_step *step) {
    const int64_t bytes = s->problems[step->problem].workspace_bytes;
    const int64_t elements = (bytes + wf_dtype_bytes(WF_F32) - 1) / wf_dtype_bytes(WF_F32);
    if (elements <= 0) return;
    link l = link_of(s, step);
    const wf_view view =
        wf_vector(wf_build_scratch_of(s, segment, wf_build_text(s, "%s.workspace", step->site),
                                      WF_CLASS_WORKSPACE, WF_F32, elements),
                  WF_AT_NONE, 0, elements);
    add_write(&l, &view);
    step->view = wf_build_views(s, l.views, count(&l));
    step->writes++;
}

static void add_workspaces(wf_schedule *s) {
    for (int32_t i = 0; i < s->nsegments; i++)
        for (int32_t j = 0; j < s->segments[i].steps; j++) {
            wf_step *step = &s->steps[s->segments[i].step + j];
            if (step->problem >= 0) add_workspace(s, i, step);
        }
}

/* ---- transports ------------------------------------------------------------------------------ */

/* Where a hop's two peers are reached by different transports, each direction keeps its own. Gradients are sent from where
 * they lie: that is told by the lane, as who receives does not see what is sent. */
static void set_transports(wf_schedule *s, const wf_choices *choices) {
    for (int32_t i = 0; i < s->nsteps && choices->transport; i++) {
        const wf_step *step = &s->steps[i];
        if (step->kind != WF_STEP_EXCHANGE) continue;
        wf_exchange *e = &s->exchanges[step->exchange];
        const bool slots = step->lane == WF_LANE_DP;
        const wf_transport_kind to =
            e->to >= 0 ? choices->transport(choices->context, e->to, slots) : WF_TRANSPORT_NONE;
        const wf_transport_kind from =
            e->from >= 0 ? choices->transport(choices->context, e->from, slots) : WF_TRANSPORT_NONE;
        e->transport = (uint8_t)(e->to >= 0 ? to : from);
        e->receive_transport = (uint8_t)(e->from >= 0 ? from : to);
        for (int32_t v = 0; v < step->reads && to == WF_TRANSPORT_WINDOW; v++)
            s->buffers[s->views[step->view + v].buffer].space = WF_SPACE_WINDOW;
    }
}

wf_status wf_choose(wf_schedule *s, const wf_choices *choices) {
    static const wf_choices none = {0};
    if (!choices) choices = &none;
    if (s->placed) return wf_fail(WF_ERR_INTERNAL, "a placed schedule cannot be chosen for again");
    if (!choices->no_fusion) fuse(s);
    TRY(wf_build_finish(s));
    TRY(drop_unused_problems(s));
    TRY(ask_candidates(s, choices));
    add_workspaces(s);
    set_transports(s, choices);
    if (choices->in_place) wf_read_in_place(s, choices);
    return wf_build_finish(s);
}
