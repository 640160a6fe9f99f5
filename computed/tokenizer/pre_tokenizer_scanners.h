// The scanners of which pre-tokenizers are made (see pre_tokenizer.h). Each comment is the regular
// expression that the scanner matches, repeatedly and at the leftmost place; what no match covers
// becomes a word of its own.
#ifndef COMPUTED_TOKENIZER_PRE_TOKENIZER_SCANNERS_H_
#define COMPUTED_TOKENIZER_PRE_TOKENIZER_SCANNERS_H_

#include <cstddef>
#include <vector>

#include "computed/tokenizer/unicode.h"

namespace gguf_offload::pre_tokenizer {

using Ends = std::vector<size_t>;

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
void Gpt2(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+
void Llama3(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Llama3, but \p{N} instead of \p{N}{1,3}.
void Qwen2(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Qwen2, but [\p{L}\p{M}]+ for words, and marks are left out of the punctuation.
void Qwen35(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Qwen2, but punctuation does not take the line breaks after it.
void SeedCoder(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Llama3, but with C = (?i:'s|'t|'re|'ve|'m|'ll|'d)?, U a letter outside a-z and D one outside
// A-Z: [^\r\n\p{L}\p{N}]?U*D+C|[^\r\n\p{L}\p{N}]?U+D*C for words, no contraction elsewhere, and
// [\r\n/]* after punctuation.
void Gpt4o(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Gpt4o, but without contractions and with \p{N}.
void Tekken(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{Han}]+, then as Llama3 with words of letters outside Han, each with its contraction.
void KimiK2(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// [!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+ where [!-/:-~] stands for ASCII punctuation alone and \p{S} lacks '~'.
void DeepSeekV3Words(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?[cased letters]+, the letters being those listed in DeepSeek LLM's tokenizer.json.
void DeepSeekLlmLetters(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?[!-/:-~\uFF01-\uFF0F\uFF1A-\uFF5E\u2018-\u201F\u3000-\u3002]+
void DeepSeekLlmPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s+$
void TrailingSpace(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\u4E00-\u9FA5\u0800-\u4E00\uAC00-\uD7FF]+
void DeepSeekCjk(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\u4E00-\u9FA5\u3040-\u30FF]+
void DeepSeekV3Cjk(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// [\r\n]
void EachLineBreak(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?\p{L}+
void SpaceLetters(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?\p{P}+
void SpacePunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}
void EachNumber(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}{1,3}
void NumberTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}+
void NumberRuns(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [0-9][0-9][0-9]
void AsciiTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{P}$+<=>^~|`]+
void FalconPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{P}$+<=>^~|]+
void DefaultPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);

}  // namespace gguf_offload::pre_tokenizer

#endif  // COMPUTED_TOKENIZER_PRE_TOKENIZER_SCANNERS_H_
