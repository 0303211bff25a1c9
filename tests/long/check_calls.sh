#!/bin/sh
# check_calls.sh [long]: check_calls on one rank and on two. Short: one fault of each kind in each phase, at a place
# that the time chooses. Long: every place on one rank; on two and three ranks many of each.
set -u
program=./tests/long/check_calls
failed=0
ranks() { # ranks NP WORD...
    np=$1
    shift
    timeout "$limit" mpirun --allow-run-as-root --oversubscribe --bind-to none -np "$np" $program "$@" || failed=1
}
have_mpirun=yes
command -v mpirun >/dev/null 2>&1 || { have_mpirun=no; echo "no mpirun: one rank only"; }
if [ "${1:-}" = long ]; then
    limit=14400
    # Two kinds at once: half the time.
    timeout $limit $program 0 0 memory &
    timeout $limit $program 0 0 cl || failed=1
    wait $! || failed=1
    [ $have_mpirun = no ] || ranks 2 60
    WEFT_TRANSPORT=mpi # the fastest would leave a step without an MPI call
    export WEFT_TRANSPORT
    [ $have_mpirun = no ] || ranks 2 60
    [ $have_mpirun = no ] || ranks 3 4
else
    limit=280
    timeout $limit $program 1 || failed=1
    WEFT_TRANSPORT=mpi # the fastest would leave a step without an MPI call
    export WEFT_TRANSPORT
    [ $have_mpirun = no ] || ranks 2 1
fi
exit $failed
