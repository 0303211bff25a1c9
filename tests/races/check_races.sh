#!/bin/sh
# check_races.sh: the runs of run_cases.c inside oclgrind, which reports data races, accesses outside of
# buffers and barriers that not all work-items reach. oclgrind ends with 0 whatever it finds, so its
# reports are read: every line between a run's name and the next that is not ours is a finding.
# Uninitialised values are not asked for: what the host filled in counts as such there.
set -u
program=./tests/races/run_cases
seeded=${top_srcdir:-.}/tests/races/seeded.cl
work=tests/races/work
simulator=${OCLGRIND:-oclgrind}

if ! command -v "$simulator" >/dev/null 2>&1; then
    echo "SKIP: no oclgrind; races are not looked for (Debian's package: oclgrind)"
    exit 77
fi
rm -rf "$work" && mkdir -p "$work" || exit 1
WEFT_CACHE=off
export WEFT_CACHE
unset WEFT_DEVICE WEFT_KERNEL_DIR OCL_ICD_VENDORS

checks=0 failures=0 errors=0
failure() { failures=$((failures + 1)); echo "FAILED: $*"; }

simulate() { # simulate LOG WORD...
    log=$1
    shift
    "$simulator" --data-races --num-threads 1 "$program" "$@" >"$log.out" 2>"$log"
    echo "EXIT $?" >>"$log"
}

# The checker itself: each seeded fault must be reported, and nothing where there is none.
seeds() {
    while read -r defect pattern; do
        checks=$((checks + 1))
        simulate "$work/seeded$defect.log" seeded "$seeded" "$defect"
        if [ "$defect" = 0 ]; then
            [ "$(cat "$work/seeded0.log")" = "EXIT 0" ] || failure "a kernel without a fault: $(head -n 20 "$work/seeded0.log")"
        elif ! grep -q "$pattern" "$work/seeded$defect.log"; then
            failure "the seeded fault $defect ($pattern) is not found: $(head -n 20 "$work/seeded$defect.log")"
        fi
    done <<END
0 none
1 data race at local memory
2 data race at global memory
3 Invalid read
4 Invalid write
END
}

coverage() {
    checks=$((checks + 1))
    "$program" coverage 2>&1 || failure "the runs leave something out"
}

# Name of each run, then "ok", or its findings.
judge() {
    awk '
    function close_run() {
        if (name == "") return
        if (findings == "" && done) print "ok      " name
        else print (done ? "FAILED  " : "BROKE   ") name findings
    }
    /^RUN / { close_run(); name = substr($0, 5); findings = ""; done = 0; lines = 0; next }
    /^DONE$/ { done = 1; next }
    /^EXIT / { if ($2 != 0) ended = $2; next }
    NF && lines++ < 30 { findings = findings "\n        " $0; if (name == "") name = "before the first run" }
    END { close_run(); if (ended != "") print "BROKE   a process ended with " ended }' "$1"
}

kernels() {
    shards=$(nproc 2>/dev/null || echo 2)
    [ "$shards" -le 8 ] || shards=8
    shard=0
    while [ "$shard" -lt "$shards" ]; do
        simulate "$work/shard$shard.log" "$shard" "$shards" &
        shard=$((shard + 1))
    done
    wait
    shard=0
    while [ "$shard" -lt "$shards" ]; do
        judge "$work/shard$shard.log"
        shard=$((shard + 1))
    done >"$work/verdicts"
    cat "$work/verdicts"
    runs=$(grep -c '^\(ok\|FAILED\|BROKE\)' "$work/verdicts")
    checks=$((checks + runs))
    failures=$((failures + $(grep -c '^FAILED' "$work/verdicts")))
    errors=$((errors + $(grep -c '^BROKE' "$work/verdicts")))
    [ "$runs" -gt 0 ] || { checks=$((checks + 1)); errors=$((errors + 1)); echo "BROKE: nothing was run"; }
}

seeds
coverage
kernels
echo "$(((checks - failures - errors) * 100 / checks))%: Checks: $checks, Failures: $failures, Errors: $errors"
[ $((failures + errors)) = 0 ]
