#!/bin/sh
# tools.sh WORK: finds the compilers, prepares what they need under WORK and writes WORK/tools, shell
# variables for compile.sh: CLANG_AMD, AMD_LIB, CLANG_NV, NV_LIB, PTXAS, OCLOC, CLANG_CPU, CLANG_LINT, and TARGETS,
# those that a trivial kernel compiles for (of ISA_TARGETS, where that is set). Says aloud what is missing.
set -u
work=$1
here=$(dirname "$0")

packaged() { dpkg -L "$1" 2>/dev/null | grep -m 1 "$2"; } # a file of an installed package
first_file() { for f in "$@"; do [ -n "$f" ] && [ -e "$f" ] && { echo "$f"; return 0; }; done; return 1; }
clangs() { for c in ${CLANG:-} clang-22 clang-21 clang-20 clang-19 clang-18 clang-17 clang; do command -v "$c"; done 2>/dev/null; }

CLANG_AMD='' CLANG_NV='' CLANG_CPU='' CLANG_LINT=''
for c in $(clangs); do
    targets=$("$c" --print-targets 2>/dev/null) || continue
    [ -n "$CLANG_LINT" ] || CLANG_LINT=$c
    case $targets in *amdgcn*) [ -n "$CLANG_AMD" ] || CLANG_AMD=$c ;; esac
    case $targets in *nvptx64*) [ -n "$CLANG_NV" ] || CLANG_NV=$c ;; esac
    case $targets in *x86-64*) [ -n "$CLANG_CPU" ] || CLANG_CPU=$c ;; esac
done
isa=$(first_file "$(packaged rocm-device-libs oclc_isa_version_90a)" \
    "${ROCM_PATH:-/opt/rocm}/amdgcn/bitcode/oclc_isa_version_90a.bc") && AMD_LIB=$(dirname "$isa") || AMD_LIB=''
major=$("${CLANG_NV:-false}" -dumpversion 2>/dev/null | cut -d. -f1)
NV_LIB=$(first_file "$(packaged "libclc-$major" nvptx64--nvidiacl.bc)" \
    "$(pkg-config --variable=libexecdir libclc 2>/dev/null)/nvptx64--nvidiacl.bc") || NV_LIB=''
PTXAS=$(first_file "$(command -v ptxas)" "${CUDA_HOME:-/usr/local/cuda}/bin/ptxas" "$(packaged nvidia-cuda-toolkit bin/ptxas)") || PTXAS=''
OCLOC=$(command -v ocloc) || OCLOC=''
[ -n "$CLANG_AMD" ] && [ -n "$AMD_LIB" ] || { CLANG_AMD=''; echo "SKIP: no clang with amdgcn and rocm-device-libs: AMD is not checked"; }
[ -n "$CLANG_NV" ] && [ -n "$NV_LIB" ] && [ -n "$PTXAS" ] ||
    { CLANG_NV=''; echo "SKIP: no clang with nvptx64, libclc and ptxas: NVIDIA is not checked"; }
[ -n "$OCLOC" ] || echo "SKIP: no ocloc: Intel is not checked"
[ -n "$CLANG_CPU" ] || echo "SKIP: no clang with x86-64: CPUs' loops are not checked"

# The version of an instruction set is one constant; older device libraries lack those of newer chips.
amd_library() {
    lib=$work/amdlib
    mkdir -p "$lib"
    for f in "$AMD_LIB"/*.bc; do ln -sf "$f" "$lib/"; done
    for chip in 90a:9010 942:9402 1030:10300 1100:11000 1200:12000; do
        file=$lib/oclc_isa_version_${chip%%:*}.bc
        [ -e "$file" ] && continue
        echo "const __constant int __oclc_ISA_version = ${chip##*:};" >"$work/isa.cl"
        "$CLANG_AMD" -x cl -cl-std=CL2.0 --target=amdgcn-amd-amdhsa -nogpulib -emit-llvm -c "$work/isa.cl" -o "$file" || return 1
    done
    AMD_LIB=$lib
}
[ -z "$CLANG_AMD" ] || amd_library || exit 1

save() {
    for v in CLANG_AMD AMD_LIB CLANG_NV NV_LIB PTXAS OCLOC CLANG_CPU CLANG_LINT TARGETS; do eval "echo \"$v='\$$v'\""; done >"$work/tools"
}
TARGETS=''
save
wanted=''
[ -z "$CLANG_AMD" ] || wanted="gfx90a gfx942 gfx1030 gfx1100 gfx1200"
[ -z "$CLANG_NV" ] || wanted="$wanted sm_80 sm_90"
[ -z "$OCLOC" ] || wanted="$wanted tgllp dg2 pvc"
[ -z "$CLANG_CPU" ] || wanted="$wanted x86-64-v3 x86-64-v4"
for target in ${ISA_TARGETS:-$wanted}; do
    if sh "$here/compile.sh" "$work" "$target" probe "$here/seeded.cl" 'seeded=64,1,1;' -DSPILL=0 >"$work/probe.$target" 2>&1 &&
        grep -q "^$target seeded .* ok" "$work/probe.$target"; then
        TARGETS="$TARGETS $target"
    else
        echo "SKIP: nothing compiles for $target here: $(head -n 3 "$work/probe.$target" | tr '\n' ' ')"
    fi
done
save
