/* bench_block.h: a block stack under a layout, to be timed. Insides of host/api. */
#ifndef WEFT_API_BENCH_BLOCK_H
#define WEFT_API_BENCH_BLOCK_H

#include "host/api/objects.h"
#include "host/run/bench.h"

typedef struct bench_block bench_block;
/* Collective. gemm: the variant of its GEMMs; NULL: the device's. */
weft_status bench_block_create(weft_context *, const char *case_text, const weft_layout *, const char *gemm, bench_block **out);
/* Collective; NULL is fine. */
void bench_block_destroy(bench_block *);
wf_bench_item bench_block_item(bench_block *);
/* One run on this rank: flops, bytes that kernels move at least, kernels. */
void bench_block_work(const bench_block *, double *flops_out, double *bytes_out, int64_t *kernels_out);

#endif
