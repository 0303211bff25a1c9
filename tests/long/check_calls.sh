#!/bin/sh
# check_calls.sh [long]: check_calls on one rank and on several. Short: one fault of each kind in each phase, at a place
# and on a rank that the time chooses. Long: on two ranks every MPI call while ranks meet and part; on one rank the
# first call of each site (each way through the program that leads to a call), elsewhere of some; and so many places of each
# kind and phase, evenly spread, their beginning chosen by the time: each program prints its seed.
set -u
program=./tests/long/check_calls
failed=0
# Checkpoints in memory: no disk is tested here.
[ -n "${TMPDIR:-}" ] || { [ -w /dev/shm ] && export TMPDIR=/dev/shm; }
ranks() { # ranks NP WORD...
    np=$1
    shift
    timeout -k 10 "$limit" mpirun --quiet --allow-run-as-root --oversubscribe --bind-to none -np "$np" $program "$@" ||
        { echo "FAILED: $np ranks, $program $*, by ${WEFT_TRANSPORT:-the fastest}: exit status $?"; return 1; }
}
alone() { # alone WORD...
    timeout -k 10 "$limit" $program "$@" || { echo "FAILED: one rank, $program $*: exit status $?"; return 1; }
}
have_mpirun=yes
command -v mpirun >/dev/null 2>&1 || { have_mpirun=no; echo "no mpirun: one rank only"; }
if [ "${1:-}" = long ]; then
    limit=7200
    seed=$(date +%s)
    # Some at once: much of the time one rank waits for another's deadline.
    jobs=
    begin() { "$@" & jobs="$jobs $!"; }
    begin alone 24 "$seed"
    if [ $have_mpirun = yes ]; then
        sampled() {
            bad=0
            for kind in cl mpi-test memory share system give-up; do ranks 2 4 "$seed" $kind || bad=1; done
            return $bad
        }
        all_in_one() { # all kinds in one process: a fault leaves nothing that the next meets
            bad=0
            ranks 3 2 "$seed" || bad=1
            unset WEFT_TRANSPORT
            ranks 2 2 "$seed" || bad=1
            return $bad
        }
        WEFT_TRANSPORT=mpi # the fastest would leave a step without an MPI call
        export WEFT_TRANSPORT
        mpi() { # mpi FEW PHASE...
            bad=0 few=$1
            shift
            for phase in "$@"; do ranks 2 "$few" "$seed" mpi "$phase" || bad=1; done
            return $bad
        }
        begin mpi 0 open close
        begin mpi 12 load step save restore
        begin sampled
        begin all_in_one
    fi
    for job in $jobs; do wait "$job" || failed=1; done
else
    limit=280
    alone 1 || failed=1
    WEFT_TRANSPORT=mpi
    export WEFT_TRANSPORT
    if [ $have_mpirun = yes ]; then
        ranks 2 1 || failed=1
        # A rank that fails before the others are met, or while they agree to go on, must not leave them in a call without a deadline.
        for fault in "memory open 1 0" "mpi open 2 0" "mpi open 9 1"; do ranks 2 $fault || failed=1; done
    fi
fi
exit $failed
