/* seeded.cl: faults that the checks must find: run_cases.c runs each, check_races.sh asks for the report.
 * DEFECT 0: none; 1: neighbours in local memory without a barrier; 2: groups write one element of
 * global memory; 3: reads far behind the end of a buffer; 4: writes far behind it. */
#if !defined DEFECT || !defined GROUP
#error DEFECT and GROUP must be defined
#endif

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1)))
void seeded(__global const float *in, long in_at, __global float *out, long out_at, int n) {
    __local float tile[GROUP];
    const int i = (int)get_global_id(0), l = (int)get_local_id(0);
    tile[l] = i < n ? in[in_at + i + (DEFECT == 3 ? 1 << 20 : 0)] : 0;
#if DEFECT != 1
    barrier(CLK_LOCAL_MEM_FENCE);
#endif
    const float neighbour = tile[(l + 1) % GROUP];
#if DEFECT == 2
    if (l == 0) out[out_at] = neighbour + (float)get_group_id(0);
#else
    if (i < n) out[out_at + i + (DEFECT == 4 ? 1 << 20 : 0)] = neighbour;
#endif
}
