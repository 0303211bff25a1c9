#!/bin/sh
# The library prints nothing but through host/base/log.c, ends no process and changes no environment; and the rule
# that finds who does finds planted ones. (kernels/attention_bound.c, a checker's arithmetic without a status, aborts
# where the host has no memory.)
set -u
find_others() {
    (cd "$1" && grep -rnE '(^|[^_[:alnum:]])(stdout|stderr|(perror|puts|putchar|printf|vprintf|exit|_exit|_Exit|abort|setenv|putenv|unsetenv|signal|sigaction) *\()' \
        --include='*.c' --include='*.h' kernels layouts host autotune 2>/dev/null |
        grep -vE '^(host/cli/|host/base/log\.c:|host/base/log\.h:|host/base/env\.c:[0-9]+: +\[WF_ENV_LOG\]|kernels/attention_bound\.c:[0-9]+:.* abort\(\))' |
        grep -vE '^[^:]*:[0-9]+: *(/?\*|//)|^host/api/weft\.h:[0-9]+:.*(/\*|\*/)')
}
checks=1 failures=0
others=$(find_others "${top_srcdir:?}")
if [ -n "$others" ]; then
    echo "what a library must not do:"
    echo "$others"
    failures=1
fi
planted=$(mktemp -d) || exit 99
mkdir -p "$planted/host/run"
for line in 'printf("x");' 'fputs("x", stderr);' 'exit(3);' 'setenv("X", "1", 1);' 'if (x) abort();'; do
    checks=$((checks + 1))
    echo "    $line" >"$planted/host/run/x.c"
    if [ -z "$(find_others "$planted")" ]; then
        echo "not found: $line"
        failures=$((failures + 1))
    fi
done
rm -rf "$planted"
echo "$((100 - 100 * failures / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
