#!/bin/sh
# The fabric's suite on 1 to 4 ranks. $1: the program; a seed may follow.
set -u
program=${1:-$top_builddir/tests/host/check_fabric}
seed=${2:-$(date +%s)}
command -v mpirun >/dev/null || { echo "skipped: mpirun not found"; exit 77; }
failed=0
for ranks in 1 2 3 4; do
    echo "== $ranks ranks, seed $seed"
    timeout 180 mpirun --allow-run-as-root --oversubscribe --bind-to none -np $ranks "$program" "$seed" || failed=1
done
exit $failed
