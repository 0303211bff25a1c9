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
failed=0
run() { # ranks, mode, layout
    timeout 240 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np "$1" \
        ./tests/host/checkpoint_ranks "$2" "$dir/config.json" "$3" "$dir/$4" || failed=1
}
mkdir "$dir/three" "$dir/one"
run 3 save tp3.sp three
run 2 load tp2 three
run 1 load tp1 three
run 3 load tp3 three
run 1 save tp1 one
run 3 load tp3.sp one
exit $failed
