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

void Remove(v1::Manifest& manifest, const std::string& name) {
  for (int i = 0; i < manifest.tensors_size(); ++i) {
    if (manifest.tensors(i).name() != name) continue;
    manifest.mutable_tensors()->DeleteSubrange(i, 1);
    return;
  }
  ADD_FAILURE() << name;
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
      {"experts", set("llama.expert_count", 8), invalid, "expert_used_count"},
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

// An unknown type or a dimension 0 concerns only a model that uses its tensor.
TEST(ModelTensorsTest, Cases16And18RefusesOnlyWhatAModelNeeds) {
  v1::Manifest manifest = Golden("llama-kq");
  v1::TensorInfo& unused = *manifest.add_tensors();  // of a vision encoder
  unused.set_name("v.patch_embd.weight");
  unused.set_type(142);
  unused.set_type_name("UNKNOWN_142");
  unused.add_dimensions(0);
  EXPECT_TRUE(Load(manifest).ok()) << Load(manifest);
  v1::TensorInfo& tensor = Tensor(manifest, "blk.0.ffn_up.weight");
  const v1::TensorInfo good = tensor;
  for (uint32_t type : {4u, 142u, ~0u}) {
    tensor.set_type(type);
    tensor.set_type_name("UNKNOWN_" + std::to_string(type));
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    const std::string message(status.message());
    EXPECT_NE(message.find("blk.0.ffn_up.weight has type " + tensor.type_name()), std::string::npos)
        << message;
  }
  for (int dimension : {0, 1}) {
    tensor = good;
    tensor.set_dimensions(dimension, 0);
    tensor.set_bytes(0);
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    const std::string message(status.message());
    EXPECT_NE(message.find("blk.0.ffn_up.weight has shape"), std::string::npos) << message;
  }
  tensor = good;
  v1::TensorInfo& embedding = Tensor(manifest, "token_embd.weight");
  embedding.set_dimensions(1, 0);
  embedding.set_bytes(0);
  EXPECT_NE(std::string(Load(manifest).message()).find("token_embd.weight"), std::string::npos);
}

struct BadExperts {
  const char* what;
  const char* model;
  std::function<void(v1::Manifest&)> damage;
  absl::StatusCode code;
  const char* named;  // must be in the message
};

TEST(ModelTensorsTest, RefusesExpertsThatMakeNoSense) {
  const auto set = [](const char* key, uint64_t value) {
    return [=](v1::Manifest& m) {
      (*m.mutable_metadata())[m.architecture() + "." + key].set_unsigned_value(value);
    };
  };
  const auto set_float = [](const char* key, double value) {
    return [=](v1::Manifest& m) {
      (*m.mutable_metadata())[m.architecture() + "." + key].set_float_value(value);
    };
  };
  const auto drop = [](const char* key) {
    return [=](v1::Manifest& m) { m.mutable_metadata()->erase(m.architecture() + "." + key); };
  };
  const auto lose = [](const char* tensor) {
    return [=](v1::Manifest& m) { Tensor(m, tensor).set_name("something.else"); };
  };
  const auto groups = [=](uint64_t count, uint64_t used) {
    return [=](v1::Manifest& m) {
      set("expert_group_count", count)(m);
      set("expert_group_used_count", used)(m);
    };
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto not_found = absl::StatusCode::kNotFound;
  const char* const qwen2 = "qwen2moe-kq";
  const char* const qwen3 = "qwen3moe-kq";
  const char* const glm = "glm4moe-kq";
  const char* const gpt = "gpt-oss-mx";
  const char* const minimax = "minimax-m2-kq";
  const BadExperts cases[] = {
      {"no expert count", qwen3, drop("expert_count"), invalid, "expert_count"},
      {"no experts", qwen3, set("expert_count", 0), invalid, "expert_count"},
      {"10^12 experts", qwen3, set("expert_count", 1'000'000'000'000), invalid, "expert_count"},
      {"other experts", qwen3, set("expert_count", 6), invalid, "ffn_gate_inp.weight"},
      {"none used", qwen3, set("expert_used_count", 0), invalid, "expert_used_count"},
      {"more used than there are", qwen3, set("expert_used_count", 6), invalid,
       "expert_used_count"},
      {"no used count", gpt, drop("expert_used_count"), invalid, "expert_used_count"},
      {"other width", qwen3, set("expert_feed_forward_length", 512), invalid, "ffn_gate_exps"},
      {"huge width", qwen3, set("expert_feed_forward_length", ~0ull), invalid,
       "expert_feed_forward_length"},
      {"no width at all", qwen3,
       [=](v1::Manifest& m) {
         drop("expert_feed_forward_length")(m);
         drop("feed_forward_length")(m);
       },
       invalid, "feed_forward_length"},
      {"groups do not divide", glm, groups(4, 1), invalid, "expert_group_count"},
      {"more groups than experts", glm, groups(12, 1), invalid, "expert_group_count"},
      {"more groups used than there are", glm, groups(3, 4), invalid, "expert_group_used_count"},
      {"no groups used", glm, groups(3, 0), invalid, "expert_group_used_count"},
      {"too few experts in the groups", glm, groups(6, 1), invalid, "expert_used_count"},
      {"unknown gating", glm, set("expert_gating_func", 9), absl::StatusCode::kUnimplemented,
       "expert_gating_func"},
      {"NaN scale", glm,
       set_float("expert_weights_scale", std::numeric_limits<double>::quiet_NaN()), invalid,
       "expert_weights_scale"},
      {"number for a boolean", glm, set("expert_weights_norm", 1), invalid, "expert_weights_norm"},
      {"more dense layers than layers", glm, set("leading_dense_block_count", 3), invalid,
       "leading_dense_block_count"},
      {"all layers predict", glm, set("nextn_predict_layers", 2), invalid, "nextn_predict_layers"},
      {"dense layer with experts", glm, set("leading_dense_block_count", 0), not_found,
       "blk.0.ffn_gate_inp.weight"},
      {"experts in a dense layer", glm, set("leading_dense_block_count", 2), not_found,
       "blk.1.ffn_gate.weight"},
      {"wider shared experts", glm, set("expert_shared_count", 2), invalid, "ffn_gate_shexp"},
      {"wider shared expert", qwen2, set("expert_shared_feed_forward_length", 512), invalid,
       "ffn_gate_shexp"},
      {"no shared router", qwen2, lose("blk.1.ffn_gate_inp_shexp.weight"), not_found,
       "blk.1.ffn_gate_inp_shexp.weight"},
      {"no window", gpt, drop("attention.sliding_window"), invalid, "attention.sliding_window"},
      {"window of nothing", gpt, set("attention.sliding_window", 0), invalid,
       "attention.sliding_window"},
      {"no sinks", gpt, lose("blk.0.attn_sinks.weight"), not_found, "blk.0.attn_sinks.weight"},
      {"expert bias under another name", gpt, lose("blk.1.ffn_up_exps.bias"),
       absl::StatusCode::kUnimplemented, "something.else"},
      {"expert bias of another type", gpt,
       [](v1::Manifest& m) { Tensor(m, "blk.1.ffn_up_exps.bias").set_type(1); }, invalid,
       "blk.1.ffn_up_exps.bias"},
      {"experts in one dimension too few", minimax,
       [](v1::Manifest& m) {
         Tensor(m, "blk.0.ffn_down_exps.weight").mutable_dimensions()->RemoveLast();
       },
       invalid, "blk.0.ffn_down_exps.weight"},
      {"norm of one head", minimax,
       [](v1::Manifest& m) { Tensor(m, "blk.0.attn_q_norm.weight").set_dimensions(0, 64); },
       invalid, "blk.0.attn_q_norm.weight"},
  };
  for (const BadExperts& bad : cases) {
    SCOPED_TRACE(bad.what);
    v1::Manifest manifest = Golden(bad.model);
    ASSERT_TRUE(Load(manifest).ok()) << Load(manifest);
    bad.damage(manifest);
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), bad.code) << status;
    EXPECT_NE(std::string(status.message()).find(bad.named), std::string::npos) << status;
    EXPECT_NE(std::string(status.message()).find("model 'test'"), std::string::npos) << status;
  }
}

TEST(ModelTensorsTest, TakesExpertsAsFilesDescribeThem) {
  const auto edited = [](const char* model, const std::function<void(v1::Manifest&)>& edit) {
    v1::Manifest manifest = Golden(model);
    edit(manifest);
    auto architecture = CreateArchitecture(manifest);
    EXPECT_TRUE(architecture.ok()) << architecture.status();
    EXPECT_TRUE(ResolveTensors(**architecture, manifest).ok());
    return (*architecture)->shape();
  };
  // Layers that predict further tokens have tensors that nothing asks for.
  for (const char* model : {"glm4moe-kq", "deepseek2-split", "qwen3moe-kq", "llama-kq"}) {
    SCOPED_TRACE(model);
    EXPECT_EQ(edited(model,
                     [](v1::Manifest& m) {
                       const std::string prefix = m.architecture() + ".";
                       auto& metadata = *m.mutable_metadata();
                       const uint64_t layers = metadata[prefix + "block_count"].unsigned_value();
                       metadata[prefix + "block_count"].set_unsigned_value(layers + 1);
                       metadata[prefix + "nextn_predict_layers"].set_unsigned_value(1);
                       v1::TensorInfo& of_block = *m.add_tensors();
                       of_block.set_name("blk." + std::to_string(layers) + ".nextn.eh_proj.weight");
                     })
                  .prediction_layers,
              1);
  }
  EXPECT_TRUE(edited("glm4moe-kq", [](v1::Manifest& m) {
                for (const char* layer : {"blk.0.", "blk.1."}) {
                  for (const char* norm : {"attn_q_norm.weight", "attn_k_norm.weight"}) {
                    Remove(m, std::string(layer) + norm);
                  }
                }
              }).has_experts());
  // A scale of 0 stands for none.
  EXPECT_EQ(edited("glm4moe-kq",
                   [](v1::Manifest& m) {
                     (*m.mutable_metadata())["glm4moe.expert_weights_scale"].set_float_value(0);
                   })
                .experts.routing.scale,
            1.0f);
  // The width of one expert from that of all that are used: 512 / 2.
  EXPECT_EQ(edited("qwen3moe-kq",
                   [](v1::Manifest& m) {
                     m.mutable_metadata()->erase("qwen3moe.expert_feed_forward_length");
                   })
                .experts.feed_forward,
            256);
  // Qwen3-Coder's files say so although there are none.
  EXPECT_EQ(edited("qwen3moe-kq",
                   [](v1::Manifest& m) {
                     (*m.mutable_metadata())["qwen3moe.expert_shared_feed_forward_length"]
                         .set_unsigned_value(0);
                   })
                .gated_width(),
            0);
  EXPECT_EQ(
      edited("minimax-m2-kq",
             [](v1::Manifest& m) { m.mutable_metadata()->erase("minimax-m2.feed_forward_length"); })
          .experts.feed_forward,
      256);
}

TEST(ModelTensorsTest, HeadDimensionsFollowFromTheEmbeddingWhenNotGiven) {
  v1::Manifest manifest = Golden("llama-kq");
  manifest.mutable_metadata()->erase("llama.attention.key_length");
  manifest.mutable_metadata()->erase("llama.attention.value_length");
  manifest.mutable_metadata()->erase("llama.rope.dimension_count");
  EXPECT_TRUE(Load(manifest).ok()) << Load(manifest);
}

// Adds a vector of `columns` float32 numbers, which lie somewhere in the file.
void AddVector(v1::Manifest& manifest, const std::string& name, uint64_t columns) {
  v1::TensorInfo& tensor = *manifest.add_tensors();
  tensor.set_name(name);
  tensor.add_dimensions(columns);
  tensor.set_type(0);
  tensor.set_type_name("F32");
  tensor.set_bytes(columns * 4);
  tensor.set_offset(manifest.tensors(0).offset());
}

TEST(ModelTensorsTest, EveryTensorIsUsedOrNamed) {
  for (const char* name :
       {"blk.0.attn_norm.bias", "blk.1.attn_q_norm.scale", "blk.0.ffn_sub_norm.weight",
        "token_embd.scale", "output_norm.bias", "blk.2.attn_q.weight", "position_embd.weight",
        "blk.0.ffn_up.shift", "blk.x.input_scales", "blk.0.nextn.enorm.weight", "cls.bias"}) {
    SCOPED_TRACE(name);
    v1::Manifest manifest = Golden("llama-kq");
    AddVector(manifest, name, 1);
    const absl::Status status = Load(manifest);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
    EXPECT_NE(std::string(status.message()).find(name), std::string::npos) << status;
  }
}

TEST(ModelTensorsTest, WhatMayBeLeftOutIsListedWithReasons) {
  v1::Manifest manifest = Golden("llama-kq");
  for (const char* name :
       {"v.blk.0.attn_q.weight", "mm.0.weight", "a.conv1d.1.weight", "blk.0.attn_q.input_scale",
        "blk.1.ffn_down.input_scale", "blk.0.attn_rot_embd.weight"}) {
    AddVector(manifest, name, 1);
  }
  auto architecture = CreateArchitecture(manifest);
  ASSERT_TRUE(architecture.ok());
  auto tensors = ResolveTensors(**architecture, manifest);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->unused.size(), 4u);
  EXPECT_EQ(tensors->unused[1],
            "2 tensors (blk.0.attn_q.input_scale ...): of 4-bit activations, which are not used");
}

TEST(ModelTensorsTest, BiasesAndScalesBelongToTheirWeights) {
  v1::Manifest manifest = Golden("llama-kq");
  const uint64_t embedding = manifest.metadata().at("llama.embedding_length").unsigned_value();
  const uint64_t width = manifest.metadata().at("llama.feed_forward_length").unsigned_value();
  AddVector(manifest, "blk.0.ffn_up.bias", width);
  AddVector(manifest, "blk.0.ffn_down.scale", 1);
  AddVector(manifest, "blk.1.attn_output.bias", embedding);
  auto architecture = CreateArchitecture(manifest);
  ASSERT_TRUE(architecture.ok());
  auto tensors = ResolveTensors(**architecture, manifest);
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  int biases = 0, scales = 0;
  for (const auto& group : tensors->groups) {
    for (const ModelTensor& tensor : group) {
      biases += tensor.role == WeightRole::kBias;
      scales += tensor.role == WeightRole::kScale;
    }
  }
  EXPECT_EQ(biases, 2);
  EXPECT_EQ(scales, 1);
  AddVector(manifest, "blk.1.ffn_down.bias", embedding + 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Load(manifest)));
}

TEST(ModelTensorsTest, DefaultsThatDependOnTheModel) {
  const auto shape_of = [](v1::Manifest manifest) {
    auto architecture = CreateArchitecture(manifest);
    EXPECT_TRUE(architecture.ok()) << architecture.status();
    return architecture.ok() ? (*architecture)->shape() : TransformerShape();
  };
  // MiniMax-M2's weights are normalized whatever the file says, GLM-4.5's only if it says so.
  v1::Manifest minimax = Golden("minimax-m2-kq");
  (*minimax.mutable_metadata())["minimax-m2.expert_weights_norm"].set_bool_value(false);
  EXPECT_TRUE(shape_of(minimax).experts.routing.normalize);
  v1::Manifest glm = Golden("glm4moe-kq");
  glm.mutable_metadata()->erase("glm4moe.expert_weights_norm");
  EXPECT_FALSE(shape_of(glm).experts.routing.normalize);
  // GLM-4.7-Flash among files without a gating function.
  v1::Manifest flash = Golden("deepseek2-split");
  flash.mutable_metadata()->erase("deepseek2.expert_gating_func");
  EXPECT_EQ(shape_of(flash).experts.routing.gating, ExpertGating::kSoftmax);
  Tensor(flash, "token_embd.weight").set_dimensions(1, 154880);
  for (const uint64_t layers : {46, 47, 48, 49}) {
    (*flash.mutable_metadata())["deepseek2.block_count"].set_unsigned_value(layers);
    EXPECT_EQ(shape_of(flash).experts.routing.gating,
              layers == 47 || layers == 48 ? ExpertGating::kSigmoid : ExpertGating::kSoftmax);
  }
  (*flash.mutable_metadata())["deepseek2.block_count"].set_unsigned_value(48);
  (*flash.mutable_metadata())["deepseek2.nextn_predict_layers"].set_unsigned_value(1);
  EXPECT_EQ(shape_of(flash).experts.routing.gating, ExpertGating::kSigmoid);
  (*flash.mutable_metadata())["deepseek2.expert_gating_func"].set_unsigned_value(1);
  EXPECT_EQ(shape_of(flash).experts.routing.gating, ExpertGating::kSoftmax);
  // A width of 0 is one that is not given.
  v1::Manifest qwen2 = Golden("qwen2moe-kq");
  auto& metadata = *qwen2.mutable_metadata();
  metadata["qwen2moe.expert_shared_feed_forward_length"].set_unsigned_value(0);
  EXPECT_EQ(shape_of(qwen2).experts.shared_feed_forward,
            metadata["qwen2moe.feed_forward_length"].unsigned_value());
  metadata["qwen2moe.expert_feed_forward_length"].set_unsigned_value(0);
  EXPECT_EQ(shape_of(qwen2).experts.feed_forward,
            metadata["qwen2moe.feed_forward_length"].unsigned_value() /
                metadata["qwen2moe.expert_used_count"].unsigned_value());
}

TEST(ModelTensorsTest, WindowsByLayer) {
  v1::Manifest manifest = Golden("gpt-oss-mx");
  v1::MetadataArray& pattern =
      *(*manifest.mutable_metadata())["gpt-oss.attention.sliding_window_pattern"]
           .mutable_array_value();
  pattern.set_element_type(7);
  pattern.set_length(1);
  pattern.add_unsigned_values(1);
  EXPECT_TRUE(absl::IsInvalidArgument(Load(manifest)));
  pattern.set_length(2);
  pattern.add_unsigned_values(0);
  EXPECT_TRUE(Load(manifest).ok()) << Load(manifest);
}

}  // namespace
}  // namespace gguf_offload
