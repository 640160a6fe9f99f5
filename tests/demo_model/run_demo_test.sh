#!/usr/bin/env bash
# Runs a Python test module of this folder with the system's Python, which has gRPC and NumPy.
set -euo pipefail
export PYTHONPATH="$PWD/tests/demo_model:$PWD/tests/e2e:$PWD/tests/clients/python:$PWD/tests/clients/python/stubs"
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
exec /usr/bin/python3 tests/e2e/unittest_main.py "$@"
