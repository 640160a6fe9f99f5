#include "computed/tokenizer/tokenizer.h"

#include <utility>

#include "absl/status/status.h"
#include "common/log/log.h"
#include "computed/tokenizer/byte_pair_encoding.h"
#include "computed/tokenizer/metadata_fields.h"
#include "computed/tokenizer/pre_tokenizer.h"
#include "computed/tokenizer/sentence_piece.h"
#include "computed/tokenizer/special_token_splitter.h"
#include "computed/tokenizer/vocabulary.h"

namespace gguf_offload {
namespace {

constexpr char kAddBosKey[] = "tokenizer.ggml.add_bos_token";
constexpr char kAddEosKey[] = "tokenizer.ggml.add_eos_token";
constexpr char kSpacePrefixKey[] = "tokenizer.ggml.add_space_prefix";
constexpr char kExtraSpacesKey[] = "tokenizer.ggml.remove_extra_whitespaces";
constexpr char kPreTokenizerKey[] = "tokenizer.ggml.pre";

struct Rules {
  bool add_bos = false;
  bool always_add_bos = false;  // whatever the file says
  bool add_eos = false;
  bool add_space_prefix = false;
};

// Whether `token` is to be added. What cannot be followed is ignored, and logged if the file says
// it.
absl::StatusOr<bool> ReadAddRule(const v1::Manifest& manifest, const char* key, bool by_default,
                                 std::optional<int32_t> token) {
  const absl::StatusOr<std::optional<bool>> add = ReadBool(manifest, key);
  if (!add.ok()) return add.status();
  if (!add->has_value()) return by_default && token.has_value();
  if (**add && !token) {
    Log(LogLevel::kWarning, "token not added to texts, the file gives no id for it",
        {{"key", key}});
    return false;
  }
  return **add;
}

// The output bytes of each token; control and unknown tokens have their text here.
std::vector<std::string> RenderTokens(const Vocabulary& vocabulary, const TextEncoder& encoder) {
  std::vector<std::string> rendered(vocabulary.size());
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& text = vocabulary.text(id);
    switch (vocabulary.type(id)) {
      case TokenType::kNormal:
        rendered[id] = encoder.DecodeText(text);
        break;
      case TokenType::kByte:
        rendered[id] = std::string(1, static_cast<char>(ParseByteToken(text).value_or(0)));
        break;
      case TokenType::kControl:
      case TokenType::kUnknown:
      case TokenType::kUserDefined:
        rendered[id] = text;
        break;
      case TokenType::kUnused:
      case TokenType::kUndefined:
        break;
    }
  }
  return rendered;
}

class ManifestTokenizer : public Tokenizer {
 public:
  ManifestTokenizer(std::unique_ptr<const Vocabulary> vocabulary,
                    std::unique_ptr<const TextEncoder> encoder, Rules rules)
      : vocabulary_(std::move(vocabulary)),
        encoder_(std::move(encoder)),
        splitter_(*vocabulary_),
        rendered_(RenderTokens(*vocabulary_, *encoder_)),
        rules_(rules) {}

  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<int32_t> ids;
    if (options.add_bos && rules_.add_bos) ids.push_back(*vocabulary_->bos());
    bool after_special = true;
    for (const TextFragment& fragment :
         splitter_.Split(text, options.parse_special, options.literal)) {
      if (fragment.token >= 0) {
        ids.push_back(fragment.token);
        after_special = true;
      } else {
        encoder_->Encode(fragment.text,
                         {.after_special = after_special, .literal = fragment.literal}, &ids);
        after_special = false;
      }
    }
    if (options.add_eos && rules_.add_eos) ids.push_back(*vocabulary_->eos());
    return ids;
  }

  std::string TokenBytes(int32_t id, bool render_special) const override {
    if (id < 0 || id >= vocab_size() || (IsHidden(id) && !render_special)) return {};
    return rendered_[id];
  }

  std::string Decode(std::span<const int32_t> ids, bool render_special) const override {
    std::string text;
    bool at_start = rules_.add_space_prefix;
    for (int32_t id : ids) {
      std::string bytes = TokenBytes(id, render_special);
      const bool hidden = id < 0 || id >= vocab_size() || IsHidden(id);
      if (at_start && !hidden) {
        if (bytes.starts_with(' ')) bytes.erase(0, 1);
        at_start = false;
      }
      text += bytes;
    }
    return text;
  }

  int32_t vocab_size() const override { return vocabulary_->size(); }
  std::optional<int32_t> bos() const override { return vocabulary_->bos(); }
  std::optional<int32_t> eos() const override { return vocabulary_->eos(); }
  bool adds_bos() const override { return rules_.add_bos; }
  bool adds_eos() const override { return rules_.add_eos; }
  bool adds_space_prefix() const override { return rules_.add_space_prefix; }
  std::optional<int32_t> SpecialToken(std::string_view name) const override {
    const std::optional<int32_t> id = vocabulary_->Find(name);
    return id && vocabulary_->IsSpecial(*id) ? id : std::nullopt;
  }
  bool IsEndOfGeneration(int32_t id) const override { return vocabulary_->IsEndOfGeneration(id); }

 private:
  // `id` is in range.
  bool IsHidden(int32_t id) const {
    const TokenType type = vocabulary_->type(id);
    return type == TokenType::kControl || type == TokenType::kUnknown;
  }

  const std::unique_ptr<const Vocabulary> vocabulary_;
  const std::unique_ptr<const TextEncoder> encoder_;  // may point into *vocabulary_
  const SpecialTokenSplitter splitter_;
  const std::vector<std::string> rendered_;  // by id
  const Rules rules_;
};

absl::StatusOr<std::unique_ptr<const TextEncoder>> CreateSentencePiece(const v1::Manifest& manifest,
                                                                       const Vocabulary& vocabulary,
                                                                       Rules* rules) {
  const absl::StatusOr<std::optional<bool>> prefix = ReadBool(manifest, kSpacePrefixKey);
  if (!prefix.ok()) return prefix.status();
  const absl::StatusOr<std::optional<bool>> extra = ReadBool(manifest, kExtraSpacesKey);
  if (!extra.ok()) return extra.status();
  SentencePieceOptions options;
  options.add_space_prefix = prefix->value_or(true);
  options.remove_extra_whitespaces = extra->value_or(false);
  rules->add_space_prefix = options.add_space_prefix;
  rules->add_bos = true;
  return std::make_unique<SentencePiece>(&vocabulary, options);
}

absl::StatusOr<std::unique_ptr<const TextEncoder>> CreateBytePairEncoding(
    const v1::Manifest& manifest, const Vocabulary& vocabulary, Rules* rules) {
  absl::StatusOr<std::optional<std::string>> pre = ReadString(manifest, kPreTokenizerKey);
  if (!pre.ok()) return pre.status();
  if (vocabulary.model() == Vocabulary::Model::kGemma4) *pre = "gemma4";  // whatever the file says
  absl::StatusOr<PreTokenizer> pre_tokenizer = PreTokenizer::Create(pre->value_or("default"));
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  rules->add_bos = pre_tokenizer->settings().add_bos != PreTokenizerSettings::kNotByDefault;
  rules->always_add_bos = pre_tokenizer->settings().add_bos == PreTokenizerSettings::kAlways;
  return BytePairEncoding::Create(manifest, vocabulary, *std::move(pre_tokenizer));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Create(const v1::Manifest& manifest) {
  absl::StatusOr<Vocabulary> parsed = Vocabulary::Parse(manifest);
  if (!parsed.ok()) return parsed.status();
  auto vocabulary = std::make_unique<const Vocabulary>(*std::move(parsed));
  Rules rules;
  absl::StatusOr<std::unique_ptr<const TextEncoder>> encoder =
      vocabulary->model() == Vocabulary::Model::kSentencePiece
          ? CreateSentencePiece(manifest, *vocabulary, &rules)
          : CreateBytePairEncoding(manifest, *vocabulary, &rules);
  if (!encoder.ok()) return encoder.status();
  const absl::StatusOr<bool> add_bos =
      ReadAddRule(manifest, kAddBosKey, rules.add_bos, vocabulary->bos());
  if (!add_bos.ok()) return add_bos.status();
  const absl::StatusOr<bool> add_eos =
      ReadAddRule(manifest, kAddEosKey, rules.add_eos, vocabulary->eos());
  if (!add_eos.ok()) return add_eos.status();
  rules.add_bos = *add_bos || (rules.always_add_bos && vocabulary->bos());
  rules.add_eos = *add_eos;
  return std::make_unique<ManifestTokenizer>(std::move(vocabulary), *std::move(encoder), rules);
}

}  // namespace gguf_offload
