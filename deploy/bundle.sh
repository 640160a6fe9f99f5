#!/usr/bin/env bash
# Packs the programs with the shared libraries that they need, so that they run on a machine that has
# neither: with a CUDA driver and cuBLAS on its GPUs, or on the CPU without.
#
#   deploy/bundle.sh [--tests] FOLDER [--from=FOLDER] [BAZEL_FLAG...]
#
# FOLDER gets bin/ (the programs), lib/ (libraries, found by $ORIGIN/../lib) and, with --tests,
# tests/ (the tests and benchmarks that need a GPU; tests/run_gpu.sh runs them). --config=release
# builds for every GPU from Turing on. --from builds nothing and takes the programs from a folder laid
# out like bazel-bin.
set -euo pipefail
cd "$(dirname "$0")/.."
with_tests=''
if [ "${1:-}" = --tests ]; then
  with_tests=yes
  shift
fi
if [ $# -lt 1 ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
folder=$1
shift
from=''
if [[ ${1:-} == --from=* ]]; then
  from=${1#*=}
  shift
fi

programs=(//weightd //computed //computed/cli:offloadctl)
tests=()
stubs=()
if [ -n "$with_tests" ]; then
  programs+=(//tests/modelgen //tests/bench/offload:offload_bench //tests/bench:prediction_bench)
  mapfile -t tests < <(
    bazel query --noshow_progress 'attr(tags, "\bgpu\b", //...)' 2>/dev/null)
  stubs=(//tests/clients/python:stubs //tests/e2e:standard_services)
fi
if [ -z "$from" ]; then
  from=bazel-bin
  bazel build --noshow_progress "$@" "${programs[@]}" "${tests[@]}" "${stubs[@]}"
fi

# The files that targets are built to.
outputs() { # TARGET...
  local target package
  for target in "$@"; do
    package=${target#//}
    package=${package%%:*}
    case "$target" in
      *:*) echo "$from/$package/${target##*:}" ;;
      *) echo "$from/$package/${package##*/}" ;;
    esac
  done
}

rm -rf "$folder"
mkdir -p "$folder/bin" "$folder/lib"
outputs "${programs[@]}" | xargs -I{} install -m 755 -s {} "$folder/bin"
if [ -n "$with_tests" ]; then
  mkdir "$folder/tests"
  outputs "${tests[@]}" | xargs -I{} install -m 755 -s {} "$folder/tests"
  # The end-to-end tests, which are Python, look for programs where Bazel puts them.
  cp -RL "$from"/tests/clients/python/stubs "$folder/tests/stubs"
  cp -L "$from"/tests/e2e/standard_services_pb2.py "$folder/tests/stubs"
  mkdir -p "$folder"/programs/{weightd,computed/cli,tests/modelgen}
  ln -s ../../bin/weightd "$folder/programs/weightd/weightd"
  ln -s ../../bin/computed "$folder/programs/computed/computed"
  ln -s ../../../bin/offloadctl "$folder/programs/computed/cli/offloadctl"
  ln -s ../../../bin/modelgen "$folder/programs/tests/modelgen/modelgen"
fi

# Everything but the C library, which belongs to the machine.
find "$folder/bin" ${with_tests:+"$folder/tests"} -maxdepth 1 -type f | xargs ldd |
  awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u |
  grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv|ld-linux[^/]*)\.so' |
  xargs -I{} install -m 644 {} "$folder/lib"
du -sh "$folder"
