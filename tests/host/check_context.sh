#!/bin/sh
# check_context.sh [long]: every way of splitting a sequence on 2, 3, 4 and 6 ranks: a sample with a fresh seed, or all of it.
set -u
mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null 2>&1; then
    echo "SKIP: no mpirun"
    exit 77
fi
what=sample limit=240
if [ "${1:-}" = long ]; then what=all limit=7200; fi
failed=0
for np in 2 3 4 6; do
    timeout "$limit" "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np "$np" ./tests/host/context_ranks "$what" || failed=1
done
exit $failed
