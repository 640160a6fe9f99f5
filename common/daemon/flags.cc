#include "common/daemon/flags.h"

#include <algorithm>

#include "absl/flags/parse.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace gguf_offload {
namespace {

// Where the name of a flag begins in a word: 1 for "-x", 2 for "--x", 0 if it is no flag.
size_t NameStart(std::string_view word) {
  if (word.size() > 2 && word.substr(0, 2) == "--") return 2;
  return word.size() > 1 && word[0] == '-' && word[1] != '-' ? 1 : 0;
}

}  // namespace

std::vector<std::string> CommandLine(int argc, char** argv) {
  return std::vector<std::string>(argv, argv + argc);
}

absl::StatusOr<std::vector<std::string>> TakeRepeatedFlag(std::string_view name,
                                                          std::vector<std::string>& words) {
  std::vector<std::string> values, others;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      others.insert(others.end(), words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
      break;
    }
    const size_t start = i == 0 ? 0 : NameStart(word);
    const std::string_view flag = start == 0 ? "" : std::string_view(word).substr(start);
    if (flag.size() > name.size() && flag.substr(0, name.size()) == name &&
        flag[name.size()] == '=') {
      values.emplace_back(flag.substr(name.size() + 1));
    } else if (start > 0 && flag == name) {
      if (++i == words.size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("--", absl::string_view(name.data(), name.size()), " needs a value"));
      }
      values.push_back(words[i]);
    } else {
      others.push_back(word);
    }
  }
  words = std::move(others);
  return values;
}

void UseUnderscores(std::vector<std::string>& words) {
  for (size_t i = 1; i < words.size(); ++i) {
    if (words[i] == "--") return;
    const size_t start = NameStart(words[i]);
    if (start == 0) continue;
    const size_t end = std::min(words[i].find('='), words[i].size());
    std::replace(words[i].begin() + static_cast<std::ptrdiff_t>(start),
                 words[i].begin() + static_cast<std::ptrdiff_t>(end), '-', '_');
  }
}

absl::Status ParseFlags(std::vector<std::string> words) {
  UseUnderscores(words);
  // Abseil keeps pointers to the words.
  static std::vector<std::string>* kept = nullptr;
  delete kept;
  kept = new std::vector<std::string>(std::move(words));
  std::vector<char*> pointers;
  for (std::string& word : *kept) pointers.push_back(word.data());
  const std::vector<char*> others =
      absl::ParseCommandLine(static_cast<int>(pointers.size()), pointers.data());
  if (others.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("\"", others[1], "\" is not a flag"));
  }
  return absl::OkStatus();
}

}  // namespace gguf_offload
