#!/bin/bash
# check_bench.sh: weft bench as its user meets it: a machine block with measured peaks, a line per case, JSON, mistakes.
# What is measured is only held against what must hold on any machine, however loaded.
set -u
. "${top_srcdir:-.}/tests/cli/command_support.sh"
python=$(command -v python3 || true)
# prints PATTERN...: each in the last run's stdout
prints() {
    local pattern
    [ $status = 0 ] || { fails "exit status $status"; return; }
    for pattern; do
        checks=$((checks + 1))
        grep -qE "$pattern" "$scratch/out" || fails "no '$pattern' on stdout"
    done
}

# every operation, the smallest that says something
small="gemm:f32:m64n64k64:nt adamw:f32:n1000 fill:f32:rows7n33:value=1.5 embedding:f32:rows9vocabulary17n8first3
    embedding_backward:f32:rows9vocabulary17n8 loss_stats:f32:rows5vocabulary33first128 loss_merge:f32:rows5parts3
    loss_backward:f32:rows5vocabulary33 attention:f32:b1s9h2d16:causal attention_backward:f32:b1s9h2d16:causal
    attention_delta:f32:b1s9h2d16 grad_norm:f32:n31 sum_squares:f32:n1001 copy:i32:rows3n17 norm:f32:rows7n33:eps=1e-05
    norm_backward:f32:rows7n33 norm_wgrad:f32:rows7n33 reduce:f32:rows7n33parts2b1:residual sum_rows:f32:groups1per7n33
    rope:f32:s7b2h3d16 gate:f32:rows7n33:silu gate_backward:f32:rows7n33:silu activation:f32:rows7n33:gelu
    block:f32:b1s16h32a2:gelu.layernorm.causal:forward"
run "$weft" bench $small --repeats 2
prints 'compute units.*measured: [0-9.e+]+ GFLOP/s.*[0-9.e+]+ GB/s.*us a launch'
for case in $small; do prints "^ +[0-9.]+ .*  $case \[[a-z]"; done

# blocks under layouts: uneven heads, kv heads fewer than tp, microbatches
run "$weft" bench --layout tp2.sp.mb2 --repeats 2 block:f32:b2s17h32a3d16kv3f65l2:gelu.layernorm.causal:train \
    block:f32:b2s16h32a4kv1w5:silu.rmsnorm.causal.gated.rope.no-bias:train copy:f32:rows64n64
prints '^rank 0:' '^rank 1:' 'l2:gelu.layernorm.causal:train \[tp2.sp.mb2\]' 'kv1w5:silu.*rope.no-bias:train \[tp2.sp.mb2\]' 'copy:f32:rows64n64'
run "$weft" bench block:f32:b1s7h30a3:relu.layernorm:forward --repeats 2 --ranks 3
prints 'relu.layernorm:forward \[tp3.sp\]'

# shares as measured: their numbers, or none where the devices are alike
run "$weft" bench block:f32:b1s17h32a4:relu.layernorm.causal:train --repeats 2 --layout cp2ring.cp-shares
prints 'relu.layernorm.causal:train \[cp2ring(\.cp-shares[0-9]+-[0-9]+)?\]'

# variants: all of them, what is skipped and why, one by name, one by its values
run "$weft" bench gemm:f32:m17n9k5:nn block:f32:b1s16h32a2:gelu.layernorm:forward --all --repeats 2
prints '^ +[0-9.]+ .*gemm.*\[simple' '^ +skip .*gemm.*\[dot.*A must be' '^ +[0-9.]+ .*block.*GEMMs by simple'
run "$weft" bench gemm:f32:m17n9k5:nn --candidate 'direct WIDTH=4' --repeats 2
prints '\[direct .*WIDTH=4'
run "$weft" bench gemm:f32:m17n9k5:nn block:f32:b1s16h32a2:gelu.layernorm:forward --candidate 'simple ; panel' --repeats 2
prints 'gemm.*\[simple ' 'gemm.*\[panel ' 'block.*GEMMs by simple' 'block.*GEMMs by panel'

# JSON: the machine first, then every case; shares follow from times and peaks
run "$weft" bench gemm:f32:m128n128k128:nt copy:f32:rows64n64 --repeats 4 --json
if [ $status != 0 ] || [ "$(wc -l <"$scratch/out")" != 3 ]; then fails "bench --json: status $status, not three lines"; fi
cp "$scratch/out" "$scratch/json"
if [ -n "$python" ]; then
    run "$python" -c 'import json, sys
machine, gemm, copy = [json.loads(line) for line in open(sys.argv[1])]
assert machine["rank"] == 0 and machine["peak_gflops"] > 0 and machine["peak_gb_per_s"] > 0 and machine["launch_us"] > 0
for row in gemm, copy:
    assert 0 < row["minimum_s"] <= row["quartile1_s"] <= row["median_s"] <= row["quartile3_s"], row
    assert row["samples"] == 4 and row["runs_per_sample"] >= 1
assert abs(gemm["gflops"] * gemm["minimum_s"] * 1e9 - 2 * 128 ** 3) < 1
assert abs(copy["gb_per_s"] * copy["minimum_s"] * 1e9 - 2 * 4 * 64 * 64) < 1
assert abs(gemm["of_peak_flops"] - gemm["gflops"] / machine["peak_gflops"]) < 1e-6
assert abs(copy["of_peak_bandwidth"] - copy["gb_per_s"] / machine["peak_gb_per_s"]) < 1e-6
assert copy["of_copy"] > 0 and copy["of_fma"] is None and gemm["of_fma"] > 0 and gemm["of_copy"] is None
assert abs(copy["of_launches"] * copy["minimum_s"] - machine["launch_us"] * 1e-6) < 1e-9' "$scratch/json"
    [ $status = 0 ] || fails "bench --json: numbers that do not fit together"
fi

# its picture: refused without gnuplot and for what is not bench's; cases without flops are counted
roofline=${top_srcdir:-.}/benchmarks/roofline.sh
mistake 77 'gnuplot is missing' env PATH="$scratch/none" /bin/sh "$roofline" "$scratch/json"
mistake 2 'neither' "$roofline" --output picture.pdf "$scratch/json"
if command -v gnuplot >/dev/null; then
    tail -n 1 "$scratch/json" >"$scratch/headless"
    mistake 1 'headless, line 1: not of weft bench' "$roofline" --output "$scratch/roofline.svg" "$scratch/headless"
    holds 'a picture of what was refused' [ ! -e "$scratch/roofline.svg" ]
    mistake 0 'not drawn: 1 case without flops$' "$roofline" --output "$scratch/roofline.svg" "$scratch/json"
    holds 'no picture' grep -q 'gemm (1)' "$scratch/roofline.svg"
else
    echo "no gnuplot: roofline.sh draws nothing here"
fi

# mistakes
mistake 2 'gem' "$weft" bench gem
mistake 2 'character' "$weft" bench gemm:f32:m10n10q10:nn
mistake 2 'turbo' "$weft" bench gemm:f32:m10n10k10:nn --candidate turbo
mistake 2 'name is missing' "$weft" bench gemm:f32:m10n10k10:nn --candidate 'simple;'
mistake 2 'name is missing' "$weft" bench block:f32:b1s16h32a2:gelu.layernorm:forward --candidate 'simple; '
mistake 2 'longer than any' "$weft" bench gemm:f32:m10n10k10:nn --candidate "simple $(printf '%300s' x)"
mistake 2 'exclude' "$weft" bench gemm:f32:m10n10k10:nn --candidate simple --all
mistake 2 'dot cannot|cannot be computed by dot' "$weft" bench gemm:f32:m10n10k10:nn --candidate dot
mistake 2 "no such flag.*'gelo" "$weft" bench block:f32:b1s16h32a2:gelo.layernorm:forward
mistake 2 'one is missing' "$weft" bench block:f32:b1s16h32:gelu.layernorm:forward
mistake 2 'layernorm or rmsnorm' "$weft" bench block:f32:b1s16h32a2:gelu:forward
mistake 2 'forward' "$weft" bench block:f32:b1s16h32a2:gelu.layernorm:backward
mistake 2 'does not divide' "$weft" bench block:f32:b1s16h32a3:gelu.layernorm:forward
mistake 2 'twice' "$weft" bench block:f32:b1b2s16h32a2:gelu.layernorm:forward
mistake 2 'tq2' "$weft" bench block --layout tq2
mistake 2 'ranks' "$weft" bench block --layout tp2 --ranks 3
mistake 2 'between' "$weft" bench --repeats 0
mistake 3 '[Dd]evice|platform' env OCL_ICD_VENDORS=/nonexistent OCL_ICD_FILENAMES= "$weft" bench gemm:f32:m1n1k1:nn
mistake 3 'memory|bytes' "$weft" bench copy:f32:rows1000000n1000000

# an operation's name stands for all its cases, in verify too
fine 'gate_backward:.*silu' "$weft" verify gate_backward
mistake 2 "gat" "$weft" verify gat
mistake 2 'verify takes operations; whole blocks.*check_block_forms' "$weft" verify block:f32:b1s16h32a2:gelu.layernorm.causal:train
mistake 2 'verify takes operations' "$weft" verify block
# every case that the helps show as an example is one
for case in $("$weft" verify --help | grep -o '[a-z_]*:f32:[^ ]*'); do
    fine ' 0 failed' "$weft" verify "$case"
done
fine 'block:f32:b1s1024h1024a16kv16f4096:' "$weft" bench --help
finish
