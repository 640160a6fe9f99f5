// ParseGguf, and the fixed-size front of the header.
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weightd/gguf/gguf_file.h"
#include "weightd/gguf/header_parser.h"

namespace gguf_offload::gguf {

absl::Status HeaderParser::ReadPreamble() {
  if (file_size_ == 0) return Malformed("the file is empty");
  std::string_view magic;
  if (!cursor_.ReadBytes(4, &magic)) return Ends("no room for the magic number \"GGUF\"");
  if (magic != "GGUF") {
    for (std::string_view old : {"ggml", "lmgg", "tjgg", "algg", "fmgg"}) {
      if (magic == old) return Malformed("this is a GGML file from before GGUF, not a GGUF file");
    }
    return Malformed("this is not a GGUF file: it starts with ", Quoted(magic));
  }
  StartRecord();
  if (!cursor_.Read(&result_.version)) return Ends("no room for the version");
  const uint32_t version = result_.version;
  if (version != 2 && version != 3) {
    // A big-endian file has the same magic number; its version shows at the other end.
    if (version != 0 && (version & 0xFFFF) == 0) {
      return absl::UnimplementedError(
          Message("the file is big-endian; only little-endian files are supported"));
    }
    return version == 0 ? Malformed("version 0 does not exist")
                        : absl::UnimplementedError(
                              Message("GGUF version ", version, " is not supported, only 2 and 3"));
  }
  return ReadCounts();
}

absl::Status HeaderParser::ReadCounts() {
  StartRecord();
  if (!cursor_.Read(&tensor_count_)) return Ends("no room for the number of tensors");
  if (!cursor_.Read(&metadata_count_)) return Ends("no room for the number of metadata keys");
  if (tensor_count_ > kMaxTensorCount) {
    return Excessive("claims ", tensor_count_, " tensors; at most ", kMaxTensorCount,
                     " are supported");
  }
  if (metadata_count_ > kMaxMetadataCount) {
    return Excessive("claims ", metadata_count_, " metadata keys; at most ", kMaxMetadataCount,
                     " are supported");
  }
  if (metadata_count_ > cursor_.remaining() / kMinMetadataBytes) {
    return Ends("no room for ", metadata_count_, " metadata keys");
  }
  if (tensor_count_ > cursor_.remaining() / kMinTensorBytes) {
    return Ends("no room for ", tensor_count_, " tensors");
  }
  return absl::OkStatus();
}

absl::StatusOr<GgufFile> ParseGguf(std::span<const uint8_t> file, std::string_view file_name) {
  return HeaderParser(file, file_name).Parse();
}

}  // namespace gguf_offload::gguf
