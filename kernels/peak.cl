/* peak.cl: what a device can do at most: multiply-adds, bytes, launches.
 *
 *     fma_chains  each item: CHAINS vectors of WIDTH floats, x_c = x_c * a + b, 4 `rounds` times; the chains
 *                 do not depend on each other. out[item] = the sum of all of them, so that none is left out.
 *     copy        a[i] = b[i]             (McCalpin, "Memory bandwidth and machine balance", 1995)
 *     update      a[i] = s * a[i] + b[i]  reads what it writes, so a CPU's cache fetches no line in vain
 *     nothing     one item, one word: what a launch costs
 *
 * In copy and update item i takes vector i, so neighbours read neighbours; n is a multiple of GROUP * WIDTH. */
#ifndef GROUP
#error "GROUP: work-items per group"
#endif
#ifndef WIDTH
#error "WIDTH: floats that a work-item handles at once, 1, 4, 8 or 16"
#endif
#ifndef CHAINS
#error "CHAINS: independent chains of multiply-adds, 1, 2, 4, 8 or 12"
#endif

#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)
#if WIDTH == 1
typedef float vec;
#define LOAD(i, p) (p)[i]
#define STORE(v, i, p) (p)[i] = (v)
#define SUM(v) (v)
#else
typedef JOIN(float, WIDTH) vec;
#define LOAD(i, p) JOIN(vload, WIDTH)(i, p)
#define STORE(v, i, p) JOIN(vstore, WIDTH)(v, i, p)
#if WIDTH == 4
#define SUM(v) dot(v, (vec)(1.0f))
#elif WIDTH == 8
#define SUM(v) dot((v).lo + (v).hi, (float4)(1.0f))
#elif WIDTH == 16
#define SUM(v) dot((v).lo.lo + (v).lo.hi + (v).hi.lo + (v).hi.hi, (float4)(1.0f))
#else
#error "WIDTH: 1, 4, 8 or 16"
#endif
#endif

/* As kernels write it: OpenCL C lets the compiler fuse it, and all do where the device has such an
 * instruction. mad() may become a product and a sum (PoCL), fma() is emulated where there is none. */
#define MULTIPLY_ADD(x, a, b) ((x) * (a) + (b))

/* One statement per chain: compilers keep arrays in memory where they do not unroll the loop over them. */
#if CHAINS == 2
#define EACH(X) X(0) X(1)
#elif CHAINS == 4
#define EACH(X) X(0) X(1) X(2) X(3)
#elif CHAINS == 8
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#elif CHAINS == 12
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#else
#define EACH(X) X(0)
#endif
#define START(c) vec x##c = (vec)((float)get_local_id(0) + (float)c);
#define STEP(c) x##c = MULTIPLY_ADD(x##c, scale, shift);
#define ADD(c) sum += x##c;

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
fma_chains(global float *out, long out_offset, int rounds, float a, float b) {
    const vec scale = (vec)(a), shift = (vec)(b);
    vec sum = (vec)(0.0f);
    EACH(START)
    for (int i = 0; i < rounds; i++) {
        EACH(STEP)
        EACH(STEP)
        EACH(STEP)
        EACH(STEP)
    }
    EACH(ADD)
    out[out_offset + (long)get_global_id(0)] = SUM(sum);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
copy(global float *a, long a_offset, const global float *b, long b_offset) {
    const size_t i = get_global_id(0);
    STORE(LOAD(i, b + b_offset), i, a + a_offset);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
update(global float *a, long a_offset, const global float *b, long b_offset, float s) {
    const size_t i = get_global_id(0);
    STORE(s * LOAD(i, a + a_offset) + LOAD(i, b + b_offset), i, a + a_offset);
}

kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void
nothing(global float *out, long out_offset) {
    out[out_offset] = 1.0f;
}
