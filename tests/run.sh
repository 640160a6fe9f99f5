#!/usr/bin/env bash
# Installs what testing needs, builds everything, runs every test, and ends with one line
# `N passed, N failed[, N skipped]` that counts test cases. Fails if one of them does.
#
# GGUF_OFFLOAD_REFERENCE_MODELS may name a folder with trained models; the tests that want them are
# skipped otherwise. GGUF_OFFLOAD_FUZZ_SECONDS (60) is how long the parser is fuzzed.
set -uo pipefail
cd "$(dirname "$0")/.."

deploy/install_packages.sh || exit 1

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cases=()

# The JavaScript client's packages come from npm; without them its test is skipped, by name.
install_node_packages() {
  if ! command -v npm >/dev/null; then
    local sudo=''
    [ "$(id -u)" = 0 ] || sudo='sudo'
    $sudo apt-get update -qq &&
      $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null ||
      return 1
  fi
  (cd tests/clients/node && timeout 180 npm ci --no-audit --no-fund --loglevel=error)
}
node_modules=''
if install_node_packages; then
  node_modules="$PWD/tests/clients/node/node_modules"
else
  echo 'the packages of the JavaScript client could not be installed'
fi

bazel test //... --keep_going --test_output=summary --noshow_progress \
  --test_env=GGUF_OFFLOAD_NODE_MODULES="$node_modules" \
  --build_event_json_file="$results/events.json"
bazel_exit_code=$?

# The GGUF parser under AddressSanitizer, fed with damaged files.
weightd/gguf/fuzz.sh "${GGUF_OFFLOAD_FUZZ_SECONDS:-60}" >"$results/fuzz.log" 2>&1
cases+=(--case 'weightd/gguf/fuzz.sh' $? "$results/fuzz.log")

/usr/bin/python3 tests/e2e/summarize_results.py --events "$results/events.json" \
  --bazel-exit-code "$bazel_exit_code" "${cases[@]}"
