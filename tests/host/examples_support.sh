# examples_support.sh: read by check_examples*.sh: an installed copy, moved elsewhere, and a copy of examples/ to be built
# against it as its user would. Sets stage, moved, libdir, cc, sanitizers; the current folder is the copy of examples/.
# shellcheck shell=bash
build=${top_builddir:?}
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR
stage=$(mktemp -d) || exit 99
trap 'rm -rf "$stage"' EXIT
checks=0 failures=0 skipped=0
check() { # check WHAT COMMAND...: the command succeeds
    local what=$1
    shift
    checks=$((checks + 1))
    if "$@" >"$stage/said" 2>&1; then
        grep -h 'loss\|numpy\|not installed' "$stage/said" | sed 's/^/  /'
        return
    fi
    failures=$((failures + 1))
    echo "FAILED: $what"
    tail -n 20 "$stage/said"
}
skip() { # skip WHAT: said aloud, and counted
    skipped=$((skipped + 1))
    echo "SKIP: $*"
}
finish() { # what count.sh adds up
    [ "$checks" != 0 ] || exit 77
    echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0, Skipped: $skipped"
    exit $((failures != 0))
}
of_makefile() { sed -n "s/^$1 = //p" "$build/Makefile"; }
mpi() { timeout 240 "${MPIRUN:-mpirun}" --allow-run-as-root --oversubscribe --bind-to none -np "$@"; }

# One at a time: libtool links anew in the build's folder.
check 'make install' $(command -v flock >/dev/null && echo flock "$build/config.status") ${MAKE:-make} -s -C "$build" install DESTDIR="$stage/root"
pc=$(find "$stage/root" -name weft.pc)
system=${PKG_CONFIG_PATH:-}
libdir=$stage/root$(PKG_CONFIG_PATH=${pc%/*} pkg-config --variable=libdir weft)
# A copy of the installed tree elsewhere: nothing of it may know where it was. Its .pc file is told by its new prefix.
cp -a "$stage/root$(PKG_CONFIG_PATH=${pc%/*} pkg-config --variable=prefix weft)" "$stage/moved"
moved=$stage/moved/${libdir##*/}
[ -e "$moved/libweft.so" ] || moved=$(dirname "$(find "$stage/moved" -name libweft.so)")
prefix=$(PKG_CONFIG_PATH=$moved/pkgconfig pkg-config --variable=prefix weft)
sed -i "s|^prefix=.*|prefix=$stage/moved|; s|^\(libdir\|includedir\)=$prefix|\1=\${prefix}|" "$moved/pkgconfig/weft.pc"
export PKG_CONFIG_PATH=$moved/pkgconfig:$system LD_LIBRARY_PATH=$moved:${LD_LIBRARY_PATH:-}

cc=$(of_makefile CC)
sanitizers=$(of_makefile WEFT_LDFLAGS)
if [ -n "$sanitizers" ]; then # as every sanitized program here
    $cc -c "$top_srcdir/tests/keep_loaded.c" -o "$stage/keep_loaded.o" || exit 99
    sanitizers="$sanitizers $stage/keep_loaded.o -rdynamic"
fi
cp -a "$top_srcdir/examples" "$stage/examples"
chmod -R u+w "$stage/examples"
cd "$stage/examples" || exit 99
