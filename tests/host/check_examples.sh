#!/bin/bash
# examples/ in C, outside of the library's build, against an installed copy: each is built as its user would (pkg-config, a
# Makefile) and run. The program in README.md is examples/two_ranks.c, to the letter.
set -u
. "${top_srcdir:?}/tests/host/examples_support.sh"

# README.md shows this very file.
sed -n '/^```c two_ranks.c$/,/^```$/p' "$top_srcdir/README.md" | sed '1d;$d' >"$stage/shown.c"
check 'README.md shows two_ranks.c' cmp "$stage/shown.c" two_ranks.c
check 'two_ranks.c has 40 lines' test "$(wc -l <two_ranks.c)" -le 40
check 'compile two_ranks.c' $cc $sanitizers -Wall -Werror two_ranks.c $(pkg-config --cflags --libs weft ompi-c) -o two_ranks
check 'make own_loss' make -s -C own_loss CC="$cc" CFLAGS='-O1 -Wall -Werror' LDFLAGS="$sanitizers"
if command -v "${MPIRUN:-mpirun}" >/dev/null; then
    check 'two_ranks' mpi 2 ./two_ranks
    # Both ranks print the same sums.
    check 'one loss' test "$(grep -o 'loss.*' "$stage/said" | sort -u | wc -l)" = 1
    check 'own_loss on 1 rank' ./own_loss/own_loss 8
    one=$(grep -o 'loss.*' "$stage/said")
    check 'own_loss on 2 ranks' mpi 2 ./own_loss/own_loss 8
    two=$(grep -o 'loss.*' "$stage/said")
    # The first loss to all six digits that are shown, the last within rounding that eight steps have grown.
    check 'losses agree' awk -v a="$one" -v b="$two" 'BEGIN { split(a, x, /[ \n]+/); split(b, y, /[ \n]+/);
        exit !(x[2] == y[2] && (x[4] - y[4]) ^ 2 < 1e-8) }'
else
    skip "no mpirun: two_ranks and own_loss are built, not run"
fi
finish
