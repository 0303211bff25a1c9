# roofline.awk: what `weft bench --json` prints, one run of one rank after another, as gnuplot's data, names and labels of
# a roofline. The page is laid out here, in pixels: a label stands where no point, roof or other label is, or not at all.
# Roofs are the largest peaks of all runs, as noise mostly lowers them. Given: date, the picture's; width and height.

function refuse(sentence) {
    print "roofline: " sentence > "/dev/stderr"
    refused = 1
    exit 1
}
function real(key) {
    if (!match($0, "\"" key "\":[-+.0-9eE]+")) return -1
    return substr($0, RSTART + length(key) + 3, RLENGTH - length(key) - 3) + 0
}
function text(key,    s) {
    if (!match($0, "\"" key "\":\"([^\"\\\\]|\\\\.)*\"")) return ""
    s = substr($0, RSTART + length(key) + 4, RLENGTH - length(key) - 5)
    gsub(/\\/, "", s)
    return s
}
function quoted(s) {
    gsub(/\047/, "\047\047", s)
    return "\047" s "\047"
}
function least(a, b) { return a < b ? a : b }
function most(a, b) { return a > b ? a : b }
function figure(v) { return sprintf(v >= 1000 ? "%.0f" : "%.3g", v) }
function count(many, what) { return many " " what (many == 1 ? "" : "s") }

# ---- reading

function read_machine(    flops, bytes) {
    if (real("rank") > 0) refuse(FILENAME ": a run of several ranks; a roofline is of one")
    if (runs && text("device") != device) refuse(FILENAME ": of " text("device") ", but what came before of " device)
    device = text("device"); driver = text("platform") ", " text("driver")
    flops = real("peak_gflops"); bytes = real("peak_gb_per_s")
    low_peak = runs ? least(low_peak, flops) : flops
    low_band = runs ? least(low_band, bytes) : bytes
    peak = most(peak, flops); band = most(band, bytes)
    runs++
}
function read_case(    part, bytes) {
    bytes = real("gb_per_s"); y[n + 1] = real("gflops")
    if (y[n + 1] <= 0 || bytes <= 0) { without++; return }
    split(text("case"), part, ":")
    x[++n] = y[n] / bytes
    group[n] = part[1] in place ? place[part[1]] : groups
    name[n] = group[n] == groups ? part[1] : part[3] (part[1] == "gemm" ? ":" part[4] : "")
    members[group[n]]++
}
function roof(intensity) { return least(peak, band * intensity) }

# ---- the page, in pixels from its lower left

function lay_out(    i) {
    left = 84; right = width - 26; bottom = 164; top = height - 84
    ridge = peak / band
    x0 = x1 = ridge; y0 = y1 = peak
    for (i = 1; i <= n; i++) {
        x0 = least(x0, x[i]); x1 = most(x1, x[i])
        y0 = least(y0, y[i]); y1 = most(y1, y[i])
        if (y[i] > 1.05 * roof(x[i])) above++
    }
    x0 /= 3; x1 *= 3; y0 /= 2.5; y1 *= 1.8
    per_x = (right - left) / log(x1 / x0); per_y = (top - bottom) / log(y1 / y0)
}
function across(v) { return left + per_x * log(v / x0) }
function up(v) { return bottom + per_y * log(v / y0) }
function at(px, py) { return sprintf("at screen %.4f, screen %.4f", px / width, py / height) }
function margin(side, share) { return sprintf("set %smargin at screen %.4f; ", side, share) }
function label(px, py, s, style) { print "set label " quoted(s) " " at(px, py) " noenhanced " style }

# The box of a label is kept free from now on.
function keep(l, b, r, t) { box_l[++boxes] = l; box_b[boxes] = b; box_r[boxes] = r; box_t[boxes] = t }
function is_free(l, b, r, t,    i) {
    if (l < left + 4 || r > right - 4 || b < bottom + 4) return 0
    if (t > up(roof(x0 * exp((l - left) / per_x))) - 3) return 0 # the roof rises: its left end is the lowest
    for (i = 1; i <= boxes; i++)
        if (l < box_r[i] && r > box_l[i] && b < box_t[i] && t > box_b[i]) return 0
    return 1
}
# Tries right, left, below and above of point i; 1: there was room.
function name_point(i,    w, h, px, py, k, l, b) {
    w = 6.8 * length(name[i]); h = 14; px = across(x[i]); py = up(y[i])
    for (k = 1; k <= 4; k++) {
        l = k == 1 ? px + 9 : k == 2 ? px - 9 - w : px - w / 2
        b = k <= 2 ? py - h / 2 : k == 3 ? py - 8 - h : py + 8
        if (!is_free(l - (k == 2 ? 12 : 0), b, l + w + (k == 1 ? 12 : 0), b + h)) continue # not to seem another's
        keep(l, b, l + w, b + h)
        label(k == 1 ? l : k == 2 ? l + w : l + w / 2, b + h / 2, name[i],
              (k == 1 ? "left" : k == 2 ? "right" : "center") " font small textcolor rgb dark front boxed")
        return 1
    }
    return 0
}
# Of group g, the point where value[] is largest.
function best(g, value,    i, b) {
    for (i = 1; i <= n; i++)
        if (group[i] == g && (!b || value[i] > value[b])) b = i
    return b
}
# What memory bounds: each operation once, its last case first. Else each group's fastest and its least intensive.
function name_points(    i, g, named) {
    for (i = 1; i <= n; i++) keep(across(x[i]) - 8, up(y[i]) - 6, across(x[i]) + 8, up(y[i]) + 6)
    for (i = n; i >= 1; i--)
        if (group[i] == groups && !named[name[i]]) named[name[i]] = name_point(i)
    for (i = 1; i <= n; i++) less[i] = -x[i]
    for (g = 1; g < groups; g++) {
        if (!members[g]) continue
        name_point(best(g, y))
        if (x[best(g, less)] < x[best(g, y)]) name_point(best(g, less))
    }
}
# How many points lie where a label of w pixels along the slanted roof, middle at intensity v, would.
function points_along(v, w, slope,    i, dx, dy, along, over, many) {
    for (i = 1; i <= n; i++) {
        dx = across(x[i]) - across(v); dy = up(y[i]) - up(band * v)
        along = dx * cos(slope) + dy * sin(slope); over = dy * cos(slope) - dx * sin(slope)
        many += along > -w / 2 - 8 && along < w / 2 + 8 && over > -2 && over < 32
    }
    return many + 0
}
function name_roofs(    slope, low, v, middle, k, px, py, s) {
    slope = atan2(per_y, per_x); low = most(x0, y0 / band); s = figure(band) " GB/s of main memory"
    for (k = 0; k <= 8; k++) { # from the middle outwards: the first place with fewest points
        v = low * (ridge / low) ^ (0.5 + (k % 2 ? 1 : -1) * 0.04 * k)
        if (k && points_along(v, 8 * length(s), slope) >= points_along(middle, 8 * length(s), slope)) continue
        middle = v
    }
    px = across(middle) - 15 * sin(slope); py = up(band * middle) + 15 * cos(slope)
    label(px, py, s, sprintf("center rotate by %.1f textcolor rgb dark", slope * 57.29578))
    label(right - 8, up(peak) + 14, figure(peak) " GFLOP/s of f32 multiply-adds", "right textcolor rgb dark")
    s = "ridge: " figure(ridge) " flops per byte"
    label(across(ridge) + 8, bottom + 14, s, "left font small textcolor rgb dark")
    keep(across(ridge), bottom, across(ridge) + 8 + 6.8 * length(s), bottom + 24)
}
function caption(    s) {
    label(left, height - 28, "Roofline of weft on " device, "left font large")
    label(left, height - 56, driver "; " date, "left textcolor rgb dark")
    s = "A point is a case's fastest sample. The roofs are measured: "
    if (runs > 1)
        s = s sprintf("the largest of %d runs (%s to %s GFLOP/s, %s to %s GB/s).", runs, figure(low_peak), figure(peak),
                      figure(low_band), figure(band))
    else s = s "once, in the cases' own run."
    label(left, 40, s, "left font small textcolor rgb dark")
    s = above ? "Over the roof: caches hold the operands, or a roof was measured at a worse moment. " : ""
    if (without || skipped) s = s "Not drawn: " absent() "."
    label(left, 20, s, "left font small textcolor rgb dark")
}
function absent() {
    return (without ? count(without, "case") " without flops" : "") (without && skipped ? ", " : "") \
        (skipped ? skipped " skipped" : "")
}

function print_points(    i) {
    print "$points << end"
    for (i = 1; i <= n; i++) print x[i], y[i], group[i]
    print "end"
}
function print_key(    g, px, s) {
    px = left + 6
    for (g = 1; g <= groups; g++) {
        if (!members[g]) continue
        s = title[g] " (" members[g] ")"
        label(px, bottom - 90, s, "left offset 1, -0.15 point pointtype marks[" g "] pointsize mark linecolor rgb colours[" g "]")
        px += 44 + 7.6 * length(s)
    }
}

BEGIN {
    groups = split("gemm,attention,attention backward,blocks,memory-bound", title, ",")
    place["gemm"] = 1; place["attention"] = 2; place["attention_backward"] = 3; place["block"] = 4
}
/^[{]"rank":.*"peak_gflops":.*"peak_gb_per_s":.*[}]$/ { read_machine(); next }
FNR > 1 && /^[{]"case":.*"gflops":.*"gb_per_s":.*[}]$/ { read_case(); next }
FNR > 1 && /^[{]"case":.*"skipped":.*[}]$/ { skipped++; next }
{ refuse(FILENAME ", line " FNR ": not of weft bench --json") }
END {
    if (refused) exit 1
    if (!runs) refuse("nothing of weft bench --json to draw")
    if (without || skipped) print "roofline: not drawn: " absent() > "/dev/stderr"
    if (!n) refuse("no case has both flops and bytes")
    lay_out()
    print "peak = " peak "; band = " band "; ridge = " ridge "; groups = " groups
    print margin("l", left / width) margin("r", right / width) margin("b", bottom / height) margin("t", top / height)
    print "set xrange [" x0 ":" x1 "]\nset yrange [" y0 ":" y1 "]"
    caption()
    name_roofs()
    name_points()
    print_key()
    print_points()
}
