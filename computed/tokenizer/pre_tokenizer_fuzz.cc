// libFuzzer target of the pre-tokenizers: for every name, the words of any text are those that
// PCRE2 finds with the published expressions. Built by tests/fuzz.sh.
//
// An input is a byte that chooses the expressions, then the text: a byte below 0x80 is a character
// or one of the texts that the expressions distinguish, others begin a code point of three bytes.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "computed/tokenizer/pre_tokenizer.h"
#include "computed/tokenizer/testing/published_expressions.h"
#include "computed/tokenizer/testing/regex_split.h"

namespace {

using namespace gguf_offload;  // NOLINT: a program, not a library

struct Target {
  std::vector<PreTokenizer> pre_tokenizers;  // one a name
  std::vector<Regex> regexes;
};

const std::vector<Target>& Targets() {
  static const std::vector<Target>& targets = *[] {
    auto* result = new std::vector<Target>();
    for (const PublishedExpressions& expressions : AllPublishedExpressions()) {
      Target& target = result->emplace_back();
      for (std::string_view name : expressions.names) {
        target.pre_tokenizers.push_back(*PreTokenizer::Create(name));
      }
      for (const std::string& pattern : expressions.patterns) target.regexes.emplace_back(pattern);
    }
    return result;
  }();
  return targets;
}

// Characters that PCRE2's version of Unicode does not have are left out.
bool IsKnown(const std::string& character) {
  static const Regex& unassigned = *new Regex("\\p{Cn}");
  return unassigned.FindAll(character).empty();
}

std::string ReadText(const uint8_t* data, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) {
    if (data[i] < 0x80) {
      const std::vector<std::string>& texts = DistinguishingTexts();
      text += data[i] % 2 == 0 ? std::string(1, static_cast<char>(data[i]))
                               : texts[(data[i] / 2 + (i % 4) * 64) % texts.size()];
      continue;
    }
    if (i + 2 >= size) break;
    char32_t c = static_cast<char32_t>(data[i] & 0x1F) << 16 | data[i + 1] << 8 | data[i + 2];
    // Most planes have nothing: their numbers stand for the first one.
    if (c >= 0x40000 && c < 0xE0000) c %= 0x3000;
    i += 2;
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) continue;
    const std::string character = ToUtf8(c);
    if (IsKnown(character)) text += character;
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const Target& target = Targets()[data[0] % Targets().size()];
  const std::string text = ReadText(data + 1, size - 1);
  const std::vector<std::string_view> expected = SplitByRegexes(target.regexes, text);
  for (const PreTokenizer& pre_tokenizer : target.pre_tokenizers) {
    if (pre_tokenizer.Split(text) != expected) {
      std::fprintf(stderr, "expressions %zu: %s\n", data[0] % Targets().size(), text.c_str());
      std::abort();
    }
  }
  return 0;
}
