#include "weightd/service/chunk_encoding.h"

#include <grpcpp/support/slice.h>

#include <cstring>
#include <string>
#include <utility>

namespace gguf_offload {
namespace {

// Protobuf's wire format (protobuf.dev/programming-guides/encoding): a key is
// field << 3 | wire type; 0 is a varint, 1 is 8 bytes little-endian, 2 is length-delimited.
constexpr uint8_t kChunkKey = v1::StreamBlocksResponse::kChunkFieldNumber << 3 | 2;
constexpr uint8_t kReadIdKey = v1::StreamChunk::kReadIdFieldNumber << 3 | 0;
constexpr uint8_t kOffsetKey = v1::StreamChunk::kOffsetFieldNumber << 3 | 0;
constexpr uint8_t kXxh64Key = v1::StreamChunk::kXxh64FieldNumber << 3 | 1;
constexpr uint8_t kLastKey = v1::StreamChunk::kLastFieldNumber << 3 | 0;
constexpr uint8_t kDataKey = v1::StreamChunk::kDataFieldNumber << 3 | 2;

void AppendVarint(uint64_t value, std::string& to) {
  for (; value >= 0x80; value >>= 7) to.push_back(static_cast<char>(value | 0x80));
  to.push_back(static_cast<char>(value));
}

// The chunk's fields up to its data.
std::string EncodeFields(const ChunkHeader& header, size_t data_bytes) {
  std::string fields;
  fields.push_back(kReadIdKey);
  AppendVarint(header.read_id, fields);
  fields.push_back(kOffsetKey);
  AppendVarint(header.offset, fields);
  fields.push_back(kXxh64Key);
  for (int byte = 0; byte < 8; ++byte) {
    fields.push_back(static_cast<char>(header.xxh64 >> (8 * byte)));
  }
  fields.push_back(kLastKey);
  AppendVarint(header.last ? 1 : 0, fields);
  fields.push_back(kDataKey);
  AppendVarint(data_bytes, fields);
  return fields;
}

void LetGo(void* owner) { delete static_cast<std::shared_ptr<const void>*>(owner); }

}  // namespace

grpc::ByteBuffer EncodeChunk(const ChunkHeader& header, std::span<const uint8_t> data,
                             std::shared_ptr<const void> owner) {
  const std::string fields = EncodeFields(header, data.size());
  std::string start;
  start.push_back(kChunkKey);
  AppendVarint(fields.size() + data.size(), start);
  start += fields;
  const grpc::Slice slices[2] = {
      grpc::Slice(start), data.empty()
                              ? grpc::Slice()
                              : grpc::Slice(const_cast<uint8_t*>(data.data()), data.size(), LetGo,
                                            new std::shared_ptr<const void>(std::move(owner)))};
  return grpc::ByteBuffer(slices, data.empty() ? 1 : 2);
}

grpc::ByteBuffer EncodeMessage(const v1::StreamBlocksResponse& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace gguf_offload
