/* order.c: how a matrix lies in memory; see order.h. */
#include "kernels/order.h"

#include <string.h>

const char *wf_order_name(wf_order order) {
    return order == WF_ORDER_PANELS ? "panels" : "rows";
}

int64_t wf_order_panels(int64_t rows) {
    return (rows + WF_PANEL_ROWS - 1) / WF_PANEL_ROWS;
}

int64_t wf_order_elements(wf_order order, int64_t rows, int64_t columns) {
    return (order == WF_ORDER_PANELS ? wf_order_panels(rows) * WF_PANEL_ROWS : rows) * columns;
}

int64_t wf_order_index(wf_order order, int64_t columns, int64_t row, int64_t column) {
    if (order == WF_ORDER_ROWS) return row * columns + column;
    return (row / WF_PANEL_ROWS * columns + column) * WF_PANEL_ROWS + row % WF_PANEL_ROWS;
}

void wf_order_pack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to) {
    if (rows * columns == 0) return;
    memset(to, 0, (size_t)wf_order_elements(order, rows, columns) * sizeof *to);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            to[wf_order_index(order, columns, row, column)] = from[row * columns + column];
}

void wf_order_unpack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to) {
    for (int64_t row = 0; row < rows; row++)
        for (int64_t column = 0; column < columns; column++)
            to[row * columns + column] = from[wf_order_index(order, columns, row, column)];
}
