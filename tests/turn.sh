#!/bin/sh
# turn.sh TEST [ARGUMENT...]: a test under `make -jN check`. Programs run beside others: most of their time is a driver's
# compiler, which uses one core. Scripts run alone: they start ranks, which share the cores, or measure.
case ${1%.sh} in
"$1") how=-s ;;
*) how=-x ;;
esac
# -o: what a test leaves behind does not hold the lock.
if command -v flock >/dev/null 2>&1; then exec flock -o $how "${top_builddir:-.}/tests/turn.lock" "$@"; fi
exec "$@"
