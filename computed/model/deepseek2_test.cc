// What is refused of DeepSeek files: hyperparameters that make no sense, tensors that are missing
// or of another shape, in both forms.
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>

#include "computed/model/model_tensors.h"
#include "tests/fixtures/file_weight_source.h"

namespace gguf_offload {
namespace {

v1::Manifest Golden(const std::string& form) {
  auto source = FileWeightSource::Open("tests/testdata/golden/models/deepseek2-" + form + ".gguf",
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

using Damage = std::function<void(v1::Manifest&)>;

Damage Set(const std::string& key, uint64_t value) {
  return [=](v1::Manifest& m) {
    (*m.mutable_metadata())["deepseek2." + key].set_unsigned_value(value);
  };
}
Damage SetFloat(const std::string& key, double value) {
  return
      [=](v1::Manifest& m) { (*m.mutable_metadata())["deepseek2." + key].set_float_value(value); };
}
Damage Drop(const std::string& key) {
  return [=](v1::Manifest& m) { m.mutable_metadata()->erase("deepseek2." + key); };
}
Damage Transpose(const std::string& name) {
  return [=](v1::Manifest& m) { Tensor(m, name).mutable_dimensions()->SwapElements(0, 1); };
}
Damage Rename(const std::string& name) {
  return [=](v1::Manifest& m) { Tensor(m, name).set_name("something.else"); };
}

struct Case {
  const char* what;
  Damage damage;
  const char* named;  // must be in the message
  absl::StatusCode code = absl::StatusCode::kInvalidArgument;
};

void ExpectRefused(const std::string& form, const std::vector<Case>& cases) {
  const v1::Manifest good = Golden(form);
  ASSERT_TRUE(Load(good).ok()) << Load(good);
  for (const Case& bad : cases) {
    SCOPED_TRACE(form + ": " + bad.what);
    v1::Manifest manifest = good;
    bad.damage(manifest);
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_NE(std::string(status.message()).find(bad.named), std::string::npos) << status;
    EXPECT_NE(std::string(status.message()).find("model 'test'"), std::string::npos) << status;
  }
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr absl::StatusCode kNotFound = absl::StatusCode::kNotFound;

TEST(DeepSeek2Test, RefusesHyperparametersThatMakeNoSense) {
  for (const char* form : {"split", "combined"}) {
    ExpectRefused(
        form,
        {
            {"no latent rank", Drop("attention.kv_lora_rank"), "kv_lora_rank"},
            {"latent rank of 0", Set("attention.kv_lora_rank", 0), "kv_lora_rank"},
            {"huge latent rank", Set("attention.kv_lora_rank", ~0ull), "kv_lora_rank"},
            {"other latent rank", Set("attention.kv_lora_rank", 128), "blk.0.attn_kv_a_mqa"},
            {"huge query rank", Set("attention.q_lora_rank", 1 << 20), "q_lora_rank"},
            {"other query rank", Set("attention.q_lora_rank", 128), "blk.0.attn_q_a."},
            {"no query rank", Drop("attention.q_lora_rank"), "blk.0.attn_q.", kNotFound},
            {"no RoPE width", Drop("rope.dimension_count"), "dimension_count"},
            {"odd RoPE", Set("rope.dimension_count", 31), "dimension_count"},
            {"all of the key rotated", Set("rope.dimension_count", 96), "dimension_count"},
            {"more than the key rotated", Set("rope.dimension_count", 98), "dimension_count"},
            {"NaN multiplier", SetFloat("rope.scaling.yarn_log_multiplier", kNan),
             "yarn_log_multiplier"},
            {"negative scale", SetFloat("rope.scaling.factor", 1e-5), "rope.scaling"},
            {"position-dependent queries", SetFloat("attention.temperature_scale", 0.1),
             "temperature_scale", absl::StatusCode::kUnimplemented},
            {"other number of heads", Set("attention.head_count", 8), "blk.0.attn_q_b."},
            {"more dense layers than layers", Set("leading_dense_block_count", 3),
             "leading_dense_block_count"},
            {"no dense layer", Set("leading_dense_block_count", 0), "blk.0.ffn_gate_inp",
             kNotFound},
            {"no experts", Set("expert_count", 0), "expert_count"},
            {"more experts used than there are", Set("expert_used_count", 9), "expert_used_count"},
            {"groups that do not divide", Set("expert_group_count", 3), "expert_group_count"},
            {"unknown gating", Set("expert_gating_func", 9), "expert_gating_func",
             absl::StatusCode::kUnimplemented},
            {"other shared experts", Set("expert_shared_count", 2), "blk.1.ffn_gate_shexp"},
        });
  }
}

TEST(DeepSeek2Test, RefusesTensorsOfOtherShapes) {
  for (const char* form : {"split", "combined"}) {
    ExpectRefused(
        form,
        {
            {"queries", Transpose("blk.0.attn_q_b.weight"), "blk.0.attn_q_b"},
            {"latent vector", Transpose("blk.1.attn_kv_a_mqa.weight"), "blk.1.attn_kv_a_mqa"},
            {"norm",
             [](v1::Manifest& m) {
               Tensor(m, "blk.1.attn_kv_a_norm.weight").set_dimensions(0, 288);
             },
             "blk.1.attn_kv_a_norm"},
            {"no norm", Rename("blk.1.attn_q_a_norm.weight"), "attn_q_a_norm", kNotFound},
            {"shared expert",
             [](v1::Manifest& m) { Tensor(m, "blk.1.ffn_up_shexp.weight").set_dimensions(1, 128); },
             "blk.1.ffn_up_shexp"},
        });
  }
  ExpectRefused(
      "split",
      {
          {"transposed keys", Transpose("blk.0.attn_k_b.weight"), "blk.0.attn_k_b"},
          {"transposed values", Transpose("blk.1.attn_v_b.weight"), "blk.1.attn_v_b"},
          {"keys of one head less",
           [](v1::Manifest& m) { Tensor(m, "blk.0.attn_k_b.weight").set_dimensions(2, 3); },
           "blk.0.attn_k_b"},
          {"no values", Rename("blk.0.attn_v_b.weight"), "blk.0.attn_v_b", kNotFound},
          {"other key", Set("attention.key_length_mla", 128), "blk.0.attn_q_b"},
          {"no value width", Drop("attention.value_length_mla"), "value_length_mla"},
          {"named like the combined form", Drop("attention.key_length_mla"), "blk.0.attn_q_b"},
      });
  ExpectRefused(
      "combined",
      {
          {"transposed", Transpose("blk.0.attn_kv_b.weight"), "blk.0.attn_kv_b"},
          {"missing in one layer", Rename("blk.1.attn_kv_b.weight"), "blk.1.attn_kv_b", kNotFound},
          {"other value", Set("attention.value_length", 32), "blk.0.attn_kv_b"},
          {"named like the split form", Set("attention.key_length_mla", 96), "value_length_mla"},
      });
}

// Both forms keep one latent vector and one rotated key a position.
TEST(DeepSeek2Test, BothFormsHaveTheSameCache) {
  for (const char* form : {"split", "combined"}) {
    auto architecture = CreateArchitecture(Golden(form));
    ASSERT_TRUE(architecture.ok()) << architecture.status();
    const TransformerShape& shape = (*architecture)->shape();
    EXPECT_TRUE(shape.has_latent_attention());
    EXPECT_EQ(shape.heads, 4);
    EXPECT_EQ(shape.kv_heads, 1);
    EXPECT_EQ(shape.key_dim, 288);
    EXPECT_EQ(shape.value_dim, 256);
    EXPECT_EQ(shape.latent.plain_dim, 64);
    EXPECT_EQ(shape.latent.value_dim, 64);
  }
}

}  // namespace
}  // namespace gguf_offload
