#!/bin/sh
# compile.sh WORK TARGET NAME SOURCE ENTRIES [OPTION...]: compiles SOURCE for one instruction set and prints a
# line for each of ENTRIES (name=x,y,z;...):
#
#     target entry registers=N spills=BYTES scratch=BYTES local=BYTES build=NAME ok|allowed|SPILLS|FAILED why
#
# Of a CPU, which has arrays on its stack, what counts is its loops of multiply-adds: spills are their instructions that reach into
# the stack (loops.awk).
# A source may allow memory for registers with a comment "isa: scratch allowed: targets...: reason", or for
# some builds only, "isa: scratch allowed: targets... below OPTION=N: reason".
set -u
work=$1 target=$2 name=$3 source=$4 entries=$5
shift 5
. "$work/tools"
out=$work/$name.$target
language=-cl-std=CL1.2

broken() { echo "$target $name registers=0 spills=0 scratch=0 local=0 build=$name FAILED $(grep -m 1 -i error "$out.log" || tail -n 1 "$out.log")"; exit 0; }

amd() {
    "$CLANG_AMD" -x cl $language --target=amdgcn-amd-amdhsa "-mcpu=$target" -O3 -Xclang -finclude-default-header \
        "--rocm-device-lib-path=$AMD_LIB" -Rpass-analysis=kernel-resource-usage "$@" "$source" -o "$out.co" 2>"$out.log" || broken
    awk '/remark:/ { sub(/.*remark: */, ""); sub(/ \[-Rpass.*/, ""); n = split($0, f, ": *"); v = f[n] }
        /^Function Name/ { if (entry) print entry, regs, spills, scratch, lds; entry = v }
        /^VGPRs:/ { regs = v } /^ScratchSize/ { scratch = v } /^VGPRs Spill/ { spills = 4 * v } /^LDS/ { lds = v }
        END { if (entry) print entry, regs, spills, scratch, lds }' "$out.log"
}

# clang drops the work-group size, without which ptxas does not know how many registers there may be.
required() {
    awk -v list="$entries" '
        BEGIN { n = split(list, e, ";"); for (i = 1; i < n; i++) { split(e[i], p, "="); size[p[1]] = p[2] } }
        /\.entry / { name = $0; sub(/.*\.entry /, "", name); sub(/[( ].*/, "", name) }
        { print } name != "" && /^ *\)/ { if (name in size) print ".reqntid " size[name]; name = "" }' "$out.s" >"$out.ptx"
}

nvidia() {
    "$CLANG_NV" -x cl $language --target=nvptx64-nvidia-nvcl -Xclang -target-cpu -Xclang "$target" -Xclang -target-feature \
        -Xclang +ptx80 -O3 -Xclang -finclude-default-header -Xclang -mlink-builtin-bitcode -Xclang "$NV_LIB" \
        -Wno-linker-warnings -S "$@" "$source" -o "$out.s" 2>"$out.log" || broken
    required
    "$PTXAS" "-arch=$target" -v "$out.ptx" -o "$out.cubin" >"$out.log" 2>&1 || broken
    awk '/Compiling entry/ { split($0, q, "\047"); entry = q[2] }
        /bytes stack frame/ { for (i = 1; i <= NF; i++) { if ($(i + 2) == "stack") stack = $i; if ($(i + 1) == "bytes" && $(i + 2) == "spill") spill = spill < $i ? $i : spill } }
        /Used [0-9]+ registers/ { smem = 0; for (i = 1; i <= NF; i++) { if ($i == "Used") regs = $(i + 1); if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) smem = $i }
            print entry, regs, spill + 0, stack + 0, smem; spill = stack = 0 }' "$out.log"
}

# The device binary holds its kernels' resources as text, one field a line.
intel() {
    options="-cl-std=CL1.2 $*"
    [ "$target" != pvc ] || options="-cl-std=CL2.0 $*"
    IGC_EnableZEBinary=1 "$OCLOC" compile -file "$source" -device "$target" -options "$options" -output_no_suffix \
        -output "$name.$target" -out_dir "$work" >"$out.log" 2>&1 || broken
    LC_ALL=C grep -a -E '^[a-z_]+:|^  - name:|^    [a-z_]+:|^      (grf_count|spill_size|slm_size):|^ +(- )?size:' "$out" |
        tr -d '\000' | awk '
        function done() { if (entry) print entry, grf, spills, scratch, slm; entry = "" }
        /^[a-z]/ { done(); inside = /^kernels:/; next }
        !inside { next }
        /^  - name:/ { done(); entry = $3; grf = spills = scratch = slm = 0; next }
        /^    [a-z]/ { section = $1 }
        /grf_count:/ { grf = $2 } /spill_size:/ { spills = $2 } /slm_size:/ { slm = $2 }
        / size:/ { if (section == "per_thread_memory_buffers:") scratch += $NF }
        END { done() }'
}

cpu() {
    "$CLANG_CPU" -x cl $language --target=x86_64-linux-gnu "-march=$target" -O3 -Xclang -finclude-default-header -Wall -Wno-unused-function \
        -Werror -DCPU=1 -S "$@" "$source" -o "$out.s" 2>"$out.log" || broken
    awk -v least=40 -f "$(dirname "$0")/loops.awk" "$out.s" >"$out.loops"
    [ -s "$out.loops" ] || { echo "error: no loop of 40 multiply-adds" >"$out.log"; broken; }
    awk -v list="$entries" '{ stack[$1] += $4 } END { n = split(list, e, ";"); for (i = 1; i < n; i++) { sub(/=.*/, "", e[i]); print e[i], 0, stack[e[i]] + 0, 0, 0 } }' "$out.loops"
}

case $target in
    gfx*) vendor=amd ;;
    sm_*) vendor=nvidia ;;
    x86*) vendor=cpu ;;
    *) vendor=intel ;;
esac
$vendor "$@" >"$out.rows"
grep FAILED "$out.rows" && exit 0
# Targets of the comments that hold for a build with these options.
allowed_targets() {
    sed -n 's/.*isa: scratch allowed: *\([^:]*\):.*/\1/p' "$source" | while read -r targets; do
        case $targets in
            *" below "*)
                limit=${targets##* below } value=''
                for option in "$@"; do case $option in -D"${limit%=*}"=*) value=${option#*=} ;; esac; done
                [ -n "$value" ] && [ "$value" -lt "${limit#*=}" ] || continue ;;
        esac
        echo "${targets%% below *}"
    done | tr '\n' ' '
}
allowed=$(allowed_targets "$@")
echo "$entries" | tr ';' '\n' | sed 's/=.*//' | grep . | while read -r entry; do
    row=$(awk -v e="$entry" '$1 == e' "$out.rows" | head -n 1)
    set -- $row
    [ $# = 5 ] || { echo "$target $entry registers=0 spills=0 scratch=0 local=0 build=$name FAILED the compiler says nothing of it"; continue; }
    verdict=ok
    if [ "$3" != 0 ] || [ "$4" != 0 ]; then
        verdict=SPILLS
        case " $allowed " in *" $target "*) verdict=allowed ;; esac
    fi
    echo "$target $entry registers=$2 spills=$3 scratch=$4 local=$5 build=$name $verdict"
done
