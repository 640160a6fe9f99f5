#!/usr/bin/env bash
# Runs a Python test module with the system's Python, which has the packages gRPC, NumPy and YAML.
#   run_python_test.sh FOLDER MODULE [ARGUMENT...]
set -euo pipefail
export PYTHONPATH="$PWD/$1:$PWD/tests/e2e:$PWD/tests/clients/python:$PWD/tests/clients/python/stubs"
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
shift
exec /usr/bin/python3 tests/e2e/unittest_main.py "$@"
