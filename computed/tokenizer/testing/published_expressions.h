// The regular expressions that models publish in their tokenizer.json, for tests.
#ifndef COMPUTED_TOKENIZER_TESTING_PUBLISHED_EXPRESSIONS_H_
#define COMPUTED_TOKENIZER_TESTING_PUBLISHED_EXPRESSIONS_H_

#include <string>
#include <string_view>
#include <vector>

namespace gguf_offload {

// Names of pre-tokenizers with the same expressions.
struct PublishedExpressions {
  std::vector<std::string_view> names;
  // In PCRE2's syntax (see Regex), applied one after the other, each to the words of the one
  // before.
  std::vector<std::string> patterns;
};

// Every name that PreTokenizer knows is in one of them.
const std::vector<PublishedExpressions>& AllPublishedExpressions();

// Texts between which one of the expressions makes a difference.
const std::vector<std::string>& DistinguishingTexts();

}  // namespace gguf_offload

#endif  // COMPUTED_TOKENIZER_TESTING_PUBLISHED_EXPRESSIONS_H_
