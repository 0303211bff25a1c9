#!/bin/bash
# check_resume.sh [long]: a training that is interrupted goes on as one that was not. Under tp3.sp each step leaves a
# checkpoint; from each of steps 1 to 20 the run is resumed under tp3.sp (the same bits), under tp2 and on one rank (loss within
# 1e-5). Here from a few of them, by "long" (make check-long) from all. Then: signals, --resume auto, other data, damage.
set -u
. "${top_srcdir:-.}/tests/cli/command_support.sh"
steps=21 from="1 10 20"
[ "${1:-}" = long ] && from=$(seq 1 20)

paragraphs "$scratch/text"
cp "$(config n_head=5 n_embd=40 resid_pdrop=0.1)" "$scratch/model.json"
train=("$weft" train --model "$scratch/model.json" --text "$scratch/text" --batch 4 --sequence 24 --evaluate-batches 0 --json)
schedule=(--warmup 4 --lr-end 1e-4 --lr 3e-3)
at() { printf '%s/step-%09d' "$scratch/all" "$1"; }
losses() { sed -E 's/,"tokens_per_s":[^,]*//' "$1"; } # step, loss, norm: every digit

run "${train[@]}" "${schedule[@]}" --steps $steps --layout tp3.sp --checkpoint "$scratch/all" --checkpoint-every 1 --keep 0 --seed 5
[ $status = 0 ] || fails "the run that is not interrupted: status $status"
losses "$scratch/out" >"$scratch/reference"
holds "a checkpoint after each step" [ "$(ls "$scratch/all" | grep -c '^step-')" = $steps ]
holds "steps count from 1" grep -q '^{"step":21,' "$scratch/reference"

# close FILE STEP: the losses that follow STEP are within 1e-5 of the reference's, none missing
close() {
    tail -n +$(($2 + 1)) "$scratch/reference" | paste -d, - "$1" | tr -d '{}' | awk -F, -v want=$((steps - $2)) '
        { split($1, a, ":"); split($2, b, ":"); split($4, c, ":"); split($5, d, ":")
          difference = b[2] > d[2] ? b[2] - d[2] : d[2] - b[2]
          if (a[2] != c[2] || !(difference <= 1e-5 * b[2])) { print "step " a[2] ": " b[2] " against " d[2]; bad = 1 }
          rows++ }
        END { exit bad || rows != want }'
}
for step in $from; do
    for layout in tp3.sp tp2 tp1; do
        run "${train[@]}" "${schedule[@]}" --steps $steps --layout $layout --resume "$(at $step)"
        losses "$scratch/out" >"$scratch/resumed"
        if [ $layout = tp3.sp ]; then
            tail -n +$((step + 1)) "$scratch/reference" | cmp -s - "$scratch/resumed" || fails "step $step under $layout: other bits"
        else
            close "$scratch/resumed" $step || fails "step $step under $layout: another curve"
        fi
    done
done
run "${train[@]}" "${schedule[@]}" --steps $steps --layout tp2 --resume "$(at $steps)"
[ $status = 0 ] && [ ! -s "$scratch/out" ] && grep -q 'nothing to train' "$scratch/err" || fails "a run that is done: status $status"
# the detector detects: another curve is not taken for this one
run "${train[@]}" --lr 2e-3 --steps $steps --resume "$(at 1)"
losses "$scratch/out" >"$scratch/resumed"
holds "another schedule gives another curve" eval '! close "$scratch/resumed" 1 >/dev/null'

# the newest of a folder; --keep; --checkpoint-every
run "${train[@]}" "${schedule[@]}" --steps $steps --resume "$scratch/all" --checkpoint "$scratch/few" --checkpoint-every 0
holds "a folder means its newest" grep -q 'nothing to train' "$scratch/err"
run "${train[@]}" "${schedule[@]}" --steps 7 --checkpoint "$scratch/few" --checkpoint-every 2 --keep 2
holds "the two newest of 2, 4, 6, 7 stay" [ "$(ls "$scratch/few" | tr '\n' ' ')" = "step-000000006 step-000000007 " ]

# stopped: by SIGTERM to the command, on one rank and over ranks; by SIGINT; by a signal that reaches one rank only
children() { # children PID: of any system with /proc; not every one has pgrep
    grep -ls "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status | tr -dc '0-9\n'
}
# stop LAYOUT WHO SIGNAL: WHO is command or rank
stop() {
    local layout=$1 who=$2 signal=$3 waited=0 pid target
    rm -rf "$scratch/stopped"
    : >"$scratch/out"
    "${train[@]}" "${schedule[@]}" --steps 1000000 --seed 5 --layout $layout --checkpoint "$scratch/stopped" --resume auto >"$scratch/out" 2>"$scratch/err" </dev/null &
    pid=$!
    while [ "$(wc -l <"$scratch/out")" -lt 3 ] && [ $waited -lt 600 ] && kill -0 $pid 2>/dev/null; do sleep 0.1; waited=$((waited + 1)); done
    target=$pid
    [ $who = rank ] && target=$(children "$(children $pid | head -1)" | tail -1)
    kill -$signal "$target"
    ( sleep 200; kill -KILL $pid 2>/dev/null ) & local guard=$!
    wait $pid; status=$?; checks=$((checks + 1))
    kill $guard 2>/dev/null; wait $guard 2>/dev/null
    [ $status = 0 ] || { fails "$signal to the $who under $layout: status $status"; return; }
    grep -q 'stopped by a signal after step' "$scratch/err" || fails "$signal to the $who under $layout: not said"
    local last=$(tail -1 "$scratch/out" | sed -E 's/^\{"step":([0-9]+),.*/\1/')
    [ "$(ls "$scratch/stopped")" = "$(printf 'step-%09d' "$last")" ] || fails "$signal to the $who under $layout: saved $(ls "$scratch/stopped"), done $last"
}
stop tp1 command TERM
stop tp2.sp command TERM
stop tp2.sp command INT
stop tp2.sp rank TERM
stop tp2.sp rank USR2
last=$(ls "$scratch/stopped"); last=$((10#${last#step-}))
run "${train[@]}" "${schedule[@]}" --steps $((last + 2)) --layout tp2.sp --checkpoint "$scratch/stopped" --resume auto
[ $status = 0 ] && [ "$(wc -l <"$scratch/out")" = 2 ] && grep -q "^{\"step\":$((last + 1))," "$scratch/out" || fails "--resume auto after a stop: status $status"

# a save over its own step died between two renames, where folders cannot be exchanged: what it had put aside is found
mkdir "$scratch/aside" && cp -r "$(at 5)" "$scratch/aside/.step-000000005.partial-elsewhere-1.old"
run "${train[@]}" "${schedule[@]}" --steps 6 --layout tp3.sp --checkpoint "$scratch/aside" --resume auto
[ $status = 0 ] && [ -d "$scratch/aside/step-000000005" ] || fails "--resume auto of what was put aside: status $status"
losses "$scratch/out" | cmp -s - <(sed -n 6p "$scratch/reference") || fails "--resume auto of what was put aside: other bits"

# other data, other seed, another model, damage
sed 's/quick/slow/' "$scratch/text" >"$scratch/other"
mistake_of_run() { # PATTERN ARGUMENT...: exit status 2, one sentence among what is said of the run
    local pattern=$1; shift
    run "${train[@]}" "$@"
    [ $status = 2 ] && [ "$(grep -c '^weft: ' "$scratch/err")" = 1 ] && grep -qE "^weft: .*($pattern)" "$scratch/err" && [ ! -s "$scratch/out" ] || fails "status $status, no '$pattern': $*"
}
other=("$weft" train --model "$scratch/model.json" --text "$scratch/other" --batch 4 --sequence 24 --evaluate-batches 0 --json)
run "${other[@]}" --steps $steps --resume "$(at $((steps - 2)))"
[ $status = 2 ] && grep -q 'other data' "$scratch/err" || fails "resumed on other data: status $status"
run "${other[@]}" --steps $steps --resume "$(at $((steps - 2)))" --new-data --layout tp2
[ $status = 0 ] && [ "$(wc -l <"$scratch/out")" = 2 ] || fails "--new-data: status $status"
mistake_of_run 'seed 5' --steps $steps --resume "$(at $((steps - 2)))" --seed 6
mistake_of_run 'seed 5' --steps $steps --resume "$(at $((steps - 2)))" --seed 6 --layout tp2
run "${train[@]}" --steps $steps --resume "$(at $((steps - 2)))" --seed 5
[ $status = 0 ] || fails "the same seed: status $status"
cp "$(config n_layer=3)" "$scratch/three.json"
run "$weft" train --model "$scratch/three.json" --text "$scratch/text" --batch 4 --sequence 24 --evaluate-batches 0 --steps $steps --resume "$(at $((steps - 2)))"
[ $status = 2 ] || fails "a checkpoint of another model: status $status"
cp -r "$(at $((steps - 2)))" "$scratch/damaged"
printf x | dd of="$scratch/damaged/model.safetensors" bs=1 seek=2000 conv=notrunc 2>/dev/null
mistake_of_run 'damaged' --steps $steps --resume "$scratch/damaged"
mkdir "$scratch/empty"
mistake_of_run 'empty' --steps $steps --resume "$scratch/empty"
mistake 2 'no-such-checkpoint' "${train[@]}" --steps 1 --resume "$scratch/no-such-checkpoint"
mistake 2 'auto needs --checkpoint' "${train[@]}" --steps 1 --resume auto
mistake 2 'needs --checkpoint' "${train[@]}" --steps 1 --checkpoint-every 5
mistake 2 'new-data is of --resume' "${train[@]}" --steps 1 --new-data
mistake 2 'no-such-folder' "${train[@]}" --steps 1 --checkpoint "$scratch/no-such-folder/here"
: >"$scratch/file"
run "${train[@]}" --steps 1 --checkpoint "$scratch/file"
[ $status != 0 ] && grep -q 'file' "$scratch/err" || fails "checkpoints into a file: status $status"
finish
