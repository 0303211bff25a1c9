#!/bin/sh
# A save is killed, or its disk fails, at its system calls: a whole checkpoint is always left.
# check_checkpoint_faults.sh [long]: at every one of them.
if ! command -v strace >/dev/null 2>&1; then
    echo "SKIP: no strace"
    exit 77
fi
exec timeout 7200 ./tests/host/checkpoint_faults "$@"
