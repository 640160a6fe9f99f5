// Byte-level byte pair encoding ("gpt2" in GGUF; Radford et al., "Language Models are Unsupervised
// Multitask Learners", 2019): a word's bytes are merged pair by pair in the order of the merges'
// rank.
#ifndef COMPUTED_TOKENIZER_BYTE_LEVEL_BPE_H_
#define COMPUTED_TOKENIZER_BYTE_LEVEL_BPE_H_

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

// Token texts write every byte as a printable character: the printable ones of Latin-1 as
// themselves, the others as U+0100 and up. The bytes that `text` writes, or nullopt if it has
// other characters.
std::optional<std::string> DecodeByteCharacters(std::string_view text);

// Immutable, thread safe. Linear in the text but for long words, where it is n log n. A byte for
// which the vocabulary has no token is left out of the ids; that is logged once.
class ByteLevelBpe : public TextEncoder {
 public:
  // Reads `tokenizer.ggml.merges`: those without two parts are ignored, and logged, unless all are
  // like that. Keeps nothing of the arguments.
  static absl::StatusOr<std::unique_ptr<ByteLevelBpe>> Create(const v1::Manifest& manifest,
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

  struct Merge {
    uint32_t rank = kNoRank;
    PieceId result = kNoPiece;
  };
  // A part of a word while it is being merged. Parts form a list by their index in the word.
  struct Symbol {
    PieceId piece;
    uint32_t previous;
    uint32_t next;
    uint32_t size;  // bytes; 0 once merged into the symbol before it
  };
  struct Candidate;
  class WordCache;

  explicit ByteLevelBpe(PreTokenizer pre_tokenizer) : pre_tokenizer_(std::move(pre_tokenizer)) {}

  void AddTokens(const Vocabulary& vocabulary);
  absl::Status AddMerges(const std::vector<std::string>& merges, const Vocabulary& vocabulary);
  PieceId Intern(const std::string& bytes);

  // `literal` in these: the text becomes no markup, as if the merges that make it were not there.
  Merge FindMerge(PieceId left, PieceId right, bool literal) const;
  Merge FindByteMerge(char left, char right, bool literal) const;
  void EncodeWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  void MergeShortWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  void MergeLongWord(std::string_view word, bool literal, std::vector<int32_t>* ids) const;
  void AppendPiece(PieceId piece, std::vector<int32_t>* ids) const;

  PreTokenizer pre_tokenizer_;
  std::vector<std::string> piece_bytes_;  // by piece id; never grows after creation
  std::vector<int32_t> piece_token_;      // by piece id; -1: not a token
  std::vector<uint8_t> piece_markup_;     // by piece id; 1: a token that is markup
  absl::flat_hash_map<std::string, PieceId> piece_index_;
  std::array<PieceId, 256> byte_piece_;
  absl::flat_hash_map<uint64_t, Merge> merges_;  // left << 32 | right
  std::vector<Merge> byte_merges_;               // (256, 256): merges_ for pairs of single bytes
  mutable std::atomic<bool> lost_byte_ = false;  // one was left out, and logged
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_BYTE_LEVEL_BPE_H_
