// Finds special tokens in a text, so that the encoders see only what lies between them.
#ifndef COMPUTED_TOKENIZER_SPECIAL_TOKEN_SPLITTER_H_
#define COMPUTED_TOKENIZER_SPECIAL_TOKEN_SPLITTER_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "computed/tokenizer/text_range.h"
#include "computed/tokenizer/vocabulary.h"

namespace gguf_offload {

// A piece of a text: a special token, or text between special tokens.
struct TextFragment {
  std::string_view text;
  int32_t token = -1;    // -1: text yet to be encoded
  bool literal = false;  // holds bytes of a literal range
};

// Longer tokens win over shorter ones wherever they are, then the leftmost wins. User-defined
// tokens are always found, control and unknown tokens only when asked for. No token with a byte in
// a literal range is found, unless it is a user-defined one of white space alone: such tokens are
// how some models write indentation and empty lines, and say nothing about a text's structure.
// Immutable, thread safe.
class SpecialTokenSplitter {
 public:
  // Keeps nothing of `vocabulary`.
  explicit SpecialTokenSplitter(const Vocabulary& vocabulary);

  // The fragments in order, none of them empty; together they are exactly `text`. The literal
  // ranges may come in any order and overlap.
  std::vector<TextFragment> Split(std::string_view text, bool parse_special,
                                  std::span<const TextRange> literal = {}) const;

 private:
  static constexpr uint32_t kNoNode = 0xFFFFFFFF;

  // A trie of the tokens' texts.
  struct Node {
    int32_t token = -1;
    uint32_t length = 0;  // of the path from the root
    // The nearest node on the path from the root that is a token: the next shorter token that
    // begins at the same place.
    uint32_t shorter = kNoNode;
  };
  struct Trie {
    std::vector<Node> nodes{Node()};                   // 0 is the root
    absl::flat_hash_map<uint64_t, uint32_t> children;  // node << 8 | byte -> node
    std::vector<bool> first_bytes = std::vector<bool>(256, false);

    bool empty() const { return nodes.size() == 1; }
    void Insert(std::string_view text, int32_t token);
    void LinkShorter();
    // Node of the longest token at the start of `text`, or kNoNode.
    uint32_t LongestMatch(std::string_view text) const;
  };
  class Candidates;

  Trie user_defined_;
  Trie white_space_;  // those of user_defined_ that are white space alone
  Trie all_;
};

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_SPECIAL_TOKEN_SPLITTER_H_
