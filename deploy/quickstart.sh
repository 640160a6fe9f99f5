#!/usr/bin/env bash
# From a fresh clone to generated text: installs packages where they are missing, builds, starts both
# daemons on the loopback, streams a generation, and shows where the weights are.
#
#   deploy/quickstart.sh [--keep] [MODEL.gguf]
#
# Without MODEL.gguf a demo model is made: it has the shape of a small one but random weights, so its
# text is nonsense. --keep leaves the daemons running. PROMPT in the environment replaces the prompt.
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
if [ -n "$model" ] && [ ! -r "$model" ]; then
  echo "quickstart.sh: cannot read $model" >&2
  exit 1
fi
cd "$(dirname "$0")/.."
prompt=${PROMPT:-Once upon a time}

deploy/install_packages.sh
echo '== building (minutes the first time)'
bazel build --noshow_progress --ui_event_filters=-info \
  //weightd //computed //computed/cli:offloadctl //tests/modelgen

bin=$(bazel info bazel-bin 2>/dev/null)
run=$(mktemp -d "${TMPDIR:-/tmp}/gguf-offload.XXXXXX")
pids=()
stop() {
  [ -n "$keep" ] && [ "${started:-}" = both ] && return
  # computed first: it holds a lease on the weights.
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

if [ -z "$model" ]; then
  echo '== making a demo model with random weights: its text is nonsense'
  model=$run/demo.gguf
  "$bin"/tests/modelgen/modelgen --preset=qwen2.5-0.5b --layers=8 --quantization=Q8_0 \
    --out="$model" >"$run/modelgen.log"
fi
name=$(basename "$model" .gguf)

echo "== starting weightd and computed for $name"
start weightd "$bin"/weightd/weightd --model="$name=$model" --listen=127.0.0.1:0 \
  --socket="$run/weightd.sock"
weights=$address
start computed "$bin"/computed/computed --weights="unix:$run/weightd.sock" --model="$name" \
  --listen=127.0.0.1:0
worker=$address
started=both

ctl=$bin/computed/cli/offloadctl
echo "== offloadctl models --weights=$weights"
"$ctl" models --weights="$weights"
echo "== offloadctl generate --worker=$worker --prompt='$prompt' --max-tokens=48"
"$ctl" generate --worker="$worker" --prompt="$prompt" --max-tokens=48
echo "== offloadctl placement --worker=$worker"
"$ctl" placement --worker="$worker"

if [ -n "$keep" ]; then
  cat <<EOT
== still running: weightd (process ${pids[1]}) at $weights, computed (process ${pids[0]}) at $worker
   talk to them with bazel-bin/computed/cli/offloadctl
   stop them with: kill ${pids[0]} ${pids[1]}; rm -r $run
EOT
fi
