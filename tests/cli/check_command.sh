#!/bin/bash
# check_command.sh: the command as its user meets it: help, mistakes, results. Every mistake must give one
# line on stderr, the right exit status, and nothing on stdout.
set -u
. "${top_srcdir:-.}/tests/cli/command_support.sh"

text=$scratch/text
paragraphs "$text"
small=(--model "$(config)" --text "$text" --batch 2 --sequence 32 --steps 3 --evaluate-batches 1)
cp "$scratch/config.json" "$scratch/small.json"
small[1]=$scratch/small.json

# help
fine 'usage: weft' "$weft" --help
fine 'weft [0-9]' "$weft" --version
for command in info verify bench plan train run; do fine "usage: weft $command" "$weft" $command --help; done

# flags
mistake 2 "unknown command 'trian'" "$weft" trian
mistake 2 "unknown option '--laoyut'" "$weft" train --laoyut tp2
mistake 2 "unknown option '-x'" "$weft" plan -x
mistake 2 'needs a value' "$weft" train --text "$text" --layout
mistake 2 "whole number.*'ten'" "$weft" train --text "$text" --steps ten
mistake 2 'must lie between' "$weft" train --text "$text" --steps 0
mistake 2 'takes no value' "$weft" train --json=yes
mistake 2 "unexpected argument 'tiny'" "$weft" plan tiny
mistake 2 'mode' "$weft" plan --mode trian
mistake 2 'shape' "$weft" plan --shape 8x128

# layouts
mistake 2 'tq2' "$weft" plan --layout tq2.sp
mistake 2 'tp' "$weft" plan --layout tp.sp
mistake 2 'tp0' "$weft" plan --layout tp0
mistake 2 '(tp2|twice)' "$weft" plan --layout tp2.tp2
mistake 2 'zero1' "$weft" plan --layout dp2.zero1
mistake 2 'pp2' "$weft" plan --layout pp2.1f1b
mistake 2 'ranks' "$weft" train --text "$text" --layout tp2.sp --ranks 3
mistake 2 '[Mm]icrobatch|mb3' "$weft" plan --layout mb3 --shape b8s128
mistake 2 'position' "$weft" plan --model "$scratch/small.json" --shape b1s65
mistake 2 'rank' "$weft" plan --layout tp2 --rank 2

# cases
mistake 2 "gem" "$weft" verify gem:f32:m1n1k1:nn
mistake 2 "(character|position|place).*" "$weft" verify gemm:f32:m10n10q10:nn
mistake 2 "f33" "$weft" verify gemm:f33:m1n1k1:nn
mistake 2 "turbo" "$weft" verify gemm:f32:m1n1k1:nn.turbo

# text
mistake 2 'text' "$weft" train
mistake 2 "no-such-file" "$weft" train --text "$scratch/no-such-file"
: >"$scratch/empty"
mistake 2 'empty' "$weft" train --text "$scratch/empty"
printf 'a\0b' >"$scratch/binary"
mistake 2 'zero bytes' "$weft" train --text "$scratch/binary"
echo 'too short' >"$scratch/short"
mistake 2 'too short' "$weft" train --text "$scratch/short" --ranks 1
mkdir -p "$scratch/folder"; mistake 2 'empty' "$weft" train --text "$scratch/folder"

# models
mistake 2 "tinny" "$weft" plan --model tinny
mistake 2 "no-such.json" "$weft" plan --model "$scratch/no-such.json"
echo '{"n_layer": 2' >"$scratch/broken.json"; mistake 2 'broken.json' "$weft" plan --model "$scratch/broken.json"
echo '{"model_type": "gpt2", "n_embd": 48}' >"$scratch/missing.json"; mistake 2 'n_layer|n_head' "$weft" plan --model "$scratch/missing.json"
for bad in n_layer=-1 n_layer=1e30 'n_layer="two"' n_embd=0 n_embd=49 n_head=0 vocab_size=0 vocab_size=99999999999999 \
    n_positions=-5 resid_pdrop=1.5 attn_pdrop=-0.1 'activation_function="swish9"' layer_norm_epsilon=-1 'model_type="mamba"' \
    scale_attn_by_inverse_layer_idx=true; do
    mistake 2 "${bad%%=*}" "$weft" plan --model "$(config "$bad")" --shape b1s16
done
mistake 2 'vocabulary' "$weft" train --text "$text" --model "$(config vocab_size=200)" --batch 2 --sequence 32 --steps 1

# documents: a text's tokens see none of another, and so lose otherwise than without; the same on a split sequence
mistake 2 'document-end 257.*vocabulary' "$weft" train "${small[@]}" --document-end 257
mkdir "$scratch/documents"
for i in {10..60}; do tail -c +$((i * 61)) "$text" | head -c $((i + 9)) >"$scratch/documents/$i.txt"; done
loss_of() { # OPTIONS...: of the third step
    run "$weft" train "${small[@]}" --text "$scratch/documents" --evaluate-batches 0 --json "$@"
    tail -n 1 "$scratch/out" | sed 's/.*"loss":\([0-9.]\{6\}\).*/\1/'
}
whole=$(loss_of --ranks 1) packed=$(loss_of --ranks 1 --document-end 256) split=$(loss_of --layout cp2ring --document-end 256)
[ -n "$packed" ] && [ "$packed" = "$split" ] && [ "$packed" != "$whole" ] ||
    fails "documents: losses '$whole' without, '$packed' with, '$split' on two ranks"

# environment
mistake 3 '[Dd]evice|platform' env OCL_ICD_VENDORS=/nonexistent OCL_ICD_FILENAMES= "$weft" verify gemm:f32:m1n1k1:nn
mistake 3 '[Dd]evice|platform' env OCL_ICD_VENDORS=/nonexistent OCL_ICD_FILENAMES= "$weft" train "${small[@]}"
mistake 3 'memory.*[0-9]' "$weft" train --model gpt2 --text "$text" --batch 20000 --sequence 512 --steps 1
mistake 2 'transport|telepathy' "$weft" train "${small[@]}" --transport telepathy

# results
fine 'WEFT_' "$weft" info
fine '^\{' "$weft" info --json
fine '^   program cache: /.*used \(.*\), [0-9]+ files?, [0-9.]+ MiB$' "$weft" info
fine '"cache": \{' "$weft" info --json
fine '"option": "cache_dir"' "$weft" info --json
fine '^rank 1: program cache: /' "$weft" info --ranks 2
fine '"cache": \{' "$weft" info --ranks 2 --json
fine 'passed, 0 failed' "$weft" verify gemm:f32:m17n9k5:nt.bias
fine 'all-gather' "$weft" plan --layout tp2.sp --explain --check
fine '"checked":' "$weft" plan --layout tp4.sp.mb2 --json
fine 'no device is measured here' sh -c '"$1" plan --layout cp2ring.cp-shares 2>&1' sh "$weft"

# WEFT_LOG: each category on its own, on stderr; nothing without it
logged() { # CATEGORY PATTERN COMMAND...
    local category=$1 pattern=$2; shift 2
    run env WEFT_LOG="$category" "$@"
    [ $status = 0 ] || { fails "WEFT_LOG=$category: exit status $status: $*"; return; }
    grep -qE "^weft: $category: $pattern" "$scratch/err" || fails "WEFT_LOG=$category says no '$pattern': $*"
    ! grep -q '^weft: ' "$scratch/out" || fails "WEFT_LOG=$category writes to stdout: $*"
    ! grep '^weft: ' "$scratch/err" | grep -qv "^weft: $category: " || fails "WEFT_LOG=$category says other things, too: $*"
}
logged plan 'rank 1 of tp2.sp, train, b8s128: [0-9]+ segments' "$weft" plan --layout tp2.sp
logged fabric 'ranks 0 and 1 use window: window passed(, in place)?; staged passed; mpi passed' "$weft" info --ranks 2
logged fabric 'ranks 0 and 1 use mpi, which is forced: ' "$weft" info --ranks 2 --transport mpi
logged device '.*compute units' "$weft" info --ranks 2
logged cache 'the folder .* is (not )?used: ' "$weft" verify gemm:f32:m3n3k3:nt
run env WEFT_CACHE=on WEFT_CACHE_DIR="$scratch/programs" "$weft" verify gemm:f32:m3n3k3:nt
WEFT_CACHE=on WEFT_CACHE_DIR=$scratch/programs logged cache 'gemm_simple.cl .* came out of the cache' "$weft" verify gemm:f32:m3n3k3:nt
logged build 'gemm_simple.cl .*: [0-9.]+ s' "$weft" verify gemm:f32:m3n3k3:nt
logged checkpoint 'step 3 is saved in ' "$weft" train "${small[@]}" --ranks 2 --checkpoint "$scratch/checkpoints"
logged checkpoint '.* is loaded: step 3' "$weft" train "${small[@]}" --ranks 2 --checkpoint "$scratch/checkpoints" --resume auto --steps 4
mistake 2 'WEFT_LOG=planets.*known: plan' env WEFT_LOG=planets "$weft" plan --layout tp2
truncate -s 100 "$scratch"/checkpoints/step-000000004/model.safetensors
run "$weft" train "${small[@]}" --ranks 2 --checkpoint "$scratch/checkpoints" --resume auto --steps 4
grep -q '^weft: checkpoint .*step-000000004 is passed over: ' "$scratch/err" || fails "a damaged checkpoint is passed over without a word"

run "$weft" train "${small[@]}" --ranks 2 --json --seed 3
[ $status = 0 ] || fails "train --json: exit status $status"
python=$(command -v python3 || true)
if [ "$(wc -l <"$scratch/out")" != 3 ] || [ "$(grep -cE '^\{"step":[0-9]+,"loss":[0-9.e+-]+,"tokens_per_s":[0-9.e+-]+,"grad_norm":[0-9.e+-]+\}$' "$scratch/out")" != 3 ]; then
    fails "train --json: not three objects of step, loss, tokens_per_s, grad_norm: $(head -2 "$scratch/out")"
fi
sed 's/,"tokens_per_s":[^,]*//' "$scratch/out" >"$scratch/first"
run "$weft" train "${small[@]}" --ranks 2 --json --seed 3
sed 's/,"tokens_per_s":[^,]*//' "$scratch/out" | cmp -s - "$scratch/first" || fails "the same seed gives other losses"
run "$weft" train "${small[@]}" --ranks 2 --json --seed 4
sed 's/,"tokens_per_s":[^,]*//' "$scratch/out" | cmp -s - "$scratch/first" && fails "another seed gives the same losses"
run "$weft" train "${small[@]}" --ranks 2 --trace "$scratch/trace.json" --sample 5
[ $status = 0 ] && [ -s "$scratch/trace.json" ] || fails "train --trace wrote nothing (status $status)"
run "$weft" train "${small[@]}" --layout tp2.mb2 --sample 5
[ $status = 0 ] && grep -q sample: "$scratch/out" || fails "train --sample under mb2: status $status: $(tail -1 "$scratch/err")"
if [ -n "$python" ]; then
    run "$python" -c 'import json, sys
events = json.load(open(sys.argv[1]))["traceEvents"]
assert {e["pid"] for e in events if e.get("ph") == "X"} == {0, 1}, "not both ranks"
assert any("all" in e["name"] or "gather" in str(e) for e in events)' "$scratch/trace.json"
    [ $status = 0 ] || fails "the trace is no JSON with both ranks' events"
    for layout in tp2.sp.chunks2 cp2ring; do
        run "$weft" plan --model "$scratch/small.json" --shape b2s32 --layout $layout --explain
        cp "$scratch/out" "$scratch/explained"
        run env WEFT_LINK=100us,1GB/s "$weft" train "${small[@]}" --layout $layout --trace "$scratch/trace.json"
        run "$python" "$top_srcdir/tests/cli/trace_agrees.py" "$scratch/explained" "$scratch/trace.json"
        [ $status = 0 ] || fails "$layout: the trace is not what --explain says: $(tail -1 "$scratch/err")"
    done
fi

finish
