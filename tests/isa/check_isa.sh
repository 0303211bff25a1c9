#!/bin/sh
# check_isa.sh: every distinct build of list_builds.c by the compilers of AMD, NVIDIA and Intel, whose
# reports say whether all values stay in registers; and what CPUs prefer for what should be fast, by clang, whose loops are read.
# Times are not foretold by any of this. What neither a GPU may run nor a CPU prefers is only parsed. ISA_SAMPLE=N: one of N builds, others another day; ISA_DAY repeats a day's.
set -u
here=${top_srcdir:-.}/tests/isa
work=tests/isa/work
rm -rf "$work" && mkdir -p "$work" || exit 1
work=$(cd "$work" && pwd)

sh "$here/tools.sh" "$work" || exit 1
. "$work/tools"
[ -n "$TARGETS$CLANG_LINT" ] || { echo "SKIP: no compiler at all"; exit 77; }
./tests/isa/list_builds "$work" >"$work/all-builds" || exit 1
sample=${ISA_SAMPLE:-1} day=${ISA_DAY:-$(($(date +%s) / 86400))}
awk -v n="$sample" -v day="$day" '(NR + day) % n == 0' "$work/all-builds" >"$work/builds" || exit 1
[ -s "$work/builds" ] || { echo "ISA_SAMPLE=$sample ISA_DAY=$day: no build at all"; exit 1; }
[ "$sample" = 1 ] || echo "$(wc -l <"$work/builds") of $(wc -l <"$work/all-builds") builds (ISA_SAMPLE=$sample ISA_DAY=$day repeats them)"

vendor_of() { case $1 in gfx*) echo amd ;; sm_*) echo nvidia ;; x86-64-v3) echo cpu8 ;; x86-64-v4) echo cpu16 ;; *) echo intel ;; esac; }
tab=$(printf '\t')

# One job a line: target, name, source, entries, options.
jobs() {
    for target in $TARGETS; do
        echo "$target seeded $here/seeded.cl seeded=64,1,1; -DSPILL=1"
        grep "$tab[a-z0-9,]*$(vendor_of "$target")," "$work/builds" | while IFS=$tab read -r n source vendors entries options from; do
            echo "$target $n $work/$source $entries $options"
        done
    done
}
jobs | sed 's/ *$//' >"$work/jobs"
# A line is one write to a file that is appended to: the jobs' lines do not mix.
[ ! -s "$work/jobs" ] || xargs -P "$(nproc 2>/dev/null || echo 2)" -L 1 sh "$here/compile.sh" "$work" <"$work/jobs" >>"$work/all"

checks=0 failures=0
failure() { failures=$((failures + 1)); echo "FAILED: $*"; }

# The checker itself: the seeded spill is reported for each target.
for target in $TARGETS; do
    checks=$((checks + 1))
    grep -q "^$target seeded .* SPILLS" "$work/all" || failure "the seeded spill is not seen for $target"
done

# The others.
if [ -n "$CLANG_LINT" ]; then
    grep "$tab-$tab" "$work/builds" >"$work/lint"
    while IFS=$tab read -r n source vendors entries options from; do
        checks=$((checks + 1))
        # shellcheck disable=SC2086
        "$CLANG_LINT" -x cl -cl-std=CL1.2 --target=spir64 -Xclang -finclude-default-header -fsyntax-only -Wall -Wno-unused-function -Werror $options \
            "$work/$source" >"$work/lint.log" 2>&1 || failure "$source $options: $(head -n 3 "$work/lint.log")"
    done <"$work/lint"
else
    echo "SKIP: no clang: variants for CPUs are not parsed"
fi

# The table, a line for each build: the most of each kernel.
grep -v " seeded " "$work/all" >"$work/kernels"
sort -k1,2 "$work/kernels" | awk '
    { split($3, r, "="); split($4, s, "="); split($5, c, "="); split($6, l, "="); key = sprintf("%-8s %-22s", $1, $2) }
    { n[key]++; if (r[2] > regs[key]) regs[key] = r[2]; if (s[2] + 0 > sp[key]) sp[key] = s[2]; if (c[2] + 0 > sc[key]) sc[key] = c[2]; if (l[2] + 0 > lo[key]) lo[key] = l[2] }
    END { print "target   kernel                  builds registers  spills scratch   local"
          for (k in n) printf "%s %7d %9d %7d %7d %7d\n", k, n[k], regs[k], sp[k], sc[k], lo[k] | "sort" }'
grep -E ' (SPILLS|FAILED|allowed)' "$work/kernels"
expected=$(($(wc -l <"$work/jobs") - $(echo $TARGETS | wc -w)))
[ "$(ls "$work"/*.rows 2>/dev/null | grep -vc seeded)" -ge "$expected" ] || failure "some of $expected compilations did not run"
checks=$((checks + $(wc -l <"$work/kernels")))
failures=$((failures + $(grep -cE ' (SPILLS|FAILED)' "$work/kernels")))
[ "$checks" -gt 0 ] || exit 77
echo "$(((checks - failures) * 100 / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
