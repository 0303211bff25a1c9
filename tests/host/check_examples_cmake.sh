#!/bin/bash
# examples/threads, built by CMake's find_package(weft) against an installed copy.
set -u
if ! command -v cmake >/dev/null; then
    echo "SKIP: cmake is not installed: examples/threads is not tried"
    exit 77
fi
. "${top_srcdir:?}/tests/host/examples_support.sh"

check 'cmake' cmake -S threads -B threads/build -DCMAKE_PREFIX_PATH="$stage/moved" -DCMAKE_C_FLAGS='-Wall -Werror' -DCMAKE_EXE_LINKER_FLAGS="$sanitizers"
check 'cmake --build' cmake --build threads/build
check 'threads' timeout 240 threads/build/threads 3 6
sed -i 's/find_package(weft 0.1/find_package(weft 0.9/' threads/CMakeLists.txt
check 'another version is refused' sh -c "! cmake -S threads -B threads/other -DCMAKE_PREFIX_PATH='$stage/moved'"
finish
