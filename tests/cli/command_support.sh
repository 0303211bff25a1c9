# command_support.sh: what the scripts that test the command share; sourced. `weft` is the command, `scratch` a folder
# that is removed at the end; checks and failures are counted for the line that tests/count.sh reads.
weft=${top_builddir:-.}/weft
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
checks=0 failures=0

fails() { failures=$((failures + 1)); echo "FAILED: $*"; sed 's/^/  stderr: /' "$scratch/err" | head -5; }
# run: the command with a wall-clock limit; stdout and stderr to files; its status in $status.
run() { timeout 120 "$@" >"$scratch/out" 2>"$scratch/err" </dev/null; status=$?; checks=$((checks + 1)); }
# mistake STATUS PATTERN COMMAND...: one line on stderr, nothing on stdout
mistake() {
    local want=$1 pattern=$2; shift 2
    run "$@"
    [ $status = "$want" ] || { fails "exit status $status, not $want: $*"; return; }
    [ "$(wc -l <"$scratch/err")" = 1 ] || { fails "not one line on stderr: $*"; return; }
    grep -qE -- "$pattern" "$scratch/err" || { fails "no '$pattern': $*"; return; }
    [ ! -s "$scratch/out" ] || fails "stdout is not empty: $*"
}
# fine PATTERN COMMAND...: pattern in stdout
fine() {
    local pattern=$1; shift
    run "$@"
    [ $status = 0 ] || { fails "exit status $status: $*"; return; }
    grep -qE -- "$pattern" "$scratch/out" || fails "no '$pattern' on stdout: $*"
}
# holds WHAT COMMAND...: a check of its own
holds() {
    local what=$1; shift
    checks=$((checks + 1))
    "$@" || fails "$what"
}
finish() {
    echo "100%: Checks: $checks, Failures: $failures, Errors: 0"
    [ $failures = 0 ]
}

# config KEY=VALUE...: a small gpt2's config.json with these values changed or added; its path is printed
config() {
    local file=$scratch/config.json separator='{' key
    local -A value=([model_type]='"gpt2"' [n_layer]=2 [n_embd]=48 [n_head]=3 [n_positions]=64 [vocab_size]=257)
    for change in "$@"; do value[${change%%=*}]=${change#*=}; done
    : >"$file"
    for key in "${!value[@]}"; do printf '%s"%s": %s' "$separator" "$key" "${value[$key]}" >>"$file"; separator=', '; done
    echo '}' >>"$file"
    echo "$file"
}
# paragraphs FILE: text to train on
paragraphs() {
    seq 1 600 | sed 's/.*/Paragraph & says that the quick brown fox number & jumps over the lazy dog.\n/' >"$1"
}
# ids FORMAT ID...: printf formats of bytes; little-endian numbers on stdout. FORMAT: 2 or 4 (bytes each)
ids() {
    local width=$1 id byte; shift
    for id in "$@"; do
        for ((byte = 0; byte < width; byte++)); do printf "\\x$(printf %02x $(((id >> (8 * byte)) & 255)))"; done
    done
}
# npy TYPE SHAPE: a .npy file of the header (format 1.0) and what is on stdin; on stdout
npy() {
    local header
    header=$(printf "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" "$1" "$2")
    printf '\x93NUMPY\x01\x00\x76\x00%-117s\n' "$header"
    cat
}
