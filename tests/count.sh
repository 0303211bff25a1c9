#!/bin/sh
# count.sh [--failures] BUILD_DIR...: adds up the "Checks: N, Failures: F, Errors: E[, Skipped: S]" lines of all
# test logs into "N passed, N failed, N skipped". A test that failed without such a line counts
# as one failure; a skipped test counts as one skip, and so does each part that a test skipped (S). --failures shows what failing
# logs say of failures, wherever they say it, and the logs' ends.
set -eu
if [ "${1:-}" = --failures ]; then
    shift
    find "$@" -name '*.trs' 2>/dev/null | sort | while read -r result; do
        grep -q '^:test-result: \(FAIL\|ERROR\)' "$result" || continue
        log=${result%.trs}.log
        echo "==== ${result%.trs}"
        grep -nE 'FAILED|ERROR:|runtime error|:[FE]:|Killed|Aborted|egmentation|signal' "$log" | head -n 30 || true
        echo "---- its end"
        tail -n 30 "$log"
    done
    exit 0
fi
find "$@" -name '*.trs' 2>/dev/null | sort | while read -r result; do
    echo "TRS $(sed -n 's/^:test-result: //p' "$result" | head -n 1)"
    sed -n 's/^[0-9]*%: Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\)\(, Skipped: \)*\([0-9]*\).*/LINE \1 \2 \3 \5/p' "${result%.trs}.log" 2>/dev/null || true
done | awk '
    function close_test() {
        if (state == "FAIL" || state == "ERROR" || state == "XPASS") { if (!bad) failed++ }
        else if (state == "SKIP") skipped++
        else if (state == "PASS" && !lines) passed++
    }
    /^TRS/ { close_test(); state = $2; lines = 0; bad = 0 }
    /^LINE/ { lines++; skipped += state == "SKIP" ? 0 : $5; bad += $3 + $4; passed += $2 - $3 - $4; failed += $3 + $4 }
    END { close_test(); printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed == 0 }'
