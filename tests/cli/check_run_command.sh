#!/bin/bash
# check_run_command.sh: weft run: logits and hidden states in files, samples, their mistakes; and training on tokens and from
# a model's weights, whose mistakes are the same. (That the numbers are right is tests/oracles' and tests/host's.)
set -u
. "${top_srcdir:-.}/tests/cli/command_support.sh"
python=$(command -v python3 || true)
numpy=; [ -n "$python" ] && "$python" -c 'import numpy' 2>/dev/null && numpy=yes
[ -n "$numpy" ] || echo "numpy is not here: arrays are compared by their bytes only"

paragraphs "$scratch/text"
cp "$(config)" "$scratch/small.json"
train=("$weft" train --batch 2 --sequence 32 --evaluate-batches 0)
run "${train[@]}" --model "$scratch/small.json" --text "$scratch/text" --steps 3 --save "$scratch/model"
[ $status = 0 ] && [ -s "$scratch/model/model.safetensors" ] && [ -s "$scratch/model/config.json" ] || fails "train --save: status $status"
head -c 50 "$scratch/text" >"$scratch/input"
ids 4 $(od -An -v -tu1 "$scratch/input") >"$scratch/ids.raw"
ids 2 $(od -An -v -tu1 "$scratch/input") >"$scratch/ids.u16"
npy '<i4' '50,' <"$scratch/ids.raw" >"$scratch/ids.npy"

# the same input four ways, the same logits, bit by bit; on any layout the same but for rounding
model=("$weft" run --model "$scratch/model")
run "${model[@]}" --text "$scratch/input" --logits "$scratch/a.npy" --hidden "$scratch/h.npy" --json
[ $status = 0 ] && grep -qE '^\{"model":.*"tokens":50,.*"logits":' "$scratch/out" || fails "run --json: status $status"
holds "logits of 50 x 257" [ "$(stat -c %s "$scratch/a.npy")" = $((128 + 4 * 50 * 257)) ]
holds "hidden states of 50 x 48" [ "$(stat -c %s "$scratch/h.npy")" = $((128 + 4 * 50 * 48)) ]
for input in "--prompt $(tr ' ' '_' <"$scratch/input")" "--tokens $scratch/ids.raw" "--tokens $scratch/ids.u16 --token-type uint16" \
    "--tokens $scratch/ids.npy"; do
    case $input in --prompt*) continue ;; esac
    run "${model[@]}" $input --logits "$scratch/b.npy"
    holds "the same logits by $input" cmp -s "$scratch/a.npy" "$scratch/b.npy"
done
run "${model[@]}" --prompt "$(cat "$scratch/input")" --logits "$scratch/b.npy"
holds "the same logits by --prompt" cmp -s "$scratch/a.npy" "$scratch/b.npy"
run "${model[@]}" --text "$scratch/input" --logits "$scratch/c.npy" --hidden "$scratch/h3.npy" --layout tp3.sp.mb2
[ $status = 0 ] || fails "run under tp3.sp: status $status"
run "${model[@]}" --text "$scratch/input" --logits "$scratch/w.npy" --window 20
[ $status = 0 ] || fails "run --window: status $status"
if [ -n "$numpy" ]; then
    run "$python" -c 'import numpy, sys
a, c, w, h, h3 = [numpy.load(f"{sys.argv[1]}/{name}.npy") for name in ("a", "c", "w", "h", "h3")]
assert a.shape == (50, 257) and h.shape == (50, 48) and a.dtype == numpy.float32, (a.shape, h.shape)
assert numpy.isfinite(a).all() and a.std() > 0
for one, other in ((a, c), (h, h3)):
    assert abs(one - other).max() <= 3e-6 * abs(one).max(), abs(one - other).max() / abs(one).max()
assert abs(w[:20] - a[:20]).max() <= 3e-6 * abs(a).max()      # the first window sees the same
assert abs(w[20:] - a[20:]).max() > 1e-3 * abs(a).max()       # the second begins anew' "$scratch"
    [ $status = 0 ] || fails "run: arrays that are not what was asked for"
fi

# samples: the same for a seed on any layout, other for another; greedy is top-k of one
run "${model[@]}" --prompt Para --sample 8 --seed 7; cp "$scratch/out" "$scratch/sample"
holds "a sample begins with its prompt" grep -q '^Para' "$scratch/sample"
run "${model[@]}" --prompt Para --sample 8 --seed 7 --ranks 2
holds "the same sample on two ranks" cmp -s "$scratch/out" "$scratch/sample"
run "${model[@]}" --prompt Para --sample 8 --temperature 0; cp "$scratch/out" "$scratch/greedy"
run "${model[@]}" --prompt Para --sample 8 --top-k 1 --seed 9
holds "top-k 1 is the likeliest" cmp -s "$scratch/out" "$scratch/greedy"
run "${model[@]}" --prompt Para --sample 8 --top-p 1e-6 --seed 9
holds "a small top-p is the likeliest" cmp -s "$scratch/out" "$scratch/greedy"
run "${model[@]}" --tokens "$scratch/ids.raw" --sample 5 --temperature 0
holds "ids go on as ids" grep -qE '^([0-9]+ ){55}$' "$scratch/out"
run "${model[@]}" --text "$scratch/text" --sample 3 --temperature 0
[ $status = 0 ] || fails "a prompt longer than the positions: status $status"

# training on tokens, from weights
run "${train[@]}" --from "$scratch/model" --text "$scratch/text" --steps 1 --json
[ $status = 0 ] && cp "$scratch/out" "$scratch/from" || fails "train --from: status $status"
ids 2 $(od -An -v -tu1 -N 3000 "$scratch/text") >"$scratch/long.u16"
fine '"step":2,"loss":[0-9.]+' "${train[@]}" --model "$scratch/small.json" --tokens "$scratch/long.u16" --token-type uint16 --steps 2 --json
fine 'perplexity' "$weft" train --batch 2 --sequence 32 --model "$scratch/small.json" --tokens "$scratch/long.u16" --token-type uint16 --steps 1 --evaluate-batches 1
run "${train[@]}" --model "$scratch/small.json" --text "$scratch/text" --steps 1 --json
checks=$((checks + 1))
[ "$(cut -d, -f1,2 "$scratch/out")" != "$(cut -d, -f1,2 "$scratch/from")" ] || fails "--from has the loss of new weights"

# mistakes of weft run
mistake 2 'model is needed' "$weft" run --prompt x --sample 1
mistake 2 'one of --prompt' "${model[@]}" --sample 1
mistake 2 'one of --prompt' "${model[@]}" --prompt x --text "$scratch/input" --sample 1
mistake 2 'nothing is asked' "${model[@]}" --prompt x
mistake 2 'empty' "${model[@]}" --prompt '' --logits "$scratch/x.npy"
mistake 2 'no-such-dir' "$weft" run --model "$scratch/no-such-dir" --prompt x --sample 1
mistake 2 'no-such-text' "${model[@]}" --text "$scratch/no-such-text" --sample 1
mistake 2 'no-such-folder' "${model[@]}" --prompt x --logits "$scratch/no-such-folder/x.npy"
mistake 2 '50 tokens.*48|64 positions' "${model[@]}" --text "$scratch/text" --logits "$scratch/x.npy"
mistake 2 'window' "${model[@]}" --text "$scratch/input" --window 65 --logits "$scratch/x.npy"
mistake 2 'unknown option' "${model[@]}" --logit x
mistake 2 'ranks' "${model[@]}" --prompt x --sample 1 --layout tp2 --ranks 3
mkdir "$scratch/bare"; cp "$scratch/small.json" "$scratch/bare/config.json"
mistake 2 'bare' "$weft" run --model "$scratch/bare" --prompt x --sample 1
head -c 5000 "$scratch/model/model.safetensors" >"$scratch/bare/model.safetensors"
mistake 2 'bare' "$weft" run --model "$scratch/bare" --prompt x --sample 1
cp "$(config vocab_size=300)" "$scratch/bare/config.json"
mistake 2 'vocabulary.*300.*--bytes' "$weft" run --model "$scratch/bare" --prompt x --sample 1
mistake 2 'give --tokens instead of --text' "${train[@]}" --from "$scratch/bare" --text "$scratch/text" --steps 1
cp "$(config vocab_size=100)" "$scratch/bare/config.json"
mistake 2 'vocabulary.*100' "$weft" run --model "$scratch/bare" --prompt x --bytes --sample 1

# mistakes of token files: each in run and, where it reads them too, in train
: >"$scratch/none"
mistake 2 'empty' "${model[@]}" --tokens "$scratch/none" --sample 1
mistake 2 'no whole number of int32' "${model[@]}" --tokens "$scratch/input" --sample 1
mistake 2 'int32, uint16 or int64' "${model[@]}" --tokens "$scratch/ids.raw" --token-type int8 --sample 1
ids 4 1 2 257 3 >"$scratch/bad"; mistake 2 'id 257 at position 2.*257' "${model[@]}" --tokens "$scratch/bad" --sample 1
mistake 2 'id 257 at position 2.*257' "${train[@]}" --model "$scratch/small.json" --tokens "$scratch/bad" --steps 1
ids 4 1 4294967295 >"$scratch/bad"; mistake 2 'id -1 at position 1' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '<f4' '50,' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 'type <f4' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '>i4' '50,' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 'type >i4' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '<i4' '5, 10' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 '2 dimensions' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '<i4' '51,' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 '51 ids, but 200 bytes' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '<i4' '9223372036854775807,' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 'ids, but 200 bytes' "${model[@]}" --tokens "$scratch/bad" --sample 1
npy '<i4' '99999999999999999999,' <"$scratch/ids.raw" >"$scratch/bad"; mistake 2 'not understood' "${model[@]}" --tokens "$scratch/bad" --sample 1
mistake 2 'int32, but --token-type says uint16' "${model[@]}" --tokens "$scratch/ids.npy" --token-type uint16 --sample 1
for bytes in 7 9 40 127; do
    head -c $bytes "$scratch/ids.npy" >"$scratch/bad"; mistake 2 'within its header|not understood|no whole number' "${model[@]}" --tokens "$scratch/bad" --sample 1
done
mistake 2 'exclude' "${train[@]}" --tokens "$scratch/long.u16" --text "$scratch/text" --steps 1
mistake 2 'too short.*50 tokens' "${train[@]}" --model "$scratch/small.json" --tokens "$scratch/ids.raw" --sequence 64 --steps 1
mistake 2 '[Ff]rom and --model|exclude' "${train[@]}" --from "$scratch/model" --model tiny --text "$scratch/text" --steps 1

echo '{"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3,
    "intermediate_size": 96, "vocab_size": 257, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu"}' >"$scratch/bert.json"
mistake 2 'both sides' "${train[@]}" --model "$scratch/bert.json" --text "$scratch/text" --steps 1
mkdir "$scratch/bert"; cp "$scratch/bert.json" "$scratch/bert/config.json"
mistake 2 'both sides' "$weft" run --model "$scratch/bert" --prompt x --sample 1

# no half-written file is left
holds "no partial files" [ -z "$(find "$scratch" -name '*.partial')" ]
finish
