// Byte pair encoding: a word's pieces are merged pair by pair in the order of the merges' rank
// (Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words with Subword Units",
// 2016).
//
// Byte-level ("gpt2" in GGUF; Radford et al., "Language Models are Unsupervised Multitask
// Learners", 2019), the pieces are bytes at first, and token texts write each byte as a printable
// character. With plain tokens ("gemma4"), they are characters at first, token texts are text, and
// what forms no token is written as bytes <0xXX>.
#ifndef COMPUTED_TOKENIZER_BYTE_PAIR_ENCODING_H_
#define COMPUTED_TOKENIZER_BYTE_PAIR_ENCODING_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "computed/tokenizer/pre_tokenizer.h"
#include "computed/tokenizer/text_encoder.h"
#include "computed/tokenizer/vocabulary.h"
#include "gguf_offload/v1/model.pb.h"

namespace gguf_offload {

// Byte-level token texts write the printable bytes of Latin-1 as themselves, the others as U+0100
// and up. The bytes that `text` writes, or nullopt if it has other characters.
std::optional<std::string> DecodeByteCharacters(std::string_view text);

// Immutable, thread safe. Linear in the text but for long words, where it is n log n. A byte for
// which the vocabulary has no token is left out of the ids; that is logged once.
class BytePairEncoding : public TextEncoder {
 public:
  // Reads `tokenizer.ggml.merges`: those without two parts are ignored, and logged, unless all are
  // like that. Keeps nothing of the arguments.
  static absl::StatusOr<std::unique_ptr<BytePairEncoding>> Create(const v1::Manifest& manifest,
                                                                  const Vocabulary& vocabulary,
                                                                  PreTokenizer pre_tokenizer);

  void Encode(std::string_view text, const TextContext& context,
              std::vector<int32_t>* ids) const override;
  std::string DecodeText(std::string_view token_text) const override;

 private:
  // A piece is a string of bytes that merging can produce. Most are tokens; a piece that is none
  // is spelled by the tokens of its bytes.
  using PieceId = uint32_t;
  static constexpr PieceId kNoPiece = 0xFFFFFFFF;
  static constexpr uint32_t kNoRank = 0xFFFFFFFF;
  // Up to this size the next merge is looked for in the whole word, faster than with a queue.
  static constexpr size_t kShortWord = 48;

  struct Merge {
    uint32_t rank = kNoRank;
    PieceId result = kNoPiece;
  };
  // A part of a word while it is being merged. Parts form a list by their index.
  struct Symbol {
    PieceId piece;
    uint32_t previous;
    uint32_t next;
    uint32_t size;  // bytes; 0 once merged into the symbol before it
  };
  struct Candidate;
  class WordCache;

  explicit BytePairEncoding(PreTokenizer pre_tokenizer)
      : pre_tokenizer_(std::move(pre_tokenizer)), settings_(pre_tokenizer_.settings()) {}

  void AddTokens(const Vocabulary& vocabulary);
  absl::Status AddMerges(const std::vector<std::string>& merges, const Vocabulary& vocabulary);
  void IndexByteMerges();
  // The bytes that a token's text stands for, with spaces as tokens have them; nullopt: none.
  std::optional<std::string> PieceText(std::string_view token_text) const;
  PieceId Intern(const std::string& bytes);
  PieceId FindPiece(std::string_view bytes) const;

  // `literal` in these: the text becomes no markup, as if the merges that make it were not there.
  Merge FindMerge(PieceId left, PieceId right, bool literal) const;
  Merge FindByteMerge(char left, char right, bool literal) const;
  void EncodeWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  bool AppendWholeWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  void MergeShortWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  void MergeLongWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  // The first pieces of a word that is not empty; the ends of the list are yet to be marked.
  std::vector<Symbol> ByteSymbols(std::string_view word) const;
  std::vector<Symbol> CharacterSymbols(std::string_view word) const;
  void AppendPiece(PieceId piece, bool literal, std::string_view text,
                   std::vector<int32_t>* ids) const;

  PreTokenizer pre_tokenizer_;
  PreTokenizerSettings settings_;
  std::vector<std::string> piece_bytes_;  // by piece id; never grows after creation
  std::vector<int32_t> piece_token_;      // by piece id; -1: not a token
  std::vector<uint8_t> piece_markup_;     // by piece id; 1: a token that is markup
  absl::flat_hash_map<std::string, PieceId> piece_index_;
  std::array<PieceId, 256> byte_piece_;
  std::array<int32_t, 256> byte_token_;          // -1: none
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left << 32 | right
  std::vector<Merge> byte_merges_;               // (256, 256): merges_ for pairs of single bytes
  mutable std::atomic<bool> lost_byte_ = false;  // one was left out, and logged
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_BYTE_PAIR_ENCODING_H_
