#include "weightd/service/page_token.h"

#include <charconv>

#include "absl/strings/str_format.h"

namespace gguf_offload {
namespace {

constexpr size_t kDigits = 16;

// Lower-case hexadecimal, exactly kDigits of it.
bool ParseHex(std::string_view text, uint64_t& number) {
  if (text.size() != kDigits) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::string MakePageToken(uint64_t generation, uint64_t next) {
  return absl::StrFormat("%016x-%016x", generation, next);
}

absl::StatusOr<uint64_t> ReadPageToken(std::string_view token, uint64_t generation,
                                       uint64_t tensor_count) {
  if (token.empty()) return 0;
  uint64_t of = 0, next = 0;
  if (token.size() != 2 * kDigits + 1 || token[kDigits] != '-' ||
      !ParseHex(token.substr(0, kDigits), of) || !ParseHex(token.substr(kDigits + 1), next)) {
    return absl::InvalidArgumentError("not a page token");
  }
  if (of != generation) {
    return absl::FailedPreconditionError("the model has changed since the page before; list anew");
  }
  if (next == 0 || next >= tensor_count) return absl::InvalidArgumentError("not a page token");
  return next;
}

}  // namespace gguf_offload
