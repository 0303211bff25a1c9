# Sourced by check_layouts*.sh: every layout of a model equals one rank, with all gradients; the same bits over every
# transport; planned bytes are allocated bytes. The model's config.json is read from standard input. packed=packed-: sequences
# are several documents.
set -u
mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null 2>&1; then
    echo "SKIP: no mpirun"
    exit 77
fi
dir=$(mktemp -d) || exit 99
trap 'rm -rf "$dir"' EXIT
cat >"$dir/config.json"
failed=0
run() { # ranks, mode, layouts...
    np=$1 mode=$2
    shift 2
    timeout 240 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -np "$np" \
        ./tests/host/layouts_match "${packed-}$mode" "$dir/reference" "$dir/config.json" "$@" || failed=1
}
run 1 write tp1.mb2
run 1 compare tp1.mb2
run 2 compare tp2.mb2 tp2.sp.mb2 tp2.sp.mb2.loss-chunks3 tp2.sp.mb2.chunks3 tp2.tp-shares3-1.sp.mb2 tp2.sp.mb2.recompute-pointwise cp2ring.mb2 cp2gather.mb2 cp2ulysses.mb2
run 3 compare tp3.sp.mb2 tp3.sp.mb2.recompute-full cp3ring.cp-shares1-2-1.mb2
run 4 compare tp4.mb2 tp4.sp.mb2.chunks2 tp2.sp.cp2ring.mb2 tp2.cp2ulysses.mb2 cp4usp2.mb2.recompute-attention
exit $failed
