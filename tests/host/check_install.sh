#!/bin/bash
# An installed copy works by itself: a program is compiled against it with pkg-config, outside of the source
# tree, and run; only weft_* is exported; the command runs; uninstall leaves nothing.
# Everything is staged under a temporary DESTDIR, so that nothing outside of it is touched.
set -u
build=${top_builddir:?}
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR
stage=$(mktemp -d) || exit 99
trap 'rm -rf "$stage"' EXIT
checks=0 failures=0 skipped=0
check() { # check WHAT COMMAND...: the command succeeds
    local what=$1
    shift
    checks=$((checks + 1))
    "$@" >"$stage/said" 2>&1 && return
    failures=$((failures + 1))
    echo "FAILED: $what"
    tail -n 20 "$stage/said"
}
of_makefile() { sed -n "s/^$1 = //p" "$build/Makefile"; }

# One at a time: libtool links anew in the build's folder.
check 'make install' $(command -v flock >/dev/null && echo flock "$build/config.status") ${MAKE:-make} -s -C "$build" install DESTDIR="$stage/root"
pc=$(find "$stage/root" -name weft.pc)
export PKG_CONFIG_PATH=${pc%/*}:${PKG_CONFIG_PATH:-}
check 'pkg-config finds weft' pkg-config --exists --print-errors weft
libdir=$stage/root$(pkg-config --variable=libdir weft)
bindir=$stage/root$(pkg-config --variable=prefix weft)/bin
export LD_LIBRARY_PATH=$libdir:${LD_LIBRARY_PATH:-} PKG_CONFIG_SYSROOT_DIR=$stage/root

# What a newcomer writes first: no MPI, no device.
cat >"$stage/program.c" <<'END_OF_PROGRAM'
#include <stdio.h>
#include <weft.h>

int main(void)
{
    weft_model *model = NULL;
    weft_layout *layout = NULL;
    weft_plan *plan = NULL;
    if (weft_model_create("tiny", &model) || weft_layout_parse("tp2.sp", &layout)) goto fail;
    weft_plan_options options;
    weft_plan_options_init(&options);
    options.model = model;
    options.layout = layout;
    options.batch = 2;
    options.sequence = 32;
    options.rank = 1;
    if (weft_plan_create(NULL, &options, &plan) || weft_plan_check(plan)) goto fail;
    weft_plan_info info;
    weft_plan_describe(plan, &info);
    printf("weft %s: %lld messages\n", weft_version(), (long long)info.messages);
    weft_plan_destroy(plan);
    weft_layout_destroy(layout);
    weft_model_destroy(model);
    return info.messages > 0 ? 0 : 1;
fail:
    fprintf(stderr, "%s\n", weft_last_error());
    return 1;
}
END_OF_PROGRAM
printf '#include <weft_mpi.h>\nint main(void) { return weft_mpi_launched(); }\n' >"$stage/program_mpi.c"

# The compiler and the sanitizers of this build: a sanitized library needs a program that is.
cc=$(of_makefile CC)
sanitizers=$(of_makefile WEFT_LDFLAGS)
check 'compile with pkg-config' $cc $sanitizers -Wall -Werror "$stage/program.c" -o "$stage/program" $(pkg-config --cflags --libs weft)
check 'run the program' sh -c "'$stage/program' | grep '^weft [0-9.]*: [1-9][0-9]* messages$'"
check 'compile with MPI' $cc $sanitizers -Wall -Werror "$stage/program_mpi.c" -o "$stage/program_mpi" \
    $(pkg-config --cflags --libs weft) $(PKG_CONFIG_SYSROOT_DIR= pkg-config --cflags --libs ompi-c)
check 'run it' "$stage/program_mpi"
# The library exports host/api/weft.sym, no more (sanitizers bring their own), no less, and that is what the installed headers
# declare: a call that is removed or renamed is a line of a committed file that no longer holds. So are structs and signatures.
includedir=$stage/root$(PKG_CONFIG_SYSROOT_DIR= pkg-config --variable=includedir weft)
symbols=$top_srcdir/host/api/weft.sym layout=$top_srcdir/host/api/weft.abi
abi() { $BASH "$top_srcdir/host/api/abi.sh" "$1" "$cc" "$includedir" $(PKG_CONFIG_SYSROOT_DIR= pkg-config --cflags ompi-c); }
check 'weft.sym is a list' test "$(wc -l <"$symbols")" -gt 50
abi symbols >"$stage/declared"
check 'the headers declare what weft.sym lists (else: make update-abi)' diff "$symbols" "$stage/declared"
nm -D --defined-only "$libdir/libweft.so" | awk '$2 ~ /^[TBDRVWi]$/ { print $3 }' |
    grep -vE '^(_init|_fini|_edata|_end|__bss_start|_*asan|_*ubsan|_*tsan|__sanitizer|__odr_asan|___asan|__start_asan|__stop_asan)' | LC_ALL=C sort -u >"$stage/exported"
check 'the library exports what weft.sym lists' diff "$symbols" "$stage/exported"
if [ "$(getconf LONG_BIT)" = 64 ]; then
    abi layout >"$stage/layout"
    check 'structs and signatures are those of weft.abi (else: make update-abi, and another ABI)' diff "$layout" "$stage/layout"
else
    echo "SKIP: weft.abi is of 64-bit machines"
    skipped=1
fi
check 'the ABI has a number' sh -c "ls '$libdir' | grep -qE '^libweft\.so\.[0-9]+$' && readelf -d '$libdir/libweft.so' | grep -qE 'SONAME.*libweft\.so\.[0-9]+\]'"
check 'the command runs' "$bindir/weft" plan --model tiny --layout tp2.sp --check
cxx=$(of_makefile CXX)
for header in weft.h weft_mpi.h; do
    flags=$([ $header = weft.h ] || PKG_CONFIG_SYSROOT_DIR= pkg-config --cflags ompi-c)
    check "$header alone, in C" sh -c "printf '#include <$header>\n' | $cc -std=c99 -x c -fsyntax-only -Wall -Wextra -pedantic -Werror -I'$includedir' $(echo $flags | sed 's/-I/-isystem/g') -"
    check "$header alone, in C++" sh -c "printf '#include <$header>\n' | ${cxx:-c++} -std=c++11 -x c++ -fsyntax-only -Wall -Wextra -Werror -I'$includedir' $(echo $flags | sed 's/-I/-isystem/g') -"
done

# weft(1): every command and option that the help knows, and no complaint of the formatter.
man=$(find "$stage/root" -name weft.1)
check 'the man page is installed' test -s "$man"
tr -d '\\' <"$man" >"$stage/man"
for command in $("$bindir/weft" --help | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p'); do
    "$bindir/weft" "$command" --help >"$stage/help"
    check "man page: $command" sh -c "grep -q '^.SS weft $command$' '$stage/man' && while IFS= read -r line; do grep -qF -e \"\$line\" '$stage/man' || { echo \"\$line\"; exit 1; }; done <'$stage/help'"
done
! command -v groff >/dev/null || check 'the man page formats' sh -c "test -z \"\$(groff -man -Tutf8 -ww '$man' 2>&1 >/dev/null)\""

check 'make uninstall' ${MAKE:-make} -s -C "$build" uninstall DESTDIR="$stage/root"
check 'uninstall leaves nothing' test -z "$(find "$stage/root" ! -type d)"
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0, Skipped: $skipped"
[ "$failures" = 0 ]
