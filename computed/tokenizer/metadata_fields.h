// Typed reading of a manifest's metadata. Every error names the key.
#ifndef COMPUTED_TOKENIZER_METADATA_FIELDS_H_
#define COMPUTED_TOKENIZER_METADATA_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// Each returns nullopt if the key is absent and InvalidArgument if its value has another type.
absl::StatusOr<std::optional<std::string>> ReadString(const v1::Manifest& manifest,
                                                      const std::string& key);
absl::StatusOr<std::optional<bool>> ReadBool(const v1::Manifest& manifest, const std::string& key);
// A token id. One that is not within [0, vocab_size) is as good as absent, and logged: published
// files have ids that were never set.
absl::StatusOr<std::optional<int32_t>> ReadTokenId(const v1::Manifest& manifest,
                                                   const std::string& key, int32_t vocab_size);
absl::StatusOr<std::optional<std::vector<std::string>>> ReadStrings(const v1::Manifest& manifest,
                                                                    const std::string& key);
// Elements of float32 or of any integer type.
absl::StatusOr<std::optional<std::vector<float>>> ReadFloats(const v1::Manifest& manifest,
                                                             const std::string& key);
// Elements of any integer type; those beyond int64 are its largest value.
absl::StatusOr<std::optional<std::vector<int64_t>>> ReadIntegers(const v1::Manifest& manifest,
                                                                 const std::string& key);

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_METADATA_FIELDS_H_
