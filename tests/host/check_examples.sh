#!/bin/bash
# examples/, outside of the library's build, against an installed copy: each is built as its user would (pkg-config, a
# Makefile, CMake, ctypes) and run. The program in README.md is examples/two_ranks.c, to the letter.
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
    if "$@" >"$stage/said" 2>&1; then
        grep -h 'loss\|numpy\|not installed' "$stage/said" | sed 's/^/  /'
        return
    fi
    failures=$((failures + 1))
    echo "FAILED: $what"
    tail -n 20 "$stage/said"
}
skips=0
skipped() { skips=$((skips + 1)); echo "SKIP: $*"; }
of_makefile() { sed -n "s/^$1 = //p" "$build/Makefile"; }
mpi() { timeout 240 "${MPIRUN:-mpirun}" --allow-run-as-root --oversubscribe --bind-to none -np "$@"; }

check 'make install' ${MAKE:-make} -s -C "$build" install DESTDIR="$stage/root"
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

# README.md shows this very file.
sed -n '/^```c two_ranks.c$/,/^```$/p' "$top_srcdir/README.md" | sed '1d;$d' >"$stage/shown.c"
check 'README.md shows two_ranks.c' cmp "$stage/shown.c" two_ranks.c
check 'two_ranks.c has 40 lines' test "$(wc -l <two_ranks.c)" -le 40
check 'compile two_ranks.c' $cc $sanitizers -Wall -Werror two_ranks.c $(pkg-config --cflags --libs weft ompi-c) -o two_ranks
check 'make own_loss' make -s -C own_loss CC="$cc" CFLAGS='-O1 -Wall -Werror' LDFLAGS="$sanitizers"
if command -v "${MPIRUN:-mpirun}" >/dev/null; then
    check 'two_ranks' mpi 2 ./two_ranks
    # Both ranks print the same sums.
    check 'one loss' test "$(grep -o 'loss.*' "$stage/said" | sort -u | wc -l)" = 1
    check 'own_loss on 1 rank' ./own_loss/own_loss 8
    one=$(grep -o 'loss.*' "$stage/said")
    check 'own_loss on 2 ranks' mpi 2 ./own_loss/own_loss 8
    two=$(grep -o 'loss.*' "$stage/said")
    # The first loss to all six digits that are shown, the last within rounding that eight steps have grown.
    check 'losses agree' awk -v a="$one" -v b="$two" 'BEGIN { split(a, x, /[ \n]+/); split(b, y, /[ \n]+/);
        exit !(x[2] == y[2] && (x[4] - y[4]) ^ 2 < 1e-8) }'
else
    skipped 'no mpirun: two_ranks and own_loss are built, not run'
fi
if command -v cmake >/dev/null; then
    check 'cmake' cmake -S threads -B threads/build -DCMAKE_PREFIX_PATH="$stage/moved" -DCMAKE_C_FLAGS='-Wall -Werror' -DCMAKE_EXE_LINKER_FLAGS="$sanitizers"
    check 'cmake --build' cmake --build threads/build
    check 'threads' timeout 240 threads/build/threads 3 6
    sed -i 's/find_package(weft 0.1/find_package(weft 0.9/' threads/CMakeLists.txt
    check 'another version is refused' sh -c "! cmake -S threads -B threads/other -DCMAKE_PREFIX_PATH='$stage/moved'"
else
    skipped 'no cmake: examples/threads is not tried'
fi
# The first interpreter that has what the example needs, and the first that has what it can use beside.
modules_of() { "$1" -c 'import importlib.util as u; print(*(m for m in ("numpy", "pyopencl", "mpi4py") if u.find_spec(m)))' 2>/dev/null; }
python=
for candidate in ${WEFT_PYTHON:-python3 /usr/bin/python3}; do
    case " $(modules_of "$candidate") " in
    *" numpy "*) [ -n "$python" ] && [ "$(modules_of "$candidate" | wc -w)" -le "$(modules_of "$python" | wc -w)" ] || python=$candidate ;;
    esac
done
if [ -n "$sanitizers" ]; then
    echo "  a sanitized library cannot be loaded into Python: examples/python is not tried"
elif [ -n "$python" ]; then
    export WEFT_LIBRARY=$moved/libweft.so
    lie_alike() { # lie_alike SCRIPT: the example's ctypes structures lie in memory as weft.h's
        "$python" "$1" --structures >structures.c && $cc structures.c $(pkg-config --cflags weft) -o structures &&
            ./structures >structures.txt && "$python" "$1" --compare <structures.txt
    }
    check 'structures of check_block.py' lie_alike python/check_block.py
    sed 's/("memory_bytes", c_int64), //' python/check_block.py >drifted.py
    check 'a structure without one of its fields is noticed' sh -c "! $python drifted.py --compare <structures.txt"
    check 'check_block.py on one rank' timeout 240 "$python" python/check_block.py
    case " $(modules_of "$python") " in
    *" mpi4py "*) check 'check_block.py on two ranks' mpi 2 "$python" python/check_block.py ;;
    *) skipped 'mpi4py is not installed: check_block.py ran on one rank only' ;;
    esac
    case " $(modules_of "$python") " in *" pyopencl "*) ;; *) skipped 'pyopencl is not installed: check_block.py had buffers of the host' ;; esac
else
    skipped 'numpy is not installed: examples/python is not tried'
fi
[ $skips = 0 ] || echo "  $skips parts skipped"
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
