#!/bin/sh
# A checkpoint saved under any layout is loaded under any other: the same bits of weights, m and v.
set -u
mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null 2>&1; then
    echo "SKIP: no mpirun"
    exit 77
fi
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cat >"$dir/config.json" <<'END'
{"model_type": "gpt2", "n_layer": 2, "n_embd": 60, "n_head": 5, "n_inner": 113, "n_positions": 32, "vocab_size": 257}
END
cat >"$dir/llama.json" <<'END'
{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 60, "num_attention_heads": 6, "num_key_value_heads": 2,
 "intermediate_size": 113, "max_position_embeddings": 32, "vocab_size": 257, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}
END
failed=0
run() { # ranks, mode, layout, folder, model
    timeout 240 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np "$1" \
        ./tests/host/checkpoint_ranks "$2" "$dir/${5:-config}.json" "$3" "$dir/$4" || failed=1
}
mkdir "$dir/three" "$dir/one" "$dir/llama"
run 3 save tp3.sp three
run 2 load tp2 three
run 1 load tp1 three
run 3 load tp3 three
run 1 save tp1 one
run 3 load tp3.sp one
run 3 save tp3.sp llama llama # fewer heads of keys and values than ranks
run 2 load tp2 llama llama

# A rank is killed while all save: the job ends, and what is there is whole, for any number of ranks.
kill_one() { # rank, after so many milliseconds
    timeout 120 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np 2 \
        ./tests/host/checkpoint_ranks kill "$dir/config.json" tp2.sp "$dir/one" "$1" "$2" >/dev/null 2>&1
    status=$?
    if [ $status -eq 0 ] || [ $status -eq 124 ]; then
        echo "a job whose rank $1 was killed ended with status $status"
        failed=1
    fi
    run 1 whole tp1 one
}
case ${1:-} in
    long) delays='1 2 3 5 8 13 21 34 55 89 144 233 377 610' ;;
    *) delays=40 ;;
esac
for delay in $delays; do
    kill_one 0 "$delay"
    kill_one 1 "$delay"
done
exit $failed
