#!/usr/bin/env bash
# Runs the tests that need a GPU, from a bundle (deploy/bundle.sh --tests), and ends with one line
# `N passed, N failed[, N skipped]` that counts test cases. Needs neither Bazel nor a network, but for
# the end-to-end tests Python with gRPC and NumPy.
#
#   tests/run_gpu.sh BUNDLE [--sanitize]
#
# --sanitize runs the kernels' tests under compute-sanitizer (memcheck, then racecheck) instead.
set -uo pipefail
if [ $# -lt 1 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
bundle=$(realpath "$1")
cd "$(dirname "$0")/.."
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
export TEST_TMPDIR="$results"
# A kernel that never ends must not keep the others from being tried.
seconds=300
run() { # NAME COMMAND...
  local name=$1
  shift
  if ! timeout "$seconds" "$@" >"$results/$name.log" 2>&1; then
    touch "$results/$name.failed"
    echo "=== $name failed"
    tail -n 60 "$results/$name.log"
  fi
}
# The sanitizer makes a test slow on the host: several share the GPU.
run_beside() { # NAME COMMAND...
  while [ "$(jobs -rp | wc -l)" -ge $((($(nproc) + 1) / 2)) ]; do wait -n; done
  run "$@" &
}

for test in "$bundle"/tests/*_test; do
  name=$(basename "$test")
  if [ "${2:-}" = --sanitize ]; then
    seconds=900
    case "$name" in forward_pass*) continue ;; esac
    for tool in memcheck racecheck; do
      run_beside "$name.$tool" compute-sanitizer --tool "$tool" --error-exitcode 99 "$test"
    done
  else
    run "$name" "$test"
  fi
done
if [ "${2:-}" = --sanitize ]; then
  # Whole models.
  for tool in memcheck racecheck; do
    run_beside "forward_pass.$tool" compute-sanitizer --tool "$tool" --error-exitcode 99 \
      "$bundle/tests/forward_pass_cuda_test" --gtest_filter='*GoldenModelsInInt8'
  done
  wait
else
  end_to_end=(gpu_test host_cache_test requests_test outage_test services_test golden_models_test
    trained_model_test memory_test)
  if [ ! -e /dev/nvidiactl ]; then
    printf 'test_all (%s) ... skipped no GPU\n' "${end_to_end[@]}" >"$results/end_to_end.log"
    end_to_end=()
  fi
  export GGUF_OFFLOAD_BACKEND=cuda GGUF_OFFLOAD_BINARIES="$bundle/programs"
  export PYTHONPATH="$PWD/tests/fault:$PWD/tests/e2e:$PWD/tests/clients/python:$bundle/tests/stubs"
  export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
  for name in "${end_to_end[@]}"; do
    run "$name" python3 tests/e2e/unittest_main.py "$name"
  done
fi

# GoogleTest's lines, then unittest's.
count() { # GTEST_PATTERN UNITTEST_PATTERN
  cat "$results"/*.log | grep -cE "$1|$2"
}
passed=$(count '^\[       OK \] ' ' \.\.\. ok$')
failed=$(count '^\[  FAILED  \] .* \([0-9]+ ms\)$' ' \.\.\. (FAIL|ERROR)$')
skipped_lines='^\[  SKIPPED \] .* \([0-9]+ ms\)$| \.\.\. skipped '
skipped=$(cat "$results"/*.log | grep -cE "$skipped_lines")
# With the reason, which GoogleTest prints in the lines before.
grep -hE -B2 "$skipped_lines" "$results"/*.log | grep -vE '^(--|$|\[ RUN)|: Skipped$'
grep -hE '^(ERROR SUMMARY|========= ERROR SUMMARY)' "$results"/*.log | sort | uniq -c
# A program that died has cases that were not counted.
failed_programs=$(find "$results" -name '*.failed' | wc -l)
[ "$failed_programs" -gt "$failed" ] && failed=$failed_programs
line="$passed passed, $failed failed"
[ "$skipped" -gt 0 ] && line="$line, $skipped skipped"
echo "$line"
[ "$failed" = 0 ] && [ $((passed + skipped)) -gt 0 ]
