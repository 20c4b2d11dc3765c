#!/usr/bin/env bash
# The steps of action.yml, as a script that any CI can call and that the tests run.
#
#   action.sh install   puts kwsq into an environment of its own (INPUT_INSTALL=false: it is on PATH already)
#   action.sh run       converts, gates, writes summary.md and JUnit files, and ends with kwsq's exit code
#
# Everything the user chose comes in variables INPUT_*, never inside the text of a command: a model called `$(reboot)`
# is a file name. GITHUB_OUTPUT, GITHUB_PATH and GITHUB_STEP_SUMMARY are used where they are set.
set -euo pipefail

usage_error() {
    echo "kwsq action: $1" >&2
    set_output verdict usage-error
    set_output exit-code 2
    if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
        printf '### ❌ kwsq: %s\n' "$1" >>"$GITHUB_STEP_SUMMARY"
    fi
    exit 2
}

# A newline in a value would be a second entry.
set_output() {
    if [ -n "${GITHUB_OUTPUT:-}" ]; then
        printf '%s=%s\n' "$1" "$2" >>"$GITHUB_OUTPUT"
    fi
}

install() {
    if [ "${INPUT_INSTALL:-true}" = false ]; then
        command -v kwsq-convert >/dev/null || usage_error "install is false, and there is no kwsq-convert on PATH"
        return
    fi
    local python="${INPUT_PYTHON:-python3}" here environment
    here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    environment="${RUNNER_TEMP:-/tmp}/kwsq-environment"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        usage_error "kwsq needs Python >= 3.11, found $("$python" --version 2>&1 || true); name another with: python"
    "$python" -m venv "$environment"
    "$environment/bin/python" -m pip --disable-pip-version-check install --quiet "$here${INPUT_EXTRAS:+[$INPUT_EXTRAS]}" ||
        usage_error "kwsq could not be installed"
    if [ -n "${GITHUB_PATH:-}" ]; then
        echo "$environment/bin" >>"$GITHUB_PATH"
    fi
}

verdict_of() {
    case "$1" in
    0) echo pass ;;
    1) echo fail ;;
    2) echo usage-error ;;
    3) echo inconclusive ;;
    4) echo unsupported ;;
    5) echo invalid ;;
    130 | 143) echo interrupted ;;
    *) echo internal-error ;;
    esac
}

# Appends NAME=VALUE to the command where the user gave a value; the form with = keeps a value that begins with a dash
# from being an option.
option() {
    if [ -n "$2" ]; then
        command+=("$1=$2")
    fi
}

# One argument per line.
arguments() {
    local line
    while IFS= read -r line || [ -n "$line" ]; do
        line="${line%$'\r'}"
        if [ -n "$line" ]; then
            command+=("$line")
        fi
    done <<<"$1"
}

# What XML and HTML can hold of a log: cut, without control characters or broken UTF-8, escaped.
escaped() {
    { head -c 20000 "$1" || true; } | { iconv -f UTF-8 -t UTF-8 -c || true; } |
        LC_ALL=C tr -d '\000-\010\013-\037' |
        sed -e 's/&/\&amp;/g' -e 's/</\&lt;/g' -e 's/>/\&gt;/g' -e 's/"/\&quot;/g'
}

# Runs the command; its stdout and stderr are kept, and shown where the runner cannot take them for its own commands.
run_command() {
    local part="$1" token status=0
    "${command[@]}" >"$output/$part.txt" 2>"$output/$part.log" || status=$?
    token="kwsq$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
    echo "::stop-commands::$token"
    cat "$output/$part.txt" "$output/$part.log"
    printf '\n::%s::\n' "$token" # on a line of its own, however the log ended
    return "$status"
}

# Writes summary and JUnit of a part: what kwsq makes of its report or, where it left none, what it said.
render() {
    local part="$1" report="$2" status="$3" counts
    if [ -f "$report" ] && kwsq report "$report" --to md >>"$summary" 2>>"$output/$part.log" &&
        kwsq report "$report" --to junit >"$output/junit-$part.xml" 2>>"$output/$part.log"; then
        echo >>"$summary"
        return
    fi
    {
        echo "### $([ "$status" -eq 0 ] && echo ✅ || echo ❌) kwsq $part: $(verdict_of "$status") (exit code $status)"
        echo
        echo "<pre>$(escaped "$output/$part.log")</pre>"
        echo
    } >>"$summary"
    counts="tests=\"1\" failures=\"0\" errors=\"$((status != 0))\" skipped=\"0\""
    {
        echo '<?xml version="1.0" encoding="UTF-8"?>'
        echo "<testsuites $counts>"
        echo "<testsuite name=\"kwsq $part\" $counts>"
        echo "<testcase classname=\"kwsq.$part\" name=\"$(verdict_of "$status")\">"
        if [ "$status" -ne 0 ]; then
            echo "<error message=\"exit code $status\">$(escaped "$output/$part.log")</error>"
        fi
        echo "</testcase>"
        echo "</testsuite>"
        echo "</testsuites>"
    } >"$output/junit-$part.xml"
}

convert() {
    local status=0
    command=(kwsq-convert "--target=${INPUT_TARGET:-neon}" "--output=$output/conversion" --force)
    option --wbits "${INPUT_WBITS:-}"
    option --container "${INPUT_CONTAINER:-}"
    option --calibration "${INPUT_CALIBRATION:-}"
    option --data "${INPUT_DATA:-}"
    option --min-accuracy "${INPUT_MIN_ACCURACY:-}"
    option --config "${INPUT_CONFIG:-}"
    option --baseline "${INPUT_BASELINE:-}"
    arguments "${INPUT_ARGS:-}"
    command+=(-- "$INPUT_MODEL")
    run_command conversion || status=$?
    render conversion "$output/conversion/report.json" "$status"
    return "$status"
}

# The file that was converted, unless another candidate is named.
candidate() {
    local file
    if [ -n "${INPUT_CANDIDATE:-}" ]; then
        echo "$INPUT_CANDIDATE"
        return
    fi
    for file in model_int8.tflite model.tflite model.kwsq; do # what Vela compiled runs on its NPU alone
        if [ -f "$output/conversion/$file" ]; then
            echo "$output/conversion/$file"
            return
        fi
    done
}

gate() {
    local status=0
    command=(kwsq gate "--reference=$INPUT_REFERENCE" "--candidate=$(candidate)" "--output=$output/gate.json" --force)
    # Score files bring their own labels.
    if [ -z "${INPUT_CANDIDATE:-}" ] || [[ ! "$INPUT_CANDIDATE" =~ \.(csv|npz|parquet)$ ]]; then
        option --data "${INPUT_DATA:-}"
    fi
    option --config "${INPUT_CONFIG:-}"
    arguments "${INPUT_GATE_ARGS:-}"
    run_command gate || status=$?
    render gate "$output/gate.json" "$status"
    return "$status"
}

run() {
    local status=0
    output="${INPUT_OUTPUT:-kwsq-report}"
    summary="$output/summary.md"
    case "$output" in
    *[[:cntrl:]]* | -*) usage_error "output is not the name of a directory" ;;
    esac
    if [ -z "${INPUT_MODEL:-}" ] && { [ -z "${INPUT_REFERENCE:-}" ] || [ -z "${INPUT_CANDIDATE:-}" ]; }; then
        usage_error "nothing to do: name a model to convert, or a reference and a candidate to compare"
    fi
    mkdir -p "$output" || usage_error "the output directory cannot be made"
    # An earlier run's results must not pass for this one's.
    rm -f "$output"/{summary.md,gate.json,gate.txt,gate.log,conversion.txt,conversion.log,junit-gate.xml,junit-conversion.xml}
    rm -f "$output"/conversion/report.{json,html}
    : >"$summary"
    if [ -n "${INPUT_MODEL:-}" ]; then
        convert || status=$?
    fi
    if [ "$status" -eq 0 ] && [ -n "${INPUT_REFERENCE:-}" ]; then
        gate || status=$?
    fi
    if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
        cat "$summary" >>"$GITHUB_STEP_SUMMARY"
    fi
    set_output verdict "$(verdict_of "$status")"
    set_output exit-code "$status"
    set_output directory "$output"
    set_output summary "$summary"
    set_output junit "$output/junit-*.xml"
    set_output report "$([ -f "$output/conversion/report.json" ] && echo "$output/conversion/report.json")"
    set_output gate-report "$([ -f "$output/gate.json" ] && echo "$output/gate.json")"
    exit "$status"
}

case "${1:-}" in
install) install ;;
run) run ;;
*) usage_error "install or run" ;;
esac
