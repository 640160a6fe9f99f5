// Merging a word's pieces; see byte_pair_encoding.h.
#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "common/log/log.h"
#include "computed/tokenizer/byte_pair_encoding.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFF;

uint64_t PairKey(uint32_t left, uint32_t right) {
  return static_cast<uint64_t>(left) << 32 | right;
}

}  // namespace

// A possible merge of two neighbours, valid as long as the right one keeps its size.
struct BytePairEncoding::Candidate {
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

inline BytePairEncoding::Merge BytePairEncoding::FindByteMerge(char left, char right,
                                                               bool literal) const {
  const Merge& merge = byte_merges_[static_cast<uint8_t>(left) * 256 + static_cast<uint8_t>(right)];
  if (literal && merge.rank != kNoRank && piece_markup_[merge.result]) return Merge{};
  return merge;
}

BytePairEncoding::Merge BytePairEncoding::FindMerge(PieceId left, PieceId right,
                                                    bool literal) const {
  const auto it = merges_.find(PairKey(left, right));
  if (it == merges_.end() || (literal && piece_markup_[it->second.result])) return Merge{};
  return it->second;
}

void BytePairEncoding::MergeShortWord(std::string_view word, bool literal,
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
  for (size_t i = 0; i < count; ++i) {
    AppendPiece(pieces[i], literal, piece_bytes_[pieces[i]], ids);
  }
}

std::vector<BytePairEncoding::Symbol> BytePairEncoding::ByteSymbols(std::string_view word) const {
  const uint32_t count = static_cast<uint32_t>(word.size());
  std::vector<Symbol> symbols(count);
  for (uint32_t i = 0; i < count; ++i) {
    symbols[i] = {byte_piece_[static_cast<uint8_t>(word[i])], i - 1, i + 1, 1};
  }
  return symbols;
}

std::vector<BytePairEncoding::Symbol> BytePairEncoding::CharacterSymbols(
    std::string_view word) const {
  std::vector<Symbol> symbols;
  while (!word.empty()) {
    char32_t unused;
    // A byte of malformed UTF-8 is a character by itself.
    const size_t size = std::max<size_t>(1, DecodeUtf8(word, &unused));
    const uint32_t i = static_cast<uint32_t>(symbols.size());
    symbols.push_back({FindPiece(word.substr(0, size)), i - 1, i + 1, static_cast<uint32_t>(size)});
    word.remove_prefix(size);
  }
  return symbols;
}

void BytePairEncoding::MergeLongWord(std::string_view word, bool literal,
                                     std::vector<int32_t>* ids) const {
  const bool plain = settings_.plain_tokens;
  std::vector<Symbol> symbols = plain ? CharacterSymbols(word) : ByteSymbols(word);
  symbols.front().previous = kNone;
  symbols.back().next = kNone;
  std::vector<Candidate> initial;
  for (uint32_t i = 1; i < symbols.size(); ++i) {
    const Merge merge = plain ? FindMerge(symbols[i - 1].piece, symbols[i].piece, literal)
                              : FindByteMerge(word[i - 1], word[i], literal);
    if (merge.rank != kNoRank) {
      initial.push_back({merge.rank, i - 1, i, symbols[i].size, merge.result});
    }
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
  size_t offset = 0;
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) {
    AppendPiece(symbols[i].piece, literal, word.substr(offset, symbols[i].size), ids);
    offset += symbols[i].size;
  }
}

void BytePairEncoding::AppendPiece(PieceId piece, bool literal, std::string_view text,
                                   std::vector<int32_t>* ids) const {
  if (piece != kNoPiece && piece_token_[piece] >= 0 && !(literal && piece_markup_[piece])) {
    ids->push_back(piece_token_[piece]);
    return;
  }
  for (char c : text) {
    const uint8_t byte = static_cast<uint8_t>(c);
    if (byte_token_[byte] >= 0) {
      ids->push_back(byte_token_[byte]);
    } else if (!lost_byte_.exchange(true, std::memory_order_relaxed)) {
      Log(LogLevel::kWarning, "the vocabulary has no token for a byte, which is left out of texts",
          {{"byte", static_cast<int>(byte)}});
    }
  }
}

}  // namespace gguf_offload
