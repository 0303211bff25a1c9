#!/bin/sh
# weft against the `transformers` library: the same models, logits, hidden states and gradients; and what weft
# writes is opened there. Skips aloud where the library, torch or mpirun are not installed.
# WEFT_PYTHON: the interpreter that has them (default: python3).
set -u
python=${WEFT_PYTHON:-python3}
mpirun=${MPIRUN:-mpirun}
command -v "$mpirun" >/dev/null 2>&1 || { echo "SKIP: no mpirun"; exit 77; }
if ! why=$("$python" -c 'import numpy, safetensors, torch, transformers' 2>&1); then
    echo "SKIP: $python has no torch, transformers, safetensors: $(echo "$why" | tail -n 1)"
    echo "      (pip install torch transformers safetensors; WEFT_PYTHON names another interpreter)"
    exit 77
fi
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
HF_HUB_OFFLINE=1 "$python" "$top_srcdir/tests/oracles/check_oracles.py" "$dir" \
    "$mpirun --allow-run-as-root --oversubscribe --bind-to none" ./tests/oracles/oracle_ranks ./weft
