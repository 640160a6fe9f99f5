#include "computed/cli/heat_map.h"

#include <png.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "computed/cli/output.h"

namespace gguf_offload::cli {
namespace {

// 0 to 1; the square root shows differences among small numbers.
double Heat(uint64_t value, uint64_t largest) {
  return largest == 0 ? 0.0 : std::sqrt(static_cast<double>(value) / largest);
}

// Black by way of purple and orange to light yellow.
void AppendColor(double heat, std::vector<uint8_t>& pixels) {
  constexpr double kStops[][3] = {
      {0, 0, 4}, {87, 16, 110}, {188, 55, 84}, {249, 142, 9}, {252, 255, 164}};
  const double at = heat * (std::size(kStops) - 1);
  const size_t low = std::min<size_t>(static_cast<size_t>(at), std::size(kStops) - 2);
  for (int channel = 0; channel < 3; ++channel) {
    const double from = kStops[low][channel], to = kStops[low + 1][channel];
    pixels.push_back(static_cast<uint8_t>(std::lround(from + (at - low) * (to - from))));
  }
}

}  // namespace

std::string ShadesOf(const std::vector<uint32_t>& row, int columns) {
  constexpr const char* kShades[] = {" ", "·", "░", "▒", "▓", "█"};
  const size_t cells = std::min<size_t>(row.size(), columns);
  std::vector<uint64_t> sums(cells, 0);
  for (size_t i = 0; i < row.size(); ++i) sums[i * cells / row.size()] += row[i];
  const uint64_t largest = sums.empty() ? 0 : *std::max_element(sums.begin(), sums.end());
  std::string shades;
  for (uint64_t sum : sums) {
    // Only zero is blank, only what is near the largest is full.
    const double heat = Heat(sum, largest);
    const size_t shade = sum == 0 ? 0 : 1 + static_cast<size_t>(heat * 4.999 - 1e-9);
    absl::StrAppend(&shades, kShades[std::min(shade, std::size(kShades) - 1)]);
  }
  return shades;
}

absl::Status WriteHeatMap(const HeatRows& rows, const std::string& path) {
  size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  if (columns == 0) return absl::InvalidArgumentError("there is nothing to draw");
  std::vector<uint8_t> pixels;  // (rows * kHeatPixels, columns * kHeatPixels, 3)
  for (const auto& row : rows) {
    const uint32_t largest = row.empty() ? 0 : *std::max_element(row.begin(), row.end());
    for (int y = 0; y < kHeatPixels; ++y) {
      for (size_t column = 0; column < columns; ++column) {
        const double heat = column < row.size() ? Heat(row[column], largest) : 0.0;
        for (int x = 0; x < kHeatPixels; ++x) AppendColor(heat, pixels);
      }
    }
  }
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(columns * kHeatPixels);
  image.height = static_cast<png_uint_32>(rows.size() * kHeatPixels);
  image.format = PNG_FORMAT_RGB;
  // In memory first, so that a file that cannot be written is removed again.
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(image);
  std::string encoded(bytes, '\0');
  if (png_image_write_to_memory(&image, encoded.data(), &bytes, 0, pixels.data(), 0, nullptr) ==
      0) {
    return absl::InternalError(absl::StrCat("encoding the picture: ", image.message));
  }
  absl::StatusOr<OutputFile> file = OutputFile::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status status = file->Write(encoded.data(), bytes); !status.ok()) return status;
  return file->Close();
}

}  // namespace gguf_offload::cli
