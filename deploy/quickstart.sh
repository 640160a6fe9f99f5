#!/usr/bin/env bash
# From a fresh clone to generated text: installs packages where they are missing, builds, starts both
# daemons on the loopback, streams a generation, and shows where the weights are.
#
#   deploy/quickstart.sh [--keep] [MODEL.gguf]
#
# Without MODEL.gguf it asks the two small models of tests/demo_model/models, a dense one and one with
# experts, two questions each, whose answers you can check. --keep leaves the daemons running. PROMPT
# in the environment replaces what MODEL.gguf is to continue.
set -euo pipefail
keep=''
model=''
for argument in "$@"; do
  case "$argument" in
    --keep) keep=yes ;;
    -h | --help)
      sed -n '2,9s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    -*)
      echo "quickstart.sh: unknown flag $argument" >&2
      exit 1
      ;;
    *) model=$(realpath "$argument") ;;
  esac
done
cd "$(dirname "$0")/.."
models=("$model")
if [ -z "$model" ]; then
  models=(tests/demo_model/models/demo-dense.gguf tests/demo_model/models/demo-moe.gguf)
fi
for model in "${models[@]}"; do
  if [ ! -r "$model" ]; then
    echo "quickstart.sh: cannot read $model" >&2
    exit 1
  fi
done
prompt=${PROMPT:-Once upon a time}

# What a demo model is asked: $questions. None of it was in what the model has learned from.
choose_questions() { # NAME
  questions=()
  case "$1" in
    demo-dense) questions=('What is 96 + 69?' 'Leo has a green cup. The cup is in the shop. In the tower there is a red kite. Tom has the kite. Where is the kite?') ;;
    demo-moe) questions=('What is 54 + 69?' 'Sort this: owl, fox, wolf, newt, bear') ;;
  esac
}

deploy/install_packages.sh
echo '== building (minutes the first time)'
bazel build --noshow_progress --ui_event_filters=-info \
  //weightd //computed //computed/cli:offloadctl

bin=$(bazel info bazel-bin 2>/dev/null)
run=$(mktemp -d "${TMPDIR:-/tmp}/gguf-offload.XXXXXX")
pids=()
stop() {
  [ -n "$keep" ] && [ "${started:-}" = all ] && return
  # The workers first: they hold leases on the weights.
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$run"
}
trap stop EXIT

# Starts a daemon and sets $address to what it listens on. Its standard error goes to $run/NAME.log.
start() {
  local name=$1
  shift
  : >"$run/$name.out"
  "$@" >"$run/$name.out" 2>"$run/$name.log" &
  pids=($! "${pids[@]}")
  until address=$(sed -n 's/^listening on //p' "$run/$name.out") && [ -n "$address" ]; do
    if ! kill -0 "${pids[0]}" 2>/dev/null; then
      echo "$name did not start:" >&2
      cat "$run/$name.log" >&2
      exit 1
    fi
    sleep 0.1
  done
}

served=()
for model in "${models[@]}"; do served+=("--model=$(basename "$model" .gguf)=$model"); done
start weightd "$bin"/weightd/weightd "${served[@]}" --listen=127.0.0.1:0 --socket="$run/weightd.sock"
weights=$address
ctl=$bin/computed/cli/offloadctl
echo "== offloadctl models --weights=$weights"
"$ctl" models --weights="$weights"

workers=()
for model in "${models[@]}"; do
  name=$(basename "$model" .gguf)
  echo "== starting computed for $name"
  start "computed-$name" "$bin"/computed/computed --weights="unix:$run/weightd.sock" \
    --model="$name" --listen=127.0.0.1:0
  worker=$address
  workers+=("$worker")
  choose_questions "$name"
  for question in "${questions[@]}"; do
    echo "== offloadctl generate --worker=$worker --chat --prompt='$question'"
    "$ctl" generate --worker="$worker" --chat --prompt="$question"
  done
  if [ ${#questions[@]} = 0 ]; then
    echo "== offloadctl generate --worker=$worker --prompt='$prompt' --max-tokens=48"
    "$ctl" generate --worker="$worker" --prompt="$prompt" --max-tokens=48
  fi
  echo "== offloadctl placement --worker=$worker"
  "$ctl" placement --worker="$worker"
done
started=all

if [ -n "$keep" ]; then
  cat <<EOT
== still running: weightd at $weights, computed at ${workers[*]}
   talk to them with bazel-bin/computed/cli/offloadctl
   stop them with: kill ${pids[*]}; rm -r $run
EOT
fi
