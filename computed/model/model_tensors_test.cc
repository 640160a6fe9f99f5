// What a worker refuses although the file is a valid GGUF file: hyperparameters that make no sense,
// tensors that are missing or of another shape.
#include "computed/model/model_tensors.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "tests/fixtures/file_weight_source.h"

namespace gguf_offload {
namespace {

v1::Manifest Golden(const std::string& name) {
  auto source = FileWeightSource::Open("tests/testdata/golden/models/" + name + ".gguf",
                                       FileWeightSource::Mode::kShared);
  EXPECT_TRUE(source.ok()) << source.status();
  return (*source)->manifest();
}

absl::Status Load(const v1::Manifest& manifest) {
  auto architecture = CreateArchitecture(manifest);
  if (!architecture.ok()) return architecture.status();
  return ResolveTensors(**architecture, manifest).status();
}

v1::TensorInfo& Tensor(v1::Manifest& manifest, const std::string& name) {
  for (v1::TensorInfo& tensor : *manifest.mutable_tensors()) {
    if (tensor.name() == name) return tensor;
  }
  ADD_FAILURE() << name;
  return *manifest.add_tensors();
}

TEST(ModelTensorsTest, FindsAllTensorsOfAModel) {
  const v1::Manifest manifest = Golden("llama-kq");
  auto architecture = CreateArchitecture(manifest);
  ASSERT_TRUE(architecture.ok());
  auto tensors = ResolveTensors(**architecture, manifest);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->groups.size(), 4u);
  EXPECT_EQ(tensors->groups[0].size(), 1u);
  EXPECT_EQ(tensors->groups[1].size(), 9u);
  EXPECT_EQ(tensors->groups[3].size(), 2u);
  EXPECT_FALSE(tensors->tied_head);
}

TEST(ModelTensorsTest, AModelWithoutAHeadUsesItsEmbedding) {
  const v1::Manifest manifest = Golden("qwen2-legacy");
  auto architecture = CreateArchitecture(manifest);
  ASSERT_TRUE(architecture.ok());
  auto tensors = ResolveTensors(**architecture, manifest);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_TRUE(tensors->tied_head);
}

struct BadManifest {
  const char* what;
  std::function<void(v1::Manifest&)> damage;
  absl::StatusCode code;
  const char* named;  // must be in the message
};

TEST(ModelTensorsTest, Case24RefusesWhatMakesNoSense) {
  const auto set = [](const char* key, uint64_t value) {
    return [=](v1::Manifest& m) { (*m.mutable_metadata())[key].set_unsigned_value(value); };
  };
  const auto set_float = [](const char* key, double value) {
    return [=](v1::Manifest& m) { (*m.mutable_metadata())[key].set_float_value(value); };
  };
  const auto drop = [](const char* key) {
    return [=](v1::Manifest& m) { m.mutable_metadata()->erase(key); };
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const BadManifest cases[] = {
      {"no layers", set("llama.block_count", 0), invalid, "block_count"},
      {"10^9 layers", set("llama.block_count", 1'000'000'000), invalid, "block_count"},
      {"huge count", set("llama.block_count", ~0ull), invalid, "block_count"},
      {"no layer count", drop("llama.block_count"), invalid, "block_count"},
      {"a third layer", set("llama.block_count", 3), absl::StatusCode::kNotFound, "blk.2."},
      {"no heads", set("llama.attention.head_count", 0), invalid, "head_count"},
      {"heads do not divide", set("llama.attention.head_count_kv", 3), invalid, "heads"},
      {"no embedding", set("llama.embedding_length", 0), invalid, "embedding_length"},
      {"other embedding", set("llama.embedding_length", 512), invalid, "token_embd.weight"},
      {"other feed-forward", set("llama.feed_forward_length", 513), invalid, "ffn_gate"},
      {"odd RoPE", set("llama.rope.dimension_count", 63), invalid, "rope"},
      {"RoPE wider than a head", set("llama.rope.dimension_count", 66), invalid, "rope"},
      {"NaN epsilon",
       set_float("llama.attention.layer_norm_rms_epsilon",
                 std::numeric_limits<double>::quiet_NaN()),
       invalid, "epsilon"},
      {"infinite base", set_float("llama.rope.freq_base", std::numeric_limits<double>::infinity()),
       invalid, "freq_base"},
      {"text for a number",
       [](v1::Manifest& m) { (*m.mutable_metadata())["llama.block_count"].set_string_value("2"); },
       invalid, "block_count"},
      {"unknown scaling",
       [](v1::Manifest& m) {
         (*m.mutable_metadata())["llama.rope.scaling.type"].set_string_value("spiral");
       },
       absl::StatusCode::kUnimplemented, "spiral"},
      {"experts", set("llama.expert_count", 8), absl::StatusCode::kUnimplemented, "experts"},
      {"unknown architecture", [](v1::Manifest& m) { m.set_architecture("mamba9"); },
       absl::StatusCode::kUnimplemented, "mamba9"},
      {"missing tensor",
       [](v1::Manifest& m) { Tensor(m, "blk.1.ffn_up.weight").set_name("something.else"); },
       absl::StatusCode::kNotFound, "blk.1.ffn_up.weight"},
      {"transposed tensor",
       [](v1::Manifest& m) {
         v1::TensorInfo& t = Tensor(m, "blk.0.ffn_up.weight");
         t.mutable_dimensions()->SwapElements(0, 1);
       },
       invalid, "blk.0.ffn_up.weight"},
      {"unknown type", [](v1::Manifest& m) { Tensor(m, "output.weight").set_type(4); }, invalid,
       "output.weight"},
      {"too few bytes", [](v1::Manifest& m) { Tensor(m, "output.weight").set_bytes(5); }, invalid,
       "output.weight"},
      {"outside the file",
       [](v1::Manifest& m) { Tensor(m, "output.weight").set_offset(~0ull - 100); }, invalid,
       "output.weight"},
      {"shard that does not exist",
       [](v1::Manifest& m) { Tensor(m, "output.weight").set_shard(1); }, invalid, "output.weight"},
  };
  const v1::Manifest good = Golden("llama-kq");
  ASSERT_TRUE(Load(good).ok());
  for (const BadManifest& bad : cases) {
    SCOPED_TRACE(bad.what);
    v1::Manifest manifest = good;
    bad.damage(manifest);
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_NE(std::string(status.message()).find(bad.named), std::string::npos) << status;
  }
}

TEST(ModelTensorsTest, HeadDimensionsFollowFromTheEmbeddingWhenNotGiven) {
  v1::Manifest manifest = Golden("llama-kq");
  manifest.mutable_metadata()->erase("llama.attention.key_length");
  manifest.mutable_metadata()->erase("llama.attention.value_length");
  manifest.mutable_metadata()->erase("llama.rope.dimension_count");
  EXPECT_TRUE(Load(manifest).ok()) << Load(manifest);
}

}  // namespace
}  // namespace gguf_offload
