#!/bin/bash
# check_planted.sh: PoCL executes the shared objects that it finds in its cache. One that could be somebody else's is
# not executed by weft: a folder that others can write to is refused in one sentence, by the command and by the
# library; and the planted object would have been executed, which a folder of the user's own shows.
set -u
. "${top_srcdir:-.}/tests/cli/command_support.sh"
: "${CC:=cc}"
run "$weft" info
grep -q 'Portable Computing Language' "$scratch/out" || { echo "SKIP: no PoCL"; exit 77; }
case=gemm:f32:m3n3k3:nt
cache=$scratch/cache
mark=$scratch/executed
export POCL_CACHE_DIR=$cache
refusal="executes what it finds in $cache, where somebody else may have put a program: $cache may be written to by others; set POCL_CACHE_DIR"

# A sound folder works; it is the user's, and weft info says so.
mkdir -m 700 "$cache"
fine 'passed, 0 failed' "$weft" verify $case
fine "program cache of Portable Computing Language: $cache, used" "$weft" info
fine "\"folder\": \"$cache\"" "$weft" info --json

# Each object in it becomes one that leaves a mark when it is loaded, and then ends the process.
cat >"$scratch/planted.c" <<END
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void run(void) { fclose(fopen("$mark", "w")); _Exit(42); }
END
if "$CC" -shared -fPIC -o "$scratch/planted.so" "$scratch/planted.c" 2>"$scratch/err"; then
    objects=$(find "$cache" -name '*.so')
    holds "PoCL keeps no objects in $cache" test -n "$objects"
    for object in $objects; do cat "$scratch/planted.so" >"$object"; done
    run "$weft" verify $case
    holds "a planted object in a folder of the user's own is not executed (status $status): this test shows nothing" test -e "$mark"
    rm -f "$mark"
fi

# The same in a folder that others can write to: one sentence, status 3, nothing executed.
for mode in 777 1777 703; do
    chmod $mode "$cache"
    mistake 3 "$refusal" "$weft" verify $case
    mistake 3 "$refusal" "$weft" info --ranks 1 --device 0 --json
    holds "a planted object is executed (mode $mode)" test ! -e "$mark"
done
run "$weft" info
holds "weft info does not say REFUSED" grep -q "$cache, REFUSED" "$scratch/out"
chmod 700 "$cache"
# Over a folder that others can write to, and for ranks: all end, and one of them says why.
mkdir -m 777 "$scratch/open"; chmod 777 "$scratch/open"; mv "$cache" "$scratch/open/"
cache=$scratch/open/cache POCL_CACHE_DIR=$scratch/open/cache
mistake 3 "$scratch/open may be written to by others" "$weft" verify $case
run "$weft" info --ranks 2
holds "two ranks: status $status" test $status = 3
holds "two ranks: not one sentence" test "$(grep -c 'may be written to by others' "$scratch/err")" = 1
holds "a planted object is executed" test ! -e "$mark"
finish
