#include "computed/tokenizer/byte_level_bpe.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/log/log.h"
#include "computed/tokenizer/metadata_fields.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr char kMergesKey[] = "tokenizer.ggml.merges";
constexpr uint32_t kNone = 0xFFFFFFFF;

// Up to this size the next merge is looked for in the whole word, which is faster than a queue.
constexpr size_t kShortWord = 48;
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

// A possible merge of two neighbours, valid as long as the right one keeps its size.
struct ByteLevelBpe::Candidate {
  uint32_t rank;
  uint32_t left;
  uint32_t right;
  uint32_t right_size;
  PieceId result;

  // The top of the queue has the least rank and, of those, is leftmost.
  bool operator<(const Candidate& other) const {
    return std::tie(rank, left) > std::tie(other.rank, other.left);
  }
};

// Remembers the ids of short words for the length of one Encode: most words of a text recur.
class ByteLevelBpe::WordCache {
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

absl::StatusOr<std::unique_ptr<ByteLevelBpe>> ByteLevelBpe::Create(const v1::Manifest& manifest,
                                                                   const Vocabulary& vocabulary,
                                                                   PreTokenizer pre_tokenizer) {
  const absl::StatusOr<std::optional<std::vector<std::string>>> merges =
      ReadStrings(manifest, kMergesKey);
  if (!merges.ok()) return merges.status();
  if (!merges->has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMergesKey, ": missing, but tokenizer model \"gpt2\" needs it"));
  }
  if ((*merges)->size() >= kNoRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(kMergesKey, ": ", (*merges)->size(), " merges are too many"));
  }
  std::unique_ptr<ByteLevelBpe> encoder(new ByteLevelBpe(std::move(pre_tokenizer)));
  encoder->AddTokens(vocabulary);
  const absl::Status status = encoder->AddMerges(**merges, vocabulary);
  if (!status.ok()) return status;
  return encoder;
}

void ByteLevelBpe::AddTokens(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    // Special tokens are found before encoding; ordinary text must never turn into them.
    const TokenType type = vocabulary.type(id);
    if (vocabulary.Find(vocabulary.text(id)) != id) continue;
    if (type == TokenType::kControl || type == TokenType::kUnknown) continue;
    const std::optional<std::string> bytes = DecodeByteCharacters(vocabulary.text(id));
    if (!bytes || bytes->empty()) continue;
    const PieceId piece = Intern(*bytes);
    piece_token_[piece] = id;
    piece_markup_[piece] = vocabulary.IsMarkup(id);
  }
  for (int byte = 0; byte < 256; ++byte) {
    byte_piece_[byte] = Intern(std::string(1, static_cast<char>(byte)));
  }
}

absl::Status ByteLevelBpe::AddMerges(const std::vector<std::string>& merges,
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
    const std::optional<std::string> left =
        DecodeByteCharacters(std::string_view(merge).substr(0, space));
    const std::optional<std::string> right =
        DecodeByteCharacters(std::string_view(merge).substr(space + 1));
    // Text is made of byte characters only, so that such a merge can never happen.
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
  byte_merges_.resize(256 * 256);
  std::vector<int> byte_of_piece(piece_bytes_.size(), -1);
  for (int byte = 0; byte < 256; ++byte) byte_of_piece[byte_piece_[byte]] = byte;
  for (const auto& [key, merge] : merges_) {
    const int left = byte_of_piece[key >> 32];
    const int right = byte_of_piece[key & 0xFFFFFFFF];
    if (left >= 0 && right >= 0) byte_merges_[left * 256 + right] = merge;
  }
  return absl::OkStatus();
}

ByteLevelBpe::PieceId ByteLevelBpe::Intern(const std::string& bytes) {
  const auto [it, inserted] =
      piece_index_.try_emplace(bytes, static_cast<PieceId>(piece_bytes_.size()));
  if (inserted) {
    piece_bytes_.push_back(bytes);
    piece_token_.push_back(-1);
    piece_markup_.push_back(0);
  }
  return it->second;
}

ByteLevelBpe::Merge ByteLevelBpe::FindMerge(PieceId left, PieceId right, bool literal) const {
  const auto it = merges_.find(PairKey(left, right));
  if (it == merges_.end() || (literal && piece_markup_[it->second.result])) return Merge{};
  return it->second;
}

ByteLevelBpe::Merge ByteLevelBpe::FindByteMerge(char left, char right, bool literal) const {
  const Merge& merge = byte_merges_[static_cast<uint8_t>(left) * 256 + static_cast<uint8_t>(right)];
  if (literal && merge.rank != kNoRank && piece_markup_[merge.result]) return Merge{};
  return merge;
}

void ByteLevelBpe::Encode(std::string_view text, const TextContext& context,
                          std::vector<int32_t>* ids) const {
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

void ByteLevelBpe::EncodeWord(std::string_view word, bool literal,
                              std::vector<int32_t>* ids) const {
  if (pre_tokenizer_.ignore_merges()) {
    const auto it = piece_index_.find(absl::string_view(word.data(), word.size()));
    if (it != piece_index_.end() && piece_token_[it->second] >= 0 &&
        !(literal && piece_markup_[it->second])) {
      ids->push_back(piece_token_[it->second]);
      return;
    }
  }
  if (word.size() <= kShortWord) {
    MergeShortWord(word, literal, ids);
  } else {
    MergeLongWord(word, literal, ids);
  }
}

void ByteLevelBpe::MergeShortWord(std::string_view word, bool literal,
                                  std::vector<int32_t>* ids) const {
  PieceId pieces[kShortWord];
  Merge merges[kShortWord];  // merges[i]: of pieces i and i + 1
  size_t count = word.size();
  for (size_t i = 0; i < count; ++i) pieces[i] = byte_piece_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i + 1 < count; ++i) {
    merges[i] = FindByteMerge(word[i], word[i + 1], literal);
  }
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == kNoRank) break;
    pieces[best] = merges[best].result;
    std::copy(pieces + best + 2, pieces + count, pieces + best + 1);
    if (best + 2 < count) std::copy(merges + best + 2, merges + count - 1, merges + best + 1);
    --count;
    if (best > 0) merges[best - 1] = FindMerge(pieces[best - 1], pieces[best], literal);
    if (best + 1 < count) merges[best] = FindMerge(pieces[best], pieces[best + 1], literal);
  }
  for (size_t i = 0; i < count; ++i) AppendPiece(pieces[i], ids);
}

void ByteLevelBpe::MergeLongWord(std::string_view word, bool literal,
                                 std::vector<int32_t>* ids) const {
  const uint32_t count = static_cast<uint32_t>(word.size());
  std::vector<Symbol> symbols(count);
  std::vector<Candidate> initial;
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_piece_[static_cast<uint8_t>(word[i])], i == 0 ? kNone : i - 1,
                  i + 1 == count ? kNone : i + 1, 1};
    if (i == 0) continue;
    const Merge merge = FindByteMerge(word[i - 1], word[i], literal);
    if (merge.rank != kNoRank) initial.push_back({merge.rank, i - 1, i, 1, merge.result});
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(initial));
  auto consider = [&](uint32_t left, uint32_t right) {
    if (left == kNone || right == kNone) return;
    const Merge merge = FindMerge(symbols[left].piece, symbols[right].piece, literal);
    if (merge.rank == kNoRank) return;
    queue.push({merge.rank, left, right, symbols[right].size, merge.result});
  };
  while (!queue.empty()) {
    const Candidate candidate = queue.top();
    queue.pop();
    Symbol& left = symbols[candidate.left];
    Symbol& right = symbols[candidate.right];
    // The left symbol grows only by taking the right one, so that these two tests suffice.
    if (left.size == 0 || right.size != candidate.right_size) continue;
    left.piece = candidate.result;
    left.size += right.size;
    left.next = right.next;
    right.size = 0;
    if (left.next != kNone) symbols[left.next].previous = candidate.left;
    consider(left.previous, candidate.left);
    consider(candidate.left, left.next);
  }
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) AppendPiece(symbols[i].piece, ids);
}

void ByteLevelBpe::AppendPiece(PieceId piece, std::vector<int32_t>* ids) const {
  if (piece_token_[piece] >= 0) {
    ids->push_back(piece_token_[piece]);
    return;
  }
  for (char byte : piece_bytes_[piece]) {
    const int32_t token = piece_token_[byte_piece_[static_cast<uint8_t>(byte)]];
    if (token >= 0) {
      ids->push_back(token);
    } else if (!lost_byte_.exchange(true, std::memory_order_relaxed)) {
      Log(LogLevel::kWarning, "the vocabulary has no token for a byte, which is left out of texts",
          {{"byte", static_cast<int>(static_cast<uint8_t>(byte))}});
    }
  }
}

std::string ByteLevelBpe::DecodeText(std::string_view token_text) const {
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
