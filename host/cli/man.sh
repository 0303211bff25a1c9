#!/bin/sh
# man.sh WEFT VERSION: weft(1) on stdout, made of what `weft --help` and each command's --help say, so that the
# page cannot part from them.
set -eu
weft=$1 version=$2
escape() { sed -e 's/\\/\\e/g' -e "s/^\([.']\)/\\\\\&\1/" -e 's/-/\\-/g'; }
help_of() { ASAN_OPTIONS=detect_leaks=0 "$weft" "$@" --help </dev/null; }
commands=$(help_of | sed -n 's/^  \([a-z][a-z]*\)  .*/\1/p')
test -n "$commands"
cat <<END
.TH WEFT 1 "" "weft $version" "User Commands"
.SH NAME
weft \\- Transformer blocks split over any OpenCL devices
.SH SYNOPSIS
.B weft
.I COMMAND
.RI [ OPTION ...]
.SH DESCRIPTION
Trains and runs Transformers whose blocks are split over several devices, across heads and features (tensor parallel)
and along the sequence (sequence parallel). A command starts itself under
.BR mpirun (1)
with the ranks that its layout needs; under mpirun or Slurm it joins.
.SH COMMANDS
END
for command in $commands; do
    printf '.SS weft %s\n.nf\n' "$command"
    help_of "$command" | escape
    printf '.fi\n'
done
cat <<'END'
.SH ENVIRONMENT
.B weft info
lists every variable that begins with WEFT_, its value and its meaning. --device, --transport and --timeout override
theirs; for the library, every variable stands in for a field of weft_context_options that was left out.
.SH EXIT STATUS
.IP 0
done
.IP 1
a check failed
.IP 2
usage
.IP 3
the environment: no device, no memory, a file
.PP
One line on stderr says why.
.SH SEE ALSO
.BR mpirun (1),
the header weft.h, which is the manual of the library.
END
