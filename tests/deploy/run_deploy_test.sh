#!/usr/bin/env bash
# Runs a Python test module with the system's Python, which has the packages YAML and NumPy.
set -euo pipefail
export PYTHONPATH="$PWD/tests/deploy"
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
exec /usr/bin/python3 tests/e2e/unittest_main.py "$@"
