/* cases.h: the texts of problems that `weft verify`, `make check-isa` and the kernel tests share.
 *
 * Every operation is there with every flag and activation that it takes, at sizes that break kernels:
 * 0, 1, primes, one less and one more than a tile, heads and rows that do not divide. A test asserts
 * that nothing is missing. */
#ifndef WF_KERNELS_CASES_H
#define WF_KERNELS_CASES_H

#include "kernels/operation.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const char *const wf_cases[]; /* NULL ends */

#ifdef __cplusplus
}
#endif
#endif
