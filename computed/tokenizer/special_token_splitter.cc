#include "computed/tokenizer/special_token_splitter.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <string>
#include <utility>

namespace gguf_offload {
namespace {

uint64_t ChildKey(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

struct Span {
  size_t end;
  int32_t token;
};

// Tokens already placed in the text, by where they begin. They do not overlap.
class Placements {
 public:
  bool Covers(size_t position) const {
    auto after = spans_.upper_bound(position);
    return after != spans_.begin() && position < std::prev(after)->second.end;
  }
  // Bytes from `position`, which is not covered, to the next token or the end of the text.
  size_t Room(size_t position, size_t text_size) const {
    auto after = spans_.upper_bound(position);
    return (after == spans_.end() ? text_size : after->first) - position;
  }
  void Place(size_t position, size_t length, int32_t token) {
    spans_[position] = {position + length, token};
  }
  const std::map<size_t, Span>& spans() const { return spans_; }

 private:
  std::map<size_t, Span> spans_;
};

}  // namespace

SpecialTokenSplitter::SpecialTokenSplitter(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& text = vocabulary.text(id);
    if (text.empty()) continue;
    switch (vocabulary.type(id)) {
      case TokenType::kUserDefined:
        user_defined_.Insert(text, id);
        all_.Insert(text, id);
        break;
      case TokenType::kControl:
      case TokenType::kUnknown:
        all_.Insert(text, id);
        break;
      default:
        break;
    }
  }
  user_defined_.LinkShorter();
  all_.LinkShorter();
}

void SpecialTokenSplitter::Trie::Insert(std::string_view text, int32_t token) {
  uint32_t node = 0;
  first_bytes[static_cast<uint8_t>(text[0])] = true;
  for (char byte : text) {
    const auto [it, inserted] =
        children.try_emplace(ChildKey(node, byte), static_cast<uint32_t>(nodes.size()));
    if (inserted) {
      Node child;
      child.length = nodes[node].length + 1;
      child.shorter = node;  // the parent for now, see LinkShorter
      nodes.push_back(child);
    }
    node = it->second;
  }
  nodes[node].token = token;
}

void SpecialTokenSplitter::Trie::LinkShorter() {
  // Parents come before their children, so that a parent's link is final when a child needs it.
  for (size_t i = 1; i < nodes.size(); ++i) {
    const uint32_t parent = nodes[i].shorter;
    if (nodes[parent].token < 0) nodes[i].shorter = parent == 0 ? kNoNode : nodes[parent].shorter;
  }
}

uint32_t SpecialTokenSplitter::Trie::LongestMatch(std::string_view text) const {
  uint32_t node = 0;
  uint32_t longest = kNoNode;
  for (char byte : text) {
    const auto it = children.find(ChildKey(node, byte));
    if (it == children.end()) break;
    node = it->second;
    if (nodes[node].token >= 0) longest = node;
  }
  return longest;
}

std::vector<TextFragment> SpecialTokenSplitter::Split(std::string_view text,
                                                      bool parse_special) const {
  const Trie& trie = parse_special ? all_ : user_defined_;
  // Candidates by token length, each with its positions in ascending order.
  std::map<uint32_t, std::vector<std::pair<size_t, uint32_t>>, std::greater<>> candidates;
  for (size_t i = 0; i < text.size(); ++i) {
    if (!trie.first_bytes[static_cast<uint8_t>(text[i])]) continue;
    const uint32_t node = trie.LongestMatch(text.substr(i));
    if (node != kNoNode) candidates[trie.nodes[node].length].emplace_back(i, node);
  }
  Placements placements;
  while (!candidates.empty()) {
    auto bucket = candidates.extract(candidates.begin());
    // Positions moved down from longer tokens came out of order.
    std::sort(bucket.mapped().begin(), bucket.mapped().end());
    for (const auto& [position, node] : bucket.mapped()) {
      if (placements.Covers(position)) continue;
      const size_t room = placements.Room(position, text.size());
      uint32_t fitting = node;
      while (fitting != kNoNode && trie.nodes[fitting].length > room) {
        fitting = trie.nodes[fitting].shorter;
      }
      if (fitting == node) {
        placements.Place(position, trie.nodes[node].length, trie.nodes[node].token);
      } else if (fitting != kNoNode) {
        candidates[trie.nodes[fitting].length].emplace_back(position, fitting);
      }
    }
  }
  std::vector<TextFragment> fragments;
  size_t begin = 0;
  for (const auto& [position, span] : placements.spans()) {
    if (position > begin) fragments.push_back({text.substr(begin, position - begin)});
    fragments.push_back({text.substr(position, span.end - position), span.token});
    begin = span.end;
  }
  if (begin < text.size()) fragments.push_back({text.substr(begin)});
  return fragments;
}

}  // namespace gguf_offload
