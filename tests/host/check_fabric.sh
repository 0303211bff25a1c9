#!/bin/sh
# The fabric's suites on 1 to 4 ranks. $1: a seed.
set -u
seed=${1:-$(date +%s)}
command -v mpirun >/dev/null || { echo "skipped: mpirun not found"; exit 77; }
failed=0
for ranks in 1 2 3 4; do
    for suite in check_fabric check_fabric_traffic check_fabric_in_place check_fabric_attach check_fabric_faults; do
        echo "== $suite on $ranks ranks, seed $seed"
        timeout 180 mpirun --allow-run-as-root --oversubscribe --bind-to none -np $ranks "$top_builddir/tests/host/$suite" "$seed" || failed=1
    done
done
exit $failed
