#include "computed/cli/heat_map.h"

#include <gtest/gtest.h>
#include <png.h>

#include <string>
#include <vector>

namespace gguf_offload::cli {
namespace {

TEST(HeatMapTest, ShadesGrowWithTheNumbers) {
  EXPECT_EQ(ShadesOf({0, 1, 30, 100}, 64), " ·▒█");
  EXPECT_EQ(ShadesOf({0, 0, 0}, 64), "   ");
  EXPECT_EQ(ShadesOf({}, 64), "");
  EXPECT_EQ(ShadesOf({7}, 64), "█");
  // Neighbours share a character.
  EXPECT_EQ(ShadesOf({0, 0, 5, 5}, 2), " █");
  EXPECT_EQ(ShadesOf({1, 1, 1, 1, 1}, 5), "█████");
}

TEST(HeatMapTest, PictureHasASquareANumber) {
  const std::string path = ::testing::TempDir() + "/heat.png";
  ASSERT_TRUE(WriteHeatMap({{0, 4, 1}, {9}}, path).ok());
  png_image image = {};
  image.version = PNG_IMAGE_VERSION;
  ASSERT_NE(png_image_begin_read_from_file(&image, path.c_str()), 0) << image.message;
  EXPECT_EQ(image.width, 3u * kHeatPixels);
  EXPECT_EQ(image.height, 2u * kHeatPixels);
  image.format = PNG_FORMAT_RGB;
  std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(image));
  ASSERT_NE(png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr), 0) << image.message;
  const auto brightness = [&](int row, int column) {
    int sum = 0;
    const size_t at = (row * kHeatPixels + 1) * image.width + column * kHeatPixels + 1;
    for (int channel = 0; channel < 3; ++channel) sum += pixels[3 * at + channel];
    return sum;
  };
  EXPECT_LT(brightness(0, 0), brightness(0, 2));
  EXPECT_LT(brightness(0, 2), brightness(0, 1));
  EXPECT_EQ(brightness(0, 1), brightness(1, 0));
  EXPECT_EQ(brightness(1, 2), brightness(0, 0));
}

TEST(HeatMapTest, ErrorsNameTheFile) {
  EXPECT_EQ(WriteHeatMap({{}}, "unused").code(), absl::StatusCode::kInvalidArgument);
  const absl::Status status = WriteHeatMap({{1}}, "/nonexistent/heat.png");
  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/nonexistent/heat.png"), std::string::npos) << status;
}

}  // namespace
}  // namespace gguf_offload::cli
