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
  // Bytes from `position`, which is not covered, to the next token or to `limit`.
  size_t Room(size_t position, size_t limit) const {
    auto after = spans_.upper_bound(position);
    return (after == spans_.end() ? limit : std::min(limit, after->first)) - position;
  }
  void Place(size_t position, size_t length, int32_t token) {
    spans_[position] = {position + length, token};
  }
  const std::map<size_t, Span>& spans() const { return spans_; }

 private:
  std::map<size_t, Span> spans_;
};

// The ranges within a text of `size` bytes, in ascending order and without overlap, none empty.
std::vector<TextRange> Normalized(std::span<const TextRange> ranges, size_t size) {
  std::vector<TextRange> sorted(ranges.begin(), ranges.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const TextRange& a, const TextRange& b) { return a.begin < b.begin; });
  std::vector<TextRange> normalized;
  size_t covered = 0;
  for (const TextRange& range : sorted) {
    const TextRange rest = {std::max(range.begin, covered), std::min(range.end, size)};
    if (rest.begin >= rest.end) continue;
    normalized.push_back(rest);
    covered = rest.end;
  }
  return normalized;
}

// The fragments of `text` between and at the tokens.
std::vector<TextFragment> Cut(std::string_view text, const std::map<size_t, Span>& tokens,
                              std::span<const TextRange> literal) {
  std::vector<TextFragment> fragments;
  size_t next = 0;  // of the literal ranges
  auto add_text = [&](size_t begin, size_t end) {
    if (begin == end) return;
    while (next < literal.size() && literal[next].end <= begin) ++next;
    const bool holds_literal = next < literal.size() && literal[next].begin < end;
    fragments.push_back({text.substr(begin, end - begin), -1, holds_literal});
  };
  size_t begin = 0;
  for (const auto& [position, span] : tokens) {
    add_text(begin, position);
    fragments.push_back({text.substr(position, span.end - position), span.token});
    begin = span.end;
  }
  add_text(begin, text.size());
  return fragments;
}

}  // namespace

// Tokens that may be placed, longest first.
class SpecialTokenSplitter::Candidates {
 public:
  // Those of `trie` that lie within [begin, end).
  void Add(const Trie& trie, std::string_view text, size_t begin, size_t end) {
    if (trie.empty()) return;
    for (size_t i = begin; i < end; ++i) {
      if (!trie.first_bytes[static_cast<uint8_t>(text[i])]) continue;
      const uint32_t node = trie.LongestMatch(text.substr(i, end - i));
      if (node != kNoNode) by_length_[trie.nodes[node].length].push_back({i, end, node, &trie});
    }
  }

  void PlaceAll(Placements* placements) {
    while (!by_length_.empty()) {
      auto bucket = by_length_.extract(by_length_.begin());
      // Those moved down from longer tokens, and those of a second trie, came out of order.
      std::sort(bucket.mapped().begin(), bucket.mapped().end(),
                [](const Entry& a, const Entry& b) { return a.position < b.position; });
      for (const Entry& entry : bucket.mapped()) {
        if (!placements->Covers(entry.position)) Place(entry, placements);
      }
    }
  }

 private:
  struct Entry {
    size_t position;
    size_t limit;  // the token must end here or before
    uint32_t node;
    const Trie* trie;
  };

  // Where the token does not fit, a shorter one that begins at the same place may.
  void Place(const Entry& entry, Placements* placements) {
    const std::vector<Node>& nodes = entry.trie->nodes;
    const size_t room = placements->Room(entry.position, entry.limit);
    uint32_t fitting = entry.node;
    while (fitting != kNoNode && nodes[fitting].length > room) fitting = nodes[fitting].shorter;
    if (fitting == entry.node) {
      placements->Place(entry.position, nodes[fitting].length, nodes[fitting].token);
    } else if (fitting != kNoNode) {
      by_length_[nodes[fitting].length].push_back(
          {entry.position, entry.limit, fitting, entry.trie});
    }
  }

  std::map<uint32_t, std::vector<Entry>, std::greater<>> by_length_;
};

SpecialTokenSplitter::SpecialTokenSplitter(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const std::string& text = vocabulary.text(id);
    if (!vocabulary.IsSpecial(id) || vocabulary.Find(text) != id) continue;
    all_.Insert(text, id);
    if (vocabulary.type(id) != TokenType::kUserDefined) continue;
    user_defined_.Insert(text, id);
    if (!vocabulary.IsMarkup(id)) white_space_.Insert(text, id);
  }
  for (Trie* trie : {&user_defined_, &white_space_, &all_}) trie->LinkShorter();
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

std::vector<TextFragment> SpecialTokenSplitter::Split(std::string_view text, bool parse_special,
                                                      std::span<const TextRange> ranges) const {
  const std::vector<TextRange> literal = Normalized(ranges, text.size());
  const Trie& trie = parse_special ? all_ : user_defined_;
  Candidates candidates;
  size_t begin = 0;
  for (const TextRange& range : literal) {
    candidates.Add(trie, text, begin, range.begin);
    begin = range.end;
  }
  candidates.Add(trie, text, begin, text.size());
  if (!literal.empty()) candidates.Add(white_space_, text, 0, text.size());
  Placements placements;
  candidates.PlaceAll(&placements);
  return Cut(text, placements.spans(), literal);
}

}  // namespace gguf_offload
