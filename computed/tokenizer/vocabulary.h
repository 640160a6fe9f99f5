// The tokens of a model: their texts, types and scores, and which of them have a special meaning.
// Read from the `tokenizer.ggml.*` metadata of a GGUF file, which may be hostile: everything that
// the encoders rely upon is checked here.
#ifndef COMPUTED_TOKENIZER_VOCABULARY_H_
#define COMPUTED_TOKENIZER_VOCABULARY_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// `tokenizer.ggml.token_type` (GGUF specification, llama_token_type).
enum class TokenType : uint8_t {
  kUndefined = 0,
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// Standard hashing of string views, which Abseil's containers lack where Abseil has its own type.
struct StringViewHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
using TokenIndex =
    absl::flat_hash_map<std::string_view, int32_t, StringViewHash, std::equal_to<std::string_view>>;

// The value of a byte token's text `<0xXX>` with exactly two hexadecimal digits, or nullopt.
std::optional<uint8_t> ParseByteToken(std::string_view text);

// Immutable once parsed, thread safe. Movable, not copyable: the index points into the texts.
class Vocabulary {
 public:
  // The last is byte pair encoding too, see BytePairEncoding.
  enum class Model { kSentencePiece, kBytePairEncoding, kGemma4 };

  // InvalidArgument naming the metadata key, and the token where one is at fault. What does not
  // stand in the way of encoding is ignored, and logged: ids out of
  // range, unknown types, arrays longer than the tokens, tokens that repeat others.
  static absl::StatusOr<Vocabulary> Parse(const v1::Manifest& manifest);

  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  Model model() const { return model_; }
  int32_t size() const { return static_cast<int32_t>(texts_.size()); }
  // 0 <= id < size() in all of these.
  const std::string& text(int32_t id) const { return texts_[id]; }
  TokenType type(int32_t id) const { return types_[id]; }
  float score(int32_t id) const { return scores_.empty() ? 0.0f : scores_[id]; }

  // A control, unknown or user-defined token: one that is looked for in a text before all else.
  bool IsSpecial(int32_t id) const;
  // A special token that structures a text, so that users' text must never turn into it: all but
  // user-defined ones of white space alone, which write indentation and empty lines.
  bool IsMarkup(int32_t id) const { return markup_[id]; }

  // The token with this text, of whatever type. No token is found by an empty text.
  std::optional<int32_t> Find(std::string_view text) const;

  std::optional<int32_t> bos() const { return bos_; }
  std::optional<int32_t> eos() const { return eos_; }
  std::optional<int32_t> unknown() const { return unknown_; }
  bool IsEndOfGeneration(int32_t id) const {
    return id >= 0 && id < size() && end_of_generation_[id];
  }

 private:
  Vocabulary() = default;

  absl::Status ReadTokens(const v1::Manifest& manifest);
  absl::Status ReadTypes(const v1::Manifest& manifest);
  absl::Status ReadScores(const v1::Manifest& manifest);
  absl::Status CheckByteTokens() const;
  absl::Status ReadSpecialIds(const v1::Manifest& manifest);
  absl::Status ReadEndOfGenerationIds(const v1::Manifest& manifest);
  void ClassifyByName();
  void FindMarkup();
  void MarkEndOfGeneration(int32_t id) { end_of_generation_[id] = true; }

  Model model_ = Model::kBytePairEncoding;
  std::vector<std::string> texts_;
  std::vector<TokenType> types_;
  std::vector<float> scores_;  // empty if the file has none
  TokenIndex index_;           // keys point into texts_
  std::vector<bool> end_of_generation_;
  std::vector<bool> markup_;
  std::vector<bool> known_roles_;  // of infilling: whether the file gives an id
  std::optional<int32_t> bos_;
  std::optional<int32_t> eos_;
  std::optional<int32_t> unknown_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_VOCABULARY_H_
