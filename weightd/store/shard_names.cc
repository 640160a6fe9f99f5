#include "weightd/store/shard_names.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"

namespace gguf_offload::store {
namespace {

constexpr std::string_view kExtension = ".gguf";
constexpr size_t kDigits = 5;
constexpr std::string_view kOf = "-of-";

// A number of exactly kDigits decimal digits.
std::optional<uint32_t> ParseNumber(std::string_view text) {
  if (text.size() != kDigits) return std::nullopt;
  uint32_t number = 0;
  for (char c : text) {
    if (c < '0' || c > '9') return std::nullopt;
    number = number * 10 + static_cast<uint32_t>(c - '0');
  }
  return number;
}

}  // namespace

bool HasGgufExtension(std::string_view path) {
  return absl::EndsWithIgnoreCase(absl::string_view(path.data(), path.size()), ".gguf");
}

std::string ShardName::Sibling(uint32_t number) const {
  return absl::StrFormat("%s-%05d-of-%05d%s", prefix, number, count, extension);
}

std::optional<ShardName> ParseShardName(std::string_view path) {
  constexpr size_t kTail = 1 + kDigits + kOf.size() + kDigits + kExtension.size();
  const std::string_view name = path.substr(path.rfind('/') + 1);
  if (name.size() <= kTail || !HasGgufExtension(name)) return std::nullopt;
  const std::string_view tail = name.substr(name.size() - kTail);
  if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf) return std::nullopt;
  const auto number = ParseNumber(tail.substr(1, kDigits));
  const auto count = ParseNumber(tail.substr(1 + kDigits + kOf.size(), kDigits));
  if (!number || !count || *number < 1 || *number > *count) return std::nullopt;
  return ShardName{std::string(path.substr(0, path.size() - kTail)), *number, *count,
                   std::string(path.substr(path.size() - kExtension.size()))};
}

std::string ModelNameOf(std::string_view path) {
  std::string name;
  if (const auto shard = ParseShardName(path); shard.has_value()) {
    name = shard->prefix;
  } else {
    name = HasGgufExtension(path) ? path.substr(0, path.size() - kExtension.size()) : path;
  }
  return name.substr(name.rfind('/') + 1);
}

}  // namespace gguf_offload::store
