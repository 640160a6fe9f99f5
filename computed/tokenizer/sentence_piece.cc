#include "computed/tokenizer/sentence_piece.h"

#include <algorithm>
#include <queue>
#include <tuple>
#include <utility>

#include "computed/tokenizer/space_mark.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload {
namespace {

constexpr uint32_t kNone = 0xFFFFFFFF;
// Symbols are counted in 32 bits; a longer text is cut.
constexpr size_t kLongestText = size_t{1} << 30;

// Bytes of the character at the start of `text`, which is not empty. A byte of malformed UTF-8 is a
// character by itself, so that it cannot take a space mark behind it along.
size_t CharacterLength(std::string_view text) {
  char32_t unused;
  return std::max<size_t>(1, DecodeUtf8(text, &unused));
}

std::string RemoveExtraSpaces(std::string_view text) {
  std::string result;
  bool pending_space = false;
  for (char c : text) {
    if (c == ' ') {
      pending_space = !result.empty();
      continue;
    }
    if (pending_space) result.push_back(' ');
    pending_space = false;
    result.push_back(c);
  }
  return result;
}

}  // namespace

// A part of the text while it is being merged. Parts form a list by their index.
struct SentencePiece::Symbol {
  const char* data;
  uint32_t size;  // bytes; 0 once merged into the symbol before it
  uint32_t previous;
  uint32_t next;
  int32_t token;  // that it forms, or -1

  std::string_view text() const { return {data, size}; }
};

// A possible merge of two neighbours, valid as long as together they have `size` bytes.
struct SentencePiece::Candidate {
  float score;
  uint32_t left;
  uint32_t right;
  uint32_t size;
  int32_t token;

  // The top of the queue has the highest score and, of those, is leftmost.
  bool operator<(const Candidate& other) const {
    if (score != other.score) return score < other.score;
    return left > other.left;
  }
};

SentencePiece::SentencePiece(const Vocabulary* vocabulary, SentencePieceOptions options)
    : vocabulary_(vocabulary), options_(options) {
  byte_tokens_.fill(-1);
  for (int32_t id = 0; id < vocabulary_->size(); ++id) {
    const std::string& text = vocabulary_->text(id);
    const TokenType type = vocabulary_->type(id);
    const std::optional<uint8_t> byte = ParseByteToken(text);
    if (byte && (byte_tokens_[*byte] < 0 ||
                 // A vocabulary without types has its bytes among the normal tokens.
                 (type == TokenType::kByte &&
                  vocabulary_->type(byte_tokens_[*byte]) != TokenType::kByte))) {
      byte_tokens_[*byte] = id;
    }
    // Special tokens are found before encoding, and byte tokens are no text: ordinary text must
    // never turn into either.
    if (vocabulary_->Find(text) != id || type == TokenType::kControl ||
        type == TokenType::kUnknown || type == TokenType::kByte) {
      continue;
    }
    index_.try_emplace(text, id);
    longest_token_ = std::max(longest_token_, text.size());
  }
}

int32_t SentencePiece::FindText(std::string_view text, bool literal) const {
  if (text.size() > longest_token_) return -1;
  const auto it = index_.find(text);
  if (it == index_.end() || (literal && vocabulary_->IsMarkup(it->second))) return -1;
  return it->second;
}

std::string SentencePiece::Normalize(std::string_view text, bool after_special) const {
  std::string cleaned;
  if (options_.remove_extra_whitespaces) {
    cleaned = RemoveExtraSpaces(text);
    text = cleaned;
  }
  std::string normalized;
  normalized.reserve(text.size() + text.size() / 4 + kSpaceMark.size());
  if (options_.add_space_prefix && after_special) normalized += kSpaceMark;
  AppendWithSpaceMarks(text, &normalized);
  return normalized;
}

void SentencePiece::Encode(std::string_view text, const TextContext& context,
                           std::vector<int32_t>* ids) const {
  if (text.size() > kLongestText) {
    Encode(text.substr(0, kLongestText), context, ids);
    Encode(text.substr(kLongestText), {.after_special = false, .literal = context.literal}, ids);
    return;
  }
  const std::string normalized = Normalize(text, context.after_special);
  if (normalized.empty()) return;
  std::vector<Symbol> symbols;
  Merge(normalized, context.literal, &symbols);
  for (uint32_t i = 0; i != kNone; i = symbols[i].next) {
    if (symbols[i].token >= 0) {
      ids->push_back(symbols[i].token);
    } else {
      AppendBytes(symbols[i].text(), ids);
    }
  }
}

void SentencePiece::Merge(std::string_view text, bool literal, std::vector<Symbol>* symbols) const {
  symbols->reserve(text.size());
  for (size_t offset = 0; offset < text.size();) {
    const size_t size = CharacterLength(text.substr(offset));
    const uint32_t i = static_cast<uint32_t>(symbols->size());
    symbols->push_back({text.data() + offset, static_cast<uint32_t>(size), i == 0 ? kNone : i - 1,
                        offset + size == text.size() ? kNone : i + 1,
                        FindText(text.substr(offset, size), literal)});
    offset += size;
  }
  std::vector<Candidate> initial;
  auto merge_of = [&](uint32_t left, uint32_t right, Candidate* candidate) {
    if (left == kNone || right == kNone) return false;
    const uint32_t size = (*symbols)[left].size + (*symbols)[right].size;
    const int32_t token = FindText({(*symbols)[left].data, size}, literal);
    if (token < 0) return false;
    *candidate = {vocabulary_->score(token), left, right, size, token};
    return true;
  };
  Candidate candidate;
  for (uint32_t i = 1; i < symbols->size(); ++i) {
    if (merge_of(i - 1, i, &candidate)) initial.push_back(candidate);
  }
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(initial));
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = (*symbols)[best.left];
    Symbol& right = (*symbols)[best.right];
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size = best.size;
    left.token = best.token;
    left.next = right.next;
    right.size = 0;
    if (left.next != kNone) (*symbols)[left.next].previous = best.left;
    if (merge_of(left.previous, best.left, &candidate)) queue.push(candidate);
    if (merge_of(best.left, left.next, &candidate)) queue.push(candidate);
  }
}

void SentencePiece::AppendBytes(std::string_view text, std::vector<int32_t>* ids) const {
  bool wrote_unknown = false;  // one unknown token stands for the whole character
  for (char c : text) {
    const int32_t token = byte_tokens_[static_cast<uint8_t>(c)];
    if (token >= 0) {
      ids->push_back(token);
    } else if (vocabulary_->unknown() && !wrote_unknown) {
      ids->push_back(*vocabulary_->unknown());
      wrote_unknown = true;
    }
  }
}

std::string SentencePiece::DecodeText(std::string_view token_text) const {
  return WithoutSpaceMarks(token_text);
}

}  // namespace gguf_offload
