#include "weightd/client/manifest_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace gguf_offload {
namespace {

v1::Manifest Sound() {
  v1::Manifest manifest;
  manifest.set_name("m");
  manifest.set_generation(7);
  manifest.add_shards()->set_bytes(1000);
  v1::TensorInfo& tensor = *manifest.add_tensors();
  tensor.set_name("t");
  tensor.add_dimensions(100);
  tensor.set_offset(900);
  tensor.set_bytes(100);
  return manifest;
}

TEST(ManifestCheck, AcceptsASoundOne) { EXPECT_TRUE(CheckManifest(Sound(), "m", 7).ok()); }

TEST(ManifestCheck, RefusesAnotherModelOrGeneration) {
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckManifest(Sound(), "n", 7)));
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckManifest(Sound(), "m", 8)));
  v1::Manifest manifest = Sound();
  manifest.set_generation(0);
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckManifest(manifest, "m", 0)));
  manifest = Sound();
  manifest.clear_tensors();
  manifest.clear_shards();
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckManifest(manifest, "m", 7)));
}

TEST(ManifestCheck, Case33_RefusesTensorsOutsideTheirFiles) {
  const uint64_t bad[][3] = {{1, 0, 1},          {0, 901, 100},      {0, 1001, 0},
                             {0, UINT64_MAX, 2}, {0, 2, UINT64_MAX}, {UINT32_MAX, 0, 0}};
  for (const auto& [shard, offset, bytes] : bad) {
    v1::Manifest manifest = Sound();
    manifest.mutable_tensors(0)->set_shard(static_cast<uint32_t>(shard));
    manifest.mutable_tensors(0)->set_offset(offset);
    manifest.mutable_tensors(0)->set_bytes(bytes);
    const absl::Status status = CheckManifest(manifest, "m", 7);
    EXPECT_TRUE(absl::IsFailedPrecondition(status));
    EXPECT_THAT(std::string(status.message()), testing::HasSubstr("tensor t"));
    EXPECT_TRUE(
        absl::IsOutOfRange(CheckRange(manifest, static_cast<uint32_t>(shard), offset, bytes)));
  }
}

TEST(ManifestCheck, RefusesOddNumbersOfDimensions) {
  v1::Manifest manifest = Sound();
  manifest.mutable_tensors(0)->clear_dimensions();
  EXPECT_TRUE(absl::IsFailedPrecondition(CheckManifest(manifest, "m", 7)));
}

}  // namespace
}  // namespace gguf_offload
