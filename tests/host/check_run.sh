#!/bin/sh
# The executor on 2, 3 and 4 ranks.
set -u
mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null 2>&1; then
    echo "SKIP: no mpirun"
    exit 77
fi
failed=0
for np in 2 3 4; do
    timeout 120 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np "$np" ./tests/host/run_ranks || failed=1
done
exit $failed
