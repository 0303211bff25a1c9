#!/bin/sh
# embed.sh SRCDIR FILE.cl...: a C file with each kernel source as a byte array, its
# #include "x.clh" lines (kernels/ only, one level deep per file, each once) replaced by the file.
set -eu
srcdir=$1; shift
expand() {
    ${AWK:-awk} -v dir="$srcdir/kernels" '
    function emit(file,   line) {
        if (file in seen) return
        seen[file] = 1
        while ((status = (getline line < file)) > 0) {
            if (line ~ /^#include "/) { split(line, part, "\""); emit(dir "/" part[2]) } else print line
        }
        if (status < 0) { print "embed.sh: cannot read " file > "/dev/stderr"; failed = 1 }
        close(file)
    }
    BEGIN { emit(ARGV[1]); exit failed }' "$1"
}
echo '/* Made by kernels/embed.sh. */'
echo '#include <string.h>'
echo '#include "kernels/operation.h"'
n=0
for file in "$@"; do
    text=$(mktemp)
    expand "$srcdir/$file" > "$text"
    echo "static const unsigned char source_$n[] = {"
    od -An -v -tu1 "$text" | sed 's/  */,/g; s/^,//; s/$/,/'
    echo '0};'
    rm -f "$text"
    n=$((n + 1))
done
echo 'static const struct { const char *name; const unsigned char *text; } sources[] = {'
n=0
for file in "$@"; do echo "    {\"$(basename "$file")\", source_$n},"; n=$((n + 1)); done
echo '    {NULL, NULL}};'
cat <<'C'
const char *wf_kernel_source(const char *name) {
    for (int i = 0; sources[i].name; i++)
        if (strcmp(sources[i].name, name) == 0) return (const char *)sources[i].text;
    return NULL;
}
C
