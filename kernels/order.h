/* order.h: how a matrix [rows, columns] lies in memory. Each order is a bijection plus zero padding.
 *
 *     ROWS    row-major: element (row, column) at row * columns + column
 *     PANELS  panels of 32 rows, column by column: the order in which GEMM's inner loop reads a weight.
 *             (row, column) at (row / 32 * columns + column) * 32 + row % 32; rows padded with zeros
 *
 *                 column 0          column 1
 *     panel 0 | row 0 ... row 31 | row 0 ... row 31 | ...     As a view: a matrix of 32 columns, whose
 *     panel 1 | row 32 ... row 63 | ...                       row (panel * columns + column) is a line. */
#ifndef WF_KERNELS_ORDER_H
#define WF_KERNELS_ORDER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum wf_order { WF_ORDER_ROWS, WF_ORDER_PANELS, WF_ORDERS } wf_order;
enum { WF_PANEL_ROWS = 32 };

const char *wf_order_name(wf_order order);
/* Panels that hold the rows. */
int64_t wf_order_panels(int64_t rows);
/* With the padding. */
int64_t wf_order_elements(wf_order order, int64_t rows, int64_t columns);
int64_t wf_order_index(wf_order order, int64_t columns, int64_t row, int64_t column);
/* From row-major to the order, padding included, and back. Not in place. */
void wf_order_pack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to);
void wf_order_unpack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to);

#ifdef __cplusplus
}
#endif
#endif
