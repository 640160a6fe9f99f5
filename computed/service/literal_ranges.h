// The ranges of a request's text in which no special token is found.
#ifndef COMPUTED_SERVICE_LITERAL_RANGES_H_
#define COMPUTED_SERVICE_LITERAL_RANGES_H_

#include <google/protobuf/repeated_field.h>

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "computed/tokenizer/text_range.h"
#include "gguf_offload/v1/inference.pb.h"

namespace gguf_offload {

// INVALID_ARGUMENT if one of them is not within a text of `size` bytes.
absl::StatusOr<std::vector<TextRange>> LiteralRanges(
    const google::protobuf::RepeatedPtrField<v1::TextRange>& ranges, size_t size);

}  // namespace gguf_offload

#endif  // COMPUTED_SERVICE_LITERAL_RANGES_H_
