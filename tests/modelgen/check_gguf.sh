#!/bin/bash
# Runs check_gguf.py with the system's Python, which has NumPy. $1: the modelgen program.
set -euo pipefail
exec /usr/bin/python3 tests/modelgen/check_gguf.py "$1" "$TEST_TMPDIR"
