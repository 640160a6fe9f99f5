#include "common/byte_size/byte_size.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace gguf_offload {

absl::StatusOr<uint64_t> ParseByteSize(absl::string_view text) {
  static constexpr struct {
    absl::string_view suffix;
    double factor;
  } kUnits[] = {
      {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0},
      {"KB", 1e3},     {"MB", 1e6},        {"GB", 1e9},           {"TB", 1e12},
      {"B", 1.0}};
  absl::string_view number = text;
  double factor = 1;
  for (const auto& unit : kUnits) {
    if (absl::ConsumeSuffix(&number, unit.suffix)) {
      factor = unit.factor;
      break;
    }
  }
  double value;
  if (!absl::SimpleAtod(number, &value) || !(value >= 0 && value * factor < 9e18)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not a size such as 900MiB or 6GiB"));
  }
  return static_cast<uint64_t>(value * factor);
}

}  // namespace gguf_offload
