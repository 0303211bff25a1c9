/* pairwise.c: see pairwise.h. */
#include "tests/pairwise.h"

#include <assert.h>
#include <string.h>

#include "kernels/philox.h"

/* [factor][value][other factor][other value], factor < other. */
typedef bool covered[PAIRWISE_FACTORS][PAIRWISE_VALUES][PAIRWISE_FACTORS][PAIRWISE_VALUES];

/* How many of a row's pairs are new; with `mark`, they are no longer. */
static int new_pairs(covered *seen, const pairwise_row *row, bool mark) {
    int n = 0;
    for (int a = 0; a < PAIRWISE_FACTORS; a++)
        for (int b = a + 1; b < PAIRWISE_FACTORS; b++) {
            assert(row->value[a] < PAIRWISE_VALUES && row->value[b] < PAIRWISE_VALUES);
            bool *const at = &(*seen)[a][row->value[a]][b][row->value[b]];
            n += !*at;
            *at = *at || mark;
        }
    return n;
}

static uint32_t draw(uint64_t seed, uint32_t round, uint32_t row) {
    uint32_t words[4];
    wf_philox4x32((const uint32_t[4]){round, row}, (const uint32_t[2]){(uint32_t)seed, (uint32_t)(seed >> 32)}, words);
    return words[0];
}

/* -1: no row has a new pair. */
static int best_row(covered *seen, const pairwise_row *rows, int n, uint64_t seed, int round) {
    int best = -1, most = 0;
    uint32_t drawn = 0;
    for (int i = 0; i < n; i++) {
        const int pairs = new_pairs(seen, &rows[i], false);
        const uint32_t word = draw(seed, (uint32_t)round, (uint32_t)i);
        if (pairs < most || pairs == 0 || (pairs == most && word <= drawn)) continue;
        best = i, most = pairs, drawn = word;
    }
    return best;
}

int pairwise_sample(const pairwise_row *rows, int n, uint64_t seed, bool *chosen_out) {
    static covered seen;
    int taken = 0;
    memset(seen, 0, sizeof seen);
    memset(chosen_out, 0, sizeof *chosen_out * (size_t)n);
    for (int row = best_row(&seen, rows, n, seed, 0); row >= 0; row = best_row(&seen, rows, n, seed, ++taken)) {
        new_pairs(&seen, &rows[row], true);
        chosen_out[row] = true;
    }
    return taken;
}

int pairwise_pairs(const pairwise_row *rows, int n, const bool *only) {
    static covered seen;
    int pairs = 0;
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < n; i++)
        if (!only || only[i]) pairs += new_pairs(&seen, &rows[i], true);
    return pairs;
}
