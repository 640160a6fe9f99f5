#!/usr/bin/env bash
# Who may depend on whom, checked with bazel query. Prints what breaks a rule; silent if nothing does.
set -euo pipefail
cd "$(dirname "$0")/.."
failed=0

# $1: what the rule says; $2: a query that must find nothing.
must_be_empty() {
  local found
  found=$(bazel query --noshow_progress --keep_going "$2" 2>/dev/null || true)
  if [ -n "$found" ]; then
    printf '%s:\n%s\n' "$1" "$found"
    failed=1
  fi
}

# Tests may use whatever they like.
kernels='kind("cc_(library|binary)", //kernels/...) except attr(testonly, 1, //kernels/...)'
computed='kind("cc_(library|binary)", //computed/...) except attr(testonly, 1, //computed/...)'
files='kind("cc_library", //weightd/gguf:all + //weightd/store:all)'

# An empty answer must not come from a query that cannot run.
[ -n "$(bazel query --noshow_progress "$computed" 2>/dev/null)" ] ||
  { echo 'bazel query finds no worker at all'; exit 1; }

must_be_empty 'computed depends on the GGUF parser' "deps($computed) intersect //weightd/gguf/..."
must_be_empty 'computed sees more of weightd than its client' \
  "deps($computed, 1) intersect (//weightd/... except //weightd/client/...)"
must_be_empty 'kernels depend on Abseil, Protobuf or gRPC' \
  "deps($kernels) intersect (//third_party/absl/... + //third_party/protobuf/... + //third_party/grpc/...)"
must_be_empty 'the parser or the store depend on Protobuf' \
  "deps($files) intersect (//third_party/protobuf/... + //proto/...)"
must_be_empty 'models know prefetching' "deps(//computed/model/...) intersect //computed/prefetch/..."
must_be_empty 'prefetching runs models' "deps(//computed/prefetch/...) intersect //computed/session/..."
exit $failed
