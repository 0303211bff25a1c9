/* adamw_simple.cl: one step of AdamW on a flat tensor; a work-group per chunk of elements.
 *
 *     g' = g * clip[1];  m = beta1 m + (1-beta1) g';  v = beta2 v + (1-beta2) g' g'
 *     p -= lr decay p (if decay is on);  p -= lr (m correction1) / (sqrt(v correction2) + eps)
 *
 * The group's items walk through its chunk together, WIDTH elements each. f32 throughout. */
#include "rows.clh"

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
adamw(const global float *g, long g_offset, const global float *clip, long clip_offset,
      global float *p, long p_offset, global float *m, long m_offset, global float *v,
      long v_offset, long n, long chunk, float lr, float beta1, float beta2, float eps,
      float correction1, float correction2, float decay, int decays) {
    const long first = (long)get_group_id(0) * chunk, here = min(chunk, n - first);
    const float scale = clip[clip_offset + 1];
    const float shrink = decays ? lr * decay : 0.0f;
    g += g_offset + first;
    p += p_offset + first;
    m += m_offset + first;
    v += v_offset + first;
    ROW_FOR(j, here) {
        const long left = here - j;
        const vec gradient = row_load(g + j, left, 0.0f) * scale;
        const vec m1 = beta1 * row_load(m + j, left, 0.0f) + (1.0f - beta1) * gradient;
        const vec v1 = beta2 * row_load(v + j, left, 0.0f) + (1.0f - beta2) * gradient * gradient;
        vec w = row_load(p + j, left, 0.0f);
        w -= shrink * w;
        w -= lr * (m1 * correction1) / (sqrt(v1 * correction2) + eps);
        row_store(m + j, left, m1);
        row_store(v + j, left, v1);
        row_store(p + j, left, w);
    }
}
