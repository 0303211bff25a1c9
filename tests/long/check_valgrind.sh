#!/bin/sh
# check_valgrind.sh: suites under valgrind's memcheck: no error and no lost memory but those of libraries
# (valgrind.supp: by the library that allocated or read). First a seeded program proves that faults are seen.
# Programs come from VALGRIND_TESTS (one rank) and VALGRIND_RANKS (two ranks).
set -u
source=${top_srcdir:-.}
work=tests/long/logs/valgrind
if ! command -v valgrind >/dev/null 2>&1; then
    echo "SKIP: no valgrind; memory errors are not looked for (Debian's package: valgrind)"
    exit 77
fi
rm -rf "$work" && mkdir -p "$work" || exit 1
CK_FORK=no # one process, one log
WEFT_TIMEOUT_S=300
export CK_FORK WEFT_TIMEOUT_S

checks=0 failures=0
failure() { failures=$((failures + 1)); echo "FAILED: $*"; }
memcheck="valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
 --num-callers=30 --suppressions=$source/tests/long/valgrind.supp"

inspect() { # inspect NAME WORD...: runs, then counts valgrind's reports
    name=$1
    shift
    checks=$((checks + 1))
    "$@" >"$work/$name.out" 2>&1
    ended=$?
    reports=$(cat "$work/$name".[0-9]* 2>/dev/null | grep -c '^==[0-9]*== *at 0x')
    if [ "$ended" = 0 ] && [ "$reports" = 0 ]; then
        echo "ok      $name"
    else
        failure "$name ended with $ended, $reports reports: $work/$name.*"
        cat "$work/$name".[0-9]* 2>/dev/null | head -n 60
    fi
}

# The check itself: a program with a known fault must be reported.
for fault in none leak overrun uninitialised; do
    checks=$((checks + 1))
    $memcheck --log-file="$work/seeded-$fault.%p" ./tests/long/seeded $fault >"$work/seeded-$fault.out" 2>&1
    ended=$?
    if [ $fault = none ]; then want=0; else want=99; fi
    [ $ended = $want ] || failure "the seeded fault '$fault' ended with $ended instead of $want"
done

for program in ${VALGRIND_TESTS:-}; do
    name=$(basename "$program")
    inspect "$name" $memcheck --log-file="$work/$name.%p" ./"$program"
done
if command -v mpirun >/dev/null 2>&1; then
    for program in ${VALGRIND_RANKS:-}; do
        name=$(basename "$program")-2
        inspect "$name" timeout 1200 mpirun --allow-run-as-root --oversubscribe --bind-to none -np 2 \
            $memcheck --log-file="$work/$name.%p" ./"$program" none open 1
    done
fi
echo "$(((checks - failures) * 100 / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ $failures = 0 ]
