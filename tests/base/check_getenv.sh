#!/bin/sh
# Only host/base/env.c reads the environment; and the rule that finds others finds a planted one.
set -u
find_others() {
    (cd "$1" && grep -rnE '(^|[^_[:alnum:]])(secure_)?getenv\(' --include='*.c' --include='*.h' \
        kernels layouts host autotune 2>/dev/null | grep -v '^host/base/env\.c:')
}
failures=0
others=$(find_others "${top_srcdir:?}")
if [ -n "$others" ]; then
    echo "the environment is read outside host/base/env.c:"
    echo "$others"
    failures=$((failures + 1))
fi
planted=$(mktemp -d) || exit 99
mkdir -p "$planted/host/run" && echo 'const char *x = getenv("X");' > "$planted/host/run/x.c"
if [ -z "$(find_others "$planted")" ]; then
    echo "a planted getenv is not found"
    failures=$((failures + 1))
fi
rm -rf "$planted"
echo "$((100 - 50 * failures))%: Checks: 2, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
