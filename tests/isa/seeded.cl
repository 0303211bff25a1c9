/* seeded.cl: a kernel that no compiler can keep in registers, which check-isa must report. SPILL 0: the
 * same without its array, which must pass. CPU: a loop with more sums than there are registers, or with fewer. */
#define SUMS  (SPILL ? 48 : 8)
#define STEPS (SPILL ? 1 : 6)
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void seeded(__global float *data, int n) {
    const int i = (int)get_global_id(0);
#if CPU
    float8 sum[SUMS];
#pragma unroll
    for (int s = 0; s < SUMS; s++) sum[s] = 0.0f;
    for (int j = 0; j < n; j += STEPS) {
#pragma unroll
        for (int t = 0; t < STEPS; t++) {
            const float8 x = ((__global const float8 *)data)[j + t];
#pragma unroll
            for (int s = 0; s < SUMS; s++) sum[s] += data[(j + t) * SUMS + s] * x;
        }
    }
#pragma unroll
    for (int s = 0; s < SUMS; s++) ((__global float8 *)data)[i + s] = sum[s];
#elif SPILL
    float keep[1024];
    for (int j = 0; j < 1024; j++) keep[j] = data[i + j * n];
    for (int j = 0; j < n; j++) keep[(j * 7 + i) & 1023] += keep[(j * 13) & 1023];
    for (int j = 0; j < 1024; j++) data[i + j * n] = keep[j];
#else
    data[i] += (float)n;
#endif
}
