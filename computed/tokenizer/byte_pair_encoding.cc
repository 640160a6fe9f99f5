#include "computed/tokenizer/byte_pair_encoding.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/log/log.h"
#include "computed/tokenizer/metadata_fields.h"
#include "computed/tokenizer/space_mark.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr char kMergesKey[] = "tokenizer.ggml.merges";
// Symbols are counted in 32 bits; a longer word is cut.
constexpr size_t kLongestWord = size_t{1} << 30;

// Character of each byte: itself if it is printable in Latin-1, else the next free one from U+0100.
std::array<char32_t, 256> ByteCharacters() {
  std::array<char32_t, 256> characters;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = printable ? byte : next++;
  }
  return characters;
}

// Byte of each character below U+0180, -1 where there is none.
const std::array<int16_t, 0x180>& CharacterBytes() {
  static const std::array<int16_t, 0x180> bytes = [] {
    std::array<int16_t, 0x180> table;
    table.fill(-1);
    const std::array<char32_t, 256> characters = ByteCharacters();
    for (int16_t byte = 0; byte < 256; ++byte) table[characters[byte]] = byte;
    return table;
  }();
  return bytes;
}

uint64_t PairKey(uint32_t left, uint32_t right) {
  return static_cast<uint64_t>(left) << 32 | right;
}

absl::Status MergeError(size_t rank, const std::string& merge) {
  return absl::InvalidArgumentError(absl::StrCat(kMergesKey, ": merge ", rank, " \"",
                                                 absl::CHexEscape(merge.substr(0, 64)),
                                                 "\" is not two parts with a space between them"));
}

}  // namespace

std::optional<std::string> DecodeByteCharacters(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    char32_t character = 0;
    const size_t length = DecodeUtf8(text, &character);
    if (length == 0 || character >= CharacterBytes().size()) return std::nullopt;
    const int16_t byte = CharacterBytes()[character];
    if (byte < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte));
    text.remove_prefix(length);
  }
  return bytes;
}

// Remembers the ids of short words for the length of one Encode: most words of a text recur.
class BytePairEncoding::WordCache {
 public:
  bool Append(std::string_view word, std::vector<int32_t>* ids) const {
    const auto it = entries_.find(word);
    if (it == entries_.end()) return false;
    const auto begin = ids_.begin() + it->second.first;
    ids->insert(ids->end(), begin, begin + it->second.second);
    return true;
  }
  // `word` must outlive the cache.
  void Put(std::string_view word, const std::vector<int32_t>& ids, size_t first) {
    if (entries_.size() >= kCapacity || ids.size() == first) return;
    entries_.try_emplace(word, static_cast<uint32_t>(ids_.size()),
                         static_cast<uint32_t>(ids.size() - first));
    ids_.insert(ids_.end(), ids.begin() + first, ids.end());
  }

 private:
  static constexpr size_t kCapacity = 16384;

  absl::flat_hash_map<std::string_view, std::pair<uint32_t, uint32_t>, StringViewHash,
                      std::equal_to<std::string_view>>
      entries_;  // where in ids_, and how many
  std::vector<int32_t> ids_;
};

absl::StatusOr<std::unique_ptr<BytePairEncoding>> BytePairEncoding::Create(
    const v1::Manifest& manifest, const Vocabulary& vocabulary, PreTokenizer pre_tokenizer) {
  const absl::StatusOr<std::optional<std::vector<std::string>>> merges =
      ReadStrings(manifest, kMergesKey);
  if (!merges.ok()) return merges.status();
  if (!merges->has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMergesKey, ": missing, but byte pair encoding needs it"));
  }
  if ((*merges)->size() >= kNoRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMergesKey, ": ", (*merges)->size(), " merges are too many"));
  }
  std::unique_ptr<BytePairEncoding> encoder(new BytePairEncoding(std::move(pre_tokenizer)));
  encoder->AddTokens(vocabulary);
  const absl::Status status = encoder->AddMerges(**merges, vocabulary);
  if (!status.ok()) return status;
  return encoder;
}

std::optional<std::string> BytePairEncoding::PieceText(std::string_view token_text) const {
  if (settings_.plain_tokens) return std::string(token_text);
  return DecodeByteCharacters(token_text);
}

void BytePairEncoding::AddTokens(const Vocabulary& vocabulary) {
  byte_token_.fill(-1);
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    // Special tokens are found before encoding; ordinary text must never turn into them.
    const TokenType type = vocabulary.type(id);
    if (vocabulary.Find(vocabulary.text(id)) != id) continue;
    if (type == TokenType::kControl || type == TokenType::kUnknown) continue;
    const std::optional<uint8_t> byte = ParseByteToken(vocabulary.text(id));
    if (settings_.plain_tokens && byte) {
      if (byte_token_[*byte] < 0) byte_token_[*byte] = id;
      continue;
    }
    const std::optional<std::string> bytes = PieceText(vocabulary.text(id));
    if (!bytes || bytes->empty()) continue;
    const PieceId piece = Intern(*bytes);
    piece_token_[piece] = id;
    piece_markup_[piece] = vocabulary.IsMarkup(id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_piece_[byte] = Intern(std::string(1, static_cast<char>(byte)));
    if (!settings_.plain_tokens) byte_token_[byte] = piece_token_[byte_piece_[byte]];
  }
}

absl::Status BytePairEncoding::AddMerges(const std::vector<std::string>& merges,
                                         const Vocabulary& vocabulary) {
  merges_.reserve(merges.size());
  absl::Status malformed;  // the first that is
  size_t malformed_count = 0;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string& merge = merges[rank];
    // A space at index 0 would be the left part itself.
    const size_t space = merge.find(' ', 1);
    if (merge.empty() || space == std::string::npos || space + 1 == merge.size()) {
      if (malformed_count++ == 0) malformed = MergeError(rank, merge);
      continue;
    }
    const std::optional<std::string> left = PieceText(std::string_view(merge).substr(0, space));
    const std::optional<std::string> right = PieceText(std::string_view(merge).substr(space + 1));
    // Byte-level, text is made of byte characters only: such a merge can never happen.
    if (!left || !right) continue;
    const std::optional<int32_t> token =
        vocabulary.Find(merge.substr(0, space) + merge.substr(space + 1));
    if (token && (vocabulary.type(*token) == TokenType::kControl ||
                  vocabulary.type(*token) == TokenType::kUnknown)) {
      continue;
    }
    const PieceId left_piece = Intern(*left);
    const PieceId right_piece = Intern(*right);
    const Merge result{static_cast<uint32_t>(rank), Intern(*left + *right)};
    merges_.try_emplace(PairKey(left_piece, right_piece), result);  // the first rank counts
  }
  if (malformed_count > 0) {
    if (malformed_count == merges.size()) return malformed;
    Log(LogLevel::kWarning, "merges ignored", {{"count", malformed_count}, {"first", malformed}});
  }
  IndexByteMerges();
  return absl::OkStatus();
}

void BytePairEncoding::IndexByteMerges() {
  byte_merges_.resize(256 * 256);
  std::vector<int> byte_of_piece(piece_bytes_.size(), -1);
  for (int byte = 0; byte < 256; ++byte) byte_of_piece[byte_piece_[byte]] = byte;
  for (const auto& [key, merge] : merges_) {
    const int left = byte_of_piece[key >> 32];
    const int right = byte_of_piece[key & 0xFFFFFFFF];
    if (left >= 0 && right >= 0) byte_merges_[left * 256 + right] = merge;
  }
}

BytePairEncoding::PieceId BytePairEncoding::Intern(const std::string& bytes) {
  const auto [it, inserted] =
      piece_index_.try_emplace(bytes, static_cast<PieceId>(piece_bytes_.size()));
  if (inserted) {
    piece_bytes_.push_back(bytes);
    piece_token_.push_back(-1);
    piece_markup_.push_back(0);
  }
  return it->second;
}

BytePairEncoding::PieceId BytePairEncoding::FindPiece(std::string_view bytes) const {
  const auto it = piece_index_.find(absl::string_view(bytes.data(), bytes.size()));
  return it == piece_index_.end() ? kNoPiece : it->second;
}

void BytePairEncoding::Encode(std::string_view text, const TextContext& context,
                              std::vector<int32_t>* ids) const {
  std::string escaped;
  if (settings_.escape_spaces) {
    AppendWithSpaceMarks(text, &escaped);
    text = escaped;
  }
  WordCache cache;
  for (std::string_view word : pre_tokenizer_.Split(text)) {
    if (word.size() > kShortWord) {
      for (; word.size() > kLongestWord; word.remove_prefix(kLongestWord)) {
        EncodeWord(word.substr(0, kLongestWord), context.literal, ids);
      }
      EncodeWord(word, context.literal, ids);
    } else if (!cache.Append(word, ids)) {
      const size_t first = ids->size();
      EncodeWord(word, context.literal, ids);
      cache.Put(word, *ids, first);
    }
  }
}

void BytePairEncoding::EncodeWord(std::string_view word, bool literal,
                                  std::vector<int32_t>* ids) const {
  const bool take_whole =
      settings_.ignore_merges ||
      (settings_.whole_line_breaks && word.find_first_not_of('\n') == std::string_view::npos);
  if (take_whole && AppendWholeWord(word, literal, ids)) return;
  if (word.size() <= kShortWord && !settings_.plain_tokens) {
    MergeShortWord(word, literal, ids);
  } else {
    MergeLongWord(word, literal, ids);
  }
}

bool BytePairEncoding::AppendWholeWord(std::string_view word, bool literal,
                                       std::vector<int32_t>* ids) const {
  const PieceId piece = FindPiece(word);
  if (piece == kNoPiece || piece_token_[piece] < 0 || (literal && piece_markup_[piece])) {
    return false;
  }
  ids->push_back(piece_token_[piece]);
  return true;
}

std::string BytePairEncoding::DecodeText(std::string_view token_text) const {
  if (settings_.escape_spaces) return WithoutSpaceMarks(token_text);
  if (settings_.plain_tokens) return std::string(token_text);
  std::string bytes;
  while (!token_text.empty()) {
    char32_t character = 0;
    const size_t length = std::max<size_t>(1, DecodeUtf8(token_text, &character));
    const std::optional<std::string> byte = DecodeByteCharacters(token_text.substr(0, length));
    // A character that writes no byte stands for itself.
    bytes += byte ? *byte : std::string(token_text.substr(0, length));
    token_text.remove_prefix(length);
  }
  return bytes;
}

}  // namespace gguf_offload
