#include "tests/modelgen/word_merges.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <string_view>
#include <unordered_set>
#include <utility>

namespace gguf_offload {
namespace {

// Words that English text is full of, roughly the commonest first.
constexpr std::string_view kWords =
    "the of and to in a is that for it was on as with be by at this have from or had not are but "
    "what all were when we there can an your which their said if do will each about how up out "
    "them then she many some so these would other into has more her two like him see time could "
    "no make than first been its who now people my made over did down only way find use may water "
    "long little very after words called just where most know get through back much before go good "
    "new write our used me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why things help put "
    "years different away again off went old number great tell men say small every found still "
    "between name should home big give air line set own under read last never us left end along "
    "while might next sound below saw something thought both few those always looked show large "
    "often together asked house world going want school important until form food keep children "
    "feet land side without boy once animal life enough took four head above kind began almost "
    "live page got earth need far hand high year mother light country father let night picture "
    "being study second soon story since white ever paper hard near sentence better best across "
    "during today however sure knew try told young sun thing whole hear example heard several "
    "change answer room sea against top turned learn point city play toward five himself usually "
    "money seen car morning body upon family later turn move face door cut done group true half "
    "red fish plants living black eat short run book gave order open ground cold really table "
    "remember tree course front space inside ago sad early learned quickly language model weight "
    "memory layer token stream server data file function value return string number error include "
    "const class public system process state public interest development information national "
    "question government program company problem example general special station nation action "
    "making taking working looking reading writing nothing anything everything";

constexpr std::string_view kConsonants = "bcdfghjklmnpqrstvwxyz";
constexpr std::string_view kVowels = "aeiou";

std::string Utf8(uint32_t code_point) {  // below U+0800
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | code_point >> 6), static_cast<char>(0x80 | (code_point & 0x3f))};
}

bool IsPrintable(uint32_t byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

// GPT-2's spelling of bytes: printable Latin-1 characters stand for themselves, the others, in
// order, for U+0100 onwards; and its order of tokens: the printable ones first.
std::vector<std::string> ByteTokens() {
  std::vector<std::string> tokens;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    if (IsPrintable(byte)) tokens.push_back(Utf8(byte));
  }
  for (uint32_t i = 0; tokens.size() < 256; ++i) tokens.push_back(Utf8(0x100 + i));
  return tokens;
}

constexpr std::string_view kSpace = "\u0120";    // the spelling of byte 0x20
constexpr std::string_view kNewline = "\u010a";  // of byte 0x0a

// Collects tokens until there are as many as wanted.
class TokenCollector {
 public:
  explicit TokenCollector(uint32_t size) : size_(size) {
    result_.tokens = ByteTokens();
    known_.insert(result_.tokens.begin(), result_.tokens.end());
    result_.tokens.reserve(size);
    known_.reserve(size);
  }

  bool full() const { return result_.tokens.size() >= size_; }

  // Adds left + right unless there is such a token.
  void Add(std::string_view left, std::string_view right) {
    std::string token(left);
    token += right;
    if (full() || !known_.insert(token).second) return;
    result_.tokens.push_back(std::move(token));
    std::string merge(left);
    merge += ' ';
    merge += right;
    result_.merges.push_back(std::move(merge));
  }

  WordMerges Take() { return std::move(result_); }

 private:
  uint32_t size_;
  WordMerges result_;
  std::unordered_set<std::string> known_;
};

struct Word {
  std::vector<std::string> pieces;
  int weight;
};

std::vector<Word> TrainingWords() {
  std::vector<Word> words;
  int weight = 1000;
  for (size_t begin = 0; begin < kWords.size();) {
    const size_t end = std::min(kWords.find(' ', begin), kWords.size());
    Word word{{}, weight};
    for (size_t i = begin; i < end; ++i) word.pieces.emplace_back(1, kWords[i]);
    words.push_back(word);  // at the start of a line or after a bracket: rare
    word.pieces.insert(word.pieces.begin(), std::string(kSpace));
    word.weight = weight * 8;
    words.push_back(std::move(word));
    weight = std::max(weight - 2, 1);
    begin = end + 1;
  }
  return words;
}

void MergeEverywhere(const std::pair<std::string, std::string>& pair, std::vector<Word>* words) {
  for (Word& word : *words) {
    std::vector<std::string>& pieces = word.pieces;
    for (size_t i = 0; i + 1 < pieces.size(); ++i) {
      if (pieces[i] != pair.first || pieces[i + 1] != pair.second) continue;
      pieces[i] += pieces[i + 1];
      pieces.erase(pieces.begin() + static_cast<ptrdiff_t>(i) + 1);
    }
  }
}

// Byte-pair encoding as in Sennrich et al. 2016 (arXiv 1508.07909): merge the commonest pair of
// neighbours until every word is one token.
void Train(TokenCollector* collector) {
  std::vector<Word> words = TrainingWords();
  while (!collector->full()) {
    std::map<std::pair<std::string_view, std::string_view>, int> counts;
    for (const Word& word : words) {
      for (size_t i = 0; i + 1 < word.pieces.size(); ++i) {
        counts[{word.pieces[i], word.pieces[i + 1]}] += word.weight;
      }
    }
    if (counts.empty()) return;
    const auto best = std::max_element(
        counts.begin(), counts.end(),
        [](const auto& left, const auto& right) { return left.second < right.second; });
    const std::pair<std::string, std::string> pair(best->first);
    collector->Add(pair.first, pair.second);
    MergeEverywhere(pair, &words);
    std::erase_if(words, [](const Word& word) { return word.pieces.size() == 1; });
  }
}

// "ba", " ba", "bade", " bade", "badefi": words of up to three open syllables.
void InventWords(TokenCollector* collector) {
  std::vector<std::string> syllables;
  for (const char consonant : kConsonants) {
    for (const char vowel : kVowels) {
      collector->Add({&consonant, 1}, {&vowel, 1});
      syllables.push_back({consonant, vowel});
    }
  }
  std::vector<std::string> spaced;
  for (const std::string& syllable : syllables) {
    collector->Add(kSpace, syllable);
    spaced.push_back(std::string(kSpace) + syllable);
  }
  for (size_t i = 0; i < syllables.size(); ++i) {
    for (const std::string& second : syllables) {
      collector->Add(syllables[i], second);
      collector->Add(spaced[i], second);
    }
  }
  for (const std::string& first : syllables) {
    for (const std::string& second : syllables) {
      if (collector->full()) return;
      for (const std::string& third : syllables) collector->Add(first + second, third);
    }
  }
}

}  // namespace

WordMerges MakeWordMerges(uint32_t size) {
  TokenCollector collector(size);
  collector.Add(kSpace, kSpace);
  collector.Add(kNewline, kNewline);
  Train(&collector);
  InventWords(&collector);
  return collector.Take();
}

}  // namespace gguf_offload
