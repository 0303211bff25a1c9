#!/bin/bash
# An installed copy works by itself: a program is compiled against it with pkg-config, outside of the source
# tree, and run; only weft_* is exported; the command runs; uninstall leaves nothing.
# Everything is staged under a temporary DESTDIR, so that nothing outside of it is touched.
set -u
build=${top_builddir:?}
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR
stage=$(mktemp -d) || exit 99
trap 'rm -rf "$stage"' EXIT
checks=0 failures=0
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

check 'make install' ${MAKE:-make} -s -C "$build" install DESTDIR="$stage/root"
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
check 'no other name is exported' sh -c "nm -D --defined-only '$libdir/libweft.so' | grep -q ' T weft_plan_run\$' &&
    ! nm -D --defined-only '$libdir/libweft.so' | grep -E ' [TBDRVW] ' | grep -vE ' (weft_|_init\$|_fini\$|_edata\$|_end\$|__bss_start\$|__asan|__ubsan|__sanitizer|__odr_asan|___asan|__start_asan|__stop_asan)'"
check 'the command runs' "$bindir/weft" plan --model tiny --layout tp2.sp --check
check 'the headers need no other' sh -c "printf '#include <weft.h>\n' | $cc -x c -fsyntax-only -Wall -Werror -I'$stage/root$(PKG_CONFIG_SYSROOT_DIR= pkg-config --variable=includedir weft)' -"

check 'make uninstall' ${MAKE:-make} -s -C "$build" uninstall DESTDIR="$stage/root"
check 'uninstall leaves nothing' test -z "$(find "$stage/root" ! -type d)"
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
