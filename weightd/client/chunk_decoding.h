// Reads StreamBlocksResponse messages without copying the bytes they carry more than once.
#ifndef WEIGHTD_CLIENT_CHUNK_DECODING_H_
#define WEIGHTD_CLIENT_CHUNK_DECODING_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gguf_offload/v1/weights.pb.h"

namespace gguf_offload {

// A message as it came from the network: either StreamStarted or a chunk whose data lies in pieces.
class DecodedResponse {
 public:
  // Takes the message apart. INVALID_ARGUMENT if it is malformed.
  static absl::StatusOr<DecodedResponse> Decode(const grpc::ByteBuffer& buffer);

  // Set if the message is one.
  const std::optional<v1::StreamStarted>& started() const { return started_; }
  bool is_chunk() const { return is_chunk_; }

  // Of a chunk.
  uint64_t read_id() const { return read_id_; }
  uint64_t offset() const { return offset_; }
  uint64_t xxh64() const { return xxh64_; }
  bool last() const { return last_; }
  uint64_t data_bytes() const { return data_bytes_; }
  // Copies the chunk's data. (data_bytes())
  void CopyData(uint8_t* to) const;

 private:
  bool DecodeByHand(uint64_t message_bytes);
  absl::Status DecodeByProtobuf();

  std::vector<grpc::Slice> slices_;
  std::optional<v1::StreamStarted> started_;
  bool is_chunk_ = false;
  uint64_t read_id_ = 0, offset_ = 0, xxh64_ = 0;
  bool last_ = false;
  uint64_t data_start_ = 0;  // in the message
  uint64_t data_bytes_ = 0;
};

}  // namespace gguf_offload

#endif  // WEIGHTD_CLIENT_CHUNK_DECODING_H_
