#!/bin/bash
# check_faults.sh [long [RANKS...]]: the fault matrix. `weft train` on 2 to 4 ranks with one fault on one rank, at each kind of step
# (faulty.c) and by each transport: a rank is stopped, killed, slow, hangs in a call; a message is shortened; an OpenCL call
# fails; the plan of one rank is altered. Each job must end within its deadline and 2 s of the fault, with a failure and a
# line that names the rank that was hit, the step it was at and the operation; the same line with another rank, site or
# segment in it must be refused, so each case proves its own judge. A slow rank's job must end well, with the same losses
# to the bit; no process may be left. Then the command's own end: SIGKILL, SIGTERM and SIGINT to it leave no rank behind.
set -u
program=./tests/long/faulty
deadline=${DEADLINE:-5}
[ "${1:-}" = long ] || deadline=${DEADLINE:-3}
if ! command -v mpirun >/dev/null 2>&1; then
    echo "SKIP: no mpirun; faults between ranks are not looked at"
    exit 77
fi
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
WEFT_TEST_STAMP=$work/stamp
export WEFT_TEST_STAMP
cat >"$work/config.json" <<'END'
{"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4, "n_inner": 64, "n_positions": 32, "vocab_size": 257,
 "embd_pdrop": 0.1, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
END
i=0
while [ $i -lt 400 ]; do echo "line $i of a text that is long enough to train on, $((i * 7919 % 10007))"; echo; i=$((i + 1)); done >"$work/text.txt"

checks=0 failures=0 slowest=0 jobs=0 late=0
failure() { failures=$((failures + 1)); echo "FAILED: $*"; sed 's/^/    /' "$work/err" | tail -n 12; }
# Seconds beyond its deadline that a job may take: 2, but in the fast suite, which may share its machine with anything.
margin=2
[ "${1:-}" = long ] || margin=20
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
now() { cut -d' ' -f1 /proc/uptime; }

# own: what the self-test chooses.
by() { # by TRANSPORT
    unset WEFT_TRANSPORT
    [ "$1" = own ] || export WEFT_TRANSPORT="$1"
}

train() { # train RANKS STEPS
    timeout -s KILL 120 $program train --text "$work/text.txt" --model "$work/config.json" --ranks "$1" --batch 4 --sequence 16 --steps "$2" \
        --timeout "$deadline" --evaluate-batches 0 --json >"$work/out" 2>"$work/err"
}

# Processes of this run that are still there (not those that only wait to be reaped).
echo "train --text $work/text.txt" | tr ' ' . >"$work/pattern" # a dot for the NUL between words; from a file, or grep finds itself
left() {
    sleep 0.1
    grep -alf "$work/pattern" /proc/[0-9]*/cmdline 2>/dev/null | cut -d/ -f3
}

no_orphans() { # no_orphans NAME
    orphans=$(left)
    [ -z "$orphans" ] && return
    failure "$1: processes are left: $orphans"
    kill -9 $orphans
}

# Does a line of FILE name the rank that was hit, the step it was at, and the operation? Who fails says it of itself; who
# waits, or outlives, reads it from the other's board; for a message's length both are at the same step.
names() { # names KIND VICTIM SITE SEGMENT FILE
    at="step ${3//[.+]/[.+]} of ${4//./[.]}( \(layer [0-9]+, microbatch [0-9]+\))?"
    case $1 in
        kill) line="^weft: rank $2 \(process [0-9]+\) has died \($at, [a-z_]+" ;;
        cl) line="^weft: rank $2, $at, lane [a-z-]+, [a-z_]+: .*CL_OUT_OF_RESOURCES" ;;
        short) line="^weft: rank [0-9]+, $at, lane [a-z_-]+, (send|receive)[a-z0-9 ,]+: rank $2 sends [0-9]+ bytes to rank [0-9]+, which expects" ;;
        plan) line="^weft: .*plans of ranks ($2 and [0-9]+|[0-9]+ and $2) do not fit: .*rank $2 sends [0-9]+ bytes at $at" ;;
        # rank W, its own step: rank W waited to receive from rank V; it has been in V's step. Or V's own watchdog.
        *) line="^weft: (rank [0-9]+, step [a-z0-9.+]+ of .*: )?rank [0-9]+ waited .* rank $2[ ,;].*; it has been in $at, [a-z_]+|^weft: rank $2 has been stuck for .* in $at, [a-z_]+" ;;
    esac
    grep -Eq "$line" "$5"
}

# The judge refuses what FILE would be with another rank, another site, another segment.
refuses_wrong_names() { # refuses_wrong_names KIND VICTIM SITE SEGMENT FILE
    for wrong in "s/rank $2\\b/rank 77/g; s/ranks $2 and/ranks 77 and/; s/and $2 do/and 77 do/" "s/step ${3//./[.]} of/step another of/g" \
        "s/ of ${4//./[.]}\\b/ of another/g"; do
        sed "$wrong" "$5" >"$work/wrong"
        ! names "$1" "$2" "$3" "$4" "$work/wrong" || { wrong_name=$wrong; return 1; }
    done
}

run_case() { # run_case RANKS KIND VICTIM SEGMENT WHAT NTH TRANSPORT [again]
    name="$2 of rank $3 of $1 at $5 $6 of $4 by $7"
    checks=$((checks + 1))
    rm -f "$work/stamp"
    by "$7"
    WEFT_TEST_FAULT="$2 $3 $4 $5 $6" train "$1" 3
    ended=$?
    end=$(now)
    no_orphans "$name"
    [ -s "$work/stamp" ] || { failure "$name: the fault did not happen (exit status $ended)"; return; }
    read -r began site <"$work/stamp"
    took=$(awk -v end="$end" -v begin="$began" 'BEGIN { printf "%.2f", end - begin }')
    jobs=$((jobs + 1))
    echo "$2 $5 $7 $1" >>"$work/tried"
    if [ "$2" = slow ]; then
        [ $ended = 0 ] || { failure "$name: exit status $ended"; return; }
        cut -d, -f1,2 "$work/out" | cmp -s - "$work/losses$1" || failure "$name: other losses than without a fault"
        return
    fi
    [ $ended != 0 ] || { failure "$name: ended as if nothing had happened"; return; }
    [ $ended != 137 ] || [ "$2" = kill ] || { failure "$name: hung, or was killed"; return; }
    [ "$2" = kill ] || [ $ended -le 3 ] || failure "$name: exit status $ended"
    if above "$took" $((deadline + margin)); then
        # What else runs on the machine can hold up one job, but not the same job twice.
        [ "${8:-}" != again ] || { failure "$name: ended only $took s after the fault, and late before"; return; }
        late=$((late + 1)) checks=$((checks - 1)) jobs=$((jobs - 1))
        echo "late: $name: ended $took s after the fault; once more"
        run_case "$1" "$2" "$3" "$4" "$5" "$6" "$7" again
        return
    fi
    above "$took" "$slowest" && slowest=$took
    if names "$2" "$3" "$site" "$4" "$work/err"; then
        refuses_wrong_names "$2" "$3" "$site" "$4" "$work/err" || failure "$name: this would pass with wrong names: $wrong_name"
    else
        failure "$name: no line names the rank, its step $site and the operation"
    fi
    [ "$7" = own ] || ! grep -E ', by (window|staged|mpi)\)' "$work/err" | grep -vq ", by $7)" || failure "$name: went by another transport"
    [ -z "${VERBOSE:-}" ] || { echo "$name: $took s, $ended, site $site"; grep '^weft:' "$work/err"; }
}

reference() { # reference RANKS TRANSPORT: the losses, which no transport changes
    checks=$((checks + 1))
    WEFT_TEST_FAULT= ; unset WEFT_TEST_FAULT
    by "$2"
    train "$1" 3 || failure "$1 ranks by $2 without a fault"
    cut -d, -f1,2 "$work/out" >"$work/losses"
    [ "$(wc -l <"$work/losses")" = 3 ] || failure "$1 ranks by $2 without a fault: no losses"
    [ -s "$work/losses$1" ] || cp "$work/losses" "$work/losses$1"
    cmp -s "$work/losses" "$work/losses$1" || failure "$1 ranks by $2 have other losses"
}

end_command() { # end_command SIGNAL RANKS OPTION...
    checks=$((checks + 1))
    signal=$1 np=$2
    shift 2
    rm -f "$work/out" # or an earlier command's would be taken for this one's
    $program train --text "$work/text.txt" --model "$work/config.json" --ranks "$np" --batch 4 --sequence 16 --steps 1000000 \
        --timeout "$deadline" --evaluate-batches 0 --json "$@" >"$work/out" 2>"$work/err" &
    command=$!
    tries=0
    while [ ! -s "$work/out" ] && [ $tries -lt 600 ]; do sleep 0.1; tries=$((tries + 1)); done
    [ -s "$work/out" ] && kill -"$signal" $command || failure "the command of $np ranks $* did not come to be ended by SIG$signal"
    wait $command 2>/dev/null
    tries=0
    while [ -n "$(left)" ] && [ $tries -lt 20 ]; do sleep 0.1; tries=$((tries + 1)); done # mpirun takes a second or two
    no_orphans "SIG$signal to the command of $np ranks"
}

exchanges="embed.forward layer.forward head.first layer.backward.first embed.backward.first finish layer.finish gradnorm"
kernels="$exchanges layer.optimizer optimizer"
transports=(own mpi staged)
faults="stop-kernel kill-kernel slow-kernel hang-kernel cl-kernel stop-exchange kill-exchange slow-exchange hang-exchange short-exchange plan-exchange"

# Each fault at each segment. Who is hit and by which transport goes round, so that every transport meets every rank; on two
# ranks both are hit, but by a stop or a hang, of which each costs a deadline.
matrix() { # matrix RANKS
    k=0
    for fault in $faults; do
        kind=${fault%-*} what=${fault#*-} i=0
        case $fault in *-kernel) nth=4 segments=$kernels ;; plan-*) nth=1 segments=$exchanges ;; *) nth=2 segments=$exchanges ;; esac
        for segment in $segments; do
            hit=$(((i + k) % $1)) t=$((i + k + ($1 % 3 ? 0 : i / $1))) # 3 ranks and 3 transports would go round as one
            run_case "$1" $kind $hit $segment $what $nth "${transports[t % 3]}"
            case $1-$kind in
                2-stop | 2-hang) ;;
                2-*) run_case "$1" $kind $((1 - hit)) $segment $what $nth "${transports[(t + 1) % 3]}" ;;
            esac
            i=$((i + 1))
        done
        k=$((k + 1))
    done
}

every_combination() { # of fault, transport and number of ranks
    for fault in $faults; do
        for transport in "${transports[@]}"; do
            for ranks in 2 3 4; do
                grep -qx "${fault%-*} ${fault#*-} $transport $ranks" "$work/tried" || { failures=$((failures + 1)); echo "FAILED: no $fault by $transport on $ranks ranks"; }
            done
        done
    done
    [ $jobs -ge 300 ] || { failures=$((failures + 1)); echo "FAILED: only $jobs jobs had a fault; 300 are asked for"; }
}

if [ "${1:-}" = long ]; then
    shift
    for ranks in ${*:-2 3 4}; do
        for transport in "${transports[@]}"; do reference $ranks $transport; done
        matrix $ranks
        for end in KILL TERM INT; do by own; end_command $end $ranks; done
        for end in KILL TERM INT; do by mpi; end_command $end $ranks --checkpoint "$work/steps$ranks$end"; done
        echo "$ranks ranks are through: $jobs jobs with a fault, $failures failures so far, after $SECONDS s"
    done
    [ $# -gt 0 ] || every_combination
else
    reference 2 own
    reference 3 mpi
    run_case 2 kill 1 embed.forward kernel 2 own
    run_case 2 cl 0 head.first kernel 3 mpi
    run_case 3 cl 2 layer.optimizer kernel 5 staged
    run_case 2 slow 0 layer.backward.first kernel 8 staged
    run_case 3 slow 1 layer.forward exchange 2 mpi
    run_case 3 kill 0 finish exchange 2 mpi
    run_case 2 short 0 layer.forward exchange 3 staged
    run_case 3 plan 1 layer.backward.first exchange 2 own
    run_case 2 stop 1 layer.backward.first exchange 5 mpi
    run_case 3 hang 0 layer.forward kernel 4 mpi # the run's own clock may be the first to run out, not the fabric's
    by own
    end_command KILL 2
    end_command TERM 2 --checkpoint "$work/steps"
fi
echo "$jobs jobs with a fault in $SECONDS s; $late were late and ran once more"
echo "the slowest job ended $slowest s after its fault; the deadline is $deadline s"
echo "$(((checks - failures > 0 ? checks - failures : 0) * 100 / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ $failures = 0 ]
