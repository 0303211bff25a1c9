#!/bin/bash
# abi.sh symbols|layout CC FOLDER [CFLAGS]: what weft.h and weft_mpi.h in a folder promise to compiled programs.
#   symbols   the calls that are exported, one a line: host/api/weft.sym
#   layout    each struct's bytes, each field's offset and bytes, each constant's value, each call's signature:
#             host/api/weft.abi. The numbers are the compiler's own: a program made here is compiled and run.
set -euo pipefail
what=$1 cc=$2 folder=$3
shift 3
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
# Only what the two headers say, a declaration a line (a struct's with its fields), comments gone. Line marks tell whose a line is.
printf '#include <weft.h>\n#include <weft_mpi.h>\n' | $cc -E "$@" -I"$folder" - |
    awk '/^# / { mine = $3 ~ /\/weft(_mpi)?\.h"$/; next } mine' | tr '\n\t' '  ' |
    sed 's/extern "C" {//g; s/__attribute__((visibility("default")))/EXPORT/g; s/_Bool/bool/g; s/  */ /g; s/( /(/g' |
    awk -v RS=';' '{ sub(/^ */, ""); depth += gsub(/{/, "{") - gsub(/}/, "}"); text = text $0 ";"; if (!depth) { print text; text = "" } }' \
        >"$stage/declarations"
if [ "$what" = symbols ]; then
    sed -n 's/^EXPORT [^(]*[ *]\(weft_[a-z0-9_]*\) *(.*/\1/p' "$stage/declarations" | LC_ALL=C sort -u
    exit
fi
# A field's name is the last word of a declarator, or stands in (*name)(...) where it is a function's address.
awk '
    function field(of, text) {
        if (match(text, /\(\*[a-z0-9_]+\)/)) text = substr(text, RSTART + 2, RLENGTH - 3)
        else { sub(/\[.*/, "", text); sub(/ *$/, "", text); sub(/.*[ *]/, "", text) }
        printf "    FIELD(%s, %s);\n", of, text
    }
    /^typedef struct [a-z_0-9]+ {/ {
        name = $3
        sub(/^[^{]*{/, ""); sub(/}[^}]*$/, "")
        printf "    printf(\"struct %s: %%zu bytes\\n\", sizeof(%s));\n", name, name
        n = split($0, declaration, ";")
        for (i = 1; i <= n; i++) {
            if (declaration[i] !~ /[a-z]/) continue
            if (declaration[i] ~ /\(/) { field(name, declaration[i]); continue }
            m = split(declaration[i], declarator, ",")
            for (j = 1; j <= m; j++) field(name, declarator[j])
        }
    }
    /^typedef enum [a-z_0-9]+ {/ {
        sub(/^[^{]*{/, ""); sub(/}[^}]*$/, "")
        n = split($0, value, ",")
        for (i = 1; i <= n; i++) {
            sub(/=.*/, "", value[i]); gsub(/ /, "", value[i])
            if (value[i] != "") printf "    printf(\"%s = %%lld\\n\", (long long)%s);\n", value[i], value[i]
        }
    }
    /^EXPORT / { sub(/^EXPORT /, ""); gsub(/"/, ""); printf "    puts(\"%s\");\n", $0 }
' "$stage/declarations" >"$stage/body"
{
    printf '#include <stddef.h>\n#include <stdio.h>\n#include <weft.h>\n#include <weft_mpi.h>\n'
    printf '#define FIELD(s, f) printf("    " #s "." #f ": at %%zu, %%zu bytes\\n", offsetof(s, f), sizeof(((s *)0)->f))\n'
    printf 'int main(void) {\n'
    cat "$stage/body"
    printf '    return 0;\n}\n'
} >"$stage/layout.c"
$cc "$@" -I"$folder" "$stage/layout.c" -o "$stage/layout"
"$stage/layout"
