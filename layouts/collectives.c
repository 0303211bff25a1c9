/* collectives.c: collectives as hops between members. In hop k every member sends to the k-th after
 * it and receives from the k-th before it, so that each hop is a permutation and no member waits for
 * two. Direct (n - 1 messages of one shard each) rather than a ring: nothing is forwarded, and the
 * order in which a reduction adds stays the layout's. Sums are kernels' work, not the fabric's. */
#include "layouts/build.h"

static wf_view block(const wf_view *whole, const wf_rows *rows) {
    wf_view view = *whole;
    view.offset += rows->first * whole->stride[0];
    view.extent[0] = rows->count;
    return view;
}

/* The n-th member after (or before) the own one. */
static int32_t member_at(const wf_group *group, int32_t n) {
    return (group->index + n + group->members) % group->members;
}

/* whole: a matrix without gaps whose rows the shards lie in. */
static bool legal(wf_schedule *s, const char *site, int32_t group, const wf_view *whole, const wf_rows *shard) {
    wf_status status = WF_OK;
    if (wf_build_failed(s)) return false;
    if (group < 0 || group >= s->ngroups)
        status = wf_fail(WF_ERR_INTERNAL, "%s: there is no group %d", site, group);
    else if (whole->ndim != 2 || !wf_view_contiguous(whole))
        status = wf_fail(WF_ERR_INTERNAL, "%s: a collective's whole must be a matrix without gaps", site);
    for (int32_t i = 0; status == WF_OK && i < s->groups[group].members; i++)
        if (shard[i].first < 0 || shard[i].count < 0 || shard[i].first + shard[i].count > whole->extent[0])
            status = wf_fail(WF_ERR_INTERNAL, "%s: the shard of member %d has rows %lld to %lld of %lld", site, i,
                             (long long)shard[i].first, (long long)(shard[i].first + shard[i].count),
                             (long long)whole->extent[0]);
    wf_build_fail(s, status);
    return status == WF_OK;
}

void wf_build_all_gather(wf_schedule *s, const char *site, wf_lane lane, int32_t group, const wf_view *whole,
                         const wf_rows *shard) {
    if (!legal(s, site, group, whole, shard)) return;
    const wf_group *g = &s->groups[group];
    const wf_view mine = block(whole, &shard[g->index]);
    for (int32_t k = 1; k < g->members; k++) {
        const int32_t to = member_at(g, k), from = member_at(g, -k);
        const wf_view theirs = block(whole, &shard[from]);
        wf_build_hop(s, site, lane, WF_ALL_GATHER, group, k, s->members[g->first_member + to], &mine,
                     s->members[g->first_member + from], &theirs);
    }
}

/* What arrives from a member, among what arrives from all but the own one. */
static wf_view landed(const wf_group *group, const wf_view *landing, int32_t from, int64_t rows) {
    return block(landing, &(wf_rows){(from < group->index ? from : from - 1) * rows, rows});
}

void wf_build_parts(const wf_schedule *s, int32_t group, const wf_view *partial, const wf_rows *shard, const wf_view *landing,
                    wf_view *parts_out) {
    const wf_group *const g = &s->groups[group];
    for (int32_t i = 0; i < g->members; i++)
        parts_out[i] = i == g->index ? block(partial, &shard[i]) : landed(g, landing, i, shard[g->index].count);
}

void wf_build_scatter(wf_schedule *s, const char *site, wf_lane lane, int32_t group, const wf_view *partial, const wf_rows *shard,
                      const wf_view *landing) {
    if (!legal(s, site, group, partial, shard)) return;
    const wf_group *g = &s->groups[group];
    for (int32_t k = 1; k < g->members; k++) {
        const int32_t to = member_at(g, k), from = member_at(g, -k);
        const wf_view theirs = block(partial, &shard[to]), mine = landed(g, landing, from, shard[g->index].count);
        wf_build_hop(s, site, lane, WF_REDUCE_SCATTER, group, k, s->members[g->first_member + to], &theirs,
                     s->members[g->first_member + from], &mine);
    }
}

void wf_build_reduce_scatter(wf_schedule *s, const char *site, wf_lane lane, int32_t group, const wf_view *partial,
                             const wf_rows *shard, wf_view *parts_out) {
    if (!legal(s, site, group, partial, shard)) return;
    const wf_group *g = &s->groups[group];
    const int64_t rows = shard[g->index].count, columns = partial->extent[1];
    const wf_dtype dtype = wf_build_dtype(s, partial->buffer);
    parts_out[g->index] = block(partial, &shard[g->index]);
    for (int32_t k = 1; k < g->members; k++) {
        const int32_t to = member_at(g, k), from = member_at(g, -k);
        const wf_view theirs = block(partial, &shard[to]);
        const int32_t landing = wf_build_scratch(s, wf_build_text(s, "%s.landing", site), dtype, rows * columns);
        parts_out[from] = wf_matrix(landing, WF_AT_NONE, 0, rows, columns, columns);
        wf_build_hop(s, site, lane, WF_REDUCE_SCATTER, group, k, s->members[g->first_member + to], &theirs,
                     s->members[g->first_member + from], &parts_out[from]);
    }
}
