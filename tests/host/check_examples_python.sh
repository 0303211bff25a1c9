#!/bin/bash
# examples/python against an installed copy: its structures are C's, and its blocks are numpy's. The interpreter is
# WEFT_PYTHON, python3 or /usr/bin/python3: the first that has numpy, mpi4py and pyopencl, else the first that has numpy.
set -u
has() { # has PYTHON MODULE...: can it import them all?
    local python=$1 module
    shift
    command -v "$python" >/dev/null || return
    for module in "$@"; do "$python" -c "import $module" 2>/dev/null || return; done
}
find_python() {
    local modules python
    for modules in 'numpy mpi4py pyopencl' numpy; do
        for python in ${WEFT_PYTHON:+"$WEFT_PYTHON"} python3 /usr/bin/python3; do
            has "$python" $modules && echo "$python" && return
        done
    done
}
if [ -n "$(sed -n 's/^WEFT_LDFLAGS = //p' "${top_builddir:?}/Makefile")" ]; then
    echo "SKIP: a sanitized library cannot be loaded into Python: examples/python is not tried"
    exit 77
fi
python=$(find_python)
if [ -z "$python" ]; then
    echo "SKIP: no Python with numpy (WEFT_PYTHON names one): examples/python is not tried"
    exit 77
fi
. "${top_srcdir:?}/tests/host/examples_support.sh"
export WEFT_LIBRARY=$moved/libweft.so

# Every structure that the script declares, as the compiler has it from the installed header.
structures_agree() {
    "$python" python/check_block.py --structures >"$stage/python" || return
    $BASH "$top_srcdir/host/api/abi.sh" layout "$cc" "$moved_include" $(PKG_CONFIG_PATH=$system pkg-config --cflags ompi-c) >"$stage/c" || return
    grep -q '^struct weft_plan_options: ' "$stage/python" || return
    awk 'NR == FNR { if (/^struct/) mine[$2]; next } /^struct/ { on = $2 in mine } on && /^(struct| )/' "$stage/python" "$stage/c" >"$stage/of_c"
    diff "$stage/of_c" "$stage/python"
}
moved_include=$(pkg-config --variable=includedir weft)
check 'structures of check_block.py are those of weft.h' structures_agree
# The comparison itself: a field that is left out must not pass.
cp python/check_block.py "$stage/whole.py"
sed -i 's/("memory_bytes", c_int64), //' python/check_block.py
check 'a structure without a field is noticed' sh -c "! cmp -s '$stage/whole.py' python/check_block.py"
drifted() { ! structures_agree; }
check 'and refused' drifted
cp "$stage/whole.py" python/check_block.py

check 'check_block.py on one rank' timeout 240 "$python" python/check_block.py
has "$python" pyopencl || skip "pyopencl is not installed: check_block.py ran with host buffers only"
if ! has "$python" mpi4py; then
    skip "mpi4py is not installed: check_block.py ran on one rank only"
elif ! command -v "${MPIRUN:-mpirun}" >/dev/null; then
    skip "no mpirun: check_block.py ran on one rank only"
else
    check 'check_block.py on two ranks' mpi 2 "$python" python/check_block.py
fi
finish
