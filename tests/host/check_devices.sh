#!/bin/bash
# Several devices: ranks take one each. PoCL offers two of one CPU (POCL_DEVICES): its threads, and `basic`, which is one
# core. Ranks as threads of one process (check_bootstraps) and as processes are right on them, as on one device.
set -u
export POCL_DEVICES="pthread basic"
[ -e /etc/OpenCL/vendors/pocl.icd ] && export OCL_ICD_VENDORS=/etc/OpenCL/vendors/pocl.icd
found=$(./weft info --json 2>/dev/null | grep -o '"name": *"\(pthread\|basic\)[^"]*"' | sort -u | wc -l)
if [ "$found" -lt 2 ]; then
    echo "SKIP: no PoCL here that offers two devices"
    exit 77
fi
work=$(mktemp -d) || exit 99
trap 'rm -rf "$work"' EXIT
checks=0 failures=0
check() { # check WHAT COMMAND...: the command succeeds
    local what=$1
    shift
    checks=$((checks + 1))
    "$@" >"$work/said" 2>&1 && return
    failures=$((failures + 1))
    echo "FAILED: $what"
    tail -n 20 "$work/said"
}
check 'ranks as threads' timeout 300 ./tests/host/check_bootstraps
if command -v "${MPIRUN:-mpirun}" >/dev/null; then
    check 'info' timeout 120 ./weft info --ranks 3
    cp "$work/said" "$work/info"
    check 'three ranks on two devices: the first is shared' test \
        "$(grep -c '^rank [02]: basic' "$work/info") $(grep -c '^rank 1: pthread' "$work/info")" = '2 1'
    losses() { # losses FILE [LAYOUT]: of a few steps
        timeout 240 ./weft train --text "$top_srcdir/README.md" --model tiny --layout "${2:-tp2.sp}" --ranks 2 --batch 2 --sequence 33 --steps 4 \
            --evaluate-batches 0 --json 2>"$work/err" | grep -o '"loss": *[0-9.]*' | grep -o '[0-9.]*$' >"$1"
    }
    same() { # same FILE FILE: losses
        paste "$1" "$2" | awk '{ if (($1 - $2) ^ 2 > 1e-10 * $1 ^ 2) bad = 1 } END { exit bad || NR != 4 }'
    }
    check 'train on two devices' losses "$work/two"
    check 'train on two devices, shares in proportion' losses "$work/shared" cp2ring.cp-shares
    check 'the shares are told' grep -E '^layout cp2ring.cp-shares, as measured: cp2ring(\.cp-shares[0-9]+-[0-9]+)?$' "$work/err"
    unset POCL_DEVICES
    check 'train on one device' losses "$work/one"
    check 'the same losses' same "$work/one" "$work/two"
    check 'the same losses by shares' same "$work/one" "$work/shared"
else
    echo "SKIP: no mpirun: ranks were threads only"
fi
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
