// Writes StreamBlocksResponse messages without copying the bytes they carry: a message is a slice
// with the header, encoded by hand, and a slice that refers to the mapping.
#ifndef WEIGHTD_SERVICE_CHUNK_ENCODING_H_
#define WEIGHTD_SERVICE_CHUNK_ENCODING_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <memory>
#include <span>

#include "gguf_offload/v1/weights.pb.h"

namespace gguf_offload {

// The fields of StreamChunk but for its data.
struct ChunkHeader {
  uint64_t read_id = 0;
  uint64_t offset = 0;
  uint64_t xxh64 = 0;
  bool last = false;
};

// A StreamBlocksResponse with this chunk. `owner` keeps `data` alive; it is let go when gRPC has
// sent the bytes or given up.
grpc::ByteBuffer EncodeChunk(const ChunkHeader& header, std::span<const uint8_t> data,
                             std::shared_ptr<const void> owner);

// Any message, by protobuf.
grpc::ByteBuffer EncodeMessage(const v1::StreamBlocksResponse& message);

}  // namespace gguf_offload

#endif  // WEIGHTD_SERVICE_CHUNK_ENCODING_H_
