#include "computed/tokenizer/vocabulary.h"

#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/log/log.h"
#include "computed/tokenizer/metadata_fields.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr char kModelKey[] = "tokenizer.ggml.model";
constexpr char kTokensKey[] = "tokenizer.ggml.tokens";
constexpr char kTypesKey[] = "tokenizer.ggml.token_type";
constexpr char kScoresKey[] = "tokenizer.ggml.scores";

std::string TokenName(int32_t id, const std::string& text) {
  return absl::StrCat("token ", id, " \"", absl::CHexEscape(text.substr(0, 64)), "\"");
}

// Logs at its end how many tokens were not taken as the file has them, if any, and the first.
class Ignored {
 public:
  Ignored(std::string_view what, std::string_view key) : what_(what), key_(key) {}
  ~Ignored() {
    if (count_ == 0) return;
    Log(LogLevel::kWarning, what_, {{"key", key_}, {"count", count_}, {"first", first_}});
  }
  Ignored(const Ignored&) = delete;
  Ignored& operator=(const Ignored&) = delete;

  void Add(int32_t id, const std::string& text) {
    if (count_++ == 0) first_ = TokenName(id, text);
  }

 private:
  const std::string_view what_;
  const std::string_view key_;
  int32_t count_ = 0;
  std::string first_;
};

// There may be more than tokens: some converters pad to the size of the embedding. What is beyond
// the tokens is not used.
absl::Status CheckLength(std::string_view key, const char* what, size_t length, size_t tokens) {
  if (length < tokens) {
    return absl::InvalidArgumentError(absl::StrCat(absl::string_view(key.data(), key.size()), ": ",
                                                   length, " ", what, " for ", tokens, " tokens"));
  }
  if (length > tokens) {
    Log(LogLevel::kWarning, "array is longer than the vocabulary, the rest is ignored",
        {{"key", key}, {"length", length}, {"tokens", tokens}});
  }
  return absl::OkStatus();
}

std::optional<uint8_t> HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return std::nullopt;
}

// Tokens that end an answer in the vocabularies of known models, whatever the file says of them.
constexpr std::string_view kEndOfGenerationNames[] = {"<|eot_id|>",
                                                      "<|im_end|>",
                                                      "<|end|>",
                                                      "<|return|>",
                                                      "<|call|>",
                                                      "<|flush|>",
                                                      "<|calls|>",
                                                      "<end_of_turn>",
                                                      "<|endoftext|>",
                                                      "</s>",
                                                      "<|eom_id|>",
                                                      "<EOT>",
                                                      "_<EOT>",
                                                      "[EOT]",
                                                      "[EOS]",
                                                      "<|end_of_text|>",
                                                      "<end_of_utterance>",
                                                      "<eos>",
                                                      "<turn|>",
                                                      "<|tool_response>",
                                                      "<｜end▁of▁sentence｜>",
                                                      "[e~["};

// Tokens of infilling: control tokens even if the file calls them normal. The first name found
// counts, unless the file has the id. The last three also end an answer.
struct NamedRole {
  std::vector<std::string_view> keys;
  std::vector<std::string_view> names;
  bool ends_generation;
};

const std::vector<NamedRole>& InfillRoles() {
  static const std::vector<NamedRole>& roles = *new std::vector<NamedRole>{
      {{"tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"},
       {"<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", "<｜fim▁begin｜>", "<PRE>", "▁<PRE>",
        "<|code_prefix|>", "<|prefix|>"},
       false},
      {{"tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"},
       {"<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", "<｜fim▁hole｜>", "<SUF>", "▁<SUF>",
        "<|code_suffix|>", "<|suffix|>"},
       false},
      {{"tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"},
       {"<|fim_middle|>", "<fim-middle>", "<fim_middle>", "<｜fim▁end｜>", "<MID>", "▁<MID>",
        "<|code_middle|>", "<|middle|>"},
       false},
      {{"tokenizer.ggml.fim_pad_token_id"},
       {"<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"},
       true},
      {{"tokenizer.ggml.fim_rep_token_id"},
       {"<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"},
       true},
      {{"tokenizer.ggml.fim_sep_token_id"}, {"<|file_sep|>"}, true},
  };
  return roles;
}

// U+2581 is how SentencePiece writes a space.
bool IsWhiteSpace(std::string_view text) {
  while (!text.empty()) {
    char32_t character = 0;
    const size_t length = DecodeUtf8(text, &character);
    if (length == 0 || (ClassOf(character) != CharClass::kSpace && character != 0x2581)) {
      return false;
    }
    text.remove_prefix(length);
  }
  return true;
}

}  // namespace

std::optional<uint8_t> ParseByteToken(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  const std::optional<uint8_t> high = HexDigit(text[3]);
  const std::optional<uint8_t> low = HexDigit(text[4]);
  if (!high || !low) return std::nullopt;
  return static_cast<uint8_t>(*high << 4 | *low);
}

absl::StatusOr<Vocabulary> Vocabulary::Parse(const v1::Manifest& manifest) {
  Vocabulary vocabulary;
  absl::StatusOr<std::optional<std::string>> model = ReadString(manifest, kModelKey);
  if (!model.ok()) return model.status();
  if (!model->has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(kModelKey, ": missing"));
  }
  if (**model == "llama") {
    vocabulary.model_ = Model::kSentencePiece;
  } else if (**model == "gpt2") {
    vocabulary.model_ = Model::kBytePairEncoding;
  } else if (**model == "gemma4") {
    vocabulary.model_ = Model::kGemma4;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(kModelKey, ": unknown tokenizer model \"",
                                                   (*model)->substr(0, 64),
                                                   "\"; supported are llama, gpt2, gemma4"));
  }
  absl::Status status = vocabulary.ReadTokens(manifest);
  if (status.ok()) status = vocabulary.ReadTypes(manifest);
  if (status.ok()) status = vocabulary.ReadScores(manifest);
  if (status.ok()) status = vocabulary.CheckByteTokens();
  if (status.ok()) status = vocabulary.ReadSpecialIds(manifest);
  if (status.ok()) status = vocabulary.ReadEndOfGenerationIds(manifest);
  if (!status.ok()) return status;
  vocabulary.ClassifyByName();
  vocabulary.FindMarkup();
  return vocabulary;
}

bool Vocabulary::IsSpecial(int32_t id) const {
  return types_[id] == TokenType::kControl || types_[id] == TokenType::kUnknown ||
         types_[id] == TokenType::kUserDefined;
}

std::optional<int32_t> Vocabulary::Find(std::string_view text) const {
  const auto it = index_.find(text);
  if (it == index_.end()) return std::nullopt;
  return it->second;
}

absl::Status Vocabulary::ReadTokens(const v1::Manifest& manifest) {
  absl::StatusOr<std::optional<std::vector<std::string>>> tokens =
      ReadStrings(manifest, kTokensKey);
  if (!tokens.ok()) return tokens.status();
  if (!tokens->has_value() || (*tokens)->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(kTokensKey, ": missing or empty"));
  }
  texts_ = *std::move(*tokens);
  if (texts_.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
    return absl::InvalidArgumentError(absl::StrCat(kTokensKey, ": ", texts_.size(), " tokens"));
  }
  index_.reserve(texts_.size());
  Ignored repeated("tokens repeat others, whose ids count", kTokensKey);
  for (int32_t id = 0; id < size(); ++id) {
    if (texts_[id].empty()) continue;  // padding; no text can mean it
    if (!index_.try_emplace(texts_[id], id).second) repeated.Add(id, texts_[id]);
  }
  end_of_generation_.assign(texts_.size(), false);
  known_roles_.assign(InfillRoles().size(), false);
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadTypes(const v1::Manifest& manifest) {
  types_.assign(texts_.size(), TokenType::kNormal);
  const absl::StatusOr<std::optional<std::vector<int64_t>>> types =
      ReadIntegers(manifest, kTypesKey);
  if (!types.ok()) return types.status();
  if (types->has_value()) {
    const absl::Status length = CheckLength(kTypesKey, "types", (*types)->size(), texts_.size());
    if (!length.ok()) return length;
    Ignored unknown("tokens have types that are not known and are taken as normal", kTypesKey);
    for (int32_t id = 0; id < size(); ++id) {
      const int64_t type = (**types)[id];
      if (type >= 0 && type <= static_cast<int64_t>(TokenType::kByte)) {
        types_[id] = static_cast<TokenType>(type);
      } else {
        unknown.Add(id, texts_[id]);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadScores(const v1::Manifest& manifest) {
  absl::StatusOr<std::optional<std::vector<float>>> scores = ReadFloats(manifest, kScoresKey);
  if (!scores.ok()) return scores.status();
  if (!scores->has_value()) {
    if (model_ != Model::kSentencePiece) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(kScoresKey, ": missing, but tokenizer model \"llama\" merges by score"));
  }
  scores_ = *std::move(*scores);
  const absl::Status length = CheckLength(kScoresKey, "scores", scores_.size(), texts_.size());
  if (!length.ok()) return length;
  scores_.resize(texts_.size());
  if (model_ != Model::kSentencePiece) return absl::OkStatus();  // merges by rank
  for (int32_t id = 0; id < size(); ++id) {
    if (std::isnan(scores_[id])) {
      return absl::InvalidArgumentError(
          absl::StrCat(kScoresKey, ": ", TokenName(id, texts_[id]), " has score NaN"));
    }
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::CheckByteTokens() const {
  std::vector<bool> known(256, false);
  Ignored repeated("byte tokens repeat others, whose ids count", kTokensKey);
  for (int32_t id = 0; id < size(); ++id) {
    if (types_[id] != TokenType::kByte) continue;
    const std::optional<uint8_t> byte = ParseByteToken(texts_[id]);
    if (!byte) {
      return absl::InvalidArgumentError(absl::StrCat(
          kTokensKey, ": byte ", TokenName(id, texts_[id]), " is not of the form <0xXX>"));
    }
    if (known[*byte]) repeated.Add(id, texts_[id]);
    known[*byte] = true;
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadSpecialIds(const v1::Manifest& manifest) {
  struct Role {
    const char* key;
    int32_t sentence_piece_default;
    std::optional<int32_t>* id;
  };
  for (const Role& role : {Role{"tokenizer.ggml.bos_token_id", 1, &bos_},
                           Role{"tokenizer.ggml.eos_token_id", 2, &eos_},
                           Role{"tokenizer.ggml.unknown_token_id", 0, &unknown_}}) {
    const absl::StatusOr<std::optional<int32_t>> id = ReadTokenId(manifest, role.key, size());
    if (!id.ok()) return id.status();
    *role.id = *id;
    if (!id->has_value() && model_ == Model::kSentencePiece &&
        role.sentence_piece_default < size()) {
      *role.id = role.sentence_piece_default;
    }
  }
  return absl::OkStatus();
}

absl::Status Vocabulary::ReadEndOfGenerationIds(const v1::Manifest& manifest) {
  if (eos_) MarkEndOfGeneration(*eos_);
  for (const char* key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const absl::StatusOr<std::optional<int32_t>> id = ReadTokenId(manifest, key, size());
    if (!id.ok()) return id.status();
    if (id->has_value()) MarkEndOfGeneration(**id);
  }
  for (size_t r = 0; r < InfillRoles().size(); ++r) {
    const NamedRole& role = InfillRoles()[r];
    for (std::string_view key : role.keys) {
      const absl::StatusOr<std::optional<int32_t>> id =
          ReadTokenId(manifest, std::string(key), size());
      if (!id.ok()) return id.status();
      if (!id->has_value()) continue;
      known_roles_[r] = true;
      if (role.ends_generation) MarkEndOfGeneration(**id);
    }
  }
  return absl::OkStatus();
}

// Many published files have wrong types for these tokens, so that the name decides.
void Vocabulary::ClassifyByName() {
  for (size_t r = 0; r < InfillRoles().size(); ++r) {
    const NamedRole& role = InfillRoles()[r];
    bool known = known_roles_[r];
    for (size_t i = 0; i < role.names.size() && !known; ++i) {
      const std::optional<int32_t> id = Find(role.names[i]);
      if (!id) continue;
      known = true;
      types_[*id] = TokenType::kControl;
      if (role.ends_generation) MarkEndOfGeneration(*id);
    }
  }
  for (std::string_view name : kEndOfGenerationNames) {
    const std::optional<int32_t> id = Find(name);
    if (!id) continue;
    types_[*id] = TokenType::kControl;
    MarkEndOfGeneration(*id);
  }
  // In the harmony format these separate the parts of an answer and must be seen.
  for (std::string_view name : {"<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"}) {
    const std::optional<int32_t> id = Find(name);
    if (id) types_[*id] = TokenType::kUserDefined;
  }
  auto ends = [&](std::string_view name) {
    const std::optional<int32_t> id = Find(name);
    return id && end_of_generation_[*id];
  };
  // There, and in formats alike, <|end|> ends a message but not the answer.
  const bool has_call = ends("<|call|>") || ends("<|calls|>");
  if (has_call && (ends("<|return|>") || ends("<|flush|>")) && ends("<|end|>")) {
    const int32_t id = *Find("<|end|>");
    end_of_generation_[id] = false;
    types_[id] = TokenType::kUserDefined;
  }
  // Vocabularies with <|tool_response> carry </s> as text.
  if (ends("<|tool_response>") && ends("</s>")) {
    const int32_t id = *Find("</s>");
    end_of_generation_[id] = false;
    types_[id] = TokenType::kNormal;
  }
}

void Vocabulary::FindMarkup() {
  markup_.resize(texts_.size());
  for (int32_t id = 0; id < size(); ++id) {
    markup_[id] =
        IsSpecial(id) && (types_[id] != TokenType::kUserDefined || !IsWhiteSpace(texts_[id]));
  }
}

}  // namespace gguf_offload
