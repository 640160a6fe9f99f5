// A table of numbers as shades: characters for terminals, or a picture.
#ifndef COMPUTED_CLI_HEAT_MAP_H_
#define COMPUTED_CLI_HEAT_MAP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace gguf_offload::cli {

// Rows need not be of equal length.
using HeatRows = std::vector<std::vector<uint32_t>>;

// A row as at most `columns` characters from blank to a full block: sums of neighbours, where there
// are more numbers, as parts of the row's largest.
std::string ShadesOf(const std::vector<uint32_t>& row, int columns);

// Writes a PNG: a square of kHeatPixels a number, dark to bright, by rows; numbers are parts of
// their row's largest. INVALID_ARGUMENT if there are no numbers.
inline constexpr int kHeatPixels = 6;
absl::Status WriteHeatMap(const HeatRows& rows, const std::string& path);

}  // namespace gguf_offload::cli

#endif  // COMPUTED_CLI_HEAT_MAP_H_
