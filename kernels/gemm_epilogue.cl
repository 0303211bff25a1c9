/* gemm_epilogue.cl: GEMM's epilogue in place on C, after a library has written the sums there:
 *
 *     C[i,j] = epilogue(c[c_offset + i c_stride + j])
 *
 * One work-item per element, neighbours along a row. The library has accumulated already. */
#define WIDTH 1
#include "gemm.clh"

#ifndef GROUP
#error "GROUP must be defined"
#endif

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void gemm_epilogue(int n,
                                                                                EPILOGUE_ARGUMENTS) {
    const int col = get_global_id(0), row = get_global_id(1);
    const epilogue to = EPILOGUE;
    if (col < n) finish(to, to.c[row * to.c_stride + col], row, col, 1);
}
