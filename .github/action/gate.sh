#!/usr/bin/env bash
# The steps of action.yml as plain shell, so that other CI systems and the tests can run them too.
# Everything comes in through KWSQ_* variables: nothing of the caller's is ever parsed as shell.
# Writes the job summary, a JUnit file per stage and the action's outputs; ends with kwsq's exit code.
set -uo pipefail

output="${KWSQ_OUTPUT:-kwsq-out}"
summary="${GITHUB_STEP_SUMMARY:-/dev/null}"
outputs="${GITHUB_OUTPUT:-/dev/null}"
junit="$output.junit.xml"
gate_report="$output.gate.json"
gate_junit="$output.gate.junit.xml"

publish() { # verdict exit-code
    {
        echo "verdict=$1"
        echo "exit-code=$2"
        echo "directory=$output"
        echo "junit=$junit"
    } >>"$outputs"
}

# Text of a message as XML and HTML show it, without control characters.
escaped() { LC_ALL=C tr -d '\000-\010\013-\037\177' | sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g'; }

refused() { # exit-code messages-file junit-file
    {
        echo "### ❌ kwsq refused the model (exit code $1)"
        echo
        echo "<pre>"
        head -c 30000 "$2" | escaped
        echo "</pre>"
    } >>"$summary"
    {
        echo '<?xml version="1.0" encoding="UTF-8"?>'
        echo '<testsuites tests="1" failures="1" errors="0" skipped="0">'
        echo '<testsuite name="kwsq" tests="1" failures="1" errors="0" skipped="0">'
        printf '<testcase classname="kwsq" name="command"><failure type="exit code %s">' "$1"
        head -c 30000 "$2" | escaped
        echo '</failure></testcase></testsuite></testsuites>'
    } >"$3"
}

verdict_of() {
    case "$1" in
    0) echo pass ;;
    1) echo fail ;;
    3) echo inconclusive ;;
    *) echo refused ;;
    esac
}

report() { # report.json junit-file
    kwsq report "$1" --to md >>"$summary" && kwsq report "$1" --to junit >"$2"
}

messages="$(mktemp)"
trap 'rm -f "$messages"' EXIT

read -r -a further <<<"${KWSQ_ARGUMENTS:-}"
command=(kwsq-convert "${KWSQ_MODEL:?no model}" --target "${KWSQ_TARGET:-neon}" -o "$output")
[ -n "${KWSQ_WBITS:-}" ] && command+=(--wbits "$KWSQ_WBITS")
[ -n "${KWSQ_CALIBRATION:-}" ] && command+=(--calibration "$KWSQ_CALIBRATION")
[ -n "${KWSQ_DATA:-}" ] && command+=(--data "$KWSQ_DATA")
[ -n "${KWSQ_CONFIG:-}" ] && command+=(--config "$KWSQ_CONFIG")
[ -n "${KWSQ_BASELINE:-}" ] && command+=(--baseline "$KWSQ_BASELINE")
command+=("${further[@]}")

"${command[@]}" 2> >(tee "$messages" >&2)
code=$?
wait # for tee to have written everything

case "$code" in
0 | 1 | 3) report "$output/report.json" "$junit" || exit 70 ;;
*) refused "$code" "$messages" "$junit" ;;
esac

if [ "$code" -eq 0 ] && [ -n "${KWSQ_REFERENCE:-}${KWSQ_CANDIDATE:-}" ]; then
    gate=(kwsq gate --reference "${KWSQ_REFERENCE:-}" --candidate "${KWSQ_CANDIDATE:-}" -o "$gate_report" --force)
    [ -n "${KWSQ_GATE_DATA:-}" ] && gate+=(--data "$KWSQ_GATE_DATA")
    [ -n "${KWSQ_CONFIG:-}" ] && gate+=(--config "$KWSQ_CONFIG")
    "${gate[@]}" 2> >(tee "$messages" >&2)
    code=$?
    wait
    case "$code" in
    0 | 1 | 3) report "$gate_report" "$gate_junit" || exit 70 ;;
    *) refused "$code" "$messages" "$gate_junit" ;;
    esac
fi

publish "$(verdict_of "$code")" "$code"
exit "$code"
