#!/bin/sh
# result.sh NAME COMMAND...: runs a long check outside of `make check` as automake's driver would: what it
# says goes to NAME.log and the terminal, its verdict to NAME.trs, where tests/count.sh counts it.
# 77 is a skip, which succeeds.
name=$1
shift
mkdir -p "$(dirname "$name")"
rm -f "$name.log" "$name.trs"
{ "$@" 2>&1; echo $? >"$name.status"; } | tee "$name.log"
status=$(cat "$name.status")
rm -f "$name.status"
case $status in
    0) result=PASS ;;
    77) result=SKIP ;;
    *) result=FAIL ;;
esac
echo ":test-result: $result" >"$name.trs"
echo "$result: $name"
[ $result != FAIL ]
