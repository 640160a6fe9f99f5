#!/usr/bin/env bash
# Runs the tests that need a GPU, from a bundle (deploy/bundle.sh --tests), and ends with one line
# `N passed, N failed[, N skipped]` that counts test cases. Needs neither Bazel nor a network.
#
#   tests/run_gpu.sh BUNDLE [--sanitize]
#
# --sanitize runs the kernels' tests under compute-sanitizer (memcheck, then racecheck) instead.
set -uo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
bundle=$(realpath "$1")
cd "$(dirname "$0")/.."
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
export TEST_TMPDIR="$results"
failed_programs=0

run() { # NAME COMMAND...
  local name=$1
  shift
  if ! "$@" >"$results/$name.log" 2>&1; then
    failed_programs=$((failed_programs + 1))
    echo "=== $name failed"
    tail -n 60 "$results/$name.log"
  fi
}

for test in "$bundle"/tests/*_test; do
  name=$(basename "$test")
  if [ "${2:-}" = --sanitize ]; then
    case "$name" in forward_pass*) continue ;; esac
    for tool in memcheck racecheck; do
      run "$name.$tool" compute-sanitizer --tool "$tool" --error-exitcode 99 "$test"
    done
  else
    run "$name" "$test"
  fi
done

passed=$(cat "$results"/*.log | grep -cE '^\[       OK \] ')
failed=$(cat "$results"/*.log | grep -cE '^\[  FAILED  \] .* \([0-9]+ ms\)$')
skipped=$(cat "$results"/*.log | grep -cE '^\[  SKIPPED \] .* \([0-9]+ ms\)$')
grep -hE '^\[  SKIPPED \] .* \([0-9]+ ms\)$' "$results"/*.log
grep -hE '^(ERROR SUMMARY|========= ERROR SUMMARY)' "$results"/*.log | sort | uniq -c
# A program that died has cases that were not counted.
[ "$failed_programs" -gt "$failed" ] && failed=$failed_programs
line="$passed passed, $failed failed"
[ "$skipped" -gt 0 ] && line="$line, $skipped skipped"
echo "$line"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
