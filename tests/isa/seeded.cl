/* seeded.cl: a kernel that no compiler can keep in registers, which check-isa must report. SPILL 0: the
 * same without its array, which must pass. */
__kernel __attribute__((reqd_work_group_size(64, 1, 1)))
void seeded(__global float *data, int n) {
    const int i = (int)get_global_id(0);
#if SPILL
    float keep[1024];
    for (int j = 0; j < 1024; j++) keep[j] = data[i + j * n];
    for (int j = 0; j < n; j++) keep[(j * 7 + i) & 1023] += keep[(j * 13) & 1023];
    for (int j = 0; j < 1024; j++) data[i + j * n] = keep[j];
#else
    data[i] += (float)n;
#endif
}
