# loops.awk: the innermost loops of a kernel that clang has compiled to x86-64 assembly, those with at least `least` multiply-adds; a
# line for each:
#
#     function multiply-adds instructions stack
#
# stack: of the instructions, those that reach into the stack. A loop: from a label to a jump back to it, without another such jump
# inside.
function is_instruction(s) { return s ~ /^[ \t]+[a-z]/ }
function is_multiply_add(s) { return s ~ /^[ \t]+vfn?m(add|sub)[0-9]+ps[ \t]/ }
function is_on_stack(s) { return s ~ /\(%r[sb]p/ }
/^[.A-Za-z_][.A-Za-z_0-9]*:/ { label = $1; sub(/:.*/, "", label); place[label] = lines; if (label !~ /^\.L/) name = label; next }
{ sub(/#.*/, "") }
!is_instruction($0) { next }
{ line[++lines] = $0 }
/^[ \t]+j[a-z]+[ \t]/ {
    target = $NF
    if (!(target in place) || place[target] < jumped) next
    products = stack = 0
    for (i = place[target] + 1; i <= lines; i++) { products += is_multiply_add(line[i]); stack += is_on_stack(line[i]) }
    jumped = lines
    if (products >= least) print name, products, lines - place[target], stack
}
