#!/bin/bash
# make check-threads: ranks as threads, two jobs in one process, stashes and phases, in a build by ThreadSanitizer. It sees
# only what it has compiled: drivers, MPI and hwloc are not, so what is reported has a frame of weft's; the suppressions
# name those libraries alone. A seeded race shows that a report would be seen.
set -u
build=${top_builddir:?} source=${top_srcdir:?}
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES
dir=$build/tests/host/threads-build
mkdir -p "$dir" && cd "$dir" || exit 99
cc=$(sed -n 's/^CC = //p' "$build/Makefile")
checks=0 failures=0
check() { # check WHAT COMMAND...: what it says stays in said.WHAT
    local what=$1 log=said.${1// /-} code
    shift
    checks=$((checks + 1))
    "$@" >"$log" 2>&1 && return
    code=$?
    failures=$((failures + 1))
    echo "FAILED: $what: exit status $code; $dir/$log ends:"
    tail -n 60 "$log"
}

cat >seeded.c <<'END'
#include <pthread.h>
static long counter;
static void *run(void *unused) {
    for (int i = 0; i < 100000; i++) counter++;
    return unused;
}
int main(void) {
    pthread_t a, b;
    pthread_create(&a, 0, run, 0);
    pthread_create(&b, 0, run, 0);
    pthread_join(a, 0);
    pthread_join(b, 0);
    return 0;
}
END
if ! $cc -g -fsanitize=thread seeded.c -o seeded -lpthread 2>said.seeded; then
    echo "SKIP: $cc has no ThreadSanitizer"
    exit 77
fi
export TSAN_OPTIONS="exitcode=66:halt_on_error=0:second_deadlock_stack=1:suppressions=$source/tests/host/threads.supp"
# A kernel that lays out memory in a way that ThreadSanitizer does not know (a large vm.mmap_rnd_bits) ends such programs,
# often not each time; without randomisation the layout is one that it knows.
starts() { # starts COMMAND...: gets as far as main, ten times
    local i
    for i in 1 2 3 4 5 6 7 8 9 10; do
        "$@" >said.seeded 2>&1
        if grep -q 'unexpected memory mapping' said.seeded; then return 1; fi
    done
}
fixed=()
if ! starts ./seeded; then
    fixed=(setarch "$(uname -m)" -R)
    if ! "${fixed[@]}" true 2>said.setarch || ! starts "${fixed[@]}" ./seeded; then
        echo "SKIP: ThreadSanitizer does not run on this kernel (vm.mmap_rnd_bits is too large for it), nor under setarch -R"
        exit 77
    fi
    echo "  under ${fixed[*]}: vm.mmap_rnd_bits is too large for ThreadSanitizer"
fi
check 'a seeded race is reported' sh -c '"$@"; [ $? = 66 ]' - "${fixed[@]}" ./seeded
[ -e /etc/OpenCL/vendors/pocl.icd ] && export OCL_ICD_VENDORS=/etc/OpenCL/vendors/pocl.icd
check configure "$source/configure" -q CFLAGS='-O1 -g -fsanitize=thread' LDFLAGS=-fsanitize=thread
for program in check_bootstraps check_stash; do
    check "build $program" ${MAKE:-make} -s tests/host/$program
    check "$program" timeout 1500 "${fixed[@]}" tests/host/$program
    grep -h 'threads\|functions' "said.$program"
    checks=$((checks + 1))
    if grep -q 'WARNING: ThreadSanitizer' "said.$program"; then
        failures=$((failures + 1))
        echo "FAILED: $program has reports"
        grep -A30 'WARNING: ThreadSanitizer' "said.$program" | head -90
    fi
done
echo "$((100 * (checks - failures) / checks))%: Checks: $checks, Failures: $failures, Errors: 0"
[ "$failures" = 0 ]
