#!/bin/sh
# The installed protoc with its C++ and gRPC C++ outputs in $1.
out=$1
shift
exec /usr/bin/protoc --cpp_out="$out" --grpc_out="$out" \
  --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin "$@"
