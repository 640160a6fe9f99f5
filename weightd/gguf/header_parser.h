// The state of parsing one GGUF header; private to ParseGguf.
#ifndef WEIGHTD_GGUF_HEADER_PARSER_H_
#define WEIGHTD_GGUF_HEADER_PARSER_H_

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "weightd/gguf/cursor.h"
#include "weightd/gguf/gguf_file.h"

namespace gguf_offload::gguf {

// The shortest records there can be: a key of one byte with a value of one, a name of one byte with
// one dimension. Bounds what a count may claim by what the file holds.
inline constexpr uint64_t kMinMetadataBytes = 8 + 1 + 4 + 1;
inline constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;

// Debian's Abseil has a string_view of its own.
inline absl::string_view Text(std::string_view text) { return {text.data(), text.size()}; }

// For messages: text of unknown origin on one line, not too long.
inline std::string Quoted(std::string_view text) {
  constexpr size_t kMost = 120;
  return absl::StrCat("'", absl::CHexEscape(Text(text.substr(0, kMost))),
                      text.size() > kMost ? "'..." : "'");
}

// Parses one file; used once.
//
// Its methods read the records in the order of the file (parse_metadata.cc, parse_tensors.cc), then
// check the tensors' places as a whole. Refers to the file's bytes. Not synchronized.
class HeaderParser {
 public:
  HeaderParser(std::span<const uint8_t> file, std::string_view file_name)
      : file_size_(file.size()),
        file_name_(file_name),
        cursor_(file.first(std::min<uint64_t>(file.size(), kMaxHeaderBytes))) {}

  absl::StatusOr<GgufFile> Parse() {
    if (absl::Status status = ReadPreamble(); !status.ok()) return status;
    if (absl::Status status = ReadMetadata(); !status.ok()) return status;
    if (absl::Status status = ReadTensors(); !status.ok()) return status;
    if (absl::Status status = PlaceTensors(); !status.ok()) return status;
    return std::move(result_);
  }

 private:
  // Errors name the file and the offset of the record at hand.
  template <typename... Parts>
  std::string Message(const Parts&... parts) const {
    return absl::StrCat(file_name_, ": offset ", record_offset_, ": ", parts...);
  }
  template <typename... Parts>
  absl::Status Malformed(const Parts&... parts) const {
    return absl::InvalidArgumentError(Message(parts...));
  }
  // What is to be read does not fit into what is left of the file, or of the limit on headers.
  template <typename... Parts>
  absl::Status Ends(const Parts&... parts) const {
    const std::string message = Message(parts..., " (", cursor_.remaining(), " bytes are left)");
    return file_size_ > kMaxHeaderBytes
               ? absl::ResourceExhaustedError(
                     absl::StrCat(message, "; a header may have ", kMaxHeaderBytes, " bytes"))
               : absl::InvalidArgumentError(message);
  }
  template <typename... Parts>
  absl::Status Excessive(const Parts&... parts) const {
    return absl::ResourceExhaustedError(Message(parts...));
  }
  void StartRecord() { record_offset_ = cursor_.offset(); }

  absl::Status ReadPreamble();
  absl::Status ReadCounts();
  absl::Status ReadMetadata();
  absl::Status ReadName(std::string_view what, uint64_t most, std::string* name);
  absl::Status ReadString(std::string_view what, std::string* text);
  absl::Status ReadValue(std::string_view key, Value* value);
  absl::Status ReadArray(std::string_view key, Array* array);
  absl::Status ReadStrings(std::string_view key, uint64_t count, Array* array);
  template <typename T>
  absl::Status ReadNumbers(std::string_view key, uint64_t count, Array* array);
  template <typename T, typename Wide>
  absl::Status ReadNumber(std::string_view key, Value* value);
  absl::Status ReadBool(std::string_view key, Value* value);
  absl::Status TakeAlignment();
  absl::Status ReadTensors();
  absl::Status ReadTensor(TensorEntry* tensor);
  absl::Status SizeTensor(TensorEntry* tensor) const;
  absl::Status PlaceTensors();
  absl::Status FindData();
  std::vector<uint32_t> TensorsByOffset() const;
  absl::Status SizeUnknownAndCheckOverlap();

  const uint64_t file_size_;
  const std::string file_name_;
  Cursor cursor_;
  uint64_t record_offset_ = 0;
  uint64_t metadata_count_ = 0;
  uint64_t tensor_count_ = 0;
  std::vector<uint64_t> tensor_record_offsets_;  // one a tensor, for messages
  GgufFile result_;
};

}  // namespace gguf_offload::gguf

#endif  // WEIGHTD_GGUF_HEADER_PARSER_H_
