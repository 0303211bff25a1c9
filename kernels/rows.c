/* rows.c: what the row-wise and element-wise operations share; see rows.h. */
#include "kernels/rows.h"

#include <math.h>

#define GROUP_PARAMETER {"GROUP", 6, {64, 1, 16, 32, 128, 256}, "work-items per group"}
#define WIDTH_PARAMETER {"WIDTH", 3, {4, 8, 16}, "elements that a work-item handles at once"}

const wf_parameter wf_row_parameters[WF_ROW_PARAMETERS] = {GROUP_PARAMETER, WIDTH_PARAMETER};

const wf_parameter wf_chunk_parameters[WF_CHUNK_PARAMETERS] = {
    GROUP_PARAMETER, WIDTH_PARAMETER,
    {"CHUNK", 3, {64, 16, 256}, "rows, at least, that a group sums"}};

bool wf_row_ok(const wf_problem *problem, const wf_candidate *candidate, const wf_device *device,
               const char **why) {
    const int32_t group = candidate->value[WF_ROW_GROUP];
    /* Two floats per item and eight pairs for the second stage of a sum: rows.clh. */
    const int64_t local = group == 1 ? 0 : (group + 8) * 2 * (int64_t)sizeof(float);
    if (group > device->max_group) {
        *why = "GROUP is larger than the device's work-groups";
        return false;
    }
    if (local > device->local_bytes) {
        *why = "the device has too little local memory";
        return false;
    }
    return true;
}

/* Measured on PoCL, two cores, 1024 rows of 128: norm 668 us with GROUP=64 WIDTH=4, 83 with these. */
void wf_row_prefer(const wf_problem *problem, const wf_device *device, wf_candidate *candidate) {
    if (device->type != WF_DEVICE_CPU) return;
    candidate->value[WF_ROW_GROUP] = 1;
    candidate->value[WF_ROW_WIDTH] = 16;
}

int64_t wf_row_span(const wf_candidate *candidate) {
    return (int64_t)candidate->value[WF_ROW_GROUP] * candidate->value[WF_ROW_WIDTH];
}

/* A guess: four vectors an item hide a GPU's latency and leave many groups; a lone item (CPUs)
 * should have enough to do to pay for its launch. */
int64_t wf_flat_chunk(const wf_candidate *candidate) {
    const int64_t span = wf_row_span(candidate);
    return span < 64 ? span * 256 : span * 4;
}

void wf_row_launch(wf_launch *launch, const char *entry, int64_t groups,
                   const wf_candidate *candidate) {
    *launch = (wf_launch){.entry = entry};
    wf_launch_geometry(launch, 1, &groups, &candidate->value[WF_ROW_GROUP]);
}

int64_t wf_ceil_div(int64_t a, int64_t b) {
    return a / b + (a % b != 0);
}

int64_t wf_sum_chunks(int64_t n, int64_t least) {
    const int64_t chunks = wf_ceil_div(n, least);
    return chunks < 1 ? 1 : chunks > 256 ? 256 : chunks;
}

wf_operand wf_flat_operand(const char *name, wf_access access, wf_dtype dtype, int64_t n) {
    return (wf_operand){name, (uint8_t)access, (uint8_t)dtype, 1, {n}};
}

wf_operand wf_matrix_operand(const char *name, wf_access access, wf_dtype dtype, int64_t rows,
                             int64_t columns) {
    return (wf_operand){name, (uint8_t)access, (uint8_t)dtype, 2, {rows, columns}};
}

/* Rounding errors of a sum of n terms add up like a random walk; 4 for the few operations that make
 * each term and for short sums. */
double wf_sum_error(int64_t n) {
    return (4 + sqrt((double)n)) * WF_U;
}
