#!/usr/bin/env bash
# Installs what building needs and, with --tests, what testing needs, from Debian 12's packages. Does
# nothing where all of them are there already. Run as root or with sudo available.
set -euo pipefail

packages=(
  # compiler and build
  g++ bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms bazel-skylib
  pkg-config git ca-certificates procps
  # libraries
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libabsl-dev
  libboost1.81-dev libhwy-dev libxxhash-dev libpcre2-dev liburing-dev nlohmann-json3-dev
  libssl-dev libgoogle-perftools-dev prometheus-cpp-dev libpng-dev
)
test_packages=(
  # tests, fuzzing, benchmarks
  clang-format libgtest-dev libgmock-dev libbenchmark-dev clang-14 libclang-rt-14-dev
  python3 python3-grpcio python3-grpc-tools python3-numpy python3-yaml
  openssl systemd util-linux binutils
)
if [ "${1:-}" = --tests ]; then packages+=("${test_packages[@]}"); fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
    missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  sudo=''
  [ "$(id -u)" = 0 ] || sudo='sudo'
  echo "installing ${#missing[@]} packages: ${missing[*]}"
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
