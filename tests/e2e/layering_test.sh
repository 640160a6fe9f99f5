#!/usr/bin/env bash
# Only weightd parses files, and its parser and store know no wire formats.
set -euo pipefail
failures=0

# refuse PROGRAM PATTERN: no dependency of PROGRAM may match.
refuse() {
  local list="tests/e2e/dependencies_of_$1"
  if [ ! -s "$list" ]; then
    echo "$list is empty"
    failures=$((failures + 1))
  elif grep -E "$2" "$list"; then
    echo "^ $1 must not depend on these"
    failures=$((failures + 1))
  fi
}

refuse computed '^//weightd/(gguf|manifest|service|store:model)'
refuse offloadctl '^//weightd/(gguf|manifest|service|store:model)'
refuse gguf '^//(proto|third_party/(protobuf|grpc))\b'
refuse store '^//(proto|third_party/(protobuf|grpc))\b'
exit $((failures > 0))
