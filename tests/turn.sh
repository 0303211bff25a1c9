#!/bin/sh
# turn.sh TEST [ARGUMENT...]: a test under `make -jN check`. Programs run beside others: most of their time is a driver's
# compiler, which uses one core, and so is that of check_layouts*.sh. Scripts run alone: they start ranks, which share the
# cores, or measure, or install. So does check_clblast: CLBlast builds its programs from source, as for check_gemm, and PoCL fails where two do so at once.
case $1 in
*/check_layouts*.sh) how=-s ;;
*.sh | */check_clblast) how=-x ;;
*) how=-s ;;
esac
# What a test leaves behind does not hold the lock.
if command -v flock >/dev/null 2>&1 && command exec 9>"${top_builddir:-.}/tests/turn.lock"; then
    flock $how 9
    "$@" 9>&-
    exit $?
fi
exec "$@"
