#include "weightd/client/chunk_decoding.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gguf_offload {
namespace {

// Longer than a chunk's fields before its data: keys of a byte, varints of up to 10.
constexpr size_t kHeaderBytes = 64;

// Reads protobuf's wire format from the first bytes of a message.
class Reader {
 public:
  Reader(const uint8_t* data, size_t bytes) : at_(data), end_(data + bytes), begin_(data) {}

  bool Varint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && at_ < end_; shift += 7) {
      const uint8_t byte = *at_++;
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool Fixed64(uint64_t& value) {
    if (end_ - at_ < 8) return false;
    value = 0;
    for (int byte = 0; byte < 8; ++byte) value |= uint64_t{*at_++} << (8 * byte);
    return true;
  }
  uint64_t position() const { return static_cast<uint64_t>(at_ - begin_); }

 private:
  const uint8_t* at_;
  const uint8_t* const end_;
  const uint8_t* const begin_;
};

// The wire format's keys: field << 3 | type; 0 varint, 1 fixed 64 bits, 2 length-delimited.
constexpr uint64_t kChunkKey = v1::StreamBlocksResponse::kChunkFieldNumber << 3 | 2;
constexpr uint64_t kReadIdKey = v1::StreamChunk::kReadIdFieldNumber << 3 | 0;
constexpr uint64_t kOffsetKey = v1::StreamChunk::kOffsetFieldNumber << 3 | 0;
constexpr uint64_t kXxh64Key = v1::StreamChunk::kXxh64FieldNumber << 3 | 1;
constexpr uint64_t kLastKey = v1::StreamChunk::kLastFieldNumber << 3 | 0;
constexpr uint64_t kDataKey = v1::StreamChunk::kDataFieldNumber << 3 | 2;

}  // namespace

absl::StatusOr<DecodedResponse> DecodedResponse::Decode(const grpc::ByteBuffer& buffer) {
  DecodedResponse response;
  if (!buffer.Dump(&response.slices_).ok()) {
    return absl::InvalidArgumentError("a message that cannot be read");
  }
  if (response.DecodeByHand(buffer.Length())) return response;
  if (absl::Status s = response.DecodeByProtobuf(); !s.ok()) return s;
  return response;
}

// Understands chunks whose data comes last, which is how the daemon writes them.
bool DecodedResponse::DecodeByHand(uint64_t message_bytes) {
  uint8_t header[kHeaderBytes];
  size_t bytes = 0;
  for (const grpc::Slice& slice : slices_) {
    const size_t take = std::min(slice.size(), kHeaderBytes - bytes);
    std::memcpy(header + bytes, slice.begin(), take);
    bytes += take;
  }
  Reader reader(header, bytes);
  uint64_t key = 0, chunk_bytes = 0, last = 0;
  if (!reader.Varint(key) || key != kChunkKey || !reader.Varint(chunk_bytes)) return false;
  if (chunk_bytes != message_bytes - reader.position()) return false;
  while (reader.Varint(key)) {
    if (key == kReadIdKey) {
      if (!reader.Varint(read_id_)) return false;
    } else if (key == kOffsetKey) {
      if (!reader.Varint(offset_)) return false;
    } else if (key == kXxh64Key) {
      if (!reader.Fixed64(xxh64_)) return false;
    } else if (key == kLastKey) {
      if (!reader.Varint(last)) return false;
      last_ = last != 0;
    } else if (key == kDataKey) {
      if (!reader.Varint(data_bytes_)) return false;
      data_start_ = reader.position();
      is_chunk_ = data_bytes_ == message_bytes - data_start_;
      return is_chunk_;
    } else {
      return false;
    }
  }
  return false;
}

// Everything else that is a StreamBlocksResponse.
absl::Status DecodedResponse::DecodeByProtobuf() {
  std::string bytes;
  for (const grpc::Slice& slice : slices_) bytes.append(slice.begin(), slice.end());
  v1::StreamBlocksResponse message;
  if (!message.ParseFromString(bytes)) {
    return absl::InvalidArgumentError("not a StreamBlocksResponse");
  }
  if (message.has_started()) started_ = message.started();
  is_chunk_ = message.has_chunk();
  if (is_chunk_) {
    read_id_ = message.chunk().read_id();
    offset_ = message.chunk().offset();
    xxh64_ = message.chunk().xxh64();
    last_ = message.chunk().last();
    data_start_ = 0;
    data_bytes_ = message.chunk().data().size();
    slices_.assign(1, grpc::Slice(message.chunk().data()));
  }
  return absl::OkStatus();
}

void DecodedResponse::CopyData(uint8_t* to) const {
  uint64_t skip = data_start_;
  for (const grpc::Slice& slice : slices_) {
    const uint64_t skipped = std::min<uint64_t>(skip, slice.size());
    skip -= skipped;
    std::memcpy(to, slice.begin() + skipped, slice.size() - skipped);
    to += slice.size() - skipped;
  }
}

}  // namespace gguf_offload
