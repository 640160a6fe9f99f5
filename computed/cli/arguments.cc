#include "computed/cli/arguments.h"

#include <cmath>
#include <cstddef>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "computed/tokenizer/unicode.h"

namespace gguf_offload::cli {
namespace {

constexpr Flag kHelpFlag = {"help", FlagKind::kSwitch, "", "Shows this text."};

const Flag* FindFlag(absl::Span<const Flag> flags, absl::string_view name) {
  if (name == kHelpFlag.name) return &kHelpFlag;
  for (const Flag& flag : flags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

absl::Status CheckValue(const Flag& flag, const std::string& value) {
  int64_t integer = 0;
  double real = 0;
  switch (flag.kind) {
    case FlagKind::kSwitch:
      return absl::OkStatus();
    case FlagKind::kText:
      // A file's name may be any bytes; everything else goes into messages, whose texts are UTF-8.
      if (flag.value == "FILE" || IsValidUtf8(value)) return absl::OkStatus();
      return absl::InvalidArgumentError(absl::StrCat("--", flag.name, " is not UTF-8 text"));
    case FlagKind::kInteger:
      if (absl::SimpleAtoi(value, &integer) && integer >= 0) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag.name, "=", value, " is not a whole number of at least 0"));
    case FlagKind::kReal:
      if (absl::SimpleAtod(value, &real) && std::isfinite(real)) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag.name, "=", value, " is not a number"));
  }
  return absl::InternalError("a flag of no kind");
}

}  // namespace

absl::StatusOr<Arguments> Arguments::Parse(absl::Span<const Flag> flags, size_t max_operands,
                                           absl::Span<const std::string> words) {
  Arguments arguments;
  bool only_operands = false;
  for (size_t i = 0; i < words.size(); ++i) {
    absl::string_view word = words[i];
    if (!only_operands && word == "--") {
      only_operands = true;
      continue;
    }
    if (only_operands || !absl::ConsumePrefix(&word, "--")) {
      if (arguments.operands_.size() == max_operands) {
        return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", words[i], "'"));
      }
      if (!IsValidUtf8(words[i])) {
        return absl::InvalidArgumentError("an argument is not UTF-8 text");
      }
      arguments.operands_.push_back(words[i]);
      continue;
    }
    const size_t equals = word.find('=');
    const absl::string_view name = word.substr(0, equals);
    const Flag* flag = FindFlag(flags, name);
    if (flag == nullptr) return absl::InvalidArgumentError(absl::StrCat("unknown flag --", name));
    std::string value;
    if (equals != absl::string_view::npos) {
      if (flag->kind == FlagKind::kSwitch) {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " takes no value"));
      }
      value = std::string(word.substr(equals + 1));
    } else if (flag->kind != FlagKind::kSwitch) {
      if (i + 1 == words.size()) {
        return absl::InvalidArgumentError(absl::StrCat("--", name, " needs a value"));
      }
      value = words[++i];
    }
    if (absl::Status status = CheckValue(*flag, value); !status.ok()) return status;
    std::vector<std::string>& values = arguments.values_[std::string(name)];
    if (!values.empty() && !flag->repeated) {
      return absl::InvalidArgumentError(absl::StrCat("--", name, " is given twice"));
    }
    values.push_back(std::move(value));
  }
  if (arguments.help()) return arguments;
  for (const Flag& flag : flags) {
    if (flag.required && !arguments.Has(flag.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--", flag.name, "=", flag.value, " is needed"));
    }
  }
  return arguments;
}

bool Arguments::Has(absl::string_view name) const { return values_.find(name) != values_.end(); }

std::string Arguments::Text(absl::string_view name, absl::string_view otherwise) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::string(otherwise) : found->second.front();
}

std::vector<std::string> Arguments::Texts(absl::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>() : found->second;
}

int64_t Arguments::Integer(absl::string_view name, int64_t otherwise) const {
  int64_t value = otherwise;
  if (Has(name)) (void)absl::SimpleAtoi(Text(name), &value);  // checked by Parse
  return value;
}

double Arguments::Real(absl::string_view name, double otherwise) const {
  double value = otherwise;
  if (Has(name)) (void)absl::SimpleAtod(Text(name), &value);  // checked by Parse
  return value;
}

absl::StatusOr<std::vector<int32_t>> ParseTokenIds(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (absl::ConsumePrefix(&text, "[") && !absl::ConsumeSuffix(&text, "]")) {
    return absl::InvalidArgumentError("a list of token ids lacks its closing bracket");
  }
  std::vector<int32_t> ids;
  if (absl::StripAsciiWhitespace(text).empty()) return ids;
  for (absl::string_view word : absl::StrSplit(text, ',')) {
    int32_t id = 0;
    if (!absl::SimpleAtoi(absl::StripAsciiWhitespace(word), &id) || id < 0) {
      return absl::InvalidArgumentError(absl::StrCat("'", word, "' is not a token id"));
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace gguf_offload::cli
