#include "computed/service/literal_ranges.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace gguf_offload {

absl::StatusOr<std::vector<TextRange>> LiteralRanges(
    const google::protobuf::RepeatedPtrField<v1::TextRange>& ranges, size_t size) {
  std::vector<TextRange> result;
  for (const v1::TextRange& range : ranges) {
    if (range.begin() < 0 || range.end() < range.begin() ||
        range.end() > static_cast<int64_t>(size)) {
      return absl::InvalidArgumentError(absl::StrCat("literal: [", range.begin(), ", ", range.end(),
                                                     ") is not within the text of ", size,
                                                     " bytes"));
    }
    result.push_back({static_cast<size_t>(range.begin()), static_cast<size_t>(range.end())});
  }
  return result;
}

}  // namespace gguf_offload
