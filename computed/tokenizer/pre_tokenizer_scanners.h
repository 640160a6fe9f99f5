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

// Words, numbers, punctuation and spaces (pre_tokenizer_words.cc).

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
// As Qwen2, but without contractions.
void Ufakzeka(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Llama3, but \p{N}+.
void MiniCpm5(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Llama3, but after \s*[\r\n]+ the spaces are \s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)
// |\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}
void Jais2(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As Qwen2, but [^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+ for words, and punctuation
// takes [\r\n/]? after it.
void ExaoneMoe(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// Words that end where a lower-case letter is followed by an upper-case one
// (pre_tokenizer_cased.cc).

// With P = [^\r\n\p{L}\p{N}]?, U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}], D = [\p{Ll}\p{Lm}\p{Lo}\p{M}]
// and C = (?i:'s|'t|'re|'ve|'m|'ll|'d)?: PU*D+C|PU+D*C|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*
// |\s*[\r\n]+|\s+(?!\S)|\s+
void O200k(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As O200k, but without C and with \p{N}.
void Tekken(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As O200k, but with \p{N}.
void Youtu(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{Han}]+, then as O200k with U and D outside Han, and [\r\n]* after punctuation.
void KimiK2(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// What DeepSeek's tokenizers are made of (pre_tokenizer_deepseek.cc).

// [!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*
// |\s*[\r\n]+|\s+(?!\S)|\s+ where [!-/:-~] stands for ASCII punctuation alone.
void DeepSeekV3Words(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// As DeepSeekV3Words, but punctuation does not take the line breaks after it, and [\r\n] instead of
// \s*[\r\n]+.
void SparkWords(const DecodedText& text, size_t begin, size_t end, Ends* ends);
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

// Numbers (pre_tokenizer_numbers.cc).

// \p{N}
void EachNumber(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}{1,3}
void NumberTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}+
void NumberRuns(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [0-9][0-9][0-9]
void AsciiTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))
void NumberTriplesFromTheRight(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \d{1,3}(?=(?:\d{3})*\b) where \b has on its left a digit and on its right no
// [\p{L}\p{M}\p{Nd}\p{Pc}].
void DigitTriplesBeforeBoundary(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// (?=(\d{3})+(?!\d)), an empty match that cuts the text.
void CutsBeforeDigitTriples(const DecodedText& text, size_t begin, size_t end, Ends* ends);

// Runs of one kind of character, and fixed texts (pre_tokenizer_runs.cc).

// [\r\n]
void EachLineBreak(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [^\n]+|[\n]+
void Lines(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \S+
void NonSpaces(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?\p{L}+
void SpaceLetters(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// \s?\p{P}+
void SpacePunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{P}$+<=>^~|`]+
void FalconPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{P}$+<=>^~|]+
void DefaultPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);
//  ?[^(\s|.,!?\u2026\u3002\uFF0C\u3001\u0964\u06D4\u060C)]+
void BloomWords(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\uAC00-\uD7A3\u3131-\u318E]+|[\uFF01\u2026\u201C\u201D\u2018\u2019\u2014\uFF1A\uFF1B\uFF0C
// \u3001-\u303F\uFE30-\uFE4F]+|[\u3105-\u312F]+|[\u4E00-\u9FA5\u3040-\u30FF]+
void YoutuScripts(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\u4E00-\u9FFF\u3400-\u4DBF\uF900-\uFAFF\u3040-\u30FF\uFF65-\uFF9F\u2F00-\u2FDF\u0E40-\u0E7F
// \u0E80-\u0EFF\u1780-\u17FF\u1000-\u109F\uAA60-\uAA7F\uA9E0-\uA9FF\uAC00-\uD7AF\u1100-\u11FF]+
void AfmoeScripts(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// <sentinel:[0-9]+>
void ChameleonSentinels(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// (IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z
void ChameleonImageTokens(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// ([\t\n]|    |  )
void ChameleonSpaces(const DecodedText& text, size_t begin, size_t end, Ends* ends);
// [\p{P}!-/:-@\[-`{-~]
void EachPunctuation(const DecodedText& text, size_t begin, size_t end, Ends* ends);

}  // namespace gguf_offload::pre_tokenizer

#endif  // COMPUTED_TOKENIZER_PRE_TOKENIZER_SCANNERS_H_
