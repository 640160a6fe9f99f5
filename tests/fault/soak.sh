#!/usr/bin/env bash
# Runs the soak (soak.py) from a checkout for as long as one likes, after building what it needs:
#
#   tests/fault/soak.sh [--seconds=N] [--seed=N] [--report=FILE]
#
# With GGUF_OFFLOAD_BINARIES=FOLDER nothing is built: the programs are there, and the stubs as Bazel
# has left them.
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -z "${GGUF_OFFLOAD_BINARIES:-}" ]; then
  bazel build //weightd //computed //tests/modelgen //tests/clients/python:stubs \
    //tests/e2e:standard_services
  export GGUF_OFFLOAD_BINARIES=$PWD/bazel-bin
fi
export PYTHONPATH="$PWD/tests/fault:$PWD/tests/e2e:$PWD/bazel-bin/tests/e2e"
PYTHONPATH+=":$PWD/bazel-bin/tests/clients/python/stubs"
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
exec /usr/bin/python3 tests/fault/soak.py "$@"
