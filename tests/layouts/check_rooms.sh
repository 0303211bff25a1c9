#!/bin/sh
# Who may include whom: a file includes only its own room and those before it; cl.h belongs to
# host/device, mpi.h to host/fabric (and to what takes a communicator), the command uses the public
# headers. Every header compiles alone, in C and in C++. The rules find what is planted.
set -u
: "${top_srcdir:?}" "${CC:=cc}" "${CXX:=c++}"

# Prints every include of the tree $1 that breaks a rule.
find_breaches() {
    (cd "$1" && grep -rnE '^ *# *include ' --include='*.c' --include='*.h' kernels layouts host autotune 2>/dev/null) |
        awk -F: '
        BEGIN {
            n = split("host/base kernels layouts host/device host/fabric host/run host/model autotune host/api host/cli", r, " ")
            for (i = 1; i <= n; i++) place[r[i]] = i
        }
        function room(path, part) {
            split(path, part, "/")
            return part[1] == "host" ? part[1] "/" part[2] : part[1]
        }
        {
            from = room($1)
            what = $3
            sub(/^[^"<]*["<]/, "", what)
            sub(/[">].*/, "", what)
            to = room(what)
            bad = 0
            if ((to in place) && place[to] > place[from]) bad = 1
            if (what ~ /^CL\// && from != "host/device") bad = 1
            if (what == "clblast_c.h" && from != "host/device") bad = 1
            if (what == "mpi.h" && from != "host/fabric" && from != "host/api" && from != "host/cli") bad = 1
            if (from == "host/cli" && (to in place) && to != "host/cli" && what !~ /^host\/api\/weft(_mpi)?\.h$/) bad = 1
            if (bad) print $1 ":" $2 ": " from " includes " what
        }'
}

checks=0
failures=0
fail() {
    failures=$((failures + 1))
    echo "$@"
}

checks=$((checks + 1))
breaches=$(find_breaches "$top_srcdir")
[ -z "$breaches" ] || fail "$breaches"

planted=$(mktemp -d) || exit 99
trap 'rm -rf "$planted"' EXIT
plant() {
    checks=$((checks + 1))
    mkdir -p "$planted/$(dirname "$1")"
    echo "#include $2" > "$planted/$1"
    [ -n "$(find_breaches "$planted")" ] || fail "a planted include of $2 in $1 is not found"
    rm -f "$planted/$1"
}
plant kernels/x.c '"layouts/schedule.h"'
plant layouts/x.h '"host/device/device.h"'
plant host/run/x.c '"autotune/defaults.h"'
plant host/run/x.c '<CL/cl.h>'
plant layouts/x.c '<mpi.h>'
plant host/cli/x.c '"host/run/run.h"'

# Nothing comes before the header, so it must bring what it needs.
alone() {
    checks=$((checks + 1))
    echo "#include \"$2\"" > "$planted/alone.$3"
    $1 -fsyntax-only -Wall -Werror -I"$top_srcdir" -I"$top_srcdir/host/api" \
        -I"${top_builddir:-.}" ${OPENCL_CFLAGS:-} ${MPI_CFLAGS:-} "$planted/alone.$3" 2>"$planted/log" ||
        fail "$2 does not compile alone as $3: $(head -3 "$planted/log")"
}
have_cxx=yes
echo 'int x;' > "$planted/alone.cc"
$CXX -fsyntax-only "$planted/alone.cc" 2>/dev/null || have_cxx=no
[ "$have_cxx" = yes ] || echo "no C++ compiler: headers are checked in C only"
MPI_CFLAGS="${MPI_CFLAGS:-$(pkg-config --cflags ompi-c 2>/dev/null)}"
for header in $(cd "$top_srcdir" && find kernels layouts host autotune -name '*.h' | sort); do
    alone "$CC -std=gnu11" "$header" c
    # C11's atomics are no part of C++: what shares them between processes stays in C.
    grep -q '<stdatomic\.h>' "$top_srcdir/$header" && continue
    [ "$have_cxx" = yes ] && alone "$CXX -std=c++17" "$header" cc
done
checks=$((checks + 1))
echo 'static size_t n;' > "$planted/needy.h"
before=$failures
( top_srcdir=$planted; alone "$CC -std=gnu11" needy.h c; [ "$failures" -gt "$before" ] ) >/dev/null ||
    fail "a planted header that lacks its includes is not found"

echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
