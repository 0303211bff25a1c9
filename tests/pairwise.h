/* pairwise.h: a sample of combinations in which any two values of any two factors that occur together in some combination
 * occur together at least once (Mandl 1985). Greedy and seeded: the combination that covers most of what is
 * not yet covered is next, a random one of those that cover as much. */
#ifndef WF_TESTS_PAIRWISE_H
#define WF_TESTS_PAIRWISE_H

#include <stdbool.h>
#include <stdint.h>

enum { PAIRWISE_FACTORS = 6, PAIRWISE_VALUES = 16 };

typedef struct pairwise_row {
    int value[PAIRWISE_FACTORS]; /* each below PAIRWISE_VALUES */
} pairwise_row;

/* Sets chosen_out of the rows that are taken; returns their number. */
int pairwise_sample(const pairwise_row *rows, int n, uint64_t seed, bool *chosen_out);
/* Pairs of values that occur in the rows; only: those of them with only[i], NULL: of all. */
int pairwise_pairs(const pairwise_row *rows, int n, const bool *only);

#endif
