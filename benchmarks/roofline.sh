#!/bin/sh
# roofline.sh [--output FILE.svg|FILE.png] [--date TEXT] FILE...: draws what `weft bench --json` printed into the FILEs (-:
# stdin) as a roofline: GFLOP/s over flops per byte, under the measured peaks. Default: roofline.svg, dated as the newest FILE.
set -eu
says() { echo "roofline: $1" >&2; }
output=roofline.svg date='' width=1000 height=700
while [ $# -gt 0 ]; do
    case $1 in
    --output | --date)
        [ $# -gt 1 ] || { says "$1 needs a value"; exit 2; }
        [ "$1" = --date ] && date=$2 || output=$2
        shift 2 ;;
    --help) sed -n '2,3s/^# //p' "$0"; exit 0 ;;
    --*) says "unknown option $1"; exit 2 ;;
    *) break ;;
    esac
done
[ $# -gt 0 ] || { says "which files? (--help)"; exit 2; }
case $output in
*.svg) terminal="svg size $width,$height background '#ffffff'" scales='' mark=0.65 ;;
*.png) terminal="pngcairo size $((2 * width)),$((2 * height))" scales='fontscale 1.5 linewidth 2 pointscale 2' mark=1 ;;
*) says "$output: neither .svg nor .png"; exit 2 ;;
esac
command -v gnuplot >/dev/null || { says "gnuplot is missing (Debian: gnuplot-nox), so nothing is drawn"; exit 77; }

dated=
for file; do
    case $file in
    -) dated=$(date -u +%Y-%m-%d) ;;
    [!/]*=*) file=./$file ;; # awk takes a=b for an assignment
    esac
    [ "$file" = - ] || { [ -f "$file" ] && [ -r "$file" ]; } || { says "$file: no file to read"; exit 1; }
    set -- "$@" "$file"
    shift
done
: "${dated:=$(date -u -r "$(ls -t "$@" 2>/dev/null | head -n 1)" +%Y-%m-%d)}" "${date:=$dated}"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
LC_ALL=C awk -v date="$date" -v width=$width -v height=$height -f "$(dirname "$0")/roofline.awk" "$@" >"$scratch/data"
cat >"$scratch/script" <<END
set encoding utf8
mark = $mark; dark = '#444444'; small = ',12'; large = ',20'
# Okabe and Ito's colours: those who do not see all of them still tell these apart, and the marks differ too.
array colours[5] = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00']
array marks[5] = [7, 5, 9, 11, 13]
set terminal $terminal noenhanced font 'Helvetica,14' $scales
load '$scratch/data'
set output '$scratch/picture'
set logscale xy
set mxtics 10; set mytics 10
set grid xtics ytics mxtics mytics linetype 1 linewidth 0.8 linecolor rgb '#d0d0d0', \\
    linetype 1 linewidth 0.5 linecolor rgb '#ebebeb'
set border 3 linecolor rgb '#888888'
set style textbox opaque margins 0.3, 0.2 fillcolor rgb 'white' noborder
set tics nomirror textcolor rgb dark
set xlabel 'arithmetic intensity: flops per byte, every operand moved once' textcolor rgb dark
set ylabel 'GFLOP/s' textcolor rgb dark
set samples 1000
roof(v) = v < ridge ? band * v : peak
set arrow from ridge, graph 0 to ridge, peak nohead linewidth 1 dashtype '.' linecolor rgb dark
plot roof(x) notitle with lines linewidth 2 linecolor rgb 'black', \\
    for [g = 1:groups] \$points using 1:(\$3 == g ? \$2 : NaN) notitle with points pointtype marks[g] pointsize mark \\
    linecolor rgb colours[g]
END
gnuplot "$scratch/script"
mv "$scratch/picture" "$output"
