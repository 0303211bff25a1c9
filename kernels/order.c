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

/* Rows of one panel. */
static int64_t rows_of(int64_t rows, int64_t panel) {
    const int64_t left = rows - panel * WF_PANEL_ROWS;
    return left < WF_PANEL_ROWS ? left : WF_PANEL_ROWS;
}

void wf_order_pack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to) {
    if (rows * columns == 0) return;
    if (order == WF_ORDER_ROWS) {
        memcpy(to, from, (size_t)(rows * columns) * sizeof *to);
        return;
    }
    memset(to, 0, (size_t)wf_order_elements(order, rows, columns) * sizeof *to);
    for (int64_t panel = 0; panel < wf_order_panels(rows); panel++)
        for (int64_t column = 0; column < columns; column++, to += WF_PANEL_ROWS)
            for (int64_t row = 0; row < rows_of(rows, panel); row++)
                to[row] = from[(panel * WF_PANEL_ROWS + row) * columns + column];
}

void wf_order_unpack(wf_order order, int64_t rows, int64_t columns, const float *from, float *to) {
    if (rows * columns == 0) return;
    if (order == WF_ORDER_ROWS) {
        memcpy(to, from, (size_t)(rows * columns) * sizeof *to);
        return;
    }
    for (int64_t panel = 0; panel < wf_order_panels(rows); panel++)
        for (int64_t column = 0; column < columns; column++, from += WF_PANEL_ROWS)
            for (int64_t row = 0; row < rows_of(rows, panel); row++)
                to[(panel * WF_PANEL_ROWS + row) * columns + column] = from[row];
}
