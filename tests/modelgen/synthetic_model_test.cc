#include "tests/modelgen/synthetic_model.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "gtest/gtest.h"
#include "tests/modelgen/block_generator.h"
#include "tests/modelgen/quantization_mix.h"

namespace gguf_offload {
namespace {

using quant::TensorType;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

SyntheticModel Plan(const std::string& preset, const std::string& quantization,
                    const PresetOverrides& overrides = {}) {
  SyntheticModelOptions options;
  options.preset = preset;
  options.quantization = quantization;
  options.overrides = overrides;
  absl::StatusOr<SyntheticModel> model = SyntheticModel::Plan(options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::map<std::string, GgufTensor> TensorsByName(const SyntheticModel& model) {
  std::map<std::string, GgufTensor> tensors;
  for (const GgufTensor& tensor : model.layout().tensors) tensors[tensor.name] = tensor;
  return tensors;
}

void ExpectWithinOnePercent(uint64_t bytes, double published) {
  EXPECT_NEAR(static_cast<double>(bytes) / published, 1, 0.01) << bytes << " of " << published;
}

// What the published files of these models weigh, and what streaming them moves.
TEST(SyntheticModelTest, FullSizesAreThePublishedOnes) {
  const ModelBytes qwen25 = Plan("qwen2.5-0.5b", "Q8_0").Bytes();
  ExpectWithinOnePercent(qwen25.layers + qwen25.head, 525e6);
  ExpectWithinOnePercent(qwen25.layers, 380e6);

  const ModelBytes qwen3 = Plan("qwen3-8b", "Q4_K_M").Bytes();
  ExpectWithinOnePercent(qwen3.layers + qwen3.head, 4.67e9);
  ExpectWithinOnePercent(qwen3.file, 5027783488);  // Qwen3-8B-Q4_K_M.gguf
  EXPECT_EQ(qwen3.types.at("Q4_K").first, 217u);
  EXPECT_EQ(qwen3.types.at("Q6_K").first, 37u);
  EXPECT_EQ(qwen3.types.at("F32").first, 145u);

  const ModelBytes experts = Plan("qwen3-30b-a3b", "Q4_K_M").Bytes();
  ExpectWithinOnePercent(experts.experts, 17.6e9);
  ExpectWithinOnePercent(experts.experts_a_token, 1.10e9);

  ExpectWithinOnePercent(Plan("llama-3-8b", "Q4_K_M").Bytes().file, 4.92e9);
}

TEST(SyntheticModelTest, DeepSeekR1HasThePublishedSize) {
  const SyntheticModel model = Plan("deepseek-r1", "UD-IQ1_S");
  const ModelBytes bytes = model.Bytes();
  ExpectWithinOnePercent(bytes.file, 130.6 * (1 << 30));
  ExpectWithinOnePercent(bytes.experts, 129e9);
  ExpectWithinOnePercent(bytes.experts_a_token, 4.04e9);
  EXPECT_EQ(bytes.types.at("F32").first, 361u);
  EXPECT_EQ(bytes.types.at("IQ1_S").first, 168u);
  EXPECT_EQ(bytes.types.at("IQ2_XXS").first, 6u);
  EXPECT_EQ(bytes.types.at("Q4_K").first, 190u);
  EXPECT_EQ(bytes.types.at("Q5_K").first, 116u);
  const auto tensors = TensorsByName(model);
  EXPECT_EQ(tensors.at("blk.60.ffn_gate_exps.weight").bytes / 256, 2867200u);
  EXPECT_EQ(tensors.at("blk.8.ffn_down_exps.weight").type, TensorType::kIQ2_XXS);
  EXPECT_EQ(tensors.at("blk.9.ffn_down_exps.weight").type, TensorType::kIQ1_S);
  // 128 columns are no multiple of 256: the transposed key projection falls back to Q8_0.
  EXPECT_EQ(tensors.at("blk.0.attn_k_b.weight").type, TensorType::kQ8_0);
  EXPECT_EQ(tensors.at("blk.0.attn_v_b.weight").type, TensorType::kQ6_K);
}

TEST(QuantizationMixTest, MoreBitsGoToTheUsualLayers) {
  const auto tensors = TensorsByName(Plan("llama-3-8b", "Q4_K_M"));
  // Of 32 layers: the first four, the last four, every third in between.
  for (const int layer : {0, 3, 6, 9, 24, 27, 28, 31}) {
    EXPECT_EQ(tensors.at(LayerTensor(layer, "ffn_down.weight")).type, TensorType::kQ6_K) << layer;
    EXPECT_EQ(tensors.at(LayerTensor(layer, "attn_v.weight")).type, TensorType::kQ6_K) << layer;
  }
  for (const int layer : {4, 5, 7, 8, 25, 26}) {
    EXPECT_EQ(tensors.at(LayerTensor(layer, "ffn_down.weight")).type, TensorType::kQ4_K) << layer;
  }
  EXPECT_EQ(tensors.at("blk.0.ffn_up.weight").type, TensorType::kQ4_K);
  EXPECT_EQ(tensors.at("token_embd.weight").type, TensorType::kQ4_K);
  EXPECT_EQ(tensors.at("output.weight").type, TensorType::kQ6_K);
  EXPECT_EQ(tensors.at("output_norm.weight").type, TensorType::kF32);
}

TEST(QuantizationMixTest, ColumnsThatDoNotFitFallBack) {
  // 896 columns are a multiple of 128 only; 4864 are 19 * 256.
  const auto kq = TensorsByName(Plan("qwen2.5-0.5b", "Q4_K_M"));
  EXPECT_EQ(kq.at("token_embd.weight").type, TensorType::kQ8_0);
  EXPECT_EQ(kq.at("blk.0.attn_q.weight").type, TensorType::kQ5_0);
  EXPECT_EQ(kq.at("blk.0.ffn_down.weight").type, TensorType::kQ6_K);
  const auto iq = TensorsByName(Plan("qwen2.5-0.5b", "IQ2_XXS"));
  EXPECT_EQ(iq.at("blk.0.attn_q.weight").type, TensorType::kIQ4_NL);
  EXPECT_EQ(iq.at("blk.0.ffn_down.weight").type, TensorType::kIQ2_XXS);
  EXPECT_FALSE(iq.contains("output.weight"));
}

TEST(SyntheticModelTest, BytesDoNotDependOnThreads) {
  const std::string folder = std::getenv("TEST_TMPDIR");
  const SyntheticModel model = Plan("tiny-qwen3", "Q4_K_M", {.layers = 5, .feed_forward = 3072});
  ASSERT_TRUE(model.Write(folder + "/one.gguf", 1).ok());
  ASSERT_TRUE(model.Write(folder + "/three.gguf", 3).ok());
  const std::string one = ReadFile(folder + "/one.gguf");
  EXPECT_EQ(one.size(), model.layout().file_bytes());
  EXPECT_TRUE(one == ReadFile(folder + "/three.gguf"));
}

TEST(SyntheticModelTest, ATensorIsTheSameInACutModel) {
  const std::string folder = std::getenv("TEST_TMPDIR");
  const auto tensor_bytes = [&](uint32_t layers, const std::string& name) {
    const SyntheticModel model = Plan("tiny-llama", "Q5_1", {.layers = layers});
    EXPECT_TRUE(model.Write(folder + "/cut.gguf", 2).ok());
    const GgufTensor tensor = TensorsByName(model).at(name);
    return ReadFile(folder + "/cut.gguf")
        .substr(model.layout().shards[0].header.size() + tensor.offset, tensor.bytes);
  };
  EXPECT_EQ(tensor_bytes(1, "blk.0.ffn_up.weight"), tensor_bytes(3, "blk.0.ffn_up.weight"));
  EXPECT_NE(tensor_bytes(3, "blk.0.ffn_up.weight"), tensor_bytes(3, "blk.1.ffn_up.weight"));
}

TEST(SyntheticModelTest, EveryPresetTakesEveryType) {
  for (const Preset& preset : AllPresets()) {
    for (uint32_t number = 0; number < 64; ++number) {
      const quant::Format* format = quant::FindFormat(number);
      if (format == nullptr || !BlockGenerator::Supports(format->type)) continue;
      const absl::StatusOr<QuantizationMix> mix = QuantizationMix::Parse(format->name);
      ASSERT_TRUE(mix.ok()) << mix.status();
      const ModelPlan plan = preset.make_plan(preset.name, preset.shape);
      GgufWriter writer;
      for (const TensorPlan& tensor : plan.tensors) {
        const absl::Status status =
            writer.AddTensor(tensor.name, tensor.dims, mix->TypeOf(tensor, plan));
        ASSERT_TRUE(status.ok()) << status;
      }
    }
  }
}

TEST(SyntheticModelTest, UnknownNamesAndBadSizesAreErrors) {
  const auto code = [](const std::string& preset, const std::string& quantization,
                       const PresetOverrides& overrides = {}) {
    SyntheticModelOptions options;
    options.preset = preset;
    options.quantization = quantization;
    options.overrides = overrides;
    return SyntheticModel::Plan(options).status().code();
  };
  EXPECT_EQ(code("gpt-5", "Q8_0"), absl::StatusCode::kNotFound);
  EXPECT_EQ(code("tiny-llama", "Q8_9"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("tiny-llama", "I32"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("tiny-llama", "Q8_0", {.layers = 0}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("tiny-llama", "Q8_0", {.vocabulary = 100}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("tiny-llama", "Q8_0", {.kv_heads = 3}), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("tiny-qwen3moe", "Q8_0", {.experts = 1}), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace gguf_offload
