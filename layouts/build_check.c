/* build_check.c: what one step alone can break: views inside their buffers, operands as the operation says, messages without
 * gaps. What needs more than one step or rank is check.c's. */
#include "layouts/building.h"

wf_status wf_build_check_shape(const wf_schedule *s, const char *site, const wf_view *v) {
    if (v->buffer < 0 || v->buffer >= s->nbuffers)
        return wf_fail(WF_ERR_INTERNAL, "%s: a view has buffer %d of %d", site, v->buffer, s->nbuffers);
    const char *name = s->buffers[v->buffer].name;
    if (v->ndim > WF_DIMS || v->at >= WF_ATS)
        return wf_fail(WF_ERR_INTERNAL, "%s: the view of %s has %d dimensions, instance by %d", site, name, v->ndim,
                       v->at);
    for (int d = 0; d < v->ndim; d++)
        if (v->extent[d] < 0 || v->stride[d] < 0)
            return wf_fail(WF_ERR_INTERNAL, "%s: the view of %s has extent %lld, stride %lld", site, name,
                           (long long)v->extent[d], (long long)v->stride[d]);
    return WF_OK;
}

wf_status wf_build_check_view(const wf_schedule *s, int32_t segment, const char *site, const wf_view *v) {
    TRY(wf_build_check_shape(s, site, v));
    const wf_buffer *b = &s->buffers[v->buffer];
    if (b->life == WF_SCRATCH && (b->segment != segment || v->at != WF_AT_NONE))
        return wf_fail(WF_ERR_INTERNAL, "%s: scratch %s belongs to another segment or is indexed", site, b->name);
    int64_t first, end;
    wf_view_span(s, v, &first, &end);
    if (first < 0 || end > b->bytes)
        return wf_fail(WF_ERR_INTERNAL, "%s: the view of %s spans bytes %lld to %lld of %lld", site, b->name,
                       (long long)first, (long long)end, (long long)b->bytes);
    return WF_OK;
}

static wf_status check_operand(const wf_schedule *s, const char *site, const wf_operand *operand,
                               const wf_view *view) {
    TRY(wf_build_check_shape(s, site, view));
    const wf_buffer *buffer = &s->buffers[view->buffer];
    if (buffer->dtype != operand->dtype)
        return wf_fail(WF_ERR_INTERNAL, "%s: operand %s has another dtype than buffer %s", site, operand->name,
                       buffer->name);
    if (view->ndim != operand->ndim)
        return wf_fail(WF_ERR_INTERNAL, "%s: operand %s has %d dimensions, its view of %s %d", site, operand->name,
                       operand->ndim, buffer->name, view->ndim);
    for (int d = 0; d < view->ndim; d++)
        if (view->extent[d] != operand->extent[d])
            return wf_fail(WF_ERR_INTERNAL, "%s: dimension %d of operand %s is %lld, of its view of %s %lld", site, d,
                           operand->name, (long long)operand->extent[d], buffer->name, (long long)view->extent[d]);
    return WF_OK;
}

wf_status wf_build_check_kernel(const wf_schedule *s, const char *site, const wf_problem *problem,
                              const wf_view *views, int nviews, wf_step *step, int64_t *outputs) {
    if (wf_problem_check(problem) != WF_OK)
        return wf_fail(WF_ERR_INTERNAL, "%s: %s", site, wf_last_error());
    const wf_operation *operation = wf_operations[problem->op];
    wf_operand operands[WF_OPERANDS];
    const int n = operation->operands(problem, operands);
    if (n != nviews)
        return wf_fail(WF_ERR_INTERNAL, "%s: %s takes %d operands, %d are given", site, operation->name, n, nviews);
    for (int i = 0; i < n; i++) {
        TRY(check_operand(s, site, &operands[i], &views[i]));
        if (operands[i].access == WF_READ) step->reads++;
        if (operands[i].access == WF_UPDATE) step->updates++;
        if (operands[i].access == WF_WRITE) step->writes++;
        if (operands[i].access != WF_READ) *outputs += wf_view_elements(&views[i]);
        if (i > 0 && operands[i].access < operands[i - 1].access)
            return wf_fail(WF_ERR_INTERNAL, "%s: operand %s of %s is out of order", site, operands[i].name,
                           operation->name);
    }
    return WF_OK;
}

wf_status wf_build_check_message(const wf_schedule *s, const char *site, const wf_view *view, int32_t peer) {
    TRY(wf_build_check_shape(s, site, view));
    if (peer < 0 || peer >= s->ranks || peer == s->rank)
        return wf_fail(WF_ERR_INTERNAL, "%s: rank %d exchanges with rank %d of %d", site, s->rank, peer, s->ranks);
    if (!wf_view_contiguous(view))
        return wf_fail(WF_ERR_INTERNAL, "%s: the message in %s has gaps", site, s->buffers[view->buffer].name);
    return WF_OK;
}
