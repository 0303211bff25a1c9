#!/bin/bash
# check_faults.sh [long [RANKS...]]: the fault matrix. `weft train` on 2 to 4 ranks with one fault on one rank, at each kind of step
# (faulty.c): a rank is stopped, killed, slow, hangs in a call; a message is shortened; an OpenCL call fails; the plan of
# one rank is altered. Each job must end within its deadline and 2 s of the fault, with a failure and a line that
# names rank, step and operation; a slow rank's job must end well, with the same losses to the bit; no process may be left.
# Then the command's own end: SIGKILL, SIGTERM and SIGINT to it leave no rank behind.
set -u
program=./tests/long/faulty
deadline=${DEADLINE:-5}
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

checks=0 failures=0 slowest=0
failure() { failures=$((failures + 1)); echo "FAILED: $*"; sed 's/^/    /' "$work/err" | tail -n 12; }
# Seconds beyond its deadline that a job may take: 2, but in the fast suite, which may share its machine with anything.
margin=2
[ "${1:-}" = long ] || margin=20
above() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a > b) }'; }
now() { cut -d' ' -f1 /proc/uptime; }

train() { # train RANKS STEPS
    timeout -s KILL 120 $program train --text "$work/text.txt" --model "$work/config.json" --ranks "$1" --batch 4 --sequence 16 --steps "$2" \
        --timeout "$deadline" --evaluate-batches 0 --json >"$work/out" 2>"$work/err"
}

# Processes of this run that are still there (not those that only wait to be reaped).
left() {
    sleep 0.1
    for folder in /proc/[0-9]*; do
        { tr '\0' ' ' <"$folder/cmdline"; } 2>/dev/null | grep -q "train --text $work/text.txt" || continue
        grep -qs '^State:.[ZX]' "$folder/status" || basename "$folder"
    done
}

no_orphans() { # no_orphans NAME
    orphans=$(left)
    [ -z "$orphans" ] && return
    failure "$1: processes are left: $orphans"
    kill -9 $orphans
}

run_case() { # run_case RANKS KIND VICTIM SEGMENT WHAT NTH
    name="$2 of rank $3 of $1 at $5 $6 of $4"
    checks=$((checks + 1))
    rm -f "$work/stamp"
    WEFT_TEST_FAULT="$2 $3 $4 $5 $6" train "$1" 3
    ended=$?
    end=$(now)
    no_orphans "$name"
    [ -s "$work/stamp" ] || { failure "$name: the fault did not happen (exit status $ended)"; return; }
    took=$(awk -v end="$end" -v begin="$(cat "$work/stamp")" 'BEGIN { printf "%.2f", end - begin }')
    if [ "$2" = slow ]; then
        [ $ended = 0 ] || { failure "$name: exit status $ended"; return; }
        cut -d, -f1,2 "$work/out" | cmp -s - "$work/losses$1" || failure "$name: other losses than without a fault"
        return
    fi
    [ $ended != 0 ] || { failure "$name: ended as if nothing had happened"; return; }
    [ $ended != 137 ] || [ "$2" = kill ] || { failure "$name: hung, or was killed"; return; }
    [ "$2" = kill ] || [ $ended -le 3 ] || failure "$name: exit status $ended"
    above "$took" $((deadline + margin)) && failure "$name: ended only $took s after the fault"
    above "$took" "$slowest" && slowest=$took
    if [ "$2" = plan ]; then
        grep -Eq '^weft: .*plans of ranks [0-9]+ and [0-9]+ do not fit.* step [a-z0-9.+]+ of ' "$work/err" || failure "$name: no line names ranks and the step that differs"
    else
        # rank N ... step SITE of SEGMENT ..., operation
        grep -Eq '^weft: .*rank [0-9]+.*step [a-z0-9.+]+ of [a-z0-9.]+ .*, (send|receive|[a-z_]+)' "$work/err" || failure "$name: no line names rank, step and operation"
    fi
    [ -z "${VERBOSE:-}" ] || { echo "$name: $took s, $ended"; grep '^weft:' "$work/err"; }
}

reference() { # reference RANKS
    checks=$((checks + 1))
    WEFT_TEST_FAULT= ; unset WEFT_TEST_FAULT
    train "$1" 3 || failure "$1 ranks without a fault"
    cut -d, -f1,2 "$work/out" >"$work/losses$1"
    [ "$(wc -l <"$work/losses$1")" = 3 ] || failure "$1 ranks without a fault: no losses"
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
if [ "${1:-}" = long ]; then
    for ranks in ${2:-2 3 4}; do
        reference $ranks
        for victim in 0 $((ranks - 1)); do
            for segment in $kernels; do
                for kind in stop kill slow hang cl; do run_case $ranks $kind $victim $segment kernel 4; done
            done
            for segment in $exchanges; do
                for kind in stop kill short hang; do run_case $ranks $kind $victim $segment exchange 2; done
                run_case $ranks plan $victim $segment exchange 1
            done
        done
        for end in KILL TERM INT; do end_command $end $ranks; done
        for end in KILL TERM INT; do end_command $end $ranks --checkpoint "$work/steps$ranks$end"; done
    done
else
    reference 2
    reference 3
    run_case 2 kill 1 embed.forward kernel 2
    run_case 2 cl 1 layer.forward kernel 9
    run_case 2 cl 0 head.first kernel 3
    run_case 3 cl 2 layer.optimizer kernel 5
    run_case 2 slow 0 layer.backward.first kernel 8
    run_case 3 kill 0 finish exchange 2
    run_case 2 short 0 layer.forward exchange 3
    run_case 3 short 2 gradnorm exchange 2
    run_case 3 plan 1 layer.backward.first exchange 2
    run_case 2 stop 1 layer.backward.first exchange 5
    run_case 2 hang 0 optimizer kernel 3
    end_command KILL 2
    end_command TERM 2
    end_command KILL 2 --checkpoint "$work/steps"
fi
echo "the slowest job ended $slowest s after its fault; the deadline is $deadline s"
echo "$(((checks - failures > 0 ? checks - failures : 0) * 100 / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ $failures = 0 ]
