#!/bin/sh
# check_fuzz.sh TARGET...: builds each parser with clang's libFuzzer, AddressSanitizer and UBSan, and gives it
# FUZZ_S seconds (600) of inputs grown from a few sound ones. Everything lies in tests/fuzz/out of the build.
set -u
seconds=${FUZZ_S:-600}
out=tests/fuzz/out
cc=
for name in ${FUZZ_CC:-clang-14 clang clang-19 clang-18 clang-17 clang-16 clang-15}; do
    mkdir -p "$out"
    echo 'int LLVMFuzzerTestOneInput(const unsigned char *d, unsigned long n) { return d && n ? 0 : 0; }' >"$out/probe.c"
    if "$name" -fsanitize=fuzzer,address,undefined -o "$out/probe" "$out/probe.c" >"$out/probe.log" 2>&1; then
        cc=$name
        break
    fi
done
if [ -z "$cc" ]; then
    echo "SKIP: no clang with libFuzzer; on Debian: apt-get install clang-14 libclang-rt-14-dev"
    exit 77
fi
flags="-std=gnu11 -O1 -g -DHAVE_CONFIG_H -I. -I$top_srcdir -I$top_srcdir/host/api ${FUZZ_CFLAGS:-} -Wno-unknown-warning-option"
sanitizers="-fno-sanitize-recover=undefined -fno-omit-frame-pointer"
objects=$out/objects
mkdir -p "$objects"
compile() { # source, object: unless it is newer
    if [ ! -e "$2" ] || [ -n "$(find "$top_srcdir/host" "$top_srcdir/layouts" "$top_srcdir/kernels" "$top_srcdir/tests/fuzz" -name '*.[ch]' -newer "$2" | head -n 1)" ]; then
        $cc $flags -fsanitize=fuzzer-no-link,address,undefined $sanitizers -c -o "$2" "$1" || { echo "cannot compile $1"; exit 1; }
    fi
}
for source in "$top_srcdir"/host/base/*.c "$top_srcdir"/layouts/*.c "$top_srcdir"/kernels/*.c "$top_srcdir"/host/model/*.c \
    "$top_srcdir"/host/device/cache.c "$top_srcdir"/host/device/cache_place.c "$top_srcdir"/host/cli/corpus.c \
    "$top_srcdir"/host/cli/tokens.c "$top_srcdir"/host/cli/npy.c "$top_srcdir"/tests/fuzz/support.c kernels/sources.c; do
    compile "$source" "$objects/$(echo "${source#"$top_srcdir"/}" | tr / -).o"
done
rm -f "$out/parsers.a"
ar rcs "$out/parsers.a" "$objects"/*.o
sh "$top_srcdir/tests/fuzz/seeds.sh" "$out/seeds"
failed=0
checks=0
for target in "$@"; do
    compile "$top_srcdir/tests/fuzz/fuzz_$target.c" "$out/$target.o"
    $cc -fsanitize=fuzzer,address,undefined -o "$out/$target" "$out/$target.o" "$out/parsers.a" ${FUZZ_LIBS:--ljansson} -lm -lpthread ||
        { echo "cannot link $target"; failed=$((failed + 1)); continue; }
    mkdir -p "$out/corpus/$target" "$out/found"
    before=$(find "$out/found" -name "$target-*" | wc -l)
    "$out/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 -print_final_stats=1 -close_fd_mask=1 \
        -dict="$out/seeds/$target.dict" -artifact_prefix="$out/found/$target-" "$out/corpus/$target" "$out/seeds/$target" \
        >"$out/$target.log" 2>&1
    status=$?
    checks=$((checks + 1))
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log" | tail -n 1)
    echo "$target: $seconds s, ${runs:-0} inputs, $(find "$out/corpus/$target" -type f | wc -l) kept, status $status"
    if [ $status -ne 0 ] || [ "$(find "$out/found" -name "$target-*" | wc -l)" -ne "$before" ]; then
        failed=$((failed + 1))
        grep -v '^#' "$out/$target.log" | tail -n 30
    fi
done
rm -rf /dev/shm/fuzz-weft-*
echo "$((100 * (checks - failed) / (checks ? checks : 1)))%: Checks: $checks, Failures: $failed, Errors: 0"
[ $failed -eq 0 ]
